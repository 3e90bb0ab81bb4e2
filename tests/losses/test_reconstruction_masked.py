import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import masked_absolute_error
from keras_ssl.metrics import relative_error

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 4, 2, 2, 1)])
def test_absolute_error_of_masked_voxels(shape):
    targets, outputs = RNG.normal(size=(2, *shape)).astype("float32")
    masked = RNG.uniform(size=(*shape[:-1], 1)) < 0.5
    expected = [
        abs(target - output)[mask].mean()
        for target, output, mask in zip(targets, outputs, masked[..., 0], strict=True)
    ]
    np.testing.assert_allclose(
        ops.convert_to_numpy(masked_absolute_error(targets, outputs, masked)), expected, rtol=1e-5
    )


def test_nothing_masked_is_no_error_and_half_precision_gives_float32():
    loss = masked_absolute_error(
        np.ones((2, 4, 1), "float16"), np.zeros((2, 4, 1)), np.zeros((2, 4, 1), bool)
    )
    assert ops.convert_to_numpy(loss).tolist() == [0, 0]
    assert ops.convert_to_numpy(loss).dtype == np.float32


def test_relative_error():
    targets, outputs = RNG.normal(size=(2, 3, 4, 4, 2)).astype("float32")
    masked = RNG.uniform(size=(3, 4, 4, 1)) < 0.5
    mask = np.broadcast_to(masked, targets.shape)
    shares = mask.sum(axis=(1, 2, 3))
    error = (((targets - outputs) ** 2 * mask).sum(axis=(1, 2, 3)) / shares).sum()
    baseline = ((targets**2 * mask).sum(axis=(1, 2, 3)) / shares).sum()
    np.testing.assert_allclose(float(relative_error(targets, outputs, masked)), error / baseline, rtol=1e-5)
    assert float(relative_error(targets, 0 * targets, masked)) == 1
    assert float(relative_error(targets, targets, masked)) == 0
    assert float(relative_error(0 * targets, outputs, masked)) == 1

"""A convolution that does not look ahead: against NumPy, and by what it does not notice."""

import keras
import numpy as np
import pytest

from keras_ssl.tasks.cpc import _causal_convolution as causal_convolution

RNG = np.random.default_rng(0)


def network(shape, layers=1, kernel_size=3):
    x = inputs = keras.Input(shape)
    for number in range(layers):
        x = causal_convolution(x, 3, kernel_size, name=f"context_{number}")
    return keras.Model(inputs, x)


@pytest.mark.parametrize("shape", [(5, 4, 2), (5, 3, 4, 2)])
def test_a_row_depends_on_itself_and_the_rows_before_it_alone(shape):
    model = network(shape, layers=2)
    maps = RNG.normal(size=(1, *shape)).astype("float32")
    before = model.predict(maps, verbose=0)
    assert before.shape == (1, *shape[:-1], 3)
    for row in range(shape[0]):
        changed = maps.copy()
        changed[:, row] += 1 + RNG.uniform(size=changed[:, row].shape)
        after = model.predict(changed, verbose=0)
        np.testing.assert_array_equal(after[:, :row], before[:, :row])
        assert (after[:, row] != before[:, row]).any()


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_it_is_the_sum_that_it_says(kernel_size):
    model = network((5, 4, 2), kernel_size=kernel_size)
    kernel, bias = (np.array(weight) for weight in model.get_weights())
    maps = RNG.normal(size=(1, 5, 4, 2)).astype("float32")
    expected = np.zeros((5, 4, 3)) + bias
    for row, column, up, aside in np.ndindex(5, 4, kernel_size, kernel_size):
        seen = (row - up, column + aside - kernel_size // 2)
        if seen[0] >= 0 and 0 <= seen[1] < 4:
            expected[row, column] += maps[0][seen] @ kernel[kernel_size - 1 - up, aside]
    np.testing.assert_allclose(
        model.predict(maps, verbose=0)[0], np.maximum(expected, 0), rtol=1e-5, atol=1e-6
    )

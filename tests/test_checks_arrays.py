"""What is taken for an array: tensors of every library, lists of equal arrays, columns of tables."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ssl._checks import as_numpy

IMAGES = np.random.default_rng(0).uniform(size=(3, 4, 5, 2)).astype("float32")


def of_torch(array):
    return pytest.importorskip("torch").tensor(array)


def of_tensorflow(array):
    return pytest.importorskip("tensorflow").constant(array)


def of_jax(array):
    return pytest.importorskip("jax.numpy").asarray(array)


@pytest.mark.parametrize("make", [np.asarray, of_torch, of_tensorflow, of_jax, keras.ops.convert_to_tensor])
def test_tensors_and_lists_of_tensors(make):
    np.testing.assert_array_equal(as_numpy(make(IMAGES)), IMAGES)
    np.testing.assert_array_equal(as_numpy([make(image) for image in IMAGES]), IMAGES)
    np.testing.assert_array_equal(as_numpy(tuple(make(number) for number in (1, 2))), [1, 2])


def test_tensors_that_numpy_does_not_take_as_they_are():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(as_numpy(torch.tensor(IMAGES).requires_grad_()), IMAGES)
    for half in (torch.tensor(IMAGES).bfloat16(), of_jax(IMAGES).astype("bfloat16")):
        assert as_numpy(half).dtype == np.float32
        np.testing.assert_allclose(as_numpy(half), IMAGES, rtol=0.01)


def test_lists_of_other_things():
    photographs = [Image.fromarray((255 * image[..., 0]).astype("uint8")) for image in IMAGES]
    assert as_numpy(photographs).shape == (3, 4, 5)
    # As Hugging Face gives images in batches of NumPy's format where not all are equal.
    column = np.empty(3, object)
    column[:] = list(IMAGES)
    np.testing.assert_array_equal(as_numpy(column), IMAGES)
    assert as_numpy([[0, 1], [2, 3]]).tolist() == [[0, 1], [2, 3]]
    assert as_numpy([0, 1.5]).tolist() == [0.0, 1.5]


def test_an_array_is_not_copied():
    assert as_numpy(IMAGES) is IMAGES


@pytest.mark.parametrize("make", [np.asarray, of_torch, lambda array: array.tolist()])
def test_unequal_shapes_are_told_with_what_to_do(make):
    message = r"`labels` must be of one shape to be stacked.* list of 2 with the shapes \(3, 2\), \(4, 2\)"
    with pytest.raises(ValueError, match=message):
        as_numpy([make(np.zeros((3, 2))), make(np.zeros((4, 2)))], "labels")
    with pytest.raises(ValueError, match=r"\(1,\), \(2,\), \(3,\) and 2 more\. .*PatchBatches"):
        as_numpy([np.zeros(size) for size in range(1, 6)])

"""Patches of cells: where they may lie, that all places come up, and each normalized on its own."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import ReplaySeeds
from keras_ssl.preprocessing import cell_patch_shape, crop_normalized, random_cell_corners


def corners_of(cells, *args, **kwargs):
    return ops.convert_to_numpy(random_cell_corners(cells, *args, ReplaySeeds(), **kwargs))


def test_patch_is_a_share_of_the_cell_of_each_axis():
    assert cell_patch_shape((225, 230), 3, 64 / 75) == (64, 64)
    assert cell_patch_shape((18, 24, 30), 3, 2 / 3) == (4, 5, 6)
    assert cell_patch_shape((4, 5), 2, 1.0) == (2, 2)


def test_images_too_small_or_of_no_fixed_size_are_refused():
    with pytest.raises(ValueError, match=r"`images` must be large enough.*\(24, 8\).*leave \(6, 1\)"):
        cell_patch_shape((24, 8), 3, 0.75)
    with pytest.raises(ValueError, match=r"`images` must be of fixed sizes. Received \(None, 24\)"):
        cell_patch_shape((None, 24), 3, 0.75)


def test_all_places_of_a_cell_come_up_and_no_others():
    # Cells of 4 x 5 x 3 voxels; of the first axis one voxel is over, of the others two and none.
    cells = np.tile(np.arange(27), (200, 1))
    corners = corners_of(cells, (13, 17, 9), 3, (2, 3, 2))
    assert corners.shape == (200, 27, 3)
    for number in range(27):
        place = np.array([number // 9, number // 3 % 3, number % 3])
        first = np.array([0, 1, 0]) + place * [4, 5, 3]
        for axis, moves in enumerate((2, 2, 1)):
            drawn = set(corners[:, number, axis].tolist())
            assert drawn == set(range(first[axis], first[axis] + moves + 1))
    # Patches move on their own, along each axis.
    moved = corners - corners.min(axis=0)
    assert abs(np.corrcoef(moved.reshape(200, -1)[:, :6], rowvar=False) - np.eye(6)).max() < 0.3


def test_jitter_leaves_a_gap():
    corners = corners_of(np.zeros((100, 2), int), (12, 36), 1, (8, 24), jitter=0.5)
    assert set(corners[..., 0].ravel().tolist()) == {1, 2, 3}
    assert set(corners[..., 1].ravel().tolist()) == {3, 4, 5, 6, 7, 8, 9}


@pytest.mark.parametrize("shape", [(9, 8, 3), (6, 7, 8, 2)], ids=["2D", "3D"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_each_channel_of_a_patch_is_normalized(shape, scale):
    images = scale * tiny.images(2, shape)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 3, size=(2, 4, len(shape) - 1))
    patch_shape = (3, 4, 2)[: len(shape) - 1]
    expected = []
    for image, places in zip(images.astype("float64"), corners, strict=True):
        for place in places:
            patch = image[tuple(slice(p, p + side) for p, side in zip(place, patch_shape, strict=True))]
            flat = patch.reshape(-1, shape[-1])
            expected.append((patch - flat.mean(axis=0)) / flat.std(axis=0))
    patches = ops.convert_to_numpy(crop_normalized(images, corners, patch_shape))
    np.testing.assert_allclose(patches, expected, rtol=1e-4, atol=1e-5)
    # What brightness and contrast a patch had does not show.
    brighter = ops.convert_to_numpy(crop_normalized(0.5 * images + 0.1 * scale, corners, patch_shape))
    np.testing.assert_allclose(patches, brighter, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.3, 1e6])
def test_what_is_constant_becomes_zero(value):
    images = np.full((1, 6, 6, 2), value, "float32")
    images[..., 1] = tiny.images(1, (6, 6, 1))[..., 0]
    patches = ops.convert_to_numpy(crop_normalized(images, [[[0, 0], [1, 3]]], (5, 3)))
    assert not patches[..., 0].any()
    np.testing.assert_allclose(patches[..., 1].std(axis=(1, 2)), 1, rtol=1e-4)


def test_dtype_is_kept_if_floating():
    for dtype, expected in (("uint8", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")):
        images = ops.cast(255 * tiny.images(1), dtype)
        patches = crop_normalized(images, [[[0, 0]]], (4, 4))
        assert keras.backend.standardize_dtype(patches.dtype) == expected

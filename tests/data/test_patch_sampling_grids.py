import itertools

import numpy as np
import pytest

from keras_ssl.data import grid_patches
from keras_ssl.data.patch_sampling import grid_positions, read_patch

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("patch", [(4, 4, 4), (5, 3, 7), (16, 2, 1)])
@pytest.mark.parametrize("shape", [(4, 4, 4), (11, 9, 17), (3, 2, 30)])
def test_a_grid_covers_everything_and_overlaps_enough(shape, patch, overlap):
    positions = grid_positions(shape, patch, overlap)
    covered = np.zeros(shape, int)
    for start in positions:
        covered[tuple(slice(max(0, at), at + side) for at, side in zip(start, patch, strict=True))] += 1
    assert covered.min() >= 1
    for axis, (side, width) in enumerate(zip(shape, patch, strict=True)):
        starts = np.unique(positions[:, axis])
        if side <= width:
            assert starts.tolist() == [-((width - side) // 2)]
        else:
            assert (starts[0], starts[-1]) == (0, side - width)
            # A patch of one pixel can share nothing with its neighbor.
            assert np.diff(starts).max() <= max(1, width * (1 - overlap))
    assert len(positions) == len(np.unique(positions, axis=0))


def test_no_more_patches_than_needed():
    assert grid_positions((12,), (4,), 0.0).tolist() == [[0], [4], [8]]
    assert grid_positions((13,), (4,), 0.0).tolist() == [[0], [3], [6], [9]]
    assert grid_positions((8, 4), (4, 4), 0.5).tolist() == [[0, 0], [2, 0], [4, 0]]
    # Rounding makes 10 * (1 - 0.9) a little less than 1, and nothing must become of it.
    assert len(grid_positions((20,), (10,), 0.9)) == 11


@pytest.mark.parametrize("shape", [(9, 7, 1), (9, 7, 8, 2), (9, 7, 8)])
def test_patches_put_back_give_the_image(shape):
    image = RNG.random(shape)
    rank = len(shape) - 1
    patches, positions = grid_patches(image, (4,) * rank, overlap=0.3)
    total, count = np.zeros(shape), np.zeros(shape)
    for patch, start in zip(patches, positions, strict=True):
        where = tuple(slice(at, at + 4) for at in start)
        total[where] += patch
        count[where] += 1
    np.testing.assert_allclose(total / count, image)


@pytest.mark.parametrize(("start", "patch"), itertools.product([-2, 0, 2, 4], [3, 5, 9]))
def test_a_patch_is_that_of_the_padded_image(start, patch):
    image = RNG.random((6, 5, 2))
    padded = np.pad(image, ((9, 9), (9, 9), (0, 0)), constant_values=-1)
    expected = padded[9 + start : 9 + start + patch, 10:14]
    np.testing.assert_array_equal(read_patch(image, (start, 1), (patch, 4), fill=-1), expected)


def test_padding_is_the_least_value_of_each_channel():
    image = np.stack([np.arange(3.0), np.arange(3.0) + 10], axis=-1).reshape(3, 1, 2)
    patch = read_patch(image, (-1, 0), (5, 1))
    assert patch[..., 0].ravel().tolist() == [0, 0, 1, 2, 0]
    assert patch[..., 1].ravel().tolist() == [10, 10, 11, 12, 10]


def test_small_images_are_refused_or_padded():
    image = np.ones((3, 8, 1))
    with pytest.raises(
        ValueError, match=r"must not be larger than an image. Received \(4, 4\), .* 1 of 1: 0 \(3, 8\)"
    ):
        grid_patches(image, (4, 4))
    patches, positions = grid_patches(image, (4, 4), small="pad")
    assert patches.shape == (3, 4, 4, 1)
    assert positions[:, 0].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"`small` must be .*Received 'crop'"):
        grid_patches(image, (2, 2), small="crop")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 4), (2, 2, 2)), r"equally many sides, each at least 1. Received \(4, 4\) and \(2, 2, 2\)"),
        (((4, 4), (2, 0)), "equally many sides"),
        (((4, 4), (2, 2), 1.0), "`overlap` must be at least 0 and less than 1. Received 1.0"),
        (((4, 4), (2, 2), -0.1), "`overlap` must be"),
        (((4, 4), (2, 2), np.nan), "`overlap` must be"),
    ],
)
def test_bad_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid_positions(*arguments)

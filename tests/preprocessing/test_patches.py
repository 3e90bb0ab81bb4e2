"""Patches: cropped as by NumPy, joined, placed on grids, standardized; permutations."""

import itertools

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl.preprocessing.patches import (
    crop_patches,
    crop_standardized,
    hamming_permutations,
    join_patches,
    overlapping_corners,
    overlapping_grid,
    overlapping_patch_shape,
    patch_grid,
    patch_shape_in_boxes,
    random_corners_in_boxes,
    split_patches,
)
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 7, 9, 2), (2, 5, 6, 7, 1)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_cropped_patches_equal_slices(shape, dtype):
    images = (255 * RNG.uniform(size=shape)).astype(dtype)
    rank = len(shape) - 2
    patch = (3, 2, 4)[:rank]
    room = [size - side + 1 for size, side in zip(shape[1:-1], patch, strict=True)]
    corners = RNG.integers(0, room, (shape[0], 5, rank))
    found = ops.convert_to_numpy(crop_patches(images, corners, patch))
    assert found.dtype == dtype
    assert found.shape == (shape[0], 5, *patch, shape[-1])
    for row, number in itertools.product(range(shape[0]), range(5)):
        window = tuple(
            slice(start, start + side) for start, side in zip(corners[row, number], patch, strict=True)
        )
        np.testing.assert_array_equal(found[row, number], images[row][window])


@pytest.mark.parametrize(("shape", "patch"), [((2, 6, 8, 3), (3, 2)), ((2, 4, 6, 4, 1), (2, 3, 4))])
def test_split_then_join_returns_the_image(shape, patch):
    images = RNG.uniform(size=shape).astype("float32")
    grid = patch_grid(shape[1:-1], patch)
    patches = ops.convert_to_numpy(split_patches(images, patch))
    assert patches.shape == (2, np.prod(grid), *patch, shape[-1])
    for number, place in enumerate(itertools.product(*map(range, grid))):
        window = tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, patch, strict=True))
        np.testing.assert_array_equal(patches[:, number], images[(slice(None), *window)])
    np.testing.assert_array_equal(ops.convert_to_numpy(join_patches(patches, grid)), images)


def test_images_that_patches_do_not_tile_raise():
    with pytest.raises(ValueError, match=r"multiples of the patch's. Received sides \(6, 7\) and patches of"):
        split_patches(np.zeros((1, 6, 7, 1)), (3, 3))
    with pytest.raises(ValueError, match="`images` must have sides"):
        patch_grid((6, 6, 6), (3, 3))


def random_corners(boxes, *args, **kwargs):
    return ops.convert_to_numpy(random_corners_in_boxes(boxes, *args, ReplaySeeds(), **kwargs))


def test_patch_shape_is_a_fraction_of_the_box():
    assert patch_shape_in_boxes((225, 230), 3, 64 / 75) == (64, 64)
    assert patch_shape_in_boxes((18, 24, 30), 3, 2 / 3) == (4, 5, 6)
    assert patch_shape_in_boxes((4, 5), 2, 1.0) == (2, 2)


def test_too_small_images_and_open_sizes_raise():
    with pytest.raises(ValueError, match=r"`images` must be large enough.*\(24, 8\).*give \(6, 1\)"):
        patch_shape_in_boxes((24, 8), 3, 0.75)
    with pytest.raises(ValueError, match=r"`images` must have fixed sizes. Received \(None, 24\)"):
        patch_shape_in_boxes((None, 24), 3, 0.75)


def test_all_places_in_a_box_are_drawn_and_no_others():
    # Cells of 4 x 5 x 3 voxels; of the first axis one voxel is over, of the others two and none.
    boxes = np.tile(np.arange(27), (200, 1))
    corners = random_corners(boxes, (13, 17, 9), 3, (2, 3, 2))
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


def test_jitter_leaves_a_gap_between_boxes():
    corners = random_corners(np.zeros((100, 2), int), (12, 36), 1, (8, 24), jitter=0.5)
    assert set(corners[..., 0].ravel().tolist()) == {1, 2, 3}
    assert set(corners[..., 1].ravel().tolist()) == {3, 4, 5, 6, 7, 8, 9}


@pytest.mark.parametrize("shape", [(9, 8, 3), (6, 7, 8, 2)], ids=["2D", "3D"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_each_channel_of_a_patch_is_standardized(shape, scale):
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
    patches = ops.convert_to_numpy(crop_standardized(images, corners, patch_shape))
    np.testing.assert_allclose(patches, expected, rtol=1e-4, atol=1e-5)
    # What brightness and contrast a patch had does not show.
    brighter = ops.convert_to_numpy(crop_standardized(0.5 * images + 0.1 * scale, corners, patch_shape))
    np.testing.assert_allclose(patches, brighter, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.3, 1e6])
def test_constant_channels_become_zero(value):
    images = np.full((1, 6, 6, 2), value, "float32")
    images[..., 1] = tiny.images(1, (6, 6, 1))[..., 0]
    patches = ops.convert_to_numpy(crop_standardized(images, [[[0, 0], [1, 3]]], (5, 3)))
    assert not patches[..., 0].any()
    np.testing.assert_allclose(patches[..., 1].std(axis=(1, 2)), 1, rtol=1e-4)


def test_cropped_patches_keep_floating_dtypes():
    for dtype, expected in (("uint8", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")):
        images = ops.cast(255 * tiny.images(1), dtype)
        patches = crop_standardized(images, [[[0, 0]]], (4, 4))
        assert keras.backend.standardize_dtype(patches.dtype) == expected


@pytest.mark.parametrize(
    ("sizes", "patch", "starts"),
    [
        ((12, 9), (6, 4), [(0, 3, 6), (0, 2, 4)]),
        # A voxel is left over on either side; odd sides share the larger half.
        ((6, 10, 5), (4, 5, 5), [(0, 2), (0, 2, 4), (0,)]),
        ((7, 8), (2, 8), [(0, 1, 2, 3, 4, 5), (0,)]),
    ],
)
def test_overlapping_patches_start_half_a_side_apart(sizes, patch, starts):
    assert overlapping_grid(sizes, patch) == tuple(map(len, starts))
    corners = overlapping_corners(sizes, patch)
    first = [(size - side - places[-1]) // 2 for size, side, places in zip(sizes, patch, starts, strict=True)]
    np.testing.assert_array_equal(corners, np.array(list(itertools.product(*starts))) + first)


def test_corners_of_one_image_apply_to_a_batch():
    images = np.random.default_rng(0).uniform(size=(3, 8, 6, 2)).astype("float32")
    patches = ops.convert_to_numpy(crop_patches(images, overlapping_corners((8, 6), (4, 4))[None], (4, 4)))
    assert patches.shape == (3, 6, 4, 4, 2)
    for image, (number, (row, column)) in itertools.product(
        range(3), enumerate(itertools.product((0, 2, 4), (0, 2)))
    ):
        window = images[image, row : row + 4, column : column + 4]
        np.testing.assert_array_equal(patches[image, number], window)


@pytest.mark.parametrize("num_patches", [1, 4, 6])
def test_overlapping_patch_shape_is_the_largest_that_fits(num_patches):
    for size in range(2 * (num_patches + 1), 80):
        (side,) = overlapping_patch_shape((size,), num_patches)
        assert side % 2 == 0
        assert overlapping_grid((size,), (side,))[0] >= num_patches
        assert side + 2 > size or overlapping_grid((size,), (side + 2,))[0] < num_patches


def test_overlapping_patches_that_do_not_fit_raise():
    with pytest.raises(ValueError, match=r"sides of at least 14, for 6 patches .* Received sides \(20, 13\)"):
        overlapping_patch_shape((20, 13), 6)
    for patch in ((4, 9), (1, 4), (4, 4, 4)):
        with pytest.raises(ValueError, match=r"`patch_shape` must be one side of at least 2.*sides \(8, 8\)"):
            overlapping_corners((8, 8), patch)


FIRST_OF_27 = [7, 16, 26, 20, 19, 3, 21, 13, 22]


def least_distance(permutations):
    """Compare every two of them, and each with the order itself, place by place."""
    rows = [list(range(len(permutations[0]))), *permutations.tolist()]
    return min(
        sum(a != b for a, b in zip(one, other, strict=True))
        for number, one in enumerate(rows)
        for other in rows[:number]
    )


@pytest.mark.parametrize(("length", "least"), [(9, 6), (27, 24)])
@pytest.mark.parametrize("seed", [0, 1])
def test_100_permutations_have_the_documented_distance(length, least, seed):
    permutations = hamming_permutations(length, 100, seed)
    assert permutations.shape == (100, length)
    np.testing.assert_array_equal(np.sort(permutations, axis=1), np.tile(np.arange(length), (100, 1)))
    assert least_distance(permutations) == least


def test_permutations_depend_on_the_seed_and_are_read_only():
    permutations = hamming_permutations(9, 10)
    again = hamming_permutations.__wrapped__(9, 10, 0)
    np.testing.assert_array_equal(permutations, again)
    assert not np.array_equal(permutations, hamming_permutations(9, 10, 1))
    # Written down once: the logits of saved networks stand for these.
    assert hamming_permutations(27, 2)[0, :9].tolist() == FIRST_OF_27
    with pytest.raises(ValueError, match="read-only"):
        permutations[0, 0] = 1


def test_all_permutations_but_the_identity():
    permutations = hamming_permutations(4, 23).tolist()
    assert len({tuple(row) for row in permutations}) == 23
    assert [0, 1, 2, 3] not in permutations


@pytest.mark.parametrize("count", [1, 24])
def test_invalid_numbers_of_permutations_raise(count):
    with pytest.raises(ValueError, match=rf"`num_permutations` must be from 2 to 23.*Received {count}"):
        hamming_permutations(4, count)

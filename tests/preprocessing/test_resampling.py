"""Affine transforms, elastic deformation and crops, compared with NumPy and SciPy."""

import numpy as np
import pytest
from keras import ops
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.spatial.transform import Rotation

from keras_ssl.preprocessing import resample, rotate
from keras_ssl.preprocessing.resampling import affine_matrices, center_crop, zoom_crop
from keras_ssl.preprocessing.rotation import quarter_turns

RNG = np.random.default_rng(0)
SHAPES = [(2, 11, 8, 3), (2, 9, 8, 7, 2)]


def sampled(*args, **kwargs):
    return ops.convert_to_numpy(resample(*args, **kwargs))


def uniform(shape):
    return RNG.uniform(size=shape).astype("float32")


def some_matrices(rank):
    return ops.convert_to_numpy(
        affine_matrices(
            rank,
            flips=RNG.uniform(size=(2, rank)) < 0.5,
            angles=RNG.uniform(-40, 40, (2, 1 if rank == 2 else 3)),
            scales=RNG.uniform(0.7, 1.2, 2),
            shifts=RNG.uniform(-2, 2, (2, rank)),
        )
    )


def reference(images, matrices, shape, order, mode, cval=0.0, moved=0.0):
    """Sample every channel by SciPy where matrices and displacement, `(batch, rank, *shape)`, lead."""
    rank = len(shape)
    half = (np.array(shape).reshape(rank, *[1] * rank) - 1) / 2
    expected = np.empty((len(images), *shape, images.shape[-1]), "float32")
    for number, (image, matrix) in enumerate(zip(images, matrices, strict=True)):
        steps = np.indices(shape) - half
        steps = steps + (moved if np.isscalar(moved) else moved[number])
        places = np.tensordot(matrix[:, :rank], steps, 1) + matrix[:, rank].reshape(rank, *[1] * rank)
        places += (np.array(image.shape[:-1]).reshape(rank, *[1] * rank) - 1) / 2
        for channel in range(image.shape[-1]):
            expected[number, ..., channel] = ndimage.map_coordinates(
                image[..., channel], places, order=order, mode=mode, cval=cval
            )
    return expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("interpolation", "order"), [("linear", 1), ("nearest", 0)])
@pytest.mark.parametrize(("fill", "mode"), [("edge", "nearest"), (0.3, "grid-constant")])
def test_equals_scipy_inside_and_beyond_the_border(shape, interpolation, order, fill, mode):
    images, matrices = uniform(shape), some_matrices(len(shape) - 2)
    got = sampled(images, matrices, interpolation=interpolation, fill=fill)
    expected = reference(images, matrices, shape[1:-1], order, mode, 0.3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_minimum_is_that_of_each_channel():
    images, matrices = uniform(SHAPES[0]), np.tile(np.eye(2, 3), (2, 1, 1))
    matrices[:, 0, 2] = 100
    least = np.broadcast_to(images.min(axis=(1, 2), keepdims=True), images.shape)
    for interpolation in ("linear", "nearest"):
        got = sampled(images, matrices, interpolation=interpolation, fill="minimum")
        np.testing.assert_allclose(got, least, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_displacement_is_a_cubic_spline(shape):
    rank, sizes = len(shape) - 2, shape[1:-1]
    images, matrices = uniform(shape), some_matrices(rank)
    points = RNG.uniform(-1.5, 1.5, (2, rank, *(5, 6, 4)[:rank])).astype("float32")
    moved = points
    for axis, size in enumerate(sizes, start=2):
        count = points.shape[axis]
        # Points sit one cell apart, the second of them at the start of the first voxel.
        spline = BSpline(np.arange(count + 4) - 3.0, np.eye(count), 3)
        weights = spline((np.arange(size) + 0.5) / size * (count - 3))
        moved = np.moveaxis(np.tensordot(moved, weights, ([axis], [1])), -1, axis)
    got = sampled(images, matrices, displacement=points)
    expected = reference(images, matrices, sizes, 1, "nearest", moved=moved)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_flips_are_numpys():
    images = uniform((8, 5, 6, 7, 1))
    flips = np.array(list(np.ndindex(2, 2, 2)), bool)
    expected = [np.flip(one, np.flatnonzero(flip)) for one, flip in zip(images, flips, strict=True)]
    matrices = affine_matrices(3, flips=flips)
    np.testing.assert_array_equal(sampled(images, matrices, interpolation="nearest"), expected)
    np.testing.assert_allclose(sampled(images, matrices), expected, atol=2e-6)


@pytest.mark.parametrize("shape", [(4, 6, 6, 3), (10, 5, 5, 5, 1)])
def test_quarter_turns_are_numpys(shape):
    images, turns = uniform(shape), quarter_turns(len(shape) - 2)
    planes = [plane for rotation in turns for _, plane in rotation][::3]
    numbers = np.zeros((len(turns), len(planes)), int)
    for label, rotation in enumerate(turns):
        for k, plane in rotation:
            numbers[label, planes.index(plane)] = k
    expected = ops.convert_to_numpy(rotate(images, np.arange(len(turns))))
    matrices = affine_matrices(len(shape) - 2, turns=numbers)
    np.testing.assert_array_equal(sampled(images, matrices, interpolation="nearest"), expected)
    np.testing.assert_allclose(sampled(images, matrices), expected, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_identity(shape):
    images, matrices = uniform(shape), affine_matrices(len(shape) - 2, scales=np.ones(2))
    still = np.zeros((2, len(shape) - 2, *[4] * (len(shape) - 2)))
    np.testing.assert_allclose(sampled(images, matrices, displacement=still), images, atol=2e-6)


def test_a_smaller_output_is_a_crop_and_a_larger_one_is_padded():
    images = uniform((2, 9, 8, 3))
    matrices = affine_matrices(2, shifts=[[1.0, 0.0], [-2.0, 1.0]])
    crops = sampled(images, matrices, output_shape=(5, 4))
    np.testing.assert_allclose(crops[0], images[0, 1:6, 2:6], atol=2e-6)
    np.testing.assert_allclose(crops[1], images[1, 4:9, 1:5], atol=2e-6)
    still = affine_matrices(2, scales=np.ones(2))
    padded = sampled(images, still, output_shape=(11, 8), fill=0.0)
    np.testing.assert_allclose(padded, np.pad(images, [(0, 0), (1, 1), (0, 0), (0, 0)]), atol=2e-6)


def test_halves_go_up_on_every_backend():
    image = np.arange(6, dtype="int32").reshape(1, 6, 1, 1)
    got = sampled(image, affine_matrices(2, shifts=[[0.5, 0.0]]), interpolation="nearest")
    assert got.ravel().tolist() == [0, 1, 2, 3, 4, 5]
    got = sampled(image, affine_matrices(2, shifts=[[-0.5, 0.0]]), interpolation="nearest")
    assert got.ravel().tolist() == [1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int32", "float16"])
def test_dtypes(dtype):
    labels = RNG.integers(0, 2, (2, 6, 6, 1)).astype(dtype)
    matrices = some_matrices(2)
    assert sampled(labels, matrices, interpolation="nearest").dtype == dtype
    linear = sampled(labels, matrices)
    assert linear.dtype == ("float16" if dtype == "float16" else "float32")


def test_one_slice_and_one_pixel():
    thin = uniform((2, 1, 6, 6, 1))
    matrices = affine_matrices(3, angles=[[0, 0, 20], [0, 0, -50]], scales=[0.8, 1.0])
    flat = affine_matrices(2, angles=[[20], [-50]], scales=[0.8, 1.0])
    np.testing.assert_allclose(sampled(thin, matrices)[:, 0], sampled(thin[:, 0], flat), atol=1e-5)
    assert sampled(np.ones((1, 1, 1, 1)), np.eye(2, 3)[None]).tolist() == [[[[1.0]]]]


IMAGES, EYE = np.zeros((1, 4, 4, 1)), np.eye(2, 3)[None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": np.zeros((1, 4, 1))}, r"`images` must have two or three spatial axes.*\(1, 4, 1\)"),
        ({"matrices": np.eye(3, 4)[None]}, r"`matrices` must have shape \(batch, 2, 3\)"),
        ({"displacement": np.zeros((1, 3, 4, 4))}, r"`displacement` must have shape \(batch, 2, \*grid\)"),
        ({"displacement": np.zeros((1, 2, 4, 3))}, r"each at least 4. Received shape \(1, 2, 4, 3\)"),
        ({"interpolation": "cubic"}, '`interpolation` must be "linear" or "nearest". Received \'cubic\''),
        ({"fill": "mirror"}, '`fill` must be "edge", "minimum" or a finite number'),
        ({"fill": float("nan")}, "`fill` must be .* Received nan"),
        ({"output_shape": (4,)}, "`output_shape` must be 2 sizes of at least 1"),
    ],
)
def test_invalid_resampling_raises(given, message):
    with pytest.raises(ValueError, match=message):
        resample(**{"images": IMAGES, "matrices": EYE, **given})


def matrices(*args, **kwargs):
    return ops.convert_to_numpy(affine_matrices(*args, **kwargs))


def test_nothing_moves_where_parameters_are_neutral():
    neutral = matrices(
        3,
        flips=np.zeros((2, 3), bool),
        turns=np.zeros((2, 3), int),
        angles=np.zeros((2, 3)),
        scales=np.ones(2),
        shifts=np.zeros((2, 3)),
    )
    np.testing.assert_array_equal(neutral, np.tile(np.eye(3, 4), (2, 1, 1)))


@pytest.mark.parametrize(("plane", "others"), [((0, 1), 2), ((0, 2), 1), ((1, 2), 0)])
def test_rotation_is_that_of_scipy(plane, others):
    angles = np.zeros((1, 3))
    angles[0, [(0, 1), (0, 2), (1, 2)].index(plane)] = 25
    # SciPy's rotations about the middle axis go from the last axis to the first.
    vector = np.zeros(3)
    vector[others] = -1 if others == 1 else 1
    forward = Rotation.from_rotvec(25 * vector, degrees=True).as_matrix()
    # `np.rot90` goes from the second axis of the plane to the first, the matrix from output to input.
    np.testing.assert_allclose(matrices(3, angles=angles)[0, :, :3], forward.T, atol=1e-6)


def test_a_right_angle_is_a_quarter_turn():
    turned = matrices(3, turns=[[1, 2, 3]])
    rotated = matrices(3, angles=[[90, 180, 270]])
    assert set(turned.ravel()) <= {-1.0, 0.0, 1.0}
    np.testing.assert_allclose(turned, rotated, atol=1e-6)


def test_order_is_flip_turn_rotate_scale_shift():
    given = {
        "flips": [[True, False]],
        "turns": [[1]],
        "angles": [[20.0]],
        "scales": [[0.5, 2.0]],
        "shifts": [[3.0, -1.0]],
    }

    def whole(matrix):
        return np.vstack([matrix[0], [0, 0, 1]])

    product = np.eye(3)
    for name, value in given.items():
        product = product @ whole(matrices(2, **{name: value}))
    np.testing.assert_allclose(whole(matrices(2, **given)), product, atol=1e-5)


def test_planes_choose_what_is_turned():
    some = matrices(3, angles=[[10.0]], planes=((1, 2),))
    np.testing.assert_allclose(some, matrices(3, angles=[[0.0, 0.0, 10.0]]), atol=1e-7)


def test_things_grow_and_move_towards_the_end():
    image = np.zeros((1, 9, 9, 1), "float32")
    image[0, 4, 4] = 1
    moved = ops.convert_to_numpy(resample(image, affine_matrices(2, shifts=[[2.0, -1.0]])))
    assert np.argwhere(moved[0, ..., 0] == 1).tolist() == [[6, 3]]
    grown = ops.convert_to_numpy(resample(image, affine_matrices(2, scales=[2.0])))
    assert grown.sum() == pytest.approx(4, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "At least one of `flips`"),
        ({"flips": np.zeros((2, 3))}, r"`flips` must have shape \(batch, 2\). Received shape \(2, 3\)"),
        ({"angles": np.zeros(2)}, r"`angles` must have shape \(batch, 1\)"),
        ({"scales": np.ones((2, 3))}, r"`scales` must have shape \(batch, 2\)"),
        ({"shifts": 1.0}, r"`shifts` must have shape \(batch, 2\)"),
    ],
)
def test_invalid_matrices_raise(given, message):
    with pytest.raises(ValueError, match=message):
        affine_matrices(2, **given)


def interpolated(image, scale, offsets):
    """Linear interpolation one axis after the other by numpy.interp."""
    for axis, offset in enumerate(offsets):
        size = image.shape[axis]
        start = (size - scale * size) * (offset + 1) / 2
        positions = start + (np.arange(size) + 0.5) * scale - 0.5
        line = lambda values, at=positions, n=size: np.interp(at, np.arange(n), values)  # noqa: E731
        image = np.apply_along_axis(line, axis, image)
    return image


def test_center_crop_is_a_slice():
    images = RNG.uniform(size=(2, 6, 7, 3))
    np.testing.assert_array_equal(center_crop(images, (4, 4)), images[:, 1:5, 1:5])
    assert center_crop(images, (6, 7)) is images


def test_center_crop_larger_than_the_image_raises():
    for shape in ((8, 7), (6,)):
        with pytest.raises(ValueError, match="`spatial_shape` must have 2 sizes within those of the images"):
            center_crop(np.zeros((1, 6, 7, 3)), shape)


@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (3, 5, 6, 7, 2)])
def test_zoom_crop_is_linear_interpolation(shape):
    images = RNG.uniform(size=shape).astype("float32")
    scales, offsets = np.array([0.4, 0.75, 1.0]), RNG.uniform(-1, 1, (3, len(shape) - 2))
    zoomed = ops.convert_to_numpy(zoom_crop(images, scales, offsets))
    expected = [interpolated(*one) for one in zip(images, scales, offsets, strict=True)]
    np.testing.assert_allclose(zoomed, expected, atol=1e-5)


def test_zoom_crop_of_the_whole_image_changes_nothing():
    images = RNG.uniform(size=(2, 8, 8, 3)).astype("float32")
    zoomed = zoom_crop(images, np.ones(2), np.array([[0.3, -1], [1, 0]]))
    np.testing.assert_allclose(ops.convert_to_numpy(zoomed), images, atol=1e-6)


def test_zoom_crop_commutes_with_quarter_turns():
    image = RNG.uniform(size=(1, 9, 9, 1)).astype("float32")
    scale, (down, right) = [0.6], (0.4, -0.7)
    cropped = ops.convert_to_numpy(zoom_crop(image, scale, [(down, right)]))
    turned = zoom_crop(np.rot90(image, 1, (1, 2)).copy(), scale, [(-right, down)])
    np.testing.assert_allclose(ops.convert_to_numpy(turned), np.rot90(cropped, 1, (1, 2)), atol=1e-6)


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float16"), ("uint8", "float32")])
def test_zoom_crop_keeps_floating_dtypes(dtype, expected):
    zoomed = zoom_crop(np.full((1, 4, 4, 1), 7, dtype), [0.5], [(0, 0)])
    assert ops.convert_to_numpy(zoomed).dtype == expected
    np.testing.assert_allclose(ops.convert_to_numpy(zoomed), 7)

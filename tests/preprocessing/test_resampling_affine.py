"""Matrices: exact for flips and quarter turns, and equal to products of rotations written out."""

import numpy as np
import pytest
from keras import ops
from scipy.spatial.transform import Rotation

from keras_ssl.preprocessing import affine_matrices, resample

RNG = np.random.default_rng(0)


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
def test_refused(given, message):
    with pytest.raises(ValueError, match=message):
        affine_matrices(2, **given)

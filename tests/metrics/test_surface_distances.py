"""Distances of surfaces against all pairs of surface voxels, one by one."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from keras_ssl.metrics.surface_distances import average_surface_distance, hausdorff_95, surface_distances

pytestmark = pytest.mark.no_backend

EMPTY, FULL = np.zeros((3, 4, 5)), np.ones((3, 4, 5))


def surface_points(mask, spacing):
    """Centers of those voxels of a mask that have a neighbor outside it, in mm."""
    inside = np.pad(mask, 1).astype(bool)
    within = np.ones_like(inside)
    for axis in range(mask.ndim):
        for step in (-1, 1):
            within &= np.roll(inside, step, axis)
    return np.argwhere(inside & ~within) * spacing


def random_pair(shape, seed):
    rng = np.random.default_rng(seed)
    # Coarse noise made wide, so that masks have an inside.
    coarse = rng.random((2, *(-(-side // 3) for side in shape))) < 0.5
    for axis in range(1, coarse.ndim):
        coarse = np.repeat(coarse, 3, axis)
    masks = coarse[(slice(None), *(slice(side) for side in shape))]
    return masks ^ (rng.random(masks.shape) < 0.05)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((11, 14), (1.0, 1.0)), ((12, 9), (0.7, 2.5)), ((9, 10, 8), (3.0, 1.0, 0.5))]
)
def test_distances_match_all_pairs(shape, spacing):
    for seed in range(5):
        true, predicted = random_pair(shape, seed)
        points = [surface_points(mask, spacing) for mask in (true, predicted)]
        pairs = cdist(*points)
        there, back = pairs.min(axis=1), pairs.min(axis=0)
        assert len(there) < true.sum(), "the mask has an inside"
        for found, expected in zip(surface_distances(true, predicted, spacing), (there, back), strict=True):
            np.testing.assert_allclose(found, expected)
        larger = max(np.percentile(there, 95), np.percentile(back, 95))
        assert hausdorff_95(true, predicted, spacing) == pytest.approx(larger)
        pooled = np.concatenate([there, back]).mean()
        assert average_surface_distance(true, predicted, spacing) == pytest.approx(pooled)


def test_place_in_the_volume_and_order_make_no_difference():
    true, predicted = random_pair((9, 10, 8), 0)
    spacing = (3.0, 1.0, 0.5)
    for function in (hausdorff_95, average_surface_distance):
        expected = function(true, predicted, spacing)
        padded = (np.pad(mask, ((2, 5), (0, 7), (4, 0))) for mask in (true, predicted))
        assert function(*padded, spacing) == expected
        assert function(predicted, true, spacing) == pytest.approx(expected)


def test_cubes_one_within_the_other():
    true, predicted = np.zeros((2, 11, 11, 11), bool)
    true[2:9, 2:9, 2:9], predicted[4:7, 4:7, 4:7] = True, True
    # Two voxels lie between faces, sqrt(3) times as much between corners.
    there, back = surface_distances(true, predicted, 2.0)
    assert there.max() == pytest.approx(2 * 2 * np.sqrt(3))
    assert there.min() == 4
    assert (back == 4).all()
    assert (len(there), len(back)) == (7**3 - 5**3, 3**3 - 1)


def test_a_far_voxel_does_not_rule_the_95th_percentile():
    true = np.zeros((40, 40), bool)
    true[5:25, 5:25] = True
    predicted = true.copy()
    predicted[39, 39] = True
    assert hausdorff_95(true, predicted, 1.0) == 0
    assert surface_distances(true, predicted, 1.0)[1].max() == pytest.approx(15 * np.sqrt(2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", [hausdorff_95, average_surface_distance])
def test_empty_masks(function):
    assert np.isnan(function(EMPTY, EMPTY, 1.0))
    assert function(EMPTY, FULL, 1.0) == function(FULL, EMPTY, 1.0) == np.inf
    assert function(FULL, FULL, 1.0) == 0


def test_one_spacing_is_for_all_axes():
    true, predicted = random_pair((9, 10, 8), 1)
    assert hausdorff_95(true, predicted, 2.0) == hausdorff_95(true, predicted, [2.0, 2.0, 2.0])
    assert hausdorff_95(true, predicted, 2.0) == pytest.approx(2 * hausdorff_95(true, predicted, 1))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, np.nan), -1.0, [1.0], [[1, 1, 1]]])
def test_invalid_spacing(spacing):
    with pytest.raises(ValueError, match=r"`spacing` must be one finite number above 0 per axis, 3"):
        hausdorff_95(FULL, FULL, spacing)


def test_invalid_shapes():
    with pytest.raises(ValueError, match=r"of the same shape. Received shapes \(3, 4, 5\) and \(3, 4\)"):
        average_surface_distance(FULL, FULL[..., 0], 1.0)

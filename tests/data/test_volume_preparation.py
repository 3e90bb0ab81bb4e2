import dataclasses
import json
import warnings

import nibabel
import nibabel.processing
import numpy as np
import pytest
from volume_files import ORIENTATIONS, affine_of, labels_like, save_nifti, turn

from keras_ssl.data import PercentileScale, Volume, VolumePreparation, Window, ZScore

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)
KEPT = VolumePreparation(intensity=None)
ASKEW = turn(affine_of((2, 0, 1), (-1, 1, -1), (0.8, 1.3, 2.0)), 10)


def as_nibabel(volume):
    return nibabel.Nifti1Image(np.asarray(volume.voxels, np.float64), volume.affine)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_is_reoriented_to_ras_and_back(order, signs):
    labels = Volume(labels_like((3, 4, 5)), affine_of(order, signs, (1.0, 2.0, 3.0)))
    expected = nibabel.as_closest_canonical(as_nibabel(labels))
    prepared = KEPT.mask(labels)
    np.testing.assert_array_equal(prepared, expected.get_fdata())
    np.testing.assert_array_equal(KEPT.image(labels)[..., 0], prepared)
    grid = KEPT.grid(labels)
    assert grid.shape == prepared.shape
    np.testing.assert_allclose(grid.affine, expected.affine)
    for shape in (None, (5, 5, 5), (6, 7, 8)):
        preparation = VolumePreparation(shape=shape)
        restored = preparation.restore(preparation.mask(labels), labels)
        np.testing.assert_array_equal(restored.voxels, labels.voxels)
        np.testing.assert_array_equal(restored.affine, labels.affine)


def test_oblique_scans_keep_their_voxels():
    volume = Volume(RNG.random((4, 5, 6), np.float32), ASKEW)
    expected = nibabel.as_closest_canonical(as_nibabel(volume))
    np.testing.assert_allclose(KEPT.image(volume)[..., 0], expected.get_fdata())
    np.testing.assert_allclose(KEPT.grid(volume).affine, expected.affine)


@pytest.mark.parametrize("affine", [affine_of(spacing=(0.8, 1.3, 2.0)), ASKEW], ids=["straight", "askew"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.4, 2.6, 1.1)])
def test_resampling_matches_nibabel(affine, spacing):
    volume = Volume(RNG.random((10, 9, 8), np.float32), affine)
    preparation = VolumePreparation(spacing=spacing, intensity=None)
    grid = preparation.grid(volume)
    image = preparation.image(volume)[..., 0]
    assert image.shape == grid.shape
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), spacing)
    expected = nibabel.processing.resample_from_to(as_nibabel(volume), grid, order=1, mode="nearest")
    np.testing.assert_allclose(image, expected.get_fdata(), atol=1e-5)


def test_resampling_keeps_center_and_extent():
    volume = Volume(np.zeros((10, 9, 8)), ASKEW)
    grid = VolumePreparation(spacing=(0.7, 0.7, 0.7)).grid(volume)
    for shape, affine in ((volume.voxels.shape, ASKEW), (grid.shape, grid.affine)):
        middle = affine @ [*((side - 1) / 2 for side in shape), 1]
        extent = np.sort(np.array(shape) * np.linalg.norm(affine[:3, :3], axis=0))
        if affine is ASKEW:
            first_middle, first_extent = middle, extent
    np.testing.assert_allclose(middle, first_middle)
    assert np.abs(extent - first_extent).max() <= 0.35 + 1e-6


def test_a_linear_ramp_is_resampled_exactly():
    slopes = np.array([0.3, -1.2, 2.0])
    index = np.stack(np.meshgrid(*map(np.arange, (12, 10, 9)), indexing="ij"))
    world = np.tensordot(ASKEW[:3, :3], index, 1) + ASKEW[:3, 3, None, None, None]
    preparation = VolumePreparation(spacing=(0.9, 0.9, 0.9), shape=(6, 5, 7), intensity=None)
    ramp = Volume(np.tensordot(slopes, world, 1), ASKEW)
    grid = preparation.grid(ramp)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"))
    world = np.tensordot(grid.affine[:3, :3], index, 1) + grid.affine[:3, 3, None, None, None]
    np.testing.assert_allclose(preparation.image(ramp)[..., 0], np.tensordot(slopes, world, 1), atol=1e-3)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.6, 0.5, 1.7), (3.1, 3.1, 3.1)])
def test_a_mask_gets_the_label_of_the_nearest_voxel_and_no_other(spacing):
    # Neighbors 0 and 7: anything between would be seen, and so would a label that is not near.
    labels = Volume(
        labels_like((11, 10, 9), classes=2) * 7, affine_of((1, 2, 0), (1, -1, 1), (0.9, 1.1, 1.3))
    )
    preparation = VolumePreparation(spacing=spacing)
    mask, grid = preparation.mask(labels), preparation.grid(labels)
    assert set(np.unique(mask)) == {0, 7}
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    source = nibabel.affines.apply_affine(np.linalg.inv(labels.affine) @ grid.affine, index)
    corners = np.stack(np.meshgrid(*map(np.arange, labels.voxels.shape), indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    apart = np.abs(source[:, None] - corners[None]).max(axis=-1)
    for place, distances in zip(index, apart, strict=True):
        # All that are equally near, as halfway either will do.
        near = corners[distances <= max(distances.min(), 0.5) + 1e-5]
        assert mask[tuple(place)] in labels.voxels[tuple(near.T)]


def test_an_image_and_its_mask_stay_together():
    shape = (20, 18, 16)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    ball = (np.linalg.norm(grid - np.array([0.2, -0.1, 0.3])[:, None, None, None], axis=0) < 0.5).astype(
        np.uint8
    )
    preparation = VolumePreparation(spacing=(1.5, 1.5, 1.5), shape=(16, 16, 16), intensity=None)
    volume = Volume(ball, ASKEW)
    image, mask = preparation.image(volume)[..., 0], preparation.mask(volume)
    assert image.shape == mask.shape == (16, 16, 16)
    agree = (image > 0.5) == (mask > 0)
    assert agree[image == 0].all()
    assert agree[image == 1].all()
    assert agree.mean() > 0.98


@pytest.mark.parametrize(
    ("shape", "rows"), [((2, 3, 4), slice(1, 3)), ((3, 3, 4), slice(0, 3)), ((4, 3, 4), slice(0, 4))]
)
def test_crops_are_central(shape, rows):
    voxels = np.arange(48).reshape(4, 3, 4)
    np.testing.assert_array_equal(
        VolumePreparation(shape=shape).mask(Volume(voxels, np.eye(4))), voxels[rows]
    )


def test_padding_of_images_and_masks():
    volume = Volume(np.stack([np.full((1, 2, 2), 5.0), np.array([[[-3.0, 4.0], [1.0, 1.0]]])], -1), np.eye(4))
    padded = VolumePreparation(shape=(3, 2, 3), intensity=None).image(volume)
    assert padded[0, ..., 0].tolist() == [[5.0] * 3] * 2
    assert padded[0, ..., 1].tolist() == [[-3.0] * 3] * 2
    assert padded[1, ..., 1].tolist() == [[-3.0, 4.0, -3.0], [1.0, 1.0, -3.0]]
    edge = VolumePreparation(shape=(3, 2, 3), pad="edge", intensity=None).image(volume)
    assert edge[2, ..., 1].tolist() == [[-3.0, 4.0, 4.0], [1.0, 1.0, 1.0]]
    mask = VolumePreparation(shape=(3, 3, 3), pad="edge").mask(Volume(np.full((1, 1, 1), 4), np.eye(4)))
    assert mask.sum() == mask[1, 1, 1] == 4


def test_restored_labels_are_background_where_cropped():
    labels = Volume(np.full((6, 6, 6), 2, np.uint8), affine_of((1, 0, 2), (-1, 1, -1)))
    preparation = VolumePreparation(shape=(4, 6, 8))
    restored = preparation.restore(preparation.mask(labels), labels).voxels
    assert restored.sum() == 2 * 4 * 6 * 6
    assert (restored[:, 1:5] == 2).all()


def test_restored_labels_overlap_with_the_original():
    coarse = labels_like((6, 6, 6), classes=4)
    labels = Volume(coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2), ASKEW)
    finer = VolumePreparation(spacing=(0.4, 0.4, 0.4))
    np.testing.assert_array_equal(finer.restore(finer.mask(labels), labels).voxels, labels.voxels)
    coarser = VolumePreparation(spacing=(1.5, 1.5, 1.5), shape=(24, 24, 24))
    restored = coarser.restore(coarser.mask(labels), labels)
    assert set(np.unique(restored.voxels)) <= set(range(4))
    assert (restored.voxels == labels.voxels).mean() > 0.8


def test_probabilities_are_restored_more_exactly_than_labels():
    # A plane at an angle: with the nearest label it is a staircase of the coarse grid.
    index = np.stack(np.meshgrid(*map(np.arange, (24, 24, 24)), indexing="ij"))
    signed = index[0] + 0.5 * index[1] - 17.3
    scan = Volume(signed.astype(np.float32), affine_of((0, 2, 1), (1, -1, 1)))
    preparation = VolumePreparation(spacing=(2.0, 2.0, 2.0), shape=(14, 14, 14), pad="edge", intensity=None)
    coarse = preparation.image(scan)[..., 0]
    second = 1 / (1 + np.exp(-coarse))
    probabilities = np.stack([1 - second, second], axis=-1)
    restored = preparation.restore(probabilities, scan)
    nearest = preparation.restore((coarse > 0).astype(np.uint8), scan)
    truth = signed > 0
    inner = (slice(1, -1),) * 3
    assert restored.voxels.dtype == np.uint8
    assert (restored.voxels == truth)[inner].mean() == 1.0
    assert (nearest.voxels == truth)[inner].mean() < 0.98


def test_restored_probabilities_are_background_where_cropped():
    scan = Volume(np.zeros((6, 6, 6)), np.eye(4))
    certain = np.zeros((4, 4, 4, 3), np.float32)
    certain[..., 2] = 1
    restored = VolumePreparation(shape=(4, 4, 4)).restore(certain, scan).voxels
    expected = np.zeros((6, 6, 6))
    expected[1:5, 1:5, 1:5] = 2
    np.testing.assert_array_equal(restored, expected)


def test_restore_accepts_a_file_as_reference(tmp_path):
    labels = Volume(labels_like((7, 6, 5)), ASKEW)
    path = save_nifti(tmp_path / "scan.nii.gz", labels.voxels, ASKEW)
    restored = KEPT.restore(KEPT.mask(labels), path)
    np.testing.assert_array_equal(restored.voxels, labels.voxels)
    np.testing.assert_allclose(restored.affine, ASKEW, atol=1e-5)


@pytest.mark.parametrize("intensity", [PercentileScale(), ZScore(), Window(-100, 100), None])
@pytest.mark.parametrize("value", [0, -1024, 7, 0.1])
def test_constant_volumes_have_no_nan(intensity, value):
    # 0.1 has a mean that is not exactly 0.1 once it is summed up.
    volume = Volume(np.full((9, 9, 9), value, np.float32), np.eye(4))
    image = VolumePreparation(intensity=intensity, spacing=(1.3, 1.3, 1.3), shape=(8, 8, 8)).image(volume)
    assert np.isfinite(image).all()
    if isinstance(intensity, (PercentileScale, ZScore)):
        assert (image == 0).all()


def test_percentiles_are_measured_in_the_foreground():
    brain = RNG.gamma(4.0, 100.0, 500).astype(np.float32)
    voxels = np.concatenate([np.zeros(500, np.float32), brain]).reshape(10, 10, 10)
    image = VolumePreparation(intensity=PercentileScale(2, 98)).image(Volume(voxels, np.eye(4)))
    low, high = np.percentile(brain, (2, 98))
    expected = np.clip((voxels - low) / (high - low), 0, 1)
    np.testing.assert_allclose(image[..., 0], expected, atol=1e-5)
    assert (image.min(), image.max()) == (0, 1)


def test_z_scores_are_measured_in_the_foreground():
    brain = RNG.normal(300.0, 20.0, 500).astype(np.float32)
    voxels = np.concatenate([np.zeros(500, np.float32), brain]).reshape(10, 10, 10)
    image = VolumePreparation(intensity=ZScore()).image(Volume(voxels, np.eye(4)))[..., 0]
    np.testing.assert_allclose(image, (voxels - brain.mean()) / brain.std(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("intensity", [PercentileScale(), ZScore()])
def test_scale_and_offset_of_a_scanner_do_not_matter(intensity):
    voxels = RNG.gamma(4.0, 100.0, (8, 8, 8)).astype(np.float32)
    preparation = VolumePreparation(intensity=intensity)
    image = preparation.image(Volume(voxels, np.eye(4)))
    other = preparation.image(Volume(voxels * 1000 + 50, np.eye(4)))
    np.testing.assert_allclose(image, other, atol=1e-4)


@pytest.mark.parametrize(("intensity", "levels"), [(PercentileScale(), (0.0, 1.0)), (ZScore(), (-1.0, 1.0))])
def test_volumes_of_two_values_keep_both(intensity, levels):
    voxels = np.zeros((4, 4, 4), np.uint8)
    voxels[:2] = 255
    image = VolumePreparation(intensity=intensity).image(Volume(voxels, np.eye(4)))
    assert tuple(np.unique(image)) == levels


def test_a_window_is_of_hounsfield_units():
    ct = Volume(np.array([-1024, -160, 40, 240, 3000], np.int16).reshape(5, 1, 1), np.eye(4))
    image = VolumePreparation(intensity=Window(-160, 240)).image(ct)
    np.testing.assert_allclose(image.ravel(), [0, 0, 0.5, 1, 1])


def test_each_channel_is_measured_before_resampling():
    voxels = RNG.random((12, 10, 8, 2)).astype(np.float32) * [1, 1000]
    preparation = VolumePreparation(spacing=(2.0, 1.0, 1.0), shape=(4, 12, 6))
    both = preparation.image(Volume(voxels, np.eye(4)))
    for channel in range(2):
        one = preparation.image(Volume(voxels[..., channel], np.eye(4)))
        np.testing.assert_array_equal(both[..., channel : channel + 1], one)
    whole = VolumePreparation(spacing=(2.0, 1.0, 1.0)).image(Volume(voxels, np.eye(4)))
    np.testing.assert_array_equal(both[1:, 1:-1], whole[2:5, :, 1:7])


@pytest.mark.parametrize(
    "preparation",
    [
        VolumePreparation(),
        VolumePreparation(spacing=(1, 1.5, np.float64(2)), shape=[32, np.int64(48), 16], pad="edge"),
        VolumePreparation(intensity=ZScore()),
        VolumePreparation(intensity=Window(-160, 240)),
        VolumePreparation(intensity=PercentileScale(1, 99)),
        KEPT,
    ],
)
def test_json_round_trip(tmp_path, preparation):
    assert VolumePreparation.from_json(preparation.to_json()) == preparation
    preparation.save(tmp_path / "preparation.json")
    assert VolumePreparation.load(tmp_path / "preparation.json") == preparation
    assert hash(VolumePreparation.load(tmp_path / "preparation.json")) == hash(preparation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keras_ssl_volume_preparation": 2}, "must be of version 1 or older. Received 2"),
        ({"size": 3}, "must have the fields"),
        ({"intensity": {"kind": "Otsu"}}, "must hold one of .*'ZScore'.* Received"),
        ({"intensity": {"kind": "Window", "low": 3}}, "must hold one of"),
        ({"shape": [1, 2]}, "`shape` must be three"),
    ],
)
def test_other_settings_raise(change, message):
    values = json.loads(VolumePreparation().to_json()) | change
    with pytest.raises(ValueError, match=message):
        VolumePreparation.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["{", "[]", '{"keras_ssl_preparation": 1}'])
def test_other_text_raises(text):
    with pytest.raises(ValueError, match="`text` must be"):
        VolumePreparation.from_json(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spacing": (1, 1)}, "`spacing` must be three positive numbers, or None. Received"),
        ({"spacing": 1.0}, "`spacing` must be three"),
        ({"spacing": (1, 0, 1)}, "`spacing` must be three"),
        ({"spacing": (1, np.nan, 1)}, "`spacing` must be three"),
        ({"spacing": (1, np.inf, 1)}, "`spacing` must be three"),
        ({"shape": (8, 8.0, 8)}, "`shape` must be three whole numbers"),
        ({"shape": (8, 8, -8)}, "`shape` must be three whole numbers"),
        ({"shape": "888"}, "`shape` must be three whole numbers"),
        ({"pad": "zero"}, "`pad` must be .minimum. or .edge.. Received 'zero'"),
        ({"intensity": "z"}, "`intensity` must be a PercentileScale, .* Received 'z'"),
    ],
)
def test_bad_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        VolumePreparation(**settings)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(PercentileScale, (99, 1)), (PercentileScale, (-1, 99)), (Window, (5, 5)), (Window, (0, np.inf))],
)
def test_bad_ranges_raise(kind, arguments):
    with pytest.raises(ValueError, match="`low` "):
        kind(*arguments)


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.zeros((4, 4)), r"Received shape \(4, 4\)"),
        (np.full((4, 4, 4), np.nan), "`voxels` must be finite"),
        (np.zeros((4, 0, 4)), "`voxels` must not be empty"),
    ],
)
def test_bad_volumes_raise(voxels, message):
    with pytest.raises(ValueError, match=message):
        VolumePreparation().image(Volume(voxels, np.eye(4)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((2, 2, 2), 0.5), "whole numbers in 0..255. Received 0.5 in row 0 and 7 more"),
        (np.full((2, 2, 2), -1), "whole numbers in 0..255. Received -1"),
        (np.full((2, 2, 2), 256), "Received 256"),
        (np.full((2, 2, 2), np.nan), "Received nan"),
        (np.zeros((2, 2, 2, 1)), r"Received shape \(2, 2, 2, 1\)"),
        (np.zeros((2, 2, 2), complex), "Received dtype complex128"),
    ],
)
def test_invalid_labels_raise(labels, message):
    with pytest.raises(ValueError, match=message):
        VolumePreparation().mask(Volume(labels, np.eye(4)))


def test_a_mask_of_another_shape_is_not_restored():
    scan = Volume(np.zeros((4, 5, 6)), np.eye(4))
    with pytest.raises(ValueError, match=r"`mask` must have shape \(8, 8, 8\).* Received shape \(4, 5, 6\)"):
        VolumePreparation(shape=(8, 8, 8)).restore(np.zeros((4, 5, 6)), scan)


def test_equal_spacing_does_not_resample():
    affine = affine_of(spacing=(0.99999994, 1.0, 1.0000001))
    voxels = RNG.random((5, 4, 3), np.float32)
    preparation = VolumePreparation(spacing=(1.0, 1.0, 1.0), intensity=None)
    np.testing.assert_array_equal(preparation.image(Volume(voxels, affine))[..., 0], voxels)


def test_no_warning_is_triggered():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extreme = Volume(np.array([[[-1e38, 1e38, 0.0, 1e-40]]], np.float32), np.eye(4))
        for intensity in (PercentileScale(), ZScore(), Window(0, 1), None):
            prepared = dataclasses.replace(KEPT, intensity=intensity, spacing=(0.5, 0.5, 0.5)).image(extreme)
            assert np.isfinite(prepared).all()

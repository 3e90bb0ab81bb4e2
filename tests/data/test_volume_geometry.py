"""World coordinates of voxels over random oblique affines, compared to NumPy and nibabel alone."""

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from keras_ssl.data import (
    PatchBatches,
    VolumePreparation,
    VolumeTable,
    open_volumes,
    read_volume,
    write_volume,
)
from keras_ssl.preprocessing import Augmentation, Geometry

CORNERS = np.array(np.meshgrid(*[[0, 1]] * 3, indexing="ij")).reshape(3, -1).T


def random_scan(folder, seed):
    """A file of six labeled cubes, its affine, and the middle of each cube in the patient's space."""
    generator = np.random.default_rng(seed)
    shape = generator.integers(17, 26, 3)
    axes = Rotation.random(random_state=seed).as_matrix() @ np.diag(generator.choice([-1, 1], 3))
    affine = np.eye(4)
    affine[:3, :3] = axes * generator.uniform(0.7, 1.6, 3)
    affine[:3, 3] = generator.uniform(-90, 90, 3)
    labels = np.zeros(shape, np.uint8)
    for label, corner in enumerate(CORNERS[:6], start=1):
        start = np.array([2, 2, 2]) + corner * (shape - 9) + generator.integers(0, 2, 3)
        labels[tuple(slice(at, at + 5) for at in start)] = label
    image = nibabel.Nifti1Image(labels, affine)
    if generator.random() < 0.5:
        image.set_qform(None, 0)
    nibabel.save(image, folder / "labels.nii.gz")
    return folder / "labels.nii.gz", labels, affine


def middles(labels, affine):
    """The mean place of each label's voxels in the patient's space."""
    index = [np.argwhere(labels == label).mean(axis=0) for label in range(1, 7)]
    return nibabel.affines.apply_affine(affine, index)


def assert_near(found, expected, moved):
    """Middles agree; where cubes were resampled, to half a voxel, and on average much closer."""
    if not moved:
        np.testing.assert_allclose(found, expected, atol=1e-3)
        return
    assert np.linalg.norm(found - expected, axis=1).max() < np.linalg.norm([0.45, 0.55, 0.4]) + 1e-3
    assert np.abs((found - expected).mean(axis=0)).max() < 0.3


@pytest.mark.no_backend
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("moved", [False, True], ids=["turned", "resampled"])
def test_world_coordinates_survive_reading_preparing_restoring_and_writing(tmp_path, seed, moved):
    path, labels, affine = random_scan(tmp_path, seed)
    there = middles(labels, affine)
    settings = {"spacing": (0.9, 1.1, 0.8), "shape": (56, 56, 56)} if moved else {}
    preparation = VolumePreparation(intensity=None, **settings)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    mask, grid = preparation.mask(volume), preparation.grid(volume)
    assert_near(middles(mask, grid.affine), there, moved)
    image = preparation.image(volume)[..., 0]
    assert ((image > 0) | (mask == 0)).mean() > 0.99
    # The patient's right, front and top are at the far ends of the axes.
    index = np.array([np.argwhere(mask == label).mean(axis=0) for label in range(1, 7)])
    direction = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    assert (np.diag(direction) > 0).all()
    projected = there @ direction
    for axis in range(3):
        pairs = [(a, b) for a in range(6) for b in range(6) if projected[a, axis] > projected[b, axis] + 2]
        assert pairs
        assert all(index[a, axis] > index[b, axis] for a, b in pairs)
    restored = preparation.restore(mask, volume)
    write_volume(tmp_path / "restored.nii.gz", restored.voxels, restored.affine, like=path)
    written = nibabel.load(tmp_path / "restored.nii.gz")
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
    again = np.asarray(written.dataobj)
    assert_near(middles(again, written.affine), there, moved)
    assert (again == labels).mean() > (0.97 if moved else 1 - 1e-9)


@pytest.mark.no_backend
def test_a_marked_left_voxel_stays_left(tmp_path):
    # Stored the way radiologists look: the first axis runs to the patient's left.
    scan = np.zeros((9, 8, 7), np.int16)
    scan[7, 2, 5] = 1
    nibabel.save(nibabel.Nifti1Image(scan, np.diag([-1.0, 1, 1, 1])), tmp_path / "scan.nii")
    image = VolumePreparation(intensity=None).image(read_volume(tmp_path / "scan.nii"))
    assert np.argwhere(image[..., 0] == 1).tolist() == [[1, 2, 5]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [None, (0.9, 0.9, 0.9)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_patches_and_augmentation_keep_an_image_and_its_mask_together(tmp_path, seed, spacing, suffix):
    _, labels, affine = random_scan(tmp_path, seed)
    for name, values in (("scan", (labels > 0) * np.float32(40)), ("mask", labels)):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}{suffix}")
    table = VolumeTable([tmp_path / f"scan{suffix}"], [tmp_path / f"mask{suffix}"])
    preparation = VolumePreparation(spacing=spacing, intensity=None)
    images, masks = open_volumes(table, preparation, tmp_path / "cache", verbose=0)
    batches = PatchBatches(
        images,
        (12, 12, 12),
        masks,
        batch_size=8,
        patches_per_image=8,
        foreground=0.5,
        augment=Augmentation(geometry=Geometry(flip_axes=(2,))),
        seed=seed,
    )
    patches, patch_masks = batches[0]
    assert patch_masks.any()
    if spacing is None:
        np.testing.assert_array_equal(patches[..., 0], (patch_masks > 0) * 40.0)
    else:
        # Linear beside nearest: they differ at the edges of a cube alone.
        assert ((patches[..., 0] > 20) == (patch_masks > 0)).mean() > 0.98

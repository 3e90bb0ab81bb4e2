"""Small volumes on disk, in every orientation, for tests."""

import itertools

import nibabel
import numpy as np
import pytest

# All 48 ways in which axes can be swapped and flipped.
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), spacing=(1.0, 1.0, 1.0), origin=(5.0, -7.0, 11.0)):
    """An affine whose axis `i` runs along the patient's axis `order[i]`, forwards or backwards."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (target, sign, step) in enumerate(zip(order, signs, spacing, strict=True)):
        affine[target, axis] = sign * step
    affine[:3, 3] = origin
    return affine


def turn(affine, degrees):
    """Rotate an affine by an angle about the last axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine


def save_nifti(path, voxels, affine=None):
    nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def labels_like(shape, seed=0, classes=3):
    """Random blobs of labels, some of them thin."""
    coarse = np.random.default_rng(seed).integers(0, classes, [-(-side // 2) for side in shape])
    for axis in range(3):
        coarse = np.repeat(coarse, 2, axis)
    return coarse[tuple(map(slice, shape))].astype(np.uint8)


def dicom_slice(index, shape, bits=16, signed=False):
    """A CT slice without pixels, one millimeter above the one before."""
    pydicom = pytest.importorskip("pydicom")
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"1.2.{index}"
    one.ImagePositionPatient = [0.0, 0.0, float(index)]
    one.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    one.PixelSpacing = [1.0, 1.0]
    one.Rows, one.Columns = shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = bits
    one.HighBit, one.PixelRepresentation = bits - 1, int(signed)
    return one

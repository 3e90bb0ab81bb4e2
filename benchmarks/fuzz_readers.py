"""Damaged files of every supported format: each must be read or rejected, quickly and with little memory.

Of small valid files bits are flipped, parts are cut, doubled, moved and put in. A reader may return what it
read or raise `ValueError` or `OSError`. All else is printed with a seed that brings it back, and so is what
takes more than 2 s or 200 MB; the exit status is then 1.

KERAS_BACKEND=torch python benchmarks/fuzz_readers.py --inputs 2000 --seed 0
KERAS_BACKEND=torch python benchmarks/fuzz_readers.py --inputs 1 --seed 1234  # the input that seed 1234 made
"""

import argparse
import contextlib
import faulthandler
import gzip
import io
import logging
import resource
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image

from keras_ssl.data import ImageTable, load_medmnist, read_image, read_volume
from keras_ssl.data.volume_io import read_grid

SECONDS = 2.0
BYTES = 200_000_000
HANGING = 20
GENERATOR = np.random.default_rng(0)
COLOR = GENERATOR.integers(0, 256, (12, 17, 3), dtype=np.uint8)
VOXELS = GENERATOR.integers(0, 1000, (5, 6, 7)).astype(np.int16)
# Numbers that headers are most likely to stumble over, little and big endian.
NUMBERS = [
    number.to_bytes(size, order, signed=number < 0)
    for size in (1, 2, 4, 8)
    for number in (0, 1, -1, (1 << (8 * size - 1)) - 1, -(1 << (8 * size - 1)), 65535 % (1 << (8 * size - 1)))
    for order in ("little", "big")
] + [np.array(number, kind).tobytes() for number in (np.nan, np.inf, 1e30, -1.0) for kind in ("<f4", "<f8")]


class HangingError(BaseException):
    """A reader took far too long; no reader may take it for an error of the file."""


def saved(save):
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def pictures():
    image = Image.fromarray(COLOR)
    exif = Image.Exif()
    exif[274] = 6
    deep = COLOR.astype(np.uint16) * 257
    return {
        "png": [
            saved(lambda file: image.save(file, "PNG", exif=exif)),
            saved(lambda file: image.quantize(16).save(file, "PNG")),
            saved(lambda file: Image.fromarray(deep[..., 0]).save(file, "PNG")),
        ],
        "jpg": [
            saved(lambda file: image.save(file, "JPEG", exif=exif)),
            saved(lambda file: image.convert("CMYK").save(file, "JPEG", progressive=True)),
        ],
        "tif": [
            saved(lambda file: image.save(file, "TIFF")),
            saved(lambda file: image.save(file, "TIFF", compression="tiff_lzw")),
            saved(lambda file: image.convert("1").save(file, "TIFF", compression="group4")),
            saved(lambda file: tifffile.imwrite(file, deep, photometric="rgb")),
            saved(
                lambda file: tifffile.imwrite(
                    file, deep, photometric="rgb", compression="zlib", tile=(16, 16)
                )
            ),
            saved(lambda file: tifffile.imwrite(file, deep, photometric="rgb", bigtiff=True)),
            saved(lambda file: tifffile.imwrite(file, deep[..., 0], photometric="miniswhite", byteorder=">")),
            saved(lambda file: tifffile.imwrite(file, deep, photometric="rgb", planarconfig="contig")),
        ],
        **{
            suffix: [saved(lambda file, kind=kind: image.save(file, kind))]
            for suffix, kind in (("bmp", "BMP"), ("gif", "GIF"), ("webp", "WEBP"), ("ppm", "PPM"))
        },
    }


def volumes():
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    first, second = nibabel.Nifti1Image(VOXELS, affine), nibabel.Nifti2Image(VOXELS, affine)
    first.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a comment"))
    first.header.set_slope_inter(0.5, 1.0)
    swapped = nibabel.Nifti1Image(VOXELS, affine, nibabel.Nifti1Header(endianness=">"))
    plain = [image.to_bytes() for image in (first, second, swapped)]
    return {
        "nii": plain,
        "nii.gz": [gzip.compress(content, level) for content in plain for level in (0, 6)],
        "npy": [
            saved(lambda file: np.save(file, VOXELS)),
            saved(lambda file: np.save(file, np.asfortranarray(VOXELS))),
        ],
    }


def archives():
    arrays = {"train_images": COLOR.reshape(12, 17, 3), "train_labels": np.arange(12)[:, None]}
    return {
        "npz": [
            saved(lambda file: np.savez(file, **arrays)),
            saved(lambda file: np.savez_compressed(file, **arrays)),
        ]
    }


def tables():
    return {
        "csv": [
            b"id_code,diagnosis\na,0\nb.png,4\n",
            b'\xef\xbb\xbfimage;level\n10_left;0\n"10_right";4.0\n\n',
            b"Image name\tRetinopathy grade\tmore\na\t1\nsub/c\t2\t\n",
        ]
    }


def plane(index, syntax=pydicom.uid.ExplicitVRLittleEndian):
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    packed = syntax == pydicom.uid.RLELossless
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian if packed else syntax
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"1.2.{index}"
    one.PatientName = "Doe^Jane"
    one.SeriesInstanceUID = "1.2.3"
    one.ImagePositionPatient = [0.0, 0.0, float(index)]
    one.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    one.PixelSpacing = [1.0, 1.0]
    one.RescaleSlope, one.RescaleIntercept = "1", "-1024"
    one.Rows, one.Columns, one.SamplesPerPixel = 6, 7, 1
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation, one.PhotometricInterpretation = 15, 0, "MONOCHROME2"
    one.add_new("PixelData", "OW", VOXELS[0].tobytes())
    if packed:
        one.compress(syntax)
    return saved(lambda file: one.save_as(file, enforce_file_format=True))


def slices():
    uid = pydicom.uid
    kinds = (
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
    )
    return {"dcm": [plane(1, kind) for kind in kinds]}


def mutate(content, others, generator):
    """A damaged copy: one to four times a random change."""
    damaged = bytearray(content)
    for _ in range(generator.integers(1, 5)):
        size = len(damaged)
        # Headers lie at the front and hold most of what matters.
        at = int(generator.integers(min(size, 400) if generator.random() < 0.5 else size)) if size else 0
        length = int(generator.integers(1, 64))
        kind = generator.integers(8)
        if kind == 0 and size:
            damaged[at] ^= 1 << int(generator.integers(8))
        elif kind == 1 and size:
            damaged[at] = int(generator.integers(256))
        elif kind == 2:
            del damaged[at:]
        elif kind == 3:
            del damaged[at : at + length]
        elif kind == 4:
            damaged[at:at] = generator.bytes(length)
        elif kind == 5:
            other = others[generator.integers(len(others))]
            start = int(generator.integers(len(other)))
            damaged[at : at + length] = other[start : start + length]
        elif kind == 6:
            damaged[at:at] = damaged[at : at + length] * int(generator.integers(1, 20))
        else:
            number = NUMBERS[generator.integers(len(NUMBERS))]
            damaged[at : at + len(number)] = number
    return bytes(damaged)


def readers(folder):
    """Of each reader the valid files by suffix, and a function that reads one file."""
    images, series = folder / "images", folder / "series"
    (images / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "10_left.png", "10_right.png", "sub/c.png"):
        (images / name).touch()
    series.mkdir()
    for index in (0, 2):
        (series / f"{index}.dcm").write_bytes(plane(index))

    def read_series(path):
        path.replace(series / "1.dcm")
        with contextlib.suppress(ValueError, OSError):
            read_grid(series)
        return read_volume(series)

    def read_both(path):
        with contextlib.suppress(ValueError, OSError):
            read_grid(path)
        return read_volume(path)

    def read_packed(path):
        packed = folder / "packed.nii.gz"
        packed.write_bytes(gzip.compress(path.read_bytes(), 1))
        return read_both(packed)

    def read_member(path):
        with zipfile.ZipFile(folder / "packed.npz", "w", zipfile.ZIP_DEFLATED) as file:
            file.write(path, "train_images.npy")
            file.writestr("train_labels.npy", saved(lambda stream: np.save(stream, np.arange(12))))
        return load_medmnist(folder / "packed.npz")

    found = {}
    for kinds, read in (
        (pictures(), read_image),
        (volumes(), read_both),
        # Check sums tell most damage from outside at once, hence also from within.
        ({"nii in .nii.gz": volumes()["nii"]}, read_packed),
        (archives(), load_medmnist),
        ({"npy in .npz": [saved(lambda file: np.save(file, COLOR))]}, read_member),
        (tables(), lambda path: ImageTable.from_csv(path, images)),
        (slices(), read_series),
        ({"dcm as an image": slices()["dcm"]}, read_image),
    ):
        found |= {suffix: (seeds, read) for suffix, seeds in kinds.items()}
    return found


def peak():
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def hang(*_):
    raise HangingError(f"no end after {HANGING} s")


def fuzz(suffix, seeds, read, inputs, seed, folder):
    """One line of the table, and descriptions of what was neither read nor refused."""
    path, accepted, worst, broken = folder / f"input.{suffix.split()[0]}", 0, 0.0, []
    for content in seeds:
        path.write_bytes(content)
        read(path)
    for number in range(seed, seed + inputs):
        generator = np.random.default_rng(number)
        path.write_bytes(mutate(seeds[generator.integers(len(seeds))], seeds, generator))
        before, start, problem = peak(), time.perf_counter(), None
        signal.alarm(HANGING)
        try:
            read(path)
            accepted += 1
        except (ValueError, OSError):
            pass
        except (Exception, HangingError) as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        took, grown = time.perf_counter() - start, peak() - before
        worst = max(worst, took)
        if took > SECONDS:
            problem = problem or f"{took:.1f} s"
        if grown > BYTES:
            problem = problem or f"{grown / 1e6:.0f} MB"
        if problem:
            broken.append(f"{suffix}: --inputs 1 --seed {number}: {problem[:200]}")
    refused = inputs - accepted - len(broken)
    return f"| .{suffix} | {inputs} | {accepted} | {refused} | {1000 * worst:.0f} |", broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="damaged files of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first of them; the others count up")
    arguments = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable()
    np.seterr(all="ignore")
    signal.signal(signal.SIGALRM, hang)
    lines, broken = [], []
    with tempfile.TemporaryDirectory() as name:
        for suffix, (seeds, read) in readers(Path(name)).items():
            line, problems = fuzz(suffix, seeds, read, arguments.inputs, arguments.seed, Path(name))
            lines.append(line)
            broken += problems
    print(
        "| reader | inputs | accepted | refused | worst ms |",
        "| --- | --- | --- | --- | --- |",
        *lines,
        sep="\n",
    )
    print(*broken, sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

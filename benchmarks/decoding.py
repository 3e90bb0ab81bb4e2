"""Reading images through `load_images`, against scikit-image, and again from its cache.

    KERAS_BACKEND=torch python benchmarks/decoding.py
    KERAS_BACKEND=torch python benchmarks/decoding.py --images photographs

Without `--images`, a folder of JPEG, PNG or TIFF files, drawn photographs of 1500 pixels are written as JPEG.
Both ways decode each file and resize it, antialiased, to `--size` pixels; scikit-image by `imread` and
`resize`, one file after the other, ours with one thread too and with as many as there are processors. From
the cache, every pixel of the memory-mapped images is read. Files are in the page cache. Medians of rounds
in turns.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from side_by_side import CLOCKS, in_turns, medians, row
from skimage import io, transform

from keras_ssl.data import ImageTable, Preparation, load_images, synthetic_fundus

SKIMAGE = "scikit-image, imread and resize"
DECODED = "load_images, one thread"
THREADS = "load_images, all processors"
CACHED = "load_images, from its cache"


def write_photographs(folder, count, side=1500):
    """Generate small images and write them enlarged: only the number of bytes and pixels matters."""
    for index, image in enumerate(synthetic_fundus(count, size=256)[0]):
        large = transform.resize(image, (side, side), preserve_range=True).astype("uint8")
        keras.utils.save_img(folder / f"{index:03}.jpg", large, scale=False)


def measure(folder, size, rounds, clock):
    """Time each way of reading all images of a folder."""
    table = ImageTable.from_folder(folder)
    preparation = Preparation(size=size, crop=None)
    with tempfile.TemporaryDirectory() as cache:

        def load(**settings):
            images, _ = load_images(table, preparation, verbose=0, **settings)
            return int(np.asarray(images).sum())

        arms = {
            SKIMAGE: lambda: [
                transform.resize(io.imread(path), (size, size), anti_aliasing=True) for path in table.paths
            ],
            DECODED: lambda: load(workers=1),
            THREADS: lambda: load(),
            CACHED: lambda: load(cache_dir=cache),
        }
        return in_turns(arms, rounds, clock)


def measure_drawn(count, size, rounds, clock):
    """The same for synthetic images."""
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), count)
        return measure(folder, size, rounds, clock)


def rows(quick, clock):
    """Rows for `speed.py`."""
    count, size = (3, 224) if quick else (16, 224)
    seconds = measure_drawn(count, size, 2 if quick else 5, clock)
    what = f"{count} JPEG of 1500 x 1500 to {size}"
    yield row(f"{what}, {DECODED}", seconds, DECODED, SKIMAGE, 1.0)
    yield row(f"{what}, {CACHED}", seconds, CACHED, THREADS, 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", help="folder of images")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size, rounds, clock = arguments.size, arguments.rounds, CLOCKS["wall"]
    if arguments.images:
        seconds = measure(arguments.images, size, rounds, clock)
    else:
        seconds = measure_drawn(16, size, rounds, clock)
    for name, median in medians(seconds).items():
        print(f"  {name:<34}{1e3 * median:8.1f} ms")


if __name__ == "__main__":
    main()

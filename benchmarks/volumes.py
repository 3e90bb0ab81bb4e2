"""Memory and speed of reading random patches from volumes on disk, as the data set grows tenfold.

    KERAS_BACKEND=torch python benchmarks/volumes.py
    KERAS_BACKEND=torch python benchmarks/volumes.py --side 192 --volumes 4

Writes drawn int16 volumes with masks as `.nii`, `.nii.gz` and `.npy`, and runs epochs of `PatchBatches`
over them, half of the patches on foreground, each in a process of its own. "opened" and "epoch" are the most
memory that the process had resident in opening and in an epoch, above what it had before, in MB. `.nii` and
`.npy` are read in part from the files themselves; `.nii.gz` from a cache of float32 that opening wrote.
"opened again" is what opening takes once the cache is there. Seconds are those of the processor, all threads
together, so that what else the machine does counts little: with two free cores it takes about half of them.
Files are in the page cache; from a disk it may be slower.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_ssl.data import PatchBatches, VolumePreparation, VolumeTable, open_volumes, write_volume

SUFFIXES = (".nii", ".nii.gz", ".npy")
PATCHES_PER_VOLUME = 8


def write_set(folder, suffix, count, side):
    """Noise with a ball of two labels in it; noise, since what compresses well is quick to read."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij"))
    ball = (np.linalg.norm(grid, axis=0) < 0.4).astype(np.uint8) * (1 + (grid[0] > 0)).astype(np.uint8)
    for index in range(count):
        scan = rng.normal(300, 40, ball.shape).astype(np.int16) + 200 * (ball > 0).astype(np.int16)
        for kind, voxels in (("images", scan), ("masks", ball)):
            path = folder / kind / f"{index:04}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, voxels) if suffix == ".npy" else write_volume(
                path, voxels, np.diag([-1, -1, 1, 1.0])
            )


class MostMemory:
    """The most memory that this process has resident while it is entered, in bytes."""

    def __enter__(self):
        self.most, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        """Look every 5 ms."""
        while not self.done.is_set():
            self.most = max(self.most, resident())
            time.sleep(0.005)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.most = max(self.most, resident())


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(folder, patch, batch_size, epochs):
    """Open a folder's volumes and read epochs of patches."""
    table = VolumeTable.from_folder(folder / "images", folder / "masks")
    start = resident()
    opening = time.process_time()
    with MostMemory() as opened:
        images, masks = open_volumes(table, VolumePreparation(), folder / "cache", num_classes=3, verbose=0)
    opening = time.process_time() - opening
    again = time.process_time()
    open_volumes(table, VolumePreparation(), folder / "cache", num_classes=3, verbose=0)
    again = time.process_time() - again
    batches = PatchBatches(
        images,
        (patch,) * 3,
        masks,
        batch_size=batch_size,
        patches_per_image=PATCHES_PER_VOLUME,
        foreground=0.5,
    )
    seconds = []
    with MostMemory() as epoch:
        for number in range(epochs):
            batches.epoch = number
            since = time.process_time()
            for index in range(len(batches)):
                batches[index]
            seconds.append(time.process_time() - since)
    return {
        "opened": (opened.most - start) / 1e6,
        "epoch": (epoch.most - start) / 1e6,
        "opening": opening,
        "again": again,
        "patches": len(table) * PATCHES_PER_VOLUME / min(seconds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=4, help="volumes of the smaller set")
    parser.add_argument("--side", type=int, default=128, help="voxels along each axis of a volume")
    parser.add_argument("--patch", type=int, default=64, help="voxels along each axis of a patch")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.patch, arguments.batch_size, arguments.epochs)))
        return
    print(
        f"Volumes of {arguments.side}^3 int16 with masks, patches of {arguments.patch}^3, batches of "
        f"{arguments.batch_size}, {PATCHES_PER_VOLUME} patches a volume and epoch.\n"
    )
    print("| files | volumes | opened, MB | epoch, MB | opening, s | opened again, s | patches per second |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for suffix in SUFFIXES:
        for count in (arguments.volumes, 10 * arguments.volumes):
            with tempfile.TemporaryDirectory() as name:
                write_set(Path(name), suffix, count, arguments.side)
                command = [sys.executable, __file__, "--measure", name, *sys.argv[1:]]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {suffix} | {count} | {row['opened']:.0f} | {row['epoch']:.0f} | {row['opening']:.1f} | "
                f"{row['again']:.1f} | {row['patches']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

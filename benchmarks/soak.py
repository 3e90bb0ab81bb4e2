"""Kills at random moments: the results must equal those of an uninterrupted run.

    python benchmarks/soak.py --kills 50 --seed 0

Four jobs run in processes of their own: pretraining and fine-tuning with `backup_dir`, the decoding of
photographs and volumes into `cache_dir`, and a study of `label_efficiency`. Each is first run in peace. Then
it is killed with SIGKILL and run again by the same command, up to four times in one folder, and at last left
to end. Every other kill falls after a random share of the time that the job took in peace, imports not
counted, the others as soon as a write is seen. After each kill all files must be whole but for those that are
called partial; at the end, weights, arrays and records must be bitwise those of the run in peace. Printed is
where kills fell: before anything was saved, between two writes, or in one, which left something partial; and
in how many folders such things were still left at the end. The exit status is 1 if anything differed.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

IN_A_ROW = 4
# Values that differ between runs.
TIMES = ("seconds",)
BEGUN = "begun\n"
PLACES = ("nothing saved", "between", "in a write")


def digest(arrays):
    """Digest that two runs share if and only if their arrays are bitwise equal."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


# Jobs, each in a process of its own ---------------------------------------------------------------------


def drawn(count, size):
    import keras_ssl

    images, grades = keras_ssl.data.synthetic_fundus(count, size)
    return images, grades


def new_encoder():
    import keras

    import keras_ssl

    keras.utils.set_random_seed(0)
    return keras_ssl.encoders.small_encoder((16, 16, 3), filters=(8, 16), value_range=(0, 255))


def pretraining(folder):
    import keras_ssl

    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), new_encoder(), seed=0)
    model.fit_pretext(drawn(64, 16)[0], epochs=30, batch_size=16, backup_dir=folder / "backup", verbose=0)
    return digest(model.get_weights())


def fine_tuning(folder):
    import keras_ssl

    tuner = keras_ssl.FineTuner(
        new_encoder(), keras_ssl.OrdinalHead(5, hidden_units=(16,), dropout=0.3), warmup_epochs=12, seed=0
    )
    images, grades = drawn(64, 16)
    backup = folder / "backup"
    tuner.fit(
        images,
        grades,
        validation_data=(images[:16], grades[:16]),
        batch_size=16,
        epochs=30,
        backup_dir=backup,
        verbose=0,
    )
    return digest(tuner.model.get_weights())


def decoding(folder):
    from keras_ssl.data import (
        ImageTable,
        Preparation,
        VolumePreparation,
        VolumeTable,
        load_images,
        load_volumes,
    )

    files = folder.parent / "files"
    table = ImageTable.from_folder(files / "photographs")
    images, _ = load_images(table, Preparation(size=64), folder / "cache", verbose=0)
    table = VolumeTable.from_folder(files / "scans", files / "masks")
    preparation = VolumePreparation(spacing=(1.5, 1.5, 1.5), shape=(40, 40, 40))
    volumes, masks = load_volumes(table, preparation, folder / "cache", max_foreground_loss=1.0, verbose=0)
    return digest([images, volumes, masks])


def study(folder):
    import keras_ssl
    from keras_ssl.evaluation import PretextRecipe, Protocol, label_efficiency, read_records

    images, grades = drawn(60, 16)
    recipe = PretextRecipe(task=keras_ssl.RotationTask(), epochs=8, batch_size=16, verbose=0)
    protocol = Protocol(fractions=(0.3, 0.6, 1.0), folds=1, steps=12, validations=4, batch_size=8)
    found = label_efficiency(
        images,
        grades,
        encoder=new_encoder(),
        pretrained={"rotation": recipe},
        head=keras_ssl.OrdinalHead(5),
        output_dir=folder,
        protocol=protocol,
        verbose=False,
    )
    kinds = [list(found), read_records(folder / "records.jsonl"), read_records(folder / "records.csv")]
    if len({len(records) for records in kinds}) > 1:
        return f"records: {[len(records) for records in kinds]}"
    kept = [[{k: v for k, v in one.items() if k not in TIMES} for one in records] for records in kinds]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


JOBS = {job.__name__: job for job in (pretraining, fine_tuning, decoding, study)}


def write_files(folder):
    """Photographs and scans for `decoding`."""
    from PIL import Image

    from keras_ssl.data import synthetic_fundus, synthetic_volumes, write_volume

    for name in ("photographs", "scans", "masks"):
        (folder / name).mkdir(parents=True)
    for number, image in enumerate(synthetic_fundus(8, size=512)[0]):
        for copy in range(8):
            Image.fromarray(np.roll(image, copy, axis=0)).save(folder / "photographs" / f"{number}{copy}.png")
    scans, masks = synthetic_volumes(8, shape=(64, 64, 64))
    for number, (scan, mask) in enumerate(zip(scans, masks, strict=True)):
        write_volume(folder / "scans" / f"{number}.nii.gz", scan[..., 0], np.eye(4))
        write_volume(folder / "masks" / f"{number}.nii.gz", mask, np.eye(4))


# Files after a kill ---------------------------------------------------------------------------------------


def is_partial(path):
    return ".partial" in str(path)


def writing(folder, since=0.0):
    """Return True if a partial file was modified since then: left by a kill, or being written."""
    try:
        return any(is_partial(path) and path.stat().st_mtime >= since for path in folder.rglob("*"))
    except FileNotFoundError:
        # It was renamed while it was looked at.
        return False


def damaged(folder):
    """The files that are half-written although they are not called so."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not is_partial(path.relative_to(folder)):
            try:
                check_whole(path)
            except (ValueError, OSError, zipfile.BadZipFile) as error:
                found.append(f"{path.relative_to(folder)}: {error}")
    return found


def check_whole(path):
    if path.suffix in (".npz", ".keras"):
        with zipfile.ZipFile(path) as file:
            if (name := file.testzip()) is not None:
                raise ValueError(f"{name} is damaged")
    elif path.suffix == ".npy":
        np.load(path, mmap_mode="r")
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        # Its last line may be cut off; no other.
        for line in path.read_text().split("\n")[:-1]:
            json.loads(line)
    elif path.suffix == ".csv":
        with open(path, newline="") as file:
            if any(None in row or None in row.values() for row in csv.DictReader(file)):
                raise ValueError("a row is cut off")


def place_of(folder, since):
    if writing(folder, since):
        return "in a write"
    names = ("epoch-*", "finished-*", "unreadable.json", "records.jsonl")
    return "between" if any(any(folder.rglob(name)) for name in names) else "nothing saved"


# Kills ----------------------------------------------------------------------------------------------------


class Job:
    """A process that does a job, from the moment on when it has imported all that it needs."""

    def __init__(self, name, folder):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, __file__, "--job", name, "--folder", str(folder)]
        self.folder = folder
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while self.process.stdout.readline() not in (BEGUN, ""):
            pass
        self.begun = time.time()

    def end(self):
        """Return the final results of the job."""
        said, _ = self.process.communicate()
        code = self.process.returncode
        return said.splitlines()[-1] if code == 0 else f"exit {code}: {said[-2000:]}"

    def kill_after(self, seconds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.process.kill()

    def kill_in_a_write(self, seconds):
        """Kill as soon as a write is seen to begin after so many seconds."""
        before = True
        while self.process.poll() is None:
            now = writing(self.folder, self.begun)
            if now and not before and time.time() - self.begun > seconds:
                self.process.kill()
            before = now


def soak(name, kills, folder, generator):
    """One line of the table, and what differed."""
    whole = Job(name, folder / "whole")
    expected, seconds = whole.end(), time.time() - whole.begun
    places, rows, restarts, left, differing = dict.fromkeys(PLACES, 0), 0, 0, 0, []
    while sum(places.values()) < kills and not whole.process.returncode:
        rows += 1
        parts = folder / f"killed-{rows}"
        for _ in range(min(IN_A_ROW, kills - sum(places.values()))):
            job = Job(name, parts)
            kill = job.kill_in_a_write if sum(places.values()) % 2 else job.kill_after
            kill(generator.uniform(0, 0.8) * seconds)
            job.end()
            restarts += 1
            if job.process.returncode == 0:
                break  # It ended before it could be killed.
            places[place_of(parts, job.begun)] += 1
            differing += [f"{name}, kill {restarts}: {problem}" for problem in damaged(parts)]
        if (found := Job(name, parts).end()) != expected:
            differing.append(f"{name}, {parts.name}: {found} in place of {expected}")
        left += writing(parts)
        print(f"{name}: {places}", file=sys.stderr)
    if whole.process.returncode or expected.startswith("records"):
        differing.append(f"{name} in peace: {expected}")
    cells = (
        name,
        f"{seconds:.0f}",
        *places.values(),
        restarts,
        f"{left} of {rows}",
        "no" if differing else "yes",
    )
    return f"| {' | '.join(map(str, cells))} |", differing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="total, divided among the jobs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        import keras_ssl.evaluation  # noqa: F401  # before the clock starts

        print(BEGUN, end="", flush=True)
        print(JOBS[arguments.job](arguments.folder))
        return 0
    lines, differing = [], []
    with tempfile.TemporaryDirectory() as name:
        for number, job in enumerate(arguments.jobs):
            generator = np.random.default_rng((arguments.seed, number))
            folder = Path(name) / job
            folder.mkdir()
            if job == "decoding":
                write_files(folder / "files")
            kills = len(range(number, arguments.kills, len(arguments.jobs)))
            line, problems = soak(job, kills, folder, generator)
            lines.append(line)
            differing += problems
    print(f"| stage | seconds in peace | {' | '.join(PLACES)} | restarts | left uncleared | equal? |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |", *lines, sep="\n")
    print(*differing, sep="\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

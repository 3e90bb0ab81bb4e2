"""Memory of pretraining on data that stay on disk, and how long its steps wait for them.

    KERAS_BACKEND=torch python benchmarks/streaming.py memory
    KERAS_BACKEND=torch python benchmarks/streaming.py waiting --images photographs
    KERAS_BACKEND=torch python benchmarks/streaming.py waiting --encoder densenet121 --step-seconds 0

"memory" draws `--count` photographs of 128 pixels, then ten and a hundred times as many, and a tenth as
many volumes of 32^3, and trains a small encoder on them, each set in a process of its own, for as many
steps whatever the size of the set, or with `--steps 0` for one whole epoch. MB are the most that this
process had above what it had before it looked for the files, with the libraries imported and eight steps
done on an array: "anonymous" is memory of its own (RssAnon), "resident" holds the pages of mapped files too
(VmRSS), which the kernel takes back when it needs them.

"waiting" is the share of an epoch that is spent waiting for a batch, from the end of one step to the
beginning of the next, on the PyTorch backend, where Keras reads batches between these two. The batches are
those of `fit_pretext`, 32 images of 224 pixels. Steps are next to nothing and sleep, as the processor would
wait for a GPU: no GPU is measured. With `--encoder` and `--step-seconds 0` they are those of `fit_pretext` on
the processor, and share it with the reading.
Without `--images`, the folder of images, they are drawn, of `--megapixels`. "In turn" does not read
ahead.
"""

import argparse
import functools
import io
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

import keras
import numpy as np
from PIL import Image

import keras_ssl
from keras_ssl import data
from keras_ssl.data.batches import ArrayBatches
from keras_ssl.data.fit_inputs import image_batches

# Synthetic images; larger sets repeat them in separate files.
DRAWN = 64
KINDS = ("cache", "files", "patches", "volumes", "tfrecord", "array_record", "grain")
BATCH = 32
SIZE = 64
SHARD = 500


@functools.lru_cache(DRAWN)
def jpeg(index, width=128, height=128):
    """The bytes of a picture of colored blobs with noise, as a camera's."""
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(40, 216, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = rng.integers(-8, 9, (height, width, 1), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_set(folder, kind, count):
    """Files of `count` images as this kind of data has them."""
    if kind in ("patches", "volumes"):
        rng = np.random.default_rng(0)
        for index in range(count):
            data.write_volume(
                folder / f"{index:06}.nii", rng.normal(300, 40, (32, 32, 32)).astype(np.int16), np.eye(4)
            )
    elif kind in ("cache", "files"):
        for index in range(count):
            (folder / f"{index:06}.jpg").write_bytes(jpeg(index % DRAWN))
    else:
        for start in range(0, count, SHARD):
            rows = range(start, min(start + SHARD, count))
            (write_tfrecord if kind == "tfrecord" else write_array_record)(folder / f"{start:06}", rows)


def write_tfrecord(path, rows):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(jpeg(row % DRAWN))


def write_array_record(path, rows):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(jpeg(row % DRAWN))
    writer.close()


def decode(record):
    """A record to an image, as the documentation does it."""
    return np.asarray(Image.open(io.BytesIO(record)).resize((SIZE, SIZE)))


def streamed(folder, kind, count, steps):
    """Return the data of `fit_pretext` for an epoch of a given number of steps, and that number if needed."""
    preparation = data.Preparation(size=SIZE, crop=None)
    if kind == "cache":
        table = data.ImageTable.from_folder(folder)
        return data.load_images(table, preparation, folder / "cache", verbose=0)[0], steps
    if kind == "files":
        return data.open_images(data.ImageTable.from_folder(folder), preparation), steps
    if kind == "volumes":
        table = data.VolumeTable.from_folder(folder)
        return data.open_images(table, data.VolumePreparation(shape=(32, 32, 32))), steps
    if kind == "patches":
        volumes, _ = data.open_volumes(
            data.VolumeTable.from_folder(folder), data.VolumePreparation(), verbose=0
        )
        return data.PatchBatches(
            volumes, (16, 16, 16), batch_size=BATCH, steps_per_epoch=steps, workers=2
        ), None
    paths = sorted(map(str, folder.iterdir()))
    if kind == "tfrecord":
        return tfrecords(paths), steps
    from grain.sources import ArrayRecordDataSource

    records = ArrayRecordDataSource(paths)
    if kind == "array_record":
        return data.LazyImages(lambda row: decode(records[row]), (count, SIZE, SIZE, 3)), steps
    import grain

    order = grain.MapDataset.source(records).seed(0).shuffle().repeat()
    reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * BATCH)
    return order.map(decode).to_iter_dataset(reading).batch(BATCH), steps


def tfrecords(paths):
    import tensorflow as tf

    def parse(record):
        return tf.cast(tf.image.resize(tf.io.decode_jpeg(record, channels=3), (SIZE, SIZE)), "uint8")

    shards = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=0)
    records = shards.interleave(tf.data.TFRecordDataset, cycle_length=4).shuffle(256, seed=0).repeat()
    return records.map(parse, num_parallel_calls=2).batch(BATCH).prefetch(2)


def memory():
    """Anonymous and resident memory of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return np.array([int(sizes[name].split()[0]) for name in ("RssAnon", "VmRSS")]) * 1024 / 1e6


class MostMemory:
    """The most memory that this process has while it is entered."""

    def __enter__(self):
        self.most, self.done = memory(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        """Look every 5 ms."""
        while not self.done.wait(0.005):
            self.most = np.maximum(self.most, memory())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def measure_memory(folder, kind, count, steps):
    """Steps of training, and the most memory above that before it."""
    shape = {"patches": (16, 16, 16, 1), "volumes": (32, 32, 32, 1)}.get(kind, (SIZE, SIZE, 3))
    encoder = keras_ssl.encoders.small_encoder(shape, filters=(4, 8))
    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(guards=None), encoder, seed=0)
    model.fit_pretext(np.zeros((8 * BATCH, *shape), "uint8"), verbose=0, epochs=1)
    if kind == "tfrecord":
        import tensorflow  # noqa: F401
    if kind in ("array_record", "grain"):
        import grain  # noqa: F401
    before, since = memory(), time.perf_counter()
    with MostMemory() as watched:
        images, steps = streamed(folder, kind, count, steps or -(-count // BATCH))
        model.fit_pretext(images, batch_size=BATCH, steps_per_epoch=steps, verbose=0, epochs=1)
    anonymous, resident = (watched.most - before).tolist()
    return {"anonymous": anonymous, "resident": resident, "seconds": time.perf_counter() - since}


def compare_memory(arguments):
    print("| data | images | anonymous, MB | resident, MB | seconds |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind in arguments.kinds:
        first = max(1, arguments.count // (10 if kind in ("patches", "volumes") else 1))
        for count in (first, 10 * first, 100 * first):
            with tempfile.TemporaryDirectory() as name:
                write_set(Path(name), kind, count)
                command = [sys.executable, __file__, "measure", name, kind, str(count), str(arguments.steps)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {kind} | {count} | {' | '.join(f'{number:.0f}' for number in row.values())} |",
                flush=True,
            )


class Waiting(keras.callbacks.Callback):
    """Makes steps last `seconds`, and adds up the time between them from the second step on."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def on_epoch_begin(self, epoch, logs=None):
        self.waited, self.ended = 0.0, None

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()
        if self.ended is None:
            self.since = self.began
        else:
            self.waited += self.began - self.ended

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(max(0.0, self.began + self.seconds - time.perf_counter()))
        self.ended = time.perf_counter()

    @property
    def share(self):
        """Share of the time from the first step's beginning to the last one's end."""
        return self.waited / (self.ended - self.since)

    @property
    def rate(self):
        """Steps per second."""
        return (self.params["steps"] - 1) / (self.ended - self.since)


class StandIn(keras.Model):
    """A model whose steps cost next to nothing, so that sleeping makes up their time."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, images):
        return self.dense(images[:, 0, 0])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(y_pred)


def build_model(encoder):
    """Return the pretext model with DenseNet121, or its substitute."""
    if encoder is None:
        model = StandIn()
    else:
        encoder = keras_ssl.encoders.densenet121((224, 224, 3))
        model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), encoder, seed=0)
    model.compile("adam")
    return model


def wait_for(images, seconds, steps, ahead, encoder):
    """Fraction of time that steps wait, and images per second."""
    waiting = Waiting(seconds)
    batches = image_batches(images, (224, 224, 3), batch_size=BATCH, seed=0, steps_per_epoch=steps)
    if not ahead:
        batches = ArrayBatches((images,), BATCH, steps_per_epoch=steps)
    build_model(encoder).fit(batches, callbacks=[waiting], shuffle=False, verbose=0)
    return waiting.share, waiting.rate * BATCH


def sources(arguments, folder):
    """Photographs in their files, and in the cache."""
    if arguments.images is None:
        height = round((arguments.megapixels * 1e6 / 1.5) ** 0.5)
        for index in range(arguments.count_images):
            (folder / f"{index:04}.jpg").write_bytes(jpeg(index, round(height * 1.5), height))
    table = data.ImageTable.from_folder(arguments.images or folder)
    preparation = data.Preparation(size=224)
    with Image.open(table.paths[0]) as first:
        width, height = first.size
    stored = sum(Path(path).stat().st_size for path in table.paths) / len(table) / 1e6
    print(f"{len(table)} images, the first of {width} x {height}, {stored:.2f} MB each on average.")
    opened = data.open_images(table, preparation)
    since, used = time.perf_counter(), time.process_time()
    count = len(opened[: 2 * BATCH])
    since, used = time.perf_counter() - since, time.process_time() - used
    print(
        f"Decoding alone: {count / since:.0f} images per second, {count / used:.0f} per second of a core.\n"
    )
    return {"files": opened, "cache": data.load_images(table, preparation, folder / "cache", verbose=0)[0]}


def compare_waiting(arguments):
    if keras.backend.backend() != "torch":
        raise SystemExit("KERAS_BACKEND must be torch, where batches are read between two steps.")
    print(f"{os.cpu_count()} cores, Keras {keras.__version__} on {keras.backend.backend()}.")
    with tempfile.TemporaryDirectory() as name:
        found = sources(arguments, Path(name))
        print("| data | step, s | waiting, % | images per second | in turn: waiting, % | images per second |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for source, images in found.items():
            for seconds in arguments.step_seconds:
                cells = []
                for ahead in (True, False):
                    share, rate = wait_for(images, seconds, arguments.steps, ahead, arguments.encoder)
                    cells += [f"{100 * share:.1f}", f"{rate:.0f}"]
                print(f"| {source} | {seconds or 'real'} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("memory")
    part.add_argument("--count", type=int, default=200, help="images of the smallest set")
    part.add_argument("--steps", type=int, default=50, help="steps of training; 0 for one whole epoch")
    part.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    part = parts.add_parser("waiting")
    part.add_argument("--images", type=Path, help="folder of images; synthetic ones without it")
    part.add_argument("--count-images", type=int, default=128, help="number of synthetic images")
    part.add_argument("--megapixels", type=float, default=3.0, help="size of synthetic images")
    part.add_argument("--step-seconds", type=float, nargs="+", default=[0.1, 0.2, 0.5])
    part.add_argument("--steps", type=int, default=30)
    part.add_argument("--encoder", choices=["densenet121"], help="whose steps are measured, with 0 seconds")
    part = parts.add_parser("measure")
    part.add_argument("folder", type=Path)
    part.add_argument("kind")
    part.add_argument("count", type=int)
    part.add_argument("steps", type=int)
    arguments = parser.parse_args()
    if arguments.part == "measure":
        print(json.dumps(measure_memory(arguments.folder, arguments.kind, arguments.count, arguments.steps)))
    else:
        (compare_memory if arguments.part == "memory" else compare_waiting)(arguments)


if __name__ == "__main__":
    main()

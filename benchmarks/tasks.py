"""Step time and peak memory of every pretext task beside a supervised step on as many images.

    KERAS_BACKEND=torch python benchmarks/tasks.py
    KERAS_BACKEND=torch python benchmarks/tasks.py --encoder densenet121 --size 64 --tasks InpaintingTask

The supervised step classifies with the same encoder what the task's encoder is shown: as many images of
the same size in a batch, forwards and backwards, and as many again, forwards only, as a teacher is shown.
Both are timed in turns in one process; the median of each is taken. Peak memory is what a process of its own
has resident at most above what it had before the first step, as Linux notes it. Prints a Markdown
table, a line as each task is done.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from side_by_side import in_turns, medians

import keras_ssl

BATCH = 32


@keras.saving.register_keras_serializable("benchmarks")
class Counted(keras.Model):
    """An encoder that notes, as its copies do, what shape of images it was shown."""

    shown: list = []  # noqa: RUF012

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = tuple(filters)

    def build(self, shape):
        self.network = keras_ssl.encoders.small_encoder(tuple(shape[1:]), filters=self.filters)
        self.built = True

    def call(self, images, training=False):
        if isinstance(images.shape[0], int):
            Counted.shown.append((id(self), tuple(images.shape)))
        return self.network(images, training=training)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def encoder_for(name, shape, encoder):
    if encoder == "densenet121":
        return keras.applications.DenseNet121(include_top=False, weights=None, input_shape=shape)
    if name == "MAETask":
        return keras_ssl.encoders.vit_encoder(shape, patch_size=8, embedding_dim=96, depth=4)
    filters = (16, 32, 64) if len(shape) == 3 else (8, 16, 32)
    return keras_ssl.encoders.small_encoder(shape, filters=filters)


def shown_to_encoder(task, shape):
    """Shapes of batches that are trained on, and of those that are only passed forwards."""
    if type(task).__name__ == "MAETask":
        return [(BATCH, *shape)], []
    encoder = Counted((4,))
    model = keras_ssl.SelfSupervisedModel(task, encoder, input_shape=shape, seed=0)
    Counted.shown = []
    model(np.zeros((BATCH, *shape), "float32"), training=True)
    # A teacher is a copy.
    trained = [found for number, found in Counted.shown if number == id(encoder)]
    return trained, [found for number, found in Counted.shown if number != id(encoder)]


def supervised_step(name, trained, forwards, which):
    """Train a classifier on batches of these shapes; pass the others forwards."""
    models = []
    for shape in trained:
        encoder = encoder_for(name, shape[1:], which)
        features = keras_ssl.layers.pool_features(encoder.output)
        model = keras.Model(encoder.input, keras.layers.Dense(5, dtype="float32")(features))
        model.compile(
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        models.append((model, np.random.default_rng(0).random(shape, "float32"), np.arange(shape[0]) % 5))
    others = [(models[0][0], np.random.default_rng(0).random(shape, "float32")) for shape in forwards]

    def step():
        for model, images, labels in models:
            model.train_on_batch(images, labels)
        for model, images in others:
            model.predict_on_batch(images)

    return step


def pretext_step(name, shape, which):
    task = getattr(keras_ssl, name)()
    encoder = encoder_for(name, task.encoder_input_shape(shape), which)
    model = keras_ssl.SelfSupervisedModel(task, encoder, input_shape=shape, seed=0)
    model.compile(keras.optimizers.Adam(1e-3))
    images = np.random.default_rng(0).random((BATCH, *shape), "float32")
    return lambda: model.train_on_batch(images)


def measure(name, shape, what, rounds, which):
    """Milliseconds of both steps, or megabytes of one of them."""
    task = getattr(keras_ssl, name)()
    shown = shown_to_encoder(task, shape)
    steps = {
        "pretext": lambda: pretext_step(name, shape, which),
        "supervised": lambda: supervised_step(name, *shown, which),
    }
    if what != "time":
        gc.collect()
        # The highest mark so far is forgotten.
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmHWM")
        step = steps[what]()
        for _ in range(3):
            step()
        return {what: resident("VmHWM") - before}
    taken = medians(in_turns({key: make() for key, make in steps.items()}, rounds, left_out=2))
    return {key: 1e3 * median for key, median in taken.items()} | {
        "shown": sum(found[0] for found in shown[0]) / BATCH,
        "forwards": sum(found[0] for found in shown[1]) / BATCH,
    }


def resident(name):
    """Megabytes that Linux notes of this process under a name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def in_a_process(name, what, arguments):
    options = [f"--{key}={getattr(arguments, key)}" for key in ("size", "rank", "rounds", "encoder")]
    command = [sys.executable, __file__, "--one", name, what, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--rank", type=int, default=2, choices=(2, 3))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--encoder", default="small", choices=("small", "densenet121"))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = (*(arguments.size,) * arguments.rank, 3 if arguments.rank == 2 else 1)
    if arguments.one:
        name, what = arguments.one
        print(json.dumps(measure(name, shape, what, arguments.rounds, arguments.encoder)))
        return
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores, {BATCH} x {shape}, "
        f"{arguments.encoder} encoder\n"
    )
    print("| task | shown | forwards only | step ms | supervised ms | ratio | MB | supervised MB | ratio |")
    print("| --- |" + " ---: |" * 8)
    names = [name for name in keras_ssl.__all__ if name.endswith("Task") and name != "PretextTask"]
    for name in arguments.tasks or names:
        found = {}
        for what in ("time", "pretext", "supervised"):
            found[what] = in_a_process(name, what, arguments)
        errors = [result["error"] for result in found.values() if "error" in result]
        if errors:
            print(f"| {name} | {errors[0][:120]} |", flush=True)
            continue
        times, memory = found["time"], (found["pretext"]["pretext"], found["supervised"]["supervised"])
        print(
            f"| {name} | {times['shown']:g} | {times['forwards']:g} | {times['pretext']:.0f} | "
            f"{times['supervised']:.0f} | {times['pretext'] / times['supervised']:.2f} | "
            f"{memory[0]:.0f} | {memory[1]:.0f} | {memory[0] / memory[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Peak memory and time of pretext steps of large encoders, whole and rematerialized, each in its own process.

    KERAS_BACKEND=torch python benchmarks/rematerialization.py

Memory is what a process has resident at most in its steps above what it had before the first, as Linux notes
it. Prints a Markdown table, a line as each is done.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ssl

CASES = {
    "DenseNet121, 128 px, batch 8": ((128, 128, 3), 8),
    "3D ResNet-18, 96 voxels a side, batch 2": ((96, 96, 96, 1), 2),
}


def encoder_for(shape):
    if len(shape) == 3:
        return keras_ssl.encoders.densenet121(shape)
    return keras_ssl.encoders.resnet18(shape)


def resident(field):
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(field)]
    return int(line.split()[1]) / 2**10


def measure(name, rematerialized, steps):
    shape, batch = CASES[name]
    keras.utils.set_random_seed(0)
    encoder = encoder_for(shape)
    if rematerialized:
        encoder = keras_ssl.encoders.rematerialize(encoder)
    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), encoder, input_shape=shape, seed=0)
    model.compile(keras.optimizers.Adam(1e-3))
    images = np.random.default_rng(0).random((batch, *shape), dtype="float32")
    before, seconds = resident("VmRSS"), []
    for _ in range(steps + 1):
        start = time.perf_counter()
        loss, *_ = model.train_on_batch(images)
        seconds.append(time.perf_counter() - start)
    found = {"mib": resident("VmHWM") - before, "loss": float(loss)}
    return {**found, "seconds": statistics.median(seconds[1:]), "first": seconds[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--rematerialized", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.rematerialized, arguments.steps)))
        return
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores\n")
    print("| encoder | MiB | rematerialized | ratio | s a step | rematerialized | ratio | same loss |")
    print("| --- |" + " ---: |" * 7)
    for case in CASES:
        found = []
        for rematerialized in (0, 1):
            command = [sys.executable, __file__, "--steps", str(arguments.steps), "--case", case]
            command += ["--rematerialized", str(rematerialized)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        cells = []
        for key, form in (("mib", "{:.0f}"), ("seconds", "{:.2f}")):
            whole, less = (one[key] for one in found)
            cells += [form.format(whole), form.format(less), f"{less / whole:.2f}"]
        same = np.isclose(*[one["loss"] for one in found], rtol=1e-4)
        print(f"| {case} | " + " | ".join(cells) + f" | {same} |", flush=True)


if __name__ == "__main__":
    main()

"""Rotation of a batch against a NumPy loop of `np.rot90`, timed in turns in one process.

    KERAS_BACKEND=jax python benchmarks/rotation.py

Ratios below 1 mean that `keras_ssl.preprocessing.rotate` is faster. Labels are drawn anew for every
repetition and are the same for all rows. "copy" is the backend's own `images + 1`, about the least that
anything that returns new images can take. NumPy asks the kernel for huge pages, the backends' allocators do
not and pay for a page fault every 4 KiB of a large result: `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` gives
them the same memory (Linux, glibc 2.35 or newer). Run it on an idle machine: a backend waits for all of
its threads, NumPy has one.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

from keras_ssl.preprocessing import quarter_turns, rotate

SHAPES = ((32, 224, 224, 3), (4, 128, 128, 128, 1))


def numpy_loop(images, labels, turns):
    """Rotate each image by np.rot90 and stack the results, contiguous."""
    rotated = []
    for image, label in zip(images, labels, strict=True):
        for k, plane in turns[label]:
            image = np.rot90(image, k, plane)
        rotated.append(image)
    return np.stack(rotated)


def compiled(function):
    """Name the ways in which the backend runs a function, each with a callable that waits for its result."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        graph, xla = (
            tf.function(function, autograph=False),
            tf.function(function, jit_compile=True, autograph=False),
        )
        return {"graph": graph, "xla": xla}
    if keras.backend.backend() == "jax":
        import jax

        jitted = jax.jit(function)
        return {"jit": lambda *arguments: jitted(*arguments).block_until_ready()}
    return {"eager": function}


def measure(shape, repetitions, rng):
    images = rng.random(shape, dtype="float32")
    turns = quarter_turns(len(shape) - 2)
    tensor = ops.convert_to_tensor(images)
    rows = {"numpy": lambda labels, _: numpy_loop(images, labels, turns)}
    for mode, function in compiled(rotate).items():
        rows[f"rotate, {mode}"] = lambda _, labels, function=function: function(tensor, labels)
    for mode, function in compiled(lambda images: images + 1).items():
        rows[f"copy, {mode}"] = lambda _, labels, function=function: function(tensor)
    seconds = {name: [] for name in rows}
    for repetition in range(repetitions + 2):
        labels = rng.integers(0, len(turns), shape[0])
        label_tensor = ops.convert_to_tensor(labels, "int32")
        for name, run in rows.items():
            start = time.perf_counter()
            run(labels, label_tensor)
            # The first two compile and fill caches.
            if repetition >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=30)
    repetitions = parser.parse_args().repetitions
    rng = np.random.default_rng(0)
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores")
    for shape in SHAPES:
        seconds = measure(shape, repetitions, rng)
        print(f"\n{' x '.join(map(str, shape))} float32, median of {repetitions}")
        for name, times in seconds.items():
            median = statistics.median(times)
            ratio = median / statistics.median(seconds["numpy"])
            print(f"  {name:<16}{1e3 * median:8.1f} ms   ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()

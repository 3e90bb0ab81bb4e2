"""Rotation of a batch against a NumPy loop of `np.rot90` and one of scikit-image, in turns in one process.

    KERAS_BACKEND=jax python benchmarks/rotation.py

Ratios are to the NumPy loop; those below 1 mean that `keras_ssl.preprocessing.rotate` is faster. Labels are
drawn anew for every repetition and are the same for all rows. scikit-image interpolates, by its defaults.
"copy" is the backend's own `images + 1`, about the least that anything that returns new images can take.
NumPy asks the kernel for huge pages, the backends' allocators do not and pay for a page fault every 4 KiB of
a large result: `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` gives them the same memory (Linux, glibc 2.35 or
newer). Run it on an idle machine: a backend waits for all of its threads, NumPy has one.
"""

import argparse
import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops
from side_by_side import CLOCKS, in_turns, medians, row
from skimage import transform

from keras_ssl.preprocessing import rotate
from keras_ssl.preprocessing.rotation import quarter_turns

SHAPES = ((32, 224, 224, 3), (4, 128, 128, 128, 1))


def numpy_loop(images, labels, turns):
    """Rotate each image by np.rot90 and stack the results, contiguous."""
    rotated = []
    for image, label in zip(images, labels, strict=True):
        for k, plane in turns[label]:
            image = np.rot90(image, k, plane)
        rotated.append(image)
    return np.stack(rotated)


def skimage_loop(images, labels, turns):
    """The same by `skimage.transform.rotate`, which turns the first two axes; others are channels."""
    rotated = []
    for image, label in zip(images, labels, strict=True):
        for k, plane in turns[label]:
            turned = np.moveaxis(image, plane, (0, 1))
            flat = transform.rotate(turned.reshape(*turned.shape[:2], -1), 90 * k)
            image = np.moveaxis(flat.reshape(turned.shape), (0, 1), plane)
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


def measure(shape, repetitions, clock, rng):
    """Seconds of each way in each repetition."""
    images = rng.random(shape, dtype="float32")
    turns = quarter_turns(len(shape) - 2)
    tensor = ops.convert_to_tensor(images)
    drawn = {}

    def draw():
        drawn["array"] = rng.integers(0, len(turns), shape[0])
        drawn["tensor"] = ops.convert_to_tensor(drawn["array"], "int32")

    arms = {
        "draw": draw,
        "numpy": lambda: numpy_loop(images, drawn["array"], turns),
        "scikit-image": lambda: skimage_loop(images, drawn["array"], turns),
    }
    for mode, function in compiled(rotate).items():
        arms[f"rotate, {mode}"] = lambda function=function: function(tensor, drawn["tensor"])
    for mode, function in compiled(lambda images: images + 1).items():
        arms[f"copy, {mode}"] = lambda function=function: function(tensor)
    # The first two rounds compile and fill caches.
    seconds = in_turns(arms, repetitions, clock, left_out=2)
    del seconds["draw"]
    return seconds


def rows(quick, clock):
    """Rows for `speed.py`, of the way in which `fit_pretext` runs by default."""
    for shape in ((32, 64, 64, 3), (4, 32, 32, 32, 1)) if quick else SHAPES:
        seconds = measure(shape, 4 if quick else 12, clock, np.random.default_rng(0))
        ours = next(name for name in seconds if name.startswith("rotate"))
        for reference, name in (("numpy", "NumPy loop of np.rot90"), ("scikit-image", "skimage rotate")):
            named = {ours: seconds[ours], name: seconds[reference]}
            yield row(f"rotate {' x '.join(map(str, shape))}, {name}", named, ours, name, 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=30)
    repetitions = parser.parse_args().repetitions
    rng = np.random.default_rng(0)
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores")
    for shape in SHAPES:
        taken = medians(measure(shape, repetitions, CLOCKS["wall"], rng))
        print(f"\n{' x '.join(map(str, shape))} float32, median of {repetitions}")
        for name, median in taken.items():
            print(f"  {name:<16}{1e3 * median:8.1f} ms   ratio {median / taken['numpy']:5.2f}")


if __name__ == "__main__":
    main()

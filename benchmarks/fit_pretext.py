"""Images per second of `fit_pretext` against a bare `keras.Model.fit` on images rotated beforehand.

    KERAS_BACKEND=jax python benchmarks/fit_pretext.py

Both train the same encoder and head on the same number of images, in turns in one process, each call one
epoch: what is compared is the price of rotating on the device, of the seeded order of images, of the checks
before the start, and of the watch for NaN. The first call of each, which compiles, is left out; medians
of the others are reported. Ratios above 1 mean that `fit_pretext` is faster.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_ssl


def build_bare(size, task):
    encoder = keras_ssl.encoders.small_encoder((size, size, 3))
    network = task.build_network(encoder, (size, size, 3))
    network.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=keras_ssl.default_jit_compile(),
    )
    return network


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    size = arguments.size
    images = keras_ssl.data.synthetic_fundus(arguments.images, size)[0].astype("float32") / 255
    plain = keras_ssl.RotationTask(guards=None)
    rotated, labels = keras_ssl.preprocessing.random_rotate(images, seed=0)
    rotated, labels = (keras.ops.convert_to_numpy(part) for part in (rotated, labels))
    bare = build_bare(size, plain)
    arms = {"bare fit, rotated beforehand": lambda: bare.fit(
        rotated, labels, batch_size=32, verbose=0
    )}  # fmt: skip
    for name, task in (("plain", plain), ("guarded", keras_ssl.RotationTask())):
        encoder = keras_ssl.encoders.small_encoder((size, size, 3))
        model = keras_ssl.SelfSupervisedModel(task, encoder, seed=0)
        arms[f"fit_pretext, {name} rotation"] = lambda model=model: model.fit_pretext(
            images, batch_size=32, verbose=0
        )
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(arguments.rounds + 1):
        for name, run in arms.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores, {size} px, batch 32"
    )
    rates = {name: len(images) / statistics.median(seconds[name][1:]) for name in arms}
    reference = rates["bare fit, rotated beforehand"]
    for name, rate in rates.items():
        print(f"  {name:<30}{rate:8.0f} images/s   ratio {rate / reference:5.2f}")


if __name__ == "__main__":
    main()

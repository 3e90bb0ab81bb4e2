"""Images per second of `fit_pretext` against a plain `keras.Model.fit` on images rotated beforehand.

    KERAS_BACKEND=jax python benchmarks/fit_pretext.py
    KERAS_BACKEND=jax python benchmarks/fit_pretext.py --encoder densenet121 --images 128

Both train the same encoder and head on the same number of images, in turns in one process, each call one
epoch: what is compared is the price of rotating on the device, of the seeded order of images, of the checks
before the start, and of the watch for NaN. The first call of each, which compiles, is left out; medians
of the others are reported, of the ratios too. Ratios above 1 mean that `fit_pretext` is faster.
`--clock cpu` counts the seconds of the processor, which other work on the machine changes less; set
`OMP_NUM_THREADS=1` then.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from side_by_side import CLOCKS, in_turns, medians, row, times_as_fast

import keras_ssl
from keras_ssl.encoders import densenet121, small_encoder

ENCODERS = {"small_encoder": small_encoder, "densenet121": densenet121}
BARE = "bare fit, rotated beforehand"


def bare_arm(encoder, images, batch_size=32):
    """One epoch of a bare fit on images rotated beforehand."""
    rotated, labels = keras_ssl.preprocessing.random_rotate(images, seed=0)
    rotated, labels = (keras.ops.convert_to_numpy(part) for part in (rotated, labels))
    network = keras_ssl.RotationTask(guards=None).build_network(encoder, images.shape[1:])
    network.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return lambda: network.fit(rotated, labels, batch_size=batch_size, verbose=0)


def pretext_arm(encoder, images, batch_size=32, guards=None):
    """One epoch of `fit_pretext`."""
    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(guards=guards), encoder, seed=0)
    return lambda: model.fit_pretext(images, batch_size=batch_size, verbose=0, epochs=1)


def measure(encoder, size, count, rounds, clock, guarded=True):
    """Seconds of an epoch of each arm."""
    images = keras_ssl.data.synthetic_fundus(count, size)[0].astype("float32")

    def make():
        return ENCODERS[encoder](images.shape[1:], value_range=(0, 255))

    arms = {BARE: bare_arm(make(), images), "fit_pretext, plain rotation": pretext_arm(make(), images)}
    if guarded:
        arms["fit_pretext, guarded rotation"] = pretext_arm(make(), images, guards="auto")
    return in_turns(arms, rounds, clock)


def rows(quick, clock):
    """Rows for `speed.py`."""
    full = (("small_encoder", 64, 256, 7), ("densenet121", 64, 128, 4))
    for encoder, size, count, rounds in (("small_encoder", 32, 64, 2),) if quick else full:
        seconds = measure(encoder, size, count, rounds, clock, guarded=encoder == "small_encoder")
        for name in list(seconds)[1:]:
            yield row(f"{name}, {encoder}, {count} images of {size} px", seconds, name, BARE, 0.97)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", choices=ENCODERS, default="small_encoder")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    size, count = arguments.size, arguments.images
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores, "
        f"{arguments.encoder}, {size} px, batch 32"
    )
    seconds = measure(arguments.encoder, size, count, arguments.rounds, CLOCKS[arguments.clock])
    for name, taken in medians(seconds).items():
        print(f"  {name:<30}{count / taken:8.0f} images/s   ratio {times_as_fast(seconds, name, BARE):5.2f}")


if __name__ == "__main__":
    main()

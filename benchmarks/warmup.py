"""Training steps with the encoder frozen by `WarmupFreeze` against the same steps unfrozen.

    KERAS_BACKEND=jax python benchmarks/warmup.py

Each round is one `fit` of two epochs, the first of them frozen, so both kinds of step take turns in one
process. The first steps of an epoch, which compile, are left out; medians are reported. A frozen step makes
the forward pass and no backward pass through the encoder: a third of the work would be a ratio of 0.33.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from side_by_side import Row, readable

from keras_ssl.callbacks import WarmupFreeze
from keras_ssl.encoders import densenet121, small_encoder

ENCODERS = {"small_encoder": small_encoder, "densenet121": densenet121}


class StepTimes(keras.callbacks.Callback):
    """Seconds of each training step, by epoch, from the batch's arrival to a loss that can be read."""

    def __init__(self, skipped):
        super().__init__()
        self.skipped = skipped
        self.seconds = {0: [], 1: []}

    def on_epoch_begin(self, epoch, logs=None):
        """Note which kind of step comes now."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop the clock, after the device: reading the loss waits for it."""
        float(logs["loss"])
        if batch >= self.skipped:
            self.seconds[self.epoch].append(time.perf_counter() - self.start)


def measure(encoder, size, batch_size, steps, rounds, jit_compile="auto"):
    """Median seconds of a frozen and of an unfrozen step."""
    images = np.random.default_rng(0).normal(size=(batch_size * steps, size, size, 3)).astype("float32")
    labels = np.zeros((len(images), 1), "float32")
    inputs = keras.Input((size, size, 3))
    features = encoder(inputs)
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(inputs, keras.layers.Dense(1)(features))
    model.compile("adam", "mse", jit_compile=jit_compile)
    times, warmup = StepTimes(skipped=2), WarmupFreeze(encoder, 1)
    for _ in range(rounds):
        model.fit(images, labels, batch_size=batch_size, epochs=2, verbose=0, callbacks=[warmup, times])
    return statistics.median(times.seconds[0]), statistics.median(times.seconds[1])


def rows(quick, clock):
    """The row for `speed.py`."""
    size, rounds = (32, 1) if quick else (64, 3)
    encoder = small_encoder(input_shape=(size, size, 3))
    frozen, unfrozen = measure(encoder, size, 16, 12, rounds)
    what = f"small_encoder, batch 16 of {size} px"
    yield Row(what, readable(frozen), f"unfrozen step: {readable(unfrozen)}", unfrozen / frozen, 2.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=["small_encoder"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jit", action="store_true", help="compile with XLA on TensorFlow too")
    arguments = parser.parse_args()
    backend = keras.backend.backend()
    jit_compile = backend == "jax" or (arguments.jit and backend == "tensorflow")
    print(f"{backend}, jit_compile={jit_compile}, batch {arguments.batch_size} of {arguments.size} px")
    print(f"{'encoder':<15}{'frozen ms':>12}{'unfrozen ms':>13}{'ratio':>8}")
    for name in arguments.encoders:
        size = arguments.size
        frozen, unfrozen = measure(
            ENCODERS[name](input_shape=(size, size, 3)),
            size,
            arguments.batch_size,
            arguments.steps,
            arguments.rounds,
            jit_compile,
        )
        print(f"{name:<15}{1000 * frozen:>12.1f}{1000 * unfrozen:>13.1f}{frozen / unfrozen:>8.2f}")


if __name__ == "__main__":
    main()

"""First step and speed of training with `jit_compile` off, on, and as Keras and keras-ssl choose it.

    KERAS_BACKEND=tensorflow python benchmarks/compilation.py
    KERAS_BACKEND=torch python benchmarks/compilation.py --settings False

A `SelfSupervisedModel` of `RotationTask` for each setting trains on one batch: "first step" is the first
call, which compiles, after each setting has compiled a tiny model; images per second are those of the median
of later steps, which take turns. "auto" is what `fit_pretext` leaves to Keras. Prints a Markdown table.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from side_by_side import CLOCKS, Row, in_turns, medians, readable

import keras_ssl
from keras_ssl.encoders import densenet121, small_encoder

ENCODERS = {
    "small_encoder, 64 px": (small_encoder, (32, 64, 64, 3)),
    "densenet121, 64 px": (densenet121, (32, 64, 64, 3)),
    "small_encoder, 32 voxels": (small_encoder, (8, 32, 32, 32, 1)),
}
SETTINGS = {"False": False, "True": True, "auto": "auto"}


def build_step(make_encoder, shape, jit_compile):
    """A model, and a callable that makes one training step and waits for its loss."""
    images = np.random.default_rng(0).random(shape, "float32")
    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), make_encoder(shape[1:]), seed=0)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
    return model, lambda: float(model.train_on_batch(images, return_dict=True)["loss"])


def first_steps(make_encoder, shape, settings):
    """Steps by setting, and the seconds that the first call of each took."""
    steps, seconds = {}, {}
    for jit_compile in settings:
        build_step(lambda shape: small_encoder(shape, filters=(4,)), (2, 8, 8, 3), jit_compile)[1]()
        _, step = build_step(make_encoder, shape, jit_compile)
        start = time.perf_counter()
        step()
        seconds[jit_compile] = time.perf_counter() - start
        steps[jit_compile] = step
    return steps, seconds


def rows(quick, clock):
    """The row for `speed.py`; XLA is the alternative on TensorFlow only: `torch.compile` takes minutes."""
    settings = ["auto", True] if keras.backend.backend() == "tensorflow" else ["auto"]
    _, seconds = first_steps(*ENCODERS["small_encoder, 64 px"], settings)
    what, ours = "first step, small_encoder, 64 px", seconds["auto"]
    if len(settings) == 1:
        yield Row(what, readable(ours), "-", None, None)
    else:
        yield Row(what, readable(ours), f"XLA: {readable(seconds[True])}", seconds[True] / ours, 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    chosen = build_step(small_encoder, (2, 8, 8, 3), "auto")[0].jit_compile
    print(f"{keras.backend.backend()}, {os.cpu_count()} cores; auto is {chosen} here\n")
    print("| encoder | jit_compile | first step, s | images per second |")
    print("| --- | --- | ---: | ---: |")
    for name in arguments.encoders:
        settings = [SETTINGS[setting] for setting in arguments.settings]
        steps, first = first_steps(*ENCODERS[name], settings)
        # The second step may compile too.
        later = medians(in_turns(steps, arguments.rounds, CLOCKS[arguments.clock]))
        batch_size = ENCODERS[name][1][0]
        for setting, seconds in first.items():
            rate = batch_size / later[setting]
            print(f"| {name} | {setting} | {seconds:.1f} | {rate:.3g} |", flush=True)


if __name__ == "__main__":
    main()

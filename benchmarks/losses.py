"""Joint-embedding losses against those of lightly: values, and time of forward and backward pass.

    KERAS_BACKEND=torch python benchmarks/losses.py

Needs lightly (`pip install lightly`), which runs on PyTorch whatever the backend; ours is compiled as the
backend does. Both get the same random projections and are timed in turns; medians are taken. Prints a
Markdown table.
"""

import argparse
import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops
from side_by_side import CLOCKS, in_turns, medians, not_measured, row

from keras_ssl import losses
from keras_ssl.losses.contrastive import unit_vectors

OURS = {
    "NT-Xent": lambda a, b: ops.mean(losses.nt_xent(interleaved(a, b), 0.1)),
    "Barlow Twins": lambda a, b: losses.barlow_twins(a, b, 0.005),
    "VICReg": lambda a, b: losses.vicreg(a, b),
    "negative cosine": lambda a, b: -ops.mean(ops.sum(unit_vectors(a) * unit_vectors(b), axis=1)),
}


def interleaved(first, second):
    return ops.reshape(ops.stack([first, second], axis=1), (-1, first.shape[1]))


def theirs():
    """Losses of lightly by the same names.

    Raises:
        ImportError: lightly is not installed.
    """
    from lightly import loss as lightly

    return {
        "NT-Xent": lightly.NTXentLoss(temperature=0.1),
        "Barlow Twins": lightly.BarlowTwinsLoss(lambda_param=0.005),
        "VICReg": lightly.VICRegLoss(),
        "negative cosine": lightly.NegativeCosineSimilarity(),
    }


def torch_pass(function, views):
    """A callable that makes a forward and a backward pass and returns the loss."""
    import torch

    def run():
        first, second = (torch.tensor(view, requires_grad=True) for view in views)
        value = function(first, second)
        value.backward()
        return float(value.detach())

    return run


def our_pass(function, views):
    """The same on this backend."""
    backend = keras.backend.backend()
    if backend == "torch":
        return torch_pass(function, views)
    tensors = [ops.convert_to_tensor(view) for view in views]
    if backend == "jax":
        import jax

        both = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))
        return lambda: float(jax.block_until_ready(both(*tensors))[0])
    import tensorflow as tf

    @tf.function(autograph=False)
    def both(first, second):
        with tf.GradientTape() as tape:
            tape.watch([first, second])
            value = function(first, second)
        return value, tape.gradient(value, [first, second])

    return lambda: float(both(*tensors)[0])


def measure(batch, dim, rounds, clock):
    """Name, values and seconds of ours and lightly's, loss by loss."""
    generator = np.random.default_rng(0)
    views = generator.normal(size=(2, batch, dim)).astype("float32")
    views[1] += views[0]
    for name, function in theirs().items():
        arms = {"keras-ssl": our_pass(OURS[name], views), "lightly": torch_pass(function, views)}
        values = [arm() for arm in arms.values()]
        yield name, values, in_turns(arms, rounds, clock)


def rows(quick, clock):
    """Rows for `speed.py`."""
    batch, dim, rounds = (64, 128, 10) if quick else (256, 512, 40)
    try:
        for name, _, seconds in measure(batch, dim, rounds, clock):
            yield row(f"{name}, {batch} x {dim}", seconds, "keras-ssl", "lightly", 1.0)
    except ImportError as error:
        yield not_measured("lightly", error)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    batch, dim = arguments.batch, arguments.dim
    print(f"{keras.backend.backend()}, {os.cpu_count()} cores, {batch} images, projections of {dim}\n")
    print("| loss | keras-ssl | lightly | difference, relative | keras-ssl ms | lightly ms | ratio |")
    print("| --- |" + " ---: |" * 6)
    for name, values, seconds in measure(batch, dim, arguments.rounds, CLOCKS["wall"]):
        apart = abs(values[0] - values[1]) / abs(values[1])
        ours, lightly = (1e3 * median for median in medians(seconds).values())
        print(
            f"| {name} | {values[0]:.5f} | {values[1]:.5f} | {apart:.1e} | {ours:.2f} | {lightly:.2f} | "
            f"{ours / lightly:.2f} |"
        )


if __name__ == "__main__":
    main()

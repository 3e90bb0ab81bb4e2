"""Losses of joint embedding against those of lightly: values, and time of forward and backward pass.

    python benchmarks/losses.py

Needs lightly (`pip install lightly`) and PyTorch as the backend. Both get the same random projections and are
timed in turns; medians are taken. Prints a Markdown table.
"""

import argparse
import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch
from keras import ops
from lightly import loss as lightly

from keras_ssl import losses


def interleaved(first, second):
    return torch.stack([first, second], dim=1).reshape(-1, first.shape[1])


def pairs(dim):
    """Our loss and lightly's by name, functions of two views' projections to a scalar."""
    theirs = {
        "NT-Xent": lightly.NTXentLoss(temperature=0.1),
        "Barlow Twins": lightly.BarlowTwinsLoss(lambda_param=0.005),
        "VICReg": lightly.VICRegLoss(),
        "negative cosine": lightly.NegativeCosineSimilarity(),
    }
    ours = {
        "NT-Xent": lambda a, b: ops.mean(losses.nt_xent(interleaved(a, b), 0.1)),
        "Barlow Twins": lambda a, b: losses.barlow_twins(a, b, 0.005),
        "VICReg": lambda a, b: losses.vicreg(a, b),
        "negative cosine": lambda a, b: (
            -ops.mean(ops.sum(losses.unit_vectors(a) * losses.unit_vectors(b), axis=1))
        ),
    }
    return {name: (ours[name], theirs[name]) for name in ours}


def timed(function, views):
    """Milliseconds of one forward and backward pass, and the value."""
    first, second = (torch.tensor(view, requires_grad=True) for view in views)
    start = time.perf_counter()
    value = function(first, second)
    value.backward()
    return 1e3 * (time.perf_counter() - start), float(value.detach())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    views = generator.normal(size=(2, arguments.batch, arguments.dim)).astype("float32")
    views[1] += views[0]
    print(f"{os.cpu_count()} cores, {arguments.batch} images, projections of {arguments.dim}\n")
    print("| loss | keras-ssl | lightly | difference, relative | keras-ssl ms | lightly ms | ratio |")
    print("| --- |" + " ---: |" * 6)
    for name, functions in pairs(arguments.dim).items():
        taken = [[], []]
        for _ in range(arguments.rounds):
            for times, function in zip(taken, functions, strict=True):
                times.append(timed(function, views))
        values = [times[0][1] for times in taken]
        apart = abs(values[0] - values[1]) / abs(values[1])
        ours, theirs = (statistics.median(one for one, _ in times) for times in taken)
        print(
            f"| {name} | {values[0]:.5f} | {values[1]:.5f} | {apart:.1e} | {ours:.2f} | {theirs:.2f} | "
            f"{ours / theirs:.2f} |"
        )


if __name__ == "__main__":
    main()

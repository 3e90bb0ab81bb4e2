"""Speed and peak memory of `fit_pretext` on one GPU, in float32 and mixed bfloat16, against a plain fit.

    KERAS_BACKEND=jax python benchmarks/gpu.py
    KERAS_BACKEND=jax python benchmarks/gpu.py --device cpu --size 32 --batch 4 --size3d 16 --batch3d 2

DenseNet121 on images of 224 pixels and ResNet-18 on volumes of 96 voxels a side, each with each policy in
a process of its own. Peak memory is what the backend says that `fit_pretext` took on the device, before
the bare fit began; with `--device cpu` the most that the process had resident. Then epochs of both take
turns: images per second are of the median epoch, and the fraction of the plain fit, on images rotated
beforehand, is the median over the rounds. Prints a Markdown table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from fit_pretext import bare_arm, pretext_arm
from side_by_side import in_turns, medians, times_as_fast

from keras_ssl.encoders import densenet121, resnet18

ENCODERS = {"densenet121": densenet121, "resnet18_3d": resnet18}
POLICIES = ("float32", "mixed_bfloat16")


def peak_bytes(device):
    """The most memory taken so far, on the device or, on the CPU, by the process."""
    if device == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    if backend == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    import torch

    return torch.cuda.max_memory_allocated()


def measure(name, policy, shape, batch_size, arguments):
    """Images per second, fraction of the plain fit and peak memory in megabytes."""
    if arguments.device == "gpu" and not keras.distribution.list_devices("gpu"):
        raise SystemExit("No GPU is seen by this backend. Pass `--device cpu` to try the script.")
    keras.mixed_precision.set_dtype_policy(policy)
    images = np.random.default_rng(0).random((arguments.steps * batch_size, *shape), "float32")
    make = ENCODERS[name]
    pretext = pretext_arm(make(shape), images, batch_size)
    pretext()
    peak = peak_bytes(arguments.device)
    arms = {"pretext": pretext, "bare": bare_arm(make(shape), images, batch_size)}
    seconds = in_turns(arms, arguments.rounds)
    return {
        "rate": len(images) / medians(seconds)["pretext"],
        "share": times_as_fast(seconds, "pretext", "bare"),
        "peak": peak / 1e6,
    }


def in_a_process(name, policy, device):
    command = [sys.executable, __file__, *sys.argv[1:], "--one", name, policy]
    hidden = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    done = subprocess.run(command, env={**os.environ, **hidden}, capture_output=True, text=True)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1]} | - | - |"
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{found['rate']:.3g} | {found['share']:.2f} | {found['peak']:.0f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size3d", type=int, default=96)
    parser.add_argument("--batch3d", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="steps in an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    batches = {
        "densenet121": ((arguments.size,) * 2 + (3,), arguments.batch),
        "resnet18_3d": ((arguments.size3d,) * 3 + (1,), arguments.batch3d),
    }
    if arguments.one:
        name, policy = arguments.one
        print(json.dumps(measure(name, policy, *batches[name], arguments)))
        return
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {arguments.device}\n")
    print("| encoder | batch | policy | images per second | fraction of plain fit | peak memory, MB |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for name in arguments.encoders:
        shape, batch_size = batches[name]
        for policy in POLICIES:
            cells = in_a_process(name, policy, arguments.device)
            print(f"| {name} | {batch_size} x {shape} | {policy} | {cells}", flush=True)


if __name__ == "__main__":
    main()

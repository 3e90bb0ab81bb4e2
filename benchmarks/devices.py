"""Losses and metrics of every pretext task on 1, 2 and 4 simulated JAX devices, and their largest difference.

    python benchmarks/devices.py

Two epochs of three steps by Adam, whose losses depend on the weights that the steps before have given.
Not a measure of speed: the devices share one processor. Prints a Markdown table, a line as each task is done.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
import numpy as np

import keras_ssl

SHAPE, BATCH, COUNTS = (24, 24, 3), 8, (1, 2, 4)
TASKS = [name for name in keras_ssl.__all__ if name.endswith("Task") and name != "PretextTask"]


def curves(name, count):
    """Return the logs of two epochs by name."""
    keras.utils.set_random_seed(0)
    task = getattr(keras_ssl, name)()
    shape = task.encoder_input_shape(SHAPE)
    if name == "MAETask":
        encoder = keras_ssl.encoders.vit_encoder(shape, patch_size=6, embedding_dim=12, depth=1, mlp_ratio=2)
    else:
        encoder = keras_ssl.encoders.small_encoder(shape, filters=(4, 8))
    devices = keras.distribution.list_devices()[:count]
    with keras.distribution.DataParallel(devices=devices).scope():
        encoder = keras.models.clone_model(encoder)
        model = keras_ssl.SelfSupervisedModel(task, encoder, input_shape=SHAPE, seed=0)
        images = np.random.default_rng(0).random((3 * BATCH, *SHAPE), dtype="float32")
        return model.fit_pretext(images, batch_size=BATCH, epochs=2, verbose=0).history


def scale(values):
    # An accuracy may be 0.
    return np.maximum(np.abs(values), 1e-3)


def main():
    print(
        f"Keras {keras.__version__}, {os.cpu_count()} cores, {len(keras.distribution.list_devices())} devices"
    )
    print(
        "\n| task | loss, one device | 2 devices, relative | 4 devices, relative |\n| --- |" + " ---: |" * 3
    )
    for name in TASKS:
        alone, *others = (curves(name, count) for count in COUNTS)
        apart = [
            max(np.max(np.abs(np.subtract(found[key], alone[key])) / scale(alone[key])) for key in alone)
            for found in others
        ]
        cells = [f"{alone['loss'][-1]:.4f}", *(f"{value:.0e}" for value in apart)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

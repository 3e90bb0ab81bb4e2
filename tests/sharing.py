"""The fit that devices share in tests of distribution: nothing in it is left to draws or batch statistics."""

import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tiny
from keras import ops

import keras_ssl


def _halves(views, seed):
    # Replicas of TensorFlow and processes of PyTorch draw each for themselves.
    factors = 1 - ops.cast(ops.arange(ops.shape(views)[0]) % 2, "float32") / 2
    return views * factors[:, None, None, None]


TASKS = {
    # A loss for each image, and one that compares the images of a batch.
    "rotation": keras_ssl.RotationTask(copies="all", guards=None),
    "simclr": keras_ssl.SimCLRTask(views=_halves, hidden_units=(8,), projection_dim=4),
}


def make(name):
    """The compiled model, alike each time."""
    keras.utils.set_random_seed(0)
    model = keras_ssl.SelfSupervisedModel(TASKS[name], tiny.sequential_encoder(), seed=0)
    model.compile(keras.optimizers.SGD(0.5))
    return model


def fit(name, epochs=2, **arguments):
    """Losses of epochs of one step, and the weights at their end."""
    model = make(name)
    images = tiny.images(8)
    arguments = {"validation_data": images[:4], "batch_size": 8, "verbose": 0, **arguments}
    history = model.fit_pretext(images, epochs=epochs, **arguments).history
    return [*history["loss"], *history["val_loss"]], tiny.weights(model)


def fine_tuned():
    """Weights after a warm-up that was interrupted and begun anew."""
    keras.utils.set_random_seed(0)
    encoder, head = tiny.sequential_encoder(), keras_ssl.OrdinalHead(3)
    tuner = keras_ssl.FineTuner(encoder, head, warmup_epochs=1, seed=0, optimizer=keras.optimizers.SGD(0.5))
    data = {"images": tiny.images(8), "labels": tiny.grades(8), "batch_size": 8, "epochs": 3, "verbose": 0}
    try:
        tuner.fit(**data, callbacks=[tiny.stop(0)])
    except KeyboardInterrupt:
        tuner.fit(**data)
    return tiny.weights(tuner.model)


def assert_same(one, other, rtol=1e-7, atol=1e-6):
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    for first, second in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(first, second, rtol=rtol, atol=atol)


def join(index, addresses):
    """Make this process one of several; returns the scope in which models are made."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    if backend == "jax":
        keras.distribution.initialize(addresses[0], len(addresses), index)
        return keras.distribution.DataParallel(auto_shard_dataset=False).scope()
    import contextlib

    from torch import distributed

    distributed.init_process_group("gloo", f"tcp://{addresses[0]}", None, len(addresses), index)
    return contextlib.nullcontext()


def writers(folder):
    return [
        keras.callbacks.ModelCheckpoint(folder / "best.keras"),
        keras.callbacks.CSVLogger(folder / "log"),
    ]


def main(index, addresses, folder):
    """Train in several processes, each with a folder of its own beside the one of backups that they share."""
    own = Path(folder, str(index))
    own.mkdir()
    with join(index, addresses):
        callbacks = writers(own)
        losses, weights = fit("rotation", backup_dir=Path(folder, "backup"), callbacks=callbacks)
        if keras.backend.backend() == "torch":
            weights += fine_tuned()
    np.savez(Path(folder, f"found{index}.npz"), *weights, losses=losses)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3])

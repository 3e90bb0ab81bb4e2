"""Devices and processes that share each batch find what one finds, on every backend."""

import os
import socket
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import sharing

pytestmark = pytest.mark.slow

ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
)
ON_JAX = pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras' DataParallel is for JAX")


def start(*arguments, **environment):
    """Start a process of its own, since the number of devices is settled once and for all."""
    folder = os.path.dirname(__file__)
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": folder, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_ends(process):
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, said


def run(script, **environment):
    assert_ends(start("-c", textwrap.dedent(script), **environment))


@ON_TENSORFLOW
def test_replicas():
    script = """
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import numpy as np
        import sharing
        import tiny

        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            shared = sharing.fit("rotation")
        sharing.assert_same(sharing.fit("rotation"), shared)

        # Too few images are left over for two replicas.
        with strategy.scope():
            model = sharing.make("rotation")
            model.fit_pretext(tiny.images(9), validation_data=tiny.images(5), batch_size=4, verbose=0)

        # Images are compared with those of their own replica.
        images = tiny.images(8)
        with strategy.scope():
            loss = sharing.make("simclr").evaluate(images, batch_size=8, verbose=0)
        alone = sharing.make("simclr")
        halves = [alone.evaluate(half, batch_size=4, verbose=0) for half in (images[:4], images[4:])]
        np.testing.assert_allclose(loss, np.mean(halves, axis=0), rtol=1e-5)
    """
    run(script)


@ON_JAX
def test_devices():
    script = """
        import keras
        import sharing

        for name in sharing.TASKS:
            found = []
            for count in (1, 2, 4):
                devices = keras.distribution.list_devices()[:count]
                assert len(devices) == count
                keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
                found.append(sharing.fit(name))
            sharing.assert_same(found[0], found[1], rtol=1e-5, atol=1e-5)
            sharing.assert_same(found[0], found[2], rtol=1e-5, atol=1e-5)
    """
    run(script, XLA_FLAGS="--xla_force_host_platform_device_count=4")


@ON_JAX
def test_devices_are_given_batches_that_they_can_share():
    script = """
        import keras
        import numpy as np
        import pytest
        import keras_ssl
        import tiny

        def found():
            keras.utils.set_random_seed(0)
            tuner = keras_ssl.FineTuner(
                tiny.sequential_encoder(), keras_ssl.OrdinalHead(3), warmup_epochs=1, seed=0
            )
            return tuner, tuner.predict_probabilities(images), tuner.evaluate(images, grades)

        images, grades = tiny.images(11), tiny.grades(11)
        _, *expected = found()

        devices = keras.distribution.list_devices()
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
        model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), tiny.sequential_encoder(), seed=0)
        # Eleven images in batches of four: three are left over for two devices.
        model.fit_pretext(images, validation_data=images[:3], batch_size=4, epochs=2, verbose=0)
        with pytest.raises(ValueError, match="multiple of the 2 devices"):
            model.fit_pretext(images, batch_size=3)

        tuner, probabilities, scores = found()
        np.testing.assert_allclose(probabilities, expected[0], rtol=1e-5)
        assert scores == pytest.approx(expected[1], rel=1e-5)
        # The warm-up ends in the midst of it.
        history = tuner.fit(
            images, grades, validation_data=(images, grades), batch_size=4, epochs=2, verbose=0
        )
        assert len(history.history["val_qw_kappa"]) == 2
    """
    run(script, XLA_FLAGS="--xla_force_host_platform_device_count=2")


def test_processes(tmp_path):
    with socket.socket() as first, socket.socket() as second:
        for found in (first, second):
            found.bind(("localhost", 0))
        addresses = ",".join(f"localhost:{found.getsockname()[1]}" for found in (first, second))
    # One thread each, since those of two processes wait for one another.
    processes = [
        start(sharing.__file__, str(index), addresses, str(tmp_path), OMP_NUM_THREADS="1")
        for index in range(2)
    ]
    for process in processes:
        assert_ends(process)
    alone = sharing.fit("rotation")
    if keras.backend.backend() == "torch":
        alone[1].extend(sharing.fine_tuned())
    for index in range(2):
        with np.load(tmp_path / f"found{index}.npz") as found:
            weights = [found[f"arr_{number}"] for number in range(len(found) - 1)]
            sharing.assert_same(alone, (found["losses"], weights), rtol=1e-5, atol=1e-5)
    # Files are written by the first process only, and one device goes on with what two have begun.
    assert sorted(path.name for path in tmp_path.glob("[01]/*")) == ["best.keras", "log"]
    callbacks = sharing.writers(tmp_path / "0")
    resumed = sharing.fit("rotation", epochs=3, backup_dir=tmp_path / "backup", callbacks=callbacks)
    sharing.assert_same(sharing.fit("rotation", epochs=3), resumed, rtol=1e-5, atol=1e-5)

"""Devices that share each batch find what one finds: replicas of TensorFlow, devices of JAX."""

import os
import subprocess
import sys
import textwrap

import keras
import pytest

ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
)
ON_JAX = pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras' DataParallel is for JAX")


def run(script, **environment):
    """In a process of its own, since the number of devices is settled once and for all."""
    path = f"import sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", path + textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


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

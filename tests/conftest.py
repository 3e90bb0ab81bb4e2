"""Seeds, quiet backends, the markers of setup.cfg, and the folder of real images if there is one."""

import contextlib
import os
import tempfile
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # OpenMP's threads wait for one another by spinning: several processes of several each starve themselves.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of the time on JAX is compilation; what one test has compiled, the next need not, nor another of
# pytest-xdist's workers, which inherit the folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jax-cache-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# A third of the time: programs of a few steps are compiled for longer than they run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import pytest


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests that are marked slow, too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--run-slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run by --run-slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Run a test with its fixtures as its markers say."""
    # Not above: the process that hands tests out to workers needs no backend.
    import keras

    with contextlib.ExitStack() as stack:
        if item.get_closest_marker("no_backend"):
            stack.enter_context(backend_forbidden(keras.backend.backend()))
        elif keras.backend.backend() == "tensorflow":
            import tensorflow as tf
            from tensorflow.python.data.ops import structured_function

            # Tracing takes several times as long as the few steps of most tests.
            tf.config.run_functions_eagerly(not item.get_closest_marker("compiled"))
            # It warns that tf.data is not concerned; some tests take warnings for errors.
            stack.enter_context(mock.patch.object(structured_function, "warnings"))
        return (yield)


@contextlib.contextmanager
def backend_forbidden(backend):
    """Fail on any operation of the backend; on JAX, which offers no hook, on none."""

    def fail(operation, *_, **__):
        pytest.fail(f"A test that is marked no_backend runs {operation} on {backend}.", pytrace=False)

    if backend == "tensorflow":
        from tensorflow.python.framework import op_callbacks

        op_callbacks.add_op_callback(fail)
        try:
            yield
        finally:
            op_callbacks.remove_op_callback(fail)
    elif backend == "torch":
        from torch.utils._python_dispatch import TorchDispatchMode

        class Forbidden(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                fail(func)

        with Forbidden():
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same seed."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real, openly licensed images that the variable KERAS_SSL_DATA names."""
    folder = os.environ.get("KERAS_SSL_DATA", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip(f"KERAS_SSL_DATA names no folder of real images: {folder!r}")
    return Path(folder)

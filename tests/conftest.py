"""What every test shares: one seed, quiet backends, and the folder of real images where there is one."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # OpenMP's threads wait for one another by spinning: several processes of several each starve themselves.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of the time on JAX goes into compiling; what one test has compiled, the next need not, nor another of
# pytest-xdist's workers, which inherit the folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jax-cache-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# A third of the time: programs of a few steps are compiled for longer than they run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same seed."""
    # Not above: the process that hands tests out to workers needs no backend.
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real, openly licensed images that the variable KERAS_SSL_DATA names."""
    folder = os.environ.get("KERAS_SSL_DATA", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip(f"KERAS_SSL_DATA names no folder of real images: {folder!r}")
    return Path(folder)

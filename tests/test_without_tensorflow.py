"""On PyTorch and JAX the library does not import TensorFlow; what to install without it is documented."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Stands before every import: TensorFlow, installed or not, cannot be imported, and who tries is recorded.
REFUSE = """
    import importlib.abc, importlib.machinery, sys, traceback

    attempts = []

    class Refuse(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            # Others ask whether it is installed, which is no import.
            return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "tensorflow" else None

        def create_module(self, spec):
            attempts.append("".join(traceback.format_stack(limit=12)))
            raise ImportError("TensorFlow is refused.")

        def exec_module(self, module):
            raise AssertionError("It was never made.")

    sys.meta_path.insert(0, Refuse())
"""
CORE = """
    import importlib, pkgutil

    import keras
    import numpy as np

    import keras_ssl

    for module in pkgutil.walk_packages(keras_ssl.__path__, "keras_ssl."):
        importlib.import_module(module.name)
    folder = sys.argv[1]
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    labels = np.arange(8) % 4
    masks = (images[..., 0] > 128).astype("uint8")
    for task in (keras_ssl.RotationTask(), keras_ssl.SimCLRTask()):
        encoder = keras_ssl.encoders.small_encoder((32, 32, 3), filters=(4, 8), value_range=(0, 255))
        model = keras_ssl.SelfSupervisedModel(task, encoder, seed=0)
        fit = dict(epochs=2, batch_size=4, verbose=0)
        model.fit_pretext(images, validation_data=images, backup_dir=folder + "/" + model.name, **fit)
        model.save(folder + "/pretext.keras")
        keras.saving.load_model(folder + "/pretext.keras")
    heads = {
        keras_ssl.OrdinalHead(4): labels,
        keras_ssl.MultiHotHead(4): labels,
        keras_ssl.ClassificationHead(4): labels,
        keras_ssl.RegressionHead(4): labels,
        keras_ssl.SegmentationHead(2, filters=(4, 8)): masks,
    }
    for head, targets in heads.items():
        tuner = keras_ssl.FineTuner(model.encoder, head, warmup_epochs=1, seed=0)
        tuner.fit(images, targets, validation_data=(images, targets), **fit)
        tuner.predict(images)
        tuner.model.save(folder + "/model.keras")
        keras.saving.load_model(folder + "/model.keras")
    print(*dict.fromkeys(attempts), "attempts:", len(attempts))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_core_runs_and_nothing_tries_to_import_tensorflow(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REFUSE) + textwrap.dedent(CORE), str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("attempts: 0\n"), done.stdout


def test_the_documented_list_is_that_of_all_dependencies_but_tensorflow():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    page = (ROOT / "docs/backends.md").read_text()
    # The command that follows on `pip install --no-deps keras-ssl`; its last word is the backend.
    command = re.search(r"pip install --no-deps keras-ssl\npip install (.*?)\n```", page, re.DOTALL)
    *documented, backend = re.findall(r'"([^"]+)"', command[1])
    assert backend.startswith("torch")
    assert sorted(documented) == sorted(one for one in declared if not one.startswith("tensorflow"))

"""The example for several devices trains on two, resumes, and saves one ordinary encoder."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[1] / "examples" / "several_devices.py"
ON_TORCH = keras.backend.backend() == "torch"
LAUNCHER = ["-m", "torch.distributed.run", "--nproc_per_node=2"] if ON_TORCH else []


def test_two_devices_train_one_encoder_and_go_on(tmp_path):
    images = (255 * tiny.images(16, (16, 16, 3))).astype("uint8")
    parts = {f"{name}_images": images for name in ("train", "val", "test")}
    labels = {f"{name}_labels": np.arange(16)[:, None] % 5 for name in ("train", "val", "test")}
    np.savez(tmp_path / "photographs.npz", **parts, **labels)
    said = []
    for epochs in ("1", "2"):
        settings = ["--epochs", epochs, "--batch-size", "8", "--output", str(tmp_path / "output")]
        settings += ["--npz", str(tmp_path / "photographs.npz"), *([] if ON_TORCH else ["--simulate", "2"])]
        command = [sys.executable, *LAUNCHER, str(EXAMPLE), *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "Epoch 2/2" in said[1]
    assert "Epoch 1/2" not in said[1]
    assert ("process 2 of 2" in said[1]) == ON_TORCH
    encoder = keras.saving.load_model(tmp_path / "output" / "encoder.keras")
    assert np.isfinite(encoder.predict(images[:2], verbose=0)).all()

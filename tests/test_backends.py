"""A model saved on one backend loads on the others and gives equal outputs."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from tiny import functional_encoder, grades, images, pretext_model

from keras_ssl import FineTuner, Grader, OrdinalHead, encoders
from keras_ssl.data import Preparation

pytestmark = pytest.mark.slow

OTHERS = [
    name
    for name in ("tensorflow", "jax", "torch")
    if name != keras.backend.backend() and importlib.util.find_spec(name)
]
SCRIPT = """
    import sys
    import numpy as np
    import keras
    import keras_ssl

    folder = sys.argv[1]
    images = np.load(folder + "/images.npy")
    pretext = keras.saving.load_model(folder + "/pretext.keras")
    encoder = keras.saving.load_model(folder + "/encoder.keras")
    grader = keras_ssl.Grader.load(folder + "/grader.keras")
    outputs = (pretext.encoder.predict, encoder.predict, pretext.network.predict, grader.model.predict)
    np.savez(folder + "/outputs.npz", *(predict(images, verbose=0) for predict in outputs))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of models that were trained here, and their outputs."""
    folder, pixels = tmp_path_factory.mktemp("saved"), 255 * images()
    pretext = pretext_model(encoders.with_rescaling(functional_encoder(), 1 / 127.5, -1.0))
    pretext.fit_pretext(pixels, epochs=1, batch_size=4, verbose=0)
    encoder = pretext.encoder
    tuner = FineTuner(encoder, OrdinalHead(3), warmup_epochs=1, seed=0)
    tuner.fit(pixels, grades(), epochs=2, batch_size=4, verbose=0)
    pretext.save(folder / "pretext.keras")
    encoder.save(folder / "encoder.keras")
    Grader(tuner.model, tuner.head, Preparation(size=8), ("a", "b", "c")).save(folder / "grader.keras")
    np.save(folder / "images.npy", pixels)
    return folder, [
        part.predict(pixels, verbose=0) for part in (encoder, encoder, pretext.network, tuner.model)
    ]


@pytest.mark.skipif(not OTHERS, reason="no other backend is installed")
@pytest.mark.parametrize("other", OTHERS)
def test_saved_here_loads_there(other, saved):
    folder, expected = saved
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)],
        env={**os.environ, "KERAS_BACKEND": other},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as outputs:
        for name, mine in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(outputs[name], mine, atol=1e-5)
    (folder / "outputs.npz").unlink()

"""The shortcut check during training: logs what the function finds, warns of a frame that tells."""

import dataclasses
import re

import keras
import pytest

from keras_ssl import PretextTask, SelfSupervisedModel
from keras_ssl.callbacks import ShortcutCheck, rotation_shortcuts
from tests.drawings import CUES, drawings, trained
from tests.tiny import images, pretext_model

NAMES = ["accuracy", "accuracy_masked", "accuracy_mirrored", "border_only"]


@pytest.mark.parametrize("cue", CUES)
def test_only_a_frame_that_reveals_the_rotation_warns(cue):
    model, history, told = trained(cue)
    found = rotation_shortcuts(model, drawings(cue, seed=1))
    assert {name: history[f"shortcut_{name}"][-1] for name in NAMES} == found
    assert len(history["shortcut_border_only"]) == 12
    assert history["shortcut_border_only"][4] == history["shortcut_border_only"][7]
    if cue == "stamp in a corner":
        (warning,) = told
        assert re.search(r"recognizes \d+% of the rotations from border and corners", warning)
    else:
        assert not told


@keras.saving.register_keras_serializable("tests")
@dataclasses.dataclass(frozen=True)
class Brightness(PretextTask):
    """Another task than rotation."""

    def preprocess(self, images, seed):
        return images, keras.ops.mean(images, axis=(1, 2, 3))

    def build_network(self, encoder, input_shape):
        inputs = keras.Input(input_shape)
        features = keras.layers.Flatten()(encoder(inputs))
        return keras.Model(inputs, keras.layers.Dense(1)(features)[:, 0])

    def compute_loss(self, targets, outputs):
        return (targets - outputs) ** 2


def test_other_tasks_raise():
    with pytest.raises(ValueError, match="`tolerance` must be at least 0 and below 1"):
        ShortcutCheck(images(), tolerance=1.0)
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1"):
        ShortcutCheck(images(), every=0)
    model = SelfSupervisedModel(Brightness(), pretext_model().encoder, seed=0)
    with pytest.raises(TypeError, match="requires a model with a RotationTask"):
        model.fit_pretext(images(), callbacks=[ShortcutCheck(images())], verbose=0, epochs=1)

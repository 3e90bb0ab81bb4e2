"""The shortcut check during training: logs what the function finds, warns of a frame that tells."""

import dataclasses
import warnings

import keras
import pytest

from keras_ssl import PretextTask, RotationGuards, SelfSupervisedModel
from keras_ssl.callbacks import ShortcutCheck
from keras_ssl.tasks import rotation_shortcuts
from tests.drawings import drawings, trained
from tests.tiny import assert_same, images, pretext_model, weights

NAMES = ["accuracy", "accuracy_masked", "accuracy_mirrored", "border_only"]


def test_a_frame_that_tells_is_told():
    photos = drawings("stamp in a corner", seed=1)
    with pytest.warns(UserWarning, match=r"tells \d+% of the rotations from border") as told:
        model = trained("stamp in a corner", callbacks=[ShortcutCheck(photos, every=4)])
    assert sum("border and corners" in str(warning.message) for warning in told) == 1
    history = model.history.history
    assert {name: history[f"shortcut_{name}"][-1] for name in NAMES} == rotation_shortcuts(model, photos)
    assert len(history["shortcut_border_only"]) == 12
    assert history["shortcut_border_only"][4] == history["shortcut_border_only"][7]


@pytest.mark.parametrize(
    ("cue", "guards"),
    [("bright left of the centre", None), ("stamp in a corner", RotationGuards())],
    ids=["no frame", "guarded"],
)
def test_no_frame_no_warning(cue, guards):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained(cue, callbacks=[ShortcutCheck(drawings(cue, seed=1), every=9, tolerance=0.2)], guards=guards)


def test_training_is_the_same_bit_for_bit_and_an_interrupted_run_too(tmp_path):
    class Kill(keras.callbacks.Callback):
        armed = False

        def on_train_batch_end(self, batch, logs=None):
            if self.armed and len(self.model.history.epoch) == 3 and batch == 1:
                raise KeyboardInterrupt

    def run(*callbacks, **options):
        model = pretext_model()
        settings = {"epochs": 5, "batch_size": 4, "verbose": 0, **options}
        history = model.fit_pretext(images(), callbacks=list(callbacks), **settings)
        return history.history, weights(model)

    _, plain = run()
    kill, check = Kill(), ShortcutCheck(images(), every=2, tolerance=0.9)
    history, checked = run(check, kill)
    assert_same(plain, checked)
    kill.armed = True
    with pytest.raises(KeyboardInterrupt):
        run(check, kill, backup_dir=tmp_path)
    kill.armed = False
    resumed, again = run(check, kill, backup_dir=tmp_path)
    assert_same(plain, again)
    assert resumed == history


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


def test_what_it_is_not_for_is_refused():
    with pytest.raises(ValueError, match="`tolerance` must be at least 0 and below 1"):
        ShortcutCheck(images(), tolerance=1.0)
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1"):
        ShortcutCheck(images(), every=0)
    model = SelfSupervisedModel(Brightness(), pretext_model().encoder, seed=0)
    with pytest.raises(TypeError, match="for models of a RotationTask"):
        model.fit_pretext(images(), callbacks=[ShortcutCheck(images())], verbose=0)

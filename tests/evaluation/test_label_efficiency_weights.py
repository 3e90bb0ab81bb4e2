"""Given weights: as they are, frozen and fine-tuned, continued by a pretext task, and drawn anew."""

import keras
import numpy as np
import pytest
import tiny

import keras_ssl
from keras_ssl.evaluation import Protocol, label_efficiency, read_records
from keras_ssl.evaluation.records import arm_label, arm_names
from keras_ssl.evaluation.training_runs import _reinitialized
from keras_ssl.reports import report_study

IMAGES, GRADES = tiny.images(60), tiny.grades(60)
QUICK = Protocol(folds=1, fractions=(1.0,), steps=4, validations=2, warmup_fraction=0.5, batch_size=8)


def encoder(seed):
    keras.utils.set_random_seed(seed)
    return tiny.functional_encoder()


class Mark:
    """A recipe that notes the weights it starts from, and sets all kernels to a value."""

    def __init__(self, value):
        self.value, self.found = value, []

    def __call__(self, encoder, images, seed, backup_dir):
        self.found.append([np.array(weight) for weight in encoder.get_weights()])
        encoder.set_weights([np.full_like(weight, self.value) for weight in encoder.get_weights()])

    def get_config(self):
        return {"value": self.value}


def run(folder, pretrained, protocol=QUICK, **settings):
    return label_efficiency(
        IMAGES,
        GRADES,
        encoder=encoder(0),
        pretrained=pretrained,
        head=keras_ssl.OrdinalHead(3),
        output_dir=folder,
        protocol=protocol,
        **settings,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    recipes = {"mark": Mark(0.1), "imagenet+mark": Mark(0.2)}
    given = encoder(1)
    list(run(folder, {**recipes, "imagenet": given}, verbose=False))
    return folder, read_records(folder / "records.jsonl"), recipes, given


def test_a_task_named_after_given_weights_continues_from_them(whole):
    folder, records, recipes, given = whole
    (continued,), (new,) = recipes["imagenet+mark"].found, recipes["mark"].found
    for found, expected in zip(continued, given.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any((a != b).any() for a, b in zip(new, given.get_weights(), strict=True))
    saved = keras.saving.load_model(folder / "encoders" / "imagenet+mark-f0.keras", compile=False)
    assert all((weight == np.float32(0.2)).all() for weight in saved.get_weights())
    assert {(r["task"], r["arm"]): (r["start"], r["pretrained_on"]) for r in records} == {
        ("imagenet", "frozen"): ("imagenet", "given"),
        ("imagenet", "initialized"): ("imagenet", "given"),
        ("imagenet+mark", "frozen"): ("imagenet", "fold"),
        ("imagenet+mark", "initialized"): ("imagenet", "fold"),
        ("mark", "frozen"): ("none", "fold"),
        ("mark", "initialized"): ("none", "fold"),
        ("none", "random"): ("none", "none"),
    }


def test_runs_of_all_weights_are_pairs(whole):
    records = whole[1]
    for shared in ("labels", "seed", "test_rows", "curve_steps", "steps"):
        assert all(record[shared] == records[0][shared] for record in records)
    warmups = {(r["task"], r["arm"]): r["warmup_steps"] for r in records}
    assert warmups["imagenet", "initialized"] == warmups["imagenet+mark", "initialized"] == 2


def test_reports_name_weights_and_task(whole):
    folder, records, _, _ = whole
    assert [arm_label(name) for name in arm_names(records)] == [
        "ImageNet, frozen",
        "ImageNet + mark, frozen",
        "mark, frozen",
        "ImageNet, fine-tuned",
        "ImageNet + mark, fine-tuned",
        "mark, fine-tuned",
        "from scratch",
    ]
    # Text, as from the CSV table, gives the same names.
    assert arm_names(read_records(folder / "records.csv")) == arm_names(records)
    page = report_study(records, folder).read_text()
    assert "Gain over the same weights without pretraining" in page


def test_other_weights_to_start_from_are_another_study(whole, tmp_path, capsys):
    recipe = Mark(0.1)
    list(run(tmp_path, {"a+mark": recipe}, arms("initialized")))
    assert "continues from" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"start of a\+mark: saved 'none', now 'a'"):
        run(tmp_path, {"a+mark": recipe, "a": encoder(1)}, arms("initialized"))
    list(run(tmp_path / "new", {"a+mark": recipe, "a": encoder(1)}, arms("initialized")))
    assert "a+mark: pretraining continues from the weights of a" in capsys.readouterr().out


def arms(*names):
    return Protocol(**{**vars(QUICK), "arms": names})


def test_layers_that_were_saved_as_frozen_are_new_and_trained_from_scratch():
    inputs = keras.Input(tiny.SHAPE)
    normalized = keras.layers.Normalization()
    normalized.adapt(IMAGES)
    x = keras.layers.Conv2D(4, 3, name="conv")(normalized(inputs))
    given = keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(x))
    given.get_layer("norm").set_weights([np.full(4, value) for value in (2.0, 3.0, 4.0, 5.0)])
    kernel = given.get_layer("conv").get_weights()[0]
    given.trainable = False
    new = _reinitialized(given, tiny.SHAPE)
    assert len(new.trainable_weights) == 4
    assert (new.get_layer("conv").get_weights()[0] != kernel).any()
    assert [float(values[0]) for values in new.get_layer("norm").get_weights()] == [1, 0, 0, 1]
    for kept, expected in zip(new.layers[1].get_weights(), normalized.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, expected)

"""Metrics of one's own in FineTuner: they get labels and probabilities, whatever the head's targets are."""

import keras
import numpy as np
import pytest
import tiny
from sklearn.metrics import f1_score, mean_absolute_error

from keras_ssl import (
    ClassificationHead,
    FineTuner,
    MultiHotHead,
    OrdinalHead,
    RegressionHead,
    SegmentationHead,
    encoders,
)
from keras_ssl.metrics import QuadraticWeightedKappa

IMAGES = tiny.images(12)
HEADS = {"ordinal": OrdinalHead, "multi-hot": MultiHotHead, "classes": ClassificationHead}


def tuner(head, metrics):
    keras.utils.set_random_seed(0)
    return FineTuner(tiny.sequential_encoder(), head, metrics=metrics, seed=0)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_they_agree_with_scikit_learn_in_training_validation_and_evaluate(name, classes):
    labels = tiny.grades(12, classes)
    made = tuner(
        HEADS[name](classes),
        [
            keras.metrics.AUC(num_thresholds=2000, name="auc"),
            keras.metrics.F1Score("macro"),
            "accuracy",
            QuadraticWeightedKappa(classes, name="kappa"),
        ],
    )
    history = made.fit(IMAGES, labels, validation_data=(IMAGES, labels), epochs=2, verbose=0).history
    names = {"auc", "f1_score", "accuracy", "kappa"}
    assert names | {f"val_{metric}" for metric in names} <= set(history)
    results = made.evaluate(IMAGES, labels, batch_size=5)
    for metric in names:
        assert history[f"val_{metric}"][-1] == pytest.approx(results[metric], abs=1e-5)
    probabilities = made.predict_probabilities(IMAGES)
    likeliest = probabilities.argmax(axis=1)
    scores = probabilities[:, 1] if classes == 2 else probabilities
    truth = labels if classes == 2 else np.eye(classes)[labels]
    area = keras.metrics.AUC(num_thresholds=2000)
    area.update_state(truth, scores)
    assert results["auc"] == pytest.approx(float(area.result()), abs=1e-5)
    # Keras takes the class with the highest probability, or where two are alike, both.
    assert results["f1_score"] == pytest.approx(f1_score(labels, likeliest, average="macro"), abs=1e-5)


def test_numbers_and_masks():
    made = tuner(RegressionHead(), ["mae"])
    values = np.linspace(0, 1, 12)
    assert "val_mae" in made.fit(IMAGES, values, validation_data=(IMAGES, values), verbose=0).history
    expected = mean_absolute_error(values, made.predict(IMAGES))
    assert made.evaluate(IMAGES, values)["mae"] == pytest.approx(expected, abs=1e-5)
    unet = encoders.unet_encoder(tiny.SHAPE, filters=(4, 8))
    metrics = [keras.metrics.MeanIoU(2, sparse_y_pred=False), keras.metrics.Recall(name="recall")]
    made = FineTuner(unet, SegmentationHead(2), metrics=metrics, seed=0)
    masks = (IMAGES[..., 0] > 0.5).astype("uint8")
    history = made.fit(IMAGES, masks, validation_data=(IMAGES, masks), verbose=0).history
    assert {"mean_io_u", "val_recall", "val_dice"} <= set(history)
    found = made.predict(IMAGES)
    assert made.evaluate(IMAGES, masks)["recall"] == pytest.approx(found[masks == 1].mean(), abs=0.01)


def test_a_resumed_run_has_them_and_a_saved_model_has_not(tmp_path):
    def run(folder, stop=None):
        made = tuner(OrdinalHead(3), [keras.metrics.SparseCategoricalAccuracy(name="right")])
        callbacks = [tiny.stop(stop)]
        data = {"validation_data": (IMAGES, tiny.grades()), "backup_dir": folder, "callbacks": callbacks}
        return made, made.fit(IMAGES, tiny.grades(), epochs=3, batch_size=4, verbose=0, **data).history

    made, expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop=2)
    assert run(tmp_path / "stopped")[1] == expected
    made.model.save(tmp_path / "model.keras")
    assert "keras_ssl" not in str(made.model.get_compile_config())
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert "right" not in loaded.evaluate(IMAGES, np.zeros((12, 2)), return_dict=True, verbose=0)


@pytest.mark.parametrize("kind", ["EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint"])
def test_callbacks_know_that_higher_kappa_is_better(kind, tmp_path):
    made = tuner(OrdinalHead(3), None)
    first = (tmp_path / "best.keras",) if kind == "ModelCheckpoint" else ()
    callback = getattr(keras.callbacks, kind)(*first, monitor="val_qw_kappa")
    made.fit(IMAGES, tiny.grades(), validation_data=(IMAGES, tiny.grades()), verbose=0, callbacks=[callback])
    assert callback.monitor_op is keras.ops.greater
    least = getattr(keras.callbacks, kind)(*first, monitor="val_qw_kappa", mode="min")
    made.fit(IMAGES, tiny.grades(), validation_data=(IMAGES, tiny.grades()), verbose=0, callbacks=[least])
    assert least.monitor_op is keras.ops.less


def test_dice_too_and_metrics_of_users():
    unet = encoders.unet_encoder(tiny.SHAPE, filters=(4, 8))
    made = FineTuner(unet, SegmentationHead(2), metrics=[keras.metrics.AUC(name="area")], seed=0)
    masks = (IMAGES[..., 0] > 0.5).astype("uint8")
    callbacks = [keras.callbacks.EarlyStopping(monitor) for monitor in ("val_dice", "val_area")]
    made.fit(IMAGES, masks, validation_data=(IMAGES, masks), verbose=0, callbacks=callbacks)
    assert all(callback.monitor_op is keras.ops.greater for callback in callbacks)


def test_what_is_no_metric_raises():
    with pytest.raises((TypeError, ValueError), match=r"`metrics` must be|interpret metric identifier"):
        tuner(OrdinalHead(3), [3])


def test_accuracy_and_errors_match_the_grades_that_are_predicted():
    """Of an ordinal head the grade, a median, is not always the most probable one."""
    labels = tiny.grades(12, 3)
    made = tuner(OrdinalHead(3), ["accuracy", keras.metrics.MeanAbsoluteError(name="mae")])
    history = made.fit(IMAGES, labels, validation_data=(IMAGES, labels), epochs=2, verbose=0).history
    predicted, results = made.predict(IMAGES), made.evaluate(IMAGES, labels)
    assert results["accuracy"] == pytest.approx(np.mean(predicted == labels))
    assert history["val_accuracy"][-1] == pytest.approx(history["val_grade_accuracy"][-1])
    assert results["mae"] == pytest.approx(mean_absolute_error(labels, predicted))

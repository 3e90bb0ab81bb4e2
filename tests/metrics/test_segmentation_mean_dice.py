"""The metric against the pure functions on label maps, and its counts at the ends of float32 and int32."""

import keras
import numpy as np
import pytest

from keras_ssl.losses import SoftDice
from keras_ssl.metrics import MeanDice
from keras_ssl.metrics.segmentation import dice_scores, label_confusion, mean_dice

BASE = 2**20


def batch(spatial=(6, 5), seed=0, classes=4, images=3):
    """Label maps and probabilities that agree with them more often than not."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, (images, *spatial))
    predicted = 0.4 * np.eye(classes)[true] + 0.6 * rng.dirichlet(np.ones(classes), true.shape)
    return true, predicted.astype("float32")


def counted(metric, *pairs):
    for true, predicted in pairs:
        metric.update_state(true, predicted)
    return float(metric.result())


def voxels_of(confusion):
    return np.stack([np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_metric_is_mean_dice_of_all_label_maps_together(spatial):
    pairs = [batch(spatial, seed) for seed in range(3)]
    confusion = sum(label_confusion(true, predicted.argmax(axis=-1), 4) for true, predicted in pairs)
    for include_background in (False, True):
        metric = MeanDice(4, include_background)
        assert np.isnan(float(metric.result()))
        found = counted(metric, *pairs)
        assert found == pytest.approx(mean_dice(confusion, include_background), abs=1e-6)
        np.testing.assert_array_equal(metric.voxels(), voxels_of(confusion))
    metric.reset_state()
    assert not metric.voxels().any()
    assert counted(metric, (pairs[0][0], np.eye(4)[pairs[0][0]])) == 1


def test_absent_classes_are_left_out():
    true, predicted = np.zeros((2, 3, 6, 5), int)
    assert np.isnan(counted(MeanDice(4), (true, np.eye(4)[predicted])))
    true[:, 0], predicted[:, 0], predicted[:, 1] = 1, 1, 2
    found = counted(MeanDice(4), (true, np.eye(4)[predicted]))
    assert found == 0.5
    assert found == np.nanmean(dice_scores(label_confusion(true, predicted, 4))[1:])


def test_truth_may_be_written_in_several_ways_and_predictions_be_logits():
    true, predicted = batch()
    expected = counted(MeanDice(4), (true, predicted))
    for written in (true[..., None], true.astype("float32"), np.eye(4)[true], 0.8 * np.eye(4)[true] + 0.05):
        assert counted(MeanDice(4), (written, predicted)) == expected
    assert counted(MeanDice(4), (true, np.log(predicted))) == expected


@pytest.mark.parametrize("start", [2**20 - 1, 2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**45 + 3])
def test_one_voxel_counts_however_many_there_are(start):
    metric = MeanDice(2)
    metric.digits.assign(np.stack(np.divmod(np.full((3, 2), start), BASE)).astype("int32"))
    assert (metric.voxels() == start).all()
    metric.update_state([[1]], [[[0.0, 1.0]]])
    assert metric.voxels().tolist() == [[start, start + 1]] * 3
    assert (keras.ops.convert_to_numpy(metric.digits)[1] < BASE).all()
    assert float(metric.result()) == pytest.approx(1)


def test_a_large_batch_is_carried_over():
    metric = MeanDice(2)
    true = np.ones((3, 1024, 512), "uint8")
    metric.update_state(true, np.broadcast_to(np.float32([0, 1]), (*true.shape, 2)))
    metric.update_state(true[:, :1, :1], np.broadcast_to(np.float32([1, 0]), (3, 1, 1, 2)))
    assert metric.voxels().tolist() == [[0, 3 * BASE // 2], [0, 3 * BASE // 2 + 3], [3, 3 * BASE // 2]]
    assert float(metric.result()) == pytest.approx(3 * BASE / (3 * BASE + 3), abs=1e-7)


def test_compiled_metric_is_that_of_the_predictions():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4, 3, 5, 1)).astype("float32"), rng.integers(0, 3, (10, 4, 3, 5))
    softmax = keras.layers.Conv3D(3, 1, activation="softmax", dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((4, 3, 5, 1)), softmax])
    # PyTorch takes one step per execution only.
    steps = 1 if keras.backend.backend() == "torch" else 3
    model.compile("sgd", SoftDice(), metrics=[MeanDice(3)], steps_per_execution=steps)
    # Without `mode`: the metric says itself that more is better.
    stop = keras.callbacks.EarlyStopping("val_dice")
    history = model.fit(
        x, y, validation_data=(x[:7], y[:7]), batch_size=2, epochs=2, verbose=0, callbacks=[stop]
    ).history
    assert stop.best == max(history["val_dice"])
    predicted = model.predict(x[:7], batch_size=2, verbose=0).astype("float32").argmax(axis=-1)
    expected = mean_dice(label_confusion(y[:7], predicted, 3))
    assert history["val_dice"][-1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("label", "output"), [(4, 0.5), (-1, 0.5), (0.5, 0.5), (np.nan, 0.5), (1, np.nan)])
def test_what_cannot_be_counted_makes_the_metric_nan_until_its_reset(label, output):
    metric = MeanDice(4)
    true, predicted = batch()
    broken, outputs = true.astype("float32"), predicted.copy()
    broken[1, 2, 3], outputs[1, 2, 3, 0] = label, output
    assert np.isnan(counted(metric, (broken, outputs), (true, predicted)))
    metric.reset_state()
    assert np.isfinite(counted(metric, (true, predicted)))


def test_compiled_model_is_saved_and_loaded_with_its_metric(tmp_path):
    model = keras.Sequential([keras.Input((6, 5, 1)), keras.layers.Conv2D(3, 1, activation="softmax")])
    model.compile("sgd", "mse", metrics=[MeanDice(3, include_background=True, name="overlap")])
    x = np.random.default_rng(0).normal(size=(4, 6, 5, 1)).astype("float32")
    y = np.eye(3)[np.random.default_rng(1).integers(0, 3, (4, 6, 5))]
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert 0 < expected["overlap"] < 1
    assert loaded.evaluate(x, y, verbose=0, return_dict=True) == expected


def test_configuration_makes_the_same_metric_again():
    metric = MeanDice(4, include_background=True, name="overlap")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert again.get_config() == metric.get_config()
    assert (again.num_classes, again.include_background, again.name) == (4, True, "overlap")


def test_invalid_arguments():
    true, predicted = batch()
    with pytest.raises(ValueError, match=r"`num_classes` must be at least 2. Received 1"):
        MeanDice(1)
    with pytest.raises(ValueError, match=r"`y_pred` must have shape \(batch, \*spatial, 3\)"):
        MeanDice(3).update_state(true, predicted)
    with pytest.raises(ValueError, match=r"`true` must be label maps.*Received shape \(3, 6, 4\)"):
        MeanDice(4).update_state(true[..., :4], predicted)
    with pytest.raises(
        ValueError, match=r"`sample_weight` must be None.*`weighted_metrics`. Received ndarray"
    ):
        MeanDice(4).update_state(true, predicted, np.ones(3))

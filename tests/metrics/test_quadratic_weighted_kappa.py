import keras
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from keras_ssl.metrics import QuadraticWeightedKappa, quadratic_weighted_kappa
from keras_ssl.metrics.grades import grade_confusion


def _reference(true, predicted, num_grades=5, sample_weight=None):
    return cohen_kappa_score(
        true, predicted, labels=range(num_grades), weights="quadratic", sample_weight=sample_weight
    )


def _related_grades(rng, rows, num_grades=5):
    true = rng.integers(0, num_grades, rows)
    return true, np.clip(true + rng.integers(-1, 3, rows), 0, num_grades - 1)


def _classifier(num_grades=5, dtype=None):
    softmax = keras.layers.Dense(num_grades, activation="softmax", dtype=dtype)
    return keras.Sequential([keras.Input((6,)), softmax])


def _expected_kappa(model, x, y):
    return _reference(np.ravel(y), model.predict(x, verbose=0).astype("float32").argmax(axis=1))


@pytest.mark.parametrize("num_grades", [2, 3, 5, 8])
@pytest.mark.parametrize("rows", [7, 1000])
def test_kappa_is_that_of_scikit_learn(num_grades, rows):
    rng = np.random.default_rng(rows)
    true, predicted = _related_grades(rng, rows, num_grades)
    weight = rng.uniform(0, 2, rows)
    for w in (None, weight):
        confusion = grade_confusion(true, predicted, num_grades, w)
        expected = _reference(true, predicted, num_grades, w)
        assert quadratic_weighted_kappa(confusion) == pytest.approx(expected, abs=1e-6)
        on_device = quadratic_weighted_kappa(keras.ops.convert_to_tensor(confusion))
        assert keras.ops.is_tensor(on_device)
        assert float(on_device) == pytest.approx(expected, abs=1e-6)


def test_kappa_of_opposite_swapped_and_scaled_graders():
    confusion = np.random.default_rng(0).integers(1, 9, (4, 4))
    assert quadratic_weighted_kappa(np.fliplr(np.eye(4))) == pytest.approx(-1)
    assert quadratic_weighted_kappa(np.outer([1, 2, 3], [4, 1, 2])) == pytest.approx(0)
    assert quadratic_weighted_kappa(confusion.T) == pytest.approx(quadratic_weighted_kappa(confusion))
    assert quadratic_weighted_kappa(confusion * 1e6) == pytest.approx(quadratic_weighted_kappa(confusion))


@pytest.mark.parametrize("on_device", [False, True])
def test_kappa_is_0_where_scikit_learn_has_none(on_device):
    for confusion in (np.diag([0, 7, 0]), np.zeros((3, 3)), [[0, 4, 3], [0, 0, 0], [0, 0, 0]]):
        given = keras.ops.convert_to_tensor(confusion, "float32") if on_device else confusion
        assert float(quadratic_weighted_kappa(given)) == 0


@pytest.mark.parametrize("on_device", [False, True])
def test_nan_counts_give_nan_and_not_0(on_device):
    confusion = np.full((3, 3), np.nan, "float32")
    given = keras.ops.convert_to_tensor(confusion) if on_device else confusion
    assert np.isnan(float(quadratic_weighted_kappa(given)))


def test_many_matrices_at_once_are_each_alone():
    confusions = np.random.default_rng(0).integers(0, 9, (2, 3, 5, 5))
    alone = [[quadratic_weighted_kappa(confusion) for confusion in row] for row in confusions]
    np.testing.assert_allclose(quadratic_weighted_kappa(confusions), alone)
    tensor = keras.ops.convert_to_tensor(confusions)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(quadratic_weighted_kappa(tensor)), alone, atol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 1), (5, 5, 1)])
def test_invalid_confusions(shape):
    with pytest.raises(ValueError, match="`confusion` must be square"):
        quadratic_weighted_kappa(np.zeros(shape))


def test_garbage_is_counted_and_not_dropped():
    """40 % of predictions clear no threshold; over the rest alone agreement would be perfect."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 500)
    outputs = (true[:, None] >= np.arange(5)) * 0.9
    garbage = rng.random(500) < 0.4
    outputs[garbage] = 0.1
    kappa = QuadraticWeightedKappa(prediction="multi_hot")
    kappa.update_state(true, outputs)
    assert float(kappa.result()) == pytest.approx(_reference(true, np.where(garbage, 0, true)), abs=1e-6)
    assert float(kappa.result()) < 0.6


@pytest.mark.parametrize("weight_shape", [None, (90,), (90, 1)])
def test_batches_give_what_the_whole_gives(weight_shape):
    rng = np.random.default_rng(0)
    true, predicted = _related_grades(rng, 90)
    weight = None if weight_shape is None else rng.uniform(0, 2, weight_shape)
    kappa = QuadraticWeightedKappa(prediction="grades")
    for batch in np.split(np.arange(90), [32, 64]):
        kappa.update_state(true[batch], predicted[batch], None if weight is None else weight[batch])
    expected = _reference(true, predicted, sample_weight=None if weight is None else weight.ravel())
    assert float(kappa.result()) == pytest.approx(expected, abs=1e-6)
    kappa.reset_state()
    kappa.update_state(true, true)
    assert float(kappa.result()) == pytest.approx(1)


@pytest.mark.parametrize("truth", ["grades", "one_hot", "cumulative", "multi_hot"])
def test_truth_may_be_written_like_the_targets_of_the_loss(truth):
    true, predicted = _related_grades(np.random.default_rng(0), 60)
    written = {
        "grades": true,
        "one_hot": np.eye(5)[true],
        "cumulative": true[:, None] > np.arange(4),
        "multi_hot": true[:, None] >= np.arange(5),
    }[truth]
    kappa = QuadraticWeightedKappa(prediction="grades", truth=truth)
    kappa.update_state(written, predicted)
    assert float(kappa.result()) == pytest.approx(_reference(true, predicted), abs=1e-6)


def test_truth_that_is_no_grade_makes_the_metric_nan_until_its_reset():
    kappa = QuadraticWeightedKappa(prediction="grades")
    kappa.update_state([0, 5], [0, 1])
    kappa.update_state([0, 1], [0, 1])
    assert np.isnan(float(kappa.result()))
    kappa.reset_state()
    kappa.update_state([0, 1], [0, 1])
    assert float(kappa.result()) == pytest.approx(1)


def test_compiled_metric_is_that_of_the_predictions():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)).astype("float32"), rng.integers(0, 5, (50, 1))
    model = _classifier()
    # PyTorch takes one step per execution only.
    steps = 1 if keras.backend.backend() == "torch" else 3
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        metrics=[QuadraticWeightedKappa()],
        steps_per_execution=steps,
    )
    # Without `mode`: the metric says itself that more is better.
    stop = keras.callbacks.EarlyStopping("val_qw_kappa")
    validation = (x[:20], y[:20])
    history = model.fit(
        x, y, validation_data=validation, batch_size=8, epochs=2, verbose=0, callbacks=[stop]
    ).history
    assert stop.best == max(history["val_qw_kappa"])
    assert history["val_qw_kappa"][-1] == pytest.approx(_expected_kappa(model, x[:20], y[:20]), abs=1e-6)
    logs = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    assert logs["qw_kappa"] == pytest.approx(_expected_kappa(model, x, y), abs=1e-6)


def test_weighted_metric_counts_weights():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(40, 6)).astype("float32"), rng.integers(0, 5, 40), rng.uniform(0, 2, 40)
    model = _classifier()
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=[QuadraticWeightedKappa()])
    logs = model.evaluate(x, y, sample_weight=weight.astype("float32"), verbose=0, return_dict=True)
    expected = _reference(y, model.predict(x, verbose=0).argmax(axis=1), sample_weight=weight)
    assert logs["qw_kappa"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_counts_stay_exact_in_low_precision(policy):
    """In float16 counting ends at 2048, in bfloat16 at 256."""
    model = _classifier(num_grades=2, dtype=policy)
    kappa = QuadraticWeightedKappa(num_grades=2)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[kappa])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6000, 6)).astype("float32"), rng.integers(0, 2, 6000)
    model.evaluate(x, y, batch_size=1000, verbose=0)
    assert kappa.confusion.dtype == "float32"
    predicted = model.predict(x, batch_size=1000, verbose=0).astype("float32").argmax(axis=1)
    np.testing.assert_array_equal(kappa.confusion.numpy(), grade_confusion(y, predicted, 2))


def test_compiled_model_is_saved_and_loaded_with_its_metric(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)).astype("float32"), rng.integers(0, 3, 30)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    kappa = QuadraticWeightedKappa(3, "score", thresholds=(0.1, 0.2), name="agreement")
    model.compile("sgd", "mse", metrics=[kappa])
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "grader.keras")
    loaded = keras.models.load_model(tmp_path / "grader.keras")
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    assert expected["agreement"] != 0
    assert loaded.evaluate(x, y, verbose=0, return_dict=True) == expected


def test_configuration_makes_the_same_metric_again():
    kappa = QuadraticWeightedKappa(4, "cumulative", "one_hot", thresholds=0.3, name="agreement")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kappa))
    assert again.get_config() == kappa.get_config()
    assert again.thresholds == (0.3, 0.3, 0.3)
    assert QuadraticWeightedKappa().get_config()["thresholds"] is None


def test_invalid_forms():
    with pytest.raises(ValueError, match="Received 'softmax'"):
        QuadraticWeightedKappa(prediction="softmax")
    with pytest.raises(ValueError, match="Received 'labels'"):
        QuadraticWeightedKappa(truth="labels")
    with pytest.raises(ValueError, match="`thresholds` must be None"):
        QuadraticWeightedKappa(thresholds=0.5)
    with pytest.raises(ValueError, match=r"in the form 'probabilities' must have shape \(n, 5\)"):
        QuadraticWeightedKappa().update_state([0, 1], np.zeros((2, 4)))

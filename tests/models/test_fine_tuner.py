"""FineTuner: heads, frozen warm-up, plain grades in and an ordinary Keras model out."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from tiny import (
    SHAPE,
    SubclassedEncoder,
    assert_same,
    differ,
    functional_encoder,
    grades,
    images,
    sequential_encoder,
    weights,
)

from keras_ssl import ClassificationHead, FineTuner, MultiHotHead, OrdinalHead, RegressionHead

HEADS = [OrdinalHead(3), MultiHotHead(3), ClassificationHead(3), RegressionHead(3)]


def tuner(encoder=None, head=HEADS[0], **arguments):
    if encoder is None:
        keras.utils.set_random_seed(0)
        encoder = sequential_encoder()
    return FineTuner(encoder, head, input_shape=SHAPE, **{"seed": 0, **arguments})


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("head", "make"),
    [
        *((head, sequential_encoder) for head in HEADS),
        (HEADS[0], functional_encoder),
        (HEADS[0], SubclassedEncoder),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_every_head_and_every_encoder_learns(head, make):
    fine_tuner = tuner(make(), head, warmup_epochs=1)
    before = weights(fine_tuner.encoder)
    history = fine_tuner.fit(
        images(), grades(), validation_data=(images(6, seed=1), grades(6)), epochs=2, batch_size=4, verbose=0
    )
    assert {"loss", "val_loss", "val_qw_kappa"} <= set(history.history)
    assert differ(before, weights(fine_tuner.encoder))
    predicted = fine_tuner.predict(images())
    assert predicted.shape == (12,)
    assert set(predicted.tolist()) <= {0, 1, 2}
    results = fine_tuner.evaluate(images(), grades(), batch_size=5)
    assert results["accuracy"] == pytest.approx(np.mean(predicted == grades()))
    expected = cohen_kappa_score(grades(), predicted, weights="quadratic")
    assert results["qw_kappa"] == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-6)


def test_a_head_can_fit_what_can_be_fitted():
    labels = grades(24)
    clear = labels[:, None, None, None] / 3 + 0.01 * images(24)
    fine_tuner = tuner(
        sequential_encoder(), OrdinalHead(3, hidden_units=(16,)), optimizer=keras.optimizers.Adam(0.02)
    )
    fine_tuner.fit(clear.astype("float32"), labels, epochs=60, batch_size=24, verbose=0)
    assert fine_tuner.evaluate(clear, labels)["qw_kappa"] > 0.9


@pytest.mark.compiled
def test_warm_up_leaves_the_encoder_bitwise_and_then_trains_it():
    fine_tuner = tuner(functional_encoder(), warmup_epochs=2)
    before = weights(fine_tuner.encoder)
    fine_tuner.fit(images(), grades(), epochs=2, batch_size=4, verbose=0)
    assert_same(before, weights(fine_tuner.encoder))
    fine_tuner.fit(images(), grades(), epochs=3, initial_epoch=2, batch_size=4, verbose=0)
    assert differ(before, weights(fine_tuner.encoder))


def test_a_frozen_encoder_stays_and_runs_without_dropout():
    fine_tuner = tuner(
        functional_encoder(dropout=0.9), encoder_trainable=False, optimizer=keras.optimizers.SGD(0.0)
    )
    before = weights(fine_tuner.encoder)
    history = fine_tuner.fit(images(), grades(), epochs=2, batch_size=12, verbose=0)
    assert_same(before, weights(fine_tuner.encoder))
    # With dropout on, the loss of the training would be another one than that of inference.
    expected = fine_tuner.evaluate(images(), grades())["loss"]
    assert history.history["loss"] == pytest.approx([expected] * 2, rel=1e-5)


def test_an_encoder_that_was_frozen_before_can_be_a_frozen_encoder():
    encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    encoder.add(keras.layers.Dropout(0.9))
    encoder.trainable = False
    fine_tuner = tuner(encoder, encoder_trainable=False, optimizer=keras.optimizers.SGD(0.0))
    history = fine_tuner.fit(images(), grades(), epochs=1, batch_size=12, verbose=0)
    expected = fine_tuner.evaluate(images(), grades())["loss"]
    assert history.history["loss"] == pytest.approx([expected], rel=1e-5)


def test_evaluate_weighs_samples_as_fit_does():
    class Weighted(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            rows = slice(6 * index, 6 * index + 6)
            return images()[rows], grades()[rows], np.arange(12)[rows] / 12

    fine_tuner = tuner(optimizer=keras.optimizers.SGD(0.0))
    logs = fine_tuner.fit(Weighted(), validation_data=Weighted(), epochs=1, verbose=0).history
    results = fine_tuner.evaluate(Weighted())
    assert results["qw_kappa"] == pytest.approx(logs["val_qw_kappa"][0], abs=1e-6)
    expected = cohen_kappa_score(
        grades(), fine_tuner.predict(images()), weights="quadratic", sample_weight=np.arange(12) / 12
    )
    assert results["qw_kappa"] == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-6)


def test_encoder_and_head_can_have_their_own_learning_rates():
    fine_tuner = tuner(
        optimizer=keras.optimizers.SGD(0.1), encoder_optimizer=keras.optimizers.SGD(0.0), warmup_epochs=1
    )
    trainable = [np.array(w) for w in fine_tuner.encoder.trainable_weights]
    head = [np.array(w) for w in fine_tuner.model.trainable_weights[-2:]]
    fine_tuner.fit(images(), grades(), epochs=3, batch_size=4, verbose=0)
    assert_same(trainable, [np.array(w) for w in fine_tuner.encoder.trainable_weights])
    assert differ(head, [np.array(w) for w in fine_tuner.model.trainable_weights[-2:]])


def test_the_thesis_head_has_its_number_of_parameters():
    features = keras.Input((7, 7, 1024))
    head = MultiHotHead(5, hidden_units=(1024,), batch_norm=True, dropout=0.5, pooling="max")
    assert keras.Model(features, head.build(features)).count_params() == 1_058_821


def test_steps_per_epoch_gives_few_labels_as_many_steps():
    for count in (6, 12):
        fine_tuner = tuner()
        fine_tuner.fit(images(count), grades(count), epochs=2, steps_per_epoch=5, batch_size=4, verbose=0)
        assert int(fine_tuner.model.optimizer.iterations) == 10


@pytest.mark.parametrize("kind", ["tf.data", "torch"])
def test_labeled_data_sets(kind):
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((images(), grades())).batch(4)
    else:
        torch = pytest.importorskip("torch")
        pairs = torch.utils.data.TensorDataset(torch.tensor(images()), torch.tensor(grades()))
        data = torch.utils.data.DataLoader(pairs, batch_size=4)
    from_set, from_arrays = tuner(), tuner()
    from_set.fit(data, validation_data=data, epochs=1, verbose=0)
    assert from_set.evaluate(data) == pytest.approx(from_set.evaluate(images(), grades()), abs=1e-5)
    np.testing.assert_array_equal(from_set.predict(images()), from_set.predict(data))
    assert from_arrays.evaluate(data).keys() == {"loss", "qw_kappa", "accuracy"}


@pytest.mark.compiled
def test_streams_without_end_or_of_unknown_length():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((images(), grades())).batch(4)
    fine_tuner = tuner()
    fine_tuner.fit(data.repeat(), epochs=2, steps_per_epoch=2, verbose=0)
    assert int(fine_tuner.model.optimizer.iterations) == 4
    filtered = data.filter(lambda x, y: True)
    assert fine_tuner.evaluate(filtered) == pytest.approx(fine_tuner.evaluate(data))
    with pytest.raises(ValueError, match="`steps_per_epoch` must be given"):
        fine_tuner.fit(data.repeat(), verbose=0)


@pytest.mark.compiled
def test_augmentation_is_seeded_and_seen():
    seen = []

    def augment(batch, generator):
        seen.append(generator.integers(1000))
        return batch[:, ::-1]

    for _ in range(2):
        tuner().fit(images(), grades(), epochs=2, batch_size=4, augment=augment, verbose=0)
    assert len(set(seen)) >= 6
    assert set(seen[: len(seen) // 2]) == set(seen[len(seen) // 2 :])


@pytest.mark.slow
def test_the_model_loads_without_this_library(tmp_path):
    fine_tuner = tuner(functional_encoder(), warmup_epochs=1)
    fine_tuner.fit(images(), grades(), epochs=2, batch_size=4, verbose=0)
    fine_tuner.model.save(tmp_path / "grader.keras")
    np.save(tmp_path / "expected.npy", fine_tuner.model.predict(images(), verbose=0))
    np.save(tmp_path / "images.npy", images())
    script = f"""
        import sys
        sys.modules["keras_ssl"] = None
        import keras, numpy as np
        model = keras.saving.load_model({str(tmp_path / "grader.keras")!r})
        got = model.predict(np.load({str(tmp_path / "images.npy")!r}), verbose=0)
        np.testing.assert_allclose(got, np.load({str(tmp_path / "expected.npy")!r}), atol=1e-6)
        model.fit(np.load({str(tmp_path / "images.npy")!r}), np.zeros((12, 2)), verbose=0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("stop_at", "own_optimizer", "make"), [(1, False, functional_encoder), (3, True, sequential_encoder)]
)
def test_resume_in_and_after_the_warm_up_is_bitwise(stop_at, own_optimizer, make, tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.armed and len(self.model.history.epoch) == stop_at and batch == 1:
                raise KeyboardInterrupt

    def run(armed, backup_dir):
        kill = Kill()
        kill.armed = armed
        schedule = keras.optimizers.schedules.CosineDecay(0.01, 15)
        keras.utils.set_random_seed(0)
        fine_tuner = tuner(
            make(),
            warmup_epochs=2,
            optimizer=keras.optimizers.Adam(schedule),
            encoder_optimizer=keras.optimizers.Adam(1e-4) if own_optimizer else None,
        )
        keras.utils.set_random_seed(armed)
        history = fine_tuner.fit(
            images(),
            grades(),
            validation_data=(images(6, seed=1), grades(6)),
            epochs=5,
            batch_size=4,
            callbacks=[kill],
            backup_dir=backup_dir,
            verbose=0,
        )
        return weights(fine_tuner.model), history.history

    expected, history = run(False, None)
    with pytest.raises(KeyboardInterrupt):
        run(True, tmp_path)
    resumed, resumed_history = run(False, tmp_path)
    assert_same(expected, resumed)
    assert resumed_history == history


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1], "3 in row 3"),
        ([0, 1, 2, -1, 0, 1, 2, 0, 1, 2, 0, 1], "-1"),
        ([0, 1, 2, np.nan, 0, 1, 2, 0, 1, 2, 0, 1], "nan"),
        ([1] * 12, "more than one grade"),
        ([0, 1, 2], "one length"),
    ],
)
def test_bad_labels_raise_before_training(labels, message):
    fine_tuner = tuner()
    with pytest.raises(ValueError, match=message):
        fine_tuner.fit(images(), labels, verbose=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((3, *SHAPE), np.nan, "float32"), "finite"),
        (np.zeros((0, *SHAPE), "float32"), "empty"),
        (np.zeros((4, 8, 8), "float32"), "channels"),
        (np.zeros((3, 8, 8, 1), "float32"), "3 channels"),
    ],
)
def test_bad_images_raise_before_training(bad, message):
    with pytest.raises(ValueError, match=message):
        tuner().fit(bad, grades(len(bad)) if len(bad) else [0, 1], verbose=0)
    with pytest.raises(ValueError, match=message):
        tuner().predict(bad)


def test_bad_arguments_raise():
    with pytest.raises(TypeError, match="`head` must be a Head"):
        FineTuner(functional_encoder(), 5)
    with pytest.raises(ValueError, match="`warmup_epochs`"):
        tuner(warmup_epochs=2, encoder_trainable=False)
    with pytest.raises(ValueError, match="`epochs` must not be negative"):
        tuner(warmup_epochs=-1)
    with pytest.raises(ValueError, match="`seed` must be None or an integer"):
        tuner(seed=-1)
    with pytest.raises(ValueError, match="`labels` must be given"):
        tuner().fit(images())

"""Generators, streams, lists, dictionaries and weights in whole fits."""

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import (
    ClassificationHead,
    FineTuner,
    MultiHotHead,
    OrdinalHead,
    RegressionHead,
    SegmentationHead,
)
from keras_ssl._checks import as_numpy

IMAGES, GRADES = tiny.images(), tiny.grades()


def tuner(head=None):
    keras.utils.set_random_seed(0)
    return FineTuner(tiny.sequential_encoder(), head or OrdinalHead(3), seed=0)


def images(count):
    return (IMAGES[:4] for _ in range(count))


class Anew:
    """Batches of unknown number, made anew for every pass."""

    def __iter__(self):
        for start in (0, 5, 10):
            yield IMAGES[start : start + 5], GRADES[start : start + 5]


def test_a_generator_is_trained_on_epoch_by_epoch_and_left_where_it_was():
    model, generator = tiny.quick_model(), images(9)
    model.compile("adam")
    for fits in (1, 2):
        history = model.fit_pretext(generator, steps_per_epoch=2, epochs=2, verbose=0)
        assert len(history.epoch) == 2
        assert int(model.optimizer.iterations) == 4 * fits
    assert len(list(generator)) == 1


def test_a_generator_without_steps_is_trained_on_to_its_end():
    model = tiny.quick_model()
    model.fit_pretext(
        ({"scan": batch, "id": ["a"] * 4} for batch in images(5)), image_key="scan", verbose=0, epochs=1
    )
    assert int(model.optimizer.iterations) == 5


@pytest.mark.parametrize(("count", "epochs"), [(5, 3), (4, 2), (1, 1)])
def test_a_generator_that_ends_early_warns_with_counts_and_ends_training(count, epochs):
    model = tiny.quick_model()
    message = rf"after {count} of 8 batches \(2 per epoch\): .* in epoch {epochs} of 4"
    with pytest.warns(UserWarning, match=message):
        history = model.fit_pretext(images(count), steps_per_epoch=2, epochs=4, verbose=0)
    assert len(history.epoch) == epochs
    assert int(model.optimizer.iterations) == count
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.compiled
def test_a_labeled_generator_trains_as_its_batches_do():
    data = list(Anew())
    found = []
    for given, steps in ((iter(data * 2), 3), (data, None), (Anew(), None)):
        fine_tuner = tuner()
        history = fine_tuner.fit(
            given, validation_data=Anew(), steps_per_epoch=steps, epochs=2, verbose=0
        ).history
        found.append([history["loss"], history["val_loss"], history["val_qw_kappa"]])
        assert int(fine_tuner.model.optimizer.iterations) == 6
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 2}, r"`steps_per_epoch` must be given to train for several epochs on a generator"),
        ({"backup_dir": "backup"}, r"`backup_dir` must be None with a generator"),
        ({"validation_data": images(1)}, r"`validation_data` must be .* again every epoch"),
        ({"validation_split": 0.5}, r"`validation_split` must be 0 where `images` is a data set"),
    ],
)
def test_what_a_generator_cannot_do_raises(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        tiny.quick_model().fit_pretext(images(4), verbose=0, **arguments)
    with pytest.raises(ValueError, match=message):
        tuner().fit(iter(Anew()), verbose=0, **arguments)


def test_streams_of_unknown_length_are_read_to_their_end():
    fine_tuner = tuner()
    expected = fine_tuner.evaluate(IMAGES, GRADES, batch_size=5)
    for stream in (Anew(), iter(Anew())):
        assert fine_tuner.evaluate(stream) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(fine_tuner.predict(Anew()), fine_tuner.predict(IMAGES))
    model = tiny.quick_model()
    history = model.fit_pretext(Anew(), validation_data=Anew(), epochs=2, verbose=0).history
    assert int(model.optimizer.iterations) == 6
    assert len(history["val_loss"]) == 2


def test_a_stop_in_the_last_batch_of_a_stream_counts():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    history = tiny.quick_model().fit_pretext(Anew(), epochs=3, callbacks=[Stop()], verbose=0)
    assert len(history.epoch) == 1
    stopping = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0)
    history = tiny.quick_model().fit_pretext(Anew(), epochs=3, callbacks=[stopping], verbose=0)
    assert len(history.epoch) == 2


def test_lists_of_images_and_labels_train_as_arrays():
    found = []
    for part in (np.asarray, list):
        fine_tuner = tuner()
        history = fine_tuner.fit(
            part(IMAGES), part(GRADES), validation_data=(part(IMAGES), part(GRADES)), verbose=0
        )
        model = tiny.quick_model()
        pretext = model.fit_pretext(part(IMAGES), validation_data=part(IMAGES), verbose=0, epochs=1)
        found.append([history.history, pretext.history, fine_tuner.evaluate(part(IMAGES), part(GRADES))])
    assert found[0] == found[1]


def test_one_hot_labels_train_as_grades():
    one_hot = np.eye(3)[GRADES]
    for head in (OrdinalHead(3), MultiHotHead(3), ClassificationHead(3), RegressionHead(3)):
        for labels in (one_hot, one_hot.tolist(), keras.ops.convert_to_tensor(one_hot)):
            np.testing.assert_array_equal(head.encode(as_numpy(labels)), head.encode(GRADES))
    found = [
        tuner().fit(IMAGES, labels, validation_data=(IMAGES, labels), verbose=0).history
        for labels in (GRADES, one_hot)
    ]
    assert found[0] == found[1]


def test_labels_in_a_column_of_a_table():
    pandas = pytest.importorskip("pandas")
    labels = pandas.Series(GRADES, index=range(100, 112))
    found = [tuner().fit(IMAGES, each, verbose=0).history for each in (GRADES, labels)]
    assert found[0] == found[1]


def test_class_weight_is_sample_weight_of_each_class():
    weights = {0: 2.0, 2: 0.5}
    of_images = np.array([2.0, 1.0, 0.5])[GRADES]
    given = np.linspace(0.5, 1.5, 12)

    def fit(*data, **arguments):
        fine_tuner = tuner()
        fine_tuner.fit(*data, verbose=0, **arguments)
        return tiny.weights(fine_tuner.model)

    both = (of_images * given).astype("float32")
    expected = fit(IMAGES, GRADES, sample_weight=both)
    tiny.assert_same(fit(IMAGES, GRADES, class_weight=weights, sample_weight=given), expected)
    tiny.assert_same(fit([(IMAGES, GRADES, given)], class_weight=weights), fit([(IMAGES, GRADES, both)]))
    assert tiny.differ(fit(IMAGES, GRADES, sample_weight=given), expected)


def test_class_weight_of_masks_or_numbers_raises():
    masks = (IMAGES[..., 0] > 0.5).astype(int)
    for head, labels in ((SegmentationHead(2), masks), (RegressionHead(), GRADES)):
        with pytest.raises(ValueError, match=f"`class_weight` must be None for a {type(head).__name__}"):
            FineTuner(tiny.functional_encoder(), head, seed=0).fit(
                IMAGES, labels, class_weight={0: 1.0}, verbose=0
            )


def test_validation_split_takes_the_last_rows_out_of_training():
    split = {"validation_split": 0.25, "batch_size": 3, "epochs": 2, "verbose": 0}
    parts = {"batch_size": 3, "epochs": 2, "verbose": 0}
    found = tiny.quick_model().fit_pretext(IMAGES, **split).history
    expected = tiny.quick_model().fit_pretext(IMAGES[:9], validation_data=IMAGES[9:], **parts).history
    assert found == expected
    given = np.linspace(0.5, 1.5, 12)
    found = tuner().fit(IMAGES, GRADES, sample_weight=given, **split).history
    last = (IMAGES[9:], GRADES[9:], given[9:])
    arguments = {"sample_weight": given[:9], "validation_data": last}
    assert found == tuner().fit(IMAGES[:9], GRADES[:9], **arguments, **parts).history


def test_validation_data_of_another_kind_than_the_training_data():
    batch = {"image": np.moveaxis(IMAGES, -1, 1), "label": GRADES}
    keys = {"image_key": "image", "label_key": "label", "data_format": "channels_first"}
    arrays = (np.moveaxis(IMAGES, -1, 1), GRADES)
    found = [
        tuner().fit([batch], validation_data=data, **keys, verbose=0).history["val_loss"]
        for data in (arrays, [batch])
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    for bad, message in (
        ((IMAGES, [np.nan] * 12), r"whole numbers in 0\.\.2\. Received nan in row 0 and 11 more"),
        ((IMAGES, GRADES, [np.inf] * 12), r"`sample_weight` must be finite"),
        (IMAGES, r"`labels` must be given with an array of images"),
    ):
        with pytest.raises(ValueError, match=message):
            tuner().fit(IMAGES, GRADES, validation_data=bad, verbose=0)

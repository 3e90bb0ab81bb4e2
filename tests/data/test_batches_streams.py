"""Epochs of streams, as Keras reads them on each backend, and what is read before training begins."""

import sys
import warnings

import keras
import numpy as np
import pytest

from keras_ssl.data.batches import StreamBatches, length_of


def same(batch):
    return batch


def batches(count, start=0):
    return [(np.full((2, 1), start + number, "float32"),) for number in range(count)]


def numbers(epoch):
    return [int(batch[0][0, 0]) for batch in epoch]


class Again:
    """A data set of unknown length that is made anew for every pass, a batch longer each time."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        self.count += 1
        yield from batches(self.count - 1)


class Unknown(keras.utils.PyDataset):
    """A data set that does not tell its length."""

    num_batches = None

    def __getitem__(self, index):
        return batches(3)[index]


def test_an_epoch_is_a_pass_to_the_end_however_long():
    stream = StreamBatches(Again(2), same)
    assert [numbers(stream) for _ in range(3)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_steps_continue_a_stream_and_start_it_again():
    part = StreamBatches(batches(3), same, steps_per_epoch=2)
    assert [numbers(part) for _ in range(3)] == [[0, 1], [2, 0], [1, 2]]
    # A pass that is an epoch starts anew, also where it was not read to its end.
    whole = StreamBatches(batches(3), same, steps_per_epoch=3)
    next(iter(whole))
    assert numbers(whole) == [0, 1, 2]


def test_a_generator_is_continued_and_read_no_further_than_asked():
    read = []
    stream = StreamBatches((read.append(number) or batch for number, batch in enumerate(batches(5))), same, 2)
    assert numbers([stream.first()]) == [0]
    assert read == [0]
    assert numbers(stream) == [0, 1]
    assert not stream.has_ended()
    assert read == [0, 1]
    assert not stream.has_ended(look=True)
    assert [numbers(stream), numbers(stream)] == [[2, 3], [4]]
    assert stream.has_ended()


class Seen(keras.layers.Layer):
    """Keeps the sum and the number of what it was trained on."""

    def build(self, shape):
        self.total = self.add_weight(shape=(2,), initializer="zeros", trainable=False)

    def call(self, inputs, training=False):
        if training:
            self.total.assign(self.total + keras.ops.stack([keras.ops.sum(inputs), 1.0]))
        return inputs


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("kind", ["generator", "list", "unknown length", "PyDataset"])
def test_fit_trains_on_every_batch_once(kind, epochs):
    stream, steps = {
        "generator": (iter(batches(2 * epochs)), 2),
        "list": (batches(2), None),
        "unknown length": (Again(2), None),
        "PyDataset": (Unknown(), None),
    }[kind]
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Seen(name="seen")(inputs)))
    # Keras reads a batch to build the loss by.
    model.compile("sgd", "mse")
    data = StreamBatches(stream, lambda batch: (batch[0], batch[0]), steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        history = model.fit(data, epochs=epochs, shuffle=False, verbose=0)
    expected = {
        "generator": list(range(2 * epochs)),
        "list": [0, 1] * epochs,
        # The first pass was made to see the first batch, on TensorFlow and where Keras built by it, others.
        "unknown length": None,
        "PyDataset": [0, 1, 2] * epochs,
    }[kind]
    total, steps = keras.ops.convert_to_numpy(model.get_layer("seen").total)
    assert len(history.history["loss"]) == epochs
    if expected is None:
        last = stream.count - 1
        lengths = range(last, last - epochs, -1)
        assert (total, steps) == (2 * sum(sum(range(length)) for length in lengths), sum(lengths))
    else:
        assert (total, steps) == (2 * sum(expected), len(expected))


def test_a_data_set_without_a_number_of_batches_ends_at_an_index_error_and_says_so():
    with pytest.warns(UserWarning, match="The Unknown, whose .* after 3 batches, since it raised"):
        assert numbers(StreamBatches(Unknown(), same)) == [0, 1, 2]
    with pytest.warns(UserWarning, match="after 3 batches"):
        assert numbers(StreamBatches(Unknown(workers=2), same)) == [0, 1, 2]


def test_lengths_are_known_unknown_or_endless():
    assert length_of([1, 2]) == 2
    assert length_of(Again(2)) is None
    assert length_of(Unknown()) is None
    grain = pytest.importorskip("grain")
    data = grain.MapDataset.source([1, 2, 3, 4]).batch(2)
    assert length_of(data) == 2
    assert length_of(data.to_iter_dataset()) is None
    assert length_of(grain.MapDataset.source([1, 2, 3, 4]).repeat().batch(2)) == sys.maxsize


def test_bad_streams_are_refused():
    with pytest.raises(ValueError, match=r"must not be empty\. Received a list without batches"):
        StreamBatches([], same).first()
    with pytest.raises(ValueError, match=r"must not be empty\. Received a generator without batches"):
        StreamBatches((batch for batch in []), same).first()
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be an integer of at least 1\. Received 0"):
        StreamBatches([1], same, steps_per_epoch=0)
    grain = pytest.importorskip("grain")
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be given .* Received an infinite"):
        StreamBatches(grain.MapDataset.source([1]).repeat().batch(1), same)

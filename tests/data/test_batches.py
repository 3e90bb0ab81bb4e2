"""Batches whose order depends on seed and epoch alone."""

import itertools
import time

import keras
import numpy as np
import pytest

from keras_ssl import FineTuner, OrdinalHead
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches
from tests import tiny


def read(batches):
    return [np.asarray(batches[index][0]).tolist() for index in range(len(batches))]


def test_an_epoch_is_every_sample_once_in_another_order_each_time():
    batches = ArrayBatches((np.arange(10),), batch_size=3, seed=1)
    epochs = []
    for epoch in range(3):
        batches.epoch = epoch
        epochs.append(read(batches))
        assert sorted(itertools.chain(*epochs[-1])) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]
    batches.epoch = 0
    assert read(batches) == epochs[0]
    assert read(ArrayBatches((np.arange(10),), batch_size=3, seed=1)) == epochs[0]
    assert read(ArrayBatches((np.arange(10),), batch_size=3, seed=2)) != epochs[0]


def test_without_shuffling_it_is_the_order_of_the_array():
    assert read(ArrayBatches((np.arange(5),), batch_size=2, shuffle=False)) == [[0, 1], [2, 3], [4]]


def test_steps_per_epoch_goes_on_through_full_batches_of_shuffled_passes():
    batches = ArrayBatches((np.arange(5),), batch_size=4, seed=0, steps_per_epoch=5)
    seen = []
    for epoch in range(2):
        batches.epoch = epoch
        for batch in read(batches):
            assert len(batch) == 4
            seen += batch
    assert np.bincount(seen).tolist() == [8] * 5


def test_arrays_stay_together_and_augmentation_is_seeded_by_epoch_and_batch():
    def noisy(images, generator):
        return images + generator.random()

    batches = ArrayBatches((np.arange(6.0), np.arange(6)), batch_size=2, seed=0, augment=noisy)
    first = [batches[index] for index in range(3)]
    for images, labels in first:
        np.testing.assert_array_equal(np.floor(images), labels)
    assert batches[0][0].tolist() == first[0][0].tolist()
    assert len({float(images[0] % 1) for images, _ in first}) == 3


def test_in_plain_fit_every_epoch_has_another_order():
    seen = []

    class Spy(ArrayBatches):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            seen.append(batch[0].ravel().tolist())
            return batch

    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    data = Spy((np.arange(8.0)[:, None], np.zeros((8, 1))), batch_size=4)
    model.fit(data, epochs=3, shuffle=False, verbose=0)
    assert len({tuple(batch) for batch in seen[-6:]}) > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arrays": (np.zeros(0),)}, "at least 1"),
        ({"arrays": (np.zeros(2), np.zeros(3))}, "one length"),
        ({"arrays": (np.zeros(2),), "batch_size": 0}, "`batch_size` must be an integer"),
        ({"arrays": (np.zeros(2),), "steps_per_epoch": 0}, "`steps_per_epoch` must be an integer"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ArrayBatches(**arguments)


def test_batches_of_a_data_set_are_permuted_and_carried_over():
    inner = ArrayBatches((np.arange(5),), batch_size=1, shuffle=False)
    shuffled = ShuffledBatches(inner, seed=0, steps_per_epoch=2)
    seen = []
    for epoch in range(5):
        shuffled.epoch = epoch
        assert inner.epoch == epoch
        seen += itertools.chain(*read(shuffled))
    assert np.bincount(seen).tolist() == [2] * 5


class Counted(keras.utils.PyDataset):
    """Batches that hold the number of calls of `on_epoch_end` and their index."""

    ended = 0

    def __len__(self):
        return 5

    def __getitem__(self, index):
        time.sleep(0.001 * (index % 3))
        return np.array([self.ended, index])

    def on_epoch_end(self):
        self.ended += 1


@pytest.mark.parametrize("steps", [None, 3])
def test_batches_of_a_data_set_do_not_depend_on_its_workers(steps):
    found = []
    for workers in (1, 3):
        batches = ShuffledBatches(Counted(workers=workers), seed=0, steps_per_epoch=steps)
        found.append([])
        # As Keras may look at the first batch before it begins, and end an epoch early.
        batches[0]
        batches.on_epoch_end()
        for epoch in range(3):
            batches.epoch = epoch
            found[-1] += [batches[index].tolist() for index in range(len(batches) - (epoch == 1))]
            batches.on_epoch_end()
    assert found[0] == found[1]


def test_labeled_training_does_not_depend_on_workers():
    found = []
    for workers in (1, 2):
        keras.utils.set_random_seed(0)
        data = ArrayBatches((tiny.images(), tiny.grades()), batch_size=4, shuffle=False)
        data.workers = workers
        tuner = FineTuner(tiny.sequential_encoder(), OrdinalHead(3), seed=0)
        # From the second on, as where a run goes on: Keras looks at batches before the epoch is set.
        found.append(tuner.fit(data, epochs=3, initial_epoch=1, verbose=0).history)
    assert found[0] == found[1]


def test_a_rest_too_small_is_passed_over_and_too_few_are_refused():
    images = np.arange(9)
    assert len(ArrayBatches((images,), batch_size=4, smallest_batch=1)) == 3
    batches = ArrayBatches((images,), batch_size=4, smallest_batch=2)
    assert [len(batches[index][0]) for index in range(len(batches))] == [4, 4]
    assert len(ArrayBatches((images[:6],), batch_size=4, smallest_batch=2)) == 2
    assert len(ArrayBatches((images[:3],), batch_size=4, smallest_batch=2)) == 1
    with pytest.raises(ValueError, match=r"at least 2, since .* Received batch_size 1"):
        ArrayBatches((images,), batch_size=1, smallest_batch=2)
    with pytest.raises(ValueError, match=r"at least 4, since .* Received the number of images 3"):
        ArrayBatches((images[:3],), batch_size=8, smallest_batch=4)

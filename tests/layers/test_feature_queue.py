"""The queue of features: what comes out in which order, what falls out, in eager and in compiled steps."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.layers import FeatureQueue


def rows(*numbers):
    return np.array(numbers, "float32")[:, None] * np.ones((1, 2), "float32")


def first(features):
    return ops.convert_to_numpy(features)[:, 0].tolist()


def queue_of(*numbers):
    queue = FeatureQueue(len(numbers))
    queue.build((None, 2))
    queue.features.assign(rows(*numbers))
    return queue


def test_newest_come_first_and_as_many_of_the_oldest_fall_out():
    queue = queue_of(1, 2, 3, 4, 5)
    assert first(queue(rows(10, 11), training=True)) == [1, 2, 3, 4, 5]
    assert first(queue(rows(20, 21), training=True)) == [10, 11, 1, 2, 3]
    assert first(queue(rows(30, 31), training=True)) == [20, 21, 10, 11, 1]
    assert first(queue.features) == [30, 31, 20, 21, 10]


def test_what_was_given_is_not_changed_by_what_is_put_in():
    queue = queue_of(1, 2, 3)
    earlier = queue(rows(10), training=True)
    queue(rows(20), training=True)
    assert first(earlier) == [1, 2, 3]


def test_outside_training_nothing_is_put_in():
    queue = queue_of(1, 2, 3)
    for _ in range(2):
        assert first(queue(rows(10))) == [1, 2, 3]


@pytest.mark.parametrize(("batch", "kept"), [((10, 11, 12), [10, 11, 12]), ((10, 11, 12, 13), [10, 11, 12])])
def test_batch_that_fills_the_queue(batch, kept):
    queue = queue_of(1, 2, 3)
    assert first(queue(rows(*batch), training=True)) == [1, 2, 3]
    assert first(queue.features) == kept


def test_it_starts_with_random_directions_that_follow_from_the_seed_of_initializers():
    def made():
        keras.utils.set_random_seed(3)
        # Numbers drawn without a seed in between change nothing.
        keras.random.normal((2,))
        queue = FeatureQueue(50)
        queue.build((None, 16))
        return ops.convert_to_numpy(queue.features)

    # Keras makes its global generator, once, from a default seed.
    keras.random.normal((2,))
    features = made()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    assert np.linalg.norm(features.mean(axis=0)) < 0.4
    np.testing.assert_array_equal(features, made())


@pytest.mark.compiled
def test_in_a_compiled_fit_it_holds_the_last_batches_and_no_gradient_passes(tmp_path):
    inputs = keras.Input((2,))
    features = keras.layers.Dense(2, use_bias=False, kernel_initializer="identity")(inputs)
    earlier = FeatureQueue(4, name="queue")(features)
    assert earlier.shape == (4, 2)
    model = keras.Model(inputs, ops.sum(earlier) + 0 * ops.sum(features, axis=1))
    model.compile(keras.optimizers.SGD(1.0), lambda _, outputs: ops.mean(outputs))
    model.fit(rows(1, 2, 3, 4, 5, 6), np.zeros(6), batch_size=2, epochs=1, shuffle=False, verbose=0)
    assert first(model.get_layer("queue").features) == [5, 6, 3, 4]
    np.testing.assert_array_equal(model.layers[1].get_weights()[0], np.eye(2))
    assert len(model.trainable_weights) == 1
    model.save_weights(tmp_path / "model.weights.h5")
    again = keras.Model(inputs, model.output)
    again.get_layer("queue").features.assign(rows(0, 0, 0, 0))
    again.load_weights(tmp_path / "model.weights.h5")
    assert first(again.get_layer("queue").features) == [5, 6, 3, 4]


def test_it_is_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        queue = queue_of(1, 2)
        earlier = queue(ops.cast(rows(0.5), "bfloat16"), training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(earlier.dtype) == "float32"
    assert first(queue.features) == [0.5, 1]


def test_queue_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"`size` must be at least 1\. Received 0"):
        FeatureQueue(0)

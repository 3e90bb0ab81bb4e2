import keras
import numpy as np
import pytest

import keras_ssl
from keras_ssl.callbacks import RepresentationCheck
from keras_ssl.callbacks._batch_statistics import estimate_batch_statistics, short_memory

IMAGES = np.random.default_rng(0).uniform(0, 255, (48, 8, 8, 3)).astype("float32")


def users_encoder(momentum=0.999):
    """An encoder as users bring: slow moving statistics, which a short run does not change."""
    images = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(images)
    for number, filters in enumerate((4, 8)):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = keras.layers.BatchNormalization(momentum=momentum, name=f"bn{number}")(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(images, x)


def spread(encoder, training):
    features = keras.ops.convert_to_numpy(encoder(IMAGES, training=training))
    return np.std(features.mean((1, 2)), axis=0).mean()


def test_statistics_are_those_of_the_batches():
    encoder = users_encoder()
    before = encoder(IMAGES)
    batches = np.split(IMAGES, 3)
    estimate_batch_statistics(encoder, batches)
    layer = encoder.get_layer("bn0")
    inputs = keras.Model(encoder.input, layer.input)
    found = [keras.ops.convert_to_numpy(inputs(batch)) for batch in batches]
    np.testing.assert_allclose(layer.moving_mean, np.mean(found, axis=(0, 1, 2, 3)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, np.var(found, axis=(0, 1, 2, 3)), rtol=1e-3)
    # The second layer sees what the first one normalized by its batch.
    second = encoder.get_layer("bn1")
    hidden = keras.Model(encoder.input, second.input)
    seen = [keras.ops.convert_to_numpy(hidden(batch, training=True)) for batch in batches]
    estimate_batch_statistics(encoder, batches)
    np.testing.assert_allclose(second.moving_mean, np.mean(seen, axis=(0, 1, 2, 3)), rtol=1e-3, atol=1e-5)
    assert (
        np.abs(keras.ops.convert_to_numpy(before) - keras.ops.convert_to_numpy(encoder(IMAGES))).max() > 0.1
    )


def test_calls_of_a_layer_in_one_pass_count_alike():
    images = keras.Input((8, 8, 3))
    normalize = keras.layers.BatchNormalization()
    model = keras.Model(images, [normalize(images), normalize(images * 3.0)])
    estimate_batch_statistics(model, [IMAGES])
    np.testing.assert_allclose(normalize.moving_mean, 2 * IMAGES.mean((0, 1, 2)), rtol=0.01)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_any_momentum_will_do_and_is_kept(momentum):
    encoder = users_encoder(momentum)
    estimate_batch_statistics(encoder, [IMAGES])
    assert encoder.get_layer("bn0").momentum == momentum
    with short_memory(encoder):
        assert encoder.get_layer("bn0").momentum == min(momentum, 0.9)
    assert encoder.get_layer("bn0").momentum == momentum
    assert spread(encoder, False) == pytest.approx(spread(encoder, True), rel=0.05)


@pytest.mark.parametrize("task", [keras_ssl.MoCoTask(queue_size=8), keras_ssl.DINOTask(num_local_views=1)])
def test_nothing_but_the_statistics_changes(task):
    model = keras_ssl.SelfSupervisedModel(task, users_encoder(), seed=0)
    model.fit_pretext(IMAGES, epochs=1, batch_size=16, verbose=0)
    statistics = {id(layer.moving_mean) for layer in model.encoder.layers if layer.name.startswith("bn")}
    before = [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]
    estimate_batch_statistics(model, [IMAGES[:16] / 2])
    changed = [
        variable
        for variable, array in zip(model.variables, before, strict=True)
        if (keras.ops.convert_to_numpy(variable) != array).any()
    ]
    assert statistics <= set(map(id, changed))
    assert [v.path for v in changed if "moving_" not in v.path] == []


def test_frozen_layers_keep_their_statistics():
    encoder = users_encoder()
    encoder.get_layer("bn0").trainable = False
    before = np.array(keras.ops.convert_to_numpy(encoder.get_layer("bn0").moving_variance))
    second = np.array(keras.ops.convert_to_numpy(encoder.get_layer("bn1").moving_variance))
    estimate_batch_statistics(encoder, [IMAGES])
    np.testing.assert_array_equal(encoder.get_layer("bn0").moving_variance, before)
    assert (keras.ops.convert_to_numpy(encoder.get_layer("bn1").moving_variance) != second).all()


def test_a_pretrained_encoder_tells_images_apart_in_inference():
    encoder = users_encoder()
    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(guards=None), encoder, seed=0)
    model.fit_pretext(IMAGES, epochs=2, batch_size=16, verbose=0)
    assert spread(encoder, False) > 0.5 * spread(encoder, True)
    assert encoder.get_layer("bn0").momentum == 0.999


def test_checks_see_statistics_of_the_moment_and_training_goes_on_without_them():
    seen, statistics = [], []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            statistics.append(np.array(keras.ops.convert_to_numpy(self.model.encoder.layers[3].moving_mean)))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(spread(self.model.encoder, False) / spread(self.model.encoder, True))

    def run(callbacks, **options):
        model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(guards=None), users_encoder(), seed=0)
        keras.utils.set_random_seed(1)
        model.encoder.set_weights(
            [np.random.default_rng(2).normal(size=w.shape) ** 2 for w in model.encoder.get_weights()]
        )
        history = model.fit_pretext(
            IMAGES, epochs=2, batch_size=16, verbose=0, callbacks=callbacks, **options
        )
        return model.get_weights(), history.history

    weights, _ = run([Look(), RepresentationCheck(IMAGES)], validation_data=IMAGES[:16])
    plain, _ = run([])
    assert min(seen) > 0.5
    for one, other in zip(weights, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_encoder_trained_from_scratch_for_a_few_steps_and_a_frozen_one():
    grades = np.arange(48) % 3
    tuner = keras_ssl.FineTuner(users_encoder(), keras_ssl.OrdinalHead(3), seed=0)
    tuner.fit(IMAGES, grades, epochs=2, batch_size=16, validation_data=(IMAGES, grades), verbose=0)
    assert spread(tuner.encoder, False) > 0.5 * spread(tuner.encoder, True)
    encoder = users_encoder()
    before = [np.array(weight) for weight in encoder.get_weights()]
    frozen = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(3), encoder_trainable=False, seed=0)
    frozen.fit(IMAGES, grades, epochs=2, batch_size=16, validation_data=(IMAGES, grades), verbose=0)
    for one, other in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_streams_are_estimated_on_their_latest_batches():
    encoder = users_encoder()
    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(guards=None), encoder, seed=0)
    model.fit_pretext((IMAGES[:16] for _ in range(8)), epochs=2, steps_per_epoch=4, verbose=0)
    assert spread(encoder, False) > 0.5 * spread(encoder, True)


def test_an_epoch_of_the_warm_up_that_is_restored_keeps_its_statistics():
    encoder, grades = users_encoder(), np.arange(48) % 3
    before = [np.array(weight) for weight in encoder.get_weights()]
    tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(3), warmup_epochs=1, seed=0)

    class FirstIsBest(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["mine"] = epoch

    best = keras.callbacks.EarlyStopping("mine", mode="min", patience=9, restore_best_weights=True)
    tuner.fit(IMAGES, grades, epochs=2, batch_size=16, callbacks=[FirstIsBest(), best], verbose=0)
    for one, other in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_fit_without_epochs_changes_nothing():
    encoder = users_encoder()
    before = [np.array(weight) for weight in encoder.get_weights()]
    frozen = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(3), encoder_trainable=False, seed=0)
    frozen.fit(IMAGES, np.arange(48) % 3, epochs=0, batch_size=16, verbose=0)
    for one, other in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

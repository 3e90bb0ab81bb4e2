"""Fine-tuning for masks: it learns, freezes, goes on where it was, follows masks in augmentation, refuses."""

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import FineTuner, SegmentationHead, encoders, losses
from keras_ssl.metrics.segmentation import dice_scores, label_confusion, mean_dice
from keras_ssl.preprocessing import Augmentation, Geometry

SHAPES = [(8, 8, 1), (6, 8, 6, 1)]

FLIP = Augmentation(geometry=Geometry(flip_axes=(1,)))


def problem(shape=SHAPES[0], count=8):
    """Bright blocks on noise, the two classes of different brightness."""
    rng = np.random.default_rng(0)
    masks = np.zeros((count, *shape[:-1]), "uint8")
    for mask in masks:
        start = rng.integers(0, 3)
        mask[start : start + 3, 1:5] = 1
        mask[start : start + 3, 3:5] = 2
    images = masks[..., None] + 0.1 * rng.normal(size=(count, *shape))
    return images.astype("float32"), masks


def encoder_of(shape=SHAPES[0]):
    keras.utils.set_random_seed(0)
    return encoders.unet_encoder(shape, (4, 8))


def tuner_of(encoder, **settings):
    return FineTuner(encoder, SegmentationHead(3), optimizer=keras.optimizers.Adam(0.02), seed=0, **settings)


@pytest.mark.compiled
@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_it_learns_to_label_pixels(shape):
    images, masks = problem(shape)
    tuner = tuner_of(encoder_of(shape))
    history = tuner.fit(images, masks, validation_data=(images, masks), batch_size=4, epochs=15, verbose=0)
    assert history.history["val_dice"][-1] > 0.8 > history.history["val_dice"][0]
    predicted = tuner.predict(images)
    assert (predicted.shape, predicted.dtype) == (masks.shape, np.uint8)
    assert tuner.predict_probabilities(images).shape == (*masks.shape, 3)
    scores = tuner.evaluate(images, masks, batch_size=3)
    counts = [label_confusion(true, ours, 3) for true, ours in zip(masks, predicted, strict=True)]
    assert scores["dice"] == pytest.approx(np.mean([mean_dice(each) for each in counts]))
    assert scores["dice_2"] == pytest.approx(np.mean([dice_scores(each)[2] for each in counts]))
    assert scores["dice"] == pytest.approx(history.history["val_dice"][-1])
    whole = tuner.loss(masks, tuner.model.predict(images, verbose=0))
    assert scores["loss"] == pytest.approx(float(whole), rel=1e-4)


def test_in_the_warm_up_the_encoder_is_frozen_bitwise():
    images, masks = problem()
    encoder = encoder_of()
    before = tiny.weights(encoder)
    tuner = tuner_of(encoder, warmup_epochs=2)
    tuner.fit(images, masks, batch_size=4, epochs=2, verbose=0)
    tiny.assert_same(tiny.weights(encoder), before)
    tuner.fit(images, masks, batch_size=4, epochs=3, verbose=0)
    assert tiny.differ(tiny.weights(encoder), before)


@pytest.mark.parametrize("stop", [1, 2])
def test_a_stopped_run_resumes_bitwise(tmp_path, stop):
    images, masks = problem()

    def run(epochs, folder):
        tuner = tuner_of(encoder_of(), warmup_epochs=1)
        history = tuner.fit(
            images,
            masks,
            validation_data=(images[:3], masks[:3]),
            batch_size=4,
            epochs=epochs,
            augment=FLIP,
            backup_dir=tmp_path / folder,
            verbose=0,
        )
        return tuner, history.history

    whole, expected = run(3, "whole")
    run(stop, "stopped")
    resumed, history = run(3, "stopped")
    tiny.assert_same(tiny.weights(resumed.model), tiny.weights(whole.model))
    assert history == expected


def test_masks_follow_what_is_done_to_images():
    images, masks = problem()
    seen = []

    def augment(batch, generator, labels):
        batch, labels = FLIP(batch, generator, labels)
        seen.append((batch, labels))
        return batch, labels

    tuner_of(encoder_of()).fit(images, masks, batch_size=4, epochs=2, augment=augment, verbose=0)
    mirrored = [np.flip(mask, -1) for mask in masks]
    for batch, labels in seen:
        # The brightness of a pixel tells its class, mirrored or not.
        np.testing.assert_array_equal(np.round(np.clip(batch[..., 0], 0, 2)), labels)
    found = [label for _, labels in seen for label in labels]
    assert any(any(np.array_equal(label, other) for other in mirrored) for label in found)


def test_another_loss_and_a_data_set_with_weights():
    images, masks = problem()
    tuner = tuner_of(encoder_of(), loss=losses.SoftDice())
    batches = [(images[:4], masks[:4], np.ones(4)), (images[4:], masks[4:], np.zeros(4))]
    history = tuner.fit(batches, epochs=2, validation_data=batches[0], verbose=0)
    assert 0 < history.history["loss"][-1] < 1
    expected = losses.segmentation.soft_dice_loss(masks[:4], tuner.model.predict(images[:4], verbose=0))
    scores = tuner.evaluate(*batches[0][:2])
    assert scores["loss"] == pytest.approx(float(keras.ops.mean(expected)), rel=1e-4)


def test_a_backup_made_with_another_loss_raises(tmp_path):
    images, masks = problem()
    settings = {"batch_size": 4, "epochs": 1, "backup_dir": tmp_path, "verbose": 0}
    tuner_of(encoder_of(), loss=losses.SoftDice()).fit(images, masks, **settings)
    with pytest.raises(ValueError, match="loss"):
        tuner_of(encoder_of(), loss=losses.segmentation.JaccardDistance()).fit(images, masks, **settings)
    with pytest.raises(TypeError, match=r"`loss` must be a keras.losses.Loss.* Received 'mse'"):
        tuner_of(encoder_of(), loss="mse")


def test_a_loss_of_every_pixel_is_evaluated():
    images, masks = problem()
    tuner = tuner_of(encoder_of((8, 8, 1)), loss=keras.losses.SparseCategoricalCrossentropy())
    expected = float(tuner.loss(masks, tuner.model.predict(images, verbose=0)))
    assert tuner.evaluate(images, masks, batch_size=3)["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_model_loads_without_this_library(tmp_path):
    tuner = tuner_of(encoder_of())
    tuner.model.save(tmp_path / "segmenter.keras")
    loaded = keras.saving.load_model(tmp_path / "segmenter.keras", compile=False)
    images, _ = problem()
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), tuner.model.predict(images, verbose=0))
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded._flatten_layers())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda images, masks: (images, masks[:, :-1]),
            r"`labels` must be masks of the images' size, \(n, 8, 8\)",
        ),
        (lambda images, masks: (images, masks[:-1]), "must be of one length"),
        (lambda images, masks: (images, masks + 1), r"`masks` must be whole numbers in 0\.\.2. Received 3"),
        (lambda images, masks: (images, 0 * masks), "`masks` must hold more than background"),
        (lambda images, masks: (images, masks[:, 0, 0]), r"`masks` must have shape \(n, \*spatial\)"),
        (
            lambda images, masks: ([(images, masks[:, :-1])], None),
            "`labels` must be masks of the images' size",
        ),
    ],
)
def test_masks_that_do_not_fit_raise_before_training(change, message):
    tuner = tuner_of(encoder_of())
    before = tiny.weights(tuner.model)
    with pytest.raises(ValueError, match=message):
        tuner.fit(*change(*problem()), epochs=1, verbose=0)
    tiny.assert_same(tiny.weights(tuner.model), before)

"""The decoder on pyramids of every kind: sizes, skips, weights shared with the encoder, what is refused."""

import keras
import numpy as np
import pytest
from tiny import SubclassedEncoder

from keras_ssl import SegmentationHead, encoders


def attached(encoder, shape, head):
    images = keras.Input(shape)
    return keras.Model(images, head.attach(encoder, images))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda shape: encoders.unet_encoder(shape, (2, 4, 4)), (13, 9, 1)),
        (lambda shape: encoders.unet_encoder(shape, (2, 4, 4)), (13, 10, 7, 2)),
        (lambda shape: encoders.small_encoder(shape, (2, 4)), (12, 12, 8, 1)),
        # Its finest features are half as large as the images, and valid convolutions round down.
        (lambda shape: encoders.densenet121(shape, (1, 1), 4, 4), (21, 22, 23, 1)),
    ],
)
def test_every_pixel_gets_probabilities_of_classes(make, shape):
    model = attached(make(shape), shape, SegmentationHead(3, dropout=0.2))
    outputs = model.predict(np.random.default_rng(0).normal(size=(2, *shape)), verbose=0)
    assert outputs.shape == (2, *shape[:-1], 3)
    np.testing.assert_allclose(outputs.sum(axis=-1), 1, atol=1e-5)
    assert model.outputs[0].dtype == "float32"


def test_an_open_encoder_takes_the_size_of_the_images():
    encoder = encoders.unet_encoder((None, None, None, 1), (2, 4))
    for shape in ((8, 8, 8, 1), (9, 7, 5, 1)):
        assert attached(encoder, shape, SegmentationHead(2)).output_shape == (None, *shape[:-1], 2)


def test_it_stands_on_the_encoder_itself_and_saves_as_core_layers(tmp_path):
    encoder = encoders.unet_encoder((8, 8, 1), (2, 4))
    model = attached(encoder, (8, 8, 1), SegmentationHead(2))
    ours = {id(weight) for weight in model.weights}
    assert {id(weight) for weight in encoder.weights} <= ours
    model.save(tmp_path / "segmenter.keras")
    loaded = keras.saving.load_model(tmp_path / "segmenter.keras")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded._flatten_layers())


def test_fine_features_reach_the_output():
    """Through the skip at full resolution each pixel is told from its neighbors."""
    encoder = encoders.unet_encoder((8, 8, 1), (2, 4))
    model = attached(encoder, (8, 8, 1), SegmentationHead(2))
    skips = [layer for layer in model.layers if isinstance(layer, keras.layers.Concatenate)]
    assert len(skips) == 1
    assert skips[0].input[1].shape[1:-1] == (8, 8)


def test_filters_follow_the_encoder_or_the_user():
    encoder = encoders.unet_encoder((8, 8, 1), (2, 4, 6))

    def widths(head):
        names = ("decoder0_2_conv", "decoder1_2_conv")
        return [attached(encoder, (8, 8, 1), head).get_layer(name).filters for name in names]

    assert widths(SegmentationHead(2)) == [2, 4]
    assert widths(SegmentationHead(2, filters=(5, 3))) == [5, 3]
    # Half the next coarser size, where the encoder has nothing; at least 8.
    coarse = encoders.densenet121((29, 29, 1), (1, 1), 16, 32)
    model = attached(coarse, (29, 29, 1), SegmentationHead(2))
    finest, next_one = (model.get_layer(f"decoder{level}_2_conv").filters for level in (0, 1))
    assert finest == max(8, next_one // 2)


def test_labels_there_and_back():
    head, masks = SegmentationHead(3), np.random.default_rng(0).integers(0, 3, (2, 4, 5, 6))
    np.testing.assert_array_equal(head.encode(masks[..., None]), masks)
    np.testing.assert_array_equal(head.encode(masks.astype("float64")), masks)
    outputs = np.eye(3)[masks]
    np.testing.assert_array_equal(head.decode(outputs), masks)
    assert head.decode(outputs).dtype == np.uint8
    np.testing.assert_array_equal(head.probabilities(outputs), outputs)
    assert SegmentationHead(300).decode(np.zeros((1, 2, 2, 300))).dtype == np.uint16


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: SegmentationHead(1), "`num_classes` must be an integer of at least 2. Received 1"),
        (
            lambda: SegmentationHead(2, filters=(4, 0)),
            r"`filters` must hold .* at least 1. Received \(4, 0\)",
        ),
        (lambda: SegmentationHead(2, dropout=1.0), r"`dropout` must lie in \[0, 1\). Received 1.0"),
        (
            lambda: attached(
                encoders.unet_encoder((8, 8, 1), (2, 4)), (8, 8, 1), SegmentationHead(2, filters=(4, 4))
            ),
            r"`filters` must be 1 numbers, .*Received \(4, 4\)",
        ),
        (
            lambda: attached(SubclassedEncoder(), (8, 8, 3), SegmentationHead(2)),
            "`encoder` must be a functional model",
        ),
        (
            lambda: SegmentationHead(2).encode(np.full((1, 2, 2), 2)),
            r"whole numbers in 0\.\.1. Received 2 in",
        ),
        (
            lambda: SegmentationHead(2).check_training_labels(np.zeros((3, 4, 4))),
            "`masks` must hold more than background.* Received 3 that are 0 everywhere",
        ),
    ],
)
def test_wrong_values_are_refused(action, message):
    with pytest.raises(ValueError, match=message):
        action()

import keras
import numpy as np
import pytest

from keras_ssl.encoders import small_encoder


@pytest.mark.parametrize(
    ("input_shape", "filters", "feature_map"),
    [
        ((28, 28, 3), (16, 32, 64), (4, 4, 64)),
        ((64, 48, 1), (4, 8), (16, 12, 8)),
        ((13, 10, 9, 2), (4, 8), (4, 3, 3, 8)),
        ((None, None, 3), (4,), (None, None, 4)),
    ],
)
def test_feature_map_is_halved_by_every_stage(input_shape, filters, feature_map):
    encoder = small_encoder(input_shape, filters)
    assert encoder.output_shape[1:] == feature_map
    assert encoder.input_shape[1:] == input_shape
    assert len({layer.name for layer in encoder.layers}) == len(encoder.layers)


def test_built_twice_it_has_the_same_layer_names():
    first, second = (small_encoder((8, 8, 1), (2, 4)) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


def test_three_dimensions_repeat_two_on_a_volume_that_does_not_vary_in_depth():
    """With the 2D kernel in the middle slice, every slice of the volume gives the 2D feature map."""
    flat, deep = small_encoder((12, 12, 2), (3, 4)), small_encoder((7, 12, 12, 2), (3, 4))
    deep.set_weights(
        [
            np.stack([weight * (k == depth // 2) for k in range(depth)])
            if (depth := target.shape[0] if target.ndim == 5 else 0)
            else weight
            for weight, target in zip(flat.get_weights(), deep.get_weights(), strict=True)
        ]
    )
    image = np.random.default_rng(0).normal(size=(2, 12, 12, 2)).astype("float32")
    expected = keras.ops.convert_to_numpy(flat(image, training=False))
    volume = np.repeat(image[:, None], 7, axis=1)
    slices = keras.ops.convert_to_numpy(deep(volume, training=False))
    np.testing.assert_allclose(slices, np.repeat(expected[:, None], 2, axis=1), atol=1e-5)


def test_it_learns_and_evaluates_what_it_learned():
    """The moving statistics follow within a short run: evaluation agrees with the labels as well."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    images = rng.normal(size=(64, 8, 8, 1)).astype("float32") * 0.1
    images[:, :, :4, 0] += labels[:, None, None]
    encoder = small_encoder((8, 8, 1), (4, 8))
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(encoder.output))
    model = keras.Model(encoder.input, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=16, epochs=10, verbose=0)
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"] > 0.9


def test_saved_file_loads_as_core_layers(tmp_path):
    encoder = small_encoder((8, 8, 8, 1), (2, 4))
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(x, training=False)),
        keras.ops.convert_to_numpy(encoder(x, training=False)),
    )
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (28, 3)}, r"`input_shape` must be \(\*spatial, channels\).*Received \(28, 3\)"),
        ({"input_shape": (4, 28, 28, 28, 1)}, "two or three spatial axes"),
        ({"input_shape": (28, 28, None)}, "a number of channels"),
        ({"input_shape": (28, 28, 3), "filters": ()}, r"`filters` must hold one or more.*Received \(\)"),
        ({"input_shape": (28, 28, 3), "filters": (8, 0)}, r"at least 1. Received \(8, 0\)"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**arguments)

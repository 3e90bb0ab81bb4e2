"""Encoders of tokens, such as those of Keras Hub: in tasks and heads, as maps, split for MAE."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import keras_ssl
from keras_ssl import FineTuner, OrdinalHead, SegmentationHead, SelfSupervisedModel
from keras_ssl.encoders import pyramid_outputs, tokens_to_map, with_rescaling
from keras_ssl.encoders.tokens import token_layout
from keras_ssl.encoders.vit import token_parts, transformer_block
from keras_ssl.evaluation import grad_cam

SHAPE = (16, 16, 3)
FLAT_AND_DEEP = pytest.mark.parametrize("shape", [(16, 24, 3), (8, 8, 12, 1)], ids=["2D", "3D"])


def outputs(model, images):
    return np.array(ops.convert_to_numpy(model(images, training=False)))


def in_dictionary(inputs):
    return {"images": inputs}


@FLAT_AND_DEEP
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_maps_are_the_tokens_of_patches_in_their_places(shape, prefix, tmp_path):
    encoder = tiny.token_encoder(shape, prefix=prefix)
    mapped = tokens_to_map(encoder)
    images = tiny.images(2, shape)
    tokens, maps = outputs(encoder, images), outputs(mapped, images)
    grid = tuple(side // 4 for side in shape[:-1])
    np.testing.assert_array_equal(maps, tokens[:, prefix:].reshape(2, *grid, 12))
    assert all(one is other for one, other in zip(mapped.weights, encoder.weights, strict=True))
    mapped.save(tmp_path / "map.keras")
    np.testing.assert_array_equal(outputs(keras.saving.load_model(tmp_path / "map.keras"), images), maps)


@pytest.mark.parametrize(
    ("count", "sides", "given", "expected"),
    [
        (196, (224, 224), {}, ((14, 14), 0)),
        (197, (224, 224), {}, ((14, 14), 1)),
        (261, (224, 224), {}, ((16, 16), 5)),
        (100, (224, 224), {}, None),
        (64, (32, 32, 32), {}, ((4, 4, 4), 0)),
        (7, (16, 24), {}, ((2, 3), 1)),
        (24, (32, 32), {"prefix_tokens": 8}, ((4, 4), 8)),
        (9, (16, 32), {"grid": (4, 2)}, ((4, 2), 1)),
        (9, (16, 32), {"grid": (4, 2), "prefix_tokens": 2}, None),
        (9, (16, 32), {"grid": (8,)}, None),
        (9, (16, None), {}, None),
        (None, (16, 16), {}, None),
    ],
)
def test_layout(count, sides, given, expected):
    assert token_layout(count, sides, **given) == expected


@pytest.mark.parametrize("task", ["RotationTask", "SimCLRTask", "InpaintingTask", "SimMIMTask", "MAETask"])
@pytest.mark.parametrize("pack", [lambda inputs: inputs, in_dictionary], ids=["tensor", "dictionary"])
def test_tasks_train_the_encoder_and_are_saved(task, pack, tmp_path):
    keras.utils.set_random_seed(0)
    encoder, images = tiny.token_encoder(SHAPE, pack=pack), tiny.images(4, SHAPE)
    before = tiny.weights(encoder)
    model = SelfSupervisedModel(getattr(keras_ssl, task)(), encoder, seed=0)
    assert model.encoder is encoder
    model.fit_pretext(images, batch_size=4, epochs=1, verbose=0)
    assert tiny.differ(before, encoder.get_weights())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    tiny.assert_same(tiny.weights(loaded.encoder), tiny.weights(encoder))
    expected, found = (each.evaluate(images, batch_size=4, verbose=0) for each in (model, loaded))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_self_distillation_and_colorization_take_tokens():
    encoder = tiny.token_encoder(SHAPE, pack=in_dictionary)
    for task in (keras_ssl.DINOTask(), keras_ssl.ColorizationTask()):
        SelfSupervisedModel(task, encoder, seed=0)(255 * tiny.images(2, SHAPE))


@pytest.mark.parametrize("pack", [lambda inputs: inputs, in_dictionary], ids=["tensor", "dictionary"])
def test_fine_tuning_pools_all_tokens(pack, tmp_path):
    encoder = tiny.token_encoder(SHAPE, pack=pack)
    images = tiny.images(6, SHAPE)
    tuner = FineTuner(encoder, OrdinalHead(3), warmup_epochs=1, seed=0)
    pooled = outputs(encoder, pack(images)).mean(axis=1)
    kernel, bias = tuner.model.layers[-1].get_weights()
    expected = 1 / (1 + np.exp(-(pooled @ kernel + bias)))
    np.testing.assert_allclose(outputs(tuner.model, images), expected, rtol=1e-4, atol=1e-5)
    before = tiny.weights(encoder)
    tuner.fit(images, tiny.grades(6), epochs=2, verbose=0)
    assert tiny.differ(before, encoder.get_weights())
    tuner.save(tmp_path / "grader.keras")
    loaded = keras.saving.load_model(tmp_path / "grader.keras", compile=False)
    np.testing.assert_allclose(outputs(loaded, images), outputs(tuner.model, images), rtol=1e-5)
    keras_ssl.callbacks.check_representation(encoder, images)


def test_heat_maps_of_tokens_are_those_of_their_map():
    encoder, images = tiny.token_encoder((16, 8, 3)), tiny.images(2, (16, 8, 3))
    mapped = keras.Model(encoder.inputs[0], keras.layers.Cropping1D((1, 0))(encoder.outputs[0]))
    head = OrdinalHead(3)
    found = [
        grad_cam(FineTuner(each, head, seed=0).model, images, head=head)
        for each in (mapped, tokens_to_map(mapped))
    ]
    assert found[0].shape == (2, 16, 8)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("wrap", [lambda encoder: encoder, lambda encoder: with_rescaling(encoder, 2.0)])
def test_segmentation_uses_the_map_of_tokens(wrap):
    encoder = wrap(tiny.token_encoder(SHAPE))
    images = tiny.images(2, SHAPE)
    pyramid = pyramid_outputs(encoder)
    assert {level: features.shape for level, features in pyramid.items()} == {"P2": (None, 4, 4, 12)}
    tuner = FineTuner(encoder, SegmentationHead(2), seed=0)
    before = tiny.weights(encoder)
    tuner.fit(images, (images[..., 0] > 0.5).astype("uint8"), epochs=1, verbose=0)
    assert tiny.differ(before, encoder.get_weights())


@FLAT_AND_DEEP
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_encoders_of_tokens_are_split_behind_their_positions(shape, prefix):
    encoder = tiny.token_encoder(shape, prefix=prefix, pack=in_dictionary)
    parts = token_parts(encoder)
    assert parts.prefix_tokens == prefix
    assert parts.grid == tuple(side // 4 for side in shape[:-1])
    assert parts.patch_shape == (4,) * len(parts.grid)
    assert any(isinstance(layer, tiny.TokenEmbedding) for layer in parts.embed.layers)
    assert not any(isinstance(layer, keras.layers.MultiHeadAttention) for layer in parts.embed.layers)
    images = tiny.images(2, shape)
    tokens = outputs(parts.embed, images)
    np.testing.assert_allclose(outputs(parts.blocks, tokens), outputs(encoder, {"images": images}), atol=1e-5)


def test_masked_autoencoder_always_sees_the_class_token():
    encoder = tiny.token_encoder(SHAPE, prefix=5)
    network = keras_ssl.MAETask(decoder_dim=12).build_network(encoder, SHAPE)
    images, noise = tiny.images(2, SHAPE), tiny.images(2, SHAPE[:-1])
    before = network({"images": images, "noise": noise})
    assert before["patches"].shape == (2, 16, 4, 4, 3)
    assert ops.convert_to_numpy(before["masked"]).sum(axis=1).tolist() == [12, 12]
    # Pixels of masked patches are not seen.
    pixels = ops.convert_to_numpy(before["masked"]).reshape(2, 4, 4).repeat(4, axis=1).repeat(4, axis=2)
    after = network({"images": np.where(pixels[..., None], 9.0, images), "noise": noise})
    np.testing.assert_array_equal(*(ops.convert_to_numpy(each["patches"]) for each in (before, after)))
    embedding = next(layer for layer in encoder.layers if isinstance(layer, tiny.TokenEmbedding))
    embedding.first.assign(embedding.first + 1.0)
    after = network({"images": images, "noise": noise})
    assert tiny.differ(*([ops.convert_to_numpy(each["patches"])] for each in (before, after)))


def with_positions_in_blocks():
    """Positions are added in the blocks, as rotary ones are: tokens behind them are not alike."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.Reshape((-1, 12))(keras.layers.Conv2D(12, 4, strides=4)(inputs))
    x = transformer_block(x, 2, 24, name="block1")
    x = transformer_block(tiny.TokenEmbedding(16)(x), 2, 24, name="block2")
    return keras.Model(inputs, keras.layers.LayerNormalization()(x))


def with_a_class_token_alone():
    encoder = tiny.token_encoder(SHAPE)
    return keras.Model(encoder.inputs[0], encoder.outputs[0][:, 0])


@pytest.mark.parametrize("make", [with_positions_in_blocks, with_a_class_token_alone])
def test_what_cannot_be_split_is_refused(make):
    with pytest.raises(ValueError, match=r"`encoder` must have tokens: .* or one that gives tokens"):
        SelfSupervisedModel(keras_ssl.MAETask(), make())


def test_class_token_alone_is_a_vector():
    encoder = with_a_class_token_alone()
    assert FineTuner(encoder, OrdinalHead(3)).model.output_shape == (None, 2)
    with pytest.raises(ValueError, match="The task needs a feature map"):
        SelfSupervisedModel(keras_ssl.InpaintingTask(), encoder)


def test_other_numbers_of_tokens_and_other_outputs_are_refused():
    encoder = tiny.token_encoder(SHAPE, prefix=9)
    with pytest.raises(ValueError, match=r"must fit the number of tokens.*25 tokens .*prefix_tokens=\.\.\."):
        SelfSupervisedModel(keras_ssl.InpaintingTask(), encoder)
    assert tokens_to_map(encoder, grid=(4, 4)).output_shape == (None, 4, 4, 12)
    assert tokens_to_map(encoder, prefix_tokens=9).output_shape == (None, 4, 4, 12)
    with pytest.raises(ValueError, match="must give tokens"):
        tokens_to_map(tiny.functional_encoder())
    with pytest.raises(ValueError, match="must be a functional model"):
        tokens_to_map(tiny.SubclassedEncoder())


def test_dictionaries_are_refused_with_advice():
    encoder = tiny.token_encoder(SHAPE)
    several = keras.Model(
        encoder.inputs[0], {"tokens": encoder.outputs[0], "class": encoder.outputs[0][:, 0]}
    )
    for build in (
        lambda: FineTuner(several, OrdinalHead(3)),
        lambda: SelfSupervisedModel(keras_ssl.InpaintingTask(), several),
    ):
        with pytest.raises(ValueError, match=r"Received a dictionary of .*encoder.output\['tokens'\]"):
            build()
    images, text = keras.Input(SHAPE, name="images"), keras.Input((7,), name="text")
    both = keras.Model({"images": images, "text": text}, keras.layers.Flatten()(images))
    with pytest.raises(ValueError, match=r"must take one tensor of images.*takes 2 .*vision_encoder"):
        FineTuner(both, OrdinalHead(3))
    alone = keras.Model({"images": images}, {"features": keras.layers.Conv2D(4, 3)(images)})
    assert FineTuner(alone, OrdinalHead(3)).model.output_shape == (None, 2)

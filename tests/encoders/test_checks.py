"""Anybody's encoders plug in."""

import keras
import pytest
import tiny

from keras_ssl import FineTuner, OrdinalHead, RotationTask, SelfSupervisedModel
from keras_ssl.encoders import pyramid_model, pyramid_outputs

SHAPE = (64, 64, 3)
# Maps at a half, a quarter and so on; the patches of ConvNeXt leave out the half.
CHANNELS = {
    "DenseNet121": {"P1": 64, "P2": 128, "P3": 256, "P4": 512, "P5": 1024},
    "ResNet50": {"P1": 64, "P2": 256, "P3": 512, "P4": 1024, "P5": 2048},
    "EfficientNetV2B0": {"P1": 16, "P2": 32, "P3": 192, "P4": 672, "P5": 1280},
    "MobileNetV3Small": {"P1": 16, "P2": 72, "P3": 96, "P4": 288, "P5": 576},
    "ConvNeXtTiny": {"P2": 96, "P3": 192, "P4": 384, "P5": 768},
}


@pytest.mark.parametrize("name", CHANNELS)
def test_models_of_keras_applications(name):
    optimizer = keras.optimizers.Adam()
    with tiny.without_weights():
        build = getattr(keras.applications, name)
        encoder = build(include_top=False, weights=None, input_shape=SHAPE)
        pretext = SelfSupervisedModel(RotationTask(), encoder, seed=0)
        tuner = FineTuner(encoder, OrdinalHead(5), optimizer=optimizer, seed=0)
        pyramid = pyramid_outputs(encoder)
        model = pyramid_model(encoder)
    assert pretext.network.output_shape == (None, 4)
    assert tuner.model.output_shape == (None, 4)
    assert {level: features.shape[-1] for level, features in pyramid.items()} == CHANNELS[name]
    for level, features in pyramid.items():
        assert features.shape[1:-1] == tuple(side // 2 ** int(level[1:]) for side in SHAPE[:-1])
    assert {id(weight) for weight in model.weights} == {id(weight) for weight in encoder.weights}


def test_a_subclassed_model_has_to_name_its_levels():
    encoder = tiny.SubclassedEncoder()
    pretext = SelfSupervisedModel(RotationTask(), encoder, input_shape=tiny.SHAPE, seed=0)
    tuner = FineTuner(encoder, OrdinalHead(5), input_shape=tiny.SHAPE, seed=0)
    assert pretext.network.output_shape == tuner.model.output_shape == (None, 4)
    with pytest.raises(ValueError, match="give it an attribute `pyramid_outputs`"):
        pyramid_outputs(encoder)

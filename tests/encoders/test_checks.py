"""Encoders of users: models of any origin work, and likely mistakes trigger a warning."""

import warnings

import keras
import pytest
import tiny

from keras_ssl import FineTuner, OrdinalHead, RotationTask, SelfSupervisedModel, encoders
from keras_ssl.encoders import pyramid_model, pyramid_outputs

IMAGES, GRADES = tiny.images(12), tiny.grades(12)


def model(*ends):
    inputs = x = keras.Input(tiny.SHAPE)
    for end in (keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), *ends):
        x = end(x)
    return keras.Model(inputs, x)


def subclassed():
    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.pool = keras.layers.GlobalAveragePooling2D()
            self.scores = keras.layers.Dense(3, activation="softmax")

        def call(self, images):
            return self.scores(self.pool(images))

    return Classifier()


L = keras.layers
CLASSIFIERS = {
    "softmax": lambda: model(L.Dense(3, activation="softmax")),
    "sigmoid": lambda: model(L.Dense(3, activation="sigmoid")),
    "layer": lambda: model(L.Dense(3), L.Softmax()),
    "activation": lambda: model(L.Dense(3), L.Activation("softmax")),
    "function": lambda: model(L.Dense(3), keras.ops.softmax),
    "nested": lambda: model(keras.Sequential([L.Dense(3, activation="softmax")])),
    "dropout behind": lambda: model(L.Dense(3, activation="softmax"), L.Dropout(0.1)),
    "logits": lambda: model(L.Dense(3)),
    "many logits": lambda: model(L.Dense(1000, name="predictions")),
    "application": lambda: keras.applications.MobileNet(
        weights=None, input_shape=(32, 32, 3), alpha=0.25, classes=5
    ),
    "sequential": lambda: keras.Sequential(
        [keras.Input(tiny.SHAPE), L.Flatten(), L.Dense(3, activation="softmax")]
    ),
    "subclassed": subclassed,
    "fine-tuned": lambda: FineTuner(model(), OrdinalHead(3), seed=0).model,
}
ENCODERS = {
    "projection": lambda: model(L.Dense(16)),
    "relu": lambda: model(L.Dense(3, activation="relu")),
    "tanh": lambda: model(L.Dense(3, activation="tanh")),
    "attention inside": lambda: model(L.Dense(3, activation="softmax"), L.Dense(16)),
    "gate": lambda: (lambda i: keras.Model(i, L.Multiply()([i, L.Conv2D(3, 1, activation="sigmoid")(i)])))(
        keras.Input(tiny.SHAPE)
    ),
    "subclassed": tiny.SubclassedEncoder,
    "vit": lambda: encoders.vit_encoder(tiny.SHAPE, patch_size=4, embedding_dim=12, depth=1),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_outputs_trigger_a_warning(name):
    encoder = CLASSIFIERS[name]()
    shape = getattr(encoder, "input_shape", (None, *tiny.SHAPE))[1:]
    with pytest.warns(UserWarning, match=r"ends in (a softmax|a sigmoid|logits) .* which are not features"):
        FineTuner(encoder, OrdinalHead(3), input_shape=shape)
    with pytest.warns(UserWarning, match="which are not features"):
        SelfSupervisedModel(RotationTask(), encoder, input_shape=shape)


@pytest.mark.parametrize("name", ENCODERS)
def test_features_trigger_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        FineTuner(ENCODERS[name](), OrdinalHead(3), input_shape=tiny.SHAPE)


@pytest.mark.parametrize(("factor", "warned"), [(1.0, True), (255.0, False), (65535.0, True)])
def test_scaling_twice_triggers_a_warning(factor, warned):
    images = factor * tiny.images(12)
    for fit in (
        lambda encoder: FineTuner(encoder, OrdinalHead(3), seed=0).fit(images, GRADES, verbose=0),
        lambda encoder: SelfSupervisedModel(RotationTask(guards=None), encoder).fit_pretext(
            images, verbose=0, epochs=1
        ),
    ):
        encoder = encoders.small_encoder(tiny.SHAPE, filters=(4,), value_range=(0, 255))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            fit(encoder)
        messages = [str(one.message) for one in found if "scales pixels itself" in str(one.message)]
        assert len(messages) == warned
        if warned:
            assert f"to {images.max():.4g}. Pass" in messages[0]


def test_first_loss_far_above_chance_triggers_a_warning():
    unscaled = (255 * tiny.images(12)).astype("uint8")
    with pytest.warns(
        UserWarning, match=r"The first loss is \d+.*, far above the chance level 0.69 with Ord"
    ):
        FineTuner(model(), OrdinalHead(3), seed=0).fit(1e3 * unscaled, GRADES, verbose=0)
    with pytest.warns(UserWarning, match=r"far above the chance level 1.4 in RotationTask"):
        SelfSupervisedModel(RotationTask(guards=None), model(), seed=0).fit_pretext(
            1e3 * unscaled, verbose=0, epochs=1
        )


def test_regularization_losses_trigger_no_warning_about_images():
    penalty = keras.regularizers.L2(10.0)
    encoder = model(keras.layers.Dense(4, kernel_regularizer=penalty))
    assert float(keras.ops.convert_to_numpy(penalty(encoder.trainable_weights[-2]))) > 5
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The first loss")
        FineTuner(encoder, OrdinalHead(3), seed=0).fit(IMAGES, GRADES, verbose=0)


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


def test_subclassed_models_need_pyramid_outputs():
    encoder = tiny.SubclassedEncoder()
    pretext = SelfSupervisedModel(RotationTask(), encoder, input_shape=tiny.SHAPE, seed=0)
    tuner = FineTuner(encoder, OrdinalHead(5), input_shape=tiny.SHAPE, seed=0)
    assert pretext.network.output_shape == tuner.model.output_shape == (None, 4)
    with pytest.raises(ValueError, match="give it an attribute `pyramid_outputs`"):
        pyramid_outputs(encoder)

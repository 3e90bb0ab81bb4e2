"""What is probably wrong with an encoder is told, and nothing of a right one."""

import warnings

import keras
import pytest
import tiny

from keras_ssl import FineTuner, OrdinalHead, RotationTask, SelfSupervisedModel, encoders

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
def test_a_classifier_is_no_encoder(name):
    encoder = CLASSIFIERS[name]()
    shape = getattr(encoder, "input_shape", (None, *tiny.SHAPE))[1:]
    with pytest.warns(UserWarning, match=r"ends in (a softmax|a sigmoid|logits) .* which are not features"):
        FineTuner(encoder, OrdinalHead(3), input_shape=shape)
    with pytest.warns(UserWarning, match="which are not features"):
        SelfSupervisedModel(RotationTask(), encoder, input_shape=shape)


@pytest.mark.parametrize("name", ENCODERS)
def test_other_ends_are_features(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        FineTuner(ENCODERS[name](), OrdinalHead(3), input_shape=tiny.SHAPE)


@pytest.mark.parametrize(("factor", "told"), [(1.0, True), (255.0, False), (65535.0, True)])
def test_scaling_twice_is_told(factor, told):
    images = factor * tiny.images(12)
    for fit in (
        lambda encoder: FineTuner(encoder, OrdinalHead(3), seed=0).fit(images, GRADES, verbose=0),
        lambda encoder: SelfSupervisedModel(RotationTask(guards=None), encoder).fit_pretext(
            images, verbose=0
        ),
    ):
        encoder = encoders.small_encoder(tiny.SHAPE, filters=(4,), value_range=(0, 255))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            fit(encoder)
        messages = [str(one.message) for one in found if "scales pixels itself" in str(one.message)]
        assert len(messages) == told
        if told:
            assert f"to {images.max():.4g}. Pass" in messages[0]


def test_a_first_loss_far_above_guessing_is_told():
    unscaled = (255 * tiny.images(12)).astype("uint8")
    with pytest.warns(
        UserWarning, match=r"The first loss is \d+.*, far above the chance level 0.69 with Ord"
    ):
        FineTuner(model(), OrdinalHead(3), seed=0).fit(1e3 * unscaled, GRADES, verbose=0)
    with pytest.warns(UserWarning, match=r"far above the chance level 1.4 in RotationTask"):
        SelfSupervisedModel(RotationTask(guards=None), model(), seed=0).fit_pretext(1e3 * unscaled, verbose=0)


def test_weights_that_are_regularized_are_not_the_images_fault():
    penalty = keras.regularizers.L2(10.0)
    encoder = model(keras.layers.Dense(4, kernel_regularizer=penalty))
    assert float(keras.ops.convert_to_numpy(penalty(encoder.trainable_weights[-2]))) > 5
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The first loss")
        FineTuner(encoder, OrdinalHead(3), seed=0).fit(IMAGES, GRADES, verbose=0)

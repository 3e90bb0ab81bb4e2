"""Each loss in a compiled model: training lowers it, and the saved model has it again."""

import keras
import numpy as np
import pytest

from keras_ssl.losses import DiceCrossentropy, SoftDice, WeightedCategoricalCrossentropy, WeightedSum
from keras_ssl.losses.segmentation import JaccardDistance

LOSSES = {
    "soft_dice": lambda: SoftDice([1, 1, 2], include_background=True, smooth=2.0, name="overlap"),
    "jaccard": lambda: JaccardDistance(smooth=0.5),
    "crossentropy": lambda: WeightedCategoricalCrossentropy((1, 2, 3), reduction="sum"),
    "both": lambda: DiceCrossentropy(class_weights=[0.5, 1, 1]),
    "sum": lambda: WeightedSum(
        [(1.0, SoftDice()), (0.5, keras.losses.CategoricalCrossentropy(label_smoothing=0.1))]
    ),
}


@pytest.mark.compiled
@pytest.mark.parametrize("name", LOSSES)
def test_training_lowers_the_loss_and_a_saved_model_has_it_again(name, tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 4, 5, 3, 1)).astype("float32")
    y = np.digitize(x, [-0.5, 0.5])[..., 0].astype("uint8")
    if name == "sum":
        # What Keras' loss takes; its sparse one fails behind a convolution on PyTorch 2.13.
        y = np.eye(3, dtype="uint8")[y]
    model = keras.Sequential([keras.Input((4, 5, 3, 1)), keras.layers.Conv3D(3, 1, activation="softmax")])
    loss = LOSSES[name]()
    model.compile(keras.optimizers.Adam(0.1), loss)
    history = model.fit(x, y, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert history[0] > history[1] > history[-1]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").loss
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    predicted = model.predict_on_batch(x)
    assert float(again(y, predicted)) == float(loss(y, predicted)) < history[-1]


@pytest.mark.compiled
def test_sides_may_be_unknown_to_the_graph():
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, keras.layers.Softmax()(inputs))
    model.compile(loss=DiceCrossentropy())
    rng = np.random.default_rng(0)
    for sides in ((4, 5), (3, 7)):
        x, y = rng.normal(size=(2, *sides, 2)), rng.integers(0, 2, (2, *sides))
        expected = float(DiceCrossentropy()(y, model.predict_on_batch(x)))
        # Keras 3.12 goes on averaging over the batches before.
        model.reset_metrics()
        assert float(model.test_on_batch(x, y)) == pytest.approx(expected, rel=1e-5)

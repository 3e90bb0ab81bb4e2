"""Sums of losses, ours and those of Keras."""

import keras
import numpy as np
import pytest

from keras_ssl.losses import SoftDice, WeightedSum
from keras_ssl.losses.segmentation import JaccardDistance, soft_dice_loss
from keras_ssl.losses.weighted_sum import weighted_sum

TRUE = np.random.default_rng(0).integers(0, 3, (2, 4, 5))
PREDICTED = np.random.default_rng(1).dirichlet(np.ones(3), (2, 4, 5)).astype("float32")


def test_losses_of_images_and_of_voxels_are_added_up():
    terms = [(2.0, soft_dice_loss), (0.5, keras.losses.sparse_categorical_crossentropy)]
    by_voxel = keras.ops.convert_to_numpy(keras.losses.sparse_categorical_crossentropy(TRUE, PREDICTED))
    dice = keras.ops.convert_to_numpy(soft_dice_loss(TRUE, PREDICTED))
    total = keras.ops.convert_to_numpy(weighted_sum(TRUE, PREDICTED, terms))
    np.testing.assert_allclose(total, 2 * dice + 0.5 * by_voxel.mean(axis=(1, 2)), rtol=1e-5)


def test_class_is_the_sum_of_its_losses():
    parts = [
        SoftDice(),
        keras.losses.SparseCategoricalCrossentropy(reduction="sum"),
        JaccardDistance([1, 2, 3]),
    ]
    loss = WeightedSum([(1, parts[0]), (0.5, parts[1]), (2, parts[2])])
    values = [float(part(TRUE, PREDICTED)) for part in parts]
    # Of these reductions the sum uses none.
    expected = values[0] + 0.5 * values[1] / TRUE.size + 2 * values[2]
    assert float(loss(TRUE, PREDICTED)) == pytest.approx(expected, rel=1e-5)


def test_sums_may_hold_sums():
    inner = WeightedSum([(0.5, SoftDice())])
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(WeightedSum([(2.0, inner), (1.0, JaccardDistance())]))
    )
    expected = float(SoftDice()(TRUE, PREDICTED)) + float(JaccardDistance()(TRUE, PREDICTED))
    assert float(again(TRUE, PREDICTED)) == pytest.approx(expected, rel=1e-5)


def test_refused():
    with pytest.raises(ValueError, match="`terms` must hold at least one pair"):
        WeightedSum([])
    with pytest.raises(
        ValueError, match=r"Weights of `terms` must be finite and at least 0. Received \[-1\]"
    ):
        weighted_sum(TRUE, PREDICTED, [(-1, soft_dice_loss)])
    with pytest.raises(TypeError, match=r"must be a keras.losses.Loss. Received 'dice'"):
        WeightedSum([(1.0, "dice")])

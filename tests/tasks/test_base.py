"""PretextTask: abstract, compared by value, saved by its fields."""

import dataclasses
import json

import keras
import pytest

from keras_ssl import PretextTask
from keras_ssl.tasks import RotationGuards


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class Nested(PretextTask):
    sizes: tuple[tuple[int, int], ...] = ((1, 2),)
    guards: RotationGuards | None = None

    def preprocess(self, images, seed):
        return images, images

    def build_network(self, encoder, input_shape):
        return encoder

    def compute_loss(self, targets, outputs):
        return keras.losses.mean_squared_error(targets, outputs)


def test_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        PretextTask()


@pytest.mark.parametrize("task", [Nested(), Nested(((3, 4), (5, 6)), RotationGuards(crop=0.5))])
def test_comes_back_equal_and_hashable_from_json(task):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(task)))
    again = keras.saving.deserialize_keras_object(config)
    assert again == task
    assert hash(again) == hash(task)


def test_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Nested().sizes = ()


def test_no_metrics_unless_the_task_has_some():
    assert Nested().build_metrics() == []


def test_misspelled_field_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        Nested.from_config({"size": 1})

"""What Keras needs of a loss that is a function with settings."""

import abc
from collections.abc import Mapping
from typing import Any

import keras


class FunctionLoss(keras.losses.Loss, abc.ABC):
    """A function `(true, predicted, **settings)` to one number an image, as a Keras loss.

    Float32 under any precision policy. Keras then reduces over the images of a batch: `sample_weight` is
    one number an image, not one a voxel.

    Args:
        settings: keyword arguments of the function, plain values, under the names that the subclass' own
            `__init__` has for them.
        name: name of the loss.
        reduction: how Keras reduces over the images of a batch.
    """

    def __init__(self, settings: Mapping[str, Any], name: str | None, reduction: str | None) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.settings = dict(settings)

    @abc.abstractmethod
    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one number an image, shape `(batch,)`."""

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same loss again."""
        return {**super().get_config(), **self.settings}

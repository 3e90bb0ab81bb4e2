"""Whether a rotation task is being solved by the frame of the images, told while it happens."""

import warnings
from typing import Any

from keras_ssl.callbacks._periodic import PeriodicCheck
from keras_ssl.data.arrays import as_numpy
from keras_ssl.data.checks import check_images
from keras_ssl.preprocessing.rotation import quarter_turns
from keras_ssl.tasks.rotation import RotationTask
from keras_ssl.tasks.rotation_shortcuts import rotation_shortcuts


class ShortcutCheck(PeriodicCheck):
    """Log every few epochs of `fit_pretext` where a rotation network looks, by `rotation_shortcuts`.

    The keys are those of `rotation_shortcuts` behind `shortcut_`. It measures in the first epoch of a fit,
    in epochs 0, `every`, 2 `every`, ..., and in the last; epochs in between repeat the latest values.
    Put it first in `callbacks`, so that others see the values. Training is the same, bit for bit, with and
    without it.

    Args:
        images: array `(n, *spatial, channels)`, as in `rotation_shortcuts`; a hundred will do.
        every: epochs from one measurement to the next.
        tolerance: how far `border_only` may lie above chance at the end before a warning is given, in [0, 1).
        margin: width of what counts as the frame, see `rotation_shortcuts`.
        batch_size: rotated images in a batch.

    Raises:
        ValueError: `images` are none, `every` is below 1 or `tolerance` out of range. When a fit begins:
            the images are not the model's.
        TypeError: when a fit begins: the model's task is no `RotationTask`.

    Warns:
        UserWarning: when a fit ends: the border alone gives the rotation away.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((8, 16, 16, 3), seed=0)
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), encoder, seed=0)
    >>> history = model.fit_pretext(images, epochs=1, callbacks=[ShortcutCheck(images)], verbose=0)
    >>> history.history["shortcut_border_only"]
    [0.25]
    """

    def __init__(
        self,
        images: Any,
        *,
        every: int = 1,
        tolerance: float = 0.1,
        margin: float = 0.1,
        batch_size: int = 32,
    ) -> None:
        super().__init__(every)
        if not 0 <= tolerance < 1:
            raise ValueError(f"`tolerance` must be at least 0 and below 1. Received {tolerance}.")
        self.images = as_numpy(images)
        check_images(self.images)
        self.tolerance = tolerance
        self.margin = margin
        self.batch_size = batch_size

    def start(self) -> None:
        """Refuse a model whose images are not turned."""
        task = getattr(self.model, "task", None)
        if not isinstance(task, RotationTask):
            raise TypeError(f"ShortcutCheck is for models of a RotationTask. Received task {task!r}.")
        self._chance = 1 / len(quarter_turns(self.images.ndim - 2, task.rotations, task.axes))

    def measure(self, epoch: int) -> dict[str, float]:
        """Ask for rotations with parts hidden."""
        found = rotation_shortcuts(self.model, self.images, margin=self.margin, batch_size=self.batch_size)
        return {f"shortcut_{name}": value for name, value in found.items()}

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Warn where the border alone is enough."""
        border_only = self.values.get("shortcut_border_only", 0.0)
        if border_only > self._chance + self.tolerance:
            warnings.warn(
                f"The network tells {border_only:.0%} of the rotations from border and corners alone, where "
                f"chance is {self._chance:.0%}: the frame of the images gives them away, and the encoder "
                "learns it instead of the anatomy. Hide it with RotationTask(guards=RotationGuards()), with "
                "a larger `margin` there, or cut the images, and pretrain again.",
                stacklevel=2,
            )

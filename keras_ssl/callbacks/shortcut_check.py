"""Detection of rotation tasks that are solved by the frame of the images."""

import dataclasses
import warnings
from typing import Any

import numpy as np
from keras import ops

from keras_ssl._checks import as_numpy, check_images
from keras_ssl.callbacks._base import PeriodicCheck
from keras_ssl.data.inputs import image_batches
from keras_ssl.distribution import predict_on_batch
from keras_ssl.preprocessing.masking import circle_mask, hide_where
from keras_ssl.preprocessing.rotation import quarter_turns, rotated_axes
from keras_ssl.random import ReplaySeeds
from keras_ssl.tasks.rotation import RotationTask


def rotation_shortcuts(
    model: Any, images: Any, *, margin: float = 0.1, batch_size: int = 32
) -> dict[str, float]:
    """Ask a rotation network for rotations with parts of the images hidden.

    A black frame, cut edges or a time stamp give a rotation away. A network that reads them has a low
    loss and has learned nothing about the anatomy. Every image is shown in every rotation, without the random
    crops and intensities of the guards; so the result is always the same, and a network that always
    says the same is right once in as many times as there are rotations. That is chance: 1/4 in 2D.

    - `accuracy`: images as the task shows them, with the mask of its guards. What the rest is compared with.
    - `accuracy_masked`: border and corners are hidden. Near `accuracy`: the rotation is read from the
      inside. Near chance: from the frame.
    - `border_only`: the inside is hidden. Well above chance: the frame gives the rotation away, and the
      network knows. Use `RotationGuards`, a larger margin, or cut the images.
    - `accuracy_mirrored`: images are turned upside down by a mirror, then rotated. Near `accuracy`: what is
      read has no top and bottom, like the axis from disc to macula. Far below, even below chance: it has,
      like a stamp in a corner, but like the heart in a chest too; the two masks tell which.

    What is hidden becomes the mean of what is left, as in the guards. A network that never saw hidden
    parts may be thrown by them: a low `accuracy_masked` with a low `border_only` is no proof of a shortcut.
    With the guards' circle of the same margin `accuracy_masked` is `accuracy`, and `border_only` chance.

    Args:
        model: `SelfSupervisedModel` of a `RotationTask`.
        images: array `(n, *spatial, channels)`, two or three spatial axes, scaled as in training; best
            those that were not trained on. Mind that n images tell an accuracy to about 0.5 / sqrt(n).
        margin: width of what counts as the frame: what lies outside the inscribed circle (in 3D a
            ball; a cylinder where turned in one plane only), smaller by this share of its radius, in [0, 1).
        batch_size: rotated images in a batch; at least all of one image.

    Returns:
        The four shares of rotations that are recognized, in [0, 1].

    Raises:
        TypeError: `model` has no `RotationTask`.
        ValueError: images are not the model's, or `margin` is out of range.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((4, 16, 16, 3), seed=0)
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), encoder, seed=0)
    >>> sorted(rotation_shortcuts(model, images))
    ['accuracy', 'accuracy_masked', 'accuracy_mirrored', 'border_only']
    """
    task = getattr(model, "task", None)
    if not isinstance(task, RotationTask):
        raise TypeError(f"`model` must be a SelfSupervisedModel of a RotationTask. Received task {task!r}.")
    turns = quarter_turns(len(model.images_shape) - 1, task.rotations, task.axes)
    axes = rotated_axes(turns)
    still = _without_draws(task, model.images_shape)
    data = image_batches(images, model.images_shape, batch_size=max(1, batch_size // len(turns)))
    right: dict[str, list[np.ndarray]] = {}
    for index in range(len(data)):
        (batch,) = data[index]
        for name, (rotated, labels) in _views(still, ops.cast(batch, "float32"), margin, axes).items():
            logits = predict_on_batch(model.network, as_numpy(rotated))
            right.setdefault(name, []).append(logits.argmax(axis=1) == as_numpy(labels))
    return {name: float(np.concatenate(parts).mean()) for name, parts in right.items()}


def _without_draws(task: RotationTask, images_shape: tuple[int, ...]) -> RotationTask:
    """Return the task that shows every rotation of the whole image, with the mask of its guards if any."""
    guards = task._guards_for((1, *images_shape))
    if guards is not None:
        guards = dataclasses.replace(guards, crop=1, brightness=0, contrast=0, color=0)
    return dataclasses.replace(task, copies="all", guards=guards)


def _views(
    task: RotationTask, images: Any, margin: float, axes: tuple[int, ...]
) -> dict[str, tuple[Any, Any]]:
    """Return images and labels for each of the four questions."""
    shown, labels = task.preprocess(images, ReplaySeeds())
    mirrored, _ = task.preprocess(ops.flip(images, 1 + axes[0]), ReplaySeeds())
    # After the turns as good as before them: every turn leaves the circle as it is.
    inside = circle_mask(shown.shape[1:-1], margin, axes)[..., None]
    return {
        "accuracy": (shown, labels),
        "accuracy_masked": (hide_where(shown, ~inside), labels),
        "accuracy_mirrored": (mirrored, labels),
        "border_only": (hide_where(shown, inside), labels),
    }


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

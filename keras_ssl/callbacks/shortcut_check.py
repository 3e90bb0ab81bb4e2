"""Detection of shortcuts of the rotation task: frames and corners that reveal the rotation."""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl._checks import as_numpy, check_images
from keras_ssl._types import Images, Tensor
from keras_ssl.callbacks._base import PeriodicCheck
from keras_ssl.data.fit_inputs import image_batches
from keras_ssl.distribution import predict_on_batch
from keras_ssl.preprocessing.masking import circle_mask, hide_where
from keras_ssl.preprocessing.rotation import quarter_turns, rotated_axes
from keras_ssl.random import ReplaySeeds
from keras_ssl.tasks.rotation import RotationTask


def rotation_shortcuts(
    model: keras.Model, images: Images, *, margin: float = 0.1, batch_size: int = 32
) -> dict[str, float]:
    """Compute the rotation accuracy of a network on images with the border or the center masked.

    A black frame, cut edges or a time stamp reveal the rotation. A network that uses these shortcuts has a
    low loss and has learned nothing about the anatomy. Every image is evaluated in every rotation, without
    the random crops and intensity changes of the guards, so that the result is deterministic and a constant
    prediction has the accuracy of chance, 1 / number of rotations.

    - `accuracy`: images as the task shows them, with the mask of its guards, for comparison.
    - `accuracy_masked`: border and corners are masked. Near `accuracy`: the network recognizes rotations from
      the center. Near chance: from the frame.
    - `border_only`: the center is masked. Well above chance: the frame reveals the rotation, and the network
      uses it. Use `RotationGuards`, a larger margin, or crop the images.
    - `accuracy_mirrored`: images are mirrored upside down, then rotated. Near `accuracy`: the cue has no top
      and bottom, like the axis from optic disc to macula. Far below, even below chance: it has, like a
      stamp in a corner, but also like the heart in a chest; the two masked scores distinguish these.

    Masked pixels are set to the mean of the rest, as in the guards. A network that was never trained on
    masked images may fail on them: a low `accuracy_masked` with a low `border_only` does not prove a
    shortcut. With the guards' circle of the same margin, `accuracy_masked` equals `accuracy`, and
    `border_only` is chance.

    Args:
        model: `SelfSupervisedModel` of a `RotationTask`.
        images: array `(n, *spatial, channels)`, two or three spatial axes, scaled as in training, preferably
            not used in training. The standard error of an accuracy is up to about 0.5 / sqrt(n).
        margin: width of the frame: pixels outside the inscribed circle (in 3D a ball, or a cylinder if
            rotated in one plane only), reduced by this fraction of its radius, in [0, 1).
        batch_size: rotated images in a batch; at least all rotations of one image.

    Returns:
        The four accuracies, in [0, 1].

    Raises:
        TypeError: `model` has no `RotationTask`.
        ValueError: images do not have the model's shape, or `margin` is out of range.

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
    correct: dict[str, list[np.ndarray]] = {}
    for index in range(len(data)):
        (batch,) = data[index]
        for name, (rotated, labels) in _views(still, ops.cast(batch, "float32"), margin, axes).items():
            logits = predict_on_batch(model.network, as_numpy(rotated))
            correct.setdefault(name, []).append(logits.argmax(axis=1) == as_numpy(labels))
    return {name: float(np.concatenate(parts).mean()) for name, parts in correct.items()}


def _without_draws(task: RotationTask, images_shape: tuple[int, ...]) -> RotationTask:
    """Return the task with every rotation of the whole image, and the mask of its guards if any."""
    guards = task._guards_for((1, *images_shape))
    if guards is not None:
        guards = dataclasses.replace(guards, crop=1, brightness=0, contrast=0, color=0)
    return dataclasses.replace(task, copies="all", guards=guards)


def _views(
    task: RotationTask, images: Tensor, margin: float, axes: tuple[int, ...]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return images and labels for each of the four accuracies."""
    shown, labels = task.preprocess(images, ReplaySeeds())
    mirrored, _ = task.preprocess(ops.flip(images, 1 + axes[0]), ReplaySeeds())
    # Applied after the rotations, which map the circle to itself.
    inside = circle_mask(shown.shape[1:-1], margin, axes)[..., None]
    return {
        "accuracy": (shown, labels),
        "accuracy_masked": (hide_where(shown, ~inside), labels),
        "accuracy_mirrored": (mirrored, labels),
        "border_only": (hide_where(shown, inside), labels),
    }


class ShortcutCheck(PeriodicCheck):
    """Detects shortcuts of a rotation network every few epochs of `fit_pretext`, with `rotation_shortcuts`.

    Logs the accuracies of `rotation_shortcuts` with the prefix `shortcut_`. It runs in the first epoch of a
    fit, in epochs 0, `every`, 2 `every`, ..., and in the last epoch; epochs in between log the latest values
    again. Put it first in `callbacks`, so that others see the values. Training is bitwise the same with and
    without it.

    Args:
        images: array `(n, *spatial, channels)`, as in `rotation_shortcuts`; a hundred are enough.
        every: number of epochs between measurements.
        tolerance: final `border_only` minus chance above which a warning is given, in [0, 1).
        margin: width of the frame, see `rotation_shortcuts`.
        batch_size: rotated images in a batch.

    Raises:
        ValueError: `images` are invalid, `every` is below 1 or `tolerance` out of range. When a fit begins:
            the images do not have the model's shape.
        TypeError: when a fit begins: the model's task is not a `RotationTask`.

    Warns:
        UserWarning: when a fit ends: the border alone reveals the rotation.

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
        images: Images,
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
        """Check that the model has a RotationTask."""
        task = getattr(self.model, "task", None)
        if not isinstance(task, RotationTask):
            raise TypeError(f"ShortcutCheck requires a model with a RotationTask. Received task {task!r}.")
        self._chance = 1 / len(quarter_turns(self.images.ndim - 2, task.rotations, task.axes))

    def measure(self, epoch: int) -> dict[str, float]:
        """Compute the accuracies of `rotation_shortcuts`."""
        found = rotation_shortcuts(self.model, self.images, margin=self.margin, batch_size=self.batch_size)
        return {f"shortcut_{name}": value for name, value in found.items()}

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Warn if the border alone reveals the rotation."""
        border_only = self.values.get("shortcut_border_only", 0.0)
        if border_only > self._chance + self.tolerance:
            warnings.warn(
                f"The network recognizes {border_only:.0%} of the rotations from border and corners alone, "
                f"at a chance level of {self._chance:.0%}: the frame of the images is a shortcut, which the "
                "encoder learns instead of the anatomy. Mask it with RotationTask(guards=RotationGuards()) "
                "and a larger `margin`, or crop the images, and pretrain again.",
                stacklevel=2,
            )

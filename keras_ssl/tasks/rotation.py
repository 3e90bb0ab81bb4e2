"""RotationTask: predict the rotation of an image."""

import dataclasses
import math
from typing import Any, Literal

import keras
from keras import ops

from keras_ssl._serialization import Configurable
from keras_ssl._types import Plane
from keras_ssl.layers.pooling import mlp, pool_features
from keras_ssl.preprocessing.color import adjust_intensity
from keras_ssl.preprocessing.masking import border_mask, circle_mask, hide_outside
from keras_ssl.preprocessing.resampling import center_crop, zoom_crop
from keras_ssl.preprocessing.rotation import (
    quarter_turns,
    random_rotate,
    rotate_all,
    square_in_turned_plane,
    turned_axes,
)
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationGuards(Configurable):
    """What hides from the network the cues that betray a rotation without any look at the anatomy.

    Photographs of the eye have a black frame, cut-off edges and a fixed pixel grid that stay in place
    from image to image. A network reads the rotation off them and learns nothing else. The guards
    crop at random before the turn, so that no pixel keeps its place in the grid, vary brightness, contrast
    and color, and hide what lies outside a circle or border. None of them is different for one rotation
    than for another. What they cannot hide is within the circle: an uneven light, or
    the straight edge of a fundus that is cut off at the top.

    Args:
        mask: `"circle"` (in 3D a ball; a cylinder where turned in one plane only), `"border"` or `None`.
        margin: width of the hidden rim between inscribed circle or border and mask, as a share of half
            the size, in [0, 1).
        crop: smallest side of the random crop as a share of the image's, in (0, 1]; 1 for no crop.
        brightness: factors are drawn from 1 - `brightness` to 1 + `brightness`, in [0, 1); 0 for none.
        contrast: likewise, about each image's mean.
        color: likewise, for each channel.

    Raises:
        ValueError: a value is out of range.

    >>> RotationGuards(crop=0.8, color=0.0)
    RotationGuards(mask='circle', margin=0.1, crop=0.8, brightness=0.4, contrast=0.4, color=0.0)
    """

    mask: Literal["circle", "border"] | None = "circle"
    margin: float = 0.1
    crop: float = 0.6
    brightness: float = 0.4
    contrast: float = 0.4
    color: float = 0.3

    def __post_init__(self) -> None:
        if self.mask not in ("circle", "border", None):
            raise ValueError(f'`mask` must be "circle", "border" or None. Received {self.mask!r}.')
        if not 0 < self.crop <= 1:
            raise ValueError(f"`crop` must be above 0 and at most 1. Received {self.crop}.")
        for name in ("margin", "brightness", "contrast", "color"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 0 and below 1. Received {getattr(self, name)}.")


def guard(images: Any, guards: RotationGuards, axes: tuple[int, ...], seed: Any) -> Any:
    """Crop images, change their intensities and hide their rims, before they are turned.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        guards: what is done, and how much.
        axes: spatial axes that the turn exchanges.
        seed: what is drawn from.

    Returns:
        Tensor of the shape of `images`.
    """
    batch, rank = ops.shape(images)[0], len(images.shape) - 2

    def draw(shape: tuple[Any, ...], spread: float) -> Any:
        return keras.random.uniform(shape, 1 - spread, 1 + spread, dtype="float32", seed=seed)

    # The crop is drawn alike along all axes and before the turn: so its interpolation, too, looks
    # the same whatever the rotation.
    if guards.crop < 1:
        scales = keras.random.uniform((batch,), guards.crop, 1, dtype="float32", seed=seed)
        offsets = keras.random.uniform((batch, rank), -1, 1, dtype="float32", seed=seed)
        if guards.mask == "circle":
            # Moved towards a corner, a crop would have the dark frame of a photograph within its circle.
            length = ops.sqrt(ops.sum(offsets**2, axis=1, keepdims=True))
            offsets = offsets / ops.maximum(length, 1.0)
        images = zoom_crop(images, scales, offsets)
    images = adjust_intensity(
        images,
        brightness=draw((batch,), guards.brightness) if guards.brightness else None,
        contrast=draw((batch,), guards.contrast) if guards.contrast else None,
        color=draw((batch, images.shape[-1]), guards.color) if guards.color else None,
    )
    if guards.mask is None:
        return images
    mask = circle_mask if guards.mask == "circle" else border_mask
    return hide_outside(images, mask(images.shape[1:-1], guards.margin, axes))


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationTask(PretextTask):
    """Rotate images or volumes by quarter turns and learn to tell which rotation it was.

    Images must be of equal sizes along the axes that are turned. The network is the encoder, global pooling
    of its feature map, dense layers if asked for, and one logit for each rotation.

    Args:
        rotations: which rotations there are: `None` or `"planar"` for quarter turns in planes (4 in 2D, 10
            in 3D), `"cube"` for all 24 of a volume; see `quarter_turns`.
        copies: `"one"` for one random rotation of each image; `"all"` for every rotation of each image in one
            batch, larger by as many times, as in the paper.
        guards: what hides shortcuts; `"auto"` for `RotationGuards()` on photographs, that is 2D images of
            three channels, and none on others; `None` for the plain method.
        axes: planes to turn in, such as `((1, 2),)` for volumes whose slices along axis 0 are thick; see
            `quarter_turns`.
        fit: `"crop"` cuts the center out of images that are not square in the rotated plane; the encoder must
            then take the smaller images.
        hidden_units: units of the dense ReLU layers between pooling and logits.
        batch_norm: whether batch normalization follows each of them.
        dropout: share of units dropped before each further layer, in [0, 1).
        pooling: `"average"` or `"max"`, over the encoder's feature map; a feature vector passes.

    Raises:
        ValueError: a value is unknown. What depends on the images is checked by `build_network`.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> task = RotationTask(copies="all", guards=None)
    >>> inputs, labels = task.preprocess(np.zeros((2, 32, 32, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape), np.asarray(labels).tolist()
    ((8, 32, 32, 3), [0, 1, 2, 3, 0, 1, 2, 3])
    >>> wide = RotationTask(hidden_units=(2048, 1024), batch_norm=True, dropout=0.5, pooling="max")

    References:
        Gidaris, S., Singh, P., Komodakis, N. (2018). Unsupervised representation learning by
        predicting image rotations. ICLR.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """

    rotations: Literal["planar", "cube"] | None = None
    copies: Literal["one", "all"] = "one"
    guards: RotationGuards | Literal["auto"] | None = "auto"
    axes: tuple[Plane, ...] | None = None
    fit: Literal["crop"] | None = None
    hidden_units: tuple[int, ...] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    pooling: Literal["average", "max"] = "average"

    def __post_init__(self) -> None:
        if self.rotations not in (None, "planar", "cube"):
            raise ValueError(f'`rotations` must be None, "planar" or "cube". Received {self.rotations!r}.')
        if self.copies not in ("one", "all"):
            raise ValueError(f'`copies` must be "one" or "all". Received {self.copies!r}.')
        if not (self.guards in ("auto", None) or isinstance(self.guards, RotationGuards)):
            raise ValueError(f'`guards` must be "auto", None or RotationGuards. Received {self.guards!r}.')
        if self.fit not in (None, "crop"):
            raise ValueError(f'`fit` must be None or "crop". Received {self.fit!r}.')

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Guard and rotate; return `(rotated, labels)`, labels int32 as `quarter_turns` numbers them.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: what crops, intensities and rotations are drawn from.
        """
        images = ops.convert_to_tensor(images)
        turns = quarter_turns(len(images.shape) - 2, self.rotations, self.axes)
        images = center_crop(images, square_in_turned_plane(images.shape, turns, self.fit))
        guards = self._guards_for(images.shape)
        if guards is not None:
            images = guard(images, guards, turned_axes(turns), seed)
        if self.copies == "all":
            return rotate_all(images, self.rotations, self.axes)
        return random_rotate(images, seed, self.rotations, self.axes)

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return `input_shape`, cropped to a square where that is asked for.

        Raises:
            ValueError: images of `input_shape` cannot be turned.
        """
        turns = quarter_turns(len(input_shape) - 1, self.rotations, self.axes)
        return (*square_in_turned_plane((None, *input_shape), turns, self.fit), input_shape[-1])

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling, dense layers and float32 logits, one for each rotation.

        Args:
            encoder: gives a feature vector or a feature map.
            input_shape: `(*spatial, channels)` of the images.

        Raises:
            ValueError: `input_shape`, `rotations` and `axes` do not suit each other, or the encoder gives
                something else than features.
        """
        turns = quarter_turns(len(input_shape) - 1, self.rotations, self.axes)
        inputs = keras.Input(self.encoder_input_shape(input_shape))
        features = pool_features(encoder(inputs), self.pooling)
        hidden = mlp(
            features, self.hidden_units, batch_norm=self.batch_norm, dropout=self.dropout, name="rotation"
        )
        logits = keras.layers.Dense(len(turns), dtype="float32", name="rotation_logits")(hidden)
        return keras.Model(inputs, logits, name="rotation")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the cross-entropy of labels and logits, float32 `(batch,)`."""
        return keras.losses.sparse_categorical_crossentropy(
            targets, ops.cast(outputs, "float32"), from_logits=True
        )

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the cross-entropy of guessing one of the rotations."""
        return math.log(len(quarter_turns(len(input_shape) - 1, self.rotations, self.axes)))

    def build_metrics(self) -> list[keras.Metric]:
        """Make the share of rotations that are recognized."""
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def _guards_for(self, shape: tuple[int, ...]) -> RotationGuards | None:
        if self.guards == "auto":
            return RotationGuards() if len(shape) == 4 and shape[-1] == 3 else None
        return self.guards

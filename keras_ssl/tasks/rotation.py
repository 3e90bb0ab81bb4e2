"""RotationTask: classify by which quarter turns an image was rotated; RotationGuards against shortcuts."""

import dataclasses
from typing import Literal

import keras
from keras import ops

from keras_ssl._serialization import Configurable
from keras_ssl._types import Plane, Tensor
from keras_ssl.preprocessing.color import adjust_intensity
from keras_ssl.preprocessing.masking import border_mask, circle_mask, hide_where
from keras_ssl.preprocessing.resampling import center_crop, zoom_crop
from keras_ssl.preprocessing.rotation import (
    quarter_turns,
    random_rotate,
    rotate_all,
    rotated_axes,
    square_shape,
)
from keras_ssl.tasks._classification import TransformationTask, transformation_classifier


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationGuards(Configurable):
    """Guards that remove cues that reveal the rotation without using anatomy (shortcuts).

    Fundus photographs have a black frame, cropped edges and a fixed pixel grid in the same place in every
    image. A network can read the rotation from them and learn nothing else. The guards crop at random before
    the rotation, so that no pixel keeps its place in the grid, vary brightness, contrast and color, and mask
    what lies outside a circle or border. They are the same for every rotation. They cannot hide cues within
    the circle: uneven illumination, or the straight edge of a fundus that is cropped at the top.

    Args:
        mask: `"circle"` (in 3D a ball, or a cylinder if rotated in one plane only), `"border"` or `None`.
        margin: width of the hidden rim between inscribed circle or border and mask, as a fraction of half
            the size, in [0, 1).
        crop: smallest side of the random crop as a fraction of the image's, in (0, 1]; 1 for no crop.
        brightness: range of the random factors, 1 - `brightness` to 1 + `brightness`, in [0, 1); 0 for none.
        contrast: likewise, about the mean of each image.
        color: likewise, for each channel.

    Raises:
        ValueError: an argument is out of range.

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


def guard(
    images: Tensor, guards: RotationGuards, axes: tuple[int, ...], seed: keras.random.SeedGenerator
) -> Tensor:
    """Apply guards before the rotation: random crop, random intensities, mask of the rim.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        guards: the guards to apply.
        axes: spatial axes that the rotation exchanges.
        seed: source of randomness.

    Returns:
        Tensor of the shape of `images`.
    """
    batch, rank = ops.shape(images)[0], len(images.shape) - 2

    def factors(shape: tuple[int, ...], spread: float) -> Tensor:
        return keras.random.uniform(shape, 1 - spread, 1 + spread, dtype="float32", seed=seed)

    # One scale for all axes, and before the rotation, so that interpolation leaves no trace of the rotation.
    if guards.crop < 1:
        scales = keras.random.uniform((batch,), guards.crop, 1, dtype="float32", seed=seed)
        offsets = keras.random.uniform((batch, rank), -1, 1, dtype="float32", seed=seed)
        if guards.mask == "circle":
            # A crop near a corner would contain the dark frame of a photograph within its circle.
            length = ops.sqrt(ops.sum(offsets**2, axis=1, keepdims=True))
            offsets = offsets / ops.maximum(length, 1.0)
        images = zoom_crop(images, scales, offsets)
    images = adjust_intensity(
        images,
        brightness=factors((batch,), guards.brightness) if guards.brightness else None,
        contrast=factors((batch,), guards.contrast) if guards.contrast else None,
        color=factors((batch, images.shape[-1]), guards.color) if guards.color else None,
    )
    if guards.mask is None:
        return images
    mask = circle_mask if guards.mask == "circle" else border_mask
    return hide_where(images, ~mask(images.shape[1:-1], guards.margin, axes)[..., None])


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationTask(TransformationTask):
    """Rotate images or volumes by quarter turns and classify the rotation.

    Images must be square in the rotated planes. The network is encoder, global pooling, optional dense layers
    and one logit per rotation.

    Args:
        rotations: set of rotations: `None` or `"planar"` for quarter turns in planes (4 in 2D, 10 in 3D),
            `"cube"` for all 24 of a volume; see `quarter_turns`.
        axes: planes of rotation, such as `((1, 2),)` for volumes with thick slices along axis 0; see
            `quarter_turns`.
        fit: `"crop"` takes the center of images that are not square in the rotated plane; the encoder must
            then accept the smaller images.
        copies: `"one"` for one random rotation of each image; `"all"` for every rotation of each image in one
            batch, larger by that factor, as in the paper.
        guards: guards against shortcuts; `"auto"` for `RotationGuards()` on 2D images of three channels, such
            as fundus photographs, and none on others; `None` for the method of the paper.
        hidden_units: units of the dense ReLU layers between pooling and logits.
        batch_norm: whether batch normalization follows each of them.
        dropout: dropout rate after each of them, in [0, 1).
        pooling: `"average"` or `"max"`, over the encoder's feature map; a feature vector is used as it is.

    Raises:
        ValueError: an argument is unknown. `build_network` checks what depends on the images.

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
    axes: tuple[Plane, ...] | None = None
    fit: Literal["crop"] | None = None
    copies: Literal["one", "all"] = "one"
    guards: RotationGuards | Literal["auto"] | None = "auto"
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

    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Tensor, Tensor]:
        """Apply guards and rotate; return rotated images and int32 labels, numbered as by `quarter_turns`.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: source of random crops, intensities and rotations.
        """
        images = ops.convert_to_tensor(images)
        turns = quarter_turns(len(images.shape) - 2, self.rotations, self.axes)
        images = center_crop(images, square_shape(images.shape, turns, self.fit))
        guards = self._guards_for(images.shape)
        if guards is not None:
            images = guard(images, guards, rotated_axes(turns), seed)
        if self.copies == "all":
            return rotate_all(images, self.rotations, self.axes)
        return random_rotate(images, seed, self.rotations, self.axes)

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return `input_shape`, cropped to a square if `fit` is `"crop"`.

        Raises:
            ValueError: images of `input_shape` cannot be rotated.
        """
        turns = quarter_turns(len(input_shape) - 1, self.rotations, self.axes)
        return (*square_shape((None, *input_shape), turns, self.fit), input_shape[-1])

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling, dense layers and float32 logits, one per rotation.

        Args:
            encoder: returns a feature vector or a feature map.
            input_shape: `(*spatial, channels)` of the images.

        Raises:
            ValueError: `rotations` and `axes` do not suit `input_shape`, or the encoder does not return
                features.
        """
        return transformation_classifier(
            encoder,
            self.encoder_input_shape(input_shape),
            self.num_classes(input_shape),
            hidden_units=self.hidden_units,
            batch_norm=self.batch_norm,
            dropout=self.dropout,
            pooling=self.pooling,
            name="rotation",
        )

    def num_classes(self, input_shape: tuple[int, ...]) -> int:
        """Return the number of rotations."""
        return len(quarter_turns(len(input_shape) - 1, self.rotations, self.axes))

    def _guards_for(self, shape: tuple[int, ...]) -> RotationGuards | None:
        if self.guards == "auto":
            return RotationGuards() if len(shape) == 4 and shape[-1] == 3 else None
        return self.guards

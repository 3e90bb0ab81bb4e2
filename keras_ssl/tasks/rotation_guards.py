"""What hides the shortcuts that betray a rotation."""

import dataclasses
from typing import Any, Literal

import keras
from keras import ops

from keras_ssl.configurable import Configurable
from keras_ssl.preprocessing.cropping import zoom_crop
from keras_ssl.preprocessing.intensity import adjust_intensity
from keras_ssl.preprocessing.masking import border_mask, circle_mask, hide_outside


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationGuards(Configurable):
    """What hides from the network the cues that betray a rotation without any look at the anatomy.

    Photographs of the eye have a black frame, cut-off edges and a fixed pixel grid that stay in place
    from image to image. A network reads the rotation off them and learns nothing else. The guards
    crop at random before the turn, so that no pixel keeps its place in the grid, vary brightness, contrast
    and colour, and hide what lies outside a circle or border. None of them is different for one rotation
    than for another. What they cannot hide is within the circle: an uneven light, or
    the straight edge of a fundus that is cut off at the top.

    Args:
        mask: `"circle"` (in 3D a ball; a cylinder where turned in one plane only), `"border"` or `None`.
        margin: width of the hidden rim between inscribed circle or border and mask, as a share of half
            the size, in [0, 1).
        crop: smallest side of the random crop as a share of the image's, in (0, 1]; 1 for no crop.
        brightness: factors are drawn from 1 - `brightness` to 1 + `brightness`, in [0, 1); 0 for none.
        contrast: likewise, about each image's mean.
        colour: likewise, for each channel.

    Raises:
        ValueError: a value is out of range.

    >>> RotationGuards(crop=0.8, colour=0.0)
    RotationGuards(mask='circle', margin=0.1, crop=0.8, brightness=0.4, contrast=0.4, colour=0.0)
    """

    mask: Literal["circle", "border"] | None = "circle"
    margin: float = 0.1
    crop: float = 0.6
    brightness: float = 0.4
    contrast: float = 0.4
    colour: float = 0.3

    def __post_init__(self) -> None:
        if self.mask not in ("circle", "border", None):
            raise ValueError(f'`mask` must be "circle", "border" or None. Received {self.mask!r}.')
        if not 0 < self.crop <= 1:
            raise ValueError(f"`crop` must be above 0 and at most 1. Received {self.crop}.")
        for name in ("margin", "brightness", "contrast", "colour"):
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
        colour=draw((batch, images.shape[-1]), guards.colour) if guards.colour else None,
    )
    if guards.mask is None:
        return images
    mask = circle_mask if guards.mask == "circle" else border_mask
    return hide_outside(images, mask(images.shape[1:-1], guards.margin, axes))

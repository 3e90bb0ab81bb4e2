"""SegmentationHead: a U-Net decoder on the feature pyramid of any encoder."""

import dataclasses
import math

import keras
import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_masks
from keras_ssl._types import Labels, Tensor
from keras_ssl.encoders.feature_pyramid import pyramid_model
from keras_ssl.encoders.spatial_layers import RankLayers, convolution_block, layers_for, positive_integers
from keras_ssl.heads.base import Head
from keras_ssl.losses import DiceCrossentropy

_MAX_FILTERS = 256


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class SegmentationHead(Head):
    """Semantic segmentation: a U-Net decoder on the encoder's feature pyramid, then a softmax.

    The expanding path of a U-Net. From the coarsest level on, features are upsampled by 2, convolved,
    concatenated with those of the encoder at that size (skip connection), and convolved again, up to the size
    of the images; each convolution is 3 wide and followed by batch normalization and ReLU. Sizes need not be
    powers of two. Where the finest features of an encoder are smaller than the images, the last levels have
    no skip connection. Trained with Dice and cross-entropy, `losses.DiceCrossentropy`.

    Args:
        num_classes: number of classes, background included, at least 2; label maps hold 0, the background,
            to `num_classes - 1`.
        filters: filters of the decoder at each size, from that of the images to the second coarsest. By
            default the encoder's channels there, at most 256; without any, half those of the next coarser
            size, at least 8.
        dropout: dropout rate of the coarsest features, in [0, 1).

    Raises:
        ValueError: an argument is out of range. In `attach`: the encoder has no feature pyramid (see
            `encoders.pyramid_outputs`), or `filters` is not one number per size.

    >>> import keras_ssl
    >>> encoder = keras_ssl.encoders.unet_encoder((24, 20, 16, 1), filters=(4, 8, 16))
    >>> SegmentationHead(3).attach(encoder, keras.Input((24, 20, 16, 1))).shape
    (None, 24, 20, 16, 3)

    References:
        Ronneberger, O. et al. (2015). U-Net: convolutional networks for biomedical image segmentation.
        MICCAI.
        Çiçek, Ö. et al. (2016). 3D U-Net: learning dense volumetric segmentation from sparse annotation.
        MICCAI.
    """

    num_classes: int
    filters: tuple[int, ...] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, (int, np.integer)) or self.num_classes < 2:
            raise ValueError(
                f"`num_classes` must be an integer of at least 2. Received {self.num_classes!r}."
            )
        if self.filters is not None:
            object.__setattr__(self, "filters", positive_integers("filters", self.filters))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1). Received {self.dropout}.")

    def attach(self, encoder: keras.Model | keras.Layer, images: keras.KerasTensor) -> keras.KerasTensor:
        """Add decoder and softmax to the encoder's pyramid, float32 `(batch, *spatial, num_classes)`."""
        pyramid = pyramid_model(encoder, images.shape[1:])(images)
        levels = {int(name[1:]): features for name, features in pyramid.items()}
        coarsest = max(levels)
        filters = self._filters({level: features.shape[-1] for level, features in levels.items()})
        make = layers_for(images.shape[1:])
        x = levels[coarsest]
        if self.dropout:
            x = keras.layers.Dropout(self.dropout, name="decoder_dropout")(x)
        for level in range(coarsest - 1, -1, -1):
            sides = _sides_at(level, images.shape[1:-1], levels.get(level))
            x = _enlarge(x, make, sides, name=f"decoder{level}_up")
            x = convolution_block(x, filters[level], name=f"decoder{level}_1")
            if level in levels:
                x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, levels[level]])
            x = convolution_block(x, filters[level], name=f"decoder{level}_2")
        logits = make.conv(self.num_classes, 1, name="head_logits")(x)
        return keras.layers.Softmax(dtype="float32", name="head_outputs")(logits)

    def loss(self) -> keras.losses.Loss:
        """Create the sum of foreground soft Dice loss and cross-entropy."""
        return DiceCrossentropy()

    def chance_loss(self) -> float:
        """Return the cross-entropy of equal probabilities plus a Dice loss of 1."""
        return 1 + math.log(self.num_classes)

    def for_metrics(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return label maps and probabilities unchanged."""
        return targets, outputs

    def encode(self, labels: Labels) -> np.ndarray:
        """Check label maps `(n, *spatial)` or `(n, *spatial, 1)`; return them as integers `(n, *spatial)`."""
        return check_masks(labels, self.num_classes)

    def check_training_labels(self, labels: Labels) -> None:
        """Raise ValueError for classes out of range, or if all is background."""
        check_masks(labels, self.num_classes, foreground=True)

    def decode(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Return the most probable class of each pixel, `(n, *spatial)`, uint8 up to 256 classes."""
        return np.argmax(outputs, axis=-1).astype(np.min_scalar_type(self.num_classes - 1))

    def probabilities(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Return the softmax."""
        return np.asarray(outputs)

    def _filters(self, channels: dict[int, int]) -> list[int]:
        coarsest = max(channels)
        if self.filters is not None:
            if len(self.filters) != coarsest:
                raise ValueError(
                    f"`filters` must be {coarsest} numbers, one for each size above the encoder's coarsest. "
                    f"Received {self.filters}."
                )
            return list(self.filters)
        widths = [min(channels[coarsest], _MAX_FILTERS)]
        for level in range(coarsest - 1, -1, -1):
            widths.append(min(channels.get(level, max(widths[-1] // 2, 8)), _MAX_FILTERS))
        return widths[:0:-1]


def _sides_at(
    level: int, image_sides: tuple[int, ...], features: keras.KerasTensor | None
) -> tuple[int, ...]:
    """Sides of a level: the encoder's, which may be rounded down, if it has this level."""
    if features is not None:
        return tuple(features.shape[1:-1])
    return tuple(-(-side // 2**level) for side in image_sides)


def _enlarge(x: keras.KerasTensor, make: RankLayers, sides: tuple[int, ...], name: str) -> keras.KerasTensor:
    """Upsample by 2, then crop or zero-pad at the end to the sides wanted."""
    x = make.upsample(2, name=name)(x)
    excess = [have - want for have, want in zip(x.shape[1:-1], sides, strict=True)]
    if any(more > 0 for more in excess):
        x = make.crop([(0, max(more, 0)) for more in excess], name=f"{name}_crop")(x)
    if any(more < 0 for more in excess):
        # Convolutions without padding rounded the coarser level down.
        x = make.zero_pad([(0, max(-more, 0)) for more in excess], name=f"{name}_pad")(x)
    return x

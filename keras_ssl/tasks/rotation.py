"""RotationTask: find out by which quarter turns an image was rotated."""

import dataclasses
import math
from typing import Any, Literal

import keras
from keras import ops

from keras_ssl.layers.mlp import mlp, pool_features
from keras_ssl.preprocessing.cropping import center_crop
from keras_ssl.preprocessing.rotation import (
    Plane,
    quarter_turns,
    random_rotate,
    rotate_all,
    square_in_turned_plane,
    turned_axes,
)
from keras_ssl.task import PretextTask
from keras_ssl.tasks.rotation_guards import RotationGuards, guard


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
        fit: `"crop"` cuts the centre out of images that are not square in the rotated plane; the encoder must
            then take the smaller images.
        hidden_units: units of the dense ReLU layers between pooling and logits.
        batch_norm: whether batch normalisation follows each of them.
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
        """Make the share of rotations that are recognised."""
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def _guards_for(self, shape: tuple[int, ...]) -> RotationGuards | None:
        if self.guards == "auto":
            return RotationGuards() if len(shape) == 4 and shape[-1] == 3 else None
        return self.guards

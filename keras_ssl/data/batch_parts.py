"""Extraction of images, labels and weights from batches of a data set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_ssl.data.arrays import as_numpy


@dataclasses.dataclass(frozen=True)
class BatchParts:
    """Finds images, labels and weights in a batch: an array, a tuple or list, or a dictionary.

    Keys are not needed, nor looked at, where batches are no dictionaries.

    Args:
        rank: number of spatial axes of the images.
        image_key: key of the images where batches are dictionaries, as those of Hugging Face and MONAI. A
            value that is a dictionary itself, as TorchIO's, holds them under `"data"`.
        label_key: key of the labels.
        data_format: `"channels_last"`, or `"channels_first"` where batches are `(n, channels, *spatial)`, as
            those of PyTorch and MONAI are: they are then moved.

    Raises:
        ValueError: `data_format` is neither.

    >>> parts = BatchParts(2, image_key="image", data_format="channels_first")
    >>> parts.images({"image": np.zeros((4, 3, 8, 8)), "label": np.zeros(4)}).shape
    (4, 8, 8, 3)
    """

    rank: int
    image_key: str | None = None
    label_key: str | None = None
    data_format: str = "channels_last"

    def __post_init__(self) -> None:
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"`data_format` must be 'channels_last' or 'channels_first'. Received {self.data_format!r}."
            )

    def images(self, batch: Any) -> Any:
        """Return the images of a batch, channels last.

        Raises:
            ValueError: there are none under `image_key`.
        """
        if isinstance(batch, (tuple, list)):
            batch = batch[0] if len(batch) else ()
        part = self._of(batch, "image_key")
        # On PyTorch its own tensors are left as they are, in pinned memory say.
        own = keras.backend.backend() == "torch" and keras.ops.is_tensor(part)
        return self.channels_last(part if own else as_numpy(part))

    def labelled(self, batch: Any) -> tuple[Any, ...]:
        """Return images, labels and, where there are any, weights.

        Raises:
            ValueError: as `images`, or there are no labels.
        """
        if isinstance(batch, Mapping):
            return self.images(batch), self._labels(batch)
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            length = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise ValueError(
                "A labelled data set must yield (images, labels), (images, labels, sample_weight), or "
                f"dictionaries with `image_key` and `label_key`. Received {type(batch).__name__}{length}."
            )
        return (
            self.images(batch[:1]),
            self._labels(batch[1]),
            *(as_numpy(weights, "sample_weight") for weights in batch[2:] if weights is not None),
        )

    def channels_last(self, images: Any) -> Any:
        """Move the channels of images, or of masks with an axis of channels, to the end."""
        if self.data_format == "channels_last" or len(images.shape) != self.rank + 2:
            return images
        if isinstance(images, np.ndarray):
            # A view, so that a memory-mapped array stays on disk.
            return np.moveaxis(images, 1, -1)
        return keras.ops.moveaxis(images, 1, -1)

    def _labels(self, labels: Any) -> Any:
        return self.channels_last(as_numpy(self._of(labels, "label_key"), "labels"))

    def _of(self, part: Any, name: str) -> Any:
        """Look a part up, where it is a dictionary."""
        if not isinstance(part, Mapping):
            return part
        key = getattr(self, name)
        if key not in part:
            keys = ", ".join(map(repr, part))
            raise ValueError(
                f"`{name}` must be one of the keys of the batches, which are dictionaries with {keys}. "
                f"Received {key!r}."
            )
        value = part[key]
        return value["data"] if isinstance(value, Mapping) and "data" in value else value

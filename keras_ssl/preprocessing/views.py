"""Views of images, random augmentations of the same image, for contrastive and self-distillation tasks."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_ssl._seeding import seed_states
from keras_ssl._types import Seed, Tensor
from keras_ssl.preprocessing.augmentation import Augmentation, Geometry, Intensity
from keras_ssl.random import ReplaySeeds

# Creates views: an augmentation, a layer called in training mode, or a function (images, seed) -> images.
ViewMaker: TypeAlias = Augmentation | keras.Layer | Callable[[Tensor, Seed], Tensor]


def fundus_views() -> Augmentation:
    """Return views of fundus photographs: crops, flips and rotation by any angle.

    Brightness and contrast vary a little, the same for all colors. Hue and saturation do not change: redness,
    yellow exudates and dark hemorrhages carry the grade, and a network trained to match views of different
    color learns to ignore them.

    >>> fundus_views().geometry.rotation, fundus_views().intensity.gamma
    (180.0, (1.0, 1.0))
    """
    return Augmentation(
        geometry=Geometry(flip_axes=(0, 1), rotation=180.0, crop=(0.5, 1.0)),
        intensity=Intensity(contrast=0.1, brightness=0.1, noise=0.02),
    )


def xray_views() -> Augmentation:
    """Return views of projections such as chest X-rays: crops, rotation, exposure; no flips.

    >>> xray_views().geometry.flip_axes, xray_views().geometry.rotation
    ((), 15.0)
    """
    return Augmentation(
        geometry=Geometry(rotation=15.0, crop=(0.5, 1.0)),
        intensity=Intensity(
            blur=1.0, contrast=0.3, brightness=0.3, gamma=(0.7, 1.5), noise=0.1, probability=0.5
        ),
    )


def mr_views() -> Augmentation:
    """Return views of MR volumes, whose values have no unit: crops, rotation, all intensities.

    >>> mr_views().geometry.crop, mr_views().intensity.gamma
    ((0.6, 1.0), (0.7, 1.5))
    """
    return Augmentation(
        geometry=Geometry(rotation=30.0, crop=(0.6, 1.0)),
        intensity=Intensity(
            blur=1.0, contrast=0.3, brightness=0.3, gamma=(0.7, 1.5), noise=0.1, probability=0.5
        ),
    )


def ct_views() -> Augmentation:
    """Return views of CT volumes: crops, rotation, blur and noise; Hounsfield units are kept.

    >>> ct_views().intensity.contrast, ct_views().intensity.noise
    (0.0, 0.1)
    """
    return Augmentation(
        geometry=Geometry(rotation=30.0, crop=(0.6, 1.0)),
        intensity=Intensity(blur=1.0, noise=0.1, probability=0.5),
    )


def views_for(shape: tuple[Any, ...]) -> Augmentation:
    """Return the default views for the shape of images.

    Args:
        shape: `(batch, *spatial, channels)`.

    Returns:
        `mr_views()` for volumes, `fundus_views()` for images of three channels, `xray_views()` for others.

    >>> views_for((None, 32, 32, 1)) == xray_views()
    True
    """
    if len(shape) == 5:
        return mr_views()
    return fundus_views() if shape[-1] == 3 else xray_views()


def random_views(
    images: Tensor, seed: keras.random.SeedGenerator, views: ViewMaker | None = None, count: int = 2
) -> Tensor:
    """Create several random views of every image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        seed: seed generator. A layer has seed generators of its own: if `seed` is a `ReplaySeeds`, as in
            evaluation, they are set from it and restored afterwards.
        views: an `Augmentation`; any layer, called with `training=True`; or a function `(images, seed)`.
            `None` for `views_for` the shape of the images.
        count: number of views of each image.

    Returns:
        Tensor `(batch * count, *spatial, channels)`: all views of the first image, then of the second.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> tuple(random_views(np.ones((3, 8, 8, 1), "float32"), ReplaySeeds()).shape)
    (6, 8, 8, 1)
    """
    images = ops.repeat(ops.convert_to_tensor(images), count, axis=0)
    if views is None:
        views = views_for(images.shape)
    if not isinstance(views, keras.Layer):
        return views(images, seed)
    if not isinstance(seed, ReplaySeeds):
        return views(images, training=True)
    states = seed_states(views)
    # Copies, since PyTorch assigns in place.
    kept = [ops.copy(ops.convert_to_tensor(state)) for state in states]
    for state in states:
        state.assign(ops.cast(seed.next(), state.dtype))
    made = views(images, training=True)
    for state, before in zip(states, kept, strict=True):
        state.assign(before)
    return made

"""Views of images: random changes that keep what an image shows, for tasks that compare them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_ssl._seeding import seed_states
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.random import ReplaySeeds

# What makes a view: an augmentation, a layer that is called in training mode, or (images, seed) -> images.
ViewMaker: TypeAlias = Augmentation | keras.Layer | Callable[[Any, keras.random.SeedGenerator], Any]


def fundus_views() -> Augmentation:
    """Views of photographs of the eye: cut out, mirrored and turned by any angle.

    Brightness and contrast change a little and alike in all colors. Colors among themselves, hue and
    saturation, are left alone: redness, yellow exudates and dark hemorrhages are what is graded, and a
    network that is asked to call two colorings the same learns not to see them.

    >>> fundus_views().rotation, fundus_views().gamma
    (180.0, (1.0, 1.0))
    """
    return Augmentation(
        flip_axes=(0, 1), rotation=180.0, crop=(0.5, 1.0), contrast=0.1, brightness=0.1, noise=0.02
    )


def xray_views() -> Augmentation:
    """Views of projections such as chest X-rays: cut out, tilted, exposed otherwise; never mirrored.

    >>> xray_views().flip_axes, xray_views().rotation
    ((), 15.0)
    """
    return Augmentation(
        rotation=15.0,
        crop=(0.5, 1.0),
        blur=1.0,
        contrast=0.3,
        brightness=0.3,
        gamma=(0.7, 1.5),
        noise=0.1,
        intensity_probability=0.5,
    )


def mr_views() -> Augmentation:
    """Views of MR volumes, whose values have no unit: cut out, turned, scanned otherwise.

    >>> mr_views().crop, mr_views().gamma
    ((0.6, 1.0), (0.7, 1.5))
    """
    return Augmentation(
        rotation=30.0,
        crop=(0.6, 1.0),
        blur=1.0,
        contrast=0.3,
        brightness=0.3,
        gamma=(0.7, 1.5),
        noise=0.1,
        intensity_probability=0.5,
    )


def ct_views() -> Augmentation:
    """Views of CT volumes: cut out, turned, blurred and noisy. The Hounsfield units of a tissue are kept.

    >>> ct_views().contrast, ct_views().noise
    (0.0, 0.1)
    """
    return Augmentation(rotation=30.0, crop=(0.6, 1.0), blur=1.0, noise=0.1, intensity_probability=0.5)


def views_for(shape: tuple[Any, ...]) -> Augmentation:
    """Choose a recipe by the shape of images alone, as tasks do that are given none.

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
    images: Any, seed: keras.random.SeedGenerator, views: ViewMaker | None = None, count: int = 2
) -> Any:
    """Make several views of every image, each drawn on its own.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        seed: what is drawn from. A layer draws from generators of its own; these start from `seed` where that
            is a `ReplaySeeds`, as in evaluation, and are put back afterwards.
        views: an `Augmentation`; any layer, called with `training=True`; or a function `(images, seed)`.
            `None` for `views_for` the shape of the images.
        count: views of each image.

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
    # Copies: PyTorch assigns in place.
    kept = [ops.copy(ops.convert_to_tensor(state)) for state in states]
    for state in states:
        state.assign(ops.cast(seed.next(), state.dtype))
    made = views(images, training=True)
    for state, before in zip(states, kept, strict=True):
        state.assign(before)
    return made

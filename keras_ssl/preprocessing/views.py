"""Views of images, random augmentations of the same image, for contrastive and self-distillation tasks."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_ssl._seeding import seed_states
from keras_ssl._types import Seed, Tensor
from keras_ssl.preprocessing.augmentation import Augmentation, Color, Geometry, Intensity
from keras_ssl.random import ReplaySeeds

# An augmentation, or a function (images, seed) -> images.
ImageAugmentation: TypeAlias = Augmentation | Callable[[Tensor, Seed], Tensor]
# Creates views; a layer is called in training mode.
ViewMaker: TypeAlias = ImageAugmentation | keras.Layer


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


def color_views() -> Augmentation:
    """Return views of other color images (skin, endoscopy, natural images): crops, flips, changes of color.

    Hue, saturation, brightness and contrast vary as usual for contrastive learning, so that colors alone do
    not tell which views belong together. The sides of crops are at least half of the image's: lesions are
    small, and the papers' crops, from 8 % of the area, often miss them.

    >>> color_views().color.grayscale, color_views().geometry.crop
    (0.2, (0.6, 1.0))

    References:
        Chen, T. et al. (2020). A simple framework for contrastive learning of visual representations. ICML.
    """
    return Augmentation(
        geometry=Geometry(flip_axes=(0, 1), crop=(0.6, 1.0), aspect=(0.8, 1.25)),
        color=Color(hue=36.0, saturation=0.4, grayscale=0.2, solarize=0.1, probability=0.9),
        intensity=Intensity(blur=1.0, contrast=0.4, brightness=1.0),
    )


def histology_views() -> Augmentation:
    """Return views of stained tissue, square and with values from 0: crops, right angles, changes of stains.

    Amounts of hematoxylin, eosin and DAB vary as they do between laboratories, and not hue or saturation.

    >>> histology_views().color.stain, histology_views().geometry.right_angles
    (0.3, True)
    """
    return Augmentation(
        geometry=Geometry(flip_axes=(0, 1), right_angles=True, crop=(0.6, 1.0), aspect=(0.8, 1.25)),
        color=Color(stain=0.3),
        intensity=Intensity(blur=1.0, contrast=0.1, brightness=0.2, noise=0.02, probability=0.5),
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
        `mr_views()` for volumes, `color_views()` for images of three channels, `xray_views()` for others.

    >>> views_for((None, 32, 32, 1)) == xray_views()
    True
    """
    return _choice(shape)[0]()


def describe_default_views(shape: tuple[Any, ...]) -> str:
    """Describe the default views for the shape of images, and when to choose others.

    >>> describe_default_views((None, 32, 32, 3))
    'Views: color_views(), chosen for RGB images; for fundus photographs pass views=fundus_views().'
    """
    recipe, kind, others = _choice(shape)
    return f"Views: {recipe.__name__}(), chosen for {kind}; for {others}."


def _choice(shape: tuple[Any, ...]) -> tuple[Callable[[], Augmentation], str, str]:
    """Return a recipe, the kind of images it is chosen for, and which ones need another."""
    if len(shape) == 5:
        return mr_views, "volumes", "CT pass views=ct_views()"
    if shape[-1] == 3:
        return color_views, "RGB images", "fundus photographs pass views=fundus_views()"
    return xray_views, "images that are not RGB", "MR slices pass views=mr_views()"


def mild_augmentation(shape: tuple[Any, ...], flips: bool = True) -> Augmentation:
    """Return a mild augmentation for pretext tasks without views: small rotation, crops of at least 0.8.

    Values and colors do not change, since they are what such tasks predict.

    Args:
        shape: `(*spatial, channels)` of the images.
        flips: whether to flip 2D images of three channels; others have a left and a right.

    >>> mild_augmentation((32, 32, 3)).geometry.flip_axes, mild_augmentation((32, 32, 1)).geometry.flip_axes
    ((0, 1), ())
    """
    flip_axes = (0, 1) if flips and len(shape) == 3 and shape[-1] == 3 else ()
    return Augmentation(geometry=Geometry(flip_axes=flip_axes, rotation=10.0, crop=(0.8, 1.0)), fill="edge")


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
    images = ops.convert_to_tensor(images)
    images = ops.repeat(images, count, axis=0) if count > 1 else images
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

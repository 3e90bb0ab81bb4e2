"""What an augmentation does to tensors, once its parameters are drawn."""

from typing import Any

from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype
from keras_ssl.preprocessing.affine import affine_matrices
from keras_ssl.preprocessing.blur import gaussian_blur
from keras_ssl.preprocessing.intensity import add_noise, adjust_gamma, adjust_intensity
from keras_ssl.preprocessing.masking import cut_out
from keras_ssl.preprocessing.resampling import Fill, Interpolation, resample
from keras_ssl.preprocessing.rotation import Plane

_AFFINE = ("flips", "turns", "angles", "scales", "shifts")


def change(
    planes: tuple[Plane, ...],
    fill: Fill,
    blur_radius: int,
    output_shape: tuple[int, ...] | None,
    parameters: dict[str, Any],
    images: Any,
    *masks: Any,
) -> tuple[Any, ...]:
    """Apply what was drawn to tensors; return images and, where there are, masks."""
    dtype = floating_dtype(images)
    images, *followed = _move(planes, fill, output_shape, parameters, ops.cast(images, "float32"), *masks)
    if "sigmas" in parameters:
        images = gaussian_blur(images, parameters["sigmas"], blur_radius)
    images = adjust_intensity(images, contrast=parameters.get("contrast"), offset=parameters.get("offset"))
    if "gammas" in parameters:
        images = adjust_gamma(images, parameters["gammas"])
    if "noise" in parameters:
        images = add_noise(images, parameters["noise"], parameters["amounts"])
    if "sizes" in parameters:
        images = cut_out(images, parameters["centres"], parameters["sizes"])
    return ops.cast(images, dtype), *followed


def _move(
    planes: tuple[Plane, ...],
    fill: Fill,
    shape: tuple[int, ...] | None,
    parameters: dict[str, Any],
    images: Any,
    *masks: Any,
) -> tuple[Any, ...]:
    affine = {name: parameters[name] for name in _AFFINE if name in parameters}
    displacement = parameters.get("displacement")
    if not affine and displacement is None:
        return images, *masks
    rank = len(images.shape) - 2
    same = {"scales": ops.ones((ops.shape(images)[0],))}
    matrices = affine_matrices(rank, planes=planes, **(affine or same))
    # Flips and turns bring voxels onto voxels: there is nothing to interpolate.
    exact = displacement is None and not {"angles", "scales", "shifts"} & set(affine)
    interpolation: Interpolation = "nearest" if exact else "linear"
    how = {"displacement": displacement}
    moved = resample(images, matrices, shape, interpolation=interpolation, fill=fill, **how)
    outside: Fill = "edge" if fill == "edge" else 0
    return moved, *(_follow(labels, matrices, shape, outside, how) for labels in masks)


def _follow(masks: Any, matrices: Any, shape: tuple[int, ...] | None, fill: Fill, how: dict[str, Any]) -> Any:
    rank = matrices.shape[1]
    labels = ops.reshape(masks, (*ops.shape(masks)[: rank + 1], -1))
    labels = resample(labels, matrices, shape, interpolation="nearest", fill=fill, **how)
    return ops.reshape(labels, (*ops.shape(labels)[: rank + 1], *ops.shape(masks)[rank + 1 :]))

"""Random augmentation of images and volumes."""

import dataclasses
import math
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_ssl._serialization import Configurable
from keras_ssl._types import Plane
from keras_ssl.preprocessing._batching import Draws, Generator, compiled, floating_dtype, in_parts
from keras_ssl.preprocessing.color import add_noise, adjust_gamma, adjust_intensity, gaussian_blur
from keras_ssl.preprocessing.masking import cut_out
from keras_ssl.preprocessing.resampling import (
    Fill,
    Interpolation,
    affine_matrices,
    all_planes,
    check_fill,
    resample,
)

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
        images = cut_out(images, parameters["centers"], parameters["sizes"])
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


# What a number may be at most.
_LARGEST = {
    "rotation": 180.0,
    "shift": 1.0,
    "elastic": 0.4,
    "blur": math.inf,
    "contrast": 1.0,
    "brightness": math.inf,
    "noise": math.inf,
    "cutout": 1.0,
    "affine_probability": 1.0,
    "elastic_probability": 1.0,
    "intensity_probability": 1.0,
    "cutout_probability": 1.0,
}


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(Configurable):
    """Random changes of images or volumes, drawn for each on its own, and of the masks that go with them.

    Nothing is changed but what is asked for. Whatever moves voxels is composed into one matrix and one smooth
    displacement, by which the image is read once. Then come, in this order, blur, contrast and brightness,
    gamma, noise and cutout. They are relative to each image, so any range of values will do. Masks follow
    what moves voxels, take the label of the nearest voxel and are left alone by the rest.

    It is a function for `FineTuner.fit(augment=...)`, of NumPy arrays and a NumPy generator, and as well one
    for tensors and a Keras generator within a model. On TensorFlow and JAX the first batch of each shape
    takes seconds, in which it is compiled: give it volumes, or patches of them, of one shape.

    Args:
        flip_axes: spatial axes, numbered from 0, each of which is reversed with a probability of one half.
        right_angles: whether to turn by 0 to 3 quarter turns in each of the planes, whose sides must be
            equal.
        planes: pairs of spatial axes in rising order that images are turned and rotated in; `None` for all.
            `((1, 2),)` suits volumes whose slices along axis 0 are thick.
        rotation: largest angle of the rotation in each plane, in degrees. Voxels are taken to be cubes.
        scale: least and largest factor by which things become larger, the same along all axes.
        shift: largest shift along each axis, as a share of the size.
        crop: least and greatest side, as a share of the image's in (0, 1], of the part that is cut out at a
            random place and enlarged to the size of the result, always.
        output_shape: spatial shape of the result, to which images, or the parts cut out, are resized;
            `None` for their own.
        elastic: largest displacement of the points of a coarse grid, as a share of the distance between them,
            from 0 to 0.4, so that nothing folds over.
        elastic_cells: cells of that grid along each axis. The fewer, the smoother and larger the deformation.
        fill: value around images, `"edge"`, `"minimum"` or a number, see `resample`. Masks go on with their
            edge for `"edge"`, and have 0 outside otherwise.
        blur: largest standard deviation of the Gaussian, in voxels.
        contrast: factors are drawn from 1 - `contrast` to 1 + `contrast`, in [0, 1).
        brightness: largest change, up or down, in standard deviations of the image.
        gamma: least and largest exponent; their logarithm is drawn.
        noise: largest standard deviation of Gaussian noise, in that of the image.
        cutout: largest side of the box that is replaced by the image's mean, as a share of the image's.
        affine_probability: how often an image is rotated, scaled and shifted.
        elastic_probability: how often an image is deformed.
        intensity_probability: how often each of blur, contrast, brightness, gamma and noise is applied, each
            on its own.
        cutout_probability: how often an image has a box cut out.

    Raises:
        ValueError: a value is out of range. What depends on the images is checked when they come.

    >>> import numpy as np
    >>> augment = Augmentation(flip_axes=(0,), rotation=15.0, elastic=0.2, noise=0.1)
    >>> images, masks = np.ones((2, 8, 8, 8, 1), "float32"), np.ones((2, 8, 8, 8), "uint8")
    >>> images, masks = augment(images, np.random.default_rng(0), masks)
    >>> images.shape, masks.dtype.name
    ((2, 8, 8, 8, 1), 'uint8')

    References:
        Isensee, F. et al. (2021). nnU-Net: a self-configuring method for deep learning-based biomedical image
        segmentation. Nature Methods 18.
        Choi, Y., Lee, S. (2000). Injectivity conditions of 2D and 3D uniform cubic B-spline functions.
        Graphical Models 62(6).
    """

    flip_axes: tuple[int, ...] = ()
    right_angles: bool = False
    planes: tuple[Plane, ...] | None = None
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    crop: tuple[float, float] = (1.0, 1.0)
    output_shape: tuple[int, ...] | None = None
    elastic: float = 0.0
    elastic_cells: int = 4
    fill: Fill = "minimum"
    blur: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    cutout: float = 0.0
    affine_probability: float = 1.0
    elastic_probability: float = 1.0
    intensity_probability: float = 1.0
    cutout_probability: float = 1.0

    def __post_init__(self) -> None:
        # Else it could not be hashed, nor equal what is loaded.
        for name in ("flip_axes", "planes", "scale", "crop", "output_shape", "gamma"):
            if not isinstance(getattr(self, name), (tuple, type(None))):
                raise ValueError(f"`{name}` must be a tuple. Received {getattr(self, name)!r}.")
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if not 0 <= value <= largest or not math.isfinite(value):
                limit = "a finite number" if largest == math.inf else f"at most {largest}"
                raise ValueError(f"`{name}` must be at least 0 and {limit}. Received {value!r}.")
        if self.contrast == 1:
            raise ValueError(f"`contrast` must be at least 0 and below 1. Received {self.contrast!r}.")
        for name, largest in (("scale", math.inf), ("crop", 1.0), ("gamma", math.inf)):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= largest or bounds[1] == math.inf:
                limit = "" if largest == math.inf else f", of at most {largest}"
                raise ValueError(f"`{name}` must be two rising numbers above 0{limit}. Received {bounds!r}.")
        if not isinstance(self.elastic_cells, int) or self.elastic_cells < 1:
            raise ValueError(
                f"`elastic_cells` must be an integer of at least 1. Received {self.elastic_cells!r}."
            )
        check_fill(self.fill)

    def __call__(self, images: Any, generator: Generator, masks: Any = None) -> Any:
        """Draw and apply.

        Args:
            images: array or tensor `(batch, *spatial, channels)`, two or three spatial axes.
            generator: what is drawn from: `numpy.random.Generator`, for NumPy arrays only, or
                `keras.random.SeedGenerator`.
            masks: labels `(batch, *spatial)` or `(batch, *spatial, channels)`.

        Returns:
            Images of the same shape, or of `output_shape`; with `masks`, both. Arrays are answered with
            arrays and tensors with tensors. Floating images keep their dtype, others become float32; masks
            keep theirs.

        Raises:
            ValueError: images are not as described, or cannot be flipped or turned as asked for; masks do
                not lie on the images; or `generator` is neither, or NumPy's for tensors.
        """
        if isinstance(generator, np.random.Generator) and not isinstance(images, np.ndarray):
            # Traced with a model, it would be asked once, and give the same to every batch.
            raise ValueError(
                "`generator` must be a keras.random.SeedGenerator where images are tensors. "
                f"Received {generator!r} for a {type(images).__name__}."
            )
        shape = images.shape if isinstance(images, np.ndarray) else ops.shape(images)
        return self.apply(images, self.draw(tuple(shape), generator), masks)

    def draw(self, shape: tuple[Any, ...], generator: Generator) -> dict[str, Any]:
        """Draw what `apply` does to a batch of images.

        Args:
            shape: shape of the images.
            generator: as for a call.

        Returns:
            Parameters by name, the first axis of each that of the images; only those of changes asked for.

        Raises:
            ValueError: as for a call.
        """
        self._check_shape(shape)
        draws = Draws(generator, shape[0])
        output = (*(self.output_shape or shape[1:-1]), shape[-1])
        return {**self._draw_geometry(draws, shape[1:-1], output[:-1]), **self._draw_intensity(draws, output)}

    def apply(self, images: Any, parameters: dict[str, Any], masks: Any = None) -> Any:
        """Do to images and masks what was drawn; nothing in it is random.

        Args:
            images: as for a call.
            parameters: from `draw`, for images of this shape.
            masks: as for a call.

        Returns:
            As a call.

        Raises:
            ValueError: as for a call.
        """
        self._check_shape(tuple(images.shape))
        if masks is not None and tuple(masks.shape[1:])[: len(images.shape) - 2] != tuple(images.shape[1:-1]):
            raise ValueError(
                "`masks` must lie on the images, (batch, *spatial) or (batch, *spatial, channels). Received "
                f"shape {tuple(masks.shape)} for images of shape {tuple(images.shape)}."
            )
        batches = (images,) if masks is None else (images, masks)
        tensors = keras.tree.map_structure(ops.convert_to_tensor, (parameters, *batches))
        rank = len(images.shape) - 2
        settings = self._planes_of(rank), self.fill, math.ceil(3 * self.blur), self.output_shape
        changed = in_parts(compiled(change, *settings), *tensors)
        if isinstance(images, np.ndarray):
            dtypes = (floating_dtype(images), *(batch.dtype for batch in batches[1:]))
            # Results of JAX are read-only, those of PyTorch laid out with channels before space.
            changed = tuple(
                np.require(ops.convert_to_numpy(batch), dtype, ["C", "W"])
                for batch, dtype in zip(changed, dtypes, strict=True)
            )
        return changed[0] if masks is None else changed

    @classmethod
    def fundus(cls) -> Self:
        """Augment photographs of the eye: mirrored, turned by any angle, a little larger or smaller.

        Color, brightness and sharpness are left alone: by them a grader tells hemorrhages from exudates,
        and sees microaneurysms, a few pixels wide.
        """
        return cls(flip_axes=(0, 1), rotation=180.0, scale=(0.9, 1.1), shift=0.02)

    @classmethod
    def xray(cls) -> Self:
        """Augment projections such as chest X-rays: no mirroring, since the heart has a side.

        Exposure differs between devices, so gamma, contrast and brightness vary.
        """
        return cls(
            rotation=10.0,
            scale=(0.9, 1.1),
            shift=0.05,
            contrast=0.2,
            brightness=0.2,
            gamma=(0.7, 1.4),
            noise=0.05,
            intensity_probability=0.5,
        )

    @classmethod
    def mr_volume(cls) -> Self:
        """Augment MR volumes, whose values have no unit: all intensities vary, and anatomy deforms a little.

        Sides of the body are kept apart; with `dataclasses.replace(..., flip_axes=(0,))` they are not.
        """
        return cls(
            rotation=15.0,
            scale=(0.85, 1.15),
            shift=0.05,
            elastic=0.2,
            blur=1.0,
            contrast=0.25,
            brightness=0.25,
            gamma=(0.7, 1.5),
            noise=0.1,
            elastic_probability=0.3,
            intensity_probability=0.3,
        )

    @classmethod
    def ct_volume(cls) -> Self:
        """Augment CT volumes: geometry, blur and noise. The Hounsfield units of a tissue are kept."""
        return cls(
            rotation=15.0,
            scale=(0.85, 1.15),
            shift=0.05,
            elastic=0.2,
            blur=1.0,
            noise=0.05,
            elastic_probability=0.3,
            intensity_probability=0.3,
        )

    def _check_shape(self, shape: tuple[Any, ...]) -> None:
        sizes = shape[1:-1]
        if len(sizes) not in (2, 3) or None in sizes:
            raise ValueError(
                "`images` must have two or three spatial axes of known sizes, (batch, *spatial, channels). "
                f"Received shape {tuple(shape)}."
            )
        if self.output_shape is not None and (
            len(self.output_shape) != len(sizes) or min(self.output_shape) < 1
        ):
            raise ValueError(
                f"`output_shape` must be {len(sizes)} sizes of at least 1 for images of shape "
                f"{tuple(shape)}. Received {self.output_shape}."
            )
        axes = range(len(sizes))
        if not set(self.flip_axes) <= set(axes):
            raise ValueError(
                f"`flip_axes` must be within {tuple(axes)} for images of shape {tuple(shape)}. "
                f"Received {self.flip_axes}."
            )
        planes = self._planes_of(len(sizes))
        if not set(planes) <= set(all_planes(len(sizes))):
            raise ValueError(
                f"`planes` must be among {all_planes(len(sizes))} for images of shape {tuple(shape)}. "
                f"Received {self.planes}."
            )
        if self.right_angles and any(sizes[a] != sizes[b] for a, b in planes):
            raise ValueError(
                f"`images` must be of equal sides in the planes {planes} to be turned by right angles. "
                f"Received shape {tuple(shape)}. Crop or pad first, or name other `planes`."
            )

    def _planes_of(self, rank: int) -> tuple[Plane, ...]:
        return all_planes(rank) if self.planes is None else self.planes

    def _draw_geometry(self, draws: Draws, sizes: tuple[int, ...], output: tuple[int, ...]) -> dict[str, Any]:
        rank, drawn = len(sizes), {}
        planes = len(self._planes_of(rank))
        if self.flip_axes:
            chances = draws.constant([0.5 * (axis in self.flip_axes) for axis in range(rank)])
            drawn["flips"] = draws.uniform((rank,), 0.0, 1.0) < chances
        if self.right_angles:
            drawn["turns"] = draws.uniform((planes,), 0.0, 4.0) // 1
        if self.rotation or self.scale != (1.0, 1.0) or self.shift:
            on = draws.sometimes(self.affine_probability)
            if self.rotation:
                drawn["angles"] = draws.uniform((planes,), -self.rotation, self.rotation) * on[:, None]
            if self.scale != (1.0, 1.0):
                drawn["scales"] = draws.uniform((), *self.scale) ** on
            if self.shift:
                drawn["shifts"] = (
                    draws.uniform((rank,), -self.shift, self.shift) * on[:, None] * draws.constant(output)
                )
        if self.crop != (1.0, 1.0):
            share = draws.uniform((), *self.crop)[:, None]
            # Seen from the result, what is beside a part is as far away as the part is enlarged.
            room = (1 - share) / share * draws.constant(output) / 2
            drawn["scales"] = drawn.get("scales", 1.0) / share[:, 0]
            drawn["shifts"] = drawn.get("shifts", 0.0) + draws.uniform((rank,), -1.0, 1.0) * room
        if output != sizes:
            resized = draws.constant(np.divide(output, sizes))
            drawn["scales"] = drawn.get("scales", draws.ones())[:, None] * resized
        if self.elastic:
            points = draws.uniform((rank, *[self.elastic_cells + 3] * rank), -self.elastic, self.elastic)
            on = draws.sometimes(self.elastic_probability)
            cell = np.reshape(output, (rank, *[1] * rank)) / self.elastic_cells
            drawn["displacement"] = points * draws.constant(cell) * on[(slice(None), *[None] * (rank + 1))]
        return drawn

    def _draw_intensity(self, draws: Draws, shape: tuple[int, ...]) -> dict[str, Any]:
        drawn = {}

        def on() -> Any:
            return draws.sometimes(self.intensity_probability)

        if self.blur:
            drawn["sigmas"] = draws.uniform((), 0.0, self.blur) * on()
        if self.contrast:
            drawn["contrast"] = 1 + draws.uniform((), -self.contrast, self.contrast) * on()
        if self.brightness:
            drawn["offset"] = draws.uniform((), -self.brightness, self.brightness) * on()
        if self.gamma != (1.0, 1.0):
            low, high = self.gamma
            drawn["gammas"] = (low * (high / low) ** draws.uniform((), 0.0, 1.0)) ** on()
        if self.noise:
            drawn["amounts"] = draws.uniform((), 0.0, self.noise) * on()
            drawn["noise"] = draws.normal(shape, drawn["amounts"])
        if self.cutout:
            rank = len(shape) - 1
            drawn["centers"] = draws.uniform((rank,), 0.0, 1.0)
            on_box = draws.sometimes(self.cutout_probability)[:, None]
            drawn["sizes"] = draws.uniform((rank,), 0.0, self.cutout) * on_box
        return drawn

"""Random augmentation of images and volumes, and of their masks: parameters are drawn, then applied."""

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_ssl._serialization import Configurable
from keras_ssl._types import Plane, Tensor
from keras_ssl.preprocessing._compilation import compiled, floating_dtype
from keras_ssl.preprocessing.color import (
    add_noise,
    adjust_colors,
    adjust_gamma,
    adjust_intensity,
    adjust_stains,
    gaussian_blur,
    solarize,
)
from keras_ssl.preprocessing.masking import cut_out
from keras_ssl.preprocessing.resampling import (
    Fill,
    Interpolation,
    affine_matrices,
    all_planes,
    check_fill,
    resample,
)

Generator: TypeAlias = np.random.Generator | keras.random.SeedGenerator
# Random parameters by name; the first axis of each is that of the images.
Parameters: TypeAlias = dict[str, Tensor]

_AFFINE = ("flips", "turns", "angles", "scales", "shifts")


def _check_tuples(settings: Any, *names: str) -> None:
    # Lists could not be hashed, nor be equal to what is loaded from a file.
    for name in names:
        if not isinstance(getattr(settings, name), (tuple, type(None))):
            raise ValueError(f"`{name}` must be a tuple. Received {getattr(settings, name)!r}.")


def _check_numbers(settings: Any, **largest: float) -> None:
    for name, limit in largest.items():
        value = getattr(settings, name)
        if not 0 <= value <= limit or not math.isfinite(value):
            what = "a finite number" if limit == math.inf else f"at most {limit}"
            raise ValueError(f"`{name}` must be at least 0 and {what}. Received {value!r}.")


def _check_bounds(settings: Any, **largest: float) -> None:
    for name, limit in largest.items():
        bounds = getattr(settings, name)
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= limit or bounds[1] == math.inf:
            what = "" if limit == math.inf else f" and at most {limit}"
            raise ValueError(f"`{name}` must be two increasing numbers above 0{what}. Received {bounds!r}.")


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry(Configurable):
    """Flips, rotation, scaling, shift and crop of an `Augmentation`: one affine transform per image.

    Args:
        flip_axes: spatial axes, numbered from 0; each is flipped with probability 0.5.
        right_angles: whether to rotate by 0 to 3 quarter turns in each of the planes, whose sides must be
            equal.
        planes: planes of rotation, pairs of spatial axes in increasing order; `None` for all. `((1, 2),)` is
            for volumes with thick slices along axis 0.
        rotation: largest angle of rotation in each plane, in degrees. Voxels are taken to be cubes.
        scale: smallest and largest scaling factor, the same along all axes; above 1 enlarges.
        shift: largest shift along each axis, as a fraction of the size.
        crop: smallest and largest side of a random crop, as a fraction of the image's, in (0, 1]. The crop is
            resized to the size of the result.
        aspect: smallest and largest ratio of the crop's side along each further axis to that along the first,
            as fractions of the image's sides, log-uniform. The size of the crop is kept, unless it would not
            fit into the image.
        probability: probability that an image is rotated, scaled and shifted. Flips, right angles, crop and
            aspect do not depend on it.

    Raises:
        ValueError: a value is out of range.
    """

    flip_axes: tuple[int, ...] = ()
    right_angles: bool = False
    planes: tuple[Plane, ...] | None = None
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    crop: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (1.0, 1.0)
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_tuples(self, "flip_axes", "planes", "scale", "crop", "aspect")
        _check_numbers(self, rotation=180.0, shift=1.0, probability=1.0)
        _check_bounds(self, scale=math.inf, crop=1.0, aspect=math.inf)

    def planes_of(self, rank: int) -> tuple[Plane, ...]:
        """Return the planes of rotation of images with `rank` spatial axes."""
        return all_planes(rank) if self.planes is None else self.planes

    def check(self, shape: tuple[Any, ...]) -> None:
        """Validate the shape of images.

        Raises:
            ValueError: axes or planes are not those of the images, or images are not square in the planes.
        """
        sizes = shape[1:-1]
        axes = range(len(sizes))
        if not set(self.flip_axes) <= set(axes) or len(set(self.flip_axes)) < len(self.flip_axes):
            raise ValueError(
                f"`flip_axes` must be different axes within {tuple(axes)} for images of shape "
                f"{tuple(shape)}. Received {self.flip_axes}."
            )
        planes = self.planes_of(len(sizes))
        if not set(planes) <= set(all_planes(len(sizes))):
            raise ValueError(
                f"`planes` must be among {all_planes(len(sizes))} for images of shape {tuple(shape)}. "
                f"Received {self.planes}."
            )
        if self.right_angles and any(sizes[a] != sizes[b] for a, b in planes):
            raise ValueError(
                f"`images` must have equal sides in the planes {planes} to be rotated by right angles. "
                f"Received shape {tuple(shape)}. Crop or pad first, or choose other `planes`."
            )

    def draw(self, draws: "_Draws", sizes: tuple[int, ...], output: tuple[int, ...]) -> Parameters:
        """Draw parameters, for images of `sizes` and results of size `output`."""
        rank = len(sizes)
        drawn: Parameters = {}
        planes = len(self.planes_of(rank))
        if self.flip_axes:
            axes = draws.constant(np.eye(rank)[list(self.flip_axes)])
            drawn["flips"] = draws.bernoulli(0.5, (len(self.flip_axes),)) @ axes
        if self.right_angles:
            drawn["turns"] = draws.uniform((planes,), 0.0, 4.0) // 1
        if self.rotation or self.scale != (1.0, 1.0) or self.shift:
            on = draws.bernoulli(self.probability)
            if self.rotation:
                drawn["angles"] = draws.uniform((planes,), -self.rotation, self.rotation) * on[:, None]
            if self.scale != (1.0, 1.0):
                drawn["scales"] = draws.uniform((), *self.scale) ** on
            if self.shift:
                shifts = draws.uniform((rank,), -self.shift, self.shift) * on[:, None]
                drawn["shifts"] = shifts * draws.constant(output)
        if self.crop != (1.0, 1.0) or self.aspect != (1.0, 1.0):
            sides = draws.uniform((), *self.crop)[:, None]
            scales = drawn["scales"] if "scales" in drawn else draws.ones()
            if self.aspect == (1.0, 1.0):
                drawn["scales"] = scales / sides[:, 0]
            else:
                sides = draws.within_image(sides * self._stretch(draws, rank))
                drawn["scales"] = scales[:, None] / sides
            # Measured in the result, the distance of a crop from the image's border grows by its enlargement.
            room = (1 - sides) / sides * draws.constant(output) / 2
            drawn["shifts"] = drawn.get("shifts", 0.0) + draws.uniform((rank,), -1.0, 1.0) * room
        if output != sizes:
            scales = drawn["scales"] if "scales" in drawn else draws.ones()
            scales = scales[:, None] if len(scales.shape) == 1 else scales
            drawn["scales"] = scales * draws.constant(np.divide(output, sizes))
        return drawn

    def _stretch(self, draws: "_Draws", rank: int) -> Tensor:
        """Draw a factor for each side of a crop, of product 1, `(batch, rank)`."""
        logarithms = draws.uniform((rank - 1,), *map(math.log, self.aspect))
        # The first side has ratio 1 to itself; the mean is subtracted.
        centered = np.eye(rank)[1:] - 1 / rank
        return math.e ** (logarithms @ draws.constant(centered))


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Elastic(Configurable):
    """Elastic deformation of an `Augmentation`: cubic B-splines over a coarse grid of control points.

    Args:
        displacement: largest displacement of a control point, as a fraction of the distance between them,
            from 0 to 0.4, below which the deformation cannot fold.
        grid_size: intervals between control points along each axis. Fewer give a smoother and larger
            deformation.
        probability: probability that an image is deformed.

    Raises:
        ValueError: a value is out of range.

    References:
        Choi, Y., Lee, S. (2000). Injectivity conditions of 2D and 3D uniform cubic B-spline functions.
        Graphical Models 62(6).
    """

    displacement: float = 0.0
    grid_size: int = 4
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_numbers(self, displacement=0.4, probability=1.0)
        if not isinstance(self.grid_size, int) or self.grid_size < 1:
            raise ValueError(f"`grid_size` must be an integer of at least 1. Received {self.grid_size!r}.")

    def draw(self, draws: "_Draws", output: tuple[int, ...]) -> Parameters:
        """Draw parameters, for results of size `output`."""
        if not self.displacement:
            return {}
        rank = len(output)
        points = draws.uniform((rank, *[self.grid_size + 3] * rank), -self.displacement, self.displacement)
        on = draws.bernoulli(self.probability)
        spacing = np.reshape(output, (rank, *[1] * rank)) / self.grid_size
        return {"displacement": points * draws.constant(spacing) * on[(slice(None), *[None] * (rank + 1))]}


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Color(Configurable):
    """Changes of color of an `Augmentation`, of images with channels red, green and blue.

    Brightness and contrast are in `Intensity`. Hue, saturation and grayscale keep the luma of each pixel and
    work on any range of values, the same for all channels; stains need values from 0.

    Args:
        hue: largest rotation of the hue in YIQ color space, in degrees, up or down.
        saturation: saturation factors are drawn from 1 - `saturation` to 1 + `saturation`, in [0, 1].
        stain: for histology: amounts of hematoxylin, eosin and DAB are each multiplied by a factor from
            1 - `stain` to 1 + `stain`, in [0, 1], and shifted by up to a quarter of `stain` in units of
            optical density, less than in the paper, so that white stays nearly white. White is the largest
            value of an image and black is 0.
        grayscale: probability that an image becomes gray.
        solarize: probability that values above the middle of the image's range are mirrored.
        probability: probability that each of hue, saturation and stain changes, independently.

    Raises:
        ValueError: a value is out of range.

    References:
        Grill, J.-B. et al. (2020). Bootstrap your own latent. NeurIPS.
        Tellez, D. et al. (2019). Quantifying the effects of data augmentation and stain color normalization
        in convolutional neural networks for computational pathology. Medical Image Analysis 58.
    """

    hue: float = 0.0
    saturation: float = 0.0
    stain: float = 0.0
    grayscale: float = 0.0
    solarize: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_numbers(self, hue=180.0, saturation=1.0, stain=1.0)
        _check_numbers(self, grayscale=1.0, solarize=1.0, probability=1.0)

    def check(self, shape: tuple[Any, ...]) -> None:
        """Validate the shape of images.

        Raises:
            ValueError: colors are changed, and images do not have three channels.
        """
        changes = self.hue or self.saturation or self.stain or self.grayscale or self.solarize
        if changes and shape[-1] != 3:
            raise ValueError(
                "`images` must have three channels, red, green and blue, for changes of `color`. "
                f"Received shape {tuple(shape)}."
            )

    def draw(self, draws: "_Draws") -> Parameters:
        """Draw parameters."""
        drawn: Parameters = {}
        if self.stain:
            on = draws.bernoulli(self.probability)[:, None]
            drawn["stain_factors"] = 1 + draws.uniform((3,), -self.stain, self.stain) * on
            drawn["stain_offsets"] = draws.uniform((3,), -self.stain / 4, self.stain / 4) * on
        if self.hue or self.saturation or self.grayscale:
            drawn["hues"], drawn["saturations"] = 0 * draws.ones(), draws.ones()
        if self.hue:
            drawn["hues"] = draws.uniform((), -self.hue, self.hue) * draws.bernoulli(self.probability)
        if self.saturation:
            change = draws.uniform((), -self.saturation, self.saturation)
            drawn["saturations"] = 1 + change * draws.bernoulli(self.probability)
        if self.grayscale:
            drawn["saturations"] = drawn["saturations"] * (1 - draws.bernoulli(self.grayscale))
        if self.solarize:
            drawn["solarized"] = draws.bernoulli(self.solarize)
        return drawn


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Intensity(Configurable):
    """Changes of intensity of an `Augmentation`, applied in the order of these arguments.

    They are relative to each image, so any range of values will do.

    Args:
        blur: largest standard deviation of a Gaussian blur, in voxels.
        contrast: contrast factors are drawn from 1 - `contrast` to 1 + `contrast`, in [0, 1).
        brightness: largest change, up or down, in standard deviations of the image.
        gamma: smallest and largest exponent, log-uniform.
        noise: largest standard deviation of Gaussian noise, in standard deviations of the image.
        probability: probability that each of them is applied, independently.

    Raises:
        ValueError: a value is out of range.
    """

    blur: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_tuples(self, "gamma")
        _check_numbers(
            self, blur=math.inf, contrast=1.0, brightness=math.inf, noise=math.inf, probability=1.0
        )
        _check_bounds(self, gamma=math.inf)
        if self.contrast == 1:
            raise ValueError(f"`contrast` must be at least 0 and below 1. Received {self.contrast!r}.")

    def draw(self, draws: "_Draws", shape: tuple[int, ...]) -> Parameters:
        """Draw parameters, for results of `shape`, `(*spatial, channels)`."""
        drawn: Parameters = {}

        def on() -> Tensor:
            return draws.bernoulli(self.probability)

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
        return drawn


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutout(Configurable):
    """Cutout of an `Augmentation`: a random box is replaced by the image's mean.

    Args:
        size: largest side of the box, as a fraction of the image's.
        probability: probability that an image has a box.

    Raises:
        ValueError: a value is out of range.

    References:
        DeVries, T., Taylor, G. W. (2017). Improved regularization of convolutional neural networks with
        cutout. arXiv:1708.04552.
    """

    size: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_numbers(self, size=1.0, probability=1.0)

    def draw(self, draws: "_Draws", rank: int) -> Parameters:
        """Draw parameters, for images with `rank` spatial axes."""
        if not self.size:
            return {}
        centers = draws.uniform((rank,), 0.0, 1.0)
        on = draws.bernoulli(self.probability)[:, None]
        return {"centers": centers, "sizes": draws.uniform((rank,), 0.0, self.size) * on}


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(Configurable):
    """Random augmentation of images or volumes, each on its own, together with their masks.

    Only what is asked for is applied. Geometry and elastic deformation are composed into one transform, so
    that an image is interpolated once. Then follow blur, stains, hue and saturation, contrast, brightness and
    gamma, solarization, noise and cutout. Masks follow the geometry and the elastic deformation, take the
    label of the nearest voxel, and are not changed otherwise.

    An instance is a function for `FineTuner.fit(augment=...)`, of NumPy arrays and a NumPy generator. It also
    works inside a model, on tensors and a Keras seed generator. On TensorFlow and JAX, the first batch of
    each shape takes seconds to compile: use volumes, or patches of them, of one shape.

    Args:
        geometry: flips, rotation, scaling, shift and crop.
        elastic: elastic deformation.
        color: stains, hue, saturation, grayscale and solarization, for images with three channels.
        intensity: blur, contrast, brightness, gamma and noise.
        cutout: boxes that are replaced by the mean.
        output_shape: spatial shape of the result, to which images or crops are resized; `None` for that of
            the images.
        fill: value outside the images, `"edge"`, `"minimum"` or a number, see `resample`. Outside, masks
            repeat their edge for `"edge"` and are 0 otherwise.

    Raises:
        ValueError: a value is invalid. What depends on the images is checked when it is called.

    >>> import numpy as np
    >>> augment = Augmentation(
    ...     geometry=Geometry(flip_axes=(0,), rotation=15.0),
    ...     elastic=Elastic(displacement=0.2),
    ...     intensity=Intensity(noise=0.1),
    ... )
    >>> images, masks = np.ones((2, 8, 8, 8, 1), "float32"), np.ones((2, 8, 8, 8), "uint8")
    >>> images, masks = augment(images, np.random.default_rng(0), masks)
    >>> images.shape, masks.dtype.name
    ((2, 8, 8, 8, 1), 'uint8')

    References:
        Isensee, F. et al. (2021). nnU-Net: a self-configuring method for deep learning-based biomedical image
        segmentation. Nature Methods 18.
    """

    geometry: Geometry = Geometry()
    elastic: Elastic = Elastic()
    color: Color = Color()
    intensity: Intensity = Intensity()
    cutout: Cutout = Cutout()
    output_shape: tuple[int, ...] | None = None
    fill: Fill = "minimum"

    def __post_init__(self) -> None:
        _check_tuples(self, "output_shape")
        for name, kind in (
            ("geometry", Geometry),
            ("elastic", Elastic),
            ("color", Color),
            ("intensity", Intensity),
            ("cutout", Cutout),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"`{name}` must be an instance of {kind.__name__}. Received {getattr(self, name)!r}."
                )
        check_fill(self.fill)

    def __call__(
        self, images: Tensor, generator: Generator, masks: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Augment a batch with random parameters.

        Args:
            images: array or tensor `(batch, *spatial, channels)`, two or three spatial axes.
            generator: source of the random parameters: `numpy.random.Generator`, for NumPy arrays only, or
                `keras.random.SeedGenerator`.
            masks: labels `(batch, *spatial)` or `(batch, *spatial, channels)`.

        Returns:
            Images of the same shape, or of `output_shape`; with `masks`, both. NumPy arrays for arrays,
            tensors for tensors. Floating images keep their dtype, others become float32; masks keep theirs.

        Raises:
            ValueError: images are not as described, or cannot be flipped or rotated as asked for; masks do
                not have the images' spatial shape; or `generator` is neither of these, or NumPy's for
                tensors.
        """
        if isinstance(generator, np.random.Generator) and not isinstance(images, np.ndarray):
            # Traced with a model, it would be called once, and every batch would get the same parameters.
            raise ValueError(
                "`generator` must be a keras.random.SeedGenerator where images are tensors. "
                f"Received {generator!r} for a {type(images).__name__}."
            )
        shape = images.shape if isinstance(images, np.ndarray) else ops.shape(images)
        return self.apply(images, self.draw(tuple(shape), generator), masks)

    def draw(self, shape: tuple[Any, ...], generator: Generator) -> Parameters:
        """Draw the parameters that `apply` takes.

        Args:
            shape: shape of the images.
            generator: as in a call.

        Returns:
            Parameters by name, the first axis of each that of the images; only those asked for.

        Raises:
            ValueError: as in a call.
        """
        self._check_shape(shape)
        draws = _Draws(generator, shape[0])
        output = tuple(self.output_shape or shape[1:-1])
        return {
            **self.geometry.draw(draws, shape[1:-1], output),
            **self.elastic.draw(draws, output),
            **self.color.draw(draws),
            **self.intensity.draw(draws, (*output, shape[-1])),
            **self.cutout.draw(draws, len(output)),
        }

    def apply(
        self, images: Tensor, parameters: Parameters, masks: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply parameters to images and masks; deterministic.

        Args:
            images: as in a call.
            parameters: from `draw`, for images of this shape.
            masks: as in a call.

        Returns:
            As a call.

        Raises:
            ValueError: as in a call.
        """
        self._check_shape(tuple(images.shape))
        if masks is not None and tuple(masks.shape[1:])[: len(images.shape) - 2] != tuple(images.shape[1:-1]):
            raise ValueError(
                "`masks` must have the spatial shape of the images, (batch, *spatial) or (batch, *spatial, "
                f"channels). Received shape {tuple(masks.shape)} for images of shape {tuple(images.shape)}."
            )
        batches = (images,) if masks is None else (images, masks)
        tensors = keras.tree.map_structure(ops.convert_to_tensor, (parameters, *batches))
        planes = self.geometry.planes_of(len(images.shape) - 2)
        settings = planes, self.fill, math.ceil(3 * self.intensity.blur), self.output_shape
        changed = _image_by_image(compiled(_apply, *settings), *tensors)
        if isinstance(images, np.ndarray):
            dtypes = (floating_dtype(images), *(batch.dtype for batch in batches[1:]))
            # Results of JAX are read-only; those of PyTorch may have a channels-first memory layout.
            changed = tuple(
                np.require(ops.convert_to_numpy(batch), dtype, ["C", "W"])
                for batch, dtype in zip(changed, dtypes, strict=True)
            )
        return changed[0] if masks is None else changed

    @classmethod
    def fundus(cls) -> Self:
        """Return an augmentation for fundus photographs: flips, rotation by any angle, slight scaling.

        Color, brightness and sharpness do not change: by them a grader tells hemorrhages from exudates and
        sees microaneurysms, which are a few pixels wide.
        """
        return cls(geometry=Geometry(flip_axes=(0, 1), rotation=180.0, scale=(0.9, 1.1), shift=0.02))

    @classmethod
    def xray(cls) -> Self:
        """Return an augmentation for projections such as chest X-rays, without flips: the heart has a side.

        Exposure differs between devices, so gamma, contrast and brightness vary.
        """
        return cls(
            geometry=Geometry(rotation=10.0, scale=(0.9, 1.1), shift=0.05),
            intensity=Intensity(contrast=0.2, brightness=0.2, gamma=(0.7, 1.4), noise=0.05, probability=0.5),
        )

    @classmethod
    def mr_volume(cls) -> Self:
        """Return an augmentation for MR volumes, whose values have no unit: geometry and all intensities.

        There are no flips, which would exchange left and right.
        """
        return cls(
            geometry=Geometry(rotation=15.0, scale=(0.85, 1.15), shift=0.05),
            elastic=Elastic(displacement=0.2, probability=0.3),
            intensity=Intensity(
                blur=1.0, contrast=0.25, brightness=0.25, gamma=(0.7, 1.5), noise=0.1, probability=0.3
            ),
        )

    @classmethod
    def ct_volume(cls) -> Self:
        """Return an augmentation for CT volumes: geometry, blur and noise; Hounsfield units are kept."""
        return cls(
            geometry=Geometry(rotation=15.0, scale=(0.85, 1.15), shift=0.05),
            elastic=Elastic(displacement=0.2, probability=0.3),
            intensity=Intensity(blur=1.0, noise=0.05, probability=0.3),
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
        self.geometry.check(shape)
        self.color.check(shape)


class _Draws:
    """Random numbers for a batch of images, from a generator of NumPy or Keras.

    Raises:
        ValueError: `generator` is neither NumPy's nor Keras'.
    """

    def __init__(self, generator: Generator, batch: Any) -> None:
        if not isinstance(generator, (np.random.Generator, keras.random.SeedGenerator)):
            raise ValueError(
                "`generator` must be a numpy.random.Generator or a keras.random.SeedGenerator. "
                f"Received {generator!r}."
            )
        self.generator = generator
        # An integer or, inside a graph, a tensor.
        self.batch = batch

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """Draw uniform float32 numbers `(batch, *shape)`."""
        shape = (self.batch, *shape)
        if isinstance(self.generator, np.random.Generator):
            return self.generator.uniform(low, high, shape).astype("float32")
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.generator)

    def bernoulli(self, probability: float, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw float32 numbers `(batch, *shape)`: 1 with this probability, otherwise 0."""
        drawn = self.uniform(shape, 0.0, 1.0) < probability
        return drawn.astype("float32") if isinstance(drawn, np.ndarray) else ops.cast(drawn, "float32")

    def normal(self, shape: tuple[int, ...], amounts: Tensor) -> Tensor:
        """Draw standard normal numbers `(batch, *shape)`, which may be 0 for images whose amount is 0."""
        if not isinstance(self.generator, np.random.Generator):
            return keras.random.normal((self.batch, *shape), dtype="float32", seed=self.generator)
        numbers = np.zeros((self.batch, *shape), "float32")

        # By far the most numbers of all; NumPy uses one core per generator.
        def fill(generator: np.random.Generator, row: int) -> None:
            generator.standard_normal(dtype="float32", out=numbers[row])

        rows = np.flatnonzero(amounts)
        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, self.generator.spawn(len(rows)), rows))
        return numbers

    def constant(self, values: Any) -> Tensor:
        """Convert float32 numbers to the type of the random ones."""
        array = np.asarray(values, "float32")
        return array if isinstance(self.generator, np.random.Generator) else ops.convert_to_tensor(array)

    def within_image(self, sides: Tensor) -> Tensor:
        """Scale the sides of crops `(batch, rank)`, as fractions of the image's, down to at most 1."""
        library: Any = np if isinstance(self.generator, np.random.Generator) else ops
        return sides / library.maximum(library.max(sides, axis=1, keepdims=True), 1.0)

    def ones(self) -> Tensor:
        """Return ones `(batch,)`."""
        shape = (self.batch,)
        if isinstance(self.generator, np.random.Generator):
            return np.ones(shape, "float32")
        return ops.ones(shape, "float32")


def _image_by_image(
    function: Callable[..., Any], parameters: Parameters, images: Tensor, *others: Tensor
) -> Any:
    """On PyTorch, apply a function to each volume of a batch; otherwise to the whole batch.

    PyTorch allocates an array at each step. Those of one volume fit into memory that was used before and,
    partly, into the cache, which is a fifth faster for volumes of 128 voxels a side.
    """
    if keras.backend.backend() != "torch" or len(images) < 2 or math.prod(images.shape[1:]) < 2**20:
        return function(parameters, images, *others)
    batches = (parameters, images, *others)
    parts = [
        function(*keras.tree.map_structure(lambda batch, row=row: batch[row : row + 1], batches))
        for row in range(len(images))
    ]
    return keras.tree.map_structure(lambda *rows: ops.concatenate(rows), *parts)


def _apply(
    planes: tuple[Plane, ...],
    fill: Fill,
    blur_radius: int,
    output_shape: tuple[int, ...] | None,
    parameters: Parameters,
    images: Tensor,
    *masks: Tensor,
) -> tuple[Tensor, ...]:
    dtype = floating_dtype(images)
    images, *moved = _move(planes, fill, output_shape, parameters, ops.cast(images, "float32"), *masks)
    if "sigmas" in parameters:
        images = gaussian_blur(images, parameters["sigmas"], blur_radius)
    if "stain_factors" in parameters:
        images = adjust_stains(images, parameters["stain_factors"], parameters["stain_offsets"])
    if "hues" in parameters:
        images = adjust_colors(images, parameters["hues"], parameters["saturations"])
    images = adjust_intensity(images, contrast=parameters.get("contrast"), offset=parameters.get("offset"))
    if "gammas" in parameters:
        images = adjust_gamma(images, parameters["gammas"])
    if "solarized" in parameters:
        images = solarize(images, parameters["solarized"])
    if "noise" in parameters:
        images = add_noise(images, parameters["noise"], parameters["amounts"])
    if "sizes" in parameters:
        images = cut_out(images, parameters["centers"], parameters["sizes"])
    return ops.cast(images, dtype), *moved


def _move(
    planes: tuple[Plane, ...],
    fill: Fill,
    shape: tuple[int, ...] | None,
    parameters: Parameters,
    images: Tensor,
    *masks: Tensor,
) -> tuple[Tensor, ...]:
    affine = {name: parameters[name] for name in _AFFINE if name in parameters}
    displacement = parameters.get("displacement")
    if not affine and displacement is None:
        return images, *masks
    rank = len(images.shape) - 2
    identity = {"scales": ops.ones((ops.shape(images)[0],))}
    matrices = affine_matrices(rank, planes=planes, **(affine or identity))
    # Flips and quarter turns map voxels to voxels: there is nothing to interpolate.
    exact = displacement is None and not {"angles", "scales", "shifts"} & set(affine)
    interpolation: Interpolation = "nearest" if exact else "linear"
    moved = resample(
        images, matrices, shape, displacement=displacement, interpolation=interpolation, fill=fill
    )
    outside: Fill = "edge" if fill == "edge" else 0
    return moved, *(_move_mask(mask, matrices, shape, displacement, outside) for mask in masks)


def _move_mask(
    mask: Tensor, matrices: Tensor, shape: tuple[int, ...] | None, displacement: Tensor | None, fill: Fill
) -> Tensor:
    rank = matrices.shape[1]
    labels = ops.reshape(mask, (*ops.shape(mask)[: rank + 1], -1))
    labels = resample(labels, matrices, shape, displacement=displacement, interpolation="nearest", fill=fill)
    return ops.reshape(labels, (*ops.shape(labels)[: rank + 1], *ops.shape(mask)[rank + 1 :]))

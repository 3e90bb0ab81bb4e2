"""Preparation of volumes: intensities, orientation, resampling, crop and pad, and their inverse for masks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_ssl._atomic import atomic_write
from keras_ssl._serialization import settings_from_json, settings_to_json
from keras_ssl.data.volume import Volume, VolumeGrid, check_affine, check_voxels, label_map
from keras_ssl.data.volume_io import read_grid


class IntensityMap(NamedTuple):
    """Linear map: clip to `[low, high]`, subtract `shift`, divide by `scale`; zeros where `scale` is 0.

    >>> IntensityMap(low=0.0, high=10.0, shift=0.0, scale=10.0).apply(np.array([-5, 5, 50], "int16"))
    array([0. , 0.5, 1. ], dtype=float32)
    """

    low: float
    high: float
    shift: float
    scale: float

    def apply(self, voxels: np.ndarray) -> np.ndarray:
        """Map voxels of any shape to float32."""
        scale = np.float32(self.scale)
        if not scale:
            return np.zeros(voxels.shape, np.float32)
        mapped = voxels.astype(np.float32)
        np.clip(mapped, np.float32(self.low), np.float32(self.high), out=mapped)
        mapped -= np.float32(self.shift)
        mapped /= scale
        return mapped


@dataclasses.dataclass(frozen=True)
class PercentileScale:
    """Scale two percentiles of the foreground to 0 and 1, and clip values beyond them.

    The foreground is every voxel above the volume's smallest value, which leaves out the zeros around a
    brain or the -1024 around a patient. Where both percentiles are equal, as in a volume of two values, the
    smallest and the largest value of the volume replace them. A constant volume becomes zeros.

    Args:
        low: the percentile that becomes 0.
        high: the percentile that becomes 1.

    Raises:
        ValueError: not 0 <= `low` < `high` <= 100.

    >>> PercentileScale(0, 100).measure(np.array([0, 10, 20, 30])).apply(np.array([10, 15, 30]))
    array([0.  , 0.25, 1.  ], dtype=float32)
    """

    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(
                f"`low` and `high` must be rising percentiles. Received {self.low}, {self.high}."
            )

    def measure(self, voxels: np.ndarray) -> IntensityMap:
        """Compute the map of one channel of one volume, `(x, y, z)`."""
        low, high = np.percentile(_foreground(voxels), (self.low, self.high)).tolist()
        if low == high:
            low, high = float(voxels.min()), float(voxels.max())
        return _to_unit(low, high)


@dataclasses.dataclass(frozen=True)
class ZScore:
    """Standardize the foreground to mean 0 and standard deviation 1, and map the background alike.

    The foreground is every voxel above the volume's smallest value. Where it has one value, as in a
    volume of two values, the whole volume is measured. A constant volume becomes zeros.

    >>> ZScore().measure(np.array([-9.0, 1.0, 3.0])).apply(np.array([1.0, 2.0, 3.0])).tolist()
    [-1.0, 0.0, 1.0]
    """

    def measure(self, voxels: np.ndarray) -> IntensityMap:
        """Compute the map of one channel of one volume, `(x, y, z)`."""
        counted = _foreground(voxels)
        if counted.min() == counted.max():
            counted = voxels
        # Compared by range: rounding gives a constant a standard deviation that is not quite zero.
        spread = float(counted.std(dtype=np.float64)) if counted.min() < counted.max() else 0.0
        return IntensityMap(-np.inf, np.inf, float(counted.mean(dtype=np.float64)), spread)


@dataclasses.dataclass(frozen=True)
class Window:
    """Scale a fixed range, of Hounsfield units in CT, to 0..1, and clip values beyond it.

    The range is the same for every volume, since CT numbers are absolute: -160 to 240 for the abdomen,
    -1000 to 400 for lungs, 0 to 80 for a brain.

    Args:
        low: the value that becomes 0.
        high: the value that becomes 1.

    Raises:
        ValueError: not `low` < `high`, or not finite.

    >>> Window(-160, 240).measure(np.zeros(1)).apply(np.array([-1024, 40, 3000]))
    array([0. , 0.5, 1. ], dtype=float32)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -np.inf < self.low < self.high < np.inf:
            raise ValueError(f"`low` must be less than `high`. Received {self.low}, {self.high}.")

    def measure(self, voxels: np.ndarray) -> IntensityMap:
        """Return the map of any volume."""
        return _to_unit(self.low, self.high)


Intensity = PercentileScale | ZScore | Window
_KINDS = (PercentileScale, ZScore, Window)


def _to_unit(low: float, high: float) -> IntensityMap:
    # In float32, as it is applied: rounded once more, the largest value would lie above 1.
    return IntensityMap(low, high, low, float(np.float32(high) - np.float32(low)))


def _foreground(voxels: np.ndarray) -> np.ndarray:
    """Return the voxels above the smallest, flat; all where there is only one value."""
    above = voxels[voxels > voxels.min()]
    return above if above.size else voxels.ravel()


def measure_channels(voxels: np.ndarray, intensity: Intensity | None) -> tuple[IntensityMap, ...]:
    """Compute the map of each channel of a volume `(x, y, z, channels)`; identities for `None`."""
    if intensity is None:
        return (IntensityMap(-np.inf, np.inf, 0.0, 1.0),) * voxels.shape[-1]
    return tuple(intensity.measure(voxels[..., channel]) for channel in range(voxels.shape[-1]))


def apply_channels(voxels: np.ndarray, maps: tuple[IntensityMap, ...]) -> np.ndarray:
    """Map voxels `(..., channels)` to float32, each channel by its own map."""
    return np.stack([one.apply(voxels[..., channel]) for channel, one in enumerate(maps)], axis=-1)


def _intensity_to_config(intensity: Intensity | None) -> dict[str, object] | None:
    """Return the name of an intensity scaling and its fields.

    >>> _intensity_to_config(Window(0, 80))
    {'kind': 'Window', 'low': 0, 'high': 80}
    """
    if intensity is None:
        return None
    return {"kind": type(intensity).__name__, **dataclasses.asdict(intensity)}


def _intensity_from_config(values: dict[str, object] | None) -> Intensity | None:
    """Invert `_intensity_to_config`; raise a `ValueError` where the name or a field is unknown."""
    if values is None:
        return None
    fields = dict(values)
    kind = fields.pop("kind", None)
    for one in _KINDS:
        if one.__name__ == kind and set(fields) == {field.name for field in dataclasses.fields(one)}:
            return one(**fields)  # type: ignore[arg-type]
    raise ValueError(f"`text` must hold one of {[one.__name__ for one in _KINDS]}. Received {values}.")


# The orientation of volumes in RAS+.
_RAS = np.array([[0, 1], [1, 1], [2, 1]])

_VERSION = 1
_VERSION_FIELD = "keras_ssl_volume_preparation"


@dataclasses.dataclass(frozen=True)
class VolumePreparation:
    """Reorient to RAS+, resample, scale intensities, crop or pad, alike for training and prediction.

    Axes are flipped and swapped so that they run to the patient's right, anterior and superior (RAS+).
    Images are resampled linearly, without smoothing; masks by nearest neighbor, which adds no labels.
    Intensities are measured in each volume, and in each of its channels, before it is resampled, cropped or
    padded.

    Args:
        spacing: millimeters between voxels along x, y, z; `None` keeps each volume's own.
        shape: voxels along x, y, z, by cropping and padding around the center; `None` keeps each
            volume's own.
        pad: padding of images that are too small: `"minimum"`, the smallest value of the channel, or
            `"edge"`, which repeats the outermost voxels. Masks are padded with 0.
        intensity: `PercentileScale`, `ZScore`, `Window`, or `None` to keep intensities.

    Raises:
        ValueError: an argument is out of range.

    >>> preparation = VolumePreparation(spacing=(1.0, 1.0, 1.0), shape=(8, 8, 8))
    >>> scan = Volume(np.zeros((10, 6, 4), "int16"), np.diag([-1.0, 1.0, 2.0, 1.0]))
    >>> preparation.image(scan).shape, preparation.mask(scan).shape
    ((8, 8, 8, 1), (8, 8, 8))
    >>> VolumePreparation.from_json(preparation.to_json()) == preparation
    True
    """

    spacing: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    pad: str = "minimum"
    intensity: Intensity | None = dataclasses.field(default_factory=PercentileScale)

    def __post_init__(self) -> None:
        for name in ("spacing", "shape"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, _three(name, values, whole=name == "shape"))
        if self.pad not in ("minimum", "edge"):
            raise ValueError(f'`pad` must be "minimum" or "edge". Received {self.pad!r}.')
        if not isinstance(self.intensity, Intensity | None):
            raise ValueError(
                f"`intensity` must be a PercentileScale, ZScore, Window or None. Received {self.intensity!r}."
            )

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Smallest and largest value that `image` can return, 0 and 1, or `None` without bounds.

        `PercentileScale` and `Window` map to [0, 1]; `ZScore` and `intensity=None` have no bounds.
        """
        return (0.0, 1.0) if isinstance(self.intensity, PercentileScale | Window) else None

    def grid(self, volume: Volume | VolumeGrid) -> VolumeGrid:
        """Return the shape and affine of a prepared volume."""
        return cropped_grid(self._spaced(_grid_of(volume)), self.shape)

    def measure(self, volume: Volume) -> tuple[IntensityMap, ...]:
        """Compute the intensity map of each channel."""
        return measure_channels(_with_channels(volume.voxels), self.intensity)

    def image(self, volume: Volume) -> np.ndarray:
        """Prepare one scan.

        Args:
            volume: voxels `(x, y, z)` or `(x, y, z, channels)`.

        Returns:
            float32 within `value_range`, shape `(*shape, channels)`.

        Raises:
            ValueError: voxels have other axes, are NaN or infinite, or the affine is invalid.
        """
        canonical, spaced = ras_grid(_grid_of(volume)), self._spaced(_grid_of(volume))
        voxels = _with_channels(check_voxels(np.asarray(volume.voxels)))
        scaled = apply_channels(voxels, measure_channels(voxels, self.intensity))
        turned = to_ras(scaled, axis_orientation(volume.affine))
        channels = []
        for channel in np.moveaxis(turned, -1, 0):
            moved = resample_linear(channel, canonical, spaced)
            fill = float(moved.min()) if self.pad == "minimum" else None
            channels.append(moved if self.shape is None else crop_or_pad(moved, self.shape, fill))
        return np.stack(channels, axis=-1)

    def mask(self, volume: Volume) -> np.ndarray:
        """Prepare the labels of one scan.

        Args:
            volume: voxels `(x, y, z)`, whole numbers in 0..255.

        Returns:
            uint8, shape `(*shape)`.

        Raises:
            ValueError: voxels have other axes or are no labels, or the affine is invalid.
        """
        return self.fit_mask(self.respace_mask(volume))

    def respace_mask(self, volume: Volume) -> np.ndarray:
        """The first part of `mask`: labels in RAS+ and at the new spacing, neither cropped nor padded."""
        canonical, spaced = ras_grid(_grid_of(volume)), self._spaced(_grid_of(volume))
        turned = to_ras(label_map(volume.voxels), axis_orientation(volume.affine))
        return resample_nearest(turned, canonical, spaced)

    def fit_mask(self, respaced: np.ndarray) -> np.ndarray:
        """The second part of `mask`: labels cropped and padded to `shape`."""
        return np.ascontiguousarray(respaced if self.shape is None else crop_or_pad(respaced, self.shape, 0))

    def restore(self, mask: np.ndarray, reference: Volume | VolumeGrid | str | Path) -> Volume:
        """Resample predicted labels to the grid of the volume that was prepared.

        Probabilities of each class are resampled linearly, then argmax, which gives smoother outlines than
        labels, which are resampled by nearest neighbor. Regions that the preparation cropped become 0.

        Args:
            mask: labels, whole numbers in 0..255, `(*shape)` as `mask` returns them; or the probabilities of
                classes, floats, `(*shape, classes)`.
            reference: the volume, its grid, or its file.

        Returns:
            Labels, uint8, of the reference's shape, with its affine.

        Raises:
            ValueError: `mask` does not have the shape that the preparation gives `reference`.

        >>> preparation = VolumePreparation(shape=(8, 8, 8))
        >>> labels = Volume(np.arange(24, dtype="uint8").reshape(2, 3, 4), np.diag([-1.0, 1.0, 2.0, 1.0]))
        >>> np.array_equal(preparation.restore(preparation.mask(labels), labels).voxels, labels.voxels)
        True
        """
        source = read_grid(reference) if isinstance(reference, (str, Path)) else _grid_of(reference)
        canonical, spaced = ras_grid(source), self._spaced(source)
        mask, expected = np.asarray(mask), self.shape or spaced.shape
        if mask.shape[:3] != expected or mask.ndim > 4:
            raise ValueError(
                f"`mask` must have shape {expected}, as `reference` is prepared, or one more axis of "
                f"classes. Received shape {mask.shape}."
            )
        if mask.ndim == 3:
            labels = resample_nearest(crop_or_pad(label_map(mask), spaced.shape, 0), spaced, canonical)
        else:
            labels = _argmax_labels(check_voxels(mask), spaced, canonical)
        return Volume(np.ascontiguousarray(from_ras(labels, axis_orientation(source.affine))), source.affine)

    def to_json(self) -> str:
        """Return the settings as JSON, to be saved beside the model that was trained with them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["intensity"] = _intensity_to_config(self.intensity)
        return settings_to_json(_VERSION_FIELD, _VERSION, values)

    @staticmethod
    def from_json(text: str) -> "VolumePreparation":
        """Return the preparation of the settings that `to_json` wrote.

        Raises:
            ValueError: `text` is not JSON of a preparation of volumes, is of a newer version, or its fields
                are not exactly the known ones.
        """
        known = {field.name for field in dataclasses.fields(VolumePreparation)}
        fields: dict[str, Any] = settings_from_json(text, _VERSION_FIELD, _VERSION, known)
        fields["intensity"] = _intensity_from_config(fields["intensity"])
        return VolumePreparation(**fields)

    def save(self, path: str | Path) -> None:
        """Write `to_json()` to a file."""
        atomic_write(Path(path), lambda partial: partial.write_text(self.to_json(), encoding="utf-8"))

    @staticmethod
    def load(path: str | Path) -> "VolumePreparation":
        """Read what `save` wrote; raises as `from_json` does."""
        return VolumePreparation.from_json(Path(path).read_text(encoding="utf-8"))

    def _spaced(self, source: VolumeGrid) -> VolumeGrid:
        return respaced_grid(ras_grid(source), self.spacing)


def _three(name: str, values: npt.ArrayLike, whole: bool) -> tuple[float, ...]:
    """Return the values as a tuple of three positive numbers."""
    numbers = np.array(values)
    # Written so that NaN, for which every comparison is false, is bad.
    if (
        numbers.shape != (3,)
        or numbers.dtype.kind not in ("iu" if whole else "iuf")
        or not ((numbers > 0) & (numbers < np.inf)).all()
    ):
        kind = "whole numbers of at least 1" if whole else "positive numbers"
        raise ValueError(f"`{name}` must be three {kind}, or None. Received {values!r}.")
    return tuple(numbers.tolist() if whole else numbers.astype(float).tolist())


def _grid_of(volume: Volume | VolumeGrid) -> VolumeGrid:
    shape = volume.voxels.shape if isinstance(volume, Volume) else volume.shape
    if len(shape) not in (3, 4):
        raise ValueError(
            f"A volume must have shape (x, y, z) or (x, y, z, channels). Received shape {shape}."
        )
    x, y, z = shape[:3]
    return VolumeGrid((x, y, z), check_affine(volume.affine))


def _with_channels(voxels: np.ndarray) -> np.ndarray:
    return voxels[..., None] if voxels.ndim == 3 else voxels


def _argmax_labels(probabilities: np.ndarray, source: VolumeGrid, target: VolumeGrid) -> np.ndarray:
    """Return the most probable class on another grid; 0 beyond the prediction."""
    best = np.full(target.shape, -np.inf, np.float32)
    labels = np.zeros(target.shape, np.uint8)
    # Class by class: all at once would take as many float volumes as there are classes.
    for label, classes in enumerate(np.moveaxis(probabilities, -1, 0)):
        outside = 1.0 if label == 0 else 0.0
        moved = resample_linear(crop_or_pad(classes, source.shape, outside), source, target)
        labels[moved > best] = label
        np.maximum(best, moved, out=best)
    return labels


def axis_orientation(affine: np.ndarray) -> np.ndarray:
    """Return for each axis of a volume the patient's axis that it runs along, and 1 or -1, `(3, 2)`."""
    from nibabel.orientations import io_orientation

    return io_orientation(affine)


def to_ras(voxels: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Reorient voxels `(x, y, z, ...)` to RAS+, as a view."""
    from nibabel.orientations import apply_orientation

    return apply_orientation(voxels, orientation)


def from_ras(voxels: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Invert `to_ras`."""
    from nibabel.orientations import apply_orientation, ornt_transform

    return apply_orientation(voxels, ornt_transform(_RAS, orientation))


def ras_grid(grid: VolumeGrid) -> VolumeGrid:
    """Return the grid after `to_ras`, as nibabel's `as_closest_canonical` gives it."""
    from nibabel.orientations import inv_ornt_aff

    orientation = axis_orientation(grid.affine)
    x, y, z = (grid.shape[int(axis)] for axis in np.argsort(orientation[:, 0]))
    return VolumeGrid((x, y, z), grid.affine @ inv_ornt_aff(orientation, grid.shape))


def respaced_grid(grid: VolumeGrid, spacing: Sequence[float] | None) -> VolumeGrid:
    """Return the grid of another spacing with the same center and, to half a voxel, the same extent."""
    if spacing is None:
        return grid
    old = np.linalg.norm(grid.affine[:3, :3], axis=0)
    ratios = np.asarray(spacing) / old
    # Headers round: 0.99999994 mm is 1 mm, and such voxels are not resampled.
    ratios[np.abs(ratios - 1) < 1e-4] = 1.0
    x, y, z = (max(1, int(side / ratio + 0.5)) for side, ratio in zip(grid.shape, ratios, strict=True))
    offsets = [
        (side - 1) / 2 - (new - 1) / 2 * ratio
        for side, new, ratio in zip(grid.shape, (x, y, z), ratios, strict=True)
    ]
    step = np.diag([*ratios, 1.0])
    step[:3, 3] = offsets
    return VolumeGrid((x, y, z), grid.affine @ step)


def cropped_grid(grid: VolumeGrid, shape: tuple[int, int, int] | None) -> VolumeGrid:
    """Return the grid after `crop_or_pad`."""
    if shape is None:
        return grid
    step = np.eye(4)
    step[:3, 3] = [_first_kept(old, new) for old, new in zip(grid.shape, shape, strict=True)]
    return VolumeGrid(shape, grid.affine @ step)


def crop_or_pad(voxels: np.ndarray, shape: Sequence[int], fill: float | None = None) -> np.ndarray:
    """Crop and pad voxels `(x, y, z)` around their center to `shape`.

    Applied to the result with the first shape, it returns each voxel that is left to its place.

    Args:
        voxels: `(x, y, z)`.
        shape: the shape of the result.
        fill: the padding value; `None` repeats the outermost voxels.
    """
    starts = [_first_kept(old, new) for old, new in zip(voxels.shape, shape, strict=True)]
    kept = voxels[tuple(slice(max(0, at), max(0, at) + new) for at, new in zip(starts, shape, strict=True))]
    before = [max(0, -at) for at in starts]
    pads = [(b, new - b - side) for b, new, side in zip(before, shape, kept.shape, strict=True)]
    if not np.any(pads):
        return kept
    if fill is None:
        return np.pad(kept, pads, mode="edge")
    return np.pad(kept, pads, mode="constant", constant_values=fill)


def resample_linear(voxels: np.ndarray, source: VolumeGrid, target: VolumeGrid) -> np.ndarray:
    """Resample voxels `(x, y, z)` linearly to another grid with the same axes, float32.

    The outermost voxels are repeated beyond the edge. nibabel's `resample_from_to` differs from this by up
    to 2.4e-7, as it does not know that the axes are the same.
    """
    from scipy.ndimage import affine_transform

    steps, offsets = _steps(source, target)
    if source.shape == target.shape and np.allclose(steps, 1) and np.allclose(offsets, 0):
        return voxels.astype(np.float32, copy=False)
    return affine_transform(
        voxels.astype(np.float32, copy=False),
        steps,
        offsets,
        output_shape=target.shape,
        order=1,
        mode="nearest",
    )


def resample_nearest(voxels: np.ndarray, source: VolumeGrid, target: VolumeGrid) -> np.ndarray:
    """Resample voxels by nearest neighbor to another grid with the same axes.

    Halfway between two voxels, the one of the higher index; nibabel's `resample_from_to` picks either.
    """
    steps, offsets = _steps(source, target)
    rows = [
        # Rounded, so that all positions halfway fall to the same side.
        np.clip(np.floor(np.round(np.arange(new) * step + offset, 6) + 0.5).astype(int), 0, old - 1)
        for new, old, step, offset in zip(target.shape, source.shape, steps, offsets, strict=True)
    ]
    return voxels[np.ix_(*rows)]


def _first_kept(old: int, new: int) -> int:
    """Return the index at which a centered crop begins; negative, the padding before it."""
    return (old - new) // 2 if old >= new else -((new - old) // 2)


def _steps(source: VolumeGrid, target: VolumeGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and offsets per axis: index `i` of `target` is `i * step + offset` of `source`."""
    between = np.linalg.inv(source.affine) @ target.affine
    return np.diag(between)[:3], between[:3, 3]

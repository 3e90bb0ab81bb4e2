"""What turns a volume into a model's input, and a predicted segmentation back into the volume's own grid."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from keras_ssl._files import write_aside
from keras_ssl.data.settings import settings_from_json, settings_to_json
from keras_ssl.data.volume_checks import Volume, check_affine, check_labels, check_voxels
from keras_ssl.data.volume_grids import (
    VolumeGrid,
    canonical_grid,
    fit_shape,
    fitted_grid,
    from_canonical,
    orientation_of,
    resample_linear,
    resample_nearest,
    spaced_grid,
    to_canonical,
)
from keras_ssl.data.volume_intensity import (
    Intensity,
    IntensityMap,
    PercentileScale,
    Window,
    apply_channels,
    intensity_from_values,
    intensity_to_values,
    measure_channels,
)
from keras_ssl.data.volumes import read_grid

_VERSION = 1
_VERSION_FIELD = "keras_ssl_volume_preparation"


@dataclasses.dataclass(frozen=True)
class VolumePreparation:
    """Turn, resample, scale intensities, crop or pad: the same for training and for prediction.

    Axes are flipped and swapped so that they run to the patient's right, front and top (RAS+). Images are
    resampled linearly, without smoothing; masks take the label of the nearest voxel, so no label arises
    that was not there. Intensities are measured in each volume, and in each of its channels, before it
    is resampled, cropped or padded.

    Args:
        spacing: millimetres between voxels along x, y, z; `None` keeps each volume's own.
        shape: voxels along x, y, z, by cropping and padding around the centre; `None` keeps each
            volume's own.
        pad: what is added around an image that is too small: `"minimum"`, the smallest value of its
            channel, or `"edge"`, its outermost voxels again. Masks are padded with 0.
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
        """Smallest and largest value that `image` can return: 0 and 1, `None` where there is no bound.

        `PercentileScale` and `Window` map to [0, 1]; `ZScore` and `intensity=None` have no bounds.
        """
        return (0.0, 1.0) if isinstance(self.intensity, PercentileScale | Window) else None

    def grid(self, volume: Volume | VolumeGrid) -> VolumeGrid:
        """Shape and affine of what `image` and `mask` make of a volume."""
        return fitted_grid(self._spaced(_grid_of(volume)), self.shape)

    def measure(self, volume: Volume) -> tuple[IntensityMap, ...]:
        """How the intensities of each channel will be mapped."""
        return measure_channels(_with_channels(volume.voxels), self.intensity)

    def image(self, volume: Volume) -> np.ndarray:
        """Prepare one scan.

        Args:
            volume: voxels `(x, y, z)` or `(x, y, z, channels)`.

        Returns:
            float32 within `value_range`, shape `(*shape, channels)`.

        Raises:
            ValueError: voxels have other axes, are NaN or infinite, or the affine is not fit.
        """
        canonical, spaced = canonical_grid(_grid_of(volume)), self._spaced(_grid_of(volume))
        voxels = _with_channels(check_voxels(np.asarray(volume.voxels)))
        scaled = apply_channels(voxels, measure_channels(voxels, self.intensity))
        turned = to_canonical(scaled, orientation_of(volume.affine))
        channels = []
        for channel in np.moveaxis(turned, -1, 0):
            moved = resample_linear(channel, canonical, spaced)
            fill = float(moved.min()) if self.pad == "minimum" else None
            channels.append(moved if self.shape is None else fit_shape(moved, self.shape, fill))
        return np.stack(channels, axis=-1)

    def mask(self, volume: Volume) -> np.ndarray:
        """Prepare the labels of one scan.

        Args:
            volume: voxels `(x, y, z)`, whole numbers in 0..255.

        Returns:
            uint8, shape `(*shape)`.

        Raises:
            ValueError: voxels have other axes or are no labels, or the affine is not fit.
        """
        return self.fit_mask(self.respace_mask(volume))

    def respace_mask(self, volume: Volume) -> np.ndarray:
        """The first part of `mask`: labels turned and at the new spacing, neither cropped nor padded."""
        canonical, spaced = canonical_grid(_grid_of(volume)), self._spaced(_grid_of(volume))
        turned = to_canonical(check_labels(volume.voxels), orientation_of(volume.affine))
        return resample_nearest(turned, canonical, spaced)

    def fit_mask(self, respaced: np.ndarray) -> np.ndarray:
        """The second part of `mask`: labels cropped and padded to `shape`."""
        return np.ascontiguousarray(respaced if self.shape is None else fit_shape(respaced, self.shape, 0))

    def restore(self, mask: np.ndarray, reference: Volume | VolumeGrid | str | Path) -> Volume:
        """Bring predicted labels back onto the grid of the volume that was prepared.

        Of probabilities each class is resampled linearly and then the greatest one is taken, which gives
        smoother outlines than labels, of which the nearest is taken. What the preparation cropped away
        becomes 0.

        Args:
            mask: labels, whole numbers in 0..255, `(*shape)` as `mask` returns them; or the probabilities of
                classes, floats, `(*shape, classes)`.
            reference: the volume, its grid, or its file.

        Returns:
            Labels, uint8, of the reference's shape, with its affine.

        Raises:
            ValueError: `mask` has not the shape that the preparation gives `reference`.

        >>> preparation = VolumePreparation(shape=(8, 8, 8))
        >>> labels = Volume(np.arange(24, dtype="uint8").reshape(2, 3, 4), np.diag([-1.0, 1.0, 2.0, 1.0]))
        >>> np.array_equal(preparation.restore(preparation.mask(labels), labels).voxels, labels.voxels)
        True
        """
        source = read_grid(reference) if isinstance(reference, (str, Path)) else _grid_of(reference)
        canonical, spaced = canonical_grid(source), self._spaced(source)
        mask, expected = np.asarray(mask), self.shape or spaced.shape
        if mask.shape[:3] != expected or mask.ndim > 4:
            raise ValueError(
                f"`mask` must have shape {expected}, as `reference` is prepared, or one more axis of "
                f"classes. Received shape {mask.shape}."
            )
        if mask.ndim == 3:
            labels = resample_nearest(fit_shape(check_labels(mask), spaced.shape, 0), spaced, canonical)
        else:
            labels = _likeliest(check_voxels(mask), spaced, canonical)
        return Volume(
            np.ascontiguousarray(from_canonical(labels, orientation_of(source.affine))), source.affine
        )

    def to_json(self) -> str:
        """The settings as JSON, to lie beside the model that was trained with them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["intensity"] = intensity_to_values(self.intensity)
        return settings_to_json(_VERSION_FIELD, _VERSION, values)

    @staticmethod
    def from_json(text: str) -> "VolumePreparation":
        """The settings that `to_json` wrote.

        Raises:
            ValueError: `text` is not JSON of a preparation of volumes, is of a newer version, or its fields
                are not exactly the known ones.
        """
        known = {field.name for field in dataclasses.fields(VolumePreparation)}
        fields: dict[str, Any] = settings_from_json(text, _VERSION_FIELD, _VERSION, known)
        fields["intensity"] = intensity_from_values(fields["intensity"])
        return VolumePreparation(**fields)

    def save(self, path: str | Path) -> None:
        """Write `to_json()` to a file."""
        write_aside(Path(path), lambda partial: partial.write_text(self.to_json(), encoding="utf-8"))

    @staticmethod
    def load(path: str | Path) -> "VolumePreparation":
        """Read what `save` wrote; raises as `from_json` does."""
        return VolumePreparation.from_json(Path(path).read_text(encoding="utf-8"))

    def _spaced(self, source: VolumeGrid) -> VolumeGrid:
        return spaced_grid(canonical_grid(source), self.spacing)


def _three(name: str, values: Any, whole: bool) -> tuple[Any, ...]:
    """The values as a tuple of three positive numbers."""
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


def _likeliest(probabilities: np.ndarray, spaced: VolumeGrid, canonical: VolumeGrid) -> np.ndarray:
    """The class of the greatest probability on the canonical grid; 0 where nothing was predicted."""
    best = np.full(canonical.shape, -np.inf, np.float32)
    labels = np.zeros(canonical.shape, np.uint8)
    # Class by class: all at once would take as many float volumes as there are classes.
    for label, classes in enumerate(np.moveaxis(probabilities, -1, 0)):
        outside = 1.0 if label == 0 else 0.0
        moved = resample_linear(fit_shape(classes, spaced.shape, outside), spaced, canonical)
        labels[moved > best] = label
        np.maximum(best, moved, out=best)
    return labels

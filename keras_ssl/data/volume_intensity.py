"""How the intensities of one volume become numbers of a common range: measured first, then applied."""

import dataclasses
from typing import NamedTuple

import numpy as np


class IntensityMap(NamedTuple):
    """Clip to `[low, high]`, subtract `shift`, divide by `scale`; zeros where `scale` is 0.

    >>> IntensityMap(low=0.0, high=10.0, shift=0.0, scale=10.0).apply(np.array([-5, 5, 50], "int16"))
    array([0. , 0.5, 1. ], dtype=float32)
    """

    low: float
    high: float
    shift: float
    scale: float

    def apply(self, voxels: np.ndarray) -> np.ndarray:
        """The voxels, of any shape, as float32."""
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
    """Two percentiles of the foreground become 0 and 1; what lies beyond them is clipped.

    The foreground is every voxel above the volume's smallest value: what was filled with zeros around a
    brain, or with -1024 around a patient, does not count. Where both percentiles are the same, as in a
    volume of two values, the smallest and the largest value of the volume take their place. A constant
    volume becomes zeros.

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
        """The map for one channel of one volume, `(x, y, z)`."""
        low, high = np.percentile(_foreground(voxels), (self.low, self.high)).tolist()
        if low == high:
            low, high = float(voxels.min()), float(voxels.max())
        return _to_unit(low, high)


@dataclasses.dataclass(frozen=True)
class ZScore:
    """The foreground gets mean 0 and standard deviation 1; the background follows the same map.

    The foreground is every voxel above the volume's smallest value. Where it has one value, as in a
    volume of two values, the whole volume is measured. A constant volume becomes zeros.

    >>> ZScore().measure(np.array([-9.0, 1.0, 3.0])).apply(np.array([1.0, 2.0, 3.0])).tolist()
    [-1.0, 0.0, 1.0]
    """

    def measure(self, voxels: np.ndarray) -> IntensityMap:
        """The map for one channel of one volume, `(x, y, z)`."""
        counted = _foreground(voxels)
        if counted.min() == counted.max():
            counted = voxels
        # By its extent: rounding gives a constant a deviation that is not quite zero.
        spread = float(counted.std(dtype=np.float64)) if counted.min() < counted.max() else 0.0
        return IntensityMap(-np.inf, np.inf, float(counted.mean(dtype=np.float64)), spread)


@dataclasses.dataclass(frozen=True)
class Window:
    """A fixed range, of Hounsfield units in CT, becomes 0..1; what lies beyond it is clipped.

    The same for every volume, since CT numbers mean the same in each: -160 to 240 for the abdomen,
    -1000 to 400 for lungs, 0 to 80 for a brain.

    Args:
        low: what becomes 0, and all below it.
        high: what becomes 1, and all above it.

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
        """The map for any volume."""
        return _to_unit(self.low, self.high)


Intensity = PercentileScale | ZScore | Window
_KINDS = (PercentileScale, ZScore, Window)


def measure_channels(voxels: np.ndarray, intensity: Intensity | None) -> tuple[IntensityMap, ...]:
    """The map of each channel of a volume `(x, y, z, channels)`; one that changes nothing for `None`."""
    if intensity is None:
        return (IntensityMap(-np.inf, np.inf, 0.0, 1.0),) * voxels.shape[-1]
    return tuple(intensity.measure(voxels[..., channel]) for channel in range(voxels.shape[-1]))


def apply_channels(voxels: np.ndarray, maps: tuple[IntensityMap, ...]) -> np.ndarray:
    """Voxels `(..., channels)` as float32, each channel by its own map."""
    return np.stack([one.apply(voxels[..., channel]) for channel, one in enumerate(maps)], axis=-1)


def intensity_to_values(intensity: Intensity | None) -> dict[str, object] | None:
    """What `intensity_from_values` reads: the name of the kind and its fields.

    >>> intensity_to_values(Window(0, 80))
    {'kind': 'Window', 'low': 0, 'high': 80}
    """
    if intensity is None:
        return None
    return {"kind": type(intensity).__name__, **dataclasses.asdict(intensity)}


def intensity_from_values(values: dict[str, object] | None) -> Intensity | None:
    """The intensity of what `intensity_to_values` made.

    Raises:
        ValueError: the kind or a field is unknown.
    """
    if values is None:
        return None
    fields = dict(values)
    kind = fields.pop("kind", None)
    for one in _KINDS:
        if one.__name__ == kind and set(fields) == {field.name for field in dataclasses.fields(one)}:
            return one(**fields)  # type: ignore[arg-type]
    raise ValueError(f"`text` must hold one of {[one.__name__ for one in _KINDS]}. Received {values}.")


def _to_unit(low: float, high: float) -> IntensityMap:
    # In float32, as it will be applied: rounded once more, the largest would come to lie above 1.
    return IntensityMap(low, high, low, float(np.float32(high) - np.float32(low)))


def _foreground(voxels: np.ndarray) -> np.ndarray:
    """The voxels above the smallest, flat; all where there is only one value."""
    above = voxels[voxels > voxels.min()]
    return above if above.size else voxels.ravel()

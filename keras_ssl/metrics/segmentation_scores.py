"""Segmentation scores by name, of one volume or averaged over several."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_ssl.metrics.segmentation import dice_scores, jaccard_scores, label_confusion, mean_of_present
from keras_ssl.metrics.surface_distances import mean_distance, percentile_95, surface_distances

_OVERLAPS = ("dice", "jaccard")
_DISTANCES = ("hausdorff_95", "surface_distance")


def segmentation_scores(
    true: npt.ArrayLike | Sequence[npt.ArrayLike],
    predicted: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    num_classes: int,
    spacing: float | Sequence[float] | Sequence[Sequence[float]] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Compute scores of predicted label maps.

    | name | definition |
    | --- | --- |
    | `dice` | Dice coefficient, averaged over the foreground classes, see `mean_dice` |
    | `jaccard` | Jaccard index, averaged over the foreground classes |
    | `hausdorff_95` | `hausdorff_95`, averaged over the foreground classes |
    | `surface_distance` | `average_surface_distance`, averaged over the foreground classes |
    | `dice_1`, `dice_2`, ... | Dice of class 1, of class 2, ...; likewise for the other three |

    A class absent from both maps has no score (nan) and is left out of the mean over classes. For a class
    absent from only one of them, Dice and Jaccard are 0, and distances and their mean are infinite.

    Over several volumes, each score is the mean of the volumes that have it, with equal weights.

    Args:
        true: a label map, an array of whole numbers in 0..`num_classes` - 1; or a list or tuple of label
            maps, whose shapes may differ.
        predicted: label maps of the same shapes.
        num_classes: number of classes including the background (0), at least 2.
        spacing: voxel size along each axis, for example in mm, for distances: one number for all axes, one
            spacing for all volumes, or a list with one spacing per volume.
        names: names of the scores; by default the four means and the Dice of each class, without distances if
            there is no `spacing`.

    Returns:
        The scores in the order of `names`, as plain floats; nan if no volume has the score.

    Raises:
        ValueError: a label is out of range, shapes or numbers of volumes differ, a name is unknown, or a
            distance is named without `spacing`.

    >>> true, predicted = np.array([0, 1, 1, 1, 2]), np.array([0, 0, 1, 1, 2])
    >>> scores = segmentation_scores(true, predicted, num_classes=3, spacing=2.0)
    >>> scores["dice"], scores["dice_1"], scores["dice_2"], scores["surface_distance"]
    (0.9, 0.8, 1.0, 0.5)
    """
    true_maps, predicted_maps = _volumes(true), _volumes(predicted)
    if not true_maps or len(true_maps) != len(predicted_maps):
        raise ValueError(
            "`true` and `predicted` must hold the same number of label maps, at least one. "
            f"Received {len(true_maps)} and {len(predicted_maps)}."
        )
    chosen = _chosen_names(names, num_classes, spacing is None)
    if not any(name.startswith(_DISTANCES) for name in chosen):
        spacing = None
    volumes = zip(true_maps, predicted_maps, _spacings(spacing, len(true_maps)), strict=True)
    rows = [_scores_of_volume(*volume, num_classes) for volume in volumes]
    return {name: float(mean_of_present([row[name] for row in rows])) for name in chosen}


def _scores_of_volume(
    true: np.ndarray, predicted: np.ndarray, spacing: float | Sequence[float] | None, num_classes: int
) -> dict[str, float]:
    """Return all scores of one volume by name, distances only with a spacing."""
    confusion = label_confusion(true, predicted, num_classes)
    by_class = {"dice": dice_scores(confusion)[1:], "jaccard": jaccard_scores(confusion)[1:]}
    if spacing is not None:
        pairs = [surface_distances(true == c, predicted == c, spacing) for c in range(1, num_classes)]
        by_class["hausdorff_95"] = np.array([percentile_95(*pair) for pair in pairs])
        by_class["surface_distance"] = np.array([mean_distance(*pair) for pair in pairs])
    scores = {name: mean_of_present(values) for name, values in by_class.items()}
    for name, values in by_class.items():
        scores.update({f"{name}_{c}": value for c, value in enumerate(values, start=1)})
    return scores


def _volumes(maps: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[np.ndarray]:
    return [np.asarray(volume) for volume in (maps if isinstance(maps, list | tuple) else [maps])]


def _spacings(spacing: Any, volumes: int) -> list[Any]:
    if spacing is None or np.ndim(spacing) < 2:
        return [spacing] * volumes
    if len(spacing) != volumes:
        raise ValueError(
            f"`spacing` must be one for all volumes or one per volume, {volumes}. Received {len(spacing)}."
        )
    return list(spacing)


def _chosen_names(names: Sequence[str] | None, num_classes: int, no_spacing: bool) -> Sequence[str]:
    if names is None:
        dice = ["dice", *(f"dice_{c}" for c in range(1, num_classes)), "jaccard"]
        return dice if no_spacing else [*dice, *_DISTANCES]
    means = (*_OVERLAPS, *_DISTANCES)
    known = {*means, *(f"{name}_{c}" for name in means for c in range(1, num_classes))}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"`names` must be among {means}, or one of these with a suffix _1 to _{num_classes - 1} for a "
            f"class. Received {unknown[0]!r}."
        )
    missing = [name for name in names if no_spacing and name.startswith(_DISTANCES)]
    if missing:
        raise ValueError(f"`spacing` must be given for the score {missing[0]!r}. Received None.")
    return names

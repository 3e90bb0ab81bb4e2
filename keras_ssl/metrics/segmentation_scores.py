"""Scores of segmentations by name, over one volume or a set."""

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
    """Score label maps that were predicted against the true ones.

    | name | what it is |
    | --- | --- |
    | `dice` | Dice coefficient, averaged over the classes but the background, see `mean_dice` |
    | `jaccard` | Jaccard index, likewise |
    | `hausdorff_95` | see the function of that name, likewise |
    | `surface_distance` | `average_surface_distance`, likewise |
    | `dice_1`, `dice_2`, ... | Dice of class 1, of class 2, ...; and so for the other three |

    A class absent from both maps has no score (nan) and is left out of the mean over classes. Absent from one
    of them, its Dice and Jaccard are 0 and its distances infinite, and so is then their mean.

    Of a set, each score is the mean over its volumes, of those that have it: a large volume counts no more
    than a small one.

    Args:
        true: one label map, an array of whole numbers in 0..`num_classes` - 1; or a list or tuple of such,
            one a volume, whose shapes may differ.
        predicted: likewise, of the same shapes.
        num_classes: how many classes there are, at least 2, the background (0) among them.
        spacing: size of a voxel along each axis, in mm say, for distances. One number is for all axes; one
            such spacing is for all volumes; a list of spacings has one a volume.
        names: which scores; by default the four means and Dice of each class, without distances if there is
            no `spacing`.

    Returns:
        The scores in the order of `names`, each a plain float; nan where no volume has the score.

    Raises:
        ValueError: a label is no class, shapes or numbers of volumes differ, a name is unknown, or a distance
            is named without `spacing`.

    >>> true, predicted = np.array([0, 1, 1, 1, 2]), np.array([0, 0, 1, 1, 2])
    >>> scores = segmentation_scores(true, predicted, num_classes=3, spacing=2.0)
    >>> scores["dice"], scores["dice_1"], scores["dice_2"], scores["surface_distance"]
    (0.9, 0.8, 1.0, 0.5)
    """
    volumes, others = _volumes(true), _volumes(predicted)
    if not volumes or len(volumes) != len(others):
        raise ValueError(
            "`true` and `predicted` must hold the same number of label maps, at least one. "
            f"Received {len(volumes)} and {len(others)}."
        )
    chosen = _chosen_names(names, num_classes, spacing is None)
    if not any(name.startswith(_DISTANCES) for name in chosen):
        spacing = None
    spacings = _spacings(spacing, len(volumes))
    rows = [_scores_of_volume(*volume, num_classes) for volume in zip(volumes, others, spacings, strict=True)]
    return {name: float(mean_of_present([row[name] for row in rows])) for name in chosen}


def _scores_of_volume(
    true: np.ndarray, predicted: np.ndarray, spacing: Any, num_classes: int
) -> dict[str, float]:
    """All scores of one volume by name, distances only with a spacing."""
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


def _volumes(maps: Any) -> list[np.ndarray]:
    return [np.asarray(volume) for volume in (maps if isinstance(maps, list | tuple) else [maps])]


def _spacings(spacing: Any, volumes: int) -> list[Any]:
    if spacing is None or np.ndim(spacing) < 2:
        return [spacing] * volumes
    if len(spacing) != volumes:
        raise ValueError(
            f"`spacing` must be one for all volumes or one for each of {volumes}. Received {len(spacing)}."
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
            f"`names` must be among {means}, or one of these behind which _1 to _{num_classes - 1} names a "
            f"class. Received {unknown[0]!r}."
        )
    needy = [name for name in names if name.startswith(_DISTANCES)]
    if needy and no_spacing:
        raise ValueError(f"`spacing` must be given for the score {needy[0]!r}. Received None.")
    return names

"""Cut points between grades of a continuous score, chosen for agreement."""

import numpy as np
import numpy.typing as npt

from keras_ssl.metrics.grades import grade_thresholds
from keras_ssl.metrics.quadratic_weighted_kappa import quadratic_weighted_kappa
from keras_ssl.metrics.scores import checked_grades


def fit_thresholds(
    true_grades: npt.ArrayLike, scores: npt.ArrayLike, num_grades: int = 5
) -> tuple[float, ...]:
    """Find the cut points of a score that maximise quadratic weighted kappa on these images.

    Fit them on validation images, never on test images: they are parameters, and a kappa on the images
    that they were fitted to is too high.

    From rounding on, one cut point after the other is moved to where kappa is highest, the others fixed,
    until none moves. Every position that makes a difference is tried, so the result is never worse than
    rounding; it may be a local maximum. A moved cut point lies midway between two scores. Those that
    stay where they were keep the value of rounding, as do all for grades that do not occur if kappa gains
    nothing by them.

    Args:
        true_grades: whole numbers in 0..`num_grades` - 1, shape `(n,)`; not all need occur.
        scores: continuous grades, such as the outputs of a `RegressionHead`, shape `(n,)` or `(n, 1)`,
            compared in float32 as `decode_grades` does.
        num_grades: how many grades K there are, at least 2.

    Returns:
        K - 1 strictly ascending cut points, for `RegressionHead(thresholds=...)` or
        `decode_grades(..., "score")`.

    Raises:
        ValueError: an argument is not as described, or `scores` are not finite.

    >>> fit_thresholds([0, 0, 1, 1, 2], [0.0, 0.25, 0.5, 1.0, 1.25], num_grades=3)
    (0.375, 1.125)
    """
    default = np.array(grade_thresholds("score", num_grades))
    true = checked_grades("true_grades", true_grades, num_grades)
    given = np.asarray(scores, dtype="float32")
    if given.shape not in ((len(true),), (len(true), 1)) or not np.isfinite(given).all():
        raise ValueError(
            f"`scores` must be {len(true)} finite numbers of shape (n,) or (n, 1). "
            f"Received shape {given.shape}{'' if np.isfinite(given).all() else ' with NaN or infinity'}."
        )
    distinct, position = np.unique(given.ravel(), return_inverse=True)
    # Column c: how many images of each grade are among the c lowest distinct scores.
    below = np.zeros((num_grades, len(distinct) + 1))
    np.add.at(below, (true, position + 1), 1)
    below = below.cumsum(axis=1)
    start = np.searchsorted(distinct, default, side="right")
    cuts = _best_cuts(below, start)
    return tuple(_placed(cuts, start, default, distinct.astype("float64")).tolist())


def _best_cuts(below: np.ndarray, start: np.ndarray) -> np.ndarray:
    """How many distinct scores lie below each cut, by coordinate search."""
    last = below.shape[1] - 1
    cuts, best = start.copy(), _kappas(below, start[None])[0]
    moved = True
    while moved:
        moved = False
        for k in range(len(cuts)):
            low, high = (cuts[k - 1] if k else 0), (cuts[k + 1] if k + 1 < len(cuts) else last)
            tried = np.repeat(cuts[None], high - low + 1, axis=0)
            tried[:, k] = np.arange(low, high + 1)
            kappas = _kappas(below, tried)
            # More than rounding errors, or equal positions would take turns for ever.
            if kappas.max() > best + 1e-12:
                cuts, best, moved = tried[kappas.argmax()], kappas.max(), True
    return cuts


def _kappas(below: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Kappa for each row of `cuts`."""
    counted = np.moveaxis(below[:, cuts], 0, -2)
    none, all_ = np.zeros_like(counted[..., :1]), np.broadcast_to(below[:, -1:], (*counted.shape[:-1], 1))
    return quadratic_weighted_kappa(np.diff(np.concatenate([none, counted, all_], axis=-1), axis=-1))


def _placed(cuts: np.ndarray, start: np.ndarray, default: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    """Numbers for the cuts: those of one gap between scores share it evenly."""
    edges = np.concatenate([[distinct[0] - 1], distinct, [distinct[-1] + 1]])
    placed = default.copy()
    for cut in np.unique(cuts):
        here = cuts == cut
        if (start[here] == cut).all():
            continue
        low, high = edges[cut], edges[cut + 1]
        share = np.arange(1, here.sum() + 1) / (here.sum() + 1)
        # Between neighbours in float32, what lies midway may be rounded up, onto the higher one.
        neighbours = np.nextafter(np.float32(low), np.float32(high)) >= high
        placed[here] = low + (high - low) * share * (0.25 if neighbours else 1)
    return placed

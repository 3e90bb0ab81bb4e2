"""Splits, cross-validation folds and labeled subsets, stratified by grade, that keep groups together."""

import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_grades


def stratified_split(
    grades: npt.ArrayLike, test_fraction: float, groups: npt.ArrayLike | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split images into training and test, stratified by grade, with no group in both.

    A group (a patient, or copies of one image) is stratified by its highest grade.

    Args:
        grades: whole numbers, shape `(n,)`.
        test_fraction: fraction of images to test on, in (0, 1), rounded to the nearest whole number of images
            of each grade, at least one.
        groups: an id per image, any type, shape `(n,)`; `None` if each image is its own group.
        seed: seed of the split.

    Returns:
        Training and test indices, both ascending.

    Raises:
        ValueError: an argument is out of range, or a grade cannot be in both parts.

    >>> train, test = stratified_split([0] * 8 + [1] * 4, test_fraction=0.25)
    >>> len(train), len(test)
    (9, 3)
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must lie between 0 and 1. Received {test_fraction}.")
    whole, ids = _grades_and_groups(grades, groups)
    _check_enough(whole, ids, 2, "both in training and in test")
    chosen = _nested_choice(whole, ids, test_fraction, seed, leave=1)
    train, test = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    for part, rows in (("training", train), ("test", test)):
        missing = np.setdiff1d(whole, whole[rows])
        if len(missing):
            raise ValueError(
                f"`groups` leave no image of grade {', '.join(map(str, missing))} for {part}: too few groups "
                "hold one. Try another `seed`, or merge grades."
            )
    return train, test


def stratified_folds(
    grades: npt.ArrayLike, folds: int, groups: npt.ArrayLike | None = None, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split images into the folds of a cross-validation, stratified by grade.

    Each image is in the test part of one fold. No group is on both sides of a fold.

    Args:
        grades: whole numbers, shape `(n,)`.
        folds: number of folds, at least 2.
        groups: an id per image, any type, shape `(n,)`; `None` if each image is its own group.
        seed: seed of the folds.

    Returns:
        `folds` pairs of training and test indices, ascending.

    Raises:
        ValueError: an argument is out of range, or a grade has fewer images (or groups) than `folds`.

    >>> [test.tolist() for _, test in stratified_folds([0, 0, 0, 0, 1, 1], folds=2)]
    [[2, 3, 4], [0, 1, 5]]
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if folds < 2:
        raise ValueError(f"`folds` must be at least 2. Received {folds}.")
    whole, ids = _grades_and_groups(grades, groups)
    _check_enough(whole, ids, folds, f"in each of {folds} folds")
    if groups is None:
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(whole, whole))
    return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(whole, whole, ids))


def labeled_subset(
    grades: npt.ArrayLike, fraction: float, groups: npt.ArrayLike | None = None, seed: int = 0
) -> np.ndarray:
    """Choose the images whose labels are used when only a fraction is labeled.

    For one seed the subsets are nested: the 10 % subset contains the 5 % subset, so that a curve over
    fractions reflects more labels, not other images. Each is the beginning of one seeded order per grade,
    which does not depend on the order of the files. Every grade keeps at least one image, and groups stay
    together.

    Args:
        grades: whole numbers, shape `(n,)`.
        fraction: in (0, 1], rounded to the nearest whole number of images of each grade (with groups, of
            groups), at least one.
        groups: an id per image, any type, shape `(n,)`; `None` if each image is its own group.
        seed: seed of the subsets.

    Returns:
        Ascending indices.

    Raises:
        ValueError: an argument is out of range, or there is only one grade.

    >>> grades = [0] * 40 + [1] * 20
    >>> few, more = labeled_subset(grades, 0.1), labeled_subset(grades, 0.5)
    >>> len(few), len(more), set(few) <= set(more)
    (6, 30, True)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must lie in (0, 1]. Received {fraction}.")
    whole, ids = _grades_and_groups(grades, groups)
    return np.flatnonzero(_nested_choice(whole, ids, fraction, seed))


def _grades_and_groups(grades: npt.ArrayLike, groups: npt.ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Validate grades and groups; return integer grades, and a group number 0..g-1 for each."""
    whole = check_grades(grades)
    if groups is None:
        return whole, np.arange(len(whole))
    names = np.asarray(groups)
    if names.shape != whole.shape:
        raise ValueError(f"`groups` must have shape {whole.shape}, as `grades`. Received {names.shape}.")
    if names.dtype.kind == "f" and np.isnan(names).any():
        raise ValueError("`groups` must not be NaN: images without a group would form one.")
    return whole, np.unique(names, return_inverse=True)[1]


def _check_enough(grades: np.ndarray, ids: np.ndarray, least: int, purpose: str) -> None:
    for grade in np.unique(grades):
        count = len(np.unique(ids[grades == grade]))
        if count < least:
            raise ValueError(
                f"`grades` must have at least {least} images (or groups of images) of each grade to be "
                f"{purpose}. Received {count} of grade {grade}."
            )


def _nested_choice(
    grades: np.ndarray, ids: np.ndarray, fraction: float, seed: int, leave: int = 0
) -> np.ndarray:
    """Choose the first groups of each grade's seeded order, at least one; return which images are chosen.

    Choices of one seed are nested, since both parts are: the first groups of an order, whose number only
    grows with `fraction`, and one group for each grade that is no group's highest, which does not depend on
    `fraction`.
    """
    sizes = np.bincount(ids)
    highest = np.zeros(len(sizes), np.int64)
    np.maximum.at(highest, ids, grades)
    chosen = np.zeros(len(sizes), bool)
    for grade in np.unique(grades):
        order = np.random.default_rng((seed, int(grade))).permutation(len(sizes))
        stratum = order[highest[order] == grade]
        if not len(stratum):
            chosen[order[np.isin(order, ids[grades == grade])][0]] = True
            continue
        # A group is chosen once half of it is wanted: rounds to the nearest whole number, halves up.
        halfway = np.cumsum(sizes[stratum]) - sizes[stratum] / 2
        wanted = fraction * sizes[stratum].sum() + 1e-9
        count = min(np.searchsorted(halfway, wanted, side="right"), len(stratum) - leave)
        chosen[stratum[: max(1, count)]] = True
    return chosen[ids]

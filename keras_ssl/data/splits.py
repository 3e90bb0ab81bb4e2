"""Training, test and labeled parts that are stratified by grade and keep groups whole."""

import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_grades


def stratified_split(
    grades: npt.ArrayLike, test_fraction: float, groups: npt.ArrayLike | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test indices, each with every grade in about its share, no group in both.

    A group (a patient, or copies of one photograph) counts where its highest grade does.

    Args:
        grades: whole numbers, shape `(n,)`.
        test_fraction: the share of images to test on, in (0, 1). Each grade is rounded to the nearest
            whole number of images, at least one.
        groups: an id per image, any type, shape `(n,)`; each image its own group where `None`.
        seed: another seed draws another split.

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
    whole, ids = _checked(grades, groups)
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
    """Training and test indices of each fold of a cross-validation, stratified by grade.

    Each image is tested on once. No group is on both sides of a fold.

    Args:
        grades: whole numbers, shape `(n,)`.
        folds: how many, at least 2.
        groups: an id per image, any type, shape `(n,)`; each image its own group where `None`.
        seed: another seed draws other folds.

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
    whole, ids = _checked(grades, groups)
    _check_enough(whole, ids, folds, f"in each of {folds} folds")
    if groups is None:
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(whole, whole))
    return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(whole, whole, ids))


def labeled_subset(
    grades: npt.ArrayLike, fraction: float, groups: npt.ArrayLike | None = None, seed: int = 0
) -> np.ndarray:
    """The images whose labels may be used when only a fraction of them is to be known.

    Within a seed the subsets are nested: what 5 % hold, 10 % hold too, so that a curve over fractions
    shows more labels and not other images. They are the beginnings of one seeded order per grade, never
    of the order of the files. Every grade keeps at least one image, and groups stay whole.

    Args:
        grades: whole numbers, shape `(n,)`.
        fraction: in (0, 1]. Each grade is rounded to the nearest whole number of images (with groups,
            of groups), at least one.
        groups: an id per image, any type, shape `(n,)`; each image its own group where `None`.
        seed: another seed draws other subsets.

    Returns:
        Ascending indices.

    Raises:
        ValueError: an argument is out of range, or there is but one grade.

    >>> grades = [0] * 40 + [1] * 20
    >>> few, more = labeled_subset(grades, 0.1), labeled_subset(grades, 0.5)
    >>> len(few), len(more), set(few) <= set(more)
    (6, 30, True)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must lie in (0, 1]. Received {fraction}.")
    whole, ids = _checked(grades, groups)
    return np.flatnonzero(_nested_choice(whole, ids, fraction, seed))


def _checked(grades: npt.ArrayLike, groups: npt.ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Flat integer grades, and a group number 0..g-1 for each."""
    whole = check_grades(grades)
    if groups is None:
        return whole, np.arange(len(whole))
    names = np.asarray(groups)
    if names.shape != whole.shape:
        raise ValueError(f"`groups` must have shape {whole.shape}, as `grades`. Received {names.shape}.")
    if names.dtype.kind == "f" and np.isnan(names).any():
        raise ValueError("`groups` must not be NaN: images without a group would all fall into one.")
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
    """Which images are in: of each grade's seeded order of groups the beginning, and never none.

    Choices of one seed contain one another, as both parts below do: the beginnings, which only grow,
    and one group for each grade that no group has as its highest, which does not depend on `fraction`.
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
        # A group is in once half of it is wanted: to the nearest whole number, halves up.
        halfway = np.cumsum(sizes[stratum]) - sizes[stratum] / 2
        wanted = fraction * sizes[stratum].sum() + 1e-9
        count = min(np.searchsorted(halfway, wanted, side="right"), len(stratum) - leave)
        chosen[stratum[: max(1, count)]] = True
    return chosen[ids]

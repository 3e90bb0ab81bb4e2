"""Decoding of grades, and their confusion matrix."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from keras import ops

from keras_ssl._types import Tensor

GradeForm = Literal["grades", "one_hot", "probabilities", "logits", "cumulative", "multi_hot", "score"]

_ARGMAX_FORMS = ("one_hot", "probabilities", "logits")
_SCALAR_FORMS = ("grades", "score")


def decode_grades(
    values: Tensor,
    form: GradeForm,
    num_grades: int = 5,
    thresholds: float | Sequence[float] | None = None,
) -> Tensor:
    """Decode predicted or true grades to integers from 0 to `num_grades - 1`.

    No prediction is left out: a row that exceeds no threshold is grade 0. A kappa computed over valid codes
    only would reward a grader for failing.

    | `form` | shape of `values` | grade |
    | --- | --- | --- |
    | `"grades"` | `(n,)` or `(n, 1)` | the value itself |
    | `"one_hot"`, `"probabilities"`, `"logits"` | `(n, K)` | argmax |
    | `"cumulative"` | `(n, K - 1)`, column k: "the grade is above k" | number of thresholds exceeded |
    | `"multi_hot"` | `(n, K)`, grade g as g + 1 ones, then zeros | that number - 1, at least 0 |
    | `"score"` | `(n,)` or `(n, 1)`, a continuous grade | number of cut points exceeded |

    Counting also defines the grade of inconsistent rows, such as `[0.9, 0.2, 0.8]`.

    Args:
        values: numbers in one of the shapes above; K is `num_grades`.
        form: encoding of the grades in `values`.
        num_grades: number of grades, at least 2.
        thresholds: thresholds that values must exceed. For `"cumulative"` and `"multi_hot"` one number or one
            per column, by default 0.5 (pass 0 for logits). For `"score"` K - 1 ascending cut points, by
            default 0.5, 1.5, ..., which is rounding and clipping.

    Returns:
        int32, shape `(n,)`: a NumPy array, or a backend tensor if `values` is one. Rows with a NaN, and
        invalid numbers in form `"grades"`, give -1: a compiled graph cannot raise an error, and
        `grade_confusion` turns -1 into NaN.

    Raises:
        ValueError: `values` does not have the shape of its `form`, or see `grade_thresholds`.

    >>> decode_grades([[0.9, 0.8, 0.1], [0.2, 0.1, 0.1]], "cumulative", num_grades=4).tolist()
    [2, 0]
    >>> decode_grades([-0.7, 1.4, 9.0], "score", num_grades=4).tolist()
    [0, 1, 3]

    References:
        Frank, E. & Hall, M. (2001). A simple approach to ordinal classification. ECML.
        Cheng, J. et al. (2008). A neural network approach to ordinal regression. IJCNN.
    """
    cuts = grade_thresholds(form, num_grades, thresholds)
    rows = _rows(values, form, num_grades)
    if form == "grades":
        found = rows[:, 0]
    elif form in _ARGMAX_FORMS:
        found = ops.argmax(rows, axis=1)
    else:
        found = ops.sum(ops.cast(rows > ops.convert_to_tensor(cuts, "float32"), "int32"), axis=1)
    if form == "multi_hot":
        found = ops.maximum(found - 1, 0)
    found = ops.cast(found, "float32")
    readable = (found == ops.round(found)) & (found >= 0) & (found < num_grades)
    readable = readable & ops.logical_not(ops.any(ops.isnan(rows), axis=1))
    grades = ops.cast(ops.where(readable, found, -1.0), "int32")
    return grades if ops.is_tensor(values) else ops.convert_to_numpy(grades)


def grade_thresholds(
    form: GradeForm, num_grades: int, thresholds: float | Sequence[float] | None = None
) -> tuple[float, ...]:
    """Check a form of grades and return the thresholds that `decode_grades` uses for it.

    Args:
        form: as in `decode_grades`.
        num_grades: as in `decode_grades`.
        thresholds: as in `decode_grades`; a single number is repeated for every column.

    Returns:
        One number per compared column; empty for the forms without thresholds.

    Raises:
        ValueError: `form` is unknown, `num_grades` is below 2, or `thresholds` are invalid for the form.

    >>> grade_thresholds("score", num_grades=4)
    (0.5, 1.5, 2.5)
    """
    if form not in get_args(GradeForm):
        raise ValueError(f"The form of grades must be one of {get_args(GradeForm)}. Received {form!r}.")
    if num_grades < 2:
        raise ValueError(f"`num_grades` must be at least 2. Received {num_grades}.")
    if form == "grades" or form in _ARGMAX_FORMS:
        if thresholds is not None:
            raise ValueError(f"`thresholds` must be None for the form {form!r}. Received {thresholds}.")
        return ()
    count = num_grades if form == "multi_hot" else num_grades - 1
    if thresholds is None:
        return tuple(k + 0.5 for k in range(count)) if form == "score" else (0.5,) * count
    given = np.asarray(thresholds, dtype="float64")
    if given.shape == () and form != "score":
        given = np.full(count, given)
    if given.shape != (count,) or not np.isfinite(given).all():
        raise ValueError(
            f"`thresholds` must be {count} finite numbers for {num_grades} grades in the form {form!r}. "
            f"Received {thresholds}."
        )
    if form == "score" and (np.diff(given) <= 0).any():
        raise ValueError(f"`thresholds` of a score must ascend. Received {thresholds}.")
    return tuple(given.tolist())


def grade_confusion(
    true_grades: Tensor, predicted_grades: Tensor, num_grades: int, sample_weight: Tensor | None = None
) -> Tensor:
    """Compute the confusion matrix of grades.

    Args:
        true_grades: integers, shape `(n,)`.
        predicted_grades: integers, shape `(n,)`.
        num_grades: number of grades.
        sample_weight: weight of each row, a scalar or shape `(n,)` or `(n, 1)`; 1 by default.

    Returns:
        float32, shape `(num_grades, num_grades)`, rows true, columns predicted: a NumPy array, or a
        backend tensor if `true_grades` or `predicted_grades` is one. Counts are exact up to 2^24. All NaN if
        any grade is outside `[0, num_grades)`, unless the weight of its row is 0.

    Raises:
        ValueError: the numbers of rows differ, or `sample_weight` has another shape.

    >>> grade_confusion([0, 0, 1], [0, 1, 1], num_grades=2).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    true, predicted = ops.convert_to_tensor(true_grades), ops.convert_to_tensor(predicted_grades)
    if len(true.shape) != 1 or len(predicted.shape) != 1 or _differ(true.shape[0], predicted.shape[0]):
        raise ValueError(
            "`true_grades` and `predicted_grades` must both be of shape (n,). "
            f"Received shapes {tuple(true.shape)} and {tuple(predicted.shape)}."
        )
    weight = _row_weights(sample_weight, true)
    grades = ops.arange(num_grades, dtype="int32")
    is_true = ops.expand_dims(ops.cast(true, "int32"), 1) == grades
    is_predicted = ops.expand_dims(ops.cast(predicted, "int32"), 1) == grades
    known = ops.any(is_true, axis=1) & ops.any(is_predicted, axis=1)
    weight = ops.where(known | (weight == 0), weight, np.nan)
    # A sum, not a matrix product, whose factors may be rounded on an accelerator.
    pairs = ops.cast(is_true, "float32")[:, :, None] * ops.cast(is_predicted, "float32")[:, None, :]
    confusion = ops.sum(pairs * weight[:, None, None], axis=0)
    on_device = ops.is_tensor(true_grades) or ops.is_tensor(predicted_grades)
    return confusion if on_device else ops.convert_to_numpy(confusion)


def _rows(values: Tensor, form: GradeForm, num_grades: int) -> Tensor:
    rows = ops.convert_to_tensor(values)
    shape = tuple(rows.shape)
    if form in _SCALAR_FORMS:
        columns, wanted = 1, "(n,) or (n, 1)"
        rows = ops.expand_dims(rows, 1) if len(shape) == 1 else rows
    else:
        columns = num_grades - (form == "cumulative")
        wanted = f"(n, {columns})"
    if len(rows.shape) != 2 or rows.shape[1] != columns:
        raise ValueError(
            f"{num_grades} grades in the form {form!r} must have shape {wanted}. Received shape {shape}."
        )
    return ops.cast(rows, "float32")


def _row_weights(sample_weight: Tensor | None, like: Tensor) -> Tensor:
    weight = ops.convert_to_tensor(1.0 if sample_weight is None else sample_weight)
    shape = tuple(weight.shape)
    if len(shape) == 2 and shape[1] == 1:
        weight = weight[:, 0]
    if len(weight.shape) > 1 or (len(weight.shape) == 1 and _differ(weight.shape[0], like.shape[0])):
        raise ValueError(
            "`sample_weight` must be a scalar or have shape (n,) or (n, 1), one weight per row, here "
            f"{like.shape[0]} rows. Received shape {shape}."
        )
    return ops.broadcast_to(ops.cast(weight, "float32"), ops.shape(like))


def _differ(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and first != second

"""The loss of contrastive predictive coding: find what lies further down among what lies elsewhere."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_ssl.losses.contrastive import info_nce


def predictive_coding(predictions: Any, codes: Any, steps: Sequence[int], temperature: float = 0.1) -> Any:
    """Cross-entropy of finding the code that lies some rows further down, by what was predicted of it.

    A prediction is compared, by `info_nce`, with the code at its target and with those at the targets of all
    other predictions of the same step, in all images of the batch. The target alone is right.

    Args:
        predictions: `(batch, rows, *others, steps, dim)`, one for each step.
        codes: `(batch, rows, *others, dim)`.
        steps: how many rows below its own each prediction is meant for, from 1 to `rows - 1`. Predictions
            of what lies below the last row are left out.
        temperature: above 0; similarity is the cosine divided by it.

    Returns:
        float32 `(steps,)`, the mean over places and images, at least 0.

    >>> import numpy as np
    >>> codes = np.eye(3)[None, :, None]  # three rows, one column
    >>> predictions = np.eye(3)[[1, 2, 0]][None, :, None, None]  # of the next row; that of the last has none
    >>> round(float(predictive_coding(predictions, codes, (1,), 1.0)[0]), 4)  # -log(e / (e + 1))
    0.3133

    References:
        van den Oord, A., Li, Y., Vinyals, O. (2018). Representation learning with contrastive predictive
        coding. arXiv:1807.03748.
    """
    pairs = predicted_pairs(predictions, codes, steps)
    return ops.stack([ops.mean(info_nce(queries, keys, None, temperature)) for queries, keys in pairs])


def predicted_pairs(predictions: Any, codes: Any, steps: Sequence[int]) -> list[tuple[Any, Any]]:
    """Pair, for each step, all predictions whose target is in the image with the codes at their targets.

    Args:
        predictions: as in `predictive_coding`.
        codes: as in `predictive_coding`.
        steps: as in `predictive_coding`.

    Returns:
        For each step predictions and codes, both `(pairs, dim)`.
    """
    dim = codes.shape[-1]
    return [
        (
            ops.reshape(predictions[:, :-step, ..., number, :], (-1, dim)),
            ops.reshape(codes[:, step:], (-1, dim)),
        )
        for number, step in enumerate(steps)
    ]

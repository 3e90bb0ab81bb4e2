"""The nested tumour regions that brain tumours are scored by (BraTS)."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from keras_ssl.metrics.segmentation import check_same_shape

BratsRegion = Literal["whole_tumour", "tumour_core", "enhancing_tumour"]

_NECROTIC, _OEDEMA = 1, 2


def brats_regions(
    label_map: npt.ArrayLike, enhancing_label: Literal[3, 4] = 3
) -> dict[BratsRegion, np.ndarray]:
    """Turn labels of tissue into the three regions that challenges score.

    | region | labels |
    | --- | --- |
    | `whole_tumour` | 1 necrotic core, 2 oedema, 3 enhancing |
    | `tumour_core` | 1 necrotic core, 3 enhancing |
    | `enhancing_tumour` | 3 enhancing |

    Args:
        label_map: labels of any shape, 0 for all that is no tumour.
        enhancing_label: how enhancing tumour is written: 3, as in BraTS since 2023, or 4, as in BraTS up to
            2022 (where no voxel is 3). Networks want labels without a gap, hence 3 here. Other sets write
            other things: in the Medical Segmentation Decathlon 1 is the oedema and 2 the core.

    Returns:
        Boolean masks of the shape of `label_map`, by region.

    Raises:
        ValueError: `enhancing_label` is neither, or a label is none of those above.

    >>> {name: mask.tolist() for name, mask in brats_regions([0, 1, 2, 3]).items()}["tumour_core"]
    [False, True, False, True]

    References:
        Menze, B. H. et al. (2015). The multimodal brain tumor image segmentation benchmark (BRATS). IEEE
        Transactions on Medical Imaging 34(10).
    """
    return _regions("label_map", label_map, enhancing_label)


def brats_dice(
    true: npt.ArrayLike, predicted: npt.ArrayLike, enhancing_label: Literal[3, 4] = 3
) -> dict[BratsRegion, float]:
    """Dice coefficient of each region of `brats_regions`.

    Args:
        true: label map, see `brats_regions`.
        predicted: label map of the same shape.
        enhancing_label: how both write enhancing tumour.

    Returns:
        Dice by region, in [0, 1]. Absent from both maps, a region is nan, as in `dice_scores` (challenges
        write 1 there, which rewards whoever finds nothing); absent from one, 0.

    Raises:
        ValueError: shapes differ, or see `brats_regions`.

    >>> brats_dice([0, 1, 2, 2, 2], [0, 1, 1, 1, 2])
    {'whole_tumour': 1.0, 'tumour_core': 0.5, 'enhancing_tumour': nan}
    """
    check_same_shape(np.asarray(true), np.asarray(predicted))
    found = _regions("predicted", predicted, enhancing_label)
    return {name: _dice(mask, found[name]) for name, mask in _regions("true", true, enhancing_label).items()}


def _regions(name: str, label_map: npt.ArrayLike, enhancing_label: int) -> dict[BratsRegion, np.ndarray]:
    if enhancing_label not in (3, 4):
        raise ValueError(f"`enhancing_label` must be 3 or 4. Received {enhancing_label!r}.")
    labels = np.asarray(label_map)
    enhancing = labels == enhancing_label
    core = (labels == _NECROTIC) | enhancing
    whole = (labels == _OEDEMA) | core
    unknown = ~whole & (labels != 0)
    if unknown.any():
        raise ValueError(
            f"`{name}` must hold labels 0, 1, 2 and {enhancing_label}, which `enhancing_label` chooses. "
            f"Received {labels[unknown][0]}."
        )
    return {"whole_tumour": whole, "tumour_core": core, "enhancing_tumour": enhancing}


def _dice(true: np.ndarray, predicted: np.ndarray) -> float:
    total = np.count_nonzero(true) + np.count_nonzero(predicted)
    return float(2 * np.count_nonzero(true & predicted) / total) if total else float("nan")

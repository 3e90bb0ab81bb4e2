"""Patients by the names of image files: `10_left` and `10_right` are eyes of patient 10."""

import re
import warnings
from collections.abc import Sequence

import numpy as np

from keras_ssl.data.listing import listed

# The laterality of an eye in a file's name, and the patient's number before it. Short forms end a word, and
# without a separator (`01L`, as in CHASE DB1) they are upper case.
_EYE = re.compile(
    r"(?P<before>.*?)(?P<number>\d+)"
    r"(?:[-_. ]*(?i:left|right)|[-_. ]+(?i:l|r|od|os)(?![a-zA-Z0-9])|(?:L|R|OD|OS)(?![a-zA-Z0-9]))"
)
# A folder for each patient: `10/left.jpg`.
_EYE_ALONE = re.compile(r"left|right|l|r|od|os", re.IGNORECASE)


def patients_of_names(names: Sequence[str]) -> np.ndarray | None:
    """Groups by what names of eyes tell of patients, with a warning; `None` where they tell nothing."""
    patients = [_patient_of_name(name) for name in names]
    known = [patient for patient in patients if patient]
    if not known:
        return None
    others = [name for name, patient in zip(names, patients, strict=True) if not patient]
    rest = f"; {len(others)} others each taken for a patient of its own ({listed(others)})" if others else ""
    example = names[next(row for row, patient in enumerate(patients) if patient)]
    warnings.warn(
        f"Patients are taken from the names of files, such as {example}: {len(known)} images of "
        f"{len(set(known))} patients{rest}. Where that is wrong, give the patients: `group_column` of "
        "from_csv, or `groups` of the table.",
        stacklevel=3,
    )
    # No patient's key has a space and a single number.
    return np.array([patient or f"image {row}" for row, patient in enumerate(patients)])


def _patient_of_name(name: str) -> str | None:
    """The patient that an eye's file name tells: in `10_left`, whatever the folder, number 10."""
    *folders, last = name.replace("\\", "/").split("/")
    if match := _EYE.match(last):
        # With other numbers before it this one may be that of a visit; all together are no less than the eye.
        if re.search(r"\d", match["before"]):
            return (match["before"] + match["number"]).replace(" ", "_")
        return match["number"].lstrip("0") or "0"
    if folders and _EYE_ALONE.fullmatch(last.split(".")[0]):
        return folders[-1].lstrip("0").replace(" ", "_") or "0"
    return None

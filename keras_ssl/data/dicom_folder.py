"""Classification of the files in a DICOM folder and selection of one series."""

import re
from pathlib import Path
from typing import Any

from keras_ssl.data.listing import listed

# Names of files beside slices: what systems leave, and documents.
DOCUMENTS = re.compile(
    r"\..*|(thumbs\.db|dicomdir|lockfile|version|readme|licen[cs]e|copying|notice|changelog)(\..*)?"
    r"|.*\.(txt|md|rst|json|csv|tsv|xml|ya?ml|html?|pdf|log|ini|inf|bvec|bval|md5|sha256)",
    re.IGNORECASE,
)
# Names of files in other formats.
FORMATS = re.compile(
    r".*\.(nii|gz|npy|npz|mha|mhd|nrrd|mgz|png|jpe?g|gif|bmp|tiff?|zip|tar|rar|7z|exe|dll|bat|sh|py|js|css)",
    re.IGNORECASE,
)


def start_of(path: Path) -> bytes:
    """The first bytes of a file, to see what it is."""
    if not path.exists():
        if DOCUMENTS.fullmatch(path.name):
            return b""
        raise ValueError("it is a link to a file that is not there")
    if not path.is_file():
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        return file.read(132)


def is_dicom_file(path: str | Path) -> bool:
    """Return True if a file can be opened and starts as DICOM."""
    try:
        with open(path, "rb") as file:
            return is_data_set(file.read(132))
    except OSError:
        return False


def is_data_set(start: bytes) -> bool:
    """Return True if a file starts as DICOM: with a preamble, or with an element of group 2 or 8."""
    return start[128:] == b"DICM" or (len(start) == 132 and start[:2] in (b"\2\0", b"\x08\0"))


def other_kind(one: Any, name: str) -> str:
    """Return the kind of a DICOM object that is not an image; empty for images and unknown objects."""
    from pydicom.uid import UID

    if name.startswith("."):
        return "hidden"
    given = one.get("SOPClassUID") or one.file_meta.get("MediaStorageSOPClassUID") or ""
    # Not validated: a warning would quote what a damaged length took for the value.
    uid = UID(str(given), validation_mode=0)
    return "" if uid.name == uid or "Image" in uid.name else uid.name.removesuffix(" Storage")


def chosen_series(
    images: dict[str, Any],
    problems: dict[str, str],
    others: dict[str, list[str]],
    series: str | int | None,
    folder: Path,
) -> dict[str, Any]:
    """The images of one series; those of others move from `problems` to `others`, with what they are."""
    groups: dict[str, list[str]] = {}
    for name, one in images.items():
        groups.setdefault(str(one.get("SeriesInstanceUID") or ""), []).append(name)

    def has_slices(names: list[str]) -> bool:
        return any(_has_geometry(images[name]) and not _is_localizer(images[name]) for name in names)

    if series is None:
        found = [uid for uid, names in groups.items() if has_slices(names)] or list(groups)
    else:
        found = _series_named(series, groups, images)
    if not groups:
        return {}
    if len(found) != 1:
        there = listed([_described(names, images) for names in groups.values()])
        raise ValueError(
            "`folder` must hold slices of one series, or `series` choose one of them. Received series="
            f"{series!r} for {folder} with {there}. Pass `series` to read_volume: a number, a "
            "SeriesInstanceUID, a SeriesDescription or the name of a file. For a table, write that volume as "
            "NIfTI with write_volume."
        )
    slices = {}
    for uid, names in groups.items():
        for name in names:
            # A file whose series is not known may be a slice of this one.
            if uid not in (found[0], ""):
                kind = "localizers" if _is_localizer(images[name]) else "images of another series"
            elif _is_localizer(images[name]) and has_slices(groups[found[0]]):
                kind = "localizers"
            else:
                slices[name] = images[name]
                continue
            problems.pop(name, None)
            others.setdefault(kind, []).append(name)
    return slices


def _series_named(series: str | int, groups: dict[str, list[str]], images: dict[str, Any]) -> list[str]:
    """The series that are meant: by their UID, else number, else description, else one of their files."""
    wanted = str(series).strip()
    for matches in (
        lambda uid, names: uid == wanted,
        lambda uid, names: any(str(images[name].get("SeriesNumber")) == wanted for name in names),
        lambda uid, names: any(
            str(images[name].get("SeriesDescription")).strip() == wanted for name in names
        ),
        lambda uid, names: wanted in names,
    ):
        found = [uid for uid, names in groups.items() if matches(uid, names)]
        if found:
            return found
    return []


def _described(names: list[str], images: dict[str, Any]) -> str:
    """A series by its number and kind and a file of it: its UID and its description lead to the patient."""
    one = images[names[0]]
    number = one.get("SeriesNumber")
    modality = re.fullmatch("[A-Z]{2,16}", str(one.get("Modality")))
    kind = f"{modality[0]}, " if modality else ""
    return f"{'no number' if number is None else f'number {number}'} ({kind}{len(names)} files, {names[0]})"


def _has_geometry(one: Any) -> bool:
    return any(
        one.get(name) not in (None, "") for name in ("ImagePositionPatient", "ImageOrientationPatient")
    )


def _is_localizer(one: Any) -> bool:
    kinds = one.get("ImageType") or ()
    return "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds))

"""Tables of volume files with masks, grades and patients; reading of their rows; warnings about them."""

import dataclasses
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_ssl.data.cache import Arrays, Parts
from keras_ssl.data.dicom import DOCUMENT_NAMES, is_dicom_file
from keras_ssl.data.files import (
    check_files_exist,
    check_folder,
    check_links,
    map_in_threads,
    message_without_path,
    normalize_name,
    raise_if_any,
    raise_system_error,
    shorten_list,
    walk_folder,
)
from keras_ssl.data.image_table import FileTable
from keras_ssl.data.volume import (
    MAX_CLASSES,
    Volume,
    VolumeGrid,
    affines_match,
    check_label_values,
    label_map,
    shorten_values,
)
from keras_ssl.data.volume_io import VOLUME_SUFFIXES, read_grid, read_volume, volume_suffix
from keras_ssl.data.volume_preparation import VolumePreparation

# nnU-Net's channel in the names of images, which those of masks lack.
_FIRST_CHANNEL = "_0000"


@dataclasses.dataclass(frozen=True, eq=False)
class VolumeTable(FileTable):
    """Files of volumes with, where known, their masks, grades and groups, one row each.

    Args:
        paths: the files, shape `(n,)`; `(n, modalities)` where a scan is several files that become its
            channels, in this order.
        masks: files of label volumes, shape `(n,)`; `None` where there are none.
        grades: int64, shape `(n,)`; `None` where there are none.
        groups: ids of what a split must keep together, such as patients, shape `(n,)`; `None` where each
            scan counts as a patient of its own.
        unlabeled: table of further scans, without masks and grades, whose groups are named as those of this
            one; `None` where there are none. They are for pretraining.

    Raises:
        ValueError: the columns are empty or of unequal length, scans have different numbers of files, or one
            of both tables lacks `groups`.

    >>> table = VolumeTable([["a_t1.nii", "a_t2.nii"], ["b_t1.nii", "b_t2.nii"]], masks=["a.nii", "b.nii"])
    >>> len(table), table.select([1]).paths.tolist()
    (2, [['b_t1.nii', 'b_t2.nii']])
    """

    paths: np.ndarray
    masks: np.ndarray | None = None
    grades: np.ndarray | None = None
    groups: np.ndarray | None = None
    unlabeled: "VolumeTable | None" = None

    def __post_init__(self) -> None:
        paths = np.array(self.paths, dtype=object)
        if paths.ndim not in (1, 2) or not paths.size:
            raise ValueError(
                "`paths` must have shape (n,) or (n, modalities), of at least one volume. Received shape "
                f"{paths.shape}."
            )
        other = next((path for path in paths.flat if not isinstance(path, (str, os.PathLike))), None)
        if other is not None:
            raise ValueError(
                f"`paths` must be paths, as many for each scan. Received {other!r} in shape {paths.shape}."
            )
        object.__setattr__(self, "paths", paths.astype(str))
        masks = None if self.masks is None else np.array(list(map(str, self.masks)))
        self._set_columns(masks=masks, grades=self.grades, groups=self.groups)
        self._check_unlabeled()

    def mask_of(self, row: int) -> str | None:
        """Return the file of a row's mask, if there are masks."""
        return None if self.masks is None else str(self.masks[row])

    def check(
        self,
        num_classes: int | None = None,
        empty_masks: str = "warn",
        *,
        label_values: Sequence[int] | None = None,
        workers: int | None = None,
        verbose: int = 1,
    ) -> None:
        """Read every file, and raise one error that names all that cannot be trained on.

        Warns about constant volumes, and with `num_classes` or `label_values` about classes that occur in no
        mask.

        Args:
            num_classes: labels must lie in 0..`num_classes` - 1. Where `None`, those of all masks together
                must be 0..K - 1 without gaps.
            empty_masks: whether masks without any foreground trigger a warning (`"warn"`), an error
                (`"refuse"`) or nothing (`"allow"`).
            label_values: the values in the masks that stand for classes 0, 1 and so on, such as `(0, 255)` or
                `(0, 1, 2, 4)` of BraTS; `None` where they are numbers of classes.
            workers: threads; as many as there are processors where `None`.
            verbose: 1 shows a progress bar, 0 does not.

        Raises:
            FileNotFoundError: files do not exist.
            ValueError: files are truncated or damaged, hold NaN or infinity, have a fourth axis, an image,
                its mask and its modalities differ in shape or affine, or labels are not whole, out of
                range, with gaps or none of `label_values`; with `"refuse"`, masks are empty; all volumes are
                constant. Up to 20 files are named, each with its reason, and how many there are.
        """
        check_empty_masks(empty_masks)
        check_label_values(label_values, num_classes)
        check_files_exist([*self.files.ravel(), *(() if self.masks is None else self.masks)])

        def check_row(row: int) -> RowStatistics | Problems:
            try:
                image, mask = read_row(self.files[row], self.mask_of(row), num_classes, label_values)
            except InvalidFilesError as error:
                return error.problems
            counts = None if mask is None else np.stack([count_labels(mask.voxels)] * 3)
            if empty_masks == "refuse" and counts is not None and not counts[0, 1:].any():
                return [(-1, "it has no foreground")]
            return RowStatistics(is_constant(image.voxels), counts)

        rows = map_in_threads(check_row, range(len(self)), workers, verbose=verbose, unit="volume")
        statistics = [found for found in rows if isinstance(found, RowStatistics)]
        failures = {row: found for row, found in enumerate(rows) if not isinstance(found, RowStatistics)}
        raise_invalid_files(self.files, self.masks, failures)
        classes = num_classes if label_values is None else len(label_values)
        warn_about_table(self, statistics, empty_masks=empty_masks, num_classes=classes)

    @staticmethod
    def from_folder(
        images: str | Path,
        masks: str | Path | None = None,
        modalities: Sequence[str] | None = None,
        *,
        mask_ending: str = "",
        skip_missing: bool = False,
        follow_links: bool = False,
        unlabeled: str | Path | None = None,
    ) -> "VolumeTable":
        """Find all `.nii`, `.nii.gz` and `.npy` files in a folder and its subfolders, sorted by path.

        A scan and its mask are paired by their names without suffix, and by their subfolders:
        `images/a/1.nii.gz` and `masks/a/1.nii`. An image's `_0000`, the channel of nnU-Net, may be missing
        from the mask's name. With `modalities` the files of a scan share a name and differ in these
        endings: `("_0000", "_0001")` of nnU-Net, `("_t1", "_t1ce", "_t2", "_flair")` of BraTS. Where masks
        lie beside the images, name their ending, as in `VolumeTable.from_folder(data, data, modalities,
        mask_ending="_seg")`. Names are compared whatever their Unicode normalization (NFC or NFD).

        Warnings count and name what is left out: files of other formats (`.mha`, `.nrrd`, `.mgz`, `.img` and
        so on), folders of DICOM slices, which `VolumeTable` takes by name, files that end in none of
        `modalities`, and masks without a scan. Hidden files and documents are ignored.

        Args:
            images: folder of the volumes.
            masks: folder of the label volumes, which may be `images`; `None` for none.
            modalities: the endings of the files of one scan; `None` where each file is a scan.
            mask_ending: the ending by which a mask's name differs from its scan's.
            skip_missing: leave out scans without a mask or a modality, with a warning that names them.
            follow_links: whether files and folders may be symbolic links that lead out of the folder, as in
                data sets of DVC or git-annex.
            unlabeled: folder of further scans without masks, which may be `images`. They, and scans of
                `images` without a mask, are in the table `unlabeled` of the result; a warning counts these.

        Returns:
            One row per scan; `paths` has shape `(n, modalities)` with `modalities`, else `(n,)`.

        Raises:
            ValueError: a folder does not exist, holds no volumes, broken links or, without `follow_links`,
                links that lead out of it, names mean two files, a scan would be its own mask, or masks or
                modalities are missing; with `skip_missing`, all are. The message names up to 20 and how many
                there are.
            OSError: a subfolder cannot be read.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for file in ("a_t1.npy", "a_t2.npy", "a_seg.npy"):
        ...         np.save(f"{name}/{file}", np.zeros((4, 4, 4), "uint8"))
        ...     table = VolumeTable.from_folder(name, name, ["_t1", "_t2"], mask_ending="_seg")
        >>> table.paths.shape, Path(table.masks[0]).name
        ((1, 2), 'a_seg.npy')
        """
        if isinstance(modalities, str) or (modalities is not None and not len(modalities)):
            raise ValueError(f"`modalities` must be a list of endings, or None. Received {modalities!r}.")
        if modalities is not None:
            modalities = [normalize_name(ending) for ending in modalities]
        mask_ending = normalize_name(mask_ending)
        root = check_folder(images)
        found, others = _find_volumes(root, "images", follow_links)
        if mask_ending:
            found = {name: path for name, path in found.items() if not name.endswith(mask_ending)}
        scans = _group_modalities(found, modalities)
        if not scans:
            beside = f" There are {others}." if others else ""
            raise ValueError(
                f"`images` must hold {', '.join(VOLUME_SUFFIXES)} files{' of ' if modalities else ''}"
                f"{', '.join(modalities or ())}. Received {root}.{beside}"
            )
        left_out = [f"{others} in {root}"] if others else []
        missing = [
            f"{name}{ending}" for name, row in scans.items() for ending, path in row.items() if path is None
        ]
        used = {path for row in scans.values() for path in row.values()}
        mask_paths: dict[str, Path | None] = {}
        if masks is not None:
            mask_root = check_folder(masks, "masks")
            found_masks, others = _find_volumes(mask_root, "masks", follow_links)
            for name in scans:
                without_channel = name.removesuffix(_FIRST_CHANNEL)
                mask_paths[name] = found_masks.get(name + mask_ending) or found_masks.get(
                    without_channel + mask_ending
                )
            own = [str(path) for path in mask_paths.values() if path is not None and path in used]
            raise_if_any("`masks` must be other files than the scans; `mask_ending` tells them apart", own)
            if mask_root == root:
                found_masks = {
                    name: path
                    for name, path in found_masks.items()
                    if mask_ending and name.endswith(mask_ending)
                }
            elif others:
                left_out.append(f"{others} in {mask_root}")
            paired = set(mask_paths.values())
            if spare := [name for name, path in found_masks.items() if path not in paired]:
                left_out.append(f"{len(spare)} masks of no scan ({shorten_list(spare)})")
            if unlabeled is None:
                missing += [
                    f"{name}{mask_ending} (mask)" for name, path in mask_paths.items() if path is None
                ]
        kept = [
            name
            for name, row in scans.items()
            if None not in row.values() and (masks is None or mask_paths[name] is not None)
        ]
        if not skip_missing or not kept:
            raise_if_any(f"`images` and `masks` must hold all files of each scan ({root})", missing)
        if not kept:
            raise ValueError(f"`masks` must hold the mask of a scan. Received {masks} without one.")
        if missing:
            warnings.warn(
                f"{len(scans) - len(kept)} of {len(scans)} scans left out as files are missing: "
                f"{shorten_list(missing)}.",
                stacklevel=2,
            )
        used.update(mask_paths.values())
        if unnamed := [name for name, path in found.items() if path not in used]:
            left_out.append(
                f"{len(unnamed)} files that end in none of the modalities ({shorten_list(unnamed)})"
            )
        if left_out:
            warnings.warn(f"Left out: {'; '.join(left_out)}.", stacklevel=2)
        rows = [_row_of(scans[name], modalities) for name in kept]
        others_without: list[str | list[str]] = (
            []
            if unlabeled is None or masks is None
            else [
                _row_of(row, modalities)
                for name, row in scans.items()
                if None not in row.values() and mask_paths[name] is None
            ]
        )
        if others_without:
            warnings.warn(
                f"{len(others_without)} of {len(scans)} scans have no mask; they are kept as `unlabeled`, "
                "for pretraining.",
                stacklevel=2,
            )
        if unlabeled is not None and check_folder(unlabeled) != root:
            further = VolumeTable.from_folder(unlabeled, None, modalities, follow_links=follow_links)
            others_without += [
                row
                for row, files in zip(further.paths.tolist(), further.files, strict=True)
                if used.isdisjoint(map(Path, files))
            ]
        without = VolumeTable(np.array(others_without)) if others_without else None
        mask_files = None if masks is None else np.array([str(mask_paths[name]) for name in kept])
        return VolumeTable(np.array(rows), mask_files, unlabeled=without)


def _row_of(files: dict[str, Path | None], modalities: Sequence[str] | None) -> str | list[str]:
    """Return the files of a scan, or its only file."""
    paths = [str(path) for path in files.values()]
    return paths if modalities else paths[0]


def _find_volumes(root: Path, argument: str, follow_links: bool) -> tuple[dict[str, Path], str]:
    """Find the volumes below a folder by their paths without suffix; describe the files left out."""
    found: dict[str, Path] = {}
    names: Counter[str] = Counter()
    links, broken = [], []
    others: dict[str, list[str]] = {}
    dicom_folders: set[str] = set()
    files, linked_folders = walk_folder(root, follow_links)
    for path in sorted([*files, *linked_folders]):
        suffix = volume_suffix(path)
        inner = path.relative_to(root).as_posix()
        if path.is_symlink():
            if suffix or path.is_dir():
                links.append(path)
            if not path.exists() and not DOCUMENT_NAMES.fullmatch(path.name):
                broken.append(str(path))
        if not path.is_file():
            continue
        if suffix:
            name = normalize_name(inner[: -len(suffix)])
            names[name] += 1
            found[name] = path
        elif DOCUMENT_NAMES.fullmatch(path.name):
            continue
        elif is_dicom_file(path):
            dicom_folders.add(path.parent.relative_to(root).as_posix())
        else:
            others.setdefault(path.suffix.lower() or "no suffix", []).append(inner)
    raise_if_any(f"`{argument}` must hold files. Links lead to files that do not exist", broken)
    if not follow_links:
        check_links(links, root, argument)
    doubled = [name for name, count in names.items() if count > 1]
    raise_if_any(f"`{argument}` must hold each volume once ({root})", doubled)
    left_out = []
    if others:
        counts = [
            f"{len(paths)} {suffix} ({shorten_list(paths)})" for suffix, paths in sorted(others.items())
        ]
        left_out.append(f"files of other formats, {', '.join(counts)}, which can be converted to NIfTI")
    if dicom_folders:
        left_out.append(
            f"DICOM slices in {len(dicom_folders)} folders ({shorten_list(sorted(dicom_folders))}), which "
            "VolumeTable([...]) takes"
        )
    return dict(sorted(found.items())), " and ".join(left_out)


def _group_modalities(
    found: dict[str, Path], modalities: Sequence[str] | None
) -> dict[str, dict[str, Path | None]]:
    """Return the files of each scan by their endings, `None` where one is missing."""
    if modalities is None:
        return {name: {"": path} for name, path in found.items()}
    scans: dict[str, dict[str, Path | None]] = {}
    for name, path in found.items():
        # The longest first, since one ending may be the end of another.
        for ending in sorted(modalities, key=len, reverse=True):
            if name.endswith(ending):
                row = scans.setdefault(name.removesuffix(ending), dict.fromkeys(modalities))
                row[ending] = path
                break
    return scans


# Problems of the files of a row: the column of each, -1 for the mask, and the reason. Without the path: a
# cached reason outlives the name of the file.
Problems = list[tuple[int, str]]


class InvalidFilesError(ValueError):
    """Files of one row that cannot be used, with the reasons."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(problems)
        self.problems = problems


def raise_invalid_files(files: np.ndarray, masks: np.ndarray | None, failures: dict[int, Problems]) -> None:
    """Raise an error that names the files that cannot be used, if there are any.

    Args:
        files: paths, `(n, modalities)`.
        masks: paths, `(n,)`, or `None`.
        failures: the problems of each row that has some.
    """
    named = [
        f"{files[row, column] if column >= 0 or masks is None else masks[row]} ({reason})"
        for row, problems in sorted(failures.items())
        for column, reason in problems
    ]
    if named:
        raise ValueError(
            f"`table` must name volumes that are whole and fit together. In {len(failures)} of {len(files)} "
            f"rows they do not: {shorten_list(named, '; ')}."
        )


class VolumeRow(NamedTuple):
    """One row: voxels `(x, y, z, modalities)` and, where there is a mask, labels `(x, y, z)`."""

    image: Volume
    mask: Volume | None


def read_row(
    files: Sequence[str],
    mask: str | None = None,
    num_classes: int | None = None,
    label_values: Sequence[int] | None = None,
) -> VolumeRow:
    """Read the modalities of one scan and its mask.

    `.npy` holds no affine, so such a file takes that of the others, voxel by voxel. `num_classes` and
    `label_values` as in `label_map`.

    Raises:
        InvalidFilesError: files cannot be read, have another shape or affine than the first that can be,
            or labels are not whole or out of range. All of them are named.
        OSError: the system cannot read a file, or it is gone.
    """
    problems: Problems = []
    read: dict[int, Volume] = {}
    paths = dict(enumerate(files)) | ({} if mask is None else {-1: mask})
    for column, path in paths.items():
        try:
            read[column] = read_volume(path)
        except ValueError as error:
            raise_system_error(error.__cause__)
            problems.append((column, message_without_path(error, path)))
    placed = [column for column in read if volume_suffix(paths[column]) != ".npy"]
    first = next(iter(read), None)
    affine = read[placed[0]].affine if placed else np.eye(4)
    for column, volume in read.items():
        assert first is not None
        if volume.voxels.shape != (shape := read[first].voxels.shape):
            problems.append(
                (column, f"its shape is {volume.voxels.shape}, and that of {_column_name(first)} {shape}")
            )
        elif column in placed and not affines_match(affine, volume.affine, shape):
            own, other = _rounded(volume.affine), _rounded(affine)
            problems.append((column, f"its affine is {own}, and that of {_column_name(placed[0])} {other}"))
    if -1 in read:
        try:
            read[-1] = Volume(label_map(read[-1].voxels, num_classes, label_values), affine)
        except ValueError as error:
            problems.append((-1, str(error)))
    if problems:
        raise InvalidFilesError(problems)
    voxels = np.stack([read[column].voxels for column in range(len(files))], axis=-1)
    return VolumeRow(Volume(voxels, affine), read.get(-1))


def read_row_grid(files: Sequence[str], mask: str | None = None) -> VolumeGrid:
    """Read the grid that `read_row` will find from the headers alone.

    Raises:
        ValueError: a header cannot be read.
    """
    paths = [*files, *(() if mask is None else (mask,))]
    placed = [path for path in paths if volume_suffix(path) != ".npy"]
    return VolumeGrid(read_grid(files[0]).shape, read_grid(placed[0]).affine if placed else np.eye(4))


def _column_name(column: int) -> str:
    return "the mask" if column == -1 else "the image" if column == 0 else f"modality {column}"


def _rounded(affine: np.ndarray) -> list[list[float]]:
    return np.round(affine[:3], 3).tolist()


class RowStatistics(NamedTuple):
    """Statistics of one scan and its mask.

    Args:
        constant: whether each modality has one value everywhere, `(modalities,)`.
        label_counts: voxels of each class of a mask as it is read, at the new spacing, and after cropping and
            padding, int64 `(3, 256)`; `None` without a mask.
    """

    constant: np.ndarray
    label_counts: np.ndarray | None = None


def statistics_parts(modalities: int, masks: bool) -> Parts:
    """Describe the arrays that hold the statistics of all rows in a cache entry."""
    parts: Parts = {"constant": ((modalities,), np.bool_)}
    return parts | {"labels": ((3, MAX_CLASSES), np.int64)} if masks else parts


def store_statistics(arrays: Arrays, row: int, statistics: RowStatistics) -> None:
    """Fill a row of the arrays of `statistics_parts`."""
    arrays["constant"][row] = statistics.constant
    if statistics.label_counts is not None:
        arrays["labels"][row] = statistics.label_counts


def load_statistics(arrays: Arrays) -> list[RowStatistics]:
    """Return the statistics of all rows that `store_statistics` stored."""
    constant, labels = arrays["constant"], arrays.get("labels")
    return [RowStatistics(one, None if labels is None else labels[row]) for row, one in enumerate(constant)]


def prepare_row(
    row: VolumeRow, preparation: VolumePreparation
) -> tuple[np.ndarray, np.ndarray | None, RowStatistics]:
    """Return the prepared image and mask of a row, and its statistics."""
    image = preparation.image(row.image)
    constant = is_constant(row.image.voxels) | is_constant(image)
    if row.mask is None:
        return image, None, RowStatistics(constant)
    respaced = preparation.respace_mask(row.mask)
    mask = preparation.fit_mask(respaced)
    counts = np.stack([count_labels(labels) for labels in (row.mask.voxels, respaced, mask)])
    return image, mask, RowStatistics(constant, counts)


def count_labels(mask: np.ndarray) -> np.ndarray:
    """Count the voxels of each class of a uint8 mask, int64 `(256,)`.

    >>> count_labels(np.array([[[0, 2], [2, 2]]], "uint8"))[:3].tolist()
    [1, 0, 3]
    """
    # In parts, since NumPy converts what it counts to 8 bytes each.
    parts = np.array_split(mask.ravel(order="K"), 1 + mask.size // (1 << 20))
    return sum((np.bincount(part, minlength=MAX_CLASSES) for part in parts), np.zeros(MAX_CLASSES, np.int64))


def is_constant(voxels: np.ndarray) -> np.ndarray:
    """Return which channels of `(x, y, z, channels)` are constant, `(channels,)`."""
    axes = tuple(range(voxels.ndim - 1))
    return voxels.min(axis=axes) == voxels.max(axis=axes)


def check_empty_masks(empty_masks: str) -> None:
    """Raise an error unless `empty_masks` is one of its choices."""
    if empty_masks not in ("warn", "refuse", "allow"):
        raise ValueError(f'`empty_masks` must be "warn", "refuse" or "allow". Received {empty_masks!r}.')


def check_max_foreground_loss(max_foreground_loss: float) -> None:
    """Raise an error unless `max_foreground_loss` is a fraction."""
    if not 0 <= max_foreground_loss <= 1:
        raise ValueError(f"`max_foreground_loss` must lie in 0..1. Received {max_foreground_loss!r}.")


def warn_about_table(
    table: VolumeTable,
    statistics: Sequence[RowStatistics],
    *,
    empty_masks: str,
    num_classes: int | None,
    max_foreground_loss: float = 1.0,
) -> None:
    """Warn about, or raise an error for, what the statistics of all rows show.

    Raises:
        ValueError: all volumes are constant; labels are not 0..K-1 without gaps; a mask loses more than
            `max_foreground_loss` of a class; with `empty_masks="refuse"`, masks have no foreground.
    """
    _check_constant(table, np.array([row.constant for row in statistics]))
    if table.masks is None:
        return
    counts = np.array([row.label_counts for row in statistics])
    _check_label_gaps(table.masks, counts[:, 0], num_classes)
    _check_foreground_loss(table.masks, counts[:, 1, 1:], counts[:, 2, 1:], max_foreground_loss)
    _check_foreground(table.masks, counts[:, 2, 1:].sum(axis=1) == 0, empty_masks)


def _check_constant(table: VolumeTable, constant: np.ndarray) -> None:
    if not constant.any():
        return
    named = f"{constant.sum()} of {constant.size} files: {shorten_list(table.files[constant].tolist())}."
    if constant.all():
        raise ValueError(f"`table` must name volumes of more than one value. All have a single one, {named}")
    warnings.warn(f"Volumes of one value everywhere, which teach nothing, in {named}", stacklevel=4)


def _check_label_gaps(masks: np.ndarray, counts: np.ndarray, num_classes: int | None) -> None:
    """Raise where labels have gaps; with `num_classes` warn about classes that never occur."""
    found = np.flatnonzero(counts.any(axis=0))
    if num_classes is not None:
        absent = np.setdiff1d(np.arange(num_classes), found)
        if len(absent):
            warnings.warn(
                f"{len(absent)} of {num_classes} classes occur in none of the {len(masks)} masks: "
                f"{shorten_values(absent)}.",
                stacklevel=4,
            )
        return
    if len(found) == found[-1] + 1:
        return
    named = [
        f"{value:g} in {np.count_nonzero(counts[:, value])} masks ({masks[counts[:, value].argmax()]})"
        for value in found[found > 0]
    ]
    values = ", ".join(map(str, found))
    mapping = f"label_values=({values}) to map them to 0..{len(found) - 1}, or " if len(found) > 1 else ""
    raise ValueError(
        "`table` must name masks whose labels are 0, 1 and so on without gaps, as each is a class. Those "
        f"found are {shorten_values(found)}: {shorten_list(named)}. Pass {mapping}"
        f"num_classes={found[-1] + 1} if the others are classes that occur nowhere."
    )


def _check_foreground_loss(
    masks: np.ndarray, before: np.ndarray, after: np.ndarray, max_foreground_loss: float
) -> None:
    """Warn about masks that lose foreground to the shape; raise where a class loses too much."""
    lost = 1 - after / np.maximum(before, 1)
    lost[before == 0] = 0
    # Of the class that loses most: a small lesion beside a large organ counts too.
    worst = lost.max(axis=1)
    rows = np.flatnonzero(worst)
    if not len(rows):
        return

    def describe(rows: np.ndarray) -> str:
        ordered = rows[np.argsort(-worst[rows], kind="stable")]
        return shorten_list([f"{masks[row]} ({_describe_loss(before[row], after[row])})" for row in ordered])

    beyond = rows[worst[rows] > max_foreground_loss]
    if len(beyond):
        raise ValueError(
            f"`preparation` must not cut off more than {100 * max_foreground_loss:g} % of a class. Its shape "
            f"does in {len(beyond)} of {len(masks)} masks: {describe(beyond)}. Pass max_foreground_loss to "
            "allow more, a larger shape, or None as shape and train on patches."
        )
    warnings.warn(
        f"The shape cuts off foreground in {len(rows)} of {len(masks)} masks: {describe(rows)}.", stacklevel=4
    )


def _describe_loss(before: np.ndarray, after: np.ndarray) -> str:
    """Describe the loss of the foreground and of the class that loses most."""
    lost = (before - after) / np.maximum(before, 1)
    worst = int(lost.argmax())
    total = before.sum() - after.sum()
    return f"{total} of {before.sum()} voxels, {100 * lost[worst]:.3g} % of class {worst + 1}"


def _check_foreground(masks: np.ndarray, empty: np.ndarray, empty_masks: str) -> None:
    if not empty.any() or empty_masks == "allow":
        return
    message = (
        f"{empty.sum()} of {len(masks)} masks have no foreground: {shorten_list(masks[empty].tolist())}."
    )
    if empty_masks == "refuse":
        raise ValueError(f"`table` must name masks with foreground. {message}")
    warnings.warn(message, stacklevel=4)

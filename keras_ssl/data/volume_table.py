"""Tables of volume files with masks, labels and patients."""

import dataclasses
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_ssl.data.dicom import DOCUMENT_NAMES, is_dicom_file
from keras_ssl.data.files import (
    check_files_exist,
    map_in_order,
    message_without_path,
    raise_if_any,
    raise_system_error,
    shorten_list,
)
from keras_ssl.data.groups import hash_files, merge_groups
from keras_ssl.data.image_table import check_folder, check_links, warn_about_grade_conflicts
from keras_ssl.data.volume_checks import (
    RowStatistics,
    Volume,
    VolumeGrid,
    affines_match,
    check_label_values,
    count_labels,
    is_constant,
    label_map,
    warn_about_table,
)
from keras_ssl.data.volume_io import VOLUME_SUFFIXES, read_grid, read_volume, volume_suffix
from keras_ssl.data.volume_preparation import VolumePreparation

# What is wrong with the files of a row: the column of each, -1 for the mask, and the reason. Without the
# path: a cached reason outlives the name of the file.
Problems = list[tuple[int, str]]


class InvalidFilesError(ValueError):
    """Files of one row that cannot be used, and why."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(problems)
        self.problems = problems


class VolumeRow(NamedTuple):
    """What a row holds: voxels `(x, y, z, modalities)` and, where there is a mask, labels `(x, y, z)`."""

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
        OSError: the system does not let a file be read, or it is gone.
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
                (column, f"its shape is {volume.voxels.shape}, and that of {_name(first)} {shape}")
            )
        elif column in placed and not affines_match(affine, volume.affine, shape):
            own, other = _rounded(volume.affine), _rounded(affine)
            problems.append((column, f"its affine is {own}, and that of {_name(placed[0])} {other}"))
    if -1 in read:
        try:
            read[-1] = Volume(label_map(read[-1].voxels, num_classes, label_values), affine)
        except ValueError as error:
            problems.append((-1, str(error)))
    if problems:
        raise InvalidFilesError(problems)
    voxels = np.stack([read[column].voxels for column in range(len(files))], axis=-1)
    return VolumeRow(Volume(voxels, affine), read.get(-1))


def prepare_row(
    row: VolumeRow, preparation: VolumePreparation
) -> tuple[np.ndarray, np.ndarray | None, RowStatistics]:
    """The prepared image and mask of a row, and its facts."""
    image = preparation.image(row.image)
    constant = is_constant(row.image.voxels) | is_constant(image)
    if row.mask is None:
        return image, None, RowStatistics(constant)
    respaced = preparation.respace_mask(row.mask)
    mask = preparation.fit_mask(respaced)
    return (
        image,
        mask,
        RowStatistics(constant, np.stack(list(map(count_labels, (row.mask.voxels, respaced, mask))))),
    )


def read_row_grid(files: Sequence[str], mask: str | None = None) -> VolumeGrid:
    """The grid that `read_row` will find, from the headers alone.

    Raises:
        ValueError: a header cannot be read.
    """
    paths = [*files, *(() if mask is None else (mask,))]
    placed = [path for path in paths if volume_suffix(path) != ".npy"]
    return VolumeGrid(read_grid(files[0]).shape, read_grid(placed[0]).affine if placed else np.eye(4))


def raise_invalid_files(files: np.ndarray, masks: np.ndarray | None, failures: dict[int, Problems]) -> None:
    """Raise, naming the first twenty files that cannot be used, if there are any.

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


def _name(column: int) -> str:
    return "the mask" if column == -1 else "the image" if column == 0 else f"modality {column}"


def _rounded(affine: np.ndarray) -> list[list[float]]:
    return np.round(affine[:3], 3).tolist()


_NNUNET = "_0000"


@dataclasses.dataclass(frozen=True, eq=False)
class VolumeTable:
    """Files of volumes with, where known, their masks, grades and groups, one row each.

    Args:
        paths: the files, shape `(n,)`; `(n, modalities)` where a scan is several files that become its
            channels, in this order.
        masks: files of label volumes, shape `(n,)`; `None` where there are none.
        grades: int64, shape `(n,)`; `None` where there are none.
        groups: what must not be torn apart by a split, such as a patient's id, shape `(n,)`; `None`
            where each scan stands alone.

    Raises:
        ValueError: the columns are empty or of unequal length, or scans have different numbers of files.

    >>> table = VolumeTable([["a_t1.nii", "a_t2.nii"], ["b_t1.nii", "b_t2.nii"]], masks=["a.nii", "b.nii"])
    >>> len(table), table.select([1]).paths.tolist()
    (2, [['b_t1.nii', 'b_t2.nii']])
    """

    paths: np.ndarray
    masks: np.ndarray | None = None
    grades: np.ndarray | None = None
    groups: np.ndarray | None = None

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
        for name in ("masks", "grades", "groups"):
            if (column := getattr(self, name)) is not None:
                column = np.array(list(map(str, column))) if name == "masks" else np.asarray(column)
                object.__setattr__(self, name, column)
                if column.shape != (len(paths),):
                    raise ValueError(f"`{name}` must have shape {(len(paths),)}. Received {column.shape}.")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> np.ndarray:
        """The paths with an axis of modalities, `(n, modalities)`."""
        return self.paths.reshape(len(self), -1)

    def select(self, rows: Sequence[int] | np.ndarray) -> "VolumeTable":
        """The table of these rows, in this order."""
        kept = np.asarray(rows)
        columns = (
            None if column is None else column[kept] for column in (self.masks, self.grades, self.groups)
        )
        return VolumeTable(self.paths[kept], *columns)

    def group_duplicates(self) -> "VolumeTable":
        """The same table, its groups joined wherever they share a modality's file of the very same bytes.

        Reads every file once. Warns, and names the files, where copies carry different grades. One volume
        that was compressed twice may have other bytes: such copies are not found.
        """
        copies = merge_groups(*map(hash_files, self.files.T))
        if self.grades is not None:
            warn_about_grade_conflicts(self.files[:, 0], self.grades, copies)
        own = () if self.groups is None else (self.groups,)
        return dataclasses.replace(self, groups=merge_groups(copies, *own))

    def check(
        self,
        num_classes: int | None = None,
        empty_masks: str = "warn",
        *,
        label_values: Sequence[int] | None = None,
        workers: int | None = None,
        verbose: int = 1,
    ) -> None:
        """Read every file, and name all that cannot be trained on at once.

        Warns of volumes that have one value everywhere, and with `num_classes` or `label_values` of classes
        that occur in no mask.

        Args:
            num_classes: labels must lie in 0..`num_classes` - 1. Where `None`, those of all masks together
                must be 0..K - 1 without gaps.
            empty_masks: what is done about masks without any foreground: `"warn"`, `"refuse"` or
                `"allow"`.
            label_values: the values in the masks that stand for classes 0, 1 and so on, such as `(0, 255)` or
                `(0, 1, 2, 4)` of BraTS; `None` where they are numbers of classes.
            workers: threads; as many as there are processors where `None`.
            verbose: 1 shows a progress bar, 0 does not.

        Raises:
            FileNotFoundError: files do not exist.
            ValueError: files are truncated or damaged, hold NaN or infinity, have a fourth axis, an image,
                its mask and its modalities differ in shape or affine, or labels are not whole, out of
                range, with gaps or none of `label_values`; with `"refuse"`, masks are empty; all volumes have
                one value everywhere. Up to 20 files are named, each with its reason, and how many there are.
        """
        check_empty_masks(empty_masks)
        check_label_values(label_values, num_classes)
        check_files_exist([*self.files.ravel(), *(() if self.masks is None else self.masks)])

        def load_statistics(row: int) -> RowStatistics | Problems:
            try:
                image, mask = read_row(self.files[row], self.mask_of(row), num_classes, label_values)
            except InvalidFilesError as error:
                return error.problems
            counts = None if mask is None else np.stack([count_labels(mask.voxels)] * 3)
            return RowStatistics(is_constant(image.voxels), counts)

        progress = keras.utils.Progbar(len(self), verbose=verbose, unit_name="volume")
        failures, facts, empty = {}, [], []
        executor = ThreadPoolExecutor(workers or os.cpu_count())
        try:
            for row, found in enumerate(map_in_order(executor, load_statistics, range(len(self)))):
                if isinstance(found, RowStatistics):
                    facts.append(found)
                    if found.labels is not None and not found.labels[0, 1:].any():
                        empty.append(row)
                else:
                    failures[row] = found
                progress.update(row + 1)
        finally:
            # Without it an interrupted check would first read all that is still waiting.
            executor.shutdown(cancel_futures=True)
        if empty_masks == "refuse":
            failures |= {row: [(-1, "it has no foreground")] for row in empty}
        raise_invalid_files(self.files, self.masks, failures)
        known = num_classes if label_values is None else len(label_values)
        warn_about_table(self, facts, empty_masks=empty_masks, num_classes=known)

    def mask_of(self, row: int) -> str | None:
        """The file of a row's mask, if there are masks."""
        return None if self.masks is None else str(self.masks[row])

    @staticmethod
    def from_folder(
        images: str | Path,
        masks: str | Path | None = None,
        modalities: Sequence[str] | None = None,
        *,
        mask_ending: str = "",
        skip_missing: bool = False,
        follow_links: bool = False,
    ) -> "VolumeTable":
        """All `.nii`, `.nii.gz` and `.npy` files in a folder and the folders within it, sorted.

        A scan and its mask are paired by their names without suffix, and by the folders in which they lie:
        `images/a/1.nii.gz` and `masks/a/1.nii`. An image's `_0000`, the channel of nnU-Net, may be missing
        from the mask's name. With `modalities` the files of a scan share a name and differ in these
        endings: `("_0000", "_0001")` of nnU-Net, `("_t1", "_t1ce", "_t2", "_flair")` of BraTS. Where masks
        lie beside the images, name their ending, as in `VolumeTable.from_folder(data, data, modalities,
        mask_ending="_seg")`. Names are compared whatever the form of their accents (Unicode NFC or NFD).

        What is left out is warned of, with counts and names: files of other formats (`.mha`, `.nrrd`, `.mgz`,
        `.img` and so on), folders of DICOM slices, which `VolumeTable` takes by name, files that end in none
        of `modalities`, and masks of no scan. Hidden files and documents are ignored.

        Args:
            images: folder of the volumes.
            masks: folder of the label volumes, which may be `images`; `None` for none.
            modalities: the endings of the files of one scan; `None` where each file is a scan.
            mask_ending: what a mask's name has more than its scan's.
            skip_missing: leave out scans without a mask or a modality, with a warning that names them.
            follow_links: whether files and folders may be symbolic links that lead out of the folder, as DVC,
                git-annex and hand-made splits have them.

        Returns:
            One row per scan; `paths` has shape `(n, modalities)` with `modalities`, else `(n,)`.

        Raises:
            ValueError: a folder is none, holds no volumes, links to nothing or, without `follow_links`, links
                that lead out of it, names mean two files, a scan would be its own mask, or masks or
                modalities are missing; with `skip_missing`, all are. The message names up to 20 and how many
                there are.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for file in ("a_t1.npy", "a_t2.npy", "a_seg.npy"):
        ...         np.save(f"{name}/{file}", np.zeros((4, 4, 4), "uint8"))
        ...     table = VolumeTable.from_folder(name, name, ["_t1", "_t2"], mask_ending="_seg")
        >>> table.paths.shape, Path(table.masks[0]).name
        ((1, 2), 'a_seg.npy')
        """
        root = check_folder(images)
        mask_ending = _composed(mask_ending)
        if isinstance(modalities, str) or (modalities is not None and not len(modalities)):
            raise ValueError(f"`modalities` must be a list of endings, or None. Received {modalities!r}.")
        if modalities is not None:
            modalities = [_composed(ending) for ending in modalities]
        found, left_out = _by_name(root, "images", follow_links)
        if mask_ending:
            found = {name: path for name, path in found.items() if not name.endswith(mask_ending)}
        scans = _scans(found, modalities)
        if not scans:
            beside = f" There are {left_out}." if left_out else ""
            raise ValueError(
                f"`images` must hold {', '.join(VOLUME_SUFFIXES)} files{' of ' if modalities else ''}"
                f"{', '.join(modalities or ())}. Received {root}.{beside}"
            )
        told = [f"{left_out} in {root}"] if left_out else []
        missing = [
            f"{name}{ending}" for name, row in scans.items() for ending, path in row.items() if path is None
        ]
        labels: dict[str, Path | None] = {}
        if masks is not None:
            mask_root = check_folder(masks, "masks")
            there, left_out = _by_name(mask_root, "masks", follow_links)
            labels = {name: _mask_named(name, mask_ending, there) for name in scans}
            of_scans = {path for row in scans.values() for path in row.values()}
            own = [str(path) for path in labels.values() if path is not None and path in of_scans]
            raise_if_any("`masks` must be other files than the scans; `mask_ending` tells them apart", own)
            used = set(labels.values())
            if mask_root == root:
                there = {
                    name: path for name, path in there.items() if mask_ending and name.endswith(mask_ending)
                }
            elif left_out:
                told.append(f"{left_out} in {mask_root}")
            if spare := [name for name, path in there.items() if path not in used]:
                told.append(f"{len(spare)} masks of no scan ({shorten_list(spare)})")
            missing += [f"{name}{mask_ending} (mask)" for name, path in labels.items() if path is None]
        kept = [
            name
            for name, row in scans.items()
            if None not in row.values() and (masks is None or labels[name] is not None)
        ]
        if not skip_missing or not kept:
            raise_if_any(f"`images` and `masks` must hold all files of each scan ({root})", missing)
        elif missing:
            warnings.warn(
                f"{len(scans) - len(kept)} of {len(scans)} scans left out as files are missing: "
                f"{shorten_list(missing)}.",
                stacklevel=2,
            )
        of_scans = {path for row in scans.values() for path in row.values()} | set(labels.values())
        if unnamed := [name for name, path in found.items() if path not in of_scans]:
            told.append(f"{len(unnamed)} files that end in none of the modalities ({shorten_list(unnamed)})")
        if told:
            warnings.warn(f"Left out: {'; '.join(told)}.", stacklevel=2)
        rows = [[str(path) for path in scans[name].values()] for name in kept]
        paths = np.array(rows if modalities else [row[0] for row in rows])
        return VolumeTable(paths, None if masks is None else np.array([str(labels[name]) for name in kept]))


def check_empty_masks(empty_masks: str) -> None:
    """Refuse what says nothing about empty masks."""
    if empty_masks not in ("warn", "refuse", "allow"):
        raise ValueError(f'`empty_masks` must be "warn", "refuse" or "allow". Received {empty_masks!r}.')


def _by_name(root: Path, argument: str, follow_links: bool) -> tuple[dict[str, Path], str]:
    """Volumes in a folder and those within it, by their path from there without suffix, sorted; and what
    else there is that may be a volume.
    """
    found: dict[str, Path] = {}
    names: Counter[str] = Counter()
    links, broken = [], []
    others: dict[str, list[str]] = {}
    slices: set[str] = set()
    for path in _below(root, follow_links):
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
            name = _composed(inner[: -len(suffix)])
            names[name] += 1
            found[name] = path
        elif DOCUMENT_NAMES.fullmatch(path.name):
            continue
        elif is_dicom_file(path):
            slices.add(path.parent.relative_to(root).as_posix())
        else:
            others.setdefault(path.suffix.lower() or "no suffix", []).append(inner)
    raise_if_any(f"`{argument}` must hold files. Links lead to files that are not there", broken)
    if not follow_links:
        check_links(links, root, argument, "; `follow_links=True` allows links to lead out of it")
    raise_if_any(
        f"`{argument}` must hold each volume once ({root})", [name for name, k in names.items() if k > 1]
    )
    said = [f"{len(paths)} {suffix} ({shorten_list(paths)})" for suffix, paths in sorted(others.items())]
    left_out = [f"files of other formats, {', '.join(said)}, which can be converted to NIfTI"] if said else []
    if slices:
        folders = shorten_list(sorted(slices))
        left_out.append(f"DICOM slices in {len(slices)} folders ({folders}), which VolumeTable([...]) takes")
    return dict(sorted(found.items())), " and ".join(left_out)


def _below(root: Path, follow_links: bool) -> Iterator[Path]:
    """Files in a folder and those within it, and links, but for those whose names begin with a dot.

    Such names are what macOS and editors leave beside each file.
    """
    seen: set[str] = set()
    for folder, inner, files in os.walk(root, followlinks=follow_links):
        real = os.path.realpath(folder)
        # A link may lead back to a folder above it.
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            linked = [] if follow_links else [name for name in inner if os.path.islink(Path(folder, name))]
            yield from (Path(folder, name) for name in sorted([*files, *linked]) if not name.startswith("."))


def _composed(name: str) -> str:
    """A name with each accent in the letter that bears it: file systems and programs write it either way."""
    return unicodedata.normalize("NFC", name)


def _scans(found: dict[str, Path], modalities: Sequence[str] | None) -> dict[str, dict[str, Path | None]]:
    """The files of each scan by their endings, `None` where one is missing."""
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


def _mask_named(name: str, ending: str, there: dict[str, Path]) -> Path | None:
    return there.get(name + ending) or there.get(name.removesuffix(_NNUNET) + ending)

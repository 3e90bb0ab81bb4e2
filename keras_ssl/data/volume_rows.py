"""The files of one row of a table of volumes, read together: they must be whole and lie on one grid."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_ssl.data.listing import listed, reason_without_path, refuse_system_error
from keras_ssl.data.volume_checks import Volume, check_labels, same_place
from keras_ssl.data.volume_facts import RowFacts, count_labels, is_constant
from keras_ssl.data.volume_grids import VolumeGrid
from keras_ssl.data.volume_preparation import VolumePreparation
from keras_ssl.data.volumes import read_grid, read_volume, volume_suffix

# What is wrong with the files of a row: the column of each, -1 for the mask, and the reason. Without the
# path: a cached reason outlives the name of the file.
Problems = list[tuple[int, str]]


class UnfitFilesError(ValueError):
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
    `label_values` as in `check_labels`.

    Raises:
        UnfitFilesError: files cannot be read, have another shape or affine than the first that can be,
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
            refuse_system_error(error.__cause__)
            problems.append((column, reason_without_path(error, path)))
    placed = [column for column in read if volume_suffix(paths[column]) != ".npy"]
    first = next(iter(read), None)
    affine = read[placed[0]].affine if placed else np.eye(4)
    for column, volume in read.items():
        assert first is not None
        if volume.voxels.shape != (shape := read[first].voxels.shape):
            problems.append(
                (column, f"its shape is {volume.voxels.shape}, and that of {_name(first)} {shape}")
            )
        elif column in placed and not same_place(affine, volume.affine, shape):
            own, other = _rounded(volume.affine), _rounded(affine)
            problems.append((column, f"its affine is {own}, and that of {_name(placed[0])} {other}"))
    if -1 in read:
        try:
            read[-1] = Volume(check_labels(read[-1].voxels, num_classes, label_values), affine)
        except ValueError as error:
            problems.append((-1, str(error)))
    if problems:
        raise UnfitFilesError(problems)
    voxels = np.stack([read[column].voxels for column in range(len(files))], axis=-1)
    return VolumeRow(Volume(voxels, affine), read.get(-1))


def prepare_row(
    row: VolumeRow, preparation: VolumePreparation
) -> tuple[np.ndarray, np.ndarray | None, RowFacts]:
    """The prepared image and mask of a row, and its facts."""
    image = preparation.image(row.image)
    constant = is_constant(row.image.voxels) | is_constant(image)
    if row.mask is None:
        return image, None, RowFacts(constant)
    respaced = preparation.respace_mask(row.mask)
    mask = preparation.fit_mask(respaced)
    return (
        image,
        mask,
        RowFacts(constant, np.stack(list(map(count_labels, (row.mask.voxels, respaced, mask))))),
    )


def row_grid(files: Sequence[str], mask: str | None = None) -> VolumeGrid:
    """The grid that `read_row` will find, from the headers alone.

    Raises:
        ValueError: a header cannot be read.
    """
    paths = [*files, *(() if mask is None else (mask,))]
    placed = [path for path in paths if volume_suffix(path) != ".npy"]
    return VolumeGrid(read_grid(files[0]).shape, read_grid(placed[0]).affine if placed else np.eye(4))


def refuse_unfit(files: np.ndarray, masks: np.ndarray | None, failures: dict[int, Problems]) -> None:
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
            f"rows they do not: {listed(named, '; ')}."
        )


def _name(column: int) -> str:
    return "the mask" if column == -1 else "the image" if column == 0 else f"modality {column}"


def _rounded(affine: np.ndarray) -> list[list[float]]:
    return np.round(affine[:3], 3).tolist()

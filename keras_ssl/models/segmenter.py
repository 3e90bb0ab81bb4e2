"""Segmenter: a fine-tuned model with its volume preparation, from scan files to label volumes."""

import dataclasses
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_ssl._atomic import ready_folder
from keras_ssl._model_files import load_described, save_described
from keras_ssl._value_range import check_range
from keras_ssl.data import Volume, VolumePreparation, VolumeTable, write_volume
from keras_ssl.data.files import check_files_exist, message_without_path, shorten_list
from keras_ssl.data.volume import check_label_values, memory_error_naming
from keras_ssl.data.volume_io import volume_suffix
from keras_ssl.data.volume_table import InvalidFilesError, read_row
from keras_ssl.models.sliding_window import sliding_window_predict


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """Segments scans, prepared in the same way as the training volumes.

    Scans may have any size, orientation and spacing: they are prepared, predicted by sliding window if they
    are larger than the model's input, and the labels are resampled to the grid of the scan.

    Args:
        model: the functional model of a `FineTuner` with a `SegmentationHead`, for volumes.
        preparation: preparation of the training volumes.
        class_names: one name per class, the background first.
        overlap: overlap of windows, see `sliding_window_predict`.
        label_values: value of each class in files, as in `load_volumes`, such as (0, 255); `None` for 0, 1, 2
            and so on.

    Raises:
        ValueError: the arguments do not match, the model does not segment volumes, or it was trained on
            values of another range than those of `preparation` (see its `value_range`).

    >>> import keras_ssl, tempfile
    >>> encoder = keras_ssl.encoders.unet_encoder((8, 8, 8, 1), filters=(2, 4))
    >>> tuner = keras_ssl.FineTuner(encoder, keras_ssl.SegmentationHead(2), seed=0)
    >>> segmenter = keras_ssl.Segmenter(tuner.model, VolumePreparation(), ("background", "lesion"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_volume(folder + "/scan.nii.gz", np.ones((9, 10, 7)), np.diag([-1.0, 1.0, 2.0, 1.0]))
    ...     (written,) = segmenter.segment([folder + "/scan.nii.gz"], folder + "/labels", verbose=0)
    ...     keras_ssl.data.read_volume(written).voxels.shape
    (9, 10, 7)
    """

    model: keras.Model
    preparation: VolumePreparation
    class_names: Sequence[str]
    overlap: float = 0.5
    label_values: Sequence[int] | None = None

    def __post_init__(self) -> None:
        outputs, inputs = self.model.output_shape, self.model.input_shape
        if not isinstance(outputs, tuple) or len(outputs) != 5 or outputs[:-1] != inputs[:-1]:
            raise ValueError(
                "`model` must predict the classes of every voxel, (batch, x, y, z, classes). Received a "
                f"model from {inputs} to {outputs}."
            )
        if len(self.class_names) != outputs[-1]:
            raise ValueError(
                f"`class_names` must be {outputs[-1]} names, one per class of `model`. "
                f"Received {self.class_names}."
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(f"`overlap` must lie in [0, 1). Received {self.overlap}.")
        check_label_values(self.label_values, outputs[-1])
        check_range(self.model, self.preparation.value_range)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path` (`.keras`), and everything else to a JSON file beside it.

        The model is written without optimizer and contains core layers only: it loads on every backend, and
        without this library.
        """
        described = {
            "preparation": json.loads(self.preparation.to_json()),
            "class_names": list(self.class_names),
            "overlap": self.overlap,
            "label_values": None
            if self.label_values is None
            else [int(value) for value in self.label_values],
        }
        save_described(self.model, path, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Segmenter":
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: the model or the JSON beside it is missing.
            ValueError: they are damaged or do not match, the model's output differs from when it was saved,
                or they contain code, unknown classes, or more data than their size allows (malicious files,
                of which nothing is executed).
        """
        with load_described(path, "segmenter") as (model, described):
            preparation = VolumePreparation.from_json(json.dumps(described["preparation"]))
            values = described["label_values"]
            label_values = None if values is None else tuple(values)
            names = tuple(described["class_names"])
            return cls(model, preparation, names, described["overlap"], label_values)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Return the probability of each class in a prepared image, float32 `(*spatial, classes)`.

        Args:
            image: `(*spatial, channels)`, the result of `preparation.image`.
        """
        return sliding_window_predict(self.model, image, overlap=self.overlap)

    def segment(
        self,
        scans: Sequence[str | Path | Sequence[str | Path]],
        output_dir: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        verbose: int = 1,
    ) -> list[Path]:
        """Segment scans, and write each label volume as NIfTI on the grid of its scan.

        Each result is written immediately. Scans that cannot be read or segmented are skipped; an error at
        the end names them. Warns of constant scans.

        Args:
            scans: files, or for each scan the files of its modalities in the order of training.
            output_dir: folder of the results, created if missing. Each is named after the first file of its
                scan: `scan_pred.nii.gz` for `scan.nii`.
            overwrite: whether to replace files of the same names.
            verbose: 1 shows progress bars, 0 does not.

        Returns:
            The written files, in the order of `scans`: labels with the scan's shape and affine, as uint8 or
            the dtype that `label_values` needs.

        Raises:
            FileNotFoundError: files do not exist.
            FileExistsError: `output_dir` contains files of the results' names, which the error lists, and
                `overwrite` is false. Nothing is predicted.
            ValueError: scans do not have the modalities of the model, share a name, or would be overwritten;
                or, after all others are written, some could not be segmented.
            OSError: `output_dir` cannot be written; earlier results are kept.
        """
        table = VolumeTable(_rows(scans))
        modalities = self.model.input_shape[-1]
        if table.files.shape[1] != modalities:
            raise ValueError(
                f"`scans` must have {modalities} files each, one per modality of the model. "
                f"Received {table.files.shape[1]}."
            )
        targets = _targets(table.files, Path(output_dir))
        check_files_exist(table.files.ravel(), "scans")
        if not overwrite:
            _refuse_existing(targets)
        ready_folder(output_dir, "output_dir")
        progress = keras.utils.Progbar(len(table), verbose=verbose, unit_name="scan")
        failed, constant = {}, []
        for files, target in zip(table.files.tolist(), targets, strict=True):
            try:
                labels, is_constant = self._label(files)
            # Any error that a file or its size causes, for example out of memory on a device.
            except Exception as error:
                failed[files[0]] = error
                continue
            like = files[0] if volume_suffix(files[0]) in (".nii", ".nii.gz") else None
            try:
                write_volume(target, labels.voxels, labels.affine, like=like)
            # A header that cannot be copied; an OSError, such as a full disk, would affect all others too.
            except ValueError as error:
                failed[files[0]] = error
                continue
            if is_constant:
                constant.append(files[0])
            progress.add(1)
        if constant:
            warnings.warn(
                f"{len(constant)} of {len(table)} scans are constant: {shorten_list(constant)}.",
                stacklevel=2,
            )
        if failed:
            reasons = [f"{name} ({_reason(error, name)})" for name, error in failed.items()]
            raise ValueError(
                f"`scans` must be scans that can be segmented. {len(failed)} of {len(table)} could not be: "
                f"{shorten_list(reasons, '; ')}. The other {len(table) - len(failed)} are written to "
                f"{output_dir}."
            ) from next(iter(failed.values()))
        return targets

    def _label(self, files: Sequence[str]) -> tuple[Volume, bool]:
        """Return the labels of a scan on its own grid, and whether a modality is constant."""
        with memory_error_naming(files[0]):
            scan = read_row(files).image
            labels = self.preparation.restore(self.probabilities(self.preparation.image(scan)), scan)
        if self.label_values is not None:
            labels = Volume(np.asarray(self.label_values)[labels.voxels], labels.affine)
        extremes = (scan.voxels.min(axis=(0, 1, 2)), scan.voxels.max(axis=(0, 1, 2)))
        return labels, bool(np.equal(*extremes).any())


def _rows(scans: Sequence[str | Path | Sequence[str | Path]]) -> np.ndarray:
    """Return an array with the files of one scan per row."""
    if isinstance(scans, (str, Path)):
        raise ValueError(f"`scans` must be a list of scans. Received {scans}, a single one.")
    rows = [[scan] if isinstance(scan, (str, Path)) else list(scan) for scan in scans]
    counts = sorted({len(row) for row in rows})
    if len(counts) != 1:
        raise ValueError(
            f"`scans` must be at least one scan, with the same number of files each. Received {counts} files."
        )
    return np.array(rows, object)


def _targets(files: np.ndarray, output_dir: Path) -> list[Path]:
    """Return the output path of each scan, named after its first file."""
    firsts = files[:, 0]
    names = [Path(file).name[: -len(volume_suffix(file)) or None] for file in firsts]
    targets = [output_dir / f"{name}_pred.nii.gz" for name in names]
    # Some file systems are not case-sensitive.
    counts = Counter(name.casefold() for name in names)
    duplicates = sorted({name for name in names if counts[name.casefold()] > 1})
    if duplicates:
        raise ValueError(
            f"`scans` must have different names. Received {shorten_list(duplicates)} more than once."
        )
    sources = {Path(file).resolve() for file in files.ravel()}
    over = [str(target) for target in targets if target.resolve() in sources]
    if over:
        raise ValueError(
            f"`output_dir` must not contain the scans: {shorten_list(over)} would be overwritten."
        )
    return targets


def _refuse_existing(targets: list[Path]) -> None:
    there = [str(target) for target in targets if os.path.lexists(target)]
    if there:
        raise FileExistsError(
            f"`output_dir` must not contain files of the results' names. Found {len(there)}: "
            f"{shorten_list(there)}. Pass overwrite=True to replace them, or use another folder."
        )


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, InvalidFilesError):
        return "; ".join(reason for _, reason in error.problems)
    return f"{type(error).__name__}: {message_without_path(error, name)}"

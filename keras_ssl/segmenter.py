"""Segmenter: a fine-tuned model and the preparation of its volumes, from files to label volumes."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_ssl._files import ready_folder
from keras_ssl._saved import load_described, save_described
from keras_ssl._value_range import check_range
from keras_ssl.data import VolumePreparation, VolumeTable, write_volume
from keras_ssl.data.volume_rows import UnfitFilesError, read_row, refuse_unfit
from keras_ssl.data.volumes import volume_suffix
from keras_ssl.sliding_window import sliding_window_predict


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """Labels the voxels of new scans, prepared in just the way in which those of the training were.

    Scans may be of any size, orientation and spacing: they are prepared, predicted window by window where
    they are larger than what the model takes, and the labels are brought back onto the grid of the scan.

    Args:
        model: the functional model of a `FineTuner` with a `SegmentationHead`, for volumes.
        preparation: how volumes were prepared in training.
        class_names: one name per class, the background first.
        overlap: of windows, see `sliding_window_predict`.

    Raises:
        ValueError: the arguments do not fit one another, the model does not label volumes, or it was trained
            on values of another range than `preparation` gives (see its `value_range`).

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

    def __post_init__(self) -> None:
        outputs, inputs = self.model.output_shape, self.model.input_shape
        if not isinstance(outputs, tuple) or len(outputs) != 5 or outputs[:-1] != inputs[:-1]:
            raise ValueError(
                "`model` must give the classes of every voxel, (batch, x, y, z, classes). Received a model "
                f"from {inputs} to {outputs}."
            )
        if len(self.class_names) != outputs[-1]:
            raise ValueError(
                f"`class_names` must be {outputs[-1]} names, as `model` has classes. "
                f"Received {self.class_names}."
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(f"`overlap` must lie in [0, 1). Received {self.overlap}.")
        check_range(self.model, self.preparation.value_range)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path` (`.keras`), all else as JSON beside it.

        The model is written without optimizer and loss: it is made of core layers and loads where this
        library is not installed.
        """
        described = {
            "preparation": json.loads(self.preparation.to_json()),
            "class_names": list(self.class_names),
            "overlap": self.overlap,
        }
        save_described(self.model, path, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Segmenter":
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: the model or the JSON beside it is missing.
            ValueError: they are damaged, do not fit one another, the model gives something else than when it
                was saved, they hold code or classes that are not known
                here, or claim more than their bytes can hold. None of it is run.
        """
        with load_described(path, "segmenter") as (model, described):
            preparation = VolumePreparation.from_json(json.dumps(described["preparation"]))
            return cls(model, preparation, tuple(described["class_names"]), described["overlap"])

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Return the probability of each class in a prepared image, float32 `(*spatial, classes)`.

        Args:
            image: `(*spatial, channels)`, as `preparation.image` gives it.
        """
        return sliding_window_predict(self.model, image, overlap=self.overlap)

    def segment(
        self,
        scans: Sequence[str | Path | Sequence[str | Path]],
        output_dir: str | os.PathLike[str],
        *,
        verbose: int = 1,
    ) -> list[Path]:
        """Label scans, and write each label volume as NIfTI on the grid of its scan.

        All scans are read before the first is predicted; each result is written as it comes.

        Args:
            scans: files, or for each scan the files of its modalities in the order of the training.
            output_dir: folder of the results, made where missing. Each is named as the first file of
                its scan, with the suffix `.nii.gz`.
            verbose: 1 shows progress bars, 0 does not.

        Returns:
            The files written, in the order of `scans`: uint8 labels with the scan's shape and affine.

        Raises:
            FileNotFoundError: files do not exist.
            ValueError: scans cannot be read (all are named), have other modalities than the model takes,
                share a name, or lie in `output_dir`, where they would be written over.
            OSError: `output_dir` cannot be written; the results before are kept.
        """
        table = VolumeTable(_rows(scans))
        modalities = self.model.input_shape[-1]
        if table.files.shape[1] != modalities:
            raise ValueError(
                f"`scans` must have {modalities} files each, as the model takes. "
                f"Received {table.files.shape[1]}."
            )
        targets = _targets(table.files[:, 0], Path(output_dir))
        table.check(verbose=verbose)
        ready_folder(output_dir, "output_dir")
        progress = keras.utils.Progbar(len(table), verbose=verbose, unit_name="scan")
        for files, target in zip(table.files, targets, strict=True):
            try:
                scan = read_row(files).image
            except UnfitFilesError as error:
                # It was whole a moment ago.
                refuse_unfit(files[None], None, {0: error.problems})
                raise
            labels = self.preparation.restore(self.probabilities(self.preparation.image(scan)), scan)
            like = files[0] if volume_suffix(files[0]) in (".nii", ".nii.gz") else None
            write_volume(target, labels.voxels, labels.affine, like=like)
            progress.add(1)
        return targets


def _rows(scans: Sequence[str | Path | Sequence[str | Path]]) -> np.ndarray:
    """The files of each scan, a row each."""
    if isinstance(scans, (str, Path)):
        raise ValueError(f"`scans` must be a list of scans. Received {scans}, a single one.")
    rows = [[scan] if isinstance(scan, (str, Path)) else list(scan) for scan in scans]
    counts = sorted({len(row) for row in rows})
    if len(counts) != 1:
        raise ValueError(f"`scans` must have as many files each, at least one scan. Received {counts} files.")
    return np.array(rows, object)


def _targets(files: np.ndarray, output_dir: Path) -> list[Path]:
    targets = [
        output_dir / f"{Path(file).name[: -len(volume_suffix(file)) or None]}.nii.gz" for file in files
    ]
    doubled = sorted({target.name for target in targets if targets.count(target) > 1})
    if doubled:
        raise ValueError(f"`scans` must have different names. Received {', '.join(doubled)} more than once.")
    sources = {Path(file).resolve() for file in files}
    over = [str(target) for target in targets if target.resolve() in sources]
    if over:
        raise ValueError(f"`output_dir` must not hold the scans: {', '.join(over)} would be written over.")
    return targets

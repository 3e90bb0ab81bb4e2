"""Segment the hippocampus with few labels: pretrain, compare with training from scratch.

    python hippocampus_segmentation.py                               # synthetic volumes, minutes on a laptop
    python hippocampus_segmentation.py --images imagesTr --labels labelsTr --fractions 0.05 0.1 0.25 0.5 1
    python hippocampus_segmentation.py --predict scan.nii.gz --output predictions

The encoder of a U-Net is pretrained on the training volumes, without their labels: by default, to predict by
which of 24 rotations a volume was rotated, or by each of --tasks. Then, on each fraction of the labels,
variants (arms) of the same U-Net are trained for the same number of optimizer steps and compared on the same
test volumes by the mean Dice of the foreground classes: "initialized" (pretrained, fine-tuned after a frozen
warm-up), "random" (from scratch) and "frozen" (pretrained, the encoder is not trained). The results are in
report.html in the output folder. After an interruption, the same command resumes. Folders of NIfTI volumes
with one label volume each are supported, and further ones without (--unlabeled), for pretraining; by default,
volumes are cropped and padded to a shape that fits the largest. Existing predictions and results of other
programs are replaced only with --overwrite.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ssl
from keras_ssl import data, evaluation, reports
from keras_ssl.data.volume_io import read_grid
from keras_ssl.evaluation import PretextRecipe, Protocol
from keras_ssl.evaluation.command_line import (
    add_pretraining_arguments,
    add_protocol_arguments,
    chosen_pretraining,
    chosen_protocol,
    describe_pretraining,
    error_message,
    load_weights,
)
from keras_ssl.evaluation.protocol import run_name
from keras_ssl.reports.html_page import pretext_histories

PRETEXT = PretextRecipe(
    # 24 rotations require a cube, which is cropped from the center. A tenth of the training volumes is held
    # out to measure the rotation accuracy on new volumes.
    task=keras_ssl.RotationTask(rotations="cube", fit="crop"),
    epochs=10,
    steps_per_epoch=40,
    batch_size=4,
    validation_fraction=0.1,
)
PROTOCOL = Protocol(
    arms=("initialized", "random"),
    fractions=(0.1, 1.0),
    folds=1,
    repetitions=3,
    test_fraction=0.2,
    steps=300,
    validations=5,
    warmup_fraction=0.2,
    batch_size=2,
    learning_rate=3e-3,
    encoder_learning_rate=3e-3,
)


# Larger volumes may not fit into memory as a whole.
MAX_VOXELS = 160**3
# Options by the names of the Python arguments that errors name.
OPTIONS = {
    "images": "--images",
    "labels": "--labels",
    "label_values": "--label-values",
    "follow_links": "--follow-links",
    "shape": "--shape",
    "spacing": "--spacing",
    "max_foreground_loss": "--max-foreground-loss",
    "filters": "--filters",
    "epochs": "--pretext-epochs",
    "output_dir": "--output",
}


def main() -> None:
    arguments = parse_arguments()
    try:
        if arguments.predict:
            segmenter = keras_ssl.Segmenter.load(arguments.model or "hippocampus_output/segmenter.keras")
            written = segmenter.segment(
                arguments.predict, arguments.output or "predictions", overwrite=arguments.overwrite
            )
            print(*written, sep="\n")
        else:
            study(arguments, Path(arguments.output or "hippocampus_output"))
    except (ValueError, OSError, MemoryError, OverflowError, ImportError) as error:
        sys.exit(error_message(error, OPTIONS))


def study(arguments: argparse.Namespace, output: Path) -> None:
    if not arguments.overwrite:
        check_output(output)
    given = None if arguments.encoder is None else load_weights(arguments.encoder)
    volumes = load(arguments, output)
    preparation, images, masks = volumes.preparation, volumes.images, volumes.masks
    shape = (None, None, None, images.shape[-1])
    recipe = dataclasses.replace(PRETEXT, epochs=arguments.pretext_epochs)
    classes = int(masks.max()) + 1 if arguments.label_values is None else len(arguments.label_values)
    records = evaluation.label_efficiency(
        images,
        masks,
        encoder=keras_ssl.encoders.unet_encoder(shape, arguments.filters) if given is None else given.encoder,
        pretrained=chosen_pretraining(arguments.tasks, recipe, weights=given),
        head=keras_ssl.SegmentationHead(classes),
        output_dir=output,
        protocol=chosen_protocol(arguments, PROTOCOL),
        groups=volumes.groups,
        unlabeled=volumes.unlabeled,
        unlabeled_groups=volumes.unlabeled_groups,
        save_graders=True,
        n_jobs=arguments.jobs,
    )
    preparation.save(output / "preparation.json")
    report(list(records), images, masks, volumes.source, output, arguments.label_values)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--images", metavar="DIR", help="folder of NIfTI volumes (default: synthetic volumes)"
    )
    parser.add_argument("--labels", metavar="DIR", help="folder of their label volumes")
    parser.add_argument(
        "--label-values",
        type=int,
        nargs="+",
        metavar="VALUE",
        help="values of the classes in label volumes, background first, such as 0 255 (default: 0 1 2 ...)",
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="follow symbolic links out of the folders"
    )
    parser.add_argument("--synthetic", type=int, metavar="N", default=60, help="number of synthetic volumes")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar="MM",
        help="voxel spacing to resample to (default: unchanged)",
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar="SIDE",
        help="shape in voxels after cropping and padding (default: fits the largest volume)",
    )
    parser.add_argument(
        "--max-foreground-loss",
        type=float,
        default=0.01,
        metavar="FRACTION",
        help="fraction of a structure that cropping to --shape may remove (default: 0.01)",
    )
    parser.add_argument(
        "--filters", type=int, nargs="+", default=(8, 16, 32, 64), help="filters of the levels of the U-Net"
    )
    parser.add_argument(
        "--encoder",
        metavar="FILE",
        help="saved encoder, .keras, in place of the U-Net's, whose weights are compared as well",
    )
    add_pretraining_arguments(
        parser,
        unlabeled="folder of NIfTI volumes without labels for pretraining, which may be that of --images: "
        "those without a label volume are then taken",
    )
    parser.add_argument(
        "--pretext-epochs", type=int, default=PRETEXT.epochs, help="epochs of pretraining, of 40 steps each"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of processes (default: 1)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder of the results (default: hippocampus_output, or predictions with --predict)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing files with the names of results"
    )
    parser.add_argument("--predict", nargs="+", metavar="FILE", help="scans to segment, into --output")
    parser.add_argument(
        "--model", help="segmenter of an earlier study (default: hippocampus_output/segmenter.keras)"
    )
    add_protocol_arguments(parser.add_argument_group("protocol"))
    arguments = parser.parse_args()
    if arguments.model and not arguments.predict:
        parser.error("--model requires --predict")
    if (arguments.images is None) != (arguments.labels is None):
        parser.error("--images and --labels must be given together")
    if arguments.unlabeled and not arguments.images:
        parser.error("--unlabeled requires --images and --labels")
    if arguments.label_values and not arguments.images:
        parser.error("--label-values requires --images and --labels")
    return arguments


def check_output(output: Path) -> None:
    """Raise an error if the folder holds files with the names of results but no study."""
    names = ("preparation.json", "segmenter.keras", "segmenter.json")
    existing = [name for name in names if (output / name).exists()]
    if existing and not (output / "study.json").exists():
        raise FileExistsError(
            f"--output must not hold files with the names of results. {output} holds {', '.join(existing)}. "
            "Pass --overwrite to replace them, or name another folder."
        )


class Volumes(NamedTuple):
    """Prepared volumes and masks, groups of copies, and volumes without masks."""

    preparation: data.VolumePreparation
    images: np.ndarray
    masks: np.ndarray
    source: str
    groups: np.ndarray | None = None
    unlabeled: np.ndarray | None = None
    unlabeled_groups: np.ndarray | None = None


def load(arguments: argparse.Namespace, output: Path) -> Volumes:
    preparation = data.VolumePreparation(arguments.spacing, arguments.shape)
    if arguments.images:
        table = data.VolumeTable.from_folder(
            arguments.images,
            arguments.labels,
            follow_links=arguments.follow_links,
            unlabeled=arguments.unlabeled,
        ).group_duplicates()
        if preparation.shape is None:
            preparation = fit_shape(preparation, table, 2 ** (len(arguments.filters) - 1))
        images, masks = data.load_volumes(
            table,
            preparation,
            output / "cache",
            empty_masks="refuse",
            label_values=arguments.label_values,
            max_foreground_loss=arguments.max_foreground_loss,
        )
        assert masks is not None
        volumes = Volumes(preparation, images, masks, Path(arguments.images).name, table.groups)
        if table.unlabeled is None:
            return volumes
        unlabeled, _ = data.load_volumes(table.unlabeled, preparation, output / "cache")
        return volumes._replace(unlabeled=unlabeled, unlabeled_groups=table.unlabeled.groups)
    preparation = dataclasses.replace(preparation, shape=arguments.shape or (24, 24, 24))
    scans, masks = data.synthetic_volumes(arguments.synthetic, preparation.shape)
    images = np.stack([preparation.image(data.Volume(scan, np.eye(4))) for scan in scans])
    masks = np.stack([preparation.mask(data.Volume(mask, np.eye(4))) for mask in masks])
    return Volumes(preparation, images, masks, "synthetic_volumes: without clinical meaning")


def fit_shape(
    preparation: data.VolumePreparation, table: data.VolumeTable, multiple: int
) -> data.VolumePreparation:
    """Return the preparation with a shape that fits every volume, each side a multiple of `multiple`."""
    sizes = [(1, 1, 1)]
    tables = [table] if table.unlabeled is None else [table, table.unlabeled]
    for path in np.concatenate([part.files[:, 0] for part in tables]):
        # Loading names all unreadable files at once.
        with contextlib.suppress(ValueError):
            sizes.append(preparation.grid(read_grid(path)).shape)
    shape = tuple(multiple * -(-int(side) // multiple) for side in np.max(sizes, axis=0))
    print(f"Shape {' x '.join(map(str, shape))}, which fits the largest of {len(table)} volumes")
    if np.prod(shape) > MAX_VOXELS:
        raise ValueError(
            "--shape or a coarser --spacing must be given for volumes of this size. The largest needs "
            f"{shape}, more than {MAX_VOXELS} voxels. Or train on patches: keras_ssl.data.PatchBatches."
        )
    return dataclasses.replace(preparation, shape=shape)


def report(
    records: list[dict[str, Any]],
    images: np.ndarray,
    masks: np.ndarray,
    source: str,
    output: Path,
    label_values: list[int] | None,
) -> None:
    """Write the report and print the results; save one segmenter."""
    histories = pretext_histories(output)
    for name, history in histories.items():
        print(describe_pretraining(name, history))
    if any(name.startswith("rotation-") for name in histories):
        print("Chance level of 24 rotations: 4.2 %")
    page = reports.report_study(
        records,
        output,
        metric="dice",
        title="Segmenting the hippocampus: label efficiency of pretraining",
        provenance={"source": source},
        figures=pictures(records, images, masks, output, label_values),
    )
    print(
        "\nDice on the test volumes, mean of the foreground classes\n\n"
        + reports.format_table(records, "dice")
    )
    print("\n" + reports.summary_text(records, "dice"))
    print(f"\nReport: {page}")


def pictures(
    records: list[dict[str, Any]],
    images: np.ndarray,
    masks: np.ndarray,
    output: Path,
    label_values: list[int] | None,
) -> dict[str, Any]:
    """Save the segmenter trained on the most labels; plot its predictions for test volumes."""
    completed = [record for record in records if record["status"] == "ok"]
    if not completed:
        raise ValueError(f"All runs failed, see {output / 'records.csv'}.")
    # Of the pretrained, fine-tuned arm if there is one, and of the largest fraction.
    best = max(completed, key=lambda record: (record["arm"] == "initialized", record["fraction"]))
    name = run_name(*(best[key] for key in ("task", "arm", "fraction", "repetition", "fold")))
    model = keras.saving.load_model(output / "graders" / f"{name}.keras", compile=False)
    names = ("background", *(f"part {number}" for number in range(1, model.output_shape[-1])))
    preparation = data.VolumePreparation.load(output / "preparation.json")
    segmenter = keras_ssl.Segmenter(model, preparation, names, label_values=label_values)
    segmenter.save(output / "segmenter.keras")
    some = best["test_rows"][:4]
    predicted = np.argmax(model.predict(images[some], batch_size=1, verbose=0), axis=-1)
    figure = reports.plot_masks(images[some], masks[some], predicted, names)
    return {"Slices of test volumes: image, true mask, predicted mask": figure}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop}\nThe same command resumes.")

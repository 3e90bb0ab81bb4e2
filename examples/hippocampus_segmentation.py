"""Segment the hippocampus with few labels: pretrain by rotation, fine-tune a U-Net, compare with scratch.

    python hippocampus_segmentation.py                               # synthetic volumes, minutes on a laptop
    python hippocampus_segmentation.py --images imagesTr --labels labelsTr --fractions 0.05 0.1 0.25 0.5 1
    python hippocampus_segmentation.py --predict scan.nii.gz --output predictions

The contracting path of a U-Net is pretrained on the training volumes, without their labels, to recognize by
which of 24 rotations a volume was turned. Then, on each fraction of the labels, arms of the same U-Net are
trained for the same number of optimizer steps and judged on the same test volumes by Dice, the mean of the
foreground classes: "initialized" from the pretext, after a frozen warm-up; "random", from scratch; "frozen",
where the encoder is never trained. report.html in the output folder holds the results. After a kill, the same
command resumes. Any folders of NIfTI volumes with one label volume each will do; the shape to which they are
cropped and padded is chosen so that the largest is whole. Existing predictions are never replaced without
--overwrite, nor are results of other programs.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ssl
from keras_ssl import data, evaluation, reports
from keras_ssl.evaluation import PretextRecipe, Protocol
from keras_ssl.evaluation.protocol import run_name

PRETEXT = PretextRecipe(
    # 24 rotations need a cube, which is cut out of the middle. A tenth of the training volumes is held out to
    # see whether rotations of new volumes are recognized.
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
)


# Voxels of a volume, as many as 160 along each axis, beyond which a whole one is much for a network.
LARGEST = 160**3


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
        sys.exit(evaluation.error_message(error))


def study(arguments: argparse.Namespace, output: Path) -> None:
    if not arguments.overwrite:
        refuse_foreign(output)
    preparation, images, masks, groups, source = load(arguments, output)
    encoder = keras_ssl.encoders.unet_encoder((None, None, None, images.shape[-1]), arguments.filters)
    classes = int(masks.max()) + 1 if arguments.label_values is None else len(arguments.label_values)
    records = evaluation.label_efficiency(
        images,
        masks,
        encoder=encoder,
        pretrained={"rotation": dataclasses.replace(PRETEXT, epochs=arguments.pretext_epochs)},
        head=keras_ssl.SegmentationHead(classes),
        output_dir=output,
        protocol=evaluation.chosen_protocol(arguments, PROTOCOL),
        groups=groups,
        save_graders=True,
        n_jobs=arguments.jobs,
    )
    preparation.save(output / "preparation.json")
    report(list(records), images, masks, source, output, arguments.label_values)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", metavar="DIR", help="folder of NIfTI volumes (none: synthetic ones)")
    parser.add_argument("--labels", metavar="DIR", help="folder of their label volumes")
    parser.add_argument(
        "--label-values",
        type=int,
        nargs="+",
        metavar="VALUE",
        help="values of the classes in label volumes, the background first: 0 255 (default: 0 1 2 ...)",
    )
    parser.add_argument("--follow-links", action="store_true", help="files may be links out of the folders")
    parser.add_argument("--synthetic", type=int, metavar="N", default=60, help="number of synthetic volumes")
    parser.add_argument("--spacing", type=float, nargs=3, metavar="MM", help="resample (default: as it is)")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar="SIDE",
        help="voxels after cropping and padding (default: so that the largest volume is whole)",
    )
    parser.add_argument(
        "--max-foreground-loss",
        type=float,
        default=0.01,
        metavar="FRACTION",
        help="how much of a structure --shape may cut off (default: 0.01)",
    )
    parser.add_argument(
        "--filters", type=int, nargs="+", default=(8, 16, 32, 64), help="of the U-Net's levels"
    )
    parser.add_argument("--pretext-epochs", type=int, default=PRETEXT.epochs, help="of 40 steps each")
    parser.add_argument("--jobs", type=int, default=1, help="processes at work at the same time (default: 1)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder of all results (default: hippocampus_output, or predictions with --predict)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the results' names")
    parser.add_argument("--predict", nargs="+", metavar="FILE", help="scans to segment, into --output")
    parser.add_argument("--model", help="of an earlier run (default: hippocampus_output/segmenter.keras)")
    evaluation.add_protocol_arguments(parser.add_argument_group("protocol"))
    arguments = parser.parse_args()
    if arguments.model and not arguments.predict:
        parser.error("--model goes with --predict")
    if (arguments.images is None) != (arguments.labels is None):
        parser.error("--images and --labels go together")
    if arguments.label_values and not arguments.images:
        parser.error("--label-values goes with --images and --labels")
    return arguments


def refuse_foreign(output: Path) -> None:
    """Refuse a folder with files of the results' names in which no study was run."""
    names = ("preparation.json", "segmenter.keras", "segmenter.json")
    there = [name for name in names if (output / name).exists()]
    if there and not (output / "study.json").exists():
        raise FileExistsError(
            f"--output must not hold files of the results' names. {output} holds {', '.join(there)}. Pass "
            "--overwrite to replace them, or name another folder."
        )


def load(
    arguments: argparse.Namespace, output: Path
) -> tuple[data.VolumePreparation, np.ndarray, np.ndarray, np.ndarray | None, str]:
    """Prepare volumes and masks; groups of copies, which stay on one side of a split; their source."""
    preparation = data.VolumePreparation(arguments.spacing, arguments.shape)
    if arguments.images:
        table = data.VolumeTable.from_folder(
            arguments.images, arguments.labels, follow_links=arguments.follow_links
        ).group_duplicates()
        if preparation.shape is None:
            preparation = fitting(preparation, table, 2 ** (len(arguments.filters) - 1))
        images, masks = data.load_volumes(
            table,
            preparation,
            output / "cache",
            empty_masks="refuse",
            label_values=arguments.label_values,
            max_foreground_loss=arguments.max_foreground_loss,
        )
        assert masks is not None
        return preparation, images, masks, table.groups, Path(arguments.images).name
    preparation = dataclasses.replace(preparation, shape=arguments.shape or (24, 24, 24))
    scans, masks = data.synthetic_volumes(arguments.synthetic, preparation.shape)
    images = np.stack([preparation.image(data.Volume(scan, np.eye(4))) for scan in scans])
    masks = np.stack([preparation.mask(data.Volume(mask, np.eye(4))) for mask in masks])
    return preparation, images, masks, None, "synthetic_volumes: without clinical meaning"


def fitting(
    preparation: data.VolumePreparation, table: data.VolumeTable, multiple: int
) -> data.VolumePreparation:
    """The preparation with a shape that holds every volume, each side a multiple of `multiple`."""
    sizes = [(1, 1, 1)]
    for path in table.files[:, 0]:
        # Files that cannot be read are all named when they are loaded.
        with contextlib.suppress(ValueError):
            sizes.append(preparation.grid(data.read_grid(path)).shape)
    shape = tuple(multiple * -(-int(side) // multiple) for side in np.max(sizes, axis=0))
    print(f"Shape {' x '.join(map(str, shape))}, in which the largest of {len(table)} volumes is whole")
    if np.prod(shape) > LARGEST:
        raise ValueError(
            f"--shape or a coarser --spacing must be given for volumes so large. The largest needs {shape}, "
            f"more than {LARGEST} voxels. Or train on patches: keras_ssl.data.PatchBatches."
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
    """Print and draw the results, and save one segmenter for new scans."""
    for name, history in reports.pretext_histories(output).items():
        seen, held_out = (100 * history[part][-1] for part in ("accuracy", "val_accuracy"))
        print(
            f"{name}: {seen:.0f} % of rotations recognized in training, {held_out:.0f} % of held-out volumes"
        )
        print("Chance level, 1 of 24: 4.2 %")
    page = reports.report_study(
        records,
        output,
        metric="dice",
        title="Segmenting the hippocampus: how many labels did pretraining save?",
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
    """Save the segmenter that saw the most labels; draw its predictions for test volumes."""
    ended = [record for record in records if record["status"] == "ok"]
    if not ended:
        raise ValueError(f"No run ended well: {output / 'records.csv'} says why.")
    # One that began pretrained, where there is one, and saw the most labels.
    best = max(ended, key=lambda record: (record["arm"] == "initialized", record["fraction"]))
    name = run_name(*(best[key] for key in ("task", "arm", "fraction", "repetition", "fold")))
    model = keras.saving.load_model(output / "graders" / f"{name}.keras", compile=False)
    names = ("background", *(f"part {number}" for number in range(1, model.output_shape[-1])))
    preparation = data.VolumePreparation.load(output / "preparation.json")
    segmenter = keras_ssl.Segmenter(model, preparation, names, label_values=label_values)
    segmenter.save(output / "segmenter.keras")
    some = best["test_rows"][:4]
    predicted = np.argmax(model.predict(images[some], batch_size=1, verbose=0), axis=-1)
    figure = reports.plot_masks(images[some], masks[some], predicted, names)
    return {"Middle slices of test volumes: the scan, its labels, the prediction": figure}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop}\nThe same command resumes.")

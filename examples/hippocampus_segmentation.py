"""Segment the hippocampus with few labels: pretrain by rotation, fine-tune a U-Net, compare with scratch.

    python hippocampus_segmentation.py                                 # drawn volumes, minutes on a laptop
    python hippocampus_segmentation.py --images imagesTr --labels labelsTr --fractions 0.05 0.1 0.25 0.5 1
    python hippocampus_segmentation.py --predict scan.nii.gz --model hippocampus_output/segmenter.keras

The contracting path of a U-Net is pretrained on the training volumes, without their labels, to tell by which
of 24 rotations a volume was turned. Then, on each fraction of the labels, arms of one and the same U-Net are
trained for the same number of optimizer steps and judged on the same test volumes by Dice, the mean of the
foreground classes: "initialized" from the pretext, after a frozen warm-up; "random", from scratch; "frozen",
where the encoder is never trained. report.html in the output folder says what came of it. After a kill, the
same command goes on. Any folders of NIfTI volumes with one label volume each will do.
"""

import argparse
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
    # 24 rotations want a cube, which is cut out of the middle. A tenth of the training volumes is held out to
    # see whether rotations are told of volumes never seen.
    task=keras_ssl.RotationTask(rotations="cube", fit="crop"),
    epochs=10,
    steps_per_epoch=40,
    batch_size=4,
    validation_share=0.1,
)
PROTOCOL = Protocol(
    arms=("initialized", "random"),
    fractions=(0.1, 1.0),
    folds=1,
    repetitions=3,
    test_fraction=0.2,
    steps=300,
    validations=5,
    warmup_share=0.2,
    batch_size=2,
    learning_rate=3e-3,
)


def main() -> None:
    arguments = parse_arguments()
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.predict:
            segmenter = keras_ssl.Segmenter.load(arguments.model)
            print(*segmenter.segment(arguments.predict, output), sep="\n")
            return
        images, masks, groups, source = load(arguments, output)
        encoder = keras_ssl.encoders.unet_encoder((None, None, None, images.shape[-1]), arguments.filters)
        head = keras_ssl.SegmentationHead(int(masks.max()) + 1)
        records = evaluation.label_efficiency(
            images,
            masks,
            encoder=encoder,
            pretrained={"rotation": dataclasses.replace(PRETEXT, epochs=arguments.pretext_epochs)},
            head=head,
            output_dir=output,
            protocol=evaluation.chosen_protocol(arguments, PROTOCOL),
            groups=groups,
            save_graders=True,
            n_jobs=arguments.jobs,
        )
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    report(list(records), images, masks, source, output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", metavar="DIR", help="folder of NIfTI volumes (none: drawn ones)")
    parser.add_argument("--labels", metavar="DIR", help="folder of their label volumes")
    parser.add_argument("--synthetic", type=int, metavar="N", default=60, help="how many volumes are drawn")
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar="SIDE", help="voxels after cropping and padding"
    )
    parser.add_argument(
        "--filters", type=int, nargs="+", default=(8, 16, 32, 64), help="of the U-Net's levels"
    )
    parser.add_argument("--pretext-epochs", type=int, default=PRETEXT.epochs, help="of 40 steps each")
    parser.add_argument("--jobs", type=int, default=1, help="processes at work at the same time (default: 1)")
    parser.add_argument("--output", default="hippocampus_output", help="folder of all results")
    parser.add_argument("--predict", nargs="+", metavar="FILE", help="scans to segment, into --output")
    parser.add_argument("--model", default="hippocampus_output/segmenter.keras", help="of an earlier run")
    evaluation.add_protocol_arguments(parser.add_argument_group("protocol"))
    arguments = parser.parse_args()
    if (arguments.images is None) != (arguments.labels is None):
        parser.error("--images and --labels go together")
    return arguments


def load(
    arguments: argparse.Namespace, output: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str]:
    """Prepared volumes and masks; groups of copies, which stay on one side; and where they come from."""
    shape = tuple(arguments.shape or ((40, 56, 40) if arguments.images else (24, 24, 24)))
    preparation = data.VolumePreparation(shape=shape)
    if arguments.images:
        table = data.VolumeTable.from_folder(arguments.images, arguments.labels).group_duplicates()
        images, masks = data.load_volumes(table, preparation, output / "cache", empty_masks="refuse")
        groups, source = table.groups, Path(arguments.images).name
    else:
        scans, masks = data.synthetic_volumes(arguments.synthetic, shape)
        images = np.stack([preparation.image(data.Volume(scan, np.eye(4))) for scan in scans])
        groups, source = None, "drawn by synthetic_volumes: these say nothing about patients"
    preparation.save(output / "preparation.json")
    assert masks is not None
    return images, masks, groups, source


def report(
    records: list[dict[str, Any]], images: np.ndarray, masks: np.ndarray, source: str, output: Path
) -> None:
    """Tell what the records say, and keep one segmenter to work on with."""
    for name, history in reports.pretext_histories(output).items():
        seen, held_out = (100 * history[part][-1] for part in ("accuracy", "val_accuracy"))
        print(f"{name}: {seen:.0f} % of rotations told in training, {held_out:.0f} % of volumes held out")
        print("By chance, 1 of 24 would be told: 4.2 %")
    page = reports.report_study(
        records,
        output,
        metric="dice",
        title="Segmenting the hippocampus: how many labels did pretraining save?",
        provenance={"source": source},
        figures=pictures(records, images, masks, output),
    )
    print(
        "\nDice on the test volumes, mean of the foreground classes\n\n"
        + reports.format_table(records, "dice")
    )
    print("\n" + reports.finding(records, "dice"))
    print(f"\nReport: {page}")


def pictures(
    records: list[dict[str, Any]], images: np.ndarray, masks: np.ndarray, output: Path
) -> dict[str, Any]:
    """Keep the segmenter that saw the most labels; draw what it makes of test volumes."""
    ended = [record for record in records if record["status"] == "ok"]
    # One that began pretrained, where there is one, and saw the most labels.
    best = max(ended, key=lambda record: (record["arm"] == "initialized", record["fraction"]))
    name = run_name(*(best[key] for key in ("task", "arm", "fraction", "repetition", "fold")))
    model = keras.saving.load_model(output / "graders" / f"{name}.keras", compile=False)
    names = ("background", *(f"part {number}" for number in range(1, model.output_shape[-1])))
    preparation = data.VolumePreparation.load(output / "preparation.json")
    keras_ssl.Segmenter(model, preparation, names).save(output / "segmenter.keras")
    some = best["test_rows"][:4]
    predicted = np.argmax(model.predict(images[some], batch_size=1, verbose=0), axis=-1)
    figure = reports.plot_masks(images[some], masks[some], predicted, names)
    return {"Middle slices of test volumes: the scan, its labels, what was predicted": figure}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop}\nThe same command goes on where it was.")

"""Classify volumes with few labels: pretrain, compare with training from scratch.

    python volume_classification.py                                  # synthetic volumes, minutes on a laptop
    python volume_classification.py --npz adrenalmnist3d.npz --folds 5 --fractions 0.05 0.1 0.25 0.5 1
    python volume_classification.py --npz adrenalmnist3d.npz --tasks rotation vicreg rotation+vicreg

In each fold, a 3D encoder is pretrained on the training volumes, without their labels: by default, to
predict by which of the 24 rotations of a cube a volume was rotated (the chance level is 4.2 %), or by each of
--tasks. Then, on each fraction of the labels, variants (arms) of the same encoder are trained for the same
number of optimizer steps and compared by the area under the ROC curve (AUC) on the test volumes of the fold:
"initialized" (pretrained, fine-tuned after a frozen warm-up), "frozen" (pretrained, only the head is trained)
and "random" (from scratch). The results are in report.html in the output folder. After an interruption, the
same command resumes.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow enables these kernels only on newer processors; without them, volumes take ten times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

import keras_ssl
from keras_ssl import data, evaluation, reports
from keras_ssl.evaluation import PretextRecipe, Protocol
from keras_ssl.evaluation.command_line import (
    add_pretraining_arguments,
    add_protocol_arguments,
    chosen_pretraining,
    chosen_protocol,
    describe_pretraining,
    error_message,
    load_unlabeled,
    load_weights,
)
from keras_ssl.reports.html_page import pretext_histories

METRIC = "macro_auc"  # area under the ROC curve; for more than two classes, the mean over the classes
PRETEXT = PretextRecipe(
    # A tenth of the training volumes is held out to measure the rotation accuracy on new volumes.
    task=keras_ssl.RotationTask(rotations="cube"),
    epochs=20,
    batch_size=16,
    validation_fraction=0.1,
)
PROTOCOL = Protocol(
    fractions=(0.1, 1.0), folds=1, repetitions=3, test_fraction=0.25, steps=80, validations=8, batch_size=16
)

# Options by the names of the Python arguments that errors name.
OPTIONS = {"path": "--npz", "epochs": "--pretext-epochs", "output_dir": "--output"}


def main() -> None:
    arguments = parse_arguments()
    try:
        study(arguments, Path(arguments.output))
    except (ValueError, OSError, MemoryError, OverflowError, ImportError) as error:
        sys.exit(error_message(error, OPTIONS))


def study(arguments: argparse.Namespace, output: Path) -> None:
    volumes, classes, source = load_volumes(arguments)
    data.check_images(volumes, rank=3)
    given = None if arguments.encoder is None else load_weights(arguments.encoder)
    pretrained = chosen_pretraining(arguments.tasks, chosen_pretext(arguments), weights=given)
    records = evaluation.label_efficiency(
        volumes,
        classes,
        encoder=build_encoder(volumes.shape[1:]) if given is None else given.encoder,
        pretrained=pretrained,
        head=keras_ssl.ClassificationHead(max(2, int(classes.max()) + 1)),
        output_dir=output,
        unlabeled=None if arguments.unlabeled is None else load_unlabeled(arguments.unlabeled),
        protocol=chosen_protocol(arguments, PROTOCOL),
        n_jobs=arguments.jobs,
    )
    recipes = {name: one for name, one in pretrained.items() if isinstance(one, PretextRecipe)}
    report(list(records), volumes, classes, recipes, source, output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--npz", metavar="FILE", help="MedMNIST3D file (default: synthetic volumes)")
    parser.add_argument("--synthetic", type=int, metavar="N", default=240, help="number of synthetic volumes")
    parser.add_argument(
        "--encoder", metavar="FILE", help="saved encoder, .keras, whose weights are compared as well"
    )
    add_pretraining_arguments(
        parser,
        unlabeled="MedMNIST3D or .npy file of volumes without classes for pretraining, beside the others",
    )
    parser.add_argument("--pretext-epochs", type=int, default=PRETEXT.epochs, help="epochs of pretraining")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes (default: 1)")
    parser.add_argument(
        "--output", default="volume_output", help="folder of the results (default: volume_output)"
    )
    add_protocol_arguments(parser.add_argument_group("protocol"))
    return parser.parse_args()


def chosen_pretext(arguments: argparse.Namespace) -> PretextRecipe:
    verbose = 2 if arguments.jobs == 1 else 0
    return dataclasses.replace(PRETEXT, epochs=arguments.pretext_epochs, verbose=verbose)


def load_volumes(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, str]:
    """Return volumes `(n, *spatial, channels)` from 0 to 255, their classes, and their source."""
    if arguments.npz:
        volumes, classes = data.load_medmnist(arguments.npz, ("train", "val"))
        return volumes, classes, Path(arguments.npz).name
    volumes, classes = synthetic_glands(arguments.synthetic)
    return volumes, classes, "synthetic: without clinical meaning"


def synthetic_glands(count: int, size: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Create noisy glands of three limbs in the same orientation; every other one has a nodule, class 1."""
    generator = np.random.default_rng(seed)
    classes = np.arange(count) % 2
    axes = np.linspace(-1, 1, size)
    points = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1)
    # Limbs of different lengths in three directions, so that no rotation maps a gland to itself.
    limbs = np.array([[-0.7, 0, 0.1], [0.3, 0.6, 0], [0.4, -0.2, 0.5]])
    volumes = []
    for ill in classes:
        ends = limbs + generator.normal(scale=0.12, size=(3, 3))
        inside = [distance_to_limb(points, end) - generator.uniform(0.1, 0.2) for end in ends]
        if ill:
            center = ends[generator.integers(3)] * generator.uniform(0.5, 1)
            inside.append(np.linalg.norm(points - center, axis=-1) - generator.uniform(0.2, 0.3))
        signal = np.clip(0.5 - np.min(inside, axis=0) * size / 2, 0, 1)
        volumes.append(120 * signal + generator.normal(60, 25, signal.shape))
    return np.clip(volumes, 0, 255).astype("uint8")[..., None], classes


def distance_to_limb(points: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance of points to the line segment from the center to `end`."""
    along = np.clip(points @ end / (end @ end), 0, 1)
    return np.linalg.norm(points - along[..., None] * end, axis=-1)


def build_encoder(shape: tuple[int, ...]) -> keras.Model:
    """Build a small encoder that takes voxels from 0 to 255 and rescales them."""
    inputs = keras.Input(shape, name="volumes")
    # A strided convolution avoids most of the computation at full resolution.
    x = keras.layers.Conv3D(8, 3, strides=2, padding="same", activation="relu", name="halved")(inputs)
    encoder = keras_ssl.encoders.small_encoder(x.shape[1:], filters=(8, 16, 32))
    encoder = keras.Model(inputs, encoder(x), name="encoder")
    return keras_ssl.encoders.with_rescaling(encoder, scale=1 / 127.5, offset=-1.0)


def report(
    records: list[dict[str, Any]],
    volumes: np.ndarray,
    classes: np.ndarray,
    recipes: dict[str, PretextRecipe],
    source: str,
    output: Path,
) -> None:
    """Write the report and print the results and the accuracy of the pretext tasks."""
    print_pretext(pretext_histories(output))
    completed = [record for record in records if record["status"] == "ok"]
    if not completed:
        raise ValueError(f"All runs failed, see {output / 'records.csv'}.")
    test = volumes[completed[0]["test_rows"][:4]]
    page = reports.report_study(
        records,
        output,
        metric=METRIC,
        title="Classifying volumes: label efficiency of pretraining",
        grade_names=[f"class {number}" for number in range(classes.max() + 1)],
        provenance={"source": source},
        figures={
            f"Middle slices of test volumes and inputs of the pretext task: {name}": keras_ssl.show_pretext(
                recipe.task, test
            )
            for name, recipe in recipes.items()
        },
    )
    print("\nArea under the ROC curve on the test volumes\n\n" + reports.format_table(records, METRIC))
    print("\n" + reports.summary_text(records, METRIC))
    print(f"\nReport: {page}")


def print_pretext(histories: dict[str, dict[str, list[float]]]) -> None:
    """Print the ends of the curves of pretraining, and the chance level of rotation."""
    for name, history in histories.items():
        print(describe_pretraining(name, history))
    if any(name.startswith("rotation-") for name in histories):
        print("Chance level of 24 rotations: 4.2 %")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop}\nThe same command resumes.")

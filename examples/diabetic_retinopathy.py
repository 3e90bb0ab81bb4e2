"""Grade diabetic retinopathy with few labels: pretrain, compare with training from scratch.

    python diabetic_retinopathy.py                            # synthetic images, minutes on a laptop
    python diabetic_retinopathy.py --npz retinamnist.npz --folds 5 --fractions 0.05 0.1 0.25 0.5 1
    python diabetic_retinopathy.py --labels train.csv --images train_images --preset paper
    python diabetic_retinopathy.py --labels train.csv --images train_images --tasks rotation vicreg simclr
    python diabetic_retinopathy.py --labels train.csv --images train_images --encoder imagenet.keras
    python diabetic_retinopathy.py --labels train.csv --images train_images --unlabeled other_images
    python diabetic_retinopathy.py --preset paper --dask tcp://scheduler:8786
    python diabetic_retinopathy.py --predict photo.jpg --model dr_output/grader.keras

In each fold, an encoder is pretrained on the training photographs, without their labels, by rotation or by
each of --tasks. Then, on each fraction of the labels, variants (arms) of the same encoder are trained for the
same number of optimizer steps and compared by quadratic weighted kappa (QWK) on the test photographs of the
fold: "initialized" (pretrained, fine-tuned after a frozen warm-up), "frozen" (pretrained, only the head is
trained) and "random" (from scratch). Weights given by --encoder or --imagenet are compared as they are and
with pretraining that continues from them. Photographs without a grade, of --unlabeled and rows of the table
with a blank grade, join the pretraining, except copies and patients of validation and test photographs. The
results are in report.html in the output folder. After an interruption, the same command resumes.

All images of a patient are on one side of every split. Patients are read from --group-column, or from file
names such as 10_left and 10_right. Console and report state how many patients are known.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# If TensorFlow is the backend, it writes to stderr when Keras imports it, whatever the log level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel(logging.ERROR)
screen = os.dup(2)
with open(os.devnull, "wb") as nowhere:
    os.dup2(nowhere.fileno(), 2)
    try:
        import keras
    finally:
        os.dup2(screen, 2)

import numpy as np

import keras_ssl
from keras_ssl import data, evaluation, reports
from keras_ssl.evaluation import PretextRecipe, Protocol
from keras_ssl.evaluation.command_line import (
    GivenWeights,
    add_pretraining_arguments,
    add_protocol_arguments,
    chosen_pretraining,
    chosen_protocol,
    error_message,
    load_unlabeled,
    load_weights,
)
from keras_ssl.layers.pooling import pool_features
from keras_ssl.preprocessing import Augmentation, Geometry, views

GRADES = len(data.GRADE_NAMES)
UNKNOWN_PATIENTS = "patients are unknown: each image counts as a patient of its own"
# Options by the names of the Python arguments that errors name.
OPTIONS = {
    "labels": "--labels",
    "images": "--images",
    "image_column": "--image-column",
    "label_column": "--label-column",
    "group_column": "--group-column",
    "groups": "--group-column",
    "skip_missing": "--skip-unreadable",
    "path": "--npz",
    "epochs": "--pretext-epochs",
    "output_dir": "--output",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Encoder, pretraining, head and protocol."""

    encoder: str
    size: int
    pretext: PretextRecipe
    head: keras_ssl.heads.Head
    protocol: Protocol
    synthetic: int = 800


# Left and right eyes are mirror images.
LEFT_RIGHT = Augmentation(geometry=Geometry(flip_axes=(1,)))

PRESETS = {
    # A few minutes on a laptop.
    "demo": Preset(
        encoder="small",
        size=32,
        pretext=PretextRecipe(task=keras_ssl.RotationTask(), epochs=20),
        head=keras_ssl.OrdinalHead(GRADES),
        protocol=Protocol(
            arms=("initialized", "random"),
            fractions=(0.1, 0.25, 1.0),
            folds=1,
            repetitions=3,
            test_fraction=0.25,
            steps=200,
            validations=8,
            batch_size=16,
            warmup_fraction=0.25,
            augment=views.fundus_views(),
        ),
    ),
    # The configuration of the thesis, except for the steps, which increased with the labels there, and the
    # learning rate of pretraining, which was constant.
    "paper": Preset(
        encoder="densenet121",
        size=224,
        pretext=PretextRecipe(
            task=keras_ssl.RotationTask(
                hidden_units=(2048, 1024), batch_norm=True, dropout=0.5, pooling="max", guards=None
            ),
            epochs=200,
            learning_rate=1e-5,
        ),
        head=keras_ssl.MultiHotHead(
            GRADES, hidden_units=(1024,), batch_norm=True, dropout=0.5, pooling="max"
        ),
        protocol=Protocol(
            folds=5,
            steps=2000,
            validations=20,
            warmup_fraction=0.15,
            learning_rate=5e-5,
            encoder_learning_rate=5e-5,
            weight_decay=0.0,
            frozen_learning_rate=5e-5,
            cosine_decay=False,
            augment=LEFT_RIGHT,
        ),
    ),
}


class Photographs(NamedTuple):
    """Prepared photographs with their grades, and groups that splits keep together."""

    images: np.ndarray
    grades: np.ndarray
    groups: np.ndarray | None
    preparation: data.Preparation
    source: str
    patients: str
    unlabeled: np.ndarray | None = None
    unlabeled_groups: np.ndarray | None = None


def main() -> None:
    arguments = parse_arguments()
    try:
        if arguments.predict:
            predict(arguments.predict, arguments.model or "dr_output/grader.keras")
        else:
            study(arguments, Path(arguments.output))
    except (ValueError, OSError, MemoryError, OverflowError, ImportError) as error:
        options = OPTIONS | ({"path": "--model"} if arguments.predict else {})
        sys.exit(error_message(error, options))


def study(arguments: argparse.Namespace, output: Path) -> None:
    preset, given = chosen_preset(arguments), None
    if preset.encoder.endswith(".keras"):
        given = load_weights(preset.encoder)
        preset = dataclasses.replace(preset, size=fitting_size(given.encoder, arguments.size, preset.size))
    photographs = load_photographs(arguments, preset)
    print(f"Patients: {photographs.patients}")
    counts = np.bincount(photographs.grades, minlength=GRADES)
    print(f"Images per grade: {', '.join(f'{grade}: {count}' for grade, count in enumerate(counts))}")
    pretrained = choose_pretraining(arguments, preset, given, photographs.preparation.size)
    runs = evaluation.label_efficiency(
        photographs.images,
        photographs.grades,
        encoder=build_encoder(preset, photographs.preparation.size) if given is None else given.encoder,
        pretrained=pretrained,
        head=preset.head,
        output_dir=output,
        protocol=preset.protocol,
        groups=photographs.groups,
        unlabeled=photographs.unlabeled,
        unlabeled_groups=photographs.unlabeled_groups,
        save_graders=True,
        n_jobs=arguments.jobs,
    )
    with cluster(arguments.dask):
        records = list(runs)
    recipes = {name: one for name, one in pretrained.items() if isinstance(one, PretextRecipe)}
    report(records, photographs, preset, recipes, arguments.license, output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_argument_group("photographs (default: synthetic)")
    source.add_argument(
        "--labels", metavar="CSV", help="CSV file of images and grades, as of APTOS or EyePACS"
    )
    source.add_argument("--images", metavar="DIR", help="folder of the images")
    source.add_argument("--image-column", help="column of image names, if its header is unknown")
    source.add_argument("--label-column", help="column of grades, 0 to 4")
    source.add_argument("--group-column", help="column of patients, whose images splits keep together")
    source.add_argument("--skip-unreadable", action="store_true", help="skip unreadable and missing images")
    source.add_argument("--npz", metavar="FILE", help="MedMNIST file, such as retinamnist.npz")
    source.add_argument("--synthetic", type=int, metavar="N", help="number of synthetic photographs")
    source.add_argument("--license", default="", help="license of the images, for the report")
    run = parser.add_argument_group("study (defaults: those of the preset)")
    run.add_argument(
        "--preset", choices=PRESETS, default="demo", help="demo: minutes; paper: as in the thesis"
    )
    run.add_argument(
        "--encoder",
        metavar="NAME",
        help='"small", "densenet121" or a saved encoder FILE.keras, whose weights are compared as well',
    )
    run.add_argument("--size", type=int, help="height and width of the images in pixels")
    add_pretraining_arguments(
        run,
        unlabeled="folder of photographs without grades for pretraining, beside those of the study; without "
        "--labels also a MedMNIST or .npy file",
    )
    run.add_argument("--pretext-epochs", type=int, help="epochs of pretraining")
    run.add_argument(
        "--imagenet",
        metavar="WEIGHTS",
        help='"imagenet" or a file of weights of --encoder densenet121, which are compared as well',
    )
    add_protocol_arguments(run)
    run.add_argument("--jobs", type=int, default=1, help="number of processes (default: 1)")
    run.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="Dask scheduler, instead of --jobs; its workers must access --output",
    )
    parser.add_argument("--output", default="dr_output", help="folder of the results (default: dr_output)")
    grade = parser.add_argument_group("predicting grades of new photographs")
    grade.add_argument("--predict", nargs="+", metavar="FILE", help="photographs to grade")
    grade.add_argument("--model", help="grader of an earlier study (default: dr_output/grader.keras)")
    arguments = parser.parse_args()
    if (arguments.labels is None) != (arguments.images is None):
        parser.error("--labels and --images must be given together")
    if arguments.model and not arguments.predict:
        parser.error("--model requires --predict")
    if arguments.synthetic is not None and (arguments.labels or arguments.npz):
        parser.error("--synthetic must not be combined with --labels or --npz")
    if arguments.npz and (arguments.labels or arguments.size is not None):
        parser.error("--npz must not be combined with --labels or --size")
    return arguments


def chosen_preset(arguments: argparse.Namespace) -> Preset:
    """Return the preset with the options that were given."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    preset = PRESETS[arguments.preset]
    own = {field.name for field in dataclasses.fields(Preset)}
    preset = dataclasses.replace(preset, **{name: given[name] for name in own & given.keys()})
    if preset.encoder not in ("small", "densenet121") and not preset.encoder.endswith(".keras"):
        raise ValueError(
            f'--encoder must be "small", "densenet121" or a file .keras. Received {preset.encoder}.'
        )
    if arguments.imagenet and preset.encoder != "densenet121":
        raise ValueError("--imagenet requires --encoder densenet121.")
    minimum = {"size": 32 if preset.encoder == "densenet121" else 16, "synthetic": 1, "pretext_epochs": 1}
    for name, lowest in minimum.items():
        if name in given and given[name] < lowest:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {lowest}. Received {given[name]}.")
    protocol = chosen_protocol(arguments, preset.protocol)
    pretext = dataclasses.replace(
        preset.pretext,
        epochs=given.get("pretext_epochs", preset.pretext.epochs),
        verbose="auto" if arguments.jobs == 1 else 0,
    )
    return dataclasses.replace(preset, protocol=protocol, pretext=pretext)


def fitting_size(encoder: keras.Model, given: int | None, default: int) -> int:
    """Return the side of the images that an encoder takes."""
    sides = {side for side in encoder.input_shape[1:-1] if side is not None}
    if len(sides) > 1 or not sides <= {given or max(sides)}:
        raise ValueError(
            f"--size must suit the encoder, which takes {encoder.input_shape[1:]}. Received {given}."
        )
    return given or max(sides, default=default)


def load_photographs(arguments: argparse.Namespace, preset: Preset) -> Photographs:
    preparation, skip = data.Preparation(size=preset.size), arguments.skip_unreadable
    if arguments.labels:
        table = data.ImageTable.from_csv(
            arguments.labels,
            arguments.images,
            image_column=arguments.image_column,
            label_column=arguments.label_column,
            group_column=arguments.group_column,
            num_grades=GRADES,
            skip_missing=skip,
            unlabeled=arguments.unlabeled,
        )
        cache = Path(arguments.output) / "cache"
        images, table = data.load_images(table, preparation, cache, skip_unreadable=skip)
        pool = None
        if table.unlabeled is not None:
            pool, rest = data.load_images(table.unlabeled, preparation, cache, skip_unreadable=skip)
            table = dataclasses.replace(table, unlabeled=rest)
        patients = known_patients(table, arguments.group_column)
        # By the bytes of the files: different files may look the same at a small size.
        table = table.group_duplicates()
        source = f"{Path(arguments.labels).name}, {Path(arguments.images).name}"
        of_pool = None if table.unlabeled is None else table.unlabeled.groups
        return Photographs(images, table.grades, table.groups, preparation, source, patients, pool, of_pool)
    if arguments.npz:
        images, grades = data.load_medmnist(arguments.npz, ("train", "val"))
        source, patients = Path(arguments.npz).name, UNKNOWN_PATIENTS
    else:
        images, grades = data.synthetic_fundus(preset.synthetic, preset.size, preset.protocol.seed)
        source, patients = "synthetic_fundus: without clinical meaning", "none, the images are synthetic"
    data.check_images(images, channels=3, rank=2)
    preparation, pool = data.Preparation(size=images.shape[1]), None
    if arguments.unlabeled and Path(arguments.unlabeled).is_file():
        pool = load_unlabeled(arguments.unlabeled)
    elif arguments.unlabeled:
        table = data.ImageTable.from_folder(arguments.unlabeled)
        pool, _ = data.load_images(table, preparation, Path(arguments.output) / "cache", skip_unreadable=skip)
    return Photographs(images, grades, None, preparation, source, patients, pool)


def known_patients(table: data.ImageTable, column: str | None) -> str:
    """Describe how many patients are known and how they are identified."""
    if table.groups is None:
        return UNKNOWN_PATIENTS
    source = f"column {column}" if column else "file names"
    return f"{len(np.unique(table.groups))} with {len(table)} images, by {source}"


def build_encoder(preset: Preset, size: int, weights: str | None = None) -> keras.Model:
    """Build an encoder that takes pixels from 0 to 255 and rescales them as its weights expect."""
    shape = (size, size, 3)
    scale, offset = np.full(3, 1 / 127.5), np.full(3, -1.0)
    if weights is not None:
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        scale, offset = 1 / (255 * deviation), -mean / deviation
    if preset.encoder == "densenet121":
        backbone = keras.applications.DenseNet121(include_top=False, weights=weights, input_shape=shape)
    else:
        backbone = keras_ssl.encoders.small_encoder(shape)
    return keras_ssl.encoders.with_rescaling(backbone, scale.tolist(), offset.tolist())


def choose_pretraining(
    arguments: argparse.Namespace, preset: Preset, given: GivenWeights | None, size: int
) -> dict[str, keras.Model | PretextRecipe]:
    """Return recipes and given encoders by name; views keep the colors, by which photographs are graded."""
    if arguments.imagenet:
        given = GivenWeights("imagenet", build_encoder(preset, size, arguments.imagenet))
    return chosen_pretraining(arguments.tasks, preset.pretext, weights=given, views=views.fundus_views())


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Run jobs in this context on the workers of a Dask scheduler, if given."""
    if address is None:
        yield
        return
    import joblib
    from distributed import Client

    with Client(address), joblib.parallel_config(backend="dask"):
        yield


def report(
    records: list[dict[str, Any]],
    photographs: Photographs,
    preset: Preset,
    recipes: dict[str, PretextRecipe],
    license: str,
    output: Path,
) -> None:
    """Write the report and print the results; save one encoder and one grader."""
    page = reports.report_study(
        records,
        output,
        title="Grading diabetic retinopathy: label efficiency of pretraining",
        grade_names=data.GRADE_NAMES,
        provenance={
            "source": photographs.source,
            "patients": photographs.patients,
            **({"license": license} if license else {}),
        },
        figures=pictures(records, photographs, preset, recipes, output),
    )
    print("\nQuadratic weighted kappa on the test photographs\n\n" + reports.format_table(records))
    print("\n" + reports.summary_text(records))
    print(f"\nReport: {page}")


def pictures(
    records: list[dict[str, Any]],
    photographs: Photographs,
    preset: Preset,
    recipes: dict[str, PretextRecipe],
    output: Path,
) -> dict[str, Any]:
    """Plot inputs of the pretext tasks, the embedding of test photographs, and predicted grades."""
    figures = {}
    test = np.array(records[0]["test_rows"])
    images, grades = photographs.images[test], photographs.grades[test]
    for name, recipe in recipes.items():
        caption = f"Images and inputs of the pretext task: {name}"
        figures[caption] = keras_ssl.show_pretext(recipe.task, images)
    name = next(iter(recipes))
    encoder_file = next(iter(sorted((output / "encoders").glob(f"{name}-*.keras"))), None)
    if encoder_file is not None:
        encoder = keras.saving.load_model(encoder_file, compile=False)
        shutil.copy(encoder_file, output / "encoder.keras")
        inputs = keras.Input(images.shape[1:])
        features = keras.Model(inputs, pool_features(encoder(inputs))).predict(images, verbose=0)
        figures["Embeddings of the test photographs of one fold by the pretrained encoder"] = (
            reports.plot_embedding(features, grades, data.GRADE_NAMES)
        )
    graders = sorted((output / "graders").glob("*.keras"))
    if graders:
        # A fine-tuned one if there is one; names begin with the task, "rotation" after "none".
        chosen = next((file for file in graders if "-initialized-" in file.name), graders[-1])
        model = keras.saving.load_model(chosen, compile=False)
        keras_ssl.Grader(model, preset.head, photographs.preparation).save(output / "grader.keras")
        some = [int(np.flatnonzero(grades == grade)[0]) for grade in np.unique(grades)]
        predicted = preset.head.decode(model.predict(images[some], verbose=0))
        heat = evaluation.grad_cam(model, images[some], head=preset.head)
        figures["Test photographs; red regions support a higher grade"] = reports.plot_graded(
            images[some], grades[some], predicted, data.GRADE_NAMES, heat
        )
    return figures


def predict(files: list[str], model: str) -> None:
    results = keras_ssl.Grader.load(model).grade(files)
    for graded in results:
        probabilities = " ".join(f"{probability:.2f}" for probability in graded.probabilities)
        result = f"{graded.grade} ({graded.name}), {'refer' if graded.referable else 'do not refer'}"
        print(f"{graded.path}: grade {result}; probabilities {probabilities}")
    if any(graded.probabilities[graded.grade] < max(graded.probabilities) for graded in results):
        print("The grade is the median of the distribution, which may differ from the most probable grade.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop}\nThe same command resumes.")

"""Grade diabetic retinopathy with few labels: pretrain by rotation, fine-tune, compare with scratch.

    python diabetic_retinopathy.py                            # synthetic images, minutes on a laptop
    python diabetic_retinopathy.py --npz retinamnist.npz --folds 5 --fractions 0.05 0.1 0.25 0.5 1
    python diabetic_retinopathy.py --labels train.csv --images train_images --preset paper
    python diabetic_retinopathy.py --preset paper --dask tcp://scheduler:8786
    python diabetic_retinopathy.py --predict photo.jpg --model dr_output/grader.keras

In each fold an encoder is pretrained on the training photographs, without their labels. Then, on each
fraction of the labels, arms of the same encoder are trained for the same number of optimizer steps
and judged on the fold's test photographs by quadratic weighted kappa (QWK): "initialized" from the pretext,
after a frozen warm-up; "frozen", where only the head learns; "random", from scratch; "imagenet", where
weights are given. report.html in the output folder holds the results. After a kill, the same command
resumes.

Eyes of one patient stay on one side of every split: patients are those of --group-column, or else of names
such as 10_left and 10_right. Console and report say how many patients are known, or that none is.
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

# Where TensorFlow is the backend it writes to the file descriptor itself when Keras imports it, whatever the
# level of its log.
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

GRADES = len(data.GRADE_NAMES)
NO_PATIENT = "no patient is known: each image is taken for a patient of its own"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The encoder, its pretraining, the head, and the protocol by which arms are compared."""

    encoder: str
    size: int
    pretext: PretextRecipe
    head: keras_ssl.layers.Head
    protocol: Protocol
    synthetic: int = 800


PRESETS = {
    # A small encoder and as many steps as a laptop does in a few minutes.
    "demo": Settings(
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
            augment=data.random_mirror,  # left and right eyes mirror one another
        ),
    ),
    # The settings of the thesis, but for the steps: there they grew with the labels.
    "paper": Settings(
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
            frozen_learning_rate=5e-5,
            cosine_decay=False,
            augment=data.random_mirror,
        ),
    ),
}


class Photographs(NamedTuple):
    """Prepared photographs with their grades, and groups that stay on one side of every split."""

    images: np.ndarray
    grades: np.ndarray
    groups: np.ndarray | None
    preparation: data.Preparation
    source: str
    patients: str


def main() -> None:
    arguments = parse_arguments()
    try:
        if arguments.predict:
            predict(arguments.predict, arguments.model or "dr_output/grader.keras")
        else:
            study(arguments, Path(arguments.output))
    except (ValueError, OSError, MemoryError, OverflowError, ImportError) as error:
        sys.exit(evaluation.error_message(error, {"skip_missing": "skip_unreadable"}))


def study(arguments: argparse.Namespace, output: Path) -> None:
    settings = chosen_settings(arguments)
    photographs = load_photographs(arguments, settings)
    print(f"Patients: {photographs.patients}")
    counts = np.bincount(photographs.grades, minlength=GRADES)
    print(f"Images of each grade: {', '.join(f'{grade}: {count}' for grade, count in enumerate(counts))}")
    runs = compare(photographs, settings, arguments, output)
    with cluster(arguments.dask):
        records = list(runs)
    report(records, photographs, settings, arguments.license, output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_argument_group("photographs (none of these: drawn ones)")
    source.add_argument("--labels", metavar="CSV", help="table of images and grades: APTOS, EyePACS, any")
    source.add_argument("--images", metavar="DIR", help="folder of the images that the table names")
    source.add_argument("--image-column", help="column of image names, where its header is not a known one")
    source.add_argument("--label-column", help="column of grades 0 to 4")
    source.add_argument("--group-column", help="column of patients, who stay on one side of every split")
    source.add_argument("--skip-unreadable", action="store_true", help="leave out bad and missing images")
    source.add_argument("--npz", metavar="FILE", help="MedMNIST file, such as retinamnist.npz")
    source.add_argument("--synthetic", type=int, metavar="N", help="how many photographs are drawn")
    source.add_argument("--license", default="", help="note on the images' license, for the report")
    run = parser.add_argument_group("settings (default: those of the preset)")
    run.add_argument("--preset", choices=PRESETS, default="demo")
    run.add_argument("--encoder", choices=("small", "densenet121"))
    run.add_argument("--size", type=int, help="height and width of the images in pixels")
    run.add_argument("--pretext-epochs", type=int)
    run.add_argument("--imagenet", metavar="WEIGHTS", help='adds that arm: "imagenet", or a file of weights')
    evaluation.add_protocol_arguments(run)
    run.add_argument("--jobs", type=int, default=1, help="processes at work at the same time (default: 1)")
    run.add_argument(
        "--dask", metavar="ADDRESS", help="scheduler of Dask, whose workers see --output, instead"
    )
    parser.add_argument("--output", default="dr_output", help="folder of all results (default: dr_output)")
    grade = parser.add_argument_group("grading new photographs")
    grade.add_argument("--predict", nargs="+", metavar="FILE", help="photographs to grade")
    grade.add_argument("--model", help="grader of an earlier run (default: dr_output/grader.keras)")
    arguments = parser.parse_args()
    if (arguments.labels is None) != (arguments.images is None):
        parser.error("--labels and --images go together")
    if arguments.model and not arguments.predict:
        parser.error("--model goes with --predict")
    if arguments.synthetic is not None and (arguments.labels or arguments.npz):
        parser.error("--synthetic goes without --labels and --npz: it draws the photographs")
    if arguments.npz and (arguments.labels or arguments.size is not None):
        parser.error("--npz goes without --labels and --size: the file says it all")
    return arguments


def chosen_settings(arguments: argparse.Namespace) -> Settings:
    """Take the preset and what the command line changes in it."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    settings = PRESETS[arguments.preset]
    own = {field.name for field in dataclasses.fields(Settings)}
    settings = dataclasses.replace(settings, **{name: given[name] for name in own & given.keys()})
    least = {"size": 32 if settings.encoder == "densenet121" else 16, "synthetic": 1, "pretext_epochs": 1}
    for name, lowest in least.items():
        if name in given and given[name] < lowest:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {lowest}. Received {given[name]}.")
    protocol = evaluation.chosen_protocol(arguments, settings.protocol)
    if arguments.imagenet and "imagenet" not in protocol.arms:
        protocol = dataclasses.replace(protocol, arms=(*protocol.arms, "imagenet"))
    pretext = dataclasses.replace(
        settings.pretext,
        epochs=given.get("pretext_epochs", settings.pretext.epochs),
        verbose="auto" if arguments.jobs == 1 else 0,
    )
    return dataclasses.replace(settings, protocol=protocol, pretext=pretext)


def load_photographs(arguments: argparse.Namespace, settings: Settings) -> Photographs:
    preparation, skip = data.Preparation(size=settings.size), arguments.skip_unreadable
    if arguments.labels:
        table = data.ImageTable.from_csv(
            arguments.labels,
            arguments.images,
            image_column=arguments.image_column,
            label_column=arguments.label_column,
            group_column=arguments.group_column,
            num_grades=GRADES,
            skip_missing=skip,
        )
        cache = Path(arguments.output) / "cache"
        images, table = data.load_images(table, preparation, cache, skip_unreadable=skip)
        patients = known_patients(table, arguments.group_column)
        # By the files' bytes: what was not the same file might look the same when it is small.
        table = table.group_duplicates()
        source = f"{Path(arguments.labels).name}, {Path(arguments.images).name}"
        return Photographs(images, table.grades, table.groups, preparation, source, patients)
    if arguments.npz:
        images, grades = data.load_medmnist(arguments.npz, ("train", "val"))
        source, patients = Path(arguments.npz).name, NO_PATIENT
    else:
        images, grades = data.synthetic_fundus(settings.synthetic, settings.size, settings.protocol.seed)
        source, patients = "synthetic_fundus: without clinical meaning", "none, the images are synthetic"
    data.check_images(images, channels=3, rank=2)
    return Photographs(images, grades, None, data.Preparation(size=images.shape[1]), source, patients)


def known_patients(table: data.ImageTable, column: str | None) -> str:
    """Describe the number of patients in the table and how they are identified."""
    if table.groups is None:
        return NO_PATIENT
    source = f"column {column}" if column else "the names of the files"
    return f"{len(np.unique(table.groups))} with {len(table)} images, by {source}"


def build_encoder(settings: Settings, size: int, weights: str | None = None) -> keras.Model:
    """Build an encoder that takes pixels from 0 to 255 and scales them itself, as its weights want it."""
    shape = (size, size, 3)
    scale, offset = np.full(3, 1 / 127.5), np.full(3, -1.0)
    if weights is not None:
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        scale, offset = 1 / (255 * deviation), -mean / deviation
    if settings.encoder == "densenet121":
        backbone = keras.applications.DenseNet121(include_top=False, weights=weights, input_shape=shape)
    else:
        backbone = keras_ssl.encoders.small_encoder(shape)
    return keras_ssl.encoders.with_rescaling(backbone, scale.tolist(), offset.tolist())


def compare(
    photographs: Photographs, settings: Settings, arguments: argparse.Namespace, output: Path
) -> Iterator[dict[str, Any]]:
    """Check everything; return the runs, each to be made as it is asked for."""
    size, imagenet = photographs.preparation.size, None
    if arguments.imagenet:
        if settings.encoder != "densenet121":
            raise ValueError("--imagenet goes with --encoder densenet121: there are no weights for others.")
        imagenet = build_encoder(settings, size, arguments.imagenet)
    return evaluation.label_efficiency(
        photographs.images,
        photographs.grades,
        encoder=build_encoder(settings, size),
        pretrained={"rotation": settings.pretext},
        head=settings.head,
        output_dir=output,
        protocol=settings.protocol,
        groups=photographs.groups,
        imagenet=imagenet,
        save_graders=True,
        n_jobs=arguments.jobs,
    )


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Spread what is run inside over the workers of a scheduler, if there is one."""
    if address is None:
        yield
        return
    import joblib
    from distributed import Client

    with Client(address), joblib.parallel_config(backend="dask"):
        yield


def report(
    records: list[dict[str, Any]], photographs: Photographs, settings: Settings, license: str, output: Path
) -> None:
    """Draw and tell what the records say; keep one encoder and one grader to work on with."""
    page = reports.report_study(
        records,
        output,
        title="Grading diabetic retinopathy: how many labels did pretraining save?",
        grade_names=data.GRADE_NAMES,
        provenance={
            "source": photographs.source,
            "patients": photographs.patients,
            **({"license": license} if license else {}),
        },
        figures=pictures(records, photographs, settings, output),
    )
    print("\nQuadratic weighted kappa on the test photographs\n\n" + reports.format_table(records))
    print("\n" + reports.summary_text(records))
    print(f"\nReport: {page}")


def pictures(
    records: list[dict[str, Any]], photographs: Photographs, settings: Settings, output: Path
) -> dict[str, Any]:
    """Draw what the pretext shows, how the encoder arranges test photographs, and graded ones."""
    figures = {}
    test = np.array(records[0]["test_rows"])
    images, grades = photographs.images[test], photographs.grades[test]
    encoder_file = next(iter(sorted((output / "encoders").glob("rotation-*.keras"))), None)
    if encoder_file is not None:
        encoder = keras.saving.load_model(encoder_file, compile=False)
        shutil.copy(encoder_file, output / "encoder.keras")
        seen, turns = settings.pretext.task.preprocess(
            keras.ops.cast(images[:8], "float32"), keras.random.SeedGenerator(0)
        )
        titles = [f"turned {90 * int(turn)}°" for turn in turns]
        figures["What the pretext task makes of photographs"] = reports.plot_pretext(
            images[:8], keras.ops.convert_to_numpy(seen), titles
        )
        features = keras.Sequential([encoder, keras.layers.GlobalAveragePooling2D()]).predict(
            images, verbose=0
        )
        figures["Test photographs of one fold as the pretrained encoder arranges them"] = (
            reports.plot_embedding(features, grades, data.GRADE_NAMES)
        )
    graders = sorted((output / "graders").glob("*.keras"))
    if graders:
        # An initialized one where there is one: names begin with the task, rotation after none.
        chosen = next((file for file in graders if "-initialized-" in file.name), graders[-1])
        model = keras.saving.load_model(chosen, compile=False)
        keras_ssl.Grader(model, settings.head, photographs.preparation).save(output / "grader.keras")
        some = [int(np.flatnonzero(grades == grade)[0]) for grade in np.unique(grades)]
        predicted = settings.head.decode(model.predict(images[some], verbose=0))
        heat = evaluation.grad_cam(model, images[some], head=settings.head)
        figures["Graded test photographs; red is what speaks for a higher grade"] = reports.plot_graded(
            images[some], grades[some], predicted, data.GRADE_NAMES, heat
        )
    return figures


def predict(files: list[str], model: str) -> None:
    found = keras_ssl.Grader.load(model).grade(files)
    for graded in found:
        probabilities = " ".join(f"{probability:.2f}" for probability in graded.probabilities)
        verdict = f"{graded.grade} ({graded.name}), {'refer' if graded.referable else 'do not refer'}"
        print(f"{graded.path}: grade {verdict}; probabilities {probabilities}")
    if any(graded.probabilities[graded.grade] < max(graded.probabilities) for graded in found):
        print("The grade is the median of the probabilities, which need not be the most probable grade.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop}\nThe same command resumes.")

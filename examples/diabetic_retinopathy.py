"""Grade diabetic retinopathy with few labels: pretrain by rotation, fine-tune, compare with scratch.

    python diabetic_retinopathy.py                            # drawn photographs, minutes on a laptop
    python diabetic_retinopathy.py --npz retinamnist.npz      # a MedMNIST file
    python diabetic_retinopathy.py --labels train.csv --images train_images --preset paper
    python diabetic_retinopathy.py --predict photo.jpg --model dr_output/grader.keras

Every photograph that is not held out for the test is used for pretraining, without its label. Then the
same encoder is fine-tuned on a fraction of the labels twice: "initialized" from the pretext, after a frozen
warm-up, and "random", from scratch. Both see the same labels for the same number of optimizer steps, and are
judged on the test photographs by quadratic weighted kappa (QWK). After a kill, the same command goes on;
`seconds` in results.csv are then those of the process that ended the run.
"""

import argparse
import csv
import dataclasses
import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# TensorFlow greets on the file descriptor itself, past all settings of its log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
screen = os.dup(2)
with open(os.devnull, "wb") as nowhere:
    os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(screen, 2)

import keras
import numpy as np

import keras_ssl
from keras_ssl import data, reports

GRADES = len(data.GRADE_NAMES)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides a result; kept in the output folder, and compared when a run goes on there."""

    encoder: str = "small"
    size: int = 48
    synthetic: int = 800
    test_fraction: float = 0.25
    seed: int = 0
    fractions: tuple[float, ...] = (0.1, 1.0)
    repetitions: int = 3
    pretext_epochs: int = 12
    pretext_rate: float = 1e-3
    pretext_batch: int = 32
    task: keras_ssl.RotationTask = keras_ssl.RotationTask()
    head: keras_ssl.layers.Head = keras_ssl.OrdinalHead(GRADES)
    epochs: int = 8
    warmup_epochs: int = 2
    steps_per_epoch: int | None = 14
    rate: float = 1e-3
    cosine: bool = True
    batch: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", tuple(self.fractions))  # a command line gives a list
        least = {"synthetic": 1, "size": 32 if self.encoder == "densenet121" else 16, "seed": 0}
        least |= {"repetitions": 1, "pretext_epochs": 1, "warmup_epochs": 0, "epochs": self.warmup_epochs + 1}
        for name, lowest in {**least, "steps_per_epoch": 1}.items():
            if (value := getattr(self, name)) is not None and value < lowest:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {lowest}. Received {value}.")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"--fractions must lie in (0, 1]. Received {self.fractions}.")


PRESETS = {
    # A small encoder and as many steps as a laptop does in a few minutes.
    "demo": Settings(),
    # The settings of the thesis; epochs are passes over the labels, as there.
    "paper": Settings(
        encoder="densenet121",
        size=224,
        fractions=(0.05, 0.1, 0.25, 0.5, 1.0),
        pretext_epochs=200,
        pretext_rate=1e-5,
        task=keras_ssl.RotationTask(
            hidden_units=(2048, 1024), batch_norm=True, dropout=0.5, pooling="max", guards=None
        ),
        head=keras_ssl.MultiHotHead(
            GRADES, hidden_units=(1024,), batch_norm=True, dropout=0.5, pooling="max"
        ),
        epochs=20,
        warmup_epochs=3,
        steps_per_epoch=None,
        rate=5e-5,
        cosine=False,
    ),
}


class Photographs(NamedTuple):
    """Prepared photographs with their grades; images of one group stay on one side of every split."""

    images: np.ndarray
    grades: np.ndarray
    groups: np.ndarray
    preparation: data.Preparation


class Parts(NamedTuple):
    """Rows of the photographs: to learn from, to watch learning on, and to judge by in the end."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labelled: dict[tuple[float, int], tuple[int, np.ndarray]]  # seed and rows by fraction and repetition


def main() -> None:
    arguments = parse_arguments()
    if arguments.predict:
        predict(arguments.predict, arguments.model)
        return
    output = Path(arguments.output)
    try:
        settings = chosen_settings(arguments)
        described = describe(settings, arguments, output)
        photographs = load_photographs(arguments, settings)
        settings = dataclasses.replace(settings, size=photographs.preparation.size)  # MedMNIST has its own
        parts = split(photographs, settings)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    output.mkdir(parents=True, exist_ok=True)
    (output / "settings.json").write_text(json.dumps(described, indent=2))
    print(
        f"{len(photographs.grades)} photographs of {settings.size} pixels: {len(parts.train)} to learn from, "
        f"{len(parts.validation)} for validation, {len(parts.test)} for the test; "
        f"grades {np.bincount(photographs.grades, minlength=GRADES).tolist()}"
    )
    pretrained = pretrain(photographs.images[np.sort([*parts.train, *parts.validation])], settings, output)
    report(compare(photographs, parts, pretrained, settings, output), output)


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
    run = parser.add_argument_group("settings (default: those of the preset)")
    run.add_argument("--preset", choices=PRESETS, default="demo")
    run.add_argument("--encoder", choices=("small", "densenet121"))
    run.add_argument("--size", type=int, help="height and width of the images in pixels")
    run.add_argument("--pretext-epochs", type=int)
    run.add_argument("--epochs", type=int, help="of fine-tuning, warm-up included")
    run.add_argument("--warmup-epochs", type=int, help="of them with a frozen encoder")
    run.add_argument("--steps-per-epoch", type=int, help="optimizer steps in an epoch of fine-tuning")
    run.add_argument("--fractions", type=float, nargs="+", help="of the labels, such as 0.05 0.1 1")
    run.add_argument("--repetitions", type=int, help="labelled subsets and random starts per fraction")
    run.add_argument("--seed", type=int)
    parser.add_argument("--output", default="dr_output", help="folder of all results (default: dr_output)")
    grade = parser.add_argument_group("grading new photographs")
    grade.add_argument("--predict", nargs="+", metavar="FILE", help="photographs to grade")
    grade.add_argument("--model", default="dr_output/grader.keras", help="grader of an earlier run")
    arguments = parser.parse_args()
    if (arguments.labels is None) != (arguments.images is None):
        parser.error("--labels and --images go together")
    if arguments.synthetic is not None and (arguments.labels or arguments.npz):
        parser.error("--synthetic goes without --labels and --npz: it draws the photographs")
    if arguments.npz and (arguments.labels or arguments.size is not None):
        parser.error("--npz goes without --labels and --size: the file says it all")
    return arguments


def chosen_settings(arguments: argparse.Namespace) -> Settings:
    names = {field.name for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    return dataclasses.replace(PRESETS[arguments.preset], **given)


def describe(settings: Settings, arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Give all that decides the results; refuse a folder that holds results of other settings."""
    given = {name: value for name, value in vars(arguments).items() if value}
    reading = ("image_column", "label_column", "group_column", "skip_unreadable")
    described = {
        **{field.name: repr(getattr(settings, field.name)) for field in dataclasses.fields(settings)},
        **{name: str(Path(given[name]).resolve()) for name in ("labels", "images", "npz") if name in given},
        **{name: given[name] for name in reading if name in given},
        "backend": keras.backend.backend(),
    }
    file = output / "settings.json"
    if file.exists() and (earlier := json.loads(file.read_text())) != described:
        changed = sorted(key for key in earlier.keys() | described if earlier.get(key) != described.get(key))
        sys.exit(f"{output} holds results of other settings ({', '.join(changed)}). Choose another --output.")
    return described


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
        grades, groups = table.grades, table.group_duplicates().groups
    else:
        if arguments.npz:
            images, grades = data.load_medmnist(arguments.npz, ("train", "val"))
        else:
            images, grades = data.synthetic_fundus(settings.synthetic, settings.size, settings.seed)
        preparation, groups = data.Preparation(size=images.shape[1]), data.duplicate_groups(images)
    data.check_images(images, channels=3, rank=2)
    return Photographs(images, data.check_grades(grades, GRADES), groups, preparation)


def split(photographs: Photographs, settings: Settings) -> Parts:
    grades, groups = photographs.grades, photographs.groups
    rest, test = data.stratified_split(grades, settings.test_fraction, groups, settings.seed)
    train, validation = data.stratified_split(grades[rest], 0.15, groups[rest], settings.seed)
    labelled, rows = {}, rest[train]
    for repetition, fraction in itertools.product(range(settings.repetitions), settings.fractions):
        seed = settings.seed + 1000 * (repetition + 1)
        subset = data.labelled_subset(grades[rows], fraction, groups[rows], seed)
        labelled[fraction, repetition] = seed, rows[subset]
    return Parts(rows, rest[validation], test, labelled)


def build_encoder(settings: Settings) -> keras.Model:
    """Build the encoder with new weights; it takes pixels from 0 to 255 and scales them itself."""
    shape = (settings.size, settings.size, 3)
    inputs = keras.Input(shape, name="photographs")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scaled")(inputs)
    if settings.encoder == "densenet121":
        backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=shape)
    else:
        backbone = keras_ssl.encoders.small_encoder(shape)
    return keras.Model(inputs, backbone(scaled), name="encoder")


def pretrain(images: np.ndarray, settings: Settings, output: Path) -> keras.Model:
    """Train an encoder to tell how photographs are rotated; labels play no part."""
    print(f"\nPretext: rotation, {len(images)} photographs without labels")
    keras.utils.set_random_seed(settings.seed)
    encoder = build_encoder(settings)
    model = keras_ssl.SelfSupervisedModel(settings.task, encoder, seed=settings.seed)
    model.compile(keras.optimizers.Adam(settings.pretext_rate), jit_compile=keras_ssl.default_jit_compile())
    model.fit_pretext(
        images,
        batch_size=settings.pretext_batch,
        epochs=settings.pretext_epochs,
        callbacks=[keras.callbacks.CSVLogger(output / "pretext.csv")],
        backup_dir=output / "backups" / "pretext",
    )
    encoder.save(output / "encoder.keras")
    show_pretext(model, images[:8], output)
    return encoder


def show_pretext(model: keras_ssl.SelfSupervisedModel, images: np.ndarray, output: Path) -> None:
    pixels = keras.ops.cast(images, "float32")
    seen, turns = map(
        keras.ops.convert_to_numpy, model.task.preprocess(pixels, keras.random.SeedGenerator(0))
    )
    answers = keras.ops.convert_to_numpy(model.network(seen, training=False)).argmax(-1)
    titles = [f"turned {90 * k}°\nsays {90 * said}°" for k, said in zip(turns, answers, strict=True)]
    reports.plot_pretext(images, seen, titles).savefig(output / "pretext.png")


def compare(
    photographs: Photographs, parts: Parts, pretrained: keras.Model, settings: Settings, output: Path
) -> list[dict[str, Any]]:
    """Fine-tune both arms on every fraction of the labels; each run is written down as it ends."""
    (output / "runs").mkdir(exist_ok=True)
    names = [(arm, *share) for share in parts.labelled for arm in ("initialized", "random")]
    print(f"\nFine-tuning: {len(names)} runs of {settings.epochs} epochs")
    bar = keras.utils.Progbar(len(names) * settings.epochs, unit_name="epoch")
    records = []
    for number, (arm, fraction, repetition) in enumerate(names):
        file = output / "runs" / f"{arm}-{fraction:g}-{repetition}.json"
        if not file.exists():
            show = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs, done=number * settings.epochs: bar.update(done + epoch + 1)
            )
            run = (arm, fraction, repetition)
            record = fine_tune(photographs, parts, pretrained, settings, run, output, show)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(record))
            partial.rename(file)
            shutil.rmtree(output / "backups" / file.stem, ignore_errors=True)
        else:
            bar.update((number + 1) * settings.epochs)
        records.append(json.loads(file.read_text()))
        with open(output / "results.csv", "w", newline="") as table:
            columns = [name for name in records[0] if name not in ("confusion", "history")]
            writer = csv.DictWriter(table, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(records)
    return records


def fine_tune(
    photographs: Photographs,
    parts: Parts,
    pretrained: keras.Model,
    settings: Settings,
    run: tuple[str, float, int],
    output: Path,
    show: keras.callbacks.Callback,
) -> dict[str, Any]:
    """Train one arm on one labelled subset and judge it on the test photographs."""
    arm, fraction, repetition = run
    images, grades = photographs.images, photographs.grades
    seed, rows = parts.labelled[fraction, repetition]
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(settings)
    if arm == "initialized":
        encoder.set_weights(pretrained.get_weights())
    # A frozen warm-up spares what was learnt; from scratch there is nothing to spare.
    frozen = settings.warmup_epochs if arm == "initialized" else 0
    steps = settings.epochs * (settings.steps_per_epoch or -(-len(rows) // settings.batch))
    decay = keras.optimizers.schedules.CosineDecay(settings.rate, steps)
    optimizer = keras.optimizers.Adam(decay if settings.cosine else settings.rate)
    tuner = keras_ssl.FineTuner(encoder, settings.head, warmup_epochs=frozen, optimizer=optimizer, seed=seed)
    start = time.perf_counter()
    history = tuner.fit(
        images[rows],
        grades[rows],
        validation_data=(images[parts.validation], grades[parts.validation]),
        batch_size=settings.batch,
        epochs=settings.epochs,
        steps_per_epoch=settings.steps_per_epoch,
        augment=data.random_mirror,  # left and right eyes mirror one another
        callbacks=[show],
        backup_dir=output / "backups" / f"{arm}-{fraction:g}-{repetition}",
        verbose=0,
    )
    seconds = time.perf_counter() - start
    if arm == "initialized" and repetition == 0 and fraction == max(settings.fractions):
        keras_ssl.Grader(tuner.model, settings.head, photographs.preparation).save(output / "grader.keras")
    predicted = tuner.predict(images[parts.test])
    confusion = keras_ssl.metrics.grade_confusion(grades[parts.test], predicted, GRADES)
    return {
        "arm": arm,
        "fraction": fraction,
        "labels": len(rows),
        "repetition": repetition,
        "steps": steps,
        "qwk": float(keras_ssl.quadratic_weighted_kappa(confusion)),
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "seconds": round(seconds, 1),
        "confusion": confusion.tolist(),
        "history": history.history,
    }


def report(records: list[dict[str, Any]], output: Path) -> None:
    print("\nQuadratic weighted kappa on the test photographs\n\n" + reports.format_table(records))
    reports.plot_label_efficiency(records).savefig(output / "label_efficiency.png")
    histories: dict[tuple[str, float], list[list[float]]] = {}
    for record in records:
        values = record["history"]["val_grade_accuracy"]
        histories.setdefault((record["arm"], record["fraction"]), []).append(values)
    accuracy = "accuracy (share of right grades), validation"
    reports.plot_convergence(histories, accuracy).savefig(output / "convergence.png")
    most = max(record["fraction"] for record in records)
    confusions: dict[str, np.ndarray] = {}
    for record in records:
        if record["fraction"] == most:
            title = f"{record['arm']}, {100 * most:g} % of the labels, all runs"
            confusions[title] = confusions.get(title, 0) + np.array(record["confusion"])
    reports.plot_confusion(confusions, data.GRADE_NAMES).savefig(output / "confusion.png")
    print(f"\nWritten to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


def predict(files: list[str], model: str) -> None:
    for graded in keras_ssl.Grader.load(model).grade(files):
        probabilities = " ".join(f"{probability:.2f}" for probability in graded.probabilities)
        verdict = f"{graded.grade} ({graded.name}), {'refer' if graded.referable else 'do not refer'}"
        print(f"{graded.path}: grade {verdict}; probabilities {probabilities}")


if __name__ == "__main__":
    main()

"""One pretraining or one run of a study, as a process does it, here or elsewhere."""

import dataclasses
import importlib.metadata
import json
import math
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_ssl
from keras_ssl._atomic import atomic_write
from keras_ssl._model_files import load_model
from keras_ssl._seeding import seeded
from keras_ssl.callbacks._base import ValidationScore
from keras_ssl.data.inputs import image_batches
from keras_ssl.distribution import predict
from keras_ssl.evaluation.protocol import Protocol, Recipe, Run, Split, run_seed
from keras_ssl.evaluation.scoring import Judge, judge_for
from keras_ssl.heads.base import Head, PooledHead
from keras_ssl.layers.pooling import pool_features
from keras_ssl.models.fine_tuner import FineTuner


@dataclasses.dataclass(frozen=True)
class Study:
    """Data and settings that all runs of a study share; holds no Keras model, so that it can be pickled.

    Args:
        images: array `(n, *spatial, channels)`, memory-mapped or not.
        labels: checked grades, shape `(n,)`, or masks, shape `(n, *spatial)`.
        groups: a group number per image.
        head: what is predicted.
        protocol: the settings.
        folder: where encoders and results lie; all processes must see it.
        given: names of the tasks whose encoder was given and not pretrained here.
        save_graders: whether the models that saw the most labels are kept.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    head: Head
    protocol: Protocol
    folder: Path
    given: tuple[str, ...]
    save_graders: bool

    @property
    def judge(self) -> Judge:
        """What knows the labels of the head."""
        return judge_for(self.head)

    def rates(self, arm: str) -> tuple[float, ...]:
        """Return the learning rates that runs of an arm are made with."""
        return self.protocol.rates(arm, pooled=isinstance(self.head, PooledHead))

    def chooses(self, arm: str) -> bool:
        """Return True if runs of an arm use validation labels to choose anything."""
        return self.judge.settles or len(self.rates(arm)) > 1 or self.protocol.select_by is not None

    def encoder_file(self, task: str, split: Split) -> Path:
        """Name the file of the encoder that runs of a task and a split begin with."""
        if task in (*self.given, "imagenet", "none"):
            name = task
        elif self.protocol.pretrain_on == "all":
            name = f"{task}-all"
        elif self.protocol.folds == 1:
            name = f"{task}-f0"
        else:
            name = f"{task}-r{split.repetition}-f{split.fold}"
        return self.folder / "encoders" / f"{name}.keras"

    def load_encoder(self, task: str, split: Split, seed: int) -> keras.Model:
        """Load the encoder of a task; for "none" make it with new weights that follow from `seed`."""
        with seeded(seed):
            encoder = load_model(self.encoder_file(task, split), "encoder")
            return _renewed(encoder, self.images.shape[1:]) if task == "none" else encoder

    def pretrained_on(self, task: str) -> str:
        """Tell which images an encoder was pretrained on, as records say it."""
        if task == "none":
            return "none"
        return "given" if task in (*self.given, "imagenet") else self.protocol.pretrain_on


def _renewed(encoder: keras.Model, shape: tuple[int, ...]) -> keras.Model:
    """Make an encoder anew with other weights; what was adapted to data and is not trained stays."""
    fresh = type(encoder).from_config(_without_seeds(encoder.get_config()))
    fresh(keras.Input(shape))
    for old, new in zip(_layers(encoder), _layers(fresh), strict=True):
        if old.trainable and old.weights and not old.trainable_weights:
            store: dict[str, Any] = {}
            old.save_own_variables(store)
            new.load_own_variables(store)
    return fresh


def _without_seeds(config: Any) -> Any:
    """Take the seeds out of initializers, with which every start would be the same."""
    if isinstance(config, dict):
        inner = {key: _without_seeds(value) for key, value in config.items()}
        if config.get("module") == "keras.initializers" and "seed" in config["config"]:
            inner["config"]["seed"] = None
        return inner
    return [_without_seeds(value) for value in config] if isinstance(config, (list, tuple)) else config


def _layers(layer: keras.Layer) -> list[keras.Layer]:
    inner = getattr(layer, "layers", None)
    return [leaf for part in inner for leaf in _layers(part)] if inner else [layer]


def pretrain(study: Study, task: str, recipe: Recipe, split: Split) -> str:
    """Pretrain a new encoder on the training images of a split and save it; return a line that says so.

    Where the loss becomes NaN with every seed, no encoder is left, and the runs that want it fail.
    """
    file = study.encoder_file(task, split)
    rows = np.arange(len(study.images)) if study.protocol.pretrain_on == "all" else split.train
    start = time.perf_counter()
    backup = study.folder / "backups" / file.stem
    for attempt in range(study.protocol.attempts):
        seed = run_seed(study.protocol.seed, split, attempt)
        encoder = study.load_encoder("none", split, seed)
        try:
            history = recipe(encoder, study.images[rows], seed, backup)
            break
        except FloatingPointError:
            shutil.rmtree(backup, ignore_errors=True)
    else:
        return f"{file.stem}: pretraining failed, the loss became NaN with {attempt + 1} seeds"
    seconds = round(time.perf_counter() - start, 1)
    said = {"task": task, "images": len(rows), "seconds": seconds, "history": history or {}}
    atomic_write(file.with_suffix(".json"), lambda path: path.write_text(json.dumps(said)))
    atomic_write(file, encoder.save)
    shutil.rmtree(backup, ignore_errors=True)
    return f"{file.stem}: pretrained on {len(rows)} images without labels, {seconds:.0f} s"


def attempt(name: str, job: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """Do a job; an error is returned beside its name, so that it costs no other job."""
    try:
        return name, job(*arguments)
    except (OSError, ValueError) as error:
        return name, error
    except Exception as error:
        # Others need not survive the way to another process.
        return name, RuntimeError(f"{type(error).__name__}: {error}")


def run_arm(study: Study, run: Run) -> dict[str, Any]:
    """Train one arm on one labeled subset, judge it on the test images, and return its record."""
    start = time.perf_counter()
    outcome, attempt, seed = None, 0, run_seed(study.protocol.seed, run.split, 0)
    pretrained = study.encoder_file(run.task, run.split).exists()
    while pretrained and outcome is None and attempt < study.protocol.attempts:
        seed = run_seed(study.protocol.seed, run.split, attempt)
        attempt += 1
        outcome = _best_of_rates(study, run, seed, attempt)
    protocol = study.protocol
    record = {
        "task": run.task,
        "arm": run.arm,
        "fraction": run.fraction,
        "labels": len(run.labeled),
        "repetition": run.split.repetition,
        "fold": run.split.fold,
        "seed": seed,
        "status": "failed" if outcome is None else "ok",
        "attempts": attempt,
        "steps": protocol.steps,
        "warmup_steps": protocol.warmup_steps if run.arm in ("initialized", "imagenet") else 0,
        "learning_rate": outcome.rate if outcome else study.rates(run.arm)[0],
        "pretrained_on": study.pretrained_on(run.task),
        "train_images": len(run.split.train),
        "validation_images": len(run.split.validation),
        "validation_labels": len(run.split.validation) if study.chooses(run.arm) else 0,
        "test_images": len(run.split.test),
        **(_judge(study, run, outcome, seed) if outcome else dict.fromkeys(study.judge.metrics)),
        "seconds": round(time.perf_counter() - start, 1),
        **_versions(),
    }
    return record


class _Outcome(NamedTuple):
    tuner: FineTuner
    images: np.ndarray
    head: Head
    rate: float
    score: float
    curves: dict[str, list[float]]
    best_epoch: int


def _best_of_rates(study: Study, run: Run, seed: int, attempt: int) -> _Outcome | None:
    """Train with every learning rate there is to try; keep the best on the validation images."""
    best = None
    for rate in study.rates(run.arm):
        try:
            outcome = _train(study, run, seed, rate, f"{run.name}-{attempt}-{rate:g}")
        except FloatingPointError:
            continue
        # A score may be undefined, as Dice is where there is no foreground at all.
        if best is None or outcome.score > best.score or math.isnan(best.score):
            best = outcome
    return best


def _train(study: Study, run: Run, seed: int, rate: float, name: str) -> _Outcome:
    protocol, on_features = study.protocol, _on_features(study, run)
    if on_features:
        images, encoder = _features(study, run), keras.layers.Identity()
    else:
        images, encoder = study.images, study.load_encoder(run.task, run.split, seed)
    schedule = keras.optimizers.schedules.CosineDecay(rate, protocol.steps) if protocol.cosine_decay else rate
    tuner = FineTuner(
        encoder,
        study.head,
        warmup_epochs=protocol.warmup_validations if run.arm in ("initialized", "imagenet") else 0,
        encoder_trainable=on_features or run.arm != "frozen",
        optimizer=keras.optimizers.Adam(schedule),
        input_shape=images.shape[1:],
        seed=seed,
    )
    validation = images[run.split.validation], study.labels[run.split.validation]
    selections = []
    if protocol.select_by is not None:
        selections = [_Selection(tuner, study.judge, protocol.select_by, validation)]
    history = tuner.fit(
        images[run.labeled],
        study.labels[run.labeled],
        validation_data=validation,
        batch_size=protocol.batch_size,
        epochs=protocol.validations,
        steps_per_epoch=protocol.steps // protocol.validations,
        augment=protocol.augment,
        callbacks=selections,
        backup_dir=study.folder / "backups" / run.name / name,
        verbose=0,
    ).history
    judge, best_epoch = study.judge, protocol.validations - 1
    for selection in selections:
        # From the history, which is whole also where the run had ended in another process.
        scores = np.array(history[selection.name])
        if not np.isnan(scores).all():
            best_epoch = int(np.nanargmax(scores))
    head = judge.settle(validation[1], judge.outputs(tuner, validation[0])) if judge.settles else study.head
    metric = protocol.tune_by or judge.choices[0]
    score = judge.score(metric, tuner, *validation) if protocol.tune else math.nan
    return _Outcome(tuner, images, head, rate, score, history, best_epoch)


class _Selection(ValidationScore):
    """Logs the score that weights are chosen by, and ends with the weights of its best epoch."""

    def __init__(self, tuner: FineTuner, judge: Judge, metric: str, data: tuple[np.ndarray, np.ndarray]):
        super().__init__(data, f"val_selection_{metric}", restore_best_weights=True, batch_size=64)
        self.tuner, self.judge, self.metric = tuner, judge, metric

    def measure(self) -> dict[str, float]:
        return {self.name: self.judge.score(self.metric, self.tuner, *self.validation_data)}


def _on_features(study: Study, run: Run) -> bool:
    """Whether the head alone is trained, on features that are computed once."""
    of_features = isinstance(study.head, PooledHead)
    return of_features and run.arm == "frozen" and study.protocol.augment is None


def _features(study: Study, run: Run) -> np.ndarray:
    """Pool what a frozen encoder gives for every image, once for all runs, as images of one pixel."""
    assert isinstance(study.head, PooledHead)
    encoder_file = study.encoder_file(run.task, run.split)
    file = study.folder / "features" / f"{encoder_file.stem}.npy"
    if not file.exists():
        encoder = study.load_encoder(run.task, run.split, seed=0)
        inputs = keras.Input(study.images.shape[1:])
        model = keras.Model(inputs, pool_features(encoder(inputs), study.head.pooling))
        batches = image_batches(study.images, study.images.shape[1:], batch_size=64)
        features = predict(model, batches)
        atomic_write(file, lambda path: np.save(path, features))
    # As images of one pixel they are pooled to themselves, so that the same head can stand on them.
    features = np.load(file)
    return features.reshape(len(features), *[1] * (study.images.ndim - 2), -1)


def _judge(study: Study, run: Run, outcome: _Outcome, seed: int) -> dict[str, Any]:
    """Score what was trained on the test images, which nothing has seen until now."""
    test, judge = run.split.test, study.judge
    outputs, groups = judge.outputs(outcome.tuner, outcome.images[test]), study.groups[test]
    if study.save_graders and run.fraction == study.protocol.fractions[-1] and not _on_features(study, run):
        outcome.tuner.save(study.folder / "graders" / f"{run.name}.keras")
    every = study.protocol.steps // study.protocol.validations
    return {
        **judge.judge(outcome.head, study.labels[test], outputs, groups, seed),
        "test_rows": test.tolist(),
        "test_groups": groups.tolist(),
        "selected_step": every * (outcome.best_epoch + 1),
        "curve_steps": [every * (index + 1) for index in range(study.protocol.validations)],
        **{name: outcome.curves[logged] for name, logged in judge.curves.items()},
    }


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    return {
        "keras_ssl": keras_ssl.__version__,
        "keras": keras.__version__,
        "backend": backend,
        "backend_version": importlib.metadata.version(backend),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

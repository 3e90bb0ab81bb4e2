"""One pretraining or one training run of a study, each a job that any process can do."""

import dataclasses
import functools
import importlib.metadata
import json
import math
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import keras
import numpy as np

import keras_ssl
from keras_ssl._atomic import atomic_write
from keras_ssl._model_files import load_model
from keras_ssl._seeding import seeded
from keras_ssl._types import Images, Record, Structure, Tensor
from keras_ssl.callbacks._base import ValidationScore
from keras_ssl.data.fit_inputs import image_batches
from keras_ssl.data.lazy_collections import LazyImages
from keras_ssl.distribution import predict
from keras_ssl.encoders._checks import encoder_for
from keras_ssl.evaluation.protocol import Protocol, Recipe, Run, Split, run_seed, starting_weights
from keras_ssl.evaluation.scoring import Scorer, scorer_for
from keras_ssl.heads.base import Head, PooledHead
from keras_ssl.layers.pooling import pool_features
from keras_ssl.models.fine_tuner import FineTuner, LearningRate


class Pool(NamedTuple):
    """Images without labels for pretraining.

    Attributes:
        images: array, memory-mapped or not, or `LazyImages`.
        groups: group number of each image, in the numbering of the study's groups.
        copies: whether each image is a copy of a labeled one.
        on_disk: whether the images stay on disk; in memory, other processes may map them from a file.
    """

    images: Images
    groups: np.ndarray
    copies: np.ndarray
    on_disk: bool


@dataclasses.dataclass(frozen=True)
class Study:
    """Data and configuration that all runs share; holds no Keras model, so that it can be pickled.

    Args:
        images: array `(n, *spatial, channels)`, memory-mapped or not.
        labels: validated grades, shape `(n,)`, or masks, shape `(n, *spatial)`.
        groups: group number of each image.
        head: the head.
        protocol: the protocol.
        folder: folder of encoders and results, accessible to all processes.
        given: names of the tasks whose encoder was passed in and is not pretrained here.
        save_graders: whether to keep the models trained on the largest fraction of the labels.
        pool: further images for pretraining, if any.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    head: Head
    protocol: Protocol
    folder: Path
    given: tuple[str, ...]
    save_graders: bool
    pool: Pool | None = None

    def pretrain_rows(self, split: Split) -> np.ndarray:
        """Return the rows of the labeled images that pretraining sees in a split."""
        return np.arange(len(self.images)) if self.protocol.pretrain_on == "all" else split.train

    def pool_rows(self, split: Split) -> np.ndarray:
        """Return the rows of the pool that pretraining sees in a split.

        Left out are copies of labeled images, and images of a group with a validation or test image.
        """
        if self.pool is None:
            return np.arange(0)
        left_out = self.pool.copies
        if self.protocol.pretrain_on != "all":
            held_out = self.groups[np.concatenate([split.validation, split.test])]
            left_out = left_out | np.isin(self.pool.groups, held_out)
        return np.flatnonzero(~left_out)

    def pretrain_images(self, split: Split) -> Images:
        """Return all images of the pretraining of a split, without loading a pool that is on disk."""
        rows, pool_rows = self.pretrain_rows(split), self.pool_rows(split)
        if self.pool is None or not len(pool_rows):
            return self.images[rows]
        if self.pool.on_disk:
            read = functools.partial(_read_joined, self.images, rows, self.pool.images, pool_rows)
            return LazyImages(read, (len(rows) + len(pool_rows), *self.images.shape[1:]), self.images.dtype)
        return np.concatenate([self.images[rows], self.pool.images[pool_rows]])

    @property
    def scorer(self) -> Scorer:
        """Scorer of the head."""
        return scorer_for(self.head)

    def learning_rates(self, arm: str) -> tuple[float, ...]:
        """Return the learning rates to train an arm with."""
        return self.protocol.learning_rates(arm, pooled=isinstance(self.head, PooledHead))

    def uses_validation_labels(self, arm: str) -> bool:
        """Return True if runs of an arm choose thresholds, learning rates or weights on validation labels."""
        chooses_weights = self.protocol.select_by is not None
        return self.scorer.fits_thresholds or len(self.learning_rates(arm)) > 1 or chooses_weights

    def encoder_file(self, task: str, split: Split) -> Path:
        """Return the path of the encoder from which runs of a task and a split start."""
        if task in (*self.given, "none"):
            name = task
        elif self.protocol.pretrain_on == "all":
            name = f"{task}-all"
        elif self.protocol.folds == 1:
            name = f"{task}-f0"
        else:
            name = f"{task}-r{split.repetition}-f{split.fold}"
        return self.folder / "encoders" / f"{name}.keras"

    def load_encoder(self, task: str, split: Split, seed: int) -> keras.Model:
        """Load the encoder of a task; for "none", initialize new weights from `seed`."""
        with seeded(seed):
            encoder = load_model(self.encoder_file(task, split), "encoder")
            return _reinitialized(encoder, self.images.shape[1:]) if task == "none" else encoder

    def pretrained_on(self, task: str) -> str:
        """Return the value of `pretrained_on` in records."""
        if task == "none":
            return "none"
        return "given" if task in self.given else self.protocol.pretrain_on

    def start(self, task: str) -> str:
        """Return the given encoder whose weights a task starts from; `"none"` for new weights."""
        return starting_weights(task, self.given)


def _read_joined(
    first: Images, first_rows: np.ndarray, second: Images, second_rows: np.ndarray, row: int
) -> np.ndarray:
    """Read a row of the chosen rows of two arrays, one after the other."""
    if row < len(first_rows):
        return first[int(first_rows[row])]
    return second[int(second_rows[row - len(first_rows)])]


def _reinitialized(encoder: keras.Model, shape: tuple[int, ...]) -> keras.Model:
    """Build the encoder again with new weights; keep state adapted to data, as of `Normalization`.

    All new weights are trained, also those of layers that were saved as frozen: their weights are gone.
    """
    encoder.trainable = True
    new = type(encoder).from_config(_without_seeds(encoder.get_config()))
    new(keras.Input(shape))
    for source, target in zip(_leaf_layers(encoder), _leaf_layers(new), strict=True):
        if source.weights and not source.trainable_weights:
            store: dict[str, Tensor] = {}
            source.save_own_variables(store)
            target.load_own_variables(store)
    return new


def _without_seeds(config: Structure) -> Structure:
    """Remove the seeds of initializers, with which all runs would start from the same weights."""
    if isinstance(config, dict):
        inner = {key: _without_seeds(value) for key, value in config.items()}
        if config.get("module") == "keras.initializers" and "seed" in config["config"]:
            inner["config"]["seed"] = None
        return inner
    return [_without_seeds(value) for value in config] if isinstance(config, (list, tuple)) else config


def _leaf_layers(layer: keras.Layer) -> list[keras.Layer]:
    inner = getattr(layer, "layers", None)
    return [leaf for part in inner for leaf in _leaf_layers(part)] if inner else [layer]


def pretrain(study: Study, task: str, recipe: Recipe, split: Split) -> str:
    """Pretrain an encoder on the training images of a split and save it; return a line to print.

    If the loss becomes NaN with every seed, no encoder is saved, and the runs that need it fail.
    """
    file = study.encoder_file(task, split)
    images, unlabeled = study.pretrain_images(split), len(study.pool_rows(split))
    start = time.perf_counter()
    backup = study.folder / "backups" / file.stem
    for attempt in range(study.protocol.attempts):
        seed = run_seed(study.protocol.seed, split, attempt)
        encoder = study.load_encoder(study.start(task), split, seed)
        try:
            history = recipe(encoder, images, seed, backup)
            break
        except FloatingPointError:
            shutil.rmtree(backup, ignore_errors=True)
    else:
        return f"{file.stem}: pretraining failed, the loss became NaN with {attempt + 1} seeds"
    seconds = round(time.perf_counter() - start, 1)
    summary = {"task": task, "images": len(images), "seconds": seconds, "history": history or {}}
    atomic_write(file.with_suffix(".json"), lambda path: path.write_text(json.dumps(summary)))
    atomic_write(file, encoder.save)
    shutil.rmtree(backup, ignore_errors=True)
    of_pool = f", {unlabeled} of them from the pool" if unlabeled else ""
    return f"{file.stem}: pretrained on {len(images)} images without labels{of_pool}, {seconds:.0f} s"


_Result = TypeVar("_Result")


def run_job(name: str, job: Callable[..., _Result], *arguments: object) -> tuple[str, _Result | Exception]:
    """Run a job and return its name and result, or its error, so that other jobs go on."""
    try:
        return name, job(*arguments)
    except (OSError, ValueError) as error:
        return name, error
    except Exception as error:
        # Errors of other classes may not survive pickling on the way to another process.
        return name, RuntimeError(f"{type(error).__name__}: {error}")


def run_arm(study: Study, run: Run) -> Record:
    """Train one arm on one labeled subset, score it on the test images, and return the record."""
    start = time.perf_counter()
    outcome, attempt, seed = None, 0, run_seed(study.protocol.seed, run.split, 0)
    pretrained = study.encoder_file(run.task, run.split).exists()
    while pretrained and outcome is None and attempt < study.protocol.attempts:
        seed = run_seed(study.protocol.seed, run.split, attempt)
        attempt += 1
        outcome = _train_with_best_rate(study, run, seed, attempt)
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
        "warmup_steps": protocol.warmup_steps if run.arm == "initialized" else 0,
        "learning_rate": outcome.rate if outcome else study.learning_rates(run.arm)[0],
        "start": study.start(run.task),
        "pretrained_on": study.pretrained_on(run.task),
        **_pretrain_counts(study, run),
        "train_images": len(run.split.train),
        "validation_images": len(run.split.validation),
        "validation_labels": len(run.split.validation) if study.uses_validation_labels(run.arm) else 0,
        "test_images": len(run.split.test),
        **(_test_results(study, run, outcome, seed) if outcome else dict.fromkeys(study.scorer.metrics)),
        "seconds": round(time.perf_counter() - start, 1),
        **_versions(),
    }
    return record


def _pretrain_counts(study: Study, run: Run) -> Record:
    """Count the images of the pretraining of a run in this study, and those of the pool left out of it."""
    if run.task in ("none", *study.given):
        return {"pretrain_images": 0, "pool_left_out": 0}
    used = len(study.pool_rows(run.split))
    return {
        "pretrain_images": len(study.pretrain_rows(run.split)) + used,
        "pool_left_out": 0 if study.pool is None else len(study.pool.groups) - used,
    }


class _Outcome(NamedTuple):
    tuner: FineTuner
    images: np.ndarray
    head: Head
    rate: float
    score: float
    curves: dict[str, list[float]]
    best_epoch: int


def _train_with_best_rate(study: Study, run: Run, seed: int, attempt: int) -> _Outcome | None:
    """Train with each learning rate; return the outcome with the best validation score."""
    best = None
    for rate in study.learning_rates(run.arm):
        try:
            outcome = _train(study, run, seed, rate, f"{run.name}-{attempt}-{rate:g}")
        except FloatingPointError:
            continue
        # A score may be NaN, as Dice is where there is no foreground at all.
        if best is None or outcome.score > best.score or math.isnan(best.score):
            best = outcome
    return best


def _train(study: Study, run: Run, seed: int, rate: float, name: str) -> _Outcome:
    protocol, on_features = study.protocol, _trains_on_features(study, run)
    if on_features:
        images, encoder = _features(study, run), keras.layers.Identity()
    else:
        images, encoder = study.images, study.load_encoder(run.task, run.split, seed)
    encoder_rate = None
    if not on_features and protocol.encoder_learning_rate is not None:
        # Tuning multiplies both rates.
        encoder_rate = rate * protocol.encoder_learning_rate / protocol.learning_rate
    tuner = FineTuner(
        encoder,
        study.head,
        warmup_epochs=protocol.warmup_validations if run.arm == "initialized" else 0,
        encoder_trainable=on_features or run.arm != "frozen",
        learning_rate=_schedule(protocol, rate),
        encoder_learning_rate=None if encoder_rate is None else _schedule(protocol, encoder_rate),
        layer_decay=1.0 if on_features else protocol.layer_decay,
        weight_decay=protocol.weight_decay,
        ema_momentum=protocol.ema_momentum,
        input_shape=images.shape[1:],
        seed=seed,
    )
    validation = images[run.split.validation], study.labels[run.split.validation]
    selections = []
    if protocol.select_by is not None:
        selections = [_Selection(tuner, study.scorer, protocol.select_by, validation)]
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
    scorer, best_epoch = study.scorer, protocol.validations - 1
    for selection in selections:
        # From the history, which is complete even if another process began this run.
        scores = np.array(history[selection.name])
        if not np.isnan(scores).all():
            best_epoch = int(np.nanargmax(scores))
    head = study.head
    if scorer.fits_thresholds:
        head = scorer.fit_head(validation[1], scorer.predict(tuner, validation[0]))
    metric = protocol.tune_by or scorer.validation_metrics[0]
    score = scorer.score(metric, tuner, *validation) if protocol.tune else math.nan
    return _Outcome(tuner, images, head, rate, score, history, best_epoch)


def _schedule(protocol: Protocol, rate: float) -> LearningRate:
    return keras.optimizers.schedules.CosineDecay(rate, protocol.steps) if protocol.cosine_decay else rate


class _Selection(ValidationScore):
    """Logs the validation score named by `select_by` and restores the weights of the best epoch."""

    def __init__(self, tuner: FineTuner, scorer: Scorer, metric: str, data: tuple[np.ndarray, np.ndarray]):
        super().__init__(data, f"val_selection_{metric}", restore_best_weights=True, batch_size=64)
        self.tuner, self.scorer, self.metric = tuner, scorer, metric

    def measure(self) -> dict[str, float]:
        return {self.name: self.scorer.score(self.metric, self.tuner, *self.validation_data)}


def _trains_on_features(study: Study, run: Run) -> bool:
    """Return True if only the head is trained, on features that are computed once."""
    return isinstance(study.head, PooledHead) and run.arm == "frozen" and study.protocol.augment is None


def _features(study: Study, run: Run) -> np.ndarray:
    """Compute the pooled features of a frozen encoder once for all runs, as images of one pixel."""
    assert isinstance(study.head, PooledHead)
    encoder_file = study.encoder_file(run.task, run.split)
    file = study.folder / "features" / f"{encoder_file.stem}.npy"
    if not file.exists():
        encoder = study.load_encoder(run.task, run.split, seed=0)
        inputs = keras.Input(study.images.shape[1:])
        features = encoder_for(encoder, study.images.shape[1:])(inputs)
        model = keras.Model(inputs, pool_features(features, study.head.pooling))
        batches = image_batches(study.images, study.images.shape[1:], batch_size=64)
        features = predict(model, batches)
        atomic_write(file, lambda path: np.save(path, features))
    # Pooling leaves an image of one pixel unchanged, so the same head can be attached.
    features = np.load(file)
    return features.reshape(len(features), *[1] * (study.images.ndim - 2), -1)


def _test_results(study: Study, run: Run, outcome: _Outcome, seed: int) -> Record:
    """Score a trained model on the test images, which nothing has used before."""
    test, scorer = run.split.test, study.scorer
    outputs, groups = scorer.predict(outcome.tuner, outcome.images[test]), study.groups[test]
    if (
        study.save_graders
        and run.fraction == study.protocol.fractions[-1]
        and not _trains_on_features(study, run)
    ):
        outcome.tuner.save(study.folder / "graders" / f"{run.name}.keras")
    every = study.protocol.steps // study.protocol.validations
    return {
        **scorer.test_scores(outcome.head, study.labels[test], outputs, groups, seed),
        "test_rows": test.tolist(),
        "test_groups": groups.tolist(),
        "selected_step": every * (outcome.best_epoch + 1),
        "curve_steps": [every * (index + 1) for index in range(study.protocol.validations)],
        **{name: outcome.curves[logged] for name, logged in scorer.curves.items()},
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

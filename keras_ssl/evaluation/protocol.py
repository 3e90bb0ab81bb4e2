"""Protocol of a label-efficiency study, its pretraining recipes, splits and runs."""

import dataclasses
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import keras
import numpy as np

from keras_ssl._types import Images, Tensor
from keras_ssl.data.lazy_collections import LazyImages
from keras_ssl.data.splits import labeled_subset, stratified_folds, stratified_split
from keras_ssl.metrics.grading_scores import ScoreName
from keras_ssl.models.fine_tuner import LEARNING_RATE, WEIGHT_DECAY
from keras_ssl.models.self_supervised import SelfSupervisedModel
from keras_ssl.tasks.base import PretextTask

Histories = dict[str, list[float]]

# Pretrains an encoder in place: (encoder, images, seed, backup folder) -> curves by name, a value per epoch.
Recipe = Callable[[keras.Model, Images, int, Path], Histories | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretextRecipe:
    """Pretrains an encoder by a pretext task; `label_efficiency` calls it in each fold.

    Any function of the same four arguments is a recipe: it trains the given encoder in place on the given
    images, an array or `LazyImages`, and may return curves by name.

    Args:
        task: the pretext task.
        epochs: epochs of `fit_pretext`; `None` chooses by the number of images.
        steps_per_epoch: batches in an epoch; `None` for all images.
        batch_size: images in a batch.
        learning_rate: peak learning rate of `fit_pretext`'s default optimizer; `None` for that of the task.
        validation_fraction: fraction of the images, in [0, 1), that is held out of this training, so that the
            curves `val_loss` and `val_accuracy` show whether the task generalizes or is memorized.
        callbacks: function that returns callbacks, such as `lambda: [RepresentationCheck(images)]`; their
            images must not be test images.
        verbose: as in `fit`.

    Raises:
        ValueError: `epochs` or `validation_fraction` is out of range; when called, `validation_fraction`
            holds out no image, or all of them.

    >>> import keras_ssl
    >>> recipe = PretextRecipe(task=keras_ssl.RotationTask(), epochs=2, verbose=0)
    >>> encoder = keras_ssl.encoders.small_encoder((8, 8, 3), filters=(4,))
    >>> images = np.random.default_rng(0).uniform(size=(8, 8, 8, 3))
    >>> import tempfile
    >>> sorted(recipe(encoder, images, 0, Path(tempfile.mkdtemp())))
    ['accuracy', 'loss']
    """

    task: PretextTask
    epochs: int | None = None
    steps_per_epoch: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    validation_fraction: float = 0.0
    callbacks: Callable[[], list[keras.callbacks.Callback]] | None = dataclasses.field(
        default=None, repr=False
    )
    # Not compared: output does not change the results.
    verbose: str | int = dataclasses.field(default="auto", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received {self.epochs}.")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"`validation_fraction` must be at least 0 and below 1. Received {self.validation_fraction}."
            )

    def __call__(self, encoder: keras.Model, images: Images, seed: int, backup_dir: Path) -> Histories:
        """Train `encoder` on `images`, resuming from a backup if there is one; return its curves."""
        held_out = None
        if self.validation_fraction:
            images, held_out = _hold_out(images, self.validation_fraction, seed)
        model = SelfSupervisedModel(self.task, encoder, input_shape=images.shape[1:], seed=seed)
        history = model.fit_pretext(
            images,
            validation_data=held_out,
            batch_size=self.batch_size,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            learning_rate=self.learning_rate,
            callbacks=self.callbacks() if self.callbacks else None,
            backup_dir=backup_dir,
            verbose=self.verbose,
        )
        return history.history


def _hold_out(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    count = round(fraction * len(images))
    if not 0 < count < len(images):
        raise ValueError(
            f"`validation_fraction` must hold out at least one of {len(images)} images and leave one. "
            f"Received {fraction}."
        )
    order = np.random.default_rng(seed).permutation(len(images))
    take = images.select if isinstance(images, LazyImages) else images.__getitem__
    # Sorted, since a memory-mapped file is read fastest in order.
    return take(np.sort(order[count:])), take(np.sort(order[:count]))


Arm = Literal["frozen", "initialized", "random"]


# Metrics of records and of the validation set; which of them exist depends on the head.
_METRICS = ("loss", *get_args(ScoreName), "dice", "jaccard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """Protocol of a label-efficiency study, shared by all variants (arms) of the encoder.

    Args:
        fractions: fractions of the training labels, in (0, 1], ascending.
        folds: folds of the cross-validation, each the test set once. 1 holds out a single test set, the
            same in every repetition.
        repetitions: number of repetitions, with other labeled subsets and initial weights, and, for more
            than one fold, other folds.
        test_fraction: fraction of the images in the test set, if `folds` is 1.
        validation_fraction: fraction of the remaining images in the validation set, used for curves, tuning
            and thresholds.
        arms: `"initialized"`, pretrained and fine-tuned, with a frozen encoder during the warm-up;
            `"frozen"`, pretrained, of which only the head is trained; `"random"`, the same encoder from
            scratch.
        steps: optimizer steps of every run, warm-up included, for all arms and fractions.
        validations: number of validations during a run; must divide `steps`.
        warmup_fraction: fraction of `steps` with a frozen encoder, in [0, 1), rounded to whole validations,
            for the arm `"initialized"`. Must not round to 0 validations unless it is 0, nor to all of them.
        batch_size: images in a batch.
        learning_rate: learning rate of AdamW, for arms that train the encoder.
        encoder_learning_rate: learning rate of the encoder in these arms; default as in `FineTuner`.
        layer_decay: decay of the encoder's learning rate from layer to layer towards its input, in (0, 1];
            see `FineTuner`.
        weight_decay: weight decay of AdamW, for kernels only.
        ema_momentum: momentum of moving averages of the weights, which are then validated and tested; `None`
            keeps none.
        frozen_learning_rate: learning rate of AdamW if only the head is trained: a linear layer on small
            features converges too slowly at the other rate. The decoder of a `SegmentationHead` is trained at
            `learning_rate` in every arm.
        cosine_decay: whether the learning rate decays to 0 along a cosine; otherwise it is constant.
        tune: whether to train each run with its learning rates times each of `rate_factors` and keep the best
            on the validation set.
        tune_by: metric of records, or `"loss"`, by which `tune` chooses on the validation set. `None` for
            kappa, or Dice for masks.
        select_by: metric of records, or `"loss"`, by which each run keeps the weights of its best
            validation, the first among equals. `None` keeps the weights of the last step.
        rate_factors: factors of `tune`, the same for every arm.
        augment: function `(images, generator) -> images` on training batches, or `(images, generator, masks)
            -> (images, masks)` if labels are masks; see `FineTuner.fit`.
        pretrain_on: `"fold"` for the training images of the fold; `"all"` for all images, including test
            images, as in older work: results are too optimistic, and each record says so.
        attempts: number of attempts of a run whose loss becomes NaN, each with another seed, before it is
            recorded as failed.
        seed: seed of splits, labeled subsets and weights.

    Raises:
        ValueError: a value is out of range, or a metric unknown.

    Warns:
        UserWarning: `tune_by` is given without `tune`.

    >>> Protocol(steps=200, warmup_fraction=0.25, validations=8).warmup_steps
    50
    """

    fractions: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
    folds: int = 5
    repetitions: int = 1
    test_fraction: float = 0.2
    validation_fraction: float = 0.15
    arms: tuple[Arm, ...] = ("frozen", "initialized", "random")
    steps: int = 800
    validations: int = 10
    warmup_fraction: float = 0.2
    batch_size: int = 32
    learning_rate: float = LEARNING_RATE
    encoder_learning_rate: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = WEIGHT_DECAY
    ema_momentum: float | None = None
    frozen_learning_rate: float = 3e-2
    cosine_decay: bool = True
    tune: bool = False
    tune_by: str | None = None
    select_by: str | None = None
    rate_factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    augment: Callable[..., Tensor | tuple[Tensor, Tensor]] | None = None
    pretrain_on: Literal["fold", "all"] = "fold"
    attempts: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("fractions", "arms", "rate_factors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("folds", "repetitions", "steps", "validations", "batch_size", "attempts"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("test_fraction", "validation_fraction"):
            self._check(name, 0 < getattr(self, name) < 1, "above 0 and below 1")
        ascending = list(self.fractions) == sorted(set(self.fractions)) != []
        within = all(0 < fraction <= 1 for fraction in self.fractions)
        self._check("fractions", ascending and within, "ascending numbers in (0, 1], at least one")
        known = set(self.arms) <= set(get_args(Arm)) and len(set(self.arms)) == len(self.arms) > 0
        self._check("arms", known, f"distinct values of {get_args(Arm)}")
        self._check("validations", self.steps % self.validations == 0, f"a divisor of `steps`, {self.steps}")
        self._check("warmup_fraction", 0 <= self.warmup_fraction < 1, "at least 0 and below 1")
        if "initialized" in self.arms:
            self._check_warmup()
        for name in ("tune_by", "select_by"):
            chosen = getattr(self, name)
            of_class = chosen is not None and re.fullmatch(r"dice_[1-9]\d*", chosen)
            known = chosen is None or chosen in _METRICS or bool(of_class)
            self._check(name, known, f"None, one of {_METRICS}, or Dice of a class, such as 'dice_1'")
        if self.tune_by is not None and not self.tune:
            warnings.warn(
                f"`tune_by` has no effect without `tune=True`. Received {self.tune_by!r}.", stacklevel=3
            )
        for name in ("learning_rate", "frozen_learning_rate"):
            self._check(name, getattr(self, name) > 0, "above 0")
        encoder_rate, momentum = self.encoder_learning_rate, self.ema_momentum
        self._check("encoder_learning_rate", encoder_rate is None or encoder_rate > 0, "None, or above 0")
        self._check("layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1")
        self._check("weight_decay", self.weight_decay >= 0, "at least 0")
        self._check("ema_momentum", momentum is None or 0 <= momentum < 1, "None, or at least 0 and below 1")
        self._check("rate_factors", min(self.rate_factors, default=0) > 0, "numbers above 0, at least one")
        self._check("pretrain_on", self.pretrain_on in ("fold", "all"), '"fold" or "all"')
        self._check("seed", 0 <= self.seed < 2**31, "at least 0 and below 2^31")

    def _check(self, name: str, valid: bool, constraint: str) -> None:
        if not valid:
            raise ValueError(f"`{name}` must be {constraint}. Received {getattr(self, name)!r}.")

    def _check_warmup(self) -> None:
        """Check that the warm-up rounds neither to no step nor to all of them."""
        rounded = (
            f"rounded to {self.warmup_validations} of {self.validations} validations, the warm-up has "
            f"{self.warmup_steps} of {self.steps} steps"
        )
        least, most = 0.5 / self.validations, 1 - 0.5 / self.validations
        if self.warmup_fraction and not self.warmup_validations:
            raise ValueError(
                f"`warmup_fraction` must be 0, or more than {least:g} to have any effect with "
                f"{self.validations} validations. Received {self.warmup_fraction}: {rounded}. Set "
                "`warmup_fraction=0`, or more `validations`."
            )
        if self.warmup_validations >= self.validations:
            raise ValueError(
                f"`warmup_fraction` must be below {most:g}, or the encoder is never trained. "
                f"Received {self.warmup_fraction}: {rounded}."
            )

    def learning_rates(self, arm: str, pooled: bool = True) -> tuple[float, ...]:
        """Return the learning rates of an arm; `pooled` tells a head of pooled features from a decoder.

        >>> Protocol(tune=True, rate_factors=(1.0, 3.0)).learning_rates("random")
        (0.001, 0.003)
        """
        rate = self.frozen_learning_rate if arm == "frozen" and pooled else self.learning_rate
        return tuple(rate * factor for factor in self.rate_factors) if self.tune else (rate,)

    @property
    def warmup_validations(self) -> int:
        """Number of validations in the warm-up."""
        return round(self.warmup_fraction * self.validations)

    @property
    def warmup_steps(self) -> int:
        """Number of steps in the warm-up."""
        return self.warmup_validations * self.steps // self.validations


class Split(NamedTuple):
    """Rows of the training, validation and test images in one fold of one repetition."""

    repetition: int
    fold: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def pair(self) -> tuple[int, int]:
        """Repetition and fold, within which arms are compared."""
        return self.repetition, self.fold


class Run(NamedTuple):
    """One arm, trained on one fraction of the labels of one split."""

    task: str
    arm: str
    fraction: float
    split: Split
    labeled: np.ndarray

    @property
    def name(self) -> str:
        """Unique name of the run, used in file names."""
        return run_name(self.task, self.arm, self.fraction, *self.split.pair)


def run_name(task: str, arm: str, fraction: float, repetition: int, fold: int) -> str:
    """Return the unique name of a run in its study.

    >>> run_name("rotation", "frozen", 0.05, 0, 2)
    'rotation-frozen-0.05-r0-f2'
    """
    return f"{task}-{arm}-{fraction:g}-r{repetition}-f{fold}"


def make_splits(
    grades: np.ndarray, groups: np.ndarray, protocol: Protocol, test_rows: np.ndarray | None = None
) -> list[Split]:
    """Split images into training, validation and test, by repetition and fold.

    Args:
        grades: validated grades, shape `(n,)`.
        groups: group number of each image; groups are kept together.
        protocol: the protocol.
        test_rows: rows of a predefined test set; requires `folds=1`.

    Raises:
        ValueError: a grade has too few images or groups to split; `test_rows` are given with several folds,
            are out of range, or split a group.
    """
    if test_rows is not None:
        _check_test_rows(test_rows, groups, protocol)
    splits = []
    for repetition in range(protocol.repetitions):
        seed = protocol.seed + (1000 * repetition if protocol.folds > 1 else 0)
        if test_rows is not None:
            parts = [(np.setdiff1d(np.arange(len(grades)), test_rows), np.sort(test_rows))]
        elif protocol.folds == 1:
            parts = [stratified_split(grades, protocol.test_fraction, groups, seed)]
        else:
            parts = stratified_folds(grades, protocol.folds, groups, seed)
        for fold, (rest, test) in enumerate(parts):
            train, validation = stratified_split(
                grades[rest], protocol.validation_fraction, groups[rest], seed
            )
            splits.append(Split(repetition, fold, rest[train], rest[validation], test))
    return splits


def starting_weights(task: str, given: Sequence[str]) -> str:
    """Return the name of the given encoder from whose weights a task starts; `"none"` for new weights.

    A task starts from the encoder that its name begins with, up to a plus sign.

    >>> tasks = ("imagenet", "imagenet+rotation", "rotation+vicreg")
    >>> [starting_weights(task, ["imagenet"]) for task in tasks]
    ['imagenet', 'imagenet', 'none']
    """
    starts = [name for name in given if task == name or task.startswith(f"{name}+")]
    return max(starts, key=len, default="none")


def make_runs(
    grades: np.ndarray, groups: np.ndarray, splits: list[Split], protocol: Protocol, tasks: list[str]
) -> list[Run]:
    """List all runs of a study: for each split and fraction, all arms.

    Within a split, labeled subsets are nested across fractions and shared by the arms.

    Args:
        grades: validated grades, shape `(n,)`.
        groups: group number of each image.
        splits: splits by `make_splits`.
        protocol: the protocol.
        tasks: names of the pretrained encoders, as in `pretrained` of `label_efficiency`.

    Raises:
        ValueError: two fractions select the same images.
    """
    runs: list[Run] = []
    for split, fraction in itertools.product(splits, protocol.fractions):
        seed = run_seed(protocol.seed, split, 0)
        labeled = split.train[labeled_subset(grades[split.train], fraction, groups[split.train], seed)]
        if runs and runs[-1].split is split and np.array_equal(runs[-1].labeled, labeled):
            raise ValueError(
                f"`fractions` must give different numbers of labels. Received {runs[-1].fraction} and "
                f"{fraction}, both {len(labeled)} of {len(split.train)}: at least one image, or group of "
                "images, of each grade is selected."
            )
        for arm in protocol.arms:
            names = ["none"] if arm == "random" else tasks
            runs += [Run(task, arm, fraction, split, labeled) for task in names]
    return runs


def run_seed(seed: int, split: Split, attempt: int) -> int:
    """Return the seed of all runs of a split, the same for every arm and fraction."""
    return int(np.random.SeedSequence((seed, *split.pair, attempt)).generate_state(1)[0] % 2**31)


def _check_test_rows(test_rows: np.ndarray, groups: np.ndarray, protocol: Protocol) -> None:
    if test_rows.ndim != 1 or test_rows.dtype.kind not in "iu":
        raise ValueError(
            f"`test_rows` must be row numbers or a boolean mask, shape (n,). Received "
            f"{test_rows.dtype} of shape {test_rows.shape}."
        )
    inside = len(test_rows) > 0 and test_rows.min() >= 0 and test_rows.max() < len(groups)
    if not inside or len(np.unique(test_rows)) < len(test_rows):
        raise ValueError(
            f"`test_rows` must be distinct rows in 0..{len(groups) - 1}. Received {len(test_rows)} rows."
        )
    if protocol.folds != 1:
        raise ValueError(f"`folds` must be 1 if `test_rows` is given. Received {protocol.folds}.")
    split = np.intersect1d(groups[test_rows], np.delete(groups, test_rows))
    if len(split):
        raise ValueError(
            f"`test_rows` must not split groups, such as copies of one image. Received {len(split)} groups "
            "that are on both sides."
        )

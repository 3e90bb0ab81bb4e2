"""Settings of a label-efficiency study: protocol, splits, runs and pretraining recipes."""

import dataclasses
import itertools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import keras
import numpy as np

from keras_ssl.data.splits import labeled_subset, stratified_folds, stratified_split
from keras_ssl.metrics.grading_scores import ScoreName
from keras_ssl.models.self_supervised import SelfSupervisedModel
from keras_ssl.tasks.base import PretextTask

Histories = dict[str, list[float]]


# (encoder, images, seed, backup folder) -> what is worth plotting, by epoch.
Recipe = Callable[[keras.Model, np.ndarray, int, Path], Histories | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretextRecipe:
    """Pretrains an encoder by a pretext task, with Adam; what `label_efficiency` calls in each fold.

    Any function of the same four arguments will do in its place: it trains the encoder that it is given,
    in place, on the images that it is given, and may return curves by name.

    Args:
        task: what is to be learned.
        epochs: epochs of `fit_pretext`.
        steps_per_epoch: batches in an epoch; `None` for all images.
        batch_size: images in a batch.
        learning_rate: of Adam.
        validation_fraction: share of the images, in [0, 1), that is held out of this training, to tell with
            curves of `val_loss` and `val_accuracy` whether the pretext is understood or learned by heart.
        callbacks: function that makes callbacks, such as `lambda: [RepresentationCheck(images)]`; their
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
    epochs: int
    steps_per_epoch: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    validation_fraction: float = 0.0
    callbacks: Callable[[], list[keras.callbacks.Callback]] | None = dataclasses.field(
        default=None, repr=False
    )
    # Not compared: what is printed makes no other study.
    verbose: str | int = dataclasses.field(default="auto", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received {self.epochs}.")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"`validation_fraction` must be at least 0 and below 1. Received {self.validation_fraction}."
            )

    def __call__(self, encoder: keras.Model, images: np.ndarray, seed: int, backup_dir: Path) -> Histories:
        """Train `encoder` on `images`, going on where a backup was left; return its curves."""
        held_out = None
        if self.validation_fraction:
            images, held_out = _held_out(images, self.validation_fraction, seed)
        model = SelfSupervisedModel(self.task, encoder, input_shape=images.shape[1:], seed=seed)
        model.compile(keras.optimizers.Adam(self.learning_rate))
        history = model.fit_pretext(
            images,
            validation_data=held_out,
            batch_size=self.batch_size,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            callbacks=self.callbacks() if self.callbacks else None,
            backup_dir=backup_dir,
            verbose=self.verbose,
        )
        return history.history


def _held_out(images: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    count = round(share * len(images))
    if not 0 < count < len(images):
        raise ValueError(
            f"`validation_fraction` must hold out at least one of {len(images)} images and leave one. "
            f"Received {share}."
        )
    order = np.random.default_rng(seed).permutation(len(images))
    # In their order, as a memory-mapped file is read fastest.
    return images[np.sort(order[count:])], images[np.sort(order[:count])]


Arm = Literal["frozen", "initialized", "random", "imagenet"]


# Of records and of validation images; which of them there are depends on the head.
_METRICS = ("loss", *get_args(ScoreName), "dice", "jaccard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of a label-efficiency study; all arms share them.

    Args:
        fractions: shares of the training labels that are used, in (0, 1], ascending.
        folds: parts of a cross-validation, each of which is tested on once, in turn. 1 holds out one
            test part, the same in every repetition.
        repetitions: how often all is repeated, with other labeled subsets and random starts, and for
            more than one fold with other folds.
        test_fraction: share of images in the test part, where `folds` is 1.
        validation_fraction: share of the rest that the curves, tuning and cut points are made on.
        arms: `"frozen"`, the pretrained encoder, never trained; `"initialized"`, the same, frozen for the
            warm-up only; `"random"`, the same encoder from scratch; `"imagenet"`, as initialized, with
            ImageNet weights.
        steps: optimizer steps of every run, warm-up included, whatever the arm and fraction.
        validations: how often in a run the validation images are looked at; must divide `steps`.
        warmup_fraction: share of `steps` with a frozen encoder, in [0, 1), rounded to whole validations; of
            the arms `"initialized"` and `"imagenet"`. A warm-up that is rounded to none is refused, and one
            that leaves no step in which the encoder is trained.
        batch_size: images in a step.
        learning_rate: of Adam, in the arms that train the encoder.
        frozen_learning_rate: of Adam where the head alone is trained; a linear layer on small features
            is far from its best after some hundred steps at the other rate. The decoder of a
            `SegmentationHead` is trained at `learning_rate` in every arm.
        cosine_decay: whether it falls to 0 along a cosine; otherwise it is constant.
        tune: whether each run is made with its arm's rate times each of `rate_factors`, and the one that is
            best on validation is kept.
        tune_by: the metric of records, or `"loss"`, by which `tune` chooses, on validation images. `None` for
            kappa, or Dice of masks.
        select_by: the metric of records, or `"loss"`, by which each run keeps the weights of its best
            validation, the first of equals. `None` keeps the weights of the last step.
        rate_factors: the grid of `tune`, the same for every arm.
        augment: function `(images, generator) -> images` on training batches, or `(images, generator, masks)
            -> (images, masks)` where labels are masks; see `FineTuner.fit`.
        pretrain_on: `"fold"` for the training images of the fold; `"all"` for every image, test images
            included, as in older work: its results are flattered, and each record says so.
        attempts: how often a run whose loss becomes NaN is made, each time with another seed, before it
            is recorded as failed.
        seed: fixes all that is drawn.

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
    learning_rate: float = 1e-3
    frozen_learning_rate: float = 3e-2
    cosine_decay: bool = True
    tune: bool = False
    tune_by: str | None = None
    select_by: str | None = None
    rate_factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    augment: Callable[..., Any] | None = None
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
        self._check("arms", known, f"different ones of {get_args(Arm)}")
        self._check("validations", self.steps % self.validations == 0, f"a divisor of `steps`, {self.steps}")
        self._check("warmup_fraction", 0 <= self.warmup_fraction < 1, "at least 0 and below 1")
        if {"initialized", "imagenet"} & set(self.arms):
            self._check_warmup()
        for name in ("tune_by", "select_by"):
            chosen = getattr(self, name)
            of_class = chosen is not None and re.fullmatch(r"dice_[1-9]\d*", chosen)
            known = chosen is None or chosen in _METRICS or bool(of_class)
            self._check(name, known, f"None, one of {_METRICS}, or the Dice of a class, such as 'dice_1'")
        if self.tune_by is not None and not self.tune:
            warnings.warn(
                f"`tune_by` has no effect without `tune=True`. Received {self.tune_by!r}.", stacklevel=3
            )
        for name in ("learning_rate", "frozen_learning_rate"):
            self._check(name, getattr(self, name) > 0, "above 0")
        self._check("rate_factors", min(self.rate_factors, default=0) > 0, "numbers above 0, at least one")
        self._check("pretrain_on", self.pretrain_on in ("fold", "all"), '"fold" or "all"')
        self._check("seed", 0 <= self.seed < 2**31, "at least 0 and below 2^31")

    def _check(self, name: str, right: bool, constraint: str) -> None:
        if not right:
            raise ValueError(f"`{name}` must be {constraint}. Received {getattr(self, name)!r}.")

    def _check_warmup(self) -> None:
        """Refuse a warm-up that is no step, and one that is all of them."""
        rounded = (
            f"rounded to {self.warmup_validations} of {self.validations} validations, it is "
            f"{self.warmup_steps} of {self.steps} steps"
        )
        least, most = 0.5 / self.validations, 1 - 0.5 / self.validations
        if self.warmup_fraction and not self.warmup_validations:
            raise ValueError(
                f"`warmup_fraction` must be 0, or more than {least:g} to freeze the encoder at all with "
                f"{self.validations} validations. Received {self.warmup_fraction}: {rounded}. Set "
                "`warmup_fraction=0`, or more `validations`."
            )
        if self.warmup_validations >= self.validations:
            raise ValueError(
                f"`warmup_fraction` must be below {most:g}, so that a validation is left with a trained "
                f"encoder. Received {self.warmup_fraction}: {rounded}, and the encoder is never trained."
            )

    def rates(self, arm: str, pooled: bool = True) -> tuple[float, ...]:
        """Return the learning rates that runs of an arm are made with; `pooled` is the kind of the head.

        >>> Protocol(tune=True, rate_factors=(1.0, 3.0)).rates("random")
        (0.001, 0.003)
        """
        rate = self.frozen_learning_rate if arm == "frozen" and pooled else self.learning_rate
        return tuple(rate * factor for factor in self.rate_factors) if self.tune else (rate,)

    @property
    def warmup_validations(self) -> int:
        """How many validations the warm-up lasts."""
        return round(self.warmup_fraction * self.validations)

    @property
    def warmup_steps(self) -> int:
        """How many steps the warm-up lasts."""
        return self.warmup_validations * self.steps // self.validations


class Split(NamedTuple):
    """Rows of the images in one fold of one repetition."""

    repetition: int
    fold: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def pair(self) -> tuple[int, int]:
        """What arms are compared within."""
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
        """What this run is called in file names, and known by."""
        return run_name(self.task, self.arm, self.fraction, *self.split.pair)


def run_name(task: str, arm: str, fraction: float, repetition: int, fold: int) -> str:
    """Name a run by all that tells it from others of one study.

    >>> run_name("rotation", "frozen", 0.05, 0, 2)
    'rotation-frozen-0.05-r0-f2'
    """
    return f"{task}-{arm}-{fraction:g}-r{repetition}-f{fold}"


def make_splits(
    grades: np.ndarray, groups: np.ndarray, protocol: Protocol, test_rows: np.ndarray | None = None
) -> list[Split]:
    """Split images into training, validation and test, by repetition and fold.

    Args:
        grades: checked grades, shape `(n,)`.
        groups: a group number per image; no group is in two parts.
        protocol: how to split.
        test_rows: rows of a test part that is given; then `folds` must be 1.

    Raises:
        ValueError: a grade has too few images or groups for the parts; `test_rows` are given with
            several folds, out of range, or hold a part of a group only.
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


def make_runs(
    grades: np.ndarray, groups: np.ndarray, splits: list[Split], protocol: Protocol, tasks: list[str]
) -> list[Run]:
    """List all runs of a study, whole pairs of arms first.

    Within a split, labeled subsets are nested across fractions, and shared by the arms.

    Args:
        grades: checked grades, shape `(n,)`.
        groups: a group number per image.
        splits: what `make_splits` made.
        protocol: fractions and arms.
        tasks: names of what the encoders were pretrained by.

    Raises:
        ValueError: two fractions come to the same images.
    """
    runs: list[Run] = []
    for split, fraction in itertools.product(splits, protocol.fractions):
        seed = run_seed(protocol.seed, split, 0)
        labeled = split.train[labeled_subset(grades[split.train], fraction, groups[split.train], seed)]
        if runs and runs[-1].split is split and np.array_equal(runs[-1].labeled, labeled):
            raise ValueError(
                f"`fractions` must give different numbers of labels. Received {runs[-1].fraction} and "
                f"{fraction}, both {len(labeled)} of {len(split.train)}: at least one image, or group of "
                "images, of each grade is taken."
            )
        for arm in protocol.arms:
            names = {"random": ["none"], "imagenet": ["imagenet"]}.get(arm, tasks)
            runs += [Run(task, arm, fraction, split, labeled) for task in names]
    return runs


def run_seed(seed: int, split: Split, attempt: int) -> int:
    """Draw the seed of all runs of a split, the same for every arm and fraction."""
    return int(np.random.SeedSequence((seed, *split.pair, attempt)).generate_state(1)[0] % 2**31)


def _check_test_rows(test_rows: np.ndarray, groups: np.ndarray, protocol: Protocol) -> None:
    if test_rows.ndim != 1 or test_rows.dtype.kind not in "iu":
        raise ValueError(
            f"`test_rows` must be row numbers or a mask, shape (n,). Received {test_rows.dtype} of shape "
            f"{test_rows.shape}."
        )
    inside = len(test_rows) > 0 and test_rows.min() >= 0 and test_rows.max() < len(groups)
    if not inside or len(np.unique(test_rows)) < len(test_rows):
        raise ValueError(
            f"`test_rows` must be different rows in 0..{len(groups) - 1}. Received {len(test_rows)} rows."
        )
    if protocol.folds != 1:
        raise ValueError(f"`folds` must be 1 where `test_rows` are given. Received {protocol.folds}.")
    torn = np.intersect1d(groups[test_rows], np.delete(groups, test_rows))
    if len(torn):
        raise ValueError(
            f"`test_rows` must hold groups, copies of one image among them, whole. Received {len(torn)} "
            "groups that are on both sides."
        )

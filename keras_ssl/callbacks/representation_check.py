"""Evaluation of an encoder during pretraining: effective rank, collapse, k-NN and linear probe."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_ssl._checks import as_numpy, check_grades, check_images
from keras_ssl._types import Images
from keras_ssl.callbacks._base import BestEpoch, PeriodicCheck
from keras_ssl.data.fit_inputs import image_batches
from keras_ssl.data.splits import stratified_split
from keras_ssl.distribution import predict_on_batch, rank_and_world_size
from keras_ssl.encoders._checks import encoder_for, resolve_input_shape
from keras_ssl.layers.pooling import pool_features
from keras_ssl.metrics.grades import grade_confusion
from keras_ssl.metrics.probes import (
    effective_rank,
    embedding_spread,
    is_collapsed,
    knn_predict,
    linear_probe_predict,
)
from keras_ssl.metrics.quadratic_weighted_kappa import quadratic_weighted_kappa

_UNLABELED = ("effective_rank", "embedding_spread")
_LABELED = ("knn_accuracy", "knn_qw_kappa", "probe_accuracy", "probe_qw_kappa")

_DEFAULT_PATIENCE = 5


def check_representation(
    encoder: keras.Model | keras.Layer,
    images: Images,
    labels: npt.ArrayLike | None = None,
    *,
    test_images: Images | None = None,
    test_labels: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    test_fraction: float = 0.3,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    """Evaluate the embeddings of a frozen encoder: effective rank, spread, k-NN and linear probe.

    Feature maps are averaged over space, and tokens alike. The encoder is not changed.

    Args:
        encoder: any Keras model or layer from images to a feature vector, a feature map or tokens.
        images: array `(n, *spatial, channels)` as the encoder takes them; a few hundred are enough.
        labels: whole numbers from 0, shape `(n,)` or `(n, 1)`; `None` for the scores without labels only.
        test_images: test images; `None` to split them off from `images`.
        test_labels: labels of `test_images`.
        groups: a group id per image, such as the patient, shape `(n,)`: no group is split.
        test_fraction: fraction of `images` that is split off for testing, stratified by label.
        batch_size: images in a batch.
        seed: seed of the split.

    Returns:
        `effective_rank` and `embedding_spread` (the mean over dimensions) of `images`. With labels also
        `knn_accuracy`, `knn_qw_kappa`, `probe_accuracy` and `probe_qw_kappa`: test scores of a k-NN
        classifier and of a linear probe. The kappas treat labels as ordered grades. All NaN if the
        encoder's output has NaN.

    Raises:
        ValueError: images do not have the encoder's shape; labels do not match them, or a label is too rare
            to be in both parts; `test_images` are given without `labels` and `test_labels`, or with `groups`.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((20, 16, 16, 3), seed=0)
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> sorted(check_representation(encoder, images))
    ['effective_rank', 'embedding_spread']
    >>> len(check_representation(encoder, images, [0, 1, 2, 3, 4] * 4))
    6
    """
    sample = _prepare(images, labels, test_images, test_labels, groups, test_fraction, seed)
    return _measure(_embedder(encoder, sample.images.shape[1:], batch_size), sample)[0]


class RepresentationCheck(BestEpoch, PeriodicCheck):
    """Evaluates the encoder with `check_representation` every few epochs of `fit_pretext`, and may end it.

    The loss of a pretext task is not a measure of quality: it also falls if the network uses a shortcut or
    collapses. This callback embeds a small set of images in inference mode (no dropout, feature maps
    averaged) and evaluates the embeddings. Put it first in `callbacks`: those that follow (`EarlyStopping`,
    `CSVLogger`, ...) and the history see the values; only `SwapEMAWeights(swap_on_epoch=True)` goes before
    it, for the averaged weights to be evaluated. Training is bitwise the same with and without it.

    It runs in the first epoch of a fit, in epochs 0, `every`, 2 `every`, ..., and in the last epoch. Epochs
    in between log the latest values again; count the `patience` of other callbacks in epochs, not
    measurements.

    With `stop` or `restore_best`, the score `monitor` determines the best epoch (of ties, the first), which
    is logged as `best_epoch`, counted from 0 as in `History.epoch`, and printed when training ends. Scores
    on few labels are noisy: the best of many is partly luck.

    Labels that are used here to select an epoch or a setting must not be used to report the result.

    Args:
        images: as in `check_representation`; whole images, also for a task on patches.
        labels: as in `check_representation`.
        every: number of epochs between measurements.
        test_images: as in `check_representation`.
        test_labels: as in `check_representation`.
        groups: as in `check_representation`.
        test_fraction: as in `check_representation`.
        batch_size: images in a batch.
        seed: seed of the split.
        stop: number of measurements without a better score after which training ends; `True` for 5,
            `False` for never.
        restore_best: whether to restore all weights of the model, teacher and heads included, of the best
            epoch measured when training ends. They are unchanged if all scores are NaN.
        monitor: name of the score: `"probe_qw_kappa"` for two classes or ordered grades, `"probe_accuracy"`
            for other classes, or another that `check_representation` returns; higher is better.

    Raises:
        ValueError: as `check_representation`; or `every` or `stop` is below 1; or `monitor` is no score of
            these images.

    Warns:
        UserWarning: the features have collapsed (see `is_collapsed`); once per call of `fit_pretext`.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((20, 16, 16, 3), seed=0)
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(guards=None), encoder, seed=0)
    >>> check = RepresentationCheck(images, [0, 1, 2, 3, 4] * 4)
    >>> history = model.fit_pretext(images, epochs=1, callbacks=[check], verbose=0)
    >>> [name for name in sorted(history.history) if name.startswith("knn")]
    ['knn_accuracy', 'knn_qw_kappa']

    References:
        Garrido, Q. et al. (2023). RankMe: assessing the downstream performance of pretrained
        self-supervised representations by their rank. ICML.
    """

    def __init__(
        self,
        images: Images,
        labels: npt.ArrayLike | None = None,
        *,
        every: int = 1,
        test_images: Images | None = None,
        test_labels: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        test_fraction: float = 0.3,
        batch_size: int = 32,
        seed: int = 0,
        stop: bool | int = False,
        restore_best: bool = False,
        monitor: str = "probe_qw_kappa",
    ) -> None:
        super().__init__(every)
        self.sample = _prepare(images, labels, test_images, test_labels, groups, test_fraction, seed)
        self.batch_size = batch_size
        if not isinstance(stop, int) or (not isinstance(stop, bool) and stop < 1):
            raise ValueError(f"`stop` must be a bool or an integer of at least 1. Received {stop!r}.")
        self.selects = stop is not False or restore_best
        names = _names(self.sample)
        if self.selects and monitor not in names:
            unlabeled = "" if self.sample.split else ", without `labels`"
            raise ValueError(f"`monitor` must be one of the scores {names}{unlabeled}. Received {monitor!r}.")
        self.stop, self.restore_best, self.monitor = stop, restore_best, monitor
        # From these a backup knows its run: they choose the weights.
        self.images, self.test_images = self.sample.images, test_images
        self.labels, self.test_labels, self.groups = labels, test_labels, groups
        self.test_fraction, self.seed = test_fraction, seed

    def start(self) -> None:
        """Build the model that embeds images."""
        if not hasattr(self.model, "encoder"):
            raise TypeError(
                "RepresentationCheck requires a model with an encoder, as in `fit_pretext`. Received the "
                f"model {self.model.name!r}. In fine-tuning, call `check_representation` on the encoder."
            )
        self._embed = _embedder(self.model.encoder, self.sample.images.shape[1:], self.batch_size)
        self._warned = False
        self.waited = 0
        self.reset_best()

    def measure(self, epoch: int) -> dict[str, float]:
        """Embed and evaluate the images, warn of a collapse, and end training if it is time."""
        values, collapsed = _measure(self._embed, self.sample)
        if collapsed and not self._warned:
            self._warned = True
            warnings.warn(
                f"The representation has collapsed after epoch {epoch + 1}, to almost the same features for "
                f"every image: effective rank {values['effective_rank']:.2f}, mean spread "
                f"{values['embedding_spread']:.2g}. The loss may still fall. Stop the run, and start again "
                "with a smaller learning rate, larger batches or stronger augmentation; check that `images` "
                "differ and are scaled as the encoder expects.",
                stacklevel=2,
            )
        if self.selects:
            better = self.keep_if_best(values[self.monitor], epoch, self.restore_best)
            self.waited = 0 if better else self.waited + 1
            if self.stop and self.waited >= (_DEFAULT_PATIENCE if self.stop is True else self.stop):
                self.model.stop_training = True
            values["best_epoch"] = float("nan") if self.best_epoch is None else float(self.best_epoch)
        return values

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restore the best weights, if enabled, and print which epoch was the best."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
        if self.best_epoch is None or not self.params.get("verbose") or rank_and_world_size(self.model)[0]:
            return
        print(
            f"Best {self.monitor}: {self.best_value:.3f} after epoch {self.best_epoch + 1}, last "
            f"{self.values[self.monitor]:.3f}. The weights of the {'best' if self.best_weights else 'last'} "
            "epoch are kept."
        )

    def get_state(self) -> dict[str, Any]:
        """Return the state for a resumed run."""
        return {**super().get_state(), **self.best_state(), "waited": self.waited}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state of `get_state`, after `on_train_begin`."""
        super().set_state(state)
        self.set_best_state(state)
        self.waited = state["waited"]


@dataclasses.dataclass(frozen=True)
class _Split:
    """Rows of the images to fit on, and rows of the same or of separate images to test on."""

    fit_rows: np.ndarray
    fit_labels: np.ndarray
    test_images: np.ndarray | None
    test_rows: np.ndarray
    test_labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Sample:
    images: np.ndarray
    split: _Split | None


def _prepare(
    images: Images,
    labels: npt.ArrayLike | None,
    test_images: Images | None,
    test_labels: npt.ArrayLike | None,
    groups: npt.ArrayLike | None,
    test_fraction: float,
    seed: int,
) -> _Sample:
    images = as_numpy(images)
    check_images(images)
    if len(images) < 2:
        raise ValueError(f"`images` must be at least 2, to have a rank and a spread. Received {len(images)}.")
    if (test_images is None) != (test_labels is None) or (test_images is not None and labels is None):
        raise ValueError(
            "`test_images`, `test_labels` and `labels` must be given together. Received, of the three: "
            f"{[given is not None for given in (test_images, test_labels, labels)]}."
        )
    if labels is None:
        return _Sample(images, None)
    grades = check_grades(as_numpy(labels), name="labels", rows=len(images))
    if test_images is None:
        fit, test = stratified_split(grades, test_fraction, groups, seed)
        return _Sample(images, _Split(fit, grades[fit], None, test, grades[test]))
    if groups is not None:
        raise ValueError("`groups` must be None with `test_images`, since nothing is split.")
    test_images = as_numpy(test_images)
    check_images(test_images)
    test_grades = check_grades(
        as_numpy(test_labels), several=False, name="test_labels", rows=len(test_images)
    )
    every = np.arange(len(images)), np.arange(len(test_images))
    return _Sample(images, _Split(every[0], grades, test_images, every[1], test_grades))


def _embedder(
    encoder: keras.Model | keras.Layer, shape: tuple[int, ...], batch_size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to float32 features `(n, channels)`."""
    inputs = keras.Input(resolve_input_shape(encoder, shape))
    features = encoder_for(encoder, tuple(inputs.shape[1:]))(inputs)
    model = keras.Model(inputs, pool_features(features))

    def embed(images: np.ndarray) -> np.ndarray:
        data = image_batches(images, tuple(inputs.shape[1:]), batch_size=batch_size)
        parts = []
        for index in range(len(data)):
            (batch,) = data[index]
            # Not `predict`, whose loader on PyTorch draws from the generator that training uses.
            parts.append(np.asarray(predict_on_batch(model, batch), "float32"))
        return np.concatenate(parts)

    return embed


def _names(sample: _Sample) -> tuple[str, ...]:
    return _UNLABELED if sample.split is None else (*_UNLABELED, *_LABELED)


def _measure(embed: Callable[[np.ndarray], np.ndarray], sample: _Sample) -> tuple[dict[str, float], bool]:
    """Return the scores, and whether the features have collapsed."""
    features, split = embed(sample.images), sample.split
    test_features = features if split is None or split.test_images is None else embed(split.test_images)
    names = _names(sample)
    if not (np.isfinite(features).all() and np.isfinite(test_features).all()):
        return dict.fromkeys(names, float("nan")), False
    values = [effective_rank(features), float(np.mean(embedding_spread(features)))]
    if split is not None:
        known, labels = features[split.fit_rows], split.fit_labels
        test_features = test_features[split.test_rows]
        values += _accuracy_and_kappa(knn_predict(known, labels, test_features), split)
        values += _accuracy_and_kappa(linear_probe_predict(known, labels, test_features), split)
    return dict(zip(names, values, strict=True)), is_collapsed(features)


def _accuracy_and_kappa(predicted: np.ndarray, split: _Split) -> tuple[float, float]:
    num_grades = 1 + int(max(split.fit_labels.max(), split.test_labels.max()))
    confusion = grade_confusion(split.test_labels, predicted, num_grades)
    accuracy = float(np.mean(predicted == split.test_labels))
    return accuracy, float(quadratic_weighted_kappa(confusion))

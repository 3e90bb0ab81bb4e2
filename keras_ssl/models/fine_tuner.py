"""FineTuner: trains a pretrained encoder and a head on labels, after a warm-up with a frozen encoder."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from keras_ssl._atomic import atomic_write
from keras_ssl._checks import as_numpy, class_weigher
from keras_ssl._fit import run_fit
from keras_ssl._identity import without_names
from keras_ssl._keras_private import MultiOptimizer
from keras_ssl._model_files import without_optimizer
from keras_ssl._seeding import resolve_seed, seeded
from keras_ssl._types import Dataset, Images, Labels
from keras_ssl._value_range import record_range
from keras_ssl.callbacks import WarmupFreeze
from keras_ssl.callbacks._optimizers import (
    Rate,
    ScaledOptimizer,
    decay_kernels_only,
    relative_rate,
    with_encoder_optimizer,
    with_rates,
)
from keras_ssl.data.batches import ArrayBatches
from keras_ssl.data.fit_inputs import (
    image_batches,
    labeled_batches,
    labeled_parts,
    refuse_read_once,
    split_arrays,
)
from keras_ssl.distribution import check_batch_size, predict, predict_on_batch
from keras_ssl.encoders._checks import (
    encoder_for,
    resolve_input_shape,
    warn_of_classifier,
    warn_of_frozen,
)
from keras_ssl.encoders._depth import layer_groups
from keras_ssl.heads.base import Head, PooledHead
from keras_ssl.heads.segmentation import SegmentationHead
from keras_ssl.models._scores import (
    OnLabels,
    grade_decoder,
    head_scores,
    set_directions,
    validation_callbacks,
)

LearningRate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule

# See `benchmarks/fine_tuning_grid.py`.
LEARNING_RATE = 1e-3
ENCODER_FACTOR = 0.3
WEIGHT_DECAY = 0.05


class FineTuner:
    """Fine-tunes an encoder with a task head on labeled images, after a frozen warm-up of the encoder.

    `model` is an ordinary functional `keras.Model` of core layers: save it, load it without this library
    (with `compile=False` for losses of this library), or train it further with its own `fit`. Its input is
    named after the range of the training images, such as `images_0_to_255`, by which `Grader` and `Segmenter`
    detect images of another range. The encoder is trained in place; clone or reload it for another run.

    Each `fit` trains the weights that are trainable when it begins: `encoder.trainable`, or `trainable` of
    single layers, may be changed between fits. Optimizer state is kept for weights that stay trainable;
    weights that become trainable start with new state and a separate step count.

    Args:
        encoder: any Keras model or layer from images to a feature vector, a feature map or tokens, such as
            `SelfSupervisedModel(...).encoder` or a loaded `encoder.keras`.
        head: the task head, such as `OrdinalHead(5)` for images or `SegmentationHead(3)` for their pixels or
            voxels.
        warmup_epochs: epochs at the start of each `fit` in which the encoder is frozen, with
            `training=False` and bitwise unchanged (see `WarmupFreeze`).
        encoder_trainable: `False` keeps the encoder frozen in every `fit`, as in an endless warm-up.
        warmup_stages: epochs over which the encoder is unfrozen after the warm-up, from its output to its
            input; see `stages` of `WarmupFreeze`.
        learning_rate: learning rate of AdamW, a number or a schedule. Default 1e-3.
        encoder_learning_rate: learning rate of the encoder, a number, which is constant, or a schedule.
            Default: 0.3 times `learning_rate`; with an `optimizer`, its learning rate.
        layer_decay: ratio, in (0, 1], of the learning rates of a group of the encoder's layers and of the
            group after it. The last group is trained at `encoder_learning_rate`, the one before it at
            `layer_decay` times that, and so on. A convolution or dense layer with what follows it is a group,
            a residual block, or whatever else lies between two points that every path through the encoder
            passes.
        weight_decay: weight decay of AdamW, for kernels only; biases, scales of normalization and embeddings
            of positions do not decay. Default 0.05.
        ema_momentum: keeps moving averages of the weights with this momentum, in [0, 1), such as 0.99.
            Validation, `callbacks`, `predict` and the saved model use them. `None` keeps none.
        optimizer: any Keras optimizer, including schedules, `clipnorm` and `clipvalue`, instead of AdamW.
            Excludes `learning_rate`, `weight_decay` and `ema_momentum`.
        encoder_optimizer: optimizer of the encoder's weights, of another kind than `optimizer`. Excludes
            `encoder_learning_rate`, `layer_decay` and `ema_momentum`.
        metrics: Keras metrics, names or functions, as in `compile`, logged in training and validation and
            returned by `evaluate`. They receive class indices `(n,)` and probabilities `(n, K)`, for masks
            `(n, *spatial)` and `(n, *spatial, K)`. Binary metrics, such as `AUC`, receive the probability of
            class 1 if K is 2, and one-hot labels otherwise, as do metrics of one-hot labels, such as
            `F1Score`. With a `RegressionHead`, metrics receive labels and outputs, `(n, 1)`. Not saved with
            `model`.
        loss: Keras loss of the head's targets and outputs, such as `losses.SoftDice()`. Default: the head's
            own loss.
        input_shape: `(*spatial, channels)`, required if the encoder has no fixed input shape. Its sides may
            differ from those that a functional encoder was built for, unless a layer depends on them.
        seed: seed of the head's weights, its dropout, and the order of images. `None` draws one from Python's
            `random`, which `keras.utils.set_random_seed` seeds.

    Attributes:
        model: the functional model from images to the head's outputs.
        encoder: the encoder.
        head: the head.
        metrics: the metrics, on labels and probabilities.

    Raises:
        TypeError: `encoder` is not a Keras model or layer, `head` not a `Head`, `loss` not a Keras loss, or
            one of `metrics` not a metric.
        ValueError: `input_shape` is missing or does not match the encoder; the head does not match its
            output; `warmup_epochs` is negative, or is given with `encoder_trainable=False`; a rate,
            `layer_decay`, `weight_decay` or `ema_momentum` is out of range, or excluded by an optimizer;
            `layer_decay` is below 1 and the encoder has no graph with several groups of layers.

    References:
        Howard, J. and Ruder, S. (2018). Universal language model fine-tuning for text classification. ACL.
        Bao, H. et al. (2022). BEiT: BERT pre-training of image transformers. ICLR.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((12, 16, 16, 3), seed=0)
    >>> grades = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0]
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(5), warmup_epochs=1, seed=0)
    >>> history = tuner.fit(images, grades, epochs=2, batch_size=6, verbose=0)
    >>> tuner.predict(images).shape, sorted(tuner.evaluate(images, grades))
    ((12,), ['accuracy', 'loss', 'qw_kappa'])
    """

    def __init__(
        self,
        encoder: keras.Model | keras.Layer,
        head: Head,
        *,
        warmup_epochs: int = 0,
        warmup_stages: int = 1,
        encoder_trainable: bool = True,
        learning_rate: LearningRate | None = None,
        encoder_learning_rate: LearningRate | None = None,
        layer_decay: float = 1.0,
        weight_decay: float | None = None,
        ema_momentum: float | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        encoder_optimizer: keras.optimizers.Optimizer | None = None,
        metrics: list[Any] | None = None,
        loss: keras.losses.Loss | None = None,
        input_shape: tuple[int, ...] | None = None,
        seed: int | None = None,
    ) -> None:
        if not isinstance(head, Head):
            raise TypeError(f"`head` must be a Head, such as OrdinalHead(5). Received {head!r}.")
        if loss is not None and not isinstance(loss, keras.losses.Loss):
            raise TypeError(f"`loss` must be a keras.losses.Loss, such as SoftDice(). Received {loss!r}.")
        if warmup_epochs and not encoder_trainable:
            raise ValueError(
                "`warmup_epochs` must be 0 with `encoder_trainable=False`, which always freezes the encoder. "
                f"Received {warmup_epochs}."
            )
        self.input_shape = resolve_input_shape(encoder, input_shape)
        self.encoder = encoder
        self.head = head
        self.seed = resolve_seed(seed)
        # By a warm-up without end: `trainable = False` would leave dropout on.
        self.encoder_trainable = encoder_trainable
        self._chance_loss = head.chance_loss() if loss is None else None
        with seeded(self.seed):
            inputs = keras.Input(self.input_shape, name="images")
            name = "segmenter" if isinstance(head, SegmentationHead) else "grader"
            self.model = keras.Model(
                inputs, head.attach(encoder_for(encoder, self.input_shape), inputs), name=name
            )
        self.warmup = WarmupFreeze(
            encoder, warmup_epochs if encoder_trainable else sys.maxsize, warmup_stages
        )
        self.loss = head.loss() if loss is None else loss
        _check_rates(
            {
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "ema_momentum": ema_momentum,
                "encoder_learning_rate": encoder_learning_rate,
                "layer_decay": layer_decay,
            },
            optimizer,
            encoder_optimizer,
        )
        encoder_factor = 1.0 if optimizer is not None or encoder_optimizer is not None else ENCODER_FACTOR
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(
                LEARNING_RATE if learning_rate is None else learning_rate,
                weight_decay=WEIGHT_DECAY if weight_decay is None else weight_decay,
                use_ema=ema_momentum is not None,
                ema_momentum=ema_momentum or 0.0,
            )
            decay_kernels_only(optimizer)
        rates = {}
        if encoder_learning_rate is not None or encoder_factor != 1 or layer_decay != 1:
            top = relative_rate(optimizer, encoder_learning_rate, encoder_factor)
            rates = _rates_by_depth(encoder, top, layer_decay)
        classes = head.num_classes if isinstance(head, SegmentationHead) else getattr(head, "grade_count", 0)
        warn_of_classifier(encoder, classes)
        decode = grade_decoder(head)
        self.metrics = [OnLabels(metric, head.for_metrics, classes, decode) for metric in metrics or []]
        self.model.compile(optimizer=optimizer, loss=self.loss, metrics=self.metrics or None)
        # Again without metrics: they are kept, but not saved with the model, which must load anywhere.
        self.model.compile(optimizer=optimizer, loss=self.loss)
        self._encoder_optimizer = None
        if encoder_optimizer is not None:
            self._encoder_optimizer = keras.saving.serialize_keras_object(encoder_optimizer)
            both = with_encoder_optimizer(optimizer, encoder_optimizer, encoder, self.model)
            # Set after `compile`, whose configuration is saved with the model and must load without this
            # library.
            scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
            self.model.optimizer = ScaledOptimizer(both) if scaled else both
        if rates or ema_momentum is not None:
            # Also for averages, which on JAX would share buffers with the weights after a fit.
            self.model.optimizer = with_rates(self.model.optimizer, rates)
        self._averages = ema_momentum is not None
        self._encoder_rates = [
            rate._replace(schedule=keras.saving.serialize_keras_object(rate.schedule))
            for rate in dict.fromkeys(rates.values())
        ]
        self._fits = 0

    def fit(
        self,
        images: Images | Dataset,
        labels: Labels | None = None,
        *,
        validation_data: Dataset = None,
        validation_split: float = 0.0,
        batch_size: int = 32,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        initial_epoch: int = 0,
        sample_weight: npt.ArrayLike | None = None,
        class_weight: Mapping[int, float] | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        data_format: str = "channels_last",
        augment: Callable[..., Any] | None = None,
        restore_best: bool = False,
        callbacks: list[keras.callbacks.Callback] | None = None,
        backup_dir: str | os.PathLike[str] | None = None,
        verbose: str | int = "auto",
    ) -> keras.callbacks.History:
        """Train on labeled images.

        Args:
            images: array or tensor `(n, *spatial, channels)` with values as stored in files (the encoder
                scales them inside, see `value_range` of `encoders`), a list of equal arrays, or a data set
                (`PyDataset`, `tf.data`, `DataLoader`, Grain, list or generator) of batches `(images,
                labels[, sample_weight])` or of dictionaries. A generator is read only once: each epoch
                continues it, and training ends early, with a warning, if it is exhausted.
            labels: labels of arrays, such as integer grades `(n,)` or masks `(n, *spatial)`: a list, an
                array, a tensor or a table column. Grades and classes may be one-hot, `(n, K)`.
            validation_data: `(images, labels)`, `(images, labels, sample_weight)` or a finite data set that
                can be iterated every epoch. Each epoch, before `callbacks` run, which may monitor these
                values, heads for grades log `val_qw_kappa` and `val_grade_accuracy` of the whole set, and a
                head for masks `val_dice`, the mean over images of their foreground Dice.
            validation_split: fraction of the arrays, their last rows, that is held out as
                `validation_data`, as in Keras' `fit`. Images of a patient may be in both parts: to avoid
                this, split by group (`data.stratified_split`) and pass `validation_data`.
            batch_size: images in a batch, for arrays.
            epochs: final epoch, as in Keras' `fit`; includes the warm-up.
            steps_per_epoch: optimizer steps per epoch. With a number, arrays are read as an endless shuffled
                sequence of full batches, so that small and large sets train for equally many steps; a data
                set continues from epoch to epoch, and restarts when it ends. `None` for all batches; a stream
                of unknown length is then read to its end in every epoch.
            initial_epoch: first epoch, as in Keras' `fit`.
            sample_weight: weight of each image, for arrays.
            class_weight: weight of each grade or class in training, such as `{0: 1.0, 1: 5.0}`; default 1.
                Multiplied with `sample_weight`, including that of a data set.
            image_key: key of the images in batches that are dictionaries, as in Hugging Face, MONAI and
                TorchIO, also in `validation_data`.
            label_key: key of the labels in batches that are dictionaries.
            data_format: `"channels_first"` if images, and masks with a channel axis, are
                `(n, channels, *spatial)`, as in PyTorch; they are converted to channels last. Also applies to
                `validation_data`.
            augment: function `(images, generator) -> images` applied to each training batch of arrays, with a
                seeded `numpy.random.Generator`; for masks `(images, generator, masks) -> (images, masks)`.
                `preprocessing.Augmentation` supports both.
            restore_best: whether to restore the weights of the best epoch, the first among equals, by
                `val_qw_kappa` or `val_dice`, or by `val_loss` for heads without these.
            callbacks: Keras callbacks.
            backup_dir: folder that makes the run resumable, as in `SelfSupervisedModel.fit_pretext`.
            verbose: as in Keras' `fit`.

        Returns:
            The `History` of all epochs, including those before the run resumed.

        Raises:
            ValueError: images are empty, contain NaN, or do not have the encoder's shape; labels differ in
                number, are out of range, soft, or all the same; weights are negative or not finite;
                `class_weight` has an unknown class, or the head does not classify images; batches are
                dictionaries without `image_key` and `label_key`; `validation_split` is given with a data set
                or with `validation_data`; `restore_best` is given without validation images; a generator is
                given as `validation_data`, with `backup_dir`, or with several epochs and no
                `steps_per_epoch`; `backup_dir` contains another run.
            FloatingPointError: the loss became NaN or infinite. The last finite weights are restored.
        """
        parts: dict[str, Any] = {"image_key": image_key, "label_key": label_key, "data_format": data_format}
        if validation_split:
            first, last = split_arrays(
                validation_split, len(self.input_shape) - 1, validation_data, images, labels, sample_weight
            )
            images, labels, sample_weight = first
            validation_data = tuple(last)
        weigh = None
        if class_weight is not None:
            count = self.head.grade_count if isinstance(self.head, PooledHead) else 0
            weigh = class_weigher(class_weight, count, type(self.head).__name__)
        if self.encoder_trainable:
            warn_of_frozen(self.encoder)
        run = self._fits
        data = labeled_batches(
            images,
            labels,
            self.input_shape,
            self.head.encode,
            batch_size=batch_size,
            seed=(self.seed + run) % 2**31,
            steps_per_epoch=steps_per_epoch,
            sample_weight=sample_weight,
            weigh=weigh,
            augment=augment,
            **parts,
        )
        if isinstance(data, ArrayBatches):
            check_batch_size(batch_size)
            self.head.check_training_labels(as_numpy(labels, "labels"))
        record_range(self.model, self.encoder, data)
        callbacks = list(callbacks or [])
        set_directions(callbacks)
        if validation_data is not None:
            refuse_read_once(validation_data, "validation_data")
            validation_data = self._unshuffled(validation_data, "validation_data", batch_size, **parts)
            callbacks = [*validation_callbacks(self.head, validation_data, restore_best), *callbacks]
        elif restore_best:
            raise ValueError(
                "`restore_best` must be False without `validation_data` or `validation_split`. Received True."
            )
        if self.warmup.epochs:
            callbacks.insert(0, self.warmup)
        history = run_fit(
            self.model,
            data,
            seed=self.seed,
            run=run,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=callbacks,
            validation_data=validation_data,
            backup_dir=backup_dir,
            settings={
                "head": self.head,
                "warmup_epochs": self.warmup.epochs,
                "warmup_stages": self.warmup.stages,
                "batch_size": batch_size,
                "class_weight": class_weight,
                "metrics": [one.metric for one in self.metrics],
                "encoder_optimizer": without_names(self._encoder_optimizer),
                "encoder_rates": without_names(self._encoder_rates),
                "restore_best": restore_best,
                "loss": self.loss,
            },
            verbose=verbose,
            averages=self._averages,
            chance=(self._chance_loss, f"with {type(self.head).__name__}"),
        )
        self._fits += 1
        return history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `model` to `path` (`.keras`) without optimizer and loss.

        The file contains core layers only: it loads on any backend, and without this library. `model.save`
        writes the optimizer as well; trained on PyTorch, its file loads only where PyTorch is installed.

        Raises:
            OSError: `path` cannot be written; a previous file is kept.
        """
        atomic_write(Path(path), without_optimizer(self.model).save)

    def predict_probabilities(
        self,
        images: Images | Dataset,
        batch_size: int = 32,
        *,
        image_key: str | None = None,
        data_format: str = "channels_last",
    ) -> np.ndarray:
        """Return the probability of each grade or class, along the last axis; arguments as in `predict`."""
        return self.head.probabilities(self._outputs(images, batch_size, image_key, data_format))

    def predict(
        self,
        images: Images | Dataset,
        batch_size: int = 32,
        *,
        image_key: str | None = None,
        data_format: str = "channels_last",
    ) -> np.ndarray:
        """Return the predicted labels, shape `(n,)`, or masks `(n, *spatial)`.

        Args:
            images: array `(n, *spatial, channels)`, a list of equal arrays, or a data set or generator of
                batches, which is read to its end; labels are ignored.
            batch_size: images in a batch, for arrays.
            image_key: as in `fit`.
            data_format: as in `fit`.

        Raises:
            ValueError: images are empty, contain NaN, or do not have the encoder's shape.
        """
        return self.head.decode(self._outputs(images, batch_size, image_key, data_format))

    def evaluate(
        self,
        images: Images | Dataset,
        labels: Labels | None = None,
        batch_size: int = 32,
        *,
        image_key: str | None = None,
        label_key: str | None = None,
        data_format: str = "channels_last",
    ) -> dict[str, float]:
        """Return the loss, `metrics`, and the scores of the head.

        For grades: `qw_kappa` and `accuracy`. For masks: `dice_1` and so on, the mean over images of the Dice
        of each foreground class, and `dice`, the mean over images of their mean foreground Dice; an image
        without a class in truth and prediction is left out of that class. Sample weights apply to the loss
        and to scores of grades, not to Dice.

        Args:
            images: as in `fit`; a data set or generator is read to its end.
            labels: as in `fit`.
            batch_size: images in a batch, for arrays.
            image_key: as in `fit`.
            label_key: as in `fit`.
            data_format: as in `fit`.

        Raises:
            ValueError: as in `fit`, except that all labels may be the same.
        """
        labeled = images if labels is None else (images, labels)
        data = self._unshuffled(
            labeled, "images", batch_size, image_key=image_key, label_key=label_key, data_format=data_format
        )
        for metric in self.metrics:
            metric.reset_state()
        of_masks = isinstance(self.head, SegmentationHead)
        losses, weights, found = [], [], []
        for batch in data:
            targets, outputs = batch[1], predict_on_batch(self.model, batch[0])
            for metric in self.metrics:
                metric.update_state(targets, outputs)
            losses.append(float(self.loss(targets, outputs, *batch[2:])))
            weights.append(np.ones(len(targets)) if len(batch) == 2 else batch[2])
            # Decoded masks, since the probabilities of many volumes may not fit into memory.
            found.append((targets, self.head.decode(outputs) if of_masks else outputs))
        results = {"loss": float(np.average(losses, weights=list(map(len, weights))))}
        targets, outputs = (np.concatenate(parts) for parts in zip(*found, strict=True))
        results |= head_scores(self.head, targets, outputs, np.concatenate(weights))
        for metric in self.metrics:
            value = keras.ops.convert_to_numpy(metric.result())
            results.setdefault(metric.name, float(value) if value.ndim == 0 else value)
        return results

    def _unshuffled(self, labeled: Dataset, name: str, batch_size: int, **parts: Any) -> Dataset:
        images, labels, weights = labeled_parts(labeled, len(self.input_shape) - 1, name)
        settings = {"batch_size": batch_size, "sample_weight": weights, **parts}
        return labeled_batches(images, labels, self.input_shape, self.head.encode, **settings)

    def _outputs(
        self, images: Images | Dataset, batch_size: int, image_key: str | None, data_format: str
    ) -> np.ndarray:
        batches = image_batches(
            images, self.input_shape, batch_size=batch_size, image_key=image_key, data_format=data_format
        )
        return predict(self.model, batches)


def _check_rates(
    settings: Mapping[str, Any],
    optimizer: keras.optimizers.Optimizer | None,
    encoder_optimizer: keras.optimizers.Optimizer | None,
) -> None:
    """Check the numbers that decide on optimizers; `None` stands for the default."""
    for name in ("learning_rate", "encoder_learning_rate"):
        value = settings[name]
        if value is None or isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            continue
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a number above 0 or a schedule. Received {value!r}.")
    ranges = {
        "layer_decay": ("above 0 and at most 1", lambda value: 0 < value <= 1),
        "weight_decay": ("at least 0", lambda value: 0 <= value < math.inf),
        "ema_momentum": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    }
    for name, (constraint, valid) in ranges.items():
        if settings[name] is not None and not valid(settings[name]):
            raise ValueError(f"`{name}` must be {constraint}. Received {settings[name]!r}.")
    excluded = {
        "optimizer": (optimizer, ("learning_rate", "weight_decay", "ema_momentum")),
        "encoder_optimizer": (encoder_optimizer, ("encoder_learning_rate", "layer_decay", "ema_momentum")),
    }
    for name, (given, names) in excluded.items():
        for other in names if given is not None else ():
            if settings[other] is not None and (other != "layer_decay" or settings[other] != 1):
                raise ValueError(
                    f"`{other}` must not be given with `{name}`, which sets it. Received {settings[other]!r}."
                )
    several = isinstance(optimizer, MultiOptimizer)
    if several and (settings["encoder_learning_rate"] is not None or settings["layer_decay"] != 1):
        raise ValueError(
            "`encoder_learning_rate` and `layer_decay` must not be given with a MultiOptimizer, which sets "
            f"the rate of each weight. Received {settings['encoder_learning_rate']!r} and "
            f"{settings['layer_decay']!r}."
        )


def _rates_by_depth(encoder: keras.Layer, top: Rate, decay: float) -> dict[int, Rate]:
    """Return the rate of each variable of an encoder, by `id`, with `top` for the last layers."""
    groups = [[encoder]] if decay == 1 else layer_groups(encoder)
    if decay < 1 and len(groups) < 2:
        raise ValueError(
            "`layer_decay` must be 1 for an encoder whose layers cannot be ordered by depth: it must be "
            f"functional, with several groups of layers. Received {decay} and {encoder.name!r}."
        )
    return {
        id(variable): top._replace(factor=top.factor * decay**depth)
        for depth, group in enumerate(reversed(groups))
        for layer in group
        for variable in layer.variables
    }

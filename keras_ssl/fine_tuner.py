"""FineTuner: a pretrained encoder and a head, trained on labels after a frozen warm-up."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ssl._files import write_aside
from keras_ssl._saved import bare
from keras_ssl._value_range import note_range, noted_range, range_of
from keras_ssl.callbacks import DiceCallback, QuadraticWeightedKappaCallback, WarmupFreeze
from keras_ssl.callbacks._optimizer_handover import with_encoder_optimizer
from keras_ssl.callbacks._parted_optimizers import ScaledOptimizer
from keras_ssl.data.adapt import as_numpy, image_batches, is_array, labelled_batches
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches
from keras_ssl.devices import check_shared, predict, predict_on_batch
from keras_ssl.encoders.plug import (
    resolve_input_shape,
    warn_of_classifier,
    warn_of_frozen,
    warn_of_scaling,
)
from keras_ssl.layers.heads import Head, PooledHead
from keras_ssl.layers.segmentation_head import SegmentationHead
from keras_ssl.metrics import (
    decode_grades,
    grade_confusion,
    quadratic_weighted_kappa,
    segmentation_scores,
)
from keras_ssl.metrics.on_labels import OnLabels
from keras_ssl.training import resolve_seed, run_fit, seeded, without_names

# What is logged on validation data here, and not by metrics that Keras compiles.
_MORE_IS_BETTER = ("val_qwk", "val_grade_accuracy", "val_dice")


class FineTuner:
    """Puts a head on an encoder and trains both on labelled images, the head alone at first.

    What comes out is `model`, an ordinary functional `keras.Model` of core layers, to be saved, loaded
    without this library (with `compile=False` where the loss is one of this library's, as for masks), or
    trained further by plain `fit`. Its input is named after the range of values that it was trained on,
    such as `images_0_to_255`, by which `Grader` and `Segmenter` recognize images of another range. The
    encoder is trained in place; clone or reload it for another run.

    Each `fit` trains what is trainable at its start, so that `encoder.trainable`, or `trainable` of single
    layers, may be changed between two; optimizer state of what stays trainable is kept, and what joins starts
    with fresh state and a step count of its own.

    Args:
        encoder: any Keras model or layer from images to a feature vector or a feature map, such as
            `SelfSupervisedModel(...).encoder` or a loaded `encoder.keras`.
        head: what is predicted, such as `OrdinalHead(5)` of an image, or `SegmentationHead(3)` of each of
            its pixels or voxels.
        warmup_epochs: epochs at the start of each `fit` in which the encoder is frozen, with
            `training=False` and bitwise unchanged (see `WarmupFreeze`).
        encoder_trainable: `False` keeps the encoder frozen in every `fit`, as in a warm-up that does not end.
        optimizer: any Keras optimizer, with a schedule, `clipnorm` or `clipvalue` as wished. Default
            Adam at 1e-3.
        encoder_optimizer: optimizer of the encoder's weights where they want another one, say with
            a smaller learning rate. Default: the same settings as `optimizer`.
        metrics: Keras metrics, names or functions, as `compile` takes them; `fit` logs them in training and
            validation, and `evaluate` returns them. Whatever the head, they get class indices `(n,)` and
            probabilities `(n, K)`, for masks `(n, *spatial)` and `(n, *spatial, K)`. Metrics of two classes,
            such as `AUC`, get the probability of class 1 where K is 2; otherwise these and metrics of one-hot
            labels, such as `F1Score`, get one-hot labels. Those of a `RegressionHead` get labels and outputs,
            `(n, 1)`. A saved model holds none of them.
        loss: Keras loss on the targets and outputs of the head, such as `losses.SoftDice()`. Default: the
            head's own.
        input_shape: `(*spatial, channels)`, needed where the encoder does not know it.
        seed: integer that fixes the weights of the head, its dropout, and the order of images. `None`
            draws one from Python's `random`, so that `keras.utils.set_random_seed` rules it.

    Attributes:
        model: the functional model from images to the head's outputs.
        encoder: the encoder that was given.
        head: the head that was given.
        metrics: the metrics that were given, on labels and probabilities.

    Raises:
        TypeError: `encoder` is no Keras model or layer, `head` no `Head`, `loss` no Keras loss, or one of
            `metrics` no metric.
        ValueError: `input_shape` is missing or not the encoder's; the head does not go with its output;
            `warmup_epochs` is negative or stands beside `encoder_trainable=False`.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((12, 16, 16, 3), seed=0)
    >>> grades = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0]
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(5), warmup_epochs=1, seed=0)
    >>> history = tuner.fit(images, grades, epochs=2, batch_size=6, verbose=0)
    >>> tuner.predict(images).shape, sorted(tuner.evaluate(images, grades))
    ((12,), ['accuracy', 'loss', 'qwk'])
    """

    def __init__(
        self,
        encoder: keras.Model | keras.Layer,
        head: Head,
        *,
        warmup_epochs: int = 0,
        encoder_trainable: bool = True,
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
                "`warmup_epochs` must be 0 with `encoder_trainable=False`: the encoder is always frozen. "
                f"Received {warmup_epochs}."
            )
        self.input_shape = resolve_input_shape(encoder, input_shape)
        self.encoder = encoder
        self.head = head
        self.seed = resolve_seed(seed)
        # For ever is a warm-up too: `trainable = False` alone would leave dropout on, and so
        # does `training=False` in the graph, which Keras overrules.
        self.encoder_trainable = encoder_trainable
        self._chance_loss = head.chance_loss() if loss is None else None
        self.warmup = WarmupFreeze(encoder, warmup_epochs if encoder_trainable else sys.maxsize)
        with seeded(self.seed):
            inputs = keras.Input(self.input_shape, name="images")
            name = "segmenter" if isinstance(head, SegmentationHead) else "grader"
            self.model = keras.Model(inputs, head.attach(encoder, inputs), name=name)
        self.loss = head.loss() if loss is None else loss
        optimizer = keras.optimizers.Adam(1e-3) if optimizer is None else optimizer
        warn_of_classifier(encoder)
        classes = head.num_classes if isinstance(head, SegmentationHead) else getattr(head, "grade_count", 0)
        self.metrics = [OnLabels(metric, head.for_metrics, classes) for metric in metrics or []]
        self.model.compile(optimizer=optimizer, loss=self.loss, metrics=self.metrics or None)
        # Once more without metrics: those of before are kept, except in what is saved with the model, which
        # must load anywhere.
        self.model.compile(optimizer=optimizer, loss=self.loss)
        self._encoder_optimizer = None
        if encoder_optimizer is not None:
            self._encoder_optimizer = without_names(keras.saving.serialize_keras_object(encoder_optimizer))
            self._add_encoder_optimizer(optimizer, encoder_optimizer)
        self._fits = 0

    def _add_encoder_optimizer(
        self, optimizer: keras.optimizers.Optimizer, encoder_optimizer: keras.optimizers.Optimizer
    ) -> None:
        both = with_encoder_optimizer(optimizer, encoder_optimizer, self.encoder, self.model)
        # Past `compile`, whose record of the optimizer is saved with the model and must load anywhere.
        scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        self.model.optimizer = ScaledOptimizer(both) if scaled else both

    def fit(
        self,
        images: Any,
        labels: Any = None,
        *,
        validation_data: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        initial_epoch: int = 0,
        sample_weight: Any = None,
        augment: Callable[..., Any] | None = None,
        callbacks: list[keras.callbacks.Callback] | None = None,
        backup_dir: str | os.PathLike[str] | None = None,
        verbose: str | int = "auto",
    ) -> keras.callbacks.History:
        """Train on labelled images.

        Args:
            images: array or tensor `(n, *spatial, channels)` with values as they are stored (the encoder
                scales them inside, see `value_range` of `encoders`), or a data set (`PyDataset`, `tf.data`,
                `DataLoader`, Grain) of batches `(images, labels[, sample_weight])`.
            labels: plain labels, such as integer grades `(n,)` or masks `(n, *spatial)`, for arrays.
            validation_data: `(images, labels)` or a data set. Each epoch, before `callbacks` run, which may
                monitor them, heads for grades log `val_qwk` and `val_grade_accuracy` (the
                share of right grades) of the whole set, and a head for masks `val_dice`, the mean of its
                images' Dice over the foreground classes.
            batch_size: images in a batch, for arrays.
            epochs: epochs to end at, as in `fit`; those of the warm-up are among them.
            steps_per_epoch: optimizer steps in an epoch. With a number, arrays are gone through in an
                endless shuffled sequence of full batches, so that few and many labels get as many steps.
            initial_epoch: epoch to begin with, as in `fit`.
            sample_weight: weight of each image, for arrays.
            augment: function `(images, generator) -> images` on each training batch of arrays, with a
                seeded `numpy.random.Generator`; for masks `(images, generator, masks) -> (images, masks)`.
                `preprocessing.Augmentation` is both.
            callbacks: Keras callbacks.
            backup_dir: folder that makes the run resumable, as in `SelfSupervisedModel.fit_pretext`.
            verbose: as in `fit`.

        Returns:
            The `History`, of all epochs also where the run was resumed.

        Raises:
            ValueError: images are empty, hold NaN, or have another shape than the encoder's; labels are of
                another number, out of range, or all the same; `backup_dir` holds another run.
            FloatingPointError: the loss became NaN or infinite. The last good weights are kept.
        """
        if is_array(images):
            check_shared(batch_size)
        if self.encoder_trainable:
            warn_of_frozen(self.encoder)
        run = self._fits
        if is_array(images) and labels is not None:
            self.head.check_training_labels(as_numpy(labels))
        data = labelled_batches(
            images,
            labels,
            self.input_shape,
            self.head.encode,
            batch_size=batch_size,
            seed=(self.seed + run) % 2**31,
            steps_per_epoch=steps_per_epoch,
            sample_weight=sample_weight,
            augment=augment,
        )
        self._watch_values(data)
        callbacks = list(callbacks or [])
        for callback in callbacks:
            if getattr(callback, "monitor", None) in _MORE_IS_BETTER and callback.mode == "auto":
                # Keras knows the direction of compiled metrics only.
                callback.mode = "max"
        if validation_data is not None:
            validation_data = self._unshuffled(validation_data, batch_size)
            callbacks = [*self._validation_callbacks(validation_data), *callbacks]
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
                "head": repr(self.head),
                "warmup_epochs": self.warmup.epochs,
                "batch_size": batch_size,
                "encoder_optimizer": self._encoder_optimizer,
                "loss": without_names(keras.saving.serialize_keras_object(self.loss)),
            },
            verbose=verbose,
            chance=(self._chance_loss, f"with {type(self.head).__name__}"),
        )
        self._fits += 1
        return history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `model` to `path` (`.keras`) without optimizer and loss.

        Made of core layers only, it loads on any backend, whichever it was trained on, and where this
        library is not installed. `model.save` writes the optimizer too, and with PyTorch's, which Keras
        implements by itself, a file that loads only where PyTorch is installed.

        Raises:
            OSError: `path` cannot be written; what was there before is kept.
        """
        write_aside(Path(path), bare(self.model).save)

    def predict_probabilities(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """Return the probability of each grade or class, along the last axis; images as in `predict`."""
        return self.head.probabilities(self._outputs(images, batch_size))

    def predict(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """Return the predicted labels, shape `(n,)`, or masks `(n, *spatial)`.

        Args:
            images: array `(n, *spatial, channels)`, or a data set of batches of images (labels ignored).
            batch_size: images in a batch, for arrays.

        Raises:
            ValueError: images are empty, hold NaN, or have another shape than the encoder's.
        """
        return self.head.decode(self._outputs(images, batch_size))

    def evaluate(self, images: Any, labels: Any = None, batch_size: int = 32) -> dict[str, float]:
        """Return the loss and, by the kind of head, further scores.

        For grades, `qwk` and `accuracy`, the share of images whose grade is right. For masks, `dice_1` and so
        on, the mean of the images' Dice for each foreground class, and `dice`, the mean of the images' Dice
        over these classes; an image that neither has nor is given a class is left out of that class. Weights
        of images count for the loss and for grades, not for Dice.

        Args:
            images: as in `fit`.
            labels: as in `fit`.
            batch_size: images in a batch, for arrays.

        Raises:
            ValueError: as in `fit`, except that all labels may be the same.
        """
        data = self._unshuffled((images, labels) if labels is not None else images, batch_size)
        for metric in self.metrics:
            metric.reset_state()
        of_masks = isinstance(self.head, SegmentationHead)
        losses, weights, found = [], [], []
        for index in range(len(data)):
            batch = data[index]
            targets, outputs = batch[1], predict_on_batch(self.model, batch[0])
            for metric in self.metrics:
                metric.update_state(targets, outputs)
            losses.append(float(self.loss(targets, outputs, *batch[2:])))
            weights.append(np.ones(len(targets)) if len(batch) == 2 else batch[2])
            # Of masks what was decided, since the probabilities of many volumes may not fit into memory.
            found.append((targets, self.head.decode(outputs) if of_masks else outputs))
        results = {"loss": float(np.average(losses, weights=list(map(len, weights))))}
        targets, outputs = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if isinstance(self.head, SegmentationHead):
            names = ["dice", *(f"dice_{number}" for number in range(1, self.head.num_classes))]
            results |= segmentation_scores(
                list(targets), list(outputs), num_classes=self.head.num_classes, names=names
            )
        elif isinstance(self.head, PooledHead) and self.head.form is not None:
            num_grades = self.head.grade_count
            true = decode_grades(targets, self.head.target_form, num_grades)
            confusion = grade_confusion(true, self.head.decode(outputs), num_grades, np.concatenate(weights))
            results["qwk"] = float(quadratic_weighted_kappa(confusion))
            results["accuracy"] = float(np.trace(confusion) / confusion.sum())
        for metric in self.metrics:
            value = keras.ops.convert_to_numpy(metric.result())
            results[metric.name] = float(value) if value.ndim == 0 else value
        return results

    def _watch_values(self, data: Any) -> None:
        """Note the range of the values of images, of a stream when its batches are read."""
        if isinstance(data, ArrayBatches):
            self._saw(range_of(data.arrays[0]))
        elif isinstance(data, ShuffledBatches):
            self._saw(range_of(data[0][0]))
        else:
            transform = data.transform

            def watched(batch: Any) -> Any:
                batch = transform(batch)
                self._saw(range_of(batch[0]))
                return batch

            data.transform = watched

    def _saw(self, found: tuple[float, float]) -> None:
        if noted_range(self.model) is None:
            warn_of_scaling(self.encoder, *found)
        note_range(self.model, found)

    def _unshuffled(self, labelled: Any, batch_size: int) -> Any:
        images, labels, *weights = labelled if isinstance(labelled, (tuple, list)) else (labelled, None)
        return labelled_batches(
            images,
            labels,
            self.input_shape,
            self.head.encode,
            batch_size=batch_size,
            sample_weight=weights[0] if weights else None,
        )

    def _validation_callbacks(self, data: Any) -> list[keras.callbacks.Callback]:
        if isinstance(self.head, SegmentationHead):
            return [DiceCallback(data, self.head.num_classes)]
        if not isinstance(self.head, PooledHead) or self.head.form is None:
            return []
        kappa = QuadraticWeightedKappaCallback(
            data,
            num_grades=self.head.grade_count,
            prediction=self.head.form,
            truth=self.head.target_form,
            thresholds=getattr(self.head, "thresholds", None),
            accuracy_name="val_grade_accuracy",
        )
        return [kappa]

    def _outputs(self, images: Any, batch_size: int) -> np.ndarray:
        return predict(self.model, image_batches(images, self.input_shape, batch_size=batch_size))

"""SelfSupervisedModel: a pretext task married to an encoder, trained by `fit_pretext`."""

import functools
import os
from typing import Any

import keras
from keras import ops

from keras_ssl._fit import run_fit
from keras_ssl._keras_private import ModelBuiltInInit, remat_mode_of
from keras_ssl._value_range import range_of
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches, StreamBatches
from keras_ssl.data.inputs import image_batches, refuse_read_once, split_arrays
from keras_ssl.distribution import check_shared, process
from keras_ssl.encoders._checks import (
    is_fixed_shape,
    resolve_input_shape,
    warn_of_classifier,
    warn_of_frozen,
    warn_of_scaling,
)
from keras_ssl.encoders.densenet import default_encoder
from keras_ssl.random import ReplaySeeds, resolve_seed, seeded
from keras_ssl.tasks.base import PretextTask, layers_of


@keras.saving.register_keras_serializable(package="keras_ssl")
class SelfSupervisedModel(ModelBuiltInInit):
    """A pretext task and an encoder, as one Keras model that learns from unlabeled images.

    `encoder` stays the ordinary Keras model that it is. After `fit_pretext` it holds what was learned:
    `model.encoder.save("encoder.keras")`, or hand it to `FineTuner`.

    Args:
        task: what is to be learned, such as `RotationTask()`.
        encoder: any Keras model or layer from images to a feature vector or a feature map: functional,
            sequential or subclassed, built or not. `None` builds DenseNet-121 without pretrained weights; in
            2D it takes values from 0 to 255 and scales them inside.
        input_shape: `(*spatial, channels)` of the images, fixed numbers. `None` takes that of the
            encoder where it has one, `(224, 224, 3)` where `encoder` is `None` too.
        seed: integer that fixes what this model draws: the task's choices, the order of images, the
            weights of everything that is built here. `None` draws one from Python's `random`, so that
            `keras.utils.set_random_seed` rules it.
        name: name of the model.

    Raises:
        TypeError: `task` is no `PretextTask`, or `encoder` no Keras model or layer.
        ValueError: `input_shape` is missing or not fixed, or does not suit encoder or task; or it is made in
            a `keras.RematScope` that computes it twice.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((8, 16, 16, 3), seed=0)
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), encoder, seed=0)
    >>> history = model.fit_pretext(images, epochs=2, batch_size=4, verbose=0)
    >>> sorted(history.history)
    ['accuracy', 'loss']

    References:
        Gidaris, S., Singh, P., Komodakis, N. (2018). Unsupervised representation learning by
        predicting image rotations. ICLR.
    """

    def __init__(
        self,
        task: PretextTask,
        encoder: keras.Model | keras.Layer | None = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if not isinstance(task, PretextTask):
            raise TypeError(f"`task` must be a PretextTask, such as RotationTask(). Received {task!r}.")
        remat_mode = remat_mode_of(self)
        if remat_mode is not None and remat_mode.mode in ("full", "larger_than"):
            raise ValueError(
                "A SelfSupervisedModel must be made outside of `keras.RematScope`: drawn again for the "
                f"gradient, the pretext problem would be another. Received a scope {remat_mode.mode!r}. Give "
                "`encoders.rematerialize(encoder)` instead."
            )
        self.task = task
        # They keep their seeds in variables.
        self.task_layers = list(layers_of(task))
        if input_shape is None:
            input_shape = resolve_input_shape(encoder, None)
        if not is_fixed_shape(input_shape):
            raise ValueError(
                "`input_shape` must be (*spatial, channels) of the images, two or three spatial axes, all "
                f"fixed numbers. Received {input_shape}."
            )
        self.images_shape = tuple(input_shape)
        encoder_shape = resolve_input_shape(encoder, task.encoder_input_shape(self.images_shape))
        self.seed = seed = resolve_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(seed)
        with seeded(seed):
            self.encoder = default_encoder(encoder_shape) if encoder is None else encoder
            self.network = task.build_network(self.encoder, self.images_shape)
        warn_of_classifier(self.encoder)
        self.task_metrics = task.build_metrics()
        self.built = True
        self._fits = 0

    def call(self, images: Any, training: bool = False) -> dict[str, Any]:
        """Draw a pretext problem for a batch of images and answer it.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            training: whether to draw anew; otherwise the same problem is drawn every time.

        Returns:
            Dictionary of the task's `targets` and the network's `outputs`.
        """
        images = ops.cast(images, self.compute_dtype)
        # Of the images too, or else every batch would be given the same rotations.
        seeds = self.seed_generator if training else ReplaySeeds(self.seed, images)
        inputs, targets = self.task.preprocess(images, seeds)
        return {"targets": targets, "outputs": self.network(inputs, training=training)}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the mean loss of the task, plus what layers add; labels in `y` are ignored."""
        loss = ops.mean(self.task.compute_loss(**y_pred)) + sum(self.losses)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # `tf.distribute` adds up the replicas' gradients, Keras its own losses divided so.
            loss = loss / tf.distribute.get_strategy().num_replicas_in_sync
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Update the task's metrics."""
        for metric in self.task_metrics:
            metric.update_state(y_pred["targets"], y_pred["outputs"])
        results = self.get_metrics_result()
        if keras.backend.backend() == "tensorflow" and process(self)[1] > 1:
            # Keras 3.15 takes the mean over the first axis of what workers of TensorFlow return.
            results = {name: ops.reshape(value, (1,)) for name, value in results.items()}
        return results

    def reads_batch_to_build(self) -> bool:
        """Whether Keras may read a batch to build by: not where several workers train."""
        return process(self)[1] == 1

    def fit_pretext(
        self,
        images: Any,
        *,
        validation_data: Any = None,
        validation_split: float = 0.0,
        batch_size: int = 32,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        initial_epoch: int = 0,
        image_key: str | None = None,
        data_format: str = "channels_last",
        callbacks: list[keras.callbacks.Callback] | None = None,
        backup_dir: str | os.PathLike[str] | None = None,
        verbose: str | int = "auto",
    ) -> keras.callbacks.History:
        """Train encoder and pretext head on images without labels.

        Compiles with Adam at 1e-3 if `compile` was not called. `compile(optimizer=...)` as usual to
        choose otherwise; the loss is the task's.

        Args:
            images: array or tensor `(n, *spatial, channels)` of any numeric dtype, with values as they are
                stored (the encoder scales them inside), memory-mapped ones and `LazyImages` included; a
                list of equal arrays, which are stacked; or a `keras.utils.PyDataset`, `tf.data.Dataset`,
                PyTorch `DataLoader`, Grain data set, generator or list of batches. A batch is `images`,
                `(images,)`, `(images, labels)`, `(images, labels, sample_weight)` or a dictionary; labels and
                weights are ignored. A generator is read only once: epochs continue it, and where it ends
                early training does too, with a warning.
            validation_data: the same except for a generator, for a loss and metrics at the end of every
                epoch; the task draws the same problems each time.
            validation_split: the fraction of an array, its last images, that is taken out of training and
                used as `validation_data`, as in `fit`. Copies of an image, and images of one patient, can be
                on both sides: where that matters, split by group (`data.stratified_split`) and give
                `validation_data`.
            batch_size: images in a batch, for arrays.
            epochs: epochs to end at, as in `fit`.
            steps_per_epoch: batches in an epoch; `None` for all. Needed for endless streams, and for several
                epochs of a generator. A stream of unknown length is read to its end in every epoch.
            initial_epoch: epoch to begin with, as in `fit`.
            image_key: key of the images where batches are dictionaries, as those of Hugging Face, MONAI and
                TorchIO.
            data_format: `"channels_first"` where images are `(n, channels, *spatial)`, as in PyTorch; they
                are then moved to `(n, *spatial, channels)`.
            callbacks: Keras callbacks, such as `ModelCheckpoint`, `CSVLogger` and `TensorBoard`.
            backup_dir: folder that makes the run resumable: call the same again after a kill and it goes
                on at the epoch that it was in. For arrays and a `PyDataset` the weights at the end
                are bitwise those of an uninterrupted run on the same backend. A run that has
                ended is not repeated: its weights are loaded. A run is known by content: build the model with
                the same starting weights each time (`keras.utils.set_random_seed`), and a different run is
                refused by the name of what differs. Ctrl-C and SIGTERM end a run with the batch; given twice,
                at once.
            verbose: as in `fit`.

        Returns:
            The `History`, of all epochs also where the run was resumed.

        Raises:
            ValueError: images are empty, hold NaN or infinity (all of an array is looked at, of a data
                set and of `LazyImages` the first batch), are not of this model's shape, have values
                that the task has no use for, or are too few in a batch for it; arrays of a list have unequal
                shapes; batches are dictionaries without `image_key`; `validation_split` is given with a data
                set or with `validation_data`; a generator is given with `backup_dir`, or with several epochs
                and no `steps_per_epoch`; `backup_dir` holds another run.
            FloatingPointError: the loss became NaN or infinite. The last good weights are kept.
        """
        self._compile_if_needed()
        if validation_split:
            rank = len(self.images_shape) - 1
            (images,), (validation_data,) = split_arrays(validation_split, rank, validation_data, images)
        warn_of_frozen(self.encoder)
        run = self._fits
        data_seed = (self.seed + run) % 2**31
        checked = functools.partial(
            image_batches,
            input_shape=self.images_shape,
            batch_size=batch_size,
            smallest_batch=self.task.smallest_batch(),
            check=self._check_values,
            image_key=image_key,
            data_format=data_format,
        )
        data = checked(images, seed=data_seed, steps_per_epoch=steps_per_epoch)
        if isinstance(data, ArrayBatches):
            check_shared(batch_size)
        if validation_data is not None:
            refuse_read_once(validation_data, "validation_data")
            validation_data = checked(validation_data)
        ours = isinstance(data, (ArrayBatches, ShuffledBatches))
        history = run_fit(
            self,
            data,
            seed=self.seed,
            run=run,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=list(callbacks or []),
            validation_data=validation_data,
            backup_dir=backup_dir,
            settings={"task": self.task, "batch_size": batch_size if ours else None},
            verbose=verbose,
            steps_per_epoch=None if ours or isinstance(data, StreamBatches) else steps_per_epoch,
            chance=(self.task.chance_loss(self.images_shape), f"in {type(self.task).__name__}"),
        )
        self._fits += 1
        return history

    def _check_values(self, images: Any) -> None:
        self.task.check_images(images)
        warn_of_scaling(self.encoder, *range_of(images))

    def _compile_if_needed(self) -> None:
        if not self.compiled:
            self.compile(optimizer=keras.optimizers.Adam(1e-3))

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes the model from: task, encoder, shape and seed."""
        return {
            "task": keras.saving.serialize_keras_object(self.task),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "input_shape": self.images_shape,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SelfSupervisedModel":
        """Make the model again, with new weights; `keras.saving.load_model` then loads the saved ones."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("task", "encoder")
        }
        return cls(**{**config, **parts, "input_shape": tuple(config["input_shape"])})

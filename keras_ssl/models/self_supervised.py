"""SelfSupervisedModel: combines a pretext task with an encoder, and trains them with `fit_pretext`."""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

import keras
from keras import ops

from keras_ssl._fit import run_fit
from keras_ssl._keras_private import ModelBuiltInInit, remat_mode_of
from keras_ssl._keras_private import layers_of as nested_layers
from keras_ssl._seeding import resolve_seed, seeded
from keras_ssl._serialization import short_repr
from keras_ssl._types import Config, Dataset, Images, Structure, Tensor
from keras_ssl._value_range import range_of
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches, StreamBatches, length_of
from keras_ssl.data.fit_inputs import image_batches, refuse_read_once, split_arrays
from keras_ssl.distribution import check_batch_size, rank_and_world_size
from keras_ssl.encoders._checks import (
    check_takes_images,
    encoder_for,
    is_fixed_shape,
    resolve_input_shape,
    warn_of_classifier,
    warn_of_frozen,
    warn_of_scaling,
)
from keras_ssl.encoders.densenet import default_encoder
from keras_ssl.layers.run_clock import FollowsClock, RunClock
from keras_ssl.models._default_run import (
    OPTIMIZER_NAME,
    Announcement,
    default_epochs,
    default_learning_rate,
    default_optimizer,
    sets_learning_rate,
)
from keras_ssl.preprocessing.views import ImageAugmentation, random_views
from keras_ssl.random import ReplaySeeds
from keras_ssl.tasks.base import PretextTask, layers_of


@keras.saving.register_keras_serializable(package="keras_ssl")
class SelfSupervisedModel(ModelBuiltInInit):
    """Keras model that pretrains an encoder with a pretext task on unlabeled images.

    `encoder` remains an ordinary Keras model. After `fit_pretext` it is pretrained: save it with
    `model.encoder.save("encoder.keras")`, or pass it to `FineTuner`.

    Args:
        task: the pretext task, such as `RotationTask()`.
        encoder: any Keras model or layer from images to a feature vector, a feature map or tokens:
            functional, sequential or subclassed, built or not. A functional one may be built for images of
            other sides, unless a layer depends on them. `None` builds DenseNet-121 without pretrained
            weights; in 2D it takes values from 0 to 255 and scales them inside.
        input_shape: fixed shape `(*spatial, channels)` of the images. `None` takes that of the encoder, or
            `(224, 224, 3)` if `encoder` is `None` too.
        seed: seed of the task's random draws, the order of images, and the weights of new layers. `None`
            draws one from Python's `random`, which `keras.utils.set_random_seed` seeds.
        dtype: dtype or dtype policy, such as `"mixed_bfloat16"`, of the model and its new layers, saved with
            it; `None` for Keras' global policy. An encoder that is passed keeps its own.
        name: name of the model.

    Raises:
        TypeError: `task` is not a `PretextTask`, or `encoder` not a Keras model or layer.
        ValueError: `input_shape` is missing or not fixed, or does not match encoder or task; the encoder
            takes the task's patches only, not whole images; or the model is created in a `keras.RematScope`
            that would recompute it.

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
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if not isinstance(task, PretextTask):
            raise TypeError(f"`task` must be a PretextTask, such as RotationTask(). Received {task!r}.")
        remat_mode = remat_mode_of(self)
        if remat_mode is not None and remat_mode.mode in ("full", "larger_than"):
            raise ValueError(
                "A SelfSupervisedModel must be created outside of `keras.RematScope`, which would repeat the "
                f"task's random draws in the backward pass. Received a scope {remat_mode.mode!r}. For "
                "gradient checkpointing, pass `encoders.rematerialize(encoder)`."
            )
        self.task = task
        # Tracked, since their seeds are variables.
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
        patch_shape = None if encoder_shape == self.images_shape else encoder_shape
        self.seed = seed = resolve_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(seed)
        with seeded(seed), _global_policy(self.dtype_policy):
            self.encoder = default_encoder(self.images_shape, patch_shape) if encoder is None else encoder
            self.network = task.build_network(encoder_for(self.encoder, encoder_shape), self.images_shape)
        if patch_shape is not None:
            # Not only patches, or it could not be fine-tuned.
            check_takes_images(self.encoder, self.images_shape)
        self.clock = RunClock(name="clock")
        for layer in nested_layers(self.network):
            if isinstance(layer, FollowsClock):
                layer.follow_clock(self.clock)
        warn_of_classifier(self.encoder)
        self.task_metrics = task.build_metrics()
        self.built = True
        self._fits = 0
        self._augment: ImageAugmentation | None = None

    def call(self, images: Tensor, training: bool = False) -> dict[str, Structure]:
        """Preprocess a batch with the task and run the network.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            training: whether to augment as in the last `fit_pretext`, and to use new random draws; otherwise
                draws are the same for every call.

        Returns:
            Dictionary of the task's `targets` and the network's `outputs`.
        """
        images = ops.cast(images, self.compute_dtype)
        # Depends on the images too, or every batch would have the same draws.
        seeds = self.seed_generator if training else ReplaySeeds(self.seed, images)
        if training and self._augment is not None:
            images = self._augmented(images)
        inputs, targets = self.task.preprocess(images, seeds)
        outputs = self.network(inputs, training=training)
        if training:
            self.clock.advance()
        return {"targets": targets, "outputs": outputs}

    def compute_loss(
        self,
        x: Tensor = None,
        y: Structure = None,
        y_pred: Structure = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """Return the mean loss of the task plus losses of layers; labels in `y` are ignored."""
        loss = ops.mean(self.task.compute_loss(**y_pred)) + sum(self.losses)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # `tf.distribute` sums the gradients of replicas; Keras divides its own losses likewise.
            loss = loss / tf.distribute.get_strategy().num_replicas_in_sync
        return loss

    def compute_metrics(
        self, x: Tensor, y: Structure, y_pred: Structure, sample_weight: Tensor = None
    ) -> dict[str, Any]:
        """Update the task's metrics."""
        for metric in self.task_metrics:
            metric.update_state(y_pred["targets"], y_pred["outputs"])
        results = self.get_metrics_result()
        if keras.backend.backend() == "tensorflow" and rank_and_world_size(self)[1] > 1:
            # Keras 3.15 averages the results of TensorFlow's workers over the first axis.
            results = {name: ops.reshape(value, (1,)) for name, value in results.items()}
        return results

    def reads_batch_to_build(self) -> bool:
        """Return whether Keras may read a batch to build the model: not with several processes."""
        return rank_and_world_size(self)[1] == 1

    def fit_pretext(
        self,
        images: Images | Dataset,
        *,
        validation_data: Dataset = None,
        validation_split: float = 0.0,
        augment: ImageAugmentation | Literal["auto"] | None = "auto",
        batch_size: int = 32,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        initial_epoch: int = 0,
        learning_rate: float | None = None,
        image_key: str | None = None,
        data_format: str = "channels_last",
        callbacks: list[keras.callbacks.Callback] | None = None,
        backup_dir: str | os.PathLike[str] | None = None,
        verbose: str | int = "auto",
    ) -> keras.callbacks.History:
        """Train encoder and pretext head on images without labels.

        Unless `compile` was called, the optimizer is AdamW with a linear warm-up over the first tenth of the
        run's steps, cosine decay to 0 over the rest, weight decay of kernels only, and gradient clipping; the
        rate depends on task and batch size. Each call is a run of its own. EMA teachers, temperatures and
        other schedules of a task follow the same course. Call `compile(optimizer=...)` for another
        optimizer; the loss is the task's.

        At the end, and before validation and checks, moving statistics of batch normalization are
        re-estimated over training images, so that inference sees the network that was trained, whatever the
        momentum of the encoder's layers.

        Args:
            images: array or tensor `(n, *spatial, channels)` of any numeric dtype with values as stored in
                files (the encoder scales them inside), including memory-mapped arrays and `LazyImages`; a
                list of equal arrays, which are stacked; or a `keras.utils.PyDataset`, `tf.data.Dataset`,
                PyTorch `DataLoader`, Grain data set, generator or list of batches. A batch is `images`,
                `(images,)`, `(images, labels)`, `(images, labels, sample_weight)` or a dictionary; labels
                and weights are ignored. A generator is read only once: each epoch continues it, and
                training ends early, with a warning, if it is exhausted.
            validation_data: like `images` except for a generator; loss and metrics are computed at the end of
                every epoch, with the same random draws each time.
            validation_split: fraction of an array, its last images, that is held out as `validation_data`, as
                in Keras' `fit`. Copies of an image, and images of a patient, may be in both parts: to avoid
                this, split by group (`data.stratified_split`) and pass `validation_data`.
            augment: transforms training images, new in every epoch, before the task does: an `Augmentation`
                or a function `(images, seed) -> images` of tensors, which keeps their shape. `"auto"` takes
                the task's `default_augmentation`: slight rotation and crops for tasks that would see the same
                pixels in every epoch (masked patches, inpainting, colorization, jigsaw, relative patches,
                CPC), none for tasks with views or rotations. `None` for none. Evaluation is not augmented.
            batch_size: images in a batch, for arrays.
            epochs: final epoch, as in Keras' `fit`. `None` chooses about 2000 steps, from 10 to 200 epochs;
                the number is printed before the run, and its estimated time after a few steps.
            steps_per_epoch: batches in an epoch; `None` for all. Required for endless streams, and for
                several epochs of a generator. A stream of unknown length is read to its end in every epoch.
            initial_epoch: first epoch, as in Keras' `fit`.
            learning_rate: peak learning rate of the default optimizer; `None` for that of the task, see
                `PretextTask.base_learning_rate`.
            image_key: key of the images in batches that are dictionaries, as in Hugging Face, MONAI and
                TorchIO.
            data_format: `"channels_first"` if images are `(n, channels, *spatial)`, as in PyTorch; they are
                converted to `(n, *spatial, channels)`.
            callbacks: Keras callbacks, such as `ModelCheckpoint`, `CSVLogger` and `TensorBoard`.
            backup_dir: folder that makes the run resumable: the same call after a kill resumes at the start
                of the interrupted epoch. For arrays and a `PyDataset`, the final weights are bitwise those
                of an uninterrupted run on the same backend. A finished run is not repeated; its weights are
                loaded. Runs are identified by content: build the model with the same initial weights each
                time (`keras.utils.set_random_seed`); a different run raises an error that names the
                differences. Ctrl-C and SIGTERM stop a run at the end of the batch; a second one at once.
            verbose: as in Keras' `fit`.

        Returns:
            The `History` of all epochs, including those before the run resumed.

        Raises:
            ValueError: images are empty, contain NaN or infinity (checked for all of an array, and for the
                first batch of a data set and of `LazyImages`), do not have this model's shape, have values
                that the task cannot use, or are too few in a batch for the task; arrays of a list have
                different shapes; `augment` is none of these, or changes the shape of images; batches are
                dictionaries without `image_key`; `validation_split` is given with a data set or with
                `validation_data`; a generator is given with `backup_dir`, or with several epochs and no
                `steps_per_epoch`; `learning_rate` is not above 0, or given after `compile`; `backup_dir`
                contains another run.
            FloatingPointError: the loss became NaN or infinite. The last finite weights are restored.
        """
        self._check_learning_rate(learning_rate)
        if validation_split:
            rank = len(self.images_shape) - 1
            (images,), (validation_data,) = split_arrays(validation_split, rank, validation_data, images)
        warn_of_frozen(self.encoder)
        self._set_augment(augment)
        run = self._fits
        data_seed = (self.seed + run) % 2**31
        rows: list[int] = []

        def check(found: Tensor) -> None:
            rows.append(len(found))
            self._check_values(found)

        checked = functools.partial(
            image_batches,
            input_shape=self.images_shape,
            batch_size=batch_size,
            smallest_batch=self.task.smallest_batch(),
            check=check,
            image_key=image_key,
            data_format=data_format,
        )
        data = checked(images, seed=data_seed, steps_per_epoch=steps_per_epoch)
        if isinstance(data, ArrayBatches):
            check_batch_size(batch_size)
        if validation_data is not None:
            refuse_read_once(validation_data, "validation_data")
            validation_data = checked(validation_data)
        ours = isinstance(data, (ArrayBatches, ShuffledBatches))
        batches = steps_per_epoch or (len(data) if ours else _known_length(data))
        if epochs is None:
            # A generator of unknown length is read once.
            once = batches is None and isinstance(data, StreamBatches) and data.is_read_once
            epochs = initial_epoch + (1 if once else default_epochs(batches))
        if epochs < initial_epoch:
            raise ValueError(
                f"`epochs` must be at least `initial_epoch`. Received {epochs} and {initial_epoch}."
            )
        announcement = Announcement(epochs - initial_epoch, batches, self._notes(augment))
        course = {"epochs": epochs} if self._follows_course() else {}
        if not self._has_own_optimizer():
            steps = None if sets_learning_rate(callbacks or []) else announcement.steps
            size = batch_size if isinstance(data, ArrayBatches) else rows[0]
            rate = default_learning_rate(self.task, size) if learning_rate is None else learning_rate
            self.compile(optimizer=default_optimizer(rate, steps))
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
            settings={
                "task": self.task,
                **course,
                "batch_size": batch_size if ours else None,
                "augmentation": self._augment,
            },
            verbose=verbose,
            steps_per_epoch=None if ours or isinstance(data, StreamBatches) else steps_per_epoch,
            chance=(self.task.chance_loss(self.images_shape), f"in {type(self.task).__name__}"),
            clock=self.clock,
            steps=announcement.steps,
            announcement=announcement if verbose else None,
        )
        self._fits += 1
        return history

    def _set_augment(self, augment: ImageAugmentation | Literal["auto"] | None) -> None:
        if isinstance(augment, str) and augment == "auto":
            augment = self.task.default_augmentation(self.images_shape)
        if augment is not None and (isinstance(augment, keras.Layer) or not callable(augment)):
            raise ValueError(
                '`augment` must be "auto", None, an Augmentation or a function (images, seed) -> images. '
                f"Received {augment!r}."
            )
        if augment != self._augment:
            self._augment = augment
            # The training step that an earlier fit compiled contains the earlier one.
            self.train_function = None

    def _augmented(self, images: Tensor) -> Tensor:
        assert self._augment is not None
        augmented = random_views(images, self.seed_generator, self._augment, count=1)
        if tuple(augmented.shape[1:]) != self.images_shape:
            raise ValueError(
                f"`augment` must keep the shape of images, {self.images_shape}. "
                f"Received images of shape {tuple(augmented.shape[1:])}."
            )
        return augmented

    def _notes(self, augment: ImageAugmentation | Literal["auto"] | None) -> list[str]:
        """Return what was chosen by the shape of the images, for the user to read."""
        notes = self.task.notes(self.images_shape)
        if isinstance(augment, str) and self._augment is not None:
            notes.append(f"Augmentation: {short_repr(self._augment)}; augment=None turns it off.")
        return notes

    def _check_values(self, images: Tensor) -> None:
        self.task.check_images(images)
        warn_of_scaling(self.encoder, *range_of(images))

    def _has_own_optimizer(self) -> bool:
        """Return whether the user chose the optimizer, also that of a loaded model."""
        optimizer = self.optimizer if self.compiled else None
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        return optimizer is not None and optimizer.name != OPTIMIZER_NAME

    def _follows_course(self) -> bool:
        """Return whether the number of epochs changes every step of a run."""
        scheduled = any(isinstance(layer, FollowsClock) for layer in nested_layers(self.network))
        return scheduled or not self._has_own_optimizer()

    def _check_learning_rate(self, rate: float | None) -> None:
        if rate is None:
            return
        if self._has_own_optimizer():
            raise ValueError(
                "`learning_rate` must be None after `compile`, whose optimizer has a rate of its own. "
                f"Received {rate!r}."
            )
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise ValueError(
                f"`learning_rate` must be a finite number above 0. Received {rate!r}. For a schedule, call "
                "`compile(optimizer=...)`."
            )

    def get_config(self) -> Config:
        """Return the configuration: task, encoder, input shape, seed and dtype policy."""
        return {
            "task": keras.saving.serialize_keras_object(self.task),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "input_shape": self.images_shape,
            "seed": self.seed,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: dict[str, Any] | None = None
    ) -> "SelfSupervisedModel":
        """Create the model with new weights; `keras.saving.load_model` then loads the saved ones."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("task", "encoder")
        }
        return cls(**{**config, **parts, "input_shape": tuple(config["input_shape"])})


def _known_length(data: Dataset) -> int | None:
    """Return the number of batches of a stream, `None` if it is unknown."""
    length = data.steps if isinstance(data, StreamBatches) else length_of(data)
    return None if length == sys.maxsize else length


@contextlib.contextmanager
def _global_policy(policy: keras.DTypePolicy) -> Iterator[None]:
    """Give new layers a dtype policy: tasks build theirs under the global one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

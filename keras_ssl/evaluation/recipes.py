"""How an encoder is pretrained inside a fold."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_ssl.model import SelfSupervisedModel
from keras_ssl.task import PretextTask

Histories = dict[str, list[float]]

# (encoder, images, seed, backup folder) -> what is worth plotting, by epoch.
Recipe = Callable[[keras.Model, np.ndarray, int, Path], Histories | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretextRecipe:
    """Pretrains an encoder by a pretext task, with Adam; what `label_efficiency` calls in each fold.

    Any function of the same four arguments will do in its place: it trains the encoder that it is given,
    in place, on the images that it is given, and may return curves by name.

    Args:
        task: what is to be learnt.
        epochs: epochs of `fit_pretext`.
        steps_per_epoch: batches in an epoch; `None` for all images.
        batch_size: images in a batch.
        learning_rate: of Adam.
        validation_share: share of the images, in [0, 1), that is held out of this training, to tell with
            curves of `val_loss` and `val_accuracy` whether the pretext is understood or learnt by heart.
        callbacks: function that makes callbacks, such as `lambda: [RepresentationCheck(images)]`; their
            images must not be test images.
        verbose: as in `fit`.

    Raises:
        ValueError: `epochs` or `validation_share` is out of range; when it is called, `validation_share`
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
    validation_share: float = 0.0
    callbacks: Callable[[], list[keras.callbacks.Callback]] | None = dataclasses.field(
        default=None, repr=False
    )
    # Not compared: what is printed makes no other study.
    verbose: str | int = dataclasses.field(default="auto", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received {self.epochs}.")
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                f"`validation_share` must be at least 0 and below 1. Received {self.validation_share}."
            )

    def __call__(self, encoder: keras.Model, images: np.ndarray, seed: int, backup_dir: Path) -> Histories:
        """Train `encoder` on `images`, going on where a backup was left; return its curves."""
        held_out = None
        if self.validation_share:
            images, held_out = _held_out(images, self.validation_share, seed)
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
            f"`validation_share` must hold out at least one of {len(images)} images and leave one. "
            f"Received {share}."
        )
    order = np.random.default_rng(seed).permutation(len(images))
    # In their order, as a memory-mapped file is read fastest.
    return images[np.sort(order[count:])], images[np.sort(order[:count])]

"""How an encoder is pretrained inside a fold."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_ssl.model import SelfSupervisedModel
from keras_ssl.task import PretextTask
from keras_ssl.training import default_jit_compile

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
        callbacks: function that makes callbacks, such as `lambda: [RepresentationCheck(images)]`; their
            images must not be test images.
        verbose: as in `fit`.

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
    callbacks: Callable[[], list[keras.callbacks.Callback]] | None = dataclasses.field(
        default=None, repr=False
    )
    verbose: str | int = dataclasses.field(default="auto", repr=False)

    def __call__(self, encoder: keras.Model, images: np.ndarray, seed: int, backup_dir: Path) -> Histories:
        """Train `encoder` on `images`, going on where a backup was left; return its curves."""
        model = SelfSupervisedModel(self.task, encoder, input_shape=images.shape[1:], seed=seed)
        model.compile(keras.optimizers.Adam(self.learning_rate), jit_compile=default_jit_compile())
        history = model.fit_pretext(
            images,
            batch_size=self.batch_size,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            callbacks=self.callbacks() if self.callbacks else None,
            backup_dir=backup_dir,
            verbose=self.verbose,
        )
        return history.history

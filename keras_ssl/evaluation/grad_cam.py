"""Where in an image a grader found what speaks for its grade."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl._keras_private import parents_of
from keras_ssl.data.inputs import image_batches
from keras_ssl.distribution import predict_on_batch
from keras_ssl.heads.base import PooledHead


def grad_cam(
    model: keras.Model,
    images: Any,
    *,
    head: PooledHead | None = None,
    score: Callable[[Any], Any] | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Draw heat maps of what speaks for a higher grade, by Grad-CAM.

    The maps come from the last feature map in the model, what the encoder of a `FineTuner` gives: its
    channels, each weighted by how much the score would rise with it, summed, cut off below zero and
    enlarged. They are as coarse as that feature map, 7 x 7 for DenseNet121 at 224 pixels. They show what
    the model looked at and not that it was right to.

    Args:
        model: functional or sequential model with a feature map in it, such as `FineTuner.model` or
            one loaded from a file.
        images: array `(n, *spatial, channels)` as the model takes them, two or three spatial axes.
        head: the head of the model: the score is then the expected grade, the sum over k of k times the
            probability of grade k, or the number that a `RegressionHead` gives. Give this or `score`.
        score: function of the outputs `(batch, units)`, made of `keras.ops`, that gives `(batch,)`: what
            shall be explained. `lambda outputs: outputs[:, 3]` for class 3, where classes have no order.
        batch_size: images in a batch.

    Returns:
        float32 `(n, *spatial)` in [0, 1], each map divided by its own maximum; all zero for an image where
        nothing speaks for a higher score.

    Raises:
        TypeError: `head` is no `Head`.
        ValueError: not one of `head` and `score` is given; `score` gives another shape; `model` has not one
            input and one output, or no feature map before its head, as where the encoder gives a vector;
            images are not the model's.

    >>> import keras, keras_ssl
    >>> images = keras.random.uniform((2, 16, 16, 3), seed=0)
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(5), seed=0)
    >>> grad_cam(tuner.model, images, head=tuner.head).shape
    (2, 16, 16)

    References:
        Selvaraju, R. R. et al. (2017). Grad-CAM: visual explanations from deep networks via
        gradient-based localization. ICCV.
    """
    explained = _checked_score(head, score)
    features = _last_feature_map(model)
    encoder = keras.Model(model.inputs[0], features)
    top = keras.Model(features, model.outputs[0])

    def total_score(values: Any) -> Any:
        scores = explained(top(values, training=False))
        if len(scores.shape) != 1:
            raise ValueError(f"`score` must give shape (batch,). Received {tuple(scores.shape)}.")
        # Images do not mix outside of training: the gradient of the sum has that of each in its row.
        return ops.sum(scores)

    shape = tuple(model.inputs[0].shape[1:])
    data = image_batches(images, shape, batch_size=batch_size)
    maps: list[np.ndarray] = []
    for index in range(len(data)):
        (batch,) = data[index]
        values = np.asarray(predict_on_batch(encoder, batch), "float32")
        gradients = np.asarray(_gradient(total_score, values), "float32")
        spatial = tuple(range(1, values.ndim - 1))
        weights = gradients.mean(axis=spatial, keepdims=True)
        maps.extend(_enlarged(cam, shape[:-1]) for cam in (weights * values).sum(axis=-1))
    return np.stack(maps)


def _checked_score(head: PooledHead | None, score: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if head is None and score is not None:
        return score
    if head is None or score is not None:
        raise ValueError("Either `head` or `score` must be given. Received both or neither.")
    if not isinstance(head, PooledHead):
        raise TypeError(f"`head` must be a Head, such as OrdinalHead(5). Received {head!r}.")
    return _expected_grade(head)


def _expected_grade(head: PooledHead) -> Callable[[Any], Any]:
    if head.form == "cumulative":
        return lambda outputs: ops.sum(outputs, axis=1)
    if head.form == "multi_hot":
        return lambda outputs: ops.sum(outputs[:, 1:], axis=1)
    if head.form == "probabilities":
        return lambda outputs: ops.sum(outputs * ops.arange(head.output_units, dtype=outputs.dtype), axis=1)
    return lambda outputs: outputs[:, 0]


def _last_feature_map(model: keras.Model) -> keras.KerasTensor:
    """Walk from the output back to the first tensor that has spatial axes."""
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "`model` must be functional or sequential with one input and one output. Received "
            f"{type(model).__name__} {model.name!r} with {len(inputs)} and {len(outputs)} known."
        )
    tensors = [outputs[0]]
    while tensors:
        tensor = tensors.pop(0)
        if tensor is not inputs[0] and len(tensor.shape) >= 4:
            return tensor
        tensors += parents_of(tensor)
    raise ValueError(
        "`model` must have a feature map (batch, *spatial, channels) before its head. Received "
        f"{model.name!r}, whose encoder gives a vector: give the encoder without its last pooling to "
        "FineTuner, whose head pools."
    )


def _gradient(function: Callable[[Any], Any], values: np.ndarray) -> Any:
    """Differentiate a function from a tensor to a number; the one thing that `keras.ops` cannot do."""
    tensor = ops.convert_to_tensor(values)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            result = function(tensor)
        return tape.gradient(result, tensor)
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(tensor)
    import torch

    tensor = tensor.detach().requires_grad_(True)
    return ops.convert_to_numpy(torch.autograd.grad(function(tensor), tensor)[0])


def _enlarged(cam: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from scipy import ndimage

    factors = [size / own for size, own in zip(shape, cam.shape, strict=True)]
    # Pixels as areas, not points, hence the map's edges fall on the image's.
    large = ndimage.zoom(np.maximum(cam, 0), factors, order=1, mode="nearest", grid_mode=True)
    return large / max(large.max(), np.finfo("float32").tiny)

"""Grad-CAM: heat maps of the image regions that support a higher grade."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_ssl._keras_private import parents_of
from keras_ssl._types import Images, Tensor
from keras_ssl.data.fit_inputs import image_batches
from keras_ssl.distribution import predict_on_batch
from keras_ssl.encoders.tokens import token_layout
from keras_ssl.heads.base import PooledHead

_Score = Callable[[Tensor], Tensor]


def grad_cam(
    model: keras.Model,
    images: Images,
    *,
    head: PooledHead | None = None,
    score: _Score | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Compute Grad-CAM heat maps of what supports a higher grade.

    The maps are computed from the last feature map of the model, the output of the encoder in a `FineTuner`,
    or from its tokens, arranged as in `encoders.tokens_to_map`: channels are weighted by the mean gradient of
    the score, summed, clipped at zero and resized to the image. They are as coarse as the feature map, 7 x 7
    for DenseNet121 at 224 pixels. They show which regions influence the score, not that the prediction is
    correct.

    Args:
        model: functional or sequential model with a feature map, such as `FineTuner.model` or
            one loaded from a file.
        images: array `(n, *spatial, channels)` as the model takes them, two or three spatial axes.
        head: head of the model: the score is then the expected grade, the sum over k of k times the
            probability of grade k, or the output of a `RegressionHead`. Pass either this or `score`.
        score: function of `keras.ops` from outputs `(batch, units)` to the score to explain, `(batch,)`. For
            unordered classes, `lambda outputs: outputs[:, 3]` explains class 3.
        batch_size: images in a batch.

    Returns:
        float32 `(n, *spatial)` in [0, 1], each map divided by its maximum; zeros where nothing supports a
        higher score.

    Raises:
        TypeError: `head` is not a `Head`.
        ValueError: not exactly one of `head` and `score` is given; `score` returns another shape; `model`
            does not have one input and one output, or has no feature map before its head; images do not
            match the model.

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
    score_of = _checked_score(head, score)
    features = _last_feature_map(model)
    encoder = keras.Model(model.inputs[0], features)
    top = keras.Model(features, model.outputs[0])

    def total_score(values: Tensor) -> Tensor:
        scores = score_of(top(values, training=False))
        if len(scores.shape) != 1:
            raise ValueError(f"`score` must return shape (batch,). Received {tuple(scores.shape)}.")
        # Images are independent in inference: each row of the gradient of the sum is that of one image.
        return ops.sum(scores)

    shape = tuple(model.inputs[0].shape[1:])
    data = image_batches(images, shape, batch_size=batch_size)
    maps: list[np.ndarray] = []
    for index in range(len(data)):
        (batch,) = data[index]
        values = np.asarray(predict_on_batch(encoder, batch), "float32")
        gradients = np.asarray(_gradient(total_score, values), "float32")
        if values.ndim == 3:
            values, gradients = (_on_grid(each, shape[:-1]) for each in (values, gradients))
        spatial = tuple(range(1, values.ndim - 1))
        weights = gradients.mean(axis=spatial, keepdims=True)
        maps.extend(_resized(cam, shape[:-1]) for cam in (weights * values).sum(axis=-1))
    return np.stack(maps)


def _checked_score(head: PooledHead | None, score: Callable[[Tensor], Tensor] | None) -> _Score:
    if head is None and score is not None:
        return score
    if head is None or score is not None:
        raise ValueError("Exactly one of `head` and `score` must be given. Received both or neither.")
    if not isinstance(head, PooledHead):
        raise TypeError(f"`head` must be a Head for grades, such as OrdinalHead(5). Received {head!r}.")
    return _expected_grade(head)


def _expected_grade(head: PooledHead) -> _Score:
    if head.form == "cumulative":
        return lambda outputs: ops.sum(outputs, axis=1)
    if head.form == "multi_hot":
        return lambda outputs: ops.sum(outputs[:, 1:], axis=1)
    if head.form == "probabilities":
        return lambda outputs: ops.sum(outputs * ops.arange(head.output_units, dtype=outputs.dtype), axis=1)
    return lambda outputs: outputs[:, 0]


def _last_feature_map(model: keras.Model) -> keras.KerasTensor:
    """Return the tensor with spatial axes, or tokens of known places, that is closest to the output."""
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "`model` must be functional or sequential with one input and one output. Received "
            f"{type(model).__name__} {model.name!r} with {len(inputs)} and {len(outputs)} known."
        )
    tensors = [outputs[0]]
    while tensors:
        tensor = tensors.pop(0)
        tokens = len(tensor.shape) == 3 and token_layout(tensor.shape[1], inputs[0].shape[1:-1])
        if tensor is not inputs[0] and (tokens or len(tensor.shape) >= 4):
            return tensor
        tensors += parents_of(tensor)
    raise ValueError(
        "`model` must have a feature map (batch, *spatial, channels) before its head. Received "
        f"{model.name!r}, whose encoder outputs a vector: pass the encoder without its last pooling to "
        "FineTuner, whose head pools; or, of tokens, `encoders.tokens_to_map(encoder, grid=...)`."
    )


def _on_grid(tokens: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Drop class token and registers, and arrange the others as they lie on the image."""
    layout = token_layout(tokens.shape[1], sides)
    assert layout is not None
    grid, prefix = layout
    return tokens[:, prefix:].reshape(len(tokens), *grid, tokens.shape[-1])


def _gradient(function: _Score, values: np.ndarray) -> Tensor:
    """Return the gradient of a scalar function, which `keras.ops` does not provide."""
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


def _resized(cam: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from scipy import ndimage

    factors = [size / map_size for size, map_size in zip(shape, cam.shape, strict=True)]
    # With `grid_mode`, pixels are areas rather than points, so the edges of map and image coincide.
    large = ndimage.zoom(np.maximum(cam, 0), factors, order=1, mode="nearest", grid_mode=True)
    return large / max(large.max(), np.finfo("float32").tiny)

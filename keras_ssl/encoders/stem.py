"""A pretrained model for images with another number of channels."""

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_ssl.encoders.graph import copy_weights, functional_graph, nodes_in_order, rebuild

_CONVOLUTIONS = (layers.Conv2D, layers.Conv3D)
# Layers that treat every channel alike, so that images may pass them before the first convolution.
_CHANNEL_FREE = (
    *(layers.Identity, layers.Activation, layers.ReLU, layers.Dropout, layers.GaussianNoise),
    *(layers.ZeroPadding2D, layers.ZeroPadding3D, layers.Cropping2D, layers.Cropping3D),
    *(layers.Resizing, layers.CenterCrop, layers.RandomCrop, layers.RandomFlip),
    *(layers.RandomRotation, layers.RandomTranslation, layers.RandomZoom),
)


def adapt_stem(model: keras.Model, channels: int) -> keras.Model:
    """Build a model for images of another number of channels, with the weights of a pretrained one.

    The kernel of the first convolution becomes, for each new channel, the mean over the old ones, times old
    number by new: its sum is kept, so that an image of equal channels gives what it gave before. Everything
    else is copied. Layers before that convolution must treat all channels alike, as `Rescaling` by one
    number does.

    Args:
        model: functional or built sequential model, of two or three spatial axes.
        channels: new number of channels of the images.

    Returns:
        A functional model from `(batch, *spatial, channels)` with the layers' names of `model` and weights of
        its own.

    Raises:
        ValueError: `channels` is below one, `model` not functional, or images meet a layer that depends on
            the number of their channels and is no plain convolution; it is named.

    >>> from keras_ssl.encoders import small_encoder
    >>> adapt_stem(small_encoder((16, 16, 3)), channels=4).input_shape
    (None, 16, 16, 4)

    References:
        Wightman, R. (2019). PyTorch image models (`timm`), whose `in_chans` adapts weights so.
    """
    if channels < 1:
        raise ValueError(f"`channels` must be at least 1. Received {channels}.")
    graph = functional_graph("model", model)
    on_images, without_convolution = _operations_on_images(graph)
    if without_convolution:
        raise ValueError(f"`model` must hold a convolution. Received {model.name!r} without one.")
    return _rebuilt(model, (*graph.inputs[0].shape[1:-1], channels), on_images)


def adapt_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Spread the kernel of a convolution over another number of input channels.

    Args:
        kernel: array `(*width, in, out)`.
        channels: new number of input channels.

    Returns:
        Array `(*width, channels, out)`, equal along `channels`, with the sum of `kernel` over them.

    >>> adapt_kernel(np.array([[1.0], [2.0], [3.0]]), 2).ravel().tolist()
    [3.0, 3.0]
    """
    return np.repeat(kernel.sum(axis=-2, keepdims=True) / channels, channels, axis=-2).astype(kernel.dtype)


def _operations_on_images(graph: keras.Model) -> tuple[list[Any], bool]:
    """List the operations that images enter, up to a convolution; tell whether they leave the model so."""
    operations = []
    images = {id(graph.inputs[0])}
    for node in nodes_in_order(graph):
        if not images.isdisjoint(map(id, node.input_tensors)):
            operations.append(node.operation)
            if _leaves_images(node.operation):
                images.update(map(id, node.outputs))
    return operations, id(graph.outputs[0]) in images


def _leaves_images(operation: Any) -> bool:
    """Tell whether images are still images after an operation; refuse what cannot be adapted."""
    if isinstance(operation, keras.Model):
        return _operations_on_images(functional_graph("model", operation))[1]
    if isinstance(operation, _CONVOLUTIONS) and operation.groups == 1:
        return False
    by_one_number = isinstance(operation, layers.Rescaling) and not (
        np.ndim(operation.scale) or np.ndim(operation.offset)
    )
    if type(operation) in _CHANNEL_FREE or by_one_number:
        return True
    raise ValueError(
        "`model` must lead images to plain convolutions, through nothing but layers that treat all channels "
        f"alike. Received {operation.name!r}, a {type(operation).__name__}. Build the model without it, "
        "and scale with `with_rescaling` afterwards."
    )


def _rebuilt(model: keras.Model, input_shape: tuple[int | None, ...], on_images: list[Any]) -> keras.Model:
    def replace(operation: Any, args: tuple[Any, ...]) -> Any:
        if operation in on_images and isinstance(operation, keras.Model):
            inner = _operations_on_images(functional_graph("model", operation))[0]
            return _rebuilt(operation, args[0].shape[1:], inner)
        if not isinstance(operation, keras.Layer):
            return operation
        return type(operation).from_config(operation.get_config())

    def carry(old: keras.Layer, new: keras.Layer) -> None:
        if old not in on_images:
            copy_weights(old, new)
        elif isinstance(old, _CONVOLUTIONS):
            kernel, *bias = old.get_weights()
            new.set_weights([adapt_kernel(kernel, new.kernel.shape[-2]), *bias])

    return rebuild(model, input_shape, replace, carry)

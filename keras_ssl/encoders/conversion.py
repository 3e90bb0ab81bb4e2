"""Conversion of pretrained encoders: 2D to 3D inflation, other channels, rescaling of pixels."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from keras_ssl._keras_private import nodes_in_order
from keras_ssl.encoders.functional_graph import copy_weights, functional_graph, rebuild

# Layers with a twin in 3D, and what in their configuration holds a value for each spatial axis.
_TWINS = {
    layers.Conv2D: (layers.Conv3D, ("kernel_size", "strides", "dilation_rate")),
    layers.MaxPooling2D: (layers.MaxPooling3D, ("pool_size", "strides")),
    layers.AveragePooling2D: (layers.AveragePooling3D, ("pool_size", "strides")),
    layers.ZeroPadding2D: (layers.ZeroPadding3D, ("padding",)),
    layers.Cropping2D: (layers.Cropping3D, ("cropping",)),
    layers.UpSampling2D: (layers.UpSampling3D, ("size",)),
    layers.GlobalAveragePooling2D: (layers.GlobalAveragePooling3D, ()),
    layers.GlobalMaxPooling2D: (layers.GlobalMaxPooling3D, ()),
    layers.SpatialDropout2D: (layers.SpatialDropout3D, ()),
}


# Layers that do the same whatever the rank, those in the second row along an axis.
_RANK_FREE = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.Rescaling),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.Dense),
)


_ALONG_AXIS = (
    *(layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization),
    *(layers.Normalization, layers.Concatenate, layers.Softmax),
)


def inflate(model: keras.Model, depth: int | None, mode: Literal["center", "mean"] = "center") -> keras.Model:
    """Turn a 2D model into a 3D one that starts from its weights.

    Depth is the first spatial axis; along it, kernels, strides, pools and paddings are as along the others
    (the smaller of the two where those differ). A kernel is laid into the middle slice of the 3D one, all
    else zero, or spread evenly over all slices. On a volume of equal slices every slice of the features is
    then what the 2D model gives for one of them:

    - with `"center"` everywhere, whatever the strides, if convolutions are padded (`"same"` or
      by `ZeroPadding`) or valid; average pools may not follow a zero padding, and maximum pools only with
      values that are not negative (as after ReLU in DenseNet and ResNet), or else outer slices differ;
    - with `"mean"` wherever zeros that pad the volume do not reach.

    Works for functional and sequential models of layers that exist in both ranks, such as DenseNet, ResNet,
    VGG and Inception of `keras.applications`. There is no depthwise convolution in 3D in Keras, so that
    MobileNet, EfficientNet and ConvNeXt are refused.

    Args:
        model: functional or built sequential 2D model from `(batch, height, width, channels)`.
        depth: slices of the volumes, or `None` to leave it open.
        mode: `"center"` or `"mean"`.

    Returns:
        A functional model from `(batch, depth, height, width, channels)`, with the layers' names of
        `model` and weights of its own.

    Raises:
        ValueError: `mode` is another, `depth` below one, `model` not functional or not of two spatial
            axes, or one of its layers has no equivalent in 3D; it is named.

    >>> import keras
    >>> from keras_ssl.encoders import small_encoder
    >>> flat = small_encoder((16, 16, 3), filters=(4, 8))
    >>> inflate(flat, depth=12).output_shape
    (None, 3, 4, 4, 8)

    References:
        Carreira, J. and Zisserman, A. (2017). Quo vadis, action recognition? A new model and the Kinetics
        dataset. CVPR.
    """
    if mode not in ("center", "mean"):
        raise ValueError(f'`mode` must be "center" or "mean". Received {mode!r}.')
    if depth is not None and depth < 1:
        raise ValueError(f"`depth` must be at least 1, or None. Received {depth}.")
    shape = functional_graph("model", model).inputs[0].shape
    if len(shape) != 4:
        raise ValueError(f"`model` must take (batch, height, width, channels). Received {shape}.")

    def replace(layer: Any, args: tuple[Any, ...]) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return inflate(layer, args[0].shape[1], mode)
        return _in_three_dimensions(layer, args)

    def carry(old: keras.Layer, new: keras.Layer) -> None:
        if isinstance(new, layers.Conv3D):
            kernel, *bias = old.get_weights()
            new.set_weights([inflate_kernel(kernel, new.kernel_size[0], mode), *bias])
        elif not isinstance(new, keras.Model):
            copy_weights(old, new)

    return rebuild(model, (depth, *shape[1:]), replace, carry)


def inflate_kernel(kernel: np.ndarray, depth: int, mode: str) -> np.ndarray:
    """Lay a 2D kernel into a 3D one.

    Args:
        kernel: array `(height, width, in, out)`.
        depth: slices of the new kernel.
        mode: `"center"`: all in slice `(depth - 1) // 2`, which is the one that meets the voxel itself under
            `"same"` padding, for even depths too; `"mean"`: divided among all.

    Returns:
        Array `(depth, height, width, in, out)` whose sum over depth is `kernel`.

    >>> inflate_kernel(np.ones((1, 1, 1, 1)), 4, "center").ravel().tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    share = np.full(depth, 1 / depth) if mode == "mean" else np.arange(depth) == (depth - 1) // 2
    return (share[:, None, None, None, None] * kernel).astype(kernel.dtype)


def _in_three_dimensions(layer: Any, args: tuple[Any, ...]) -> keras.Layer:
    kind = type(layer)
    config = layer.get_config() if isinstance(layer, keras.Layer) else {}
    if kind in _TWINS and config.get("interpolation", "nearest") == "nearest":
        twin, per_axis = _TWINS[kind]
        config.pop("interpolation", None)
        config.update({key: _with_depth(config[key]) for key in per_axis})
        return twin.from_config(config)
    if kind in _RANK_FREE and max(np.ndim(getattr(layer, key, 0)) for key in ("scale", "offset")) < 2:
        return kind.from_config(config)
    if kind in _ALONG_AXIS:
        axes = [config["axis"]] if isinstance(config["axis"], int) else list(config["axis"])
        rank = len(keras.tree.flatten(args[0])[0].shape)
        # Of maps that are now 5D, an axis 3 meant the channels; vectors stay what they were.
        if rank == 5 and all(axis in (-1, 3) for axis in axes):
            config["axis"] = -1 if isinstance(config["axis"], int) else [-1]
            return kind.from_config(config)
        if rank == 2:
            return kind.from_config(config)
    raise ValueError(
        "`model` must be made of layers that exist in three dimensions. Received "
        f"{getattr(layer, 'name', layer)!r}, a {kind.__name__}."
    )


def _with_depth(value: Any) -> Any:
    height, width = value
    return (min(height, width, key=np.sum), height, width)


_CONVOLUTIONS = (layers.Conv2D, layers.Conv3D)


# Layers that treat every channel alike, so that images may pass them before the first convolution.
_CHANNEL_FREE = (
    *(layers.Identity, layers.Activation, layers.ReLU, layers.Dropout, layers.GaussianNoise),
    *(layers.ZeroPadding2D, layers.ZeroPadding3D, layers.Cropping2D, layers.Cropping3D),
    *(layers.Resizing, layers.CenterCrop, layers.RandomCrop, layers.RandomFlip),
    *(layers.RandomRotation, layers.RandomTranslation, layers.RandomZoom),
)


def adapt_channels(model: keras.Model, channels: int) -> keras.Model:
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
    >>> adapt_channels(small_encoder((16, 16, 3)), channels=4).input_shape
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


def adapt_kernel_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Spread the kernel of a convolution over another number of input channels.

    Args:
        kernel: array `(*width, in, out)`.
        channels: new number of input channels.

    Returns:
        Array `(*width, channels, out)`, equal along `channels`, with the sum of `kernel` over them.

    >>> adapt_kernel_channels(np.array([[1.0], [2.0], [3.0]]), 2).ravel().tolist()
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
            new.set_weights([adapt_kernel_channels(kernel, new.kernel.shape[-2]), *bias])

    return rebuild(model, input_shape, replace, carry)


def with_rescaling(
    encoder: keras.Model, scale: float | Sequence[float], offset: float | Sequence[float] = 0.0
) -> keras.Model:
    """Put a `Rescaling` layer before an encoder, so that it takes pixels as they are stored.

    For encoders that are not built here; builders of this package take `value_range`. Core layers only: a
    saved `.keras` file loads where keras-ssl is not installed. The weights are the encoder's own.

    Args:
        encoder: model of one input of fixed or open size, such as one of `keras.applications`.
        scale: factor on pixels, one number or one for each channel.
        offset: what is added after that, one number or one for each channel.

    Returns:
        A functional `keras.Model` that computes `encoder(scale * images + offset)`, named as `encoder` with
        `_rescaled`.

    Raises:
        ValueError: the encoder does not know its input shape.

    >>> import keras, keras_ssl
    >>> backbone = keras_ssl.encoders.small_encoder((32, 32, 3))
    >>> with_rescaling(backbone, scale=1 / 127.5, offset=-1.0).output_shape
    (None, 4, 4, 64)

    Weights from ImageNet often want the mean and the deviation of each channel:

    >>> mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    >>> encoder = with_rescaling(
    ...     backbone,
    ...     scale=[1 / (255 * one) for one in deviation],
    ...     offset=[-one / other for one, other in zip(mean, deviation)],
    ... )
    """
    shape = getattr(encoder, "input_shape", None)
    if not isinstance(shape, tuple):
        raise ValueError(f"`encoder` must know the shape of its one input. Received {encoder!r} of {shape}.")
    images = keras.Input(shape[1:], name="images")
    scale, offset = (one if isinstance(one, (int, float)) else list(one) for one in (scale, offset))
    pixels = keras.layers.Rescaling(scale, offset=offset, name="rescaling")(images)
    return keras.Model(images, encoder(pixels), name=f"{encoder.name}_rescaled")

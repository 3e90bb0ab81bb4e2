"""Convert pretrained encoders: inflate 2D to 3D, adapt the number of channels, rescale pixels."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from keras_ssl._keras_private import nodes_in_order
from keras_ssl._types import Tensor
from keras_ssl.encoders.functional_graph import copy_weights, functional_graph, rebuild

# Layers with a 3D counterpart, and the entries of their configuration that have one value per spatial axis.
_COUNTERPARTS = {
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


# Layers of any rank.
_RANK_FREE = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.Rescaling),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.Dense),
)

# Layers of any rank with an argument `axis`.
_ALONG_AXIS = (
    *(layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization),
    *(layers.Normalization, layers.Concatenate, layers.Softmax),
)


def inflate(model: keras.Model, depth: int | None, mode: Literal["center", "mean"] = "center") -> keras.Model:
    """Inflate a 2D model to 3D, with its weights (as in I3D).

    Depth is the first spatial axis. Along it, kernel sizes, strides, pool sizes and padding are those of the
    other axes (the smaller one if these differ). A 2D kernel becomes the middle slice of the 3D kernel, with
    zeros elsewhere, or is spread evenly over all slices. For a volume of identical slices, every slice of
    the features equals the 2D features of such a slice:

    - with `"center"` everywhere, for any strides, if convolutions are padded (`"same"` or `ZeroPadding`) or
      valid. The outer slices differ if an average pool follows a zero padding, or a max pool a zero padding
      of negative values (there are none after the ReLU of DenseNet and ResNet);
    - with `"mean"` beyond the reach of the zero padding.

    Works for functional and sequential models of layers that exist in 2D and 3D, such as DenseNet, ResNet,
    VGG and Inception of `keras.applications`. Keras has no depthwise convolution in 3D, so MobileNet,
    EfficientNet and ConvNeXt raise an error.

    Args:
        model: functional or built sequential 2D model from `(batch, height, width, channels)`.
        depth: number of slices of the volumes; `None` leaves it open.
        mode: `"center"` or `"mean"`.

    Returns:
        A functional model from `(batch, depth, height, width, channels)` with the layer names of `model` and
        its own copy of the weights.

    Raises:
        ValueError: `mode` is unknown, `depth` is below 1, `model` is not functional or not 2D, or one of its
            layers, which the error names, has no 3D counterpart.

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

    def replace(layer: keras.Operation, args: tuple[Tensor, ...]) -> keras.Layer:
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
    """Inflate a 2D kernel to 3D.

    Args:
        kernel: array `(height, width, in, out)`.
        depth: size of the new axis.
        mode: `"center"` puts all of it into slice `(depth - 1) // 2`, which `"same"` padding aligns with the
            voxel itself, also for even depths; `"mean"` divides it among all slices.

    Returns:
        Array `(depth, height, width, in, out)`; its sum over depth is `kernel`.

    >>> inflate_kernel(np.ones((1, 1, 1, 1)), 4, "center").ravel().tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    weights = np.full(depth, 1 / depth) if mode == "mean" else np.arange(depth) == (depth - 1) // 2
    return (weights[:, None, None, None, None] * kernel).astype(kernel.dtype)


def _in_three_dimensions(layer: keras.Operation, args: tuple[Tensor, ...]) -> keras.Layer:
    kind = type(layer)
    config = layer.get_config() if isinstance(layer, keras.Layer) else {}
    if kind in _COUNTERPARTS and config.get("interpolation", "nearest") == "nearest":
        counterpart, per_axis = _COUNTERPARTS[kind]
        config.pop("interpolation", None)
        config.update({key: _with_depth(config[key]) for key in per_axis})
        return counterpart.from_config(config)
    if kind in _RANK_FREE and max(np.ndim(getattr(layer, key, 0)) for key in ("scale", "offset")) < 2:
        return kind.from_config(config)
    if kind in _ALONG_AXIS:
        axes = [config["axis"]] if isinstance(config["axis"], int) else list(config["axis"])
        rank = len(keras.tree.flatten(args[0])[0].shape)
        # In feature maps, which are 5D now, axis 3 was the channel axis; vectors have not changed.
        if rank == 5 and all(axis in (-1, 3) for axis in axes):
            config["axis"] = -1 if isinstance(config["axis"], int) else [-1]
            return kind.from_config(config)
        if rank == 2:
            return kind.from_config(config)
    raise ValueError(
        "`model` must be made of layers that exist in three dimensions. Received "
        f"{getattr(layer, 'name', layer)!r}, a {kind.__name__}."
    )


def _with_depth(value: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    height, width = value
    return (min(height, width, key=np.sum), height, width)


_CONVOLUTIONS = (layers.Conv2D, layers.Conv3D)


# Layers that treat all channels alike: images may pass through them before the first convolution.
_CHANNEL_FREE = (
    *(layers.Identity, layers.Activation, layers.ReLU, layers.Dropout, layers.GaussianNoise),
    *(layers.ZeroPadding2D, layers.ZeroPadding3D, layers.Cropping2D, layers.Cropping3D),
    *(layers.Resizing, layers.CenterCrop, layers.RandomCrop, layers.RandomFlip),
    *(layers.RandomRotation, layers.RandomTranslation, layers.RandomZoom),
)


def adapt_channels(model: keras.Model, channels: int) -> keras.Model:
    """Adapt a pretrained model to images with another number of channels.

    For each new channel, the kernel of the first convolution is the mean over the old channels, times old by
    new number of channels. This keeps its sum, so an image of identical channels has the same features as
    before. All other weights are copied. Layers before that convolution must treat all channels alike, as
    `Rescaling` by one number does.

    Args:
        model: functional or built sequential model with two or three spatial axes.
        channels: new number of channels of the images.

    Returns:
        A functional model from `(batch, *spatial, channels)` with the layer names of `model` and its own copy
        of the weights.

    Raises:
        ValueError: `channels` is below 1, `model` is not functional, or a layer before the first plain
            convolution, which the error names, depends on the number of channels.

    >>> from keras_ssl.encoders import small_encoder
    >>> adapt_channels(small_encoder((16, 16, 3)), channels=4).input_shape
    (None, 16, 16, 4)

    References:
        Wightman, R. (2019). PyTorch image models (`timm`), argument `in_chans`.
    """
    if channels < 1:
        raise ValueError(f"`channels` must be at least 1. Received {channels}.")
    graph = functional_graph("model", model)
    on_images, without_convolution = _operations_on_images(graph)
    if without_convolution:
        raise ValueError(f"`model` must hold a convolution. Received {model.name!r} without one.")
    return _rebuilt(model, (*graph.inputs[0].shape[1:-1], channels), on_images)


def adapt_kernel_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt the kernel of a convolution to another number of input channels.

    Args:
        kernel: array `(*width, in, out)`.
        channels: new number of input channels.

    Returns:
        Array `(*width, channels, out)`, constant along `channels`; its sum over them is that of `kernel`.

    >>> adapt_kernel_channels(np.array([[1.0], [2.0], [3.0]]), 2).ravel().tolist()
    [3.0, 3.0]
    """
    return np.repeat(kernel.sum(axis=-2, keepdims=True) / channels, channels, axis=-2).astype(kernel.dtype)


def _operations_on_images(graph: keras.Model) -> tuple[list[keras.Operation], bool]:
    """List the operations applied to images, up to a convolution, and whether the output is still images."""
    operations = []
    images = {id(graph.inputs[0])}
    for node in nodes_in_order(graph):
        if not images.isdisjoint(map(id, node.input_tensors)):
            operations.append(node.operation)
            if _leaves_images(node.operation):
                images.update(map(id, node.outputs))
    return operations, id(graph.outputs[0]) in images


def _leaves_images(operation: keras.Operation) -> bool:
    """Return True if the output of an operation on images is images; raise if it cannot be adapted."""
    if isinstance(operation, keras.Model):
        return _operations_on_images(functional_graph("model", operation))[1]
    if isinstance(operation, _CONVOLUTIONS) and operation.groups == 1:
        return False
    by_one_number = isinstance(operation, layers.Rescaling) and not (
        np.ndim(operation.scale) or np.ndim(operation.offset)
    )
    if type(operation) in _CHANNEL_FREE or by_one_number or _standardizes(operation):
        return True
    raise ValueError(
        "`model` must apply plain convolutions to the images, after nothing but layers that treat all "
        f"channels alike. Received {operation.name!r}, a {type(operation).__name__}. Build the model "
        "without it, and scale with `with_rescaling` afterwards."
    )


def _standardizes(operation: keras.Operation) -> bool:
    """Return True for a layer that standardizes each image over all pixels and channels alike."""
    if not isinstance(operation, layers.LayerNormalization) or operation.center or operation.scale:
        return False
    axes = np.atleast_1d(operation.axis)
    return len(axes) == len(operation.input.shape) - 1


def _rebuilt(
    model: keras.Model, input_shape: tuple[int | None, ...], on_images: list[keras.Operation]
) -> keras.Model:
    def replace(operation: keras.Operation, args: tuple[Tensor, ...]) -> keras.Operation:
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
    """Add a `Rescaling` layer before an encoder, so that it takes pixels as stored.

    For encoders from elsewhere; those of this package have the argument `value_range`. Only core layers are
    used: the saved `.keras` file loads without keras-ssl. The weights are shared with the encoder.

    Args:
        encoder: model with one input, such as one of `keras.applications`.
        scale: factor, one number or one per channel.
        offset: added after scaling, one number or one per channel.

    Returns:
        A functional `keras.Model` that computes `encoder(scale * images + offset)`, named after the encoder
        with the suffix `_rescaled`.

    Raises:
        ValueError: the encoder has no known input shape.

    >>> import keras, keras_ssl
    >>> backbone = keras_ssl.encoders.small_encoder((32, 32, 3))
    >>> with_rescaling(backbone, scale=1 / 127.5, offset=-1.0).output_shape
    (None, 4, 4, 64)

    Weights from ImageNet often expect images standardized by the mean and deviation of each channel:

    >>> mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    >>> encoder = with_rescaling(
    ...     backbone,
    ...     scale=[1 / (255 * one) for one in deviation],
    ...     offset=[-one / other for one, other in zip(mean, deviation)],
    ... )
    """
    shape = getattr(encoder, "input_shape", None)
    if not isinstance(shape, tuple):
        raise ValueError(f"`encoder` must have one input of known shape. Received {encoder!r} of {shape}.")
    images = keras.Input(shape[1:], name="images")
    scale, offset = (one if isinstance(one, (int, float)) else list(one) for one in (scale, offset))
    pixels = keras.layers.Rescaling(scale, offset=offset, name="rescaling")(images)
    return keras.Model(images, encoder(pixels), name=f"{encoder.name}_rescaled")

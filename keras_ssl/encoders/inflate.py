"""From a pretrained 2D model to a 3D one with its weights."""

from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from keras_ssl.encoders.graph import copy_weights, functional_graph, rebuild

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

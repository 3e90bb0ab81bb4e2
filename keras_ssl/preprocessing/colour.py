"""Guards against chromatic aberration, by which the colours of an edge tell where in the image it lies."""

from typing import Any

import numpy as np
from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype


def drop_colours(images: Any, kept: Any, noise: Any, amount: float = 0.01) -> Any:
    """Keep one channel of every image and put noise in place of all others.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        kept: integers `(batch,)`, the channel that stays.
        noise: of the shape of `images`, of standard deviation 1.
        amount: standard deviation of the noise in that of the channel that stays; 0.01 in the paper.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([[1.0, 5.0], [3.0, 6.0]]).reshape(1, 2, 1, 2)
    >>> np.asarray(drop_colours(image, [0], np.ones((1, 2, 1, 2)), 0.5)).reshape(2, 2).tolist()
    [[1.0, 0.5], [3.0, 0.5]]

    References:
        Doersch, C., Gupta, A., Efros, A. A. (2015). Unsupervised visual representation learning by context
        prediction. ICCV.
    """
    images = ops.convert_to_tensor(images)
    values, spatial = ops.cast(images, "float32"), tuple(range(1, len(images.shape) - 1))
    stays = ops.one_hot(ops.cast(kept, "int32"), images.shape[-1], dtype="float32")
    stays = ops.reshape(stays, (-1, *(1,) * len(spatial), images.shape[-1]))
    deviation = ops.sum(stays * ops.std(values, axis=spatial, keepdims=True), axis=-1, keepdims=True)
    dropped = amount * deviation * ops.cast(noise, "float32")
    return ops.cast(ops.where(stays > 0, values, dropped), floating_dtype(images))


def project_colours(images: Any) -> Any:
    """Take the difference between green and magenta out of every pixel.

    Lenses shift green against red and blue; of that difference nothing is left.

    Args:
        images: tensor `(batch, *spatial, 3)`, channels red, green and blue.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> [round(float(x), 3) for x in np.asarray(project_colours(np.array([[[[0.0, 3.0, 0.0]]]]))).ravel()]
    [1.0, 1.0, 1.0]

    References:
        Doersch, C., Gupta, A., Efros, A. A. (2015). Unsupervised visual representation learning by context
        prediction. ICCV.
    """
    images = ops.convert_to_tensor(images)
    axis = np.array([[-1.0, 2.0, -1.0]])
    projection = (np.eye(3) - axis.T @ axis / (axis @ axis.T)).astype("float32")
    values = ops.matmul(ops.cast(images, "float32"), ops.convert_to_tensor(projection))
    return ops.cast(values, floating_dtype(images))

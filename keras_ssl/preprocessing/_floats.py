"""Which floating dtype images are computed in and returned as."""

from typing import Any

import keras


def floating_dtype(images: Any) -> str:
    """Return the dtype of floating images, `"float32"` for images of integers and booleans."""
    dtype = keras.backend.standardize_dtype(images.dtype)
    return dtype if keras.backend.is_float_dtype(dtype) else "float32"

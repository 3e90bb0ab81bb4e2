import keras
import numpy as np
import pytest

from keras_ssl.encoders import unet_encoder


@pytest.mark.parametrize(
    ("input_shape", "filters", "feature_map"),
    [
        ((35, 51, 35, 1), (2, 3, 4, 5), (5, 7, 5, 5)),
        ((28, 13, 3), (4, 8), (14, 7, 8)),
        ((7, 7, 1), (4,), (7, 7, 4)),
        ((None, None, None, 2), (2, 4), (None, None, None, 4)),
    ],
)
def test_every_level_but_the_first_halves_the_feature_map(input_shape, filters, feature_map):
    encoder = unet_encoder(input_shape, filters)
    assert encoder.output_shape[1:] == feature_map
    assert encoder.input_shape[1:] == input_shape
    convolutions = [layer for layer in encoder.layers if layer.name.endswith("_conv")]
    assert [layer.filters for layer in convolutions] == [width for width in filters for _ in range(2)]


def test_pooling_of_odd_sides_keeps_the_last_voxels():
    """With kernels of one at the voxel itself, what comes out are the maxima of each 2 x 2 x 2 voxels."""
    encoder = unet_encoder((3, 4, 5, 1), (1, 1))
    for layer in encoder.layers:
        if layer.name.endswith("_conv"):
            kernel = np.zeros(layer.kernel.shape)
            kernel[1, 1, 1] = 1
            layer.set_weights([kernel])
    images = np.arange(60, dtype="float32").reshape(1, 3, 4, 5, 1)
    expected = images[:, [1, 2]][:, :, [1, 3]][:, :, :, [1, 3, 4]]
    features = keras.ops.convert_to_numpy(encoder(images, training=False))
    # Batch normalization divides by the root of 1 + epsilon, four times.
    np.testing.assert_allclose(features, expected, rtol=3e-3)


@pytest.mark.parametrize("filters", [(), (8, 0)])
def test_invalid_arguments_raise(filters):
    with pytest.raises(ValueError, match="`filters` must hold one or more integers"):
        unet_encoder((8, 8, 1), filters)
    with pytest.raises(ValueError, match="two or three spatial axes"):
        unet_encoder((8, 1))

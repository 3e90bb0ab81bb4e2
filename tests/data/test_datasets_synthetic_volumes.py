import numpy as np
import pytest
from scipy import ndimage

from keras_ssl.data import Volume, VolumePreparation, synthetic_volumes

pytestmark = pytest.mark.no_backend

IMAGES, MASKS = synthetic_volumes(24, seed=1)


def test_shapes_types_and_labels():
    assert (IMAGES.shape, IMAGES.dtype) == ((24, 32, 32, 32, 1), np.float32)
    assert (MASKS.shape, MASKS.dtype) == ((24, 32, 32, 32), np.uint8)
    assert np.isfinite(IMAGES).all()
    assert IMAGES.min() >= 0
    for mask in MASKS:
        shares = np.bincount(mask.ravel(), minlength=3) / mask.size
        assert len(shares) == 3
        assert 0.003 < shares[1] < 0.05
        assert 0.003 < shares[2] < 0.05


def test_head_and_body_are_one_piece_each_and_touch():
    for mask in MASKS:
        for part in (mask == 1, mask == 2, mask > 0):
            assert ndimage.label(part, np.ones((3, 3, 3)))[1] == 1


def test_the_head_lies_in_front_and_low_and_the_foreground_is_darker_than_white_matter():
    for image, mask in zip(IMAGES[..., 0], MASKS, strict=True):
        head, body = (np.argwhere(mask == label).mean(axis=0) for label in (1, 2))
        assert head[1] > body[1] + 4
        assert head[2] < body[2]
        assert image[mask > 0].mean() < 0.85 * np.median(image)


def test_the_orientation_shows_in_the_brightness_alone():
    # Fluid below and none above, whichever the side: a rotation about x or y can be seen.
    for image in IMAGES[..., 0]:
        assert image[:, :, :3].mean() < 0.6 * image[:, :, -3:].mean()


def test_both_sides_occur_and_intensities_differ_by_orders_of_magnitude_until_prepared():
    sides = np.array([np.argwhere(mask)[:, 0].mean() < 15.5 for mask in MASKS])
    assert 4 <= sides.sum() <= 20
    levels = np.array([np.median(image) for image in IMAGES])
    assert levels.max() / levels.min() > 100
    prepared = [VolumePreparation().image(Volume(image, np.eye(4))) for image in IMAGES]
    levels = np.array([np.median(image) for image in prepared])
    assert levels.max() / levels.min() < 1.6


def test_a_volume_depends_on_seed_and_index_alone():
    fewer = synthetic_volumes(2, seed=1)
    np.testing.assert_array_equal(fewer[0], IMAGES[:2])
    np.testing.assert_array_equal(fewer[1], MASKS[:2])
    assert (synthetic_volumes(1, seed=2)[1] != MASKS[:1]).any()


def test_shapes_need_not_be_cubes():
    images, masks = synthetic_volumes(3, shape=(16, 40, 24))
    assert images.shape[1:] == (16, 40, 24, 1)
    assert all(set(np.unique(mask)) == {0, 1, 2} for mask in masks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "`n` must be an integer of at least 1. Received 0"),
        ({"n": 2.0}, "`n` must be an integer"),
        ({"n": 1, "seed": -1}, "`seed` must be an integer of at least 0"),
        ({"n": 1, "shape": (32, 32)}, r"`shape` must be three sides of at least 16. Received \(32, 32\)"),
        ({"n": 1, "shape": (32, 32, 8)}, "`shape` must be three sides"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_volumes(**arguments)

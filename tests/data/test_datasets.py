"""MedMNIST files, synthetic fundus images and synthetic volumes."""

import time

import numpy as np
import pytest
from scipy import ndimage

from keras_ssl._checks import check_images
from keras_ssl.data import Volume, VolumePreparation, load_medmnist, synthetic_fundus, synthetic_volumes

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)
VOLUMES, MASKS = synthetic_volumes(24, seed=1)


def save(path, **shapes):
    arrays = {
        f"{name}_{kind}": RNG.integers(0, 2, shape, dtype=np.uint8)
        for name, (images, labels) in shapes.items()
        for kind, shape in (("images", images), ("labels", labels))
    }
    np.savez_compressed(path, **arrays)
    return arrays


@pytest.mark.parametrize(
    ("stored", "read"),
    [((5, 28, 28), (5, 28, 28, 1)), ((5, 28, 28, 3), (5, 28, 28, 3)), ((5, 28, 28, 28), (5, 28, 28, 28, 1))],
)
def test_medmnist_images_get_a_channel_axis(tmp_path, stored, read):
    arrays = save(tmp_path / "a.npz", train=(stored, (5, 1)))
    images, grades = load_medmnist(tmp_path / "a.npz")
    assert images.shape == read
    np.testing.assert_array_equal(images.reshape(stored), arrays["train_images"])
    np.testing.assert_array_equal(grades, arrays["train_labels"][:, 0])


def test_medmnist_splits_are_joined_in_order(tmp_path):
    arrays = save(tmp_path / "a.npz", train=((3, 8, 8), (3, 1)), val=((2, 8, 8), (2, 1)))
    images = load_medmnist(tmp_path / "a.npz", ["val", "train"]).images
    np.testing.assert_array_equal(images[:2, ..., 0], arrays["val_images"])
    np.testing.assert_array_equal(images[2:, ..., 0], arrays["train_images"])


def test_several_labels_of_an_image_are_kept(tmp_path):
    save(tmp_path / "a.npz", train=((3, 8, 8), (3, 14)))
    assert load_medmnist(tmp_path / "a.npz").grades.shape == (3, 14)


def test_real_medmnist_files(real_data):
    images, grades = load_medmnist(real_data / "retinamnist" / "retinamnist.npz", ("train", "val"))
    check_images(images, channels=3, rank=2)
    assert images.shape == (1200, 28, 28, 3)
    assert np.bincount(grades[:1080]).tolist() == [486, 128, 206, 194, 66]
    images, grades = load_medmnist(real_data / "adrenalmnist3d" / "adrenalmnist3d.npz")
    check_images(images, channels=1, rank=3)
    assert np.bincount(grades).tolist() == [929, 259]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_medmnist_files_raise(tmp_path, kept):
    save(tmp_path / "a.npz", train=((30, 28, 28), (30, 1)))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"`path` must be a whole \.npz file; .*a\.npz is truncated"):
        load_medmnist(tmp_path / "a.npz")


def test_damaged_medmnist_files_raise(tmp_path):
    path = tmp_path / "a.npz"
    save(path, train=((30, 28, 28), (30, 1)))
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is damaged"):
        load_medmnist(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="`path` must be a whole"):
        load_medmnist(path)
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(ValueError, match="`path` must be a whole"):
        load_medmnist(tmp_path / "b.npy")
    with pytest.raises(FileNotFoundError):
        load_medmnist(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("shapes", "splits", "message"),
    [
        (
            {"train": ((3, 8, 8), (3, 1))},
            ["test"],
            r"holds \['train_images', 'train_labels'\]. Lacking: \['test_im",
        ),
        ({"train": ((3, 8, 8), (2, 1))}, ["train"], r"a label per image. Received 3 and 2"),
        ({"train": ((3, 8), (3, 1))}, ["train"], r"uint8 of 3 or 4 axes. Received uint8, shape \(3, 8\)"),
        (
            {"train": ((3, 8, 8), (3, 1))},
            "train",
            "`splits` must be a list of one or more names. Received 'train'",
        ),
        ({"train": ((3, 8, 8), (3, 1))}, [], r"`splits` must be a list of one or more names. Received \[\]"),
    ],
)
def test_unusable_medmnist_files_raise(tmp_path, shapes, splits, message):
    save(tmp_path / "a.npz", **shapes)
    with pytest.raises(ValueError, match=message):
        load_medmnist(tmp_path / "a.npz", splits)


def test_the_first_images_do_not_depend_on_their_number():
    few, few_grades = synthetic_fundus(3, size=32, seed=7)
    more, more_grades = synthetic_fundus(9, size=32, seed=7)
    np.testing.assert_array_equal(few, more[:3])
    np.testing.assert_array_equal(few_grades, more_grades[:3])
    assert not np.array_equal(few, synthetic_fundus(3, size=32, seed=8)[0])


def test_grades_are_distributed_as_in_screening():
    for seed in range(3):
        assert sorted(synthetic_fundus(5, size=16, seed=seed)[1]) == [0, 1, 2, 3, 4]
    grades = synthetic_fundus(400, size=16)[1]
    np.testing.assert_allclose(np.bincount(grades) / 400, [0.45, 0.12, 0.20, 0.17, 0.06], atol=0.06)


def test_images_look_like_fundus_images():
    images, _ = synthetic_fundus(40, size=64)
    assert images.shape == (40, 64, 64, 3)
    assert images.dtype == np.uint8
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() == 0
    disc = images[:, 16:48, 16:48].mean(axis=(0, 1, 2))
    assert disc[0] > disc[1] > disc[2] > 20


def test_the_disc_shows_laterality_and_lies_above_the_fovea():
    images, _ = synthetic_fundus(60, size=64)
    green = images[:, 8:56, 8:56, 1].astype(float)
    brightest = [np.unravel_index(image.argmax(), image.shape) for image in green]
    rows, columns = np.array(brightest).T
    on_the_side = np.abs(columns - 23.5) > 8
    assert on_the_side.mean() > 0.8
    assert 0.25 < (columns[on_the_side] > 24).mean() < 0.75
    assert rows[on_the_side].mean() < 23.5


def test_lesions_increase_with_the_grade():
    # Dark or bright spots smaller than 5 pixels within the disc, in the green that blood absorbs.
    images, grades = synthetic_fundus(120, size=64)
    green = images[:, 12:52, 12:52, 1].astype(float)
    spots = np.abs(green - ndimage.median_filter(green, (1, 9, 9))).mean(axis=(1, 2)) / green.mean(
        axis=(1, 2)
    )
    none, some, many = (np.mean(spots[np.isin(grades, chosen)]) for chosen in ([0, 1], [2], [3, 4]))
    assert none < some < many


def test_a_thousand_images_take_seconds():
    start = time.process_time()
    synthetic_fundus(50, size=64)
    # Processor time, as others may be at work: 1,000 images in less than 20 s, measured 4 s.
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "`n` must be at least 1. Received 0"),
        ((1, 8), "`size` must be at least 16. Received 8"),
        ((1, 64, -1), "`seed` must be at least 0. Received -1"),
    ],
)
def test_bad_arguments_of_fundus_images_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_fundus(*arguments)


def test_shapes_types_and_labels_of_volumes():
    assert (VOLUMES.shape, VOLUMES.dtype) == ((24, 32, 32, 32, 1), np.float32)
    assert (MASKS.shape, MASKS.dtype) == ((24, 32, 32, 32), np.uint8)
    assert np.isfinite(VOLUMES).all()
    assert VOLUMES.min() >= 0
    for mask in MASKS:
        fractions = np.bincount(mask.ravel(), minlength=3) / mask.size
        assert len(fractions) == 3
        assert 0.003 < fractions[1] < 0.05
        assert 0.003 < fractions[2] < 0.05


def test_head_and_body_are_one_piece_each_and_touch():
    for mask in MASKS:
        for part in (mask == 1, mask == 2, mask > 0):
            assert ndimage.label(part, np.ones((3, 3, 3)))[1] == 1


def test_the_head_lies_in_front_and_low_and_the_foreground_is_darker_than_white_matter():
    for image, mask in zip(VOLUMES[..., 0], MASKS, strict=True):
        head, body = (np.argwhere(mask == label).mean(axis=0) for label in (1, 2))
        assert head[1] > body[1] + 4
        assert head[2] < body[2]
        assert image[mask > 0].mean() < 0.85 * np.median(image)


def test_brightness_shows_the_orientation():
    # Fluid below and none above, whichever the side: a rotation about x or y can be seen.
    for image in VOLUMES[..., 0]:
        assert image[:, :, :3].mean() < 0.6 * image[:, :, -3:].mean()


def test_both_sides_occur_and_intensities_differ_by_orders_of_magnitude_until_prepared():
    sides = np.array([np.argwhere(mask)[:, 0].mean() < 15.5 for mask in MASKS])
    assert 4 <= sides.sum() <= 20
    levels = np.array([np.median(image) for image in VOLUMES])
    assert levels.max() / levels.min() > 100
    prepared = [VolumePreparation().image(Volume(image, np.eye(4))) for image in VOLUMES]
    levels = np.array([np.median(image) for image in prepared])
    assert levels.max() / levels.min() < 1.6


def test_a_volume_depends_only_on_seed_and_index():
    fewer = synthetic_volumes(2, seed=1)
    np.testing.assert_array_equal(fewer[0], VOLUMES[:2])
    np.testing.assert_array_equal(fewer[1], MASKS[:2])
    assert (synthetic_volumes(1, seed=2)[1] != MASKS[:1]).any()


def test_volumes_need_not_be_cubes():
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
def test_bad_arguments_of_volumes_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_volumes(**arguments)

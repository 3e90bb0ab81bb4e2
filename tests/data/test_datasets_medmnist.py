import numpy as np
import pytest

from keras_ssl._checks import check_images
from keras_ssl.data import load_medmnist

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)


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
def test_images_get_an_axis_of_channels(tmp_path, stored, read):
    arrays = save(tmp_path / "a.npz", train=(stored, (5, 1)))
    images, grades = load_medmnist(tmp_path / "a.npz")
    assert images.shape == read
    np.testing.assert_array_equal(images.reshape(stored), arrays["train_images"])
    np.testing.assert_array_equal(grades, arrays["train_labels"][:, 0])


def test_splits_are_joined_in_the_order_asked(tmp_path):
    arrays = save(tmp_path / "a.npz", train=((3, 8, 8), (3, 1)), val=((2, 8, 8), (2, 1)))
    images = load_medmnist(tmp_path / "a.npz", ["val", "train"]).images
    np.testing.assert_array_equal(images[:2, ..., 0], arrays["val_images"])
    np.testing.assert_array_equal(images[2:, ..., 0], arrays["train_images"])


def test_several_labels_an_image_are_kept(tmp_path):
    save(tmp_path / "a.npz", train=((3, 8, 8), (3, 14)))
    assert load_medmnist(tmp_path / "a.npz").grades.shape == (3, 14)


def test_real_files(real_data):
    images, grades = load_medmnist(real_data / "retinamnist" / "retinamnist.npz", ("train", "val"))
    check_images(images, channels=3, rank=2)
    assert images.shape == (1200, 28, 28, 3)
    assert np.bincount(grades[:1080]).tolist() == [486, 128, 206, 194, 66]
    images, grades = load_medmnist(real_data / "adrenalmnist3d" / "adrenalmnist3d.npz")
    check_images(images, channels=1, rank=3)
    assert np.bincount(grades).tolist() == [929, 259]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, kept):
    save(tmp_path / "a.npz", train=((30, 28, 28), (30, 1)))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"`path` must be a whole \.npz file; .*a\.npz is truncated"):
        load_medmnist(tmp_path / "a.npz")


def test_other_damage_is_refused(tmp_path):
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
def test_what_does_not_fit_is_refused(tmp_path, shapes, splits, message):
    save(tmp_path / "a.npz", **shapes)
    with pytest.raises(ValueError, match=message):
        load_medmnist(tmp_path / "a.npz", splits)

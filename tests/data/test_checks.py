import numpy as np
import pytest

from keras_ssl.data import check_grades, check_images, check_masks, checks


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 8, 8, 8, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "bool"])
def test_good_images_pass(shape, dtype):
    check_images(np.zeros(shape, dtype), channels=shape[-1], rank=len(shape) - 2)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 8, 8)), {}, r"Received shape \(2, 8, 8\). .* need their axis"),
        (np.zeros((2, 8, 8, 8, 1)), {"rank": 2}, r"with 2 spatial axes. Received shape"),
        (np.zeros((2, 8, 8, 3)), {"rank": 3}, r"with 3 spatial axes. Received .* need their axis"),
        (np.zeros((0, 8, 8, 3)), {}, r"must not be empty. Received shape \(0, 8, 8, 3\)"),
        (np.zeros((2, 8, 0, 3)), {}, r"must not be empty"),
        (
            np.zeros((2, 8, 8, 4)),
            {"channels": 3},
            r"must have 3 channels, last. Received shape \(2, 8, 8, 4\)",
        ),
        (np.array([["a"]]), {}, r"integers or floats. Received dtype <U1"),
        (np.zeros((2, 8, 8, 3)), {"rank": 1}, r"`rank` must be 2, 3 or None. Received 1"),
    ],
)
def test_bad_images_are_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        check_images(images, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 6])
def test_nan_and_infinity_are_found_in_any_chunk(value, where, monkeypatch):
    monkeypatch.setattr(checks, "_CHUNK_VALUES", 2 * 8 * 8)
    images = np.zeros((7, 8, 8, 1), "float32")
    check_images(images)
    images[where, 3, 2, 0] = value
    with pytest.raises(
        ValueError, match=rf"must be finite. Received NaN or infinity, first in image {where}\."
    ):
        check_images(images)


@pytest.mark.parametrize(
    "grades", [[0, 1, 4], [[0], [1], [4]], np.array([0.0, 1.0, 4.0]), np.array([0, 1, 4], "uint8")]
)
def test_grades_come_back_flat_and_whole(grades):
    checked = check_grades(grades, 5)
    assert checked.dtype == np.int64
    assert checked.tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        ([0, 5, 9], r"whole numbers in 0\.\.4. Received 5 in row 1 and 1 more"),
        ([0, -1], r"Received -1 in row 1\."),
        ([0.0, 1.5], r"Received 1.5 in row 1\."),
        ([0.0, np.nan], r"Received nan in row 1\."),
        ([0.0, np.inf], r"Received inf in row 1\."),
        ([[0, 1], [1, 0]], r"one-hot rows of shape \(n, 5\). Received shape \(2, 2\)"),
        ([], r"must not be empty"),
        (["0", "1"], r"Received dtype <U1"),
        ([2, 2, 2], r"more than one grade: .* Received 3 times grade 2"),
    ],
)
def test_bad_grades_are_refused(grades, message):
    with pytest.raises(ValueError, match=message):
        check_grades(grades, 5)


def test_without_a_number_of_grades_only_negative_ones_are_refused():
    assert check_grades([0, 99]).tolist() == [0, 99]
    with pytest.raises(ValueError, match=r"whole numbers not negative\. Received -1"):
        check_grades([0, -1])


def test_masks_come_back_as_integers_without_channels():
    masks = np.random.default_rng(0).integers(0, 3, (2, 4, 5), dtype="uint8")
    for given in (masks, masks[..., None], masks.astype("float32")):
        np.testing.assert_array_equal(check_masks(given, 3, foreground=True), masks)
    assert check_masks(masks, 3).dtype == np.uint8
    assert check_masks(masks.astype(float), 3).dtype == np.int32


def test_masks_on_disk_stay_there(tmp_path):
    np.save(tmp_path / "masks.npy", np.ones((3, 4, 4, 4), "uint8"))
    mapped = np.load(tmp_path / "masks.npy", mmap_mode="r")
    assert np.shares_memory(check_masks(mapped, 2), mapped)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((4, 4)), r"`masks` must have shape \(n, \*spatial\).*Received shape \(4, 4\)"),
        (np.zeros((0, 4, 4)), "not be empty"),
        (np.full((2, 4, 4), np.nan), "whole numbers in 0..2. Received nan in row 0"),
        (np.array([[[0, 1]], [[0, 0.5]]]), "Received 0.5 in row 1"),
        (np.array([[[0, 1]], [[-1, 0]]]), "Received -1 in row 1"),
        (np.array([[["a"]]]), "must be whole numbers. Received dtype"),
    ],
)
def test_masks_that_are_none_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        check_masks(masks, 3)

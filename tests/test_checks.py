import numpy as np
import pytest

from keras_ssl import _checks as checks
from keras_ssl._checks import check_grades, check_images, check_masks, check_weights, class_weigher

pytestmark = pytest.mark.no_backend


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
        (
            np.array([[[0, 255]]]),
            r"Received 255 in row 0; all values: 0, 255\. Masks .* by masks == 255",
        ),
    ],
)
def test_masks_that_are_none_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        check_masks(masks, 3)


def test_one_hot_rows_are_grades_and_other_rows_are_named():
    grades = np.array([0, 4, 2])
    assert check_grades(np.eye(5)[grades], 5).tolist() == grades.tolist()
    assert check_grades((np.eye(5)[grades] == 1), 5).tolist() == grades.tolist()
    soft = np.eye(5)[grades]
    soft[1] = [0.0, 0.0, 0.0, 0.1, 0.9]
    with pytest.raises(ValueError, match=r"one-hot.* \[0\.0, 0\.0, 0\.0, 0\.1, 0\.9\] in row 1\. .*argmax"):
        check_grades(soft, 5)
    with pytest.raises(ValueError, match=r"\[1, 1, 0, 0, 0\] in row 0\. .* grades\.sum\(axis=1\) - 1"):
        check_grades([[1, 1, 0, 0, 0]], 5)
    with pytest.raises(ValueError, match=r"in row 1\."):
        check_grades([[1.0, 0.0], [np.nan, 1.0]], 2)
    # Without a number of grades it is not known whether columns are missing.
    with pytest.raises(ValueError, match=r"shape \(n,\) or \(n, 1\)\. Received shape \(3, 5\)\. .*argmax"):
        check_grades(np.eye(5)[grades])


@pytest.mark.parametrize(
    ("shape", "channels", "hint"),
    [
        ((8, 8, 3), 3, r"A single image needs the axis of the batch: images\[None\]"),
        ((4, 8, 8), 1, r"Add the axis of channels: np\.asarray\(images\)\[\.\.\., None\]"),
        ((4, 8, 8), 3, r"Give gray images 3 channels: np\.repeat\(np\.asarray\(images\)\[\.\.\., None\], 3"),
        ((4, 3, 8, 8), 3, r"channels come first: pass `data_format='channels_first'`.* np\.moveaxis"),
        ((4, 8, 8, 1), 3, r"Repeat the gray values: np\.repeat\(images, 3, axis=-1\)"),
        ((4, 8, 8, 4), 3, r"Received shape \(4, 8, 8, 4\)\.$"),
    ],
)
def test_hints_are_right(shape, channels, hint):
    images = np.zeros(shape, "uint8")
    with pytest.raises(ValueError, match=hint) as told:
        check_images(images, channels=channels, rank=2)
    advice = {
        "images[None]": images[None],
        "[..., None], 3": np.repeat(np.asarray(images)[..., None], 3, axis=-1),
        "channels: np.asarray(images)[..., None]": np.asarray(images)[..., None],
        "moveaxis": np.moveaxis(images, 1, -1),
        "np.repeat(images": np.repeat(images, 3, axis=-1),
    }
    for words, mended in advice.items():
        if words in str(told.value):
            check_images(mended, channels=channels, rank=2)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, np.nan], r"Received nan in row 1\."),
        ([-1.0, -2.0, 3.0], r"Received -1\.0 in row 0 and 1 more"),
        (np.ones((2, 8, 8)), r"shape \(n,\) or \(n, 1\)\. Received shape \(2, 8, 8\)"),
        (["a"], "of <U1"),
        (1.0, r"Received shape \(\)"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        check_weights(weights)


def test_weights_of_classes():
    weigh = class_weigher({0: 2.0, np.int64(2): 0.5}, 3, "OrdinalHead")
    assert weigh([2, 1, 0]).tolist() == [0.5, 1.0, 2.0]
    assert weigh(np.eye(3)).tolist() == [2.0, 1.0, 0.5]
    for class_weight, message in (
        ({3: 1.0, "a": 1.0}, r"`class_weight` must have keys in 0\.\.2\. Received \[3, 'a'\]"),
        ("balanced", r"`class_weight` must be a dictionary, weight by class\. Received 'balanced'"),
        (dict.fromkeys(range(3), 0.0), r"`class_weight` must be above 0 for some class"),
        ({0: -1.0}, r"`class_weight` must be finite and not negative\. Received -1\.0 in row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            class_weigher(class_weight, 3, "OrdinalHead")
    with pytest.raises(ValueError, match=r"must be None for a SegmentationHead.*WeightedCategoricalCross"):
        class_weigher({0: 1.0}, 0, "SegmentationHead")

import time

import numpy as np
import pytest

from keras_ssl.data import synthetic_fundus

pytestmark = pytest.mark.no_backend


def test_the_first_images_do_not_depend_on_how_many_are_drawn():
    few, few_grades = synthetic_fundus(3, size=32, seed=7)
    more, more_grades = synthetic_fundus(9, size=32, seed=7)
    np.testing.assert_array_equal(few, more[:3])
    np.testing.assert_array_equal(few_grades, more_grades[:3])
    assert not np.array_equal(few, synthetic_fundus(3, size=32, seed=8)[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_five_images_hold_every_grade_and_many_hold_the_shares_of_screening(seed):
    assert sorted(synthetic_fundus(5, size=16, seed=seed)[1]) == [0, 1, 2, 3, 4]
    grades = synthetic_fundus(400, size=16, seed=seed)[1]
    np.testing.assert_allclose(np.bincount(grades) / 400, [0.45, 0.12, 0.20, 0.17, 0.06], atol=0.06)


def test_looks_like_a_fundus_photograph():
    images, _ = synthetic_fundus(40, size=64)
    assert images.shape == (40, 64, 64, 3)
    assert images.dtype == np.uint8
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() == 0
    disc = images[:, 16:48, 16:48].mean(axis=(0, 1, 2))
    assert disc[0] > disc[1] > disc[2] > 20


def test_the_disc_tells_right_from_left_and_the_fovea_lies_below_it():
    images, _ = synthetic_fundus(60, size=64)
    green = images[:, 8:56, 8:56, 1].astype(float)
    brightest = [np.unravel_index(image.argmax(), image.shape) for image in green]
    rows, columns = np.array(brightest).T
    on_the_side = np.abs(columns - 23.5) > 8
    assert on_the_side.mean() > 0.8
    assert 0.25 < (columns[on_the_side] > 24).mean() < 0.75
    assert rows[on_the_side].mean() < 23.5


def test_lesions_grow_with_the_grade():
    # Dark or bright spots smaller than 5 pixels within the disc, in the green that blood takes away.
    from scipy.ndimage import median_filter

    images, grades = synthetic_fundus(120, size=64)
    green = images[:, 12:52, 12:52, 1].astype(float)
    spots = np.abs(green - median_filter(green, (1, 9, 9))).mean(axis=(1, 2)) / green.mean(axis=(1, 2))
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
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_fundus(*arguments)

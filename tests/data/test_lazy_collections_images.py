"""Images that stay in their files: what an array of them would give, read when it is needed."""

import pickle
import threading

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ssl import FineTuner, OrdinalHead
from keras_ssl.data import (
    ImageTable,
    LazyImages,
    Preparation,
    VolumePreparation,
    VolumeTable,
    load_images,
    load_volumes,
    open_images,
)
from keras_ssl.data.batches import ArrayBatches
from keras_ssl.data.fit_inputs import image_batches
from tests.tiny import SHAPE, Stop, assert_same, grades, quick_model, sequential_encoder, stop, weights

PREPARATION = Preparation(size=8, crop=None)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(12):
        pixels = rng.integers(0, 256, (9 + index, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.png")
    return tmp_path


def numbered(count=10, **arguments):
    """Images whose values are the numbers of their rows."""
    return LazyImages(lambda row: np.full(SHAPE, row, "float32"), (count, *SHAPE), np.float32, **arguments)


def test_photographs_are_those_that_an_array_would_hold(folder):
    table = ImageTable.from_folder(folder)
    loaded, _ = load_images(table, PREPARATION, verbose=0)
    for images in (open_images(table, PREPARATION), open_images(list(table.paths), PREPARATION, workers=1)):
        assert (images.shape, images.dtype, len(images)) == (loaded.shape, loaded.dtype, 12)
        np.testing.assert_array_equal(images, loaded)
        np.testing.assert_array_equal(images[[7, 2, -1]], loaded[[7, 2, -1]])
        np.testing.assert_array_equal(images[3:9:2], loaded[3:9:2])
        np.testing.assert_array_equal(images[loaded[:, 0, 0, 0] > 99], loaded[loaded[:, 0, 0, 0] > 99])
        np.testing.assert_array_equal(images[-2], loaded[-2])
        assert images[4:4].shape == (0, 8, 8, 3)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[:2], loaded[:2])


def test_volumes_are_those_that_an_array_would_hold(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a_t1", "a_t2", "b_t1", "b_t2"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(5, 6, 7)))
    table = VolumeTable.from_folder(tmp_path, modalities=["_t1", "_t2"])
    preparation = VolumePreparation(shape=(6, 6, 6))
    loaded, _ = load_volumes(table, preparation, verbose=0)
    images = open_images(table, preparation)
    assert (images.shape, images.dtype) == (loaded.shape, loaded.dtype)
    np.testing.assert_array_equal(images, loaded)


def test_training_is_that_on_an_array_and_goes_on_bitwise(folder, tmp_path):
    table = ImageTable.from_folder(folder)
    loaded, _ = load_images(table, PREPARATION, verbose=0)
    settings = {"epochs": 3, "batch_size": 5, "verbose": 0}
    whole = quick_model()
    expected = whole.fit_pretext(loaded, validation_data=loaded, **settings).history
    settings["backup_dir"] = tmp_path / "backup"
    images = open_images(table, PREPARATION)
    with pytest.raises(KeyboardInterrupt):
        quick_model().fit_pretext(images, validation_data=images, callbacks=[stop(1)], **settings)
    resumed = quick_model()
    history = resumed.fit_pretext(images, validation_data=images, callbacks=[Stop()], **settings)
    assert history.history == expected
    assert_same(weights(whole), weights(resumed))


def test_labeled_training_is_that_on_an_array(folder):
    table = ImageTable.from_folder(folder)
    found = []
    for images in (load_images(table, PREPARATION, verbose=0)[0], open_images(table, PREPARATION)):
        keras.utils.set_random_seed(0)
        tuner = FineTuner(sequential_encoder(), OrdinalHead(3), seed=0)
        history = tuner.fit(images, grades(), epochs=2, batch_size=4, verbose=0).history
        found.append((history, tuner.evaluate(images, grades()), tuner.predict(images).tolist()))
    assert found[0] == found[1]


def test_only_the_first_batch_is_read_before_training():
    read = []

    def slow(row):
        read.append(row)
        return np.zeros(SHAPE, "float32")

    image_batches(LazyImages(slow, (1000, *SHAPE), np.float32), SHAPE, batch_size=4, seed=0)
    assert sorted(read) == [0, 1, 2, 3]


def test_the_next_batches_are_read_while_one_is_trained_on():
    asked = {row: threading.Event() for row in range(10)}

    def read(row):
        asked[row].set()
        return np.full(SHAPE, row, "float32")

    images = LazyImages(read, (10, *SHAPE), np.float32)
    batches = ArrayBatches((images,), batch_size=2, shuffle=False, read_ahead=2)
    assert batches[0][0][:, 0, 0, 0].tolist() == [0, 1]
    assert all(asked[row].wait(10) for row in range(6))
    assert not any(asked[row].is_set() for row in range(6, 10))
    asked[0].clear()
    assert batches[4][0][:, 0, 0, 0].tolist() == [8, 9]
    # Of the next epoch.
    assert asked[0].wait(10)


def test_batches_do_not_depend_on_reading_ahead():
    found = []
    for ahead in (0, 1, 3):
        batches = ArrayBatches((numbered(),), batch_size=4, seed=3, read_ahead=ahead)
        found.append([])
        for epoch in (0, 1, 5, 2):
            batches.epoch = epoch
            found[-1] += [batches[index][0][:, 0, 0, 0].tolist() for index in (0, 1, 2, 0)]
    assert found[0] == found[1] == found[2]


def test_a_file_that_cannot_be_read_is_named_before_training_or_in_it(folder):
    table = ImageTable.from_folder(folder)
    images = open_images(table, PREPARATION)
    assert images.unreadable(verbose=0) == {}
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:60])
    bad = images.unreadable(verbose=0)
    assert list(bad) == [5]
    assert "05.png" in bad[5]
    with pytest.raises(Exception, match=r"05\.png cannot be read as an image"):
        quick_model().fit_pretext(images, batch_size=4, verbose=0, epochs=1)
    kept = table.select(np.setdiff1d(np.arange(len(table)), list(bad)))
    quick_model().fit_pretext(open_images(kept, PREPARATION), batch_size=4, verbose=0, epochs=1)


def test_a_volume_that_cannot_be_read_is_named(tmp_path):
    np.save(tmp_path / "whole.npy", np.ones((4, 4, 4)))
    np.save(tmp_path / "nan.npy", np.full((4, 4, 4), np.nan))
    images = open_images(VolumeTable.from_folder(tmp_path), VolumePreparation(shape=(4, 4, 4)))
    with pytest.raises(ValueError, match=r"In 1 of 2 rows they do not: .*nan\.npy"):
        images[[0, 1]]
    assert "nan.npy" in images.unreadable(verbose=0)[0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), "uint8"), r"of shape \(8, 8, 3\) and type float32. Received .* uint8 of row 2"),
        (np.zeros((8, 9, 3), "float32"), r"Received \(8, 9, 3\) and float32 of row 2"),
        (np.full((8, 8, 3), np.inf, "float32"), "NaN or infinity in row 2"),
    ],
)
def test_each_image_is_checked_as_it_is_read(image, message):
    good = np.zeros(SHAPE, "float32")
    images = LazyImages(lambda row: image if row == 2 else good, (4, *SHAPE), np.float32)
    assert images[:2].shape == (2, *SHAPE)
    with pytest.raises(ValueError, match=message):
        images[1:]


def test_bad_arguments_are_refused(folder):
    with pytest.raises(ValueError, match=r"`shape` must be .* Received \(0, 8, 8, 3\)"):
        numbered(0)
    with pytest.raises(IndexError, match=r"Rows must lie in 0..9. Received 10"):
        numbered()[[0, 10]]
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        open_images(["gone.png"], PREPARATION)
    with pytest.raises(ValueError, match=r"VolumePreparation with a shape .* for ImageTable"):
        open_images(ImageTable.from_folder(folder), VolumePreparation(shape=(4, 4, 4)))
    np.save(folder / "a.npy", np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match=r"VolumePreparation with a shape .* for VolumeTable"):
        open_images(VolumeTable.from_folder(folder), VolumePreparation())
    with pytest.raises(ValueError, match=r"must have shape \(n, 8, 8, 3\)"):
        quick_model().fit_pretext(open_images(ImageTable.from_folder(folder), Preparation(size=9)), epochs=1)

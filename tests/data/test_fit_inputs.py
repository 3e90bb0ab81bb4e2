"""Everything that fit, evaluate and predict take, as checked batches: none lost, none twice, in order."""

import collections

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import OrdinalHead, SegmentationHead
from keras_ssl.data import LazyImages
from keras_ssl.data.fit_inputs import (
    image_batches,
    labeled_batches,
    labeled_parts,
    refuse_read_once,
    split_arrays,
)

IMAGES, GRADES = tiny.images(), tiny.grades()
FIRST = {"data_format": "channels_first"}
KEYS = {"image_key": "image", "label_key": "label"}


def pairs():
    for start in (0, 5, 10):
        yield IMAGES[start : start + 5], GRADES[start : start + 5]


def dictionaries():
    for images, grades in pairs():
        yield {"image": images, "label": grades, "path": ["a"] * len(images)}


class Anew:
    def __iter__(self):
        return pairs()


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return list(dictionaries())[index]


class Unnumbered(Batches):
    num_batches = None

    def __getitem__(self, index):
        return list(pairs())[index]


def tensorflow(wrap):
    data = pytest.importorskip("tensorflow").data.Dataset
    parts = {"image": IMAGES, "label": GRADES} if wrap is dict else (IMAGES, GRADES)
    data = data.from_tensor_slices(parts).batch(5)
    return data if wrap is dict else data.filter(lambda images, grades: True)


def torch_loader(make, **arguments):
    data = pytest.importorskip("torch").utils.data

    class Rows(data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, row):
            return make(np.moveaxis(IMAGES[row], -1, 0), int(GRADES[row]))

    class Stream(data.IterableDataset):
        def __iter__(self):
            return iter([(image, int(grade)) for image, grade in zip(IMAGES, GRADES, strict=True)])

    return data.DataLoader(Stream() if make is iter else Rows(), batch_size=5, **arguments)


def of_grain(kind):
    grain = pytest.importorskip("grain")
    rows = list(zip(IMAGES, GRADES, strict=True))
    if kind == "loader":
        sampler = grain.samplers.IndexSampler(12, num_epochs=1)
        return grain.DataLoader(data_source=rows, sampler=sampler, operations=[grain.transforms.Batch(5)])
    if kind == "iterator":
        return grain.MapDataset.source(rows).to_iter_dataset().batch(5)
    return grain.MapDataset.source([{"image": image, "label": grade} for image, grade in rows]).batch(5)


def as_torchio(image, grade):
    return {"image": {"data": image, "affine": np.eye(4), "path": "a"}, "label": grade}


KINDS = {
    "arrays of lists": (lambda: [(list(images), list(grades)) for images, grades in pairs()], {}),
    "list of tuples": (lambda: list(pairs()), {}),
    "list of lists": (lambda: [list(batch) for batch in pairs()], {}),
    "generator": (pairs, {}),
    "generator of dictionaries": (dictionaries, KEYS),
    "made anew": (Anew, {}),
    "PyDataset of dictionaries": (Batches, KEYS),
    "PyDataset without a number": (Unnumbered, {}),
    "tf.data of unknown length": (lambda: tensorflow(tuple), {}),
    "tf.data of dictionaries": (lambda: tensorflow(dict), KEYS),
    "PyTorch stream": (lambda: torch_loader(iter), {}),
    "PyTorch lists, channels first": (lambda: torch_loader(lambda *row: row), FIRST),
    "as MONAI": (lambda: torch_loader(lambda image, grade: {"image": image, "label": grade}), KEYS | FIRST),
    "as TorchIO": (lambda: torch_loader(as_torchio), KEYS | FIRST),
    "Grain of dictionaries": (lambda: of_grain("map"), KEYS),
    "Grain iterator": (lambda: of_grain("iterator"), {}),
    "Grain loader": (lambda: of_grain("loader"), {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:The Unnumbered")
def test_every_image_and_label_once_and_in_order(kind):
    make, keys = KINDS[kind]
    found = list(labeled_batches(make(), None, tiny.SHAPE, OrdinalHead(3).encode, **keys))
    np.testing.assert_allclose(np.concatenate([np.asarray(batch[0]) for batch in found]), IMAGES, rtol=1e-6)
    targets = np.concatenate([batch[1] for batch in found])
    np.testing.assert_array_equal(targets, OrdinalHead(3).encode(GRADES))
    unlabeled = {name: value for name, value in keys.items() if name != "label_key"}
    found = list(image_batches(make(), tiny.SHAPE, **unlabeled))
    np.testing.assert_allclose(np.concatenate([np.asarray(batch[0]) for batch in found]), IMAGES, rtol=1e-6)


@pytest.mark.parametrize(
    "batch", [IMAGES[:4], (IMAGES[:4],), [IMAGES[:4], ["a"] * 4], (IMAGES[:4], GRADES[:4], np.ones(4))]
)
def test_images_are_taken_alone_or_first_in_a_tuple(batch):
    ((found,),) = list(image_batches([batch], tiny.SHAPE))
    np.testing.assert_array_equal(found, IMAGES[:4])


@pytest.mark.parametrize("part", [IMAGES, list(IMAGES), tuple(IMAGES)])
def test_lists_of_images_are_an_array(part):
    data = labeled_batches(part, list(GRADES), tiny.SHAPE, OrdinalHead(3).encode, batch_size=12)
    np.testing.assert_array_equal(data[0][0], IMAGES)
    np.testing.assert_array_equal(image_batches(part, tiny.SHAPE, batch_size=12)[0][0], IMAGES)


def test_columns_of_images_and_labels_are_arrays():
    columns = collections.UserList(IMAGES), collections.UserList(GRADES)
    data = labeled_batches(*columns, tiny.SHAPE, OrdinalHead(3).encode, batch_size=12)
    np.testing.assert_array_equal(data[0][0], IMAGES)
    np.testing.assert_array_equal(data[0][1], OrdinalHead(3).encode(GRADES))


def test_channels_first_are_moved_where_asked_for_and_else_told(tmp_path):
    first = np.moveaxis(IMAGES, -1, 1)
    with pytest.raises(ValueError, match=r"Their channels come first: pass `data_format='channels_first'`"):
        image_batches(first, tiny.SHAPE)
    np.testing.assert_array_equal(image_batches(first, tiny.SHAPE, batch_size=12, **FIRST)[0][0], IMAGES)
    np.save(tmp_path / "images.npy", first)
    mapped = image_batches(np.load(tmp_path / "images.npy", mmap_mode="r"), tiny.SHAPE, **FIRST)
    assert isinstance(mapped.arrays[0], np.memmap)
    masks = (IMAGES[..., 0] > 0.5).astype(int)
    encode = SegmentationHead(2).encode
    with pytest.raises(ValueError, match=r"masks of the images' size.*channels come first.*labels\[:, 0\]"):
        labeled_batches(IMAGES, masks[:, None], tiny.SHAPE, encode)
    data = labeled_batches(first, masks[:, None], tiny.SHAPE, encode, batch_size=12, **FIRST)
    np.testing.assert_array_equal(data[0][1], masks)
    with pytest.raises(ValueError, match=r"One-hot masks become class numbers by labels\.argmax"):
        labeled_batches(IMAGES, np.eye(2)[masks], tiny.SHAPE, encode)
    with pytest.raises(ValueError, match="`data_format` must be 'channels_last' or 'channels_first'"):
        image_batches(IMAGES, tiny.SHAPE, data_format="last")
    stored = LazyImages(lambda row: first[row], first.shape, "float32")
    with pytest.raises(ValueError, match="must be 'channels_last' for LazyImages"):
        image_batches(stored, tiny.SHAPE, **FIRST)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            [{"image": IMAGES, "label": GRADES}],
            r"`image_key` .* with 'image', 'label'\. Received None",
        ),
        ([(IMAGES, {"grade": GRADES})], r"`label_key` .* dictionaries with 'grade'\. Received None"),
        ({"image": IMAGES}, r"Received a dictionary with 'image': give its arrays"),
        ([IMAGES, IMAGES], r"must yield \(images, labels\).* Received ndarray"),
        ([(IMAGES, GRADES[:3])], r"must be of one length\. Received \[12, 3\]"),
        ([(IMAGES, GRADES, np.full(12, np.nan))], r"`sample_weight` must be finite and not negative"),
        ([(IMAGES[0], 1)], r"Received shape \(8, 8, 3\), as of a single image\. Batch a data set"),
        ([(np.moveaxis(IMAGES[0], -1, 0), 1)], r"shape \(3, 8, 8\), as of a single image"),
        ("folder", r"`images` must be an array, a list of equal arrays, or a data set.* Received a str"),
        (5, r"Received a int"),
        ((IMAGES, GRADES), r"Received a tuple"),
        ([], r"must not be empty\. Received an empty list"),
        ([IMAGES[0], IMAGES[0, :5]], r"`images` must be of one shape to be stacked"),
        (["a.png", "b.png"], r"a list, of files: read them with data\.load_images"),
    ],
)
def test_what_cannot_be_read_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        labeled_batches(data, None, tiny.SHAPE, OrdinalHead(3).encode)


def test_a_later_batch_of_another_shape_is_refused_when_it_is_read():
    batches = iter(image_batches([IMAGES[:4], IMAGES[:4, :6]], tiny.SHAPE))
    with pytest.raises(ValueError, match=r"must have shape \(n, 8, 8, 3\).* Received shape \(4, 6, 8, 3\)"):
        list(batches)


def test_weights_of_labels_multiply_those_of_images():
    def weigh(labels):
        return np.array([1.0, 2.0, 3.0])[np.asarray(labels)]

    given = np.arange(12.0)
    for images, labels, weights in (
        (IMAGES, GRADES, given),
        ([(IMAGES, GRADES, given[:, None])], None, None),
    ):
        data = labeled_batches(
            images,
            labels,
            tiny.SHAPE,
            OrdinalHead(3).encode,
            sample_weight=weights,
            weigh=weigh,
            batch_size=12,
        )
        (batch,) = list(data)
        np.testing.assert_allclose(batch[2], given * weigh(GRADES))


def test_images_labels_and_weights_of_a_tuple_or_list_and_data_sets_as_they_are():
    def shapes(labeled):
        parts = labeled_parts(labeled, 2, "validation_data")
        return [None if part is None else len(part) for part in parts]

    lists = list(IMAGES), list(GRADES)
    for labeled in ((IMAGES, GRADES), [IMAGES, GRADES], list(lists), lists):
        assert shapes(labeled) == [12, 12, None]
    assert shapes((IMAGES, GRADES, np.ones(12))) == [12, 12, 12]
    for data in ([(IMAGES, GRADES), (IMAGES, GRADES)], [[IMAGES, GRADES]] * 3, [{"image": IMAGES}] * 2):
        assert labeled_parts(data, 2, "validation_data") == (data, None, None)
    with pytest.raises(ValueError, match=r"`validation_data` must be \(images, labels\).* a tuple of 4"):
        labeled_parts((IMAGES, GRADES, IMAGES, GRADES), 2, "validation_data")


def test_the_last_rows_of_arrays_are_split_off_as_keras_does():
    stored = LazyImages(lambda row: IMAGES[row], IMAGES.shape, "float32")
    for images in (IMAGES, list(IMAGES), keras.ops.convert_to_tensor(IMAGES), stored):
        first, last = split_arrays(0.3, 2, None, images, list(GRADES), None)
        # 12 * 0.7 = 8.4
        np.testing.assert_array_equal(np.asarray(first[0]), IMAGES[:8])
        np.testing.assert_array_equal(np.asarray(last[0]), IMAGES[8:])
        assert (first[1].tolist(), last[1].tolist()) == (GRADES[:8].tolist(), GRADES[8:].tolist())
        assert first[2] is last[2] is None
    assert isinstance(first[0], LazyImages)


@pytest.mark.parametrize(
    ("split", "validation_data", "images", "message"),
    [
        (1.0, None, IMAGES, r"must lie in \[0, 1\)\. Received 1\.0"),
        (-0.1, None, IMAGES, r"must lie in \[0, 1\)"),
        (0.5, IMAGES, IMAGES, "`validation_split` must be 0 where `validation_data` is given"),
        (0.5, None, [(IMAGES, GRADES)], "`validation_split` must be 0 where `images` is a data set"),
        (0.5, None, pairs(), "Received a generator"),
        (0.99, None, IMAGES, r"must leave images on both sides\. Received 0\.99 for 12"),
    ],
)
def test_bad_splits_are_refused(split, validation_data, images, message):
    with pytest.raises(ValueError, match=message):
        split_arrays(split, 2, validation_data, images)


def test_what_is_read_every_epoch_is_no_generator():
    refuse_read_once(list(pairs()), "validation_data")
    with pytest.raises(ValueError, match=r"`validation_data` must .* again .* list\(validation_data\)"):
        refuse_read_once(pairs(), "validation_data")

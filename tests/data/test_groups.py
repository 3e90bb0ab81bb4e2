import numpy as np
import pytest

from keras_ssl.data import duplicate_groups
from keras_ssl.data.groups import merge_groups

pytestmark = pytest.mark.no_backend


def merged_by_hand(*columns):
    """Spread the smallest number over each group until nothing changes."""
    label = np.arange(len(columns[0]))
    while True:
        before = label.copy()
        for column in columns:
            for name in set(column):
                same = np.asarray(column) == name
                label[same] = label[same].min()
        if (label == before).all():
            return label


def test_merging_agrees_with_spreading_by_hand():
    rng = np.random.default_rng(0)
    for _ in range(20):
        columns = [rng.integers(0, 30, 40), rng.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), 40)]
        merged = merge_groups(*columns)
        assert (merged[:, None] == merged).tolist() == (
            (by_hand := merged_by_hand(*columns))[:, None] == by_hand
        ).tolist()
        assert sorted(set(merged)) == list(range(merged.max() + 1))
        first_seen = [merged.tolist().index(number) for number in range(merged.max() + 1)]
        assert first_seen == sorted(first_seen)


def test_files_of_the_same_bytes_are_one_group_whatever_they_are_called(tmp_path):
    for name, content in (("a.png", b"1"), ("b.jpg", b"2"), ("c.png", b"1"), ("d.png", b"")):
        (tmp_path / name).write_bytes(content)
    paths = sorted(tmp_path.iterdir())
    assert duplicate_groups(paths).tolist() == [0, 1, 0, 2]
    assert duplicate_groups([str(path) for path in paths], groups=[5, 6, 7, 6]).tolist() == [0, 1, 0, 1]


def test_images_of_the_same_values_are_one_group(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    images[4] = images[1]
    np.save(tmp_path / "images.npy", images)
    expected = [0, 1, 2, 3, 1, 4]
    assert duplicate_groups(images).tolist() == expected
    assert duplicate_groups(np.load(tmp_path / "images.npy", mmap_mode="r")).tolist() == expected
    # A transposed view holds the same values in another order of memory.
    assert duplicate_groups(np.asfortranarray(images)).tolist() == expected


@pytest.mark.parametrize(
    ("columns", "received"),
    [((), r"\[\]"), (([0, 1], [0]), r"\[\(2,\), \(1,\)\]"), (([[0]],), r"\[\(1, 1\)\]")],
)
def test_columns_that_do_not_match_are_refused(columns, received):
    with pytest.raises(ValueError, match=f"columns of equal length. Received shapes {received}"):
        merge_groups(*columns)

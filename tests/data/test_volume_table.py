import os
import unicodedata
import warnings

import nibabel
import numpy as np
import pytest
from volume_files import affine_of, labels_like, save_nifti

from keras_ssl.data import VolumeTable

pytestmark = pytest.mark.no_backend

SHAPE = (5, 6, 7)
VOXELS = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
LABELS = labels_like(SHAPE)


def fill(folder, names, voxels=VOXELS, affine=None):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npy"):
            np.save(folder / name, voxels)
        else:
            save_nifti(folder / name, voxels, affine)
    return folder


def names_of(paths, root):
    return [os.path.relpath(path, root) for path in np.ravel(paths)]


@pytest.fixture
def table(tmp_path):
    names = [f"{index}.nii.gz" for index in range(4)]
    return VolumeTable.from_folder(fill(tmp_path / "images", names), fill(tmp_path / "masks", names, LABELS))


def test_scans_and_masks_are_paired_by_name_whatever_their_suffix(tmp_path):
    images = fill(tmp_path / "images", ["b.nii.gz", "a.nii", "c.npy", "deep/a.NII.GZ", ".b.nii.gz"])
    (images / "notes.txt").write_text("text")
    masks = fill(tmp_path / "masks", ["a.nii.gz", "b.npy", "c.nii", "deep/a.nii", "other.nii"])
    table = VolumeTable.from_folder(images, masks)
    assert names_of(table.paths, images) == ["a.nii", "b.nii.gz", "c.npy", "deep/a.NII.GZ"]
    assert names_of(table.masks, masks) == ["a.nii.gz", "b.npy", "c.nii", "deep/a.nii"]
    assert VolumeTable.from_folder(images).masks is None


def test_channels_of_nnunet(tmp_path):
    images = fill(tmp_path / "imagesTr", [f"case_{k}_000{c}.nii.gz" for k in range(2) for c in range(2)])
    masks = fill(tmp_path / "labelsTr", ["case_0.nii.gz", "case_1.nii.gz"])
    table = VolumeTable.from_folder(images, masks, ["_0001", "_0000"])
    assert table.paths.shape == (2, 2)
    assert names_of(table.paths, images)[:2] == ["case_0_0001.nii.gz", "case_0_0000.nii.gz"]
    assert names_of(table.masks, masks) == ["case_0.nii.gz", "case_1.nii.gz"]
    (images / "case_0_0001.nii.gz").unlink()
    (images / "case_1_0001.nii.gz").unlink()
    single = VolumeTable.from_folder(images, masks)
    assert names_of(single.masks, masks) == ["case_0.nii.gz", "case_1.nii.gz"]


def test_modalities_of_brats_with_masks_beside_them(tmp_path):
    endings = ["_t1", "_t1ce", "_t2", "_flair"]
    for case in ("B_1", "B_2"):
        fill(tmp_path / case, [f"{case}{ending}.nii.gz" for ending in [*endings, "_seg"]])
    table = VolumeTable.from_folder(tmp_path, tmp_path, endings, mask_ending="_seg")
    assert names_of(table.paths[1], tmp_path) == [f"B_2/B_2{ending}.nii.gz" for ending in endings]
    assert names_of(table.masks, tmp_path) == ["B_1/B_1_seg.nii.gz", "B_2/B_2_seg.nii.gz"]


def test_scans_with_masks_beside_them(tmp_path):
    fill(tmp_path, ["a.nii", "a_mask.nii", "b.nii", "b_mask.nii"])
    table = VolumeTable.from_folder(tmp_path, tmp_path, mask_ending="_mask")
    assert names_of(table.paths, tmp_path) == ["a.nii", "b.nii"]
    assert names_of(table.masks, tmp_path) == ["a_mask.nii", "b_mask.nii"]


def test_all_missing_files_are_named_or_left_out(tmp_path):
    images = fill(tmp_path / "i", ["a_t1.nii", "a_t2.nii", "b_t1.nii", "c_t1.nii", "c_t2.nii", "d_t2.nii"])
    masks = fill(tmp_path / "m", ["a.nii", "b.nii"])
    missing = r"b_t2, d_t1, c \(mask\), d \(mask\)"
    with pytest.raises(ValueError, match=rf"must hold all files of each scan .* Received {missing}\."):
        VolumeTable.from_folder(images, masks, ["_t1", "_t2"])
    with pytest.warns(UserWarning, match=rf"3 of 4 scans left out as files are missing: {missing}\."):
        table = VolumeTable.from_folder(images, masks, ["_t1", "_t2"], skip_missing=True)
    assert names_of(table.paths, images) == ["a_t1.nii", "a_t2.nii"]
    with pytest.raises(ValueError, match=r"Received a \(mask\)"):
        VolumeTable.from_folder(masks, fill(tmp_path / "none", ["z.nii"]), skip_missing=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none",), "`images` must be a folder. Received none"),
        (("i", "none"), "`masks` must be a folder. Received none"),
        (("empty",), r"`images` must hold .nii, .nii.gz, .npy files. Received"),
        (("i", None, ["_t1"]), r"`images` must hold .nii, .nii.gz, .npy files of _t1. Received"),
        (("i", None, "_t1"), "`modalities` must be a list of endings, or None. Received '_t1'"),
        (("i", None, []), "`modalities` must be a list"),
        (("twice",), "`images` must hold each volume once .* Received a, b"),
    ],
)
def test_other_folders_raise(tmp_path, monkeypatch, arguments, message):
    fill(tmp_path / "i", ["a.nii"])
    fill(tmp_path / "twice", ["a.nii", "a.nii.gz", "b.npy", "b.nii", "c.nii"])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        VolumeTable.from_folder(*arguments)


def test_columns_are_selected_together(tmp_path):
    table = VolumeTable(
        [["a1", "a2"], ["b1", "b2"], ["c1", "c2"]], ["a", "b", "c"], [0, 1, 2], ["x", "y", "y"]
    )
    chosen = table.select([2, 0])
    assert chosen.paths.tolist() == [["c1", "c2"], ["a1", "a2"]]
    assert chosen.masks.tolist() == ["c", "a"]
    assert chosen.grades.tolist() == [2, 0]
    assert chosen.groups.tolist() == ["y", "x"]
    assert len(chosen) == 2
    assert VolumeTable(["a", "b"]).select(np.array([1])).files.tolist() == [["b"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"paths": []}, r"`paths` must have shape \(n,\) or \(n, modalities\)"),
        ({"paths": [[["a"]]]}, r"Received shape \(1, 1, 1\)"),
        ({"paths": [["a1", "a2"], ["b1"]]}, r"as many for each scan. Received \['a1', 'a2'\]"),
        ({"paths": ["a", 3]}, r"`paths` must be paths, .* Received 3 in shape \(2,\)"),
        ({"paths": ["a", "b"], "masks": ["a"]}, r"`masks` must have shape \(2,\). Received \(1,\)"),
        ({"paths": ["a", "b"], "grades": [1, 2, 3]}, "`grades` must have shape"),
        ({"paths": ["a", "b"], "groups": [[1, 2]]}, "`groups` must have shape"),
    ],
)
def test_columns_of_unequal_length_raise(columns, message):
    with pytest.raises(ValueError, match=message):
        VolumeTable(**columns)


def test_copies_are_grouped_by_any_modality(tmp_path):
    for number, name in enumerate("abcdef"):
        np.save(tmp_path / f"{name}.npy", VOXELS + (number if name != "f" else 1))
    paths = [[f"{tmp_path}/{name}.npy" for name in row] for row in ("ab", "cd", "ef")]
    table = VolumeTable(paths, grades=[0, 1, 2])
    with pytest.warns(
        UserWarning, match=r"1 pairs of identical files have different grades: a\.npy \(0\) and e"
    ):
        assert table.group_duplicates().groups.tolist() == [0, 1, 0]
    grouped = VolumeTable(paths, groups=["x", "y", "y"]).group_duplicates()
    assert grouped.groups.tolist() == [0, 0, 0]
    assert grouped.paths.tolist() == paths


def test_good_volumes_pass(table, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.check(num_classes=3, verbose=0)
    assert capsys.readouterr().out == ""
    table.check(verbose=1)
    assert "4/4" in capsys.readouterr().out


def test_all_bad_files_are_named_at_once_each_with_its_reason(tmp_path):
    names = [f"{name}.nii.gz" for name in ("cut", "four", "good", "label", "moved", "nan", "shape", "whole")]
    images = fill(tmp_path / "images", names)
    masks = fill(tmp_path / "masks", names, LABELS)
    content = (images / "cut.nii.gz").read_bytes()
    (images / "cut.nii.gz").write_bytes(content[:100])
    fill(images, ["four.nii.gz"], np.stack([VOXELS] * 2, -1))
    fill(masks, ["label.nii.gz"], LABELS + 1)
    fill(masks, ["moved.nii.gz"], LABELS, affine_of(signs=(-1, 1, 1)))
    fill(images, ["nan.nii.gz"], np.full(SHAPE, np.nan, np.float32))
    fill(masks, ["shape.nii.gz"], LABELS[:, :, :6])
    fill(masks, ["whole.nii.gz"], LABELS * 0.5)
    table = VolumeTable.from_folder(images, masks)
    with pytest.raises(ValueError, match="fit together") as caught:
        table.check(num_classes=3, workers=2, verbose=0)
    message = str(caught.value)
    assert message.startswith("`table` must name volumes that are whole and fit together. In 7 of 8 rows")
    for part in (
        f"{images}/cut.nii.gz (",
        f"{images}/four.nii.gz (`voxels` must have shape (x, y, z). Received shape (5, 6, 7, 2).)",
        f"{masks}/label.nii.gz (`labels` must be whole numbers in 0..2. Received 3 in ",
        f"{masks}/moved.nii.gz (its affine is [[-1.0, ",
        f"{images}/nan.nii.gz (`voxels` must be finite. Received NaN or infinity in 210 of 210 voxels.)",
        f"{masks}/shape.nii.gz (its shape is (5, 6, 6), and that of the image (5, 6, 7))",
        f"{masks}/whole.nii.gz (`labels` must be whole numbers in 0..2. Received 0.5 in ",
    ):
        assert part in message
    assert "good" not in message


def test_all_problems_of_a_row_are_named(tmp_path):
    fill(tmp_path, ["a.nii"])
    fill(tmp_path, ["b.nii"], VOXELS, affine_of(spacing=(1, 1, 2)))
    fill(tmp_path, ["c.nii"], VOXELS[:4])
    fill(tmp_path, ["m.nii"], LABELS + 5)
    table = VolumeTable([[str(tmp_path / f"{name}.nii") for name in "abc"]], [tmp_path / "m.nii"])
    with pytest.raises(ValueError, match="In 1 of 1 rows") as caught:
        table.check(num_classes=3, verbose=0)
    for part in (
        "b.nii (its affine",
        "c.nii (its shape is (4, 6, 7), and that of the image",
        "m.nii (`labels`",
    ):
        assert part in str(caught.value)


def test_of_many_bad_files_twenty_are_named(tmp_path):
    for index in range(23):
        (tmp_path / f"{index:02}.nii").write_bytes(b"")
    with pytest.raises(ValueError, match=r"In 23 of 23 rows .*19\.nii \(.*\) \.\.\. \(23 in all\)") as caught:
        VolumeTable.from_folder(tmp_path).check(verbose=0)
    assert "20.nii" not in str(caught.value)


def test_missing_files_are_named_at_once(table):
    for path in (table.paths[1], table.masks[2]):
        os.remove(path)
    with pytest.raises(FileNotFoundError, match=r"Missing 2: \S*images\S*1\.nii\.gz, \S*masks\S*2\.nii"):
        table.check(verbose=0)


@pytest.mark.parametrize("empty_masks", ["warn", "refuse", "allow", "other"])
def test_empty_masks_trigger_a_warning_or_an_error(table, empty_masks):
    for row in (1, 3):
        save_nifti(table.masks[row], np.zeros(SHAPE, np.uint8))
    named = r"\S*masks/1\.nii\.gz"
    if empty_masks == "warn":
        with pytest.warns(UserWarning, match=rf"2 of 4 masks have no foreground: {named}"):
            table.check(verbose=0)
    elif empty_masks == "refuse":
        save_nifti(table.paths[0], np.full(SHAPE, np.inf, np.float32))
        with pytest.raises(
            ValueError, match=rf"In 3 of 4 rows .*0\.nii\.gz.*{named} \(it has no foreground\)"
        ):
            table.check(empty_masks="refuse", verbose=0)
    elif empty_masks == "allow":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table.check(empty_masks="allow", verbose=0)
    else:
        with pytest.raises(ValueError, match=r"`empty_masks` must be .* Received 'other'"):
            table.check(empty_masks=empty_masks)


def test_headers_may_differ_by_rounding_and_arrays_have_none(tmp_path):
    affine = affine_of(spacing=(0.7, 0.7, 3.0))
    fill(tmp_path, ["a_t1.nii"], VOXELS, affine)
    fill(tmp_path, ["a_t2.nii"], VOXELS, affine + np.diag([1e-3, 0, 0, 0]))
    np.save(tmp_path / "a_seg.npy", LABELS)
    VolumeTable.from_folder(tmp_path, tmp_path, ["_t1", "_t2"], mask_ending="_seg").check(verbose=0)


def test_real_volumes(real_data):
    root = real_data / "hippocampus"
    table = VolumeTable.from_folder(root / "images", root / "labels").select(range(0, 200, 20))
    table.check(num_classes=3, empty_masks="refuse", verbose=0)
    for image, mask in zip(table.paths, table.masks, strict=True):
        assert nibabel.load(image).shape == nibabel.load(mask).shape
    with pytest.raises(ValueError, match=r"`labels` must be whole numbers in 0\.\.1"):
        table.check(num_classes=2, verbose=0)


def test_other_formats_and_dicom_folders_trigger_a_warning(tmp_path):
    images = fill(tmp_path / "images", ["a.nii", "b.nii.gz"])
    for name in (
        "c.mha",
        "d.mha",
        "e.nrrd",
        "f.mgz",
        "g.hdr",
        "g.img",
        "h",
        ".hidden.mha",
        "README",
        "notes.txt",
    ):
        (images / name).write_bytes(b"bytes")
    for name in ("ct_1/IM1", "ct_1/IM2", "deep/ct_2/x.dcm"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(bytes(128) + b"DICM")
    with pytest.warns(UserWarning, match="Left out") as told:
        assert len(VolumeTable.from_folder(images)) == 2
    said = str(told[0].message)
    for part in (
        "1 .hdr (g.hdr)",
        "1 .img (g.img)",
        "2 .mha (c.mha, d.mha)",
        "1 .mgz (f.mgz)",
        "1 .nrrd (e.nrrd)",
        "1 no suffix (h)",
        "DICOM slices in 2 folders (ct_1, deep/ct_2), which VolumeTable([...]) takes",
    ):
        assert part in said
    assert "README" not in said
    assert "hidden" not in said
    for name in ("a.nii", "b.nii.gz"):
        (images / name).unlink()
    with pytest.raises(ValueError, match=r"`images` must hold .nii.* Received .*There are .* 2 \.mha"):
        VolumeTable.from_folder(images)


def test_unpaired_masks_and_files_trigger_a_warning(tmp_path):
    images = fill(tmp_path / "i", ["a_t1.nii", "a_t2.nii", "a_t1gd.nii"])
    masks = fill(tmp_path / "m", ["a.nii", "b.nii", "c.nii"])
    with pytest.warns(
        UserWarning, match=r"2 masks of no scan \(b, c\); 1 files that end in none .* \(a_t1gd\)"
    ):
        VolumeTable.from_folder(images, masks, ["_t1", "_t2"])
    both = fill(tmp_path / "both", ["a.nii", "a_seg.nii", "b_seg.nii"])
    with pytest.warns(UserWarning, match=r"1 masks of no scan \(b_seg\)"):
        VolumeTable.from_folder(both, both, mask_ending="_seg")
    with pytest.raises(
        ValueError, match=r"`masks` must be other files than the scans; .* Received \S*a_t1\.nii"
    ):
        VolumeTable.from_folder(images, images)


def test_names_match_in_any_unicode_normalization(tmp_path):
    images = fill(tmp_path / "i", [unicodedata.normalize("NFD", "Müller_é_0000.nii")])
    masks = fill(tmp_path / "m", [unicodedata.normalize("NFC", "Müller_é.nii.gz")])
    assert len(VolumeTable.from_folder(images, masks)) == 1
    both = fill(
        tmp_path / "b", [unicodedata.normalize("NFD", "a_ñ.nii"), unicodedata.normalize("NFC", "a_maské.nii")]
    )
    ending = unicodedata.normalize("NFD", "_maské")
    with pytest.raises(ValueError, match=r"Received a_ñ_maské \(mask\)"):
        VolumeTable.from_folder(both, both, mask_ending=ending)
    fill(both, [unicodedata.normalize("NFC", "a_ñ_maské.nii")])
    with pytest.warns(UserWarning, match="1 masks of no scan"):
        assert VolumeTable.from_folder(both, both, mask_ending=ending).masks.shape == (1,)


@pytest.mark.parametrize("kind", ["files", "folder"])
def test_links_out_of_the_folder_are_followed_where_allowed(tmp_path, kind):
    store = fill(tmp_path / "store", ["x/1.nii.gz", "x/2.nii.gz"])
    images = tmp_path / "images"
    images.mkdir()
    if kind == "folder":
        (images / "x").symlink_to(store / "x")
        (store / "x" / "back").symlink_to(images)
    else:
        for name in ("1", "2"):
            (images / f"{name}.nii.gz").symlink_to(store / "x" / f"{name}.nii.gz")
    with pytest.raises(ValueError, match=r"links to files within it.*follow_links=True"):
        VolumeTable.from_folder(images)
    table = VolumeTable.from_folder(images, follow_links=True)
    assert [os.path.basename(path) for path in table.paths] == ["1.nii.gz", "2.nii.gz"]
    table.check(verbose=0)
    (images / "3.nii.gz").symlink_to(tmp_path / "not_fetched.nii.gz")
    for follow in (False, True):
        with pytest.raises(ValueError, match=r"files that do not exist. Received \S*3\.nii\.gz"):
            VolumeTable.from_folder(images, follow_links=follow)


def test_scans_without_a_mask_are_a_table_of_their_own(tmp_path):
    images = fill(tmp_path / "images", ["a.nii", "b.nii", "c.npy"])
    masks = fill(tmp_path / "masks", ["b.nii"], LABELS)
    other = fill(tmp_path / "other", ["d.npy", "e.npy"], VOXELS + 1)
    (other / "e.npy").write_bytes((images / "c.npy").read_bytes())
    with pytest.raises(ValueError, match=r"Received a \(mask\), c \(mask\)"):
        VolumeTable.from_folder(images, masks)
    for folder, further in ((images, []), (other, ["../other/d.npy", "../other/e.npy"])):
        with pytest.warns(UserWarning, match="2 of 3 scans have no mask; they are kept as `unlabeled`"):
            table = VolumeTable.from_folder(images, masks, unlabeled=folder)
        assert (names_of(table.paths, images), names_of(table.masks, masks)) == (["b.nii"], ["b.nii"])
        assert names_of(table.unlabeled.paths, images) == ["a.nii", "c.npy", *further]
        assert table.unlabeled.masks is None
    grouped = table.group_duplicates()
    assert (grouped.groups.tolist(), grouped.unlabeled.groups.tolist()) == ([0], [0, 1, 2, 1])
    with pytest.raises(ValueError, match="`masks` must hold the mask of a scan"):
        VolumeTable.from_folder(images, fill(tmp_path / "none", ["z.nii"], LABELS), unlabeled=images)


def test_modalities_of_scans_without_a_mask(tmp_path):
    images = fill(tmp_path / "images", ["a_t1.nii", "a_t2.nii", "b_t1.nii", "b_t2.nii"])
    masks = fill(tmp_path / "masks", ["a.nii"], LABELS)
    with pytest.warns(UserWarning, match="1 of 2 scans have no mask"):
        table = VolumeTable.from_folder(images, masks, ["_t1", "_t2"], unlabeled=images)
    assert names_of(table.unlabeled.paths, images) == ["b_t1.nii", "b_t2.nii"]
    assert table.unlabeled.paths.shape == (1, 2)

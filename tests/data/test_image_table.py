import os
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_ssl.data import ImageTable, load_images
from keras_ssl.data.image_preparation import Preparation
from keras_ssl.data.patients import patients_of_names

pytestmark = pytest.mark.no_backend


@pytest.fixture
def folder(tmp_path):
    """Files `a.png b.JPG c.jpeg d.Tif` in `images`, and a way to write labels beside it."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.JPG", "c.jpeg", "d.Tif"):
        (images / name).write_bytes(name.encode())
    return images


def from_text(folder, text, **options):
    labels = folder.parent / "labels.csv"
    labels.write_bytes(text.encode())
    return ImageTable.from_csv(labels, folder, **options)


def names(table):
    return [path.rsplit("/")[-1].rsplit("\\")[-1] for path in table.paths]


@pytest.mark.parametrize(
    "header", ["id_code,diagnosis", "image,level", "Image name,Retinopathy grade", "file,dr_grade"]
)
def test_columns_of_public_datasets_are_recognized(folder, header):
    table = from_text(folder, f"{header}\nb,0\na,4\nd,2\n")
    assert names(table) == ["b.JPG", "a.png", "d.Tif"]
    assert table.grades.tolist() == [0, 4, 2]
    assert table.grades.dtype == np.int64
    assert table.groups is None


def test_any_columns_by_name_and_files_by_any_suffix(folder):
    text = "eye;who;grade\na.PNG;x;0\nb;y;1.0\nc.jpeg;x;2\nd.tif;z;3\n"
    table = from_text(folder, text, image_column="eye", label_column="grade", group_column="who")
    assert names(table) == ["a.png", "b.JPG", "c.jpeg", "d.Tif"]
    assert table.grades.tolist() == [0, 1, 2, 3]
    assert table.groups.tolist() == ["x", "y", "x", "z"]


def test_spreadsheet_artifacts_in_a_csv_file_are_accepted(folder):
    # A byte order mark, padded names, nameless columns, blank lines, carriage returns.
    text = "\ufeffImage name,Retinopathy grade, Risk of edema ,,,\r\na,1,0,,,\r\n,,,,,\r\n b ,2,,,\r\n\r\n"
    table = from_text(folder, text)
    assert names(table) == ["a.png", "b.JPG"]
    assert table.grades.tolist() == [1, 2]


def test_names_with_dots_and_folders(folder):
    (folder / "left").mkdir()
    (folder / "left" / "visit.2.png").touch()
    (folder / "left" / "visit.2.csv").touch()
    table = from_text(folder, "id_code,diagnosis\nleft/visit.2,0\na,1\n")
    assert names(table) == ["visit.2.png", "a.png"]
    assert names(from_text(folder, "id_code,diagnosis\nleft\\visit.2.png,0\n")) == ["visit.2.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a line of column names and lines below it"),
        ("id_code,diagnosis\n", "must have a line of column names and lines below it"),
        ("id_code,diagnosis,id_code\na,1,a\n", r"must name each column once .*Received id_code\."),
        (
            "picture,grade\na,1\n",
            r"`image_column` must be one of .*'picture', 'grade'.* of no known data set",
        ),
        ("id_code,diagnosis\na,5\nb,-1\nc,1\n", r"in 0\.\.4. Received '5' \(line 2\), '-1' \(line 3\)\."),
        (
            "id_code,diagnosis\na,1.5\nb,\nc,nan\nd,x\n",
            r"'1.5' .line 2., 'nan' .line 4., 'x' .line 5.",
        ),
        ("id_code,diagnosis\na,inf\n", r"Received 'inf' \(line 2\)"),
        ("id_code,diagnosis\na,1\na.png,1\n", r"must name each image once. Received \S*a\.png\."),
        ("id_code,diagnosis\n../labels.csv,1\n", r"files inside `images`. Received \.\./labels\.csv\."),
        ("id_code,diagnosis\n/etc/passwd,1\n", r"files inside `images`. Received /etc/passwd\."),
        ("id_code,diagnosis\n,1\n", r"files inside `images`. Received \."),
        (
            "id_code,diagnosis\nx,1\na,2\ny.png,1\n",
            r"that exist in .*Missing 2 of 3; .*Received x, y\.png\.",
        ),
        ("id_code,diagnosis\na.jpg,1\n", r"that exist .*Received a\.jpg\."),
    ],
)
def test_errors_in_a_csv_file_name_the_lines(folder, text, message):
    with pytest.raises(ValueError, match=message):
        from_text(folder, text)


def test_twenty_of_many_missing_files_are_named_and_all_counted(folder):
    lines = "".join(f"x{index},0\n" for index in range(30))
    with pytest.raises(ValueError, match=r"Received x0, .*, x19 \.\.\. \(30 in all\)\.$"):
        from_text(folder, "id_code,diagnosis\n" + lines)


def test_missing_files_may_be_left_out_with_a_warning(folder):
    text = "id_code,diagnosis,who\nx,1,p\na,2,q\ny,3,p\nz,3,p\nb,4,r\n"
    with pytest.warns(UserWarning, match=r"3 of 5 images left out as missing from \S*images: x, y, z\."):
        table = from_text(folder, text, group_column="who", skip_missing=True)
    assert names(table) == ["a.png", "b.JPG"]
    assert (table.grades.tolist(), table.groups.tolist()) == ([2, 4], ["q", "r"])
    with pytest.raises(ValueError, match=r"that exist in \S*images\. Missing 2 of 2; .*Received x, y\."):
        from_text(folder, "id_code,diagnosis\nx,1\ny,2\n", skip_missing=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "id"}, "`image_column` must be one of .*Received 'id'"),
        ({"label_column": "grade"}, "`label_column` must be one of .*Received 'grade'"),
        ({"group_column": "who"}, "`group_column` must be one of .*Received 'who'"),
        ({"group_column": "eye"}, r"`group_column` must name a group .*an empty cell in line 3\."),
        ({"num_grades": 2}, r"in 0\.\.1. Received '4' \(line 3\)"),
    ],
)
def test_wrong_options_raise(folder, options, message):
    with pytest.raises(ValueError, match=message):
        from_text(folder, "id_code,diagnosis,eye\na,1,p\nb,4,\n", **options)


def test_links_out_of_the_folder_raise(folder):
    (folder.parent / "secret.png").touch()
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    with pytest.raises(
        ValueError, match=r"not links out of it; `follow_links=True` allows .*Received link\."
    ):
        from_text(folder, "id_code,diagnosis\nlink,1\n")


def test_two_files_of_one_name_need_their_suffix(folder):
    (folder / "a.tif").touch()
    with pytest.raises(ValueError, match=r"give the suffix where two files share a name. Received a\."):
        from_text(folder, "id_code,diagnosis\na,1\n")
    assert names(from_text(folder, "id_code,diagnosis\na.tif,1\n")) == ["a.tif"]


def test_from_folder_finds_images_of_all_depths_sorted(folder):
    (folder / "more").mkdir()
    for name in ("more/e.png", "notes.txt", ".hidden.png", "._a.png"):
        (folder / name).touch()
    table = ImageTable.from_folder(folder)
    assert names(table) == ["a.png", "b.JPG", "c.jpeg", "d.Tif", "e.png"]
    assert table.grades is None
    (folder.parent / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`images` must hold \.png, \.jpg"):
        ImageTable.from_folder(folder.parent / "empty")
    with pytest.raises(ValueError, match=r"`images` must be a folder\. Received"):
        ImageTable.from_folder(folder / "a.png")


def test_select_keeps_columns_together():
    table = ImageTable(["a", "b", "c"], [0, 1, 2], ["x", "y", "z"]).select([2, 0])
    assert (table.paths.tolist(), table.grades.tolist(), table.groups.tolist()) == (
        ["c", "a"],
        [2, 0],
        ["z", "x"],
    )


def test_columns_of_unequal_length_raise():
    with pytest.raises(ValueError, match=r"`grades` must have shape \(2,\). Received \(1,\)"):
        ImageTable(["a", "b"], [0])
    with pytest.raises(ValueError, match="at least one image"):
        ImageTable([])


def test_duplicates_merge_groups_and_different_grades_trigger_a_warning(folder):
    (folder / "d.Tif").write_bytes((folder / "a.png").read_bytes())
    text = "id_code,diagnosis,who\na,1,p\nb,2,p\nc,0,q\nd,3,r\n"
    table = from_text(folder, text, group_column="who")
    with pytest.warns(UserWarning, match=r"1 pairs .* different grades: a\.png \(1\) and d\.Tif \(3\)"):
        grouped = table.group_duplicates()
    assert grouped.groups.tolist() == [0, 0, 1, 0]


def test_idrid(real_data):
    idrid = real_data / "idrid"
    table = ImageTable.from_csv(idrid / "labels.csv", idrid / "images_128")
    assert np.bincount(table.grades).tolist() == [134, 20, 136, 74, 49]
    marks = np.genfromtxt(idrid / "labels.csv", delimiter=",", dtype=str, skip_header=1)
    with pytest.warns(UserWarning, match=r"2 pairs of identical files have different grades"):
        groups = table.group_duplicates().groups
    copies = np.bincount(groups)[groups] > 1
    # One more is marked: its copy is in the official test part, which is not here.
    marked = marks[:, 5] == "1"
    assert (copies & ~marked).sum() == 0
    assert [name for name in marks[marked & ~copies, 2]] == ["IDRiD_118"]


# Patients -------------------------------------------------------------------------------------------------


EYES = {
    "10_left": "10",
    "10_right.jpeg": "10",
    "10_left_crop": "10",
    "a/10_RIGHT": "10",
    "b\\010_left": "10",
    "10_L": "10",
    "10_OD_2": "10",
    "10-os": "10",
    "aug_10_left": "10",
    "7_left": "7",
    "Image_07R": "7",
    "patient_7_right": "7",
    "visit1_7_left": "visit1_7",
    "visit1_7_right": "visit1_7",
    "12/left": "12",
    "12/OD": "12",
    "5r": "5",
    "mild/left_3": "3",
}
OTHERS = ["a", "10", "left", "10_lesion", "000c1434d8d7", "10_lr", "bright_3", "IDRiD_001"]


def make(folder, names):
    for name in names:
        path = folder / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name if path.suffix else f"{path.name}.jpeg").touch()
    return folder


def groups_of(table, names):
    return {
        name: [n for n, g in zip(names, table.groups, strict=True) if g == group]
        for name, group in zip(names, table.groups, strict=True)
    }


@pytest.mark.parametrize(
    "header", ["image,level", "id_code,diagnosis", "Image name,Retinopathy grade", "x,y"]
)
def test_eyes_are_grouped_by_patient_whatever_the_header(tmp_path, header):
    names = [*EYES, *OTHERS]
    options = {"image_column": "x", "label_column": "y"} if header == "x,y" else {}
    text = "\n".join([header, *(f"{name},{row % 5}" for row, name in enumerate(names))])
    folder = make(tmp_path / "images", names)
    known = len(set(EYES.values()))
    with pytest.warns(
        UserWarning, match=rf"{len(EYES)} images of {known} patients; {len(OTHERS)} others each"
    ):
        table = from_text(folder, text, **options)
    together = groups_of(table, names)
    for name in names:
        expected = [other for other in EYES if EYES[other] == EYES[name]] if name in EYES else [name]
        assert together[name] == expected


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("{}_LE", "{}_RE"),
        ("left_{}", "right_{}"),
        ("eye_left_{}", "eye_right_{}"),
        ("{}_L1", "{}_R1"),
        ("{}a_L", "{}a_R"),
        ("{}_left", "{}_RE"),
        ("{}(left)", "{}(right)"),
        ("smith{}_OD", "smith{}_OS"),
        ("patient{}/left_1", "patient{}/right_1"),
        ("left/{}.png", "right/{}.png"),
        ("{}/OD/1.png", "{}/OS/1.png"),
        ("{}/eye_left.png", "{}/eye_right.png"),
        # A date, a visit or an image beside the patient's number.
        ("{}_2019_left", "{}_2020_right"),
        ("P{}-1_OD", "P{}-2_OS"),
        ("visit1_{}_left", "visit1_{}_right"),
        ("{}_0_left", "{}_right"),
    ],
)
def test_many_forms_of_file_names_identify_eyes(left, right):
    names = [form.format(number) for number in range(100, 106) for form in (left, right)]
    with pytest.warns(UserWarning, match=r"12 images of 6 patients\. If"):
        groups = patients_of_names(names)
    assert len(set(groups)) == 6
    assert (groups[::2] == groups[1::2]).all()


def test_the_warning_about_patients_states_doubt_without_pairs():
    with pytest.warns(UserWarning, match=r"3 images of 3 patients\. Few patients have images of both eyes"):
        patients_of_names(["1_left", "2_left", "3_right"])


@pytest.mark.parametrize("class_folders", [False, ["a", "b"]])
def test_eyes_are_grouped_in_a_folder(tmp_path, class_folders):
    names = ["a/10_left", "a/3", "a/7_right", "b/10_right", "b/7_left"]
    folder = make(tmp_path / "images", names)
    with pytest.warns(UserWarning, match="4 images of 2 patients; 1 others each"):
        table = ImageTable.from_folder(folder, class_folders=class_folders)
    assert groups_of(table, names) == {
        "a/10_left": ["a/10_left", "b/10_right"],
        "b/10_right": ["a/10_left", "b/10_right"],
        "a/3": ["a/3"],
        "a/7_right": ["a/7_right", "b/7_left"],
        "b/7_left": ["a/7_right", "b/7_left"],
    }


def test_group_column_overrides_file_names_without_a_warning(tmp_path):
    folder = make(tmp_path / "images", ["10_left", "10_right"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = from_text(folder, "image,level,who\n10_left,0,a\n10_right,1,b\n", group_column="who")
    assert table.groups.tolist() == ["a", "b"]


def test_skipped_images_keep_the_patients_of_the_others(tmp_path):
    folder = make(tmp_path / "images", ["1_left", "2_left", "2_right"])
    with pytest.warns(UserWarning, match="3 images of 2 patients"):
        table = from_text(
            folder, "image,level\n1_left,0\n1_right,1\n2_left,2\n2_right,3\n", skip_missing=True
        )
    assert table.groups.tolist() == ["1", "2", "2"]


def test_groups_are_none_where_no_name_identifies_a_patient(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ImageTable.from_folder(folder).groups is None
        assert from_text(folder, "image,level\na,0\nb,1\n").groups is None


# Folders --------------------------------------------------------------------------------------------------


def test_class_folders_in_the_order_given(tmp_path):
    folder = make(tmp_path / "images", ["No_DR/a", "Mild/b", "Severe/deep/c"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = ImageTable.from_folder(folder, class_folders=["No_DR", "Mild", "Severe"])
    assert dict(zip(names(table), table.grades.tolist(), strict=True)) == {
        "a.jpeg": 0,
        "b.jpeg": 1,
        "c.jpeg": 2,
    }
    assert table.class_names == table.select([0]).class_names == ("No_DR", "Mild", "Severe")
    with pytest.warns(UserWarning, match=r"0 = Mild \(1 images\), 1 = No_DR \(1 images\), 2 = Severe"):
        table = ImageTable.from_folder(folder, class_folders=True)
    assert dict(zip(names(table), table.grades.tolist(), strict=True)) == {
        "b.jpeg": 0,
        "a.jpeg": 1,
        "c.jpeg": 2,
    }


def test_class_folders_that_are_the_grades(tmp_path):
    folder = make(tmp_path / "images", [f"{grade}/{grade}" for grade in range(11)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = ImageTable.from_folder(folder, class_folders=True)
    assert [int(name.split(".")[0]) for name in names(table)] == table.grades.tolist()
    (folder / "3" / "3.jpeg").unlink()
    with pytest.warns(UserWarning, match="3 = 4 "):
        ImageTable.from_folder(folder, class_folders=True)


@pytest.mark.parametrize(
    ("class_folders", "message"),
    [
        (["x"], r"must name all folders of images. Received y\."),
        (["x", "y", "z"], r"must name folders that hold images. Received z\."),
        (["x", "y", "x"], r"must name each class once. Received x\."),
        ("x", "must be True, False or a list of names"),
    ],
)
def test_wrong_class_folders_raise(tmp_path, class_folders, message):
    folder = make(tmp_path / "images", ["x/a", "y/b"])
    with pytest.raises(ValueError, match=f"`class_folders` {message}"):
        ImageTable.from_folder(folder, class_folders=class_folders)
    make(folder, ["c"])
    with pytest.raises(ValueError, match=r"`class_folders` must hold all images: .* Received c\.jpeg\."):
        ImageTable.from_folder(folder, class_folders=["x", "y"])


def test_files_that_are_left_out_are_counted_by_suffix(tmp_path):
    folder = make(tmp_path / "images", ["a.PPM", "b.bmp", "c.webp", "d.jfif"])
    for name, content in {
        "e.heic": b"\0\0\0\x18ftypheic",
        "f.HEIC": b"",
        "g.nrrd": b"NRRD0004",
        "IM1": bytes(128) + b"DICM",
        "LICENSE": b"Free to use",
        "labels.csv": b"a,b",
        ".hidden.mha": b"",
        "Thumbs.db": b"",
    }.items():
        (folder / name).write_bytes(content)
    said = (
        r"Left out of the 4 images of \S*images: 1 without suffix \(IM1: a DICOM file\), 2 \.heic "
        r"\(e\.heic: a HEIF image \(HEIC\)\), 1 \.nrrd \(g\.nrrd: an NRRD volume\)\.$"
    )
    with pytest.warns(UserWarning, match=said):
        assert len(ImageTable.from_folder(folder)) == 4
    for path in folder.glob("[a-d].*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"must hold \.png.* which holds 1 without suffix"):
        ImageTable.from_folder(folder)


def test_pipes_are_not_opened(folder):
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    with pytest.warns(
        UserWarning, match=r"1 without suffix \(pipe: no file\), 1 \.png \(pipe\.png: no file\)"
    ):
        assert len(ImageTable.from_folder(folder)) == 4


# Links ----------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path):
    """A data set whose files, or folders, are links to a store, as DVC, git-annex and people make them."""
    (tmp_path / "store" / "deep").mkdir(parents=True)
    for name in ("x1", "x2", "deep/10_left.png"):
        Image.fromarray(np.arange(81, dtype="uint8").reshape(9, 9)).save(
            tmp_path / "store" / name, format="PNG"
        )
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "7_left.png").symlink_to(tmp_path / "store" / "x1")
    (tmp_path / "images" / "7_right.png").symlink_to("../store/x2")
    (tmp_path / "images" / "sub").symlink_to(tmp_path / "store" / "deep")
    (tmp_path / "store" / "deep" / "back").symlink_to(tmp_path / "images")
    return tmp_path / "images"


def test_links_out_of_a_folder_are_followed_where_that_is_allowed(linked):
    with pytest.raises(ValueError, match=r"`follow_links=True` allows links .*7_left\.png, .*7_right.*sub"):
        ImageTable.from_folder(linked)
    with pytest.warns(UserWarning, match="3 images of 2 patients"):
        table = ImageTable.from_folder(linked, follow_links=True)
    assert names(table) == ["7_left.png", "7_right.png", "10_left.png"]
    assert load_images(table, Preparation(8, crop=None), verbose=0)[0].max() > 70


def test_links_of_a_table_are_followed_where_that_is_allowed(linked):
    text = "image,level\n7_left,0\n7_right.png,1\nsub/10_left,2\n"
    with pytest.raises(
        ValueError, match=r"`follow_links=True` .*Received 7_left, 7_right\.png, sub/10_left\."
    ):
        from_text(linked, text)
    with pytest.warns(UserWarning, match="3 images of 2 patients"):
        table = from_text(linked, text, follow_links=True)
    assert table.groups.tolist() == ["7", "7", "10"]
    for name in ("../store/deep/10_left", "../store/x1", str(linked.parent / "store/deep/10_left.png")):
        with pytest.raises(ValueError, match=r"must name files inside `images`\. Received"):
            from_text(linked, f"image,level\n{name},0\n", follow_links=True)


@pytest.mark.parametrize("follow_links", [False, True])
def test_broken_links_trigger_a_warning(folder, follow_links):
    (folder / "gone.png").symlink_to(folder.parent / "annex" / "gone")
    with pytest.warns(UserWarning, match=r"1 links that lead nowhere \(fetch their files\): gone\.png"):
        assert len(ImageTable.from_folder(folder, follow_links=follow_links)) == 4


# Tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["NFC", "NFD"])
@pytest.mark.parametrize("disk", ["NFC", "NFD"])
@pytest.mark.parametrize("suffix", ["", ".png"])
def test_names_match_in_any_unicode_normalization(tmp_path, table, disk, suffix):
    name = "Zoë/fundus_é"
    file = tmp_path / "images" / unicodedata.normalize(disk, f"{name}.png")
    file.parent.mkdir(parents=True)
    file.touch()
    text = f"id_code,diagnosis\n{unicodedata.normalize(table, name)}{suffix},3\n"
    assert from_text(tmp_path / "images", text).paths.tolist() == [str(file)]


@pytest.mark.parametrize(
    "text",
    [
        '"Image name","Retinopathy grade"\r\n"a","1"\r\n"b","2"\r\n',
        '\ufeff"Image name";"Retinopathy grade"\n"a";"1"\n"b";"2"',
        'Image name, Retinopathy grade ,,,\na, "1",,,\n"b" , "2" ,,,\n,,,,\n',
        "sep=;\nImage name;Retinopathy grade\na;1\nb;2\n",
        'Image name,Retinopathy grade,note\na,1,"two\nlines, with a comma"\nb,2,5" lens\n',
        'Image name,Retinopathy grade,note\na,1,"a ""quoted"" word"\nb,2,\n',
        '"Image, its place",Image name,Retinopathy grade\n"x, y",a,1\n"z, ""w""",b,2\n',
        '"a;note";Image name;Retinopathy grade;"b,c,d,e,f"\n1;a;1;\n2;b;2;\n',
        "Image name\tRetinopathy grade\na\t1\nb\t2\n",
    ],
)
def test_quoted_cells_of_published_tables_are_read(folder, text):
    table = from_text(folder, text)
    assert names(table) == ["a.png", "b.JPG"]
    assert table.grades.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id_code,diagnosis,note\na,1,"open\nb,2,\n', "a quote after line 1 is never closed"),
        (
            'id_code,diagnosis,note\na,1,"open\nb,2,"shut"\nc,3,\n',
            "its quotes do not match, first from line 2 on",
        ),
        ('id_code,diagnosis\na,1\n"b,2\n', "a quote after line 2 is never closed"),
    ],
)
def test_unclosed_quotes_raise(folder, text, message):
    with pytest.raises(ValueError, match=f"`labels` must be a table of text.*{message}"):
        from_text(folder, text)


def test_a_file_that_exists_is_never_called_missing(folder):
    (folder / "e.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "f").write_bytes(b"%PDF-1.7")
    for name in ("e.heic", "e", "f"):
        table = from_text(folder, f"id_code,diagnosis\n{name},1\n")
        with pytest.raises(ValueError, match=r"it is a (HEIF image|PDF)"):
            load_images(table, Preparation(8), verbose=0)


def test_a_table_that_is_a_folder_or_missing_is_named(folder):
    for path in (folder, folder / "nothing.csv"):
        with pytest.raises(
            OSError, match=r"`labels` must be a CSV file. \S*(images|nothing\.csv) cannot be read"
        ):
            ImageTable.from_csv(path, folder)


def test_rows_without_a_grade_are_a_table_of_their_own(folder):
    with pytest.warns(UserWarning, match="2 of 4 images have no grade .blank cells of level."):
        table = from_text(
            folder, "image,level,who\na,3,x\nb,,x\nc,0,y\nd\n".replace("d\n", "d,,z\n"), group_column="who"
        )
    assert (names(table), table.grades.tolist(), table.groups.tolist()) == (
        ["a.png", "c.jpeg"],
        [3, 0],
        ["x", "y"],
    )
    rest = table.unlabeled
    assert (names(rest), rest.grades, rest.groups.tolist()) == (["b.JPG", "d.Tif"], None, ["x", "z"])
    assert table.select([1]).unlabeled is rest
    with pytest.raises(ValueError, match=r"`label_column` must hold grades\. All 2 cells of level are blank"):
        from_text(folder, "image,level\na,\nb,\n")
    with pytest.raises(ValueError, match="must hold the grade of an image that exists"), pytest.warns():
        from_text(folder, "image,level\na,\nmissing,1\n", skip_missing=True)


def test_a_folder_adds_images_without_a_grade(folder, tmp_path):
    for name in ("10_left.png", "10_right.png", "7_left.png"):
        (folder / name).write_bytes(name.encode())
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    for name in ("deep/7_right.png", "x.png"):
        (other / name).write_bytes(name.encode())
    text = "image,level\n10_left,3\n7_left,1\na,2\n10_right,\n"
    with pytest.warns(UserWarning, match="4 images of 2 patients; 2 others"):
        table = from_text(folder, text, unlabeled=other)
    assert names(table.unlabeled) == ["10_right.png", "7_right.png", "x.png"]
    one, two, alone = table.groups
    assert table.unlabeled.groups[:2].tolist() == [one, two]
    assert len({one, two, alone, table.unlabeled.groups[2]}) == 4
    # The folder of the table itself: what no line names.
    with pytest.warns():
        table = from_text(folder, text, unlabeled=folder)
    assert names(table.unlabeled) == ["10_right.png", "b.JPG", "c.jpeg", "d.Tif"]
    with pytest.raises(ValueError, match="`unlabeled` must be a folder"):
        from_text(folder, text, unlabeled=folder / "a.png")


def test_copies_and_patients_link_images_with_and_without_grades(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (other / "new.png").write_bytes(b"new")
    text = "image,level,who\na,3,x\nb,1,y\nc,,y\n"
    for options, linked in (({}, [[0], [1], [2, 0, 3]]), ({"group_column": "who"}, [[0], [1], [1, 0, 2]])):
        with pytest.warns(UserWarning, match="1 of 3 images have no grade"):
            table = from_text(folder, text, unlabeled=other, **options).group_duplicates()
        assert [[group] for group in table.groups] + [table.unlabeled.groups.tolist()] == linked
    with pytest.raises(ValueError, match="`groups` must be known of both tables or of none"):
        ImageTable(["a"], groups=[1], unlabeled=ImageTable(["b"]))

import numpy as np
import pytest

from keras_ssl.data import ImageTable


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
def test_public_sets_are_known_by_their_headers(folder, header):
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


def test_what_spreadsheets_add_does_no_harm(folder):
    # A byte order mark, padded names, nameless columns, blank lines, carriage returns.
    text = "\ufeffImage name,Retinopathy grade, Risk of edema ,,,\r\na,1,0,,,\r\n,,,,,\r\n b ,2,,,\r\n\r\n"
    table = from_text(folder, text)
    assert names(table) == ["a.png", "b.JPG"]
    assert table.grades.tolist() == [1, 2]


def test_eyepacs_names_hold_the_patient(folder):
    for name in ("10_left.jpeg", "10_right.jpeg", "7_left.jpeg"):
        (folder / name).touch()
    table = from_text(folder, "image,level\n10_left,0\n10_right.jpeg,1\n7_left,2\n")
    assert table.groups.tolist() == ["10", "10", "7"]


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
            r"'1.5' .line 2., '' .line 3., 'nan' .line 4., 'x' .line 5.",
        ),
        ("id_code,diagnosis\na,inf\n", r"Received 'inf' \(line 2\)"),
        ("id_code,diagnosis\na,1\na.png,1\n", r"must name each image once. Received \S*a\.png\."),
        ("id_code,diagnosis\n../labels.csv,1\n", r"files inside `images`. Received \.\./labels\.csv\."),
        ("id_code,diagnosis\n/etc/passwd,1\n", r"files inside `images`. Received /etc/passwd\."),
        ("id_code,diagnosis\n,1\n", r"files inside `images`. Received \."),
        ("id_code,diagnosis\nx,1\na,2\ny.png,1\n", r"that exist in \S*images. Received x, y\.png\."),
        ("id_code,diagnosis\na.jpg,1\n", r"that exist .*Received a\.jpg\."),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_read(folder, text, message):
    with pytest.raises(ValueError, match=message):
        from_text(folder, text)


def test_of_many_missing_files_twenty_are_named_and_all_counted(folder):
    lines = "".join(f"x{index},0\n" for index in range(30))
    with pytest.raises(ValueError, match=r"Received x0, .*, x19 \.\.\. \(30 in all\)\.$"):
        from_text(folder, "id_code,diagnosis\n" + lines)


def test_missing_files_may_be_left_out_with_a_warning(folder):
    text = "id_code,diagnosis,who\nx,1,p\na,2,q\ny,3,p\nz,3,p\nb,4,r\n"
    with pytest.warns(UserWarning, match=r"3 of 5 images left out as missing from \S*images: x, y, z\."):
        table = from_text(folder, text, group_column="who", skip_missing=True)
    assert names(table) == ["a.png", "b.JPG"]
    assert (table.grades.tolist(), table.groups.tolist()) == ([2, 4], ["q", "r"])
    with pytest.raises(ValueError, match=r"that exist in \S*images\. Received x, y\."):
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
def test_wrong_options_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        from_text(folder, "id_code,diagnosis,eye\na,1,p\nb,4,\n", **options)


def test_links_out_of_the_folder_are_refused(folder):
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


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"`grades` must have shape \(2,\). Received \(1,\)"):
        ImageTable(["a", "b"], [0])
    with pytest.raises(ValueError, match="at least one image"):
        ImageTable([])


def test_duplicates_join_the_groups_of_patients_and_conflicts_are_told(folder):
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

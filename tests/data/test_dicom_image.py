import numpy as np
import pytest

from keras_ssl.data import ImageTable, Preparation, load_images, read_image

pytestmark = pytest.mark.no_backend

pydicom = pytest.importorskip("pydicom")

GRAY = np.random.default_rng(0).integers(0, 4096, (7, 9)).astype("uint16")


def save(path, pixels, **tags):
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = (
        pydicom.uid.DigitalXRayImageStorageForPresentation
    )
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = "1.2.3"
    one.PatientName = "Zzyzx^Ann"
    one.Rows, one.Columns = pixels.shape[:2]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "RGB", 0
    one.BitsAllocated = one.BitsStored = 8 * pixels.dtype.itemsize
    one.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(one, name, value)
    one.HighBit = one.BitsStored - 1
    one.PixelData = pixels.tobytes()
    one.save_as(path, enforce_file_format=True)
    return path


def test_without_a_window_the_range_of_the_stored_bits_is_used(tmp_path):
    read = read_image(save(tmp_path / "a.dcm", GRAY, BitsStored=12))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, np.round(GRAY / 4095 * 65535))
    eight = (GRAY // 16).astype("uint8")
    # Of eight bits, Preparation gives back the very pixels.
    read = read_image(save(tmp_path / "b.dcm", eight))
    np.testing.assert_array_equal(read, eight * np.uint16(257))


def test_signed_and_rescaled_values(tmp_path):
    signed = GRAY.astype("int16") - 2048
    path = save(tmp_path / "a.dcm", signed, BitsStored=12, RescaleSlope=2, RescaleIntercept=-100)
    np.testing.assert_array_equal(read_image(path), np.round((signed + 2048.0) / 4095 * 65535))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_first_window_is_applied(tmp_path, function):
    tags = {} if function is None else {"VOILUTFunction": function}
    path = save(
        tmp_path / "a.dcm",
        GRAY,
        **{
            **tags,
            "WindowCenter": [1500, 9],
            "WindowWidth": [1000, 9],
            "RescaleSlope": 1,
            "RescaleIntercept": -5,
        },
    )
    x = GRAY - 5.0
    expected = {
        "LINEAR_EXACT": (x - 1500) / 1000 + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - 1500) / 1000)),
    }.get(function, (x - 1499.5) / 999 + 0.5)
    np.testing.assert_array_equal(read_image(path), np.round(np.clip(expected, 0, 1) * 65535))


def test_monochrome1_is_inverted_and_padding_is_black(tmp_path):
    plain = read_image(save(tmp_path / "a.dcm", GRAY, BitsStored=12)).astype(int)
    padded = GRAY.copy()
    padded[:2] = 4000
    path = save(
        tmp_path / "b.dcm",
        padded,
        BitsStored=12,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=4000,
    )
    read = read_image(path)
    assert (read[:2] == 0).all()
    rest = padded[2:] != 4000
    np.testing.assert_allclose(read[2:][rest], (65535 - plain)[2:][rest], atol=1)


def test_color(tmp_path):
    color = np.random.default_rng(1).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.dcm", color)), color)


def test_in_a_folder_and_a_table_without_a_suffix(tmp_path):
    (tmp_path / "images").mkdir()
    save(tmp_path / "images" / "a.DCM", GRAY, BitsStored=12)
    save(tmp_path / "images" / "IM0001", GRAY, BitsStored=12)
    with pytest.warns(
        UserWarning, match=r"Left out of the 1 images .*: 1 without suffix \(IM0001: a DICOM file\)"
    ):
        assert len(ImageTable.from_folder(tmp_path / "images")) == 1
    (tmp_path / "l.csv").write_text("id_code,diagnosis\nIM0001,1\na,2\n")
    table = ImageTable.from_csv(tmp_path / "l.csv", tmp_path / "images")
    images, _ = load_images(table, Preparation(size=9, crop=None), verbose=0)
    np.testing.assert_array_equal(images[0], images[1])


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 3}, "it holds 3 frames"),
        ({"Rows": 4000, "Columns": 4000}, "its header must not declare more"),
        ({"WindowCenter": "nan", "WindowWidth": 5}, "its window must have"),
        ({"WindowCenter": 5, "WindowWidth": -3}, "its window must have"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "its rescale slope must not be 0"),
    ],
)
def test_errors_do_not_quote_the_patient(tmp_path, tags, reason):
    with pydicom.config.disable_value_validation():
        path = save(tmp_path / "a.dcm", GRAY, **tags)
    with pytest.raises(ValueError, match=rf"a\.dcm cannot be read as an image: {reason}") as caught:
        read_image(path)
    assert "Zzyzx" not in str(caught.value)


@pytest.mark.parametrize("kept", [140, 300, -40])
def test_truncated_files_raise(tmp_path, kept):
    path = save(tmp_path / "a.dcm", GRAY)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.dcm cannot be read as an image"):
        read_image(path)

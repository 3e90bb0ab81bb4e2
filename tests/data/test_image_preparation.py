import json

import numpy as np
import pytest
from PIL import Image

from keras_ssl.data import Preparation, load_images, read_image, synthetic_fundus
from keras_ssl.data.image_preparation import find_fundus, prepare_image

pytestmark = pytest.mark.no_backend


def photograph(height, width, center, radius, level=150, noise=2.0):
    """A disc that darkens to its edge, in a noisy dark frame, and writing in a corner."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - center[0], x - center[1]) / radius
    gray = np.where(distance < 1, level * (1 - 0.6 * distance**2), 4)
    gray = gray + np.random.default_rng(0).normal(0, noise, gray.shape)
    image = np.clip(gray[..., None] * (1.0, 0.6, 0.3), 0, 255).astype(np.uint8)
    image[4 : 4 + height // 30, 4 : width // 8] = 220
    return image


@pytest.mark.parametrize("level", [60, 150, 240])
@pytest.mark.parametrize(
    ("height", "width", "center", "radius"),
    [
        (300, 400, (150, 200), 120),
        (700, 900, (360, 430), 300),
        (64, 80, (32, 40), 28),
        (1400, 2000, (700, 1000), 690),
    ],
)
def test_the_fundus_is_found(height, width, center, radius, level):
    rows, columns = find_fundus(photograph(height, width, center, radius, level))
    edges = np.array([rows.start, rows.stop, columns.start, columns.stop])
    expected = [center[0] - radius, center[0] + radius, center[1] - radius, center[1] + radius]
    np.testing.assert_allclose(edges, expected, atol=max(2, 0.03 * radius))


def test_a_disc_cut_above_and_below_keeps_its_width():
    image = photograph(200, 400, (100, 200), 130)
    rows, columns = find_fundus(image)
    assert (rows.start, rows.stop) == (0, 200)
    assert abs(columns.start - 70) <= 4
    assert abs(columns.stop - 330) <= 4
    prepared = Preparation(size=64).apply(image)
    bright = prepared.max(axis=(1, 2)) > 40
    assert bright.sum() == pytest.approx(64 * 200 / 260, abs=2)
    assert prepared[:5].max() == prepared[-5:].max() == 0


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).integers(90, 200, (50, 70, 3)),
        np.zeros((50, 70, 3)),
        np.full((50, 70, 3), 255),
        np.random.default_rng(0).integers(0, 256, (50, 70, 3))
        * (np.random.default_rng(1).random((50, 70, 1)) > 0.995),
    ],
    ids=["no frame", "black", "white", "specks"],
)
def test_without_a_frame_the_image_is_left_whole(image):
    assert find_fundus(image.astype(np.uint8)) == (slice(0, 50), slice(0, 70))


def test_real_photographs_are_cropped_to_their_width(real_data):
    paths = sorted((real_data / "idrid" / "images_128").glob("*.jpg"))[::20]
    for path in paths:
        rows, columns = find_fundus(read_image(path))
        # These were cropped to the fundus and padded above and below by about 8 %.
        assert columns.stop - columns.start >= 120, path
        assert 96 <= rows.stop - rows.start <= 122, path


def test_aspect_is_kept_and_black_fills_the_square():
    image = np.full((50, 100, 3), 200, np.uint8)
    prepared = Preparation(size=40, crop=None).apply(image)
    assert (prepared[10:30] == 200).all()
    assert (prepared[:10] == 0).all()
    assert (prepared[30:] == 0).all()


def test_resizing_is_antialiased():
    # A fine checkerboard is even gray once reduced; sampled without a filter it stays black and white.
    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    prepared = Preparation(size=32, crop=None, channels=1).apply(board.astype(np.uint8))
    assert np.abs(prepared.astype(int) - 127).max() <= 4


def test_of_its_own_size_an_image_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Preparation(size=48, crop=None).apply(image), image)


def test_sixteen_bits_are_scaled_not_clipped():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    preparation = Preparation(size=32)
    np.testing.assert_array_equal(preparation.apply(image.astype("uint16") * 257), preparation.apply(image))
    levels = np.array([[0, 128, 129, 65535]], np.uint16).repeat(4, axis=0).repeat(2, axis=0).repeat(2, axis=1)
    prepared = Preparation(size=8, crop=None, channels=1).apply(levels)
    assert prepared[0, ::2, 0].tolist() == [0, 0, 1, 255] == np.round(levels[0, ::2] / 257).tolist()


def test_gray_color_and_alpha():
    gray = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    color = Preparation(size=32, crop=None)
    for shape in (gray, gray[..., None], np.dstack([gray] * 3), np.dstack([gray, np.full_like(gray, 255)])):
        np.testing.assert_array_equal(color.apply(shape), np.dstack([gray] * 3))
    one = Preparation(size=32, crop=None, channels=1)
    np.testing.assert_array_equal(one.apply(np.dstack([gray] * 3))[..., 0], gray)
    alpha = np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)
    over_black = np.round(gray * (alpha / 255))[..., None].repeat(3, axis=-1)
    np.testing.assert_array_equal(color.apply(np.dstack([gray] * 3 + [alpha])), over_black)


def test_prediction_uses_the_preparation_of_training(tmp_path):
    for index, image in enumerate(synthetic_fundus(3, size=90)[0]):
        Image.fromarray(np.pad(image, ((4, 9), (30, 20), (0, 0)))).save(tmp_path / f"{index}.jpg")
    paths = sorted(tmp_path.glob("*.jpg"))
    trained = Preparation(size=48)
    images, _ = load_images(paths, trained, tmp_path / "cache", verbose=0)
    trained.save(tmp_path / "preparation.json")
    later = Preparation.load(tmp_path / "preparation.json")
    assert later == trained
    for image, path in zip(images, paths, strict=True):
        np.testing.assert_array_equal(later.apply(read_image(path)), image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), "float32"), "uint8 or uint16.* Received dtype float32. Scale floats"),
        (np.full((8, 8, 3), np.nan), "Received dtype float64"),
        (np.zeros((8, 8, 3), bool), "Received dtype bool"),
        (np.zeros((8, 8, 3), "int16"), "Received dtype int16"),
        (np.zeros((2, 8, 8, 3), "uint8"), r"Received shape \(2, 8, 8, 3\)"),
        (np.zeros((8, 8, 5), "uint8"), r"Received shape \(8, 8, 5\)"),
        (np.zeros((0, 8, 3), "uint8"), r"Received shape \(0, 8, 3\)"),
    ],
)
def test_other_images_raise(image, message):
    with pytest.raises(ValueError, match=message):
        Preparation(size=16).apply(image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 4}, "`size` must be a whole number of at least 8. Received 4"),
        ({"size": 64.0}, "`size` .* Received 64.0"),
        ({"crop": "square"}, "`crop` must be .circle. or None. Received 'square'"),
        ({"channels": 4}, "`channels` must be 1 or 3. Received 4"),
    ],
)
def test_bad_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        Preparation(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keras_ssl_preparation": 3}, "version 2 or older. Received 3: written by a newer"),
        ({"flip": True}, "must have the fields .*'channels', 'crop', 'size'.* Received .*'flip'"),
        ({"size": None}, "`size` must be a whole number"),
        ({"keras_ssl_preparation": None}, "JSON object with 'keras_ssl_preparation'"),
    ],
)
def test_json_of_another_kind_raises(change, message):
    fields = json.loads(Preparation().to_json()) | change
    with pytest.raises(ValueError, match=message):
        Preparation.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"size": 224}'])
def test_json_of_other_fields_raises(text):
    with pytest.raises(ValueError, match="`text` must be"):
        Preparation.from_json(text)


# Discs ----------------------------------------------------------------------------------------------------

Y, X = np.mgrid[:240, :320] - np.array([120, 160])[:, None, None]
TEXTURE = np.random.default_rng(2).integers(90, 200, Y.shape)
SHAPES = {
    "an X-ray in its collimator": (np.abs(Y) < 90) & (np.abs(X) < 120),
    "a square": (np.abs(Y) < 90) & (np.abs(X) < 90),
    "a brain": (Y / 1.2) ** 2 + X**2 < 85**2,
    "a hand": ((np.abs(Y) < 40) & (np.abs(X) < 100)) | ((np.abs(X) % 40 < 18) & (Y > 0) & (Y < 100)),
    "one dark corner": X + Y > -180,
    "a dark half": X < 40,
    "tissue": np.hypot(Y, X) < 80 + 25 * np.sin(5 * np.arctan2(Y, X)),
    "a disc with much around it": (np.hypot(Y, X) < 80) | (X > 100),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_images_without_a_disc_are_left_whole(shape):
    image = np.where(SHAPES[shape], TEXTURE, 3).astype("uint8")[..., None].repeat(3, axis=-1)
    assert find_fundus(image) == (slice(0, 240), slice(0, 320))
    np.testing.assert_array_equal(Preparation(32).apply(image), Preparation(32, crop=None).apply(image))


@pytest.mark.parametrize(
    "cut", ["whole", "above and below", "padded since", "on one side", "shadow", "notch"]
)
def test_a_disc_is_found_however_it_is_cut(cut):
    inside = np.hypot(Y, X) < (140 if cut in ("above and below", "padded since") else 100)
    inside &= {
        "padded since": np.abs(Y) < 90,
        "on one side": X < 60,
        "shadow": (X < 60) | (np.abs(Y) < 50),
        "notch": ~((np.abs(Y) < 8) & (X > 92)),
    }.get(cut, np.True_)
    rows, columns = find_fundus(np.where(inside, TEXTURE, 3).astype("uint8")[..., None])
    y, x = np.nonzero(inside)
    np.testing.assert_allclose(
        [rows.start, rows.stop, columns.start, columns.stop],
        [y.min(), y.max() + 1, x.min(), x.max() + 1],
        atol=12,
    )
    assert (rows, columns) != (slice(0, 240), slice(0, 320))


def test_all_real_fundus_photographs_are_found(real_data):
    for path in sorted((real_data / "idrid" / "images_224").glob("*.jpg"))[::10]:
        image = read_image(path)
        assert not prepare_image(Preparation(16), image)[1], path

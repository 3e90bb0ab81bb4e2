"""Augmentation: drawn, then applied; the same eager and traced; masks follow."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl import FineTuner, OrdinalHead
from keras_ssl.preprocessing import Augmentation, Color, Cutout, Elastic, Geometry, Intensity
from keras_ssl.preprocessing.color import (
    adjust_colors,
    adjust_gamma,
    adjust_stains,
    gaussian_blur,
    solarize,
)
from keras_ssl.preprocessing.resampling import zoom_crop

RNG = np.random.default_rng(0)
COLORS = Color(hue=40.0, saturation=0.5, grayscale=0.3, stain=0.2, solarize=0.4, probability=0.7)
SHAPES = [(4, 12, 12, 3), (4, 8, 8, 8, 1)]
AFFINE = Geometry(rotation=20.0, scale=(0.8, 1.2), shift=0.1)
ELASTIC = Elastic(displacement=0.2)
ALL = Augmentation(
    geometry=dataclasses.replace(AFFINE, flip_axes=(0, 1), right_angles=True),
    elastic=ELASTIC,
    intensity=Intensity(blur=0.7, contrast=0.3, brightness=0.2, gamma=(0.7, 1.5), noise=0.1),
    cutout=Cutout(size=0.5),
)


def uniform(shape):
    return RNG.uniform(size=shape).astype("float32")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_results_depend_on_the_seed_and_images_differ(shape):
    images, augment = np.tile(uniform((1, *shape[1:])), (4, *[1] * (len(shape) - 1))), ALL
    first = augment(images, rng())
    np.testing.assert_array_equal(first, augment(images, rng()))
    assert first.shape == shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert first.flags.writeable
    assert len({one.tobytes() for one in (*first, *augment(images, rng(1)))}) == 8


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_equals_zoom_crop(shape):
    images, augment = uniform(shape), Augmentation(geometry=Geometry(crop=(0.4, 0.8)), fill="edge")
    drawn = augment.draw(shape, rng())
    fractions = 1 / drawn["scales"]
    assert ((fractions >= 0.4 - 1e-6) & (fractions <= 0.8 + 1e-6)).all()
    # From -1, at the start of the axis, to 1: seen from the result a part at the start has moved to the end.
    offsets = -drawn["shifts"] / ((1 / fractions - 1)[:, None] * shape[1] / 2)
    assert (np.abs(offsets) <= 1 + 1e-5).all()
    expected = ops.convert_to_numpy(zoom_crop(images, fractions, offsets))
    np.testing.assert_allclose(augment.apply(images, drawn), expected, atol=1e-4)


def test_crop_adds_to_scale_and_shift_and_output_shape_resizes():
    images = uniform((3, 12, 8, 3))
    affine = Geometry(scale=(0.9, 1.1), shift=0.1)
    both = Augmentation(geometry=dataclasses.replace(affine, crop=(0.5, 1.0))).draw(images.shape, rng())
    alone = Augmentation(geometry=affine).draw(images.shape, rng())
    assert (both["scales"] > alone["scales"]).all()
    assert (both["shifts"] != alone["shifts"]).all()
    half = Augmentation(output_shape=(24, 4), fill="edge")
    expected = keras.ops.image.resize(images, (24, 4), data_format="channels_last")
    np.testing.assert_allclose(half(images, rng()), ops.convert_to_numpy(expected), atol=1e-5)
    masks = RNG.integers(0, 3, (3, 12, 8)).astype("uint8")
    geometry = dataclasses.replace(ALL.geometry, right_angles=False)
    resized = dataclasses.replace(ALL, geometry=geometry, output_shape=(6, 6))
    changed, followed = resized(images, rng(), masks)
    assert changed.shape == (3, 6, 6, 3)
    assert followed.shape == (3, 6, 6)
    assert set(np.unique(followed)) <= {0, 1, 2}
    channels = Augmentation(output_shape=(6, 6))(images, rng(), masks[..., None])[1]
    assert channels.shape == (3, 6, 6, 1)
    with pytest.raises(ValueError, match=r"`output_shape` must be 2 sizes of at least 1"):
        Augmentation(output_shape=(4, 4, 4))(images, rng())


def test_aspect_is_the_ratio_of_the_sides_of_crops_within_the_image():
    for shape in ((500, 10, 20, 1), (500, 6, 8, 10, 1)):
        rank = len(shape) - 2
        geometry = Geometry(crop=(0.5, 0.9), aspect=(0.5, 3.0))
        drawn = Augmentation(geometry=geometry).draw(shape, rng())
        sides = 1 / drawn["scales"]
        assert sides.shape == (500, rank)
        assert sides.max() == pytest.approx(1.0)
        ratios = sides[:, 1:] / sides[:, :1]
        assert 0.5 <= ratios.min() < 0.52
        assert 2.9 < ratios.max() <= 3.001
        # Half of the ratios are below the geometric mean of the bounds.
        assert np.median(ratios) == pytest.approx(1.5**0.5, rel=0.15)
        sizes = np.prod(sides, axis=1) ** (1 / rank)
        assert sizes.max() < 0.901
        fits = sides.max(axis=1) < 1
        assert 0.3 < fits.mean() < 1
        assert sizes[fits].min() > 0.499
        # Seen from the result, no crop reaches beyond the border.
        room = (1 / sides - 1) * np.array(shape[1:-1]) / 2
        assert (np.abs(drawn["shifts"]) <= room + 1e-4).all()


def test_aspect_adds_to_scale_and_output_shape():
    images = uniform((3, 12, 8, 3))
    geometry = Geometry(scale=(0.9, 1.1), crop=(0.5, 0.8), aspect=(0.8, 1.25))
    assert Augmentation(geometry=geometry, output_shape=(6, 10))(images, rng()).shape == (3, 6, 10, 3)
    only = Augmentation(geometry=Geometry(aspect=(2.0, 2.0))).draw(images.shape, rng())
    np.testing.assert_allclose(only["scales"], [[2.0, 1.0]] * 3, rtol=1e-6)


def test_crops_without_aspect_are_drawn_as_ever():
    drawn = Augmentation(geometry=Geometry(crop=(0.4, 0.8))).draw((2, 10, 10, 1), rng())
    generator = rng()
    fractions = generator.uniform(0.4, 0.8, 2).astype("float32")
    np.testing.assert_array_equal(drawn["scales"], 1 / fractions)
    offsets = generator.uniform(-1.0, 1.0, (2, 2)).astype("float32")
    expected = offsets * ((1 - fractions) / fractions * 5)[:, None]
    np.testing.assert_allclose(drawn["shifts"], expected, rtol=1e-6)


def test_colors_equal_the_functions_of_their_name():
    images = 255 * uniform((6, 5, 5, 3))
    augment = Augmentation(color=COLORS)
    drawn = augment.draw(images.shape, rng())
    expected = adjust_stains(images, drawn["stain_factors"], drawn["stain_offsets"])
    expected = adjust_colors(expected, drawn["hues"], drawn["saturations"])
    expected = ops.convert_to_numpy(solarize(expected, drawn["solarized"]))
    np.testing.assert_allclose(augment(images, rng()), expected, rtol=1e-4, atol=1e-2)


def test_draws_of_other_transforms_do_not_depend_on_colors():
    for generator in (rng, keras.random.SeedGenerator):
        plain = ALL.draw((2, 6, 6, 3), generator(0))
        again = dataclasses.replace(ALL, color=Color()).draw((2, 6, 6, 3), generator(0))
        assert plain.keys() == again.keys()
        assert not {"hues", "stain_factors", "solarized"} & plain.keys()


def test_grayscale_makes_images_gray():
    images = uniform((400, 3, 3, 3))
    changed = Augmentation(color=Color(grayscale=0.25))(images, rng())
    gray = np.ptp(changed, axis=-1).max(axis=(1, 2)) < 1e-5
    assert 60 < gray.sum() < 140
    np.testing.assert_allclose(changed[~gray], images[~gray], atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 6, 6, 6, 1), (2, 8, 8, 4)])
@pytest.mark.parametrize("changed", ["hue", "saturation", "grayscale", "stain", "solarize"])
def test_colors_of_images_without_three_channels_raise(shape, changed):
    augment = Augmentation(color=Color(**{changed: 0.5}))
    with pytest.raises(ValueError, match=r"`images` must have three channels.*`color`. Received shape"):
        augment(np.zeros(shape, "float32"), rng())


def test_call_equals_draw_then_apply():
    images, augment = uniform(SHAPES[1]), ALL
    masks = (images[..., 0] > 0.5).astype("uint8")
    parameters = augment.draw(images.shape, rng())
    assert all(isinstance(value, np.ndarray) and len(value) == 4 for value in parameters.values())
    for called, applied in zip(
        augment(images, rng(), masks), augment.apply(images, parameters, masks), strict=True
    ):
        np.testing.assert_array_equal(called, applied)


@pytest.mark.compiled
@pytest.mark.parametrize("shape", SHAPES)
def test_traced_equals_eager(shape):
    images, augment = uniform(shape), ALL
    if shape[-1] == 3:
        geometry = dataclasses.replace(ALL.geometry, crop=(0.6, 1.0), aspect=(0.8, 1.25))
        augment = dataclasses.replace(ALL, geometry=geometry, color=COLORS)
    parameters = augment.draw(shape, rng())
    masks = (images[..., 0] > 0.5).astype("uint8")
    eager = augment.apply(images, parameters, masks)
    traced = _traced(augment.apply)(*map(_tensors, (images, parameters, masks)))
    for one, other in zip(traced, eager, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, atol=1e-5)


def test_tensors_inside_a_model():
    class Augmented(keras.Model):
        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, images):
            return ALL(images, self.seeds)

    model, images = Augmented(), uniform(SHAPES[0])
    model.compile(jit_compile=False)
    # The last batch is smaller.
    first, second = (model.predict(images, batch_size=3, verbose=0) for _ in range(2))
    assert first.shape == images.shape
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    "augment",
    [ALL, Augmentation(geometry=Geometry(crop=(0.5, 1.0), aspect=(0.5, 2.0)), color=COLORS)],
    ids=["all", "colors"],
)
def test_keras_and_numpy_generators_have_the_same_distribution(augment):
    shape = (300, 8, 8, 1 if augment is ALL else 3)
    drawn = augment.draw(shape, keras.random.SeedGenerator(0))
    reference = augment.draw(shape, rng())
    assert drawn.keys() == reference.keys()
    for name, values in drawn.items():
        values = ops.convert_to_numpy(values).astype("float32")
        assert values.shape == reference[name].shape
        spread = reference[name].std() + 1e-6
        assert abs(values.mean() - reference[name].mean()) < 0.25 * spread, name
        assert abs(values.std() - reference[name].std()) < 0.25 * spread, name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", ["edge", 0.0])
def test_masks_follow_images_without_new_labels(shape, fill):
    sizes = shape[1:-1]
    # Large enough for a middle: a ball, as an image of 0 and 1 and as a mask of 3 and 7.
    distance = sum((index - size / 2.2) ** 2 for index, size in zip(np.indices(sizes), sizes, strict=True))
    ball = np.tile(distance < (min(sizes) / 3) ** 2, (4, *[1] * len(sizes)))
    geometry = dataclasses.replace(AFFINE, flip_axes=(0,), right_angles=True)
    augment = Augmentation(geometry=geometry, elastic=ELASTIC, fill=fill)
    images, masks = augment(ball[..., None].astype("float32"), rng(), np.where(ball, 7, 3).astype("int16"))
    assert masks.dtype == np.int16
    assert masks.shape == ball.shape
    assert set(np.unique(masks)) <= ({3, 7} if fill == "edge" else {0, 3, 7})
    away_from_edges = np.abs(images[..., 0] - 0.5) > 0.49
    assert away_from_edges.mean() > 0.3
    np.testing.assert_array_equal((masks == 7)[away_from_edges], (images[..., 0] > 0.5)[away_from_edges])


def test_masks_with_a_channel_axis():
    images, augment = uniform(SHAPES[0]), Augmentation(geometry=AFFINE, elastic=ELASTIC)
    masks = RNG.integers(0, 5, SHAPES[0][:-1]).astype("uint8")
    _, flat = augment(images, rng(), masks)
    _, deep = augment(images, rng(), np.stack([masks, masks], axis=-1))
    np.testing.assert_array_equal(deep[..., 0], flat)
    np.testing.assert_array_equal(deep[..., 1], flat)


def test_intensities_do_not_change_masks():
    masks = RNG.integers(0, 5, SHAPES[1][:-1])
    augment = Augmentation(intensity=Intensity(blur=0.5, contrast=0.5, noise=0.5), cutout=Cutout(size=0.5))
    _, kept = augment(uniform(SHAPES[1]), rng(), masks)
    assert kept.dtype == masks.dtype
    np.testing.assert_array_equal(kept, masks)


def test_flips_and_right_angles_do_not_interpolate():
    images = uniform((8, 5, 5, 5, 1))
    moved = Augmentation(geometry=Geometry(flip_axes=(0, 1, 2), right_angles=True))(images, rng())
    np.testing.assert_array_equal(np.sort(moved.reshape(8, -1)), np.sort(images.reshape(8, -1)))
    flips = Augmentation(geometry=Geometry(flip_axes=(1,))).draw((1000, 4, 4, 1), rng())["flips"]
    assert not flips[:, 0].any()
    assert 400 < flips[:, 1].sum() < 600


def test_rotation_in_one_plane():
    images = np.zeros((4, 3, 6, 6, 1), "float32") + np.arange(3).reshape(3, 1, 1, 1)
    augment = Augmentation(geometry=Geometry(right_angles=True, rotation=30.0, planes=((1, 2),)), fill="edge")
    np.testing.assert_allclose(augment(images, rng()), images, atol=1e-5)


def test_blur_and_gamma_equal_the_functions_of_their_name():
    images = uniform((2, 8, 8, 1))
    blur, gamma = (
        Augmentation(intensity=Intensity(blur=0.9)),
        Augmentation(intensity=Intensity(gamma=(0.5, 2.0))),
    )
    sigmas, gammas = blur.draw(images.shape, rng())["sigmas"], gamma.draw(images.shape, rng())["gammas"]
    expected = ops.convert_to_numpy(gaussian_blur(images, sigmas, 3))
    np.testing.assert_allclose(blur(images, rng()), expected, atol=1e-6)
    expected = ops.convert_to_numpy(adjust_gamma(images, gammas))
    np.testing.assert_allclose(gamma(images, rng()), expected, atol=1e-6)


def test_probabilities():
    def with_probabilities(geometry, elastic, intensity, cutout):
        return Augmentation(
            geometry=dataclasses.replace(AFFINE, probability=geometry),
            elastic=dataclasses.replace(ELASTIC, probability=elastic),
            intensity=dataclasses.replace(ALL.intensity, probability=intensity),
            cutout=Cutout(size=0.5, probability=cutout),
        )

    images = uniform((4, 8, 8, 1))
    np.testing.assert_allclose(with_probabilities(0, 0, 0, 0)(images, rng()), images, atol=1e-5)
    half = with_probabilities(0.5, 0, 0.25, 0)
    drawn = half.draw((1000, 4, 4, 1), rng())
    assert 400 < (drawn["scales"] != 1).sum() < 600
    np.testing.assert_array_equal(drawn["scales"] != 1, (drawn["angles"] != 0).all(axis=1))
    for name in ("contrast", "gammas"):
        assert 180 < (drawn[name] != 1).sum() < 320


def test_ranges_of_parameters():
    drawn = ALL.draw((500, 10, 10, 1), rng())
    for name, low, high in (
        ("turns", 0, 3),
        ("angles", -20, 20),
        ("scales", 0.8, 1.2),
        ("shifts", -1, 1),
        ("displacement", -0.5, 0.5),
        ("sigmas", 0, 0.7),
        ("contrast", 0.7, 1.3),
        ("offset", -0.2, 0.2),
        ("gammas", 0.7, 1.5),
        ("amounts", 0, 0.1),
        ("sizes", 0, 0.5),
    ):
        values = drawn[name]
        assert low <= values.min() < low + 0.05 * (high - low), name
        assert high - 0.05 * (high - low) < values.max() <= high, name


def test_ranges_of_colors():
    drawn = Augmentation(color=dataclasses.replace(COLORS, grayscale=0.0)).draw((1000, 4, 4, 3), rng())
    for name, low, high, kept in (
        ("hues", -40, 40, 0),
        ("saturations", 0.5, 1.5, 1),
        ("stain_factors", 0.8, 1.2, 1),
        ("stain_offsets", -0.05, 0.05, 0),
    ):
        values = drawn[name]
        assert low <= values.min() < low + 0.05 * (high - low), name
        assert high - 0.05 * (high - low) < values.max() <= high, name
        assert 0.25 < (values.reshape(1000, -1)[:, 0] == kept).mean() < 0.35, name
    assert 0.35 < drawn["solarized"].mean() < 0.45


def test_default_changes_nothing():
    images = uniform(SHAPES[0])
    assert Augmentation().draw(images.shape, rng()) == {}
    np.testing.assert_array_equal(Augmentation()(images, rng()), images)


@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_constant_images_stay_finite(value):
    images = np.full(SHAPES[1], value, "float32")
    np.testing.assert_allclose(ALL(images, rng()), images, atol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", "float32"), ("float64", "float64"), ("float16", "float16")]
)
def test_dtypes(dtype, expected):
    augment = Augmentation(geometry=Geometry(rotation=10.0), intensity=Intensity(gamma=(0.8, 1.2)))
    changed = augment((255 * uniform(SHAPES[0])).astype(dtype), rng())
    assert changed.dtype == expected
    assert 0 <= changed.min() < changed.max() <= 255


def test_range_of_values_does_not_matter():
    images, augment = uniform(SHAPES[1]), ALL
    scaled = augment(images * 1000 - 500, rng())
    np.testing.assert_allclose((scaled + 500) / 1000, augment(images, rng()), atol=1e-4)


@pytest.mark.parametrize("shape", [(50, 4, 5, 3), (50, 3, 4, 5, 1)])
def test_one_flip_axis_equals_numpy_flip(shape):
    images, axis = RNG.uniform(size=shape).astype("float32"), len(shape) - 3
    flipped, masks = Augmentation(geometry=Geometry(flip_axes=(axis,)))(images, rng(1), images[..., 0])
    chosen = rng(1).random(len(images)) < 0.5
    assert 10 < chosen.sum() < 40
    expected = np.where(chosen.reshape(-1, *[1] * (images.ndim - 1)), np.flip(images, axis + 1), images)
    np.testing.assert_array_equal(flipped, expected)
    np.testing.assert_array_equal(masks, expected[..., 0])


@pytest.mark.parametrize("preset", ["fundus", "xray", "mr_volume", "ct_volume"])
def test_presets_work_and_are_saved(preset):
    augment = getattr(Augmentation, preset)()
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(augment)))
    assert keras.saving.deserialize_keras_object(saved) == augment
    shape = SHAPES[1] if preset.endswith("volume") else SHAPES[0]
    assert augment(uniform(shape), rng()).shape == shape


def test_fundus_changes_geometry_only():
    drawn = Augmentation.fundus().draw((2, 8, 8, 3), rng())
    assert drawn.keys() == {"flips", "angles", "scales", "shifts"}


def test_fine_tuner_takes_it():
    encoder = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    tuner = FineTuner(encoder, OrdinalHead(2), seed=0)
    augment = Augmentation(geometry=Geometry(rotation=10.0), intensity=Intensity(noise=0.1))
    history = tuner.fit(uniform((4, 8, 8, 1)), np.array([0, 1, 0, 1]), epochs=1, augment=augment, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(
    ("make", "field", "value", "message"),
    [
        (Geometry, "flip_axes", [0], r"`flip_axes` must be a tuple. Received \[0\]"),
        (Geometry, "rotation", -1.0, "`rotation` must be at least 0 and at most 180.0. Received -1.0"),
        (Geometry, "scale", (1.2, 0.8), r"`scale` must be two increasing .* Received \(1.2, 0.8\)"),
        (Geometry, "crop", (0.5, 1.2), "`crop` must be two increasing numbers above 0 and at most 1.0"),
        (Geometry, "aspect", (0.0, 1.0), "`aspect` must be two increasing numbers above 0"),
        (Color, "hue", 200.0, "`hue` must be at least 0 and at most 180.0. Received 200.0"),
        (Color, "grayscale", 1.5, "`grayscale` must be at least 0 and at most 1.0. Received 1.5"),
        (Augmentation, "color", 0.2, "`color` must be an instance of Color. Received 0.2"),
        (Elastic, "displacement", 0.5, "`displacement` must be at least 0 and at most 0.4. Received 0.5"),
        (Elastic, "grid_size", 0, "`grid_size` must be an integer of at least 1. Received 0"),
        (Intensity, "noise", float("inf"), "`noise` must be at least 0 and a finite number. Received inf"),
        (Intensity, "contrast", 1.0, "`contrast` must be at least 0 and below 1. Received 1.0"),
        (Intensity, "gamma", (0.0, 1.0), "`gamma` must be two increasing numbers above 0"),
        (Intensity, "gamma", (1.0,), "`gamma` must be two increasing numbers above 0"),
        (Cutout, "probability", 2.0, "`probability` must be at least 0 and at most 1.0"),
        (Augmentation, "fill", "mirror", '`fill` must be "edge", "minimum" or a finite number'),
        (Augmentation, "elastic", 0.2, "`elastic` must be an instance of Elastic. Received 0.2"),
    ],
)
def test_invalid_values_raise(make, field, value, message):
    with pytest.raises(ValueError, match=message):
        make(**{field: value})


@pytest.mark.parametrize(
    ("geometry", "shape", "message"),
    [
        ({}, (2, 8, 1), r"`images` must have two or three spatial axes .*\(2, 8, 1\)"),
        (
            {"flip_axes": (2,)},
            (2, 8, 8, 1),
            r"`flip_axes` must be different axes within \(0, 1\)",
        ),
        ({"rotation": 5.0, "planes": ((1, 2),)}, (2, 8, 8, 1), r"`planes` must be among \(\(0, 1\),\)"),
        ({"right_angles": True}, (2, 8, 8, 6, 1), "`images` must have equal sides in the planes"),
    ],
)
def test_invalid_images_raise(geometry, shape, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(geometry=Geometry(**geometry))(np.zeros(shape), rng())


def test_invalid_masks_and_generators_raise():
    images, augment = np.zeros((2, 8, 8, 1), "float32"), Augmentation.fundus()
    with pytest.raises(ValueError, match=r"`masks` must have the spatial shape.*Received shape \(2, 8, 7\)"):
        augment(images, rng(), np.zeros((2, 8, 7), "uint8"))
    with pytest.raises(
        ValueError, match=r"`generator` must be a keras.random.SeedGenerator where images are tensors"
    ):
        augment(ops.convert_to_tensor(images), rng())
    with pytest.raises(ValueError, match=r"`generator` must be a numpy.random.Generator or a keras.random"):
        augment(images, 0)


def _tensors(values):
    return keras.tree.map_structure(ops.convert_to_tensor, values)


def _traced(function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # With any batch size, as in a model.
        return tf.function(function, autograph=False, reduce_retracing=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function

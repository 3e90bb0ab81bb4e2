"""Data sets: MedMNIST files, synthetic fundus images, synthetic MR volumes of the hippocampus."""

import contextlib
import dataclasses
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_ssl.data.files import check_decompressed_size


class LabeledImages(NamedTuple):
    """Images, shape `(n, *spatial, channels)`, and their grades or other classes."""

    images: np.ndarray
    grades: np.ndarray


def load_medmnist(path: str | Path, splits: Sequence[str] = ("train",)) -> LabeledImages:
    """Read images and labels of one or more splits of a MedMNIST file.

    The files do not identify patients, although some sets, such as RetinaMNIST, hold several images of one
    patient: their splits cannot keep patients together.

    Args:
        path: the `.npz` file.
        splits: one or more of `"train"`, `"val"` and `"test"`, read in this order.

    Returns:
        `images`, uint8, `(n, *spatial, channels)`, with a channel axis added to grayscale ones, and `grades`,
        the labels, int64, `(n,)`, or `(n, tasks)` where an image has several.

    Raises:
        FileNotFoundError: there is no such file.
        MemoryError: the arrays do not fit into memory. The message names the file.
        ValueError: the file is damaged, declares more data than its bytes can hold (see
            `keras_ssl.data.files.MAX_DECOMPRESSED_SIZE`), lacks a split, or its images and labels do not
            match.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(folder + "/a.npz", val_images=np.zeros((4, 28, 28), "uint8"), val_labels=np.ones((4, 1)))
    ...     images, labels = load_medmnist(folder + "/a.npz", ["val"])
    >>> images.shape, labels.shape
    ((4, 28, 28, 1), (4,))

    References:
        Yang, J. et al. (2023). MedMNIST v2. Scientific Data 10:41.
    """
    if isinstance(splits, str) or not splits:
        raise ValueError(f"`splits` must be a list of one or more names. Received {splits!r}.")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must name a file that exists. Received {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`path` must be a whole .npz file; {path} is truncated or something else.")
    with _damage_named(path):
        file = zipfile.ZipFile(path)
    with file:
        parts = [_read_split(file, name, path) for name in splits]
    with _damage_named(path):
        images, labels = zip(*parts, strict=True)
        return LabeledImages(np.concatenate(images), np.concatenate(labels))


def _read_split(file: zipfile.ZipFile, name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    keys = [f"{name}_images", f"{name}_labels"]
    held = [member.removesuffix(".npy") for member in sorted(file.namelist())]
    missing = [key for key in keys if key not in held]
    if missing:
        raise ValueError(f"`splits` must be in {path}, which holds {held[:20]}. Lacking: {missing}.")
    images, labels = (_read_array(file, key, path) for key in keys)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{keys[0]} must be uint8 of 3 or 4 axes. Received {images.dtype}, shape {images.shape}."
        )
    if labels.dtype.kind not in "buif":
        raise ValueError(f"{keys[1]} of {path} must be numbers. Received dtype {labels.dtype}.")
    count = len(labels) if labels.size and labels.ndim else 0
    if count != len(images) or not count:
        raise ValueError(f"{path} must have a label per image. Received {len(images)} and {count}.")
    # Four axes are a volume's, unless the last is that of the three colors.
    if images.shape[-1] != 3 or images.ndim == 3:
        images = images[..., None]
    labels = labels.astype(np.int64).reshape(len(images), -1)
    return images, labels[:, 0] if labels.shape[1] == 1 else labels


def _read_array(file: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """Read an array of the archive, after the sizes in both headers have been checked."""
    with _damage_named(path):
        entry = file.getinfo(f"{name}.npy")
        # Against the size of the file, which is known, and that of the member.
        check_decompressed_size(entry.file_size, path.stat().st_size, compressed=True)
        check_decompressed_size(
            entry.file_size, entry.compress_size, compressed=entry.compress_type != zipfile.ZIP_STORED
        )
        with file.open(entry) as member:
            first = np.lib.format.read_magic(member) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
        check_decompressed_size(math.prod(shape) * dtype.itemsize, entry.file_size, compressed=False)
        with file.open(entry) as member:
            return np.lib.format.read_array(member, allow_pickle=False)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Convert errors in reading an archive into a `ValueError` that names it."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path} does not fit into memory.") from error
    # Damaged bytes may raise anything in zipfile and NumPy: BadZipFile, zlib.error, RuntimeError ...
    except Exception as error:
        raise ValueError(f"`path` must be a whole .npz file; {path} is damaged: {error}") from error


# Roughly the distribution in screening programs: almost half grade 0, few of grade 4.
_GRADE_FRACTIONS = (0.45, 0.12, 0.20, 0.17, 0.06)

# Hues of real photographs: orange, red-brown, olive brown, pink. Each image mixes them.
_TISSUE = np.array([(0.84, 0.43, 0.10), (0.62, 0.23, 0.11), (0.58, 0.38, 0.18), (0.86, 0.52, 0.42)])

# Fractions of red, green and blue that blood absorbs: dark in green, hardly visible in red.
_BLOOD = np.array([0.30, 0.68, 0.60])
_EXUDATE = np.array([1.0, 0.88, 0.42])
_COTTON = np.array([0.96, 0.88, 0.74])
_DISC_COLOR = np.array([1.0, 0.80, 0.40])

# In field radii, image axes (x right, y down), right eye. The fovea lies below the level of the disc, which
# distinguishes an upright image of one eye from an image of the other eye rotated by 180 degrees.
_FOVEA = np.array([-0.02, 0.09])
_DISC = np.array([0.62, -0.04])
_DISC_RADIUS = 0.15


@dataclasses.dataclass(frozen=True)
class _Blobs:
    """Soft round spots: centers (k, 2), widths (k,) and weights (k,), in field radii."""

    centers: np.ndarray
    widths: np.ndarray
    weights: np.ndarray

    @staticmethod
    def of(centers: np.ndarray, widths: np.ndarray | float, weights: np.ndarray | float = 1.0) -> "_Blobs":
        centers = np.reshape(centers, (-1, 2))
        return _Blobs(centers, np.broadcast_to(widths, len(centers)), np.broadcast_to(weights, len(centers)))

    @staticmethod
    def join(parts: "list[_Blobs]") -> "_Blobs":
        parts = [_Blobs.of(np.empty((0, 2)), 0.0), *parts]
        return _Blobs(
            np.concatenate([part.centers for part in parts]),
            np.concatenate([part.widths for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )


@dataclasses.dataclass(frozen=True)
class _Lesions:
    """Lesions of an eye, by color."""

    blood: _Blobs
    exudates: _Blobs
    cotton: _Blobs
    new_vessels: _Blobs


@dataclasses.dataclass(frozen=True)
class _Camera:
    """Projection of anatomy, in field radii, onto pixels, and its blur."""

    size: int
    radius: float
    center: np.ndarray
    turn: np.ndarray
    shift: np.ndarray
    blur: float

    def draw(self, blobs: _Blobs) -> np.ndarray:
        """Render the sum of the blobs on the grid, (size, size).

        A Gaussian is a product of a row and a column, so one matrix product renders them all. Blur, and the
        width of a pixel, add to each blob's variance and lower its peak: antialiased at any size.
        """
        pixels = (blobs.centers @ self.turn.T + self.shift) * self.radius + self.center
        variance = (blobs.widths * self.radius) ** 2
        blurred = variance + self.blur**2
        grid = np.arange(self.size) + 0.5
        # Float32 halves the time, most of which the exponentials of vessels take.
        x, y = pixels.T[..., None].astype(np.float32)
        spread = np.sqrt(2 * blurred)[:, None].astype(np.float32)
        peak = (blobs.weights * variance / blurred)[:, None].astype(np.float32)
        columns, rows = (np.exp(-(((grid.astype(np.float32) - at) / spread) ** 2)) for at in (x, y))
        return (peak * rows).T @ columns


def synthetic_fundus(n: int, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Generate synthetic fundus images with grades of diabetic retinopathy, for trials and tests.

    Each shows an orange disc on a black frame, upright, of a right or a left eye: optic disc, macula, vessel
    arcades, uneven illumination, noise. The number and kind of lesions determine the grade: none; few
    microaneurysms; more of them with some hemorrhages or exudates; hemorrhages in all quadrants with cotton
    wool spots; new vessels, preretinal bleeding or laser scars. Lesions are several times larger than real
    ones, so that they are visible at 48 pixels; drusen and specks, which are unrelated to the grade, occur in
    all grades. Results on these images have no clinical meaning.

    Image `i` depends only on `seed` and `i`: a larger `n` adds images and changes none. The first five have
    all grades, in an order that depends on `seed`; the others are distributed as in screening, about 45, 12,
    20, 17 and 6 %.

    Args:
        n: number of images, at least 1.
        size: height and width in pixels, at least 16; grades are hard to see below 48.
        seed: non-negative integer.

    Returns:
        Images, uint8, shape `(n, size, size, 3)`, and grades 0..4, int64, shape `(n,)`.

    Raises:
        ValueError: `n`, `size` or `seed` is too small.

    >>> images, grades = synthetic_fundus(5, size=32)
    >>> images.shape, images.dtype.name, sorted(grades.tolist())
    ((5, 32, 32, 3), 'uint8', [0, 1, 2, 3, 4])

    References:
        Wilkinson, C. P. et al. (2003). Proposed international clinical diabetic retinopathy and diabetic
        macular edema disease severity scales. Ophthalmology 110(9).
    """
    from threadpoolctl import threadpool_limits

    for name, value, least in (("n", n, 1), ("size", size, 16), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}. Received {value}.")
    images = np.empty((n, size, size, 3), np.uint8)
    grades = np.empty(n, np.int64)
    first = np.random.default_rng(seed).permutation(len(_GRADE_FRACTIONS))
    # The matrix products are small: threads wait longer than they work (4 ms an image with one, 27 ms with
    # two), and the order of their sums would depend on the number of threads.
    with threadpool_limits(1, "blas"):
        for index in range(n):
            rng = np.random.default_rng((seed, index))
            random_grade = rng.choice(len(_GRADE_FRACTIONS), p=_GRADE_FRACTIONS)
            grades[index] = first[index] if index < len(first) else random_grade
            images[index] = _photograph(int(grades[index]), size, rng)
    return images, grades


def _photograph(grade: int, size: int, rng: np.random.Generator) -> np.ndarray:
    lesions = _draw_lesions(grade, rng)
    vessels = _draw_vessels(rng)
    camera = _draw_camera(size, rng)
    light = _tissue(camera, rng)
    light = light * (1 - _BLOOD * (0.8 * np.tanh(camera.draw(vessels)))[..., None])
    light = _cover(light, camera.draw(lesions.cotton), _COTTON, 0.55)
    light = light * (1 - _BLOOD * (0.85 * np.tanh(1.6 * camera.draw(lesions.blood)))[..., None])
    light = light * (1 - _BLOOD * (0.9 * np.tanh(camera.draw(lesions.new_vessels)))[..., None])
    light = _cover(light, camera.draw(lesions.exudates), _EXUDATE, 0.75)
    return _expose(light, camera, rng)


def _draw_camera(size: int, rng: np.random.Generator) -> _Camera:
    roll = np.deg2rad(rng.normal(0, 4))
    eye = rng.choice((-1.0, 1.0))
    turn = np.array([(np.cos(roll), -np.sin(roll)), (np.sin(roll), np.cos(roll))]) @ np.diag([eye, 1.0])
    return _Camera(
        size=size,
        radius=size / 2 * rng.uniform(0.90, 0.98),
        center=size / 2 + rng.uniform(-0.01, 0.01, 2) * size,
        turn=turn * rng.uniform(0.92, 1.10),
        shift=rng.normal(0, (0.06, 0.04)),
        blur=np.hypot(0.4, rng.gamma(2.0, 0.0028) * size),
    )


def _tissue(camera: _Camera, rng: np.random.Generator) -> np.ndarray:
    """Render the retina without vessels: color, mottle, macula and optic disc."""
    color = rng.dirichlet((1.2, 0.6, 0.6, 0.6)) @ _TISSUE
    mottle = camera.draw(
        _Blobs.of(rng.uniform(-1, 1, (24, 2)), rng.uniform(0.1, 0.3, 24), rng.normal(0, 0.05, 24))
    )
    macula = camera.draw(_Blobs.of(np.stack([_FOVEA, _FOVEA]), np.array([0.08, 0.2]), np.array([0.18, 0.28])))
    light = color * (1 + mottle - rng.uniform(0.7, 1.2) * macula)[..., None]
    light = _cover(light, camera.draw(_Blobs.of(_DISC, 0.28)), color * 1.25, 0.35)
    angles = np.arange(10) * 2 * np.pi / 10
    rim = _DISC + 0.55 * _DISC_RADIUS * np.stack([0.9 * np.cos(angles), np.sin(angles)], -1)
    radius = _DISC_RADIUS * rng.uniform(0.24, 0.30)
    light = _cover(light, 2 * camera.draw(_Blobs.of(np.vstack([rim, _DISC]), radius)), _DISC_COLOR, 0.9)
    return _cover(light, camera.draw(_Blobs.of(_DISC - (0.02, 0.0), 0.05)), np.array([1.0, 0.97, 0.8]), 0.7)


def _expose(light: np.ndarray, camera: _Camera, rng: np.random.Generator) -> np.ndarray:
    """Apply uneven light, the round aperture, gain and noise, and convert to 8 bits."""
    grid = np.arange(camera.size) + 0.5
    y, x = np.meshgrid(*((grid - middle) / camera.radius for middle in camera.center[::-1]), indexing="ij")
    across, down = rng.normal(0, 0.25, 2)
    lamp = 1 - rng.uniform(0.2, 0.5) * ((x - across) ** 2 + (y - down) ** 2)
    distance = np.hypot(x, y)
    haze = rng.uniform(0, 0.25) * np.clip((distance - 0.75) / 0.25, 0, 1) ** 2
    inside = np.clip((1 - distance) * camera.radius + 0.5, 0, 1)
    light = light * np.clip(lamp, 0.05, None)[..., None] * rng.uniform(0.65, 1.1) + haze[..., None] * 0.6
    noise = rng.normal(0, rng.uniform(0.004, 0.02), light.shape)
    return np.round(255 * np.clip((light + noise) * inside[..., None], 0, 1)).astype(np.uint8)


def _cover(light: np.ndarray, amount: np.ndarray, color: np.ndarray, opacity: float) -> np.ndarray:
    alpha = (opacity * np.tanh(amount))[..., None]
    return light * (1 - alpha) + color * alpha


def _draw_vessels(rng: np.random.Generator) -> _Blobs:
    """Draw vessel arcades from the disc around the macula, with their branches."""
    # Offsets from the disc of three Bezier control points: temporal arcade, nasal vessel, macular twig.
    shapes = np.array(
        [
            [(-0.10, 0.62), (-0.85, 0.85), (-1.55, 0.42)],
            [(-0.02, 0.45), (-0.65, 0.72), (-1.25, 0.72)],
            [(0.06, 0.25), (0.25, 0.55), (0.40, 0.95)],
            [(0.15, 0.10), (0.30, 0.30), (0.55, 0.45)],
            [(-0.15, 0.12), (-0.30, 0.20), (-0.48, 0.14)],
        ]
    )
    both = np.concatenate([shapes * (1, -1), shapes])
    ends = both * rng.uniform(0.85, 1.15, (len(both), 1, 1)) + rng.normal(0, 0.05, both.shape)
    trunks = np.concatenate([np.zeros((len(both), 1, 2)), ends], axis=1) + _DISC
    width = np.tile([0.019, 0.016, 0.014, 0.012, 0.007], 2) * rng.uniform(0.8, 1.2, len(both))
    branches, thinner = _branch(trunks, width, 3, rng)
    return _Blobs.join([_stroke(trunks, width, 64, rng), _stroke(branches, thinner, 24, rng)])


def _branch(
    curves: np.ndarray, width: np.ndarray, each: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Branch thinner and shorter curves off others."""
    parents = np.repeat(curves, each, axis=0)
    at = rng.uniform(0.2, 0.85, len(parents))
    start, ahead = _bezier(parents, at), _bezier(parents, at + 0.02)
    side = rng.choice((-1, 1), len(parents)) * rng.uniform(0.35, 0.9, len(parents))
    bearing = np.arctan2(*(ahead - start).T[::-1]) + side
    length = rng.uniform(0.15, 0.5, len(parents))
    steps = [start]
    for _ in range(3):
        bearing = bearing - side * rng.uniform(0.0, 0.5, len(parents))
        steps.append(steps[-1] + (length / 3)[:, None] * np.stack([np.cos(bearing), np.sin(bearing)], -1))
    return np.stack(steps, axis=1), np.repeat(width, each) * rng.uniform(0.45, 0.7, len(parents))


def _bezier(curves: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Evaluate each cubic Bezier curve (k, 4, 2) at `at` (k,)."""
    weights = np.stack([(1 - at) ** 3, 3 * at * (1 - at) ** 2, 3 * at**2 * (1 - at), at**3], axis=-1)
    return (weights[..., None] * curves).sum(axis=-2)


def _stroke(curves: np.ndarray, widths: np.ndarray, points: int, rng: np.random.Generator) -> _Blobs:
    """Render curves as rows of overlapping blobs that taper and add up to a line of height 1."""
    at = np.linspace(0, 1, points)
    path = _bezier(curves[:, None], np.broadcast_to(at, (len(curves), points)))
    waves = rng.uniform(2, 9, (len(curves), 1, 2)) * at[:, None] + rng.uniform(0, 6.3, (len(curves), 1, 2))
    path = path + 0.014 * np.sin(waves) * np.minimum(1, 5 * at)[:, None]
    step = np.linalg.norm(np.gradient(path, axis=1), axis=-1)
    width = widths[:, None] * (1 - 0.55 * at)
    strength = rng.uniform(0.6, 1.1, (len(curves), 1))
    return _Blobs.of(path, width.ravel(), (strength * step / (width * np.sqrt(2 * np.pi))).ravel())


def _draw_lesions(grade: int, rng: np.random.Generator) -> _Lesions:
    severe = grade == 3 or (grade == 4 and rng.random() < 0.5)
    blood, exudates, cotton, new_vessels = [], [_drusen(rng)], [], []
    blood.append(_spots(rng.poisson(0.6), (0.006, 0.010), rng))
    if grade:
        count = int(rng.integers(3, 7) if grade == 1 else rng.integers(6, 16))
        blood.append(_spots(count, (0.013, 0.019), rng))
    if grade >= 2:
        blood.append(_hemorrhages(int(rng.integers(16, 28) if severe else rng.integers(3, 8)), rng))
        if rng.random() < 0.6:
            exudates.append(_exudates(rng))
    if severe:
        cotton.append(_spots(int(rng.integers(2, 6)), (0.035, 0.055), rng))
    if grade == 4:
        signs = rng.random(3) < (0.7, 0.45, 0.4)
        if signs[0] or not signs.any():
            new_vessels.append(_new_vessels(rng))
        if signs[1]:
            blood.append(_preretinal_bleed(rng))
        if signs[2]:
            cotton.append(_laser_scars(rng))
    return _Lesions(*(_Blobs.join(parts) for parts in (blood, exudates, cotton, new_vessels)))


def _places(count: int, rng: np.random.Generator, least: float = 0.12, most: float = 0.82) -> np.ndarray:
    """Draw points evenly over the quadrants around the fovea, none on the optic disc."""
    angle = (rng.integers(4) + np.arange(count) + rng.uniform(0, 1, count)) * np.pi / 2
    distance = np.sqrt(rng.uniform(least**2, most**2, count))
    points = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    from_disc = np.linalg.norm(points - _DISC, axis=-1, keepdims=True)
    return np.where(from_disc < 1.4 * _DISC_RADIUS, points * (-1, 1), points)


def _spots(count: int, widths: tuple[float, float], rng: np.random.Generator) -> _Blobs:
    return _Blobs.of(_places(count, rng), rng.uniform(*widths, count), rng.uniform(0.7, 1.1, count))


def _hemorrhages(count: int, rng: np.random.Generator) -> _Blobs:
    """Draw blots and flames: each a short row of overlapping blobs."""
    centers = _places(count, rng)
    bearing = rng.uniform(0, np.pi, count)
    along = np.stack([np.cos(bearing), np.sin(bearing)], -1) * rng.uniform(0.0, 0.03, (count, 1))
    row = centers[:, None] + along[:, None] * np.array([-1.0, 0.0, 1.0])[:, None]
    return _Blobs.of(row, np.repeat(rng.uniform(0.016, 0.030, count), 3), 0.7)


def _exudates(rng: np.random.Generator) -> _Blobs:
    """Draw a cluster of small bright deposits, mostly near the macula."""
    count = int(rng.integers(6, 16))
    cluster = _places(1, rng, 0.15, 0.45) + rng.normal(0, 0.09, (count, 2))
    return _Blobs.of(cluster, rng.uniform(0.009, 0.016, count), rng.uniform(0.8, 1.4, count))


def _drusen(rng: np.random.Generator) -> _Blobs:
    """Draw pale deposits of age, which occur in all grades."""
    count = int(rng.integers(2, 7)) if rng.random() < 0.25 else 0
    return _Blobs.of(_FOVEA + rng.normal(0, 0.16, (count, 2)), rng.uniform(0.012, 0.02, count), 0.35)


def _new_vessels(rng: np.random.Generator) -> _Blobs:
    """Draw a tangle of fine vessels on the disc or on an arcade."""
    places = np.array([_DISC, (0.1, -0.62), (0.1, 0.62), (-0.45, -0.5), (-0.45, 0.5)])
    count = int(rng.integers(9, 15))
    root = places[rng.integers(len(places))] + rng.normal(0, 0.03, 2)
    curls = root + rng.normal(0, 0.11, (count, 4, 2))
    return _stroke(curls, rng.uniform(0.007, 0.011, count), 24, rng)


def _preretinal_bleed(rng: np.random.Generator) -> _Blobs:
    """Draw preretinal blood, which sinks: flat above and round below."""
    along = np.linspace(-1, 1, 9)
    depth = np.sqrt(np.maximum(0.0, 1 - along**2))
    hull = np.stack([np.tile(along, 4), np.outer(np.linspace(0, 0.8, 4), depth).ravel()], -1)
    return _Blobs.of(_places(1, rng, 0.3, 0.6) + rng.uniform(0.12, 0.2) * hull, 0.035, 0.6)


def _laser_scars(rng: np.random.Generator) -> _Blobs:
    count = int(rng.integers(18, 32))
    return _Blobs.of(_places(count, rng, 0.6, 0.92), rng.uniform(0.02, 0.032, count), 1.2)


# Brightness of tissues in T1: fluid is dark, gray matter gray, white matter bright.
_FLUID, _GRAY, _WHITE = 0.12, 0.50, 0.80


@dataclasses.dataclass(frozen=True)
class _Anatomy:
    """Anatomy that differs between patients, in half sides of the field of view."""

    side: float
    center: np.ndarray
    turn: np.ndarray
    length: float
    width: float
    bend: float
    hook: float
    border: float
    ventricle: float
    folds: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator) -> "_Anatomy":
        return _Anatomy(
            side=float(rng.choice([-1.0, 1.0])),
            center=rng.normal(0.0, 0.05, 3),
            turn=_small_turn(rng.normal(0.0, 0.08, 3)),
            length=rng.uniform(0.66, 0.80),
            width=rng.uniform(0.20, 0.26),
            bend=rng.uniform(0.18, 0.32),
            hook=rng.uniform(0.10, 0.20),
            border=rng.uniform(0.10, 0.30),
            ventricle=rng.uniform(0.05, 0.12),
            folds=rng.uniform(0.0, 2 * np.pi, 2),
        )


def synthetic_volumes(
    n: int, shape: Sequence[int] = (32, 32, 32), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Generate synthetic MR volumes of the hippocampus with label maps, for trials and tests.

    Each shows a left or right hippocampus in RAS+ orientation, as `VolumePreparation` returns it: a curved
    body with a thick, low head in front and a thin, rising tail. Head (1) and body with tail (2) differ more
    in position than in brightness, and other gray matter touches the head, as in real scans. A dark horn of
    the ventricle lies above and lateral, folded cortex and fluid below, so that the orientation is visible.
    Noise, bias field and an intensity scale over three orders of magnitude differ between volumes: prepare
    them as real ones. Results on these volumes have no clinical meaning.

    Volume `i` depends only on `seed` and `i`: a larger `n` adds volumes and changes none.

    Args:
        n: number of volumes, at least 1.
        shape: voxels along x, y, z, each at least 16.
        seed: non-negative integer.

    Returns:
        Images, float32, shape `(n, *shape, 1)`, non-negative, and masks, uint8, shape `(n, *shape)`:
        background 0, head 1, body 2.

    Raises:
        ValueError: `n`, `shape` or `seed` is too small.

    >>> images, masks = synthetic_volumes(2, shape=(24, 24, 24))
    >>> images.shape, masks.shape, np.unique(masks).tolist()
    ((2, 24, 24, 24, 1), (2, 24, 24, 24), [0, 1, 2])
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}. Received {value!r}.")
    if len(shape) != 3 or min(shape) < 16:
        raise ValueError(f"`shape` must be three sides of at least 16. Received {shape!r}.")
    images, masks = np.empty((n, *shape, 1), np.float32), np.empty((n, *shape), np.uint8)
    for index in range(n):
        rng = np.random.default_rng((seed, index))
        brightness, masks[index] = _draw(_Anatomy.draw(rng), shape)
        images[index, ..., 0] = _scan(brightness, rng)
    return images, masks


def _draw(anatomy: _Anatomy, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Render brightness and labels of every voxel, without noise."""
    axes = [(np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1 for side in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")) - anatomy.center[:, None, None, None]
    x, y, z = np.tensordot(anatomy.turn, grid, axes=1).astype(np.float32)
    x = x * anatomy.side
    # Position of a voxel along the body: -1 at the end of the tail, 1 at that of the head.
    t = y / anatomy.length
    # The center line: the tail bends medially and up, the head medially and down.
    middle_x = -0.10 - np.where(t < 0, 0.8 * anatomy.bend, anatomy.hook) * t**2
    middle_z = anatomy.bend * (0.5 * t**2 - 0.9 * t - 0.1)
    taper = np.sqrt(np.clip(1 - t**2, 1e-6, None))
    thickness = anatomy.width * (1 + 0.35 * np.tanh(4 * (t - 0.3))) * taper
    # Signed distance to the surface; negative inside.
    outside = np.hypot((x - middle_x) / 1.25, z - middle_z) - thickness
    inside = (outside < 0) & (np.abs(t) < 1)
    labels = np.where(inside, np.where(t > anatomy.border, 1, 2), 0).astype(np.uint8)
    # Edges are one voxel wide, since a scanner averages over each.
    voxel = 2 / min(shape)
    body = _soft(-outside, voxel) * (np.abs(t) < 1)
    horn = np.hypot((x - middle_x - 0.26) / 2.2, z - middle_z - 0.24)
    horn = _soft(anatomy.ventricle - horn, voxel) * _soft(0.75 - np.abs(t + 0.05), voxel)
    neighbor = np.sqrt((x + 0.2) ** 2 + (y - anatomy.length) ** 2 + (z - 0.15) ** 2)
    fold = 0.08 * np.sin(7 * x + anatomy.folds[0]) + 0.06 * np.sin(6 * y + anatomy.folds[1])
    depth = z + 0.72 + fold + 0.15 * x
    brightness = np.full(shape, _WHITE, np.float32)
    for fraction, tissue in (
        (_soft(0.16 - depth, voxel), _GRAY),
        (_soft(-depth, voxel), _FLUID),
        (_soft(0.24 - neighbor, voxel), _GRAY),
        (horn, _FLUID),
        (body, _GRAY + 0.03 * (t > anatomy.border)),
    ):
        brightness += fraction * (tissue - brightness)
    return brightness, labels


def _scan(brightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulate a scan: texture, bias field, noise, and a random intensity scale."""
    from scipy.ndimage import zoom

    sides = np.array(brightness.shape)
    coarse = rng.normal(0.0, 0.04, (6, 6, 6)).astype(np.float32)
    texture = zoom(coarse, sides / 6, order=1, grid_mode=True, mode="nearest")
    field = np.zeros(sides, np.float32)
    for axis, side in enumerate(sides):
        ramp = np.linspace(-1, 1, side, dtype=np.float32).reshape(np.roll([side, 1, 1], axis))
        slope, bow = rng.normal(0.0, (0.10, 0.05)).astype(np.float32)
        field += slope * ramp + bow * ramp**2
    clean = (brightness + texture) * np.exp(field)
    spread = rng.uniform(0.02, 0.05)
    # Rician noise: the magnitude of a complex signal with noise in both parts.
    real, imaginary = rng.standard_normal((2, *sides), dtype=np.float32) * np.float32(spread)
    return np.hypot(clean + real, imaginary) * np.float32(10 ** rng.uniform(1.0, 4.0))


def _soft(distance: np.ndarray, width: float) -> np.ndarray:
    """Map a signed distance from outside to inside to 0 to 1."""
    return np.clip(0.5 + distance / width, 0, 1)


def _small_turn(angles: np.ndarray) -> np.ndarray:
    """Return the matrix of rotations about x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[one, one] = step[two, two] = np.cos(angle)
        step[one, two], step[two, one] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn

"""Augmentation of volumes against MONAI and TorchIO, of images against Keras' own layers and scikit-image.

    KERAS_BACKEND=jax python benchmarks/augmentation.py

Prints Markdown tables. Volumes are float32 arrays with one channel, in and out, and every transform is
applied to each of them. MONAI and TorchIO take them one by one, as they are made to; where they are not
installed, they are left out and the reason is printed. "-" is what TorchIO lacks, in its chain too. Rows are
timed in turns in one process: compare ratios, since other work on the machine slows all of them. With
`--clock cpu` the seconds of the processor count, which other work changes less; set `OMP_NUM_THREADS=1` then,
since threads of PyTorch are busy while they wait for each other.
"""

import argparse
import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops
from side_by_side import CLOCKS, in_turns, medians, not_measured, row
from skimage.transform import AffineTransform, warp

from keras_ssl.preprocessing import Augmentation, Cutout, Elastic, Geometry, Intensity

ROWS = {
    "flips, right angles": (Geometry, {"flip_axes": (0, 1, 2), "right_angles": True}),
    "rotation, scale, shift": (Geometry, {"rotation": 15.0, "scale": (0.9, 1.1), "shift": 0.05}),
    "elastic": (Elastic, {"displacement": 0.2}),
    "blur": (Intensity, {"blur": 1.0}),
    "contrast, brightness": (Intensity, {"contrast": 0.2, "brightness": 0.2}),
    "gamma": (Intensity, {"gamma": (0.7, 1.5)}),
    "noise": (Intensity, {"noise": 0.1}),
    "cutout": (Cutout, {"size": 0.3}),
}


def augmentation(rows):
    """Our augmentation with the settings of some rows."""
    parts = {}
    for kind, settings in rows:
        parts.setdefault(kind, {}).update(settings)
    return Augmentation(**{kind.__name__.lower(): kind(**settings) for kind, settings in parts.items()})


def monai_rows(size):
    """Transforms of MONAI by row; its chain has rotation, scale, shift and elastic deformation in one."""
    from monai import transforms as m

    always = {"prob": 1.0, "padding_mode": "border"}
    affine = {
        "rotate_range": np.deg2rad([15, 15, 15]).tolist(),
        "scale_range": (0.1, 0.1, 0.1),
        "translate_range": (0.05 * size,) * 3,
    }
    elastic = {"sigma_range": (size / 16, size / 8), "magnitude_range": (size / 2, size)}
    rows = {
        "flips, right angles": [
            *(m.RandFlip(0.5, axis) for axis in range(3)),
            *(m.RandRotate90(0.75, 3, plane) for plane in ((0, 1), (0, 2), (1, 2))),
        ],
        "rotation, scale, shift": [m.RandAffine(**affine, **always)],
        "elastic": [m.Rand3DElastic(**elastic, **always)],
        "blur": [m.RandGaussianSmooth(*[(0.0, 1.0)] * 3, prob=1.0)],
        "contrast, brightness": [
            m.RandScaleIntensityFixedMean(1.0, factors=0.2),
            m.RandShiftIntensity(0.05, prob=1.0),
        ],
        "gamma": [m.RandAdjustContrast(1.0, (0.7, 1.5))],
        "noise": [m.RandGaussianNoise(1.0, std=0.03)],
        "cutout": [m.RandCoarseDropout(1, (int(0.3 * size),) * 3, prob=1.0)],
    }
    return rows, [m.Rand3DElastic(**affine, **elastic, **always)]


def torchio_rows(size):
    """Transforms of TorchIO by row; its chain, too, moves voxels once, after the flips."""
    import torchio as tio

    affine = {"scales": 0.1, "degrees": 15, "translation": 0.05 * size}
    elastic = {"num_control_points": 7, "max_displacement": 0.05 * size}
    rows = {
        "flips": [tio.RandomFlip((0, 1, 2), flip_probability=0.5)],
        "rotation, scale, shift": [tio.RandomAffine(**affine)],
        "elastic": [tio.RandomElasticDeformation(**elastic)],
        "blur": [tio.RandomBlur((0, 1))],
        "gamma": [tio.RandomGamma((-0.35, 0.4))],
        "noise": [tio.RandomNoise(0, (0, 0.03))],
    }
    return rows, [tio.RandomAffineElasticDeformation(affine_kwargs=affine, elastic_kwargs=elastic)]


def one_by_one(transforms):
    """Run transforms on each `(channel, *spatial)` volume of a batch."""
    import torch

    def run(images):
        for image in images:
            volume = torch.from_numpy(image).movedim(-1, 0)
            for transform in transforms:
                volume = transform(volume)
        return volume

    return run


def chain(rows, moves):
    """All transforms of a library in our order, those that move voxels as one."""
    flips, _, _, *intensities = [rows[name] for name in rows]
    return [*flips, *moves, *(transform for transforms in intensities for transform in transforms)]


def runners(size, generator):
    """Name what is timed, by row and library; and why a library is left out."""
    ours = {name: augmentation([row]) for name, row in ROWS.items()}
    ours["all"] = augmentation(ROWS.values())
    left_out = {}
    libraries = {
        "keras-ssl": {
            name: lambda images, augment=augment: augment(images, generator) for name, augment in ours.items()
        }
    }
    for library, make in (("MONAI", monai_rows), ("TorchIO", torchio_rows)):
        try:
            rows, moves = make(size)
        except ImportError as error:
            left_out[library] = error
            continue
        named = {**rows, "all": chain(rows, moves)}
        libraries[library] = {name: one_by_one(each) for name, each in named.items() if each}
    return libraries, left_out


def measure_volumes(size, repetitions, clock, only=None):
    """Seconds by library, row by row; the first round compiles and is not counted."""
    generator = np.random.default_rng(0)
    images = generator.random((4, size, size, size, 1), dtype="float32")
    libraries, left_out = runners(size, generator)
    yield from left_out.items()
    for name in only or libraries["keras-ssl"]:
        runs = {
            library: lambda run=rows[name]: run(images) for library, rows in libraries.items() if name in rows
        }
        yield name, in_turns(runs, repetitions, clock)


def print_volumes(size, repetitions, clock):
    others = ("MONAI", "TorchIO")
    print(f"\n4 volumes of {size} voxels a side, median of {repetitions}\n")
    print("| transform | keras-ssl ms |" + "".join(f" {name} ms | keras-ssl / {name} |" for name in others))
    print("| --- |" + " ---: |" * (1 + 2 * len(others)))
    for name, seconds in measure_volumes(size, repetitions, clock):
        if isinstance(seconds, ImportError):
            print(f"| {name} is left out: {seconds} |")
            continue
        taken = {library: 1e3 * median for library, median in medians(seconds).items()}
        ours = taken["keras-ssl"]
        cells = [
            cell
            for library in others
            for cell in (
                (f"{taken[library]:.0f}", f"{ours / taken[library]:.2f}") if library in taken else ("-", "-")
            )
        ]
        print(f"| {name} | {ours:.0f} | " + " | ".join(cells) + " |", flush=True)


def compiled(layer, images):
    """Run a layer on tensors as a compiled model of the backend does, and wait for the result."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        run = tf.function(lambda: layer(images, training=True), autograph=False)
        return lambda: run().numpy()
    if backend == "jax":
        import jax

        variables = (
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
        )
        run = jax.jit(lambda: layer.stateless_call(*variables, images, training=True)[0])
        return lambda: run().block_until_ready()
    return lambda: layer(images, training=True)


class Augmented(keras.Layer):
    """Our augmentation as a layer."""

    def __init__(self, augment):
        super().__init__()
        self.augment = augment
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, images, training=None):
        return self.augment(images, self.seeds)


def skimage_moves(images, generator):
    """Flip, rotate, zoom and shift, one image at a time in one resampling."""
    for image in images:
        move = AffineTransform(
            scale=generator.uniform(0.9, 1.1),
            rotation=generator.uniform(-0.63, 0.63),
            translation=generator.uniform(-0.05, 0.05, 2) * image.shape[:2],
        )
        moved = warp(image[:, :: generator.choice((-1, 1))], move, mode="edge")
    return moved


def measure_images(size, repetitions, clock):
    """Seconds of a batch of 32 images by each way."""
    array = np.random.default_rng(0).random((32, size, size, 3), dtype="float32")
    images = ops.convert_to_tensor(array)
    layers = keras.layers
    theirs = keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.RandomZoom(0.1),
            layers.RandomTranslation(0.05, 0.05),
        ]
    )
    geometry = Geometry(flip_axes=(1,), rotation=36.0, scale=(0.9, 1.1), shift=0.05)
    ours = Augmented(Augmentation(geometry=geometry))
    for layer in (theirs, ours):
        layer(images)
    runs = {
        "keras-ssl, one resampling": compiled(ours, images),
        "four Keras layers, compiled": compiled(theirs, images),
        "four Keras layers, eager": lambda: ops.convert_to_numpy(theirs(images, training=True)),
        "scikit-image, one warp": lambda: skimage_moves(array, np.random.default_rng(0)),
    }
    return in_turns(runs, repetitions, clock)


def print_images(repetitions, clock):
    taken = medians(measure_images(224, repetitions, clock))
    print(f"\n32 images of 224 x 224 x 3: flip, rotation, zoom and shift, median of {repetitions}\n")
    print("| | ms | ratio |\n| --- | ---: | ---: |")
    for name, median in taken.items():
        print(f"| {name} | {1e3 * median:.0f} | {median / taken['keras-ssl, one resampling']:.1f} |")


def rows(quick, clock):
    """Rows for `speed.py`; of Keras' layers the faster of compiled and eager."""
    size, repetitions = (64, 2) if quick else (224, 4)
    seconds = measure_images(size, repetitions, clock)
    ours, *layers, skimage = seconds
    faster = min(layers, key=medians(seconds).get)
    wanted = 3.0 if keras.backend.backend() == "tensorflow" else 10.0
    for reference, least in ((faster, wanted), (skimage, 1.0)):
        yield row(f"move 32 images of {size} px, {reference}", seconds, ours, reference, least)
    size, repetitions = (32, 2) if quick else (128, 3)
    for name, taken in measure_volumes(size, repetitions, clock, ["all"] if quick else None):
        if isinstance(taken, ImportError):
            yield not_measured(f"4 volumes of {size} voxels a side, {name}", taken)
            continue
        for library in list(taken)[1:]:
            what = f"4 volumes of {size} voxels a side, {name}, {library}"
            yield row(what, taken, "keras-ssl", library, 0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    backend = keras.backend.backend()
    print(f"Keras {keras.__version__} on {backend}, {os.cpu_count()} cores, {arguments.clock} time")
    print_images(arguments.repetitions, clock)
    print_volumes(arguments.size, arguments.repetitions, clock)


if __name__ == "__main__":
    main()

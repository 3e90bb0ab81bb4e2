"""A run of the frozen arm on features that are computed once, against the same run through the encoder.

    KERAS_BACKEND=torch python benchmarks/frozen_features.py

Both are runs of `label_efficiency` on the same images, with the same seed and steps; the second has an
augmentation that changes nothing, which forbids to keep features. Seconds are those of the records, what
is compiled and the features themselves included. The last column is the largest difference of their losses.
"""

import argparse
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from side_by_side import Row, readable

import keras_ssl
from keras_ssl.evaluation import Protocol, label_efficiency


def unchanged(images, generator):
    return images


def run(encoder, images, grades, steps, augment):
    """Make the one run of a study with one arm and one fraction."""
    protocol = Protocol(
        folds=1, fractions=(1.0,), arms=("frozen",), steps=steps, validations=4, augment=augment
    )
    (record,) = label_efficiency(
        images,
        grades,
        encoder=encoder,
        pretrained={"given": encoder},
        head=keras_ssl.OrdinalHead(5),
        output_dir=tempfile.mkdtemp(),
        protocol=protocol,
        verbose=False,
    )
    return record


def densenet121(shape):
    return keras.applications.DenseNet121(include_top=False, weights=None, input_shape=shape)


def measure(size, count, steps, make_backbone=densenet121):
    """The records of a run on features and of one through the encoder."""
    images, grades = keras_ssl.data.synthetic_fundus(count, size=size)
    inputs = keras.Input((size, size, 3))
    backbone = make_backbone((size, size, 3))
    encoder = keras.Model(inputs, backbone(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)))
    return [run(encoder, images, grades, steps, augment) for augment in (None, unchanged)]


def rows(quick, clock):
    """The row for `speed.py`."""
    make, size, count, steps = (
        (keras_ssl.encoders.small_encoder, 32, 40, 12) if quick else (densenet121, 64, 64, 200)
    )
    kept, through = (record["seconds"] for record in measure(size, count, steps, make))
    yield Row(
        f"{make.__name__}, {count} images of {size} px, {steps} steps",
        readable(kept),
        f"through the encoder: {readable(through)}",
        through / kept,
        20.0,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    kept, through = measure(arguments.size, arguments.images, arguments.steps)
    difference = np.abs(np.subtract(kept["curve_loss"], through["curve_loss"])).max()
    backend, steps = keras.backend.backend(), kept["steps"]
    print(f"{backend}, DenseNet121, {arguments.images} images of {arguments.size} px, {steps} steps of 32")
    print(f"{'features s':>12}{'encoder s':>12}{'ratio':>8}{'loss differs by':>18}")
    ratio = through["seconds"] / kept["seconds"]
    print(f"{kept['seconds']:>12.1f}{through['seconds']:>12.1f}{ratio:>8.1f}{difference:>18.1e}")


if __name__ == "__main__":
    main()

"""Frozen features on IDRiD: from scratch, with ImageNet's weights, and pretrained further from these.

    python benchmarks/from_imagenet.py lite0.keras --data DATA/idrid --task vicreg --steps 100
    python benchmarks/from_imagenet.py                             # tables from benchmarks/records

Images are of 128 pixels, for the probe, and of 96 for pretraining: crops of three quarters of the side then
show things at the size that they have in 128 pixels. A third of the images, with copies on one side, is the
test part. The encoder is pretrained once; a linear probe is fitted on ten labeled subsets of each size.
"Statistics of the pool" are those of batch normalization, averaged over the training images.
"""

import argparse
import copy
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from pretraining_pays import FRACTIONS, RECORDS, print_tables, read

import keras_ssl
from keras_ssl import data, metrics
from keras_ssl.callbacks._batch_statistics import estimate_batch_statistics
from keras_ssl.metrics.probes import effective_rank, knn_predict, linear_probe_predict
from keras_ssl.preprocessing import fundus_views

FILE = RECORDS / "pretraining_idrid.jsonl"
BATCH, SIDE, RATE, SUBSETS = 32, 96, 1e-4, 10
TASKS = {
    "rotation": lambda: keras_ssl.RotationTask(),
    "vicreg": lambda: keras_ssl.VICRegTask(views=fundus_views()),
    "simclr": lambda: keras_ssl.SimCLRTask(views=fundus_views()),
    "byol": lambda: keras_ssl.BYOLTask(views=fundus_views()),
}


def load(folder):
    """Return images of 128 and of `SIDE` pixels, and grades."""
    from PIL import Image

    lines = [line.split(",") for line in (folder / "labels.csv").read_text().split()[1:]]
    pictures = [Image.open(folder / "images_128" / line[0]).convert("RGB") for line in lines]
    small = [np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for picture in pictures]
    return np.stack(pictures), np.stack(small), np.array([int(line[3]) for line in lines])


def opened(encoder):
    """Return a copy of an encoder that takes images of any size."""
    config = copy.deepcopy(encoder.get_config())
    for layer in config["layers"]:
        layer.pop("build_config", None)
        if layer["class_name"] == "InputLayer":
            layer["config"]["batch_shape"] = [None, None, None, 3]
    new = keras.Model.from_config(config)
    new.set_weights(encoder.get_weights())
    return new


def normalizations(encoder):
    return [layer for layer in encoder.layers if isinstance(layer, keras.layers.BatchNormalization)]


def estimate_statistics(encoder, images):
    """Set moving statistics to those of images, as `fit_pretext` does."""
    batches = (images[start : start + BATCH].astype("float32") for start in range(0, len(images), BATCH))
    estimate_batch_statistics(encoder, batches)


def pretrain(encoder, task, images, steps):
    """Pretrain in place with the default run of `fit_pretext`; return what is recorded of it."""
    begin = time.process_time()
    model = keras_ssl.SelfSupervisedModel(TASKS[task](), encoder, input_shape=images.shape[1:], seed=0)
    settings = {"batch_size": BATCH, "epochs": 1, "steps_per_epoch": steps, "augment": None, "verbose": 2}
    loss = model.fit_pretext(images, learning_rate=RATE, **settings).history["loss"][-1]
    return {
        "pretext_steps": steps,
        "pretext_rate": RATE,
        "pretext_cpu_seconds": round(time.process_time() - begin),
        "pretext_loss": round(float(loss), 4),
    }


def judge(encoder, arm, images, labels, parts, summary):
    """Append the scores of a frozen encoder to the records."""
    pool, test, groups = parts
    found = [keras.ops.convert_to_numpy(encoder(some, training=False)) for some in np.array_split(images, 16)]
    features = np.concatenate(found).mean((1, 2))

    def kappa(predicted):
        scores = metrics.grading_scores(labels[test], predicted, num_grades=5, names=("qw_kappa",))
        return round(float(scores["qw_kappa"]), 5)

    with FILE.open("a") as out:
        for fraction in FRACTIONS:
            for seed in range(1 if fraction == 1 else SUBSETS):
                rows = pool[data.labeled_subset(labels[pool], fraction, groups[pool], seed)]
                known = features[rows], labels[rows], features[test]
                record = {
                    "task": "",
                    "arm": arm,
                    "fraction": fraction,
                    "repetition": seed,
                    "fold": 0,
                    "judge": "probe",
                    "setting": "",
                    "labels": len(rows),
                    "train_images": len(pool),
                    "test_images": len(test),
                    "qw_kappa": kappa(linear_probe_predict(*known)),
                    "knn_qw_kappa": kappa(knn_predict(*known)),
                    "effective_rank": round(effective_rank(features), 2),
                    **summary,
                }
                out.write(json.dumps(record) + "\n")


def main():
    """Pretrain and probe, then print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("encoder", nargs="?", help="encoder with ImageNet's weights; without it, tables only")
    parser.add_argument("--data", type=Path, help="folder of labels.csv and images_128")
    parser.add_argument("--task", choices=TASKS, help="without it, scratch and ImageNet")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--frozen", action="store_true", help="keep ImageNet's statistics in pretraining")
    a = parser.parse_args()
    if a.encoder:
        images, small, labels = load(a.data)
        groups = data.duplicate_groups(images)
        pool, test = data.stratified_split(labels, 1 / 3, groups, seed=0)
        common = images, labels, (pool, test, groups)
        imagenet = keras.saving.load_model(a.encoder)
        keras.utils.set_random_seed(0)
        encoder = opened(imagenet)
        if a.task:
            for layer in normalizations(encoder) if a.frozen else ():
                layer.trainable = False
            summary = pretrain(encoder, a.task, small[pool], a.steps)
            judge(
                encoder,
                f"imagenet+{a.task}, " + ("frozen" if a.frozen else "moving") + " statistics",
                *common,
                summary,
            )
            if not a.frozen:
                estimate_statistics(encoder, images[pool])
                judge(encoder, f"imagenet+{a.task}, statistics of the pool", *common, summary)
        else:
            judge(imagenet, "imagenet", *common, {})
            estimate_statistics(encoder, images[pool])
            judge(encoder, "imagenet, statistics of the pool", *common, {})
            encoder = keras.Model.from_config(encoder.get_config())
            estimate_statistics(encoder, images[pool])
            judge(encoder, "scratch", *common, {})
    print_tables(read(FILE), "qw_kappa", "imagenet")


if __name__ == "__main__":
    main()

"""Learning rate of pretraining, judged by probes on the training pool of RetinaMNIST.

    python benchmarks/pretraining_rates.py --data DATA             # trains what the records lack
    python benchmarks/pretraining_rates.py                         # table from benchmarks/records

800 images without their labels; the 400 test images of `pretraining_pays.py` are left alone. The probe is
judged by the kappa of a cross-validation over the 800, and of five subsets of 80 labels on the 720 others.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from pretraining_pays import RECORDS, read

import keras_ssl
from keras_ssl import data, metrics
from keras_ssl.metrics.probes import effective_rank, knn_predict, linear_probe_predict
from keras_ssl.preprocessing import fundus_views

FILE = RECORDS / "pretraining_rates.jsonl"
RATES, STEPS, BATCH = (3e-4, 1e-3, 3e-3), 300, 32
TASKS = {
    "vicreg": lambda: keras_ssl.VICRegTask(views=fundus_views()),
    "simclr": lambda: keras_ssl.SimCLRTask(views=fundus_views()),
    "rotation": lambda: keras_ssl.RotationTask(),
    "byol": lambda: keras_ssl.BYOLTask(views=fundus_views()),
    "simmim": lambda: keras_ssl.SimMIMTask(),
}


def pretrain(encoder, task, rate, seed, images):
    model = keras_ssl.SelfSupervisedModel(TASKS[task](), encoder, input_shape=images.shape[1:], seed=seed)
    settings = {"batch_size": BATCH, "epochs": 10, "steps_per_epoch": STEPS // 10, "augment": None}
    return model.fit_pretext(images, learning_rate=rate, verbose=0, **settings).history["loss"]


def kappa(true, predicted):
    found = metrics.grading_scores(true, predicted, num_grades=5, names=("qw_kappa",))
    return round(float(found["qw_kappa"]), 4)


def judge(encoder, images, labels):
    inputs = keras.Input(images.shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(encoder(inputs))
    features = keras.Model(inputs, pooled).predict(images, batch_size=100, verbose=0)
    probe, neighbors = np.zeros_like(labels), np.zeros_like(labels)
    for train, test in data.stratified_folds(labels, 5, seed=0):
        probe[test] = linear_probe_predict(features[train], labels[train], features[test])
        neighbors[test] = knn_predict(features[train], labels[train], features[test])
    few = []
    for seed in range(5):
        train = data.labeled_subset(labels, 0.1, seed=seed)
        test = np.setdiff1d(np.arange(len(labels)), train)
        predicted = linear_probe_predict(features[train], labels[train], features[test])
        few.append(kappa(labels[test], predicted))
    return {
        "probe100": kappa(labels, probe),
        "knn100": kappa(labels, neighbors),
        "probe10": round(float(np.mean(few)), 4),
        "rank": round(effective_rank(features), 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of data sets; without it, the table only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    a = parser.parse_args()
    if a.data:
        images, labels = data.load_medmnist(a.data / "retinamnist/retinamnist.npz", ("train", "val"))
        labels = np.asarray(labels).ravel().astype(int)
        pool, _ = data.stratified_split(labels, 1 / 3, seed=0)
        images, labels = images[pool], labels[pool]
        done = {(one["task"], one.get("rate"), one["seed"]) for one in read(FILE)}
        plan = [("scratch", None), *((task, rate) for task in TASKS for rate in RATES)]
        for seed, (task, rate) in ((seed, one) for seed in a.seeds for one in plan):
            if (task, rate, seed) in done:
                continue
            keras.utils.set_random_seed(seed)
            encoder = keras_ssl.encoders.small_encoder((None, None, 3), value_range=(0, 255))
            record = {"task": task, "rate": rate, "seed": seed}
            if rate:
                losses = pretrain(encoder, task, rate, seed, images)
                record |= {"loss_first": round(losses[0], 4), "loss_last": round(losses[-1], 4)}
            record |= judge(encoder, images, labels)
            with FILE.open("a") as out:
                out.write(json.dumps(record) + "\n")
    columns = ("task", "rate", "seed", "loss_first", "loss_last", "probe100", "knn100", "probe10", "rank")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for one in read(FILE):
        print("| " + " | ".join("" if one.get(name) is None else str(one[name]) for name in columns) + " |")


if __name__ == "__main__":
    main()

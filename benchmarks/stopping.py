"""Does it help to choose the epoch of pretraining by a probe on some labels? RetinaMNIST, 28 pixels.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python benchmarks/stopping.py \
        --npz DATA/retinamnist/retinamnist.npz --out benchmarks/records/stopping.jsonl
    python benchmarks/stopping.py --table benchmarks/records/stopping.jsonl

For each seed, 400 of the 1200 images are held out for testing, and the encoder is pretrained on the other
800, without labels. 80 of these have labels (10 %): they fit the probe, 80 others test it every third epoch.
Fine-tuning on the first 80 starts from the best epoch and from the last. One JSON line for each pretraining.
"""

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ssl
from keras_ssl.callbacks import RepresentationCheck
from keras_ssl.data import stratified_split

SHAPE = (28, 28, 3)
T_QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}


def task_named(name):
    vicreg = keras_ssl.VICRegTask(views=keras_ssl.preprocessing.fundus_views())
    both = (keras_ssl.RotationTask(), vicreg)
    return {
        "rotation": both[0],
        "vicreg": vicreg,
        "rotation+vicreg": keras_ssl.MultiTask(tasks=both),
        # In proportion to the scales, which restores the sum of the losses as they are.
        "rotation+vicreg, not scaled": keras_ssl.MultiTask(tasks=both, weights=(1.4, 40.0)),
    }[name]


class LastWeights(keras.callbacks.Callback):
    """Keeps the weights of the last epoch, before a check restores others."""

    def on_epoch_end(self, epoch, logs=None):
        """Copy the weights."""
        self.weights = [np.array(weight) for weight in self.model.get_weights()]


def fine_tuned_kappa(weights, images, grades, test_images, test_grades, steps, seed):
    """Fine-tune a new encoder of the given weights."""
    keras.utils.set_random_seed(seed)
    encoder = keras_ssl.encoders.small_encoder(SHAPE, value_range=(0, 255))
    encoder.set_weights(weights)
    tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(5), seed=seed)
    tuner.fit(images, grades, batch_size=16, steps_per_epoch=steps, epochs=1, verbose=0)
    return tuner.evaluate(test_images, test_grades)["qw_kappa"]


def run(name, seed, images, grades, arguments):
    """Pretrain once, and fine-tune from the best and from the last epoch."""
    start = time.perf_counter()
    rest, test = stratified_split(grades, 400 / len(images), seed=seed)
    others, labeled = (rest[part] for part in stratified_split(grades[rest], 80 / len(rest), seed=seed))
    checked = others[stratified_split(grades[others], 80 / len(others), seed=seed)[1]]
    keras.utils.set_random_seed(seed)
    encoder = keras_ssl.encoders.small_encoder(SHAPE, value_range=(0, 255))
    model = keras_ssl.SelfSupervisedModel(task_named(name), encoder, seed=seed)
    last = LastWeights()
    check = RepresentationCheck(
        images[labeled],
        grades[labeled],
        every=3,
        test_images=images[checked],
        test_labels=grades[checked],
        restore_best=True,
    )
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit_pretext(
        images[rest], batch_size=64, epochs=arguments.epochs, callbacks=[check, last], verbose=0
    ).history
    record = {
        "task": name,
        "seed": seed,
        "epochs": arguments.epochs,
        "best_epoch": int(history["best_epoch"][-1]),
        "probe_qw_kappa": [round(value, 4) for value in history["probe_qw_kappa"]],
        "seconds_of_pretraining": round(time.perf_counter() - start, 1),
    }
    if arguments.steps:
        parts = images[labeled], grades[labeled], images[test], grades[test], arguments.steps, seed
        record["kept"] = fine_tuned_kappa(encoder.get_weights(), *parts)
        model.set_weights(last.weights)
        record["last"] = fine_tuned_kappa(encoder.get_weights(), *parts)
    return {**record, "seconds": round(time.perf_counter() - start, 1)}


def interval(values):
    """Format a mean and its 95 % interval by Student's t."""
    mean = statistics.mean(values)
    if len(values) not in T_QUANTILE:
        return f"{mean:+.3f}"
    half = T_QUANTILE[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def end_with_patience(kappas, patience=5, every=3):
    """Return the number of epochs after which `stop=patience` would have ended the run."""
    best, waited = -math.inf, 0
    for epoch in range(0, len(kappas), every):
        waited = 0 if kappas[epoch] > best else waited + 1
        best = max(best, kappas[epoch])
        if waited == patience:
            return epoch + 1
    return len(kappas)


def print_table(records):
    """Print one row for each task."""
    columns = ("task", "seeds", "epochs", "kept epochs", "`stop=5` ends after", "probe, kept", "probe, last")
    columns += ("fine-tuned, kept", "fine-tuned, last", "kept - last")
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for name in dict.fromkeys(record["task"] for record in records):
        runs = [record for record in records if record["task"] == name]
        cells = [name, str(len(runs)), str(runs[0]["epochs"])]
        cells.append(", ".join(str(record["best_epoch"] + 1) for record in runs))
        cells.append(", ".join(str(end_with_patience(record["probe_qw_kappa"])) for record in runs))
        pairs = [(max(record["probe_qw_kappa"]), record["probe_qw_kappa"][-1]) for record in runs]
        tuned = [(record["kept"], record["last"]) for record in runs if "kept" in record]
        for scores in (pairs, tuned):
            cells += [f"{statistics.mean(one):.3f}" for one in zip(*scores, strict=True)] or ["", ""]
        cells.append(interval([kept - last for kept, last in tuned]) if tuned else "")
        print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    parser.add_argument("--table", type=Path, help="print the table of such a file, and train nothing")
    parser.add_argument("--tasks", nargs="+", default=["vicreg", "rotation"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning; 0 for probes only")
    arguments = parser.parse_args()
    if arguments.table:
        print_table([json.loads(line) for line in arguments.table.read_text().splitlines()])
        return
    with np.load(arguments.npz) as data:
        images = np.concatenate([data["train_images"], data["val_images"]])
        grades = np.concatenate([data["train_labels"], data["val_labels"]]).ravel()
    for seed in arguments.seeds:
        for name in arguments.tasks:
            record = run(name, seed, images, grades, arguments)
            with arguments.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)


if __name__ == "__main__":
    main()

"""Quality of an encoder after each pretext task, compared with a random encoder and training from scratch.

    python benchmarks/fitness.py DATA/retinamnist/retinamnist.npz --output fitness_retina
    python benchmarks/fitness.py DATA/adrenalmnist3d/adrenalmnist3d.npz --output fitness_adrenal

Every task trains the same small encoder (masked autoencoders a small ViT, which has a row "scratch" of its
own) for the same number of optimizer steps on the training part of a MedMNIST file, without labels. Then the
encoder is judged on the validation part: frozen, by a linear probe and by nearest neighbors on all training
labels; and fine-tuned on a tenth of them, for the same number of steps in every row, with a frozen warm-up
except from scratch; "gain" is what that scores above the same encoder from scratch, seed by seed. Nothing is
chosen by the validation part. Each seed draws another subset, other weights and another order, shared by all
rows. Results are written as they come, and what is there is not done again.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras

import keras_ssl
from keras_ssl import callbacks, data, metrics
from keras_ssl.preprocessing import Augmentation, Geometry, fundus_views

SCRATCH, VIT_SCRATCH = "scratch", "scratch (ViT)"


def task_names():
    return [name for name in keras_ssl.__all__ if name.endswith("Task") and name != "PretextTask"]


def has_tokens(name):
    return name == "MAETask" or name.endswith("(ViT)")


def build_encoder(shape, tokens, seed):
    keras.utils.set_random_seed(seed)
    if tokens:
        return keras_ssl.encoders.vit_encoder(
            shape, patch_size=4, embedding_dim=96, depth=4, value_range=(0, 255)
        )
    # Sides left open: tasks that cut images into patches show it patches.
    sides = (None,) * (len(shape) - 1)
    filters = (16, 32, 64) if len(shape) == 3 else (8, 16, 32)
    return keras_ssl.encoders.small_encoder((*sides, shape[-1]), filters=filters, value_range=(0, 255))


def with_fundus_views(task):
    if isinstance(task, keras_ssl.MultiTask):
        return dataclasses.replace(task, tasks=tuple(map(with_fundus_views, task.tasks)))
    return dataclasses.replace(task, views=fundus_views()) if hasattr(task, "views") else task


def pretrain(task, encoder, images, arguments, seed):
    model = keras_ssl.SelfSupervisedModel(task, encoder, input_shape=images.shape[1:], seed=seed)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit_pretext(
        images, batch_size=32, epochs=5, steps_per_epoch=arguments.pretext_steps // 5, verbose=0
    ).history
    return {"pretext_first_loss": history["loss"][0], "pretext_last_loss": history["loss"][-1]}


def judge(encoder, warmup, parts, arguments, seed):
    (images, labels), (val_images, val_labels) = parts["train"], parts["val"]
    scores = callbacks.check_representation(
        encoder, images, labels, test_images=val_images, test_labels=val_labels
    )
    chosen = data.labeled_subset(labels, arguments.fraction, seed=seed)
    grades = int(labels.max()) + 1
    head = keras_ssl.OrdinalHead(grades) if grades > 2 else keras_ssl.ClassificationHead(grades)
    epochs = 10
    tuner = keras_ssl.FineTuner(
        encoder,
        head,
        warmup_epochs=2 if warmup else 0,
        optimizer=keras.optimizers.Adam(1e-3),
        input_shape=images.shape[1:],
        seed=seed,
    )
    tuner.fit(
        images[chosen],
        labels[chosen],
        batch_size=16,
        epochs=epochs,
        steps_per_epoch=arguments.steps // epochs,
        augment=Augmentation(geometry=Geometry(flip_axes=(1,))) if images.ndim == 4 else None,
        verbose=0,
    )
    tuned = metrics.grading_scores(
        val_labels,
        tuner.predict(val_images),
        tuner.predict_probabilities(val_images),
        num_grades=grades,
        names=("qw_kappa", "macro_auc"),
    )
    return {**scores, **{f"tuned_{name}": value for name, value in tuned.items()}}


def run(name, parts, arguments, seed):
    start = time.perf_counter()
    shape = parts["train"][0].shape[1:]
    encoder = build_encoder(shape, has_tokens(name), seed)
    record = {"task": name, "seed": seed}
    if not name.startswith(SCRATCH):
        task = getattr(keras_ssl, name.removesuffix(" (ViT)"))()
        # Color images are fundus photographs here.
        task = with_fundus_views(task) if shape[-1] == 3 else task
        record |= pretrain(task, encoder, parts["train"][0], arguments, seed)
    record |= judge(encoder, not name.startswith(SCRATCH), parts, arguments, seed)
    return {**record, "seconds": round(time.perf_counter() - start, 1)}


def report(records, names):
    columns = {
        "tuned_qw_kappa": "fine-tuned QWK",
        "qw_kappa_gain": "gain in QWK",
        "tuned_macro_auc": "fine-tuned AUC",
        "macro_auc_gain": "gain in AUC",
        "probe_qw_kappa": "probe QWK",
        "knn_qw_kappa": "k-NN QWK",
        "effective_rank": "effective rank",
    }
    print("| task | " + " | ".join(columns.values()) + " |\n| --- |" + " --- |" * len(columns))
    scratch = {(record["task"], record["seed"]): record for record in records}
    for name in names:
        rows, cells = [record for record in records if record["task"] == name], []
        if not rows:
            continue
        for row in rows:
            # From the same weights, on the same subset.
            start = scratch[VIT_SCRATCH if has_tokens(name) else SCRATCH, row["seed"]]
            for score in ("qw_kappa", "macro_auc"):
                row[f"{score}_gain"] = row[f"tuned_{score}"] - start[f"tuned_{score}"]
        for column in columns:
            values = [row[column] for row in rows]
            digits = 1 if column == "effective_rank" else 3
            mean = f"{statistics.mean(values):.{digits}f}"
            cells.append(f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("npz", help="MedMNIST file, 2D or 3D")
    parser.add_argument("--output", default="fitness_output")
    parser.add_argument("--tasks", nargs="+", help="rows to make; all where left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretext-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--fraction", type=float, default=0.1)
    arguments = parser.parse_args()
    parts = {}
    for part in ("train", "val"):
        images, labels = data.load_medmnist(arguments.npz, (part,))
        parts[part] = images, labels
    shape = parts["train"][0].shape[1:]
    every = [SCRATCH, *task_names(), VIT_SCRATCH, "SimMIMTask (ViT)"]
    names = arguments.tasks or every
    file = Path(arguments.output) / "records.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores, images {shape}")
    for seed in range(arguments.seeds):
        for name in names:
            if any(record["task"] == name and record["seed"] == seed for record in done):
                continue
            try:
                done.append(run(name, parts, arguments, seed))
            except ValueError as error:
                # Such as colors of gray volumes.
                print(f"{name} is left out: {error}")
                names = [other for other in names if other != name]
                continue
            with file.open("a") as out:
                out.write(json.dumps(done[-1]) + "\n")
            numbers = {key: round(done[-1][key], 3) for key in ("tuned_qw_kappa", "tuned_macro_auc")}
            print(f"seed {seed}, {name}: {numbers}, {done[-1]['seconds']} s", flush=True)
    report(done, every)


if __name__ == "__main__":
    main()

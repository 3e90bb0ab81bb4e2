"""Gain of pretraining over the same fine-tuning from scratch, by task and fraction of the labels.

    python benchmarks/pretraining_pays.py retinamnist --data DATA --arms scratch vicreg --fractions 0.1
    python benchmarks/pretraining_pays.py retinamnist              # tables from benchmarks/records

A third of the images is a test part that never changes, and that nothing but the final scores reads.
Pretraining sees all other images, without labels. A seed draws initial weights, pretraining and the labeled
subset; all arms of a seed share subset and initial weights, and every arm is fine-tuned for the same number
of steps by the same recipe. Before that, a linear probe is fitted to frozen, pooled features.

Tasks, views, losses, encoder and decoding are the library's. The loops are plain PyTorch, since Keras'
overhead per step is several times the work on images of this size: `fit_pretext` and `FineTuner` do the same.
Each result is a line of `benchmarks/records/pretraining_<data>.jsonl`, and is not computed again.
"""

import argparse
import copy
import dataclasses
import json
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ssl
from keras_ssl import data, evaluation, metrics
from keras_ssl.metrics.probes import effective_rank, knn_predict, linear_probe_predict
from keras_ssl.preprocessing import fundus_views, mr_views

RECORDS = Path(__file__).parent / "records"
SCRATCH = "scratch"
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
METRICS = {"retinamnist": "qw_kappa", "adrenal": "macro_auc"}
FILES = {"retinamnist": "retinamnist/retinamnist.npz", "adrenal": "adrenalmnist3d/adrenalmnist3d.npz"}
# More labels take longer until no arm gains any more.
STEPS = {0.05: 400, 0.1: 400, 0.25: 800, 0.5: 800, 1.0: 800}
PRETEXT = {"steps": 500, "batch": 32, "rate": 1e-3, "decay": 0.05, "clip": 1.0, "warmup": 0.1}
TUNING = {"batch": 16, "rate": 1e-3, "encoder_rate": 3e-4, "decay": 0.05, "warmup": 0.2}


class Part:
    """Images and labels of a data set, its fixed parts, and the encoder and head that suit it."""

    def __init__(self, name, folder):
        self.name = name
        images, labels = data.load_medmnist(folder / FILES[name], ("train", "val"))
        self.images, self.labels = np.asarray(images), np.asarray(labels).ravel().astype(int)
        self.pool, self.test = data.stratified_split(self.labels, 1 / 3, seed=0)
        self.grades = int(self.labels.max()) + 1
        ordinal = self.grades > 2
        self.head = keras_ssl.OrdinalHead(self.grades) if ordinal else keras_ssl.ClassificationHead(2)
        self.views = fundus_views() if self.images.ndim == 4 else mr_views()
        filters = (16, 32, 64) if ordinal else (8, 16, 32)
        self.shape = self.images.shape[1:]
        self.build = lambda: keras_ssl.encoders.small_encoder(self.shape, filters, value_range=(0, 255))

    def task(self, name):
        """Return a pretext task with its defaults, and with the views of the data set where it has views."""
        classes = {
            other.removesuffix("Task").lower(): other for other in keras_ssl.__all__ if other.endswith("Task")
        }
        kind = getattr(keras_ssl, classes[name])
        fields = {field.name for field in dataclasses.fields(kind)}
        return kind(views=self.views) if "views" in fields else kind()


def torch_images(images):
    """Channels first, for PyTorch."""
    import torch

    return torch.as_tensor(images).movedim(-1, 1).float().contiguous()


class Network:
    """`small_encoder` in PyTorch, with weights of a Keras encoder."""

    def __init__(self, encoder):
        import torch

        self.variables, self.statistics = {}, {}
        for layer in encoder.layers:
            for weight in layer.weights:
                value = torch.tensor(np.array(keras.ops.convert_to_numpy(weight)))
                if value.ndim > 2:
                    value = value.movedim(-1, 0).movedim(-1, 1).contiguous()
                key = f"{layer.name}/{weight.name}"
                if weight.name.startswith("moving"):
                    self.statistics[key] = value
                else:
                    self.variables[key] = value.requires_grad_()

    def parameters(self):
        """Return what is trained."""
        return list(self.variables.values())

    def convolve(self, x, name, stride, training):
        """Convolution with "same" padding and batch normalization."""
        import torch.nn.functional as functional

        kernel = self.variables[f"{name}_conv/kernel"]
        rank, missing = (
            x.ndim - 2,
            max((-(-x.shape[2] // stride) - 1) * stride + kernel.shape[2] - x.shape[2], 0),
        )
        before = missing // 2
        x = functional.pad(x, (before, missing - before) * rank) if missing else x
        x = (functional.conv2d if rank == 2 else functional.conv3d)(x, kernel, stride=stride)
        mean, variance = (self.statistics[f"{name}_bn/moving_{part}"] for part in ("mean", "variance"))
        scale, offset = self.variables[f"{name}_bn/gamma"], self.variables[f"{name}_bn/beta"]
        return functional.batch_norm(x, mean, variance, scale, offset, training, 0.1, 1e-3)

    def __call__(self, x, training):
        """Return pooled features of images `(n, channels, *spatial)` from 0 to 255."""
        every_other = (..., *(slice(None, None, 2),) * (x.ndim - 2))
        x = self.convolve(x / 127.5 - 1, "stem", 1, training).relu()
        for stage in ("stage1", "stage2", "stage3"):
            shortcut = self.convolve(x[every_other], f"{stage}_shortcut", 1, training)
            x = self.convolve(x, f"{stage}_1", 2, training).relu()
            x = (shortcut + self.convolve(x, f"{stage}_2", 1, training)).relu()
        return x.mean(tuple(range(2, x.ndim)))


def projector(torch, inputs, hidden, outputs):
    """Return `projection_head` in PyTorch."""
    layers = []
    for units in hidden:
        layers += [
            torch.nn.Linear(inputs, units, bias=False),
            torch.nn.BatchNorm1d(units, eps=1e-3),
            torch.nn.ReLU(),
        ]
        inputs = units
    layers.append(torch.nn.Linear(inputs, outputs))
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
    return torch.nn.Sequential(*layers)


class Pretext:
    """A pretext task: its inputs, and the loss of an encoder on them."""

    def __init__(self, part, name, network):
        import torch

        self.torch, self.task, self.name = torch, part.task(name), name
        width = network.variables["stage3_2_bn/beta"].shape[0]
        units = getattr(self.task, "hidden_units", ())
        if name == "rotation":
            outputs = self.task.num_classes(part.shape)
        else:
            outputs = self.task.embedding_dim if name == "exemplar" else self.task.projection_dim
        self.head = projector(torch, width, units, outputs)
        self.parameters = list(self.head.parameters())
        if name == "byol":
            self.predictor = projector(torch, outputs, units, outputs)
            self.parameters += list(self.predictor.parameters())
            self.teacher = copy.deepcopy((network, self.head))

    def inputs(self, images, seed):
        """Return inputs, channels first, and labels, one for each image or for each of its views."""
        made, targets = self.task.preprocess(keras.ops.convert_to_tensor(images, "float32"), seed)
        made = made.movedim(-1, 1)
        return made.reshape(len(images), -1, *made.shape[1:]), targets if self.name == "rotation" else None

    def loss(self, network, inputs, targets, course):
        """Return the loss of a batch; `course` goes from 0 to 1 during the run."""
        torch, inputs = self.torch, inputs.flatten(0, 1)
        outputs = self.head(network(inputs, True))
        if self.name == "rotation":
            return torch.nn.functional.cross_entropy(outputs, targets.long())
        if self.name == "byol":
            with torch.no_grad():
                momentum = 1 - (1 - self.task.momentum) * 0.5 * (1 + np.cos(np.pi * course))
                students = [*network.parameters(), *self.head.parameters()]
                teachers = [*self.teacher[0].parameters(), *self.teacher[1].parameters()]
                torch._foreach_lerp_(teachers, students, 1 - momentum)
                targets = self.teacher[1](self.teacher[0](inputs, True))
            outputs = {"predictions": self.predictor(outputs), "targets": targets}
        return self.task.compute_loss({}, outputs).mean()


def adam(torch, groups, decay):
    """Return AdamW on groups of (parameters, rate), of which kernels alone decay."""
    split = [
        {
            "params": [p for p in some if (p.ndim > 1) == kernels],
            "weight_decay": decay * kernels,
            "base": rate,
            "lr": rate,
        }
        for some, rate in groups
        for kernels in (True, False)
    ]
    return torch.optim.AdamW([group for group in split if group["params"]], eps=1e-7, foreach=True)


def pretrain(part, arm, seed, settings):
    """Return an encoder's network after pretraining by the tasks of an arm, and what is recorded of it."""
    import torch

    keras.utils.set_random_seed(seed)
    network = Network(part.build())
    if arm == SCRATCH:
        return network, {}
    torch.manual_seed(seed)
    tasks = [Pretext(part, name, network) for name in arm.split("+")]
    images, steps = part.images[part.pool], settings["steps"]
    every = [*network.parameters(), *(p for task in tasks for p in task.parameters)]
    optimizer = adam(torch, [(every, settings["rate"])], settings["decay"])
    seeds, generator = keras.random.SeedGenerator(seed), np.random.default_rng((seed, 2))
    warmup, order, curve, scales = round(settings["warmup"] * steps), np.array([], int), [], None
    for step in range(steps):
        if len(order) < settings["batch"]:
            order = generator.permutation(len(images))
            with torch.no_grad():
                epoch = [task.inputs(images[order], seeds) for task in tasks]
            order = np.arange(len(images))
        rows, order = order[: settings["batch"]], order[settings["batch"] :]
        losses = [
            task.loss(network, made[rows], None if targets is None else targets[rows], step / steps)
            for task, (made, targets) in zip(tasks, epoch, strict=True)
        ]
        if scales is None:
            # Losses of several tasks differ by orders of magnitude.
            scales = [1.0 / loss.item() if len(losses) > 1 else 1.0 for loss in losses]
        loss = sum(scale * loss for scale, loss in zip(scales, losses, strict=True))
        optimizer.zero_grad()
        loss.backward()
        if settings["clip"]:
            torch.nn.utils.clip_grad_norm_(every, settings["clip"])
        course = max(step - warmup, 0) / (steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * min((step + 1) / warmup, 0.5 * (1 + np.cos(np.pi * course)))
        optimizer.step()
        curve.append(loss.item())
    tenth = max(steps // 10, 1)
    return network, {
        "pretext_first_loss": round(float(np.mean(curve[:tenth])), 4),
        "pretext_last_loss": round(float(np.mean(curve[-tenth:])), 4),
    }


def embed(network, images):
    """Return features of frozen images."""
    import torch

    with torch.no_grad():
        return torch.cat([network(some, False) for some in torch_images(images).split(100)])


def fine_tune(part, network, rows, pretrained, seed, settings):
    """Train encoder and head on labeled rows; return predictions and probabilities of the test images."""
    import torch

    torch.manual_seed(seed)
    width, units = network.variables["stage3_2_bn/beta"].shape[0], part.head.output_units
    head = projector(torch, width, (), units)
    labels = torch.tensor(part.labels[rows])
    targets = (labels[:, None] > torch.arange(units)).float() if part.grades > 2 else labels
    steps, batch, views = settings["steps"], settings["batch"], np.random.default_rng((seed, 3))
    warmup = round(settings["warmup"] * steps) if pretrained else 0
    of_head = adam(torch, [(list(head.parameters()), settings["rate"])], settings["decay"])
    of_encoder = adam(torch, [(network.parameters(), settings["encoder_rate"])], settings["decay"])
    generator, order = np.random.default_rng((seed, 1)), np.array([], int)
    functional = torch.nn.functional
    for step in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, generator.permutation(len(rows))])
        if step % 50 == 0:
            while len(order) < 50 * batch:
                order = np.concatenate([order, generator.permutation(len(rows))])
            made = torch_images(part.views(part.images[rows[order[: 50 * batch]]].astype("float32"), views))
        chosen, order = order[:batch], order[batch:]
        images = made[step % 50 * batch : (step % 50 + 1) * batch]
        frozen = step < warmup
        with torch.set_grad_enabled(not frozen):
            features = network(images, not frozen)
        outputs = head(features)
        if part.grades > 2:
            loss = functional.binary_cross_entropy_with_logits(outputs, targets[chosen])
        else:
            loss = functional.cross_entropy(outputs, targets[chosen])
        used = [of_head] if frozen else [of_head, of_encoder]
        for one in used:
            one.zero_grad()
        loss.backward()
        for one in used:
            for group in one.param_groups:
                group["lr"] = group["base"] * 0.5 * (1 + np.cos(np.pi * step / steps))
            one.step()
    with torch.no_grad():
        outputs = head(embed(network, part.images[part.test]))
        outputs = outputs.sigmoid() if part.grades > 2 else outputs.softmax(-1)
    return part.head.decode(outputs.numpy()), part.head.probabilities(outputs.numpy())


def scores(part, predicted, probabilities=None):
    """Return test scores."""
    names = ("qw_kappa",) if probabilities is None else ("qw_kappa", "macro_auc")
    truth = part.labels[part.test]
    found = metrics.grading_scores(truth, predicted, probabilities, num_grades=part.grades, names=names)
    return {name: round(float(value), 5) for name, value in found.items()}


def run(part, arm, seed, a, done, out):
    """Compute what is missing of an arm and a seed, and append it to the records."""
    wanted = [("probe", f) for f in FRACTIONS] + [("tuned", f) for f in a.fractions]
    missing = [one for one in wanted if (arm, seed, a.setting, *one) not in done]
    if not missing:
        return
    begin, pretext = time.process_time(), {**PRETEXT, **json.loads(a.pretext)}
    cache = Path(a.cache) / f"{part.name}-{arm}-{seed}{a.setting and '-' + a.setting}.npy"
    if cache.exists():
        network, summary = np.load(cache, allow_pickle=True)
    else:
        network, summary = pretrain(part, arm, seed, pretext)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, np.array([network, summary], dtype=object), allow_pickle=True)
    spent = time.process_time() - begin
    features = embed(network, part.images).numpy()
    for judge, fraction in missing:
        begin = time.process_time()
        rows = part.pool[data.labeled_subset(part.labels[part.pool], fraction, seed=seed)]
        if judge == "probe":
            predicted = linear_probe_predict(features[rows], part.labels[rows], features[part.test])
            found = scores(part, predicted)
            neighbors = knn_predict(features[rows], part.labels[rows], features[part.test])
            found["knn_qw_kappa"] = scores(part, neighbors)["qw_kappa"]
            found["effective_rank"] = round(effective_rank(features), 2)
        else:
            tuned, settings = copy.deepcopy(network), {**TUNING, "steps": STEPS[fraction]}
            predicted, probabilities = fine_tune(part, tuned, rows, arm != SCRATCH, seed, settings)
            found = scores(part, predicted, probabilities)
        record = {
            "task": "",
            "arm": arm,
            "fraction": fraction,
            "repetition": seed,
            "fold": 0,
            "judge": judge,
            "setting": a.setting,
            "labels": len(rows),
            "train_images": len(part.pool),
            "test_images": len(part.test),
            **found,
            "steps": STEPS[fraction] if judge == "tuned" else None,
            **({"pretext": pretext, **summary, "pretext_cpu_seconds": round(spent, 1)} if summary else {}),
            "cpu_seconds": round(time.process_time() - begin, 1),
        }
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if judge == "tuned":
            value = record[METRICS[part.name]]
            print(
                f"{arm}, {fraction:g}, seed {seed}: {value:.3f}",
                record["cpu_seconds"],
                round(spent, 1),
                flush=True,
            )


def read(file):
    """Return the records of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def print_tables(records, metric, baseline=SCRATCH):
    """Print, by judge and setting, means of all arms and their paired differences to the baseline."""
    scratch = [one for one in records if one["arm"] == baseline]
    for judge, setting in dict.fromkeys((one["judge"], one["setting"]) for one in records):
        runs = [one for one in records if (one["judge"], one["setting"]) == (judge, setting)]
        if setting:
            # Nothing of a setting applies to training from scratch.
            runs += [one for one in scratch if one["judge"] == judge and one["setting"] == ""]
        score = "qw_kappa" if judge == "probe" else metric
        gains = {
            (row["arm"], row["fraction"]): row for row in evaluation.paired_differences(runs, score, baseline)
        }
        print(f"\n{judge}{setting and ', ' + setting}: {score}\n")
        print(f"| labels | arm | seeds | mean (min to max) | minus {baseline} (95 % interval) | wins |")
        print("| --- | --- | ---: | --- | --- | ---: |")
        rows = evaluation.summarize(runs, score)
        for row in sorted(rows, key=lambda row: (row["fraction"], row["arm"] != baseline, -row["mean"])):
            gain = gains.get((row["arm"], row["fraction"]))
            cells = [f"{100 * row['fraction']:g} % ({row['labels']:.0f})", row["arm"], str(row["runs"])]
            cells.append(f"{row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})")
            if gain and gain["pairs"]:
                ends = "" if gain["low"] is None else f" ({gain['low']:+.3f} to {gain['high']:+.3f})"
                cells += [f"{gain['mean']:+.3f}{ends}", f"{gain['wins']} of {gain['pairs']}"]
            else:
                cells += ["", ""]
            print("| " + " | ".join(cells) + " |")


def main():
    """Train what is missing, then print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=METRICS, help="data set")
    parser.add_argument("--data", type=Path, help="folder of data sets; without it, tables only")
    parser.add_argument("--arms", nargs="+", default=[SCRATCH, "rotation", "vicreg", "simclr"])
    parser.add_argument("--fractions", type=float, nargs="*", default=[0.1], help="of fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pretext", default="{}", help="changes of the pretraining, as JSON")
    parser.add_argument("--setting", default="", help="name of these changes in the records")
    parser.add_argument("--cache", default="pretraining_pays_output", help="folder of pretrained weights")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--until", default="24:00", help="time of day after which nothing is begun")
    a = parser.parse_args()
    out = a.records / f"pretraining_{a.name}.jsonl"
    if a.data:
        a.records.mkdir(exist_ok=True)
        part = Part(a.name, a.data)
        keys = ("arm", "repetition", "setting", "judge", "fraction")
        done = {tuple(one[key] for key in keys) for one in read(out)}
        for seed in a.seeds:
            for arm in a.arms:
                if time.strftime("%H:%M") < a.until:
                    run(part, arm, seed, a, done, out)
    print_tables(read(out), METRICS[a.name])


if __name__ == "__main__":
    main()

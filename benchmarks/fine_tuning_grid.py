"""Grid of fine-tuning recipes on few labels: from scratch and after two pretext tasks.

    KERAS_BACKEND=torch python benchmarks/fine_tuning_grid.py --run plan.jsonl --data FOLDER --encoders FOLDER
    python benchmarks/fine_tuning_grid.py                 # tables from benchmarks/records

RetinaMNIST at 28 pixels with 80 labels, 10 % of the training pool of 800. Recipes are chosen by the kappa
of 240 validation images; 400 test images are scored in every run and choose nothing. `plan.jsonl` has a
line per recipe: the settings that differ from `CENTER`. The network and the losses are those of the library,
trained in plain PyTorch, since Keras' overhead per step is several times the work on images of this size.
"""

import argparse
import json
import os
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ssl
from keras_ssl import data as keras_ssl_data
from keras_ssl.metrics import grading_scores
from keras_ssl.preprocessing import Augmentation, Geometry, fundus_views

RECORDS = Path(__file__).parent / "records" / "fine_tuning_grid.jsonl"
CENTER = {
    "rate": 1e-3,
    "encoder_rate": 3e-4,
    "layer_decay": 1.0,
    "augment": "fundus_views",
    "steps": 300,
    "warmup": 0.2,
    "weight_decay": 0.05,
}
# Momentum of averages of the weights, which every run keeps beside them.
MOMENTUM = 0.98
LABELS, BATCH, VALIDATIONS = 80, 16, 4
# Augmented versions of each labeled image; a run draws among them.
VERSIONS = 80
AUGMENTATIONS = {
    "flips": lambda: Augmentation(geometry=Geometry(flip_axes=(0, 1))),
    "fundus": Augmentation.fundus,
    "fundus_views": fundus_views,
}
TASKS = {
    "rotation": lambda: keras_ssl.RotationTask(),
    "vicreg": lambda: keras_ssl.VICRegTask(views=fundus_views()),
}
ARMS = ("scratch", *TASKS)


def load(folder):
    """Images, grades, and rows of training, validation and test."""
    images, grades = keras_ssl_data.load_medmnist(folder / "retinamnist/retinamnist.npz", ("train", "val"))
    images, grades = np.asarray(images), np.asarray(grades).ravel().astype(int)
    pool, test = keras_ssl_data.stratified_split(grades, 1 / 3, seed=0)
    train, validation = (pool[rows] for rows in keras_ssl_data.stratified_split(grades[pool], 0.3, seed=0))
    return images, grades, train, validation, test


def build():
    """Return a new encoder."""
    return keras_ssl.encoders.small_encoder((28, 28, 3), value_range=(0, 255))


class Network:
    """`small_encoder` with an `OrdinalHead(5)`, from the weights of a Keras encoder."""

    def __init__(self, encoder, seed):
        import torch

        self.torch = torch
        self.variables, self.statistics, self.depth = {}, {}, {}
        for layer in encoder.layers:
            for weight in layer.weights:
                stage = int(layer.name[5]) if layer.name.startswith("stage") else 0
                value = np.array(keras.ops.convert_to_numpy(weight))
                key = f"{layer.name}/{weight.name}"
                tensor = torch.tensor(value.transpose(3, 2, 0, 1).copy() if value.ndim == 4 else value)
                if weight.name.startswith("moving"):
                    self.statistics[key] = tensor
                else:
                    self.variables[key], self.depth[key] = tensor.requires_grad_(), 3 - stage
        generator = np.random.default_rng(seed)
        limit = np.sqrt(6 / (64 + 4))
        self.head = [
            torch.tensor(generator.uniform(-limit, limit, (4, 64)).astype("float32")).requires_grad_(),
            torch.zeros(4).requires_grad_(),
        ]

    def convolve(self, x, name, stride, training):
        """Convolution with "same" padding and batch normalization."""
        functional = self.torch.nn.functional
        kernel = self.variables[f"{name}_conv/kernel"]
        missing = max((-(-x.shape[2] // stride) - 1) * stride + kernel.shape[2] - x.shape[2], 0)
        before = missing // 2
        x = functional.pad(x, (before, missing - before) * 2) if missing else x
        x = functional.conv2d(x, kernel, stride=stride)
        mean, variance = (self.statistics[f"{name}_bn/moving_{part}"] for part in ("mean", "variance"))
        scale, offset = self.variables[f"{name}_bn/gamma"], self.variables[f"{name}_bn/beta"]
        return functional.batch_norm(x, mean, variance, scale, offset, training, 0.1, 1e-3)

    def features(self, x, training):
        """Pooled features of images `(n, 3, 28, 28)`, 0 to 255."""
        x = self.convolve(x / 127.5 - 1, "stem", 1, training).relu()
        for stage in ("stage1", "stage2", "stage3"):
            shortcut = self.convolve(x[:, :, ::2, ::2], f"{stage}_shortcut", 1, training)
            x = self.convolve(x, f"{stage}_1", 2, training).relu()
            x = (shortcut + self.convolve(x, f"{stage}_2", 1, training)).relu()
        return x.mean((2, 3))

    def logits(self, x, training):
        """Cumulative logits of the grades."""
        return self.torch.nn.functional.linear(self.features(x, training), *self.head)


def pretrain(name, images, folder, steps=500, draws=16, batch=64):
    """Pretrain once on the training images, without labels, on `draws` random inputs of each image."""
    import torch

    file = folder / f"retinamnist_{name}.keras"
    if file.exists():
        return file
    keras.utils.set_random_seed(0)
    task, encoder, seed = TASKS[name](), build(), keras.random.SeedGenerator(0)
    network = Network(encoder, 0)
    linear, norm, relu = torch.nn.Linear, torch.nn.BatchNorm1d, torch.nn.ReLU
    head = linear(64, 4)
    if name == "vicreg":
        layers = [linear(64, 512), norm(512), relu(), linear(512, 512), norm(512), relu(), linear(512, 512)]
        head = torch.nn.Sequential(*layers)
    drawn = [task.preprocess(keras.ops.convert_to_tensor(images, "float32"), seed) for _ in range(draws)]
    inputs = torch.stack([one[0] for one in drawn]).permute(0, 1, 4, 2, 3).contiguous()
    every = [*network.variables.values(), *head.parameters()]
    groups = [
        {"params": [v for v in every if (v.ndim > 1) == kernels], "weight_decay": decay}
        for kernels, decay in ((True, 0.01), (False, 0.0))
    ]
    adam = torch.optim.AdamW(groups, lr=1e-3, foreach=True)
    generator = np.random.default_rng(0)
    for step in range(steps):
        draw, rows = generator.integers(draws), generator.permutation(len(images))[:batch]
        if name == "vicreg":
            rows = (2 * rows[:, None] + np.arange(2)).ravel()
        outputs = head(network.features(inputs[draw, rows], True))
        if name == "vicreg":
            loss = task.compute_loss(None, outputs)
        else:
            targets = drawn[draw][1][rows].long()
            loss = torch.nn.functional.cross_entropy(outputs, targets)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(every, 5.0)
        for group in adam.param_groups:
            group["lr"] = 1e-3 * min((step + 1) / 50, 0.5 * (1 + np.cos(np.pi * step / steps)))
        adam.step()
        if step % 50 == 49:
            print(name, step + 1, float(loss), flush=True)
    for layer in encoder.layers:
        for weight in layer.weights:
            key = f"{layer.name}/{weight.name}"
            value = {**network.variables, **network.statistics}[key].detach().numpy()
            weight.assign(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    encoder.save(file)
    return file


def optimizer(torch, network, s, *, encoder):
    """AdamW over the encoder or the head; kernels alone decay."""
    groups = []
    if encoder:
        for key, variable in network.variables.items():
            decay = s["weight_decay"] if key.endswith("kernel") else 0.0
            base = s["encoder_rate"] * s["layer_decay"] ** network.depth[key]
            groups.append({"params": [variable], "weight_decay": decay, "base": base, "lr": base})
    else:
        for variable, decay in zip(network.head, (s["weight_decay"], 0.0), strict=True):
            groups.append({"params": [variable], "weight_decay": decay, "base": s["rate"], "lr": s["rate"]})
    # Parameters of one rate and decay in one group, which PyTorch updates at once.
    joined = {}
    for group in groups:
        key = (group["base"], group["weight_decay"])
        joined.setdefault(key, {**group, "params": []})["params"] += group["params"]
    return torch.optim.AdamW(list(joined.values()), eps=1e-7, foreach=True)


def kappa(network, images, grades):
    """Kappa of images `(n, 3, 28, 28)`."""
    torch = network.torch
    with torch.no_grad():
        outputs = torch.cat([network.logits(part, False).sigmoid() for part in images.split(100)]).numpy()
    predicted = keras_ssl.OrdinalHead(5).decode(outputs)
    return round(float(grading_scores(grades, predicted, num_grades=5, names=("qw_kappa",))["qw_kappa"]), 4)


class Views:
    """Augmented versions of the labeled images of a seed, made once."""

    def __init__(self):
        self.made = {}

    def __call__(self, name, seed, images):
        """Return versions `(k, n, 3, 28, 28)`."""
        import torch

        if name == "none":
            return torch.tensor(images.transpose(0, 3, 1, 2).astype("float32"))[None]
        if (name, seed) not in self.made:
            augment, generator = AUGMENTATIONS[name](), np.random.default_rng(seed)
            versions = [augment(images.astype("float32"), generator) for _ in range(VERSIONS)]
            self.made[name, seed] = torch.tensor(np.stack(versions).transpose(0, 1, 4, 2, 3).copy())
        return self.made[name, seed]


def run(s, arm, seed, data, encoders, views):
    """Train one arm once and return its record."""
    import torch

    images, grades, train, validation, test = data
    start, cpu = time.perf_counter(), time.process_time()
    labeled = train[keras_ssl_data.labeled_subset(grades[train], LABELS / len(train), None, seed)]
    keras.utils.set_random_seed(seed)
    encoder = build() if arm == "scratch" else keras.saving.load_model(encoders[arm], compile=False)
    network = Network(encoder, seed)
    versions = views(s["augment"], seed, images[labeled])
    targets = torch.tensor((grades[labeled][:, None] > np.arange(4)).astype("float32"))
    parts = {
        name: (torch.tensor(images[rows].transpose(0, 3, 1, 2).astype("float32")), grades[rows])
        for name, rows in (("val", validation), ("test", test))
    }
    warmup = round(s["warmup"] * s["steps"]) if arm != "scratch" else 0
    optimizers = [optimizer(torch, network, s, encoder=False), optimizer(torch, network, s, encoder=True)]
    every = [*network.variables.values(), *network.head]
    averages = [variable.detach().clone() for variable in every]
    generator = np.random.default_rng((seed, 1))
    order = np.array([], int)
    curves = {name: [] for name in parts}
    for step in range(s["steps"]):
        if len(order) < BATCH:
            order = np.concatenate([order, generator.permutation(len(labeled))])
        rows, order = order[:BATCH], order[BATCH:]
        batch = versions[generator.integers(len(versions), size=BATCH), rows]
        frozen = step < warmup
        with torch.no_grad() if frozen else torch.enable_grad():
            features = network.features(batch, not frozen)
        logits = torch.nn.functional.linear(features, *network.head)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
        used = optimizers[:1] if frozen else optimizers
        for one in used:
            one.zero_grad()
        loss.backward()
        for one in used:
            for group in one.param_groups:
                group["lr"] = group["base"] * 0.5 * (1 + np.cos(np.pi * step / s["steps"]))
            one.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, [v.detach() for v in every], 1 - MOMENTUM)
        if (step + 1) % (s["steps"] // VALIDATIONS) == 0:
            for name, part in parts.items():
                curves[name].append(kappa(network, *part))
    with torch.no_grad():
        for variable, average in zip(every, averages, strict=True):
            variable.copy_(average)
    return {
        "data": "retinamnist",
        "seed": seed,
        "arm": arm,
        "settings": s,
        "val": curves["val"][-1],
        "test": curves["test"][-1],
        "val_average": kappa(network, *parts["val"]),
        "test_average": kappa(network, *parts["test"]),
        "val_curve": curves["val"],
        "test_curve": curves["test"],
        "seconds": round(time.perf_counter() - start, 1),
        "cpu": round(time.process_time() - cpu, 1),
    }


def key_of(s, arm, seed):
    """Identify a run."""
    return json.dumps([{**CENTER, **s}, arm, seed], sort_keys=True)


def read(file):
    """Records of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def work(plan, records, folder, encoders, seeds, wait):
    """Run what the plan lists and the records do not hold yet; the plan is read anew after each run."""
    data, views, pretrained = load(folder), Views(), {}
    done = {key_of(r["settings"], r["arm"], r["seed"]) for r in read(records)}
    while True:
        todo = [
            ({**CENTER, **json.loads(line)}, arm, seed)
            for seed in seeds
            for line in plan.read_text().splitlines()
            if line.strip()
            for arm in ARMS
        ]
        todo = [one for one in todo if key_of(*one) not in done]
        if not todo and not wait:
            return
        if not todo:
            time.sleep(5)
            continue
        s, arm, seed = todo[0]
        if arm in TASKS and arm not in pretrained:
            pretrained[arm] = pretrain(arm, data[0][data[2]], encoders)
        record = run(s, arm, seed, data, pretrained, views)
        done.add(key_of(s, arm, seed))
        with records.open("a") as out:
            out.write(json.dumps(record) + "\n")


def table(records):
    """Print a Markdown table: mean kappa of each arm, and of all arms less the center with the same seeds."""
    groups = defaultdict(dict)
    for record in records:
        changes = {name: value for name, value in record["settings"].items() if value != CENTER[name]}
        groups[json.dumps(changes)][record["arm"], record["seed"]] = record
    center = groups["{}"]
    parts = ("val", "test")
    names = [f"{arm} {part}" for part in parts for arm in ARMS]
    print("| recipe | runs | " + " | ".join([*names, *(f"{part} less center" for part in parts)]) + " |")
    print("| --- | ---: |" + " ---: |" * (len(names) + len(parts)))
    for changes, found in groups.items():
        values = [[r[part] for (a, _), r in found.items() if a == arm] for part in parts for arm in ARMS]
        cells = [f"{np.mean(one):.3f}" if one else "" for one in values]
        for part in parts:
            pairs = [r[part] - center[key][part] for key, r in found.items() if key in center]
            cells.append(f"{np.mean(pairs):+.3f}" if pairs and changes != "{}" else "")
        text = ", ".join(f"{name} {value}" for name, value in json.loads(changes).items()) or "center"
        print(f"| {text} | {len(found)} | " + " | ".join(cells) + " |")


def main():
    """Print tables, or run a plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("records", type=Path, nargs="?", default=RECORDS)
    parser.add_argument("--run", type=Path, help="plan of recipes, a JSON line each")
    parser.add_argument("--data", type=Path, help="folder of retinamnist/retinamnist.npz")
    parser.add_argument("--encoders", type=Path, default=Path("."), help="folder of pretrained encoders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--wait", action="store_true", help="wait for further lines of the plan")
    a = parser.parse_args()
    if a.run:
        work(a.run, a.records, a.data, a.encoders, a.seeds, a.wait)
    table(read(a.records))


if __name__ == "__main__":
    main()

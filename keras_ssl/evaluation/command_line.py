"""Command-line options for a study, the same in every script, and error messages that name them."""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import keras
import numpy as np

from keras_ssl import tasks
from keras_ssl._model_files import load_model
from keras_ssl.data.datasets import load_medmnist
from keras_ssl.evaluation.protocol import Arm, PretextRecipe, Protocol
from keras_ssl.preprocessing.views import ViewMaker
from keras_ssl.tasks.base import PretextTask

# Fields of `Protocol` with an option.
_OPTIONS = (
    *("arms", "fractions", "folds", "repetitions", "steps", "validations", "warmup_fraction", "batch_size"),
    *("learning_rate", "encoder_learning_rate", "layer_decay", "weight_decay", "ema_momentum"),
    *("tune", "tune_by", "select_by", "pretrain_on", "seed"),
)


def add_protocol_arguments(parser: argparse._ActionsContainer) -> None:
    """Add an option for each field of `Protocol` that varies between studies.

    The options have no defaults: see `chosen_protocol`.

    Args:
        parser: an `argparse.ArgumentParser`, or a group of one.

    >>> parser = argparse.ArgumentParser()
    >>> add_protocol_arguments(parser)
    >>> chosen_protocol(parser.parse_args(["--folds", "3"]), Protocol(steps=200)).folds
    3
    """
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=get_args(Arm),
        help='variants to compare: "initialized" (pretrained, fine-tuned), "frozen" (pretrained, only the '
        'head is trained), "random" (from scratch)',
    )
    parser.add_argument(
        "--fractions", type=float, nargs="+", help="fractions of the training labels, such as 0.05 0.1 1"
    )
    parser.add_argument("--folds", type=int, help="folds of the cross-validation; 1 for a single test set")
    parser.add_argument("--repetitions", type=int, help="repetitions with other labeled subsets and seeds")
    parser.add_argument("--steps", type=int, help="optimizer steps of every run, warm-up included")
    parser.add_argument("--validations", type=int, help="number of validations during a run")
    parser.add_argument(
        "--warmup-fraction", type=float, help="fraction of the steps with a frozen encoder, in [0, 1)"
    )
    parser.add_argument("--batch-size", type=int, help="images in a batch")
    parser.add_argument("--learning-rate", type=float, help="learning rate of AdamW")
    parser.add_argument("--encoder-learning-rate", type=float, help="learning rate of the encoder")
    parser.add_argument(
        "--layer-decay", type=float, help="decay of the encoder's rate from layer to layer, in (0, 1]"
    )
    parser.add_argument("--weight-decay", type=float, help="weight decay of kernels")
    parser.add_argument(
        "--ema-momentum", type=float, help="momentum of moving averages of the weights, in [0, 1)"
    )
    # The default is None rather than False, so that the protocol decides if the option is not given.
    parser.add_argument(
        "--tune", action="store_true", default=None, help="choose the learning rate on the validation set"
    )
    parser.add_argument(
        "--tune-by", help="validation metric by which --tune chooses, such as macro_auc or loss"
    )
    parser.add_argument(
        "--select-by", help="validation metric by which the weights of the best validation are kept"
    )
    parser.add_argument(
        "--pretrain-on",
        choices=("fold", "all"),
        help='images to pretrain on: "fold" (training set of the fold) or "all" (including test images, as '
        "in older work, which makes results too optimistic)",
    )
    parser.add_argument("--seed", type=int, help="seed of splits, labeled subsets and weights")


def chosen_protocol(arguments: argparse.Namespace, default: Protocol) -> Protocol:
    """Return `default` with the fields that were given on the command line replaced.

    Args:
        arguments: parsed arguments of a parser with `add_protocol_arguments`; others are ignored.
        default: the protocol of the script.

    Raises:
        ValueError: a value is out of range.

    >>> chosen_protocol(argparse.Namespace(steps=50, folds=None, output="here"), Protocol()).steps
    50
    """
    given = {name: value for name in _OPTIONS if (value := getattr(arguments, name, None)) is not None}
    return dataclasses.replace(default, **given)


# Pretext tasks by the names that are typed for them.
TASKS: dict[str, type[PretextTask]] = {
    name.removesuffix("Task").lower(): getattr(tasks, name)
    for name in tasks.__all__
    if name.endswith("Task") and name not in ("PretextTask", "MultiTask")
}

# Learning rate of pretraining that continues from given weights, about a tenth of that from new ones.
_CONTINUED_RATE = 1e-4

# Before the name of a task: from new weights, although weights are given.
_SCRATCH = "scratch+"


def task_by_name(name: str, own: PretextTask | None = None, views: ViewMaker | None = None) -> PretextTask:
    """Return the pretext task of a name: that of its class in lower case, without "Task".

    Args:
        name: name such as `"vicreg"`, or several joined by a plus sign, which are trained together.
        own: a task with settings of the script, in place of the default of its class.
        views: views of the tasks that take some; their default if `None`.

    Raises:
        ValueError: a name is unknown.

    >>> [type(task).__name__ for task in task_by_name("rotation+vicreg").tasks]
    ['RotationTask', 'VICRegTask']
    """
    found: list[PretextTask] = []
    for part in name.split("+"):
        if part not in TASKS:
            raise ValueError(
                f"`tasks` must be names of {sorted(TASKS)}, joined by + or not. Received {name!r}."
            )
        if own is not None and type(own) is TASKS[part]:
            found.append(own)
        else:
            takes_views = "views" in {field.name for field in dataclasses.fields(TASKS[part])}
            found.append(TASKS[part](**({"views": views} if takes_views and views is not None else {})))
    return found[0] if len(found) == 1 else tasks.MultiTask(tasks=tuple(found))


class GivenWeights(NamedTuple):
    """A trained encoder and its name in records."""

    name: str
    encoder: keras.Model


def load_weights(path: str) -> GivenWeights:
    """Load a saved encoder, whose name in records is that of the file; all of its layers become trainable.

    Raises:
        ValueError: the file is no model that Keras can load.
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`encoder` must name a saved Keras model. Received {path}.")
    model = load_model(path, "encoder")
    frozen = [layer.name for layer in model.layers if layer.weights and not layer.trainable]
    if frozen:
        print(
            f"{Path(path).name}: {len(frozen)} layers were saved as frozen and are trained here", flush=True
        )
    model.trainable = True
    name = re.sub(r"\W+", "_", Path(path).stem, flags=re.ASCII)
    return GivenWeights(f"{name}_weights" if name in (*TASKS, "none", "scratch") else name, model)


def add_pretraining_arguments(parser: argparse._ActionsContainer, unlabeled: str) -> None:
    """Add the options `--tasks`, see `chosen_pretraining`, and `--unlabeled`, with the help of the latter."""
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help=f"pretext tasks to compare: {', '.join(sorted(TASKS))}; rotation+vicreg trains both together. "
        "With given weights, tasks continue from them, and scratch+TASK starts from new weights (default: "
        "rotation; with given weights, both)",
    )
    parser.add_argument("--unlabeled", metavar="PATH", help=unlabeled)


def chosen_pretraining(
    names: Sequence[str] | None,
    recipe: PretextRecipe,
    *,
    weights: GivenWeights | None = None,
    views: ViewMaker | None = None,
) -> dict[str, keras.Model | PretextRecipe]:
    """Return `pretrained` of `label_efficiency` for names of tasks and given weights.

    Args:
        names: names of tasks, see `task_by_name`; `None` for the task of `recipe`. With `weights`, a task
            continues from these unless its name begins with `scratch+`; `None` then stands for both.
        recipe: recipe of every task. Unless it states a learning rate, that of tasks that continue is 1e-4.
        weights: given weights, which are also compared by themselves.
        views: as in `task_by_name`.

    Raises:
        ValueError: a name is unknown or given twice.

    >>> recipe = PretextRecipe(task=tasks.RotationTask(), epochs=1)
    >>> list(chosen_pretraining(["vicreg", "rotation+simclr"], recipe))
    ['vicreg', 'rotation+simclr']
    >>> list(chosen_pretraining(None, recipe, weights=GivenWeights("imagenet", keras.Sequential())))
    ['rotation', 'imagenet', 'imagenet+rotation']
    """
    default = next(name for name, kind in TASKS.items() if kind is type(recipe.task))
    if names is None:
        names = [default] if weights is None else [_SCRATCH + default, default]
    if len(set(names)) < len(names):
        raise ValueError(f"`tasks` must be distinct. Received {list(names)}.")
    recipes = {
        name: dataclasses.replace(recipe, task=task_by_name(name.removeprefix(_SCRATCH), recipe.task, views))
        for name in names
    }
    if weights is None:
        return {name.removeprefix(_SCRATCH): one for name, one in recipes.items()}
    rate = _CONTINUED_RATE if recipe.learning_rate is None else recipe.learning_rate
    return {
        **{name.removeprefix(_SCRATCH): one for name, one in recipes.items() if name.startswith(_SCRATCH)},
        weights.name: weights.encoder,
        **{
            f"{weights.name}+{name}": dataclasses.replace(one, learning_rate=rate)
            for name, one in recipes.items()
            if not name.startswith(_SCRATCH)
        },
    }


def load_unlabeled(path: str) -> np.ndarray:
    """Read images without labels from a MedMNIST file, without its labels and test part, or a `.npy` file.

    Args:
        path: `.npz` file, or `.npy` file of an array `(n, *spatial, channels)`, which is memory-mapped.

    Raises:
        ValueError: the file is neither, or damaged.
        OSError: it cannot be read.
    """
    if path.endswith(".npz"):
        return load_medmnist(path, ("train", "val")).images
    if not path.endswith(".npy"):
        raise ValueError(f"`unlabeled` must name images in a .npz or .npy file. Received {path}.")
    return np.load(path, mmap_mode="r")


def describe_pretraining(name: str, history: Mapping[str, Sequence[float]]) -> str:
    """Return the last accuracy of a pretext task, or its loss, in training and on held-out images.

    >>> describe_pretraining("rotation-f0", {"accuracy": [0.25, 0.5], "val_accuracy": [0.25, 0.4]})
    'rotation-f0: accuracy 50 % in training, 40 % on held-out images'
    """
    kind, form = ("accuracy", ".0%") if "val_accuracy" in history else ("loss", ".3g")
    held_out = f", {history[f'val_{kind}'][-1]:{form}} on held-out images" if f"val_{kind}" in history else ""
    text = f"{name}: {kind} {history[kind][-1]:{form}} in training{held_out}"
    return text.replace("%", " %")


def error_message(error: BaseException, options: Mapping[str, str] | None = None) -> str:
    r"""Return the message of an error in one line, with options in place of Python arguments.

    Args:
        error: the error.
        options: names of options by the names of further arguments, such as `{"output_dir": "--output"}`.

    >>> error_message(ValueError("`warmup_fraction` must be\nbelow 1. Received 2."))
    '--warmup-fraction must be below 1. Received 2.'
    >>> error_message(ValueError("Two files are there. Pass overwrite=True to replace them."))
    'Two files are there. Pass --overwrite to replace them.'
    """
    text = " ".join(str(error).split()) or f"{type(error).__name__} without a message"
    known = {name: _option(name) for name in (*_OPTIONS, "tasks", "encoder", "unlabeled")} | dict(
        options or {}
    )
    text = re.sub(r"\b([a-z_]+)=True\b", lambda match: known.get(match[1], _option(match[1])), text)
    return re.sub(
        r"`([a-z_.]+)`", lambda match: known.get(match[1].removeprefix("protocol."), match[0]), text
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

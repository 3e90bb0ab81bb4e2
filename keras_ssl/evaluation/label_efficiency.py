"""Label efficiency: compare pretrained encoders with training from scratch on fractions of the labels."""

import dataclasses
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np

from keras_ssl._atomic import atomic_write, ready_folder
from keras_ssl._checks import as_numpy, check_images
from keras_ssl._identity import UnknownIdentityError, describe, digest, weights_digest
from keras_ssl._keras_private import layers_of
from keras_ssl._types import Config, Images, Labels, Record
from keras_ssl.data.lazy_collections import LazyImages
from keras_ssl.data.patients import hash_images, merge_groups
from keras_ssl.encoders._checks import encoder_for, resolve_input_shape
from keras_ssl.evaluation import training_runs
from keras_ssl.evaluation.protocol import (
    Protocol,
    Recipe,
    Run,
    Split,
    make_runs,
    make_splits,
    run_name,
    starting_weights,
)
from keras_ssl.evaluation.records import RUN_KEYS, RecordFile, arm_label
from keras_ssl.evaluation.scoring import Scorer, scorer_for
from keras_ssl.evaluation.training_runs import Pool, Study, run_job
from keras_ssl.heads.base import Head

# Fields of the protocol that may grow between calls: a higher value adds runs and changes none.
_EXTENSIBLE = ("fractions", "repetitions", "arms", "attempts")

# Files and folders that a study and its report write into the output folder.
_RESULTS = (
    *("records.csv", "encoders", "graders", "backups", "report.html"),
    *("label_efficiency.png", "convergence.png", "confusion.png"),
)


def label_efficiency(
    images: Images,
    labels: Labels,
    *,
    encoder: keras.Model,
    pretrained: Mapping[str, keras.Model | Recipe],
    head: Head,
    output_dir: str | os.PathLike[str],
    protocol: Protocol | None = None,
    groups: Labels | None = None,
    unlabeled: Images | None = None,
    unlabeled_groups: Labels | None = None,
    test_rows: Labels | None = None,
    save_graders: bool = False,
    n_jobs: int | None = None,
    verbose: bool = True,
) -> Iterator[Record]:
    """Compare pretrained encoders with training from scratch on increasing fractions of the labels.

    Images are split into training, validation and test sets, stratified by grade (masks: by the amount of
    foreground), with groups and copies of one image kept together. On each fraction of the training labels,
    every variant (arm) of the encoder is trained for the same number of optimizer steps, on the same images,
    with the same augmentation, and evaluated on the same test images, which neither pretraining nor the
    choice of learning rates, weights and thresholds has used.

    Arguments are checked immediately; the runs are made while the iterator is consumed. Each record is
    written as soon as its run ends. A second call with the same arguments skips recorded runs and resumes an
    interrupted one. More `fractions`, `repetitions`, `arms` or tasks add runs. A folder with results of
    another configuration raises an error. Functions and objects in the configuration (recipes, `augment`)
    are identified by their code, constants, defaults, closures, attributes and the globals that they use.

    Args:
        images: array `(n, *spatial, channels)` as the encoder takes them. A memory-mapped array is not loaded
            as a whole, only the training images of each pretraining and run.
        labels: grades or classes, integers from 0, shape `(n,)`; for a `SegmentationHead` masks, shape
            `(n, *spatial)`.
        encoder: the encoder. The arm `"random"` and recipes use its architecture with new weights.
        pretrained: by task name, either a recipe that pretrains the encoder in each fold on the training
            images of the fold (`PretextRecipe`), or an encoder that was pretrained elsewhere, as on ImageNet.
            Whether the latter has seen test images is unknown; records say `"given"`. A recipe whose name
            begins with that of such an encoder and a plus sign continues from its weights, others start from
            new ones: `{"imagenet": model, "imagenet+rotation": recipe, "rotation": recipe}`.
        head: head for grades or classes, such as `OrdinalHead(5)`, or for masks, such as
            `SegmentationHead(3)`. For masks, records hold `dice` (mean over test images and foreground
            classes), `dice_1` and so on for each class, and `jaccard`, in place of kappa.
        output_dir: folder of `records.jsonl`, `records.csv`, `study.json` and the pretrained encoders;
            accessible to all processes.
        protocol: the protocol; `Protocol()` if `None`.
        groups: group of each image, such as its patient, shape `(n,)`. Copies of one image are found and kept
            together in any case.
        unlabeled: pool of images without labels, `(m, *spatial, channels)`, of the type of `images`, on which
            recipes pretrain beside the training images of each fold. Copies of labeled images, and images of
            a group with a validation or test image of the fold, are left out and counted. A memory-mapped
            array or `LazyImages` is not loaded: recipes then receive `LazyImages`.
        unlabeled_groups: group of each image of the pool, named as in `groups`, shape `(m,)`. Without them,
            only copies are recognized.
        test_rows: rows of a predefined test set, or a boolean mask; requires `folds=1`.
        save_graders: whether to keep the models trained on the largest fraction in `graders/`, except
            those trained on the features of a frozen encoder.
        n_jobs: number of processes, as in joblib. In `joblib.parallel_config(backend="dask")`, or another
            backend that returns results unordered, runs are distributed over that cluster.
        verbose: whether to print a line for every pretraining and every run.

    Returns:
        Iterator of records, one per run, previously recorded ones first. See `sort_records`.

    Raises:
        TypeError: an encoder is not a Keras model, or `head` not a `Head`.
        ValueError: an argument is out of range, or contains an object that cannot be identified, such as a
            lock (give its class a `get_config`); images or labels do not match the encoder and the head; a
            grade has too few images; an arm lacks its encoder; `output_dir` holds results of another
            configuration.
        FileExistsError: `output_dir` holds files with the names of results, but no study.
        OSError: `output_dir` cannot be written, at the start or at the end of a run; the same call resumes.
        RuntimeError: errors stopped runs, after all other runs have ended and are recorded; raised as
            ValueError or OSError if the first error is one. The message names the runs; the same call
            repeats them.

    >>> import tempfile, keras_ssl
    >>> from keras_ssl.evaluation import PretextRecipe, Protocol, label_efficiency
    >>> images, grades = keras_ssl.data.synthetic_fundus(40, size=16)
    >>> records = label_efficiency(
    ...     images,
    ...     grades,
    ...     encoder=keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4,)),
    ...     pretrained={
    ...         "rotation": PretextRecipe(task=keras_ssl.RotationTask(guards=None), epochs=1, verbose=0)
    ...     },
    ...     head=keras_ssl.OrdinalHead(5),
    ...     output_dir=tempfile.mkdtemp(),
    ...     protocol=Protocol(fractions=(0.5,), arms=("frozen",), folds=1, steps=4, validations=2),
    ...     verbose=False,
    ... )
    >>> [(record["arm"], record["labels"]) for record in records]
    [('frozen', 15)]

    References:
        Zhai, X. et al. (2019). A large-scale study of representation learning with the visual task
        adaptation benchmark. arXiv 1910.04867.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """
    protocol = protocol or Protocol()
    images = as_numpy(images)
    unlabeled = None if unlabeled is None else as_numpy(unlabeled, "unlabeled")
    scorer = scorer_for(head)
    labels = _checked_labels(images, scorer.check_labels(labels))
    _check_metrics(protocol, scorer)
    _check_encoders(images.shape[1:], encoder, pretrained, protocol, head)
    hashes = hash_images(images)
    pool_hashes = _checked_pool(images, unlabeled, pretrained)
    together, pool_groups = _all_groups(hashes, groups, pool_hashes, unlabeled_groups)
    copies = merge_groups(hashes)
    rows = None if test_rows is None else np.asarray(test_rows)
    if rows is not None and rows.dtype == bool and rows.shape == copies.shape:
        rows = np.flatnonzero(rows)
    strata = scorer.strata(labels)
    splits = make_splits(strata, together, protocol, rows)
    runs = make_runs(strata, together, splits, protocol, list(pretrained))
    models = {name: model for name, model in pretrained.items() if isinstance(model, keras.Model)}
    recipes = {name: recipe for name, recipe in pretrained.items() if name not in models}
    starts = {name: starting_weights(name, tuple(models)) for name in recipes}
    arrays = {"images": images, "labels": labels, "groups": together, "test_rows": rows}
    configuration = {
        **_study_configuration(protocol, recipes, models, encoder, head, arrays),
        **{f"start of {name}": start for name, start in starts.items()},
        "unlabeled": None
        if unlabeled is None
        else f"{unlabeled.shape} {unlabeled.dtype} [{digest(pool_hashes)}]",
        "unlabeled_groups": None if unlabeled is None else _checksum(pool_groups),
    }
    counts = {
        "images": len(images),
        "shape": list(images.shape[1:]),
        **scorer.describe_labels(labels),
        "copies": len(images) - len(np.unique(copies)),
        "groups": len(np.unique(together)),
        "patients": _describe_groups(groups, len(images)),
    }
    pool = None
    if unlabeled is not None:
        on_disk = isinstance(unlabeled, (np.memmap, LazyImages))
        pool = Pool(unlabeled, pool_groups, np.isin(pool_hashes, hashes), on_disk)
    study = Study(
        images, labels, together, head, protocol, Path(output_dir), tuple(models), save_graders, pool
    )
    if pool is not None:
        counts["unlabeled"] = _describe_pool(study, splits, unlabeled_groups is not None)
    if verbose:
        print(f"Groups: {counts['patients']}", flush=True)
        if pool is not None:
            print(f"Unlabeled pool: {counts['unlabeled']}", flush=True)
        for name, start in starts.items():
            if start != "none":
                print(f"{name}: pretraining continues from the weights of {start}", flush=True)
    folder = ready_folder(output_dir, "output_dir")
    _save_configuration(folder, configuration, counts)
    for name, model in {**models, "none": encoder}.items():
        atomic_write(folder / "encoders" / f"{name}.keras", model.save)
    study = dataclasses.replace(study, folder=folder)
    _check_that_encoders_load(study, splits[0], ("none", *models))
    return _run_all(study, recipes, splits, runs, n_jobs, verbose)


def _run_all(
    study: Study,
    recipes: Mapping[str, Recipe],
    splits: list[Split],
    runs: list[Run],
    n_jobs: int | None,
    verbose: bool,
) -> Iterator[Record]:
    """Yield the recorded runs, then pretrain and train whatever is missing."""
    import joblib

    file = RecordFile(study.folder)
    recorded = {_run_name_of(record) for record in file.records}
    requested = {run.name for run in runs}
    yield from (record for record in file.records if _run_name_of(record) in requested)
    pending = [run for run in runs if run.name not in recorded]
    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    errors: dict[str, Exception] = {}
    pretrainings = (
        joblib.delayed(run_job)(
            study.encoder_file(task, split).stem, training_runs.pretrain, study, task, recipe, split
        )
        for task, recipe, split in _missing_pretrainings(study, recipes, splits, pending)
    )
    for name, line in parallel(pretrainings):
        if isinstance(line, Exception):
            errors[name] = line
            line = f"{name}: pretraining stopped by an error, {line}"
        if verbose:
            print(line, flush=True)
    done = len(runs) - len(pending)
    if done and verbose:
        print(f"{done} of {len(runs)} runs were recorded before", flush=True)
    possible = [run for run in pending if study.encoder_file(run.task, run.split).stem not in errors]
    for name, record in parallel(
        joblib.delayed(run_job)(run.name, training_runs.run_arm, study, run) for run in possible
    ):
        if isinstance(record, Exception):
            errors[name] = record
            if verbose:
                print(f"{name}: stopped by an error, {record}", flush=True)
            continue
        file.append(record)
        shutil.rmtree(study.folder / "backups" / _run_name_of(record), ignore_errors=True)
        done += 1
        if verbose:
            print(f"[{done}/{len(runs)}] {_progress_line(record, study.scorer.metrics[0])}", flush=True)
        yield record
    if errors:
        _raise_errors(errors, len(runs) - done, len(runs))


def _missing_pretrainings(
    study: Study, recipes: Mapping[str, Recipe], splits: list[Split], pending: list[Run]
) -> list[tuple[str, Recipe, Split]]:
    """List the pretrainings that the pending runs need, each encoder once."""
    needed = {run.split.pair for run in pending if run.task in recipes}
    missing: dict[Path, tuple[str, Recipe, Split]] = {}
    for name, recipe in recipes.items():
        for split in splits:
            file = study.encoder_file(name, split)
            if split.pair in needed and not file.exists():
                missing.setdefault(file, (name, recipe, split))
    return list(missing.values())


def _raise_errors(errors: Mapping[str, Exception], missing: int, total: int) -> NoReturn:
    """Raise the errors that stopped runs as one error of the class of the first."""
    named = "; ".join(f"{name}: {error}" for name, error in list(errors.items())[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    message = (
        f"{missing} of {total} runs of the study were stopped by errors ({named}{more}). The others are "
        "recorded. After the cause is removed, the same call repeats the missing runs."
    )
    first = next(iter(errors.values()))
    if isinstance(first, OSError):
        raise (OSError(message) if first.errno is None else OSError(first.errno, message)) from first
    raise (ValueError(message) if isinstance(first, ValueError) else RuntimeError(message)) from first


def _run_name_of(record: Record) -> str:
    return run_name(*(record[key] for key in RUN_KEYS))


def _progress_line(record: Record, metric: str) -> str:
    value = record[metric]
    score = "failed" if record["status"] != "ok" else metric.removeprefix("qw_")
    if record["status"] == "ok":
        score += " undefined" if value is None else f" {value:.3f}"
    where = f"repetition {record['repetition'] + 1}, fold {record['fold'] + 1}"
    arm = record["arm"] if record["task"] == "none" else f"{record['arm']} ({record['task']})"
    labels = f"{100 * record['fraction']:g} % of the labels"
    return f"{arm_label(arm)}, {labels}, {where}: {score}, {record['seconds']:.0f} s"


def _study_configuration(
    protocol: Protocol,
    recipes: Mapping[str, Recipe],
    models: Mapping[str, keras.Model],
    encoder: keras.Model,
    head: Head,
    arrays: Mapping[str, np.ndarray | None],
) -> Config:
    """Describe everything that decides the results of a study, readable and with digests of the content."""
    return {
        **{f"protocol.{name}": _readable(name, value) for name, value in vars(protocol).items()},
        **{f"task {name}": _readable(name, recipe) for name, recipe in recipes.items()},
        **{f"task {name}": f"given [{digest(model)}]" for name, model in models.items()},
        "encoder": _readable_encoder(encoder),
        "head": _readable("head", head),
        "backend": keras.backend.backend(),
        **{name: None if array is None else _checksum(array) for name, array in arrays.items()},
    }


def _save_configuration(folder: Path, configuration: Config, data: Config) -> None:
    """Write `study.json`; raise an error if the folder holds results of another configuration."""
    file = folder / "study.json"
    configuration = json.loads(json.dumps(configuration))
    if not file.exists() and (folder / "records.jsonl").exists():
        raise ValueError(f"{folder} holds records without the study.json that describes how they were made.")
    existing = [name for name in _RESULTS if os.path.lexists(folder / name)]
    if existing and not file.exists():
        raise FileExistsError(
            f"`output_dir` must be a new folder or hold the same study. {folder} holds "
            f"{', '.join(existing)}, which would be replaced, but no study.json "
            "of the study that wrote them. Name another folder."
        )
    if file.exists():
        try:
            earlier = json.loads(file.read_text())["configuration"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is damaged. Choose another `output_dir`.") from error
        shared = earlier.keys() & configuration.keys() - {f"protocol.{name}" for name in _EXTENSIBLE}
        changed = sorted(name for name in shared if earlier[name] != configuration[name])
        if changed:
            differences = "; ".join(
                f"{name}: saved {earlier[name]!r}, now {configuration[name]!r}" for name in changed
            )
            raise ValueError(
                f"`output_dir` must be a new folder or hold the same study. Received {folder}, which holds "
                f"one with another configuration ({differences})."
            )
        configuration = {**earlier, **configuration}
    text = json.dumps({"configuration": configuration, "data": data}, indent=2)
    atomic_write(file, lambda path: path.write_text(text))


def _readable(name: str, value: object) -> object:
    """Describe a part of the configuration for people, with a digest of its full behavior."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        described = describe(value)
    except UnknownIdentityError as error:
        raise ValueError(f"`{name}` must be identifiable by its configuration. {error}") from error
    text = getattr(value, "__qualname__", None) or repr(value)
    if " at 0x" in text:
        text = type(value).__qualname__
    return text if isinstance(described, list) and text == repr(value) else f"{text} [{digest(described)}]"


def _readable_encoder(encoder: keras.Model) -> str:
    """Describe an architecture with its state adapted to data, which is kept, as of `Normalization`."""
    kept = [layer for layer in layers_of(encoder) if layer.trainable and not layer.trainable_weights]
    weights = weights_digest([weight for layer in kept for weight in layer.weights])
    return f"{encoder.count_params()} weights [{digest([describe(encoder, weights=False), weights])}]"


def _checksum(array: np.ndarray) -> str:
    """Return shape, type and checksum of an array, read row by row, for memory-mapped arrays."""
    checksum = 0
    for row in array:
        checksum = zlib.crc32(np.ascontiguousarray(row).data, checksum)
    return f"{array.shape} {array.dtype} [{checksum:08x}]"


def _describe_groups(groups: Labels | None, count: int) -> str:
    """Describe the groups for console and report."""
    given = count if groups is None else len(np.unique(_checked_groups(groups, count)))
    if given == count:
        return "patients are unknown: each image counts as a patient of its own"
    return f"{count} images in {given} groups that are kept together, such as patients and copies"


def _describe_pool(study: Study, splits: list[Split], groups_known: bool) -> str:
    """Describe the pool, and how many of its images each fold leaves out, for console and report."""
    assert study.pool is not None
    total = len(study.pool.groups)
    left_out = sorted({total - len(study.pool_rows(split)) for split in splits})
    counts = " to ".join(map(str, dict.fromkeys((left_out[0], left_out[-1]))))
    of_groups = "" if groups_known else "; their patients are unknown, so that only copies are recognized"
    return (
        f"{total} images without labels; {counts} of them left out of a pretraining, as copies of labeled "
        f"images or of the groups of its validation and test images{of_groups}"
    )


def _checked_pool(
    images: np.ndarray, unlabeled: Images | None, pretrained: Mapping[str, keras.Model | Recipe]
) -> list[str]:
    """Validate the pool and return a hash of each of its images."""
    if unlabeled is None:
        return []
    if (unlabeled.shape[1:], unlabeled.dtype) != (images.shape[1:], images.dtype):
        raise ValueError(
            "`unlabeled` must be of the shape and type of `images`, "
            f"(m, {', '.join(map(str, images.shape[1:]))}) of {images.dtype}. Received {unlabeled.shape} of "
            f"{unlabeled.dtype}."
        )
    try:
        # Lazy images are checked when they are read.
        check_images(unlabeled[:1] if isinstance(unlabeled, LazyImages) else unlabeled)
    except ValueError as error:
        raise ValueError(str(error).replace("`images`", "`unlabeled`")) from error
    if all(isinstance(one, keras.Model) for one in pretrained.values()):
        raise ValueError(
            "`unlabeled` requires a recipe in `pretrained`, which pretrains on it. Received "
            f"{list(pretrained)}, all of them encoders."
        )
    return hash_images(unlabeled)


def _all_groups(
    hashes: list[str], groups: Labels | None, pool_hashes: list[str], pool_groups: Labels | None
) -> tuple[np.ndarray, np.ndarray]:
    """Merge copies and groups of labeled images and pool; return the group numbers of each."""
    count, more = len(hashes), len(pool_hashes)
    columns: list[np.ndarray] = [np.array([*hashes, *pool_hashes])]
    if pool_groups is not None and (groups is None or not more):
        raise ValueError("`unlabeled_groups` requires `groups` and `unlabeled`. Received it without them.")
    if groups is not None:
        names = _checked_groups(groups, count).tolist()
        # Tuples: no name of a group is that of an image whose group is unknown.
        known = [("group", name) for name in names]
        if pool_groups is None:
            known += [("image", str(row)) for row in range(more)]
        else:
            others = _checked_groups(pool_groups, more, "unlabeled_groups", several=False)
            known += [("group", name) for name in others.tolist()]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(known))}
        columns.append(np.array([numbers[name] for name in known]))
    together = merge_groups(*columns)
    return together[:count], together[count:]


def _checked_labels(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    check_images(images)
    if len(labels) != len(images) or (labels.ndim > 1 and labels.shape[1:] != images.shape[1:-1]):
        wanted = images.shape[:-1] if labels.ndim > 1 else images.shape[:1]
        raise ValueError(f"`labels` must have shape {wanted}, as `images`. Received shape {labels.shape}.")
    return labels


def _checked_groups(groups: Labels, count: int, argument: str = "groups", several: bool = True) -> np.ndarray:
    names = np.asarray(groups)
    if names.shape == (count, 1):
        names = names[:, 0]
    if names.shape != (count,):
        raise ValueError(
            f"`{argument}` must be one per image, shape ({count},). Received shape {names.shape}."
        )
    unknown = [name is None or name != name for name in names.tolist()]
    if any(unknown):
        raise ValueError(
            f"`{argument}` must be known for every image; images without one would all form one group. "
            f"Received None or NaN for {sum(unknown)} images, the first in row {unknown.index(True)}."
        )
    if several and count > 1 and (names == names[0]).all():
        raise ValueError(f"`groups` must hold more than one group. Received only {str(names[0])!r}.")
    # Whole numbers without a decimal point: a table's column with blank cells is read as floats, and the same
    # patient must have one name in both tables.
    return np.array(
        [str(int(n) if isinstance(n, float) and n.is_integer() else n) for n in names.tolist()], dtype=str
    )


def _check_metrics(protocol: Protocol, scorer: Scorer) -> None:
    for name in ("tune_by", "select_by"):
        chosen = getattr(protocol, name)
        if chosen is not None and chosen not in scorer.validation_metrics:
            raise ValueError(
                f"`protocol.{name}` must be one of {scorer.validation_metrics}, for this `head`. "
                f"Received {chosen!r}."
            )


def _check_encoders(
    shape: tuple[int, ...],
    encoder: keras.Model,
    pretrained: Mapping[str, keras.Model | Recipe],
    protocol: Protocol,
    head: Head,
) -> None:
    if not isinstance(pretrained, Mapping):
        raise TypeError(
            "`pretrained` must map names to recipes, such as {'rotation': PretextRecipe(...)}. "
            f"Received {pretrained!r}."
        )
    models = {"encoder": encoder}
    models |= {name: model for name, model in pretrained.items() if isinstance(model, keras.Layer)}
    for name, model in models.items():
        if not isinstance(model, keras.Model):
            raise TypeError(f"`{name}` must be a Keras model. Received {model!r}.")
        shape = resolve_input_shape(model, shape)
        head.attach(encoder_for(model, shape), keras.Input(shape))
    weights = [weight.shape for weight in encoder.weights]
    for name, recipe in pretrained.items():
        if not re.fullmatch(r"[A-Za-z0-9_+]+", name) or name == "none":
            raise ValueError(
                "Names in `pretrained` must be of letters, digits, _ and +, and not 'none'. "
                f"Received {name!r}."
            )
        if not callable(recipe):
            raise TypeError(
                "`pretrained` must map names to a `PretextRecipe`, a function that trains, or a Keras "
                f"model. Received {recipe!r} for {name!r}."
            )
        weightless = name.startswith("imagenet+") and not isinstance(pretrained.get("imagenet"), keras.Model)
        if weightless and not isinstance(recipe, keras.Model):
            raise ValueError(
                f"`pretrained` must hold an encoder 'imagenet' that {name!r} starts from. "
                f"Received {list(pretrained)}."
            )
        if isinstance(recipe, keras.Model) and [weight.shape for weight in recipe.weights] != weights:
            raise ValueError(
                "Encoders in `pretrained` must have weights of the same shapes as `encoder`. Received "
                f"{name!r} with {recipe.count_params()} weights instead of {encoder.count_params()}."
            )
    if {"frozen", "initialized"} & set(protocol.arms) and not pretrained:
        raise ValueError(f"`pretrained` must not be empty for the arms {protocol.arms}.")


def _check_that_encoders_load(study: Study, split: Split, tasks: tuple[str, ...]) -> None:
    for task in tasks:
        try:
            study.load_encoder(task, split, seed=0)
        except Exception as error:
            raise ValueError(
                "An encoder must be loadable from its `.keras` file: a custom class needs `get_config` "
                "and `keras.saving.register_keras_serializable`, in an importable module. "
                f"Received {'the encoder' if task == 'none' else task}: {error}"
            ) from error

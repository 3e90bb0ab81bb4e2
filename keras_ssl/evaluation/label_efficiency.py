"""Settings that identify a study, recorded in its folder and compared when it is resumed."""

import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import numpy.typing as npt

from keras_ssl._atomic import atomic_write, ready_folder
from keras_ssl._checks import as_numpy, check_images
from keras_ssl._identity import UnknownIdentityError, describe, digest, weights_digest
from keras_ssl._keras_private import layers_of
from keras_ssl.data.groups import duplicate_groups, merge_groups
from keras_ssl.encoders._checks import resolve_input_shape
from keras_ssl.evaluation.protocol import Protocol, Recipe, Run, Split, make_runs, make_splits, run_name
from keras_ssl.evaluation.records import RUN_KEYS, RecordFile
from keras_ssl.evaluation.scoring import Judge, judge_for
from keras_ssl.evaluation.training_runs import Study, attempt, pretrain, run_arm
from keras_ssl.heads.base import Head

# What may grow from one call to the next: more of it adds runs and changes none.
_EXTENSIBLE = ("fractions", "repetitions", "arms", "attempts")


# What a study writes into its folder, with its reports.
_RESULTS = (
    *("records.csv", "encoders", "graders", "backups", "report.html"),
    *("label_efficiency.png", "convergence.png", "confusion.png"),
)


def study_settings(
    protocol: Protocol,
    recipes: Mapping[str, Recipe],
    models: Mapping[str, keras.Model],
    encoder: keras.Model,
    head: Head,
    arrays: Mapping[str, np.ndarray | None],
) -> dict[str, Any]:
    """Describe all that decides the results of a study: readable, with a digest of the content.

    Args:
        protocol: the protocol.
        recipes: recipes of pretraining by name.
        models: given encoders by name.
        encoder: the encoder whose architecture is trained from scratch, called before.
        head: the head.
        arrays: images, labels, groups and test rows by name.
    """
    return {
        **{f"protocol.{name}": _shown(name, value) for name, value in vars(protocol).items()},
        **{f"task {name}": _shown(name, recipe) for name, recipe in recipes.items()},
        **{f"task {name}": f"given [{digest(model)}]" for name, model in models.items()},
        "encoder": _shown_encoder(encoder),
        "head": _shown("head", head),
        "backend": keras.backend.backend(),
        **{name: None if array is None else _checksum(array) for name, array in arrays.items()},
    }


def record_settings(folder: Path, settings: dict[str, Any], data: dict[str, Any]) -> None:
    """Write down what decides the results; refuse a folder that holds those of other settings."""
    file = folder / "study.json"
    settings = json.loads(json.dumps(settings))
    if not file.exists() and (folder / "records.jsonl").exists():
        raise ValueError(f"{folder} holds records without the study.json that says how they were made.")
    foreign = [name for name in _RESULTS if os.path.lexists(folder / name)]
    if foreign and not file.exists():
        raise FileExistsError(
            f"`output_dir` must be a new folder or hold the same study. {folder} holds {', '.join(foreign)}, "
            "which would be replaced, without the study.json of a study that wrote them. Name another folder."
        )
    if file.exists():
        try:
            earlier = json.loads(file.read_text())["settings"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is damaged. Choose another `output_dir`.") from error
        shared = earlier.keys() & settings.keys() - {f"protocol.{name}" for name in _EXTENSIBLE}
        changed = sorted(name for name in shared if earlier[name] != settings[name])
        if changed:
            said = "; ".join(f"{name}: {earlier[name]} there, {settings[name]} here" for name in changed)
            raise ValueError(
                f"`output_dir` must be a new folder or hold the same study. Received {folder}, which holds "
                f"one with other settings ({said})."
            )
        settings = {**earlier, **settings}
    text = json.dumps({"settings": settings, "data": data}, indent=2)
    atomic_write(file, lambda path: path.write_text(text))


def _shown(name: str, value: Any) -> Any:
    """Show a setting so that a person can read it, with a digest of all that it does."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        described = describe(value)
    except UnknownIdentityError as error:
        raise ValueError(f"`{name}` must be identified by its settings. {error}") from error
    text = getattr(value, "__qualname__", None) or repr(value)
    if " at 0x" in text:
        text = type(value).__qualname__
    return text if isinstance(described, list) and text == repr(value) else f"{text} [{digest(described)}]"


def _checksum(array: np.ndarray) -> str:
    """Show shape, type and checksum of an array, row by row, so that a memory-mapped set stays on disk."""
    found = 0
    for row in array:
        found = zlib.crc32(np.ascontiguousarray(row).data, found)
    return f"{array.shape} {array.dtype} [{found:08x}]"


def _shown_encoder(encoder: keras.Model) -> str:
    """Show an architecture, with what was adapted to data and is not made anew, as by `Normalization`."""
    kept = [layer for layer in layers_of(encoder) if layer.trainable and not layer.trainable_weights]
    weights = weights_digest([weight for layer in kept for weight in layer.weights])
    return f"{encoder.count_params()} weights [{digest([describe(encoder, weights=False), weights])}]"


def label_efficiency(
    images: Any,
    labels: npt.ArrayLike,
    *,
    encoder: keras.Model,
    pretrained: Mapping[str, keras.Model | Recipe],
    head: Head,
    output_dir: str | os.PathLike[str],
    protocol: Protocol | None = None,
    groups: npt.ArrayLike | None = None,
    imagenet: keras.Model | None = None,
    test_rows: npt.ArrayLike | None = None,
    save_graders: bool = False,
    n_jobs: int | None = None,
    verbose: bool = True,
) -> Iterator[dict[str, Any]]:
    """Measure how many labels pretraining saves.

    Images are split into training, validation and test, stratified by grade (for masks, by whether there is
    little or much foreground), with groups and copies of one image together. On each fraction of the
    training labels every arm is trained for the same number of optimizer steps, on the same images, with the
    same augmentation, and judged on the same test images, which neither pretraining nor tuning nor cut
    points have seen.

    Everything is checked when this is called; the runs are made as the iterator is consumed. Each record
    is written as soon as its run ends. A second call with the same arguments repeats none that is recorded
    and goes on within the run that was interrupted. More `fractions`, `repetitions`, `arms` or tasks add
    runs. A folder with other settings is refused. Functions and objects among them (recipes, `augment`) are
    identified by their code, constants, defaults, closures, settings and the globals that they use.

    Args:
        images: array `(n, *spatial, channels)` as the encoder takes them. A memory-mapped one stays on
            disk but for the training images of each pretraining and run.
        labels: grades or classes, whole numbers from 0, shape `(n,)`; for a `SegmentationHead` masks, shape
            `(n, *spatial)`.
        encoder: the encoder, of which the arm `"random"` and recipes take the architecture, with new weights.
        pretrained: by the name of the task, a recipe that pretrains the encoder inside each fold on that
            fold's training images (`PretextRecipe`), or an encoder that has been pretrained elsewhere.
            Whether such a one has seen test images cannot be known here; records say `"given"`.
        head: what is predicted: grades or classes, as by `OrdinalHead(5)`, or masks, as by
            `SegmentationHead(3)`. Records then hold `dice`, the mean of the test images' Dice over the
            foreground classes, `dice_1` and so on for each of them, and `jaccard`, in place of kappa.
        output_dir: folder of `records.jsonl`, `records.csv`, `study.json`, and of the pretrained
            encoders; other processes must see it too.
        protocol: the settings; `Protocol()` where `None`.
        groups: an id per image, such as its patient, shape `(n,)`. Copies of one image are found and kept
            together in any case.
        imagenet: the encoder with ImageNet weights, for that arm, such as
            `keras.applications.DenseNet121(include_top=False, weights="imagenet")` behind the scaling
            that these weights want.
        test_rows: rows of a test part that is given, or a mask; `folds` must then be 1.
        save_graders: whether the models trained on the largest fraction are kept in `graders/`, except
            those on features of a frozen encoder.
        n_jobs: processes, as in joblib. Inside `joblib.parallel_config(backend="dask")`, or another
            backend that returns results as they come, runs spread over that cluster.
        verbose: whether to print a line for every pretraining and every run.

    Returns:
        Iterator of records, one a run, those that were recorded before first. See `sort_records`.

    Raises:
        TypeError: an encoder is no Keras model, or `head` no `Head`.
        ValueError: an argument is out of range, or holds what cannot be told apart from others of its kind,
            such as a lock (give its class a `get_config`); images or labels are not what the encoder and
            the head take; a grade has too few images; an arm lacks its encoder; `output_dir` holds another
            study.
        FileExistsError: `output_dir` holds files of the results' names and no study.
        OSError: `output_dir` cannot be written, now or when a run ends; the same call then resumes.
        RuntimeError: an error stopped runs, when all others have ended and are recorded; also raised as
            ValueError or OSError where it is one. The message names the runs, and the same call makes them.

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
    judge = judge_for(head)
    whole = _checked_labels(images, judge.checked(labels))
    _check_choices(protocol, judge)
    _check_encoders(images.shape[1:], encoder, pretrained, imagenet, protocol, head)
    copies = duplicate_groups(images)
    together = copies if groups is None else merge_groups(copies, _checked_groups(groups, len(images)))
    rows = None if test_rows is None else np.asarray(test_rows)
    if rows is not None and rows.dtype == bool and rows.shape == copies.shape:
        rows = np.flatnonzero(rows)
    strata = judge.strata(whole)
    splits = make_splits(strata, together, protocol, rows)
    runs = make_runs(strata, together, splits, protocol, list(pretrained))
    models = {name: model for name, model in pretrained.items() if isinstance(model, keras.Model)}
    recipes = {name: recipe for name, recipe in pretrained.items() if name not in models}
    given = tuple(models)
    if imagenet is not None:
        models["imagenet"] = imagenet
    arrays = {"images": images, "labels": whole, "groups": together, "test_rows": rows}
    settings = study_settings(protocol, recipes, models, encoder, head, arrays)
    counts = {
        "images": len(images),
        "shape": list(images.shape[1:]),
        **judge.described(whole),
        "copies": len(images) - len(np.unique(copies)),
        "groups": len(np.unique(together)),
        "patients": _patients(groups, len(images)),
    }
    if verbose:
        print(f"Groups: {counts['patients']}", flush=True)
    folder = ready_folder(output_dir, "output_dir")
    record_settings(folder, settings, counts)
    for name, model in {**models, "none": encoder}.items():
        atomic_write(folder / "encoders" / f"{name}.keras", model.save)
    study = Study(images, whole, together, head, protocol, folder, given, save_graders)
    _check_that_encoders_load(study, splits[0], ("none", *models))
    return _run(study, recipes, splits, runs, n_jobs, verbose)


def _run(
    study: Study,
    recipes: Mapping[str, Recipe],
    splits: list[Split],
    runs: list[Run],
    n_jobs: int | None,
    verbose: bool,
) -> Iterator[dict[str, Any]]:
    import joblib

    file = RecordFile(study.folder)
    recorded = {_name_of(record) for record in file.records}
    wanted = {run.name for run in runs}
    yield from (record for record in file.records if _name_of(record) in wanted)
    pending = [run for run in runs if run.name not in recorded]
    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    pretrainings = _pretrainings(study, recipes, splits, pending)
    troubles: dict[str, Exception] = {}
    jobs = (
        (study.encoder_file(task, split).stem, task, recipe, split) for task, recipe, split in pretrainings
    )
    for name, line in parallel(joblib.delayed(attempt)(name, pretrain, study, *what) for name, *what in jobs):
        if isinstance(line, Exception):
            troubles[name] = line
            line = f"{name}: pretraining stopped by an error, {line}"
        if verbose:
            print(line, flush=True)
    done = len(runs) - len(pending)
    if done and verbose:
        print(f"{done} of {len(runs)} runs were recorded before", flush=True)
    able = [run for run in pending if study.encoder_file(run.task, run.split).stem not in troubles]
    for name, record in parallel(joblib.delayed(attempt)(run.name, run_arm, study, run) for run in able):
        if isinstance(record, Exception):
            troubles[name] = record
            if verbose:
                print(f"{name}: stopped by an error, {record}", flush=True)
            continue
        file.append(record)
        shutil.rmtree(study.folder / "backups" / _name_of(record), ignore_errors=True)
        done += 1
        if verbose:
            print(f"[{done}/{len(runs)}] {_line(record, study.judge.metrics[0])}", flush=True)
        yield record
    if troubles:
        _raise(troubles, len(runs) - done, len(runs))


def _raise(troubles: Mapping[str, Exception], missing: int, wanted: int) -> NoReturn:
    """Raise the errors that stopped runs as one, of the kind of the first."""
    named = "; ".join(f"{name}: {error}" for name, error in list(troubles.items())[:3])
    more = f"; and {len(troubles) - 3} more" if len(troubles) > 3 else ""
    said = (
        f"{missing} of {wanted} runs of the study were stopped by errors ({named}{more}). The others are "
        "recorded. Mend the cause, and the same call makes those that are missing."
    )
    first = next(iter(troubles.values()))
    if isinstance(first, OSError):
        raise (OSError(said) if first.errno is None else OSError(first.errno, said)) from first
    raise (ValueError(said) if isinstance(first, ValueError) else RuntimeError(said)) from first


def _pretrainings(
    study: Study, recipes: Mapping[str, Recipe], splits: list[Split], pending: list[Run]
) -> list[tuple[str, Recipe, Split]]:
    """List what must be pretrained before the runs that are to come, each encoder once."""
    needed = {run.split.pair for run in pending if run.task in recipes}
    found: dict[Path, tuple[str, Recipe, Split]] = {}
    for name, recipe in recipes.items():
        for split in splits:
            file = study.encoder_file(name, split)
            if split.pair in needed and not file.exists():
                found.setdefault(file, (name, recipe, split))
    return list(found.values())


def _name_of(record: Mapping[str, Any]) -> str:
    return run_name(*(record[key] for key in RUN_KEYS))


def _line(record: Mapping[str, Any], metric: str) -> str:
    value = record[metric]
    score = "failed" if record["status"] != "ok" else metric.removeprefix("qw_")
    if record["status"] == "ok":
        score += " undefined" if value is None else f" {value:.3f}"
    where = f"repetition {record['repetition'] + 1}, fold {record['fold'] + 1}"
    task = "" if record["task"] in ("none", "imagenet") else f" ({record['task']})"
    labels = f"{100 * record['fraction']:g} % of the labels"
    return f"{record['arm']}{task}, {labels}, {where}: {score}, {record['seconds']:.0f} s"


def _checked_labels(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    check_images(images)
    if len(labels) != len(images) or (labels.ndim > 1 and labels.shape[1:] != images.shape[1:-1]):
        wanted = images.shape[:-1] if labels.ndim > 1 else images.shape[:1]
        raise ValueError(f"`labels` must have shape {wanted}, as `images`. Received shape {labels.shape}.")
    return labels


def _checked_groups(groups: npt.ArrayLike, count: int) -> np.ndarray:
    names = np.asarray(groups)
    if names.shape == (count, 1):
        names = names[:, 0]
    if names.shape != (count,):
        raise ValueError(f"`groups` must be one per image, shape ({count},). Received shape {names.shape}.")
    lost = [name is None or name != name for name in names.tolist()]
    if any(lost):
        raise ValueError(
            "`groups` must be known for every image, or images without one would all fall into one group. "
            f"Received {sum(lost)} that are None or NaN, first in row {lost.index(True)}."
        )
    if count > 1 and (names == names[0]).all():
        raise ValueError(f"`groups` must hold more than one group. Received {str(names[0])!r} alone.")
    return names.astype(str)


def _patients(groups: npt.ArrayLike | None, count: int) -> str:
    """Describe the groups in words for console and report."""
    given = count if groups is None else len(np.unique(_checked_groups(groups, count)))
    if given == count:
        return "no patient is known: each image is taken for a patient of its own"
    return f"{count} images in {given} groups that are kept together, such as patients and copies"


def _check_choices(protocol: Protocol, judge: Judge) -> None:
    for name in ("tune_by", "select_by"):
        chosen = getattr(protocol, name)
        if chosen is not None and chosen not in judge.choices:
            raise ValueError(
                f"`protocol.{name}` must be one of {judge.choices}, as this `head` has. Received {chosen!r}."
            )


def _check_that_encoders_load(study: Study, split: Split, tasks: tuple[str, ...]) -> None:
    for task in tasks:
        try:
            study.load_encoder(task, split, seed=0)
        except Exception as error:
            raise ValueError(
                "An encoder must load again from its `.keras` file: a class of your own needs `get_config` "
                "and `keras.saving.register_keras_serializable`, in a module that can be imported. "
                f"Received {'the encoder' if task == 'none' else task}: {error}"
            ) from error


def _check_encoders(
    shape: tuple[int, ...],
    encoder: keras.Model,
    pretrained: Mapping[str, keras.Model | Recipe],
    imagenet: keras.Model | None,
    protocol: Protocol,
    head: Head,
) -> None:
    models = {"encoder": encoder, "imagenet": imagenet}
    models |= {name: model for name, model in pretrained.items() if isinstance(model, keras.Layer)}
    for name, model in models.items():
        if model is None:
            continue
        if not isinstance(model, keras.Model):
            raise TypeError(f"`{name}` must be a Keras model. Received {model!r}.")
        head.attach(model, keras.Input(resolve_input_shape(model, shape)))
    weights = [weight.shape for weight in encoder.weights]
    for name, recipe in pretrained.items():
        if not re.fullmatch(r"[A-Za-z0-9_+]+", name) or name in ("none", "imagenet"):
            raise ValueError(
                "`pretrained` must be named by letters, digits, _ and +, and not 'none' or 'imagenet'. "
                f"Received {name!r}."
            )
        if not callable(recipe):
            raise TypeError(
                f"`pretrained` must hold recipes or Keras models. Received {recipe!r} as {name!r}."
            )
        if isinstance(recipe, keras.Model) and [weight.shape for weight in recipe.weights] != weights:
            raise ValueError(
                "`pretrained` encoders must have weights of the shapes that `encoder` has. Received "
                f"{name!r} with {recipe.count_params()} weights for {encoder.count_params()}."
            )
    if {"frozen", "initialized"} & set(protocol.arms) and not pretrained:
        raise ValueError(f"`pretrained` must not be empty for the arms {protocol.arms}. Received none.")
    if "imagenet" in protocol.arms and imagenet is None:
        raise ValueError("`imagenet` must be given for the arm 'imagenet'. Received None.")

"""Callback that saves a backup every epoch, from which a killed run resumes bitwise."""

import json
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ssl._atomic import atomic_write, explain_os_error, ready_folder, sync
from keras_ssl._identity import UnknownIdentityError, describe, differences
from keras_ssl._keras_private import CALLBACK_STATE, own_attributes
from keras_ssl._seeding import seed_states
from keras_ssl.callbacks._optimizers import parts_of, rebuild_training
from keras_ssl.callbacks.warmup_freeze import WarmupFreeze

_MAX_LISTED = 6

_ADVICE_ON_WEIGHTS = (
    " To resume, build the model with the same initial weights each time: load the encoder from a file, or "
    "call `keras.utils.set_random_seed` before building it."
)
_ADVICE = "Existing backups are kept. Free disk space, use one folder per run, and call again to resume."


class EpochBackup(keras.callbacks.Callback):
    """Saves the complete state of a run at the end of every epoch, so that a killed run can resume.

    Keras' `BackupAndRestore` restores weights and optimizer only. This callback also saves the seed
    generators (of dropout and pretext tasks), the history, the learning rate, and the state of
    `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`, `SwapEMAWeights`, `WarmupFreeze` and of every
    callback that has methods `get_state()` and `set_state(state)`. Other callbacks whose attributes change
    in training start anew in a resumed run, with a warning. `fit_pretext` and `FineTuner.fit` use it if
    given a `backup_dir`, with data and seeds that depend on the epoch only: the final weights are then
    bitwise those of an uninterrupted run on the same backend and machine. It must be last in `callbacks`,
    and `fit` must start at its `initial_epoch`.

    Args:
        backup_dir: folder of this run, created if missing. Backups are atomic: each is written beside the
            previous one and renamed, so that a kill at any time leaves a complete backup.
        settings: plain values that must be equal in the resumed run, such as the batch size.
        callbacks: the callbacks of the same `fit`, whose state is saved as well.
        writes: whether to write backups, which only rank 0 of several processes does, or only to restore.

    Raises:
        ValueError: the folder contains a run with different `settings`, or a damaged backup.
        OSError: the folder cannot be written or has too little space: here, when training begins, or at the
            end of an epoch; the previous backup is then kept.

    >>> import tempfile
    >>> EpochBackup(tempfile.mkdtemp(), settings={"batch_size": 32}).initial_epoch
    0
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        settings: dict[str, Any] | None = None,
        callbacks: list[keras.callbacks.Callback] | tuple[()] = (),
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.writes = writes
        self.backup_dir = ready_folder(backup_dir, "backup_dir")
        self.settings = settings or {}
        self.callbacks = callbacks
        self._saved = _load(self._newest("epoch"))
        self._history: dict[str, list[float]] = {}
        # State of user-defined callbacks when training began.
        self._at_start: list[dict[str, Any]] = []
        self._warned = False
        if self._saved is not None:
            self._check_settings(self._saved["settings"])
            self._history = self._saved["history"]
            for callback in callbacks:
                if writes and isinstance(callback, keras.callbacks.CSVLogger):
                    _continue_log(callback, self.initial_epoch)

    @property
    def stopped(self) -> bool:
        """True if the saved run ended early, for example by early stopping."""
        return bool(self._saved and self._saved["stopped"])

    @property
    def initial_epoch(self) -> int:
        """Epoch to resume at; 0 without a backup."""
        return self._saved["epoch"] if self._saved else 0

    def load_finished(self, model: keras.Model, epochs: int) -> dict[str, list[float]] | None:
        """Load the final weights of a finished run of `epochs` and return its history, or `None`."""
        state = _load(self._newest("finished"))
        if state is None or state["epochs"] != epochs:
            return None
        self._check_settings(state["settings"])
        model.set_weights(state["weights"])
        return state["history"]

    def save_finished(self, model: keras.Model, epochs: int, history: dict[str, list[float]]) -> None:
        """Save the result of a finished run, after all callbacks have changed the weights."""
        state = {"settings": self.settings, "epochs": epochs, "history": history}
        self._write("finished", epochs, {**state, "weights": model.get_weights()})

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restore weights, seeds, the optimizer and the state of other callbacks."""
        if self.writes:
            # A lower bound: the optimizer may not have created its variables yet.
            held = (*self.model.weights, *self.model.optimizer.variables)
            size = sum(math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in held)
            ready_folder(self.backup_dir, "backup_dir", size)
        self._at_start = [_own_state(callback) for callback in self.callbacks]
        if self._saved is None:
            return
        not_carried = self._saved.get("not_carried", [])
        _warn_of_state(not_carried)
        self._warned = bool(not_carried)
        _assign(self.model.weights, self._saved["weights"])
        _assign(seed_states(self.model), self._saved["seeds"])
        for callback, state in zip(self.callbacks, self._saved["callbacks"], strict=True):
            _set_state(callback, state)
            if isinstance(callback, WarmupFreeze):
                # Freezes now, since the optimizer's state is restored below, before a learning-rate callback
                # of this epoch.
                callback.on_epoch_begin(self.initial_epoch)
        if self._saved["optimizer_parts"] is not None:
            rebuild_training(self.model, parts=self._saved["optimizer_parts"])
        if not self.model.optimizer.built:  # TensorFlow would build it only in the first step
            self.model.optimizer.build(self.model.trainable_variables)
        _assign(self.model.optimizer.variables, self._saved["optimizer"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restore the history, which Keras clears after `on_train_begin` of this callback."""
        self._restore_history()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restore the history if there was no epoch left to train."""
        self._restore_history()

    def _restore_history(self) -> None:
        if self._saved is not None:
            self.model.history.history = {name: list(values) for name, values in self._history.items()}
            self.model.history.epoch = list(range(self.initial_epoch))
            self._saved = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save a backup, unless loss or weights are not finite."""
        weights = self.model.get_weights()
        if not np.isfinite((logs or {}).get("loss", 0.0)) or not all(np.isfinite(w).all() for w in weights):
            return
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(float(value))
        state = {
            "settings": self.settings,
            "epoch": epoch + 1,
            "history": self._history,
            "callbacks": [_get_state(callback) for callback in self.callbacks],
            "not_carried": self._not_carried(),
            "stopped": bool(self.model.stop_training),
            "weights": weights,
            "optimizer": _values(self.model.optimizer.variables),
            "optimizer_parts": parts_of(self.model.optimizer, self.model.variables),
            "seeds": _values(seed_states(self.model)),
        }
        self._write("epoch", epoch + 1, state)

    def _not_carried(self) -> list[str]:
        """Return the callbacks whose state changed in training and is not saved; warn once."""
        found = []
        for callback, before in zip(self.callbacks, self._at_start, strict=True):
            now = _own_state(callback)
            changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
            if changed:
                found.append(f"{type(callback).__qualname__} ({', '.join(changed)})")
        if found and not self._warned:
            self._warned = True
            _warn_of_state(found)
        return found

    def _check_settings(self, saved: dict[str, Any]) -> None:
        if not self.writes:
            return  # other processes receive the weights of rank 0
        # Through JSON, like the saved settings, which turns tuples into lists.
        found = list(differences(saved, json.loads(json.dumps(self.settings))))
        if found:
            listed = "; ".join(found[:_MAX_LISTED]) + (
                f"; {len(found) - _MAX_LISTED} more" * (len(found) > _MAX_LISTED)
            )
            weights = any(one.startswith("starting weights") for one in found)
            raise ValueError(
                f"`backup_dir` must be empty or contain the same run. Received {self.backup_dir}, with "
                f"a run that differs in: {listed}. Delete it or use another folder."
                f"{_ADVICE_ON_WEIGHTS if weights else ''}"
            )

    def _newest(self, kind: str) -> Path | None:
        # By number: as text, 999 is greater than 1000.
        found = [path for path in self.backup_dir.glob(f"{kind}-*") if path.name[len(kind) + 1 :].isdigit()]
        return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def _write(self, kind: str, number: int, state: dict[str, Any]) -> None:
        if not self.writes:
            return
        target = self.backup_dir / f"{kind}-{number:06d}"
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with explain_os_error(f"`backup_dir` must be writable. {target} could not be written.", _ADVICE):
                _save(partial, state)
                partial.rename(target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for older in self.backup_dir.glob(f"{kind}-*"):
            if older != target:
                shutil.rmtree(older, ignore_errors=True)


def _values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _get_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    if hasattr(callback, "get_state"):
        return callback.get_state()
    for kind, names in CALLBACK_STATE:
        if isinstance(callback, kind):
            return {name: getattr(callback, name) for name in names if hasattr(callback, name)}
    return {}


def _set_state(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    else:
        for name, value in state.items():
            setattr(callback, name, value)


def _own_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Describe the state of a user-defined callback that backups do not save."""
    if isinstance(describe(type(callback)), str) or hasattr(callback, "get_state"):
        return {}
    found = {}
    for name, value in own_attributes(callback).items():
        if isinstance(value, keras.Layer):
            continue
        try:
            found[name] = describe(value, weights=False)
        except UnknownIdentityError:
            found[name] = type(value).__qualname__
    return found


def _warn_of_state(callbacks: list[str]) -> None:
    if callbacks:
        warnings.warn(
            "Callbacks have state that `backup_dir` does not save, and a resumed run starts without it: "
            f"{', '.join(callbacks)}. Define `get_state()`, which returns numbers, strings and arrays, and "
            "`set_state(state)`.",
            stacklevel=2,
        )


def _continue_log(logger: keras.callbacks.CSVLogger, epoch: int) -> None:
    """Let a CSV log continue after the rows before `epoch`; later rows are written again."""
    path = Path(logger.filename)
    # Lines truncated by a kill or a full disk have no newline.
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    header, *rows = [line for line in lines if line.endswith("\n")] or [""]
    if header:
        kept = [row for row in rows if int(row.split(logger.sep)[0]) < epoch]
        atomic_write(path, lambda partial: partial.write_text("".join([header, *kept])))
        logger.append = True


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a copy of a nested state in which arrays are replaced by keys, and collect them in `arrays`."""
    if isinstance(value, dict):
        return {key: _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, arrays) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    key = f"array{len(arrays)}"
    arrays[key] = keras.ops.convert_to_numpy(value)
    return {"__array__": key, "dtype": arrays[key].dtype.name}


def _with_arrays(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        if "__array__" in value:
            # NumPy stores bfloat16 as raw bytes. Scalars, as TensorFlow gives those of a model, stay scalars.
            return arrays[value["__array__"]].view(np.dtype(value["dtype"]))[()]
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    return [_with_arrays(item, arrays) for item in value] if isinstance(value, list) else value


def _save(folder: Path, state: dict[str, Any]) -> None:
    arrays: dict[str, np.ndarray] = {}
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(_without_arrays(state, arrays)))
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]  # NumPy's stub wants bool
    for file in folder.iterdir():
        sync(file)


def _load(folder: Path | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    try:
        with np.load(folder / "arrays.npz") as arrays:
            return _with_arrays(json.loads((folder / "state.json").read_text()), arrays)
    # Any error that damaged files cause: BadZipFile, KeyError of a missing array, ...
    except Exception as error:
        if isinstance(error, (MemoryError, OSError)) and not isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"`backup_dir` must contain complete backups. Received {folder}, which is damaged: {error!r}. "
            "Delete that folder to continue without it."
        ) from error

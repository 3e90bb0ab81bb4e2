"""A backup at the end of every epoch from which a killed run goes on to the very same weights."""

import json
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ssl._atomic import explained, ready_folder, sync, write_aside
from keras_ssl._identity import UnknownIdentityError, describe, differences
from keras_ssl._keras_private import CALLBACK_STATE, own_attributes
from keras_ssl.callbacks._optimizers import parts_of, renew_training
from keras_ssl.callbacks.warmup_freeze import WarmupFreeze
from keras_ssl.random import seed_states

_LISTED = 6


_ADVICE_ON_WEIGHTS = (
    " Where the same call is to resume, build the model with the same weights each time: load the encoder "
    "from a file, or call `keras.utils.set_random_seed` before it is built."
)


_ADVICE = "What it holds is kept. Free space there, let no other run write there, and the same call goes on."


class EpochBackup(keras.callbacks.Callback):
    """Saves all that a run needs to go on after it was killed, at the end of every epoch.

    Keras' `BackupAndRestore` restarts from weights and optimizer alone. This one also keeps the seed
    generators (dropout, the draws of a pretext task), the history, the learning rate, and the state of
    `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`, `SwapEMAWeights`, `WarmupFreeze` and of every
    callback that has the methods `get_state()` and `set_state(state)`. Another callback whose attributes
    change in training starts afresh in a resumed run, which is warned of. `fit_pretext` and
    `FineTuner.fit` use it when given a `backup_dir`, with data and seeds that depend on the epoch alone:
    then the weights at the end are bitwise those of a run that was never stopped, on the same backend
    and machine. It stands last in `callbacks`, and `fit` begins with its `initial_epoch`.

    Args:
        backup_dir: folder of this one run, made if missing. Each backup is written beside the previous
            one and renamed into place, so a kill at any moment leaves a whole one.
        settings: plain values that a run must share with the one it continues, such as the
            batch size; compared with those of the backup.
        callbacks: the callbacks of the same `fit`, whose state is kept too.
        writes: whether to write at all, as the first of several processes does, and not only to bring back.

    Raises:
        ValueError: the folder holds a run with other `settings`, or a damaged backup.
        OSError: the folder cannot be written or has too little space: here, when training begins, or at
            the end of an epoch, whose predecessor is then kept.

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
        # What callbacks of the user's own held when training began.
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
        """Whether the saved run had been stopped for good, by early stopping say."""
        return bool(self._saved and self._saved["stopped"])

    @property
    def initial_epoch(self) -> int:
        """The epoch to go on with: 0 where nothing was saved."""
        return self._saved["epoch"] if self._saved else 0

    def load_finished(self, model: keras.Model, epochs: int) -> dict[str, list[float]] | None:
        """Set the final weights of a run of that many `epochs` that ended; `None` where there is none."""
        state = _load(self._newest("finished"))
        if state is None or state["epochs"] != epochs:
            return None
        self._check_settings(state["settings"])
        model.set_weights(state["weights"])
        return state["history"]

    def save_finished(self, model: keras.Model, epochs: int, history: dict[str, list[float]]) -> None:
        """Record that the run ended by itself, after early stopping and averaging had their say."""
        state = {"settings": self.settings, "epochs": epochs, "history": history}
        self._write("finished", epochs, {**state, "weights": model.get_weights()})

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Bring back weights, seeds, the optimizer and what other callbacks remember."""
        if self.writes:
            # At least so much: the optimizer may not have made its own yet.
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
                # What is frozen in this epoch; the optimizer is filled now, since later would be after a
                # learning-rate schedule has already acted on the epoch.
                callback.on_epoch_begin(self.initial_epoch)
        if self._saved["optimizer_parts"] is not None:
            renew_training(self.model, parts=self._saved["optimizer_parts"])
        if not self.model.optimizer.built:  # TensorFlow would build it in the first step
            self.model.optimizer.build(self.model.trainable_variables)
        _assign(self.model.optimizer.variables, self._saved["optimizer"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Bring back the history, which Keras empties after `on_train_begin` of this callback."""
        self._restore_history()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Bring back the history where no epoch was left to train."""
        self._restore_history()

    def _restore_history(self) -> None:
        if self._saved is not None:
            self.model.history.history = {name: list(values) for name, values in self._history.items()}
            self.model.history.epoch = list(range(self.initial_epoch))
            self._saved = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the backup of this epoch, unless it went wrong: what is not finite is not gone on with."""
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
        """Name the callbacks whose state changed in training and is in no backup; warn once."""
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
            return  # other processes begin with the weights of the first
        # Through JSON, as the saved ones went: tuples are lists there.
        found = list(differences(saved, json.loads(json.dumps(self.settings))))
        if found:
            listed = "; ".join(found[:_LISTED]) + (f"; {len(found) - _LISTED} more" * (len(found) > _LISTED))
            weights = any(one.startswith("starting weights") for one in found)
            raise ValueError(
                f"`backup_dir` must be a new folder or hold the same run. Received {self.backup_dir}, which "
                f"holds a run that differs in: {listed}. Delete it or name another folder."
                f"{_ADVICE_ON_WEIGHTS if weights else ''}"
            )

    def _newest(self, kind: str) -> Path | None:
        # By number, not by name: as text, 999 comes after 1000.
        found = [path for path in self.backup_dir.glob(f"{kind}-*") if path.name[len(kind) + 1 :].isdigit()]
        return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def _write(self, kind: str, number: int, state: dict[str, Any]) -> None:
        if not self.writes:
            return
        target = self.backup_dir / f"{kind}-{number:06d}"
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with explained(f"`backup_dir` must take all backups, {target} could not be written.", _ADVICE):
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
    """Describe what a callback of the user's own remembers, where no backup carries it."""
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
            "Callbacks remember what `backup_dir` does not carry, so that a resumed run starts without it: "
            f"{', '.join(callbacks)}. Give them `get_state()`, which returns numbers, text and arrays, and "
            "`set_state(state)`.",
            stacklevel=2,
        )


def _continue_log(logger: keras.callbacks.CSVLogger, epoch: int) -> None:
    """Let a log go on behind the rows before `epoch`: one of a later epoch will be written again."""
    path = Path(logger.filename)
    # A line that a kill or a full disk cut off has no end.
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    header, *rows = [line for line in lines if line.endswith("\n")] or [""]
    if header:
        kept = [row for row in rows if int(row.split(logger.sep)[0]) < epoch]
        write_aside(path, lambda partial: partial.write_text("".join([header, *kept])))
        logger.append = True


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Copy a nested state with its arrays put aside, each replaced by where it was put."""
    if isinstance(value, dict):
        return {key: _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    key = f"array{len(arrays)}"
    arrays[key] = keras.ops.convert_to_numpy(value)
    return {"__array__": key, "dtype": arrays[key].dtype.name}


def _with_arrays(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        if "__array__" in value:
            # NumPy's files hold bfloat16 as nameless bytes.
            return arrays[value["__array__"]].view(np.dtype(value["dtype"]))
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
    # Whatever the damaged bytes led to: BadZipFile, KeyError of an array that is not there ...
    except Exception as error:
        if isinstance(error, (MemoryError, OSError)) and not isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"`backup_dir` must hold whole backups. Received {folder}, which is damaged: {error!r}. Delete "
            "that folder to go on without it."
        ) from error

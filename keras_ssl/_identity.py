"""Descriptions and digests of settings by content, to identify runs."""

import collections
import copyreg
import dataclasses
import dis
import enum
import functools
import hashlib
import json
import math
import os
import site
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_ssl._keras_private import NAME_ATTRIBUTES, layers_of
from keras_ssl._types import Tensor

# JSON values: None, numbers, strings, lists, dictionaries.
Json: TypeAlias = Any

# Memory-mapped arrays above this size are sampled, since a set of terabytes must not be read twice.
_WHOLE_BYTES = 1 << 28
_SAMPLED_ROWS = 1024
_SAMPLED_BYTES = 1 << 12
_CHUNK_BYTES = 1 << 24

# Longer descriptions are replaced by their digest, so that backups do not contain network configurations.
_MAX_LENGTH = 2000

# Keys of names in Keras configurations, which are numbered in the order of creation.
_NAME_KEYS = ("name", "keras_history", "input_layers", "output_layers")

_LIBRARIES = tuple(
    os.path.realpath(path) + os.sep
    for path in (
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        os.path.dirname(__file__),
    )
)


class UnknownIdentityError(ValueError):
    """Raised for a setting that cannot be distinguished from others of its class."""


def describe(value: Any, *, weights: bool = True) -> Json:
    """Describe a setting by content as JSON values, which are the same in every process.

    Plain values and containers are kept. Arrays are digested; memory-mapped ones of more than 256 MiB by
    shape and 4 KiB of each of 1024 rows. Functions are described by bytecode, constants, names, defaults,
    closures and used globals, those of installed libraries by name. Dataclasses are described by their
    compared fields; objects with a `get_config`, such as Keras layers, by class and configuration without
    automatic names, user-defined ones also by their attributes, Keras layers also by their weights; all
    other objects by class and state.

    Args:
        value: any setting: a number, an array, a function, a layer, an object.
        weights: whether to include the weights of layers and models.

    Raises:
        UnknownIdentityError: an object has neither a readable state nor a `get_config`.

    >>> describe({"rate": 0.1, "sizes": (8, 8)})
    {'rate': 0.1, 'sizes': [8, 8]}
    >>> digest(lambda x: x + 1) == digest(lambda x: x + 2)
    False
    """
    return _Describer(weights).of(value)


def digest(value: Any, *, weights: bool = True) -> str:
    """Return a short hexadecimal digest of `describe(value)`."""
    text = json.dumps(describe(value, weights=weights), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def shortened(description: Json) -> Json:
    """Return a description in which long strings are replaced by their digests."""
    if len(json.dumps(description)) <= _MAX_LENGTH:
        return description
    if isinstance(description, dict):
        return {key: shortened(item) for key, item in description.items()}
    if isinstance(description, list):
        return [shortened(item) for item in description]
    return f"digest {digest(description)}"


def differences(saved: Json, mine: Json, name: str = "") -> Iterator[str]:
    """List the settings that differ between two descriptions, with both values if they are short.

    >>> list(differences({"epochs": 2, "views": {"flip": True}}, {"epochs": 2, "views": {"flip": False}}))
    ['views.flip: saved True, now False']
    """
    if saved == mine:
        return
    if isinstance(saved, dict) and isinstance(mine, dict):
        for key in sorted(saved.keys() | mine.keys()):
            inner = f"{name}.{key}" if name else key
            yield from differences(saved.get(key), mine.get(key), inner)
    elif isinstance(saved, list) and isinstance(mine, list) and len(saved) == len(mine):
        for index, (one, other) in enumerate(zip(saved, mine, strict=True)):
            yield from differences(one, other, f"{name}[{index}]")
    elif isinstance(saved, list) and isinstance(mine, list):
        yield f"{name}: saved {len(saved)} items, now {len(mine)}"
    elif any(isinstance(one, (dict, list)) or _is_digest(one) for one in (saved, mine)):
        yield f"{name}: different content"
    else:
        yield f"{name}: saved {saved!r}, now {mine!r}"


def _is_digest(value: Json) -> bool:
    return isinstance(value, str) and (value.startswith("digest ") or len(value) > 100)


def array_digest(array: Tensor) -> str:
    """Digest shape, dtype and values of an array; see `describe` for large memory-mapped arrays."""
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    found = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    if array.dtype.hasobject:
        found.update(json.dumps(describe(array.tolist())).encode())
    elif array.ndim == 0:
        found.update(array.tobytes())
    elif isinstance(array, np.memmap) and array.nbytes > _WHOLE_BYTES:
        for row in np.unique(np.linspace(0, len(array) - 1, _SAMPLED_ROWS).astype(int)):
            values = array[row].reshape(-1)
            count = max(1, _SAMPLED_BYTES // array.itemsize)
            start = max(0, (len(values) - count) // 2)
            found.update(np.ascontiguousarray(values[start : start + count]).tobytes())
    else:
        rows = max(1, _CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
        for start in range(0, len(array), rows):
            found.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    return f"digest {found.hexdigest()}"


def weights_digest(variables: list[keras.Variable]) -> str:
    """Digest the values of variables, in order."""
    found = hashlib.blake2b(digest_size=16)
    for variable in variables:
        found.update(array_digest(keras.ops.convert_to_numpy(variable)).encode())
    return f"digest {found.hexdigest()}"


class _Describer:
    def __init__(self, weights: bool) -> None:
        self.weights = weights
        # Descriptions by id, with references to the objects, so that ids are not reused.
        self.known: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> Json:
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, np.generic) and value.dtype.kind in "biufU":
            return self.of(value.item())
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)  # JSON has no such numbers, and NaN differs from itself
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (bytes, bytearray)):
            return array_digest(np.frombuffer(value, np.uint8))
        if isinstance(value, (Path, np.dtype, complex, types.EllipsisType)):
            return str(value)
        if isinstance(value, (np.ndarray, keras.Variable)) or keras.ops.is_tensor(value):
            return array_digest(value if isinstance(value, np.ndarray) else keras.ops.convert_to_numpy(value))
        if id(value) in self.known:
            return self.known[id(value)][0]
        self.known[id(value)] = ({"recursion": type(value).__qualname__}, value)
        described = self._compound(value)
        self.known[id(value)] = (described, value)
        return described

    def short(self, value: Any) -> Json:
        """Describe a global of a function, by digest if it is long, since functions call one another."""
        described = self.of(value)
        return f"digest {digest(described)}" if isinstance(described, (dict, list)) else described

    def _compound(self, value: Any) -> Json:
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, (list, tuple, collections.deque)):
            return [self.of(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return {"set": sorted((self.of(item) for item in value), key=json.dumps)}
        return self._object(value)

    def _mapping(self, value: Mapping[Any, Any]) -> Json:
        if all(isinstance(key, str) for key in value):
            return {key: self.of(item) for key, item in value.items()}
        return {"mapping": [[self.of(key), self.of(item)] for key, item in value.items()]}

    def _object(self, value: Any) -> Json:
        if isinstance(value, functools.partial):
            return {
                "function": self.of(value.func),
                "args": self.of(value.args),
                "kwargs": self.of(value.keywords),
            }
        if isinstance(value, types.FunctionType):
            return self._function(value)
        owner = getattr(value, "__self__", None)
        if isinstance(value, (types.MethodType, types.BuiltinMethodType)) and not (
            owner is None or isinstance(owner, types.ModuleType)
        ):
            function = getattr(value, "__func__", None)
            return {"method": value.__name__, "of": self.of(owner), "function": self.of(function)}
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
            return f"{getattr(value, '__module__', None) or 'numpy'}.{value.__name__}"
        if dataclasses.is_dataclass(value):
            fields = [field for field in dataclasses.fields(value) if field.compare is not False]
            named = {field.name: self.of(getattr(value, field.name)) for field in fields}
            return {"class": self.of(type(value)), **named}
        if isinstance(value, keras.Layer):
            return self._layer(value)
        if callable(getattr(value, "get_config", None)):
            described = {"class": self.of(type(value)), "config": self.of(without_names(value.get_config()))}
            # A `get_config` that a user-defined class inherits does not include its new attributes.
            return {**described, "own": self._added(value)} if _is_own_class(type(value)) else described
        if hasattr(value, "__wrapped__"):
            return {"class": self.of(type(value)), "function": self.of(value.__wrapped__)}
        return self._state(value)

    def _function(self, function: types.FunctionType) -> dict[str, Any]:
        closure = [_contents(cell) for cell in function.__closure__ or ()]
        described: dict[str, Any] = {"function": function.__qualname__}
        if closure:
            described["closure"] = self.of(dict(zip(function.__code__.co_freevars, closure, strict=True)))
        if (
            _is_of_library(function.__module__, function.__globals__)
            and "<lambda>" not in function.__qualname__
        ):
            return {**described, "module": function.__module__}
        described["code"] = self._code(function.__code__)
        for name, value in (("defaults", function.__defaults__), ("keywords", function.__kwdefaults__)):
            if value:
                described[name] = self.of(value)
        names = sorted(set(_global_names(function.__code__)) & function.__globals__.keys())
        if names:
            described["globals"] = {name: self.short(function.__globals__[name]) for name in names}
        return described

    def _code(self, code: types.CodeType) -> dict[str, Any]:
        constants = [
            self._code(constant) if isinstance(constant, types.CodeType) else self.of(constant)
            for constant in code.co_consts
        ]
        return {
            "bytes": hashlib.blake2b(code.co_code, digest_size=8).hexdigest(),
            "constants": constants,
            "names": [*code.co_names, *code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]],
        }

    def _module(self, module: types.ModuleType) -> Json:
        file = getattr(module, "__file__", None)
        if _is_of_library(module.__name__, vars(module)) or not file or not os.path.isfile(file):
            return module.__name__
        return {"module": module.__name__, "source": array_digest(np.fromfile(file, np.uint8))}

    def _class(self, kind: type) -> Json:
        name = kind.__qualname__
        if not _is_own_class(kind):
            return f"{kind.__module__}.{name}"
        members = {}
        for key, member in sorted(vars(kind).items()):
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, types.FunctionType):
                members[key] = self.of(function)
            elif not (
                key.startswith(("__", "_abc_")) or callable(member) or hasattr(type(member), "__get__")
            ):
                members[key] = self.of(member)
        bases = [self.of(base) for base in kind.__bases__ if base is not object]
        return {"class": name, "bases": bases, "members": members}

    def _layer(self, layer: keras.Layer) -> dict[str, Any]:
        described: dict[str, Any] = {"class": self.of(type(layer))}
        try:
            described["config"] = self.of(without_names(layer.get_config()))
        except (NotImplementedError, TypeError, ValueError):
            # A user-defined layer that cannot be saved is described by its sublayers.
            described["parts"] = self.of(layers_of(layer, recursive=False))
        parts = layers_of(layer)
        # Configurations contain only the names of user-defined functions and classes.
        described["own"] = [added for part in parts if (added := self._added(part))]
        if self.weights and layer.built:
            described["weights"] = weights_digest(layer.weights)
        return described

    def _added(self, value: Any) -> dict[str, Any]:
        """Describe attributes that a configuration may omit: those with, or of, user-defined classes."""
        is_own, is_layer = _is_own_class(type(value)), isinstance(value, keras.Layer)
        found = {}
        for name, item in vars(value).items():
            if (
                name in NAME_ATTRIBUTES
                or (is_layer and name.startswith("_"))
                or not (is_own or _is_own(item))
            ):
                continue
            # Layers are described separately, and variables by the weights.
            if not any(isinstance(part, (keras.Layer, keras.Variable)) for part in keras.tree.flatten(item)):
                try:
                    found[name] = self.of(item)
                except UnknownIdentityError:
                    found[name] = type(item).__qualname__
        if is_own and is_layer:
            found["class"] = self.of(type(value))
        return found

    def _state(self, value: Any) -> dict[str, Any]:
        try:
            # As in pickle, which also has a dispatch table.
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = reduce(value) if reduce else value.__reduce_ex__(2)
        except Exception as error:
            raise UnknownIdentityError(
                f"A {type(value).__qualname__} cannot be distinguished from others of its class ({error}). "
                "Define `get_config()`, which returns its settings, on the class that contains it."
            ) from error
        if isinstance(reduced, str):
            return {"global": f"{type(value).__module__}.{reduced}"}
        made, arguments, *rest = reduced
        # Items of lists and dictionaries are iterators.
        parts = [list(part) if isinstance(part, Iterator) else part for part in rest]
        if arguments and arguments[0] is type(value):
            arguments = arguments[1:]
        else:
            parts.append(made)
        return {"class": self.of(type(value)), "state": self.of([arguments, *parts])}


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def _global_names(code: types.CodeType) -> Iterator[str]:
    """Yield the names of globals that a function and its inner functions use."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _is_own_class(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    return not _is_of_library(kind.__module__, vars(module) if module else {})


def _is_own(value: Any) -> bool:
    """Return True if a function or object is user-defined, not part of an installed library."""
    if isinstance(value, functools.partial):
        return _is_own(value.func)
    if isinstance(value, types.FunctionType):
        return not _is_of_library(value.__module__, value.__globals__)
    return _is_own_class(type(value)) and not isinstance(value, keras.Layer)


def _is_of_library(name: str | None, module: Mapping[str, Any]) -> bool:
    """Return True if a module belongs to an installed library and is identified by its name."""
    if name in sys.builtin_module_names:
        return True
    file = module.get("__file__")
    return file is not None and os.path.realpath(file).startswith(_LIBRARIES)


def without_names(config: Json, numbers: dict[str, str] | None = None) -> Json:
    """Return a Keras configuration with names replaced by numbers, since Keras numbers them by creation.

    A name is replaced by the number of its first occurrence, which keeps connections between layers.

    >>> without_names({"name": "dense_7", "units": 4, "keras_history": ["dense_7", 0, 0]})
    {'name': 'name 0', 'units': 4, 'keras_history': ['name 0', 0, 0]}
    """
    numbers = {} if numbers is None else numbers

    def renamed(value: Json) -> Json:
        if isinstance(value, str):
            return numbers.setdefault(value, f"name {len(numbers)}")
        return [renamed(item) for item in value] if isinstance(value, (list, tuple)) else value

    if isinstance(config, dict):
        return {
            key: renamed(value) if key in _NAME_KEYS else without_names(value, numbers)
            for key, value in config.items()
        }
    return (
        [without_names(value, numbers) for value in config] if isinstance(config, (list, tuple)) else config
    )

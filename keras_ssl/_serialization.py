"""Serialization of settings: dataclasses that Keras can save, and versioned JSON."""

import dataclasses
import json
from typing import Any, Self

import keras


class Configurable:
    """Mixin of dataclasses: `get_config` and `from_config`, with which Keras saves them.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Crop(Configurable):
    ...     sizes: tuple[int, ...]
    >>> Crop.from_config({"sizes": [8, 8]}) == Crop(sizes=(8, 8))
    True
    """

    def get_config(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create the object from the result of `get_config`, also after conversion to JSON."""
        return cls(**{name: _frozen(keras.saving.deserialize_keras_object(config[name])) for name in config})


def _frozen(value: Any) -> Any:
    """Convert lists, which JSON makes of tuples, to tuples, which are hashable."""
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def short_repr(settings: object) -> str:
    """Return the `repr` of a dataclass without the fields that have their defaults, nested ones included.

    >>> import keras_ssl
    >>> short_repr(keras_ssl.preprocessing.xray_views().geometry)
    'Geometry(rotation=15.0, crop=(0.5, 1.0))'
    """
    if not dataclasses.is_dataclass(settings):
        return repr(settings)
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    changed = [f"{name}={short_repr(value)}" for name, value in values.items() if value != defaults[name]]
    return f"{type(settings).__name__}({', '.join(changed)})"


def settings_to_json(field: str, version: int, values: dict[str, Any]) -> str:
    """Return the values as a JSON object, with `version` in `field`.

    >>> settings_to_json("toast", 1, {"minutes": 3})
    '{"toast": 1, "minutes": 3}'
    """
    return json.dumps({field: version, **values})


def settings_from_json(text: str, field: str, version: int, known: set[str]) -> dict[str, Any]:
    """Return the values from the result of `settings_to_json`.

    Raises:
        ValueError: `text` is not a JSON object with `field`, has a newer version, or its other fields differ
            from `known`.

    >>> settings_from_json('{"toast": 1, "minutes": 3}', "toast", 1, {"minutes"})
    {'minutes': 3}
    """
    try:
        fields: Any = json.loads(text)
    # RecursionError for malicious nesting; ValueError also for numbers with thousands of digits.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`text` must be JSON. Received {text[:80]!r}.") from error
    if not isinstance(fields, dict) or not isinstance(fields.get(field), int):
        raise ValueError(f"`text` must be a JSON object with {field!r}. Received {text[:80]!r}.")
    received = fields.pop(field)
    if received > version:
        raise ValueError(
            f"`text` must be of version {version} or older. Received {received}: written by a newer "
            "keras-ssl, which may prepare images differently."
        )
    if set(fields) != known:
        raise ValueError(f"`text` must have the fields {sorted(known)}. Received {sorted(fields)}.")
    return fields

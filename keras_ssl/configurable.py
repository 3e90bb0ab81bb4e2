"""Dataclasses of plain values that Keras can save and load."""

import dataclasses
from typing import Any, Self

import keras


class Configurable:
    """Gives a dataclass the `get_config` and `from_config` that Keras saves it by.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Crop(Configurable):
    ...     sizes: tuple[int, ...]
    >>> Crop.from_config({"sizes": [8, 8]}) == Crop(sizes=(8, 8))
    True
    """

    def get_config(self) -> dict[str, Any]:
        """Return the fields by name, as Keras saves them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the object again from what `get_config` returned, also after a way through JSON."""
        return cls(**{name: _frozen(keras.saving.deserialize_keras_object(config[name])) for name in config})


def _frozen(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again: a frozen dataclass compares and hashes by value."""
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value

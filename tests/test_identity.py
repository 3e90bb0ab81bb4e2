"""Settings are known by all that they do, and equally in another process."""

import functools
import os
import re
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import pytest

import keras_ssl
from keras_ssl._identity import UnknownIdentityError, array_digest, describe, differences, digest

strength = 0.1


def scaled(images, generator):
    return images * strength


def noisy(images, generator):
    return scaled(images, generator) + generator.normal(0, 0.1, images.shape)


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, images, generator):
        return images * self.factor


def closed_over(factor):
    return lambda images, generator: images * factor


def with_default(factor):
    def scale(images, generator, factor=factor):
        return images * factor

    return scale


def flip(mode, name="flip"):
    return keras.layers.RandomFlip(mode, name=name)


PAIRS = {
    "constants": (lambda x: x + 1, lambda x: x + 2),
    "called names": (lambda x: np.sin(x), lambda x: np.cos(x)),
    "inner constants": (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
    "closures": (closed_over(1), closed_over(2)),
    "defaults": (with_default(1), with_default(2)),
    "partials": (functools.partial(scaled, generator=1), functools.partial(scaled, generator=2)),
    "states": (Scale(1), Scale(2)),
    "methods": (Scale(1).__call__, Scale(2).__call__),
    "arrays": (np.zeros(3), np.zeros(4)),
    "generators": (np.random.default_rng(0), np.random.default_rng(1)),
    "patterns": (re.compile("a"), re.compile("b")),
    "layers": (flip("horizontal"), flip("vertical")),
    "tasks": (keras_ssl.SimCLRTask(views=flip("horizontal")), keras_ssl.SimCLRTask(views=flip("vertical"))),
    "sets": ({1, 2}, {1, 3}),
    "types": (1, "1"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_does_something_else_is_distinguished(kind):
    one, other = PAIRS[kind]
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


def test_what_does_the_same_is_the_same():
    assert digest(closed_over(2)) == digest(closed_over(2))
    assert digest(Scale(2)) == digest(Scale(2))
    assert digest(flip("vertical")) == digest(flip("vertical", name="another"))
    # Keras numbers names as layers are made.
    models = [keras_ssl.encoders.small_encoder((8, 8, 3), filters=(4,)) for _ in range(2)]
    keras.layers.Dense(2)
    assert digest(models[0], weights=False) == digest(models[1], weights=False)
    assert digest(models[0]) != digest(models[1])


def test_globals_that_a_function_uses_count_however_deep(monkeypatch):
    before = digest(noisy)
    monkeypatch.setitem(globals(), "strength", 0.2)
    assert digest(noisy) != before


def test_layers_of_users_are_identified_by_their_code():
    def layer_of(factor):
        class Times(keras.layers.Layer):
            def call(self, images):
                return images * factor

        return keras.Sequential([keras.Input((2,)), Times(name="times")])

    assert digest(layer_of(1)) == digest(layer_of(1))
    assert digest(layer_of(1)) != digest(layer_of(2))


def test_recursion_ends():
    def count(n):
        return n and count(n - 1)

    loop = [1]
    loop.append(loop)
    assert digest(count) == digest(count)
    assert describe(loop) == [1, {"recursion": "list"}]


def test_what_cannot_be_distinguished_raises_unless_it_names_itself():
    with pytest.raises(UnknownIdentityError, match=r"A lock cannot be .*Define `get_conf"):
        digest(Scale(threading.Lock()))

    class Named(Scale):
        def get_config(self):
            return {"factor": "any"}

    assert digest(Named(threading.Lock())) == digest(Named(threading.Lock()))


@pytest.mark.slow
def test_digests_are_equal_in_another_process(tmp_path):
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import keras, numpy as np, keras_ssl
            from keras_ssl._identity import digest
            limit = {"b", "a", "c"}
            def views(images, seed): return images + len(limit) * keras.random.normal((2,), seed=seed)
            task = keras_ssl.SimCLRTask(views=views)
            print(digest([views, limit, task, keras.layers.RandomFlip(), object()]))
            """
        )
    )
    runs = [
        subprocess.run(
            [sys.executable, tmp_path / "script.py"],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_arrays_are_digested_whole_and_large_ones_on_disk_by_samples(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 255, (50, 40, 40, 3), "uint8")
    changed = values.copy()
    changed[7, 39, 39, 2] += 1
    assert array_digest(values) == array_digest(np.asfortranarray(values)) != array_digest(changed)
    assert array_digest(values) != array_digest(values.astype("int16"))
    stored = []
    for name, array in (("a", values), ("b", changed), ("c", values[::-1])):
        np.save(tmp_path / f"{name}.npy", array)
        stored.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert array_digest(stored[0]) == array_digest(values) != array_digest(stored[1])
    monkeypatch.setattr("keras_ssl._identity._WHOLE_BYTES", 1000)
    monkeypatch.setattr("keras_ssl._identity._SAMPLED_BYTES", 16)
    assert array_digest(stored[0]) == array_digest(stored[1]) != array_digest(stored[2])


def test_differences_name_what_differs():
    saved = {"a": 1, "b": {"c": [1, 2], "d": "digest 0"}, "e": None}
    mine = {"a": 2, "b": {"c": [1, 3], "d": "digest 1"}, "e": None, "f": 0}
    found = list(differences(saved, mine))
    assert found == [
        "a: saved 1, now 2",
        "b.c[1]: saved 2, now 3",
        "b.d: different content",
        "f: saved None, now 0",
    ]


class Weighted(keras.losses.Loss):
    """A loss with no configuration of its own, as they are usually written."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def call(self, targets, outputs):
        return self.alpha * keras.ops.mean((targets - outputs) ** 2)


class Empty(Scale):
    def get_config(self):
        return {}


def activated(factor):
    def activation(values):
        return keras.ops.relu(values) * factor

    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation=activation)])


class Held(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, images):
        return self.function(images)

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize(
    "make",
    [
        Weighted,
        Empty,
        activated,
        lambda factor: keras.layers.Lambda(activated(factor).layers[0].activation),
        lambda factor: keras.Sequential([keras.Input((2,)), Held(lambda images: images * factor)]),
    ],
    ids=["loss", "object", "activation", "Lambda", "layer"],
)
def test_what_a_configuration_leaves_out_counts(make):
    assert digest(make(1), weights=False) == digest(make(1), weights=False)
    assert digest(make(1), weights=False) != digest(make(2), weights=False)

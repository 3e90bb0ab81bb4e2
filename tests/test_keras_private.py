"""`_keras_private.py` alone touches what Keras keeps private, which it changes within bounds."""

import ast
import inspect
import random
import re
import sys
import threading
from pathlib import Path

import keras
import pytest

import keras_ssl
from keras_ssl import _keras_private as private

PACKAGE = Path(keras_ssl.__file__).parent
ALONE = PACKAGE / "_keras_private.py"
OTHERS = [file for file in sorted(PACKAGE.rglob("*.py")) if file != ALONE]


def is_private(name):
    return re.fullmatch(r"_[a-z]\w*", name) is not None


def names_in(file):
    """Private names that code defines, and those that it reads or sets, as attributes or in text."""
    defined, used = set(), set()
    tree = ast.parse(file.read_text())
    # Suffixes of names of layers.
    in_text = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
            if (
                isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                defined.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in in_text:
            used.add(node.value)
    return set(filter(is_private, defined)), set(filter(is_private, used))


NAMES = {file: names_in(file) for file in [ALONE, *OTHERS]}
OWN = set().union(*(NAMES[file][0] for file in OTHERS))


@pytest.fixture(scope="module")
def of_keras():
    files = (Path(keras.__file__).parent / "src").rglob("*.py")
    code = (file.read_text() for file in files if not file.name.endswith("_test.py"))
    return {name for text in code for name in re.findall(r"(?:def |\.)(_[a-z]\w*)", text)}


def test_no_other_module_touches_private_names_of_keras(of_keras):
    assert len(of_keras) > 500
    kept = NAMES[ALONE][1] & of_keras
    assert {"_keras_history", "_flatten_layers", "_trainable_variables"} <= kept
    for file in OTHERS:
        assert "keras.src" not in file.read_text(), file
        touched = NAMES[file][1] & (kept | (of_keras - OWN))
        assert not touched, f"{file} touches {sorted(touched)}: put it into _keras_private.py"


def test_no_class_overrides_a_private_method_of_keras():
    checked = 0
    for module in [module for name, module in sys.modules.items() if name.startswith("keras_ssl.")]:
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__.startswith("keras_ssl.") and kind.__module__ != private.__name__:
                bases = [base for base in kind.__mro__ if base.__module__.startswith("keras.")]
                taken = {name for base in bases for name in vars(base) if is_private(name)}
                assert not taken & vars(kind).keys(), kind
                checked += bool(bases)
    assert checked > 10


def first_seeds(count=20):
    return [int(keras.ops.convert_to_numpy(keras.random.SeedGenerator().state)[0]) for _ in range(count)]


def test_default_seeds_follow_from_the_source_whatever_other_threads_draw():
    with private.default_seeds_from(random.Random(3)):
        expected = first_seeds()
    assert expected == [random.Random(3).randint(1, 10**9), *expected[1:]]
    ready, stop, drawn = threading.Event(), threading.Event(), []

    def draw():
        while not stop.is_set():
            drawn.extend([random.randint(1, 10**9), *first_seeds(1)])
            ready.set()

    thread = threading.Thread(target=draw)
    with private.default_seeds_from(random.Random(3)):
        thread.start()
        ready.wait()
        try:
            assert first_seeds() == expected
        finally:
            stop.set()
            thread.join()
    assert drawn
    assert not set(drawn) & set(expected)


def test_nested_sources_and_python_s_own_generator_are_left_as_they_were():
    randint = random.randint
    random.seed(1)
    with private.default_seeds_from(random.Random(3)):
        outer = first_seeds(1)
        with private.default_seeds_from(random.Random(4)):
            inner = first_seeds(1)
        outer += first_seeds(1)
    with private.default_seeds_from(random.Random(3)):
        assert first_seeds(2) == outer
    assert inner != outer[:1]
    assert random.randint is randint
    # Outside, `keras.utils.set_random_seed` rules as ever.
    expected = random.Random(1).randint(1, 10**9)
    assert first_seeds(1) == [expected]

"""The package as a whole: its version, what it imports, and in which direction its modules do."""

import ast
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_ssl

pytestmark = pytest.mark.no_backend

ROOT = Path(keras_ssl.__file__).parent

# Lower numbers may not import higher ones.
LEVELS = {
    name: level
    for level, names in enumerate(
        [
            "_types _atomic _identity _serialization _keras_private _checks _seeding random distribution",
            "preprocessing metrics data encoders losses layers",
            "_value_range _run_identity _model_files",
            "tasks heads callbacks",
            "_fit",
            "models",
            "evaluation",
            "reports",
            "_show_pretext",
        ]
    )
    for name in names.split()
}


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (
                [f"keras_ssl.{name.name}" for name in node.names]
                if node.module == "keras_ssl"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file):
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    for module in imports_of(file):
        parts = module.split(".")
        if parts[0] == "keras_ssl" and len(parts) > 1:
            assert LEVELS[parts[1]] <= LEVELS[own], f"{own} must not import {parts[1]}"
    if own == "reports":
        assert not any(module.split(".")[0] == "keras" for module in imports_of(file))


def test_version_is_written_once():
    assert importlib.metadata.version("keras-ssl") == keras_ssl.__version__


def test_only_the_backend_in_use_is_imported_and_nothing_heavy():
    script = (
        "import sys, keras; before = set(sys.modules); import keras_ssl; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=os.environ
    )
    new = set(done.stdout.split())
    assert "keras_ssl" in new
    assert not new & {"tensorflow", "jax", "torch", "sklearn", "skimage", "matplotlib", "nibabel"}


def test_everything_public_has_a_docstring():
    for name in keras_ssl.__all__:
        if name != "__version__":
            assert getattr(keras_ssl, name).__doc__, name


@pytest.mark.parametrize(
    "head",
    [
        keras_ssl.OrdinalHead(4, hidden_units=(8,)),
        keras_ssl.MultiHotHead(3),
        keras_ssl.ClassificationHead(3),
        keras_ssl.RegressionHead(3, thresholds=(0.4, 1.7)),
        keras_ssl.SegmentationHead(3, filters=(4, 8), dropout=0.1),
    ],
)
def test_heads_are_serializable(head):
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head)) == head


def test_tasks_are_exported_where_they_are_made():
    tasks = [name for name in keras_ssl.__all__ if name.endswith("Task") and name != "PretextTask"]
    assert len(tasks) == 17
    assert {"PretextTask", "RotationGuards", *tasks} == set(keras_ssl.tasks.__all__)
    assert all(getattr(keras_ssl.tasks, name) is getattr(keras_ssl, name) for name in tasks)


def test_examples_import_no_backend():
    for file in (ROOT.parent / "examples").glob("*.py"):
        imports = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import)]
        names = {name.name.split(".")[0] for node in imports for name in node.names}
        assert not names & {"tensorflow", "jax", "torch"}, file

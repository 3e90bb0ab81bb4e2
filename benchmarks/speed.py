"""All speed comparisons, on every installed backend, as one Markdown table.

    python benchmarks/speed.py --output speed.md
    python benchmarks/speed.py --output speed.md --quick

A section is a script of this folder, run in a process of its own for each backend; its rows are written
when it ends. The same command goes on with an output that is there: sections that it holds are not repeated.
Ratios are how many times as fast keras-ssl is as the reference, above 1 for faster. Arms take turns in one
process, ratios are medians over the rounds. Run it on an idle machine, or with `--clock cpu`, which counts
the seconds of the processor where a section can, and `OMP_NUM_THREADS=1`. What is not installed is a row
that says so: MONAI, TorchIO and lightly are compared with where they are.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from side_by_side import CLOCKS, Row, not_measured

BACKENDS = ("tensorflow", "jax", "torch")
SECTIONS = {
    "pretext step": "fit_pretext",
    "rotation": "rotation",
    "augmentation": "augmentation",
    "loss": "losses",
    "reading": "decoding",
    "frozen arm": "frozen_features",
    "warm-up": "warmup",
    "import": "import_time",
    "compilation": "compilation",
}
# Independent of the backend: measured once.
ONCE = {"reading"}
COMPARED = ("keras", *BACKENDS, "numpy", "scikit-image", "pillow", "monai", "torchio", "lightly")
HEADER = """\
| what | backend | ours | reference | ratio | wanted | reached |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
"""


def written(section, backend, row):
    """One line of the table."""
    measured = row.ratio is not None
    reached = ("yes" if row.ratio >= row.wanted else "**no**") if measured else "-"
    numbers = (f"{row.ratio:.2f}", f"{row.wanted:g}") if measured else ("-", "-")
    cells = (f"{section}: {row.what}", backend, row.ours, row.reference, *numbers, reached)
    return "| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |\n"


def head():
    """Where and with what the table was measured."""
    versions = []
    for name in COMPARED:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}"
    return f"Python {platform.python_version()}, {', '.join(versions)}; {machine}.\n\n{HEADER}"


def rows_of(section, backend, quick, clock):
    """Run a section in a process of its own."""
    command = [sys.executable, __file__, "--section", section, "--clock", clock, *["--quick"] * quick]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return [not_measured("failed", done.stderr.strip().splitlines()[-1])]
    return [Row(*values) for values in json.loads(done.stdout.splitlines()[-1])]


def run(output, backends, sections, quick, clock):
    """Write the rows of all sections that the output lacks."""
    text = output.read_text() if output.exists() else ""
    if not text:
        output.write_text(head())
    lines = text.splitlines()
    for section in sections:
        once = section in ONCE
        for backend in backends[:1] if once else backends:
            shown = "any" if once else backend
            if any(line.startswith(f"| {section}: ") and f" | {shown} | " in line for line in lines):
                continue
            found = rows_of(section, backend, quick, clock)
            with output.open("a") as file:
                file.write("".join(written(section, shown, row) for row in found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("speed.md"))
    parser.add_argument("--quick", action="store_true", help="small images and few rounds")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        script = importlib.import_module(SECTIONS[arguments.section])
        print(json.dumps(list(script.rows(arguments.quick, CLOCKS[arguments.clock]))))
        return
    backends = arguments.backends or [name for name in BACKENDS if importlib.util.find_spec(name)]
    run(arguments.output, backends, arguments.sections, arguments.quick, arguments.clock)


if __name__ == "__main__":
    main()

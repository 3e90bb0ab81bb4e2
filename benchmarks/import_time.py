"""Seconds of `import keras_ssl` after `import keras`, in new processes; the median of several.

KERAS_BACKEND=jax python benchmarks/import_time.py
"""

import os
import statistics
import subprocess
import sys

from side_by_side import Row, readable

SCRIPT = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import keras_ssl
print(middle - start, time.perf_counter() - middle)
"""


def measure(processes):
    """Median seconds of `import keras`, and of `import keras_ssl` after it."""
    pairs = []
    for _ in range(processes + 1):
        done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
        pairs.append([float(value) for value in done.stdout.split()])
    # The first run reads files that later ones find in memory.
    return [statistics.median(column) for column in zip(*pairs[1:], strict=True)]


def rows(quick, clock):
    """The row for `speed.py`: both imports against that of Keras alone."""
    alone, ours = measure(2 if quick else 5)
    both = alone + ours
    yield Row("keras, then keras_ssl", readable(both), f"keras alone: {readable(alone)}", alone / both, 0.9)


def main():
    keras_seconds, ours = measure(5)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    print(f"{backend}: import keras {keras_seconds:.2f} s, then import keras_ssl {ours:.2f} s")


if __name__ == "__main__":
    main()

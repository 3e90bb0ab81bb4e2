"""Seconds of `import keras_ssl` after `import keras`, in new processes; the median of several.

KERAS_BACKEND=jax python benchmarks/import_time.py
"""

import os
import statistics
import subprocess
import sys

SCRIPT = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import keras_ssl
print(middle - start, time.perf_counter() - middle)
"""


def main():
    pairs = []
    for _ in range(6):
        done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
        pairs.append([float(value) for value in done.stdout.split()])
    # The first run reads files that later ones find in memory.
    keras_seconds, ours = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    print(f"{backend}: import keras {keras_seconds:.2f} s, then import keras_ssl {ours:.2f} s")


if __name__ == "__main__":
    main()

"""How long one waits for the first word: `python benchmarks/startup.py`.

Seconds of a new process, the median of some, after one that does not count (it reads the files from disk): Python
itself, `import introspect`, `python train.py --help`, and `python train.py --cfg job`, which composes all settings.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import introspect": ["-c", "import introspect"],
    "python train.py --help": ["train.py", "--help"],
    "python train.py --cfg job": ["train.py", "--cfg", "job"],
}


def seconds(command: list[str]) -> float:
    """Of one process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True
    )
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(options.repeats + 1):
        for name, command in COMMANDS.items():
            taken = seconds(command)
            if number:
                times[name].append(taken)
    print(f"Python {sys.version.split()[0]}, medians of {options.repeats}")
    print("| | seconds | min | max |\n|---|---|---|---|")
    for name, taken in times.items():
        print(f"| `{name}` | {statistics.median(taken):.2f} | {min(taken):.2f} | {max(taken):.2f} |")


if __name__ == "__main__":
    main()

"""Time the second run of a recipe in which nothing changed: every stage must be recognised as done. Goal: under 2 s.

    python bench/second_run.py [RECIPE]

Runs the recipe first if it has not been run here. Prints the median of five second runs, whole processes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def main() -> None:
    """Run, then time five runs that have nothing to do."""
    recipe = sys.argv[1] if len(sys.argv) > 1 else "demo"
    command = [sys.executable, "-m", "headwater", "run", recipe]
    subprocess.run(command, check=True)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert "Nothing to do" in done.stdout, "the second run did something"
    print(f"second run of '{recipe}': median {statistics.median(seconds):.2f} s of {[round(s, 2) for s in seconds]}")


if __name__ == "__main__":
    main()

"""The fault bench: kills, writers and readers that meet, flipped bits, harmful inputs; prints what was tried and held.

    python benchmarks/faults.py [--short] [--seed 17] [--only kills,writers,bits]

Each part is a module beside this one with ``main(seed, count)``, which returns rows (kind, tried, held, notes), or
prints a table of its own and returns the number of faults that did not hold. The same seed tries the same faults; the
moments of kills are shares of measured durations, so that they differ a little.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
from pathlib import Path

#: Number of faults of each part, in full and in the short form.
PARTS = {
    "kills": (200, 7),
    "writers": (1000, 25),
    "bits": (1000, 60),
    "hosts": (3, 3),
    "own": (1000, 50),
    "inputs": (10_000, 100),
    "signals": (100, 4),
    "buckets": (60, 2),
}

#: What the parts with a table of their own try.
OWN_TABLES = {
    "own": "random change of a store, a run, a split or a state",
    "inputs": "random change of a file of others, and 588 hostile inputs",
    "signals": "signal to a command",
    "buckets": "kill of maps that are written to a bucket",
}

Row = tuple[str, int, int, str]


def run(part: str, seed: int, count: int) -> list[Row]:
    """Run a part; no row if its module is not there."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests" / "helpers")]
    name = f"faults_{part}"
    if importlib.util.find_spec(name) is None:
        return []
    found = importlib.import_module(name).main(seed, count)
    if isinstance(found, int):
        return [(OWN_TABLES[part], count, count - found, "table above")]
    return [tuple(row) for row in found]


def table(rows: list[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| fault | tried | held | notes |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {kind} | {tried} | {held} | {notes} |" for kind, tried, held, notes in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--short", action="store_true", help="few faults of each kind")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--count", type=int, help="number of faults of each part, instead of its own")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[Row] = []
    for part in options.only.split(","):
        start = time.perf_counter()
        rows += (found := run(part, options.seed, options.count or PARTS[part][options.short]))
        print(f"{part}: {len(found)} rows, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(f"seed {options.seed}\n\n{table(rows)}")
    return int(any(held < tried for _, tried, held, _ in rows))


if __name__ == "__main__":
    sys.exit(main())

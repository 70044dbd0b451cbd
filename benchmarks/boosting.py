"""Measure peak RAM and time of training trees against the number of feature rows, and extrapolate to 27 million rows.

    python benchmarks/boosting.py [--rows 0.5 1 2 4] [--trees 10] [--depth 9] [--lags 0] [--once 27]

Towers with simulated weather (70,000 hours each; 12 input columns, some hours missing, two numbers and 16 classes: 30
columns per feature row) pass through the same functions as in `fit`: read site by site, turned into feature rows,
binned, trained on. Only reading the store is left out. Each size runs in a separate process. Its largest resident
memory is measured, minus that of a process that only imported the packages. Feature rows that `fit` keeps from pass to
pass, up to half a GiB whatever the total number, are left out of the sizes and added at the end of the line. `--whole`
measures the plain alternative: all rows in one array.

Limit: a line through the sizes, extended to 27 million rows, stays below 8 GiB. `--once` runs that size itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

from fluxcube.models.base import Sizes
from fluxcube.models.boosting import Boosting, BoostingConfig
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.towers import Towers
from fluxcube.samples.windows import flatten
from fluxcube.training.rows import KEPT, ModelRows, SiteRows, fit_rows, table

HOURS = 70_000
MET = (
    "DOY",
    "TOD",
    "TA",
    "SW_IN",
    "VPD",
    "SW_IN_POT",
    "P",
    "WS",
    "PA",
    "RH",
    "TS_1",
    "SWC_1",
)
CLASSES = 16
GIB = 2**30
GOAL, LIMIT = 27.0, 8.0


class Simulated(SiteRows):
    """Towers whose hours are drawn when they are read, the same each time."""

    def towers(self):
        for site in self.sites:
            rng = np.random.default_rng(int(site))
            met = rng.uniform(-1, 1, (1, HOURS, len(MET))).astype(np.float32)
            met[0, rng.random(HOURS) < 0.1, 6:] = np.nan
            block = Block(
                inputs=met,
                observed=np.ones((1, HOURS), bool),
                numbers=rng.uniform(-0.5, 0.5, (1, 2)).astype(np.float32),
                classes=np.array([[int(site) % CLASSES]]),
                chips=np.empty((1, 0, 0, 64), np.float32),
                chip_hour=np.empty((1, 0), np.int64),
                first_hour=0,
            )
            yield Towers(self.spec, (site,), flatten(block), np.zeros(1, int), np.zeros(1, int), fluxes_of(met[0], rng))

    def _read(self, max_qc):
        for site in self.sites:
            one = dataclasses.replace(self, sites=[site])
            yield next(one.towers()).fluxes


def fluxes_of(met: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a noisy flux of all hours that requires deep trees."""
    sun, warmth, dry = met[:, 3], met[:, 2], met[:, 4]
    nee = 1 - (1 + sun) * np.exp(-((warmth - 0.2) ** 2)) / (1 + np.exp(3 * dry))
    return (nee + rng.normal(0, 0.5, len(nee))).astype(np.float32)[:, None]


def peak() -> float:
    """Return the largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def now() -> float:
    """Return the resident memory of this process, GiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / GIB


def one_size(millions: float, trees: int, depth: int, lags: int, kept: int, whole: bool) -> dict:
    """Train on a number of feature rows; return peak RAM and seconds."""
    sites = [str(i) for i in range(max(1, round(millions * 1e6 / HOURS)))]
    spec = FeatureSpec(predictors=MET, static=("latitude", "elevation", "igbp"), igbp_classes=tuple("ABCDEFGHIJKLMNOP"))
    sizes = Sizes(inputs=len(MET), numbers=2, classes=(CLASSES,), protected=(0, 1))
    config = dataclasses.replace(
        BoostingConfig.published(), n_estimators=trees, max_depth=depth, lags=tuple(range(1, lags + 1))
    )
    model = Boosting(config, sizes)
    import xgboost  # noqa: F401  (part of the base)

    base, begun, ticks, resident = peak(), time.perf_counter(), [], []

    def tick(*_):
        ticks.append(time.perf_counter())
        resident.append(now() - base)

    source = Simulated(None, sites, spec, 1)
    if whole:
        model.fit(*table(model, source), seed=0, progress=tick)
    else:
        fit_rows(model, source, None, seed=0, progress=tick, kept=kept)
    width = next(ModelRows(model, source).chunks())[0].shape[1]
    return {
        "rows": len(sites) * HOURS,
        "columns": width,
        "gib": peak() - base,
        "growing": max(resident),
        "prepare": ticks[0] - begun,
        "tree": (ticks[-1] - ticks[0]) / max(1, len(ticks) - 1),
    }


def in_process(args: argparse.Namespace, millions: float, kept: int, whole: bool = False) -> dict:
    """Run one size in a separate process."""
    command = [sys.executable, __file__, "--one", str(millions), "--trees", str(args.trees), "--depth", str(args.depth)]
    command += ["--lags", str(args.lags), "--kept", str(kept), *(["--whole"] if whole else [])]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    each = found["gib"] * GIB / found["rows"] / found["columns"]
    size = f"{found['rows'] / 1e6:6.2f} M rows of {found['columns']:3d}"
    memory = f"{found['gib']:5.2f} GiB ({each:4.1f} bytes a value; {found['growing']:5.2f} while trees grow)"
    seconds = f"prepared in {found['prepare']:5.1f} s, {found['tree']:6.2f} s a tree"
    print(f"{size}: {memory}, {seconds}{', rows in one array' if whole else ''}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[0.5, 1, 2, 4], help="millions")
    parser.add_argument("--trees", type=int, default=10)
    parser.add_argument("--depth", type=int, default=9)
    parser.add_argument("--lags", type=int, default=0, help="number of previous hours in a feature row")
    parser.add_argument("--whole", action="store_true", help="also with all rows in one array")
    parser.add_argument("--once", type=float, help="also run this number of million rows")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_size(args.one, args.trees, args.depth, args.lags, args.kept, args.whole)))
        return
    print(f"{len(os.sched_getaffinity(0))} cores, {args.trees} trees of depth {args.depth}")
    found = [in_process(args, millions, 0) for millions in args.rows]
    if args.whole:
        for millions in args.rows:
            in_process(args, millions, 0, whole=True)
    if len(found) > 1:
        slope, offset = np.polyfit([f["rows"] / 1e6 for f in found], [f["gib"] for f in found], 1)
        need = offset + slope * GOAL + KEPT / GIB
        verdict = "below" if need < LIMIT else "ABOVE"
        print(f"a line: {offset:.2f} GiB + {slope:.3f} GiB per million rows", end="; ")
        print(f"{GOAL:g} M rows with those kept: {need:.1f} GiB, {verdict} {LIMIT:g} GiB")
    if args.once:
        in_process(args, args.once, KEPT)


if __name__ == "__main__":
    main()

"""Measure the CPU time of each stage of the demo, and the share of its maps.

    OMP_NUM_THREADS=1 python benchmarks/demo.py FOLDER [--quick] [--finished DEMO]

FOLDER receives the demo; with --finished, the maps of the models of a demo that was made before, and nothing else. The
user and system time and the minor page faults of this process and of all its descendants are read from /proc, each
stage and each model's maps apart. Limit: the maps take at most 15 % of the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube import demo
from fluxcube.inference.loading import load_model
from fluxcube.simulation import Planet
from fluxcube.timestamps import HOUR

TICKS = os.sysconf("SC_CLK_TCK")


class Family(threading.Thread):
    """Samples this process and its descendants five times a second, so that those that end are counted."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen: dict[int, np.ndarray] = {}

    def run(self) -> None:
        while True:
            self.used()
            time.sleep(0.2)

    def used(self) -> np.ndarray:
        """Return user and system time (s) and minor page faults so far."""
        parents, rows = {}, {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    fields = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
                except OSError:
                    continue  # it has ended
                parents[int(folder.name)] = int(fields[1])
                rows[int(folder.name)] = np.array([int(fields[i]) for i in (11, 12, 7)]) / (TICKS, TICKS, 1)
        family = {os.getpid()}
        while more := {child for child, parent in parents.items() if parent in family} - family:
            family |= more
        self._seen |= {process: rows[process] for process in family}
        return np.sum(list(self._seen.values()), 0)


def maps_of(demo_folder: Path, folder: Path, family: Family) -> None:
    """Write the maps of the models of a finished demo into a folder, and show the cost of each."""
    planet = Planet(seed=json.loads((demo_folder / "demo.json").read_text("utf-8"))["seed"])
    runs = {name: demo_folder / "runs" / name for name in demo.MODELS}
    models = {name: load_model(run) for name, run in runs.items()}
    models[demo.MIXED] = load_model([runs[name] for name in demo.MEMBERS])
    start = family.used()
    forcing = demo._forcing(demo_folder / "raw", planet).persist()
    maps: dict[str, xr.Dataset] = {}
    for name, model in models.items():
        before = family.used()
        period = slice(planet.period[0], planet.period[1] - HOUR)
        maps[name] = demo._upscale(model, name, forcing, period, folder, None, maps)
        show(f"  maps of {name}", family.used() - before)
    show("maps", family.used() - start)
    print(f"load {os.getloadavg()[0]:.0f}")


def main(folder: Path, quick: bool, finished: Path | None) -> None:
    family = Family()
    family.start()
    if finished:
        folder.mkdir(parents=True, exist_ok=True)
        maps_of(finished, folder, family)
        return
    stages: dict[str, np.ndarray] = {}

    class Watch(demo._Watch):
        def __enter__(self) -> None:
            super().__enter__()
            self._before = family.used()

        def __exit__(self, *exc: object) -> None:
            super().__exit__(*exc)
            stages[self._stage] = family.used() - self._before
            show(self._stage, stages[self._stage])

    upscaled: Callable[..., xr.Dataset] = demo._upscale

    def upscale(model: object, name: str, *args: object) -> xr.Dataset:
        before = family.used()
        maps = upscaled(model, name, *args)
        show(f"  maps of {name}", family.used() - before)
        return maps

    demo._Watch, demo._upscale = Watch, upscale
    result = demo.run_demo(folder, quick=quick, overwrite=True)
    print(result.text)
    total = np.sum(list(stages.values()), 0)
    show("all", total)
    share = stages["maps"][:2].sum() / total[:2].sum()
    print(f"maps: {share:.1%} of the CPU time of the demo; load {os.getloadavg()[0]:.0f}")


def show(name: str, used: np.ndarray) -> None:
    print(f"{name:<24} user {used[0]:6.1f} s, system {used[1]:5.1f} s, {used[2]:12,.0f} page faults", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--finished", type=Path, help="folder of a finished demo")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.quick, arguments.finished)

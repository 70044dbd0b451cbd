"""Measure the CPU time of one whole training run of `small()`: reading, steps, validation, saving and applicability.

    python benchmarks/skill_run.py CUBE [--old FOLDER] [--rounds 3] [--split FILE] [--windows 9000] [--epochs 3]
        [--batch 32] [--attention window --context 32]

The run is that of a skill table: `fit` on three quarters of the test towers of a split (by default the 32 development
towers of ``splits/towers157-development.json``), validated on the others, with 27,000 windows in all and one thread.
With `--old`, the folder of another version of fluxcube, runs of both versions are made in turns, each in a process of
its own; times are CPU seconds of `fit`, without the imports. Medians of the rounds, and the share of each part of
the last round.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Functions whose cumulative time is reported, by file and name; later versions have some of them only.
PARTS = {
    "digest of the data": ("digest.py", "data_digest"),
    "reading towers": ("towers.py", "load_towers"),
    "training epochs": ("loop.py", "epoch"),
    "of which steps": ("loop.py", "_step"),
    "validation": ("validation.py", "score"),
    "saving states": ("loop.py", "save"),
    "applicability": ("applicability.py", "fit_applicability"),
}


def run(args: argparse.Namespace) -> None:
    """Train once, and print CPU seconds, validation score and parts as JSON; this runs in a process of its own."""
    import torch

    import fluxcube as fc
    from fluxcube.samples.splits import Split, load_folds

    torch.set_num_threads(1)
    data = fc.open_carbonsense(args.cube)
    sites = load_folds(args.split)[0].test
    own = Split(train=tuple(s for i, s in enumerate(sites) if i % 4), val=tuple(sites[::4]), test=(), kind="sites")
    training = {"epochs": args.epochs, "windows_per_epoch": args.windows, "batch_size": args.batch}
    changes = {"attention": args.attention, "context": args.context}
    config = {name: value for name, value in changes.items() if value is not None}
    profiler = cProfile.Profile(time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        if args.profile:
            profiler.enable()
        done = fc.fit(data, target="NEE", out=Path(folder) / "run", split=own, config=config, training=training)
        profiler.disable()
        seconds = time.process_time() - began
    parts = shares(profiler) if args.profile else {}
    print(json.dumps({"seconds": seconds, "nse": done.history[-1].get("val_nse_NEE"), "parts": parts}))


def shares(profiler: cProfile.Profile) -> dict[str, float]:
    """Return the cumulative seconds of each part."""
    found = {}
    for (path, _, name), (_, _, _, cumulative, _) in pstats.Stats(profiler).stats.items():
        for part, (file, function) in PARTS.items():
            if name == function and Path(path).name == file and "fluxcube" in path:
                found[part] = found.get(part, 0.0) + cumulative
    return found


def once(folder: Path, args: argparse.Namespace, *, profile: bool = False) -> dict:
    """Run this script in a process that imports the version of fluxcube in a folder."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    own = ["--worker", args.cube, "--split", args.split, "--epochs", str(args.epochs), "--windows", str(args.windows)]
    own += ["--batch", str(args.batch)]
    own += ["--attention", args.attention] if args.attention else []
    own += ["--context", str(args.context)] if args.context else []
    command = [sys.executable, __file__, *own, *(["--profile"] if profile else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cube")
    parser.add_argument("--old", help="folder of another version of fluxcube, to compare with")
    parser.add_argument("--split", default=str(ROOT / "splits" / "towers157-development.json"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--windows", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--attention", choices=("window", "banded"), help="that of small() by default")
    parser.add_argument("--context", type=int, help="T, in hours; that of small() by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="report the parts of a further run of each version")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run(args)
        return
    folders = {"new": ROOT} | ({"old": Path(args.old)} if args.old else {})
    seconds: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(args.rounds):
        for name, folder in folders.items():
            result = once(folder, args)
            seconds[name].append(result["seconds"])
            print(f"  {name}: {result['seconds']:6.1f} s of CPU, validation NSE {result['nse']:.4f}", flush=True)
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.1f} s of CPU (median of {len(values)})")
    if args.old:
        pairs = [old / new for old, new in zip(seconds["old"], seconds["new"], strict=True)]
        print(f"old over new: {statistics.median(pairs):.2f}")
    for name, folder in folders.items() if args.profile else ():
        result = once(folder, args, profile=True)
        print(f"parts of {name} (with the profiler {result['seconds']:.1f} s):")
        for part, value in sorted(result["parts"].items(), key=lambda item: -item[1]):
            print(f"  {part:20s} {value:6.1f} s")


if __name__ == "__main__":
    main()

"""Minutes and memory of training by number of towers and preset: a table for docs/training.md.

Each line is one call of `fluxcube.plan_training` in a process of its own: the towers are read, a few steps are
measured, and their times are multiplied by the numbers that the whole training has.

    python benchmarks/training_minutes.py carbonsense.zarr --sites 12 --sites 50
    python benchmarks/training_minutes.py carbonsense_daily.zarr --model tam-rl --model xgboost
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys

MODELS = ("ecoperceiver", "xgboost")
PRESETS = ("quick", "small", "published")
HEAD = "| towers | model | preset | steps | minutes | preparing, training, validation, finishing (min) | memory (GB) |"


def plan(store: str, sites: int, model: str, preset: str) -> dict:
    """Return what one training takes, measured in this process."""
    import fluxcube as fc
    from fluxcube.training.settings import configure

    config, training = configure(model, preset)
    cube = fc.open_carbonsense(store)
    cube = cube.isel(site=slice(0, sites))
    found = fc.plan_training(cube, model=model, config=config, training=training)
    times = [f"{value / 60:.1f}" for value in found.seconds.values()]
    steps = f"{found.steps:,}"
    row = {"sites": sum(found.sites.values()), "steps": steps, "minutes": f"{found.minutes:.1f}"}
    return row | {"times": ", ".join(times), "memory": f"{found.memory / 1e9:.1f}"}


def in_process(*words: object) -> dict:
    """Return what one training takes, measured in a process of its own, whose memory is that of this training."""
    done = subprocess.run([sys.executable, __file__, "--one", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--sites", type=int, action="append")
    parser.add_argument("--model", action="append")
    parser.add_argument("--preset", action="append")
    parser.add_argument("--one", nargs=3, metavar=("SITES", "MODEL", "PRESET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sites, model, preset = options.one
        print(json.dumps(plan(options.store, int(sites), model, preset)))
        return
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n\n{HEAD}")
    print("|---:|---|---|---:|---:|---|---:|")
    for sites in options.sites or (12,):
        for model in options.model or MODELS:
            for preset in options.preset or PRESETS:
                row = in_process(sites, model, preset, options.store)
                cells = (row["sites"], model, preset, row["steps"], row["minutes"], row["times"], row["memory"])
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()

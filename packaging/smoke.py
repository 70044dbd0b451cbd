"""What the package must do with its required dependencies alone: run by packaging/wheel.py, in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fluxcube as fc

#: Commands, and the extra that each needs; the cube is the one that `main` builds.
NEEDS = {
    "train carbonsense.zarr runs/eco": "train",
    "upscale ecoperceiver-towers forcing.zarr maps.zarr": "train",
    "demo --quick": "train",
    "fetch towers new --sites DE-Tha": "fetch-towers",
    "fetch modis new --bbox 5,45,6,46 --years 2018 --service planetary": "fetch-modis",
}


def fluxcube(command: str) -> subprocess.CompletedProcess:
    """Run a command."""
    return subprocess.run([sys.executable, "-m", "fluxcube", *command.split()], capture_output=True, text=True)


def main() -> None:
    """Import every public name, build, open and score a cube, and ask each command for what it lacks."""
    assert not str(fc.__file__).startswith(str(Path(__file__).parents[1])), f"not the installed package: {fc.__file__}"
    for name in fc.__all__:
        getattr(fc, name)
    from fluxcube import simulation

    planet = simulation.Planet(0, quick=True)
    simulation.write_towers(planet, Path("raw"))
    sites = sorted({path.name.split("_")[1] for path in Path("raw").glob("*.zip")})[:2]
    fc.build_carbonsense("raw", "carbonsense.zarr", sites=sites)
    ds = fc.open_carbonsense("carbonsense.zarr")
    assert sorted(ds.site.values) == sites
    assert (fc.scores.nse(ds.fluxes, ds.fluxes) == 1).any()
    assert fluxcube("--help").returncode == 0 and fluxcube("inspect carbonsense.zarr").returncode == 0
    for command, extra in NEEDS.items():
        done = fluxcube(command)
        assert done.returncode == 1 and f"fluxcube[{extra}]" in done.stderr, f"{command}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
    left = sorted(path.name for path in Path().iterdir())
    assert left == ["carbonsense.zarr", "raw"], f"a refused command left {left}"


if __name__ == "__main__":
    print(json.dumps(fc.__version__)) if sys.argv[1:] == ["version"] else main()

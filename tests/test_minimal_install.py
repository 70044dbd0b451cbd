"""Without an optional package, a command names the extra that has it, before it computes or writes anything.

Each case runs in a fork of one process that imported nothing optional yet.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fluxcube

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]

#: The package that is absent, the command, and the extra that it names.
CASES = (
    ("torch", "train {cube} new/run --predictors TA,SW_IN", "train"),
    ("xgboost", "train {cube} new/run --model xgboost --predictors TA,SW_IN", "train"),
    ("torch", "evaluate ecoperceiver-towers {cube}", "train"),
    ("torch", "upscale ecoperceiver-towers {raw}/era5 new/maps.zarr", "train"),
    ("torch", "demo --quick --out new/demo", "train"),
    ("matplotlib", "demo --quick --out new/demo", "plot"),
    ("netCDF4", "forcing {raw}/era5 new/forcing.zarr", "grid"),
    ("rasterio", "build {raw}/towers new/cube.zarr --modis {raw}/modis", "grid"),
    ("matplotlib", "plot {maps} new/map.png", "plot"),
    ("matplotlib", "animate {maps} new/map.gif", "plot"),
    ("netCDF4", "export {maps} new/maps.nc", "grid"),
    ("rasterio", "export {maps} new/maps.tif --variable NEE", "grid"),
    ("requests", "fetch towers new/raw --sites DE-Tha --plan", "fetch-towers"),
    (
        "requests",
        "fetch era5 --out new/era5 --bbox 5,45,6,46 --years 2018 --endpoint http://localhost:9",
        "fetch-era5",
    ),
    ("requests", "fetch modis new/modis --bbox 5,45,6,46 --years 2018 --plan", "fetch-modis"),
    ("s3fs", "inspect s3://bucket/carbonsense.zarr", "s3"),
    ("gcsfs", "inspect gs://bucket/carbonsense.zarr", "gs"),
    ("adlfs", "inspect az://bucket/carbonsense.zarr", "az"),
)
RUNNER = """
import json, os, sys
import dask.array, xarray, zarr
from typer.testing import CliRunner
from fluxcube.cli import app
from fluxcube.errors import MissingPackageError

for package, command in json.load(sys.stdin):
    read, write = os.pipe()
    if not os.fork():
        assert package not in sys.modules, f"{package} is imported without need"
        sys.modules[package] = None
        done = CliRunner().invoke(app, command.split())
        refused = isinstance(done.exception, MissingPackageError)
        text = str(done.exception) if refused else f"{done.exception!r} {done.output}"
        os.write(write, text.encode()[:8000])
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        print(json.dumps(pipe.read()), flush=True)
    os.wait()
"""


def packages(extra):
    """Return the names of the packages of an extra, with those of the extras that it contains."""
    found = set()
    for line in EXTRAS[extra]:
        inner = re.fullmatch(r"fluxcube\[(.+)\]", line)
        found |= set().union(*map(packages, inner[1].split(","))) if inner else {re.split(r"[\[<>=]", line)[0].lower()}
    return found


@pytest.fixture(scope="module")
def answers(cube_store, planet_files, tmp_path_factory):
    """What each command says without its package, and the folder in which it ran."""
    from fluxcube.maps.store import write_maps
    from fluxcube.simulation.example import example_maps

    folder = tmp_path_factory.mktemp("minimal")
    write_maps(example_maps(), folder / "maps.zarr")
    (folder / "new").mkdir()
    places = {"cube": cube_store, "raw": planet_files, "maps": "maps.zarr"}
    cases = json.dumps([(package, command.format(**places)) for package, command, _ in CASES])
    done = subprocess.run([sys.executable, "-c", RUNNER], cwd=folder, input=cases, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], folder


def test_each_command_names_the_extra_that_it_needs(answers):
    texts, _ = answers
    assert len(texts) == len(CASES)
    wrong = [
        f"without {package}: {command}\n    {text}"
        for (package, command, extra), text in zip(CASES, texts, strict=True)
        if f"pip install 'fluxcube[{extra}]'" not in text or package.lower() not in text.lower()
    ]
    assert not wrong, "\n".join(wrong)


def test_a_command_that_lacks_a_package_writes_nothing(answers):
    assert not list((answers[1] / "new").iterdir())


def test_messages_name_an_extra_that_has_the_package():
    said = []
    for path in Path(fluxcube.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))) if path.name != "errors.py" else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "missing_package":
                package, extra = (getattr(one, "value", None) for one in node.args[:2])
                if isinstance(package, str) and isinstance(extra, str):
                    said.append((path.name, package.lower(), extra))
    assert len(said) > 20
    wrong = [one for one in said if one[1] not in {name.partition("-cpu")[0] for name in packages(one[2])}]
    assert not wrong, wrong


def test_public_functions_name_the_extra(monkeypatch):
    for name in ("requests", "fluxcube.fetch.modis_fetch", "fluxcube.fetch.http"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(fluxcube.fetch, "modis_fetch", raising=False)
    with pytest.raises(ImportError, match=r"fluxcube\[fetch-modis\]"):
        _ = fluxcube.fetch.modis

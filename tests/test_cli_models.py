"""The commands that mix, calibrate and describe trained runs."""

from __future__ import annotations

import contextlib
import io
import re
import sys

import numpy as np
import pytest

import fluxcube as fc
from fluxcube import catalog, cli
from fluxcube.inference.loading import load_model
from fluxcube.models.checkpoint import is_mixed
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube, example_maps
from fluxcube.training.fit import fit

pytestmark = pytest.mark.usefixtures("short_applicability")


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


@pytest.fixture(scope="module")
def runs(cube, tmp_path_factory):
    """Two kinds of model of two folds."""
    folder, sites = tmp_path_factory.mktemp("runs"), tuple(map(str, cube.site.values))
    for fold in (0, 1):
        split = Split(train=sites[1 - fold :: 2], test=sites[fold::2])
        for name, kind in (("line", "sw-linear"), ("cycle", "mean-cycle")):
            fit(cube, model=kind, target=("NEE", "GPP_NT"), out=folder / f"{name}-{fold}", split=split)
    return folder


@pytest.fixture
def call(cube, runs, monkeypatch):
    """Run a command in this process, on the example cube, in the folder of the runs; its text, errors last."""
    monkeypatch.setattr(catalog, "open_carbonsense", lambda store: cube)
    monkeypatch.setattr("fluxcube.catalog.open_carbonsense", lambda store: cube)
    monkeypatch.chdir(runs)

    def run(line: str, status: int = 0) -> str:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["fluxcube", *line.split()])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, str) == bool(status), (end.value.code, err.getvalue())
        return out.getvalue() + err.getvalue() + (end.value.code if status else "")

    return run


def test_runs_are_mixed_calibrated_described_and_scored(call, runs, cube):
    for fold in (0, 1):
        text = call(f"mix mixed-{fold} line-{fold} cycle-{fold} --weight 3 --weight 1")
        assert "mixed: NEE, GPP_NT from 0.75 line-" in text and is_mixed(runs / f"mixed-{fold}")
    assert "overwrite" in call("mix mixed-0 line-0 cycle-0", status=1)
    call("mix mixed-0 line-0 cycle-0 --overwrite")
    assert load_model(runs / "mixed-0").weights == (0.5, 0.5)
    assert "uncertainty of NEE: NEE_spread\n" in call("inspect mixed-0")
    table = call("calibrate mixed-0 cube.zarr mixed-0 mixed-1 --format md")
    assert re.search(r"\| NEE \| all \| [\d,]+ \| 12 \| \d+\.\d \|", table) and "| GPP_NT | GRA |" in table
    text = call("inspect mixed-0")
    assert "NEE_std = " in text and "* NEE_spread" in text and "sw-linear" in text and "area of applicability" in text
    scores = call("evaluate mixed-0 cube.zarr --draws 0 --format md")
    assert "coverage of 80 % intervals" in scores


def test_a_run_is_scored_mixed_with_another(call, runs, cube):
    text = call("evaluate line-0 cube.zarr --mix cycle-0 --against line-0 --draws 0 --by all --format md")
    assert "line-0+cycle-0" in text and "| line-0 |" in text
    assert "compared with itself" in call("evaluate line-0 cube.zarr --against line-0", status=1)
    assert "compared with itself" in call("evaluate line-0 cube.zarr --against cycle-0 --against cycle-0", status=1)
    test = load_model(runs / "line-0").split.part(cube, "test")
    mixed = fc.predict([runs / "line-0", runs / "cycle-0"], test)
    expected = fc.evaluate(test, mixed).nse.sel(target="NEE")
    assert f"{float(expected):.3f}" in text


def test_maps_are_scored_beside_a_run(call, runs, cube):
    """The cells of the towers lie on the diagonal of the maps; the first of them is sea."""
    maps = example_maps(shape=(12, 12), days=8)
    axes = {"latitude": cube.latitude.values[::-1], "longitude": cube.longitude.values}
    fc.write_maps(maps.assign_coords(axes).chunk(time=24), runs / "maps.zarr", scheduler="threads")
    text = call("evaluate line-0 cube.zarr --maps maps.zarr --draws 0 --by all --format md")
    assert (
        "| maps |" in text and "| line-0 |" in text and "Maps at towers: maps: nearest cell." in " ".join(text.split())
    )
    test = load_model(runs / "line-0").split.part(cube, "test")
    both = {"line-0": fc.predict(runs / "line-0", test), "maps": fc.open_maps(runs / "maps.zarr")}
    table = fc.compare(test, both).query("model == 'maps' and target == 'NEE'")
    assert f"{table.nse.item():.3f}" in text
    daily = fc.mean_maps(maps.assign_coords(axes), "day").assign_attrs(kind="maps")
    assert (
        fc.compare(test, {**both, "maps": daily}, min_quality=0.5).attrs["averaging"] == "daily means over days of UTC"
    )
    assert "no store there" in call("evaluate line-0 cube.zarr --maps nowhere.zarr", status=1)


def test_a_shipped_model_is_not_changed(call):
    assert "ships with" in call("calibrate ecoperceiver-towers cube.zarr line-0", status=1)


def test_a_shipped_model_is_described(call):
    pytest.importorskip("torch")
    text = call("inspect ecoperceiver-towers")
    assert "5 of ecoperceiver" in text and "trained on 157 towers" in text and "TA_MEAN_30D" in text
    assert "uncertainty of NEE: NEE_spread; NEE_std = " in text and np.char.count(text, "area of applicability") == 1


@pytest.mark.parametrize("command", ["mix", "calibrate"])
def test_help_has_an_example(command, call):
    assert f"fluxcube {command}" in " ".join(call(f"{command} --help").split())

"""The command `report`, and runs as its input."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from reported import noisy, reported_cube
from typer.testing import CliRunner

from fluxcube.errors import ConfigError
from fluxcube.reports import write
from fluxcube.reports.folds import towers_of
from fluxcube.reports.gather import gather, records_of
from fluxcube.reports.towers import leakage_section
from fluxcube.samples.splits import Split


def run(*arguments):
    from fluxcube.cli import app

    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture
def passed(monkeypatch):
    """Options that the command passes to `fluxcube.report`."""
    found = {}

    def record(models, cube, out, **options):
        found.update(options, models=models, out=out)
        return out / "report.html"

    monkeypatch.setattr(write, "report", record)
    monkeypatch.setattr("fluxcube.catalog.open_carbonsense", lambda store: xr.Dataset())
    return found


def test_the_command_passes_labels_folds_and_limits(passed, tmp_path):
    result = run(
        *("eco=a,b", "runs/xgb/", "pred.nc", "--cube", tmp_path, "--out", tmp_path / "r", "--max-qc", "1"),
        *("--target", "NEE", "--draws", "0", "--against", "xgb", "--split", "folds.json"),
    )
    assert result.exit_code == 0, result.output
    assert passed["models"] == {"eco": ["a", "b"], "xgb": "runs/xgb/", "pred": "pred.nc"}
    assert (passed["max_qc"], passed["draws"], passed["against"]) == (1, 0, "xgb")
    assert list(passed["targets"]) == ["NEE"] and str(passed["split"]) == "folds.json"
    assert "report.html" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a=x", "a=y"], "label 'a' is there twice"),
        (["a="], "expected PATH or LABEL=PATH"),
        (["a=x", "--maps", "y"], "expected LABEL=STORE"),
    ],
)
def test_wrong_labels_are_named(passed, arguments, message):
    error = run(*arguments).exception
    assert isinstance(error, ConfigError) and message in str(error)


def test_a_shipped_model_predicts_every_tower(tmp_path):
    cube = reported_cube(sites=2, days=12)
    found = gather("eco", "ecoperceiver-towers/seed-0", cube, tmp_path, part="all", allow_missing=True)
    assert (tmp_path / "eco-1.nc").exists()
    assert found.predictions["NEE"].dims == ("site", "time")
    assert bool(found.predictions["NEE"].notnull().any())
    assert [record["kind"] for record in found.records] == ["ecoperceiver"]
    assert len(records_of(["ecoperceiver-towers"])) == 5


def test_towers_of_a_split_must_be_there():
    cube = reported_cube(sites=3, days=8)
    split = Split(train=("XX-S02",), test=("XX-S00",))
    assert towers_of(split, cube, "test")["site"].values.tolist() == ["XX-S00"]
    assert towers_of(None, cube, "all").sizes["site"] == 3
    for one, part, message in (
        (split, "val", "no val towers"),
        (None, "test", "no test towers"),
        (Split(train=("XX-S02",), test=("ZZ-Zzz",)), "test", "lacks 1 of the 1 test towers"),
        (split, "last", "expected one of"),
    ):
        with pytest.raises(ConfigError, match=message):
            towers_of(one, cube, part)


def test_splits_in_time_are_scored_in_their_periods(tmp_path, monkeypatch):
    cube = reported_cube(sites=2, days=12)
    sites = tuple(str(site) for site in cube["site"].values)
    stop = str(cube["time"].values[0] + np.timedelta64(6, "D"))[:19]
    periods = {"train": {s: [("2000-01-01", stop)] for s in sites}, "test": {s: [(stop, "2030-01-01")] for s in sites}}
    split = Split(train=sites, test=sites, periods=periods, kind="time")
    kept = {}
    monkeypatch.setattr(write, "write_report", lambda evidence, folder, progress: kept.update(evidence=evidence))
    write.report({"a": noisy(cube, 1.0, 0)}, cube, tmp_path / "r", split=split, draws=0)
    assert "in other periods" in leakage_section(kept["evidence"]).text[0]
    n = kept["evidence"].sums.moments["NEE"].n.sum()
    assert 0 < n <= 2 * 6 * 24

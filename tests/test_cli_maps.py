"""Commands for maps: what they print and write is what the library gives, and one line for every mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import optional
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.errors import ConfigError, SchemaError, StoreError
from fluxcube.simulation.example import example_maps

optional("netCDF4")
optional("matplotlib")


def run(*arguments: object) -> str:
    """What a command prints; an error of fluxcube is raised."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "maps.zarr"
    maps = example_maps(days=30)
    maps["applicable"] = xr.where(maps.longitude < 8.3, np.float32(1), np.float32(0)).broadcast_like(maps.NEE)
    maps["NEE_std"] = abs(maps.NEE)
    fc.write_maps(maps.chunk(time=240), path)
    return path


def test_every_command_has_an_example():
    from typer.main import get_command

    commands = get_command(app).commands
    for name in ("totals", "export", "plot", "animate"):
        assert f"fluxcube {name}" in " ".join(commands[name].help.split())


def test_totals_are_the_librarys(store, tmp_path):
    table = tmp_path / "totals.csv"
    printed = run("totals", store, "--by", "igbp", "--every", "month", "--target", "NEE", "--out", table)
    assert max(map(len, printed.splitlines())) <= 100
    told = fc.totals(fc.open_maps(store), by="igbp", every="month", targets=["NEE"])
    written = pd.read_csv(table).set_index("igbp")
    np.testing.assert_allclose(written.NEE[told.igbp.values], told.NEE.values[0])
    assert "PgC yr-1" in printed and "CRO" in printed
    box = [[[7, 46], [10, 46], [10, 48], [7, 48], [7, 46]]]
    (tmp_path / "all.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": box}))
    with pytest.raises(SchemaError, match="min_coverage"):
        run("totals", store, "--regions", tmp_path / "all.geojson")
    part = run(
        "totals",
        store,
        "--regions",
        tmp_path / "all.geojson",
        "--min-coverage",
        0,
        "--target",
        "NEE",
        "--format",
        "json",
    )
    (row,) = json.loads(part)
    assert row["NEE (PgC yr-1)"] == float(fc.totals(fc.open_maps(store)).NEE)


def test_means_are_written_for_other_programs(store, tmp_path):
    printed = run("export", store, tmp_path, "--format", "netcdf", "--every", "month", "--units", "gC m-2 d-1")
    files = {str(tmp_path / f"{name}_2018_025_monthly.nc") for name in ("NEE", "GPP_NT", "RECO_NT")}
    assert set(printed.split()) == files and not (tmp_path / "applicable_2018_025_monthly.nc").exists()
    done = CliRunner().invoke(app, ["export", str(store), str(tmp_path / "maps.nc"), "--every", "all"])
    assert "not exported: applicable; --variable all" in done.stderr
    with xr.open_dataset(tmp_path / "NEE_2018_025_monthly.nc") as back:
        expected = fc.mean_maps(fc.open_maps(store), "month").NEE * 12.011e-6 * 86400
        np.testing.assert_allclose(back.NEE, expected, rtol=1e-5)
    run("export", store, tmp_path / "day.nc", "--variable", "NEE", "--cycle")
    with xr.open_dataset(tmp_path / "day.nc") as back:
        assert back.NEE.dims == ("time", "hour", "lat", "lon")
    with pytest.raises(StoreError, match="overwrite"):
        run("export", store, tmp_path / "day.nc", "--cycle")
    with pytest.raises(ConfigError, match="--every"):
        run("export", store, tmp_path / "hours.nc", "--clock", "solar")


def test_towers_are_written_for_other_programs(cube_store, tmp_path):
    printed = run("export", cube_store, tmp_path / "towers", "--time", "2018-05-01/2018-05-03")
    cube = fc.open_carbonsense(cube_store)
    files = [line for line in printed.split() if line.endswith(".csv")]
    assert len(files) == cube.sizes["site"] + 2 and all(Path(file).is_file() for file in files)
    one = pd.read_csv(tmp_path / "towers" / "IN-Zcr_HR_2018-2018.csv", na_values=[-9999])
    assert {"TIMESTAMP_START", "TA_F", "TA_F_QC", "NEE_VUT_REF", "NEE_VUT_REF_QC"} <= set(one)
    assert (one.TIMESTAMP_START % 100 == 30).all()  # half an hour from UTC
    with pytest.raises(ConfigError, match="--every applies to maps only"):
        run("export", cube_store, tmp_path / "towers", "--every", "month")
    with pytest.raises(ConfigError, match=r"ends in \.nc"):
        run("export", cube_store, tmp_path / "towers.xlsx")


def test_pictures_are_drawn(store, tmp_path):
    several = {"a": [], "b": ["--no-hatch"], "c": ["--limits", "-5,5", "--time", "2018-06-03/2018-06-04"]}
    for name, options in several.items():
        run("plot", store, tmp_path / f"{name}.png", *options)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in "abc"}) == 3
    run("animate", store, tmp_path / "day.gif", "--time", "2018-06-03/2018-06-03", "--seconds", 1)
    assert (tmp_path / "day.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plot", "{store}", "a.png", "--variable", "NE"), "did you mean 'NEE'"),
        (("plot", "{store}", "a.png", "--time", "2018"), "first/last"),
        (("plot", "{store}", "a.png", "--time", "2019-01-01/2019-01-02"), "selects no time step"),
        (("plot", "{store}", "a.png", "--limits", "5"), "low,high"),
        (("animate", "{store}", "a.png"), ".gif"),
        (("totals", "{store}", "--by", "biome"), "igbp"),
        (("export", "{store}", "a.zarr"), ".nc, .tif"),
        (("export", "{store}", "a.grib"), ".nc, .tif"),
        (("totals", "nowhere.zarr"), "no store there"),
        (("totals", "{store}", "--target", "NEE_std"), "NEE_std is the standard deviation"),
        (
            ("export", "{store}", "a.nc", "--variable", "NEE_std", "--every", "month"),
            "NEE_std is the standard deviation",
        ),
        (("export", "{store}", "a.nc", "--variable", "NEE_std", "--cycle"), "NEE_std is the standard deviation"),
        (("plot", "{store}", "a.png", "--variable", "NEE_std"), "NEE_std is the standard deviation"),
        (("animate", "{store}", "a.gif", "--variable", "NEE_std"), "NEE_std is the standard deviation"),
    ],
)
def test_a_mistake_is_one_line(store, tmp_path, arguments, words, monkeypatch):
    from fluxcube.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fluxcube", *(text.format(store=store) for text in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert str(ended.value).startswith("fluxcube: ") and words in str(ended.value)
    assert "\n" not in str(ended.value) and list(tmp_path.iterdir()) == []

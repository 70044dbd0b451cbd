"""Days from end to end by commands: towers' hours to a daily cube, an ensemble of TAM-RL, and maps of reanalysis."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from packages import optional
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube import cli, cli_grids
from fluxcube.errors import ConfigError

pytestmark = pytest.mark.usefixtures("short_applicability")

optional("netCDF4")
optional("rasterio")
torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests run beside each other

#: Towers of four months have no room for support beside windows of 45 days.
TINY = {
    "config.context": 20,
    "config.stride": 5,
    "config.hidden": 8,
    "config.embedding": 8,
    "config.encoder": 4,
    "config.code": 4,
    "training.windows_per_epoch": 64,
    "training.val_windows": 32,
    "training.pretrain_epochs": 1,
    "training.keep": "last",
}
CHUNK, DAYS = 21, 20


def run(*arguments: object) -> str:
    """What a command prints; an error is raised."""
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def trained(planet_files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    run("build", planet_files / "towers", folder / "daily.zarr", "--resolution", "daily")
    settings = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    run(
        "train",
        folder / "daily.zarr",
        folder / "tam",
        "--model",
        "tam-rl",
        "--target",
        "NEE",
        "--target",
        "GPP_NT",
        "--predictors",
        "TA,TA_RANGE,SW_IN,VPD,P,SW_IN_POT",
        "--static",
        "igbp",
        "--epochs",
        2,
        "--seeds",
        2,
        *settings,
    )
    return folder / "tam"


@pytest.fixture(scope="module")
def command(trained, planet_files):
    """The command of the map, but for where it is written."""
    land_cover = next((planet_files / "land_cover").glob("*.tif"))
    options = ("--land-cover", land_cover, "--uncertainty", "--time-chunk", CHUNK, "--workers", 1)
    return lambda store, *more: ("upscale", trained, planet_files / "era5", store, *options, *more)


@pytest.fixture(scope="module")
def maps(command, tmp_path_factory) -> xr.Dataset:
    store = tmp_path_factory.mktemp("maps") / "maps.zarr"
    run(*command(store))
    return fc.open_maps(store).load()


@pytest.fixture(scope="module")
def forcing(planet_files) -> xr.Dataset:
    land_cover = next((planet_files / "land_cover").glob("*.tif"))
    hours = fc.open_forcing(planet_files / "era5", land_cover=land_cover, predictors=["TA", "SW_IN", "VPD", "P"])
    return fc.daily_forcing(hours).load()


def test_hours_of_reanalysis_become_maps_of_days(maps, forcing):
    np.testing.assert_array_equal(maps.time, forcing.time)
    assert maps.attrs["resolution"] == "daily" and maps.NEE.attrs["units"] == "gC m-2 d-1"
    land = maps.land_fraction > 0
    assert maps.NEE[: DAYS - 1].isnull().all() and maps.NEE[DAYS - 1 :].where(land, 0).notnull().all()
    assert maps.NEE.where(~land).isnull().all()
    assert float(maps.GPP_NT.min()) >= 0 and float(maps.NEE.std("time").max()) > 0


def test_a_map_is_its_members_mean_and_spread(maps, trained, forcing):
    members = [fc.upscale(trained / f"seed-{seed}", forcing).NEE.values for seed in (0, 1)]
    np.testing.assert_allclose(maps.NEE, np.mean(members, 0), atol=1e-5)
    np.testing.assert_allclose(maps.NEE_spread, np.abs(members[0] - members[1]) / np.sqrt(2), atol=1e-5)
    assert float(maps.NEE_spread.max()) > 1e-3


def test_a_pixel_is_told_of_by_its_own_drivers(maps, trained, forcing, command, tmp_path, monkeypatch):
    """A pixel alone is mapped as among others; other drivers on early days change late ones, by the support alone."""
    one = maps.isel(latitude=[1], longitude=[2])
    lat, lon = float(one.latitude[0]), float(one.longitude[0])
    run(*command(tmp_path / "one.zarr", "--bbox", f"{lon - 0.1},{lat - 0.1},{lon + 0.1},{lat + 0.1}"))
    np.testing.assert_allclose(fc.open_maps(tmp_path / "one.zarr").NEE, one.NEE, atol=1e-5)
    early = forcing.time < forcing.time[40]
    other = forcing.assign(predictors=forcing.predictors.where(~early, forcing.predictors * 1.3))
    told = fc.upscale(trained, other).NEE
    late = slice(80, None)  # windows of these days are as they were
    assert float(np.abs(told[late] - maps.NEE[late]).max()) > 1e-6
    blind = fc.load_model(trained / "seed-0")
    monkeypatch.setattr(blind.model, "joint", False)
    kept = [fc.upscale(blind, days).NEE[late].values for days in (forcing, other)]
    np.testing.assert_allclose(*kept, atol=1e-6)


def test_an_interrupted_map_goes_on_and_ends_the_same(maps, command, tmp_path, monkeypatch):
    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    store = tmp_path / "maps.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(cli_grids, "bar", lambda title: contextlib.nullcontext(stop))
        assert CliRunner().invoke(cli.app, list(map(str, command(store)))).exit_code != 0
    part = fc.open_maps(store, partial=True)
    assert 0 < part.attrs["regions_done"] < part.attrs["regions"] == -(-maps.sizes["time"] // CHUNK)
    run(*command(store))
    whole = fc.open_maps(store).load()
    for name in maps.data_vars:
        np.testing.assert_array_equal(whole[name], maps[name], err_msg=str(name))


def test_hours_are_no_days(trained, planet_files):
    hours = fc.open_forcing(planet_files / "era5", igbp="GRA", predictors=["TA", "SW_IN", "VPD", "P"])
    with pytest.raises(ConfigError, match="daily"):
        fc.upscale(trained, hours)

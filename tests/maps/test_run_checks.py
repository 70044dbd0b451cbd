"""What is refused before the first task of a run."""

from __future__ import annotations

import numpy as np
import pytest
from inference_fakes import fake

import fluxcube as fc
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.inference.checks import check_values, region_bytes
from fluxcube.inference.grid import upscale
from fluxcube.samples.partition import Split
from fluxcube.schema import REGION_BYTES
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.timestamps import HOUR


def in_kelvin(ds):
    ds.predictors.loc[{"variable": "TA"}] += 273.15
    return ds


def in_pascal(ds):
    ds.predictors.loc[{"variable": "VPD"}] = 100 * ds.predictors.sel(variable="VPD") + 500
    return ds


@pytest.mark.parametrize(("change", "words"), [(in_kelvin, "TA has values.*degC"), (in_pascal, "VPD has values.*hPa")])
def test_values_in_other_units_are_refused(change, words):
    check_values(example_forcing())
    with pytest.raises(ConfigError, match=words):
        check_values(change(example_forcing()))


def test_units_that_are_told_are_believed():
    forcing = example_forcing()
    told = np.where(forcing["variable"] == "TA", "K", forcing.units.values).astype(object)
    with pytest.raises(ConfigError, match="TA must be in degC, found K"):
        upscale(fake(), forcing.assign_coords(units=("variable", told)))


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.isel(time=[*range(50), *range(51, 100)]),
        lambda ds: ds.isel(time=[*range(50), *range(49, 100)]),
        lambda ds: ds.assign_coords(time=ds.time[0].values + np.arange(ds.sizes["time"]) * (HOUR // 2)),
        lambda ds: ds.assign_coords(time=ds.time[0].values + np.arange(ds.sizes["time"]) * (24 * HOUR)),
    ],
    ids=["gap", "repeat", "half-hours", "days"],
)
def test_a_time_axis_that_is_not_hourly_is_refused(change):
    with pytest.raises(SchemaError, match=r"one step an hour, without holes.*after"):
        upscale(fake(), change(example_forcing()))


def test_the_estimate_of_memory_grows_with_what_is_read():
    forcing = example_forcing(shape=(8, 8), days=40).chunk(latitude=4, longitude=4, time=240)
    spec = fake(memory_days=(7,)).spec

    def estimate(ds=forcing, **changes):
        return region_bytes(ds, spec, **{"hours": 240, "before": 24, "outputs": 3} | changes)

    base = estimate()
    assert estimate(hours=480) > base and estimate(before=720) > base and estimate(outputs=9) > base
    assert estimate(forcing.chunk(latitude=8)) > base and estimate(forcing.chunk(time=-1)) > base
    assert estimate(forcing.drop_vars("modis")) < base
    assert upscale(fake(), forcing).attrs[REGION_BYTES] < upscale(fake(), forcing.chunk(latitude=8)).attrs[REGION_BYTES]


@pytest.mark.parametrize(("change", "words"), [(in_kelvin, "TA has values.*degC"), (in_pascal, "VPD has values.*hPa")])
def test_upscale_checks_values_as_its_command_does(change, words):
    upscale(fake(), example_forcing())
    with pytest.raises(ConfigError, match=words):
        upscale(fake(), change(example_forcing()))
    with pytest.raises(ConfigError, match=words):  # lazy values are not read before they are mapped
        upscale(fake(), change(example_forcing()).chunk(latitude=1)).load(scheduler="synchronous")


def infinite(hours):
    ds = example_forcing(days=6)
    ds.predictors.loc[{"variable": "TA", "time": ds.time[hours]}] = np.inf
    return ds


def test_infinite_values_are_refused_not_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"TA has .* infinite values"):
        upscale(fake(), infinite(slice(None)))
    with pytest.raises(ConfigError, match=r"TA has .* infinite values"):  # one hour, outside of the sample
        upscale(fake(), infinite(slice(2, 3))).load(scheduler="synchronous")
    missing = infinite(slice(2, 3))
    missing = missing.assign(predictors=missing.predictors.where(np.isfinite(missing.predictors)))
    assert np.isfinite(upscale(fake(), missing).NEE.values).any()


@pytest.mark.parametrize("value", [1e38, np.inf, -np.inf])
def test_impossible_fluxes_of_a_cube_in_ram_are_refused(tmp_path, value):
    cube = example_cube(sites=6, days=4)
    cube.fluxes.loc[{"target": "NEE", "site": "XX-S00", "time": cube.time[30]}] = value
    cube.fluxes_qc.loc[{"target": "NEE", "site": "XX-S00", "time": cube.time[30]}] = 0
    split = Split(train=("XX-S00", "XX-S01"), val=("XX-S02",), test=("XX-S03",))
    with pytest.raises(ConfigError, match="XX-S00, NEE"):
        fc.fit(cube, split=split, model="sw-linear", target="NEE", out=tmp_path / "run")

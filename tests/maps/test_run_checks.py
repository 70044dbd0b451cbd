"""What is refused before the first task of a run."""

from __future__ import annotations

import numpy as np
import pytest
from inference_fakes import fake

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.inference.checks import check_values, region_bytes
from fluxcube.inference.grid import upscale
from fluxcube.schema import REGION_BYTES
from fluxcube.simulation.example import example_forcing
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

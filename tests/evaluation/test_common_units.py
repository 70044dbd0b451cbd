"""Units of scores: predictions are converted to the units of the observations, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.evaluation.report import read_sums, write_sums
from fluxcube.evaluation.scales import scale_table
from fluxcube.evaluation.sitemeans import site_mean_table
from fluxcube.evaluation.skill import compare, evaluate, score_table, site_sums
from fluxcube.evaluation.sums import Sums
from fluxcube.simulation.example import example_cube, example_maps

GRAMS = 12.011e-6 * 86400


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=4, days=4)


def predicted(cube, factor=1.0, units="umol m-2 s-1", target="NEE"):
    noise = np.random.default_rng(0).normal(size=cube.fluxes.sel(target=target).shape)
    values = (cube.fluxes.sel(target=target, drop=True) + noise) * factor
    values.attrs = {} if units is None else {"units": units}
    return values.rename(target).drop_vars(["target_units", "units"], errors="ignore").to_dataset()


def numbers(scored):
    return {name: float(scored[name].values.ravel()[0]) for name in ("nse", "rmse", "bias")}


@pytest.mark.parametrize(
    ("factor", "units"),
    [
        (GRAMS, "gC m-2 d-1"),
        (1e3, "nmol m-2 s-1"),
        (1.0, "µmol CO2 m⁻² s⁻¹"),
        (12.011e-9, "kgC m-2 s-1"),
        (44.009e-3, "mg CO2 m-2 s-1"),
    ],
)
def test_predictions_are_converted_to_the_units_of_the_observations(cube, factor, units):
    same = evaluate(cube, predicted(cube))
    other = evaluate(cube, predicted(cube, factor, units))
    assert other.units.values.tolist() == ["umol m-2 s-1"]
    for name, value in numbers(same).items():
        assert numbers(other)[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    lazy = evaluate(cube, predicted(cube, factor, units).chunk(site=1))
    assert numbers(lazy)["nse"] == pytest.approx(numbers(same)["nse"])


def test_the_label_is_that_of_the_observations(cube):
    grams = (cube.fluxes.sel(target=["NEE"]) * GRAMS).assign_attrs(units="gC m-2 d-1")
    scored = evaluate(grams, predicted(cube), qc=cube.fluxes_qc.sel(target=["NEE"]))
    assert scored.units.values.tolist() == ["gC m-2 d-1"]
    assert numbers(scored)["rmse"] == pytest.approx(GRAMS * numbers(evaluate(cube, predicted(cube)))["rmse"], rel=1e-5)
    tables = (
        compare(grams, {"a": predicted(cube), "b": predicted(cube, 1e3, "nmol m-2 s-1")}, max_qc=None),
        scale_table(grams, {"a": predicted(cube)}, max_qc=None),
        site_mean_table(site_sums(grams, {"a": predicted(cube)}, max_qc=None)),
    )
    for table in tables:
        assert set(table.units) == {"gC m-2 d-1"}
    assert tables[0].rmse[0] == pytest.approx(tables[0].rmse[1], rel=1e-5)


@pytest.mark.parametrize(("units", "says"), [("W m-2", "different quantities"), ("furlong", "not known")])
def test_other_quantities_are_refused(cube, units, says):
    with pytest.raises(ConfigError, match=f"NEE of pred.*{says}"):
        evaluate(cube, predicted(cube, 1.0, units))
    with pytest.raises(ConfigError, match="NEE of b"):
        compare(cube, {"a": predicted(cube), "b": predicted(cube, 1.0, units)})


def test_data_without_units_have_those_of_the_table_or_are_refused(cube, caplog):
    assert numbers(evaluate(cube, predicted(cube, units=None))) == numbers(evaluate(cube, predicted(cube)))
    other = cube.fluxes.sel(target="NEE", drop=True).rename("NEP")
    assert evaluate(other, predicted(cube).NEE.rename("NEP"), max_qc=None).units.values.tolist() == ["umol m-2 s-1"]
    assert "NEP of the observations has no attribute units: taken as umol m-2 s-1" in caplog.text
    bare = predicted(cube, units=None)
    with pytest.raises(ConfigError, match=r"NEE of the observations has no attribute units.*gC m-2 d-1"):
        evaluate(bare, predicted(cube, GRAMS, "gC m-2 d-1"), max_qc=None)
    with pytest.raises(ConfigError, match=r"NEE of pred has no attribute units.*gC m-2 d-1"):
        evaluate(predicted(cube, GRAMS, "gC m-2 d-1"), bare, max_qc=None)


def test_sums_keep_their_units_in_a_file_and_are_joined_in_one_unit(cube, tmp_path):
    grams = predicted(cube, GRAMS, "gC m-2 d-1")
    sums = site_sums(grams, {"a": predicted(cube)}, max_qc=None)
    back = read_sums(write_sums(sums, tmp_path / "sums.csv"))
    assert back.units == {"NEE": "gC m-2 d-1"} and set(score_table(back).units) == {"gC m-2 d-1"}
    one, other = (site_sums(cube.isel(site=[i]), {"a": predicted(cube)}) for i in (0, 1))
    assert Sums.join([one, other]).units == {"NEE": "umol m-2 s-1"}
    with pytest.raises(SchemaError, match="gC m-2 d-1 and umol m-2 s-1"):
        Sums.join([one, site_sums(grams.isel(site=[1]), {"a": predicted(cube)}, max_qc=None)])
    old = sums.to_frame().drop(columns="units")  # as an earlier version wrote them
    assert Sums.from_frame(old).units_of("NEE") == "umol m-2 s-1"


def test_what_cannot_be_aligned_is_named(cube):
    flux = cube.fluxes.sel(target=["NEE"])
    with pytest.raises(SchemaError, match="dimension time"):
        evaluate(cube, flux.mean("time"))
    with pytest.raises(SchemaError, match="found ndarray"):
        evaluate(cube, flux.values)
    with pytest.raises(SchemaError, match="XX-S00 is there twice"):
        evaluate(cube, xr.concat([flux, flux], "site"))
    with pytest.raises(SchemaError, match=r"observations are hourly and predictions daily"):
        evaluate(cube, flux.resample(time="1D").mean())
    midnight = flux.isel(time=slice(0, None, 24))
    assert evaluate(cube.sel(time=midnight.time), midnight, max_qc=None).n == 4 * 4
    numbered = flux.assign_coords(time=np.arange(flux.sizes["time"]))
    assert evaluate(numbered, numbered, max_qc=None).nse == 1
    with pytest.raises(SchemaError, match="needs times that are dates, found int64"):
        evaluate(numbered, numbered, max_qc=None, by="year")
    with pytest.raises(SchemaError, match="Select one entry of realization"):
        evaluate(cube, flux.expand_dims(realization=[0, 1]))
    with pytest.raises(UnknownNameError, match="season"):
        evaluate(cube, flux, by="seasons")


@pytest.mark.parametrize("name", ["latitude", "longitude"])
def test_seasons_need_a_known_place(cube, name):
    lost = cube.assign_coords({name: ("site", np.where(np.arange(4) == 1, np.nan, cube[name].values))})
    with pytest.raises(SchemaError, match=f'by="season" needs the {name} of every place.*XX-S01'):
        evaluate(lost, predicted(cube), by="season")
    with pytest.raises(SchemaError, match=f"needs the coordinate {name}"):
        evaluate(cube.drop_vars(name), predicted(cube).drop_vars(name), by="season")
    assert evaluate(cube, predicted(cube), by="season").n.sum() == evaluate(cube, predicted(cube)).n


@pytest.mark.parametrize("attribute", ["Units", "unit", "UNITS"])
def test_the_attribute_may_be_spelled_otherwise(cube, attribute):
    grams = predicted(cube, GRAMS, None)
    grams.NEE.attrs[attribute] = "gC m-2 d-1"
    assert numbers(evaluate(cube, grams))["nse"] == pytest.approx(numbers(evaluate(cube, predicted(cube)))["nse"])


def test_units_that_are_assumed_are_logged(cube, caplog):
    evaluate(cube, predicted(cube))
    assert "taken as" not in caplog.text
    evaluate(cube, predicted(cube, units=None))
    assert "NEE of pred has no attribute units: taken as umol m-2 s-1" in caplog.text


def test_sums_of_an_earlier_version_are_joined_with_new_ones(cube):
    one, other = (site_sums(cube.isel(site=[i]), {"a": predicted(cube)}) for i in (0, 1))
    old = Sums.from_frame(one.to_frame().drop(columns="units"))
    assert Sums.join([old, other]).units_of("NEE") == "umol m-2 s-1"
    grams = site_sums(predicted(cube, GRAMS, "gC m-2 d-1").isel(site=[1]), {"a": predicted(cube)}, max_qc=None)
    with pytest.raises(SchemaError, match="gC m-2 d-1 and umol m-2 s-1"):
        Sums.join([old, grams])


def test_maps_against_maps_are_scored_cell_by_cell_and_not_at_towers(cube):
    maps = example_maps()
    assert evaluate(maps, maps, max_qc=None).nse.sel(target="NEE") == 1
    with pytest.raises(SchemaError, match="sample the maps at the towers first"):
        evaluate(maps, predicted(cube), max_qc=None)


def test_means_of_longer_periods_are_no_first_steps():
    """A monthly mean has the stamp of the first hour, and of the first day, of its month."""
    time = np.datetime64("2018-01-01", "ns") + np.arange(120) * np.timedelta64(24, "h")
    days = xr.DataArray(np.arange(120.0)[None], dims=("site", "time"), coords={"site": ["a"], "time": time}, name="NEE")
    hours = days.reindex(time=np.datetime64("2018-01-01", "ns") + np.arange(2880) * np.timedelta64(1, "h"))
    for fine, option in ((days, "min_quality"), (hours.fillna(0.5), "max_qc")):
        for period in ("7D", "8D", "1MS", "1YS"):
            with pytest.raises(SchemaError, match="value of a period would be compared with its first step"):
                evaluate(
                    fine, days.resample(time=period).mean() if period != "1YS" else _yearly(days), **{option: None}
                )
    some = days.isel(time=[0, 3, 4, 9])
    assert evaluate(days, some, min_quality=None).n == 4


def _yearly(days):
    return days.isel(time=[0, 0]).assign_coords(time=np.array(["2018-01-01", "2019-01-01"], "datetime64[ns]"))

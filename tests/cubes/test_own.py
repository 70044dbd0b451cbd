"""A user's own predictor: declared once, added to towers and grids alike, causal, in declared units, and safe."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import fluxcube as fc
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.cubes.own import add_predictor
from fluxcube.errors import ConfigError, SchemaError, SourceError, UnknownNameError
from fluxcube.indices import INDICES
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.towers import cube_spec
from fluxcube.schema import check_units, validate_cube
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.variables import SURFACE_BANDS, declare, declare_again, forget, predictors, statics, table

DATES = pd.date_range("2018-05-01", "2018-06-30")


@pytest.fixture(autouse=True)
def _no_declarations():
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=3, days=10)


@pytest.fixture(scope="module")
def forcing():
    return example_forcing(shape=(2, 3), days=6)


def lai(**changes):
    return declare("LAI", **{"units": "m2 m-2", "bounds": (0, 100)} | changes)


def tidy(cube, dates=DATES, column="LAI"):
    """A table of site, date and a value that counts days since the first date, plus 0.25 for each further site."""
    rows = [(s, d, i + j / 4) for j, s in enumerate(cube.site.values) for i, d in enumerate(dates)]
    return pd.DataFrame(rows, columns=["site", "date", column])


def number(date):
    """Value of the first site in `tidy` on a date."""
    return (pd.Timestamp(date) - DATES[0]).days


def series(ds, name="LAI", **at):
    return ds.predictors.sel(variable=name).isel(**at)


# Declarations


def test_a_declaration_is_a_row_of_the_table_in_this_process():
    row = lai(long_name="leaf area index")
    assert declare("LAI", units="m2 m-2", bounds=(0, 100)) == row, (
        "the same declaration again, whatever its description"
    )
    assert table("daily")["LAI"].units == "m2 m-2" and predictors()[-1] == "LAI"
    assert "LAI" not in predictors(declared=False) and "LAI" not in example_cube(sites=1, days=1)["variable"].values
    declare("HEIGHT", units="m", bounds=(0, 80), kind="static")
    assert "HEIGHT" not in predictors() and set(statics()) == {"HEIGHT"}
    forget("LAI")
    assert "LAI" not in table()


@pytest.mark.parametrize(
    "other",
    [{"units": "1"}, {"bounds": (0, 8)}, {"kind": "hourly"}, {"aggregate": "sum"}, {"cyclic": True}],
    ids=lambda change: next(iter(change)),
)
def test_a_declaration_that_contradicts_another_is_refused(other):
    lai()
    with pytest.raises(ConfigError, match=r"already declared as daily, m2 m-2, 0 to 100, mean"):
        lai(**other)


@pytest.mark.parametrize(
    "name",
    [
        *("TA", "TA_F", "NEE", "DOY", "igbp", "SITE", "variable", "LAI_MEAN_8D", "LAI_QC", "LAI_P10", "SURFACE_AGE"),
        *("red", "", "1LAI", "L A I", "LAI;", "__import__('os')", "Läi", "x" * 41, 7, None),
    ],
)
def test_names_that_mean_something_else_are_refused(name):
    with pytest.raises(ConfigError, match="name"):
        declare(name, units="1", bounds=(0, 1))


def test_every_index_and_band_is_a_reserved_name():
    for name in (*INDICES, *SURFACE_BANDS):
        with pytest.raises(ConfigError, match="another name"):
            declare(name, units="1", bounds=(0, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bounds": (1, 0)},
        {"bounds": (0, np.inf)},
        {"bounds": (0, "1")},
        {"bounds": 3},
        {"units": ""},
        {"kind": "weekly"},
        {"aggregate": "median"},
        {"aggregate": "vector"},
        {"cyclic": 1},
    ],
    ids=str,
)
def test_an_impossible_declaration_is_refused(wrong):
    with pytest.raises(ConfigError, match="LAI"):
        lai(**wrong)


@pytest.mark.parametrize(
    "records", ["[{", '{"name": "LAI"}', "[1]", '[{"name": "LAI"}]', [{"name": "LAI", "eval": "1"}]]
)
def test_declarations_of_a_file_are_read_as_data(records):
    with pytest.raises(ConfigError, match=r"file\.nc"):
        declare_again(records, "file.nc")
    assert not statics() and "LAI" not in table()


def test_a_sum_over_hours_has_bounds_of_a_day_in_daily_cubes():
    lai(aggregate="sum", kind="hourly")
    assert table()["LAI"].bounds == (0, 100) and table("daily")["LAI"].bounds == (0, 2400)


# Time


@pytest.mark.parametrize(("hold", "delay"), [(1, None), (1, 0), (8, None), (8, 1), (3, 2)])
def test_hours_have_the_latest_value_that_was_known(cube, hold, delay):
    lai()
    dates = DATES[::hold]
    out = add_predictor(cube, "LAI", tidy(cube, dates), hold_days=hold, delay_days=delay)
    known = hold if delay is None else delay
    for place in range(3):
        local = cube.time.values + np.round(cube.longitude.values[place] * 240).astype("timedelta64[s]")
        day = local.astype("datetime64[D]") - known
        reference = pd.Series(np.arange(len(dates)) + place / 4, dates).reindex(
            pd.date_range(dates[0], dates[-1] + pd.Timedelta(hold - 1, "D")), method="ffill"
        )
        np.testing.assert_allclose(series(out, site=place), reference.reindex(day).values, rtol=1e-6)


def test_a_value_of_the_future_changes_nothing(cube):
    lai()
    table = tidy(cube)
    changed = table.assign(LAI=table.LAI.where(table.date < "2018-06-05", 0.5))
    one, other = (add_predictor(cube, "LAI", values) for values in (table, changed))
    local = cube.time.values[None] + np.round(cube.longitude.values * 240).astype("timedelta64[s]")[:, None]
    differs = (series(one) != series(other)).values
    np.testing.assert_array_equal(differs, local >= np.datetime64("2018-06-06"))


def test_gaps_longer_than_hold_days_are_missing(cube):
    lai()
    table = tidy(cube)
    table.loc[table.date.between("2018-06-03", "2018-06-06"), "LAI"] = np.nan
    out = series(add_predictor(cube, "LAI", table, hold_days=3, delay_days=1), site=0)
    daily = out.sel(time=out.time.dt.hour == 12)  # at 90 W: still the date of the day before in UTC + 6
    assert np.isnan(daily.sel(time="2018-06-06")).all() and np.isnan(daily.sel(time="2018-06-07")).all()
    assert float(daily.sel(time="2018-06-05").values[0]) == number("2018-06-02")


def test_hours_are_matched_by_utc_and_become_days(cube):
    lai(kind="hourly", bounds=(-10, 50))
    hours = cube.predictors.sel(variable="TA").drop_vars("variable").assign_attrs(units="1")
    assert (
        add_predictor(cube, "LAI", hours)
        .predictors.sel(variable="LAI")
        .equals(
            cube.predictors.sel(variable="TA").assign_coords(
                variable="LAI", units="m2 m-2", long_name="LAI", cyclic=False
            )
        )
    )
    day = example_days(cube)
    out = series(add_predictor(day, "LAI", hours), site=1)
    local = hours.isel(site=1).assign_coords(time=hours.time + np.timedelta64(int(cube.utc_offset[1]), "h"))
    reference = local.resample(time="D").mean().where(local.resample(time="D").count() >= 22)
    np.testing.assert_allclose(out.values, reference.reindex(time=day.time).values, rtol=1e-5)
    with pytest.raises(ConfigError, match="hold_days"):
        add_predictor(cube, "LAI", hours, hold_days=2)


def test_directions_and_sums_of_hours_become_days(cube):
    lai(kind="hourly", bounds=(0, 360), units="degree", aggregate="vector", cyclic=True)
    hours = xr.where(cube.time.dt.hour % 2 == 0, 350.0, 20.0) + 0 * cube.latitude
    out = series(add_predictor(example_days(cube), "LAI", hours.assign_attrs(units="degree")))
    np.testing.assert_allclose(out[:, 1:-1], 5, atol=1e-3)
    forget()
    lai(kind="hourly", aggregate="sum", units="mm", bounds=(0, 20))
    out = series(add_predictor(example_days(cube), "LAI", (0 * hours + 0.5).assign_attrs(units="mm")))
    np.testing.assert_allclose(out[:, 1:-1], 12)
    assert np.isnan(out[:, [0, -1]]).any(), "a sum needs all hours of the date"


def test_hourly_maps_are_matched_by_utc(forcing):
    lai(kind="hourly")
    times = forcing.time.values[5:]
    maps = a_map(step=0.25, lat=(46.625, 47.125), lon=(7.875, 8.625), dates=times).chunk(time=20)
    out = series(add_predictor(forcing, "LAI", maps))
    assert out.chunks and np.isnan(out[..., :5]).all()
    np.testing.assert_allclose(out[..., 5:], maps.transpose(*out.dims), rtol=1e-6)


def example_days(cube):
    """A daily cube of the same sites and dates, with temperature."""
    one = cube.isel(time=slice(None, None, 24)).drop_dims(["day", "target"], errors="ignore")
    one = one.sel(variable=["DOY", "TA"]).assign_attrs(resolution="daily")
    one["predictors_quality"] = one.predictors_qc.astype("float32") * 0 + 1
    one["fluxes"], one["fluxes_quality"] = (xr.zeros_like(one.predictors).rename(variable="target") for _ in range(2))
    return validate_cube(one.drop_vars(["units", "long_name", "cyclic"], errors="ignore"))


def test_a_daily_cube_has_the_value_known_at_the_beginning_of_the_date(cube):
    lai()
    day = example_days(cube)
    out = add_predictor(day, "LAI", tidy(cube))
    np.testing.assert_allclose(series(out, site=0), [number(t) - 1 for t in day.time.values])
    assert (out.predictors_quality.sel(variable="LAI") == 1).all()
    with pytest.raises(SchemaError, match="daily: expected dates"):
        add_predictor(day, "LAI", tidy(cube, DATES + pd.Timedelta(6, "h")))


# Values


def test_nothing_is_computed_or_copied_and_the_rest_stays(cube):
    lai()
    out = add_predictor(cube, "LAI", tidy(cube))
    assert out.predictors.chunks and "LAI" not in cube["variable"].values and "declared" not in cube.attrs
    back = out.sel(variable=cube["variable"].values).drop_attrs(deep=False)
    xr.testing.assert_identical(back.compute(), cube.drop_attrs(deep=False))
    assert set(map(str, out.data_vars)) == set(map(str, cube.data_vars)) and set(out.dims) == set(cube.dims)
    present = np.isfinite(series(out))
    assert ((out.predictors_qc.sel(variable="LAI") == 0) == present).all()
    assert out.units.sel(variable="LAI") == "m2 m-2"
    lazy = add_predictor(cube.chunk(site=2, time=70), "LAI", tidy(cube))
    assert lazy.predictors.chunksizes["time"] == cube.chunk(time=70).predictors.chunksizes["time"]
    xr.testing.assert_identical(lazy.compute(), out.compute())
    with pytest.raises(ConfigError, match="has LAI already"):
        add_predictor(out, "LAI", tidy(cube))


def test_other_units_are_converted_or_refused(cube):
    declare("COVER", units="1", bounds=(0, 1), kind="static")
    values = xr.DataArray([10.0, 50.0, 100.0], {"site": cube.site.values}, ("site",))
    for array, units in ((values.assign_attrs(units="%"), None), (values, "percent"), (values / 100, "1")):
        np.testing.assert_allclose(add_predictor(cube, "COVER", array, units=units).COVER, [0.1, 0.5, 1.0])
    with pytest.raises(ConfigError, match="no attribute units"):
        add_predictor(cube, "COVER", values)
    for units, why in (("m", "different quantities"), ("furlongs", "not known")):
        with pytest.raises(ConfigError, match=why):
            add_predictor(cube, "COVER", values, units=units)
    declare("SOC", units="gC kg-1 soil", bounds=(0, 600), kind="static")  # units that cannot be converted
    assert add_predictor(cube, "SOC", values, units="gC  kg-1 soil").SOC.attrs["units"] == "gC kg-1 soil"


def test_values_beyond_the_bounds_are_missing_and_most_of_them_are_refused(cube, caplog):
    declare("SOC", units="kg m-2", bounds=(0, 50), kind="static")
    out = add_predictor(cube, "SOC", {"XX-S00": 3.0, "XX-S01": -9999.0, "XX-S02": 4.0})
    assert np.isnan(out.SOC[1]) and "1 of 3 values lie beyond" in caplog.text and "XX-S01" in caplog.text
    with pytest.raises(ConfigError, match=r"scale factor|other units"):
        add_predictor(cube, "SOC", {"XX-S00": 3000.0, "XX-S01": 2000.0, "XX-S02": 4.0})


def test_sites_without_values_are_named(cube, caplog):
    lai()
    part = tidy(cube)
    part = part[part.site != "XX-S01"]
    out = add_predictor(cube, "LAI", part)
    assert np.isnan(series(out, site=1)).all() and "1 of 3 sites have no value (XX-S01)" in caplog.text
    assert (out.predictors_qc.sel(variable="LAI", site="XX-S01") == -1).all()
    with pytest.raises(ConfigError, match="rename"):
        add_predictor(cube, "LAI", part.assign(site="YY-" + part.site))
    for days in (-3650, 3650):
        with pytest.raises(ConfigError, match="none of the 3 sites has a value in its years"):
            add_predictor(cube, "LAI", part.assign(date=part.date + pd.Timedelta(days, "D")))


def test_tables_that_are_no_series_are_refused_with_what_to_do(cube):
    lai()
    good = tidy(cube)
    for values, why in (
        (pd.concat([good, good.head(1)]), "keep one value"),
        (good.drop(columns="site"), "columns site, date, LAI"),
        (good.rename(columns={"LAI": "Lai_500m"}), "column="),
        (good.assign(date=good.date.dt.day_of_year), "day of the year"),
        (good.assign(date="soon"), "expected dates"),
        (good.assign(LAI="high"), "no numbers"),
        (good.set_index("date").LAI, "index"),
        (np.zeros(3), "ndarray"),
        (xr.DataArray(np.zeros((3, 2)), dims=("site", "pixel"), attrs={"units": "1"}), "dimensions"),
        (xr.DataArray(np.zeros(3), {"site": cube.site.values}, ("site",), attrs={"units": "1"}), "no dimension time"),
    ):
        with pytest.raises(SchemaError, match=why):
            add_predictor(cube, "LAI", values)
    for values in (
        good.set_index(["site", "date"]).LAI,
        good.assign(date=good.date.dt.strftime("%Y-%m-%d")),
        good.assign(date=good.date.dt.strftime("%Y%m%d").astype(int)),
        good.sample(frac=1, random_state=0).rename(columns={"date": "calendar_date"}),
        good.set_index(["site", "date"]).LAI.to_xarray().assign_attrs(units="1").to_dataset(name="LAI"),
    ):
        assert float(series(add_predictor(cube, "LAI", values), site=0)[0]) == number("2018-05-30")


def test_files_are_read_by_their_ending(cube, tmp_path):
    lai()
    good = tidy(cube)
    good.to_csv(tmp_path / "lai.csv.gz", index=False)
    array = good.set_index(["site", "date"]).LAI.to_xarray().assign_attrs(units="m2/m2")
    array.to_dataset(name="LAI").to_netcdf(tmp_path / "lai.nc")
    one, other = (add_predictor(cube, "LAI", tmp_path / name) for name in ("lai.csv.gz", "lai.nc"))
    xr.testing.assert_identical(one.compute(), other.compute())
    (tmp_path / "lai.txt").write_text("")
    for name, why in (("lai.txt", "NetCDF"), ("absent.nc", "no such file")):
        with pytest.raises(SourceError, match=why):
            add_predictor(cube, "LAI", tmp_path / name)


def test_only_declared_names_and_cubes(cube, forcing):
    with pytest.raises(ConfigError, match=r"fluxcube\.declare\('LAI'"):
        add_predictor(cube, "LAI", tidy(cube))
    lai()
    with pytest.raises(SchemaError, match="open_carbonsense"):
        add_predictor(xr.Dataset(), "LAI", tidy(cube))
    with pytest.raises(SchemaError, match="a forcing needs a map"):
        add_predictor(forcing, "LAI", tidy(cube))
    for option in ({"hold_days": 0}, {"hold_days": 1.5}, {"delay_days": -1}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            add_predictor(cube, "LAI", tidy(cube), **option)


# Maps


def a_map(step=0.05, lat=(45.5, 48.0), lon=(6.5, 10.0), dates=None, units="m2 m-2"):
    """A map whose value is 10 times latitude minus 450 plus longitude, plus 0.01 for each day."""
    latitude, longitude = (np.arange(low + step / 2, high, step) for low, high in (lat, lon))
    values = 10 * (latitude[::-1, None] - 45) + longitude[None]
    coords, dims = {"latitude": latitude[::-1], "longitude": longitude}, ("latitude", "longitude")
    if dates is not None:
        values = values + 0.01 * np.arange(len(dates))[:, None, None]
        coords, dims = {"time": dates} | coords, ("time", *dims)
    return xr.DataArray(values, coords, dims, attrs={"units": units})


def overlap(centres, step, cell, width=0.25):
    """Length of each pixel within a cell."""
    high = np.minimum(centres + step / 2, cell + width / 2)
    return np.maximum(0, high - np.maximum(centres - step / 2, cell - width / 2))


def test_a_cell_has_the_mean_of_its_pixels_and_a_tower_its_pixel(forcing):
    declare("SOC", units="m2 m-2", bounds=(0, 100), kind="static")
    fine = a_map()
    out = add_predictor(forcing, "SOC", fine)
    assert out.SOC.dims == ("latitude", "longitude")
    for i, j in np.ndindex(2, 3):
        lat, lon = float(forcing.latitude[i]), float(forcing.longitude[j])
        rows, columns = (overlap(fine[dim].values, 0.05, at) for dim, at in (("latitude", lat), ("longitude", lon)))
        weight = rows[:, None] * np.cos(np.deg2rad(fine.latitude.values))[:, None] * columns
        np.testing.assert_allclose(out.SOC[i, j], (fine.values * weight).sum() / weight.sum())
    coarse = a_map(step=0.5)
    out = add_predictor(forcing, "SOC", coarse)
    assert float(out.SOC[1, 1]) == pytest.approx(coarse.sel(latitude=46.75, longitude=8.25, method="nearest").item())
    same = a_map(step=0.25, lat=(46.625, 47.125), lon=(7.875, 8.625))
    np.testing.assert_allclose(add_predictor(forcing, "SOC", same).SOC, same)


def test_conventions_of_the_map_s_axes_do_not_matter(forcing):
    declare("SOC", units="m2 m-2", bounds=(0, 100), kind="static")
    fine = a_map()
    expected = add_predictor(forcing, "SOC", fine).SOC
    for other in (
        fine.isel(latitude=slice(None, None, -1)),
        fine.transpose("longitude", "latitude").rename(latitude="lat", longitude="lon"),
        fine.assign_coords(longitude=fine.longitude - 360),
        fine.expand_dims(band=[1]).rename(latitude="y", longitude="x"),
    ):
        np.testing.assert_allclose(add_predictor(forcing, "SOC", other).SOC, expected)
    utm = fine.assign_coords(latitude=fine.latitude * 1e5)
    with pytest.raises(SchemaError, match="reproject"):
        add_predictor(forcing, "SOC", utm)
    same = fine.assign_coords(latitude=np.r_[fine.latitude.values[:-1], fine.latitude.values[0]])
    curved = fine.rename(latitude="y", longitude="x").assign_coords(lat=(("y", "x"), fine.values))
    for other, why in ((same, "duplicates"), (curved, "two dimensions"), (fine.isel(longitude=0), "dimensions")):
        with pytest.raises(SchemaError, match=why):
            add_predictor(forcing, "SOC", other)
    with pytest.raises(ConfigError, match="lies on the map"):
        add_predictor(forcing, "SOC", abs(a_map(lat=(42, 44))))


def test_missing_pixels_do_not_count_and_directions_have_a_mean_direction(forcing):
    declare("ASPECT", units="degree", bounds=(0, 360), kind="static", aggregate="vector", cyclic=True)
    fine = a_map(units="degree")
    aspect = xr.where(np.arange(fine.sizes["longitude"]) % 2, 350.0, 10.0) + 0 * fine
    aspect = aspect.where(fine.latitude > 46.7).assign_attrs(units="degree")
    out = add_predictor(forcing, "ASPECT", aspect).ASPECT.values
    assert np.abs((out + 180) % 360 - 180).max() < 25, "the mean of 350 and 10 degrees is north"


@pytest.mark.parametrize("longitude", [-170.0, 8.25, 179.75, 190.0])
def test_towers_and_cells_at_one_place_have_the_same_series(forcing, longitude):
    lai()
    cell = forcing.isel(longitude=[0]).assign_coords(longitude=[longitude])
    maps = a_map(step=0.25, lon=(-180, 180), dates=DATES)
    maps = (abs(maps) % 50).assign_attrs(units="m2 m-2").chunk(time=10)
    tower = example_cube(sites=1, days=6).assign_coords(latitude=("site", [46.75]), longitude=("site", [longitude]))
    on_grid = series(add_predictor(cell, "LAI", maps, hold_days=4), latitude=1)
    assert on_grid.chunks, "maps are read when they are needed"
    at_tower = series(add_predictor(tower, "LAI", maps, hold_days=4))
    np.testing.assert_array_equal(on_grid.values, at_tower.values)
    assert np.isfinite(at_tower).all() and len(np.unique(at_tower)) >= 6


def test_daily_forcings_have_the_same_values_as_hourly_ones(forcing):
    lai()
    maps = a_map(dates=DATES)
    days = daily_forcing(add_predictor(forcing, "LAI", maps))
    direct = add_predictor(daily_forcing(forcing), "LAI", maps)
    np.testing.assert_allclose(series(days), series(direct), rtol=1e-4)


def test_cells_across_the_seam_of_a_map_have_pixels_of_both_sides(forcing):
    declare("SOC", units="m2 m-2", bounds=(0, 400), kind="static")
    fine = a_map(lon=(-180, 180))
    fine = (fine.longitude + 0 * fine).clip(0).assign_attrs(units="1")
    cells = forcing.assign_coords(longitude=[179.75, 180.0, 180.25])
    np.testing.assert_allclose(add_predictor(cells, "SOC", fine).SOC[0], [179.75, 179.935 / 2, 0], rtol=1e-6)
    np.testing.assert_allclose(
        add_predictor(cells.assign_coords(longitude=[179.75, 180, -179.75]), "SOC", fine).SOC[1],
        [179.75, 179.935 / 2, 0],
        rtol=1e-6,
    )


def test_a_map_s_series_in_other_units_or_kinds_is_refused(forcing):
    lai(kind="hourly")
    maps = a_map(dates=DATES)
    with pytest.raises(ConfigError, match="different quantities"):
        add_predictor(forcing, "LAI", maps.assign_attrs(units="K"))
    with pytest.raises(ConfigError, match=r"2008-05-03 to .* the forcing is of 2018-06-01"):
        add_predictor(forcing, "LAI", maps.assign_coords(time=maps.time - np.timedelta64(3650, "D")))
    with pytest.raises(ConfigError, match="beyond the declared bounds"):
        add_predictor(forcing, "LAI", maps * 1e4, units="1")
    with pytest.raises(ConfigError, match="daily_forcing"):
        add_predictor(daily_forcing(forcing), "LAI", maps)
    forget()
    declare("LAI", units="m2 m-2", bounds=(0, 100), kind="static")
    with pytest.raises(SchemaError, match="declared static"):
        add_predictor(forcing, "LAI", maps)


# Travels


def test_the_declaration_travels_with_cubes_models_and_processes(cube, forcing, tmp_path):
    lai()
    declare("SOC", units="kg m-2", bounds=(0, 50), kind="static")
    out = add_predictor(add_predictor(cube, "LAI", tidy(cube)), "SOC", dict.fromkeys(cube.site.values, 25.0))
    assert [record["name"] for record in json.loads(out.attrs["declared"])] == ["LAI", "SOC"]
    spec = cube_spec(out, static=("latitude", "SOC"), bands=())
    assert spec.inputs[-1] == "LAI" and spec.numbers == ("latitude", "SOC")
    block = cube_block(out, spec)
    assert (block.numbers[:, 1] == 0).all() and np.isfinite(block.inputs[..., -1]).all()
    text, pickled = json.dumps(spec.to_dict()), pickle.dumps(spec)
    assert "declared" not in cube_spec(cube, bands=(), surface=()).to_dict()
    for read in (lambda: FeatureSpec.from_dict(json.loads(text)), lambda: pickle.loads(pickled)):
        forget()
        assert read() == spec and set(statics()) == {"SOC"} and "LAI" in table()
    moved = pickle.dumps(out)
    forget()
    xr.testing.assert_identical(pickle.loads(moved).compute(), out.compute())
    out.to_zarr(tmp_path / "c.zarr")
    for check in (validate_cube, check_units):
        forget()
        assert cube_spec(xr.open_zarr(tmp_path / "c.zarr"), static=("latitude", "SOC"), bands=()) == spec
        forget()
        check(out)
        assert "LAI" in table()
    forget()
    lai(bounds=(0, 8))
    for read in (lambda: FeatureSpec.from_dict(json.loads(text)), lambda: validate_cube(out)):
        with pytest.raises(ConfigError, match="use the same declaration"):
            read()


def test_a_stopped_run_finds_the_same_inputs(forcing, tmp_path):
    lai()
    a_map(dates=DATES).to_dataset(name="LAI").to_netcdf(tmp_path / "lai.nc")
    names = {series(add_predictor(forcing, "LAI", tmp_path / "lai.nc")).data.name for _ in range(2)}
    assert len(names) == 1
    lazy = add_predictor(forcing, "LAI", tmp_path / "lai.nc")
    xr.testing.assert_equal(lazy.compute(), add_predictor(forcing, "LAI", a_map(dates=DATES)).compute())


def test_a_forcing_store_keeps_the_declaration_and_the_values(forcing, tmp_path):
    lai()
    declare("SOC", units="m2 m-2", bounds=(0, 100), kind="static")
    out = add_predictor(add_predictor(forcing, "LAI", a_map(dates=DATES)), "SOC", a_map())
    fc.write_forcing(out, tmp_path / "forcing.zarr")
    forget()
    back = fc.open_forcing(tmp_path / "forcing.zarr")
    assert set(statics()) == {"SOC"} and "LAI" in table()
    np.testing.assert_array_equal(series(back)[1:], series(out)[1:])
    np.testing.assert_array_equal(back.SOC, out.SOC)


def test_a_static_predictor_must_be_in_the_cube(cube):
    declare("SOC", units="kg m-2", bounds=(0, 50), kind="static")
    with pytest.raises(UnknownNameError, match="SOC"):
        cube_spec(cube, static=("SOC",), bands=())


@pytest.mark.parametrize("form", ["A%Y%j", "%Y%j", "%d/%m/%Y", "%m/%d/%Y", "%Y%m%d", "%Y-%m-%d"])
def test_dates_of_products_and_countries_are_read(cube, form):
    lai()
    table = tidy(cube, pd.date_range(DATES[0], periods=40))
    written = table.assign(date=table.date.dt.strftime(form))
    expected, found = (series(fc.add_predictor(cube, "LAI", values)) for values in (table, written))
    assert expected.notnull().any()
    np.testing.assert_array_equal(found.values, expected.values)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%d.%m.%Y", "%d-%m-%y"])
def test_dates_that_can_be_read_in_two_ways_are_refused(cube, form):
    lai()
    table = tidy(cube, pd.date_range("2018-01-01", periods=6, freq="MS"))
    with pytest.raises(SchemaError, match="LAI: expected dates such as 2018-07-04"):
        fc.add_predictor(cube, "LAI", table.assign(date=table.date.dt.strftime(form)))

"""Files for other programs follow CF, as its own checker finds, and fluxcube opens them again as they were."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from packages import optional

import fluxcube as fc
from fluxcube.errors import ConfigError, SourceError, StoreError
from fluxcube.evaluation.report import read_predictions, write_predictions
from fluxcube.exports.names import udunits
from fluxcube.maps.export import export_maps
from fluxcube.maps.means import mean_cycle, mean_maps
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.maps.totals import totals
from fluxcube.schema import variable_coords
from fluxcube.simulation.example import example_cube, example_forcing, example_maps
from fluxcube.units import convert
from fluxcube.variables import table

netCDF4 = optional("netCDF4")
checkers = optional("compliance_checker")


def problems(path):
    """What the CF checker of IOOS has against a file, recommendations included, as texts."""
    from compliance_checker.runner import CheckSuite

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CheckSuite.load_all_available_checkers()
        suite = CheckSuite()
        dataset = suite.load_dataset(str(path))
        groups, faults = suite.run_all(dataset, ["cf:1.11"], [])["cf:1.11"]
        dataset.close()
    found = [f"{name}: {fault[0]!r}" for name, fault in faults.items()]
    todo = list(groups)
    while todo:
        one = todo.pop()
        todo += one.children
        if (
            not one.children
            and one.value is not True
            and not (isinstance(one.value, tuple) and len(set(one.value)) < 2)
        ):
            found += [f"{one.name}: {message}" for message in one.msgs]
    return found


@pytest.fixture(scope="module")
def hours():
    maps = example_maps(days=3)
    within = xr.ones_like(maps.NEE).where(maps.NEE.notnull()).drop_attrs()
    about = {"units": "1", "long_name": "area of applicability", "flag_values": [0.0, 1.0], "flag_meanings": "no yes"}
    return maps.assign(applicable=within.assign_attrs(about)).assign_attrs(kind="maps", store_id="ab12")


def small_cube(resolution="hourly"):
    """A cube of two towers and few variables, which takes the checker a second instead of half a minute."""
    cube = example_cube(sites=2, days=3).sel(variable=["TA", "SW_IN", "P", "TS_1"], target=["NEE", "GPP_NT"])
    cube["predictors"] = cube.predictors.fillna(1.0)
    if resolution == "hourly":
        return cube
    daily = cube.drop_vars(["modis", "time_bnds"]).isel(time=slice(None, None, 24))
    named = {"predictors_qc": "predictors_quality", "fluxes_qc": "fluxes_quality"}
    daily = daily.drop_vars(["predictors_coverage", "fluxes_coverage"]).rename(named)
    units = variable_coords(["NEE", "GPP_NT"], "target", "daily")
    return daily.assign_coords(units).assign_attrs(resolution="daily")


def predictions():
    cube = small_cube()
    flux = (("site", "time"), cube.fluxes.sel(target="NEE").values, table()["NEE"].attrs)
    kept = [name for name in cube.coords if set(cube[name].dims) <= {"site", "time"}]
    coords = {name: cube[name] for name in kept}
    known = xr.DataArray(np.array([True, False]), dims="site", attrs={"long_name": "whether it was trained on"})
    about = {"kind": "predictions", "model": "xgboost", "model_digest": "ab", "masked_predictors": ""}
    return xr.Dataset({"NEE": flux}, coords | {"in_training": known}, about)


EXPORTS = {
    "hourly maps": lambda maps: maps,
    "daily maps": lambda maps: mean_maps(maps, "day"),
    "a mean": lambda maps: mean_maps(maps, None, min_coverage=0),
    "a diurnal cycle": lambda maps: mean_cycle(maps),
    "a total": lambda maps: totals(maps, min_coverage=0),
    "totals of classes": lambda maps: totals(maps, by="igbp", min_coverage=0),
    "hourly towers": lambda maps: small_cube(),
    "daily towers": lambda maps: small_cube("daily"),
    "predictions": lambda maps: predictions(),
    "a forcing": lambda maps: example_forcing(days=2).sel(variable=["TA", "SW_IN"]),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_checker_of_cf_finds_nothing(name, hours, tmp_path):
    ds = EXPORTS[name](hours)
    path = ds.fluxcube.to_netcdf(tmp_path / "file.nc")
    assert problems(path) == []
    with netCDF4.Dataset(path) as nc:
        for attribute in ("Conventions", "title", "history", "source", "references", "institution", "license"):
            assert getattr(nc, attribute), attribute


def test_the_checker_finds_what_is_wrong(tmp_path):
    bad = xr.Dataset({"NEE": ("x", [1.0], {"units": "gC m-2 d-1", "standard_name": "air_temperature"})})
    bad.to_netcdf(tmp_path / "bad.nc")
    assert any("UDUNITS" in one for one in problems(tmp_path / "bad.nc"))


def test_standard_names_are_those_of_the_table_of_cf_in_its_units():
    from compliance_checker.cf.util import StandardNameTable

    names = StandardNameTable()
    rows = [row for resolution in ("hourly", "daily") for row in table(resolution).values() if row.standard_name]
    assert len({row.standard_name for row in rows}) > 20
    for row in rows:
        canonical = names[row.standard_name].canonical_units
        convert(np.ones(1), udunits(row.units)[0], canonical, name=row.name)  # an error if it cannot become them


@pytest.mark.parametrize("folder", [False, True])
def test_exported_maps_open_as_they_were(folder, hours, tmp_path):
    described = hours.drop_attrs(deep=False).assign_attrs(Conventions="CF-1.11").chunk()
    maps = open_maps(write_maps(described, tmp_path / "m.zarr", scheduler="threads"))
    target = tmp_path / "out" if folder else tmp_path / "maps.nc"
    if folder:
        target.mkdir()
    files = export_maps(maps, target, variables="all")
    assert len(files) == (4 if folder else 1)
    back = open_maps(target)
    assert back.NEE.chunks is not None  # lazy
    added = {"latitude_bnds", "longitude_bnds", "cell_area"} - set(maps.coords)  # of a file of other programs
    xr.testing.assert_equal(back.drop_vars(added), maps)
    for name in maps.data_vars:
        kept = {k: v for k, v in maps[name].attrs.items() if k not in ("flag_values",)}
        assert kept.items() <= back[name].attrs.items(), name
    assert back.attrs["derived_from"] == maps.attrs["store_id"] and "store_id" not in back.attrs
    assert back.attrs["complete"] == 1
    xr.testing.assert_allclose(totals(back), totals(maps))


def test_years_in_files_become_one_time_axis(hours, tmp_path):
    days = mean_maps(hours, "day")
    year = np.timedelta64(365, "D")
    bounds = ("time", "bnds"), days.time_bnds.values + year
    later = days.drop_vars("time_bnds").assign_coords(time=days.time + year, time_bnds=bounds)
    both = xr.concat([days, later], "time", data_vars="minimal", coords="minimal", compat="override")
    export_maps(both, tmp_path, variables=["NEE", "GPP_NT"])
    back = open_maps(str(tmp_path / "*_daily.nc"))
    for name in ("NEE", "GPP_NT", "time_bnds", "igbp"):
        np.testing.assert_array_equal(back[name], both[name])
    xr.testing.assert_equal(open_maps(sorted(tmp_path.iterdir())), back)
    export_maps(later, tmp_path / "again.nc", variables="NEE")
    with pytest.raises(StoreError, match="are in two files"):
        open_maps([tmp_path / "NEE_2019_025_daily.nc", tmp_path / "again.nc"]).load()


def test_units_with_a_substance_come_back(hours, tmp_path):
    days = mean_maps(hours, "day")
    (path,) = export_maps(days, tmp_path / "c.nc", units="gC m-2 d-1")
    with xr.open_dataset(path) as file:
        assert file.NEE.attrs["units"] == "g m-2 d-1" and file.NEE.attrs["long_name"].endswith("as mass of carbon")
        assert "standard_name" not in file.NEE.attrs  # CF names the mole flux upwards, and the mass flux downwards only
        assert file.GPP_NT.attrs["standard_name"] == "gross_primary_productivity_of_biomass_expressed_as_carbon"
    assert open_maps(path).NEE.attrs["units"] == "gC m-2 d-1"
    np.testing.assert_allclose(totals(open_maps(path)).NEE, totals(days).NEE, rtol=1e-5)


def test_products_of_others_open_as_maps(tmp_path):
    time = np.array(["2001-01-01", "2001-02-01"], "datetime64[ns]")
    values = np.arange(2 * 4 * 8.0).reshape(2, 4, 8).astype("float32")
    axes = {"time": time, "lat": 67.5 - 45.0 * np.arange(4), "lon": -157.5 + 45.0 * np.arange(8)}
    ds = xr.Dataset({"NEE": (("time", "lat", "lon"), values, {"units": "gC m-2 d-1"})}, axes)
    path = tmp_path / "NEE_2001_4500_monthly.nc"
    ds.assign_attrs(product_version="X-BASE 1.0").to_netcdf(path)
    maps = open_maps(path)
    assert maps.identical(fc.open_product(path)) and maps.attrs["product"] == "x-base"


def test_other_files_are_refused_by_name(tmp_path):
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises((SourceError, ConfigError)):
        open_maps(tmp_path / "other.nc")
    with pytest.raises(StoreError, match="no store there"):
        open_maps(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match="empty list"):
        open_maps([])


def test_predictions_come_back(tmp_path):
    wrote = predictions()
    back = read_predictions(write_predictions(wrote, tmp_path / "p.nc"))
    xr.testing.assert_equal(back, wrote)
    assert back.attrs["masked_predictors"] == "" and back.in_training.dtype == bool
    with xr.open_dataset(tmp_path / "p.nc") as file:  # coordinates are numbers, labels have the role of CF
        assert file.site_name.attrs["cf_role"] == "timeseries_id" and file.attrs["featureType"] == "timeSeries"


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_xarray_writes_all_that_is_opened(engine, hours, cube_store, tmp_path):
    optional("h5netcdf"), optional("h5py")
    opened = [hours, fc.open_carbonsense(cube_store).isel(time=slice(48)), predictions(), totals(hours, by="igbp")]
    for number, ds in enumerate(opened):
        ds.to_netcdf(tmp_path / f"{number}.nc", engine=engine)
        with xr.open_dataset(tmp_path / f"{number}.nc", engine=engine) as back:
            xr.testing.assert_allclose(back[list(ds.data_vars)[:1]].load(), ds[list(ds.data_vars)[:1]].load())


def test_attributes_that_netcdf_cannot_contain_become_text(tmp_path):
    ds = xr.Dataset(
        {"NEE": ("time", [1.0])}, attrs={"a": None, "b": True, "c": {"x": [1, None]}, "d": ["p", 2], "e/f": 3}
    )
    ds["NEE"].attrs = {"limits": (0, 1), "nested": {"y": 1}, "when": np.datetime64("2020-01-01")}
    ds.attrs["big"] = 2**70
    with xr.open_dataset(ds.fluxcube.to_netcdf(tmp_path / "a.nc")) as back:
        assert back.attrs["b"] == 1 and back.attrs["c"] == '{"x": [1, null]}' and back.attrs["d"] == '["p", 2]'
        assert back.attrs["e_f"] == 3 and back.attrs["big"] == str(2**70) and "a" not in back.attrs
        assert back.NEE.attrs["limits"].tolist() == [0, 1] and back.NEE.attrs["when"] == "2020-01-01"


def test_what_cannot_be_written_is_refused(hours, tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.nc"):
        hours.fluxcube.to_netcdf(tmp_path / "maps.grib")
    hours.fluxcube.to_netcdf(tmp_path / "maps.nc")
    with pytest.raises(StoreError, match="overwrite=True"):
        hours.fluxcube.to_netcdf(tmp_path / "maps.nc")
    with pytest.raises(StoreError, match="does not exist"):
        hours.fluxcube.to_netcdf(tmp_path / "none" / "maps.nc")


def test_progress_of_lazy_maps_is_reported(hours, tmp_path):
    told = []
    hours.chunk(time=1).fluxcube.to_netcdf(tmp_path / "maps.nc", progress=lambda *args: told.append(args[:2]))
    shares = [done for done, _ in told]
    assert shares == sorted(set(shares)) and len(shares) > 10 and shares[-1] == 100

"""Products in their published forms: names, units, signs, axes and time stamps become fluxcube's, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import optional
from services.arco import ZarrService

import fluxcube as fc
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.sources.products.at_sites import read_at_sites
from fluxcube.sources.products.table import products

optional("netCDF4")
LAT, LON = np.arange(87.5, -90, -5.0), np.arange(-177.5, 180, 5.0)
GC = "gC m-2 d-1"
#: gC m-2 d-1 in one umol m-2 s-1.
CARBON = 1.0377504


def field(time: int, value: float = 0.0, *extra: int, lat: np.ndarray = LAT, lon: np.ndarray = LON) -> np.ndarray:
    """Values that differ in every time step and cell: value + time / 10 + latitude / 1000 + longitude / 1e5."""
    t = np.arange(time).reshape(-1, *([1] * len(extra)), 1, 1)
    east = (lon + 180) % 360 - 180
    out = value + t / 10 + (lat / 1e3)[:, None] + (east / 1e5)[None, :]
    return np.broadcast_to(out, (time, *extra, lat.size, lon.size)).astype("f4")


def expected(maps: xr.DataArray, value: float, factor: float = 1.0) -> np.ndarray:
    """The field of a product on its own axes."""
    return factor * field(maps.sizes["time"], value, lat=maps.latitude.values, lon=maps.longitude.values)


def dataset(fluxes: dict, time, dims=("time", "lat", "lon"), lat=LAT, lon=LON, **attrs) -> xr.Dataset:
    """A Dataset of fluxes {name: (values, attributes)}."""
    coords = {"time": time, "lat": ("lat", lat), "lon": ("lon", lon)}
    return xr.Dataset({name: (dims, *content) for name, content in fluxes.items()}, coords, attrs)


def x_base(folder: Path, flux: str, year: int, kind: str = "050_monthly", value: float = 0.0) -> Path:
    """One yearly file of X-BASE, with the flaws of the published ones."""
    monthly = kind.endswith(("monthly", "monthlycycle"))
    starts = pd.date_range(f"{year}-01-01", f"{year}-12-31", freq="MS" if monthly else "D")
    ends = starts + (pd.offsets.MonthBegin(1) if monthly else pd.Timedelta(1, "D"))
    cycle = kind.endswith("cycle")
    dims = ("time", "hour", "lat", "lon") if cycle else ("time", "lat", "lon")
    attrs = {"units": GC, "standard_name": "net_ecosystem_exchange_of_carbon"} if flux == "NEE" else {"units": GC}
    values = field(len(starts), value + (year - 2000), *((24,) if cycle else ()))
    ds = dataset({flux: (values, attrs)}, starts, dims, project="FLUXCOM-X", product_version="X-BASE 1.0")
    ds["lon"].attrs = {"long_name": "latitude", "standard_name": "latitude", "units": "degrees_north"}
    ds["lat"].attrs = {"standard_name": "latitude", "units": "degrees_north"}
    ds["time"].attrs["bounds"] = "time_bnds"
    ds["time_bnds"] = (("time", "nbnds"), np.stack([starts, ends], 1))
    ds["hour_bnds"] = (("hour", "nbnds"), np.stack([np.arange(24), np.arange(1, 25)], 1))
    ds["land_fraction"] = (("lat", "lon"), (LON[None] > 0) * np.ones((LAT.size, 1)), {"units": "1"})
    encoding = {"time": {"units": "days since 2001-01-01"}, "land_fraction": {"_FillValue": 0.0}}
    path = folder / f"{flux}_{year}_{kind}.nc"
    ds.to_netcdf(path, encoding=encoding | {flux: {"zlib": True, "chunksizes": (1, *values.shape[1:])}})
    return path


def test_yearly_files_of_x_base_are_joined_in_order(tmp_path):
    """Files out of order, latitude from the north, a longitude that is called a latitude, zeros as fill values."""
    files = [
        x_base(tmp_path, flux, year, value=v) for year in (2011, 2009, 2010) for flux, v in (("NEE", -1), ("GPP", 4))
    ]
    maps = fc.open_product(files)
    assert maps.attrs["product"] == "x-base" and maps.attrs["time_step"] == "monthly"
    assert maps.indexes["time"].equals(pd.date_range("2009-01-01", "2011-12-01", freq="MS"))
    assert maps.latitude.values[0] == -87.5 and maps.longitude.values[0] == -177.5
    year = maps.NEE.sel(time="2010")
    np.testing.assert_allclose(year.values, expected(year, 9.0), rtol=1e-6)
    np.testing.assert_allclose(maps.RECO_NT, maps.NEE + maps.GPP_NT, rtol=1e-6)
    assert maps.RECO_NT.attrs["derived"] == "NEE + GPP_NT" and maps.NEE.attrs["units"] == GC
    assert set(np.unique(maps.land_fraction)) == {0.0, 1.0} and maps.land_fraction.sel(longitude=2.5).min() == 1
    assert "Nelson" in maps.attrs["citation"] and maps.attrs["licence"] == "CC BY 4.0"
    whole = fc.open_product(tmp_path)
    xr.testing.assert_identical(whole.load().drop_attrs(), maps.load().drop_attrs())
    pattern = fc.open_product(tmp_path / "NEE_*_050_monthly.nc")
    assert list(pattern.data_vars) == ["NEE"]


def test_daily_files_and_the_mean_diurnal_cycle_are_told_apart(tmp_path):
    daily = fc.open_product(x_base(tmp_path, "NEE", 2012, "025_daily"))
    assert daily.attrs["time_step"] == "daily" and daily.sizes["time"] == 366
    cycle = fc.open_product(x_base(tmp_path, "NEE", 2012, "025_monthlycycle"))
    assert cycle.NEE.dims == ("time", "hour_of_day", "latitude", "longitude") and "hour" not in cycle.dims
    assert cycle.attrs["time_step"] == "monthly mean diurnal cycle" and cycle.NEE.attrs["units"] == GC
    assert cycle.hour_of_day.values.tolist() == list(range(24))


def test_a_joined_store_with_unsorted_years_is_sorted(tmp_path):
    """What xcube-icosdp writes: years in the order in which their files were found."""
    files = [xr.open_dataset(x_base(tmp_path, "NEE", year)).load() for year in (2018, 2017, 2019)]
    store = tmp_path / "FLUXCOM-X-BASE_NEE_monthly_2017_2019.zarr"
    xr.concat(files, "time", data_vars="minimal").drop_encoding().to_zarr(store, zarr_format=2)
    maps = fc.open_product(store)
    assert maps.indexes["time"].equals(pd.date_range("2017-01-01", "2019-12-01", freq="MS"))
    year = maps.NEE.sel(time="2017")
    np.testing.assert_allclose(year.values, expected(year, 17.0), rtol=1e-6)


def test_a_period_that_is_there_twice_is_refused(tmp_path):
    first = x_base(tmp_path, "NEE", 2010)
    (tmp_path / "again").mkdir()
    second = x_base(tmp_path / "again", "NEE", 2010)
    with pytest.raises(SourceError, match=r"NEE: 2010-01-01 is in .*again.* and in another of 2 files"):
        fc.open_product([first, second])
    ds = xr.open_dataset(first)
    with pytest.raises(SourceError, match=r"2010-01-01 is in .* twice"):
        fc.open_product(ds.isel(time=[0, 1, 0]).drop_vars(["time_bnds"]))


def test_fluxcom_names_respiration_ter_and_counts_from_1582(tmp_path):
    time = pd.date_range("2001-01-15", periods=12, freq=pd.DateOffset(months=1))
    content = {"TER": (2.0, "gC m-2 d-1"), "GPP": (3.0, "gC m-2 d-1"), "LE": (5.0, "MJ m-2 d-1")}
    for name, (value, units) in content.items():
        values = field(12, value)
        values[:, 0] = -9999.0
        ds = dataset({name: (values, {"units": units}), f"{name}_mad": (values, {})}, time, title="FLUXCOM RS+METEO")
        path = tmp_path / f"{name}.RS_METEO.FP-ALL.MLM-ALL.METEO-ALL.720_360.monthly.2001.nc"
        ds.to_netcdf(path, encoding={"time": {"units": "days since 1582-10-15 00:00:00"}, name: {"_FillValue": None}})
    maps = fc.open_product(tmp_path)
    assert maps.attrs["product"] == "fluxcom-rs-meteo" and set(maps.data_vars) == {"RECO_NT", "GPP_NT", "LE"}
    assert maps.indexes["time"].equals(pd.date_range("2001-01-01", periods=12, freq="MS"))
    assert np.isnan(maps.RECO_NT.sel(latitude=87.5)).all()
    south = maps.sel(latitude=slice(-90, 80))
    np.testing.assert_allclose(south.LE, expected(south.LE, 5.0, 1e6 / 86400), rtol=1e-5)
    assert "not stated" in maps.GPP_NT.attrs["partition"] and "derived" not in maps.RECO_NT.attrs
    assert maps.attrs["variables_left_out"] == "GPP_mad, LE_mad, TER_mad"
    assert {"GPP_DT", "RECO_DT"} < set(fc.open_product(tmp_path, partition="DT").data_vars)


def test_metaflux_spells_units_in_latex_and_has_a_spread(tmp_path):
    names = {"GPP": 2.0, "GPP_std": 0.2, "RECO": 1.0, "RECO_std": 0.1}
    fluxes = {name: (field(12, value), {"units": "$gCm^{-2}d^{-1}$"}) for name, value in names.items()}
    dataset(fluxes, pd.date_range("2001", periods=12, freq="MS")).to_netcdf(
        tmp_path / "METAFLUX_GPP_RECO_monthly_2001.nc"
    )
    maps = fc.open_product(tmp_path)
    assert set(maps.data_vars) == {"GPP_NT", "GPP_NT_spread", "RECO_NT", "RECO_NT_spread"}
    np.testing.assert_allclose(maps.GPP_NT, expected(maps.GPP_NT, 2.0), rtol=1e-6)
    assert maps.GPP_NT.units == GC and "partition" not in maps.GPP_NT.attrs and "NEE" not in maps


def test_methane_of_upch4_counts_months_and_totals_of_cells_are_refused(tmp_path):
    ds = dataset(
        {"mean_ch4": (field(3, 16.043), {"units": "mg CH4 m-2 d-1"}), "sd_ch4": (field(3), {"units": "mgCH4 m-2 d-1"})},
        [0, 1, 2],
    )
    ds["time"].attrs["units"] = "months since 2001-11-01"
    ds.to_netcdf(tmp_path / "upch4_v04_m1_mgCH4m2day_Aw.nc")
    maps = fc.open_product(tmp_path)
    assert maps.indexes["time"].equals(pd.date_range("2001-11-01", periods=3, freq="MS"))
    assert maps.FCH4.units == "nmol m-2 s-1" and "FCH4_spread" in maps and "wetland" in maps.FCH4.attrs["area"]
    np.testing.assert_allclose(maps.FCH4, expected(maps.FCH4, 16.043, 1e6 / 16.043 / 86400), rtol=1e-5)
    ds["mean_ch4"].attrs["units"] = "TgCH4 grid cell-1 month-1"
    with pytest.raises(SourceError, match=r"TgCH4 grid cell-1 month-1.*nmol"):
        fc.open_product(ds, "upch4")


def test_cf_standard_names_decide_and_a_sink_becomes_negative(tmp_path):
    """CMIP's names and units: kilograms of carbon, nep positive towards the land, water as a flux of mass."""
    nep = "surface_net_downward_mass_flux_of_carbon_dioxide_expressed_as_carbon_due_to_all_land_processes_excluding_"
    fluxes = {
        "nep": (field(4, 1.0) * 1e-8, {"units": "kg m-2 s-1", "standard_name": nep + "anthropogenic_land_use_change"}),
        "g": (
            field(4, 2.0) * 1e-8,
            {"units": "kg m-2 s-1", "standard_name": "gross_primary_productivity_of_biomass_expressed_as_carbon"},
        ),
        "evspsbl": (field(4, 3.0) * 1e-5, {"units": "kg m-2 s-1", "standard_name": "water_evapotranspiration_flux"}),
        "tas": (field(4), {"units": "K", "standard_name": "air_temperature"}),
    }
    time = pd.date_range("2001-01-16T12:00", periods=4, freq=pd.DateOffset(months=1))
    maps = fc.open_product(dataset(fluxes, time).assign_coords(lon=LON % 360).sortby("lon"), "cf")
    per_day = 1e-8 * 1e3 * 86400
    np.testing.assert_allclose(maps.NEE, expected(maps.NEE, 1.0, -per_day), rtol=1e-5)
    np.testing.assert_allclose(maps.GPP_NT, expected(maps.GPP_NT, 2.0, per_day), rtol=1e-5)
    np.testing.assert_allclose(maps.ET, expected(maps.ET, 3.0, 0.864), rtol=1e-5)
    np.testing.assert_allclose(maps.LE, expected(maps.LE, 3.0, 24.5), rtol=1e-5)
    assert "positive towards the land" in maps.NEE.attrs["sign"] and "2.45 MJ" in maps.LE.attrs["derived"]
    assert maps.indexes["time"].equals(pd.date_range("2001-01-01", periods=4, freq="MS"))
    assert (
        (np.diff(maps.longitude) > 0).all()
        and maps.longitude.values[0] == -177.5
        and maps.attrs["variables_left_out"] == "tas"
    )


def test_amounts_per_month_and_in_eight_days_become_rates():
    months = dataset(
        {"GPP": (field(12, 50.0), {"units": "g C m-2 mo-1"})}, pd.date_range("2020", periods=12, freq="MS")
    )
    maps = fc.open_product(months, "cf")
    days = maps.time.dt.days_in_month.values[:, None, None]
    np.testing.assert_allclose(maps.GPP_NT, expected(maps.GPP_NT, 50.0) / days, rtol=1e-6)
    part = maps.GPP_NT.isel(time=[1, 0]).sel(latitude=42.5, longitude=[2.5, 7.5]).values
    np.testing.assert_allclose(
        part, maps.GPP_NT.load().isel(time=[1, 0]).sel(latitude=42.5, longitude=[2.5, 7.5]).values
    )
    starts = pd.date_range("2019-01-01", periods=46, freq="8D")
    eight = fc.open_product(dataset({"GPP": (field(46, 8.0), {"units": "kgC/m2/8day"})}, starts), "cf")
    assert eight.attrs["time_step"] == "8-daily"
    length = np.r_[np.full(45, 8.0), 5.0][:, None, None]
    np.testing.assert_allclose(eight.GPP_NT, expected(eight.GPP_NT, 8.0, 1e3) / length, rtol=1e-6)
    yearly = dataset({"GPP": (field(2, 9.0), {"units": "gC m-2 yr-1"})}, pd.to_datetime(["2019-01-01", "2020-01-01"]))
    found = fc.open_product(yearly, "cf").GPP_NT.sel(latitude=2.5, longitude=2.5)
    np.testing.assert_allclose(found, (9.0 + np.array([0, 0.1]) + 2.525e-3) / [365, 366], rtol=1e-6)


@pytest.mark.parametrize("units", ["umol m-2 s-1", "umolCO2 m-2 s-1", "gC m-2 s-1", "kgC m-2 h-1", "mg CO2 m-2 s-1"])
def test_hourly_fluxes_come_in_the_units_of_hourly_cubes(units):
    time = pd.date_range("2010-01-01T00:30", periods=48, freq="h")
    maps = fc.open_product(dataset({"NEE": (field(48, 1.0), {"units": units})}, time), "cf")
    factor = {"umol m-2 s-1": 1, "umolCO2 m-2 s-1": 1, "gC m-2 s-1": 1e6 / 12.011}.get(units)
    factor = factor or {"kgC m-2 h-1": 1e9 / 12.011 / 3600, "mg CO2 m-2 s-1": 1e3 / 44.009}[units]
    np.testing.assert_allclose(maps.NEE, expected(maps.NEE, 1.0, factor), rtol=1e-5)
    assert maps.NEE.units == "umol m-2 s-1" and maps.time.values[0] == np.datetime64("2010-01-01T00")


def test_packed_values_ensembles_and_other_calendars(tmp_path):
    ds = dataset({"GPP": (np.round(field(3, 1.0), 3), {"units": GC})}, pd.date_range("2001", periods=3, freq="MS"))
    ds.to_netcdf(
        tmp_path / "GPP_packed.nc", encoding={"GPP": {"dtype": "i2", "scale_factor": 1e-3, "_FillValue": -9999}}
    )
    maps = fc.open_product(tmp_path / "GPP_packed.nc", "cf")
    np.testing.assert_allclose(maps.GPP_NT, expected(maps.GPP_NT, 1.0), atol=1e-3)
    one = ds.expand_dims(member=1).transpose("time", "lat", "member", "lon")
    np.testing.assert_allclose(fc.open_product(one, "cf").GPP_NT, maps.GPP_NT, atol=1e-3)
    with pytest.raises(SourceError, match=r"dimension member \(2 entries\)"):
        fc.open_product(xr.concat([one, one], "member"), "cf")
    noleap = ds.assign_coords(time=xr.date_range("2004-02-28", periods=3, calendar="noleap", use_cftime=True))
    noleap.to_netcdf(tmp_path / "GPP_noleap.nc")
    days = fc.open_product(tmp_path / "GPP_noleap.nc", "cf").time.values.astype("datetime64[D]").astype(str)
    assert days.tolist() == ["2004-02-28", "2004-03-01", "2004-03-02"]


def test_a_fill_value_of_zero_is_reported(tmp_path, caplog):
    ds = dataset({"GPP": (np.maximum(field(2, 0.0), 0), {"units": GC})}, pd.date_range("2001", periods=2))
    ds.to_netcdf(tmp_path / "a.nc", encoding={"GPP": {"_FillValue": 0.0}})
    assert fc.open_product(tmp_path / "a.nc", "cf").GPP_NT.isnull().any()
    assert "zeros of GPP are missing values" in caplog.text


def test_hours_by_bounds_middles_or_ends():
    def hourly(hours, bounds=None):
        ds = dataset(
            {"NEE": (field(2, 0.0, 24), {"units": "umol m-2 s-1"})},
            pd.date_range("2001", periods=2),
            ("time", "hour", "lat", "lon"),
        )
        ds = ds.assign_coords(hour=hours)
        return ds if bounds is None else ds.assign(hour_bnds=(("hour", "n"), bounds))

    hours = np.arange(24.0)
    edges = np.stack([hours, hours + 1], 1)
    for ds in (
        hourly(hours),
        hourly(hours + 0.5),
        hourly(hours + 1),
        hourly(hours + 0.5, edges),
        hourly(hours + 1, edges),
    ):
        assert fc.open_product(ds, "cf").hour.values.tolist() == list(range(24))
    for ds in (hourly(hours, edges + 1), hourly(hours[::-1].copy()), hourly(hours * 2)):
        with pytest.raises(SourceError, match="24 hours of a day"):
            fc.open_product(ds, "cf")


def test_a_single_day_of_hours_is_a_day():
    """What users of X-BASE save: one file a day."""
    values = (field(1, 0.0, 24), {"units": "umolCO2 m-2 s-1"})
    dims = ("time", "hour", "lat", "lon")
    for time in (["2012-07-01"], pd.DatetimeIndex(["2012-07-01T00:00"])):
        ds = dataset({"NEE": values}, pd.DatetimeIndex(time), dims, frequency="1h", project="FLUXCOM-X")
        maps = fc.open_product(ds)
        assert maps.attrs["time_step"] == "hourly" and maps.NEE.units == "umol m-2 s-1" and maps.sizes["hour"] == 24


def test_a_product_that_ends_at_60_north_has_no_value_beyond():
    north = LAT[LAT < 60]
    ds = dataset({"NEE": (field(2, lat=north), {"units": GC})}, pd.date_range("2001", periods=2), lat=north)
    assert "land_fraction" not in fc.open_product(ds, "cf").coords
    sites = xr.Dataset(
        coords={
            "site": ["FI-Hyy", "DE-Tha", "FI-Mid"],
            "latitude": ("site", [61.8, 51.0, 60.4]),
            "longitude": ("site", [24.3, 13.6, 0.0]),
        }
    )
    found = read_at_sites(ds, sites, "cf")
    assert found.NEE.isnull().all("time").values.tolist() == [True, False, True]


def curved(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset on a curvilinear grid."""
    ones = (("y", "x"), np.ones((LAT.size, LON.size)))
    return ds.rename(lat="y", lon="x").assign(lat=ones, lon=ones)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda ds: ds, SourceError, "is no product that fluxcube recognises: pass product=.*cf"),
        (lambda ds: ds.rename(NEE="foo"), SourceError, "no variable that is a flux among foo"),
        (lambda ds: ds.assign(NEE=ds.NEE.drop_attrs()), SourceError, r"NEE has no units: pass them, units=\{'NEE'"),
        (
            lambda ds: ds.assign(NEE=ds.NEE.assign_attrs(units="kg m-2 s-1")),
            SourceError,
            "cannot be converted to gC m-2 d-1",
        ),
        (lambda ds: ds.assign(NEE=ds.NEE.assign_attrs(units="bananas")), SourceError, "bananas"),
        (lambda ds: ds.assign(nee_mean=ds.NEE), SourceError, r"NEE and nee_mean are both NEE: choose one, variables="),
        (lambda ds: ds.isel(time=0, drop=True), SourceError, "expected a coordinate time"),
        (lambda ds: ds.drop_vars("lat"), SourceError, "expected a coordinate latitude"),
        (lambda ds: ds.assign_coords(lat=ds.lat * 2), SourceError, "latitudes from -90 to 90"),
        (lambda ds: ds.assign_coords(lon=ds.lon * 1e5), SourceError, "longitudes in degrees"),
        (lambda ds: ds.assign_coords(time=[1, 2]), SourceError, "times of time cannot be decoded"),
        (lambda ds: curved(ds), SourceError, "regrid"),
    ],
)
def test_what_cannot_be_used_is_named(change, error, message):
    ds = dataset({"NEE": (field(2), {"units": GC})}, pd.date_range("2001", periods=2))
    with pytest.raises(error, match=message):
        fc.open_product(change(ds), None if "recognises" in message else "cf")


def test_options_and_places_that_do_not_exist_are_named(tmp_path):
    ds = dataset({"NEE": (field(2), {"units": GC}), "x": (field(2), {"units": GC})}, pd.date_range("2001", periods=2))
    with pytest.raises(UnknownNameError, match="did you mean 'x-base'"):
        fc.open_product(ds, "xbase")
    with pytest.raises(ConfigError, match="NT or DT"):
        fc.open_product(ds, "cf", partition="night")
    with pytest.raises(SourceError, match="no variable nothing"):
        fc.open_product(ds, "cf", variables={"GPP": "nothing"})
    with pytest.raises(ConfigError, match="expected a flux among"):
        fc.open_product(ds, "cf", variables={"gpp": "x"})
    chosen = fc.open_product(ds, "cf", variables={"GPP": "x"}, units={"GPP": "kgC m-2 d-1"})
    np.testing.assert_allclose(chosen.GPP_NT, expected(chosen.GPP_NT, 0.0, 1e3), rtol=1e-5)
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "none.nc", tmp_path / "empty", tmp_path / "*.nc"):
        with pytest.raises(SourceError, match=r"is no file|without NetCDF"):
            fc.open_product(place, "cf")
    (tmp_path / "bad.nc").write_bytes(b"<html>Log in</html>")
    with pytest.raises(SourceError, match="cannot be read as NetCDF"):
        fc.open_product(tmp_path / "bad.nc", "cf")


def test_files_of_different_grids_or_units_are_refused(tmp_path):
    time = pd.date_range("2001", periods=2)
    dataset({"NEE": (field(2), {"units": GC})}, time).to_netcdf(tmp_path / "a.nc")
    dataset({"NEE": (field(2, lat=LAT[1:]), {"units": GC})}, time + pd.Timedelta(2, "D"), lat=LAT[1:]).to_netcdf(
        tmp_path / "b.nc"
    )
    dataset({"NEE": (field(2), {"units": "umol m-2 s-1"})}, time + pd.Timedelta(2, "D")).to_netcdf(tmp_path / "c.nc")
    with pytest.raises(SourceError, match=r"different grids \(36 x 72 and 35 x 72 cells\)"):
        fc.open_product([tmp_path / "a.nc", tmp_path / "b.nc"], "cf")
    with pytest.raises(SourceError, match="different units"):
        fc.open_product([tmp_path / "a.nc", tmp_path / "c.nc"], "cf")


def test_fluxes_of_different_periods_are_missing_where_they_have_no_file(tmp_path):
    files = [x_base(tmp_path, "NEE", year) for year in (2009, 2010)] + [x_base(tmp_path, "GPP", 2010)]
    maps = fc.open_product(files)
    assert maps.sizes["time"] == 24
    assert maps.GPP_NT.sel(time="2009").isnull().all() and maps.RECO_NT.sel(time="2009").isnull().all()
    assert maps.RECO_NT.sel(time="2010").notnull().all()


def test_other_files_of_a_folder_do_not_matter_and_may_have_the_land_fraction(tmp_path):
    time = pd.date_range("2001", periods=2)
    dataset({"NEE": (field(2), {"units": GC})}, time).to_netcdf(tmp_path / "NEE.nc")
    xr.Dataset({"height": ("station", [1.0])}).to_netcdf(tmp_path / "stations.nc")
    share = (("lat", "lon"), np.full((LAT.size, LON.size), 40.0), {"units": "%", "standard_name": "land_area_fraction"})
    xr.Dataset({"sftlf": share}, {"lat": LAT, "lon": LON}).to_netcdf(tmp_path / "sftlf.nc")
    maps = fc.open_product(tmp_path, "cf")
    assert list(maps.data_vars) == ["NEE"] and float(maps.land_fraction.min()) == float(maps.land_fraction.max()) == 0.4


def test_files_of_another_order_of_rows_are_turned(tmp_path):
    """One year from the north, the next from the south and from 0 to 360 degrees."""
    east = np.arange(2.5, 360, 5.0)
    first = dataset({"NEE": (field(2, 1.0), {"units": GC})}, pd.date_range("2001-01-01", periods=2))
    second = dataset(
        {"NEE": (field(2, 1.0, lat=LAT[::-1], lon=east), {"units": GC})},
        pd.date_range("2001-01-03", periods=2),
        lat=LAT[::-1],
        lon=east,
    )
    first.to_netcdf(tmp_path / "a.nc")
    second.to_netcdf(tmp_path / "b.nc")
    maps = fc.open_product([tmp_path / "b.nc", tmp_path / "a.nc"], "cf")
    for days in (slice(0, 2), slice(2, 4)):
        part = maps.NEE.isel(time=days)
        np.testing.assert_allclose(part, expected(part, 1.0), rtol=1e-5)


def test_a_netcdf_file_is_read_by_ranges_over_http(tmp_path):
    path = x_base(tmp_path, "NEE", 2010, "025_daily")
    with ZarrService(tmp_path) as service:
        maps = fc.open_product(f"{service.url}/{path.name}")
        assert maps.attrs["product"] == "x-base"
        found = maps.NEE.sel(time="2010-07-01").load()
        assert {request.headers.get("range") is None for request in service.asked(method="GET")} == {False}
        with pytest.raises(SourceError, match="without an account"):
            fc.open_product(f"{service.url.replace('//', '//user:word@')}/{path.name}")
        with pytest.raises(SourceError, match="cannot be opened"):
            fc.open_product(f"{service.url}/NEE_2011_025_daily.nc")
    xr.testing.assert_allclose(found, fc.open_product(path).NEE.sel(time="2010-07-01").load())


def test_sampled_towers_are_scored_against_a_cube():
    """Daily predictions of a product beside a cube of other units: what evaluate needs is there."""
    from fluxcube.simulation.example import example_cube

    cube = example_cube(sites=4, days=3, gaps=0)
    time = pd.date_range(cube.time.values[0], periods=cube.sizes["time"], freq="h")
    ds = dataset({"NEE": (field(len(time), 1.0), {"units": "gC m-2 d-1"})}, time)
    found = read_at_sites(ds, cube, "cf")
    scores = fc.evaluate(cube, found[["NEE"]])
    assert np.isfinite(float(scores.rmse.sel(target="NEE")))


def test_a_product_that_was_saved_opens_again(tmp_path):
    """With fluxcube's own names, and the standard deviations beside them."""
    maps = fc.open_product(x_base(tmp_path, "NEE", 2010)).load()
    maps["NEE_std"] = np.abs(maps.NEE).assign_attrs(units=GC)
    maps["GPP_NT"] = maps.NEE.assign_attrs(units=GC)
    maps.to_netcdf(tmp_path / "saved.nc")
    again = fc.open_product(tmp_path / "saved.nc", "cf")
    assert set(again.data_vars) == {"NEE", "NEE_std", "GPP_NT", "RECO_NT"}
    for name in ("NEE", "NEE_std", "GPP_NT"):
        np.testing.assert_array_equal(again[name], maps[name])
    xr.testing.assert_equal(again.land_fraction.drop_attrs(), maps.land_fraction.drop_attrs())


@pytest.mark.parametrize(
    "flux, units, factor",
    [
        ("LE", "W m-2", 1.0),
        ("LE", "MJ m-2 d-1", 1e6 / 86400),
        ("LE", "J m-2", 1 / 86400),
        ("ET", "mm", 1.0),
        ("ET", "mm/day", 1.0),
        ("ET", "kg m-2 s-1", 86400.0),
        ("ET", "cm d-1", 10.0),
        ("ET", "mm month⁻¹", 1 / 31),
        ("FCH4", "mgCH4 m-2 d-1", 1e6 / 16.043 / 86400),
        ("NEE", "µmol CO2 m⁻² s⁻¹", CARBON),
        ("NEE", "gC/m^2/day", 1.0),
    ],
)
def test_daily_amounts_and_rates_in_the_spellings_of_files(flux, units, factor):
    ds = dataset({flux: (field(3, 1.0), {"units": units})}, pd.date_range("2001-01-01", periods=3))
    maps = fc.open_product(ds, "cf")
    np.testing.assert_allclose(maps[flux], expected(maps[flux], 1.0, factor), rtol=1e-5)


def test_every_product_has_a_title_a_citation_and_rules():
    for name, product in products().items():
        assert name == "cf" or (product.title and product.citation and product.rules), name
        assert product.partition in ("", "NT", "DT")

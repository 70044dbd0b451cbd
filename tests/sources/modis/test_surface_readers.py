"""Reflectance of points and areas: the layouts of archives, tables of any form, and what is refused in them."""

from __future__ import annotations

import gzip
import logging

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from modis_files import A4, GA, daily, nadir, name_of, tile_of, write_hdf, write_tiff
from packages import optional

import fluxcube as fc
from fluxcube.errors import ConfigError, FluxcubeError, SourceError
from fluxcube.sources.modis.grid import PIXEL, sinusoidal_pixel
from fluxcube.sources.modis.surface import check_places

DAYS = pd.date_range("2018-07-01", periods=12)
#: Reflectance of bands 1 to 7 on each of these days.
REFLECTANCE = np.round(np.array([0.05, 0.3, 0.03, 0.06, 0.3, 0.2, 0.1]) * np.linspace(0.9, 1.1, 12)[:, None], 4)
PLACE = (46.8153, 9.8559)


def tidy(**columns) -> pd.DataFrame:
    """A table of one site with bands 1 to 7 as b01 to b07."""
    frame = pd.DataFrame({"site": "DE-Hai", "date": DAYS.strftime("%Y-%m-%d")})
    for i in range(7):
        frame[f"b{i + 1:02d}"] = REFLECTANCE[:, i]
    return frame.assign(**columns)


def written(frame: pd.DataFrame, path, **options):
    frame.to_csv(path, index=False, **options)
    return path


def red(ds: xr.Dataset, site: str = "DE-Hai") -> np.ndarray:
    return ds.surface.sel(site=site, band="red").values


def test_a_tidy_table_becomes_the_standard_dataset(tmp_path):
    frame = tidy(lat=51.08, lon=10.45, b11=0.04, b12=0.05)
    ds = fc.read_surface(written(frame, tmp_path / "own.csv"))
    assert ds.surface.dims == ("site", "day", "band") and ds.surface.dtype == "float32"
    assert ds.day.dtype == "datetime64[ns]" and list(ds.site.values) == ["DE-Hai"]
    expected = ["red", "nir", "blue", "green", "swir1", "swir2", "swir3", "green531", "green551"]
    assert list(ds.band.values) == expected
    np.testing.assert_allclose(ds.surface.values[0, :, :7], REFLECTANCE, atol=1e-6)
    assert (ds.surface_quality == 1).all()
    assert (float(ds.latitude[0]), float(ds.longitude[0])) == (51.08, 10.45)
    assert ds.surface.attrs["lookahead_days"] == 0 and ds.surface.attrs["units"] == "1"


@pytest.mark.parametrize(
    "dates",
    [
        DAYS.strftime("%Y%j"),
        DAYS.strftime("A%Y%j"),
        DAYS.strftime("%Y%j").astype(int),
        DAYS.strftime("%Y-%j"),
        DAYS.strftime("%Y%m%d").astype(int),
        DAYS.strftime("%Y-%m-%dT10:30:00Z"),
        DAYS.strftime("%Y/%m/%d"),
        (DAYS + pd.Timedelta("12h")).astype("datetime64[ms]").astype("int64"),
        DAYS,
    ],
)
def test_dates_of_every_form_are_read(dates):
    ds = fc.read_surface(tidy(date=dates))
    assert (ds.day.values == DAYS.values).all()


def test_year_and_day_of_the_year_are_read():
    frame = tidy(year=2018, doy=DAYS.day_of_year).drop(columns="date")
    assert (fc.read_surface(frame).day.values == DAYS.values).all()
    with pytest.raises(SourceError, match="year 2018 has no day 366"):
        fc.read_surface(frame.assign(doy=366))
    with pytest.raises(SourceError, match=r"'doy' is a day of the year without its year"):
        fc.read_surface(frame.drop(columns="year"))
    with pytest.raises(SourceError, match="line 2: date is '182': it is a day of the year without its year"):
        fc.read_surface(tidy(date=DAYS.day_of_year))


def test_dates_that_can_be_read_in_two_ways_need_their_format():
    frame = tidy(date=DAYS.strftime("%d/%m/%Y"))
    with pytest.raises(SourceError, match="day/month or as month/day"):
        fc.read_surface(frame)
    assert fc.read_surface(frame, time_format="%d/%m/%Y").day.values[0] == np.datetime64("2018-07-01")
    long = pd.concat([tidy(), tidy(date=pd.date_range("2018-08-13", periods=12))]).assign(
        date=lambda f: pd.to_datetime(f.date).dt.strftime("%m/%d/%Y")
    )
    assert fc.read_surface(long).sizes["day"] == 24


def test_columns_of_other_names_are_mapped():
    names = {"b01": "R", "b02": "N", "site": "tower_name", "date": "when"}
    frame = tidy().rename(columns=names)[["tower_name", "when", "R", "N"]]
    ds = fc.read_surface(frame, columns={"red": "R", "nir": "N", "site": "tower_name", "day": "when"})
    np.testing.assert_allclose(red(ds), REFLECTANCE[:, 0], atol=1e-6)
    with pytest.raises(SourceError, match="expected the column 'RED' for red"):
        fc.read_surface(frame, columns={"red": "RED"})
    with pytest.raises(ConfigError, match="unknown key 'ndvi'"):
        fc.read_surface(frame, columns={"ndvi": "N"})
    with pytest.raises(SourceError, match="expected columns of reflectance"):
        fc.read_surface(frame)


def test_the_only_site_is_named_by_an_option():
    frame = tidy().drop(columns="site")
    with pytest.raises(SourceError, match="expected a column of sites"):
        fc.read_surface(frame)
    assert list(fc.read_surface(frame, site="DE-Hai").site.values) == ["DE-Hai"]
    two = pd.concat([tidy(), tidy(site="DE-Tha")])
    with pytest.raises(SourceError, match="names one site, but the column 'site' contains 2"):
        fc.read_surface(two, site="DE-Hai")


@pytest.mark.parametrize("separator, decimal", [(";", ","), ("\t", "."), (";", ".")])
def test_separators_and_decimal_commas_are_recognised(tmp_path, separator, decimal):
    path = written(tidy(), tmp_path / "own.csv", sep=separator, decimal=decimal)
    np.testing.assert_allclose(red(fc.read_surface(path)), REFLECTANCE[:, 0], atol=1e-6)


def test_numbers_are_scaled_once_or_refused():
    stored = tidy()
    bands = [f"b{i:02d}" for i in range(1, 8)]
    stored[bands] = np.rint(REFLECTANCE * 1e4).astype(int)
    ds = fc.read_surface(stored, scale=1e-4)
    np.testing.assert_allclose(red(ds), REFLECTANCE[:, 0], atol=1e-6)
    with pytest.raises(SourceError, match=r"red of DE-Hai has a median of 500.*not scaled.*pass scale=0.0001"):
        fc.read_surface(stored)
    with pytest.raises(SourceError, match=r"scaled twice \(factor 0.0001\); pass scale=1"):
        fc.read_surface(tidy(), scale=1e-4)
    percent = tidy()
    percent[bands] = REFLECTANCE * 100
    with pytest.raises(SourceError, match=r"pass scale=0.01"):
        fc.read_surface(percent)


def test_one_site_in_other_units_is_named():
    other = tidy(site="DE-Tha")
    other["b03"] = other["b03"] * 1e4
    with pytest.raises(SourceError, match="blue of DE-Tha"):
        fc.read_surface(pd.concat([tidy(), other], ignore_index=True))


@pytest.mark.parametrize("fill", [-28672, 32767, -9999, 65535, 3.2767, -2.8672, 6.5535, -0.9999, np.nan, ""])
def test_fill_values_are_no_reflectances(tmp_path, fill):
    frame = tidy().astype(object)
    frame.loc[3:8, ["b01", "b02"]] = fill
    ds = fc.read_surface(written(frame, tmp_path / "own.csv"))
    assert np.isnan(red(ds)[3:9]).all() and np.isfinite(red(ds)[:3]).all()


def test_fill_values_averaged_into_others_are_refused(caplog):
    frame = tidy()
    frame.loc[0:5, "b01"] = (0.05 * 3 - 2.8672) / 4
    with pytest.raises(SourceError, match=r"6 of 12 values of red are beyond -0.01 to 1.6.*fill values"):
        fc.read_surface(frame)
    frame = tidy()
    frame.loc[0, "b01"] = -0.5
    with caplog.at_level(logging.WARNING):
        assert np.isnan(red(fc.read_surface(frame))[0])
    assert "1 of 12 values of red are beyond" in caplog.text


def test_pixels_that_are_zero_in_every_band_are_masked(caplog):
    frame = tidy()
    frame.loc[2, [f"b{i:02d}" for i in range(1, 8)]] = 0
    assert fc.read_surface(frame).sizes["day"] == 11
    assert "every band is 0" in caplog.text


def test_duplicate_days_are_dropped_if_equal_and_refused_if_not(caplog):
    ds = fc.read_surface(pd.concat([tidy(), tidy()[:3]], ignore_index=True))
    np.testing.assert_allclose(red(ds), REFLECTANCE[:, 0], atol=1e-6)
    assert "3 entries that occur twice" in caplog.text
    other = tidy()[:1].assign(b01=0.2)
    with pytest.raises(SourceError, match=r"DE-Hai has two entries for 2018-07-01 with different red, 0[.]0450 and"):
        fc.read_surface(pd.concat([tidy(), other], ignore_index=True))


def test_files_of_single_bands_are_joined(tmp_path):
    paths = [written(tidy()[["site", "date", f"b{i:02d}"]], tmp_path / f"band{i}.csv") for i in range(1, 8)]
    other = written(tidy(b01=0.2), tmp_path.parent / "other.csv")
    with pytest.raises(SourceError, match=r"band1.csv and .*other.csv: DE-Hai has two entries for 2018-07-01"):
        fc.read_surface([*paths, other])
    np.testing.assert_allclose(fc.read_surface(paths).surface.values[0], REFLECTANCE, atol=1e-6)
    np.testing.assert_allclose(fc.read_surface(tmp_path).surface.values[0], REFLECTANCE, atol=1e-6)


def test_state_flags_select_clear_days():
    state = np.array([0, 1, 4, 1 << 8, 1 << 13, 1 << 12, 3 << 6, 0, 0, 0, 0, 65535])
    frame = tidy(state_1km=state, vza=np.linspace(0, 55, 12))
    ds = fc.read_surface(frame)
    clear = [0, 5, 6, 7, 8, 9, 10]
    assert (ds.day.values == DAYS.values[clear]).all()
    assert ds.surface.sel(band="snow").values[0].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert fc.read_surface(frame, quality=None).sizes["day"] == 12
    assert fc.read_surface(frame, aerosol=2).sizes["day"] == 6
    assert fc.read_surface(frame, adjacent=True, cirrus=1).sizes["day"] == 9
    assert fc.read_surface(frame, max_view_zenith=30).sizes["day"] == 3


def test_quality_is_selected_by_columns():
    frame = tidy(SummaryQA=[0, 1, 2, 3] * 3, QC_500m=[0, 1, 3, 2] * 3)
    assert fc.read_surface(frame, quality={"SummaryQA": [0, 1]}).sizes["day"] == 6
    assert fc.read_surface(frame, quality={"SummaryQA": 0}).sizes["day"] == 3
    assert fc.read_surface(frame, quality={"QC_500m": "modland"}).sizes["day"] == 6
    with pytest.raises(SourceError, match="expected the flag Summary of quality="):
        fc.read_surface(frame, quality={"Summary": 0})
    with pytest.raises(FluxcubeError, match="clear_sk"):
        fc.read_surface(frame, quality={"QC_500m": "clear_sk"})
    with pytest.raises(ConfigError, match="quality='best'"):
        fc.read_surface(frame, quality="best")
    with pytest.raises(SourceError, match="max_view_zenith needs the view zenith angle"):
        fc.read_surface(frame, max_view_zenith=30)
    with pytest.raises(SourceError, match="none of 12 entries is clear"):
        fc.read_surface(tidy(state_1km=1))


def test_flags_without_a_rule_are_reported(caplog):
    fc.read_surface(tidy(SummaryQA=0))
    assert "SummaryQA could select those of good quality: pass quality={'SummaryQA': [accepted values]}" in caplog.text
    caplog.clear()
    fc.read_surface(tidy(SummaryQA=0), quality={"SummaryQA": 0})
    fc.read_surface(tidy(SummaryQA=0, state_1km=0))
    assert not caplog.text


def test_composites_count_from_their_last_day():
    dates = pd.DatetimeIndex([f"{y}-01-01" for y in (2017, 2018)]).repeat(46) + pd.to_timedelta(
        np.tile(np.arange(46) * 8, 2), "D"
    )
    frame = pd.DataFrame({"site": "A", "date": dates.strftime("%Y-%m-%d"), "red": 0.05, "nir": 0.3})
    days = fc.read_surface(frame).day.values.astype("datetime64[D]").astype(str)
    assert days[0] == "2017-01-08" and days[45] == "2017-12-31" and days[46] == "2018-01-08"
    assert str(fc.read_surface(frame, period=1).day.values[0])[:10] == "2017-01-01"
    every_16 = frame[pd.to_datetime(frame.date).dt.day_of_year % 16 == 1]
    assert [str(d)[:10] for d in fc.read_surface(every_16).day.values[[0, 22]]] == ["2017-01-16", "2017-12-31"]


def test_collections_and_products_are_not_mixed(tmp_path):
    old, new = (tmp_path / f"own-MCD43A4.{c}.csv" for c in ("006", "061"))
    later = tidy(date=pd.date_range("2019-01-01", periods=12).strftime("%Y-%m-%d"))
    written(tidy(), old)
    written(later, new)
    with pytest.raises(SourceError, match=r"files of one collection, found 2: 006 .*, 061"):
        fc.read_surface([old, new])
    other = written(later, tmp_path / "MOD09GA.csv")
    with pytest.raises(SourceError, match="files of one product, found 2: MCD43A4"):
        fc.read_surface([old, other])
    assert fc.read_surface([old, new], collection="061").sizes["day"] == 24
    assert fc.read_surface(old).surface.attrs["lookahead_days"] == 8


def test_a_series_of_another_place_is_refused():
    frame = tidy(latitude=51.0, longitude=10.0)
    near, far = {"DE-Hai": (51.01, 10.0)}, {"DE-Hai": (51.6, 10.0)}
    assert fc.read_surface(frame, sites=near).sizes["site"] == 1
    with pytest.raises(SourceError, match=r"within 2 km of their sites, found 1 farther away: DE-Hai \(66.7 km\)"):
        fc.read_surface(frame, sites=far)
    ds = fc.read_surface(frame, sites=far, max_distance_km=100)
    check_places(ds, np.array([np.nan]), np.array([10.0]))
    known = xr.DataArray([51.6, 51.0], {"site": ["XX", "DE-Hai"]}, "site")
    check_places(ds, known, xr.full_like(known, 10.0))
    check_places(ds.drop_vars(["latitude", "longitude"]), np.array([0.0]), np.array([0.0]))
    with pytest.raises(SourceError, match=r"first row: a site has one place"):
        fc.read_surface(frame.assign(latitude=np.linspace(51, 52, 12)))
    with pytest.raises(SourceError, match="none of its 1 sites"):
        fc.read_surface(frame, sites={"FR-Pue": (43.0, 3.0)})


def test_only_the_sites_of_a_table_are_read(tmp_path):
    two = pd.concat([tidy(latitude=51.0, longitude=10.0), tidy(site="DE-Tha", latitude=50.9, longitude=13.6)])
    table = pd.DataFrame({"site_id": ["DE-Tha"], "latitude": [50.9], "longitude": [13.6]})
    path = written(table, tmp_path / "sites.csv")
    for sites in (table, path, xr.Dataset(table.rename(columns={"site_id": "site"}).set_index("site"))):
        assert list(fc.read_surface(two.reset_index(drop=True), sites=sites).site.values) == ["DE-Tha"]
    with pytest.raises(ConfigError, match="expected columns site, latitude and longitude"):
        fc.read_surface(two.reset_index(drop=True), sites=table[["site_id"]])


def test_missing_bands_and_years_of_clouds_are_reported(caplog):
    frame = tidy().drop(columns="b02")
    assert "nir" not in fc.read_surface(frame).band.values
    assert "no values of the bands nir" in caplog.text
    days = pd.date_range("2015-01-01", "2017-12-31").strftime("%Y-%m-%d")
    years = pd.DataFrame({"site": "A", "date": days, "red": 0.05, "nir": 0.3, "state_1km": 0})
    years.loc[years.date.str.startswith("2016"), "state_1km"] = 1
    caplog.clear()
    fc.read_surface(years)
    assert "1 years of sites without a clear view: A 2016" in caplog.text
    caplog.clear()
    fc.read_surface(years[~years.date.str.startswith("2016")])
    assert "A 2016" in caplog.text


def test_text_and_blanks_in_tables_are_named(tmp_path):
    frame = tidy().astype(object)
    frame.loc[4, "b01"] = "cloud"
    with pytest.raises(SourceError, match=r"own.csv: line 6: b01 must be a number, found 'cloud'"):
        fc.read_surface(written(frame, tmp_path / "own.csv"))
    frame = tidy()
    frame.loc[2, "date"] = None
    with pytest.raises(SourceError, match="line 4: date has no date"):
        fc.read_surface(frame)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(SourceError, match="expected"):
        fc.read_surface(tmp_path / "empty.csv")
    with pytest.raises(SourceError, match="does not exist"):
        fc.read_surface(tmp_path / "absent.csv")
    (tmp_path / "own.xlsx").write_text("")
    with pytest.raises(SourceError, match=r"expected .csv"):
        fc.read_surface(tmp_path / "own.xlsx")


def appeears_points(flags: bool = True) -> pd.DataFrame:
    """Results of points as AppEEARS writes them: scaled values, raw fill, decoded flags."""
    frame = pd.DataFrame(
        {
            "Category": "DE-Hai",
            "ID": 1,
            "Latitude": 51.0792,
            "Longitude": 10.453,
            "Date": DAYS.strftime("%Y-%m-%d"),
            "MODIS_Tile": "h18v03",
            "MOD09GA_061_Line_Y_500m": 2141,
            "MOD09GA_061_Sample_X_500m": 1576,
        }
    )
    for i in range(7):
        frame[f"MOD09GA_061_sur_refl_b{i + 1:02d}_1"] = REFLECTANCE[:, i]
    frame.loc[1, "MOD09GA_061_sur_refl_b01_1"] = -28672.0
    if flags:
        frame["MOD09GA_061_SensorZenith_1"] = 20.0
        frame["MOD09GA_061_state_1km_1"] = [0, 0, 1] + [8] * 9
        frame["MOD09GA_061_state_1km_1_bitmask"] = "0b0000000000000000"
        frame["MOD09GA_061_state_1km_1_cloud_state"] = "0b00"
        frame["MOD09GA_061_state_1km_1_cloud_state_Description"] = "clear"
        frame["MOD09GA_061_QC_500m_1"] = 1073741824
    return frame


def test_points_of_appeears(tmp_path):
    path = written(appeears_points(), tmp_path / "towers-MOD09GA-061-results.csv")
    ds = fc.read_surface(path)
    assert list(ds.site.values) == ["DE-Hai"] and ds.sizes["day"] == 11
    assert (ds.surface.attrs["product"], ds.surface.attrs["collection"]) == ("MOD09GA", "061")
    assert np.isnan(red(ds)[1]) and red(ds)[0] == pytest.approx(REFLECTANCE[0, 0])
    assert float(ds.latitude[0]) == 51.0792
    moved = appeears_points().assign(Category="forest")
    moved["ID"] = "point-1"
    assert list(fc.read_surface(moved).site.values) == ["point-1"]
    assert list(fc.read_surface(moved, sites={"DE-Hai": (51.08, 10.45)}).site.values) == ["DE-Hai"]
    with pytest.raises(SourceError, match="without state flags contains clouds"):
        fc.read_surface(appeears_points(flags=False))
    assert fc.read_surface(appeears_points(flags=False), quality=None).sizes["day"] == 12


def test_points_of_appeears_with_quality_of_each_band():
    frame = appeears_points(flags=False)[["ID", "Category", "Latitude", "Longitude", "Date"]]
    for i in (1, 2):
        frame[f"MCD43A4_061_Nadir_Reflectance_Band{i}"] = REFLECTANCE[:, i - 1]
        frame[f"MCD43A4_061_BRDF_Albedo_Band_Mandatory_Quality_Band{i}"] = [0, 1, 255] + [i - 1] * 9
        frame[f"MCD43A4_061_BRDF_Albedo_Band_Mandatory_Quality_Band{i}_MODLAND"] = "0b000"
    ds = fc.read_surface(frame)
    assert ds.surface.attrs["lookahead_days"] == 8 and ds.sizes["day"] == 11
    strict = fc.read_surface(frame, quality={"mandatory_quality": 0})
    assert np.isfinite(red(strict)).sum() == 10
    assert np.isfinite(strict.surface.sel(band="nir")).sum() == 1
    assert fc.read_surface(frame, quality={"mandatory_quality": [0, 1]}).surface.equals(ds.surface)


def test_statistics_of_areas_of_appeears(tmp_path):
    rows = []
    for day, values in zip(DAYS, REFLECTANCE, strict=True):
        for i, value in enumerate(values, 1):
            name = f"Nadir_Reflectance_Band{i}"
            rows.append([f"MCD43A4_061_{name}_doy{day:%Y%j}_aid0001", name, "aid0001", f"{day:%Y-%m-%d}", 16, value])
    frame = pd.DataFrame(rows, columns=["File Name", "Dataset", "aid", "Date", "Count", "Mean"])
    ds = fc.read_surface(written(frame, tmp_path / "MCD43A4-061-Statistics.csv"), site="DE-Hai")
    np.testing.assert_allclose(ds.surface.values[0], REFLECTANCE, atol=1e-6)
    assert (ds.surface.attrs["product"], ds.surface.attrs["collection"]) == ("MCD43A4", "061")
    clouds = frame.replace({"Dataset": "Nadir_Reflectance_Band"}, {"Dataset": "sur_refl_b0"}, regex=True)
    clouds["File Name"] = clouds["File Name"].str.replace("MCD43A4", "MOD09GA")
    with pytest.raises(SourceError, match="without state flags contains clouds"):
        fc.read_surface(clouds)


def appeears_area(product: str, layers: dict, step: float = 1 / 240, shape=(4, 6), fill=-28672) -> xr.Dataset:
    """NetCDF of an area as AppEEARS writes it; values are stored numbers by layer (day, row, column)."""
    rows, cols = shape
    lat, lon = 51.1 - step * (np.arange(rows) + 0.5), 10.4 + step * (np.arange(cols) + 0.5)
    scaled = {"scale_factor": 1e-4, "add_offset": 0.0, "_FillValue": np.int16(fill)}
    arrays = {
        name: (("time", "lat", "lon"), values, scaled if values.dtype == "int16" else {"_FillValue": np.uint16(65535)})
        for name, values in layers.items()
    }
    units = {"units": "days since 2000-01-01 00:00:00", "calendar": "julian"}
    number = (DAYS - pd.Timestamp("2000-01-01")).days.to_numpy()
    coords = {"time": ("time", number, units), "lat": ("lat", lat), "lon": ("lon", lon)}
    return xr.Dataset(arrays, coords, {"title": f"{product} for aid0001", "source": "AppEEARS v3"})


def test_areas_of_appeears_are_averaged_under_a_clear_sky(tmp_path):
    stored = np.rint(REFLECTANCE * 1e4).astype("int16")
    bands = {f"sur_refl_b{i:02d}_1": np.broadcast_to(stored[:, i - 1, None, None], (12, 4, 6)).copy() for i in (1, 2)}
    bands["sur_refl_b01_1"][:, :, 5] = -28672  # outside of the polygon
    bands["sur_refl_b02_1"][:, :, 5] = -28672
    state = np.zeros((12, 2, 3), "uint16")
    state[1] = 1  # cloudy
    state[2, :, 0] = 1  # two of five columns
    state[3, :, :2] = 1  # four of five
    bands["sur_refl_b01_1"][2, :, :2] = 9000  # clouds are bright
    appeears_area("MOD09GA.061", bands).to_netcdf(tmp_path / "MOD09GA.061_500m_aid0001.nc")
    flags = appeears_area("MOD09GA.061", {"state_1km_1": state}, step=1 / 120, shape=(2, 3))
    flags.to_netcdf(tmp_path / "MOD09GA.061_1km_aid0001.nc")
    written(pd.DataFrame({"Value": [0]}), tmp_path / "MOD09GA-061-state-1km-1-lookup.csv")
    ds = fc.read_surface(tmp_path)
    assert list(ds.site.values) == ["aid0001"] and ds.sizes["day"] == 10
    np.testing.assert_allclose(red(ds, "aid0001"), REFLECTANCE[[0, 2, *range(4, 12)], 0], atol=1e-6)
    assert ds.surface_quality.values[0, :3] == pytest.approx([1, 0.6, 1])
    assert float(ds.latitude[0]) == pytest.approx(51.1 - 2 / 240) and float(ds.longitude[0]) == pytest.approx(
        10.4 + 2.5 / 240
    )
    named = fc.read_surface(tmp_path, sites={"DE-Hai": (51.09, 10.41)})
    assert list(named.site.values) == ["DE-Hai"]


def test_several_requests_of_areas_are_joined_or_refused(tmp_path):
    stored = np.broadcast_to(np.int16(500), (12, 4, 6)).copy()
    first = appeears_area("MCD43A4.061", {f"Nadir_Reflectance_Band{i}": stored for i in (1, 2)}, fill=32767)
    later = first.assign_coords(time=("time", first.time.values + 365, first.time.attrs))
    for name, ds in {"one": first, "two": later, "east": later.assign_coords(lon=later.lon + 1)}.items():
        (tmp_path / name).mkdir()
        ds.to_netcdf(tmp_path / name / "MCD43A4.061_500m_aid0001.nc")
    assert fc.read_surface([tmp_path / "one", tmp_path / "two"]).sizes["day"] == 24
    with pytest.raises(SourceError, match=r"aid0001 is [67]\d\.\d km from aid0001 of"):
        fc.read_surface([tmp_path / "one", tmp_path / "east"])
    sites = {"DE-Hai": (51.09, 10.41), "DE-Tha": (51.09, 11.41)}
    assert list(fc.read_surface([tmp_path / "one", tmp_path / "east"], sites=sites).site.values) == ["DE-Tha", "DE-Hai"]
    (tmp_path / "old").mkdir()
    later.assign_attrs(title="MCD43A4.006 for aid0001").to_netcdf(tmp_path / "old" / "MCD43A4.006_500m_aid0001.nc")
    with pytest.raises(SourceError, match="files of one collection, found 2: 006"):
        fc.read_surface([tmp_path / "one", tmp_path / "old"])
    with pytest.raises(SourceError, match="in files of two forms"):
        fc.read_surface([tmp_path / "one", written(tidy(site="aid0001"), tmp_path / "t-MCD43A4.061.csv")])


def test_geotiffs_of_areas_with_one_layer_a_file(tmp_path):
    optional("rasterio")
    row, col = (int(a) for a in sinusoidal_pixel(np.array(PLACE[0]), np.array(PLACE[1])))
    for day, values in zip(DAYS[:3], REFLECTANCE, strict=False):
        for layer, value in zip(A4, np.rint(values * 1e4), strict=True):
            path = tmp_path / f"MCD43A4.061_{layer}_doy{day:%Y%j}_aid0001.tif"
            write_tiff(path, np.full((1, 4, 4), value, "int16"), (row - 2, col - 2), nodata=32767)
            quality = (
                tmp_path / f"MCD43A4.061_BRDF_Albedo_Band_Mandatory_Quality_{layer[-5:]}_doy{day:%Y%j}_aid0001.tif"
            )
            write_tiff(quality, np.full((1, 4, 4), day == DAYS[1], "uint8"), (row - 2, col - 2), nodata=255)
    ds = fc.read_surface(tmp_path, sites={"CH-Dav": PLACE})
    np.testing.assert_allclose(ds.surface.values[0], REFLECTANCE[:3], atol=1e-6)
    assert fc.read_surface(tmp_path, quality={"mandatory_quality": 0}).sizes["day"] == 2
    assert list(fc.read_surface(tmp_path, site="CH-Dav").site.values) == ["CH-Dav"]


def test_tiles_are_cut_around_sites(tmp_path):
    optional("pyhdf.SD")
    row, col = (int(a) for a in sinusoidal_pixel(np.array(PLACE[0]), np.array(PLACE[1])))
    corner = (row - 12) // 2 * 2, (col - 12) // 2 * 2
    stored = np.broadcast_to(np.rint(REFLECTANCE[0] * 1e4)[:, None, None], (7, 24, 24)).astype("int16")
    state = np.zeros((12, 12), "uint16")
    write_hdf(tmp_path / name_of("MOD09GA", "2018-07-01", tile_of(corner)), daily(stored, state, corner))
    write_hdf(tmp_path / name_of("MOD09GA", "2018-07-02", tile_of(corner)), daily(stored, state + 1, corner))
    with pytest.raises(ConfigError, match="contains tiles: pass sites="):
        fc.read_surface(tmp_path)
    ds = fc.read_surface(tmp_path, sites={"CH-Dav": PLACE})
    assert ds.sizes["day"] == 1 and ds.surface.attrs["collection"] == "061"
    np.testing.assert_allclose(ds.surface.values[0, 0, :7], REFLECTANCE[0], atol=1e-6)
    with pytest.raises(SourceError, match=r"no site is on the tiles|none of"):
        fc.read_surface(tmp_path, sites={"ZA-Kru": (-25.0, 31.5)})
    with pytest.raises(ConfigError, match="the flag mandatory_quality is not read from tiles"):
        fc.read_surface(tmp_path, sites={"CH-Dav": PLACE}, quality={"mandatory_quality": 0})
    (tmp_path / "other").mkdir()
    write_hdf(tmp_path / "other" / name_of("MCD43A4", "2018-07-01", tile_of(corner)), [nadir(stored, corner)])
    with pytest.raises(SourceError, match="tiles of one product, found MCD43A4, MOD09GA"):
        fc.read_surface(tmp_path, sites={"CH-Dav": PLACE})


def modistools(bands=GA, side: int = 2) -> pd.DataFrame:
    """The long table of MODISTools: stored numbers of pixels around a site, with state flags of 1 km."""
    layers = [(f"{name}_1", "0.0001", 0, side, i) for i, name in enumerate(bands)]
    layers.append(("state_1km", "Not Available", 1, 2, -1))  # one cell of 1 km more to the west and the south
    return pd.DataFrame(
        {
            "xllcorner": (1850 - 2 * coarse) * PIXEL,
            "yllcorner": (11306 - 2 * coarse) * PIXEL,
            "cellsize": PIXEL * (1 + coarse),
            "nrows": count,
            "ncols": count,
            "band": name,
            "scale": scale,
            "latitude": 47.1167,
            "longitude": 11.3175,
            "site": "AT-Neu",
            "product": "MOD09GA",
            "modis_date": f"A{day:%Y%j}",
            "calendar_date": f"{day:%Y-%m-%d}",
            "pixel": pixel,
            "value": int(day == DAYS[3]) if coarse else round(values[i] * 1e4),
        }
        for day, values in zip(DAYS, REFLECTANCE, strict=True)
        for name, scale, coarse, count, i in layers
        for pixel in range(1, count**2 + 1)
    )


def test_long_tables_of_modistools(tmp_path, caplog):
    frame = modistools()
    path = tmp_path / "raw.csv.gz"
    with gzip.open(path, "wt") as file:
        frame.to_csv(file, index=False)
    ds = fc.read_surface(path)
    assert ds.surface.attrs["product"] == "MOD09GA" and list(ds.site.values) == ["AT-Neu"]
    assert (ds.day.values == DAYS.values[[0, 1, 2, *range(4, 12)]]).all()
    np.testing.assert_allclose(ds.surface.values[0, 0, :7], REFLECTANCE[0], atol=1e-6)
    scaled = frame.assign(value=frame.value * np.where(frame.band == "state_1km", 1, 1e-4))
    with pytest.raises(SourceError, match=r"scaled twice \(factor 0.0001\); pass scale=1"):
        fc.read_surface(scaled)
    assert fc.read_surface(scaled, scale=1).sizes["day"] == 11
    with pytest.raises(SourceError, match="without state flags"):
        fc.read_surface(frame[frame.band != "state_1km"])
    parts = [written(f, tmp_path / f"{b}.csv") for b, f in frame.groupby("band")]
    xr.testing.assert_allclose(fc.read_surface(parts).surface, ds.surface)
    with pytest.raises(SourceError, match="expected bands of reflectance"):
        fc.read_surface(frame.assign(band="Lai_500m"))
    composites = frame.assign(product="MOD09A1", band=frame.band.replace({"state_1km": "sur_refl_state_500m"}))
    assert fc.read_surface(composites).sizes["day"] == 11
    caplog.clear()
    assert fc.read_surface(composites[frame.band != "state_1km"]).sizes["day"] == 12
    assert "no state flags, so that every value counts" in caplog.text


@pytest.mark.parametrize("header", [True, False])
def test_wide_tables_of_ornl(tmp_path, header):
    rows = [
        {
            "HDFname": f"MCD43A4.A{day:%Y%j}.h18v04.061.2018200",
            "Product": "MCD43A4",
            "Date": f"A{day:%Y%j}",
            "Site": "Lat47.1167Lon11.3175Samp9Line9",
            "ProcessDate": "2018200",
            "Band": f"Nadir_Reflectance_Band{i}",
            "1": value,
            "2": value,
            "3": "F",
            "4": value,
        }
        for day, values in zip(DAYS, REFLECTANCE, strict=True)
        for i, value in enumerate(values, 1)
    ]
    path = tmp_path / "filtered_scaled.csv"
    pd.DataFrame(rows).to_csv(path, index=False, header=header)
    ds = fc.read_surface(path, site="AT-Neu")
    np.testing.assert_allclose(ds.surface.values[0], REFLECTANCE, atol=1e-6)
    assert float(ds.latitude[0]) == 47.1167
    assert list(fc.read_surface(path, sites={"AT-Neu": (47.117, 11.318)}).site.values) == ["AT-Neu"]


def sites_dataset(**changes) -> xr.Dataset:
    """NetCDF of series at two sites, as stored numbers."""
    stored = np.rint(REFLECTANCE * 1e4).astype("int16")
    attrs = {"scale_factor": 1e-4, "_FillValue": np.int16(-28672)}
    arrays = {
        f"sur_refl_b{i:02d}": (("site", "time"), np.stack([stored[:, i - 1], stored[::-1, i - 1]]), attrs)
        for i in range(1, 8)
    }
    arrays["state_1km"] = (("site", "time"), np.zeros((2, 12), "uint16"), {"_FillValue": np.uint16(65535)})
    arrays["sensor_zenith"] = (("site", "time"), np.full((2, 12), 300, "int16"), {"scale_factor": 0.1})
    number = (DAYS - pd.Timestamp("2000-02-24")).days.to_numpy()
    coords = {
        "site": ("site", ["DE-Hai", "DE-Tha"]),
        "time": ("time", number, {"units": "days since 2000-02-24"}),
        "lat": ("site", [51.0, 50.9]),
        "lon": ("site", [10.4, 13.6]),
    }
    return xr.Dataset(arrays, coords, {"title": "x", "source": "NASA MOD09GA.006 and MODOCGA.006"} | changes)


def test_netcdf_of_sites(tmp_path):
    path = tmp_path / "series.nc"
    sites_dataset().to_netcdf(path)
    ds = fc.read_surface(path)
    assert list(ds.site.values) == ["DE-Hai", "DE-Tha"] and ds.surface.attrs["collection"] == "006"
    np.testing.assert_allclose(ds.surface.values[1, :, :7], REFLECTANCE[::-1], atol=1e-6)
    assert ds.latitude.values.tolist() == [51.0, 50.9]
    assert fc.read_surface(path, max_view_zenith=31).sizes["day"] == 12
    with pytest.raises(SourceError, match="none of 24 entries"):
        fc.read_surface(path, max_view_zenith=29)
    decoded = xr.open_dataset(path)
    xr.testing.assert_allclose(fc.read_surface(decoded).surface, ds.surface)
    xr.testing.assert_allclose(fc.read_surface(decoded.transpose()).surface, ds.surface)
    one = sites_dataset().isel(site=0, drop=True)
    assert list(fc.read_surface(one, site="DE-Hai").site.values) == ["DE-Hai"]
    with pytest.raises(SourceError, match="pass site="):
        fc.read_surface(one)


def test_the_standard_dataset_is_read_again(tmp_path):
    ds = fc.read_surface(sites_dataset())
    ds.to_netcdf(tmp_path / "standard.nc")
    for again in (fc.read_surface(ds), fc.read_surface(tmp_path / "standard.nc")):
        xr.testing.assert_allclose(again.surface, ds.surface)
        assert again.surface.attrs["product"] == "MOD09GA" and again.surface.attrs["collection"] == "006"


def test_times_that_are_no_dates_are_refused():
    ds = sites_dataset()
    ds["time"] = ("time", np.arange(12), {"units": "days"})
    with pytest.raises(SourceError, match="expected time with units such as 'days since"):
        fc.read_surface(ds)
    with pytest.raises(SourceError, match="expected dimensions site and time"):
        fc.read_surface(sites_dataset().rename(time="step"))


def test_real_series_of_towers(shared_data, caplog):
    folder = shared_data / "vegetation"
    ds = fc.read_surface(folder / "mod09ga_daily_towers2.nc", sites=shared_data / "towers2" / "sites.csv")
    table = fc.read_surface(folder / "mod09ga_clear_towers2.csv.gz")
    assert ds.sizes["site"] == table.sizes["site"] == 48
    same = table.surface.reindex_like(ds.surface)
    both = np.isfinite(same) & np.isfinite(ds.surface)
    assert float(abs(same - ds.surface).max()) < 1e-6
    assert int((np.isfinite(ds.surface) & ~both).sum()) < 50
    for record in caplog.records:  # years of clouds are the only finding in good data
        assert "without a clear view" in record.message, record.message


def test_real_composites_are_causal(shared_data):
    ds = fc.read_surface(shared_data / "vegetation" / "mod09ga_8day_towers2.csv.gz")
    assert str(ds.day.values[0])[:10] == "2000-02-25" and "snow" in ds.band.values


def test_real_raw_table_of_modistools_has_no_reflectance(shared_data):
    with pytest.raises(SourceError, match=r"expected bands of reflectance.*found Lai_500m"):
        fc.read_surface(shared_data / "formats" / "modistools_mcd15a2h_AT-Neu_raw_first3000rows.csv.gz")


def test_real_series_of_mod13a1(shared_data):
    path = shared_data / "modis" / "phenofit_MOD13A1_10sites.derived.csv"
    with pytest.raises(SourceError, match=r"pass scale=0.0001"):
        fc.read_surface(path)
    ds = fc.read_surface(path, scale=1e-4, quality={"SummaryQA": [0, 1]}, period=16)
    assert ds.sizes["site"] == 10 and 0.01 < float(ds.surface.sel(band="red").median()) < 0.3


def test_real_tile_of_one_layer_a_file(shared_data):
    optional("rasterio")
    folder = shared_data / "formats" / "mcd43a4_geotiff_h10v07"
    with pytest.raises((SourceError, ConfigError), match="pass sites="):
        fc.read_surface(folder)


def test_long_tables_of_any_form():
    names = {f"b{i:02d}": name for i, name in enumerate(["red", "nir", "blue", "green"], 1)}
    frame = tidy().rename(columns=names)[["site", "date", *names.values()]]
    long = frame.melt(["site", "date"], var_name="band")
    xr.testing.assert_identical(fc.read_surface(long).surface, fc.read_surface(frame).surface)
    other = long.replace({"band": {"red": "R"}}).rename(columns={"site": "station", "date": "when"})
    ds = fc.read_surface(other, columns={"red": "R", "day": "when"})
    np.testing.assert_allclose(red(ds), REFLECTANCE[:, 0], atol=1e-6)


def test_lines_of_long_tables_are_those_of_the_file(tmp_path):
    frame = modistools().astype({"value": object})
    frame.loc[0, "band"] = "QC_250m"  # not used
    frame.loc[3, "value"] = "x"
    with pytest.raises(SourceError, match="line 5: value must be a number"):
        fc.read_surface(written(frame, tmp_path / "long.csv"))


def test_lines_can_end_with_a_separator(tmp_path):
    header, *lines = tidy().to_csv(index=False).splitlines()
    (tmp_path / "own.csv").write_text("\n".join([header, *(f"{line}," for line in lines)]))
    np.testing.assert_allclose(red(fc.read_surface(tmp_path / "own.csv")), REFLECTANCE[:, 0], atol=1e-6)
    (tmp_path / "own.csv").write_text("\n".join([header, *lines[:3], f"{lines[3]},1,2", *lines[4:]]))
    with pytest.raises(SourceError, match="line 5"):
        fc.read_surface(tmp_path / "own.csv")


def test_pixels_need_numbers():
    for pixel in ("a", np.nan, 1.5):
        with pytest.raises(SourceError, match="line 2: pixel must be"):
            fc.read_surface(tidy(pixel=pixel))
        with pytest.raises(SourceError, match="line 2: pixel must be"):
            fc.read_surface(modistools().assign(pixel=pixel))


def test_a_table_without_rows_is_refused(tmp_path):
    with pytest.raises(SourceError, match="expected entries below the header"):
        fc.read_surface(written(tidy()[:0], tmp_path / "own.csv"))
    with pytest.raises(SourceError, match="no file of reflectance"):
        fc.read_surface([])


def test_texts_of_other_encodings_and_comments_are_read(tmp_path):
    text = tidy(site="Hyytiälä").to_csv(index=False)
    for name, data in {"16.csv": text.encode("utf-16"), "1252.csv": text.encode("cp1252")}.items():
        (tmp_path / name).write_bytes(data)
        assert list(fc.read_surface(tmp_path / name).site.values) == ["Hyytiälä"]
    (tmp_path / "comment.csv").write_text("# mine\n# too\n" + text, "utf-8")
    assert fc.read_surface(tmp_path / "comment.csv").sizes["day"] == 12
    (tmp_path / "comment.csv").write_text("# mine\n# too\n" + text.replace("2018-07-02", "x"), "utf-8")
    with pytest.raises(SourceError, match="line 5: date is 'x'"):
        fc.read_surface(tmp_path / "comment.csv")
    (tmp_path / "hdf.csv").write_bytes(b"\x89HDF\0\0" * 9)
    with pytest.raises(SourceError, match="found a binary file"):
        fc.read_surface(tmp_path / "hdf.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode() * 20)[:100])
    with pytest.raises(SourceError, match="cut or broken"):
        fc.read_surface(tmp_path / "cut.csv.gz")
    (tmp_path / "text.nc").write_bytes(b"abc" * 99)
    with pytest.raises(SourceError, match="cannot be read as NetCDF"):
        fc.read_surface(tmp_path / "text.nc")


def test_the_index_of_a_table_can_contain_the_dates():
    frame = tidy(date=DAYS)
    for index in (
        frame.set_index("date"),
        frame.set_index(["site", "date"]),
        frame.set_index("date").rename_axis(None),
    ):
        assert (fc.read_surface(index).day.values == DAYS.values).all()


def test_tables_of_earth_engine():
    bands = {f"sur_refl_b{i:02d}": np.rint(REFLECTANCE[:, i - 1] * 1e4) for i in range(1, 8)}
    sampled = pd.DataFrame({"system:index": DAYS.strftime("1_%Y_%m_%d_0000a"), "site": "DE-Hai"} | bands)
    assert (fc.read_surface(sampled, scale=1e-4).day.values == DAYS.values).all()
    pixels = [
        pd.DataFrame(
            {
                "id": DAYS.strftime("%Y_%m_%d"),
                "longitude": 10.4 + 0.005 * i,
                "latitude": 51.0,
                "time": DAYS.astype("datetime64[ms]").astype("int64"),
            }
            | bands
            | {"sur_refl_b01": np.rint(REFLECTANCE[:, 0] * (9000 + 1000 * i)), "state_1km": 0}
        )
        for i in range(3)
    ]
    ds = fc.read_surface(pd.concat(pixels, ignore_index=True), site="DE-Hai", scale=1e-4)
    np.testing.assert_allclose(red(ds), REFLECTANCE[:, 0], atol=1e-4)


def test_bands_of_other_sensors_need_their_names():
    frame = tidy().rename(columns={f"b{i:02d}": f"B{i}" for i in range(1, 7)} | {"b07": "B8A"})
    with pytest.raises(SourceError, match="B8A is one of Sentinel-2"):
        fc.read_surface(frame)
    ds = fc.read_surface(frame, columns={"red": "B4", "nir": "B8A"})
    assert list(ds.band.values) == ["red", "nir"]
    np.testing.assert_allclose(red(ds), REFLECTANCE[:, 3], atol=1e-6)
    with pytest.raises(SourceError, match="columns of one collection, found 006, 061"):
        fc.read_surface(appeears_points().assign(MOD09GA_006_sur_refl_b03_1=0.1))


def test_other_sources_are_refused():
    for source in (None, [sites_dataset()], 3):
        with pytest.raises(ConfigError, match="expected a path, paths, one Dataset"):
            fc.read_surface(source)


def test_snow_is_a_share():
    assert fc.read_surface(tidy(snow_frac=0.5)).surface.sel(band="snow").values.tolist() == [[0.5] * 12]
    with pytest.raises(SourceError, match="12 of 12 values of snow are beyond 0 to 1"):
        fc.read_surface(tidy(snow_frac=50))


def test_tables_of_sites_that_cannot_be_read_are_named(tmp_path):
    for sites in (tmp_path / "absent.csv", written(tidy()[:0], tmp_path / "none.csv"), {}):
        with pytest.raises(FluxcubeError, match=r"absent.csv|expected columns site|at least one site"):
            fc.read_surface(tidy(), sites=sites)
    (tmp_path / "semi.csv").write_text("site;lat;lon\nDE-Hai;51,08;10,45\n")
    assert fc.read_surface(tidy(), sites=tmp_path / "semi.csv").sizes["day"] == 12


def test_bright_snow_beyond_the_range_of_a_product_is_missing_but_no_fault(caplog):
    frame = tidy(b01=np.linspace(0.9, 1.1, 12))
    assert np.isfinite(red(fc.read_surface(frame, product="MCD43A4"))).sum() == 6
    assert "6 of 12 values of red are beyond 0 to 1" in caplog.text
    assert np.isfinite(red(fc.read_surface(frame))).all()


def test_the_order_of_rows_does_not_matter():
    frame = pd.concat([tidy(), tidy(site="DE-Tha")], ignore_index=True)
    frame["state_1km"] = np.arange(24) % 5 // 4
    expected = fc.read_surface(frame)
    for seed in range(3):
        shuffled = fc.read_surface(frame.sample(frac=1, random_state=seed))
        xr.testing.assert_identical(shuffled.sel(site=expected.site).surface, expected.surface)

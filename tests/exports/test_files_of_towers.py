"""One file a tower: the readers of tower files find the values of the cube in them, to the last bit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import optional
from test_cf_files import predictions, small_cube

import fluxcube as fc
from fluxcube.errors import ConfigError, SchemaError, StoreError
from fluxcube.simulation.example import example_maps
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.oneflux_daily import read_oneflux_daily


@pytest.mark.parametrize("offset", [-3.5, 0.0, 5.5, 9.0])
def test_hourly_towers_are_read_again(offset, tmp_path):
    cube = small_cube().assign_coords(utc_offset=("site", np.full(2, offset)))
    files = cube.fluxcube.to_sites(tmp_path / "towers")
    wide = cube.fluxcube.to_variables()
    for site, file in zip(cube.site.values, files, strict=False):
        back = read_oneflux(file, utc_offset=offset)
        one = wide.sel(site=site)
        np.testing.assert_array_equal(back.time, cube.time)
        for name in ("TA", "SW_IN", "TS_1", "NEE", "GPP_NT", "TA_QC", "NEE_QC"):
            np.testing.assert_array_equal(back[name], one[name], err_msg=name)
    first = pd.read_csv(files[0], dtype=str).iloc[0]
    local = (cube.time.values[0] + np.timedelta64(int(60 * offset), "m")).astype("datetime64[m]")
    assert str(local).translate(str.maketrans("", "", "-T:")) == first.TIMESTAMP_START


def test_daily_towers_are_read_again(tmp_path):
    cube = small_cube("daily")
    cube["fluxes_quality"] = (cube.fluxes_quality >= 0).astype("float32") * np.float32(0.75)
    files = cube.fluxcube.to_sites(tmp_path)
    wide = cube.fluxcube.to_variables()
    assert files[0].name == "XX-S00_DD_2018-2018.csv"
    back = read_oneflux_daily(files[0])
    np.testing.assert_array_equal(back.time, cube.time)
    for name in ("TA", "NEE", "GPP_NT", "NEE_QUALITY"):
        np.testing.assert_array_equal(back[name], wide[name].sel(site="XX-S00"), err_msg=name)


def test_predictions_are_read_again_as_ones_own_table(tmp_path):
    made = predictions()
    file, *_, variables = made.fluxcube.to_sites(tmp_path, overwrite=True)
    place = {name: float(made[name][0]) for name in ("latitude", "longitude", "utc_offset")}
    back = fc.read_table(file, columns={"NEE": "NEE"}, units={"NEE": "umol m-2 s-1"}, site="XX-S00", **place)
    np.testing.assert_array_equal(back.NEE, made.NEE.isel(site=0))
    assert pd.read_csv(variables).set_index("column").units["NEE"] == "umol m-2 s-1"


def test_towers_have_a_netcdf_file_each(tmp_path):
    optional("netCDF4")
    cube = small_cube()
    files = cube.fluxcube.to_sites(tmp_path, format="netcdf")
    assert [file.name for file in files] == ["XX-S00_HR_2018-2018.nc", "XX-S01_HR_2018-2018.nc", "sites.csv"]
    with xr.open_dataset(files[1]) as back:
        assert back.site_name.values.tolist() == ["XX-S01"] and back.attrs["featureType"] == "timeSeries"
        np.testing.assert_array_equal(back.NEE[0], cube.fluxes.sel(site="XX-S01", target="NEE"))
    assert pd.read_csv(files[2]).site.tolist() == ["XX-S00", "XX-S01"]


def test_only_the_period_with_values_is_written(tmp_path):
    made = predictions()
    made["NEE"] = made.NEE.where((made.time >= made.time[5]) & (made.site == "XX-S00"))
    made = made.drop_vars(["time_start", "time_stop"], errors="ignore")
    files = made.fluxcube.to_sites(tmp_path)
    assert [file.name for file in files] == ["XX-S00_HR_2018-2018.csv", "sites.csv", "variables.csv"]
    assert len(pd.read_csv(files[0])) == made.sizes["time"] - 5


def test_names_of_hourly_csv_files_have_local_years(tmp_path):
    made = predictions().drop_vars(["time_start", "time_stop"], errors="ignore")
    begin = made.time - made.time[0] + np.datetime64("2018-01-01", "ns")
    made = made.assign_coords(utc_offset=("site", np.full(2, -7.0)), time=begin)
    assert made.fluxcube.to_sites(tmp_path)[0].name == "XX-S00_HR_2017-2018.csv"


def test_files_have_the_columns_of_variables_with_a_value(tmp_path):
    made = predictions()
    made["NEE"] = made.NEE.where(made.site == "XX-S00")
    made["NEE_COVERAGE"], made["TA"] = xr.zeros_like(made.NEE).fillna(0), xr.full_like(made.NEE, np.nan)
    made["other"] = made.NEE.fillna(1)
    first, second, _, variables = made.fluxcube.to_sites(tmp_path)
    stamps = ["TIMESTAMP_START", "TIMESTAMP_END"]
    names = set(pd.read_csv(first)) - {*stamps}
    assert {"NEE", "NEE_COVERAGE", "other"} <= names and "TA" not in names
    assert not {"NEE", "NEE_COVERAGE"} & set(pd.read_csv(second))
    assert set(pd.read_csv(variables).column) == {*stamps, *names}


def test_names_of_files_are_safe(tmp_path):
    made = predictions().assign_coords(site=np.array(["../../x", "nul"], object))
    folder = tmp_path / "towers"
    names = {path.name for path in made.fluxcube.to_sites(folder)}
    assert {"_.._x_HR_2018-2018.csv", "_nul_HR_2018-2018.csv"} < names
    assert {path.parent for path in tmp_path.rglob("*.csv")} == {folder}
    twins = predictions().assign_coords(site=np.array(["A", "a"], object))
    with pytest.raises(ConfigError, match="one file name"):
        twins.fluxcube.to_sites(tmp_path / "twins")


def test_what_cannot_be_written_is_refused(tmp_path):
    cube = small_cube()
    with pytest.raises(ConfigError, match="csv or netcdf"):
        cube.fluxcube.to_sites(tmp_path, format="xlsx")
    with pytest.raises(SchemaError, match=r"export_maps"):
        example_maps(days=1).fluxcube.to_sites(tmp_path)
    with pytest.raises(StoreError, match="parent folder"):
        cube.fluxcube.to_sites(tmp_path / "none" / "folder")
    cube.fluxcube.to_sites(tmp_path)
    with pytest.raises(StoreError, match="overwrite=True"):
        cube.fluxcube.to_sites(tmp_path)
    assert len(cube.fluxcube.to_sites(tmp_path, overwrite=True)) == 4

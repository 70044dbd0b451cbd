"""ERA5 compared with towers: clocks, and the factor from sunlight to photons."""

from __future__ import annotations

import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest

from fluxcube.sources.era5.variables import open_era5

_DAILY = ("BE-Lcr", "FI-Ken", "FI-Qvd", "FR-LGt", "GL-Dsk", "IE-Cra", "IT-BFt", "US-Wi7")


def hours_in_utc(path, offset):
    """Measured hours of a tower's half-hours, read without fluxcube: local standard time less the offset is UTC."""
    with zipfile.ZipFile(path) as archive:
        names = [f"{name}{end}" for name in ("TA", "SW_IN") for end in ("_F", "_F_QC")]
        file = archive.open(archive.namelist()[0])
        data = pd.read_csv(file, na_values=[-9999], usecols=["TIMESTAMP_START", *names])
    start = pd.to_datetime(data.TIMESTAMP_START.astype(str), format="%Y%m%d%H%M") - pd.Timedelta(hours=offset)
    measured = {name: data[f"{name}_F"].where(data[f"{name}_F_QC"] == 0) for name in ("TA", "SW_IN")}
    return pd.DataFrame(measured).groupby(start.dt.floor("h")).mean()


def cycle(series, time):
    """Mean of each hour of the day from April to September, UTC."""
    months = time.month
    summer = np.asarray((months >= 4) & (months <= 9))
    return np.asarray(pd.Series(np.asarray(series)[summer]).groupby(np.asarray(time.hour)[summer]).mean())


def test_the_day_of_era5_is_that_of_towers_nearby(shared_data):
    """Berlin's cells and two towers within 170 km, other years: sunlight and temperature have the same daily cycle.

    A shift by an hour, as of stamps taken for the start of an hour or of local time taken for UTC, moves the mean cycle
    by one; years and 100 km do not move the sun's. Warmth in two wetlands is an hour later and an hour earlier.
    """
    sites = pd.read_csv(shared_data / "towers/sites.csv").set_index("site_id")
    ds = open_era5(shared_data / "era5/era5_berlin_2017.nc", variables=["TA", "SW_IN"]).load()
    time = pd.DatetimeIndex(ds.time.values)
    lags, fits = range(-3, 4), {"SW_IN": [], "TA": []}
    for site in ("DE-Spw", "DE-Zrk"):
        row = sites.loc[site]
        (path,) = (shared_data / "towers").glob(f"FLX_{site}_*")
        tower = hours_in_utc(path, row.utc_offset)
        cell = ds.sel(latitude=row.latitude, longitude=row.longitude, method="nearest")
        for name, found in fits.items():
            ours, theirs = cycle(cell[name].values, time), cycle(tower[name].values, tower.index)
            found.append([np.corrcoef(np.roll(ours, lag), theirs)[0, 1] for lag in lags])
    for one in fits["SW_IN"]:
        assert lags[int(np.argmax(one))] == 0 and max(one) > 0.99, one
    assert lags[int(np.argmax(np.mean(fits["TA"], axis=0)))] == 0, fits["TA"]
    assert all(one[3] > 0.98 for one in fits["TA"])


def test_photons_per_joule_are_those_that_towers_measured(shared_data):
    """Daily means where both were measured: 2.0 umol per joule, within 8 % at every one of eight towers."""
    ratios = {}
    for site in _DAILY:
        (path,) = (shared_data / "daily").glob(f"FLX_{site}_FLUXNET2015_FULLSET_DD_*")
        with gzip.open(path, "rt") as file:
            data = pd.read_csv(file, na_values=[-9999], usecols=["PPFD_IN", "SW_IN_F", "SW_IN_F_QC"])
        data = data[(data.SW_IN_F_QC > 0.99) & data.PPFD_IN.notna() & (data.SW_IN_F > 20)]
        assert len(data) > 100
        ratios[site] = data.PPFD_IN.sum() / data.SW_IN_F.sum()
    ds = open_era5(shared_data / "era5/era5_pixel_54.25N_9.0E_2019.nc", variables=["PPFD_IN", "SW_IN"])
    factor = float(ds.PPFD_IN.sum() / ds.SW_IN.sum())
    assert np.abs(np.array(list(ratios.values())) / factor - 1).max() < 0.08, ratios
    assert np.mean(list(ratios.values())) == pytest.approx(factor, rel=0.02)
    assert float(ds.PPFD_IN.where(ds.SW_IN == 0).max()) == 0.0  # no light, no photons


@pytest.mark.parametrize("name", ["davos_2020-01", "finse_2018-10"])
def test_frosty_months_have_the_deficit_of_water(shared_data, name):
    """By hand, for the stamps of one cell: Murray's formula over water for air and dew point alike."""
    import xarray as xr

    path = shared_data / f"era5/era5_{name}.nc"
    raw, ds = xr.open_dataset(path).isel(latitude=1, longitude=2), open_era5(path).isel(latitude=1, longitude=2)

    def water(kelvin):
        return 6.11 * np.exp(17.269 * (kelvin - 273.15) / (kelvin - 35.86))

    air, dew = raw.t2m.values.astype(float), raw.d2m.values.astype(float)
    assert (air < 273).mean() > 0.15
    deficit = np.maximum(water(air) - water(dew), 0)
    np.testing.assert_allclose(ds.VPD.values, (deficit[1:] + deficit[:-1]) / 2, rtol=1e-4, atol=1e-5)
    humidity = np.clip(100 * water(dew) / water(air), 0, 100)
    np.testing.assert_allclose(ds.RH.values, (humidity[1:] + humidity[:-1]) / 2, rtol=1e-5)

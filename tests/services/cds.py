"""The simulation's Climate Data Store with plausible weather for any request."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.simulation.services import cds
from fluxcube.solar import potential_radiation
from fluxcube.sources.era5.parameters import PARAMETERS, meaning_of


class ClimateDataStore(cds.ClimateDataStore):
    """A CDS that delivers plausible weather of any request."""

    def content(self, dataset: str, body: dict) -> bytes:
        """Return the file of a request."""
        return content(dataset, body)


def content(dataset: str, body: dict) -> bytes:
    """Return the file that the service delivers for a request."""
    land = "land" in dataset
    names = [meaning_of(name).parameter for name in body["variable"]]
    if "location" in body:
        return _series(names, body)
    step = 0.1 if land else 0.25
    north, west, south, east = body.get("area", (90.0, -180.0, -90.0, 180.0 - step))
    latitude = np.round(np.arange(north, south - step / 2, -step), 4)
    longitude = np.round(np.arange(west, east + step / 2, step), 4)
    day = f"{body['year'][0]}-{body['month'][0]}"
    hours = [np.datetime64(f"{day}-{d}T{t[:2]}", "ns") for d in body["day"] for t in body["time"]]
    ds = weather(names, np.array(hours), latitude, longitude, totals=land)
    if body["data_format"] == "grib":
        return _grib(ds)
    ds = ds.rename(time="valid_time").assign_coords(number=0, expver=("valid_time", ["0001"] * len(hours)))
    return _netcdf(ds)


def weather(
    names: Iterable[str], time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, *, totals: bool = False
) -> xr.Dataset:
    """Return weather that depends on time and place only: half of the potential radiation reaches the ground.

    With `totals`, accumulated parameters run from 00 UTC, as in ERA5-Land.
    """
    shape = len(time), len(latitude), len(longitude)
    hour = time.astype("datetime64[h]").astype(np.int64)[:, None, None]
    light = _light(time, latitude, longitude)
    values = {
        "t2m": 283 + 5 * np.sin(2 * np.pi * (hour - 9) / 24) + latitude[:, None] / 100 + longitude / 1000,
        "d2m": 278 + 0 * hour + latitude[:, None] / 100,
        "sp": 95000 + 10 * latitude[:, None] + 0 * hour,
        "u10": 2 + np.sin(hour / 7),
        "v10": 1 + np.cos(hour / 5),
        "ssrd": 3600 * 0.5 * light,
        "strd": 1.1e6 + 0 * light,
        "ssr": 3600 * 0.4 * light,
        "tp": np.where(hour % 5 == 0, 2e-4, 0.0),
        "z": 9.80665 * (10 * np.abs(latitude[:, None]) + longitude + 180),
        "lsm": np.ones(shape),
    }
    arrays = {}
    for name in names:
        one = values.get(name, 0.3 if name.startswith("swvl") else 285.0)
        one = np.broadcast_to(one, shape).astype("float64")
        if totals and PARAMETERS[name].kind == "accumulated":
            one = _since_midnight(one, hour[:, 0, 0] % 24, name, latitude, longitude, time)
        attrs = {"units": PARAMETERS[name].units, "long_name": PARAMETERS[name].request}
        arrays[name] = (("time", "latitude", "longitude"), one.astype("float32"), attrs)
    return xr.Dataset(arrays, {"time": time, "latitude": latitude, "longitude": longitude})


def _light(time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the potential radiation of the hour that ends at each stamp (time, latitude, longitude), W m-2."""
    cells = np.meshgrid(latitude, longitude, indexing="ij")
    return np.moveaxis(potential_radiation(time - np.timedelta64(1, "h"), *cells), -1, 0)


def _since_midnight(one, hours, name, latitude, longitude, time) -> np.ndarray:
    out = np.zeros_like(one)
    total = 0.0
    for at, hour in enumerate(hours):
        if at == 0 and hour == 0:  # 00 UTC carries the total of the day before
            earlier = time[0] - np.arange(23, -1, -1) * np.timedelta64(1, "h")
            total = weather([name], earlier, latitude, longitude)[name].values[:-1].sum(0)
        total = one[at] + (0.0 if hour == 1 else total)
        out[at] = total
    return out


def _series(names: list[str], body: dict) -> bytes:
    """Return a zip with the series of a point: amounts of hours, of ERA5-Land, too."""
    first, last = body["date"][0].split("/")
    time = np.arange(np.datetime64(first, "h"), np.datetime64(last, "h") + 24).astype("datetime64[ns]")
    step = 0.25
    place = [np.round(np.round(body["location"][a] / step) * step, 4) for a in ("latitude", "longitude")]
    ds = weather(names, time, *(np.array([at]) for at in place)).isel(latitude=0, longitude=0)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("reanalysis-era5-timeseries.nc", _netcdf(ds.rename(time="valid_time")))
    return out.getvalue()


def _netcdf(ds: xr.Dataset) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nc")
        ds.to_netcdf(path, engine="netcdf4", encoding={name: {"zlib": True} for name in ds.data_vars})
        return path.read_bytes()


def _grib(ds: xr.Dataset) -> bytes:
    from grib_files import write_grib

    with tempfile.TemporaryDirectory() as folder:
        return write_grib(Path(folder, "a.grib"), ds).read_bytes()

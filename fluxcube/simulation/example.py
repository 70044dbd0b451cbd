"""Small cubes in RAM, for examples and tests: plausible weather, and fluxes that follow from it."""

from __future__ import annotations

import numpy as np
import xarray as xr

import fluxcube.exports.accessor  # noqa: F401  (registers ds.fluxcube)
from fluxcube.humidity import saturation_vapour_pressure
from fluxcube.schema import CHIP_X, CHIP_Y, validate_cube, validate_forcing, validate_maps, variable_coords
from fluxcube.solar import potential_radiation
from fluxcube.timestamps import HOUR, hour_axis, local_clock
from fluxcube.variables import BANDS, predictors, table, targets

_CLASSES = ("DBF", "GRA", "ENF", "CRO")


def example_cube(*, sites: int = 4, days: int = 20, gaps: float = 0.2, seed: int = 0) -> xr.Dataset:
    """Return a small tower cube: DOY, TOD, TA, SW_IN, VPD and SW_IN_POT are present, other predictors are missing.

    Parameters
    ----------
    sites, days : int
        Number of sites and of days; classes repeat every four sites.
    gaps : float
        Share of hours whose NEE is gap-filled (flag 2 instead of 0).
    seed : int
        Of the weather.

    Returns
    -------
    xr.Dataset
        A cube (`fluxcube.schema`), in RAM; times from 2018-06-01, chips every 8 days.

    Examples
    --------
    >>> dict(example_cube(sites=2, days=3).predictors.sizes)
    {'site': 2, 'time': 72, 'variable': 33}
    """
    rng = np.random.default_rng(seed)
    latitude = np.linspace(38.0, 52.0, sites)
    longitude = np.linspace(-90.0, 20.0, sites)
    igbp = np.array([_CLASSES[i % 4] for i in range(sites)], object)
    time = hour_axis(np.datetime64("2018-06-01"), np.datetime64("2018-06-01") + np.timedelta64(days, "D"))
    weather = _weather(time, latitude, longitude, rng)
    fluxes = _fluxes(weather, igbp)
    ds = xr.Dataset(
        {
            **_stack("predictors", "variable", predictors(declared=False), weather, (sites, len(time))),
            **_stack("fluxes", "target", targets(), fluxes, (sites, len(time))),
        },
        coords={
            "site": ("site", np.array([f"XX-S{i:02d}" for i in range(sites)], object)),
            "time": time,
            "time_bnds": (("time", "bnds"), np.stack([time, time + HOUR], 1)),
            **variable_coords(predictors(declared=False)),
            **variable_coords(targets(), "target"),
            "latitude": ("site", latitude),
            "longitude": ("site", longitude),
            "elevation": ("site", np.linspace(10.0, 900.0, sites)),
            "igbp": ("site", igbp),
            "koppen": ("site", np.full(sites, "Cfb", object)),
            "network": ("site", np.full(sites, "EXAMPLE", object)),
            "utc_offset": ("site", np.round(longitude / 15)),
            "time_start": ("site", np.full(sites, time[0])),
            "time_stop": ("site", np.full(sites, time[-1] + HOUR)),
        },
        attrs={"kind": "cube", "clock": "solar", "title": "example cube"},
    )
    filled = rng.random((sites, len(time))) < gaps
    ds["fluxes_qc"] = ds.fluxes_qc.where(~xr.DataArray(filled, dims=("site", "time")) | (ds.fluxes_qc < 0), np.int8(2))
    ds["modis"] = _chips(("site",), (sites,), time, rng)
    return validate_cube(ds)


def example_forcing(*, shape: tuple[int, int] = (3, 4), days: int = 20, seed: int = 0) -> xr.Dataset:
    """Return a small forcing cube with the predictors of `example_cube`, chips, and one ocean cell.

    Parameters
    ----------
    shape : (int, int)
        Number of latitudes and of longitudes.
    days, seed : int
        As of `example_cube`.

    Returns
    -------
    xr.Dataset
        A forcing cube (`fluxcube.schema`), in RAM; its first cell has land_fraction 0.

    Examples
    --------
    >>> example_forcing().predictors.dims
    ('latitude', 'longitude', 'time', 'variable')
    """
    rng = np.random.default_rng(seed)
    latitude = 47.0 - 0.25 * np.arange(shape[0])
    longitude = 8.0 + 0.25 * np.arange(shape[1])
    lat, lon = (grid.ravel() for grid in np.meshgrid(latitude, longitude, indexing="ij"))
    time = hour_axis(np.datetime64("2018-06-01"), np.datetime64("2018-06-01") + np.timedelta64(days, "D"))
    weather = _weather(time, lat, lon, rng)
    values = np.stack([weather[name] for name in weather], -1).astype("float32")
    cells = ("latitude", "longitude")
    classes = np.array([_CLASSES[i % 4] for i in range(lat.size)], object).reshape(shape)
    land = np.ones(shape)
    land[0, 0] = 0.0
    return validate_forcing(
        xr.Dataset(
            {
                "predictors": ((*cells, "time", "variable"), values.reshape(*shape, len(time), -1)),
                "modis": _chips(cells, shape, time, rng),
            },
            coords={
                "latitude": latitude,
                "longitude": longitude,
                "time": time,
                **variable_coords(weather),
                "elevation": (cells, np.full(shape, 450.0)),
                "igbp": (cells, classes),
                "land_fraction": (cells, land),
            },
            attrs={"kind": "forcing", "clock": "solar", "title": "example forcing"},
        )
    )


def example_maps(*, shape: tuple[int, int] = (3, 4), days: int = 20, seed: int = 0) -> xr.Dataset:
    """Return small flux maps, NEE, GPP_NT and RECO_NT, in the weather of `example_forcing`; NaN where there is no land.

    Parameters
    ----------
    shape, days, seed
        As of `example_forcing`.

    Returns
    -------
    xr.Dataset
        Maps (`fluxcube.schema`), in RAM.

    Examples
    --------
    >>> example_maps().NEE.dims
    ('time', 'latitude', 'longitude')
    """
    forcing = example_forcing(shape=shape, days=days, seed=seed)
    weather = {str(name): forcing.predictors.sel(variable=name).values for name in forcing["variable"].values}
    flat = {name: values.reshape(-1, values.shape[-1]) for name, values in weather.items()}
    fluxes = _fluxes(flat, forcing.igbp.values.ravel())
    land = forcing.land_fraction.values > 0
    dims = ("time", "latitude", "longitude")
    arrays = {
        name: (dims, np.where(land, fluxes[name].T.reshape(-1, *shape), np.nan).astype("float32"), table()[name].attrs)
        for name in ("NEE", "GPP_NT", "RECO_NT")
    }
    time = forcing.time.values
    coords = {
        **{name: forcing[name].variable for name in (*dims, "igbp", "land_fraction")},
        "time_bnds": (("time", "bnds"), np.stack([time, time + HOUR], 1)),
    }
    attrs = {"kind": "maps", "clock": "solar", "title": "example maps"}
    return validate_maps(xr.Dataset(arrays, coords, attrs))


_Arrays = dict[str, np.ndarray]


def _weather(time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, rng: np.random.Generator) -> _Arrays:
    """Return weather (place, time) by name, in the table's units."""
    potential = potential_radiation(time, latitude, longitude)
    doy, tod = local_clock(time, longitude / 15)
    days = len(time) // 24 + 2
    clear = np.repeat(rng.uniform(0.25, 0.75, (len(latitude), days)), 24, axis=1)[:, : len(time)]
    ta = 15 + 6 * clear + 6 * np.sin(2 * np.pi * (tod - 9) / 24) + rng.normal(0, 0.3, potential.shape)
    humid = saturation_vapour_pressure(ta - 2 - 10 * clear)
    return {
        "DOY": doy,
        "TOD": tod,
        "TA": ta,
        "SW_IN": clear * potential,
        "VPD": np.maximum(saturation_vapour_pressure(ta) - humid, 0),
        "SW_IN_POT": potential,
    }


def _fluxes(weather: _Arrays, igbp: np.ndarray) -> _Arrays:
    """Return fluxes (site, time) by name: a light response that differs by class, and Q10 respiration."""
    strength = np.array([{"DBF": 30.0, "GRA": 18.0, "ENF": 22.0, "CRO": 35.0}[c] for c in igbp])[:, None]
    gpp = strength * weather["SW_IN"] / (weather["SW_IN"] + 400)
    reco = 3.0 * 2.0 ** ((weather["TA"] - 15) / 10)
    return {"NEE": reco - gpp, "GPP_DT": gpp, "GPP_NT": gpp, "RECO_DT": reco, "RECO_NT": reco}


def _stack(
    name: str, dim: str, labels: tuple[str, ...], arrays: _Arrays, shape: tuple[int, int]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return the values, flags (0 where there is a value) and coverage of one stack of variables."""
    empty = np.full(shape, np.nan)
    values = np.stack([arrays.get(label, empty) for label in labels], -1).astype("float32")
    present = np.isfinite(values)
    dims = ("site", "time", dim)
    return {
        name: (dims, values),
        f"{name}_qc": (dims, np.where(present, 0, -1).astype("int8")),
        f"{name}_coverage": (dims, present.astype("float32")),
    }


def _chips(dims: tuple[str, ...], shape: tuple[int, ...], time: np.ndarray, rng: np.random.Generator) -> xr.DataArray:
    """Return chips every 8 days: reflectances around a mean for each place, without snow or water."""
    day = np.arange(time[0].astype("datetime64[D]"), time[-1].astype("datetime64[D]"), np.timedelta64(8, "D"))
    values = rng.uniform(0.05, 0.4, (*shape, len(day), len(BANDS), 1, 1)) + rng.normal(
        0, 0.01, (*shape, len(day), len(BANDS), 8, 8)
    )
    values[..., 7, :, :] = 0.0
    values[..., 8, :, :] = 0.0
    coords = {"day": day.astype("datetime64[ns]"), "band": np.array(BANDS, object), "y": CHIP_Y, "x": CHIP_X}
    return xr.DataArray(values.clip(0, 1).astype("float32"), dims=(*dims, "day", "band", "y", "x"), coords=coords)

"""Write GRIB files as MARS and the Climate Data Store do: one message for each parameter and stamp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.sources.era5.parameters import ACCUMULATED, PARAMETERS

_MISSING = 9999.0


def write_grib(path: Path, ds: xr.Dataset, *, numbers=None, mode="wb", edition=1, scan="", **keys) -> Path:
    """Write variables (time, latitude, longitude) of a Dataset; rows from north to south, columns from west to east.

    `numbers` are paramIds where the names are not those of the table. Accumulated parameters are forecasts from 06 and
    18 UTC. `scan` has "south" to begin in the south, and "alternate" to turn every other row. Other `keys` are set as
    they are.
    """
    import eccodes as ec

    with open(path, mode) as file:
        for name in map(str, ds.data_vars):
            for stamp in range(ds.sizes["time"]):
                field = ds[name].isel(time=stamp)
                if np.isnan(field).all():
                    continue
                message = ec.codes_grib_new_from_samples(f"regular_ll_sfc_grib{edition}")
                number = (numbers or {}).get(name) or PARAMETERS[name].number
                _set_keys(ec, message, field, number, name in ACCUMULATED, keys)
                ec.codes_set_values(message, _ordered(ec, message, field, scan))
                ec.codes_write(message, file)
                ec.codes_release(message)
    return path


def _set_keys(ec, message, field, number, accumulated, keys) -> None:
    stamp = pd.Timestamp(field.time.values)
    base, step = stamp, 0
    if accumulated:
        base = (stamp - pd.Timedelta(hours=7)).floor("12h") + pd.Timedelta(hours=6)
        step = int((stamp - base) / pd.Timedelta(hours=1))
    all_keys = {
        "centre": "ecmf",
        "paramId": number,
        "dataDate": int(base.strftime("%Y%m%d")),
        "dataTime": base.hour * 100,
        "Ni": field.sizes["longitude"],
        "Nj": field.sizes["latitude"],
        "latitudeOfFirstGridPointInDegrees": float(field.latitude[0]),
        "longitudeOfFirstGridPointInDegrees": float(field.longitude[0]),
        "latitudeOfLastGridPointInDegrees": float(field.latitude[-1]),
        "longitudeOfLastGridPointInDegrees": float(field.longitude[-1]),
        "bitsPerValue": 24,
    }
    if accumulated:
        all_keys |= {"stepType": "accum", "stepRange": f"{step - 1}-{step}"}
    for key, value in (all_keys | keys).items():
        ec.codes_set(message, key, value)


def _ordered(ec, message, field, scan) -> np.ndarray:
    values = field.values.astype("float64")
    if "south" in scan:
        first, last = float(field.latitude[-1]), float(field.latitude[0])
        ec.codes_set(message, "jScansPositively", 1)
        ec.codes_set(message, "latitudeOfFirstGridPointInDegrees", first)
        ec.codes_set(message, "latitudeOfLastGridPointInDegrees", last)
        values = values[::-1]
    if "alternate" in scan:
        ec.codes_set(message, "alternativeRowScanning", 1)
        values = values.copy()
        values[1::2] = values[1::2, ::-1]
    if np.isnan(values).any():
        ec.codes_set(message, "bitmapPresent", 1)
        ec.codes_set(message, "missingValue", _MISSING)
        values = np.where(np.isnan(values), _MISSING, values)
    return values.ravel()

"""Write one file for each tower: CSV with the columns and local time of ONEFlux, or CF NetCDF."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, StoreError, overwrite_option
from fluxcube.exports.netcdf import write_netcdf
from fluxcube.exports.unstack import is_stacked, to_variables
from fluxcube.resolution import resolution_of
from fluxcube.stores.files import names_disk_errors, replacing, write_csv
from fluxcube.variables import Variable, table

logger = logging.getLogger(__name__)

FORMATS = {"csv": "csv", "netcdf": "nc"}
#: Coordinates of towers in ``sites.csv``, in order.
_ABOUT = (
    "latitude",
    "longitude",
    "elevation",
    "igbp",
    "koppen",
    "utc_offset",
    "network",
    "licence",
    "citation",
    "doi",
)
_ENDINGS = ("QC", "QUALITY", "COVERAGE", "RANDUNC", "JOINTUNC")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)")


@names_disk_errors("folder")
def write_sites(
    ds: xr.Dataset,
    folder: str | os.PathLike,
    *,
    format: str = "csv",
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Write one file for each tower, as ``ds.fluxcube.to_sites`` documents it."""
    if format not in FORMATS:
        raise ConfigError(f"format={format!r}: expected csv or netcdf.")
    towers, place = _towers(ds), Path(folder)
    source = ds if is_stacked(ds) and ds["site"].ndim else towers  # of a stack, few arrays are read for each tower
    columns = _columns(towers) if format == "csv" else ()
    names = _file_names(towers, format)
    tables = ["sites.csv", "variables.csv"] if format == "csv" else ["sites.csv"]
    _prepare(place, [*names.values(), *tables], overwrite)
    written: set[str] = set()
    for done, (site, name) in enumerate(names.items(), 1):
        with replacing(place / name) as temporary:
            written |= _write_site(source.sel(site=[site]).isel(time=_range(towers, site)), temporary, columns)
        if progress is not None:
            progress(done, len(names), name)
    described = _described(towers, [column for column in columns if column.name in written])
    for name, rows in zip(tables, (_about(towers), described), strict=False):
        write_csv(place / name, rows)
    return [place / name for name in (*names.values(), *tables)]


@dataclass(frozen=True)
class _Column:
    """A column of a CSV file and the array that it contains."""

    name: str
    array: str


def _towers(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with arrays (site, time), with a dimension of sites even if one site was selected."""
    out = to_variables(ds) if is_stacked(ds) else ds
    if "site" in out.coords and not out["site"].ndim:
        out = out.expand_dims("site")
    if "site" not in out.coords or "time" not in out.dims:
        raise SchemaError(
            f"expected towers, with the dimensions site and time; found {', '.join(map(str, ds.dims))}. Maps become "
            "files with fluxcube.export_maps(maps, path), and towers with fluxcube.sample_at_sites(maps, cube)."
        )
    return out


def _series(ds: xr.Dataset) -> list[str]:
    """Return the names of the numbers of a Dataset that towers have at each time, in order."""
    return [str(n) for n, a in ds.data_vars.items() if set(a.dims) == {"site", "time"} and a.dtype.kind in "fiub"]


def _columns(ds: xr.Dataset) -> tuple[_Column, ...]:
    """Return the columns of all towers: those of ONEFlux for the variables of a cube, else the names of the arrays."""
    names = _series(ds)
    if not names:
        raise SchemaError("expected arrays of the dimensions site and time, found none: nothing to write.")
    measured = any(name.endswith(("_QC", "_QUALITY")) for name in names)
    found = table(resolution_of(ds).name) if measured else {}
    rows = {name: found[_base(name)] for name in names if _base(name) in found}
    columns = [_Column(_column(name, rows.get(name)), name) for name in names]
    return tuple(column for column in columns if column.name)


def _base(name: str) -> str:
    """Return the variable of an array: TA of TA_QC."""
    base, _, ending = name.rpartition("_")
    return base if ending in _ENDINGS else name


def _column(name: str, row: Variable | None) -> str:
    """Return ONEFlux's column for an array of a cube; "" for what no file has."""
    if row is None:
        return name
    if not row.aliases:
        return "" if row.aggregate == "computed" else name
    ending = name.removeprefix(row.name)
    if ending == "_RANDUNC" and row.randunc:
        return _usual(row.randunc)
    if ending == "_JOINTUNC" and row.jointunc:
        return _usual(row.jointunc)
    return _usual(row.aliases) + ending.replace("_QUALITY", "_QC")


def _usual(columns: Sequence[str]) -> str:
    """Return the column of filled values if there is one, of the reference USTAR threshold.

    Examples
    --------
    >>> _usual(("TA", "TA_F", "TA_F_MDS")), _usual(("NEE_VUT_USTAR50", "NEE_VUT_REF")), _usual(("USTAR",))
    ('TA_F', 'NEE_VUT_REF', 'USTAR')
    """
    for ending in (r"_VUT_REF(_RANDUNC|_JOINTUNC)?$", r"_F(_\d)?$", r"_F_MDS(_\d)?$"):
        for column in columns:
            if re.search(ending, column):
                return column
    return columns[0]


def _file_names(ds: xr.Dataset, format: str) -> dict[str, str]:
    """Return the file of each tower: its name, time step and years; towers without a value are left out and logged."""
    step = {"hourly": "HR", "daily": "DD"}[resolution_of(ds).name]
    names: dict[str, str] = {}
    empty = []
    for site in map(str, ds["site"].values):
        times = _range(ds, site)
        if times is None:
            empty.append(site)
            continue
        first, last = (str(t)[:4] for t in _starts(ds, site, format)[[times.start, times.stop - 1]])
        names[site] = f"{_safe(site)}_{step}_{first}-{last}.{FORMATS[format]}"
    if empty:
        logger.warning("no file for towers without a value: %s", ", ".join(empty))
    twins = [name.lower() for name in names.values()]
    if double := sorted({site for site, name in names.items() if twins.count(name.lower()) > 1}):
        raise ConfigError(f"{', '.join(double)} would have one file name: rename sites, or write them one at a time.")
    return names


def _starts(ds: xr.Dataset, site: str, format: str) -> np.ndarray:
    """Return the starts of time steps as the file of a tower has them: local time in hourly CSV files."""
    time = ds["time"].values
    if format != "csv" or resolution_of(ds).local or "utc_offset" not in ds.coords:
        return time
    return time + _to_local(ds.coords.to_dataset().sel(site=site)["utc_offset"])


def _to_local(offset: xr.DataArray) -> np.timedelta64:
    """Return the time to add to UTC for local standard time."""
    return np.timedelta64(round(60 * float(offset)), "m")


def _safe(site: str) -> str:
    """Return a name of a file that every system accepts.

    Examples
    --------
    >>> _safe("DE-Tha"), _safe("../etc/x y"), _safe("nul")
    ('DE-Tha', '_etc_x_y', '_nul')
    """
    text = _UNSAFE.sub("_", site).lstrip(".") or "_"
    return f"_{text}" if _RESERVED.fullmatch(text) else text


def _range(ds: xr.Dataset, site: str) -> slice | None:
    """Return the part of the time axis from the first to the last value of a tower; None if it has none."""
    one = ds.coords.to_dataset().sel(site=site)
    if "time_start" in one.coords and "time_stop" in one.coords and not np.isnat(one["time_start"].values):
        time = ds["time"].values
        first, stop = (int(np.searchsorted(time, one[name].values)) for name in ("time_start", "time_stop"))
        return slice(first, stop) if first < stop else None
    known = np.zeros(ds.sizes["time"], bool)
    for name in _series(ds):
        if ds[name].dtype.kind == "f":
            known |= np.isfinite(ds[name].sel(site=site).values)
    at = np.flatnonzero(known)
    return slice(int(at[0]), int(at[-1]) + 1) if at.size else None


def _write_site(one: xr.Dataset, path: Path, columns: Sequence[_Column]) -> set[str]:
    """Write a tower, which is the only one of a Dataset; return the columns of its CSV file."""
    one = one.compute()
    one = to_variables(one) if is_stacked(one) else one
    if not columns:
        write_netcdf(one, path)
        return set()
    values = one[[column.array for column in columns]].isel(site=0)
    texts = dict(_texts(values, columns))
    pd.DataFrame(_stamps(one) | texts).to_csv(path, index=False, na_rep="-9999")
    return set(texts)


def _texts(values: xr.Dataset, columns: Sequence[_Column]) -> Iterator[tuple[str, Any]]:
    """Yield the columns that have a value, of variables that have one; flags -1 (no value) are blank, that is -9999."""
    absent = {name for name, array in values.data_vars.items() if not array.notnull().any()}
    for column in columns:
        array = values[column.array].values
        if not absent.isdisjoint((column.array, _base(column.array))):
            continue
        if column.array.endswith("_QC") and array.dtype.kind != "f":
            if (array >= 0).any():
                yield column.name, np.where(array < 0, -9999, array)
        else:
            yield column.name, array if array.dtype.kind == "f" else array.astype(np.int64)


def _stamps(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """Return the columns of time: local standard time of the start and end of each step, or the local date."""
    time = ds["time"].values.astype("datetime64[m]")
    resolution = resolution_of(ds)
    if resolution.local:
        return {"TIMESTAMP": _digits(time, 8)}
    if "utc_offset" not in ds.coords:
        raise SchemaError("expected the coordinate utc_offset of the towers, to write local time; use format='netcdf'.")
    start = time + _to_local(ds["utc_offset"][0])
    return {"TIMESTAMP_START": _digits(start, 12), "TIMESTAMP_END": _digits(start + resolution.step, 12)}


def _digits(time: np.ndarray, digits: int) -> np.ndarray:
    """Return times as numbers YYYYMMDD[HHMM]."""
    text = np.datetime_as_string(time.astype("datetime64[m]"))
    return np.array([re.sub(r"\D", "", one)[:digits] for one in text], np.int64)


def _about(ds: xr.Dataset) -> pd.DataFrame:
    """Return place, class, time zone, licence and citation of each tower."""
    known = {name: ds[name].values for name in _ABOUT if name in ds.coords and ds[name].dims == ("site",)}
    return pd.DataFrame({"site": ds["site"].values.astype(str), **known})


def _described(ds: xr.Dataset, columns: Sequence[_Column]) -> pd.DataFrame:
    """Return column, variable, units and description of what the files contain."""
    local = resolution_of(ds).local
    stamps = ("TIMESTAMP",) if local else ("TIMESTAMP_START", "TIMESTAMP_END")
    rows: list[Mapping[str, str]] = [
        {"column": name, "variable": "time", "units": "YYYYMMDD" if local else "YYYYMMDDHHMM", "description": text}
        for name, text in zip(stamps, ("start of the step, local standard time", "end of the step"), strict=False)
    ]
    rows += [
        {
            "column": column.name,
            "variable": column.array,
            "units": str(ds[column.array].attrs.get("units", "")),
            "description": str(ds[column.array].attrs.get("long_name", "")),
        }
        for column in columns
    ]
    return pd.DataFrame(rows)


def _prepare(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Make the folder; refuse to replace files unless `overwrite` is set."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file: choose another folder for the files of the towers.")
    if not folder.absolute().parent.is_dir():
        raise StoreError(f"{folder}: its parent folder does not exist; make it first.")
    existing = [name for name in names if (folder / name).exists()]
    if existing and not overwrite:
        raise StoreError(f"{folder / existing[0]} exists: pass {overwrite_option()} to replace it, or another folder.")
    folder.mkdir(exist_ok=True)

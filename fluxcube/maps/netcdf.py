"""Open maps from NetCDF files that fluxcube exported, one or many."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import xarray as xr

from fluxcube.errors import StoreError
from fluxcube.exports.cf import from_cf, is_cf
from fluxcube.exports.netcdf import SUFFIXES
from fluxcube.sources.netcdf import open_netcdf
from fluxcube.stores.reading import is_url

Paths = str | os.PathLike | Iterable[str | os.PathLike]


def files_of(path: Paths) -> list[Path]:
    """Return the NetCDF files of a path: a file, those of a folder, those that a pattern matches, or a list of these.

    Empty if the path is a store, a URL, or nothing of these.
    """
    if not isinstance(path, str | os.PathLike):
        return [file for one in path for file in files_of(one)]
    place = Path(path)
    if is_url(path) or (place.is_dir() and any((place / n).is_file() for n in ("zarr.json", ".zgroup", ".zmetadata"))):
        return []
    if place.is_file():
        return [place] if place.suffix.lower() in SUFFIXES else []
    found = place.iterdir() if place.is_dir() else (Path(one) for one in glob.glob(str(place)))
    return sorted(one for one in found if one.suffix.lower() in SUFFIXES and one.is_file())


def open_exported(files: Sequence[Path]) -> xr.Dataset | None:
    """Return the maps in files that `fluxcube.export_maps` wrote, lazily; None if the first one is of another program.

    Raises
    ------
    StoreError
        If the files do not belong together: their grids differ, a period is in two of them, or one is not such a file.
    """
    opened = [open_netcdf(files[0], chunks={})]
    if not is_cf(opened[0]) or not {"lat", "lon"} <= set(opened[0].dims):
        return None
    opened += [open_netcdf(file, chunks={}) for file in files[1:]]
    for file, ds in zip(files, opened, strict=True):
        if not is_cf(ds):
            raise StoreError(f"{file} was not exported by fluxcube, as {files[0]} was: open it on its own.")
    return _joined([from_cf(ds) for ds in opened], files)


def _joined(parts: Sequence[xr.Dataset], files: Sequence[Path]) -> xr.Dataset:
    """Return the maps of several files as one: periods of a variable one after the other, variables side by side."""
    groups: dict[tuple[str, ...], list[xr.Dataset]] = {}
    for part in parts:
        groups.setdefault(tuple(map(str, part.data_vars)), []).append(part)
    try:
        whole = [_in_order(group) for group in groups.values()]
        return xr.merge(whole, join="exact", compat="override", combine_attrs="override")
    except ValueError as error:
        raise StoreError(
            f"the files from {files[0]} to {files[-1]} do not make one set of maps "
            f"({str(error).splitlines()[0]:.200}): open those of one grid and one time step."
        ) from error


def _in_order(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the periods of the same variables in the order of time; ValueError if one is there twice."""
    if len(parts) == 1:
        return parts[0]
    if any("time" not in part.dims for part in parts):
        raise ValueError(f"{', '.join(map(str, parts[0].data_vars))} without a time axis is in two files")
    parts = sorted(parts, key=lambda part: part["time"].values[0])
    whole = xr.concat(
        parts, "time", data_vars="minimal", coords="minimal", compat="override", join="exact", combine_attrs="override"
    )
    if not whole.indexes["time"].is_monotonic_increasing or not whole.indexes["time"].is_unique:
        raise ValueError(f"times of {', '.join(map(str, parts[0].data_vars))} are in two files")
    return whole

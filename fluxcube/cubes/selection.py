"""Open a part of a tower cube lazily: what is selected, masked or scaled here is computed only when it is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

import fluxcube.exports.accessor  # noqa: F401  (registers ds.fluxcube)
from fluxcube.biomes import IGBP_NUMBERS
from fluxcube.cubes.driver_choice import choose_drivers
from fluxcube.cubes.layout import CHUNK, EPOCH
from fluxcube.cubes.masks import check_limits, mask_fills, mask_flags, mask_quality, scale_by_bounds
from fluxcube.errors import ConfigError, StoreError, to_type, unknown, without_secrets
from fluxcube.resolution import resolution_of
from fluxcube.schema import PARTS, STACKS, SURFACE_ARRAYS, SURFACE_BEFORE, SURFACE_DIMS, TOWER, validate_cube
from fluxcube.stores.origin import as_opened, derived
from fluxcube.stores.reading import dask_chunked, is_url, open_store

_ORDER = (*(stack + ending for stack in STACKS for ending in PARTS), "modis", *SURFACE_ARRAYS)
#: Chunks of two years: a later selection with .sel reads little more than it needs, and the graph of a thousand sites
#: stays small.
_DASK_HOURS = 12 * CHUNK
#: Chips are kept from this long before the first hour, as `build_carbonsense` cuts them.
_CHIP_BEFORE = np.timedelta64(32, "D")

Box = tuple[float, float, float, float]
Time = slice | tuple | str
#: A cube that is open, or the path or URL of its store.
Cube: TypeAlias = xr.Dataset | str | os.PathLike

#: Endings of the files from which cubes are built.
_RAW = (".zip", ".csv", ".gz", ".txt", ".nc", ".hdf", ".tif", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The part of a cube to open; `fluxcube.open_carbonsense` documents each field.

    Raises
    ------
    ConfigError
        If `bbox` or `time` is malformed.
    UnknownNameError
        If a class of `igbp` does not exist.
    """

    sites: str | Sequence[str] | None = None
    igbp: str | Sequence[str] | None = None
    bbox: Box | None = None
    time: Time | None = None
    variables: str | Sequence[str] | None = None
    targets: str | Sequence[str] | None = None
    max_qc: int | Mapping[str, int] | None = None
    max_fill_days: float | Mapping[str, float] | None = None
    min_quality: float | Mapping[str, float] | None = None
    normalized: bool = False
    drivers: str = TOWER

    def __post_init__(self) -> None:
        for name in () if self.igbp is None else _names(self.igbp):
            if name not in IGBP_NUMBERS:
                raise unknown("IGBP class", name, IGBP_NUMBERS)
        if self.bbox is not None:
            _edges(self.bbox)
        if self.time is not None:
            _ends(self.time)


def as_cube(cube: Cube) -> xr.Dataset:
    """Return a cube: an open one as it is, that of a path or URL opened lazily.

    Raises
    ------
    StoreError
        If there is no cube at the path; of a folder of raw files, the message names the command that builds one.
    ConfigError
        If it is neither.
    """
    if isinstance(cube, xr.Dataset):
        return cube
    if isinstance(cube, str | os.PathLike):
        return open_cube(cube, Selection())
    raise ConfigError(f"cube: expected a Dataset, or the path or URL of a cube, found {type(cube).__name__}.")


def open_cube(
    store: str | os.PathLike,
    selection: Selection,
    *,
    storage_options: Mapping[str, object] | None = None,
    version: str | None = None,
) -> xr.Dataset:
    """Open a part of a cube lazily, as `fluxcube.open_carbonsense` does.

    Parameters
    ----------
    store : path or URL
        The cube.
    selection : Selection
        The part to open.
    storage_options : mapping, optional
        Options of fsspec to reach a URL.
    version : str, optional
        `store_id` of a state of the store that is kept, or its first characters.

    Returns
    -------
    xr.Dataset
        A cube (`fluxcube.schema`).

    Raises
    ------
    StoreError
        If the store does not exist, or is not a complete cube.
    UnknownNameError
        If the cube lacks a site, variable, target or source of drivers.
    ConfigError
        If nothing is left of the cube, or a limit does not suit its resolution.
    """
    _check_built(store)
    whole = open_store(store, kind="cube", dask=False, storage_options=storage_options, version=version)
    check_limits(whole, selection.max_qc, selection.max_fill_days, selection.min_quality)
    chosen = _at_sites(whole, selection)
    spanned = _spanned(whole, chosen)
    ds = choose_drivers(validate_cube(_tidy(_selected(spanned, chosen, selection))), selection.drivers)
    masks = (selection.max_qc, selection.max_fill_days, selection.min_quality)
    if not selection.normalized and all(limit is None for limit in masks):
        ds.encoding["source"] = without_secrets(str(store))  # as xarray's own openers do
        return as_opened(ds)
    ds = derived(ds)
    if selection.max_qc is not None:
        ds = mask_flags(ds, selection.max_qc)
    if selection.max_fill_days is not None:
        ds = mask_fills(ds, spanned, selection.max_fill_days)
    if selection.min_quality is not None:
        ds = mask_quality(ds, selection.min_quality)
    return scale_by_bounds(ds) if selection.normalized else ds


def _check_built(store: str | os.PathLike) -> None:
    """Refuse a folder of raw files, or one that contains the cube (StoreError)."""
    if is_url(store) or not Path(store).is_dir() or (Path(store) / "zarr.json").exists():
        return
    names = sorted(path.name for path in Path(store).iterdir())
    inside = [name for name in names if name.endswith(".zarr")]
    if inside:
        raise StoreError(f"{store}: a folder that contains {', '.join(inside[:5])}: pass {Path(store) / inside[0]}.")
    if any(name.lower().endswith(_RAW) for name in names):
        build = to_type(
            python=f'fluxcube.build_carbonsense("{store}", "carbonsense.zarr")',
            shell=f"`fluxcube build {store} carbonsense.zarr`",
        )
        raise StoreError(f"{store}: a folder of raw files, where a cube was expected: build it with {build}.")


def _selected(spanned: xr.Dataset, chosen: np.ndarray, selection: Selection) -> xr.Dataset:
    """Return the selected sites, time steps and labels in Dask chunks that match those of the store."""
    ds = spanned if selection.time is None else _at_hours(spanned, selection.time)
    begin = int((ds.time.values[0] - EPOCH) / resolution_of(ds).step)
    ds = dask_chunked(ds, begin={"time": begin}, time=_DASK_HOURS)
    if not np.array_equal(chosen, np.arange(ds.sizes["site"])):
        ds = ds.isel(site=chosen)
    for dim in ("day", "surface_day"):
        if f"{dim}_held" in ds.coords:
            ds = ds.isel({dim: ds[f"{dim}_held"].values}).drop_vars(f"{dim}_held")
    ds = _labelled(ds, "variable", selection.variables, "variables")
    return _labelled(ds, "target", selection.targets, "targets")


def _tidy(ds: xr.Dataset) -> xr.Dataset:
    """Return the arrays in their standard order and without the encoding of the store, which a copy need not share."""
    arrays = {name: ds[name] for name in _ORDER if name in ds}
    ds = ds.drop_vars(arrays).assign(arrays).drop_encoding()
    for name in ("time", "time_bnds"):  # CF requires the same units for both
        if name in ds.coords:
            ds[name].encoding = {"units": "hours since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
    ds.attrs.pop("complete", None)
    return ds


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def _spanned(ds: xr.Dataset, chosen: np.ndarray) -> xr.Dataset:
    """Cut the time axis, which begins at the store's epoch, to the time of the chosen sites."""
    start, stop = ds.time_start.values[chosen].min(), ds.time_stop.values[chosen].max()
    part = slice(*np.searchsorted(ds.time.values, [start, stop]))
    ds = ds.isel(time=part)
    for dim, before in _days_before(ds).items():
        # The last view before the first hour describes the land at that hour.
        ds = ds.isel({dim: slice(*np.searchsorted(ds[dim].values, [start - before, stop]))})
    return ds


def _days_before(ds: xr.Dataset) -> Mapping[str, np.timedelta64]:
    """Return how long before the first hour satellite data are kept, by the dimension of their days."""
    surface = {SURFACE_DIMS[resolution_of(ds).name][0]: SURFACE_BEFORE} if "surface" in ds else {}
    return ({"day": _CHIP_BEFORE} if "modis" in ds else {}) | surface


def _at_sites(ds: xr.Dataset, selection: Selection) -> np.ndarray:
    """Return the indices of the selected sites on their axis."""
    sites, igbp, bbox = selection.sites, selection.igbp, selection.bbox
    chosen = np.arange(ds.sizes["site"])
    if sites is not None:
        chosen = _positions(ds.site.values, _names(sites), "site", f"sites={sites!r}")
    if igbp is not None:
        chosen = _filtered(
            chosen, np.isin(ds.igbp.values[chosen], _names(igbp)), f"igbp={igbp!r}", "its class", ds.igbp
        )
    if bbox is not None:
        chosen = _filtered(chosen, _inside(ds, _edges(bbox))[chosen], f"bbox={bbox!r}", "its place", None)
    return chosen


def _positions(labels: np.ndarray, names: Sequence[str], kind: str, filter_: str) -> np.ndarray:
    at = {str(label): i for i, label in enumerate(labels)}
    for name in names:
        if name not in at:
            raise unknown(kind, name, at)
    if not names:
        raise ConfigError(f"{filter_} selects no {kind}: name at least one, or leave it out for all.")
    return np.array([at[name] for name in names])


def _filtered(chosen: np.ndarray, mask: np.ndarray, filter_: str, what: str, values: xr.DataArray | None) -> np.ndarray:
    if not mask.any():
        found = f": they are {', '.join(sorted(set(values.values[chosen])))}" if values is not None else ""
        raise ConfigError(
            f"{filter_} leaves no site; {what} rules out each of the {len(chosen)} sites so far{found}. Widen it."
        )
    return chosen[mask]


def _edges(bbox: Box) -> Box:
    """Return the edges of a box as floats; raise a ConfigError if it is malformed."""
    try:
        west, south, east, north = (float(edge) for edge in bbox)
    except (TypeError, ValueError):
        raise ConfigError(f"bbox={bbox!r}: expected four numbers (west, south, east, north).") from None
    if not -90 <= south <= north <= 90 or not -180 <= west <= 360 or not -180 <= east <= 360:
        raise ConfigError(
            f"bbox={bbox!r}: expected (west, south, east, north) in degrees, with -90 <= south <= north <= 90 and "
            "longitudes from -180 to 360."
        )
    return west, south, east, north


def _inside(ds: xr.Dataset, bbox: Box) -> np.ndarray:
    west, south, east, north = bbox
    latitude, longitude = ds.latitude.values, ds.longitude.values
    width = east - west if east - west >= 360 else (east - west) % 360
    return ((longitude - west) % 360 <= width) & (latitude >= south) & (latitude <= north)


def _at_hours(ds: xr.Dataset, time: Time) -> xr.Dataset:
    """Return the time steps of a period, and the satellite data that belong to them."""
    start, stop = _ends(time)
    try:
        part = ds.indexes["time"].slice_indexer(start, stop)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"time={time!r}: expected dates such as slice('2004', '2006') ({error}).") from None
    hours = ds.indexes["time"][part]
    if not len(hours):
        first, last = (pd.Timestamp(t).date() for t in ds.time.values[[0, -1]])
        raise ConfigError(f"time={time!r} leaves no hour: the cube has {first} to {last}.")
    ds = ds.isel(time=part)
    for dim in _days_before(ds):
        ds = ds.isel({dim: _days(ds, dim, hours.values)})
    return ds


def _ends(time: Time) -> tuple:
    """Return start and stop of a period; raise a ConfigError if it is malformed."""
    if isinstance(time, slice):
        if time.step not in (None, 1):
            raise ConfigError(f"time={time!r}: hours cannot be skipped; select with .sel afterwards.")
        return time.start, time.stop
    if isinstance(time, (str, np.datetime64, pd.Timestamp)):
        return time, time
    try:
        start, stop = time
    except (TypeError, ValueError):
        raise ConfigError(f"time={time!r}: expected slice(start, stop) or (start, stop).") from None
    return start, stop


def _days(ds: xr.Dataset, dim: str, hours: np.ndarray) -> slice:
    """Return the days whose local noon can be among some UTC hours at any site, and those before them that count.

    Local noon of a date lies within that date in UTC, from its midnight at 180 E to its end at 180 W. Before them, the
    last day with a chip counts, or 96 days of surface reflectance.
    """
    days = ds[dim].values
    begin, last = (hours[i].astype("datetime64[D]") for i in (0, -1))
    stop = int(np.searchsorted(days, last, side="right"))
    if dim == "day" and "modis" in ds:
        first = int(np.searchsorted(days, begin))
        held = ds.day_held.values[:first] if "day_held" in ds.coords else np.ones(first, bool)
        return slice(int(np.flatnonzero(held)[-1]) if held.any() else first, stop)
    return slice(int(np.searchsorted(days, begin - SURFACE_BEFORE)), stop)


def _labelled(ds: xr.Dataset, dim: str, names: str | Sequence[str] | None, argument: str) -> xr.Dataset:
    if names is None:
        return ds
    names = _names(names)
    return ds.isel({dim: _positions(ds[dim].values, names, dim, f"{argument}={names!r}")})

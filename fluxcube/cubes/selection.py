"""Open the CarbonSense cube: what is selected, masked or scaled here is computed only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.biomes import IGBP_NUMBERS
from fluxcube.cubes.layout import CHUNK, EPOCH
from fluxcube.cubes.masks import check_limits, mask_fills, mask_flags, mask_quality, scale_by_bounds
from fluxcube.errors import ConfigError, unknown
from fluxcube.schema import PARTS, STACKS, resolution_of, validate_cube
from fluxcube.stores.reading import dask_chunked, open_store
from fluxcube.timestamps import DAY, HOUR

_ORDER = (*(stack + ending for stack in STACKS for ending in PARTS), "modis", "surface")
#: Two years: a selection by .sel afterwards reads no more than it must, and a thousand sites are no large graph.
_DASK_HOURS = 12 * CHUNK
#: As `build_carbonsense` cuts them.
_CHIP_BEFORE = np.timedelta64(32, "D")

Box = tuple[float, float, float, float]


def open_carbonsense(
    store: str | os.PathLike,
    *,
    sites: str | Sequence[str] | None = None,
    igbp: str | Sequence[str] | None = None,
    bbox: Box | None = None,
    time: slice | tuple | str | None = None,
    variables: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    max_qc: int | Mapping[str, int] | None = None,
    max_fill_days: float | Mapping[str, float] | None = None,
    min_quality: float | Mapping[str, float] | None = None,
    normalized: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open a cube that `build_carbonsense` made, or a part of it, lazily.

    Parameters
    ----------
    store : path or URL
        The cube; a URL such as ``s3://bucket/cube.zarr`` is read through fsspec.
    sites : str or sequence of str, optional
        Sites, in the order wanted.
    igbp : str or sequence of str, optional
        Only sites of these classes, e.g. ``"DBF"``.
    bbox : (west, south, east, north), optional
        Only sites within these degrees; ``west > east`` crosses the antimeridian.
    time : slice, (start, stop) or str, optional
        Hours (UTC), both ends included as xarray does: ``slice("2004", "2006")`` is three years, ``"2004"`` is one.
        Sites keep their place even if they have no value then. Chips are cut to the same days, and the last day
        before them is kept, because its chip is what is known of the land when the time begins.
    variables, targets : str or sequence of str, optional
        Predictors and fluxes, in the order wanted; default all.
    max_qc : int or mapping of str to int, optional
        Values with a worse flag (0 measured to 3 poor fill) become missing, each variable by its own flag; the flags
        stay. A mapping gives limits by name; names it does not have are not masked.
    max_fill_days : number or mapping of str to number, optional
        Filled values (flags 1 to 3) in a gap longer than so many days become missing; the flags stay. A gap is a run of
        hours that are not measured, of one variable and site, and has its whole length even where `time` cuts it:
        all flags of a site are read for this.
    min_quality : number or mapping of str to number, optional
        Of a daily cube, in place of the two before: days of which a smaller share than this is measured or good fill
        (1 is best), or an unknown one, become missing, each variable by its own quality, which stays.
    normalized : bool
        Scale predictors and fluxes by their bounds (`fluxcube.normalisation`) instead of giving physical values, and
        uncertainties by the same width; `fluxcube.normalisation.denormalise` undoes it.
    storage_options : mapping, optional
        What fsspec needs to reach a URL, e.g. ``{"anon": True}``; neither kept in the Dataset nor logged.

    Returns
    -------
    xr.Dataset
        A cube (`fluxcube.schema`) of Dask arrays, one chunk a site and two years. Its time runs from the first to the
        last step that a selected site has.

    Raises
    ------
    StoreError
        If there is no such store, or it is no finished cube.
    UnknownNameError
        If a site, class, variable or target is none of the cube's.
    ConfigError
        If nothing is left of the cube, saying which selection emptied it; or if a selection cannot be understood.
    """
    whole = open_store(store, kind="cube", dask=False, storage_options=storage_options)
    check_limits(whole, max_qc, max_fill_days, min_quality)
    chosen = _at_sites(whole, sites, igbp, bbox)
    spanned = _spanned(whole, chosen)
    ds = _at_hours(spanned, time)
    begin = int((ds.time.values[0] - EPOCH) / (DAY if resolution_of(ds) == "daily" else HOUR))
    ds = dask_chunked(ds, begin={"time": begin}, time=_DASK_HOURS)
    if not np.array_equal(chosen, np.arange(ds.sizes["site"])):
        ds = ds.isel(site=chosen)
    if "day_held" in ds.coords:
        ds = ds.isel(day=ds.day_held.values).drop_vars("day_held")
    ds = _labelled(ds, "variable", variables, "variables")
    ds = _labelled(ds, "target", targets, "targets")
    ds = validate_cube(_tidy(ds))
    if max_qc is not None:
        ds = mask_flags(ds, max_qc)
    if max_fill_days is not None:
        ds = mask_fills(ds, spanned, max_fill_days)
    if min_quality is not None:
        ds = mask_quality(ds, min_quality)
    return scale_by_bounds(ds) if normalized else ds


def _tidy(ds: xr.Dataset) -> xr.Dataset:
    """Put arrays in their order, and let how they are stored not decide how a user writes a part of them."""
    arrays = {name: ds[name] for name in _ORDER if name in ds}
    ds = ds.drop_vars(arrays).assign(arrays).drop_encoding()
    for name in ("time", "time_bnds"):  # which CF wants in one unit
        if name in ds.coords:
            ds[name].encoding = {"units": "hours since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
    ds.attrs.pop("complete", None)
    return ds


def _names(asked: str | Sequence[str]) -> list[str]:
    return [asked] if isinstance(asked, str) else list(dict.fromkeys(asked))


def _spanned(ds: xr.Dataset, chosen: np.ndarray) -> xr.Dataset:
    """Cut the time axis, which begins at the store's epoch, to what the chosen sites have."""
    start, stop = ds.time_start.values[chosen].min(), ds.time_stop.values[chosen].max()
    part = slice(*np.searchsorted(ds.time.values, [start, stop]))
    ds = ds.isel(time=part)
    if "day" not in ds.dims:
        return ds
    # A chip of before the first hour is what is known of the land when it comes.
    days = slice(*np.searchsorted(ds.day.values, [start - _CHIP_BEFORE, stop]))
    return ds.isel(day=days)


def _at_sites(
    ds: xr.Dataset, sites: str | Sequence[str] | None, igbp: str | Sequence[str] | None, bbox: Box | None
) -> np.ndarray:
    """Return the places of the chosen sites on their axis."""
    chosen = np.arange(ds.sizes["site"])
    if sites is not None:
        chosen = _positions(ds.site.values, _names(sites), "site", f"sites={sites!r}")
    if igbp is not None:
        for name in _names(igbp):
            if name not in IGBP_NUMBERS:
                raise unknown("IGBP class", name, IGBP_NUMBERS)
        chosen = _kept(chosen, np.isin(ds.igbp.values[chosen], _names(igbp)), f"igbp={igbp!r}", "its class", ds.igbp)
    if bbox is not None:
        chosen = _kept(chosen, _inside(ds, _checked(bbox))[chosen], f"bbox={bbox!r}", "its place", None)
    return chosen


def _positions(labels: np.ndarray, names: Sequence[str], kind: str, filter_: str) -> np.ndarray:
    at = {str(label): i for i, label in enumerate(labels)}
    for name in names:
        if name not in at:
            raise unknown(kind, name, at)
    if not names:
        raise ConfigError(f"{filter_} selects no {kind}: name at least one, or leave it out for all.")
    return np.array([at[name] for name in names])


def _kept(chosen: np.ndarray, mask: np.ndarray, filter_: str, what: str, values: xr.DataArray | None) -> np.ndarray:
    if not mask.any():
        found = f": they are {', '.join(sorted(set(values.values[chosen])))}" if values is not None else ""
        raise ConfigError(
            f"{filter_} leaves no site; {what} rules out each of the {len(chosen)} sites so far{found}. Widen it."
        )
    return chosen[mask]


def _checked(bbox: Box) -> Box:
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


def _at_hours(ds: xr.Dataset, time: slice | tuple | str | None) -> xr.Dataset:
    if time is None:
        return ds
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
    return ds.isel(day=_days(ds.day.values, hours.values)) if "day" in ds.dims else ds


def _ends(time: slice | tuple | str) -> tuple:
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


def _days(days: np.ndarray, hours: np.ndarray) -> slice:
    """Return the days whose local noon can be among some UTC hours, wherever the site, and the last one before.

    Local noon of a date lies within that date in UTC, from its midnight at 180 E to its end at 180 W.
    """
    first = int(np.searchsorted(days, hours[0].astype("datetime64[D]")))
    last = int(np.searchsorted(days, hours[-1].astype("datetime64[D]"), side="right"))
    return slice(max(first - 1, 0), last)


def _labelled(ds: xr.Dataset, dim: str, names: str | Sequence[str] | None, argument: str) -> xr.Dataset:
    if names is None:
        return ds
    names = _names(names)
    return ds.isel({dim: _positions(ds[dim].values, names, dim, f"{argument}={names!r}")})

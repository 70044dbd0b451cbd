"""Open a set of ERA5 or ERA5-Land files as one: check that they fit together, join their stamps, lay out the grid.

Only headers, static fields and small samples are read.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.era5.accumulation import find_accumulation
from fluxcube.sources.era5.alignment import Layout, find_cells, find_layout
from fluxcube.sources.era5.checks import STATIC_LIMITS, check_amounts, check_darkness, check_light, check_ranges
from fluxcube.sources.era5.grid import (
    ONE_CELL,
    ONE_CELL_LAND,
    Axis,
    cell_step,
    inside_box,
    interpolate,
    target_axes,
    west_to_east,
)
from fluxcube.sources.era5.header import Header, read_header
from fluxcube.sources.era5.open import ERA5Paths, Source, extent, find_sources
from fluxcube.sources.era5.parameters import ACCUMULATED, INSTANT, STATIC, UNITS
from fluxcube.sources.era5.sampling import Region, sample_days
from fluxcube.sources.era5.series import GRAVITY, Box, Files, FileSeries, Period, read_into, sample

log = logging.getLogger(__name__)

_PARAMETERS = (*INSTANT, *ACCUMULATED)
#: Minimum number of stamps at which a cell without values is looked for before it counts as sea.
_LAND_STAMPS = 4
#: Differences of static fields in two files that packing explains (m2 s-2, and a fraction).
_STATIC_APART = {"z": 20.0, "lsm": 0.01}


def read_files(
    source: ERA5Paths,
    *,
    accumulation: str | None = None,
    bbox: Box | None = None,
    time: Period | None = None,
    resolution: float | None = None,
    allow_gaps: bool = False,
    check: bool = True,
    storage_options: Mapping[str, object] | None = None,
    parameters: Collection[str] | None = None,
) -> Files:
    """Read the headers and static fields of ERA5 files, and samples that show the accumulation and wrong units.

    Other parameters, and errors, are those of `fluxcube.sources.era5.variables.open_era5` and `fluxcube.open_forcing`.
    No Dask graph is built or computed.

    Parameters
    ----------
    parameters : collection of str, optional
        Short names of the parameters in time that are used; by default all.
    """
    if accumulation not in (None, "hour", "day"):
        raise ConfigError(f"accumulation must be 'hour' (ERA5) or 'day' (ERA5-Land), found {accumulation!r}.")
    headers = [header for one in find_sources(source, storage_options) if (header := read_header(one)) is not None]
    headers = headers if parameters is None else [header.only(parameters) for header in headers]
    if not any(len(header.stamps) for header in headers):
        raise SourceError(
            f"nothing usable in {source}: expected hourly ERA5 with at least one of {', '.join(_PARAMETERS)}."
        )
    first = next(header for header in headers if len(header.stamps))
    rows, columns, step = _axes(first, resolution, bbox)
    _warn_of_edges(bbox, rows, columns, step)
    whole = replace(_join(headers, first), rows=rows, columns=columns, step=step)
    _warn_of_unused(whole, headers)
    files = whole.between(time)
    _check_gaps(files, allow_gaps)
    files = _with_land(files, headers, first)
    region = _region(files)
    days = sample_days(whole, files.stamps, region)
    try:
        files = replace(files, accumulation=find_accumulation(days, headers, accumulation))
    except SourceError:
        if check:  # light in other units shows no accumulation: its units are the cause
            check_darkness(days, first.latitude, first.longitude)
        raise
    if check:
        check_ranges(files, region)
        check_amounts(days, files.accumulation)
        check_light(days, files.accumulation, first.latitude, first.longitude)
    return files


def _warn_of_unused(files: Files, headers: Sequence[Header]) -> None:
    """Log a warning where there is no sunlight, but other parameters of radiation that are not used."""
    if "ssrd" in files.parameters:
        return
    for header in headers:
        others = [
            str(name) for name, array in header.source.open().data_vars.items() if _is_radiation(str(name), array)
        ]
        if others:
            log.warning(
                "%s: no parameter is the sunlight (ssrd, or the mean rate avg_sdswrf), so that there is no SW_IN; not "
                "used: %s",
                header.source,
                ", ".join(others),
            )


def _is_radiation(name: str, array: xr.DataArray) -> bool:
    """Return whether a parameter that is not used has a unit of radiation."""
    units = str(array.attrs.get("units", "")).replace("*", "").replace("^", "").replace(" ", "")
    return name not in _PARAMETERS and units in ("Wm-2", "W/m2", "Jm-2", "J/m2")


def _region(files: Files) -> Region:
    """Return the rows and columns of the files from the first to the last that is needed."""
    rows, columns = (slice(int(a.needed[0]), int(a.needed[-1]) + 1) for a in (files.rows, files.columns))
    return rows, columns


def _axes(header: Header, resolution: float | None, bbox: Box | None) -> tuple[Axis, Axis, tuple[float, float]]:
    """Return the axes of the requested cells, and the cells' height and width."""
    longitude, columns = _normal_longitude(header.longitude, header.source)
    one_cell = ONE_CELL_LAND if _is_land_cell(header) else ONE_CELL
    if resolution is not None:
        rows, cols = target_axes(header.latitude, longitude, columns, resolution, bbox, one_cell)
        return rows, cols, (resolution, resolution)
    high = cell_step(header.latitude, longitude, one_cell=one_cell)
    step = high, cell_step(longitude, header.latitude, circle=True, one_cell=one_cell)
    rows, cols = Axis.own(header.latitude, np.arange(len(header.latitude))), Axis.own(longitude, columns)
    if bbox is not None:
        inside = inside_box(bbox, header.latitude, longitude)
        rows, cols = rows[inside[0]], cols[inside[1]]
    return rows, west_to_east(cols, step[1]), step


def _is_land_cell(header: Header) -> bool:
    """Return whether a single cell is one of ERA5-Land, by name or by coordinates that are not on the grid of ERA5."""
    centre = np.array([header.latitude[0], header.longitude[0]])
    on_grid = [
        bool(np.allclose(centre / size, np.round(centre / size), atol=1e-3)) for size in (ONE_CELL, ONE_CELL_LAND)
    ]
    return len(header.latitude) == len(header.longitude) == 1 and (header.land or on_grid == [False, True])


def _warn_of_edges(bbox: Box | None, rows: Axis, columns: Axis, step: tuple[float, float]) -> None:
    """Log a warning where a box reaches beyond the files."""
    if bbox is None:
        return
    west, south, east, north = bbox
    beyond = {
        "south": rows.centres.min() - max(south, -90.0) > step[0],
        "north": min(north, 90.0) - rows.centres.max() > step[0],
        "west": np.abs((columns.centres - west + 180) % 360 - 180).min() > step[1],
        "east": np.abs((columns.centres - east + 180) % 360 - 180).min() > step[1],
    }
    if any(beyond.values()):
        log.warning(
            "bbox %s reaches beyond the files to the %s: cells from %g to %g degrees north and %g to %g east are used",
            tuple(bbox),
            ", ".join(side for side, outside in beyond.items() if outside),
            rows.centres.min(),
            rows.centres.max(),
            columns.centres[0],
            columns.centres[-1],
        )


def _extent(axis: np.ndarray) -> str:
    return f"{len(axis)} values from {axis[0]:g} to {axis[-1]:g}"


def _normal_longitude(longitude: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return longitudes from -180 to 180, ascending, and the file's column of each."""
    inside = np.where((longitude >= -180) & (longitude < 180), longitude, (longitude + 180) % 360 - 180)
    inside = np.round(inside, 6)
    columns = np.argsort(inside, kind="stable")
    if (np.diff(inside[columns]) < 1e-6).any():
        raise SourceError(f"{source}: a longitude appears twice on the circle ({_extent(longitude)}): drop one.")
    return inside[columns], columns


def _join(headers: Sequence[Header], first: Header) -> Files:
    """Place the stamps of every parameter on one dense hourly axis, and their cells on the grid of the first file."""
    begin = min(h.stamps[0] for h in headers if len(h.stamps))
    end = max(h.stamps[-1] for h in headers if len(h.stamps))
    size = int((end - begin).astype(int)) + 1
    if size < 2:
        where = next(h.source for h in headers if len(h.stamps))
        raise SourceError(
            f"{where} has only one stamp ({begin}): an hour needs the stamps at its start and at its end; add the next."
        )
    placed = [(h, find_layout(first, h)) for h in headers if h.parameters]
    parameters = {
        name: _series(name, [(h, layout) for h, layout in placed if name in h.parameters], begin)
        for name in _PARAMETERS
        if any(name in h.parameters for h in headers)
    }
    none = Axis.own(np.empty(0), np.empty(0, np.int64))
    return Files(none, none, begin, size, parameters)


def _series(name: str, placed: Sequence[tuple[Header, Layout]], begin: np.datetime64) -> tuple[FileSeries, ...]:
    """Return the series of one parameter in the order of time, without hours that an earlier file already covers."""
    candidates: list[FileSeries] = []
    for header, layout in placed:
        positions = (header.stamps - begin).astype(int)
        edges = np.flatnonzero(np.diff(positions) != 1) + 1
        for first, after in zip((0, *edges), (*edges, len(positions)), strict=True):
            start, stop = int(positions[first]), int(positions[first] + after - first)
            candidates.append(FileSeries(header.source, header.first + int(first), start, stop, layout))
    candidates.sort(key=lambda series: (series.start, str(series.source)))
    joined: list[FileSeries] = []
    covered = candidates[0].start
    for series in candidates:
        for earlier in (one for one in joined if one.stop > series.start):
            _check_agree(name, earlier, series, begin)
        if series.stop > covered:
            skip = max(covered - series.start, 0)
            joined.append(replace(series, position=series.position + skip, start=series.start + skip))
            covered = series.stop
    return tuple(joined)


def _check_agree(name: str, one: FileSeries, other: FileSeries, begin: np.datetime64) -> None:
    """Compare a sample of the hours that two files share; packing may differ, values may not."""
    first, after = max(one.start, other.start), min(one.stop, other.stop)
    hours = np.unique(np.linspace(first, after - 1, 24).astype(int))
    x, y = (np.concatenate([sample(s, name, slice(at, at + 1)) for at in hours]) for s in (one, other))
    known = np.concatenate([x[np.isfinite(x)], y[np.isfinite(y)]])
    spread = np.ptp(known) if known.size else 0.0
    wrong = ~(np.isclose(x, y, rtol=1e-4, atol=1e-3 * spread, equal_nan=True)).all(axis=(1, 2))
    if wrong.any():
        raise SourceError(
            f"{one.source} and {other.source} both contain {name} of {begin + hours[wrong][0]} UTC, with different "
            "values: keep one of them (a preliminary and a final release of the same month do this)."
        )


def _check_gaps(files: Files, allowed: bool) -> None:
    """Refuse stamps that a parameter lacks, or log a warning where gaps are allowed."""
    size = len(files.stamps)
    for name, all_series in files.parameters.items():
        edges = [0, *(min(max(edge, 0), size) for series in all_series for edge in (series.start, series.stop)), size]
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop <= start or (name in ACCUMULATED and (start, stop) == (0, 1) and _is_midnight(files.begin)):
                continue
            first, last = (files.stamps[i].astype("datetime64[h]") for i in (start, stop - 1))
            if not allowed:
                where = ", ".join(sorted({str(series.source) for series in all_series})[:3])
                raise SourceError(
                    f"{name} has no stamps from {first} to {last} UTC ({where}): download them, select other hours "
                    "with time=, or pass allow_gaps=True to have hours without values."
                )
            log.warning("%s has no stamps from %s to %s UTC: NaN there", name, first, last)


def _is_midnight(stamp: np.datetime64) -> bool:
    """Return whether a stamp is 00 UTC: no hour of a period that begins there needs an accumulation until it."""
    return int(stamp.astype("datetime64[h]").astype(np.int64)) % 24 == 0


def _with_land(files: Files, headers: Sequence[Header], first: Header) -> Files:
    """Add elevation, land fraction, and the weights of the files' cells in interpolation."""
    rows, columns = files.rows.needed, files.columns.needed
    fields: dict[str, np.ndarray] = {}
    for name in STATIC:
        for holder in _first_and_last([header for header in headers if name in header.static]):
            values = _static(holder, name, *find_cells(first, holder, rows, columns))
            if not np.allclose(fields.setdefault(name, values), values, atol=_STATIC_APART[name], equal_nan=True):
                raise SourceError(
                    f"{holder.source} and an earlier file both contain {name}, with different values: keep one of them."
                )
    elevation = fields["z"] / GRAVITY if "z" in fields else np.full((len(rows), len(columns)), np.nan)
    masked = "lsm" in fields
    # ERA5-Land has no values over the sea, ERA5 has them everywhere.
    land = np.clip(np.nan_to_num(fields["lsm"]), 0.0, 1.0) if masked else _cells_with_values(files, rows, columns)
    fraction = interpolate(land, files.rows, files.columns)
    return replace(
        files,
        weights=land.astype("float32"),
        elevation=interpolate(elevation, files.rows, files.columns),
        land_fraction=fraction if masked else (fraction >= 0.5 - 1e-9).astype("float64"),
        masked=masked,
    )


def _first_and_last(headers: Sequence[Header]) -> list[Header]:
    """Return two headers that stand for all, since each month may repeat the static fields."""
    return list(dict.fromkeys([*headers[:1], *headers[-1:]]))


def _cells_with_values(files: Files, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return 1.0 at cells that have a value of the first parameter at some of several stamps, 0.0 at others.

    Stamps are read until every cell has a value, or until the last of at least `_LAND_STAMPS` adds no cell. A grid
    without any value is logged; maps of it are refused (`fluxcube.inference.grid.upscale`).
    """
    name = next(iter(files.parameters))
    stamps = _spread_stamps(files, name)
    if not stamps:
        return np.ones((len(rows), len(columns)))
    known = np.zeros((len(rows), len(columns)), bool)
    for read, at in enumerate(stamps, 1):
        before = known.sum()
        known |= np.isfinite(files.read_cells(name, slice(at, at + 1), rows, columns)[0])
        if known.all() or (read >= _LAND_STAMPS and before and known.sum() == before):
            break
    if not known.any():
        first, last = (files.stamps[at].astype("datetime64[h]") for at in (min(stamps), max(stamps)))
        log.warning(
            "%s: %s has no value at any cell, at %d stamps from %s to %s UTC: the grid has no land",
            files.parameters[name][0].source,
            name,
            len(stamps),
            first,
            last,
        )
    return known.astype("float64")


def _spread_stamps(files: Files, name: str) -> list[int]:
    """Return stamps of a parameter spread over the period and the day, those in the middle of the record first."""
    present = [np.arange(max(s.start, 0), min(s.stop, len(files.stamps))) for s in files.parameters[name]]
    at = np.concatenate([*present, np.empty(0, np.int64)]).astype(int)
    if not len(at):
        return []
    # 13 stamps, whose distances differ, so that they are spread over the hours of the day as well.
    chosen = np.unique(np.linspace(0, len(at) - 1, 13).astype(int))
    apart = max(1, min(24, len(at) // 13))
    chosen = np.minimum(chosen + 5 * np.arange(len(chosen)) % apart, len(at) - 1)
    order = np.argsort(np.abs(chosen - chosen[len(chosen) // 2]), kind="stable")
    return [int(at[i]) for i in chosen[order]]


def _static(header: Header, name: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read a field that does not change (row, column), from up to three stamps where the file repeats it in time.

    Raises
    ------
    SourceError
        If values cannot be in the field's units.
    """
    out = np.empty((1, len(rows), len(columns)))
    order = np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable")
    ordered = np.full_like(out, np.nan)
    count = extent(header.source.open().variables[name])[0]
    for at in dict.fromkeys((header.first, count // 2, count - 1)):  # the first stamp may lack values
        part = np.empty_like(out)
        read_into(part, header.source, name, slice(at, at + 1), rows[order[0]], columns[order[1]])
        ordered = np.where(np.isnan(ordered), part, ordered)
        if not np.isnan(ordered).any():
            break
    out[np.ix_(np.zeros(1, int), *order)] = ordered
    low, high = STATIC_LIMITS[name]
    wrong = out[(out < low) | (out > high)]
    if wrong.size:
        raise SourceError(
            f"{header.source}: {name} is {wrong[np.abs(wrong).argmax()]:g}, which cannot be {UNITS[name]} (expected "
            f"{low:g} to {high:g}): convert it (a land-sea mask in percent to a fraction), or download it again."
        )
    return out[0]

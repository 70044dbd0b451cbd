"""Open a set of ERA5 or ERA5-Land files as one: check that they fit together, join their stamps, lay out the grid.

Only headers, static fields and small samples are read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.era5.checks import check_values, find_accumulation
from fluxcube.sources.era5.grid import Axis, cell_step, inside_box, interpolate, target_axes, west_to_east
from fluxcube.sources.era5.header import Header, read_header
from fluxcube.sources.era5.open import ERA5Paths, Source, find_sources
from fluxcube.sources.era5.parameters import ACCUMULATED, INSTANT
from fluxcube.sources.era5.series import GRAVITY, Box, Files, FileSeries, Period, read_into, sample

log = logging.getLogger(__name__)

_PARAMETERS = (*INSTANT, *ACCUMULATED)


def read_files(
    source: ERA5Paths,
    *,
    accumulation: str | None = None,
    bbox: Box | None = None,
    time: Period | None = None,
    resolution: float | None = None,
    allow_gaps: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> Files:
    """Read the headers and static fields of ERA5 files, and samples that show the accumulation and wrong units.

    Parameters and errors are those of `fluxcube.sources.era5.variables.open_era5` and `fluxcube.open_forcing`. No Dask
    graph is built or computed.
    """
    if accumulation not in (None, "hour", "day"):
        raise ConfigError(f"accumulation must be 'hour' (ERA5) or 'day' (ERA5-Land), found {accumulation!r}.")
    headers = [header for one in find_sources(source, storage_options) if (header := read_header(one)) is not None]
    if not any(len(header.stamps) for header in headers):
        raise SourceError(
            f"nothing usable in {source}: expected hourly ERA5 with at least one of {', '.join(_PARAMETERS)}."
        )
    first = headers[0]
    for other in headers[1:]:
        _check_same_grid(first, other)
    rows, columns, step = _axes(first, resolution, bbox)
    _warn_of_edges(bbox, rows, columns, step)
    whole = replace(_join(headers), rows=rows, columns=columns, step=step)
    files = whole.between(time)
    _check_gaps(files, allow_gaps)
    files = _with_land(files, headers)
    check_values(files)
    return replace(files, accumulation=find_accumulation(whole, files.stamps, headers, accumulation))


def _axes(header: Header, resolution: float | None, bbox: Box | None) -> tuple[Axis, Axis, tuple[float, float]]:
    """Return the axes of the requested cells, and the cells' height and width."""
    longitude, columns = _normal_longitude(header.longitude, header.source)
    if resolution is not None:
        rows, cols = target_axes(header.latitude, longitude, columns, resolution, bbox)
        return rows, cols, (resolution, resolution)
    step = cell_step(header.latitude, longitude), cell_step(longitude, header.latitude, circle=True)
    rows, cols = Axis.own(header.latitude, np.arange(len(header.latitude))), Axis.own(longitude, columns)
    if bbox is not None:
        inside = inside_box(bbox, header.latitude, longitude)
        rows, cols = rows[inside[0]], cols[inside[1]]
    return rows, west_to_east(cols, step[1]), step


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


def _check_same_grid(one: Header, other: Header) -> None:
    for axis, a, b in (
        ("latitude", one.latitude, other.latitude),
        ("longitude", one.longitude, other.longitude),
    ):
        if a.shape != b.shape or np.abs(a - b).max() > 1e-3:
            raise SourceError(
                f"files on different grids: {one.source} has {_extent(a)} of {axis}, {other.source} has {_extent(b)}. "
                "Open them one grid at a time."
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


def _join(headers: Sequence[Header]) -> Files:
    """Place the stamps of every parameter on one dense hourly axis."""
    begin = min(h.stamps[0] for h in headers if len(h.stamps))
    end = max(h.stamps[-1] for h in headers if len(h.stamps))
    size = int((end - begin).astype(int)) + 1
    if size < 2:
        where = next(h.source for h in headers if len(h.stamps))
        raise SourceError(
            f"{where} has only one stamp ({begin}): an hour needs the stamps at its start and at its end; add the next."
        )
    parameters = {
        name: _series(name, [h for h in headers if name in h.parameters], begin)
        for name in _PARAMETERS
        if any(name in h.parameters for h in headers)
    }
    none = Axis.own(np.empty(0), np.empty(0, np.int64))
    return Files(none, none, begin, size, parameters)


def _series(name: str, headers: Sequence[Header], begin: np.datetime64) -> tuple[FileSeries, ...]:
    """Return the series of one parameter in the order of time, without hours that an earlier file already covers."""
    candidates: list[FileSeries] = []
    for header in headers:
        positions = (header.stamps - begin).astype(int)
        edges = np.flatnonzero(np.diff(positions) != 1) + 1
        for first, after in zip((0, *edges), (*edges, len(positions)), strict=True):
            start = int(positions[first])
            candidates.append(FileSeries(header.source, header.first + int(first), start, start + int(after - first)))
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
            if stop <= start:
                continue
            first, last = (files.stamps[i].astype("datetime64[h]") for i in (start, stop - 1))
            if not allowed:
                where = ", ".join(sorted({str(series.source) for series in all_series})[:3])
                raise SourceError(
                    f"{name} has no stamps from {first} to {last} UTC ({where}): download them, select other hours "
                    "with time=, or pass allow_gaps=True to have hours without values."
                )
            log.warning("%s has no stamps from %s to %s UTC: NaN there", name, first, last)


def _with_land(files: Files, headers: Sequence[Header]) -> Files:
    """Add elevation, land fraction, and the weights of the files' cells in interpolation."""
    rows, columns = files.rows.needed, files.columns.needed
    fields: dict[str, np.ndarray] = {}
    for header in headers:
        for name in header.static:
            if name not in fields:
                fields[name] = _static(header, name, rows, columns)
    elevation = fields["z"] / GRAVITY if "z" in fields else np.full((len(rows), len(columns)), np.nan)
    masked = "lsm" in fields
    # ERA5-Land has no values over the sea, ERA5 has them everywhere; the first stamp of 1950 may lack accumulations.
    land = np.clip(np.nan_to_num(fields["lsm"]), 0.0, 1.0) if masked else _cells_with_values(files, rows, columns)
    fraction = interpolate(land, files.rows, files.columns)
    return replace(
        files,
        weights=land.astype("float32"),
        elevation=interpolate(elevation, files.rows, files.columns),
        land_fraction=fraction if masked else (fraction >= 0.5 - 1e-9).astype("float64"),
        masked=masked,
    )


def _cells_with_values(files: Files, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return 1.0 at cells that have a value of the first parameter, else 0.0; 1.0 where no stamp can be tested."""
    name = next(iter(files.parameters))
    for series in files.parameters[name]:
        at = min(max(series.start, 0) + 1, series.stop - 1)
        if 0 <= at < len(files.stamps):
            return np.isfinite(files.read_cells(name, slice(at, at + 1), rows, columns)[0]).astype("float64")
    return np.ones((len(rows), len(columns)))


def _static(header: Header, name: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read a field that does not change (row, column), from the first stamp where the file repeats it in time."""
    out = np.empty((1, len(rows), len(columns)))
    read_into(out, header.source, name, slice(header.first, header.first + 1), rows, columns)
    return out[0]

"""The files of ERA5 and ERA5-Land as one: whether they fit together, and reading boxes of them.

Only headers, static fields and small samples are read ahead; nothing here knows of tower variables or of Dask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.era5.grid import Axis, blend, cell_step, inside_box, interpolate, target_axes, west_to_east
from fluxcube.sources.era5.open import ACCUMULATED, INSTANT, Header, Source, extent, find_sources, read_box, read_header

log = logging.getLogger(__name__)

GRAVITY = 9.80665  # m s-2, by which ERA5 turns height into geopotential
_MEMBERS = (*INSTANT, *ACCUMULATED)


@dataclass(frozen=True)
class Run:
    """Stamps without a gap of one member in one source: its positions from `start`, axis positions `at` to `stop`."""

    source: Source
    start: int
    at: int
    stop: int


@dataclass(frozen=True, eq=False)
class Files:
    """What a set of ERA5 files holds: the grid, the stamps, and where each member's values are.

    Attributes
    ----------
    rows, columns : Axis
        Latitudes, in the files' order, and longitudes, from west to east, and where they lie in the files.
    begin : datetime64[h]
        First stamp.
    count : int
        Hourly stamps.
    members : mapping
        Runs of stamps by the name of the member.
    accumulation : {"hour", "day", ""}
        What accumulated members hold; "" where there are none.
    weights : (row, column) float32
        Share of land of the files' cells that are needed, by which they count in interpolation.
    elevation, land_fraction : (latitude, longitude) float64
        m (NaN without ``z``); 0..1.
    masked : bool
        Whether `land_fraction` is ERA5's land-sea mask (``lsm``); without one it is 1 where there are values.
    step : (float, float)
        Height and width of a cell, degrees.
    """

    rows: Axis
    columns: Axis
    begin: np.datetime64
    count: int
    members: Mapping[str, tuple[Run, ...]]
    accumulation: str = ""
    weights: np.ndarray = field(default_factory=lambda: np.ones((0, 0), "float32"))
    elevation: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    land_fraction: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    masked: bool = False
    step: tuple[float, float] = (np.nan, np.nan)

    @property
    def latitude(self) -> np.ndarray:
        """Degrees north of the cells' centres (latitude,)."""
        return self.rows.centres

    @property
    def longitude(self) -> np.ndarray:
        """Degrees east (longitude,), from -180 to 180, but in one piece across the antimeridian."""
        return self.columns.centres

    @property
    def stamps(self) -> np.ndarray:
        """Dense hourly stamps (time + 1,) datetime64[ns]; output hours begin at all but the last."""
        return (self.begin + np.arange(self.count)).astype("datetime64[ns]")

    @property
    def time(self) -> np.ndarray:
        """Starts of the UTC hours (time,) datetime64[ns]."""
        return self.stamps[:-1]

    @property
    def sources(self) -> list[Source]:
        """Sources of any member, sorted."""
        found = {run.source for runs in self.members.values() for run in runs}
        return sorted(found, key=str)

    @property
    def token(self) -> tuple:
        """What a block's values depend on beside its place, to name Dask keys by."""
        axes = [(axis.low, axis.high, axis.share) for axis in (self.rows, self.columns)]
        sources = [(str(s), s.changed) for s in self.sources]
        return sources, self.accumulation, str(self.begin), self.count, axes, self.weights

    def cut(self, time: slice, rows: slice, columns: slice) -> Files:
        """One block: only its cells, hours and runs, and what interpolation needs of the weights."""
        r, c = self.rows[rows], self.columns[columns]
        none = np.empty((0, 0))
        weights = none.astype("float32") if r.exact and c.exact else self._weights(r, c)
        part = replace(self._shifted(time), rows=r, columns=c, elevation=none, land_fraction=none, weights=weights)
        here = {
            name: tuple(run for run in runs if run.at < part.count and run.stop > 0)
            for name, runs in part.members.items()
        }
        return replace(part, members=here)

    def between(self, time: slice | tuple | None) -> Files:
        """Cut out a span of hours, both ends included."""
        return self._shifted(_hours(time, self.time))

    def _shifted(self, hours: slice) -> Files:
        shifted = {
            name: tuple(replace(run, at=run.at - hours.start, stop=run.stop - hours.start) for run in runs)
            for name, runs in self.members.items()
        }
        return replace(self, begin=self.begin + hours.start, count=int(hours.stop + 1 - hours.start), members=shifted)

    def read(self, member: str, stamps: slice, rows: slice, columns: slice) -> np.ndarray:
        """Values (stamp, latitude, longitude) float64 of a member; NaN at stamps that no file holds.

        Raises
        ------
        SourceError
            If a file cannot be read there.
        """
        r, c = self.rows[rows], self.columns[columns]
        if r.exact and c.exact:
            return self.read_cells(member, stamps, r.low, c.low)
        return blend(self.read_cells(member, stamps, r.needed, c.needed), r, c, self._weights(r, c))

    def _weights(self, rows: Axis, columns: Axis) -> np.ndarray:
        """Weights of the files' cells that some of its own rows and columns need."""
        axes = (self.rows, rows), (self.columns, columns)
        return self.weights[np.ix_(*(np.searchsorted(whole.needed, part.needed) for whole, part in axes))]

    def read_cells(self, member: str, stamps: slice, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Values of the files' own rows and columns; see `read`."""
        out = np.full((stamps.stop - stamps.start, len(rows), len(columns)), np.nan)
        for run in self.members[member]:
            a, b = max(run.at, stamps.start), min(run.stop, stamps.stop)
            if a >= b:
                continue
            here = slice(run.start + a - run.at, run.start + b - run.at)
            into = out[a - stamps.start : b - stamps.start]
            for top, bottom in _stretches(rows):
                for left, right in _stretches(columns):
                    box = here, _span(rows, top, bottom), _span(columns, left, right)
                    into[:, top:bottom, left:right] = read_box(run.source, member, box)
        return out


def read_files(
    source: object,
    *,
    accumulation: str | None = None,
    bbox: tuple | None = None,
    time: slice | tuple | None = None,
    resolution: float | None = None,
    allow_gaps: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> Files:
    """Read the headers of ERA5 files, their static members, and samples that tell the accumulation and wrong units.

    Parameters and errors are those of `fluxcube.sources.era5.variables.open_era5` and `fluxcube.open_forcing`. No Dask
    graph is made or computed.
    """
    from fluxcube.sources.era5.checks import check_values, tell_accumulation

    if accumulation not in (None, "hour", "day"):
        raise ConfigError(f"accumulation must be 'hour' (ERA5) or 'day' (ERA5-Land), found {accumulation!r}.")
    headers = [header for one in find_sources(source, storage_options) if (header := read_header(one)) is not None]
    if not any(len(header.stamps) for header in headers):
        raise SourceError(
            f"nothing usable in {source}: expected hourly ERA5 with at least one of {', '.join(_MEMBERS)}."
        )
    first = headers[0]
    for other in headers[1:]:
        _check_same_grid(first, other)
    rows, columns, step = _axes(first, resolution, bbox)
    _warn_of_edges(bbox, rows, columns, step)
    whole = _join(headers)
    whole = replace(whole, rows=rows, columns=columns, step=step)
    files = whole.between(time)
    _check_gaps(files, allow_gaps)
    files = _with_land(files, headers)
    check_values(files)
    return replace(files, accumulation=tell_accumulation(whole, files.stamps, headers, accumulation))


def _axes(header: Header, resolution: float | None, bbox: tuple | None) -> tuple[Axis, Axis, tuple[float, float]]:
    """Axes of the cells wanted, and how high and wide these are."""
    longitude, columns = _normal_longitude(header.longitude, header.source)
    if resolution is not None:
        axes = target_axes(header.latitude, longitude, columns, resolution, bbox)
        return *axes, (resolution, resolution)
    step = cell_step(header.latitude, longitude), cell_step(longitude, header.latitude, circle=True)
    rows, cols = Axis.own(header.latitude, np.arange(len(header.latitude))), Axis.own(longitude, columns)
    if bbox is not None:
        inside = inside_box(bbox, header.latitude, longitude)
        rows, cols = rows[inside[0]], cols[inside[1]]
    return rows, west_to_east(cols, step[1]), step


def _warn_of_edges(bbox: tuple | None, rows: Axis, columns: Axis, step: tuple[float, float]) -> None:
    """Say in the log where a box reaches beyond the files."""
    if bbox is None:
        return
    west, south, east, north = bbox
    outside = [
        name
        for name, off in (
            ("south", rows.centres.min() - max(south, -90.0) > step[0]),
            ("north", min(north, 90.0) - rows.centres.max() > step[0]),
            ("west", np.abs((columns.centres - west + 180) % 360 - 180).min() > step[1]),
            ("east", np.abs((columns.centres - east + 180) % 360 - 180).min() > step[1]),
        )
        if off
    ]
    if outside:
        log.warning(
            "bbox %s reaches beyond the files to the %s: cells from %g to %g degrees north and %g to %g east are used",
            tuple(bbox),
            ", ".join(outside),
            rows.centres.min(),
            rows.centres.max(),
            columns.centres[0],
            columns.centres[-1],
        )


def _check_same_grid(one: Header, other: Header) -> None:
    for axis in ("latitude", "longitude"):
        a, b = getattr(one, axis), getattr(other, axis)
        if a.shape != b.shape or np.abs(a - b).max() > 1e-3:
            raise SourceError(
                f"files on different grids: {one.source} has {_extent(a)} of {axis}, {other.source} has {_extent(b)}. "
                "Open them one grid at a time."
            )


def _extent(axis: np.ndarray) -> str:
    return f"{len(axis)} values from {axis[0]:g} to {axis[-1]:g}"


def _normal_longitude(longitude: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes from -180 to 180, ascending, and the file's column of each."""
    inside = np.where((longitude >= -180) & (longitude < 180), longitude, (longitude + 180) % 360 - 180)
    inside = np.round(inside, 6)
    columns = np.argsort(inside, kind="stable")
    if (np.diff(inside[columns]) < 1e-6).any():
        raise SourceError(f"{source}: a longitude appears twice on the circle ({_extent(longitude)}): drop one.")
    return inside[columns], columns


def _join(headers: Sequence[Header]) -> Files:
    """Lay every member's stamps on one dense hourly axis."""
    begin = min(h.stamps[0] for h in headers if len(h.stamps))
    end = max(h.stamps[-1] for h in headers if len(h.stamps))
    size = int((end - begin).astype(int)) + 1
    if size < 2:
        where = next(h.source for h in headers if len(h.stamps))
        raise SourceError(f"{where} has only one stamp ({begin}): an hour needs those at its start and at its end.")
    members = {
        name: _runs(name, [h for h in headers if name in h.members], begin)
        for name in _MEMBERS
        if any(name in h.members for h in headers)
    }
    none = Axis.own(np.empty(0), np.empty(0, np.int64))
    return Files(none, none, begin, size, members)


def _runs(name: str, headers: Sequence[Header], begin: np.datetime64) -> tuple[Run, ...]:
    """Put the runs of one member in time order, without the hours that an earlier file already gave."""
    runs: list[Run] = []
    for header in headers:
        at = (header.stamps - begin).astype(int)
        edges = np.flatnonzero(np.diff(at) != 1) + 1
        for start, stop in zip((0, *edges), (*edges, len(at)), strict=True):
            place = int(at[start])
            runs.append(Run(header.source, header.first + int(start), place, place + int(stop - start)))
    runs.sort(key=lambda run: (run.at, str(run.source)))
    kept: list[Run] = []
    done = runs[0].at
    for run in runs:
        for before in (one for one in kept if one.stop > run.at):
            _check_agree(name, before, run, begin)
        if run.stop > done:
            skip = max(done - run.at, 0)
            kept.append(Run(run.source, run.start + skip, run.at + skip, run.stop))
            done = run.stop
    return tuple(kept)


def _check_agree(name: str, one: Run, other: Run, begin: np.datetime64) -> None:
    """Compare a sample of the hours that two files share; packing may differ, values may not."""
    a, b = max(one.at, other.at), min(one.stop, other.stop)
    hours = np.unique(np.linspace(a, b - 1, 24).astype(int))
    x, y = (np.stack([sample(run, name, hour) for hour in hours]) for run in (one, other))
    known = np.concatenate([x[np.isfinite(x)], y[np.isfinite(y)]])
    spread = np.ptp(known) if known.size else 0.0
    wrong = ~(np.isclose(x, y, rtol=1e-4, atol=1e-3 * spread, equal_nan=True)).all(axis=(1, 2))
    if wrong.any():
        raise SourceError(
            f"{one.source} and {other.source} both hold {name} of {begin + hours[wrong][0]} UTC, with different "
            "values: keep one of them (a preliminary and a final release of the same month do this)."
        )


def sample(run: Run, name: str, at: int | slice, box: tuple[slice, slice] | None = None) -> np.ndarray:
    """Values (row, column), or (stamp, row, column) for a slice, at most 9 x 9 cells spread over a box."""
    shape = extent(run.source.open()[name])[1:]
    box = box or (slice(0, shape[0]), slice(0, shape[1]))
    spread = [slice(part.start, part.stop, max(1, (part.stop - part.start) // 8)) for part in box]
    stamps = slice(at, at + 1) if isinstance(at, int | np.integer) else at
    here = slice(int(stamps.start - run.at + run.start), int(stamps.stop - run.at + run.start))
    values = read_box(run.source, name, (here, *spread))
    return values if isinstance(at, slice) else values[0]


def _check_gaps(files: Files, allowed: bool) -> None:
    """Refuse stamps that a member lacks, or say in the log that they are missing."""
    for name, runs in files.members.items():
        edges = [0, *(min(max(edge, 0), len(files.stamps)) for run in runs for edge in (run.at, run.stop))]
        edges.append(len(files.stamps))
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            if b <= a:
                continue
            first, last = (files.stamps[i].astype("datetime64[h]") for i in (a, b - 1))
            if not allowed:
                where = ", ".join(sorted({str(run.source) for run in runs})[:3])
                raise SourceError(
                    f"{name} has no stamps from {first} to {last} UTC ({where}): fetch them, take other hours with "
                    "time=, or say allow_gaps=True to have hours without values."
                )
            log.warning("%s has no stamps from %s to %s UTC: NaN there", name, first, last)


def _with_land(files: Files, headers: Sequence[Header]) -> Files:
    """Add elevation, share of land, and the weights of the files' cells in interpolation."""
    places = files.rows.needed, files.columns.needed
    fields = {}
    for header in headers:
        for name in header.static:
            if name not in fields:
                fields[name] = _static(header, name, *places)
    elevation = fields["z"] / GRAVITY if "z" in fields else np.full(tuple(map(len, places)), np.nan)
    masked = "lsm" in fields
    # ERA5-Land has no values over the sea, ERA5 has them everywhere; the first stamp of 1950 may lack accumulations.
    land = np.clip(np.nan_to_num(fields["lsm"]), 0.0, 1.0) if masked else _known(files, *places)
    share = interpolate(land, files.rows, files.columns)
    return replace(
        files,
        weights=land.astype("float32"),
        elevation=interpolate(elevation, files.rows, files.columns),
        land_fraction=share if masked else (share >= 0.5 - 1e-9).astype("float64"),
        masked=masked,
    )


def _known(files: Files, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """1.0 at cells that have a value of the first member, where it has any."""
    name = next(iter(files.members))
    for run in files.members[name]:
        at = min(max(run.at, 0) + 1, run.stop - 1)
        if 0 <= at < len(files.stamps):
            return np.isfinite(files.read_cells(name, slice(at, at + 1), rows, columns)[0]).astype("float64")
    return np.ones((len(rows), len(columns)))


def _static(header: Header, name: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    first = slice(header.first, header.first + 1)
    out = np.empty((len(rows), len(columns)))
    for top, bottom in _stretches(rows):
        for left, right in _stretches(columns):
            box = first, _span(rows, top, bottom), _span(columns, left, right)
            out[top:bottom, left:right] = read_box(header.source, name, box)
    return out


def _hours(time: slice | tuple | None, axis: np.ndarray) -> slice:
    """Positions of a span of labels, both ends included, as xarray selects them ("2019-07" is the whole month)."""
    import pandas as pd

    if time is None:
        return slice(0, len(axis))
    if isinstance(time, str) or (not isinstance(time, slice) and len(time) != 2):
        raise ConfigError(f"time must be slice(start, stop) or (start, stop), found {time!r}.")
    start, stop = (time.start, time.stop) if isinstance(time, slice) else time
    found = pd.DatetimeIndex(axis).slice_indexer(start, stop)
    if found.start >= found.stop:
        raise ConfigError(f"no hour from {start} to {stop}: the files cover {axis[0]} to {axis[-1]}.")
    return slice(found.start, found.stop)


def _stretches(places: np.ndarray) -> Iterator[tuple[int, int]]:
    """Index ranges over which positions follow one another."""
    edges = np.flatnonzero(np.diff(places) != 1) + 1
    yield from zip((0, *edges), (*edges, len(places)), strict=True)


def _span(places: np.ndarray, first: int, stop: int) -> slice:
    return slice(int(places[first]), int(places[first]) + int(stop - first))

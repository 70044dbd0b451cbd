"""ERA5 parameters across all files of a request: where their values are stored, and how boxes of them are read.

*Parameter* is ECMWF's word for a physical quantity of its files, known by a short name such as ``t2m`` or ``ssrd``.
Nothing here knows of tower variables or of Dask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.sources.era5.alignment import Layout
from fluxcube.sources.era5.grid import Axis, blend
from fluxcube.sources.era5.open import Source, extent, read_box

GRAVITY = 9.80665  # m s-2, by which ERA5 turns height into geopotential

Box = tuple[float, float, float, float]
Period = slice | tuple


@dataclass(frozen=True)
class FileSeries:
    """Hourly stamps of one parameter in one source, without a gap.

    Attributes
    ----------
    source : Source
    position : int
        Position of the first stamp on the source's own time axis.
    start, stop : int
        Positions of the first stamp, and of the one after the last, on the common time axis.
    layout : Layout
        Where the cells of the common grid are in the source.
    """

    source: Source
    position: int
    start: int
    stop: int
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True, eq=False)
class Files:
    """A set of ERA5 files as one: the grid, the stamps, and where the values of each parameter are.

    Attributes
    ----------
    rows, columns : Axis
        Latitudes, in the files' order, and longitudes, from west to east, and their positions in the files.
    begin : datetime64[h]
        First stamp.
    count : int
        Number of hourly stamps.
    parameters : mapping
        `FileSeries` in the order of time, by the parameter's short name.
    accumulation : {"hour", "day", ""}
        Period over which parameters are accumulated; "" where none is.
    weights : (row, column) float32
        Land fraction of the files' cells that are needed, which weights them in interpolation.
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
    parameters: Mapping[str, tuple[FileSeries, ...]]
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
        """Degrees east (longitude,), from -180 to 180, but contiguous across the antimeridian."""
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
        """Sources of any parameter, sorted."""
        return sorted({series.source for all_series in self.parameters.values() for series in all_series}, key=str)

    @property
    def token(self) -> tuple:
        """What the values of a block depend on besides its position: identifies Dask keys."""
        axes = [(axis.low, axis.high, axis.share) for axis in (self.rows, self.columns)]
        sources = [s.identity for s in self.sources]
        return sources, self.accumulation, str(self.begin), self.count, axes, self.weights

    def cut(self, time: slice, rows: slice, columns: slice) -> Files:
        """Return the part for one block: its cells, hours and series, and the weights that its interpolation needs."""
        r, c = self.rows[rows], self.columns[columns]
        none = np.empty((0, 0))
        weights = none.astype("float32") if r.exact and c.exact else self._weights(r, c)
        part = replace(self._shifted(time), rows=r, columns=c, elevation=none, land_fraction=none, weights=weights)
        overlapping = {
            name: tuple(series for series in all_series if series.start < part.count and series.stop > 0)
            for name, all_series in part.parameters.items()
        }
        return replace(part, parameters=overlapping)

    def between(self, time: Period | None) -> Files:
        """Select a period, both ends included."""
        return self._shifted(_time_slice(time, self.time))

    def _shifted(self, hours: slice) -> Files:
        shifted = {
            name: tuple(replace(s, start=s.start - hours.start, stop=s.stop - hours.start) for s in all_series)
            for name, all_series in self.parameters.items()
        }
        count = int(hours.stop + 1 - hours.start)
        return replace(self, begin=self.begin + hours.start, count=count, parameters=shifted)

    def read(self, parameter: str, stamps: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read values (stamp, latitude, longitude) float64 of a parameter; NaN at stamps that are in no file.

        Raises
        ------
        SourceError
            If a file cannot be read there.
        """
        r, c = self.rows[rows], self.columns[columns]
        if r.exact and c.exact:
            return self.read_cells(parameter, stamps, r.low, c.low)
        return blend(self.read_cells(parameter, stamps, r.needed, c.needed), r, c, self._weights(r, c))

    def _weights(self, rows: Axis, columns: Axis) -> np.ndarray:
        """Return the weights of the files' cells that some of the rows and columns need."""
        axes = (self.rows, rows), (self.columns, columns)
        return self.weights[np.ix_(*(np.searchsorted(whole.needed, part.needed) for whole, part in axes))]

    def read_cells(self, parameter: str, stamps: slice, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Read values (stamp, row, column) at positions of the files' own rows and columns; errors as `read`."""
        out = np.full((stamps.stop - stamps.start, len(rows), len(columns)), np.nan)
        for series in self.parameters[parameter]:
            start, stop = max(series.start, stamps.start), min(series.stop, stamps.stop)
            if start < stop:
                offset = series.position - series.start
                part = out[start - stamps.start : stop - stamps.start]
                cells = series.layout.file_rows(rows), series.layout.file_columns(columns)
                read_into(part, series.source, parameter, slice(start + offset, stop + offset), *cells)
        return out


def read_into(
    out: np.ndarray, source: Source, parameter: str, stamps: slice, rows: np.ndarray, columns: np.ndarray
) -> None:
    """Read cells of one source into an array (stamp, row, column), one request for each box of cells.

    Parameters
    ----------
    out : (stamp, row, column)
        Filled with values.
    source : Source
    parameter : str
    stamps : slice
        Positions on the source's time axis.
    rows, columns : (row,), (column,) int64
        Positions in the source, ascending or descending.
    """
    for into_rows, from_rows in _runs(rows, 1):
        for into_columns, from_columns in _runs(columns, 1):
            out[:, into_rows, into_columns] = read_box(source, parameter, (stamps, from_rows, from_columns))


def spread(region: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Return at most 16 rows and 16 columns, usually 9 of each, spread over a region of the common grid."""
    rows, columns = (np.arange(part.start, part.stop, max(1, (part.stop - part.start) // 8)) for part in region)
    return rows, columns


def sample(series: FileSeries, parameter: str, stamps: slice, region: tuple[slice, slice] | None = None) -> np.ndarray:
    """Read values (stamp, row, column) at the cells that `spread` selects in a region.

    Parameters
    ----------
    series : FileSeries
    parameter : str
    stamps : slice
        Positions on the common time axis, within the series.
    region : (slice, slice), optional
        Rows and columns of the common grid; by default all.
    """
    shape = extent(series.source.open().variables[parameter])[1:]
    rows, columns = spread(region or (slice(0, shape[0]), slice(0, shape[1])))
    offset = series.position - series.start
    out = np.empty((int(stamps.stop - stamps.start), len(rows), len(columns)))
    within = slice(int(stamps.start + offset), int(stamps.stop + offset))
    for into_rows, from_rows in _runs(series.layout.file_rows(rows)):
        for into_columns, from_columns in _runs(series.layout.file_columns(columns)):
            out[:, into_rows, into_columns] = read_box(series.source, parameter, (within, from_rows, from_columns))
    return out


def _time_slice(time: Period | None, axis: np.ndarray) -> slice:
    """Return the positions of a period, both ends included, as xarray selects them ("2019-07" is the whole month)."""
    import pandas as pd

    if time is None:
        return slice(0, len(axis))
    if isinstance(time, str) or (not isinstance(time, slice) and len(time) != 2):
        raise ConfigError(f"time must be slice(start, stop) or (start, stop), found {time!r}.")
    start, stop = (time.start, time.stop) if isinstance(time, slice) else time
    positions = pd.DatetimeIndex(axis).slice_indexer(start, stop)
    if positions.start >= positions.stop:
        raise ConfigError(f"no hour from {start} to {stop}: the files cover {axis[0]} to {axis[-1]}.")
    return slice(positions.start, positions.stop)


def _runs(positions: np.ndarray, step: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Yield slices of an array, and of the file, over which positions ascend or descend by one step.

    The step is that between the first two positions by default.
    """
    steps = np.diff(positions)
    size = int(step or (abs(steps[0]) if len(steps) else 1)) or 1
    same = np.abs(steps) == size
    same[1:] &= (steps[1:] == steps[:-1]) | ~same[:-1]
    edges = np.flatnonzero(~same) + 1
    for first, stop in zip((0, *edges), (*edges, len(positions)), strict=True):
        low, high = sorted((int(positions[first]), int(positions[stop - 1])))
        descending = positions[first] > positions[stop - 1]
        into = (
            slice(int(stop) - 1, int(first) - 1 if first else None, -1) if descending else slice(int(first), int(stop))
        )
        yield into, slice(low, high + 1, size)

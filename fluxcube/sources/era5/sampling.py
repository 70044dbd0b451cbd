"""Sample whole UTC days of accumulated ERA5 parameters, for the checks of their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.sources.era5.open import Source, storage_chunks
from fluxcube.sources.era5.series import Files, FileSeries, sample, spread

#: Parameters that are sampled, those that show the accumulation best first, and the maximum number of days of each
#: (but always two days, and one of each source).
SAMPLED = {"ssrd": 31, "strd": 31, "ssr": 31, "tp": 31, "str": 6, "slhf": 6, "sshf": 6}
#: Maximum number of bytes that are read of all parameters, except two days, and of consecutive days in one request.
_MAX_BYTES, _RUN = 256 << 20, 5
_HOURS = 24

Region = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Days:
    """Sampled UTC days of one parameter in one source.

    Attributes
    ----------
    name : str
        Short name of the parameter.
    source : Source
    dates : (day,) datetime64[D]
    values : (day, 24, row, column) float64
        Stored values at 01, 02, .. 24 UTC; the last is NaN where the source ends at 23 UTC.
    rows, columns : (row,), (column,) int64
        Positions of the sampled cells on the common grid.
    """

    name: str
    source: Source
    dates: np.ndarray
    values: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def amounts(self, accumulation: str) -> np.ndarray:
        """Return the amounts of each hour (day, 24, row, column), from hourly amounts or from totals since 00 UTC."""
        if accumulation != "day":
            return self.values
        return np.diff(self.values, axis=1, prepend=0.0)


def sample_days(files: Files, stamps: np.ndarray, region: Region) -> list[Days]:
    """Read UTC days of accumulated parameters, spread over the requested period, its sources and the region.

    Parameters
    ----------
    files : Files
        With all their hours.
    stamps : (time,) datetime64
        Requested stamps. Days that they touch are read; days near them, too, if these are fewer than two, or if rain
        alone must show the accumulation, since it may be dry.
    region : (slice, slice)
        Rows and columns of the common grid.

    Returns
    -------
    list of Days
        One for each parameter and source, without those that have no whole day. Only the first parameter where a day
        is so large that two days of every parameter are more than 256 MiB.
    """
    names = [name for name in SAMPLED if name in files.parameters]
    if not names:
        return []
    affordable = _MAX_BYTES // (len(names) * _day_bytes(files.parameters[names[0]][0], names[0], region))
    # One hour of the globe in each chunk: two days of every parameter would take longer than all else.
    names = names if affordable >= 2 else names[:1]
    return [days for name in names for days in _of_parameter(files, name, stamps, region, max(2, affordable))]


def _of_parameter(files: Files, name: str, stamps: np.ndarray, region: Region, affordable: int) -> Iterator[Days]:
    """Yield the sampled days of one parameter, of each source, of which at most `affordable` can be read."""
    all_days = _whole_days(files, name)
    if not all_days:
        return
    number = min(SAMPLED[name], affordable)
    rain_alone = not set(SAMPLED) - {"tp"} & set(files.parameters)
    by_source: dict[Source, list[tuple[FileSeries, int]]] = {}
    for series, at in _near(all_days, files, stamps, number, widen=rain_alone):
        by_source.setdefault(series.source, []).append((series, at))
    # Every source has a day, unless these would be too many bytes.
    for source in _evenly(list(by_source), max(number, affordable)):
        runs = list(_runs_of_days(by_source[source], max(1, number // len(by_source))))
        dates = [(files.begin + at).astype("datetime64[D]") for run in runs for _, at in run]
        values = np.concatenate([_read_run(run, name, region) for run in runs])
        yield Days(name, source, np.array(dates), values, *spread(region))


def _whole_days(files: Files, name: str) -> list[tuple[FileSeries, int]]:
    """Return the series and the stamp of 01 UTC of the days that each series contains until 23 UTC at least."""
    utc = int(files.begin.astype("datetime64[h]").astype(np.int64))
    days: list[tuple[FileSeries, int]] = []
    for series in files.parameters[name]:
        first = series.start + (1 - utc - series.start) % _HOURS
        days += [(series, at) for at in range(first, series.stop - _HOURS + 2, _HOURS)]
    return days


def _near(
    days: list[tuple[FileSeries, int]], files: Files, stamps: np.ndarray, number: int, *, widen: bool
) -> list[tuple[FileSeries, int]]:
    """Return the days that requested stamps touch, or at least two, in the order of time.

    With `widen`, days near the requested stamps are added up to some number.
    """
    first, last = ((stamps[i].astype("datetime64[h]") - files.begin).astype(int) for i in (0, -1))
    touched = [day for day in days if first - _HOURS < day[1] <= last]
    if len(touched) >= (number if widen else 2):
        return touched
    middle = (first + last) // 2
    near = sorted(days, key=lambda day: abs(day[1] - middle))[:number]
    return sorted(near, key=lambda day: day[1])


def _evenly(items: list, number: int) -> list:
    """Return at most some number of items, evenly spread."""
    return [items[at] for at in np.unique(np.linspace(0, len(items) - 1, min(number, len(items))).astype(int))]


def _runs_of_days(days: list[tuple[FileSeries, int]], number: int) -> Iterator[list[tuple[FileSeries, int]]]:
    """Yield runs of consecutive days of one series: some number of days, spread over all days in few runs."""
    count = -(-number // _RUN)
    length = number // count
    starts = np.linspace(0, max(len(days) - length, 0), count).astype(int)
    chosen = range(len(days)) if len(days) <= number else np.unique(np.add.outer(starts, np.arange(length)))
    run: list[tuple[FileSeries, int]] = []
    for series, at in (days[int(i)] for i in chosen):
        if run and (series is not run[-1][0] or at != run[-1][1] + _HOURS):
            yield run
            run = []
        run.append((series, at))
    yield run


def _read_run(run: Sequence[tuple[FileSeries, int]], name: str, region: Region) -> np.ndarray:
    """Read consecutive days (day, 24, row, column) in one request."""
    series, first = run[0]
    stop = min(first + _HOURS * len(run), series.stop)
    values = sample(series, name, slice(first, stop), region)
    missing = np.full((_HOURS * len(run) - len(values), *values.shape[1:]), np.nan)
    return np.concatenate([values, missing]).reshape(len(run), _HOURS, *values.shape[1:])


def _day_bytes(series: FileSeries, name: str, region: Region) -> int:
    """Return the size in bytes of the stored chunks that one day of a region touches."""
    array = series.source.open().variables[name]
    chunks = storage_chunks(array)
    if chunks is None:  # contiguous: the sampled rows alone are read
        rows, _ = spread(region)
        return _HOURS * len(rows) * (region[1].stop - region[1].start) * array.dtype.itemsize
    touched = (-(-(part.stop - part.start) // n) * n for part, n in zip(region, chunks[1:], strict=True))
    return max(_HOURS, chunks[0]) * int(np.prod([*touched])) * array.dtype.itemsize

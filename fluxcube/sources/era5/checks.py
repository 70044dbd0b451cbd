"""Check ERA5 values: over which period accumulations run, and values that cannot be in the declared units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.era5.header import Header
from fluxcube.sources.era5.open import storage_chunks
from fluxcube.sources.era5.parameters import ACCUMULATED, UNITS
from fluxcube.sources.era5.series import Files, FileSeries, sample

# Never negative by nature, best first: parameters that distinguish hourly amounts from running totals of a day. A day
# counts above the first number; a decrease counts above the second, which packing stays below (4e-8 m, 500 J m-2).
_DECISIVE = {"ssrd": (1e5, 2e3), "strd": (1e5, 2e3), "tp": (1e-4, 1e-6)}
#: Maximum number of days, and of bytes, that are read for the test (but always two days).
_MAX_DAYS, _MAX_BYTES = 31, 256 << 20
# Wider than any weather on Earth, narrower than values in another unit (degC, hPa, mm, %, W m-2 for a day).
_LIMITS = {
    "t2m": (150, 350),
    "d2m": (100, 350),
    "sp": (3e4, 1.2e5),
    "u10": (-150, 150),
    "v10": (-150, 150),
    "zust": (-0.1, 20),
    "fal": (-0.01, 1.01),
    "ishf": (-5e3, 5e3),
    **{f"stl{i}": (150, 380) for i in range(1, 5)},
    **{f"swvl{i}": (-0.02, 1.01) for i in range(1, 5)},
    "ssrd": (-5e6, 6e7),
    "strd": (-1e6, 6e7),
    "ssr": (-5e6, 6e7),
    "str": (-6e7, 6e7),
    "sshf": (-1e8, 1e8),
    "slhf": (-1e8, 1e8),
    "tp": (-0.01, 2.5),
}

_Region = tuple[slice, slice]


def check_values(files: Files) -> None:
    """Check three stamps of every parameter, at cells spread over the region, for values its units cannot have.

    Raises
    ------
    SourceError
        Naming the parameter, the value and its time.
    """
    region = _region(files)
    for name, all_series in files.parameters.items():
        low, high = _LIMITS[name]
        for series, at in _test_stamps(all_series, len(files.stamps)):
            values = sample(series, name, slice(at, at + 1), region)
            wrong = values[(values < low) | (values > high)]
            if wrong.size:
                raise SourceError(
                    f"{series.source}: {name} is {wrong.flat[0]:g} at {files.stamps[at].astype('datetime64[h]')} UTC, "
                    f"which cannot be {UNITS[name]} (expected {low:g} to {high:g}): the file declares wrong units; "
                    "convert it, or download it again."
                )


def _test_stamps(all_series: Sequence[FileSeries], size: int) -> Iterator[tuple[FileSeries, int]]:
    """Yield the first, middle and last stamp, each with the series that contains it."""
    for at in dict.fromkeys((0, size // 2, size - 1)):
        for series in all_series:
            if series.start <= at < series.stop:
                yield series, at


def _region(files: Files) -> _Region:
    """Return the rows and columns of the files from the first to the last that is needed."""
    rows, columns = (slice(int(a.needed[0]), int(a.needed[-1]) + 1) for a in (files.rows, files.columns))
    return rows, columns


def find_accumulation(files: Files, stamps: np.ndarray, headers: Sequence[Header], requested: str | None) -> str:
    """Find the period over which parameters are accumulated: as requested, or from the values and the files' origin.

    Parameters
    ----------
    files : Files
        With all their hours.
    stamps : (time,) datetime64
        Stamps that will be read: days near them are tested first.
    headers : sequence of Header
    requested : {"hour", "day"} or None
        The caller's `accumulation`.

    Returns
    -------
    {"hour", "day", ""}
        "" where nothing is accumulated.

    Raises
    ------
    SourceError
        If neither values nor names show the period, or they contradict each other.
    """
    accumulated = [header for header in headers if set(header.parameters) & set(ACCUMULATED)]
    if not accumulated:
        return ""
    recorded = {str(header.source.open().attrs.get("accumulation", "")) for header in accumulated}
    known = requested or (recorded.pop() if len(recorded) == 1 else "")  # a copy by fluxcube records it
    return known or _accumulation_of(files, stamps, headers, accumulated[0])


def _accumulation_of(files: Files, stamps: np.ndarray, headers: Sequence[Header], first: Header) -> str:
    """Return "hour" or "day" from the values, or from the name ERA5-Land; see `find_accumulation`."""
    from_values = next((period for name in _DECISIVE if (period := _period(files, name, stamps))), None)
    land = any("era5-land" in h.origin.lower().replace("_", "-").replace(" ", "-") for h in headers)
    if land and from_values == "hour":
        raise SourceError(
            f"{first.source}: the files are named ERA5-Land, whose accumulations run from 00 UTC, but the values look "
            "like amounts of single hours: pass accumulation='hour' or accumulation='day'."
        )
    if from_values is None and not land:
        raise SourceError(
            f"{first.source}: cannot determine whether accumulated values cover an hour (ERA5) or run from 00 UTC "
            f"(ERA5-Land); at least two whole UTC days of {', '.join(_DECISIVE)} that are not all zero are needed. "
            "Pass accumulation='hour' or accumulation='day'."
        )
    return from_values or "day"


def _period(files: Files, name: str, stamps: np.ndarray) -> str | None:
    """Test one parameter: a running total never decreases from 01 to 24 UTC; hourly amounts above 0 do."""
    minimum, rounding = _DECISIVE[name]
    region, decreasing, active = _region(files), 0, 0
    for series, day in _whole_days(files, name, stamps, region):
        values = sample(series, name, day, region)
        counts = np.nanmax(values, axis=0, initial=0.0) > minimum
        falls = np.nanmin(np.diff(values, axis=0), axis=0, initial=0.0) < -rounding
        active += int(counts.sum())
        decreasing += int((falls & counts).sum())
    if not active:
        return None
    share = decreasing / active
    return "hour" if share > 0.5 else "day" if share == 0 else None


def _whole_days(files: Files, name: str, stamps: np.ndarray, region: _Region) -> Iterator[tuple[FileSeries, slice]]:
    """Yield UTC days (01 to 24) that one series contains, those near the requested stamps before others."""
    utc = files.stamps.astype("datetime64[h]").astype(np.int64)
    days: list[tuple[FileSeries, int]] = []
    for series in files.parameters.get(name, ()):
        first = series.start + (1 - utc[series.start]) % 24
        days += [(series, at) for at in range(first, series.stop - 23, 24)]
    if not days:
        return
    middle = int(stamps[len(stamps) // 2].astype("datetime64[h]").astype(np.int64)) - utc[0]
    number = min(_MAX_DAYS, max(2, _MAX_BYTES // _day_bytes(days[0][0], name, region)))
    near = sorted(days, key=lambda day: abs(day[1] - middle))[: max(number, len(stamps) // 24)]
    for series, at in near[:: max(1, len(near) // number)]:
        yield series, slice(at, at + 24)


def _day_bytes(series: FileSeries, name: str, region: _Region) -> int:
    """Return the size in bytes of the stored chunks that one day of a region touches."""
    array = series.source.open()[name]
    chunks = storage_chunks(array) or (24, 1, 1)
    rows, columns = (-(-(part.stop - part.start) // n) * n for part, n in zip(region, chunks[1:], strict=True))
    return max(24, chunks[0]) * rows * columns * array.dtype.itemsize

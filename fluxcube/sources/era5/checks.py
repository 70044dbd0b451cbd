"""What only values tell of ERA5 files: whether accumulations run through the day, and units that cannot be right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.era5.files import Files, Run, sample
from fluxcube.sources.era5.open import ACCUMULATED, UNITS, Header, storage_chunks

# Never negative by nature, best first: what tells an hour's accumulation from a day's running total. A day counts
# above the first number; a fall counts above the second, which packing stays below (4e-8 m, 500 J m-2).
_TELLING = {"ssrd": (1e5, 2e3), "strd": (1e5, 2e3), "tp": (1e-4, 1e-6)}
#: Most days that are looked at, and most bytes that are read for it (but two days at least).
_DAYS, _BYTES = 31, 256 << 20
# Wider than any weather on Earth, narrower than what another unit gives (degC, hPa, mm, %, W m-2 for a day).
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


def check_values(files: Files) -> None:
    """Look at three moments of every member, in cells spread over the box, for what its units cannot be.

    Raises
    ------
    SourceError
        Naming the member, the value and its time.
    """
    box = _box(files)
    for name, runs in files.members.items():
        low, high = _LIMITS[name]
        for run, at in _moments(runs, len(files.stamps)):
            values = sample(run, name, at, box)
            wrong = values[(values < low) | (values > high)]
            if wrong.size:
                raise SourceError(
                    f"{run.source}: {name} is {wrong.flat[0]:g} at {files.stamps[at].astype('datetime64[h]')} UTC, "
                    f"which cannot be {UNITS[name]} ({low:g} to {high:g}): the units are other than the file says."
                )


def _moments(runs: Sequence[Run], size: int) -> Iterator[tuple[Run, int]]:
    """First, middle and last stamp of those wanted, and the runs that hold them."""
    for at in dict.fromkeys((0, size // 2, size - 1)):
        for run in runs:
            if run.at <= at < run.stop:
                yield run, at


def _box(files: Files) -> tuple[slice, slice]:
    """Rows and columns of the files from the first that is needed to the last."""
    rows, columns = (slice(int(a.needed[0]), int(a.needed[-1]) + 1) for a in (files.rows, files.columns))
    return rows, columns


def tell_accumulation(files: Files, wanted: np.ndarray, headers: Sequence[Header], said: str | None) -> str:
    """Tell what accumulated members hold: as said, or by the values and by what the files say of themselves.

    Parameters
    ----------
    files : Files
        With all their hours.
    wanted : (time,) datetime64
        Stamps that will be read: days near them are looked at first.
    headers : sequence of Header
    said : {"hour", "day"} or None

    Returns
    -------
    {"hour", "day", ""}
        "" where nothing is accumulated.

    Raises
    ------
    SourceError
        If it cannot be told, or values and names contradict each other.
    """
    held = [header for header in headers if set(header.members) & set(ACCUMULATED)]
    if not held:
        return ""
    if said is None and len(told := {str(header.source.open().attrs.get("accumulation", "")) for header in held}) == 1:
        said = told.pop() or None  # a copy of fluxcube's
    if said is not None:
        return said
    seen = next((kind for name in _TELLING if (kind := _seen(files, name, wanted))), None)
    land = any("era5-land" in h.origin.lower().replace("_", "-").replace(" ", "-") for h in headers)
    if land and seen == "hour":
        raise SourceError(
            f"{held[0].source}: the files call themselves ERA5-Land, whose accumulations run from 00 UTC, but the "
            "values look like single hours: say accumulation='hour' or 'day'."
        )
    if seen is None and not land:
        raise SourceError(
            f"{held[0].source}: cannot tell whether accumulated values cover an hour (ERA5) or run from 00 UTC "
            f"(ERA5-Land); at least two whole UTC days of {', '.join(_TELLING)} that are not all zero are needed. "
            "Say accumulation='hour' or accumulation='day'."
        )
    return seen or "day"


def _seen(files: Files, name: str, wanted: np.ndarray) -> str | None:
    """Test a member: a running total never falls from 01 to 24 UTC, an hour's amount does, when it has been above 0."""
    enough, rounding = _TELLING[name]
    box, falls, active = _box(files), 0, 0
    for run, day in _whole_days(files, name, wanted, box):
        values = sample(run, name, day, box)
        counts = np.nanmax(values, axis=0, initial=0.0) > enough
        active += int(counts.sum())
        falls += int((np.diff(values, axis=0) < -rounding).any(axis=0)[counts].sum())
    if not active:
        return None
    share = falls / active
    return "hour" if share > 0.5 else "day" if share == 0 else None


def _whole_days(files: Files, name: str, wanted: np.ndarray, box: tuple[slice, slice]) -> Iterator[tuple[Run, slice]]:
    """UTC days (01 to 24) that one run holds, those near the hours wanted before others."""
    hours = files.stamps.astype("datetime64[h]").astype(np.int64)
    days = []
    for run in files.members.get(name, ()):
        first = run.at + (1 - hours[run.at]) % 24
        days += [(run, at) for at in range(first, run.stop - 23, 24)]
    if not days:
        return
    middle = int(wanted[len(wanted) // 2].astype("datetime64[h]").astype(np.int64)) - hours[0]
    most = min(_DAYS, max(2, _BYTES // _day_bytes(days[0][0], name, box)))
    near = sorted(days, key=lambda day: abs(day[1] - middle))[: max(most, len(wanted) // 24)]
    for run, at in near[:: max(1, len(near) // most)]:
        yield run, slice(at, at + 24)


def _day_bytes(run: Run, name: str, box: tuple[slice, slice]) -> int:
    """Bytes that the stored chunks of one day in a box hold."""
    array = run.source.open()[name]
    chunks = storage_chunks(array) or (24, 1, 1)
    rows, columns = (-(-(part.stop - part.start) // n) * n for part, n in zip(box, chunks[1:], strict=True))
    return max(24, chunks[0]) * rows * columns * array.dtype.itemsize

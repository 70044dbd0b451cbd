"""Read half-hourly and hourly files of the ONEFlux dialect: FLUXNET2015, AmeriFlux FLUXNET, ICOS, FLUXNET Shuttle."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube import variables as table
from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.archives import Location, is_zip
from fluxcube.sources.csvfile import line_of, read_numbers, text_of
from fluxcube.sources.networks import Archive, choose_member, networks, parse_name
from fluxcube.timestamps import standard_to_utc

START, END = "TIMESTAMP_START", "TIMESTAMP_END"
#: Steps that ONEFlux half-hourly and hourly files have, in minutes.
STEPS = (30, 60)
MISSING = -9999

_BASE_COLUMNS = re.compile(r"FC|NEE_PI(_F)?|.*_\d+_\d+_\d+")
_BASE = "AmeriFlux BASE"
_AS_PUBLISHED = "get the file as its network publishes it"


def read_oneflux(
    archive_or_path: Archive | str | os.PathLike,
    *,
    utc_offset: float | Sequence[tuple[object, float]],
    variables: Iterable[str] | None = None,
    member: str | None = None,
) -> xr.Dataset:
    """Read one tower file at its own time step, with a flag for every value.

    Parameters
    ----------
    archive_or_path : Archive or path
        From `discover`, or a csv, csv.gz or zip file.
    utc_offset : float or sequence of (start, float)
        Hours east of UTC of the stamps' local standard time. Dated entries hold from local `start` (a date, or None
        for the first) on; where an offset grows, rows that fall on times already seen are left out and counted.
    variables : iterable of str, optional
        Names of the variable table to read where the file has them; default all.
    member : str, optional
        Entry of a zip; default its half-hourly or hourly table.

    Returns
    -------
    xarray.Dataset
        Dimension ``time``: start of the period in UTC, datetime64[ns], strictly increasing, holes left as they are.
        One float32 variable (time,) per name found, in the table's units, NaN where missing, and ``<NAME>_QC`` int8
        (time,): 0 measured, 1 to 3 good to poor fill, -1 where there is no value. Attributes: ``step_minutes``,
        ``source_file``, ``site``, ``network``, ``columns`` (JSON, name to column), ``flags_assumed`` (JSON, name to how
        many values had no flag), ``clock_repeats`` (rows left out where the offset grew).

    Raises
    ------
    SourceError
        If the file is not of the dialect, or anything in it is not what it should be.
    UnknownNameError
        If a name of `variables` is not in the table.

    Notes
    -----
    A variable is read from the first of its aliases that has a value. The flag is column ``<column>_QC``, NEE's for
    GPP and RECO. Where there is none, a measured column counts as 0, ``_F`` as 2, and ``_F_MDS`` and ONEFlux's filled
    fluxes (``_VUT_``, ``_CUT_``) as 3.
    """
    names = _names(variables)
    source = _source(archive_or_path, member)
    if source.network == _BASE:
        raise _is_base(f"{source.location}")
    frame = read_numbers(source.location, lambda header: _wanted(header, names, source.location), integers=(START, END))
    start, step = _clock(frame, source.location)
    time, kept = _to_utc(start, step, utc_offset)
    arrays, record = _read_variables(frame, names, source.location)
    return xr.Dataset(
        {name: ("time", array[kept], _attrs(name)) for name, array in arrays.items()},
        coords={"time": ("time", time.astype("datetime64[ns]"))},
        attrs={
            "step_minutes": step,
            "source_file": source.location.path.name,
            "site": source.site,
            "network": source.network,
            "clock_repeats": int((~kept).sum()),
            **record,
        },
    )


def parse_stamps(stamps: np.ndarray) -> np.ndarray:
    """Turn YYYYMMDDHHMM numbers into times.

    Parameters
    ----------
    stamps : (time,) int64

    Returns
    -------
    (time,) datetime64[m]
        NaT where the number is no date and time between 1900 and 2199.

    Examples
    --------
    >>> parse_stamps(np.array([201202292330, 201302290000]))
    array(['2012-02-29T23:30', 'NaT'], dtype='datetime64[m]')
    """
    stamps = np.asarray(stamps, np.int64)
    date, clock = np.divmod(stamps, 10_000)
    year_month, day = np.divmod(date, 100)
    year, month = np.divmod(year_month, 100)
    hour, minute = np.divmod(clock, 100)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    good = (year >= 1900) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60)
    good &= days.astype("datetime64[M]") == months
    times = days.astype("datetime64[m]") + (hour * 60 + minute)
    return np.where(good, times, np.datetime64("NaT", "m"))


@dataclass(frozen=True)
class _Source:
    location: Location
    site: str
    network: str


def _source(archive_or_path: Archive | str | os.PathLike, member: str | None) -> _Source:
    """Find the table to read, and the site and network that its name tells."""
    archive = archive_or_path if isinstance(archive_or_path, Archive) else None
    path = archive.path if archive else Path(archive_or_path)
    named = archive or parse_name(path.name)
    if named is not None and named.network == _BASE:
        return _Source(Location(path), named.site, named.network)
    member = member or (archive.member if archive else None)
    if member is None and is_zip(path):
        member = choose_member(path)
        named = named or parse_name(Location(path, member).name)
    site, network = (named.site, named.network) if named else ("", "")
    return _Source(Location(path, member), site, network)


def _names(variables: Iterable[str] | None) -> tuple[str, ...]:
    """Return the names to look for, each once; those that are computed are in no file."""
    names = table.table() if variables is None else [variables] if isinstance(variables, str) else variables
    return tuple(dict.fromkeys(name for name in names if table.variable(name).aliases))


def _attrs(name: str) -> dict[str, object]:
    if not name.endswith("_QC"):
        return table.variable(name).attrs
    return {"long_name": f"quality flag of {name.removesuffix('_QC')}", "flag_values": "-1 0 1 2 3"}


def _wanted(header: Sequence[str], names: Sequence[str], location: Location) -> list[str]:
    """Return the columns to read, after checking that the header is of the dialect."""
    _check_header(header, location)
    present = set(header)
    aliases = [alias for name in names for alias in table.variable(name).aliases if alias in present]
    flags = [flag for name in names for flag in _flag_columns(name) if flag in present]
    return [START, END, *dict.fromkeys(aliases + flags)]


def _flag_columns(name: str) -> list[str]:
    variable = table.variable(name)
    return [f"{column}_QC" for column in ([variable.qc_from] if variable.qc_from else variable.aliases)]


def _check_header(header: Sequence[str], location: Location) -> None:
    first = f"{location}, line 1"
    if header[0].startswith("# Site") or header[0].startswith("# Version"):
        raise _is_base(first)
    missing = [name for name in (START, END) if name not in header]
    if missing == [START, END] and "TIMESTAMP" in header:
        raise SourceError(
            f"{first}: column TIMESTAMP, as daily and coarser files have, where {START} and {END} were expected; "
            "get the site's half-hourly (HH) or hourly (HR) file"
        )
    if missing:
        raise SourceError(
            f"{first}: no column {' nor '.join(missing)}, which every ONEFlux file has (found "
            f"{', '.join(header[:4])[:200]}, ...); {_AS_PUBLISHED}, with commas between columns"
        )
    if any(map(_BASE_COLUMNS.fullmatch, header)) and not any(name.endswith(("_QC", "_VUT_REF")) for name in header):
        raise _is_base(first)
    known = {alias for variable in table.table().values() for alias in variable.aliases}
    if not known.intersection(header):
        raise SourceError(
            f"{first}: none of ONEFlux's variables (TA_F, SW_IN_F, NEE_VUT_REF, ...) among its {len(header)} columns "
            f"({', '.join(header[2:6])}, ...); {_AS_PUBLISHED}"
        )


def _is_base(where: str) -> SourceError:
    return SourceError(f"{where}: {networks()[_BASE].why}")


def _clock(frame: pd.DataFrame, location: Location) -> tuple[np.ndarray, int]:
    """Return the local start of every row (time,) datetime64[m], and the step in minutes."""
    times = {}
    for name in (START, END):
        times[name] = parse_stamps(frame[name].to_numpy())
        _refuse(np.isnat(times[name]), frame, name, location, "expected a time as YYYYMMDDHHMM")
    start = times[START]
    lengths = (times[END] - start).astype(np.int64)
    step = _commonest(lengths)
    _refuse(lengths != step, frame, END, location, f"expected {step} minutes after the start, as in the other rows")
    if step not in STEPS:
        raise SourceError(
            f"{location}, line {line_of(location, 0)}: periods of {step} minutes, expected 30 or 60; "
            "get the site's half-hourly (HH) or hourly (HR) file"
        )
    moves = np.concatenate([[step], np.diff(start).astype(np.int64)])
    _refuse(moves == 0, frame, START, location, "this time is there twice, expected once")
    _refuse(moves < 0, frame, START, location, "earlier than the row before, expected times in order")
    _refuse(moves % step != 0, frame, START, location, f"not a multiple of {step} minutes after the row before")
    return start, step


def _commonest(lengths: np.ndarray) -> int:
    values, counts = np.unique(lengths, return_counts=True)
    return int(values[counts.argmax()])


def _refuse(bad: np.ndarray, frame: pd.DataFrame, column: str, location: Location, why: str) -> None:
    """Raise for the first bad row, with its line and text."""
    if bad.any():
        line, text = text_of(location, int(bad.argmax()), column)
        more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
        raise SourceError(
            f"{location}, line {line}, column {column}: found {text!r}: {why}{more}; correct it, or {_AS_PUBLISHED}"
        )


def _read_variables(
    frame: pd.DataFrame, names: Sequence[str], location: Location
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return values and flags of the variables that are there, and the attributes that tell where they came from."""
    arrays, columns, assumed = {}, {}, {}
    for name in names:
        column = _column(frame, table.variable(name).aliases)
        if column is None:
            continue
        values = _values(frame, column, location)
        flags, without = _flags(frame, name, column, values, location)
        arrays |= {name: values, f"{name}_QC": flags}
        columns[name] = column
        assumed |= {name: without} if without else {}
    return arrays, {"columns": json.dumps(columns), "flags_assumed": json.dumps(assumed)}


def _column(frame: pd.DataFrame, aliases: Sequence[str]) -> str | None:
    """Return the best alias that has a value; if none has, the best that is there."""
    present = [alias for alias in aliases if alias in frame]
    filled = (alias for alias in present if (frame[alias].notna() & (frame[alias] != MISSING)).any())
    return next(filled, present[0] if present else None)


def _values(frame: pd.DataFrame, column: str, location: Location) -> np.ndarray:
    values = frame[column].to_numpy(copy=True)
    values[values == MISSING] = np.nan
    _refuse(np.isinf(values), frame, column, location, f"expected a number, {MISSING} where missing")
    return values


def _flags(
    frame: pd.DataFrame, name: str, column: str, values: np.ndarray, location: Location
) -> tuple[np.ndarray, int]:
    """Return the flags (time,) int8 of some values, and how many had none in the file."""
    flag_column = f"{table.variable(name).qc_from or column}_QC"
    present = ~np.isnan(values)
    assumed = _assumed_flag(column)
    if flag_column not in frame:
        return np.where(present, assumed, -1).astype(np.int8), 0
    raw = frame[flag_column].to_numpy()
    missing = np.isnan(raw) | (raw == MISSING)
    _refuse(
        ~missing & ~np.isin(raw, (0, 1, 2, 3)), frame, flag_column, location,
        "expected a flag 0, 1, 2 or 3 (a fraction is the flag of daily and coarser files, in the opposite sense)",
    )  # fmt: skip
    flags = np.where(missing, assumed, raw)
    return np.where(present, flags, -1).astype(np.int8), int((missing & present).sum())


def _assumed_flag(column: str) -> int:
    """Return the flag of a column that has none: what its name says of its filling.

    Examples
    --------
    >>> [_assumed_flag(name) for name in ("TA", "PA_F", "TS_F_MDS_1", "NEE_VUT_REF")]
    [0, 2, 3, 3]
    """
    if re.search(r"_F_MDS(_\d+)?$|_[VC]UT_", column):
        return 3
    return 2 if re.search(r"_F(_\d+)?$", column) else 0


def _to_utc(
    start: np.ndarray, step: int, utc_offset: float | Sequence[tuple[object, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTC start of the rows that are kept, and which those are (time,) bool."""
    time = standard_to_utc(start, _offsets(start, utc_offset))
    # Where the offset grows, hours repeat in UTC: what was observed under the old clock stays.
    over = np.maximum.accumulate(time + np.timedelta64(step, "m"))
    kept = np.concatenate([[True], time[1:] >= over[:-1]])
    return time[kept], kept


def _offsets(start: np.ndarray, utc_offset: float | Sequence[tuple[object, float]]) -> np.ndarray | float:
    """Return hours east of UTC, for each row where they are dated."""
    if isinstance(utc_offset, (int, float, np.number)):
        return _checked(utc_offset)
    entries = sorted((_since(since), _checked(hours)) for since, hours in utc_offset)
    if not entries:
        raise ConfigError("utc_offset: expected hours east of UTC, or at least one (start, hours); found none")
    since, hours = (np.array(column) for column in zip(*entries, strict=True))
    # The first entry holds for what comes before it, too.
    return hours[np.maximum(np.searchsorted(since, start, side="right") - 1, 0)]


def _since(value: object) -> np.datetime64:
    try:
        return np.datetime64("0000" if value is None else value).astype("datetime64[m]")
    except ValueError as error:
        raise ConfigError(f"utc_offset: entry from {value!r}: expected a date such as '2012-05-31'") from error


def _checked(hours: float) -> float:
    if not -14 <= float(hours) <= 14:
        raise ConfigError(f"utc_offset={hours!r}: expected hours east of UTC, from -14 to 14")
    return float(hours)

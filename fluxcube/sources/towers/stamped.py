"""Read half-hourly and hourly tables whose rows have local time stamps; a `Dialect` describes a network's columns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers import codes as missing_codes
from fluxcube.sources.towers import contradictions
from fluxcube.sources.towers import flags as quality_flags
from fluxcube.sources.towers.archives import Location, is_zip
from fluxcube.sources.towers.csvfile import line_of, read_numbers, read_sample, text_of
from fluxcube.sources.towers.networks import Archive, parse_name
from fluxcube.sources.towers.plausible import check_fills, check_flags, measured_values
from fluxcube.sources.towers.selection import choose_member
from fluxcube.timestamps import Offset, offsets_at, standard_to_utc
from fluxcube.variables import Variable

START, END = "TIMESTAMP_START", "TIMESTAMP_END"
#: Time steps of half-hourly and hourly tables, in minutes.
STEPS = (30, 60)
MISSING = -9999
AS_PUBLISHED = "get the file as its network publishes it"

#: Flags of ONEFlux: 0 measured, 1 good fill, 2 medium fill (of consolidated columns: from ERA), 3 poor fill.
FLAGS = ((0, 0), (1, 1), (2, 2), (3, 3))
_FRACTION = "a fraction is the flag of daily and coarser files, in the opposite sense"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One of the columns from which a variable is read, and the quality of its values.

    Attributes
    ----------
    column : str
        Name in the file's header.
    assumed : int
        Flag of a value that has no flag in the file.
    flag : str or None
        Column of its flags.
    flags : tuple of (int, int)
        Flags of the file, and their meanings: 0 measured, 1 to 3 good to poor fill.
    alone : bool
        Whether its values come from a different processing: it is read only if the layers before it have no value in
        the whole file, and is never mixed with them.
    """

    column: str
    assumed: int
    flag: str | None = None
    flags: tuple[tuple[int, int], ...] = FLAGS
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The columns and flags of a network's tables.

    Attributes
    ----------
    layers : callable
        ``layers(variable)``: the layers of a `fluxcube.variables.Variable`, best first.
    check_header : callable
        ``check_header(names, location)``: raises SourceError if the file is of another dialect.
    ignore_case : bool
        Whether the case of column names has no meaning.
    flags_of : mapping of str to str
        Variables that have the flags of another variable, such as GPP those of NEE. Where that variable has no value,
        the flags of the variable's own layer are used.
    """

    layers: Callable[[Variable], Sequence[Layer]]
    check_header: Callable[[Sequence[str], Location], None]
    ignore_case: bool = False
    flags_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A table to read, and the site and network in its name ("" where the name contains none)."""

    location: Location
    site: str
    network: str


@dataclass
class _Record:
    """Arrays of a table by name, the column of each, and the number of assumed flags and of codes of each; doubts."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, int] = field(default_factory=dict)
    codes: dict[str, missing_codes.Codes] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def find_source(archive_or_path: Archive | str | os.PathLike, member: str | None = None) -> Source:
    """Return the table to read: that of an archive, a file, or the half-hourly or hourly table of a zip.

    Raises
    ------
    SourceError
        If a zip is broken or unsafe, or contains no such table.
    """
    named: Archive | None
    if isinstance(archive_or_path, Archive):
        path, member, named = archive_or_path.path, member or archive_or_path.member, archive_or_path
    else:
        path = Path(archive_or_path)
        named = parse_name(path.name)
    if member is None and is_zip(path):
        member = choose_member(path)
        named = named or parse_name(Location(path, member).name)
    site, network = (named.site, named.network) if named else ("", "")
    return Source(Location(path, member), site, network)


def read_stamped(
    source: Source,
    dialect: Dialect,
    *,
    utc_offset: Offset,
    variables: Iterable[str] | None = None,
) -> xr.Dataset:
    """Read one table at its own time step, with a flag for every value.

    Parameters
    ----------
    source : Source
        From `find_source`.
    dialect : Dialect
        Columns and flags of its network.
    utc_offset, variables
        As in `fluxcube.sources.towers.oneflux.read_oneflux`.

    Returns
    -------
    xarray.Dataset
        As `fluxcube.sources.towers.oneflux.read_oneflux` describes it.

    Raises
    ------
    SourceError
        If the file is not of the dialect, or its content is not what it should be.
    """
    names, location = _names(variables), source.location
    header = _Header(dialect, names, location)
    frame = read_numbers(location, header, integers=(START, END))
    frame.columns = [header.canonical(name) for name in frame.columns]
    where = _Where(location, header.written)
    start, step = _clock(frame, where)
    time, kept = to_utc(start, step, utc_offset)
    record = _read_variables(frame, names, dialect, where)
    return xr.Dataset(
        {name: ("time", array[kept], attrs_of(name)) for name, array in record.arrays.items()},
        coords={"time": ("time", time.astype("datetime64[ns]"))},
        attrs={
            "step_minutes": step,
            "source_file": location.path.name,
            "site": source.site,
            "network": source.network,
            "clock_repeats": int((~kept).sum()),
            "columns": json.dumps(record.columns),
            "flags_assumed": json.dumps(record.assumed),
            "missing_codes": json.dumps(record.codes),
            "doubts": json.dumps(record.doubts),
        },
    )


@dataclass(frozen=True, kw_only=True)
class TableSummary:
    """A summary of a table from its header and a sample of its rows.

    Attributes
    ----------
    step_minutes : int
        Time step, from the first time stamps.
    rows : int
        Number of rows, estimated from the size of the file and the length of the sampled rows.
    variables : tuple of str
        Names of the variable table for which the header has columns.
    measured : dict of str to float
        For each variable the share of the sampled rows that have a measured value (flag 0).
    first : datetime64[m]
        Local start of the first row.
    notes : tuple of str
        Sentences on what is doubtful or not read.
    columns : dict of str to str
        Column of each variable.
    values : dict of str to int
        Number of sampled values of each variable.
    """

    step_minutes: int
    rows: int
    variables: tuple[str, ...]
    measured: dict[str, float]
    first: np.datetime64
    notes: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)


def summarise_stamped(source: Source, dialect: Dialect) -> TableSummary:
    """Return a summary of a table from its header and a sample of its rows (`csvfile.read_sample`).

    Raises
    ------
    SourceError
        If the table is not of the dialect, or the sample is not what it should be.
    """
    names, location = _names(None), source.location
    header = _Header(dialect, names, location)
    frame, rows = read_sample(location, header, integers=(START, END))
    frame.columns = [header.canonical(name) for name in frame.columns]
    where = _Where(location, header.written)
    start, step = _clock(frame, where)
    record = _read_variables(frame, names, dialect, where)
    measured = {name: float((record.arrays[f"{name}_QC"] == 0).mean()) for name in record.columns}
    notes = contradictions.checked(record.arrays, step_minutes=step, where=f"{location}")
    return TableSummary(
        step_minutes=step,
        rows=rows,
        variables=tuple(record.columns),
        measured=measured,
        first=start[0],
        # Correlations of a part of the record may differ from those of all of it, which a build checks.
        notes=(*record.doubts, *(notes if rows == len(frame) else ())),
        columns=record.columns,
        values={name: int((record.arrays[f"{name}_QC"] >= 0).sum()) for name in record.columns},
    )


def check_stamps(header: Sequence[str], location: Location, needed: Sequence[str] = (START, END)) -> None:
    """Refuse a table without the time stamp columns of half-hourly and hourly tables.

    Raises
    ------
    SourceError
        If a column is missing; the message contains its name, or that the table is a daily or coarser one.
    """
    missing = [name for name in needed if name not in header]
    if missing == list(needed) and "TIMESTAMP" in header:
        raise SourceError(
            f"{location}, line 1: column TIMESTAMP, as daily and coarser files have, where {' and '.join(needed)} were "
            "expected; get the site's half-hourly (HH) or hourly (HR) file"
        )
    if missing:
        raise SourceError(
            f"{location}, line 1: expected columns {' and '.join(needed)}, found no {' and no '.join(missing)} among "
            f"{', '.join(header[:4])[:200]}, ...; {AS_PUBLISHED}, with commas between columns"
        )


def parse_stamps(stamps: np.ndarray) -> np.ndarray:
    """Convert YYYYMMDDHHMM numbers to times.

    Parameters
    ----------
    stamps : (time,) int64

    Returns
    -------
    (time,) datetime64[m]
        NaT where the number is not a date and time between 1900 and 2199.

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


class _Header:
    """Chooses the columns to read when the header is known, and remembers how the file writes their names."""

    def __init__(self, dialect: Dialect, names: Sequence[str], location: Location) -> None:
        self._dialect, self._names, self._location = dialect, names, location
        self._written: dict[str, str] = {}

    def __call__(self, header: Sequence[str]) -> list[str]:
        self._dialect.check_header(header, self._location)
        columns = {START, END, *self._columns()}
        present = [name for name in header if self.canonical(name) in columns]
        for name in present:
            other = self._written.setdefault(self.canonical(name), name)
            if other != name:
                raise SourceError(
                    f"{self._location}, line 1: expected one column {self.canonical(name)}, found columns {other} and "
                    f"{name}, which differ by case only; remove the wrong one, or {AS_PUBLISHED}"
                )
        return present

    def canonical(self, name: str) -> str:
        """Return a column's name as this package writes it."""
        return name.upper() if self._dialect.ignore_case else name

    def written(self, name: str) -> str:
        """Return a column's name as the file writes it."""
        return self._written.get(name, name)

    def _columns(self) -> list[str]:
        others = [self._dialect.flags_of[name] for name in self._names if name in self._dialect.flags_of]
        rows = [table.variable(name) for name in (*self._names, *others)]
        layers = [layer for row in rows for layer in self._dialect.layers(row)]
        flags = [layer.flag for layer in layers if layer.flag]
        unc = [column for row in rows for column in (*row.randunc, *row.jointunc)]
        return [*(layer.column for layer in layers), *flags, *unc]


@dataclass(frozen=True)
class _Where:
    """The file, and the names of its columns as it writes them, for messages about faults."""

    location: Location
    written: Callable[[str], str]

    def refuse(self, bad: np.ndarray, column: str, why: str) -> None:
        """Raise an error for the first bad row, with its line and text."""
        if bad.any():
            column = self.written(column)
            line, text = text_of(self.location, int(bad.argmax()), column)
            more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
            raise SourceError(
                f"{self.location}, line {line}, column {column}: found {text!r}: {why}{more}; correct it, "
                f"or {AS_PUBLISHED}"
            )


def _names(variables: Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of the variables to read, each once, without computed ones, which are in no file."""
    names = table.table() if variables is None else [variables] if isinstance(variables, str) else variables
    return tuple(dict.fromkeys(name for name in names if table.variable(name).aliases))


def attrs_of(name: str, resolution: str = "hourly") -> dict[str, object]:
    """Return the attributes of an array of a record: a variable, or its flags, quality or uncertainty.

    Examples
    --------
    >>> attrs_of("NEE_RANDUNC")
    {'long_name': 'random uncertainty of NEE', 'units': 'umol m-2 s-1'}
    """
    base, _, kind = name.rpartition("_")
    if kind == "QC":
        return {"long_name": f"quality flag of {base}", "flag_values": "-1 0 1 2 3"}
    if kind == "QUALITY":
        return {"long_name": f"share of the day that is measured or good fill, of {base}", "units": "1"}
    if kind in ("RANDUNC", "JOINTUNC"):
        what = "random" if kind == "RANDUNC" else "random and USTAR-filtering"
        return {"long_name": f"{what} uncertainty of {base}", "units": table.variable(base, resolution).units}
    return dict(table.variable(name, resolution).attrs)


def _clock(frame: pd.DataFrame, where: _Where) -> tuple[np.ndarray, int]:
    """Return the local start of every row (time,) datetime64[m], and the step in minutes."""
    times = {}
    for name in (START, END):
        if name in frame:
            times[name] = parse_stamps(frame[name].to_numpy())
            where.refuse(np.isnat(times[name]), name, "expected a time as YYYYMMDDHHMM")
    start = times[START]
    moves = np.diff(start).astype(np.int64)
    lengths = (times[END] - start).astype(np.int64) if END in times else moves if len(moves) else np.array([0])
    step = most_frequent(lengths)
    if END in times:
        where.refuse(lengths != step, END, f"expected {step} minutes after the start, as in the other rows")
    if step not in STEPS:
        raise SourceError(
            f"{where.location}, line {line_of(where.location, 0)}: periods of {step} minutes, expected 30 or 60; "
            "get the site's half-hourly (HH) or hourly (HR) file"
        )
    moves = np.concatenate([[step], moves])
    where.refuse(moves == 0, START, "this time occurs twice, expected once")
    where.refuse(moves < 0, START, "earlier than the row before, expected times in order")
    where.refuse(moves % step != 0, START, f"not a multiple of {step} minutes after the row before")
    return start, step


def most_frequent(minutes: np.ndarray) -> int:
    """Return the most frequent of some whole numbers (n,), the smallest of equally frequent ones."""
    values, counts = np.unique(minutes, return_counts=True)
    return int(values[counts.argmax()])


def _read_variables(frame: pd.DataFrame, names: Sequence[str], dialect: Dialect, where: _Where) -> _Record:
    """Return values, flags and uncertainties of the variables that the file has, and their columns."""
    record = _Record()
    for name in names:
        present = _present(frame, name, dialect)
        if not present:
            continue
        stack = _stack(frame, name, dialect, where)
        if name in dialect.flags_of:
            others = _stack(frame, dialect.flags_of[name], dialect, where).flags
            stack.flags = np.where((stack.flags >= 0) & (others >= 0), others, stack.flags)
        record.arrays |= {name: stack.values, f"{name}_QC": stack.flags}
        record.columns[name] = ", ".join(stack.columns or [present[0].column])
        record.assumed |= {name: stack.assumed} if stack.assumed else {}
        record.codes |= {name: stack.codes} if stack.codes else {}
        # GPP and RECO have the flags of NEE: one sentence is enough.
        noted = {doubt.partition(";")[0] for doubt in record.doubts}
        record.doubts += [doubt for doubt in stack.doubts if doubt.partition(";")[0] not in noted]
        record.arrays |= _uncertainties(frame, table.variable(name), where, record.doubts)
    return record


def _present(frame: pd.DataFrame, name: str, dialect: Dialect) -> list[Layer]:
    return [layer for layer in dialect.layers(table.variable(name)) if layer.column in frame]


@dataclass
class _Stack:
    """Values and flags (time,), the columns they were read from, the numbers of assumed flags and codes, and doubts."""

    values: np.ndarray
    flags: np.ndarray
    columns: list[str] = field(default_factory=list)
    assumed: int = 0
    codes: missing_codes.Codes = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def _stack(frame: pd.DataFrame, name: str, dialect: Dialect, where: _Where) -> _Stack:
    """Return a variable's values and flags, those of each step from the first layer that has a value there."""
    stack = _Stack(np.full(len(frame), np.nan, np.float32), np.full(len(frame), -1, np.int8))
    for layer in _present(frame, name, dialect):
        more = _values(frame, layer.column, where)
        taken = np.isnan(stack.values) & ~np.isnan(more)
        if not taken.any() or (layer.alone and stack.columns):
            continue
        more, codes = measured_values(name, more, f"{where.location}, column {where.written(layer.column)}")
        stack.codes = missing_codes.added(stack.codes, codes)
        taken &= ~np.isnan(more)
        if not taken.any():
            continue
        odd = _unexpected_flags(frame, layer, ~np.isnan(more))
        flags, blank = _flags(frame, layer, ~np.isnan(more), odd, where)
        if odd is not None:
            _refuse_another_scale(frame, layer, odd, dialect, where)
            raw = frame[layer.flag].to_numpy()
            stack.doubts.append(
                quality_flags.sentence(where.written(str(layer.flag)), name, raw, odd, _expected(layer))
            )
        if name == "NEE" and layer.flag is not None and layer.flag in frame:
            in_file = np.where(blank | np.isnan(more), -1, flags)
            check_fills(more, in_file, f"{where.location}, column {where.written(layer.flag)}")
        stack.values[taken], stack.flags[taken] = more[taken], flags[taken]
        stack.columns.append(layer.column)
        stack.assumed += int((blank & taken).sum())
    return stack


def _values(frame: pd.DataFrame, column: str, where: _Where) -> np.ndarray:
    values = frame[column].to_numpy(copy=True)
    values[values == MISSING] = np.nan
    where.refuse(np.isinf(values), column, f"expected a number, {MISSING} where missing")
    return values


def _flags(
    frame: pd.DataFrame, layer: Layer, present: np.ndarray, odd: np.ndarray | None, where: _Where
) -> tuple[np.ndarray, np.ndarray]:
    """Return the flag of every step (time,) int8, and where the flag in the file is blank (time,) bool."""
    if layer.flag is None or layer.flag not in frame:
        return np.full(len(frame), layer.assumed, np.int8), np.zeros(len(frame), bool)
    raw = frame[layer.flag].to_numpy()
    where.refuse(np.isinf(raw), layer.flag, f"expected {_expected(layer)}")
    blank = ~(np.abs(raw) < quality_flags.CODE)
    if odd is not None:
        blank |= quality_flags.unreadable(raw, odd)
    if layer.flags == FLAGS:
        check_flags(np.where(blank, np.nan, raw), present, f"{where.location}, column {where.written(layer.flag)}")
    flags = np.full(len(frame), layer.assumed, np.int8)
    for flag, meaning in layer.flags:
        flags[(raw == flag) & ~blank] = meaning
    return flags, blank


def _unexpected_flags(frame: pd.DataFrame, layer: Layer, present: np.ndarray | None = None) -> np.ndarray | None:
    """Return which flags (time,) of a layer, or of its present values, are unexpected; None if there is none."""
    if layer.flag is None or layer.flag not in frame:
        return None
    odd = quality_flags.unexpected(frame[layer.flag].to_numpy(), tuple(flag for flag, _ in layer.flags))
    odd &= True if present is None else present
    return odd if odd.any() else None


def _refuse_another_scale(frame: pd.DataFrame, layer: Layer, odd: np.ndarray, dialect: Dialect, where: _Where) -> None:
    """Refuse a table most of whose flags are of another scale."""
    layers = [(row.name, other) for row in table.table().values() for other in dialect.layers(row)]
    columns = {str(other.flag): other for _, other in layers if other.flag in frame}
    main = frozenset(str(other.flag) for name, other in layers if name in ("NEE", "FCH4"))
    found = {column: _unexpected_flags(frame, other) is not None for column, other in columns.items()}
    if quality_flags.is_of_another_scale(found, main):
        where.refuse(odd, str(layer.flag), f"expected {_expected(layer)}")


def _expected(layer: Layer) -> str:
    """Return the flags that a layer may have."""
    *others, last = (flag for flag, _ in layer.flags)
    return f"a flag {', '.join(map(str, others))} or {last} ({_FRACTION})"


def _uncertainties(frame: pd.DataFrame, row: Variable, where: _Where, doubts: list[str]) -> dict[str, np.ndarray]:
    """Return `<NAME>_RANDUNC` and `<NAME>_JOINTUNC` (time,) float32 where the file has values of them."""
    uncertainties: dict[str, np.ndarray] = {}
    for kind, columns in (("RANDUNC", row.randunc), ("JOINTUNC", row.jointunc)):
        for column in columns:
            if column not in frame or f"{row.name}_{kind}" in uncertainties:
                continue
            values, doubt = missing_codes.standard_deviations(_values(frame, column, where), row, where.written(column))
            doubts += [doubt] if doubt else []
            if not np.isnan(values).all():
                uncertainties[f"{row.name}_{kind}"] = values
    return uncertainties


def to_utc(start: np.ndarray, step: int, utc_offset: Offset) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTC start of every row, without rows whose UTC time is already there.

    Parameters
    ----------
    start : (time,) datetime64
        Local standard time at the start of each row, ascending.
    step : int
        Length of the period of a row in minutes.
    utc_offset : float or sequence of (start, float)
        As in `fluxcube.sources.towers.oneflux.read_oneflux`.

    Returns
    -------
    time : (kept,) datetime64[m]
        UTC, strictly ascending.
    kept : (time,) bool
        False where the offset from UTC grew, so that an earlier row has the same UTC time.

    Raises
    ------
    ConfigError
        If an offset is not a number of hours from -14 to 14.
    """
    time = standard_to_utc(start, offsets_at(start, utc_offset))
    # Where the offset grows, hours repeat in UTC: values that were observed with the old offset are used.
    over = np.maximum.accumulate(time + np.timedelta64(step, "m"))
    kept = np.concatenate([[True], time[1:] >= over[:-1]])
    return time[kept], kept

"""Read a table of one's own: a CSV that nobody has seen before becomes a record like any network's."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube import variables as table
from fluxcube.biomes import igbp_number
from fluxcube.errors import ConfigError, SourceError, unknown
from fluxcube.sources.towers.anycsv import Table, open_table
from fluxcube.sources.towers.datetext import parse_times
from fluxcube.sources.towers.plausible import as_float32, check_units
from fluxcube.sources.towers.stamped import attrs_of
from fluxcube.timestamps import standard_to_utc
from fluxcube.units import convert

_log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]

#: The network of sites that no network publishes.
OWN = "own"

#: Names that a column of times has where none is given.
_TIME_NAMES = (
    "TIMESTAMP_START",
    "TIMESTAMP_END",
    "TIMESTAMP",
    "DATETIME",
    "DATE_TIME",
    "DATE TIME",
    "DATE/TIME",
    "TIME",
)
_BLANKS = frozenset(("", "NA", "N/A", "#N/A", "NAN", "NULL", "NONE", "-", "--", "#DIV/0!", "#VALUE!"))
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
_COMMA_OR_POINT = re.compile(r"[+-]?[0-9]+[.,][0-9]*")
#: Words of a row that tells how a logger made its values.
_MADE_BY = frozenset(("", "smp", "avg", "tot", "min", "max", "std", "mean", "sum", "med", "wvc", "ts", "rn"))
#: Codes for missing values that are in use; none is a measurement.
_CODES = (
    -9999.0,
    -9999.9,
    -99999.0,
    9999.0,
    99999.0,
    -999.0,
    -999.9,
    -999.99,
    -6999.0,
    -7999.0,
    -8888.0,
    6999.0,
    7999.0,
)
_BLOCK = 50_000
_UNFLAGGED = 3


def read_table(
    path: str | os.PathLike,
    *,
    columns: Mapping[str, str],
    units: Mapping[str, str],
    site: str,
    utc_offset: float,
    latitude: float,
    longitude: float,
    igbp: str = "",
    koppen: str = "",
    elevation: float | None = None,
    stamp: str = "start",
    time: str | Sequence[str] | None = None,
    time_format: str | None = None,
    step: int | None = None,
    missing: Sequence[float | str] = (-9999,),
    flags: Mapping[str, str] | None = None,
    flag_map: Mapping | None = None,
    licence: str = "",
    citation: str = "",
    encoding: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Read one site's table, in whatever form it is, as a record that `append_site` adds to a cube.

    What the file does not tell has to be said, and what it tells is held against it: units are given for every variable
    and checked against a row of units and against what can be, the clock by its offset from UTC. Separator, decimal
    comma, header line and form of the times are found.

    Parameters
    ----------
    path : path
        Text with one header line, perhaps gzip; lines before the header are passed over.
    columns : mapping of str to str
        Names of the variable table to columns of the file.
    units : mapping of str to str
        Units of each in the file, as `fluxcube.units.convert` knows them.
    site : str
        The site's name in the cube, such as ``"XX-Own"``.
    utc_offset : float
        Hours east of UTC of the times: standard time, without daylight saving.
    latitude, longitude : float
        Degrees north and east.
    igbp, koppen : str
        Classes; "" where unknown.
    elevation : float, optional
        Metres above sea level.
    stamp : {"start", "end"}
        Which end of its period a row's time is.
    time : str or (str, str), optional
        Column of the times, or of dates and of clock times; default the one that is called so.
    time_format : str, optional
        As `datetime.strptime` has it, where times can be read in two ways.
    step : int, optional
        Minutes from row to row, a divisor of 60; default what most rows are apart.
    missing : sequence of float or str
        What stands for a missing value, besides blanks and NaN; in the file's units.
    flags : mapping of str to str, optional
        Names of the variable table to columns of quality flags. A variable without counts as measured (0).
    flag_map : mapping, optional
        A flag of the file to 0 (measured), 1 (good), 2 (medium) or 3 (poor), such as ``{0: 0, 1: 1, 2: 3}``; or one
        such mapping for each variable. Without it flags are 0 to 3 already.
    licence, citation : str
        Kept with the record.
    encoding : str, optional
        Of the text, where it is not found out.
    progress : callable, optional
        ``progress(done, total, text)``, in lines.

    Returns
    -------
    xarray.Dataset
        As `fluxcube.sources.towers.oneflux.read_oneflux` returns it, at the file's own step, with ``latitude``,
        ``longitude``, ``elevation``, ``igbp``, ``koppen``, ``utc_offset``, ``licence`` and ``citation`` among its
        attributes.

    Raises
    ------
    ConfigError
        If an option is missing or contradicts the file: a unit, a time that can be read in two ways.
    SourceError
        If the file is not such a table; the message names line and column.
    UnknownNameError
        If a variable or class is not known.

    Examples
    --------
    Five lines bring a site into a cube::

        record = read_table("tower.csv", site="XX-Own", utc_offset=1, latitude=51.1, longitude=10.4, stamp="end",
                            columns={"TA": "Tair", "SW_IN": "Rg", "VPD": "VPD", "NEE": "Fc"},
                            units={"TA": "degC", "SW_IN": "W m-2", "VPD": "kPa", "NEE": "umol m-2 s-1"})
        append_site("carbonsense.zarr", record)
        open_carbonsense("carbonsense.zarr", sites="XX-Own")
    """
    flags = dict(flags or {})
    place = _place(site, utc_offset, latitude, longitude, elevation, igbp, koppen)
    _check_options(columns, units, flags, stamp, step)
    times = _time_columns(time)
    found = open_table(path, [*times, *columns.values(), *flags.values()], encoding) if times else None
    if found is None:
        found, times = _with_time(path, [*columns.values(), *flags.values()], encoding)
    _check_stamp(times, stamp)
    wanted = _Wanted(found, times, dict(columns), dict(units), flags, missing)
    cells = _read(wanted, progress)
    when = parse_times(
        cells.time, cells.lines, f"{path}, column {' and '.join(times)}", time_format=time_format, utc_offset=utc_offset
    )
    step = _regular(when, cells, step, f"{path}, column {' and '.join(times)}")
    start = when - np.timedelta64(step, "m") if stamp == "end" else when
    arrays, assumed = _variables(wanted, cells, step, flag_map)
    utc = standard_to_utc(start, utc_offset)
    return xr.Dataset(
        arrays,
        coords={"time": ("time", utc.astype("datetime64[ns]"))},
        attrs={
            "step_minutes": step,
            "source_file": Path(path).name,
            "site": site,
            "network": OWN,
            "columns": json.dumps(dict(columns)),
            "units": json.dumps(dict(units)),
            "flags_assumed": json.dumps(assumed),
            "clock_repeats": 0,
            **place,
            "licence": licence,
            "citation": citation,
        },
    )


def _place(
    site: str, utc_offset: float, latitude: float, longitude: float, elevation: float | None, igbp: str, koppen: str
) -> dict[str, object]:
    """Return what is known of the place, after checking that it can be one."""
    if not isinstance(site, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", site):
        raise ConfigError(f"site={site!r}: expected a short name of letters, digits, - and _, such as 'XX-Own'")
    limits = {"utc_offset": (utc_offset, 14), "latitude": (latitude, 90), "longitude": (longitude, 180)}
    limits |= {} if elevation is None else {"elevation": (elevation, 9000)}
    for name, (value, limit) in limits.items():
        good = isinstance(value, int | float | np.number) and not isinstance(value, bool) and -limit <= value <= limit
        if not good:
            raise ConfigError(f"{name}={value!r}: expected a number from {-limit} to {limit}")
    if igbp:
        igbp_number(igbp)
    return {name: float(value) for name, (value, _) in limits.items()} | {"igbp": igbp, "koppen": koppen}


def _check_options(
    columns: Mapping[str, str], units: Mapping[str, str], flags: Mapping[str, str], stamp: str, step: int | None
) -> None:
    if not columns:
        raise ConfigError("columns: expected at least one variable, such as columns={'TA': 'Tair'}")
    for name in columns:
        if table.variable(name).aggregate == "computed":
            raise ConfigError(f"columns: {name} is computed from place and time, and read from no file; leave it out")
        if name not in units:
            raise ConfigError(
                f"units: none for {name}; give it as the file has it, such as {table.variable(name).units!r}"
            )
    for option, given in (("units", units), ("flags", flags)):
        for name in given:
            if name not in columns:
                raise unknown(f"variable in {option}", name, columns)
    if stamp not in ("start", "end"):
        raise ConfigError(f"stamp={stamp!r}: expected 'start' or 'end', the end of its period that a row's time is")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 1 or 60 % step):
        raise ConfigError(f"step={step!r}: expected minutes that divide 60, such as 30")


def _time_columns(time: str | Sequence[str] | None) -> tuple[str, ...]:
    names = () if time is None else (time,) if isinstance(time, str) else tuple(time)
    if len(names) > 2:
        raise ConfigError(f"time={time!r}: expected one column, or two: of dates and of clock times")
    return names


def _with_time(path: str | os.PathLike, needed: Sequence[str], encoding: str | None) -> tuple[Table, tuple[str, ...]]:
    """Find the table, and the one column that is called like a time."""
    found = open_table(path, needed, encoding)
    named = [name for name in found.header if name.upper() in _TIME_NAMES]
    best = [name for name in named if name.upper() == "TIMESTAMP_START"] or named
    if len(best) != 1:
        raise ConfigError(
            f"{path}, line {found.line}: {len(best)} columns are called like a time; say which with time='...', or "
            f"time=('date column', 'clock column'). The file has {', '.join(found.header)[:300]}"
        )
    return found, (best[0],)


def _check_stamp(times: Sequence[str], stamp: str) -> None:
    for end, other in (("start", "end"), ("end", "start")):
        if stamp == end and any(re.search(rf"(?i)(^|_|\b){other}($|_|\b)", name) for name in times):
            raise ConfigError(f"stamp={stamp!r}, and the times are of column {times[0]!r}: give stamp={other!r}")


@dataclass(frozen=True)
class _Wanted:
    """What is to be read, and where it stands in a row."""

    table: Table
    times: tuple[str, ...]
    columns: Mapping[str, str]
    units: Mapping[str, str]
    flags: Mapping[str, str]
    missing: Sequence[float | str]

    def at(self, column: str) -> int:
        return self.table.header.index(column)

    def where(self, column: str) -> str:
        return f"{self.table.path}, column {column}"

    @property
    def blanks(self) -> frozenset[str]:
        return _BLANKS | {code.strip().upper() for code in self.missing if isinstance(code, str)}

    @property
    def codes(self) -> tuple[float, ...]:
        codes = (code.strip().replace(",", ".") if isinstance(code, str) else code for code in self.missing)
        return tuple(float(code) for code in codes if not isinstance(code, str) or _FLOAT.fullmatch(code))


@dataclass
class _Cells:
    """What was read: text of times, lines, and numbers by column, in blocks."""

    time: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    numbers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    comma: int = 0  # a line with a decimal comma, and one with a decimal point
    point: int = 0

    def column(self, name: str) -> np.ndarray:
        return np.concatenate(self.numbers[name])


def _read(wanted: _Wanted, progress: Progress | None) -> _Cells:
    """Read times as text and the other columns as numbers, block by block."""
    cells, total = _Cells(), wanted.table.data.count(b"\n")
    times = [wanted.at(name) for name in wanted.times]
    held: list[tuple[int, list[str]]] = []
    begun = False
    for line, fields in wanted.table.rows():
        if not begun and not any(character.isdigit() for index in times for character in fields[index]):
            _check_row_of_units(wanted, line, fields)
            continue
        begun = True
        cells.time.append(" ".join(fields[index].strip() for index in times))
        cells.lines.append(line)
        held.append((line, fields))
        if len(held) == _BLOCK:
            _take(wanted, cells, held)
            held = []
            if progress is not None:
                progress(line, total, f"reading {wanted.table.path.name}")
    if held:
        _take(wanted, cells, held)
    if not cells.time:
        raise SourceError(f"{wanted.table.path}: a header in line {wanted.table.line} and no rows with a time below it")
    if progress is not None:
        progress(total, total, f"read {wanted.table.path.name}")
    return cells


def _check_row_of_units(wanted: _Wanted, line: int, fields: Sequence[str]) -> None:
    """Hold a row of units below the header against those given; refuse a row that is neither that nor data."""
    said = {name: fields[wanted.at(column)].strip() for name, column in wanted.columns.items()}
    where = f"{wanted.table.path}, line {line}"
    if all(text.lower() in _MADE_BY for text in said.values()):
        return
    known = {name: factor for name, text in said.items() if (factor := _factor(text, wanted.units[name])) is not None}
    if not known:
        raise SourceError(
            f"{where}: neither a row of data (no digit in column {wanted.times[0]}) nor of units (found "
            f"{', '.join(said.values())[:100]}); remove the line"
        )
    for name, text in said.items():
        if name in known and known[name] != 1:
            raise ConfigError(
                f"{where}, column {wanted.columns[name]}: the file says {text!r}, and units[{name!r}] is "
                f"{wanted.units[name]!r}: give what is right"
            )
        if name not in known and text:
            _log.warning(
                "%s: %r of column %s is no unit that is known; %r is taken", where, text, name, wanted.units[name]
            )


def _factor(text: str, unit: str) -> float | None:
    """Return what one of a unit is in another one; NaN where they do not measure the same, None where it is no unit."""
    try:
        convert(1.0, text, text)
    except ConfigError:
        return None
    try:
        return float(convert(1.0, text, unit))
    except ConfigError:
        return np.nan


def _take(wanted: _Wanted, cells: _Cells, held: Sequence[tuple[int, list[str]]]) -> None:
    lines = [line for line, _ in held]
    for column in dict.fromkeys((*wanted.columns.values(), *wanted.flags.values())):
        index = wanted.at(column)
        text = [fields[index] for _, fields in held]
        cells.numbers.setdefault(column, []).append(_numbers(text, lines, column, wanted, cells))


def _numbers(text: list[str], lines: Sequence[int], column: str, wanted: _Wanted, cells: _Cells) -> np.ndarray:
    """Return numbers (row,) float64, NaN where blank; text that is none is named with its line."""
    values = _as_numbers(text)  # most columns are numbers throughout
    if values is None:
        values = _slowly(text, lines, column, wanted, cells)
    else:
        cells.point = cells.point or _first(".", text, lines, wanted.codes)
    _check_signs(wanted, cells)
    if np.isinf(values).any():
        line = lines[int(np.isinf(values).argmax())]
        raise SourceError(f"{wanted.where(column)}, line {line}: infinite, where a number was expected")
    return values


def _slowly(text: list[str], lines: Sequence[int], column: str, wanted: _Wanted, cells: _Cells) -> np.ndarray:
    """Return the numbers of a column that has blanks, decimal commas or faults."""
    blanks = wanted.blanks
    text = ["nan" if one.strip().upper() in blanks else one.strip() for one in text]
    comma = _first(",", text, lines, wanted.codes)
    cells.comma, cells.point = cells.comma or comma, cells.point or _first(".", text, lines, wanted.codes)
    if any("," in one for one in text):
        text = [one.replace(",", ".") if _COMMA.fullmatch(one) else one for one in text]
    values = _as_numbers(text)
    if values is None:
        _check_signs(wanted, cells)
        line, bad = next((line, one) for line, one in zip(lines, text, strict=True) if _as_numbers([one]) is None)
        raise SourceError(
            f"{wanted.where(column)}, line {line}: expected a number, found {bad[:40]!r}; correct it, or name it in "
            "missing"
        )
    return values


def _check_signs(wanted: _Wanted, cells: _Cells) -> None:
    if cells.comma and cells.point:
        raise SourceError(
            f"{wanted.table.path}: a comma in a number in line {cells.comma} and a point in line {cells.point}; write "
            "all numbers with one of them and without thousands' signs"
        )


def _as_numbers(text: Sequence[str]) -> np.ndarray | None:
    """Return (row,) float64; None where a text is no number as a table writes it."""
    joined = "".join(text)
    if "_" in joined or not joined.isascii():  # Python takes 1_000 and the digits of every script
        return None
    try:
        return np.array(text, np.float64)
    except ValueError:
        return None


def _first(sign: str, text: Sequence[str], lines: Sequence[int], codes: Sequence[float]) -> int:
    """Return the line of the first number with a sign in it, codes for missing values aside; 0 where there is none."""
    for line, one in zip(lines, text, strict=True):
        if sign in one and not (_COMMA_OR_POINT.fullmatch(one) and float(one.replace(",", ".")) in codes):
            return line
    return 0


def _regular(when: np.ndarray, cells: _Cells, step: int | None, where: str) -> int:
    """Return minutes from row to row, after checking that rows are in order, once each, and on that raster."""
    moves = np.diff(when).astype(np.int64)
    for bad, why in ((moves == 0, "is there twice"), (moves < 0, "is earlier than the row before")):
        if bad.any():
            row = int(bad.argmax()) + 1
            twice = np.flatnonzero(when[:row] == when[row])
            first = f" (first in line {cells.lines[int(twice[0])]})" if len(twice) else ""
            raise SourceError(
                f"{where}, line {cells.lines[row]}: {cells.time[row]!r} {why}{first}; {int(bad.sum())} such rows. Sort "
                "the rows, keep one of each, and give standard time all year, without daylight saving"
            )
    commonest = _commonest(moves) if len(moves) else step or 30
    if step is not None and step != commonest:
        raise ConfigError(f"step={step}, and most rows of {where} are {commonest} minutes apart")
    if commonest > 60 or 60 % commonest:
        raise SourceError(
            f"{where}: most rows are {commonest} minutes apart, expected minutes that divide 60 (15, 30, 60, ...); "
            "average the rows over such periods, or get the file at its own step"
        )
    if (moves % commonest).any():
        row = int((moves % commonest != 0).argmax()) + 1
        raise SourceError(
            f"{where}, line {cells.lines[row]}: {cells.time[row]!r} is {moves[row - 1]} minutes after the row before, "
            f"not a multiple of {commonest}"
        )
    if int(when[0].astype(np.int64)) % commonest * 2 == commonest:
        raise SourceError(
            f"{where}: times such as {cells.time[0]!r} lie in the middle of periods of {commonest} minutes; move them "
            "to their start or end and say which with stamp"
        )
    return commonest


def _commonest(moves: np.ndarray) -> int:
    values, counts = np.unique(moves, return_counts=True)
    return int(values[counts.argmax()])


def _variables(
    wanted: _Wanted, cells: _Cells, step: int, flag_map: Mapping | None
) -> tuple[dict[str, tuple], dict[str, int]]:
    """Return values and flags in the table's units, and how many values had no flag."""
    arrays, assumed = {}, {}
    for name, column in wanted.columns.items():
        raw = cells.column(column)
        raw[np.isin(raw, wanted.codes)] = np.nan
        row, unit = table.variable(name), wanted.units[name]
        values = as_float32(convert(raw, unit, row.units, name=name, step_minutes=step), wanted.where(column))
        _check_values(name, raw, values, wanted)
        present = np.isfinite(values)
        if name in wanted.flags:
            quality, without = _flags(name, cells, present, wanted, flag_map)
        else:
            quality, without = np.zeros(len(values)), int(present.sum())
        arrays[name] = ("time", values, attrs_of(name))
        arrays[f"{name}_QC"] = ("time", np.where(present, quality, -1).astype(np.int8), attrs_of(f"{name}_QC"))
        assumed |= {name: without} if without else {}
    return arrays, assumed


def _check_values(name: str, raw: np.ndarray, values: np.ndarray, wanted: _Wanted) -> None:
    """Refuse codes for missing values that were not named, and units that cannot be right."""
    where, unit = wanted.where(wanted.columns[name]), wanted.units[name]
    low, high = table.variable(name).bounds
    outside = (values < low) | (values > high)
    for code in _CODES:
        # In the table's own units no variable reaches -999, though limits that only scale may.
        count = int(((outside | ((values < -900) & (values == np.float32(code)))) & (raw == code)).sum())
        if count:
            raise ConfigError(f"{where}: {code:g} is there {count} times, which is no {name}: name it in missing")
    present = np.isfinite(values)
    if not present.any():
        _log.warning("%s: no value", where)
        return
    check_units(name, values, f"{where}, read as {unit}")
    if name.startswith("SWC_") and present.sum() >= 48 and np.nanmax(values) <= 1:
        raise SourceError(f"{where}, read as {unit}: never above 1 %, which looks like a fraction: give units '1'")
    if outside.sum() > 0.2 * present.sum() and present.sum() >= 48:
        raise SourceError(
            f"{where}, read as {unit}: {outside.sum() / present.sum():.0%} of the values lie outside {low:g} to "
            f"{high:g} {table.variable(name).units}; another unit, or another variable?"
        )


def _flags(
    name: str, cells: _Cells, present: np.ndarray, wanted: _Wanted, flag_map: Mapping | None
) -> tuple[np.ndarray, int]:
    """Return flags (time,) of 0 to 3, and how many values had none: those count as poor."""
    column = wanted.flags[name]
    raw = cells.column(column)
    raw[np.isin(raw, wanted.codes)] = np.nan
    quality, known = np.full(len(raw), _UNFLAGGED, float), np.isnan(raw)
    for flag, meaning in _meanings(name, flag_map).items():
        quality[raw == flag] = meaning
        known |= raw == flag
    bad = ~known & present
    if bad.any():
        row = int(bad.argmax())
        raise ConfigError(
            f"{wanted.where(column)}, line {cells.lines[row]}: flag {raw[row]:g} of {name} is not among "
            f"{', '.join(f'{flag:g}' for flag in _meanings(name, flag_map))}; say what it means with flag_map"
        )
    return quality, int((np.isnan(raw) & present).sum())


def _meanings(name: str, flag_map: Mapping | None) -> dict[float, int]:
    """Return what each flag of the file means for a variable."""
    if flag_map is None:
        return {float(flag): flag for flag in range(4)}
    own = flag_map.get(name, {}) if any(isinstance(value, Mapping) for value in flag_map.values()) else flag_map
    try:
        found = {float(flag): int(meaning) for flag, meaning in own.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"flag_map={flag_map!r}: expected flags as numbers to 0, 1, 2 or 3 ({error})") from error
    if not found or not set(found.values()) <= {0, 1, 2, 3}:
        raise ConfigError(f"flag_map: expected flags of {name} to 0 (measured), 1, 2 or 3 (poor), found {own!r}")
    return found

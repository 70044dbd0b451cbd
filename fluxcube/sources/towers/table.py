"""Read the table of a user's own site: a CSV file of unknown form becomes a record like those of the networks."""

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
from fluxcube.biomes import igbp_class, igbp_number
from fluxcube.errors import ConfigError, SourceError, to_type, unknown
from fluxcube.sources.towers import codes, contradictions
from fluxcube.sources.towers.anycsv import Table, open_table
from fluxcube.sources.towers.plausible import as_float32, check_units
from fluxcube.sources.towers.sitenames import fault_of_site
from fluxcube.sources.towers.stamped import attrs_of, most_frequent
from fluxcube.sources.towers.tabletimes import (
    STAMPS,
    TimeColumns,
    find_times,
    flags_of_eddypro,
    parse_columns,
    requested_times,
    sense_of_stamps,
)
from fluxcube.sources.towers.tableunits import (
    check_row_of_units,
    check_rows_above,
    check_units_in_names,
    is_row_of_units,
)
from fluxcube.timestamps import standard_to_utc
from fluxcube.units import convert

_log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]

#: Name of the network of sites that no network publishes.
OWN = "own"

_BLANKS = frozenset(("", "NA", "N/A", "#N/A", "NAN", "NULL", "NONE", "-", "--", "#DIV/0!", "#VALUE!"))
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
_COMMA_OR_POINT = re.compile(r"[+-]?[0-9]+[.,][0-9]*")
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
    stamp: str | None = None,
    time: str | Sequence[str] | Mapping[str, str] | None = None,
    time_format: str | None = None,
    step: int | None = None,
    missing: Sequence[float | str] = (-9999,),
    flags: Mapping[str, str] | None = None,
    flag_map: Mapping | None = None,
    licence: str = "",
    citation: str = "",
    encoding: str | None = None,
    trust: str | Sequence[str] = (),
    progress: Progress | None = None,
) -> xr.Dataset:
    """Read the table of one site as a record that `append_site` adds to a cube.

    Separator, decimal comma, header line and time format are recognised. Units, coordinates and the offset from UTC
    must be passed, because files do not state them reliably; they are checked against the file: units against a row of
    units, units in the names of columns and the range of the values, the offset against a time zone in the times.
    Outputs of EddyPro, tables of Campbell loggers (TOA5) and of REddyProc (Year, DoY, Hour) are read as they are.

    Parameters
    ----------
    path : path
        Text file with one header line, optionally compressed (``.gz``), or a spreadsheet (``.xlsx``) with one sheet;
        lines before the header are skipped.
    columns : mapping of str to str
        For each variable, by its name in the variable table, the column of the file.
    units : mapping of str to str
        For each variable, the units of the file, as `fluxcube.units.convert` accepts them.
    site : str
        Name of the site in the cube, such as ``"XX-Own"``.
    utc_offset : float
        Hours east of UTC of the times, which must be in standard time, without daylight saving.
    latitude, longitude : float
        Degrees north and east.
    igbp : str
        IGBP land cover class, such as ``"GRA"`` or ``"Grasslands"``; "" where unknown.
    koppen : str
        Köppen climate class; "" where unknown.
    elevation : float, optional
        Metres above sea level.
    stamp : {"start", "end", "middle"}, optional
        Whether the time of a row is the start, the end or the middle of its period. It is required where the file does
        not state it, by the name of the column (TIMESTAMP_START, TIMESTAMP_END), by times of hour 24, or as an output
        of EddyPro (ends).
    time : str, (str, str), or mapping of str to str, optional
        Column of the times, two columns (of dates and of clock times), or the column of each part: ``year``, ``doy``
        (or ``month`` and ``day``), ``hour`` (0.5 to 24, or HHMM) and ``minute``, such as ``{"year": "Yr", "doy": "Day",
        "hour": "Hr"}``. By default the columns with usual names, such as TIMESTAMP_START, TIMESTAMP, DATETIME, date and
        time, or Year, DoY and Hour.
    time_format : str, optional
        Format of the times, as for `datetime.strptime`; required where times can be read in two ways.
    step : int, optional
        Time step in minutes, a divisor of 60; by default the most frequent difference between rows.
    missing : sequence of float or str
        Codes for missing values in the units of the file, besides blanks and NaN, which are always missing. Other known
        codes that cannot be values (-6999, -99 of NEE), and values beyond ten times the bounds of their variable,
        become missing too: they are counted in the attribute ``missing_codes`` and logged.
    flags : mapping of str to str, optional
        For each variable with quality flags, the column of the flags. Variables without flags count as measured (0).
    flag_map : mapping, optional
        Meaning of each flag of the file: 0 (measured), 1 (good fill), 2 (medium fill) or 3 (poor fill), such as
        ``{0: 0, 1: 1, 2: 3}``; or one such mapping for each variable. By default flags have these meanings already,
        except ``qc_`` columns of EddyPro, whose flag 2 (to be discarded) counts as poor (3).
    licence, citation : str
        Licence and citation of the data, which are stored with the record.
    encoding : str, optional
        Encoding of the text; by default it is recognised (UTF-8, UTF-16, else Windows-1252).
    trust : str or sequence of str
        Variables whose unit and sign are right although the table contradicts them, such as VPD in kPa beside RH, or
        NEE of the opposite sign of RECO - GPP.
    progress : callable, optional
        Called as ``progress(done, total, text)``, where `done` and `total` are numbers of lines.

    Returns
    -------
    xarray.Dataset
        As `fluxcube.sources.towers.oneflux.read_oneflux` returns it, at the file's own step, with ``latitude``,
        ``longitude``, ``elevation``, ``igbp``, ``koppen``, ``utc_offset``, ``licence`` and ``citation`` among its
        attributes.

    Raises
    ------
    ConfigError
        If an option is missing or contradicts the file, or times can be read in two ways.
    SourceError
        If the file is not such a table, or contradicts the unit or sign of a variable; the message contains line and
        column, or the evidence.
    UnknownNameError
        If a variable or class is unknown.

    Examples
    --------
    Five lines add a site to a cube::

        record = read_table("tower.csv", site="XX-Own", utc_offset=1, latitude=51.1, longitude=10.4, stamp="end",
                            columns={"TA": "Tair", "SW_IN": "Rg", "VPD": "VPD", "NEE": "Fc"},
                            units={"TA": "degC", "SW_IN": "W m-2", "VPD": "kPa", "NEE": "umol m-2 s-1"})
        append_site("carbonsense.zarr", record)
        open_carbonsense("carbonsense.zarr", sites="XX-Own")
    """
    flags = dict(flags or {})
    place = _place(site, utc_offset, latitude, longitude, elevation, igbp, koppen)
    _check_options(columns, units, flags, stamp, step)
    chosen = requested_times(time)
    text = open_table(path, [*(chosen.columns if chosen else ()), *columns.values(), *flags.values()], encoding)
    times = chosen or find_times(text, stamp)
    check_units_in_names(text, columns, units)
    check_rows_above(text, columns, units)
    request = _Request(text, times, dict(columns), dict(units), flags, missing)
    cells = _read(request, progress)
    where = f"{path}, column {' and '.join(times.columns)}"
    stamps = parse_columns(times, cells.time, cells.lines, where, time_format=time_format, utc_offset=utc_offset)
    stamp = sense_of_stamps(text, times, cells.time, stamp)
    step = _regular(stamps, cells, step, where, stamp)
    start = stamps - np.timedelta64({"start": 0, "middle": step // 2, "end": step}[stamp], "m")
    flag_map = flags_of_eddypro(text, flags) if flag_map is None else flag_map
    arrays, assumed, found = _variables(request, cells, step, flag_map)
    accepted = contradictions.check_trust(trust)
    values = {name: array for name, (_, array, _) in arrays.items()}
    doubts = contradictions.checked(values, step_minutes=step, where=f"{path}", trust=accepted, own=True)
    for doubt in (*doubts, *(codes.sentence(name, one) for name, one in found.items())):
        _log.warning("%s: %s", path, doubt)
    used = {*times.columns, *columns.values(), *flags.values()}
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
            "unused_columns": json.dumps([name for name in text.header if name and name not in used]),
            "without_flags": json.dumps([name for name in columns if name not in flags]),
            "missing_codes": json.dumps(found),
            "doubts": json.dumps(doubts),
            "trust": json.dumps(accepted),
            "clock_repeats": 0,
            **place,
            "licence": licence,
            "citation": citation,
        },
    )


def _place(
    site: str, utc_offset: float, latitude: float, longitude: float, elevation: float | None, igbp: str, koppen: str
) -> dict[str, object]:
    """Return the attributes of the site, after checking its name, coordinates and class."""
    if fault := fault_of_site(site):
        raise ConfigError(f"site={site!r}: {fault}")
    limits: dict[str, tuple[float, int]] = {
        "utc_offset": (utc_offset, 14),
        "latitude": (latitude, 90),
        "longitude": (longitude, 180),
    }
    limits |= {} if elevation is None else {"elevation": (elevation, 9000)}
    for name, (value, limit) in limits.items():
        good = isinstance(value, int | float | np.number) and not isinstance(value, bool) and -limit <= value <= limit
        if not good:
            raise ConfigError(f"{name}={value!r}: expected a number from {-limit} to {limit}")
    if igbp:
        igbp = igbp_class(igbp) or igbp
        igbp_number(igbp)
    return {name: float(value) for name, (value, _) in limits.items()} | {"igbp": igbp, "koppen": koppen}


def _check_options(
    columns: Mapping[str, str], units: Mapping[str, str], flags: Mapping[str, str], stamp: str | None, step: int | None
) -> None:
    if not columns:
        raise ConfigError("columns: expected at least one variable, such as columns={'TA': 'Tair'}")
    for name in columns:
        if table.variable(name).aggregate == "computed":
            raise ConfigError(f"columns: {name} is computed from place and time, and not read from files; leave it out")
        if name not in units:
            raise ConfigError(
                f"units: expected the units of {name} in the file, found none; add them, such as "
                f"{table.variable(name).units!r}"
            )
    for option, names in (("units", units), ("flags", flags)):
        for name in names:
            if name not in columns:
                raise unknown(f"variable in {option}", name, columns)
    if stamp is not None and stamp not in STAMPS:
        raise ConfigError(
            f"stamp={stamp!r}: expected 'start', 'end' or 'middle': whether times are the starts, ends or middles of "
            "periods"
        )
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 1 or 60 % step):
        raise ConfigError(f"step={step!r}: expected minutes that divide 60, such as 30")


@dataclass(frozen=True)
class _Request:
    """The columns to read from a table, and their units, flags and codes for missing values."""

    table: Table
    times: TimeColumns
    columns: Mapping[str, str]
    units: Mapping[str, str]
    flags: Mapping[str, str]
    missing: Sequence[float | str]

    def index(self, column: str) -> int:
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
    """The content of the rows: text of times, line numbers, and numbers by column, in blocks."""

    time: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    numbers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    comma: int = 0  # line number of the first decimal comma, 0 if there is none
    point: int = 0  # line number of the first decimal point, 0 if there is none

    def column(self, name: str) -> np.ndarray:
        return np.concatenate(self.numbers[name])


def _read(request: _Request, progress: Progress | None) -> _Cells:
    """Read times as text and the other columns as numbers, block by block."""
    cells, total = _Cells(), request.table.data.count(b"\n")
    times = [request.index(name) for name in request.times.columns]
    whole = len(times) == 1  # the usual case, and the fastest
    block: list[tuple[int, list[str]]] = []
    begun = False
    for line, fields in request.table.rows():
        if not begun and is_row_of_units(request.table, request.columns, request.times.columns, fields):
            check_row_of_units(request.table, request.columns, request.units, line, fields)
            continue
        begun = True
        cells.time.append(fields[times[0]].strip() if whole else request.times.join([fields[i] for i in times]))
        cells.lines.append(line)
        block.append((line, fields))
        if len(block) == _BLOCK:
            _add_block(request, cells, block)
            block = []
            if progress is not None:
                progress(line, total, f"reading {request.table.path.name}")
    if block:
        _add_block(request, cells, block)
    if not cells.time:
        raise SourceError(
            f"{request.table.path}: expected rows with a time below the header in line {request.table.line}, found "
            "none; check the file"
        )
    if progress is not None:
        progress(total, total, f"read {request.table.path.name}")
    return cells


def _add_block(request: _Request, cells: _Cells, block: Sequence[tuple[int, list[str]]]) -> None:
    lines = [line for line, _ in block]
    for column in dict.fromkeys((*request.columns.values(), *request.flags.values())):
        index = request.index(column)
        text = [fields[index] for _, fields in block]
        cells.numbers.setdefault(column, []).append(_numbers(text, lines, column, request, cells))


def _numbers(text: list[str], lines: Sequence[int], column: str, request: _Request, cells: _Cells) -> np.ndarray:
    """Return numbers (row,) float64, NaN where blank; an error about other text contains its line."""
    values = _as_numbers(text)  # most columns are numbers throughout
    if values is None:
        values = _numbers_with_blanks(text, lines, column, request, cells)
    else:
        cells.point = cells.point or _first(".", text, lines, (*request.codes, *codes.CODES))
    _check_signs(request, cells)
    if np.isinf(values).any():
        line = lines[int(np.isinf(values).argmax())]
        raise SourceError(f"{request.where(column)}, line {line}: infinite, where a number was expected; correct it")
    return values


def _numbers_with_blanks(
    text: list[str], lines: Sequence[int], column: str, request: _Request, cells: _Cells
) -> np.ndarray:
    """Return the numbers of a column that has blanks, decimal commas or faults."""
    blanks = request.blanks
    text = ["nan" if one.strip().upper() in blanks else one.strip() for one in text]
    known = (*request.codes, *codes.CODES)
    comma, point = (_first(sign, text, lines, known) for sign in ",.")
    cells.comma, cells.point = cells.comma or comma, cells.point or point
    if any("," in one for one in text):
        text = [one.replace(",", ".") if _DECIMAL_COMMA.fullmatch(one) else one for one in text]
    values = _as_numbers(text)
    if values is None:
        _check_signs(request, cells)
        line, bad = next((line, one) for line, one in zip(lines, text, strict=True) if _as_numbers([one]) is None)
        raise SourceError(
            f"{request.where(column)}, line {line}: expected a number, found {bad[:40]!r}; correct it, or add it to "
            + to_type(python="missing=", shell="missing = [...] in the file of --declaration")
        )
    return values


def _check_signs(request: _Request, cells: _Cells) -> None:
    if cells.comma and cells.point:
        raise SourceError(
            f"{request.table.path}: a comma in a number in line {cells.comma} and a point in line {cells.point}; write "
            "all numbers with one of them and without thousands separators"
        )


def _as_numbers(text: Sequence[str]) -> np.ndarray | None:
    """Return (row,) float64; None if a text is not a number as tables contain it."""
    joined = "".join(text)
    if "_" in joined or not joined.isascii():  # Python accepts 1_000 and the digits of every script
        return None
    try:
        return np.array(text, np.float64)
    except ValueError:
        return None


def _first(sign: str, text: Sequence[str], lines: Sequence[int], codes: Sequence[float]) -> int:
    """Return the line of the first number with a comma or point, except codes for missing values; 0 if none."""
    for line, one in zip(lines, text, strict=True):
        if sign in one and not (_COMMA_OR_POINT.fullmatch(one) and float(one.replace(",", ".")) in codes):
            return line
    return 0


def _regular(stamps: np.ndarray, cells: _Cells, step: int | None, where: str, stamp: str) -> int:
    """Return the time step in minutes, after checking that rows are in order, each once, and multiples of it apart."""
    moves = np.diff(stamps).astype(np.int64)
    for bad, fault in ((moves == 0, "occurs twice"), (moves < 0, "is earlier than the row before")):
        if bad.any():
            row = int(bad.argmax()) + 1
            twice = np.flatnonzero(stamps[:row] == stamps[row])
            first = f" (first in line {cells.lines[int(twice[0])]})" if len(twice) else ""
            raise SourceError(
                f"{where}, line {cells.lines[row]}: {cells.time[row]!r} {fault}{first}; {int(bad.sum())} such rows. "
                "Sort the rows, keep one of each, and use standard time all year, without daylight saving"
            )
    commonest = most_frequent(moves) if len(moves) else step or 30
    if step is not None and step != commonest:
        raise ConfigError(f"step={step}, but most rows of {where} are {commonest} minutes apart; correct step=")
    if commonest > 60 or 60 % commonest:
        raise SourceError(
            f"{where}: most rows are {commonest} minutes apart, expected minutes that divide 60 (15, 30, 60, ...); "
            "average the rows over such periods, or get the file at its own step"
        )
    if (moves % commonest).any():
        row = int((moves % commonest != 0).argmax()) + 1
        raise SourceError(
            f"{where}, line {cells.lines[row]}: {cells.time[row]!r} is {moves[row - 1]} minutes after the row before, "
            f"expected a multiple of {commonest}; correct the time"
        )
    rest = int(stamps[0].astype(np.int64)) % commonest
    if (rest * 2 == commonest) != (stamp == "middle"):
        raise SourceError(
            f"{where}: times such as {cells.time[0]!r} {'do not lie' if stamp == 'middle' else 'lie'} in the middle of "
            f"periods of {commonest} minutes, and stamp is {stamp!r}: "
            + to_type(python="set stamp='start', 'middle' or 'end'", shell="pass --stamp start, middle or end")
            + " accordingly"
        )
    return commonest


def _variables(
    request: _Request, cells: _Cells, step: int, flag_map: Mapping | None
) -> tuple[dict[str, tuple], dict[str, int], dict[str, codes.Codes]]:
    """Return values in the units of the variable table with flags, and numbers of values without flag and of codes."""
    arrays: dict[str, tuple] = {}
    assumed: dict[str, int] = {}
    found: dict[str, codes.Codes] = {}
    for name, column in request.columns.items():
        raw = cells.column(column)
        raw[np.isin(raw, request.codes)] = np.nan
        row, unit = table.variable(name), request.units[name]
        values = as_float32(convert(raw, unit, row.units, name=name, step_minutes=step), request.where(column))
        values, known = codes.without_known_codes(name, values, raw=raw)
        values, others = _check_values(name, values, request)
        found |= {name: codes.added(known, others)} if known or others else {}
        present = np.isfinite(values)
        if name in request.flags:
            quality, without = _flags(name, cells, present, request, flag_map)
        else:
            quality, without = np.zeros(len(values)), int(present.sum())
        arrays[name] = ("time", values, attrs_of(name))
        arrays[f"{name}_QC"] = ("time", np.where(present, quality, -1).astype(np.int8), attrs_of(f"{name}_QC"))
        assumed |= {name: without} if without else {}
    return arrays, assumed, found


def _check_values(name: str, values: np.ndarray, request: _Request) -> tuple[np.ndarray, codes.Codes]:
    """Refuse impossible units; return values without impossible ones, and the number of these by value."""
    where, unit = request.where(request.columns[name]), request.units[name]
    if not np.isfinite(values).any():
        _log.warning("%s: no value", where)
        return values, {}
    check_units(name, values, f"{where}, read as {unit}", unit)
    cleaned, found = codes.without_impossible_values(name, values)
    # A few different values beyond all limits are codes; many of them are measurements in another unit.
    values = values if "others" in found else cleaned
    present = np.isfinite(values)
    outside = present & ~codes.possible(values, name)
    if name.startswith("SWC_") and present.sum() >= 48 and np.nanmax(values) <= 1:
        raise SourceError(f"{where}, read as {unit}: never above 1 %, which looks like a fraction: set units to '1'")
    if outside.sum() > 0.2 * present.sum() and present.sum() >= 48:
        low, high = table.variable(name).limits
        raise SourceError(
            f"{where}, read as {unit}: {outside.sum() / present.sum():.0%} of the values lie outside {low:g} to "
            f"{high:g} {table.variable(name).units}; check the unit and the variable of this column"
        )
    return cleaned, found


def _flags(
    name: str, cells: _Cells, present: np.ndarray, request: _Request, flag_map: Mapping | None
) -> tuple[np.ndarray, int]:
    """Return flags (time,) of 0 to 3, and the number of values without a flag, which count as poor."""
    column = request.flags[name]
    raw = cells.column(column)
    raw[np.isin(raw, request.codes)] = np.nan
    quality, known = np.full(len(raw), _UNFLAGGED, float), np.isnan(raw)
    for flag, meaning in _meanings(name, flag_map).items():
        quality[raw == flag] = meaning
        known |= raw == flag
    bad = ~known & present
    if bad.any():
        row = int(bad.argmax())
        raise ConfigError(
            f"{request.where(column)}, line {cells.lines[row]}: flag {raw[row]:g} of {name} is not among "
            f"{', '.join(f'{flag:g}' for flag in _meanings(name, flag_map))}; add its meaning with flag_map="
        )
    return quality, int((np.isnan(raw) & present).sum())


def _meanings(name: str, flag_map: Mapping | None) -> dict[float, int]:
    """Return the meaning of each flag of the file for a variable."""
    if flag_map is None:
        return {float(flag): flag for flag in range(4)}
    own = flag_map.get(name, {}) if any(isinstance(value, Mapping) for value in flag_map.values()) else flag_map
    try:
        meanings = {float(flag): int(meaning) for flag, meaning in own.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"flag_map={flag_map!r}: expected numbers as flags, and 0, 1, 2 or 3 as their meanings ({error})"
        ) from error
    if not meanings or not set(meanings.values()) <= {0, 1, 2, 3}:
        raise ConfigError(
            f"flag_map: expected the flags of {name} with a meaning of 0 (measured), 1, 2 or 3 (poor), found {own!r}"
        )
    return meanings

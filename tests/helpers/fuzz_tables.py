"""A small ONEFlux table, and what any bytes made of it mean: read slowly, row by row, not as the reader does."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.simulation.archives import oneflux_table
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.variables import table

NAME = "FLX_US-Zzz_FLUXNET2015_FULLSET_HH_2012-2012_1-4.csv"
OFFSET = -6.0
COLUMNS = (
    "TA_F",
    "TA_F_QC",
    "SW_IN_POT",
    "SW_IN_F",
    "SW_IN_F_QC",
    "VPD_F",
    "VPD_F_QC",
    "PA",
    "PA_F",
    "PA_F_QC",
    "RH",
    "LE_F_MDS",
    "LE_F_MDS_QC",
    "LE_RANDUNC",
    "NEE_CUT_REF",
    "NEE_VUT_REF",
    "NEE_VUT_REF_QC",
    "NEE_VUT_REF_RANDUNC",
    "NEE_VUT_REF_JOINTUNC",
    "RECO_NT_VUT_REF",
    "GPP_NT_VUT_REF",
)
START, END = "TIMESTAMP_START", "TIMESTAMP_END"

#: By the table's name: columns, best first; the flag's column of each; the flag of a value without one.
_MEANING = {
    "TA": (("TA_F",), ("TA_F_QC",), (2,)),
    "SW_IN": (("SW_IN_F",), ("SW_IN_F_QC",), (2,)),
    "VPD": (("VPD_F",), ("VPD_F_QC",), (2,)),
    "PA": (("PA", "PA_F"), ("PA_QC", "PA_F_QC"), (0, 2)),
    "RH": (("RH",), ("RH_QC",), (0,)),
    "LE": (("LE_F_MDS",), ("LE_F_MDS_QC",), (3,)),
    "NEE": (("NEE_VUT_REF",), ("NEE_VUT_REF_QC",), (3,)),
    "RECO_NT": (("RECO_NT_VUT_REF",), ("NEE_VUT_REF_QC",), (3,)),
    "GPP_NT": (("GPP_NT_VUT_REF",), ("NEE_VUT_REF_QC",), (3,)),
}
_UNCERTAINTIES = {
    "LE_RANDUNC": "LE_RANDUNC",
    "NEE_RANDUNC": "NEE_VUT_REF_RANDUNC",
    "NEE_JOINTUNC": "NEE_VUT_REF_JOINTUNC",
}
_READ = {c for columns, flags, _ in _MEANING.values() for c in (*columns, *flags)} | {*_UNCERTAINTIES.values()}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BLANK = ("", "NA", "NaN", "nan")


class Refused(Exception):
    """No right answer exists: the table must be refused."""


@dataclass
class Table:
    """Cells of a table, its header first."""

    header: list[str]
    rows: list[list[str]]

    def column(self, name: str) -> int:
        return self.header.index(name)


def base_table(days: int = 2) -> Table:
    place = Place(site="US-Zzz", latitude=40.0, longitude=-90.0, utc_offset=OFFSET)
    text = oneflux_table(simulate_record(place, "2012-02-28", days=days, seed=11), COLUMNS).decode()
    header, *rows = csv.reader(io.StringIO(text))
    return Table(header, rows)


def meaning(data: bytes) -> dict[str, np.ndarray]:
    """Return times, values, flags and uncertainties that some bytes hold.

    Raises
    ------
    Refused
        If they hold none that could be relied on.
    """
    header, rows = _cells(data)
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        raise Refused("a column twice")
    if not {START, END} <= set(header) or not {c for columns, _, _ in _MEANING.values() for c in columns} & set(header):
        raise Refused("no stamps, or no variable")
    if rows and all(len(row) == len(header) + 1 and not row[-1].strip() for row in rows):
        rows = [row[:-1] for row in rows]  # a comma at the end of every row
    if not header[-1] and all(len(row) == len(header) - 1 for row in rows):
        header = header[:-1]  # a comma at the end of the header
    if not rows or any(len(row) != len(header) for row in rows):
        raise Refused("no rows, or a row of another length")
    cells = {name: [row[at].strip(" \t") for row in rows] for at, name in enumerate(header) if name}
    answer = {"time": _times(cells[START], cells[END])}
    for name in _READ & set(cells):
        cells[name] = [_number(text) for text in cells[name]]
    for name in _MEANING:
        answer |= _variable(name, cells)
    for name, column in _UNCERTAINTIES.items():
        answer |= _uncertainty(name, column, cells)
    return _with_another_threshold(answer, cells)


def _with_another_threshold(answer: dict[str, np.ndarray], cells: dict[str, list]) -> dict[str, np.ndarray]:
    """Return an answer with NEE of another USTAR threshold, without GPP and RECO, if it has no NEE of the usual one."""
    if "NEE" in answer and np.isfinite(answer["NEE"]).any():
        return answer
    for column in ("NEE_VUT_USTAR50", "NEE_CUT_REF", "NEE_CUT_USTAR50"):
        if column in cells and all(text in _BLANK or _NUMBER.fullmatch(text) for text in cells[column]):
            numbers = [_number(text) for text in cells[column]]
            values = np.array([_without_code(value, "NEE") for value in numbers], np.float32)
            if np.isfinite(values).any() and not np.isinf(numbers).any():
                rest = {key: array for key, array in answer.items() if not key.startswith(("NEE", "GPP", "RECO"))}
                return rest | {"NEE": values, "NEE_QC": np.where(np.isnan(values), -1, 3).astype(np.int8)}
    return answer


def _without_code(value: float, name: str) -> float:
    """Return NaN instead of a code for missing values, among those that the cases write."""
    far = abs(value) > 10 * max(map(abs, table()[name].bounds))
    low, high = table()[name].limits
    return math.nan if far or (value in (-999, 99999) and not max(low, -900) <= value <= high) else value


def _cells(data: bytes) -> tuple[list[str], list[list[str]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("no UTF-8") from error
    if "\0" in text:
        raise Refused("zero bytes")
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise Refused(str(error)) from error
    if not rows or not any(rows[0]):
        raise Refused("empty")
    return [name.strip() for name in rows[0]], [row for row in rows[1:] if len(row) > 1 or any(c.strip() for c in row)]


def _times(starts: Sequence[str], ends: Sequence[str]) -> np.ndarray:
    begin, end = ([_time(text) for text in column] for column in (starts, ends))
    steps = {(b - a).total_seconds() / 60 for a, b in zip(begin, end, strict=True)}
    if len(steps) > 1 or not steps <= {30.0, 60.0}:
        raise Refused("no one step of 30 or 60 minutes")
    (step,) = steps
    moves = [(b - a).total_seconds() / 60 for a, b in itertools.pairwise(begin)]
    if any(move <= 0 or move % step for move in moves):
        raise Refused("times not in order, or twice, or off the step")
    return np.array([t - datetime.timedelta(hours=OFFSET) for t in begin], "datetime64[ns]")


def _time(text: str) -> datetime.datetime:
    try:
        if not re.fullmatch("[0-9]{12}", text):
            raise ValueError(text)
        time = datetime.datetime.strptime(text, "%Y%m%d%H%M")
    except ValueError as error:
        raise Refused(f"no time: {text!r}") from error
    if not 1900 <= time.year < 2200:
        raise Refused(f"no time of a tower: {text!r}")
    return time


def _number(text: str) -> float:
    """Return a number as float32 holds it, NaN where missing."""
    if text in _BLANK:
        return math.nan
    if not _NUMBER.fullmatch(text):
        raise Refused(f"no number: {text!r}")
    with np.errstate(over="ignore"):
        value = float(np.float32(float(text)))
    return math.nan if value == -9999 else value


def _variable(name: str, cells: dict[str, list]) -> dict[str, np.ndarray]:
    layers = [layer for layer in zip(*_MEANING[name], strict=True) if layer[0] in cells]
    if not layers:
        return {}
    rows = len(cells[layers[0][0]])
    values, flags = [math.nan] * rows, [-1] * rows
    for column, flag, assumed in layers:
        _check_finite(cells[column])
        cells = cells | {column: [_without_code(value, name) for value in cells[column]]}
        mine = [i for i in range(rows) if math.isnan(values[i]) and not math.isnan(cells[column][i])]
        raw = _flags(flag, cells, column) if mine and flag in cells else [math.nan] * rows
        for i in mine:
            values[i], flags[i] = cells[column][i], assumed if math.isnan(raw[i]) else int(raw[i])
    return {name: np.array(values, np.float32), f"{name}_QC": np.array(flags, np.int8)}


def _flags(column: str, cells: dict[str, list], of: str) -> list[float]:
    """Return the flags of a column `of` values, all NaN if they are of another scale; refuse a table mostly so."""
    columns = {flag for _, flags, _ in _MEANING.values() for flag in flags if flag in cells}
    odd = {name for name in columns if any(_is_odd(value) for value in cells[name])}
    many = 2 * len(odd) > len(columns) or (2 * len(odd) == len(columns) and "NEE_VUT_REF_QC" in odd)
    here = [flag for flag, value in zip(cells[column], cells[of], strict=True) if _is_odd(flag) and value == value]
    if (here and many) or any(map(math.isinf, cells[column])):
        raise Refused("no flags")
    few = len(here) <= 0.01 * sum(map(math.isfinite, cells[column])) or len(set(here)) == 1
    few &= all(value == int(value) for value in here)
    keep = not here or few
    return [value if keep and value in (0, 1, 2, 3) else math.nan for value in cells[column]]


def _is_odd(value: float) -> bool:
    return abs(value) < 90 and value not in (0, 1, 2, 3)


def _check_finite(values: Sequence[float]) -> None:
    """Refuse a number too large for float32, where it is one that counts."""
    if any(math.isinf(value) for value in values):
        raise Refused("too large")


def _uncertainty(name: str, column: str, cells: dict[str, list]) -> dict[str, np.ndarray]:
    owner = name.split("_")[0]
    if column not in cells or not any(c in cells for c in _MEANING[owner][0]):
        return {}
    values = np.array(cells[column], np.float32)
    _check_finite(cells[column])
    values[(values < 0) | (values > 10 * max(map(abs, table()[owner].bounds)))] = math.nan
    return {} if np.isnan(values).all() else {name: values}


def check_same(found: xr.Dataset, answer: dict[str, np.ndarray]) -> None:
    """Compare a record with the right answer: the same variables, times, values and flags."""
    assert set(found.data_vars) == set(answer) - {"time"}
    np.testing.assert_array_equal(found.time.values, answer["time"])
    for name, values in answer.items():
        if name.endswith("_QC"):
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        elif name != "time":
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=0, err_msg=name)


def check_invariants(found: xr.Dataset) -> None:
    """Check what holds of every record, whatever its file."""
    time = found.time.values
    assert time.dtype == "datetime64[ns]" and len(time) > 0 and not np.isnat(time).any()
    assert (np.diff(time) > np.timedelta64(0)).all()
    assert found.step_minutes in (30, 60)
    for name in found.data_vars:
        values = found[name].values
        if name.endswith("_QC"):
            assert values.dtype == np.int8 and np.isin(values, (-1, 0, 1, 2, 3)).all()
            np.testing.assert_array_equal(values == -1, np.isnan(found[name.removesuffix("_QC")].values))
        else:
            assert values.dtype == np.float32 and not np.isinf(values).any() and not (values == -9999).any()
            assert not name.endswith("UNC") or not (values < 0).any()

"""Read FLUXNET-CH4: half-hourly tables of 81 towers that measure methane, with measured and filled columns.

What is known (Delwiche et al. 2021, doi:10.5194/essd-13-3607-2021, and public code that reads it): files are
``FLX_<site>_FLUXNET-CH4_HH_<years>_<version>.csv`` with TIMESTAMP_START and TIMESTAMP_END, -9999, and three kinds of
column. ``FCH4``, ``NEE``, ``TA``, ... are measured values that passed quality control; in ``FCH4_F``, ``NEE_F``,
``TA_F``, ... gaps are filled, and in ``FCH4_F_ANNOPTLM``, ``NEE_F_ANNOPTLM`` and ``LE_F_ANNOPTLM`` they are filled by
neural networks. GPP and RECO are ``GPP_DT``, ``GPP_NT``, ``RECO_DT``, ``RECO_NT``. FCH4 is in nmol m-2 s-1, NEE in umol
m-2 s-1. The only flag, ``FCH4_F_ANNOPTLM_QC``, is 3 in gaps longer than two months and lower elsewhere: it describes
the length of a gap, not the quality of its filling. ``FCH4_F_RANDUNC`` is the random uncertainty of FCH4.

So a step is measured (0) where the measured column has a value. A filled value counts as 2, as in every ``_F`` column
without flags, and methane in a gap longer than two months as 3; no fill counts as 1, since nothing shows that it is
good.

Daily files (``_DD_``) have the same columns and no flags but ``FCH4_F_ANNOPTLM_QC``, which is 1 or 3. Their values
are in the units of the half-hourly files: in 99 % of the days of two published files, 48 times a filled flux is a
number of few decimals, as a sum of 48 published half-hours is, and in 0 to 1 % after a conversion to gC m-2 d-1. A
column of measured values is the mean of whatever half-hours were measured, which may be those of an afternoon, and P is
0 on days without a measurement; so the filled columns are read. The measured share of a day is not published: the
quality of all daily values is unknown, except that of methane in a gap longer than two months, which is 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.codes import Codes, added
from fluxcube.sources.towers.csvfile import line_of, read_numbers, read_sample
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.plausible import measured_values
from fluxcube.sources.towers.stamped import (
    AS_PUBLISHED,
    MISSING,
    Dialect,
    Layer,
    TableSummary,
    attrs_of,
    check_stamps,
    parse_stamps,
)
from fluxcube.variables import Variable

_GAP = "FCH4_F_ANNOPTLM_QC"
#: Meanings of the flag of methane: fills without a gap, or in one shorter than two months, are medium fills; 3 is a
#: longer gap.
_GAPS = ((0, 2), (1, 2), (2, 2), (3, 3))
_MEASURED, _FILLED = 0, 2
#: Fluxes that were partitioned from NEE: they have its quality, and are modelled where it is missing.
_PARTITIONED = ("GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT")


def _layers(row: Variable) -> list[Layer]:
    """Return a variable's columns: the measured ones, then the filled ones."""
    if row.name in _PARTITIONED:
        return [Layer(column=row.name, assumed=_FILLED)]
    names = [row.name, *(alias for alias in row.aliases if not alias.endswith(("_VUT_REF", "_F_MDS")))]
    measured = [name for name in dict.fromkeys(names) if not name.endswith("_F")]
    filled = [f"{name}{ending}" for ending in ("_F", "_F_ANNOPTLM") for name in measured]
    flag = _GAP if row.name == "FCH4" else None
    return [
        *(Layer(column=column, assumed=_MEASURED) for column in measured),
        *(Layer(column=column, assumed=_FILLED, flag=flag, flags=_GAPS) for column in filled),
    ]


def _check_header(header: Sequence[str], location: Location) -> None:
    check_stamps(header, location)
    known = {layer.column for row in table.table().values() if row.aliases for layer in _layers(row)}
    if not known.intersection(header):
        raise SourceError(
            f"{location}, line 1: none of FLUXNET-CH4's variables (FCH4, FCH4_F, NEE, TA_F, ...) among its "
            f"{len(header)} columns ({', '.join(header[2:6])}, ...); {AS_PUBLISHED}"
        )


_STAMP = "TIMESTAMP"
_DAY_MINUTES = 1440
#: Grams of carbon a day in one µmol of CO2 a second.
_GRAMS_OF_CARBON = 12.011e-6 * 86400
#: Columns of the soil, which are not filled, and whose means over part of a day are near those of the whole day.
_SLOW = re.compile(r"(TS|SWC)(_\d)?|WTD")


def read_daily(archive: Archive, *, variables: Iterable[str] | None = None) -> xr.Dataset:
    """Read a daily table; the quality of its values is unknown.

    Parameters
    ----------
    archive : Archive
        A daily table of FLUXNET-CH4.
    variables : iterable of str, optional
        Names of the daily variable table; default all that the file has.

    Returns
    -------
    xarray.Dataset
        As `fluxcube.sources.towers.readers.read_daily_archive` describes it. ``<NAME>_QUALITY`` is NaN, and 0 for
        methane in a gap longer than two months. NEE, GPP and RECO are converted to gC m-2 d-1.

    Raises
    ------
    SourceError
        If the file is not a daily table of FLUXNET-CH4, or its content is not what it should be.
    """
    location = archive.location
    names = table.table("daily") if variables is None else variables
    rows = [row for row in (table.variable(name, "daily") for name in dict.fromkeys(names)) if _daily_columns(row)]
    columns = {column for row in rows for column in _daily_columns(row)} | {_STAMP, _GAP}
    frame = read_numbers(location, lambda header: _daily_header(header, columns, location), integers=(_STAMP,))
    time = _dates(frame, location)
    long_gap = frame[_GAP].to_numpy() == _GAPS[-1][0] if _GAP in frame else np.zeros(len(frame), bool)
    arrays: dict[str, np.ndarray] = {}
    used: dict[str, str] = {}
    missing: dict[str, Codes] = {}
    for row in rows:
        values, sources, codes = _daily_values(frame, row, location)
        missing |= {row.name: codes} if codes else {}
        if sources:
            quality = np.where(np.isfinite(values) & long_gap & (row.name == "FCH4"), np.float32(0), np.float32(np.nan))
            arrays |= {row.name: values, f"{row.name}_QUALITY": quality}
            used[row.name] = ", ".join(sources)
    unknown = {name: int((np.isfinite(arrays[name]) & np.isnan(arrays[f"{name}_QUALITY"])).sum()) for name in used}
    return xr.Dataset(
        {name: ("time", array, attrs_of(name, "daily")) for name, array in arrays.items()},
        coords={"time": ("time", time.astype("datetime64[ns]"), {"long_name": "local date"})},
        attrs={
            "step_minutes": _DAY_MINUTES,
            "source_file": location.path.name,
            "site": archive.site,
            "network": archive.network,
            "clock_repeats": 0,
            "columns": json.dumps(used),
            "missing_codes": json.dumps(missing),
            "flags_assumed": json.dumps({name: count for name, count in unknown.items() if count}),
        },
    )


def summarise_daily(archive: Archive) -> TableSummary:
    """Return a summary of a daily table from its header and a sample of its rows; no measured share is known.

    Raises
    ------
    SourceError
        If the sample is not of a table of numbers.
    """
    rows = [row for row in table.table("daily").values() if _daily_columns(row)]
    columns = {column for row in rows for column in _daily_columns(row)} | {_STAMP}
    location = archive.location
    sample, count = read_sample(location, lambda header: _daily_header(header, columns, location), integers=(_STAMP,))
    return TableSummary(
        step_minutes=_DAY_MINUTES,
        rows=count,
        variables=tuple(row.name for row in rows if any(column in sample for column in _daily_columns(row))),
        measured={},
        first=parse_stamps(sample[_STAMP].to_numpy()[:1] * 10_000)[0],
    )


def _daily_columns(row: Variable) -> list[str]:
    """Return the columns of the daily values of a variable, best first: filled ones, or those of the soil."""
    if row.aggregate == "vector" or not row.aliases:
        return []
    hourly = table.variable(row.name)
    layers = _layers(hourly)
    filled = [layer.column for layer in layers if layer.assumed == _FILLED]
    return filled + [layer.column for layer in layers if _SLOW.fullmatch(layer.column)]


def _daily_header(header: Sequence[str], columns: set[str], location: Location) -> list[str]:
    """Return the columns to read, after checking that the header is that of a daily table."""
    if _STAMP not in header:
        raise SourceError(
            f"{location}, line 1: expected a column {_STAMP}, as in daily files, found {', '.join(header[:4])[:200]}; "
            "get the site's daily (DD) file"
        )
    present = [name for name in header if name in columns]
    if not set(present) - {_STAMP, _GAP}:
        raise SourceError(
            f"{location}, line 1: none of FLUXNET-CH4's daily variables (FCH4_F, NEE_F, TA_F, ...) among its "
            f"{len(header)} columns ({', '.join(header[1:5])}, ...); {AS_PUBLISHED}"
        )
    return present


def _daily_values(frame: pd.DataFrame, row: Variable, location: Location) -> tuple[np.ndarray, list[str], Codes]:
    """Return the values (time,) float32 of a variable, each from the first column that has one.

    Also return these columns, and the numbers of codes for missing values.
    """
    out, sources, codes = np.full(len(frame), np.nan, np.float32), [], Codes()
    for column in _daily_columns(row):
        if column not in frame:
            continue
        values = frame[column].to_numpy(copy=True)
        values[values == MISSING] = np.nan
        _refuse(np.isinf(values), frame, location, f"column {column}: expected a number, {MISSING} where missing")
        values, found = measured_values(row.name, values, f"{location}, column {column}")
        codes = added(codes, found)
        taken = np.isnan(out) & np.isfinite(values)
        if taken.any():
            out[taken] = values[taken]
            sources.append(column)
    units = table.variable(row.name).units, row.units
    out = out * np.float32(_GRAMS_OF_CARBON) if units == ("umol m-2 s-1", "gC m-2 d-1") else out
    return out, sources, codes


def _dates(frame: pd.DataFrame, location: Location) -> np.ndarray:
    """Return the date of every row (time,) datetime64[D]."""
    stamps = frame[_STAMP].to_numpy()
    time = parse_stamps(np.where(stamps < 10**8, stamps * 10_000, 0)).astype("datetime64[D]")
    _refuse(np.isnat(time), frame, location, f"column {_STAMP}: expected a date as YYYYMMDD")
    moves = np.diff(time, prepend=time[0] - 1).astype(np.int64)
    _refuse(moves <= 0, frame, location, f"column {_STAMP}: expected dates in order, each once")
    return time


def _refuse(bad: np.ndarray, frame: pd.DataFrame, location: Location, why: str) -> None:
    """Raise an error for the first bad row, with its line and date."""
    if bad.any():
        at = int(bad.argmax())
        raise SourceError(
            f"{location}, line {line_of(location, at)}, {why}, found another one at {frame[_STAMP].iloc[at]}; "
            f"{AS_PUBLISHED}"
        )


#: Columns and flags of FLUXNET-CH4: GPP and RECO have the flag of NEE.
DIALECT = Dialect(layers=_layers, check_header=_check_header, flags_of=dict.fromkeys(_PARTITIONED, "NEE"))

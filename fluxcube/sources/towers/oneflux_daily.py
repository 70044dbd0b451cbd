"""Read daily (DD) files of the ONEFlux dialect: FLUXNET2015, AmeriFlux FLUXNET, ICOS, FLUXNET Shuttle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.sources.towers import codes as missing_codes
from fluxcube.sources.towers import contradictions
from fluxcube.sources.towers import flags as quality_flags
from fluxcube.sources.towers.archives import Location, is_zip
from fluxcube.sources.towers.csvfile import read_numbers, read_sample, text_of
from fluxcube.sources.towers.networks import Archive, networks, parse_name
from fluxcube.sources.towers.oneflux import notes_on_targets, notes_on_values
from fluxcube.sources.towers.plausible import measured_values
from fluxcube.sources.towers.selection import choose_member
from fluxcube.sources.towers.stamped import AS_PUBLISHED, MISSING, Source, TableSummary, attrs_of, parse_stamps
from fluxcube.variables import Variable, table, variable

STAMP = "TIMESTAMP"

_DAY_MINUTES = 1440
#: Endings of NEE of a variable USTAR threshold.
_VARIABLE = ("VUT_USTAR50", "VUT_REF")
#: Maximum excess of a fraction over 0 to 1 that is an error of rounding.
_ROUNDING = 1e-3
_FRACTION = (
    "a fraction from 0 to 1, where higher is better, as in daily files; flags from 0 to 3 are those of half-hourly "
    "files, in the opposite sense"
)
_COARSE = {"WW": "weekly", "MM": "monthly", "YY": "yearly"}
_FINE = {"HH": "half-hourly", "HR": "hourly"}


def read_oneflux_daily(
    archive_or_path: Archive | str | os.PathLike, *, variables: Iterable[str] | None = None, member: str | None = None
) -> xr.Dataset:
    """Read one tower's daily file, with the share of each day that is measured or well filled.

    Parameters
    ----------
    archive_or_path : Archive or path
        From ``discover(..., resolution="daily")``, or a csv, csv.gz or zip file.
    variables : iterable of str, optional
        Names of the daily variable table to read if the file has them; default all.
    member : str, optional
        Entry of a zip; default its daily table.

    Returns
    -------
    xarray.Dataset
        Dimension ``time``: local dates, datetime64[ns], strictly increasing, gaps are not filled. One float32
        variable (time,) per name found, in the units of the daily table, NaN where missing; ``<NAME>_QUALITY`` float32
        (time,): 0 to 1, higher is better, NaN where there is no value or its quality is unknown; where the file has
        them, ``<NAME>_RANDUNC`` and ``<NAME>_JOINTUNC`` (time,), one standard deviation in the variable's units.
        Attributes: ``step_minutes`` (1440), ``source_file``, ``site``, ``network``, ``columns`` (JSON, name to column),
        ``flags_assumed`` (JSON, name to number of values of unknown quality), ``clock_repeats`` (0).

    Raises
    ------
    SourceError
        If the file is not a daily file of the dialect, or its content is not what it should be.
    UnknownNameError
        If a name of `variables` is not in the daily table.

    Notes
    -----
    Daily flags are fractions in the opposite sense of half-hourly flags: 1 is best. A value whose column has no flag,
    or a blank one (as LE_F_MDS of ICOS Warm Winter 2020), is of unknown quality (NaN), neither good nor bad. Columns
    that ONEFlux does not fill (NETRAD, PPFD_IN, USTAR) are means of the measured half-hours, on days with more than
    half of them; the quality is their share.
    NEE, GPP and RECO are of one USTAR threshold, so that NEE = RECO - GPP holds for the night-time partition:
    ``VUT_USTAR50`` if NEE has it with as many partitions as ``VUT_REF``, else ``VUT_REF``; ``CUT_USTAR50`` or
    ``CUT_REF`` only if NEE has neither. GPP and RECO have the quality of the NEE column of the same threshold.
    A quality column with other numbers than fractions makes the quality of its variable alone unknown, with a sentence
    in the attribute ``doubts`` (JSON); codes for missing values are counted in ``missing_codes`` (JSON).

    References
    ----------
    Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3; ONEFlux's list of daily variables.
    """
    names = _names(variables)
    source = _source(archive_or_path, member)
    location = source.location
    frame = read_numbers(location, lambda header: _columns_to_read(header, names, location), integers=(STAMP,))
    time = dates_of(frame, location)
    arrays, record = _read_variables(frame, names, location)
    record.doubts += notes_on_values(record.columns, names, lambda name: bool(np.isfinite(arrays[name]).any()))
    attrs = {name: json.dumps(value) for name, value in asdict(record).items()}
    return xr.Dataset(
        {name: ("time", array, attrs_of(name, "daily")) for name, array in arrays.items()},
        coords={"time": ("time", time.astype("datetime64[ns]"), {"long_name": "local date"})},
        attrs={
            "step_minutes": _DAY_MINUTES,
            "source_file": location.path.name,
            "site": source.site,
            "network": source.network,
            "clock_repeats": 0,
            **attrs,
        },
    )


def summarise_oneflux_daily(archive: Archive) -> TableSummary:
    """Return a summary of a daily table from its header and a sample of its rows.

    Returns
    -------
    TableSummary
        Its `measured` is the mean share of the sampled days that was measured or well filled.

    Raises
    ------
    SourceError
        If the sample is not of a table of numbers.
    """
    names, location = _names(None), archive.location
    sample, count = read_sample(location, lambda header: _columns_to_read(header, names, location), integers=(STAMP,))
    arrays, record = _read_variables(sample, names, location)
    notes = contradictions.checked(arrays, step_minutes=_DAY_MINUTES, where=f"{location}")
    qualities = {name: arrays[f"{name}_QUALITY"] for name in record.columns}
    measured = {name: float(np.nan_to_num(share).mean()) for name, share in qualities.items() if name in arrays}
    return TableSummary(
        step_minutes=_DAY_MINUTES,
        rows=count,
        variables=tuple(record.columns),
        measured={name: share for name, share in measured.items() if np.isfinite(qualities[name]).any()},
        first=parse_stamps(sample[STAMP].to_numpy()[:1] * 10_000)[0],
        # Correlations of a part of the record may differ from those of all of it, which a build checks.
        notes=(*record.doubts, *(notes if count == len(sample) else ())),
        columns=record.columns,
    )


@dataclass
class _Record:
    """Column of each variable, numbers of values of unknown quality and of codes for missing values, and doubts."""

    columns: dict[str, str] = field(default_factory=dict)
    flags_assumed: dict[str, int] = field(default_factory=dict)
    missing_codes: dict[str, missing_codes.Codes] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def _source(archive_or_path: Archive | str | os.PathLike, member: str | None) -> Source:
    """Return the table to read, after checking that its name is that of a daily table."""
    if isinstance(archive_or_path, Archive):
        archive, path, member = archive_or_path, archive_or_path.path, member or archive_or_path.member
    else:
        archive, path = None, Path(archive_or_path)
    if member is None and is_zip(path):
        member = choose_member(path, resolution="daily")
    location = Location(path, member)
    named = archive or parse_name(location.name) or parse_name(path.name)
    if named is None:
        return Source(location, "", "")
    if fault := _fault_of_name(named):
        raise SourceError(f"{location}: {fault}")
    return Source(location, named.site, named.network)


def _fault_of_name(archive: Archive) -> str:
    """Return why a file is not a daily table of a tower, by its name; "" if it is."""
    network = networks()[archive.network]
    if network.products and archive.product not in network.products:
        return f"{archive.product} contains no tower measurements; get the site's FULLSET or SUBSET daily (DD) file"
    if archive.resolution in _FINE:
        return (
            f"a {_FINE[archive.resolution]} file, where a daily one (DD) was expected; read it with read_oneflux, "
            "and compute daily values from it with fluxcube.cubes.localdays.to_daily"
        )
    if archive.resolution in _COARSE:
        return f"a {_COARSE[archive.resolution]} file, where a daily one was expected; get the site's daily (DD) file"
    return ""


def _names(variables: Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of the variables to read, each once, without computed ones and without wind direction.

    Wind direction has no daily column, since its mean is not the mean of its numbers.
    """
    names = table("daily") if variables is None else [variables] if isinstance(variables, str) else variables
    rows = [variable(name, "daily") for name in names]
    return tuple(dict.fromkeys(row.name for row in rows if row.aliases and row.aggregate != "vector"))


def _thresholds() -> tuple[str, ...]:
    """Return the endings of the columns of the carbon fluxes, best first: VUT_USTAR50, VUT_REF, then those of CUT."""
    return tuple(column.removeprefix("NEE_") for column in variable("NEE", "daily").aliases)


def _of_carbon(row: Variable) -> bool:
    """Return whether a variable is NEE, GPP or RECO, whose columns are of one USTAR threshold."""
    return any(alias.endswith(f"_{ending}") for alias in row.aliases for ending in _thresholds())


def _carbon() -> list[Variable]:
    return [row for row in table("daily").values() if _of_carbon(row)]


def _columns_to_read(header: Sequence[str], names: Sequence[str], location: Location) -> list[str]:
    """Return the columns to read, after checking that the header is of the dialect.

    If one of the carbon fluxes is requested all of them are read, so that the choice of the threshold does not depend
    on the request.
    """
    _check_header(header, location)
    rows = [variable(name, "daily") for name in names]
    rows += _carbon() if any(map(_of_carbon, rows)) else []
    columns = [column for row in rows for column in row.aliases]
    columns += [f"{column}_QC" for column in columns]
    columns += [column for row in rows for column in (*row.randunc, *row.jointunc)]
    return [STAMP, *(column for column in dict.fromkeys(columns) if column in header)]


def _check_header(header: Sequence[str], location: Location) -> None:
    where = f"{location}, line 1"
    if STAMP not in header:
        spans = "TIMESTAMP_START" in header
        found = (
            "TIMESTAMP_START, as half-hourly, hourly and weekly files have" if spans else ", ".join(header[:4])[:200]
        )
        raise SourceError(
            f"{where}: expected a column {STAMP}, as in daily files, found {found}; get the site's daily (DD) file"
        )
    known = {alias for row in table("daily").values() for alias in row.aliases}
    if not known.intersection(header):
        raise SourceError(
            f"{where}: none of ONEFlux's daily variables (TA_F, SW_IN_F, NEE_VUT_REF, ...) among its {len(header)} "
            f"columns ({', '.join(header[1:5])}, ...); {AS_PUBLISHED}"
        )


def dates_of(frame: pd.DataFrame, location: Location) -> np.ndarray:
    """Return the date of every row (time,) datetime64[D]."""
    stamps = frame[STAMP].to_numpy()
    time = _parse_dates(stamps)
    kinds = {4: "yearly", 6: "monthly", 12: "half-hourly"}
    kind = kinds.get(len(str(stamps[0])), "")
    more = f", as {kind} files have it; get the site's daily (DD) file" if kind and np.isnat(time).all() else ""
    _refuse(
        np.isnat(time), frame, STAMP, location, f"expected a date as YYYYMMDD{'' if more else '; correct it'}{more}"
    )
    moves = np.diff(time, prepend=time[0] - 1).astype(np.int64)
    _refuse(moves == 0, frame, STAMP, location, f"this date occurs twice, expected once; {AS_PUBLISHED}")
    _refuse(moves < 0, frame, STAMP, location, f"earlier than the row before, expected dates in order; {AS_PUBLISHED}")
    return time


def _parse_dates(stamps: np.ndarray) -> np.ndarray:
    """Convert YYYYMMDD numbers to dates (time,) datetime64[D]; NaT where a number is not a date from 1900 to 2199.

    Examples
    --------
    >>> _parse_dates(np.array([20120229, 20130229, 201202]))
    array(['2012-02-29',        'NaT',        'NaT'], dtype='datetime64[D]')
    """
    year_month, day = np.divmod(np.asarray(stamps, np.int64), 100)
    year, month = np.divmod(year_month, 100)
    good = (year >= 1900) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + np.where(good, day - 1, 0)
    return np.where(good & (days.astype("datetime64[M]") == months), days, np.datetime64("NaT", "D"))


def _refuse(bad: np.ndarray, frame: pd.DataFrame, column: str, location: Location, why: str) -> None:
    """Raise an error for the first bad row, with its line and text."""
    if bad.any():
        line, text = text_of(location, int(bad.argmax()), column)
        more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
        raise SourceError(f"{location}, line {line}, column {column}: found {text!r}{more}: {why}")


def _read_variables(
    frame: pd.DataFrame, names: Sequence[str], location: Location
) -> tuple[dict[str, np.ndarray], _Record]:
    """Return values, qualities and uncertainties by name, and what is known of their columns."""
    arrays: dict[str, np.ndarray] = {}
    record = _Record()
    ending = _threshold(frame)
    for name in names:
        row = variable(name, "daily")
        column, flag = _columns(frame, row, ending)
        if column is None:
            continue
        values, codes = measured_values(name, _values(frame, column, location), f"{location}, column {column}", "daily")
        quality, doubt = _quality(frame, flag, name, np.isfinite(values), location)
        present = np.isfinite(values)
        arrays |= {name: values, f"{name}_QUALITY": np.where(present, quality, np.nan).astype(np.float32)}
        arrays |= _uncertainties(frame, row, column, location, record.doubts)
        record.columns[name] = column
        record.missing_codes |= {name: codes} if codes else {}
        noted = {text.partition(": found")[0] for text in record.doubts}  # GPP and RECO have the quality of NEE
        record.doubts += [doubt] if doubt and doubt.partition(": found")[0] not in noted else []
        without = int((present & np.isnan(quality)).sum())
        record.flags_assumed |= {name: without} if without else {}
    record.doubts += notes_on_targets(record.columns, names, location, _VARIABLE)
    return arrays, record


def _threshold(frame: pd.DataFrame) -> str:
    """Return the ending of the columns of NEE, GPP and RECO: one that has NEE, and the maximum number of the others.

    A constant USTAR threshold (CUT) is used only if NEE has no value of a variable one (VUT).
    """

    def supplied(ending: str) -> tuple[bool, bool, int]:
        has = {
            row.name: any(_has_values(frame, a) for a in row.aliases if a.endswith(f"_{ending}")) for row in _carbon()
        }
        return has["NEE"], ending.startswith("VUT"), sum(has.values())

    return max(_thresholds(), key=supplied)  # the first of equals


def _has_values(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and bool((frame[column].notna() & (frame[column] != MISSING)).any())


def _columns(frame: pd.DataFrame, row: Variable, ending: str) -> tuple[str | None, str]:
    """Return the column of a variable (None if there is none), and the column of its quality."""
    aliases = [alias for alias in row.aliases if alias in frame]
    if _of_carbon(row):
        aliases = [alias for alias in aliases if alias.endswith(f"_{ending}")]
    with_values = (alias for alias in aliases if _has_values(frame, alias))
    column = next(with_values, aliases[0] if aliases else None)
    return column, f"NEE_{ending}_QC" if _of_carbon(row) else f"{column}_QC"


def _values(frame: pd.DataFrame, column: str, location: Location) -> np.ndarray:
    values = frame[column].to_numpy(copy=True)
    values[values == MISSING] = np.nan
    _refuse(
        np.isinf(values),
        frame,
        column,
        location,
        f"expected a number, {MISSING} where missing; correct it, or {AS_PUBLISHED}",
    )
    return values


def _quality(
    frame: pd.DataFrame, flag: str, name: str, present: np.ndarray, location: Location
) -> tuple[np.ndarray, str]:
    """Return a column of fractions (time,), NaN where it is blank or missing, and a note if it cannot be read."""
    if flag not in frame:
        return np.full(len(frame), np.nan, np.float32), ""
    quality = frame[flag].to_numpy(copy=True)
    _refuse(np.isinf(quality), frame, flag, location, f"expected {_FRACTION}. {AS_PUBLISHED.capitalize()}")
    quality[np.abs(quality) >= quality_flags.CODE] = np.nan
    odd = _not_fractions(quality) & present
    if not odd.any():
        return np.clip(quality, 0, 1), ""
    columns = [column for column in frame if str(column).endswith("_QC")]
    found = {str(column): _is_of_another_scale(frame[column].to_numpy()) for column in columns}
    if quality_flags.is_of_another_scale(found, frozenset(f"NEE_{ending}_QC" for ending in _thresholds())):
        _refuse(odd, frame, flag, location, f"expected {_FRACTION}. {AS_PUBLISHED.capitalize()}")
    note = f"column {flag}: found {quality[odd][0]:g} ({int(odd.sum())} such rows), expected {_FRACTION}"
    if _is_of_another_scale(quality):
        return np.full(len(frame), np.nan, np.float32), f"{note}; the quality of {name} is unknown"
    return np.clip(np.where(odd, np.nan, quality), 0, 1), f"{note}; the quality of these values of {name} is unknown"


def _is_of_another_scale(quality: np.ndarray) -> bool:
    """Return whether a column has other numbers than fractions, except some cells of a column of fractions.

    Examples
    --------
    >>> _is_of_another_scale(np.array([0.5, 0.9, 9.0])), _is_of_another_scale(np.array([0.0, 1.0, 3.0]))
    (False, True)
    """
    odd = _not_fractions(quality)
    others = quality[~odd & (np.abs(quality) < quality_flags.CODE)]
    return bool(odd.any()) and not (quality_flags.concern_cells(quality, odd) and (others != np.rint(others)).any())


def _not_fractions(quality: np.ndarray) -> np.ndarray:
    """Return which flags (time,) are neither fractions nor codes for missing values."""
    inside = (quality >= -_ROUNDING) & (quality <= 1 + _ROUNDING)
    return (np.abs(quality) < quality_flags.CODE) & ~inside


def _uncertainties(
    frame: pd.DataFrame, row: Variable, column: str, location: Location, doubts: list[str]
) -> Mapping[str, np.ndarray]:
    """Return `<NAME>_RANDUNC` and `<NAME>_JOINTUNC` (time,) float32, of the same threshold as the values."""
    uncertainties = {}
    for kind, columns in (("RANDUNC", row.randunc), ("JOINTUNC", row.jointunc)):
        own = [name for name in columns if name in frame and (not _of_carbon(row) or name.startswith(f"{column}_"))]
        if own and _has_values(frame, own[0]):
            values, doubt = missing_codes.standard_deviations(_values(frame, own[0], location), row, own[0], "daily")
            doubts += [doubt] if doubt else []
            uncertainties[f"{row.name}_{kind}"] = values
    return uncertainties

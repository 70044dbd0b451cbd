"""Read half-hourly and hourly files of the ONEFlux dialect: FLUXNET2015, AmeriFlux FLUXNET, ICOS, FLUXNET Shuttle."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import xarray as xr

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.csvfile import read_header
from fluxcube.sources.towers.networks import Archive, networks, parse_name
from fluxcube.sources.towers.stamped import (
    AS_PUBLISHED,
    END,
    MISSING,
    START,
    STEPS,
    Dialect,
    Layer,
    TableSummary,
    check_stamps,
    find_source,
    parse_stamps,
    read_stamped,
    summarise_stamped,
)
from fluxcube.timestamps import Offset
from fluxcube.variables import Variable

__all__ = ["END", "MISSING", "START", "STEPS", "parse_stamps", "read_oneflux"]

Item = TypeVar("Item")

#: Endings of the columns of NEE, GPP and RECO: of the usual USTAR threshold, and of those read where it is absent.
_USUAL, _FALLBACKS = "VUT_REF", ("VUT_USTAR50", "CUT_REF", "CUT_USTAR50")
_PARTITIONED = frozenset({"GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT"})
_FLUXES = ("NEE", *sorted(_PARTITIONED), "FCH4")
_NEE_PARTS = ("NEE_QC", "NEE_RANDUNC", "NEE_JOINTUNC")
#: Columns that a note names where none of `_FLUXES` was read, and their maximum number.
_OTHER_FLUXES, _LISTED = re.compile(r"(?i)(NEE|NEP|FC|GPP|RECO|FCH4)(?!.*(QC|UNC|_N$))(_|$)"), 4
_BASE_COLUMNS = re.compile(r"FC|NEE_PI(_F)?|.*_\d+_\d+_\d+")
_BASE = "AmeriFlux BASE"


def read_oneflux(
    archive_or_path: Archive | str | os.PathLike,
    *,
    utc_offset: Offset,
    variables: Iterable[str] | None = None,
    member: str | None = None,
) -> xr.Dataset:
    """Read one tower file at its own time step, with a flag for every value.

    Parameters
    ----------
    archive_or_path : Archive or path
        From `discover`, or a csv, csv.gz or zip file.
    utc_offset : float or sequence of (start, float)
        Hours east of UTC of the time stamps' local standard time. Dated entries apply from local `start` (a date, or
        None for the first) on; where an offset grows, rows whose UTC time is already there are left out and counted.
    variables : iterable of str, optional
        Names of the variable table to read if the file has them; default all.
    member : str, optional
        Entry of a zip; default its half-hourly or hourly table.

    Returns
    -------
    xarray.Dataset
        Dimension ``time``: start of the period in UTC, datetime64[ns], strictly increasing, gaps are not filled.
        One float32 variable (time,) per name found, in the table's units, NaN where missing, and ``<NAME>_QC`` int8
        (time,): 0 measured, 1 to 3 good to poor fill, -1 where there is no value; where the file has them,
        ``<NAME>_RANDUNC`` and ``<NAME>_JOINTUNC`` float32 (time,), one standard deviation in the variable's units.
        Attributes: ``step_minutes``, ``source_file``, ``site``, ``network``, ``columns`` (JSON, name to column),
        ``flags_assumed`` (JSON, name to number of values without a flag), ``clock_repeats`` (number of rows left out
        where the offset grew).

    Raises
    ------
    SourceError
        If the file is not of the dialect, or its content is not what it should be. This includes impossible units and
        reversed flags, as far as `fluxcube.sources.towers.plausible` recognises them.
    UnknownNameError
        If a name of `variables` is not in the table.

    Notes
    -----
    Each step is read from the first of a variable's aliases that has a value there: PA where the air pressure was
    measured, PA_F where it was filled. The flag is column ``<column>_QC``, for GPP and RECO that of NEE. Without that
    column, a measured column counts as 0, ``_F`` as 2, and ``_F_MDS`` and ONEFlux's filled fluxes (``_VUT_``,
    ``_CUT_``) as 3. A column of flags of another scale makes the quality of its variable alone unknown, with a sentence
    in the attribute ``doubts`` (JSON); codes for missing values are counted in ``missing_codes`` (JSON).
    NEE, GPP and RECO are of one USTAR threshold: ``VUT_REF``, or, where NEE_VUT_REF has no value, ``VUT_USTAR50``,
    ``CUT_REF`` or ``CUT_USTAR50``, without uncertainties.
    """
    path = archive_or_path.path if isinstance(archive_or_path, Archive) else archive_or_path
    named = archive_or_path if isinstance(archive_or_path, Archive) else parse_name(os.path.basename(path))
    if named is not None and named.network == _BASE:
        raise _is_base(f"{path}")
    source = find_source(archive_or_path, member)
    if source.network and networks()[source.network].reader != "oneflux":
        raise SourceError(
            f"{source.location}: a file of {source.network}, which is not of the ONEFlux dialect; find it with "
            "discover, and read it with fluxcube.sources.towers.readers.read_archive"
        )
    names = _requested(variables)
    needed = (*names, "NEE") if _PARTITIONED.intersection(names) and "NEE" not in names else names

    def read(ending: str) -> xr.Dataset:
        record = read_stamped(source, _dialect(ending), utc_offset=utc_offset, variables=needed)
        # The uncertainties are those of the usual threshold.
        return record if ending == _USUAL else record.drop_vars(["NEE_RANDUNC", "NEE_JOINTUNC"], errors="ignore")

    record = _first_good(read, source.location, lambda record: "NEE" not in needed or _has_nee(record))
    record = record.drop_vars([array for array in ("NEE", *_NEE_PARTS) if "NEE" not in names and array in record])
    columns = json.loads(record.attrs["columns"])
    notes = notes_on_targets(columns, names, source.location)
    notes += notes_on_values(columns, names, lambda name: bool(np.isfinite(record[name].values).any()))
    return record.assign_attrs(doubts=json.dumps([*json.loads(record.attrs["doubts"]), *notes]))


def summarise_oneflux(archive: Archive) -> TableSummary:
    """Return a summary of a half-hourly or hourly table from its header and a sample of its rows.

    Raises
    ------
    SourceError
        If the table is not of the dialect, or the sample is not what it should be.
    """
    source = find_source(archive)

    def summarise(ending: str) -> TableSummary:
        return summarise_stamped(source, _dialect(ending))

    summary = _first_good(summarise, source.location, lambda summary: summary.values.get("NEE", 0) > 0)
    notes = notes_on_targets(summary.columns, table.targets(), source.location)
    return replace(summary, notes=(*summary.notes, *notes))


def _first_good(read: Callable[[str], Item], location: Location, good: Callable[[Item], bool]) -> Item:
    """Return what was read with the first threshold of NEE that is good, else with the usual one."""
    first = read(_USUAL)
    if good(first):
        return first
    header = set(read_header(location))
    for ending in _FALLBACKS:
        if f"NEE_{ending}" in header:
            with contextlib.suppress(SourceError):  # a fault of a column that only replaces another one loses nothing
                other = read(ending)
                if good(other):
                    return other
    return first


def notes_on_targets(
    columns: Mapping[str, str], names: Iterable[str], location: Location, usual: Sequence[str] = (_USUAL,)
) -> list[str]:
    """Return notes where NEE is read from another column than the usual one, or there is no flux of CO2 or methane.

    Parameters
    ----------
    columns : mapping of str to str
        Column of each variable that was read.
    names : iterable of str
        Variables that were requested.
    location : Location
        The table, whose header is read if a note is needed.
    usual : sequence of str
        Endings of the usual columns of NEE.
    """
    if "NEE" not in names:
        return []
    if any(name in columns for name in _FLUXES):
        used = columns.get("NEE", "")
        expected = [f"NEE_{ending}" for ending in usual]
        if used in ("", *expected):
            return []
        return [f"NEE is read from {used}, since there is no value of {' or '.join(expected)}"]
    others = [name for name in read_header(location) if _OTHER_FLUXES.match(name)]
    there = f"{', '.join(others[:_LISTED])}{', ...' if len(others) > _LISTED else ''} of the file are not read"
    return [f"no NEE, GPP, RECO or methane flux was found{f'; {there}' if others else ''}"]


def notes_on_values(columns: Mapping[str, str], names: Iterable[str], has_values: Callable[[str], bool]) -> list[str]:
    """Return a note if the requested fluxes of CO2 and methane that were read have no value in the whole table."""
    read = [name for name in _FLUXES if name in columns and name in names]
    if "NEE" not in names or not read or any(map(has_values, read)):
        return []
    return [f"no value of NEE, GPP, RECO or methane in the whole table (columns {', '.join(columns[n] for n in read)})"]


def _requested(variables: Iterable[str] | None) -> tuple[str, ...]:
    return tuple(table.table() if variables is None else [variables] if isinstance(variables, str) else variables)


def _has_nee(record: xr.Dataset) -> bool:
    return "NEE" in record and bool(np.isfinite(record["NEE"].values).any())


def _dialect(ending: str) -> Dialect:
    """Return the dialect whose NEE, GPP and RECO are of a USTAR threshold."""
    if ending == _USUAL:
        return DIALECT
    return replace(DIALECT, layers=functools.partial(_layers, ending=ending))


def _layers(row: Variable, *, ending: str = _USUAL) -> list[Layer]:
    aliases = [alias.replace(_USUAL, ending) for alias in row.aliases]
    of = None if row.qc_from is None else row.qc_from.replace(_USUAL, ending)
    return [Layer(column=alias, flag=f"{of or alias}_QC", assumed=_assumed_flag(alias)) for alias in aliases]


def _assumed_flag(column: str) -> int:
    """Return the flag of a column without flags, according to the suffix for filled values in its name.

    Examples
    --------
    >>> [_assumed_flag(name) for name in ("TA", "PA_F", "TS_F_MDS_1", "NEE_VUT_REF")]
    [0, 2, 3, 3]
    """
    if re.search(r"_F_MDS(_\d+)?$|_[VC]UT_", column):
        return 3
    return 2 if re.search(r"_F(_\d+)?$", column) else 0


def _check_header(header: Sequence[str], location: Location) -> None:
    first = f"{location}, line 1"
    if header[0].startswith("# Site") or header[0].startswith("# Version"):
        raise _is_base(first)
    check_stamps(header, location)
    if any(map(_BASE_COLUMNS.fullmatch, header)) and not any(name.endswith(("_QC", "_VUT_REF")) for name in header):
        raise _is_base(first)
    rows = table.table().values()
    known = {layer.column for row in rows for ending in (_USUAL, *_FALLBACKS) for layer in _layers(row, ending=ending)}
    if not known.intersection(header):
        raise SourceError(
            f"{first}: none of ONEFlux's variables (TA_F, SW_IN_F, NEE_VUT_REF, ...) among its {len(header)} columns "
            f"({', '.join(header[2:6])}, ...); {AS_PUBLISHED}"
        )


def _is_base(where: str) -> SourceError:
    return SourceError(f"{where}: {networks()[_BASE].why}")


#: Columns and flags of FLUXNET2015, AmeriFlux FLUXNET, ICOS and the FLUXNET Shuttle.
DIALECT = Dialect(layers=_layers, check_header=_check_header)

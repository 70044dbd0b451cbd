"""Read half-hourly and hourly files of the ONEFlux dialect: FLUXNET2015, AmeriFlux FLUXNET, ICOS, FLUXNET Shuttle."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

import xarray as xr

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.networks import Archive, networks, parse_name
from fluxcube.sources.towers.stamped import (
    AS_PUBLISHED,
    END,
    MISSING,
    START,
    STEPS,
    Dialect,
    Layer,
    check_stamps,
    find_source,
    parse_stamps,
    read_stamped,
)
from fluxcube.timestamps import Offset
from fluxcube.variables import Variable

__all__ = ["END", "MISSING", "START", "STEPS", "parse_stamps", "read_oneflux"]

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
    ``_CUT_``) as 3.
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
    return read_stamped(source, DIALECT, utc_offset=utc_offset, variables=variables)


def _layers(row: Variable) -> list[Layer]:
    return [
        Layer(column=alias, flag=f"{row.qc_from or alias}_QC", assumed=_assumed_flag(alias)) for alias in row.aliases
    ]


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
    known = {alias for variable in table.table().values() for alias in variable.aliases}
    if not known.intersection(header):
        raise SourceError(
            f"{first}: none of ONEFlux's variables (TA_F, SW_IN_F, NEE_VUT_REF, ...) among its {len(header)} columns "
            f"({', '.join(header[2:6])}, ...); {AS_PUBLISHED}"
        )


def _is_base(where: str) -> SourceError:
    return SourceError(f"{where}: {networks()[_BASE].why}")


#: Columns and flags of FLUXNET2015, AmeriFlux FLUXNET, ICOS and the FLUXNET Shuttle.
DIALECT = Dialect(layers=_layers, check_header=_check_header)

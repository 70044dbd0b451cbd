"""Read JapanFlux2024: half-hourly tables of 83 towers of Japan and East Asia, with their own column names.

What is known (Ueyama et al. 2025, doi:10.5194/essd-17-3807-2025, the file names of its archive at ADS, and public
code that reads it): files are ``FLX_<site>_JapanFLUX2024_{ALLVARS|COREVARS}_HH_<years>_<version>.csv`` in
``DATA/ALLVARS`` or ``DATA/COREVARS``, with the time stamps, units and -9999 of FLUXNET2015. Column names are those of
FLUXNET2015 with two exceptions: fluxes filtered by a variable USTAR threshold end in ``_vUT`` (the reference,
``NEE_vUT``, and percentiles such as ``NEE_vUT_USTAR50``, which is read if a file lacks the reference) where FLUXNET2015
has ``_VUT_REF``, and soil columns have no layer (``TS_F_MDS``, ``SWC_F_MDS``). Half-hourly flags, ``<column>_QC``, are
0 where measured and above 0 where filled, as in FLUXNET2015. Time stamps are in UTC+9.

What is unknown: the flag and the units of the daily files. Public code reads ``NEE_vUT_QC`` as a mean of flags from 0
to 3, which it turns into (3 - QC) / 3, or as a filled share from 0 to 1, of which it keeps days of at most 0.5, and
ONEFlux's daily flag, of the same name, is a measured share from 0 to 1. No statement of the publisher decides between
them, nor whether daily NEE is in gC m-2 d-1; so daily values are computed from half-hours, and daily files are ignored.
Site metadata (``*General*``
under ``DATA/BADM``, in some archives ``DATA/BDAM``) is read by `fluxcube.sources.towers.badm.read_badm`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.bif import JAPAN_HOURS
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.siteinfo import SiteInfo
from fluxcube.sources.towers.stamped import (
    AS_PUBLISHED,
    START,
    Dialect,
    Layer,
    check_stamps,
)
from fluxcube.variables import Variable

_REFERENCE = re.compile(r"_VUT_REF$")
_LAYERED = re.compile(r"_F_MDS_1$")


def read_place(archive: Archive) -> SiteInfo:
    """Return the site information of every JapanFlux2024 archive: its time stamps are in UTC+9."""
    return SiteInfo(site=archive.site, utc_offset=JAPAN_HOURS, utc_offsets=((None, JAPAN_HOURS),))


def _layers(row: Variable) -> list[Layer]:
    """Return a variable's columns, best first, in upper case: ``NEE_VUT`` is the file's ``NEE_vUT``."""
    columns = [column for alias in row.aliases for column in _columns(alias)]
    flag_of = dict(zip(columns, _flag_columns(row, columns), strict=True))
    return [
        Layer(column=column, flag=flag_of[column], assumed=_assumed_flag(column), alone="_VUT" in column)
        for column in dict.fromkeys(columns)
    ]


def _columns(alias: str) -> list[str]:
    if _REFERENCE.search(alias):
        return [alias, _REFERENCE.sub("_VUT", alias), _REFERENCE.sub("_VUT_USTAR50", alias)]
    return [alias, alias.removesuffix("_1")] if _LAYERED.search(alias) else [alias]


def _flag_columns(row: Variable, columns: Sequence[str]) -> list[str]:
    """Return the flag column of each column: its own, or that of the NEE from which it was partitioned."""
    if row.qc_from is None:
        return [f"{column}_QC" for column in columns]
    return [f"NEE_{column.partition('_')[2].removeprefix('DT_').removeprefix('NT_')}_QC" for column in columns]


def _assumed_flag(column: str) -> int:
    """Return the flag of a column without flags.

    Examples
    --------
    >>> [_assumed_flag(name) for name in ("NETRAD", "TA_F", "TS_F_MDS", "NEE_VUT")]
    [0, 2, 3, 3]
    """
    if "_F_MDS" in column or "_VUT" in column:
        return 3
    return 2 if re.search(r"_F(_\d+)?$", column) else 0


def _check_header(header: Sequence[str], location: Location) -> None:
    check_stamps([name.upper() for name in header], location, needed=(START,))
    known = {layer.column for row in table.table().values() for layer in _layers(row)}
    if not known.intersection(name.upper() for name in header):
        raise SourceError(
            f"{location}, line 1: none of JapanFlux2024's variables (TA_F, SW_IN_F, NEE_vUT, ...) among its "
            f"{len(header)} columns ({', '.join(header[2:6])}, ...); {AS_PUBLISHED}"
        )


#: Columns and flags of JapanFlux2024.
DIALECT = Dialect(layers=_layers, check_header=_check_header, ignore_case=True)

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

What is unknown: the meaning of the flag in the daily files, which are ignored; daily values are computed from
half-hours.
"""

from __future__ import annotations

from collections.abc import Sequence

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.stamped import (
    AS_PUBLISHED,
    Dialect,
    Layer,
    check_stamps,
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


#: Columns and flags of FLUXNET-CH4: GPP and RECO have the flag of NEE.
DIALECT = Dialect(layers=_layers, check_header=_check_header, flags_of=dict.fromkeys(_PARTITIONED, "NEE"))

"""The towers that fluxcube knows: place, class, offset from UTC and DOIs of 848 sites, for downloads without metadata.

The table is ``data/sites.csv``; ``data/sites.md`` describes its sources and licences.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_SHUTTLE, _FLUXNET2015, _AMERIFLUX = "FLUXNET Shuttle 2026", "FLUXNET2015", "AmeriFlux FLUXNET"
#: Publications whose towers have products of their own, each with an identifier.
TOWER_PRODUCTS = (_SHUTTLE, _AMERIFLUX, _FLUXNET2015)
#: Publications that are compiled from products of towers, which have DOIs of their own.
_COMPILED = ("CarbonSense v1", "CarbonSense v2")
#: Beginning of the DOIs of AmeriFlux, which gives all versions of a tower's FLUXNET product one DOI.
_AMERIFLUX_DOI = "10.17190/AMF/"


@dataclass(frozen=True, kw_only=True)
class KnownSite:
    """One line of the table of known sites.

    Attributes
    ----------
    site : str
        ID, e.g. ``"US-MMS"``.
    latitude, longitude : float
        Degrees north and east.
    elevation : float or None
        Metres above sea level; None where unknown.
    igbp : str
        IGBP class, "" where unknown.
    utc_offset : float or None
        Hours east of UTC of the site's standard time (never daylight saving time); None where no source has it.
    networks : tuple of str
        Networks and datasets that the site is part of.
    first_year, last_year : int or None
        First and last year of its newest product.
    doi : str
        DOI of the newest data product of the tower, or the URL of its handle where it has no DOI; "" where unknown.
    fluxnet2015_doi : str
        DOI of the tower's product in FLUXNET2015, "" where it has none.
    source : str
        Where each of these facts comes from.
    """

    site: str
    latitude: float
    longitude: float
    elevation: float | None
    igbp: str
    utc_offset: float | None
    networks: tuple[str, ...]
    first_year: int | None
    last_year: int | None
    doi: str
    fluxnet2015_doi: str
    source: str


def known_sites() -> pd.DataFrame:
    """Return the table of the towers that fluxcube knows.

    A build uses it where neither the metadata files of a download nor its archives have a site's place, class,
    elevation or offset from UTC.

    Returns
    -------
    pandas.DataFrame
        One row per site, in order: ``site``, ``latitude`` and ``longitude`` (degrees), ``elevation`` (m), ``igbp``,
        ``utc_offset`` (hours east of UTC of standard time), ``networks`` (separated by ``;``), ``first_year`` and
        ``last_year`` of the newest product, ``doi`` of the newest product (or the URL of its handle),
        ``fluxnet2015_doi``, and ``source``, which states where the facts come from. Unknown numbers are missing,
        unknown texts empty.

    Examples
    --------
    >>> known_sites().set_index("site").loc["DE-Tha", ["igbp", "fluxnet2015_doi"]].tolist()
    ['ENF', '10.18140/FLX/1440152']
    """
    import pandas as pd

    rows = [{**vars(known), "networks": ";".join(known.networks)} for known in _table().values()]
    return pd.DataFrame(rows).astype(
        {"elevation": float, "utc_offset": float, "first_year": "Int64", "last_year": "Int64"}
    )


def known_site(site: str) -> KnownSite | None:
    """Return what the table has of a site; None if the site is not in it.

    Examples
    --------
    >>> known_site("US-MMS").igbp, known_site("XX-Xxx")
    ('DBF', None)
    """
    return _table().get(site)


def product_doi(site: str, network: str) -> str:
    """Return the DOI of a tower's own product in a publication, or its URL; "" where it is not known.

    Parameters
    ----------
    site : str
        ID of the site.
    network : str
        Publication, as in ``data/networks.yml``.

    Examples
    --------
    >>> product_doi("DE-Tha", "FLUXNET2015"), product_doi("DE-Tha", "ICOS Warm Winter 2020")
    ('10.18140/FLX/1440152', '')
    """
    known = known_site(site)
    if known is None:
        return ""
    if network == _FLUXNET2015:
        return known.fluxnet2015_doi
    own_product = network == _SHUTTLE or (network == _AMERIFLUX and known.doi.startswith(_AMERIFLUX_DOI))
    return known.doi if own_product else ""


def tower_doi(site: str, network: str) -> str:
    """Return the DOI of a tower's own data, in a publication or, if that is compiled from others, in one of those.

    Examples
    --------
    >>> tower_doi("DE-Tha", "CarbonSense v1"), product_doi("DE-Tha", "CarbonSense v1")
    ('10.18140/FLX/1440152', '')
    """
    known = known_site(site)
    if known is not None and network in _COMPILED:
        return known.fluxnet2015_doi or known.doi
    return product_doi(site, network)


@functools.cache
def _table() -> Mapping[str, KnownSite]:
    """Return the known sites by ID, in the order of the table."""
    text = resources.files("fluxcube").joinpath("data/sites.csv").read_text("utf-8")
    return MappingProxyType({row["site"]: _known(row) for row in csv.DictReader(text.splitlines())})


def _known(row: Mapping[str, str]) -> KnownSite:
    years = {key: int(row[key]) if row[key] else None for key in ("first_year", "last_year")}
    return KnownSite(
        site=row["site"],
        latitude=float(row["latitude"]),
        longitude=float(row["longitude"]),
        elevation=float(row["elevation"]) if row["elevation"] else None,
        igbp=row["igbp"],
        utc_offset=float(row["utc_offset"]) if row["utc_offset"] else None,
        networks=tuple(name for name in row["networks"].split(";") if name),
        **years,
        doi=row["doi"],
        fluxnet2015_doi=row["fluxnet2015_doi"],
        source=row["source"],
    )

"""Continent of a tower from the country in its ID, else of any place from its coordinates."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

#: Continents, in the order of the tables.
CONTINENTS = ("Africa", "Asia", "Europe", "North America", "South America", "Oceania", "Antarctica")

#: Codes of countries (ISO 3166-1 alpha-2, as in site IDs; UK is in use for GB), by the geographic regions of the
#: standard M49 of the United Nations (https://unstats.un.org/unsd/methodology/m49/). Central America and the Caribbean
#: are in North America. Russia is in Europe west of 60 degrees east, as its geographers draw the boundary.
_COUNTRIES = {
    "Africa": "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW "
    "MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    "Asia": "AE AF AM AZ BD BH BN BT CN CY GE HK ID IL IN IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY NP OM "
    "PH PK PS QA SA SG SY TH TJ TL TM TR TW UZ VN YE",
    "Europe": "AD AL AT AX BA BE BG BY CH CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD "
    "ME MK MT NL NO PL PT RO RS SE SI SJ SK SM UA UK VA",
    "North America": "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM "
    "PR SV SX TC TT US VC VG VI",
    "South America": "AR BO BR CL CO EC FK GF GY PE PY SR UY VE",
    "Oceania": "AS AU CC CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS",
    "Antarctica": "AQ BV GS HM TF",
}
_OF_COUNTRY = {code: continent for continent, codes in _COUNTRIES.items() for code in codes.split()}
_URAL = 60.0


def continents_of(
    latitude: np.ndarray | None, longitude: np.ndarray | None, sites: Iterable[object] | None = None
) -> np.ndarray:
    """Return the continent of each place, "" where neither its ID nor its coordinates are known.

    The ID of a tower decides where it begins with the code of a country, such as DE-Tha; a tower of Hawaii is then in
    North America. Elsewhere coordinates decide (`continent_at`).

    Parameters
    ----------
    latitude, longitude : (n,) float, optional
        Degrees.
    sites : iterable of (n,) str, optional
        IDs.

    Returns
    -------
    (n,) object
        Of `CONTINENTS`, or "".

    Examples
    --------
    >>> continents_of(np.array([51.0, 65.0]), np.array([13.6, 90.0]), ["DE-Tha", "tower 2"]).tolist()
    ['Europe', 'Asia']
    """
    at = np.array([], object)
    if latitude is not None and longitude is not None:
        at = continent_at(latitude, longitude)
    if sites is None:
        return at
    names = list(map(str, sites))
    at = at if len(at) else np.full(len(names), "", object)
    east = np.zeros(len(names)) if longitude is None else np.asarray(longitude, float)
    return np.array([_of_site(name, x, other) for name, x, other in zip(names, east, at, strict=True)], object)


def _of_site(site: str, longitude: float, otherwise: str) -> str:
    code = site[:2].upper() if site[2:3] == "-" else ""
    if code == "RU":
        return "Asia" if longitude > _URAL else "Europe"
    return _OF_COUNTRY.get(code, otherwise)


def continent_at(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the continent of coordinates, by straight lines between the continents.

    The lines follow the Urals, the Caucasus, the Bosporus, the Red Sea, the strait of Gibraltar and the isthmus of
    Panama. Land within about 100 km of them, and islands, may be assigned to the other side; seas have the continent
    of their side.

    Parameters
    ----------
    latitude, longitude : array of float
        Degrees, of one shape.

    Returns
    -------
    array of object
        Of `CONTINENTS`; "" where a coordinate is missing.
    """
    lat = np.asarray(latitude, float)
    lon = (np.asarray(longitude, float) + 180) % 360 - 180
    known = np.isfinite(lat) & np.isfinite(lon)
    iceland = (lat > 62.5) & (lat < 67) & (lon > -25) & (lon < -12)
    america = (lon < -30) | ((lat > 59) & (lon < -11) & ~iceland)
    pacific = (lon < -130) & (lat < 30)
    south = (lat < 7.2) | ((lat < 12.5) & (lon > -77.4))
    coast = np.select([lon < -1, lon < 11.5, lon < 25], [35.95, 37.6, 33.5], 32.0)
    red_sea = 32.5 + np.clip((30 - lat) / (30 - 12.6), 0, 1) * (43.3 - 32.5)
    africa = (lat < coast) & (lon < np.where(lat < 12.6, 52.0, red_sea)) & (lon > -30)
    oceania = ((lat < -10.5) & (lon > 110)) | ((lat < 0) & (lon > 130.9)) | ((lat < 25) & (lon > 134)) | pacific
    # Asia begins at the Urals, the river Ural, the Caucasus and, south of the Black Sea, the Bosporus
    border = np.select([lat > 51, lat > 47, lat > 43, lat > 41.2], [_URAL, 51.0, 48.0, 40.0], 26.3)
    europe = (lon < border) & (lon > -30)
    chosen = np.select(
        [~known, lat < -60, oceania, america & south, america, africa, europe],
        ["", "Antarctica", "Oceania", "South America", "North America", "Africa", "Europe"],
        "Asia",
    )
    return chosen.astype(object)

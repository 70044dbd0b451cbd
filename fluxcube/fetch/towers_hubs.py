"""The data hubs of the FLUXNET Shuttle: where they are, and the archives that each lists today.

The Shuttle's client (https://github.com/fluxnet/shuttle) is not on PyPI; its `listall` sends the same requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from fluxcube.errors import FetchError
from fluxcube.fetch.answers import whole_number
from fluxcube.fetch.api import request_json, request_text
from fluxcube.fetch.towers_catalogue import ARCHIVE, TowerArchive, degrees, fault_of_archive, networks_of, read_table
from fluxcube.sources.towers.networks import parse_name


@dataclass(frozen=True, kw_only=True)
class Services:
    """Addresses of the services of tower data; others than the public ones are for tests and mirrors.

    Attributes
    ----------
    ameriflux : str
        AmeriFlux's data API.
    icos_meta, icos_data : str
        Metadata (SPARQL) and data of the ICOS Carbon Portal.
    tern : str
        TERN's folder of FLUXNET products on its THREDDS server.
    zenodo : str
    """

    ameriflux: str = "https://amfcdn.lbl.gov/api"
    icos_meta: str = "https://meta.icos-cp.eu"
    icos_data: str = "https://data.icos-cp.eu"
    tern: str = "https://dap.tern.org.au/thredds/fileServer/ecosystem_process/fluxnet"
    zenodo: str = "https://zenodo.org"

    @classmethod
    def at(cls, address: str) -> Self:
        """Return all services at one address, of a mirror or of a test server."""
        address = address.rstrip("/")
        return cls(**{field.name: address for field in fields(cls)})


#: Identity of the Shuttle's requests for its list, which are not an order.
_SHUTTLE_USER = "fluxnetshuttle"
#: Kinds of ICOS archives: FLUXNET archives of all networks that it hosts, and level 2 archives of its own stations.
ICOS_FLUXNET, ICOS_LEVEL2 = "miscFluxnetArchiveProduct", "etcArchiveProduct"

_SPARQL = """
prefix cpmeta: <http://meta.icos-cp.eu/ontologies/cpmeta/>
prefix prov: <http://www.w3.org/ns/prov#>
select ?dobj ?spec ?station ?stationId ?stationName ?fileName ?size ?timeStart ?timeEnd ?lat ?lon ?ecosystemType
       ?citationString
where {{
    VALUES ?spec {{ {specs} }}
    ?dobj cpmeta:hasObjectSpec ?spec .
    ?dobj cpmeta:wasAcquiredBy/prov:wasAssociatedWith ?station .
    ?dobj cpmeta:hasSizeInBytes ?size .
    ?dobj cpmeta:hasName ?fileName .
    ?dobj cpmeta:hasStartTime | (cpmeta:wasAcquiredBy / prov:startedAtTime) ?timeStart .
    ?dobj cpmeta:hasEndTime | (cpmeta:wasAcquiredBy / prov:endedAtTime) ?timeEnd .
    OPTIONAL {{ ?station cpmeta:hasStationId ?stationId . }}
    OPTIONAL {{ ?station cpmeta:hasName ?stationName . }}
    OPTIONAL {{ ?station cpmeta:hasLatitude ?lat . ?station cpmeta:hasLongitude ?lon . }}
    OPTIONAL {{ ?station cpmeta:hasEcosystemType ?ecosystemType . }}
    OPTIONAL {{ ?dobj cpmeta:hasCitationString ?citationString . }}
    FILTER NOT EXISTS {{ [] cpmeta:isNextVersionOf ?dobj }}
}}
order by ?fileName
"""


def list_shuttle(services: Services) -> tuple[list[TowerArchive], list[str]]:
    """Return the archives that the three hubs list today, and notes about hubs that did not answer.

    Raises
    ------
    FetchError
        If no hub answered.
    """
    archives: list[TowerArchive] = []
    notes: list[str] = []
    for hub, listing in (("AmeriFlux", list_ameriflux), ("ICOS", list_icos_shuttle), ("TERN", list_tern)):
        try:
            archives += listing(services)
        except FetchError as error:
            notes.append(f"{hub} could not be listed, so that its sites are missing: {error}")
    if not archives:
        raise FetchError("no hub of the FLUXNET Shuttle could be listed:\n" + "\n".join(notes))
    return archives, notes


def list_ameriflux(services: Services) -> list[TowerArchive]:
    """Return AmeriFlux's FLUXNET archives: sites, files and citations, in three requests."""
    base = f"{services.ameriflux}/v2"
    sites = ameriflux_sites(services)
    order = {"user_id": _SHUTTLE_USER, "data_product": "FLUXNET", "data_variant": "FULLSET", "site_ids": sorted(sites)}
    files = request_json(f"{base}/amf_shuttle_data_files_and_manifest", body=order)
    answer = request_json(f"{base}/citations/FLUXNET", body={"site_ids": sorted(sites)})
    citations = {str(row.get("site_id")): str(row.get("citation") or "") for row in rows_of(answer, "values")}
    archives = []
    for row in rows_of(files, "data_urls"):
        site, url = str(row.get("site_id") or ""), str(row.get("url") or "")
        name = name_of(url)
        match = ARCHIVE.fullmatch(name)
        if match and site in sites and not fault_of_archive(name, site):
            facts = ameriflux_facts(site, sites[site]) | span(match.group(3, 4))
            facts |= {"citation": citations.get(site, ""), "product_id": _doi(sites[site])}
            archives.append(TowerArchive(name=name, url=url, **facts))
    return archives


def ameriflux_sites(services: Services) -> dict[str, Mapping[str, Any]]:
    """Return what AmeriFlux states about each site with a FLUXNET product."""
    answer = request_json(f"{services.ameriflux}/v2/site_info_display/AmeriFlux")
    sites = {str(row.get("site_id")): row for row in rows_of(answer, "values") if row.get("grp_publish_fluxnet")}
    return {site: row for site, row in sites.items() if re.fullmatch(r"[A-Z]{2}-[A-Za-z0-9]{3}", site, re.ASCII)}


def ameriflux_facts(site: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return hub, site, place, class, networks and published years of a site of AmeriFlux."""
    location, networks = _mapping(row.get("grp_location")), row.get("grp_network")
    return {
        "hub": "AmeriFlux",
        "site": site,
        "site_name": str(row.get("site_name") or ""),
        "latitude": degrees(location.get("location_lat")),
        "longitude": degrees(location.get("location_long")),
        "igbp": str(_mapping(row.get("grp_igbp")).get("igbp") or ""),
        "network": networks_of(networks if isinstance(networks, list) else []),
        **span(row.get("grp_publish_fluxnet")),
    }


def span(years: object) -> dict[str, Any]:
    """Return the first and last of years; nothing if there is no year, or what a service sent is no list."""
    listed = years if isinstance(years, Iterable) and not isinstance(years, (str, Mapping)) else ()
    numbers = [int(str(year)) for year in listed if re.fullmatch(r"[0-9]{4}", str(year))]
    return {"first_year": min(numbers), "last_year": max(numbers)} if numbers else {}


def _doi(row: Mapping[str, Any]) -> str:
    return str(_mapping(row.get("doi")).get("FLUXNET") or "")


def list_icos_shuttle(services: Services) -> list[TowerArchive]:
    """Return the archives of the Shuttle that ICOS keeps (of European, African and Asian networks)."""
    return [a for a in list_icos(services, [ICOS_FLUXNET]) if not fault_of_archive(a.name, a.site)]


def list_icos(services: Services, specs: Sequence[str]) -> list[TowerArchive]:
    """Return the newest version of each data object of some kinds at the ICOS Carbon Portal."""
    kinds = " ".join(f"<http://meta.icos-cp.eu/resources/cpmeta/{spec}>" for spec in specs)
    answer = request_json(f"{services.icos_meta}/sparql", form={"query": _SPARQL.format(specs=kinds)})
    found: dict[str, TowerArchive] = {}
    for row in rows_of(_mapping(answer).get("results"), "bindings"):
        values = {key: str(_mapping(cell).get("value") or "") for key, cell in row.items()}
        identifier = values.get("dobj", "").rpartition("/")[2]
        years = span(values.get(key, "")[:4] for key in ("timeStart", "timeEnd"))
        if re.fullmatch(r"[\w-]{24}", identifier) and values.get("fileName") and years:
            found[identifier] = _icos_archive(services, identifier, values, years)
    return list(found.values())


def _icos_archive(
    services: Services, identifier: str, values: Mapping[str, str], years: Mapping[str, Any]
) -> TowerArchive:
    ecosystem = values.get("ecosystemType", "").rpartition("/")[2]
    # The name of the file states the site as FLUXNET writes it; ids of stations of other networks can differ.
    named = parse_name(values["fileName"])
    return TowerArchive(
        hub="ICOS",
        site=named.site if named else values.get("stationId") or values.get("station", "")[-6:],
        name=values["fileName"],
        url=f"{services.icos_data}/objects/{identifier}",
        **years,
        site_name=values.get("stationName", ""),
        latitude=degrees(values.get("lat")),
        longitude=degrees(values.get("lon")),
        igbp=ecosystem.removeprefix("igbp_").upper() if ecosystem.startswith("igbp_") else "",
        citation=" ".join(values.get("citationString", "").split()),
        product_id=identifier,
        size=whole_number(values.get("size")),
    )


def list_tern(services: Services) -> list[TowerArchive]:
    """Return TERN's archives: every version in its catalogue, with the places of its BIF."""
    catalogue = request_text(f"{services.tern}/TERN_THREDDS_catalogue.csv")
    places = _bif(request_text(f"{services.tern}/BIF_all_sites.csv"))
    archives = []
    for row in read_table(catalogue, "TERN's catalogue")[1]:
        site, url = (row.get("SITE_ID") or "").strip(), (row.get("PRODUCT_URL") or "").strip()
        name = name_of(url)
        match = ARCHIVE.fullmatch(name)
        if not match or fault_of_archive(name, site):
            continue
        facts = places.get(site, {}) | span(match.group(3, 4))
        facts["citation"] = " ".join((row.get("PRODUCT_CITATION") or "").split())
        facts["product_id"] = (row.get("PRODUCT_ID") or "").strip()
        archives.append(TowerArchive(hub="TERN", site=site, name=name, url=url, **facts))
    return archives


def _bif(text: str) -> dict[str, dict[str, Any]]:
    """Return name, place, class and networks of each site of a BIF table."""
    sites: dict[str, dict[str, Any]] = {}
    names = {"SITE_NAME": "site_name", "IGBP": "igbp"}
    for row in read_table(text, "TERN's table of sites")[1]:
        site = sites.setdefault((row.get("SITE_ID") or "").strip(), {"network": ()})
        variable, value = row.get("VARIABLE"), (row.get("DATAVALUE") or "").strip()
        if variable in ("LOCATION_LAT", "LOCATION_LONG"):
            site["latitude" if variable == "LOCATION_LAT" else "longitude"] = degrees(value)
        elif variable == "NETWORK":
            site["network"] = networks_of([*site["network"], value])
        elif variable in names:
            site[names[variable]] = value
    return sites


def name_of(url: str) -> str:
    """Return the file name in a URL, without its query."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def rows_of(answer: object, key: str) -> list[Mapping[str, Any]]:
    """Return the rows of an answer; what is not a row is left out."""
    rows = _mapping(answer).get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

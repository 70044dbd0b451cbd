"""MODIS tiles from NASA Earthdata: search in CMR and login by earthaccess, download with resuming.

The files are LP DAAC's own HDF4 tiles of 2400 x 2400 pixels; a day of MCD43A4 has about 75 MB, so that chips of few
sites are better fetched from Earth Engine or AppEEARS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import requests

from fluxcube.errors import CredentialsError, FetchError, LicenceError, SourceError, missing_package
from fluxcube.fetch.addresses import hide_credentials, host_of, public, public_text
from fluxcube.fetch.answers import MALFORMED, clock_hint, whole_number
from fluxcube.fetch.http import Downloaded, download
from fluxcube.fetch.items import Item, Plan, request_key
from fluxcube.fetch.modis_places import tile_name
from fluxcube.fetch.modis_products import COLLECTION, Product, licence
from fluxcube.fetch.modis_request import Request
from fluxcube.fetch.run import fetch_all, make_plan
from fluxcube.fetch.sending import limit_waiting, reason
from fluxcube.parsing import parse_json
from fluxcube.sources.modis.names import parse_name

#: Products and options of the service, as `fluxcube.fetch.modis` checks them.
PRODUCTS = ("MCD43A4", "MCD43A2", "MOD09GA", "MODOCGA", "MCD12Q1")
OPTIONS = ("every",)
SOURCE = "MODIS tiles from NASA Earthdata"
#: Expected bytes per second of all connections.
_SPEED = 5e6
#: Hosts to which the login is sent.
_HOSTS = re.compile(r"(?:.+\.)?(?:nasa\.gov|usgs\.gov)")
_EULA = re.compile(rb"(?i)eula|resolution_url|approve_app")
_MAX_GRANULES = 2000
#: Day, edition, item and address of a granule.
Found: TypeAlias = tuple[np.datetime64, str, Item, str]
_FORMATS = ("HDF4", "HDF5")
_ALGORITHMS = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-512": "sha512"}
_HELP = (
    "Open a free account on https://urs.earthdata.nasa.gov/users/new, and write the line `machine "
    "urs.earthdata.nasa.gov login NAME password PASSWORD` into ~/.netrc (chmod 600), or set EARTHDATA_TOKEN."
)


def plan(request: Request) -> Plan:
    """Search the tiles in CMR, which needs no account, and return the plan."""
    return _plan(request, find_tiles(new_auth(request.endpoint), request))


def _plan(request: Request, found: Mapping[str, tuple[Item, str]]) -> Plan:
    planned = make_plan(
        SOURCE,
        request.folder,
        (item for item, _ in found.values()),
        licence=licence(request.products),
        notes=(*request.places.notes, *_notes(request)),
        cost="no quota; whole tiles are downloaded",
    )
    return replace(planned, seconds=planned.bytes / _SPEED)


def fetch(request: Request) -> list[Path]:
    """Fetch the tiles; see `fluxcube.fetch.modis`."""
    auth = new_auth(request.endpoint)
    found = find_tiles(auth, request)
    planned = _plan(request, found)
    if planned.missing:
        log_in(auth, request.endpoint)
    one = partial(_fetch_tile, auth, {name: url for name, (_, url) in found.items()})
    return fetch_all(planned, request.folder, one, jobs=request.jobs, progress=request.progress)


def _notes(request: Request) -> tuple[str, ...]:
    if not request.places.at_sites:
        return ()
    return ("the tiles are whole; Earth Engine and AppEEARS send only the pixels around the sites, in 1 MB a year",)


def new_auth(endpoint: str | None = None) -> Any:
    """Return the client's login, not logged in yet.

    Parameters
    ----------
    endpoint : str, optional
        Address of another CMR, below which there is also the login.
    """
    try:
        from earthaccess.auth import Auth
        from earthaccess.system import PROD, CMRBaseURL, EDLHostname, System
    except ImportError:
        raise missing_package("earthaccess", "fetch-modis", "fetching MODIS from NASA Earthdata") from None
    hide_credentials("earthaccess.auth", "earthaccess.api", "urllib3.connectionpool")
    auth = Auth()
    if endpoint is not None:
        url = endpoint.rstrip("/")
        search, login = CMRBaseURL(f"{url}/search/"), EDLHostname(host_of(url))
        auth._set_earthdata_system(System(search, PROD.status_url, PROD.status_api_url, login))
        auth.EDL_FIND_OR_CREATE_TOKEN_URL = f"{url}/api/users/find_or_create_token"
    return auth


def log_in(auth: Any, endpoint: str | None = None) -> None:
    """Log in with the environment's token or password, or those of ~/.netrc.

    Raises
    ------
    CredentialsError
        If there are none, or Earthdata does not accept them.
    """
    from earthaccess.exceptions import LoginAttemptFailure, LoginStrategyUnavailable

    problem: FetchError | None = None
    for strategy in ("environment", "netrc"):
        try:
            auth.login(strategy=strategy, system=auth.system if endpoint is None else None)
        except LoginStrategyUnavailable:
            continue
        except LoginAttemptFailure as error:
            text = " ".join(public_text(str(error)).split())[:200] + clock_hint(str(error))
            problem = CredentialsError(f"NASA Earthdata does not accept the login ({text}). {_HELP}")
            break
        except requests.RequestException as error:
            problem = FetchError(f"NASA Earthdata: the login failed ({reason(error)}); try again later.")
            break
        except MALFORMED as error:
            problem = FetchError(f"NASA Earthdata: the login failed ({type(error).__name__}); try again later.")
            break
        return
    raise problem or CredentialsError(f"no NASA Earthdata login was found. {_HELP}")


def find_tiles(auth: Any, request: Request) -> dict[str, tuple[Item, str]]:
    """Return the item and the address of each tile by the item's name, of several editions the latest."""
    found: dict[str, tuple[Item, str]] = {}
    for product in request.products:
        for tile, years in request.places.tiles().items():
            for year in years:
                days = set(product.days(year, request.every))
                latest: dict[np.datetime64, tuple[str, Item, str]] = {}
                for one in _search(auth, product, tile, year) if days else ():
                    if one[0] in days:
                        day, edition, item, url = one
                        latest[day] = max(latest.get(day, ("", item, url)), (edition, item, url), key=lambda e: e[0])
                found |= {item.name: (item, url) for _, item, url in (latest[day] for day in sorted(latest))}
    if not found:
        raise FetchError(
            f"NASA Earthdata: no tile of {', '.join(p.name for p in request.products)} was found for the places and "
            "years: check them on https://search.earthdata.nasa.gov/."
        )
    return found


def _search(auth: Any, product: Product, tile: tuple[int, int], year: int) -> list[Found]:
    """Return the granules of a product, tile and year that CMR lists."""
    from earthaccess.search import DataGranules

    query = DataGranules(auth).short_name(product.name).version(COLLECTION)
    limit_waiting(query.session)
    query = query.granule_name(f"{product.name}.A{year}*.{tile_name(tile)}.*")
    problem = ""
    try:
        found = [_granule(granule, product, tile) for granule in query.get(_MAX_GRANULES)]
        return [one for one in found if one is not None]
    except FetchError:
        raise
    except RuntimeError as error:
        problem = " ".join(public_text(str(error)).split())[:200]
    except requests.RequestException as error:
        problem = reason(error)
    except MALFORMED as error:
        problem = f"an answer in another form: {type(error).__name__}"
    raise FetchError(f"NASA Earthdata: the search in CMR failed ({problem}); run the same command again.")


def _granule(granule: Any, product: Product, tile: tuple[int, int]) -> Found | None:
    """Return the day, edition, item and address of a granule; None if it is another product or tile."""
    links = [link for link in granule.data_links(access="external") if link.lower().endswith(".hdf")]
    if not links:
        return None
    name = links[0].rpartition("/")[2]
    try:
        parsed = parse_name(Path(name))
    except SourceError:
        return None
    if parsed is None or parsed.product != product.name or parsed.tile != tile or parsed.collection != COLLECTION:
        return None
    about = {"product": product.name, "day": str(parsed.day), "tile": tile_name(tile), "citation": product.citation}
    archived = _archive_information(granule, name)
    item = Item(
        name=f"{product.name}/{name}",
        key=request_key({"service": "NASA Earthdata", "granule": name}),
        size=_size(archived) or product.tile_bytes,
        about=about,
        checksum=_checksum(archived),
    )
    return parsed.day, parsed.production, item, links[0]


def _archive_information(granule: Any, name: str) -> Mapping[str, Any]:
    umm = granule.get("umm")
    about = umm.get("DataGranule") if isinstance(umm, dict) else None
    entries = about.get("ArchiveAndDistributionInformation") if isinstance(about, dict) else None
    rows = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return next((entry for entry in rows if entry.get("Name") in (name, None)), {})


def _size(archived: Mapping[str, Any]) -> int | None:
    """Return the bytes of a file as CMR lists them: not exactly, since some entries are rounded."""
    if (size := whole_number(archived.get("SizeInBytes"))) is not None:
        return size
    factor = {"KB": 2**10, "MB": 2**20, "GB": 2**30}.get(str(archived.get("SizeUnit", "")).upper())
    rounded = archived.get("Size")
    return int(rounded * factor) if factor and isinstance(rounded, (int, float)) and 0 < rounded < 1e9 else None


def _checksum(archived: Mapping[str, Any]) -> tuple[str, str] | None:
    entry = archived.get("Checksum")
    if not isinstance(entry, dict):
        return None
    algorithm = _ALGORITHMS.get(str(entry.get("Algorithm", "")).upper())
    return (algorithm, str(entry["Value"])) if algorithm and entry.get("Value") else None


def _fetch_tile(auth: Any, urls: Mapping[str, str], item: Item, path: Path) -> Downloaded:
    url = urls[item.name]
    own = host_of(url) == host_of(auth.system.cmr_base_url)
    if not (own or (_HOSTS.fullmatch(host_of(url)) and url.startswith("https://"))):
        raise FetchError(f"{public(url)}: this is no server of NASA; the login was not sent to it.")
    problem: CredentialsError | None = None
    with auth.get_session() as session:
        try:
            size = item.size if item.exact else None
            return download(
                url, path, session=session, size=size, checksum=item.checksum, formats=_FORMATS, explain=_explain
            )
        except CredentialsError as error:
            problem = CredentialsError(f"{error} {_HELP}")
    raise problem


def _explain(response: requests.Response, body: bytes) -> FetchError | None:
    """Return the error for a licence that has not been accepted, with the page on which it is."""
    if response.status_code not in (401, 403) or not _EULA.search(body):
        return None
    try:
        page = str(parse_json(body, dict).get("resolution_url", ""))
    except ValueError:
        page = ""
    # The page is shown whole: its client_id is the application's, public, and without it the page is of no use.
    page = page if _HOSTS.fullmatch(host_of(page)) else "https://urs.earthdata.nasa.gov/profile (EULAs, Applications)"
    return LicenceError(
        f"{public(response.url)}: NASA Earthdata asks you to accept a licence or an application first: open {page} in "
        "a browser, and run the same command again."
    )

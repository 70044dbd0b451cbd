"""Fetch archives of a list: of the FLUXNET Shuttle's hubs, and of the ICOS Carbon Portal."""

from __future__ import annotations

import base64
import binascii
import logging
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests

from fluxcube.errors import FetchError, LicenceError, UnknownNameError
from fluxcube.fetch.addresses import host_of, public
from fluxcube.fetch.api import request_text, size_of
from fluxcube.fetch.http import Downloaded, download
from fluxcube.fetch.items import Item, Licence, Plan, fault_of_name
from fluxcube.fetch.run import make_plan
from fluxcube.fetch.towers_catalogue import Choice, TowerArchive, newest, read_snapshot, select
from fluxcube.fetch.towers_hubs import ICOS_FLUXNET, ICOS_LEVEL2, Services, list_icos, list_shuttle
from fluxcube.parsing import read_text
from fluxcube.sources.towers.networks import networks, parse_name

_log = logging.getLogger(__name__)

SHUTTLE = Licence(
    name="CC-BY-4.0",
    url="https://fluxnet.org/data/data-policy/",
    text=(
        "FLUXNET data policy: cite the data product of each site (below), and the network; inform the site's team of a "
        "publication. Each archive contains DATA_POLICY_LICENSE_AND_INSTRUCTIONS.txt."
    ),
    citation=(
        "FLUXNET data products, one citation for each site; processing: Pastorello et al. (2020): The FLUXNET2015 "
        "dataset and the ONEFlux processing pipeline for eddy covariance data."
    ),
    doi="10.1038/s41597-020-0534-3",
)
ICOS = Licence(
    name="CC-BY-4.0",
    url="https://data.icos-cp.eu/licence",
    text="ICOS data licence: cite each data object (below) with its PID. Downloading accepts the licence.",
    citation="ICOS RI: ecosystem data products, one citation with PID for each archive.",
)
_ZIP = ("application/zip", "application/x-zip-compressed", "application/x-zip")
_ICOS_LINK = re.compile(r"/(?:licence_accept|objects)")
#: Number of archives of each hub of which a plan requests the size, and bytes per second assumed for its time.
_SAMPLED, _RATE = 4, 5e6


def plan_shuttle(
    folder: Path, choice: Choice, services: Services, snapshot: str | Path | None = None, **options: bool
) -> tuple[Plan, list[TowerArchive]]:
    """Return the plan to fetch archives of the FLUXNET Shuttle, and the archives.

    Parameters
    ----------
    folder : Path
    choice : Choice
    services : Services
    snapshot : path or URL, optional
        A snapshot that the Shuttle wrote; default: what the hubs list today.
    **options
        Of `archives_plan`.
    """
    every, notes = list_shuttle(services) if snapshot is None else _snapshot(snapshot)
    where = "the FLUXNET Shuttle" if snapshot is None else Path(str(snapshot)).name
    try:
        archives, more = select(newest(every), choice, where)
    except UnknownNameError as error:
        raise UnknownNameError(" ".join([str(error), *notes])) from None
    return archives_plan("FLUXNET Shuttle", folder, archives, SHUTTLE, [*notes, *more], **options), archives


def _snapshot(snapshot: str | Path) -> tuple[list[TowerArchive], list[str]]:
    if "://" in str(snapshot):
        return read_snapshot(request_text(str(snapshot)), Path(urlsplit(str(snapshot)).path).name)
    try:
        return read_snapshot(read_text(snapshot), Path(snapshot).name)
    except FetchError:
        raise
    except (OSError, ValueError) as error:
        problem = f"{snapshot}: {error.strerror if isinstance(error, OSError) else 'it is no text'}"
    raise FetchError(f"{problem}; pass the CSV file of a snapshot, or leave it out to list what the hubs have today.")


def plan_icos(folder: Path, choice: Choice, services: Services, **options: bool) -> tuple[Plan, list[TowerArchive]]:
    """Return the plan to fetch one archive of each site from the ICOS Carbon Portal, and the archives.

    That is the level 2 archive of an ICOS station; for other sites, the FLUXNET archive with the newest data.
    """
    every = _one_a_site(list_icos(services, [ICOS_LEVEL2, ICOS_FLUXNET]))
    archives, notes = select(every, choice, "the ICOS Carbon Portal")
    return archives_plan("ICOS Carbon Portal", folder, archives, ICOS, notes, **options), archives


def _one_a_site(archives: Iterable[TowerArchive]) -> list[TowerArchive]:
    """Return the preferred archive of each site, of those that fluxcube reads: level 2, then the newest data."""
    best: dict[str, tuple[tuple[bool, int, int], TowerArchive]] = {}
    for archive in archives:
        parsed = parse_name(archive.name)
        if parsed is None or fault_of_name(archive.name) or parsed.site != archive.site:
            continue
        if networks()[parsed.network].refused:
            continue
        rank = (parsed.network == "ICOS 2023 L2", archive.last_year, archive.years)
        if archive.site not in best or rank > best[archive.site][0]:
            best[archive.site] = rank, archive
    return [archive for _, archive in best.values()]


def archives_plan(
    source: str,
    folder: Path,
    archives: Sequence[TowerArchive],
    licence: Licence,
    notes: Iterable[str],
    *,
    verify: bool = False,
    estimate: bool = True,
) -> Plan:
    """Return the plan of archives; `estimate`: request the sizes of a few of each hub, where no list states sizes."""
    plan = make_plan(source, folder, map(_item, archives), licence=licence, verify=verify)
    missing = {item.name for item in plan.missing}
    rates = _bytes_a_year([a for a in archives if a.name in missing and a.size is None]) if estimate else {}
    items = [_item(archive, rates.get(archive.hub)) for archive in archives]
    hubs = sorted({a.hub for a in archives if a.name in missing})
    about_hubs = [f"{hub}: {_HUBS[hub]}" for hub in hubs if hub in _HUBS]
    if rates:
        about_hubs.append(f"sizes are estimated from {_SAMPLED} archives of each hub, by their years")
    total = sum(item.size or 0 for item in items if item.name in missing)
    cost = f"{len(missing)} downloads; the hubs state no limit"
    notes, have = [*notes, *about_hubs], [item.name for item in plan.have]
    return make_plan(source, folder, items, licence=licence, notes=notes, seconds=total / _RATE, cost=cost, have=have)


_HUBS = {
    "AmeriFlux": (
        "no account is needed for these archives; AmeriFlux records each download, with the name and email of AMF_USER "
        "and AMF_EMAIL if they are set (https://ameriflux.lbl.gov/data/data-policy/)"
    ),
    "ICOS": "no account is needed; downloading accepts the licence https://data.icos-cp.eu/licence",
    "TERN": "no account is needed; CC-BY-4.0 (https://www.tern.org.au)",
}


def _item(archive: TowerArchive, rate: float | None = None) -> Item:
    about = {"site": archive.site, "hub": archive.hub, "years": [archive.first_year, archive.last_year]}
    about |= {"igbp": archive.igbp, "citation": archive.citation, "product_id": archive.product_id}
    estimate = None if rate is None else int(rate * archive.years)
    return Item(
        archive.name,
        key_of(archive.url),
        size=estimate if archive.size is None else archive.size,
        exact=archive.size is not None,
        about=about,
    )


def _bytes_a_year(archives: Sequence[TowerArchive]) -> dict[str, float]:
    """Return the mean size of a year of each hub, from a few of its archives, spread over the list."""
    by_hub: dict[str, list[TowerArchive]] = defaultdict(list)
    for archive in archives:
        by_hub[archive.hub].append(archive)
    rates = {}
    for hub, of_hub in by_hub.items():
        sample = of_hub[:: max(1, len(of_hub) // _SAMPLED)][:_SAMPLED]
        sizes = [(size_of(*address(archive.url)), archive.years) for archive in sample]
        known = [(size, years) for size, years in sizes if size]
        if known:
            rates[hub] = sum(size for size, _ in known) / sum(years for _, years in known)
    return rates


def key_of(url: str) -> str:
    """Return what identifies a file: its address, whatever link leads to it, without the user's name (``?=USER``)."""
    return public(address(url)[0].partition("?=")[0])


def address(url: str) -> tuple[str, dict[str, str]]:
    """Return the address from which a file is requested, and the headers that it requires.

    ICOS sends a data object when a cookie states that its licence is accepted; the Shuttle's links to ICOS set that
    cookie and redirect.
    """
    identifier = icos_identifier(url)
    if not identifier:
        return url, {}
    parts = urlsplit(url)
    target = urlunsplit((parts.scheme, parts.netloc, f"/objects/{identifier}", "", ""))
    return target, {"Cookie": f"CpLicenseAcceptedFor={identifier}"}


def icos_identifier(url: str) -> str:
    """Return the identifier of a data object of ICOS in a link to it; "" for any other link.

    Examples
    --------
    >>> icos_identifier("https://data.icos-cp.eu/licence_accept?ids=%5B%22STLJfs_nkGgsI6sPzHNIgYE0%22%5D")
    'STLJfs_nkGgsI6sPzHNIgYE0'
    """
    parts = urlsplit(url)
    if not _ICOS_LINK.match(parts.path):
        return ""
    match = re.search(
        r"(?:ids=\[\"|/objects/)([\w-]{24})(?:\"\]|$)", unquote(f"{parts.path}?{parts.query}".rstrip("?"))
    )
    return match[1] if match else ""


def fetch_archive(item: Item, path: Path, link: str) -> Downloaded:
    """Download an archive, and test it: a zip without damage, of the site; an object of ICOS with its checksum.

    Parameters
    ----------
    item : Item
    path : Path
        File to write.
    link : str
        Where it is; the item's key is the same address without credentials.

    Raises
    ------
    FetchError
        If it is not; the file is removed.
    """
    url, headers = address(link)
    size = item.size if item.exact else None
    options: dict[str, Any] = {"headers": headers, "size": size, "checksum": item.checksum}
    # The list of members is at the end of a zip, so that a cut one is recognised.
    result = download(url, path, **options, expect=_ZIP, without_length=True, explain=_licence)
    identifier = icos_identifier(link)
    try:
        if identifier and not _is_object(result.sha256, identifier):
            raise FetchError(f"{item.name}: its checksum is not the one in its PID {identifier}; it was removed.")
        check_zip(path, str(item.about.get("site", "")))
    except FetchError:
        path.unlink(missing_ok=True)
        raise
    return result


def _licence(response: requests.Response, body: bytes) -> FetchError | None:
    """Return the error of ICOS for a licence that is not accepted, in the user's words."""
    page = "licence" in urlsplit(response.url).path or b"licence_accept" in body
    if not page or host_of(response.url) == "":
        return None
    where = urlsplit(response.url)
    return LicenceError(
        f"{where.scheme}://{where.netloc}{where.path}: ICOS asks to accept its licence; open this address in a "
        "browser, accept it, and run the same command again."
    )


def _is_object(sha256: str, identifier: str) -> bool:
    """Return whether a file is a data object of ICOS, whose identifier is the first 18 bytes of its SHA-256."""
    try:
        return bytes.fromhex(sha256)[:18] == base64.urlsafe_b64decode(identifier)
    except (binascii.Error, ValueError):
        return False


def check_zip(path: Path, site: str) -> None:
    """Check that a file is a zip whose members are undamaged (their CRC), with a table of a site.

    Parameters
    ----------
    path : Path
    site : str
        Site that a member's name must contain; "" for any.

    Raises
    ------
    FetchError
        If it is not.
    """
    problem = ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        problem = f"expected a zip archive, found a file that cannot be read as one ({error})"
    else:
        if damaged:
            problem = f"its member {damaged} is damaged"
        elif not any(site in name and name.lower().endswith((".csv", ".zip")) for name in names):
            problem = f"expected tables of {site} in it, found {', '.join(names[:3]) or 'nothing'}"
    if problem:
        raise FetchError(f"{path.name}: {problem}; it was removed. Run the same command again.")


def log_download(services: Services, items: Sequence[Item], user: Mapping[str, str]) -> None:
    """Report downloads to AmeriFlux, as the Shuttle's client does; a failure is not the user's concern.

    Parameters
    ----------
    services : Services
    items : sequence of Item
        Archives of AmeriFlux that will be downloaded.
    user : mapping
        ``user_name`` and ``user_email``; may be empty.
    """
    if not items:
        return
    body = {"user_id": "fluxnetshuttle", "zip_filenames": [item.name for item in items], **user}
    try:
        url = f"{services.ameriflux}/v2/log_shuttle_data_request"
        request_text(url, body=body, hide=list(user.values()), tries=1)
    except FetchError as error:
        _log.info("AmeriFlux did not record the download: %s", error)

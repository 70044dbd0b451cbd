"""Fetch the published CarbonSense from Zenodo, with pooch's list of a record's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxcube.errors import FetchError, missing_package, unknown
from fluxcube.fetch.addresses import public
from fluxcube.fetch.answers import MALFORMED, whole_number
from fluxcube.fetch.items import Item, Licence, Plan, fault_of_name
from fluxcube.fetch.run import make_plan
from fluxcube.fetch.sending import reason
from fluxcube.fetch.towers_hubs import Services
from fluxcube.sources.towers.networks import network_of_file


@dataclass(frozen=True)
class Release:
    """A published version of CarbonSense: its record at Zenodo, and its citation."""

    record: int
    citation: str


#: Releases by name.
RELEASES = {
    "v1": Release(
        11403428,
        "Fortier, Richter, Sonnentag, Pal (2025): CarbonSense: a multimodal dataset and baseline for carbon flux "
        "modelling, ICLR 2025.",
    ),
    "v2": Release(15586300, "Fortier et al.: CarbonSense V2, Zenodo record 15586300."),
}
#: Bytes per second assumed for the time of a plan.
_RATE = 5e6


def plan_zenodo(
    folder: Path, services: Services, release: str = "v1", *, verify: bool = False
) -> tuple[Plan, dict[str, str]]:
    """Return the plan to fetch a release of CarbonSense, and the URLs of its files by their key.

    Raises
    ------
    UnknownNameError
        If there is no such release.
    FetchError
        If the record does not list a file that fluxcube reads.
    """
    if release not in RELEASES:
        raise unknown("release of CarbonSense", release, RELEASES)
    record = RELEASES[release].record
    files, urls = _files(services, record), {}
    items, others = [], []
    for row in files:
        name, url = str(row["key"]), str(row["links"]["self"])
        if fault_of_name(name) or network_of_file(name) is None:
            others.append(name)
            continue
        items.append(_item(row, record))
        urls[items[-1].key] = url
    if not items:
        found = ", ".join(others[:10]) or "no file"
        raise FetchError(f"Zenodo record {record}: expected a file of CarbonSense {release}, found {found}.")
    notes = [f"files of the record that fluxcube does not read: {', '.join(others)}"] if others else []
    licence = _licence(RELEASES[release])
    seconds = sum(item.size or 0 for item in items) / _RATE
    source = f"Zenodo: CarbonSense {release}"
    return make_plan(source, folder, items, licence=licence, notes=notes, seconds=seconds, verify=verify), urls


def _licence(release: Release) -> Licence:
    return Licence(
        name="CC-BY-4.0",
        url=f"https://zenodo.org/records/{release.record}",
        text="Cite the data set, and each tower network whose data it contains.",
        citation=release.citation,
        doi=f"10.5281/zenodo.{release.record}",
    )


def _item(row: Mapping[str, Any], record: int) -> Item:
    """Return the item of a file in a record; a checksum is published as ``md5:...``."""
    algorithm, _, digest = str(row.get("checksum") or "").partition(":")
    size = whole_number(row.get("size"))
    return Item(
        str(row["key"]),
        f"https://doi.org/10.5281/zenodo.{record}/{row['key']}",
        size=size,
        exact=size is not None,
        about={"record": record},
        checksum=(algorithm, digest) if algorithm in ("md5", "sha256") and digest else None,
    )


def _files(services: Services, record: int) -> list[Mapping[str, Any]]:
    """Return the files of a record, as pooch reads Zenodo's interface."""
    try:
        import requests
        from pooch.downloaders import ZenodoRepository
    except ImportError:
        raise missing_package("pooch", "fetch-towers", "fetching from Zenodo") from None
    repository = ZenodoRepository(f"10.5281/zenodo.{record}", f"{services.zenodo}/records/{record}", timeout=60)
    repository.base_api_url = f"{services.zenodo}/api/records"
    problem = ""
    try:
        answer = repository.api_response
        files = answer.get("files") if isinstance(answer, dict) else None
    except requests.RequestException as error:
        files, problem = None, f" ({reason(error)})"
    except MALFORMED as error:
        files, problem = None, f" (an answer in another form: {type(error).__name__})"
    good = [row for row in files if _is_file(row)] if isinstance(files, list) else []
    if not good:
        page = public(f"{services.zenodo}/records/{record}")
        raise FetchError(f"{page}: Zenodo did not list the files of the record{problem}; try again later.")
    return good


def _is_file(row: object) -> bool:
    links = row.get("links") if isinstance(row, dict) else None
    return isinstance(row, dict) and isinstance(row.get("key"), str) and isinstance(links, dict) and "self" in links

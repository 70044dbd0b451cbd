"""Order FLUXNET archives from AmeriFlux's data API, in the name of the user's account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxcube.errors import CredentialsError, FetchError
from fluxcube.fetch.answers import whole_number
from fluxcube.fetch.api import request_json
from fluxcube.fetch.items import Item, Licence, Plan, request_key
from fluxcube.fetch.ledger import Ledger
from fluxcube.fetch.run import make_plan
from fluxcube.fetch.towers_catalogue import Choice, TowerArchive, select
from fluxcube.fetch.towers_hubs import Services, ameriflux_facts, ameriflux_sites, name_of, rows_of
from fluxcube.sources.towers.networks import parse_name

LICENCE = Licence(
    name="CC-BY-4.0",
    url="https://ameriflux.lbl.gov/data/data-policy/",
    text=(
        "AmeriFlux data policy for CC-BY-4.0 data: cite the DOI of each site's data product, acknowledge AmeriFlux, "
        "and inform the site's team of a publication. Ordering states the intended use: research."
    ),
    citation="AmeriFlux FLUXNET-1F, one citation for each site; processing: Pastorello et al. (2020).",
    doi="10.1038/s41597-020-0534-3",
)
#: Environment variables of the account.
USER, EMAIL = "AMF_USER", "AMF_EMAIL"
ACCOUNT = "https://ameriflux.lbl.gov/data/download-data/"


def account(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the user name and email of the account (CredentialsError if a variable is not set)."""
    user, email = environment.get(USER, "").strip(), environment.get(EMAIL, "").strip()
    if user and email:
        return {"user_id": user, "user_email": email}
    absent = " and ".join(name for name, value in ((USER, user), (EMAIL, email)) if not value)
    raise CredentialsError(
        f"AmeriFlux requires a free account: register at {ACCOUNT}, then set {absent} in the environment "
        f"(export {USER}=<user name> {EMAIL}=<registered email>). With --source shuttle the archives need no account."
    )


def plan_ameriflux(
    folder: Path, choice: Choice, services: Services, *, verify: bool = False
) -> tuple[Plan, list[TowerArchive]]:
    """Return the plan to order archives, and what AmeriFlux lists of them; nothing is ordered.

    Names and sizes of archives are not known before they are ordered, except of those that are there.
    """
    rows = ameriflux_sites(services)
    every = [
        TowerArchive(name=f"AMF_{site}_FLUXNET_{facts['first_year']}-{facts['last_year']}.zip", url="", **facts)
        for site, facts in ((site, ameriflux_facts(site, row)) for site, row in rows.items())
        if "first_year" in facts
    ]
    archives, notes = select(every, choice, "AmeriFlux's FLUXNET product")
    notes.append("AmeriFlux reports names and sizes when the archives are ordered")
    ledger = Ledger(folder)
    items = [ledger_item(ledger, order_key(archive)) or _item(archive) for archive in archives]
    orders = sum(not ledger.done(item) for item in items)
    cost = f"one order of {orders} archives in the name of {USER}" if orders else None
    return make_plan("AmeriFlux", folder, items, licence=LICENCE, notes=notes, cost=cost, verify=verify), archives


def order_key(archive: TowerArchive) -> str:
    """Return the key of an order: new years of a site are a new order."""
    years = [archive.first_year, archive.last_year]
    return request_key({"product": "FLUXNET", "variant": "FULLSET", "site": archive.site, "years": years})


def ledger_item(ledger: Ledger, key: str) -> Item | None:
    """Return the item that a ledger has recorded for a key."""
    entry = ledger.entry_of_key(key)
    if entry is None:
        return None
    return Item(entry["name"], key, size=entry["size"], exact=True, about=entry.get("about") or {})


def _item(archive: TowerArchive) -> Item:
    return Item(archive.name, order_key(archive), about=_about(archive))


def _about(archive: TowerArchive) -> dict[str, Any]:
    years = [archive.first_year, archive.last_year]
    return {"site": archive.site, "hub": "AmeriFlux", "years": years, "igbp": archive.igbp}


def order(plan: Plan, services: Services, user: Mapping[str, str]) -> tuple[Plan, dict[str, str]]:
    """Order the missing archives; return the plan with their names, sizes and checksums, and their URLs by key.

    Parameters
    ----------
    plan : Plan
        Of `plan_ameriflux`.
    services : Services
    user : mapping
        From `account`.

    Raises
    ------
    CredentialsError, FetchError
        If AmeriFlux does not accept the order.
    """
    sites = {str(item.about["site"]): item for item in plan.missing}
    body = {
        **user,
        "data_product": "FLUXNET",
        "data_variant": "FULLSET",
        "data_policy": "CCBY4.0",
        "site_ids": sorted(sites),
        "intended_use": "other_research",
        "description": "ordered with fluxcube, for carbon flux models",
    }
    answer = request_json(f"{services.ameriflux}/v2/data_download", body=body, hide=list(user.values()))
    items, urls = {item.key: item for item in plan.have}, {}
    citations = _citations(services, sorted(sites))
    for row in rows_of(answer, "data_urls"):
        ordered = _ordered(row, sites, citations)
        if ordered is not None:
            items[ordered.key], urls[ordered.key] = ordered, str(row["url"])
    absent = sorted(site for site, item in sites.items() if item.key not in urls)
    if not urls:
        raise FetchError(
            f"AmeriFlux accepted the order of {', '.join(sorted(sites)[:10])} and sent no archive; see {ACCOUNT}"
        )
    notes = (*plan.notes, f"AmeriFlux sent no archive of {', '.join(absent)}") if absent else plan.notes
    return replace(plan, items=tuple(items.values()), notes=notes), urls


def _ordered(row: Mapping[str, Any], sites: Mapping[str, Item], citations: Mapping[str, str]) -> Item | None:
    """Return the item of one ordered archive; None if it is not one of the sites' archives."""
    name = name_of(str(row.get("url") or ""))
    parsed = parse_name(name)
    item = sites.get(parsed.site) if parsed and name.lower().endswith(".zip") else None
    if item is None:
        return None
    size, checksum = whole_number(row.get("download_size")), str(row.get("download_checksum") or "").lower()
    md5 = ("md5", checksum) if re.fullmatch("[0-9a-f]{32}", checksum) else None
    about = {**item.about, "citation": citations.get(str(item.about["site"]), "")}
    return Item(name, item.key, size=size, exact=size is not None, about=about, checksum=md5)


def _citations(services: Services, sites: list[str]) -> dict[str, str]:
    try:
        answer = request_json(f"{services.ameriflux}/v2/citations/FLUXNET", body={"site_ids": sites})
    except FetchError:
        return {}
    return {str(row.get("site_id")): str(row.get("citation") or "") for row in rows_of(answer, "values")}

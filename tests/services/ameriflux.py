"""AmeriFlux's data API: lists of sites, files and citations, the Shuttle's log, and orders in the name of an account.

The forms of requests and answers are those that the Shuttle's client and users of the API send and read.
"""

from __future__ import annotations

import hashlib

from services.web import Answer, Request, Service

#: What an order requires; any other field but these and `_OPTIONAL` is refused.
_REQUIRED = {"user_id", "user_email", "data_policy", "data_product"}
_OPTIONAL = {"data_variant", "site_ids", "intended_use", "description"}


class AmeriFlux(Service):
    """AmeriFlux, with archives by file name; `accounts` are user names and emails that may order."""

    def __init__(self, accounts: dict[str, str] | None = None) -> None:
        self.sites: dict[str, dict] = {}
        self.archives: dict[str, tuple[str, bytes]] = {}
        self.accounts = accounts or {}
        super().__init__()

    def add(self, site: str, name: str, content: bytes, **facts: object) -> None:
        """Add an archive; facts: igbp, latitude, longitude, years, network, title."""
        years = facts.get("years", (2010, 2011))
        self.sites[site] = {
            "site_id": site,
            "site_name": facts.get("title", f"Site {site}, of AmeriFlux"),
            "grp_location": {"location_lat": str(facts["latitude"]), "location_long": str(facts["longitude"])},
            "grp_igbp": {"igbp": facts["igbp"]},
            "grp_network": list(facts.get("network", ["AmeriFlux"])),
            "grp_publish_fluxnet": list(range(years[0], years[1] + 1)),
            "grp_team_member": [{"team_member_name": "A. Person", "team_member_email": "person@example.org"}],
            "doi": {"FLUXNET": f"10.17190/AMF/{site}"},
        }
        self.archives[site] = name, content
        self.files[f"/.ameriflux_downloads/FLUXNET/{name}"] = content

    def routes(self) -> None:
        self.route("GET", "/api/v2/site_info_display/AmeriFlux", self.list_sites)
        self.route("POST", "/api/v2/amf_shuttle_data_files_and_manifest", self.list_files)
        self.route("POST", "/api/v2/citations/FLUXNET", self.list_citations)
        self.route("POST", "/api/v2/log_shuttle_data_request", lambda request: Answer({"status": "ok"}))
        self.route("POST", "/api/v2/data_download", self.order)

    def list_sites(self, request: Request) -> Answer:
        unpublished = {"site_id": "US-Non", "site_name": "None", "grp_publish_fluxnet": []}
        return Answer({"values": [*self.sites.values(), unpublished]})

    def list_files(self, request: Request) -> Answer:
        if set(request.json()) != {"user_id", "data_product", "data_variant", "site_ids"}:
            return Answer({"detail": "unexpected fields"}, 422)
        return Answer({"data_urls": self.urls(request.json()["site_ids"], "fluxnetshuttle"), "manifest": {}})

    def list_citations(self, request: Request) -> Answer:
        cited = [{"site_id": s, "citation": f"Person, A. (2026), {s}, AmeriFlux"} for s in request.json()["site_ids"]]
        return Answer({"values": cited})

    def order(self, request: Request) -> Answer:
        body = request.json()
        if absent := _REQUIRED - set(body) or set(body) - _REQUIRED - _OPTIONAL:
            return Answer({"detail": [{"loc": ["body", name], "msg": "field"} for name in sorted(absent)]}, 422)
        if self.accounts.get(body["user_id"]) != body["user_email"]:
            return Answer({"detail": f"unknown user {body['user_id']} {body['user_email']}"}, 401)
        urls = self.urls(body.get("site_ids", []), body["user_id"]) if body.get("data_variant") == "FULLSET" else []
        for row in urls:
            content = self.archives[row["site_id"]][1]
            row |= {"download_size": len(content), "download_checksum": hashlib.md5(content).hexdigest()}
        return Answer({"data_urls": urls, "pi_contact_emails": ["person@example.org"]})

    def urls(self, sites: list[str], user: str) -> list[dict]:
        folder = f"{self.url}/.ameriflux_downloads/FLUXNET"
        known = [site for site in sites if site in self.archives]
        return [{"site_id": site, "url": f"{folder}/{self.archives[site][0]}?={user}"} for site in known]

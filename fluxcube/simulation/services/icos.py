"""The ICOS Carbon Portal: SPARQL metadata, data objects, and the licence that a cookie accepts."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from fluxcube.simulation.services.web import Answer, Request, Service

_META = "http://meta.icos-cp.eu"


def identifier(content: bytes) -> str:
    """The identifier of a data object: the first 18 bytes of its SHA-256, in base64 for URLs."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()[:18]).decode()


class Icos(Service):
    """The Carbon Portal (metadata and data on one host), with data objects by identifier."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.bindings: list[tuple[str, dict]] = []
        super().__init__()

    def add(self, site: str, name: str, content: bytes, spec: str = "miscFluxnetArchiveProduct", **facts: Any) -> str:
        """Add a data object; facts: igbp, latitude, longitude, years."""
        key, years = identifier(content), facts.get("years", (2010, 2011))
        self.objects[key] = name, content
        row = {
            "dobj": f"https://meta.icos-cp.eu/objects/{key}",
            "spec": f"{_META}/resources/cpmeta/{spec}",
            "station": f"{_META}/resources/stations/ES_{site}",
            "stationName": f"Station {site}",
            "fileName": name,
            "size": str(len(content)),
            "timeStart": f"{years[0]}-01-01T00:00:00Z",
            "timeEnd": f"{years[1]}-12-31T23:30:00Z",
            "lat": str(facts["latitude"]),
            "lon": str(facts["longitude"]),
            "ecosystemType": f"{_META}/ontologies/cpmeta/igbp_{facts['igbp']}",
            "citationString": f'Person, B. (2026). "{site}", ICOS, https://hdl.handle.net/11676/{key}',
        }
        self.bindings.append((spec, {name: {"type": "literal", "value": value} for name, value in row.items()}))
        return key

    def routes(self) -> None:
        """Add the routes of the service."""
        self.route("POST", "/sparql", self._sparql)
        self.route("GET", "/objects/(.{24})", self._object)
        self.route("GET", "/licence_accept", self._accept)
        self.route(
            "GET", "/licence", lambda request: Answer("<!DOCTYPE html>I accept the ICOS licence", type="text/html")
        )

    def _sparql(self, request: Request) -> Answer:
        specs = set(re.findall(r"cpmeta/(\w+Product)>", request.form()["query"]))
        rows = [row for spec, row in self.bindings if spec in specs]
        return Answer({"head": {"vars": []}, "results": {"bindings": rows}}, type="application/sparql-results+json")

    def _object(self, request: Request, key: str) -> Answer:
        if f"CpLicenseAcceptedFor={key}" not in request.headers.get("cookie", ""):
            return Answer(status=302, headers={"Location": f"/licence?ids=%5B%22{key}%22%5D"})
        return Answer(self.objects[key][1], file=True)

    def _accept(self, request: Request) -> Answer:
        key = request.query["ids"][0].strip('[]"')
        cookie = f"CpLicenseAcceptedFor={key}; Path=/objects/{key}"
        return Answer(status=302, headers={"Set-Cookie": cookie, "Location": f"/objects/{key}"})

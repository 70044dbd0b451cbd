"""Zenodo's interface of records: files with sizes and MD5 checksums, and their content."""

from __future__ import annotations

import hashlib

from services.web import Answer, Request, Service


class Zenodo(Service):
    """Zenodo, with files by record."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, bytes]] = {}
        super().__init__()

    def routes(self) -> None:
        self.route("GET", r"/api/records/(\d+)", self.record)
        self.route("GET", r"/api/records/(\d+)/files/(.+)/content", self.content)

    def record(self, request: Request, number: str) -> Answer:
        if number not in self.records:
            return Answer({"status": 404, "message": "The persistent identifier does not exist."}, 404)
        files = [self.row(number, key, content) for key, content in self.records[number].items()]
        return Answer({"id": int(number), "doi": f"10.5281/zenodo.{number}", "files": files})

    def row(self, number: str, key: str, content: bytes) -> dict:
        link = f"{self.url}/api/records/{number}/files/{key}/content"
        checksum = f"md5:{hashlib.md5(content).hexdigest()}"
        return {"id": key, "key": key, "size": len(content), "checksum": checksum, "links": {"self": link}}

    def content(self, request: Request, number: str, key: str) -> Answer:
        return Answer(self.records[number][key], file=True)

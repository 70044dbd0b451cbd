"""NASA Earthdata for the real client: CMR's search of granules, Earthdata Login, and tiles behind it."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from modis_files import daily, flags, grid, nadir, ocean, write_hdf
from packages import optional

from fluxcube.sources.modis.grid import TILE
from fluxcube.sources.modis.names import parse_name
from services.modis_scene import Scene
from services.web import Answer, Request, Service

optional("earthaccess")
optional("pyhdf")
USER, PASSWORD, TOKEN = "someone", "a-password-of-nobody", "a-token-of-nobody"
_BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
Part = tuple[int, int, int, int]


class Earthdata(Service):
    """Serves tiles of a scene; each is the part (row, col, height, width) of it, so that the files are small."""

    def __init__(self, scene: Scene, parts: list[Part], products: tuple[str, ...] = ("MCD43A4", "MCD43A2")) -> None:
        self.scene, self.parts, self.products = scene, parts, products
        self.editions: tuple[str, ...] = ("2019194040325",)
        self.eula = ""
        super().__init__()

    def routes(self) -> None:
        self.route("GET", r"/search/granules\.umm_json", self.search)
        self.route("POST", r"/api/users/find_or_create_token", self.token)
        self.route("GET", r"/protected/(.+\.hdf)", self.tile)
        self.route("GET", r"/oauth/authorize", lambda request: Answer("<html>Log in</html>", type="text/html"))

    def token(self, request: Request) -> Answer:
        if request.headers.get("authorization") != _BASIC:
            return Answer({"error": "invalid_credentials", "error_description": "Invalid user credentials"}, 401)
        return Answer({"access_token": TOKEN, "token_type": "Bearer", "expiration_date": "12/31/2026"})

    def search(self, request: Request) -> Answer:
        query = {name.removesuffix("[]"): values[-1] for name, values in request.query.items()}
        assert query["version"] == "061" and query["options[readable_granule_name][pattern]"] == "true"
        names = [name for name in self.names() if name.startswith(query["short_name"] + ".")]
        names = [name for name in names if fnmatchcase(name, query["readable_granule_name"])]
        return Answer({"items": [self.granule(name) for name in names]}, headers={"CMR-Hits": str(len(names))})

    def names(self) -> list[str]:
        out = []
        for product in self.products:
            for row, col, *_ in self.parts:
                tile = f"h{col // TILE:02d}v{row // TILE:02d}"
                for day in self.scene.images(product, "2000-01-01", "2030-01-01"):
                    number = int((day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)) + 1
                    start = f"{product}.A{str(day)[:4]}{number:03d}.{tile}.061"
                    out += [f"{start}.{edition}.hdf" for edition in self.editions]
        return out

    def granule(self, name: str) -> dict:
        body = self.content(name)
        archived = {
            "Name": name,
            "SizeInBytes": len(body),
            "Checksum": {"Value": hashlib.md5(body).hexdigest(), "Algorithm": "MD5"},
        }
        urls = [
            {"URL": f"{self.url}/protected/{name}", "Type": "GET DATA"},
            {"URL": f"s3://lp-prod-protected/{name}", "Type": "GET DATA VIA DIRECT ACCESS"},
            {"URL": f"{self.url}/browse/{name}.jpg", "Type": "GET RELATED VISUALIZATION"},
        ]
        umm = {"GranuleUR": name.removesuffix(".hdf"), "RelatedUrls": urls}
        umm["CollectionReference"] = {"ShortName": name.partition(".")[0], "Version": "061"}
        umm["DataGranule"] = {"ArchiveAndDistributionInformation": [archived]}
        return {"meta": {"concept-id": "G1-LPCLOUD", "provider-id": "LPCLOUD"}, "umm": umm}

    def tile(self, request: Request, name: str) -> Answer:
        # Archive and login are one host here, so that requests sends the password of .netrc to it.
        if request.headers.get("authorization") not in (f"Bearer {TOKEN}", _BASIC):
            return Answer(status=302, headers={"Location": f"{self.url}/oauth/authorize?client_id=x"})
        if self.eula:
            answer = {"error_description": "EULA Acceptance Failure", "resolution_url": self.eula}
            return Answer(answer, 403)
        return Answer(self.content(name), type="application/x-hdf", file=True)

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def content(self, name: str) -> bytes:
        """Bytes of an HDF4 file; an older edition has other values."""
        parsed = parse_name(Path(name))
        assert parsed is not None and parsed.tile is not None
        (part,) = [p for p in self.parts if (p[1] // TILE, p[0] // TILE) == parsed.tile]
        grids = _grids(self.scene, parsed.product, parsed.day, part)
        if parsed.production != max(self.editions):
            for g in grids:
                g["fields"] = {layer: (v * 0, attributes) for layer, (v, attributes) in g["fields"].items()}
        with tempfile.TemporaryDirectory() as folder:
            return write_hdf(Path(folder) / name, grids).read_bytes()


def _grids(scene: Scene, product: str, day: np.datetime64, part: Part) -> list[dict]:
    corner, values = part[:2], scene.stored(product, day, *part)
    if product == "MCD43A4":
        return [nadir(values, corner)]
    if product == "MCD43A2":
        return [flags(values, corner)]
    if product == "MOD09GA":
        return daily(values, scene.stored("MOD09GA_STATE", day, *part)[0, ::2, ::2], corner)
    if product == "MODOCGA":
        bands = np.full((9, part[2] // 2, part[3] // 2), -28672, "int16")
        bands[3:5] = values[:, ::2, ::2]
        return ocean(bands, corner)
    assert re.fullmatch("MCD12Q1", product)
    return [grid("MCD12Q1", corner, {"LC_Type1": (values[0], {"_FillValue": 255})})]

"""The Planetary Computer for the real client: a STAC API, tokens for blobs, and cloud-optimised GeoTIFFs."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta

import numpy as np
from packages import optional

from fluxcube.sources.modis.grid import COLS, PIXEL, PRODUCTS, ROWS, SPHERE, TILE
from services.modis_scene import Scene
from services.web import Answer, Request, Service

optional("rasterio")
optional("pystac_client")
SIGNATURE = "a-signature-of-nobody"
_CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0-rc.1/item-search#query",
]
Part = tuple[int, int, int, int]


class Planetary(Service):
    """Serves MCD43A4 of a scene; each file is the part (row, col, height, width) of its tile."""

    def __init__(self, scene: Scene, parts: list[Part], page: int = 2) -> None:
        self.scene, self.parts, self.page = scene, parts, page
        self.issued = 0
        self.accepted: set[int] = set()
        self.lifetime = timedelta(hours=1)
        super().__init__()

    def routes(self) -> None:
        self.route("GET", r"/api/stac/v1/?", self.root)
        self.route("POST", r"/api/stac/v1/search", self.search)
        self.route("GET", r"/api/sas/v1/token/[^/]+/modis-061-cogs", self.token)
        self.route("GET", r"/modis-061-cogs/(.+)_(Nadir_Reflectance_Band\d)\.tif", self.blob)

    def root(self, request: Request) -> Answer:
        here = f"{self.url}/api/stac/v1"
        links = [
            {"rel": "self", "href": here, "type": "application/json"},
            {"rel": "root", "href": here, "type": "application/json"},
            {"rel": "search", "href": f"{here}/search", "type": "application/geo+json", "method": "POST"},
        ]
        about = {"id": "microsoft-pc", "description": "simulated", "stac_version": "1.0.0", "type": "Catalog"}
        return Answer({**about, "conformsTo": _CONFORMS, "links": links})

    def search(self, request: Request) -> Answer:
        body = request.json()
        assert body["collections"] == ["modis-43A4-061"]
        tile = tuple(body["query"][f"modis:{axis}-tile"]["eq"] for axis in ("horizontal", "vertical"))
        first, last = (np.datetime64(text[:10], "D") for text in body["datetime"].split("/"))
        # An item has the period of 16 days that its day is the ninth of, so that neighbours of a year are found, too.
        days = self.scene.images("MCD43A4", str(first - 8), str(last + 9))
        found = [(day, part) for day in days for part in self.parts if (part[1] // TILE, part[0] // TILE) == tile]
        start = int(body.get("token", 0))
        links = []
        if start + self.page < len(found):
            more = {**body, "token": start + self.page}
            links = [{"rel": "next", "method": "POST", "href": f"{self.url}/api/stac/v1/search", "body": more}]
        items = [self.item(day, tile) for day, _ in found[start : start + self.page]]
        return Answer({"type": "FeatureCollection", "features": items, "links": links}, type="application/geo+json")

    def item(self, day: np.datetime64, tile: tuple[int, int]) -> dict:
        number = int((day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)) + 1
        name = f"MCD43A4.A{str(day)[:4]}{number:03d}.h{tile[0]:02d}v{tile[1]:02d}.061.2021194040325"
        assets = {
            layer: {"href": f"{self.url}/modis-061-cogs/{name}_{layer}.tif", "type": "image/tiff"}
            for layer in PRODUCTS["MCD43A4"].layers
        }
        properties = {"start_datetime": f"{day - 8}T00:00:00Z", "end_datetime": f"{day + 7}T23:59:59Z"}
        properties |= {"datetime": None, "modis:horizontal-tile": tile[0], "modis:vertical-tile": tile[1]}
        about = {"type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "modis-43A4-061", "links": []}
        return {**about, "geometry": None, "properties": properties, "assets": assets}

    def token(self, request: Request) -> Answer:
        self.issued += 1
        self.accepted.add(self.issued)
        expiry = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Answer({"msft:expiry": expiry, "token": f"se={expiry}&sp=rl&sv=2021&sr=c&sig={SIGNATURE}{self.issued}"})

    def blob(self, request: Request, name: str, layer: str) -> Answer:
        signature = request.query.get("sig", [""])[0]
        if signature not in {f"{SIGNATURE}{number}" for number in self.accepted}:
            return Answer("<Error>AuthenticationFailed</Error>", 403, type="application/xml")
        return Answer(self.content(name, layer), type="image/tiff", file=True)

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def content(self, name: str, layer: str) -> bytes:
        import rasterio.io
        from rasterio.transform import from_origin

        _, date, tile, *_ = name.split(".")
        day = np.datetime64(f"{date[1:5]}-01-01") + int(date[5:]) - 1
        (part,) = [p for p in self.parts if f"h{p[1] // TILE:02d}v{p[0] // TILE:02d}" == tile]
        values, missing = self.scene.layer(layer, day, *part)
        x, y = (part[1] - COLS / 2) * PIXEL, (ROWS / 2 - part[0]) * PIXEL
        crs = f"+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={SPHERE} +units=m +no_defs"
        form = {"driver": "GTiff", "dtype": "int16", "crs": crs, "nodata": 32767, "count": 1, "tiled": True}
        with rasterio.io.MemoryFile() as memory:
            shape = {"height": part[2], "width": part[3], "transform": from_origin(x, y, PIXEL, PIXEL)}
            with memory.open(**form, **shape, blockxsize=128, blockysize=128, compress="deflate", zlevel=1) as file:
                file.write(np.where(missing, 32767, values).astype("int16"), 1)
            return memory.read()

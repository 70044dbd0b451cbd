"""AppEEARS: login, tasks that wait in a queue, and bundles of GeoTIFFs or tables of a scene."""

from __future__ import annotations

import base64
import hashlib

import numpy as np
from packages import optional

from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS, SPHERE, sinusoidal_pixel, sinusoidal_position
from services.modis_scene import FILLS, PART_OF, Scene
from services.web import Answer, Request, Service

optional("rasterio")
USER, PASSWORD, TOKEN = "someone", "a-password-of-nobody", "a-token-of-nobody"


class AppEEARS(Service):
    """A task is done after `polls` questions; a file is redirected to a signed address without credentials."""

    def __init__(self, scene: Scene, polls: int = 2) -> None:
        self.scene, self.polls = scene, polls
        self.tasks: dict[str, dict] = {}
        self.bundles: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.tokens = 1
        self.outcome, self.eula = "done", False
        super().__init__()

    def routes(self) -> None:
        self.route("POST", r"/login", self.login)
        self.route("POST", r"/task", self.submit)
        self.route("GET", r"/task/([\w-]+)", self.state)
        self.route("GET", r"/bundle/([\w-]+)", self.bundle)
        self.route("GET", r"/bundle/([\w-]+)/([\w-]+)", self.file)
        self.route("GET", r"/storage/([\w-]+)/([\w-]+)", self.storage)

    def login(self, request: Request) -> Answer:
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return Answer({"message": "Invalid username or password"}, 401)
        return Answer({"token_type": "Bearer", "token": f"{TOKEN}{self.tokens}", "expiration": "2027-01-01T00:00:00Z"})

    def allowed(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}{self.tokens}"

    def submit(self, request: Request) -> Answer:
        if not self.allowed(request):
            return Answer({"message": "The token is invalid or has expired."}, 403)
        if self.eula:
            return Answer({"message": "EULA not accepted"}, 403)
        task_id = f"task-{len(self.tasks) + 1}"
        self.tasks[task_id] = {**request.json(), "asked": 0}
        return Answer({"task_id": task_id, "status": "pending"}, 202)

    def state(self, request: Request, task_id: str) -> Answer:
        if not self.allowed(request):
            return Answer({"message": "The token is invalid or has expired."}, 403)
        if task_id not in self.tasks:
            return Answer({"message": "Task not found"}, 404)
        task = self.tasks[task_id]
        task["asked"] += 1
        status = self.outcome if task["asked"] > self.polls else "queued" if task["asked"] == 1 else "processing"
        return Answer({"task_id": task_id, "status": status, "error": "no data" if status == "error" else None})

    def files_of(self, task_id: str) -> dict[str, tuple[str, bytes]]:
        if task_id not in self.bundles:
            task = self.tasks[task_id]
            files = self.area(task["params"]) if task["task_type"] == "area" else self.points(task)
            files["readme.txt"] = b"about"
            self.bundles[task_id] = {f"file-{n}": (name, body) for n, (name, body) in enumerate(files.items())}
        return self.bundles[task_id]

    def bundle(self, request: Request, task_id: str) -> Answer:
        if not self.allowed(request):
            return Answer({"message": "The token is invalid or has expired."}, 403)
        files = [
            {
                "sha256": hashlib.sha256(body).hexdigest(),
                "file_id": file_id,
                "file_name": name,
                "file_size": len(body),
                "file_type": name.rpartition(".")[2],
            }
            for file_id, (name, body) in self.files_of(task_id).items()
        ]
        return Answer({"files": files, "task_id": task_id, "bundle_version": "1.0"})

    def file(self, request: Request, task_id: str, file_id: str) -> Answer:
        if not self.allowed(request):
            return Answer({"message": "The token is invalid or has expired."}, 403)
        if file_id not in self.bundles.get(task_id, {}):
            return Answer({"message": "not found"}, 404)
        here = self.url.replace("127.0.0.1", "localhost")  # another origin, to which no token may be sent
        return Answer(status=302, headers={"Location": f"{here}/storage/{task_id}/{file_id}?X-Amz-Signature=signature"})

    def storage(self, request: Request, task_id: str, file_id: str) -> Answer:
        assert "authorization" not in request.headers
        return Answer(self.bundles[task_id][file_id][1], file=True)

    def days(self, params: dict, product: str) -> list[np.datetime64]:
        (dates,) = params["dates"]
        month, day, year = dates["startDate"].split("-")
        last = dates["endDate"].split("-")
        stop = np.datetime64(f"{last[2]}-{last[0]}-{last[1]}") + 1
        return self.scene.images(product, f"{year}-{month}-{day}", str(stop))

    def area(self, params: dict) -> dict[str, bytes]:
        """One GeoTIFF a layer, day and polygon; pixels whose centre is outside of the polygon are masked."""
        assert params["output"] == {"format": {"type": "geotiff"}, "projection": "native"}
        out = {}
        for number, feature in enumerate(params["geo"]["features"], 1):
            lon, lat = np.array(feature["geometry"]["coordinates"][0]).T
            y, x = sinusoidal_position(lat, lon)
            box = int(y.min()), int(x.min()), int(np.ceil(y.max())), int(np.ceil(x.max()))
            for entry in params["layers"]:
                product, layer = entry["product"].partition(".")[0], entry["layer"].removesuffix("_1")
                for day in self.days(params, product):
                    name = f"{entry['product']}_{entry['layer']}_doy{_doy(day)}000000_aid{number:04d}.tif"
                    out[f"{entry['product']}_folder/{name}"] = self.tiff(layer, day, box, (y, x))
        return out

    def tiff(self, layer: str, day: np.datetime64, box: tuple, polygon: tuple) -> bytes:
        import rasterio.io
        from rasterio.transform import from_origin

        part = PART_OF[layer]
        factor = 2 if part in ("MOD09GA_STATE", "MODOCGA") else 1
        row, col = (box[0] // factor * factor, box[1] // factor * factor)
        rows = np.arange(row, box[2], factor)[:, None]
        cols = np.arange(col, box[3], factor)[None]
        values, missing = self.scene.pixels(layer, day, rows, cols)
        (y0, y1), (x0, x1) = ((a.min(), a.max()) for a in polygon)
        outside = (
            (rows + factor / 2 < y0) | (rows + factor / 2 > y1) | (cols + factor / 2 < x0) | (cols + factor / 2 > x1)
        )
        corner = (col - COLS / 2) * PIXEL, (ROWS / 2 - row) * PIXEL
        form = {"driver": "GTiff", "count": 1, "nodata": FILLS[part], "height": rows.size, "width": cols.size}
        form["dtype"] = {"MOD09GA_STATE": "uint16", "MCD12Q1": "uint8", "MCD43A2": "uint8"}.get(part, "int16")
        form["crs"] = f"+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={SPHERE} +units=m +no_defs"
        with rasterio.io.MemoryFile() as memory:
            side = PIXEL * factor
            with memory.open(**form, transform=from_origin(*corner, side, side)) as file:
                file.write(np.where(missing | outside, FILLS[part], values).astype(form["dtype"]), 1)
            return memory.read()

    def points(self, task: dict) -> dict[str, bytes]:
        """One table a product, with the names of columns that AppEEARS gives them; reflectance is scaled."""
        params, out = task["params"], {}
        for product in dict.fromkeys(entry["product"] for entry in params["layers"]):
            layers = [entry["layer"] for entry in params["layers"] if entry["product"] == product]
            columns = [f"{product.replace('.', '_')}_{layer}" for layer in layers]
            lines = [",".join(["ID", "Category", "Latitude", "Longitude", "Date", "MODIS_Tile", *columns])]
            for place in params["coordinates"]:
                row, col = sinusoidal_pixel(np.array(place["latitude"]), np.array(place["longitude"]))
                for day in self.days(params, product.partition(".")[0]):
                    cells = [self.cell(layer.removesuffix("_1"), day, row, col) for layer in layers]
                    about = [place["id"], "", str(place["latitude"]), str(place["longitude"]), str(day), "h18v03"]
                    lines.append(",".join([*about, *cells]))
            name = f"{task['task_name']}-{product.replace('.', '-')}-results.csv"
            out[name] = "\n".join(lines).encode() + b"\n"
        return out

    def cell(self, layer: str, day: np.datetime64, row: np.ndarray, col: np.ndarray) -> str:
        value, missing = self.scene.pixels(layer, day, row, col)
        if layer == "state_1km":
            return "8.0"  # clear sky over land
        scaled = PART_OF[layer] in ("MCD43A4", "MOD09GA", "MODOCGA")
        if not scaled:
            return str(FILLS[PART_OF[layer]] if missing else int(value))
        return f"{FILLS[PART_OF[layer]] if missing else int(value) * 1e-4:.4f}"


def _doy(day: np.datetime64) -> str:
    start = day.astype("datetime64[Y]").astype("datetime64[D]")
    return f"{str(day)[:4]}{int((day - start).astype(int)) + 1:03d}"

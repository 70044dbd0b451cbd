"""Earth Engine's REST interface for the real client: it evaluates the expressions that fetch sends."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from packages import optional

from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS
from services.modis_scene import PART_OF, Scene
from services.web import Answer, Request, Service

optional("rasterio")
_SHIPPED = Path(optional("ee").__file__).parent / "tests"
MAX_BYTES, MAX_BANDS = 50_331_648, 1024


@functools.cache
def _shipped(name: str) -> Any:
    return json.loads((_SHIPPED / name).read_text())


class EarthEngine(Service):
    """Serves a scene; limits of requests are those of the real service."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        super().__init__()

    def routes(self) -> None:
        self.route("GET", r"/\$discovery/rest", self.discovery)
        self.route("GET", r"/v1\w*/projects/[^/]+/algorithms", lambda request: Answer(_shipped("algorithms.json")))
        self.route("POST", r"/v1\w*/projects/[^/]+/value:compute", self.value)
        self.route("POST", r"/v1\w*/projects/[^/]+/image:computePixels", self.pixels)

    def discovery(self, request: Request) -> Answer:
        here = {"rootUrl": f"{self.url}/", "baseUrl": f"{self.url}/", "mtlsRootUrl": f"{self.url}/"}
        return Answer({**_shipped("cloud_api_discovery_document.json"), **here})

    def value(self, request: Request) -> Answer:
        return Answer({"result": _plain(Evaluation(self.scene, request.json()["expression"]).result())})

    def pixels(self, request: Request) -> Answer:
        body = request.json()
        bands = Evaluation(self.scene, body["expression"]).result()
        size, place = body["grid"]["dimensions"], body["grid"]["affineTransform"]
        height, width = size["height"], size["width"]
        total = sum(height * width * np.dtype(band["type"]).itemsize for band in bands)
        if total > MAX_BYTES:
            return _error(f"Total request size ({total} bytes) must be less than or equal to {MAX_BYTES} bytes.")
        if len(bands) > MAX_BANDS:
            return _error(f"Number of bands ({len(bands)}) must be less than or equal to {MAX_BANDS}.")
        if body["grid"]["crsCode"] != "SR-ORG:6974" or body["fileFormat"] != "NPY" or not bands:
            return _error("this server has the native grid, NPY and images with bands only")
        col, row = place["translateX"] / PIXEL + COLS / 2, ROWS / 2 - place["translateY"] / PIXEL
        if abs(col - round(col)) > 1e-4 or abs(row - round(row)) > 1e-4 or abs(place["scaleX"] - PIXEL) > 1e-6:
            return _error("the pixels requested are not those of the native grid")
        out = np.zeros((height, width), [(band["name"], band["type"]) for band in bands])
        for band in bands:
            values, missing = self.scene.layer(band["layer"], band["day"], round(row), round(col), height, width)
            out[band["name"]] = np.where(missing, band.get("fill", 0), values).astype(band["type"])
        buffer = io.BytesIO()
        np.save(buffer, out)
        return Answer(buffer.getvalue(), type="application/octet-stream")


def _error(text: str) -> Answer:
    return Answer({"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}}, 400)


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


class Evaluation:
    """Evaluates the graph of an expression, with the few algorithms that fetch uses."""

    def __init__(self, scene: Scene, expression: dict) -> None:
        self.scene, self.values, self.root = scene, expression["values"], expression["result"]

    def result(self) -> Any:
        return self.node(self.values[self.root], {})

    def node(self, node: dict, arguments: dict[str, Any]) -> Any:
        if "constantValue" in node:
            return node["constantValue"]
        if "valueReference" in node:
            return self.node(self.values[node["valueReference"]], arguments)
        if "argumentReference" in node:
            return arguments[node["argumentReference"]]
        if "arrayValue" in node:
            return [self.node(value, arguments) for value in node["arrayValue"]["values"]]
        if "functionDefinitionValue" in node:
            definition = node["functionDefinitionValue"]
            return lambda x: self.node(self.values[definition["body"]], {definition["argumentNames"][0]: x})
        call = node["functionInvocationValue"]
        inputs = {name: self.node(value, arguments) for name, value in call["arguments"].items()}
        return getattr(self, "do_" + call["functionName"].replace(".", "_"))(**inputs)

    def do_ImageCollection_load(self, id: str) -> list:
        product = id.rpartition("/")[2]
        bands = [layer for layer in PART_OF if PART_OF[layer].split("_STATE")[0] == product]
        return [
            [{"name": layer, "layer": layer, "day": day, "type": "<i4"} for layer in bands]
            for day in self.scene.images(product, "2000-01-01", "2030-01-01")
        ]

    def do_DateRange(self, start: str, end: str) -> Any:
        return lambda day: np.datetime64(start) <= day < np.datetime64(end)

    def do_Filter_dateRangeContains(self, leftValue: Any, rightField: str) -> Any:
        assert rightField == "system:time_start"
        return leftValue

    def do_Filter_listContains(self, leftValue: list, rightField: str) -> Any:
        assert rightField == "system:index"
        return lambda day: str(day).replace("-", "_") in leftValue

    def do_Collection_filter(self, collection: list, filter: Any) -> list:
        return [image for image in collection if filter(image[0]["day"])]

    def do_Collection_map(self, collection: list, baseAlgorithm: Any) -> list:
        return [baseAlgorithm(image) for image in collection]

    def do_AggregateFeatureCollection_array(self, collection: list, property: str) -> list:
        assert property == "system:index"
        return [str(image[0]["day"]).replace("-", "_") for image in collection]

    def do_ImageCollection_toBands(self, collection: list) -> list:
        return [
            {**band, "name": f"{str(band['day']).replace('-', '_')}_{band['name']}"}
            for image in collection
            for band in image
        ]

    def do_Image_addBands(self, dstImg: list, srcImg: list) -> list:
        return [*dstImg, *srcImg]

    def do_Image_select(self, input: list, bandSelectors: list) -> list:
        return [band for name in bandSelectors for band in input if band["name"] == name]

    def do_Image_constant(self, value: int) -> int:
        return value

    def do_Image_unmask(self, input: list, value: int, sameFootprint: bool) -> list:
        assert sameFootprint is False
        return [{**band, "fill": value} for band in input]

    def do_Image_toInt16(self, value: list) -> list:
        return [{**band, "type": "<i2"} for band in value]

    def do_Image_toInt32(self, value: list) -> list:
        return [{**band, "type": "<i4"} for band in value]

"""Earth Engine's REST interface for the real client: it evaluates the expressions that fetch sends."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fluxcube.errors import missing_package
from fluxcube.simulation.services.web import Answer, Request, Service
from fluxcube.simulation.sinusoidal import COLUMNS, PIXEL, ROWS

#: Limits of a request: bytes of pixels without compression, and bands.
MAX_BYTES, MAX_BANDS = 50_331_648, 1024


class Images(Protocol):
    """Images by product, day and global 500 m pixel, which the service serves."""

    def layers(self, product: str) -> Sequence[str]:
        """Return the names of the layers of a product's images."""

    def images(self, product: str, first: str, stop: str) -> Sequence[np.datetime64]:
        """Return the days of a product's images from `first` to before `stop`."""

    def layer(
        self, layer: str, day: np.datetime64, row: int, col: int, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored values (height, width) of a layer, and where they are missing."""


@functools.cache
def _shipped(name: str) -> Any:
    """Return a description of the service, which its client contains for its own tests."""
    try:
        import ee
    except ImportError:
        raise missing_package("earthengine-api", "fetch-modis", "simulating Earth Engine") from None
    return json.loads((Path(ee.__file__).parent / "tests" / name).read_text("utf-8"))


class EarthEngine(Service):
    """Serves a scene; limits of requests are those of the real service."""

    def __init__(self, scene: Images) -> None:
        self.scene = scene
        super().__init__()

    def routes(self) -> None:
        """Add the routes of the service."""
        self.route("GET", r"/\$discovery/rest", self._discovery)
        self.route("GET", r"/v1\w*/projects/[^/]+/algorithms", lambda request: Answer(_shipped("algorithms.json")))
        self.route("POST", r"/v1\w*/projects/[^/]+/value:compute", self._value)
        self.route("POST", r"/v1\w*/projects/[^/]+/image:computePixels", self._pixels)

    def _discovery(self, request: Request) -> Answer:
        here = {"rootUrl": f"{self.url}/", "baseUrl": f"{self.url}/", "mtlsRootUrl": f"{self.url}/"}
        return Answer({**_shipped("cloud_api_discovery_document.json"), **here})

    def _value(self, request: Request) -> Answer:
        return Answer({"result": _plain(Evaluation(self.scene, request.json()["expression"]).result())})

    def _pixels(self, request: Request) -> Answer:
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
        col, row = place["translateX"] / PIXEL + COLUMNS / 2, ROWS / 2 - place["translateY"] / PIXEL
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

    def __init__(self, scene: Images, expression: dict) -> None:
        self.scene, self.values, self.root = scene, expression["values"], expression["result"]

    def result(self) -> Any:
        """Return the value of the expression."""
        return self._node(self.values[self.root], {})

    def _node(self, node: dict, arguments: dict[str, Any]) -> Any:
        if "constantValue" in node:
            return node["constantValue"]
        if "valueReference" in node:
            return self._node(self.values[node["valueReference"]], arguments)
        if "argumentReference" in node:
            return arguments[node["argumentReference"]]
        if "arrayValue" in node:
            return [self._node(value, arguments) for value in node["arrayValue"]["values"]]
        if "functionDefinitionValue" in node:
            definition = node["functionDefinitionValue"]
            return lambda x: self._node(self.values[definition["body"]], {definition["argumentNames"][0]: x})
        call = node["functionInvocationValue"]
        inputs = {name: self._node(value, arguments) for name, value in call["arguments"].items()}
        return getattr(self, "_do_" + call["functionName"].replace(".", "_"))(**inputs)

    def _do_ImageCollection_load(self, id: str) -> list:
        product = id.rpartition("/")[2]
        return [
            [{"name": layer, "layer": layer, "day": day, "type": "<i4"} for layer in self.scene.layers(product)]
            for day in self.scene.images(product, "2000-01-01", "2030-01-01")
        ]

    def _do_DateRange(self, start: str, end: str) -> Any:
        return lambda day: np.datetime64(start) <= day < np.datetime64(end)

    def _do_Filter_dateRangeContains(self, leftValue: Any, rightField: str) -> Any:
        assert rightField == "system:time_start"
        return leftValue

    def _do_Filter_listContains(self, leftValue: list, rightField: str) -> Any:
        assert rightField == "system:index"
        return lambda day: str(day).replace("-", "_") in leftValue

    def _do_Collection_filter(self, collection: list, filter: Any) -> list:
        return [image for image in collection if filter(image[0]["day"])]

    def _do_Collection_map(self, collection: list, baseAlgorithm: Any) -> list:
        return [baseAlgorithm(image) for image in collection]

    def _do_AggregateFeatureCollection_array(self, collection: list, property: str) -> list:
        assert property == "system:index"
        return [str(image[0]["day"]).replace("-", "_") for image in collection]

    def _do_ImageCollection_toBands(self, collection: list) -> list:
        return [
            {**band, "name": f"{str(band['day']).replace('-', '_')}_{band['name']}"}
            for image in collection
            for band in image
        ]

    def _do_Image_addBands(self, dstImg: list, srcImg: list) -> list:
        return [*dstImg, *srcImg]

    def _do_Image_select(self, input: list, bandSelectors: list) -> list:
        return [band for name in bandSelectors for band in input if band["name"] == name]

    def _do_Image_constant(self, value: int) -> int:
        return value

    def _do_Image_unmask(self, input: list, value: int, sameFootprint: bool) -> list:
        assert sameFootprint is False
        return [{**band, "fill": value} for band in input]

    def _do_Image_toInt16(self, value: list) -> list:
        return [{**band, "type": "<i2"} for band in value]

    def _do_Image_toInt32(self, value: list) -> list:
        return [{**band, "type": "<i4"} for band in value]

"""MODIS from Earth Engine: a file a site and year with native pixels, or a file a tile and day.

The names of bands are those of `toBands` in Earth Engine (``2019_07_04_Nadir_Reflectance_Band1``), which
`fluxcube.sources.modis.earthengine` reads. Masked pixels, which Earth Engine would write as 0, get the product's fill
value. A request is limited to 48 MB and 1024 bands, so that a year of daily images of nine layers needs four.

References
----------
https://developers.google.com/earth-engine/reference/rest/v1/projects.image/computePixels
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fluxcube.errors import FetchError
from fluxcube.fetch.control import check_stop, report_bytes
from fluxcube.fetch.earthengine_client import MAX_BANDS, MAX_BYTES, TooHeavy, image_days, request_pixels, start
from fluxcube.fetch.items import Item, Plan
from fluxcube.fetch.modis_places import Places, Window, window_request
from fluxcube.fetch.modis_products import COLLECTION, Product, licence
from fluxcube.fetch.modis_request import Request
from fluxcube.fetch.modis_tiff import Block, write_block, write_strips
from fluxcube.fetch.run import fetch_all, make_plan
from fluxcube.sources.modis import grid

SOURCE = "MODIS from Earth Engine"
TERMS = "Earth Engine is free for noncommercial use; its terms are on https://earthengine.google.com/terms/."
#: Products and options of the service, as `fluxcube.fetch.modis` checks them.
PRODUCTS = ("MCD43A4", "MCD43A2", "MOD09GA", "MODOCGA", "MCD12Q1")
OPTIONS = ("every", "project")
#: Expected seconds of a request: measured ones of other projects are 1 to 10.
SECONDS = 4.0
#: Products in one file: those with the same type, whose days are read together.
_TOGETHER = (("MCD43A4", "MCD43A2"), ("MOD09GA",), ("MODOCGA",), ("MCD12Q1",))
#: Maximum bytes of a strip of a tile: several are in RAM at once, for each of the jobs.
_STRIP_BYTES = MAX_BYTES // 3
#: Types of the layers in a request, in which all fill values have room.
_CAST = {"int16": "toInt16", "int32": "toInt32"}


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one file contains: products of a window over days.

    Attributes
    ----------
    products : tuple of Product
    window : Window
    days : (day,) datetime64[D]
        Days on which there can be an image.
    """

    products: tuple[Product, ...]
    window: Window
    days: np.ndarray

    @property
    def dtype(self) -> str:
        """Type of the file."""
        return "int32" if any(product.dtype == "int32" for product in self.products) else "int16"

    @property
    def layers(self) -> int:
        """Number of layers of a day."""
        return sum(len(product.layers) for product in self.products)

    @property
    def fill(self) -> int | None:
        """Value of missing pixels, None if the layers have different ones (which are outside of their valid ranges)."""
        fills = {fill for product in self.products for fill in product.fills}
        return fills.pop() if len(fills) == 1 else None

    def block(self, names: Sequence[str]) -> Block:
        """Return the layout of the file."""
        w = self.window
        return Block(
            row=w.row, col=w.col, height=w.height, width=w.width, names=names, dtype=self.dtype, fill=self.fill
        )

    @property
    def spans(self) -> list[np.ndarray]:
        """Days of each request of all rows of the window."""
        pixels = self.window.height * self.window.width
        bytes_per_day = self.layers * pixels * np.dtype(self.dtype).itemsize
        per_request = max(1, min(MAX_BANDS // self.layers, MAX_BYTES // bytes_per_day))
        return [self.days[i : i + per_request] for i in range(0, len(self.days), per_request)]

    @property
    def strips(self) -> list[tuple[int, int]]:
        """First row and number of rows of each request of one day, counted from the window's first row."""
        row = self.layers * self.window.width * np.dtype(self.dtype).itemsize
        rows = max(1, min(self.window.height, _STRIP_BYTES // row))
        parts = -(-self.window.height // rows)
        rows = -(-self.window.height // parts)
        return [(i, min(rows, self.window.height - i)) for i in range(0, self.window.height, rows)]

    @property
    def requests(self) -> int:
        """Number of requests of pixels."""
        return len(self.spans) if len(self.days) > 1 or self.window.site else len(self.strips)


Known = Callable[[Product, int], np.ndarray]


def make_items(
    places: Places, products: Sequence[Product], every: int, known: Known
) -> tuple[list[Item], dict[str, Chunk]]:
    """Return an item for each file, and what it contains by the item's name.

    Parameters
    ----------
    places : Places
    products : sequence of Product
    every : int
        Each n-th day of the year.
    known : callable
        ``known(product, year)`` returns the days with an image.
    """
    make = _site_chunks if places.at_sites else _tile_chunks
    chunks = dict(make(places, products, known))
    return [_item(name, chunk, every) for name, chunk in chunks.items()], chunks


def _site_chunks(places: Places, products: Sequence[Product], known: Known) -> Iterator[tuple[str, Chunk]]:
    for window in places.windows:
        for year in window.years:
            for names in _TOGETHER:
                mine = tuple(product for product in products if product.name in names)
                found = [known(product, year) for product in mine]
                days = np.unique(np.concatenate(found)) if found else np.empty(0)
                if len(days):
                    name = f"{mine[0].name}.{COLLECTION}.{window.name}.{year}.tif"
                    yield name, Chunk(products=mine, window=window, days=days)


def _tile_chunks(places: Places, products: Sequence[Product], known: Known) -> Iterator[tuple[str, Chunk]]:
    """Yield the files of a day together, so that a stopped fetch has whole days and the server reads each day once."""
    for year in places.years:
        windows = [window for window in places.windows if year in window.years]
        days = {product.name: known(product, year) for product in products} if windows else {}
        for day in np.unique(np.concatenate(list(days.values()))) if days else ():
            for product in products:
                for window in windows if day in days[product.name] else ():
                    chunk = Chunk(products=(product,), window=window, days=np.array([day]))
                    yield _tile_name(product, window, day), chunk


def _tile_name(product: Product, window: Window, day: np.datetime64) -> str:
    """Return the path of the file of a product, a tile or a part of it, and a day."""
    year = day.astype("datetime64[Y]")
    number = int((day - year.astype("datetime64[D]")).astype(int)) + 1
    part = "" if window.whole_tile else f".{window.row}-{window.col}-{window.height}-{window.width}"
    return f"{product.name}/{product.name}.A{year}{number:03d}.{window.name}.{COLLECTION}{part}.tif"


def _item(name: str, chunk: Chunk, every: int) -> Item:
    """Return the item of a file. Its key does not depend on the days without an image, which a plan cannot know."""
    layers = {product.name: list(product.layers) for product in chunk.products}
    first, last = _period(chunk, every)
    key = window_request(
        chunk.window, service="Earth Engine", layers=layers, first=first, last=last, every=every, collection=COLLECTION
    )
    about: dict[str, Any] = {
        "product": "+".join(layers),
        "first": first,
        "last": last,
        "place": chunk.window.name,
        "citation": " ".join(product.citation for product in chunk.products),
    }
    size = chunk.block([""] * (chunk.layers * len(chunk.days))).bytes
    return Item(name=name, key=key, size=size, about=about)


def _period(chunk: Chunk, every: int) -> tuple[str, str]:
    """Return the first and last day of the request: of an unfinished year the last one is yesterday."""
    if not chunk.window.site:
        return str(chunk.days[0]), str(chunk.days[-1])
    days = chunk.products[0].days(int(str(chunk.days[0])[:4]), every)
    return str(days[0]), str(days[-1])


def _about(request: Request, chunks: Mapping[str, Chunk]) -> dict[str, Any]:
    lists = len(request.places.years) * len(request.products)
    pixels = sum(chunk.requests for chunk in chunks.values())
    return {
        "licence": licence(request.products, TERMS),
        "seconds": (lists + pixels) * SECONDS / request.jobs,
        "cost": f"{lists + pixels} requests (each at most 48 MB and 1024 bands; high-volume endpoint)",
        "notes": request.places.notes,
    }


def plan(request: Request) -> Plan:
    """Return the plan; nothing is requested, so days without an image are not known yet."""
    every = request.every
    items, chunks = make_items(request.places, request.products, every, lambda product, year: product.days(year, every))
    return make_plan(SOURCE, request.folder, items, **_about(request, chunks))


def fetch(request: Request) -> list[Path]:
    """Fetch the files; see `fluxcube.fetch.modis`."""
    planned = plan(request)
    if not planned.missing:
        return fetch_all(planned, request.folder, _nothing)
    ee = start(request.project, request.endpoint)
    items, chunks = make_items(request.places, request.products, request.every, _known_days(ee, request.every))
    found = make_plan(SOURCE, request.folder, items, **_about(request, chunks))
    return fetch_all(
        found,
        request.folder,
        lambda item, path: fetch_chunk(ee, chunks[item.name], path),
        jobs=request.jobs,
        progress=request.progress,
    )


def _nothing(item: Item, path: Path) -> None:
    raise FetchError(f"{item.name} was removed during the fetch; run the same command again.")


def _known_days(ee: ModuleType, every: int) -> Known:
    """Return a function that requests the days of a product's images in a year from Earth Engine, once each."""

    @functools.cache
    def days(name: str, year: int) -> np.ndarray:
        first, stop = np.datetime64(f"{year}-01-01"), np.datetime64(f"{year + 1}-01-01")
        return image_days(ee, _collection(name), first, stop)

    def known(product: Product, year: int) -> np.ndarray:
        candidates = product.days(year, every)
        return np.intersect1d(candidates, days(product.name, year)) if len(candidates) else candidates

    return known


def _collection(name: str) -> str:
    return f"MODIS/{COLLECTION}/{name}"


def fetch_chunk(ee: ModuleType, chunk: Chunk, path: Path) -> dict[str, str]:
    """Request the pixels of a file, and write it."""
    if chunk.window.site or len(chunk.days) > 1:
        _fetch_days(ee, chunk, path)
    else:
        _fetch_tile(ee, chunk, path)
    return {
        "url": f"https://developers.google.com/earth-engine/datasets/catalog/MODIS_{COLLECTION}_{chunk.products[0].name}"
    }


def _fetch_days(ee: ModuleType, chunk: Chunk, path: Path) -> None:
    names: list[str] = []
    blocks: list[np.ndarray] = []
    for n, days in enumerate(chunk.spans):
        for mine, values in _requested(ee, chunk, days):
            names += mine
            blocks.append(values)
        report_bytes(n + 1, len(chunk.spans))
    write_block(path, chunk.block(names), np.concatenate(blocks))


def _requested(ee: ModuleType, chunk: Chunk, days: np.ndarray) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the names and values (band, row, column) of days; a request that is too large is halved."""
    check_stop()
    w = chunk.window
    try:
        values = request_pixels(ee, _image(ee, chunk, days), w.row, w.col, w.height, w.width)
    except TooHeavy:
        if len(days) == 1:
            raise
    else:
        names = _checked_names(values, chunk, days)
        yield names, np.stack([values[name] for name in names]).astype(chunk.dtype)
        return
    for half in np.array_split(days, 2):
        yield from _requested(ee, chunk, half)


def _fetch_tile(ee: ModuleType, chunk: Chunk, path: Path) -> None:
    """Write the image of one day in strips within the limit of a request."""
    (product,), w = chunk.products, chunk.window
    prefix = str(chunk.days[0]).replace("-", "_")

    def strips() -> Iterator[tuple[int, np.ndarray]]:
        image = _image(ee, chunk, chunk.days)
        for first, rows in chunk.strips:
            check_stop()
            values = request_pixels(ee, image, w.row + first, w.col, rows, w.width)
            _checked_names(values, chunk, chunk.days)
            yield first, np.stack([values[f"{prefix}_{layer}"] for layer in product.layers])

    write_strips(path, chunk.block(product.layers), strips())


def _image(ee: ModuleType, chunk: Chunk, days: np.ndarray) -> Any:
    """Return the expression of one image with a band for each day and layer, without masked pixels."""
    image = None
    for product in chunk.products:
        images = ee.ImageCollection(_collection(product.name))
        images = images.filterDate(str(days[0]), str(days[-1] + 1))
        names = [str(day).replace("-", "_") for day in days]
        if len(days) < int((days[-1] - days[0]).astype(int)) + 1:
            images = images.filter(ee.Filter.inList("system:index", names))
        bands = images.map(functools.partial(_filled, product=product, cast=_CAST[chunk.dtype])).toBands()
        image = bands if image is None else image.addBands(bands)
    return image


def _filled(image: Any, product: Product, cast: str) -> Any:
    """Return the layers of an image with the fill value where they are masked."""
    filled = None
    for part, fill in zip(product.parts, product.fills, strict=True):
        mine = getattr(image.select(list(grid.PRODUCTS[part].layers)).unmask(fill, False), cast)()
        filled = mine if filled is None else filled.addBands(mine)
    return filled


def _checked_names(values: np.ndarray, chunk: Chunk, days: np.ndarray) -> list[str]:
    """Return the names of the bands of an answer, by product and day; FetchError if it has others than requested."""
    found = set(values.dtype.names or ())
    names: list[str] = []
    for product in chunk.products:
        for day in days:
            mine = [f"{str(day).replace('-', '_')}_{layer}" for layer in product.layers]
            present = [name for name in mine if name in found]
            if present and len(present) < len(mine):
                raise FetchError(f"Earth Engine: {product.name} of {day} lacks {sorted(set(mine) - found)[0]}.")
            names += present
    if other := found - set(names):
        raise FetchError(f"Earth Engine: expected bands of {days[0]} to {days[-1]}, found {sorted(other)[0]!r}.")
    if not names:
        raise FetchError(f"Earth Engine: no image of {days[0]} to {days[-1]} was sent.")
    for product in chunk.products:
        _check_range(values, product, names)
    return names


def _check_range(values: np.ndarray, product: Product, names: Sequence[str]) -> None:
    """Refuse fractions: they mean that pixels were resampled."""
    for name in names[:1]:
        if values[name].dtype.kind not in "iu":
            raise FetchError(f"Earth Engine: expected whole numbers of {product.name}, found {values[name].dtype}.")

"""MODIS from the Planetary Computer: a STAC search, and cloud-optimised GeoTIFFs with signed addresses.

No account is needed. It has MCD43A4, one file a layer; of an image around a site 0.3 MB a layer are transferred, since
its blocks have 512 x 512 pixels. Tokens are kept in RAM only.

References
----------
https://planetarycomputer.microsoft.com/docs/concepts/sas/
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import requests

from fluxcube.errors import FetchError, SourceError, missing_package
from fluxcube.fetch.addresses import hide_credentials, public_text
from fluxcube.fetch.answers import MALFORMED
from fluxcube.fetch.control import check_stop, report_bytes
from fluxcube.fetch.http import Downloaded, download
from fluxcube.fetch.items import Item, Plan, request_key
from fluxcube.fetch.modis_places import Window, tile_name, window_request
from fluxcube.fetch.modis_products import COLLECTION, FETCHED, licence
from fluxcube.fetch.modis_request import Request
from fluxcube.fetch.modis_tiff import Block, write_block, write_strips
from fluxcube.fetch.remote_file import RemoteFile, open_raster
from fluxcube.fetch.run import fetch_all, make_plan
from fluxcube.fetch.sending import TIMEOUT, new_session, no_auth, reason
from fluxcube.fetch.signing import Signer
from fluxcube.sources.modis import grid
from fluxcube.sources.modis.names import parse_name

#: Products and options of the service, as `fluxcube.fetch.modis` checks them.
PRODUCTS = ("MCD43A4",)
OPTIONS = ("every",)
SOURCE = "MODIS from the Planetary Computer"
TERMS = "The Planetary Computer's terms are on https://planetarycomputer.microsoft.com/terms."
_API = "https://planetarycomputer.microsoft.com"
_COLLECTIONS = {"MCD43A4": "modis-43A4-061"}
#: Expected seconds to read the layers of an image around a site, and bytes transferred for each layer.
_SECONDS, _TRANSFER = 3.0, 300_000
#: Rows of a strip of a large part of a tile.
_STRIP = 512

Tile = tuple[int, int]


@dataclass(frozen=True)
class Image:
    """A day of a product in a tile: the address, without a token, of each layer."""

    day: np.datetime64
    tile: Tile
    name: str
    links: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """What one file contains: the images of a window over days, or one layer of a whole tile."""

    window: Window
    images: tuple[Image, ...]
    layer: str = ""


def plan(request: Request) -> Plan:
    """Search the images, and return the plan."""
    return _plan(request, _parts(request))


def _plan(request: Request, parts: Mapping[str, Part]) -> Plan:
    images = sum(len(part.images) for part in parts.values() if not part.layer)
    layers = len(FETCHED["MCD43A4"].layers)
    transfer = images * layers * _TRANSFER
    notes = [*request.places.notes]
    if request.places.at_sites:
        notes.append(
            f"about {transfer / 1e9:.2g} GB are transferred for chips of {images} images; Earth Engine sends only the "
            "pixels, and has MCD43A2 (snow and water), too"
        )
    return make_plan(
        SOURCE,
        request.folder,
        [_item(name, part) for name, part in parts.items()],
        licence=licence(request.products, TERMS),
        notes=notes,
        seconds=images * _SECONDS / request.jobs if images else None,
        cost="no account; the service limits requests of anonymous users",
    )


def fetch(request: Request) -> list[Path]:
    """Fetch the files; see `fluxcube.fetch.modis`."""
    parts = _parts(request)
    planned = _plan(request, parts)
    address = (request.endpoint or _API).rstrip("/")
    with new_session() as session:
        signer = Signer(f"{address}/api/sas/v1/token", session, own=address if request.endpoint else None)

        def one(item: Item, path: Path) -> Downloaded | None:
            part = parts[item.name]
            if part.layer:
                url = part.images[0].links[part.layer]
                got = download(signer.signed(url), path, formats=("TIFF",))
                _check_tile(path, part.images[0])
                return got
            _write_part(signer, session, part, path)
            return None

        return fetch_all(planned, request.folder, one, jobs=request.jobs, progress=request.progress)


def _parts(request: Request) -> dict[str, Part]:
    """Return the contents of each file by its name."""
    images = _search(request)
    if not any(images.values()):
        raise FetchError(
            f"Planetary Computer: no image of {', '.join(PRODUCTS)} was found for the places and years: check them on "
            "https://planetarycomputer.microsoft.com/dataset/modis-43A4-061."
        )
    make = _site_parts if request.places.at_sites else _tile_parts
    return {name: part for window in request.places.windows for name, part in make(window, images)}


def _site_parts(window: Window, images: Mapping[Tile, Sequence[Image]]) -> Iterator[tuple[str, Part]]:
    """Yield a file for each month: a year of images takes long, and a month of them is lost by a kill at most."""
    mine = sorted((image for tile in window.tiles for image in images.get(tile, ())), key=lambda i: (i.day, i.tile))
    months = np.unique([image.day.astype("datetime64[M]") for image in mine])
    for month in months:
        if int(str(month)[:4]) in window.years:
            found = tuple(image for image in mine if image.day.astype("datetime64[M]") == month)
            yield f"MCD43A4.{COLLECTION}.{window.name}.{month}.tif", Part(window, found)


def _tile_parts(window: Window, images: Mapping[Tile, Sequence[Image]]) -> Iterator[tuple[str, Part]]:
    """Yield a file for each layer and day of a whole tile, or for each day of a part of a tile."""
    for tile in window.tiles:
        for image in images.get(tile, ()):
            if window.whole_tile:
                for layer in FETCHED["MCD43A4"].layers:
                    yield f"MCD43A4/{image.name}_{layer}.tif", Part(window, (image,), layer)
                continue
            part = f"{window.row}-{window.col}-{window.height}-{window.width}"
            yield f"MCD43A4/{image.name}.{part}.tif", Part(window, (image,))


def _item(name: str, part: Part) -> Item:
    product = FETCHED["MCD43A4"]
    days = [str(image.day) for image in part.images]
    about = {"product": product.name, "first": days[0], "last": days[-1], "citation": product.citation}
    if part.layer:
        key = request_key({"service": "Planetary Computer", "layer": part.layer, "image": part.images[0].name})
        return Item(name=name, key=key, size=product.tile_bytes // 8, about=about)
    editions = hashlib.sha256(" ".join(image.name for image in part.images).encode()).hexdigest()[:16]
    key = window_request(part.window, service="Planetary Computer", first=days[0], last=days[-1], images=editions)
    size = _block(part, [""] * len(set(days)) * len(product.layers)).bytes
    return Item(name=name, key=key, size=size, about=about)


def _block(part: Part, names: Sequence[str]) -> Block:
    w = part.window
    return Block(row=w.row, col=w.col, height=w.height, width=w.width, names=names, dtype="int16", fill=32767)


def _search(request: Request) -> dict[Tile, list[Image]]:
    """Return the images of each tile, by day."""
    try:
        from pystac.errors import STACError
        from pystac_client import Client
        from pystac_client.errors import ClientTypeError
        from pystac_client.exceptions import APIError
    except ImportError:
        raise missing_package("pystac-client", "fetch-modis", "fetching MODIS from the Planetary Computer") from None
    hide_credentials("pystac_client.stac_api_io", "urllib3.connectionpool", "urllib3.util.retry")
    problem = ""
    try:
        client = Client.open(f"{(request.endpoint or _API).rstrip('/')}/api/stac/v1", stac_io=_connection())
        return {tile: _tile_images(client, tile, years, request) for tile, years in request.places.tiles().items()}
    except FetchError:
        raise
    except APIError as error:  # also for connections that fail
        cause = error.__context__
        failed = isinstance(cause, requests.RequestException)
        problem = reason(cause) if failed else " ".join(public_text(str(error)).split())[:200]
    except requests.RequestException as error:
        problem = reason(error)
    except (STACError, ClientTypeError, *MALFORMED) as error:
        problem = f"an answer in another form: {type(error).__name__}"
    raise FetchError(f"Planetary Computer: the search failed ({problem}); run the same command again.")


def _tile_images(client: Any, tile: Tile, years: Sequence[int], request: Request) -> list[Image]:
    (product,) = request.products
    latest: dict[np.datetime64, Image] = {}
    for year in years:
        check_stop()
        days = set(product.days(year, request.every))
        search = client.search(
            collections=[_COLLECTIONS[product.name]],
            datetime=f"{year}-01-01T00:00:00Z/{year}-12-31T23:59:59Z",
            query={"modis:horizontal-tile": {"eq": tile[0]}, "modis:vertical-tile": {"eq": tile[1]}},
            limit=250,
        )
        for found in search.items_as_dicts():
            image = _image(found, product.layers, tile)
            if image is not None and image.day in days:
                latest[image.day] = max(latest.get(image.day, image), image, key=lambda i: i.name)
    return [latest[day] for day in sorted(latest)]


def _connection() -> Any:
    """Return what the client sends requests with: nothing of ``~/.netrc``, and no endless wait.

    An answer to a search without a list of items is refused; the client takes it for an empty list.
    """
    from pystac_client.stac_api_io import StacApiIO

    class Connection(StacApiIO):
        """Checks the answers to searches."""

        def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """Return the JSON of an answer."""
            answer = super().read_json(source, *args, **kwargs)
            address = str(getattr(source, "href", source))
            if address.endswith("/search") and not isinstance(answer.get("features"), list):
                raise FetchError(
                    "Planetary Computer: expected a list of images, found another answer; try again later."
                )
            return answer

    connection = Connection(timeout=TIMEOUT)
    connection.session.auth = no_auth
    return connection


def _image(found: Mapping[str, Any], layers: Sequence[str], tile: Tile) -> Image | None:
    """Return the image of a STAC item; None if it is another tile or product (an item's period overlaps others)."""
    name = str(found["id"])
    try:
        parsed = parse_name(Path(f"{name}.hdf"))
    except SourceError:
        return None
    if parsed is None or parsed.product not in PRODUCTS or parsed.tile != tile:
        return None
    assets = found.get("assets", {})
    links = {layer: str(assets[layer]["href"]) for layer in layers if layer in assets}
    if missing := [layer for layer in layers if layer not in links]:
        raise FetchError(f"Planetary Computer: the image {name[:60]} lacks {missing[0]}.")
    return Image(parsed.day, tile, name, {layer: link.partition("?")[0] for layer, link in links.items()})


def _write_part(signer: Signer, session: requests.Session, part: Part, path: Path) -> None:
    """Read a window of all images, and write it."""
    layers = FETCHED["MCD43A4"].layers
    if not part.window.site:
        _write_large(signer, session, part, path)
        return
    names: list[str] = []
    blocks: list[np.ndarray] = []
    days = sorted({image.day for image in part.images})
    for n, day in enumerate(days):
        values = np.full((len(layers), part.window.height, part.window.width), 32767, "int16")
        for image in part.images:
            if image.day == day:
                _fill(values, signer, session, image, part.window)
        names += [f"{str(day).replace('-', '_')}_{layer}" for layer in layers]
        blocks.append(values)
        report_bytes(n + 1, len(days))
    write_block(path, _block(part, names), np.concatenate(blocks))


def _write_large(signer: Signer, session: requests.Session, part: Part, path: Path) -> None:
    """Write the part of a tile in strips; the remote files stay open, so that no block is requested twice."""
    (image,), window = part.images, part.window
    layers = FETCHED["MCD43A4"].layers

    def strips() -> Iterator[tuple[int, np.ndarray]]:
        with ExitStack() as stack:
            files = [stack.enter_context(_Layer(signer, session, image, layer)) for layer in layers]
            for first in range(0, window.height, _STRIP):
                rows = replace(window, row=window.row + first, height=min(_STRIP, window.height - first))
                box = rows.part_of(image.tile)
                assert box is not None  # the window is within the tile
                yield first, np.stack([file.read(box) for file in files])

    write_strips(path, _block(part, layers), strips())


def _fill(values: np.ndarray, signer: Signer, session: requests.Session, image: Image, window: Window) -> None:
    """Write the pixels of an image into the values (layer, row, column) of a window."""
    box = window.part_of(image.tile)
    if box is None:
        return
    r0, r1, c0, c1 = box
    for out, layer in zip(values, image.links, strict=True):
        check_stop()
        with _Layer(signer, session, image, layer) as file:
            out[r0 - window.row : r1 - window.row, c0 - window.col : c1 - window.col] = file.read(box)


def _check_tile(path: Path, image: Image) -> None:
    """Check that a downloaded layer is the tile, and that none of its blocks ends beyond the end of the file."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path, driver="GTiff") as file:
            _corner_of(file, image)
            high, wide = file.block_shapes[0]
            for row, col in np.ndindex(-(-file.height // high), -(-file.width // wide)):
                begin, length = (
                    int(file.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1) or 0)
                    for what in ("OFFSET", "SIZE")
                )
                if begin + length > path.stat().st_size:
                    raise FetchError(f"{path.name}: the file was cut short; run the same command again.")
    except RasterioError as error:
        raise FetchError(
            f"{path.name}: this is no GeoTIFF ({type(error).__name__}); run the same command again."
        ) from None


def _corner_of(file: Any, image: Image) -> tuple[int, int]:
    """Return the global pixel of the corner of an open file, which must be that of the tile."""
    dx, _, x, _, dy, y = tuple(file.transform)[:6]
    name = Path(f"{image.name}.tif")
    try:
        row, col, factor = grid.grid_place(name, (dx, -dy), (x, y), "MCD43A4")
    except SourceError as error:
        raise FetchError(f"Planetary Computer: {error}") from None
    h, v = image.tile
    if (row // grid.TILE, col // grid.TILE, factor) != (v, h, 1) or file.dtypes[0] != "int16":
        raise FetchError(
            f"Planetary Computer: {name} must be tile {tile_name(image.tile)} in int16, found row {row}, column {col} "
            f"and {file.dtypes[0]}."
        )
    return row, col


class _Layer:
    """An open layer of an image, of which windows are read."""

    def __init__(self, signer: Signer, session: requests.Session, image: Image, layer: str) -> None:
        url = image.links[layer]
        self.image = image
        self.remote = RemoteFile(lambda new: signer.signed(url, new=new), session)
        self.file = open_raster(self.remote)

    def __enter__(self) -> _Layer:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def read(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """Return the window of global pixels (first row, last row + 1, first column, last column + 1)."""
        row, col = _corner_of(self.file, self.image)
        r0, r1, c0, c1 = box
        problem: FetchError | None = None
        if r0 < row or c0 < col or r1 > row + self.file.height or c1 > col + self.file.width:
            raise FetchError(f"{self.remote!r}: rows {r0} to {r1} and columns {c0} to {c1} are not in the file.")
        try:
            values = self.file.read(1, window=((r0 - row, r1 - row), (c0 - col, c1 - col)))
        except OSError as error:
            problem = self.remote.problem or FetchError(f"{self.remote!r}: cannot be read ({type(error).__name__}).")
        if problem is not None:
            raise problem
        return values

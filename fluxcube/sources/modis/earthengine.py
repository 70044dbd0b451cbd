"""Earth Engine exports of MODIS: what their file and band names say, and tables of `getRegion`.

Exports must be in the native projection (``crs="SR-ORG:6974", scale=463.3127165279165``, or the image's own
``crsTransform``): a resampled pixel is no MODIS pixel. Names are Earth Engine's own: images are called
``2019_07_04``, `toBands` puts that before each band's name.

In an export of integers Earth Engine writes masked pixels as 0. Where a file holds all seven reflectances of a day,
a pixel at which all are 0 is taken as masked, in the flags beside them too; flags exported alone cannot be told
from masked ones, so export them together with the reflectances.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import PRODUCTS, Raster, Tile, sinusoidal_position

_DATE = re.compile(r"(?<!\d)(\d{4})[_-](\d{2})[_-](\d{2})(?!\d)")
# Numbers before a band's name count the collections that were merged; a date is that of the image.
_BAND = re.compile(r"^(?:\d+_)*?(?:(?P<date>\d{4}_\d{2}_\d{2})_)?(?P<layer>[A-Za-z].*)$")
_PRODUCT = re.compile("|".join(sorted((name for name in PRODUCTS if "_" not in name), reverse=True)), re.IGNORECASE)
_LAYER_OF = {layer: name for name, product in PRODUCTS.items() for layer in product.layers}
# Which reflectances say whether a product's pixels are masked.
_MASKED_BY = {"MCD43A4": "MCD43A4", "MCD43A2": "MCD43A4", "MOD09GA": "MOD09GA", "MOD09GA_STATE": "MOD09GA"}

_TABLE = ("id", "longitude", "latitude", "time")
# Largest distance from a pixel's centre (pixels): ten times what the rounding of coordinates explains.
_OFF_CENTRE = 0.02


def name_bands(path: Path, names: Iterable[str]) -> tuple[list[Raster], str]:
    """Tell the rasters in a GeoTIFF from its name and its bands' names.

    Parameters
    ----------
    path : Path
        Such as ``MCD43A4_2019_07_04.tif`` or ``2019_07_04.tif``.
    names : iterable of str
        Of the bands, such as ``Nadir_Reflectance_Band1`` or ``2019_07_04_Nadir_Reflectance_Band1``; "" for none.

    Returns
    -------
    rasters : list of Raster
        One for each product and day, complete with bands.
    why : str
        Why there is none, else "".

    Examples
    --------
    >>> bands = [f"2019_07_04_Nadir_Reflectance_Band{i}" for i in range(1, 8)]
    >>> name_bands(Path("site.tif"), bands)[0][0].bands
    (1, 2, 3, 4, 5, 6, 7)
    """
    names = list(names)
    stem = path.stem
    own = _day(*_DATE.search(stem).groups()) if _DATE.search(stem) else None
    found: dict[tuple, dict[str, int]] = defaultdict(dict)
    for number, name in enumerate(names, 1):
        match = _BAND.match(name)
        product = _LAYER_OF.get(match["layer"]) if match else None
        if product is None:
            continue
        day = _day(*match["date"].split("_")) if match["date"] else own
        if match["layer"] in found[product, day]:
            return [], f"two of its bands are {match['layer']} of {day}: name bands by date, as toBands does"
        found[product, day][match["layer"]] = number
    if not found:
        return _by_name_alone(path, own, names)
    return _complete(path, found)


def _complete(path: Path, found: dict[tuple, dict[str, int]]) -> tuple[list[Raster], str]:
    whole = {
        key: tuple(bands[layer] for layer in PRODUCTS[key[0]].layers)
        for key, bands in found.items()
        if key[1] is not None and set(bands) == set(PRODUCTS[key[0]].layers)
    }
    if not whole:
        product, day = next(iter(found))
        if day is None:
            return [], "neither its name nor its bands' names hold a date such as 2019_07_04"
        missing = sorted(set(PRODUCTS[product].layers) - set(found[product, day]))
        return [], f"of {product} it lacks the bands {', '.join(missing)}"
    rasters = [
        Raster(path=path, product=product, day=day, bands=bands, mask=whole.get((_MASKED_BY.get(product), day), ()))
        for (product, day), bands in whole.items()
    ]
    return rasters, ""


def _by_name_alone(path: Path, day: np.datetime64 | None, names: list[str]) -> tuple[list[Raster], str]:
    """A file whose bands have no names that say anything: the product's own order, if the number of bands fits."""
    product = _PRODUCT.search(path.stem)
    if product is None:
        return [], "neither its name nor its bands' names are those of a MODIS product that is used"
    if day is None:
        return [], "its name holds no date such as 2019_07_04 or A2019185"
    layers = PRODUCTS[product[0].upper()].layers
    if any(names) or len(names) != len(layers):
        return [], f"{product[0].upper()} needs the bands {', '.join(layers)}; found {[n for n in names if n][:8]}"
    bands = tuple(range(1, len(layers) + 1))
    mask = bands if _MASKED_BY.get(product[0].upper()) == product[0].upper() else ()
    return [Raster(path=path, product=product[0].upper(), day=day, bands=bands, mask=mask)], ""


def _day(year: str, month: str, day: str) -> np.datetime64 | None:
    try:
        return np.datetime64(f"{year}-{month}-{day}", "D")
    except ValueError:
        return None


@dataclass(frozen=True)
class _Table:
    """A table of `getRegion`: pixels in the order of their key, and bands by name, NaN where there is no value."""

    days: np.ndarray  # (row,) datetime64[D]
    rows: np.ndarray  # (row,) int64, global pixels
    cols: np.ndarray
    bands: dict[str, np.ndarray]  # (row,) float64


def is_table(path: Path) -> bool:
    """Whether a CSV has the columns of `ee.ImageCollection.getRegion`."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            head = file.readline(4096)
    except (OSError, UnicodeDecodeError):
        return False
    return set(_TABLE) <= {name.strip().strip('"') for name in head.rstrip("\r\n").split(",")}


def name_table(path: Path) -> tuple[list[Raster], str]:
    """Tell the products and days in a table of `getRegion`; why there is none, as `name_bands`.

    Raises
    ------
    SourceError
        If the table cannot be mapped to pixels exactly.
    """
    table = _read(path)
    whole = [name for name, product in PRODUCTS.items() if set(product.layers) <= set(table.bands)]
    if not whole:
        return [], f"its bands ({', '.join(sorted(table.bands)[:8]) or 'none'}) make no MODIS product that is used"
    days = np.unique(table.days)
    return [Raster(path=path, product=name, day=day, bands=PRODUCTS[name].layers) for name in whole for day in days], ""


def check(raster: Raster) -> Tile:
    """Return the window around the pixels of one day of a table."""
    table = _read(raster.path)
    here = table.days == raster.day
    rows, cols = table.rows[here], table.cols[here]
    scale = 1e-4 if PRODUCTS[raster.product].scaled else 1.0
    return Tile(
        path=raster.path,
        product=raster.product,
        day=raster.day,
        bands=raster.bands,
        scale=scale,
        row=int(rows.min()),
        col=int(cols.min()),
        height=int(np.ptp(rows)) + 1,
        width=int(np.ptp(cols)) + 1,
    )


def windows(tile: Tile, boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    """Windows of a day's table (band, height, width), NaN where it has no pixel; see `tiff.windows`."""
    table = _read(tile.path)
    here = np.flatnonzero(table.days == tile.day)
    rows, cols = table.rows[here] - tile.row, table.cols[here] - tile.col
    for r0, r1, c0, c1 in boxes:
        inside = (rows >= r0) & (rows < r1) & (cols >= c0) & (cols < c1)
        out = np.full((len(tile.bands), r1 - r0, c1 - c0), np.nan)
        for band, name in zip(out, tile.bands, strict=True):
            band[rows[inside] - r0, cols[inside] - c0] = table.bands[name][here[inside]]
        yield out


def _read(path: Path) -> _Table:
    state = path.stat()
    return _read_table(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_table(path: Path, size: int, changed: int) -> _Table:
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, encoding="utf-8-sig", skipinitialspace=True, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as problem:
        raise SourceError(f"{path}: cannot be read as a CSV of getRegion ({problem}).") from problem
    if frame.empty:
        raise SourceError(f"{path}: the table of getRegion has no rows.")
    numbers = {name: _numbers(path, frame[name], name) for name in frame if name in _LAYER_OF or name in _TABLE[1:]}
    for name in _TABLE[1:]:
        if np.isnan(numbers[name]).any():
            line = int(np.flatnonzero(np.isnan(numbers[name]))[0]) + 2
            raise SourceError(f"{path}: line {line}: no {name}; every row of getRegion has one.")
    rows, cols = _pixels(path, numbers["latitude"], numbers["longitude"])
    days = numbers["time"].astype("int64").astype("datetime64[ms]").astype("datetime64[D]")
    _check_days(path, frame["id"], days)
    _check_twice(path, rows, cols, days)
    return _Table(days, rows, cols, {name: values for name, values in numbers.items() if name in _LAYER_OF})


def _numbers(path: Path, column, name: str) -> np.ndarray:
    import pandas as pd

    empty = column.isin(("", "None", "null", "nan", "NaN"))
    values = pd.to_numeric(column.where(~empty, "nan"), errors="coerce").to_numpy(float)
    if (bad := np.flatnonzero(np.isnan(values) & ~empty.to_numpy())).size:
        raise SourceError(f"{path}: line {bad[0] + 2}: {name} is {column.iloc[bad[0]]!r}; a number was expected.")
    return values


def _pixels(path: Path, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Global row and column of each pixel, whose centre the coordinates must be."""
    position = sinusoidal_position(latitude, longitude)
    off = np.maximum(*(np.abs(p - np.floor(p) - 0.5) for p in position))
    wrong = np.flatnonzero(~(off <= _OFF_CENTRE) | (np.abs(latitude) > 90))
    if wrong.size:
        raise SourceError(
            f"{path}: line {wrong[0] + 2}: latitude {latitude[wrong[0]]}, longitude {longitude[wrong[0]]} is "
            f"{off[wrong[0]]:.2f} pixels from the centre of a MODIS pixel ({wrong.size} of {off.size} rows are): the "
            "table was sampled on another grid. Ask getRegion for the native one: "
            'getRegion(geometry, scale=463.3127165279165, crs="SR-ORG:6974").'
        )
    return tuple(np.floor(p).astype(np.int64) for p in position)


def _check_days(path: Path, ids, days: np.ndarray) -> None:
    """The date in an image's name must be that of its time stamp."""
    named = ids.str.extract(_DATE.pattern)
    known = named.notna().all(axis=1).to_numpy()
    text = (named[0] + "-" + named[1] + "-" + named[2]).to_numpy(object)
    wrong = [i for i in np.flatnonzero(known) if text[i] != str(days[i])]
    if wrong:
        raise SourceError(
            f"{path}: line {wrong[0] + 2}: image {ids.iloc[wrong[0]]} has the time of {days[wrong[0]]}: one is wrong."
        )


def _check_twice(path: Path, rows: np.ndarray, cols: np.ndarray, days: np.ndarray) -> None:
    keys = np.stack([days.astype(np.int64), rows, cols])
    unique, first, count = np.unique(keys, axis=1, return_index=True, return_counts=True)
    if unique.shape[1] < keys.shape[1]:
        line = int(first[count > 1][0]) + 2
        raise SourceError(f"{path}: line {line}: pixel and day come again further down; give each once.")

"""Earth Engine exports of MODIS: product and date from the names of files and bands, and tables of `getRegion`.

Exports must be in the native projection (``crs="SR-ORG:6974", scale=463.3127165279165``, or the image's own
``crsTransform``): a resampled pixel is no MODIS pixel. The names are Earth Engine's own: an image is called
``2019_07_04``, and `toBands` prefixes each band's name with it.

In an export of integers Earth Engine writes masked pixels as 0. Where a file contains all seven reflectances of a day,
a pixel at which all are 0 counts as masked, also in the flags of the same file. In flags exported alone, masked pixels
cannot be recognised, so export them together with the reflectances.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import PRODUCTS, Raster, Tile, sinusoidal_position
from fluxcube.sources.modis.layers import find_bands
from fluxcube.sources.modis.names import find_date
from fluxcube.sources.plaintable import read_plain_table

if TYPE_CHECKING:
    import pandas as pd

_DATE = re.compile(r"(?<!\d)(\d{4})[_-](\d{2})[_-](\d{2})(?!\d)")
# Numbers before a band's name count the merged collections; a date is that of the image.
_BAND = re.compile(r"^(?:\d+_)*?(?:(?P<date>\d{4}_\d{2}_\d{2})_)?(?P<layer>[A-Za-z].*)$")
_PRODUCT = re.compile("|".join(sorted((name for name in PRODUCTS if "_" not in name), reverse=True)), re.IGNORECASE)
_LAYER_OF = {layer: name for name, product in PRODUCTS.items() for layer in product.layers}
# Product whose reflectances show whether a product's pixels are masked.
_MASKED_BY = {
    "MCD43A4": "MCD43A4",
    "MCD43A2": "MCD43A4",
    "MOD09GA": "MOD09GA",
    "MOD09GA_STATE": "MOD09GA",
    "MODOCGA": "MODOCGA",
}

_TABLE = ("id", "longitude", "latitude", "time")
# Maximum distance from a pixel's centre (pixels): ten times the rounding error of the coordinates.
_OFF_CENTRE = 0.02


def name_bands(path: Path, names: Iterable[str]) -> tuple[list[Raster], str]:
    """List the rasters in a GeoTIFF, from its name and its bands' names.

    Parameters
    ----------
    path : Path
        Such as ``MCD43A4_2019_07_04.tif`` or ``2019_07_04.tif``.
    names : iterable of str
        Of the bands, such as ``Nadir_Reflectance_Band1`` or ``2019_07_04_Nadir_Reflectance_Band1``; "" for none.

    Returns
    -------
    rasters : list of Raster
        One for each product and day of which all bands are present.
    reason : str
        Reason why there is none, else "".

    Examples
    --------
    >>> bands = [f"2019_07_04_Nadir_Reflectance_Band{i}" for i in range(1, 8)]
    >>> name_bands(Path("site.tif"), bands)[0][0].bands
    (1, 2, 3, 4, 5, 6, 7)
    """
    names = list(names)
    date = find_date(path.stem)
    file_day = date[0] if date else None
    bands: dict[_Key, dict[str, int]] = defaultdict(dict)
    for number, name in enumerate(names, 1):
        match = _BAND.match(name)
        if match is None or match["layer"] not in _LAYER_OF:
            continue
        layer = match["layer"]
        day = _day(*match["date"].split("_")) if match["date"] else file_day
        layers = bands[_LAYER_OF[layer], day]
        if layer in layers:
            return [], f"two of its bands are {layer} of {day}: name bands by date, as toBands does"
        layers[layer] = number
    return _complete(path, bands) if bands else _by_file_name(path, file_day, names)


_Key = tuple[str, np.datetime64 | None]


def _complete(path: Path, bands: Mapping[_Key, Mapping[str, int]]) -> tuple[list[Raster], str]:
    """Return the rasters of which all bands are present; bands are numbers by (product, day) and layer."""
    complete: dict[tuple[str, np.datetime64], tuple[int, ...]] = {}
    for (product, day), layers in bands.items():
        if day is not None and set(layers) == set(PRODUCTS[product].layers):
            complete[product, day] = tuple(layers[layer] for layer in PRODUCTS[product].layers)
    if not complete:
        (product, day), layers = next(iter(bands.items()))
        if day is None:
            return [], "neither its name nor its bands' names contain a date such as 2019_07_04"
        missing = sorted(set(PRODUCTS[product].layers) - set(layers))
        return [], f"it lacks the bands {', '.join(missing)} of {product}"
    rasters = []
    for (product, day), numbers in complete.items():
        mask = complete.get((_MASKED_BY[product], day), ()) if product in _MASKED_BY else ()
        rasters.append(Raster(path=path, product=product, day=day, bands=numbers, mask=mask))
    return rasters, ""


def _by_file_name(path: Path, day: np.datetime64 | None, names: list[str]) -> tuple[list[Raster], str]:
    """Return the raster of a file whose bands have not the layers' own names: by numbers, colours or positions."""
    match = _PRODUCT.search(path.stem)
    if match is None:
        return [], "neither its name nor its bands' names are those of a MODIS product that is used"
    if day is None:
        return [], "its name contains no date such as 2019_07_04 or A2019185"
    product = match[0].upper()
    layers = PRODUCTS[product].layers
    bands = find_bands(product, names)
    if bands is None:
        return [], f"{product} needs the bands {', '.join(layers)}; found {[n for n in names if n][:8]}"
    mask = bands if _MASKED_BY.get(product) == product else ()
    return [Raster(path=path, product=product, day=day, bands=bands, mask=mask)], ""


def _day(year: str, month: str, day: str) -> np.datetime64 | None:
    try:
        return np.datetime64(f"{year}-{month}-{day}", "D")
    except ValueError:
        return None


@dataclass(frozen=True)
class _Table:
    """A table of `getRegion`: one entry for each pixel and day, and bands by name, NaN where there is no value."""

    days: np.ndarray  # (entry,) datetime64[D]
    rows: np.ndarray  # (entry,) int64, global pixel
    cols: np.ndarray  # (entry,) int64, global pixel
    bands: dict[str, np.ndarray]  # (entry,) float64


def is_table(path: Path) -> bool:
    """Return whether a CSV has the columns of `ee.ImageCollection.getRegion`."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            head = file.readline(4096)
    except (OSError, UnicodeDecodeError):
        return False
    return set(_TABLE) <= {name.strip().strip('"') for name in head.rstrip("\r\n").split(",")}


def name_table(path: Path) -> tuple[list[Raster], str]:
    """List the rasters, one for each product and day, in a table of `getRegion`; returns as `name_bands`.

    Raises
    ------
    SourceError
        If the table cannot be mapped to pixels exactly.
    """
    table = _read(path)
    products = {name: p.layers for name, p in PRODUCTS.items() if set(p.layers) <= set(table.bands)}
    if not products:
        return [], f"its bands ({', '.join(sorted(table.bands)[:8]) or 'none'}) form no MODIS product that is used"
    days = np.unique(table.days)
    rasters = [
        Raster(path=path, product=name, day=day, bands=layers) for name, layers in products.items() for day in days
    ]
    return rasters, ""


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
    """Yield windows of one day of a table (band, height, width), NaN where it has no pixel; see `tiff.windows`."""
    table = _read(tile.path)
    here = np.flatnonzero(table.days == tile.day)
    rows, cols = table.rows[here] - tile.row, table.cols[here] - tile.col
    for r0, r1, c0, c1 in boxes:
        inside = (rows >= r0) & (rows < r1) & (cols >= c0) & (cols < c1)
        out = np.full((len(tile.bands), r1 - r0, c1 - c0), np.nan)
        for band, name in zip(out, tile.bands, strict=True):
            band[rows[inside] - r0, cols[inside] - c0] = table.bands[str(name)][here[inside]]
        yield out


def _read(path: Path) -> _Table:
    state = path.stat()
    return _read_table(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_table(path: Path, size: int, changed: int) -> _Table:
    frame = read_plain_table(path, dtype=str, encoding="utf-8-sig", skipinitialspace=True, keep_default_na=False)
    if frame.empty:
        raise SourceError(f"{path}: the table of getRegion has no rows: export it again.")
    numbers = {name: _numbers(path, frame[name], name) for name in frame if name in _LAYER_OF or name in _TABLE[1:]}
    for name in _TABLE[1:]:
        if np.isnan(numbers[name]).any():
            line = int(np.flatnonzero(np.isnan(numbers[name]))[0]) + 2
            raise SourceError(f"{path}: line {line}: no {name}; every row of getRegion has one: export it again.")
    rows, cols = _pixels(path, numbers["latitude"], numbers["longitude"])
    days = numbers["time"].astype("int64").astype("datetime64[ms]").astype("datetime64[D]")
    _check_days(path, frame["id"], days)
    _check_repeats(path, rows, cols, days)
    return _Table(days, rows, cols, {name: values for name, values in numbers.items() if name in _LAYER_OF})


def _numbers(path: Path, column: pd.Series, name: str) -> np.ndarray:
    import pandas as pd

    empty = column.isin(("", "None", "null", "nan", "NaN"))
    values = pd.to_numeric(column.where(~empty, "nan"), errors="coerce").to_numpy(float)
    if (bad := np.flatnonzero(np.isnan(values) & ~empty.to_numpy())).size:
        raise SourceError(
            f"{path}: line {bad[0] + 2}: {name} must be a number, found {column.iloc[bad[0]]!r}: export it again."
        )
    return values


def _pixels(path: Path, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the global row and column of each pixel; the coordinates must be those of its centre."""
    position = sinusoidal_position(latitude, longitude)
    off = np.maximum(*(np.abs(p - np.floor(p) - 0.5) for p in position))
    wrong = np.flatnonzero(~(off <= _OFF_CENTRE) | (np.abs(latitude) > 90))
    if wrong.size:
        raise SourceError(
            f"{path}: line {wrong[0] + 2}: latitude {latitude[wrong[0]]}, longitude {longitude[wrong[0]]} is "
            f"{off[wrong[0]]:.2f} pixels from the centre of a MODIS pixel ({wrong.size} of {off.size} rows are): the "
            "table was sampled on another grid. Call getRegion with the native one: "
            'getRegion(geometry, scale=463.3127165279165, crs="SR-ORG:6974").'
        )
    row, col = (np.floor(p).astype(np.int64) for p in position)
    return row, col


def _check_days(path: Path, ids: pd.Series, days: np.ndarray) -> None:
    """Check that the date in an image's name is that of its time stamp."""
    named = ids.str.extract(_DATE.pattern)
    known = named.notna().all(axis=1).to_numpy()
    text = (named[0] + "-" + named[1] + "-" + named[2]).to_numpy(object)
    wrong = [i for i in np.flatnonzero(known) if text[i] != str(days[i])]
    if wrong:
        raise SourceError(
            f"{path}: line {wrong[0] + 2}: image {ids.iloc[wrong[0]]} has the time stamp of {days[wrong[0]]}: one of "
            "the two is wrong; export the table again."
        )


def _check_repeats(path: Path, rows: np.ndarray, cols: np.ndarray, days: np.ndarray) -> None:
    """Refuse a table with two entries for one pixel and day."""
    keys = np.stack([days.astype(np.int64), rows, cols])
    unique, first, count = np.unique(keys, axis=1, return_index=True, return_counts=True)
    if unique.shape[1] < keys.shape[1]:
        line = int(first[count > 1][0]) + 2
        raise SourceError(f"{path}: line {line}: this pixel and day appear again further down: remove repeated rows.")

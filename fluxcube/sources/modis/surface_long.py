"""Read reflectance from long tables: MODISTools and ORNL's web service, and the area statistics of AppEEARS."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import PIXEL
from fluxcube.sources.modis.surface_columns import FLAGS, PLACES, agreed, column_meaning, find_columns, product_in
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.sources.modis.surface_tables import (
    ORNL_COLUMNS,
    ReadOptions,
    days_of,
    last_days,
    numbers,
    pixel_numbers,
    places_of,
    sites_of,
    with_angles,
)
from fluxcube.variables import SURFACE_BANDS

_GEOMETRY = ("xllcorner", "yllcorner", "cellsize", "nrows", "ncols")
_PLACE_NAME = re.compile(r"Lat(-?[\d.]+)Lon(-?[\d.]+)")
_STATISTICS = {"Dataset", "Date", "Mean", "Count"}


def is_statistics(frame: pd.DataFrame) -> bool:
    """Return whether a table is the statistics of areas that AppEEARS writes."""
    return set(frame.columns) >= _STATISTICS


def is_long(frame: pd.DataFrame) -> bool:
    """Return whether a table has one row for each band and pixel, as MODISTools writes it."""
    return {"band", "value"} <= set(frame.columns)


def is_wide(frame: pd.DataFrame) -> bool:
    """Return whether a table has one column for each pixel, as ORNL's web service writes it."""
    return set(ORNL_COLUMNS) <= set(frame.columns)


def read_statistics(frame: pd.DataFrame, where: str, options: ReadOptions) -> Observations:
    """Return the mean of each area, day and band of AppEEARS's statistics.

    Raises
    ------
    SourceError
        If the layers are no reflectances, or they are of MOD09GA, whose means contain clouds.
    """
    products = {product_in(str(name).replace("_", ".", 1)) for name in frame.get("File Name", pd.Series(dtype=str))}
    if len(products) > 1:
        raise SourceError(f"{where}: expected statistics of one product and collection, found {sorted(products)}.")
    product, collection = next(iter(products), ("", ""))
    return _pivot(
        pd.DataFrame(
            {
                "site": frame.get("aid", "area"),
                "day": frame["Date"],
                "band": frame["Dataset"],
                "value": frame["Mean"],
            }
        ),
        where,
        options,
        product or product_in(Path(where).name)[0],
        collection or product_in(Path(where).name)[1],
    )


def read_long(frame: pd.DataFrame, where: str, options: ReadOptions) -> Observations:
    """Return the observations of a table with columns ``band`` and ``value``, one row for each pixel.

    ``scale`` is applied where the table has it. Pixels are those of the MODIS grid where the table has its corners, so
    that flags of 1 km join the four pixels of 500 m of their cell.

    Raises
    ------
    SourceError
        If no band is a reflectance.
    """
    names = {str(value) for value in frame["product"].dropna().unique()} if "product" in frame else set()
    product, collection = product_in(next(iter(names), "")) if len(names) == 1 else ("", "")
    if len(names) > 1:
        raise SourceError(f"{where}: expected rows of one product, found {', '.join(sorted(names))}: split the table.")
    return _pivot(frame, where, options, product, collection)


def read_wide(frame: pd.DataFrame, where: str, options: ReadOptions) -> Observations:
    """Return the observations of ORNL's table with one column for each pixel.

    Raises
    ------
    SourceError
        If no band is a reflectance.
    """
    pixels = [name for name in frame.columns if str(name).isdigit()]
    long = frame.melt(id_vars=list(ORNL_COLUMNS), value_vars=pixels, var_name="pixel", value_name="value")
    long = long.rename(columns={"Site": "site", "Date": "modis_date", "Band": "band", "Product": "product"})
    place = long["site"].astype(str).str.extract(_PLACE_NAME)
    if place.notna().all(axis=None):
        long["latitude"], long["longitude"] = place[0].astype(float), place[1].astype(float)
    return read_long(long, where, options)


def _pivot(frame: pd.DataFrame, where: str, options: ReadOptions, product: str, collection: str) -> Observations:
    """Return the observations of a long table; each row is an entry with one band, which `merge` combines."""
    codes, names = pd.factorize(frame["band"])
    keys = [_key(str(name), options) for name in names]
    used = np.isin(codes, [i for i, key in enumerate(keys) if key is not None])
    if not used.any():
        raise SourceError(
            f"{where}: expected bands of reflectance, such as Nadir_Reflectance_Band1 or sur_refl_b01; found "
            f"{', '.join(map(str, names[:12]))}."
        )
    frame, codes = frame[used], codes[used]
    places = {key: name for key, name in options.columns.items() if key in PLACES}
    found, _, _ = find_columns(map(str, frame.columns), places, where)
    scale = _scales(frame, codes, keys)
    pixel = _pixel_keys(frame, where)
    site, sites = sites_of(frame, found, options, where)
    day, period = last_days(days_of(frame, found, options, where), site, options.period, where)
    latitude, longitude = places_of(frame, found, site, sites, where)
    at = np.repeat(np.arange(len(frame)), pixel.repeats if pixel is not None else 1)
    columns = _columns(numbers(frame["value"], where)[at], codes[at], keys)
    bands = {key: values for key, values in columns.items() if key in SURFACE_BANDS}
    return Observations(
        source=where,
        sites=sites,
        site=site[at],
        day=day[at],
        bands=bands,
        flags=with_angles({key: values for key, values in columns.items() if key not in bands}),
        latitude=latitude,
        longitude=longitude,
        product=agreed("product", options.product, product, where),
        collection=agreed("collection", options.collection, collection, where),
        scale={key: scale[key] for key in bands if key in scale},
        pixel=pixel.keys if pixel is not None else None,
        period=period,
        screened=False,
    )


def _columns(value: np.ndarray, codes: np.ndarray, keys: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Return one column (n,) for each band and flag, NaN in the entries of others."""
    own = {key: [i for i, other in enumerate(keys) if other == key] for key in keys if key is not None}
    return {key: np.where(np.isin(codes, at), value, np.nan) for key, at in own.items()}


def _key(name: str, options: ReadOptions) -> str | None:
    """Return the band or flag of the name of a layer."""
    chosen = next((key for key, column in options.columns.items() if column == name), None)
    if chosen is not None:
        return chosen
    meaning = column_meaning(name)
    if meaning is not None and (meaning.key in SURFACE_BANDS or meaning.key.split(":")[0] in FLAGS):
        return meaning.key
    return name if name in options.flags else None


def _scales(frame: pd.DataFrame, codes: np.ndarray, keys: Sequence[str | None]) -> dict[str, float]:
    """Return the factor of each band that the table declares."""
    if "scale" not in frame:
        return {}
    declared = pd.to_numeric(frame["scale"], errors="coerce").to_numpy(np.float64)
    scales = {}
    for i, key in enumerate(keys):
        own = declared[codes == i]
        own = own[np.isfinite(own)]
        if key is not None and own.size and own[0] > 0:
            scales[key] = float(own[0])
    return scales


class _Pixels:
    """Number of 500 m pixels of each row, and the key of each of them."""

    def __init__(self, repeats: np.ndarray, keys: np.ndarray) -> None:
        self.repeats, self.keys = repeats, keys


def _pixel_keys(frame: pd.DataFrame, where: str) -> _Pixels | None:
    """Return the pixels of rows: positions on the 500 m grid where the table has its corners, else their numbers."""
    if "pixel" not in frame:
        return None
    number = pixel_numbers(frame["pixel"], where)
    one = np.ones(len(frame), np.intp)
    if not set(_GEOMETRY) <= set(frame.columns):
        return _Pixels(one, number)
    left, low, size, rows, cols = (numbers(frame[name], where) for name in _GEOMETRY)
    if not np.isfinite([left, low, size, rows, cols]).all() or (cols < 1).any():
        return _Pixels(one, number)
    factor = np.rint(size / PIXEL).astype(np.int64)
    if not np.isin(factor, (1, 2)).all() or (np.abs(size - factor * PIXEL) > 1.0).any():
        return _Pixels(one, number)  # 250 m, or no MODIS grid
    row, col = (number - 1) // cols.astype(np.int64), (number - 1) % cols.astype(np.int64)
    north = np.rint((low + rows * size) / PIXEL).astype(np.int64) - row * factor
    west = np.rint(left / PIXEL).astype(np.int64) + col * factor
    repeats = (factor**2).astype(np.intp)
    at = np.repeat(np.arange(len(frame)), repeats)
    inner = np.arange(len(at)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    y, x = north[at] - inner // factor[at], west[at] + inner % factor[at]
    return _Pixels(repeats, (y + 50_000) * 200_000 + x + 100_000)

"""Where and when MODIS is fetched: windows of pixels around sites, or tiles and the part of them in an area."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.chips import chip_index
from fluxcube.errors import ConfigError
from fluxcube.fetch.items import request_key
from fluxcube.sources.modis.grid import COLS, ROWS, TILE
from fluxcube.sources.modis.surface_sites import Sites, read_sites
from fluxcube.sources.modis.surface_tables import read_frame
from fluxcube.stores.reading import open_store

Box = tuple[float, float, float, float]
Years = int | str | Sequence[int] | None

#: Pixels around a chip, so that it is covered if a coordinate is corrected by its rounding error.
MARGIN = 2
#: Satellite data are used from this long before the first hour of a site.
_BEFORE = np.timedelta64(32, "D")
_FIRST_YEAR = 2000
#: Columns of a chip this far apart are on both sides of 180 degrees east.
_GAP = 1000
_TILE_NAME = re.compile(r"h(\d{1,2})v(\d{1,2})", re.IGNORECASE)
_PERIOD = re.compile(r"(\d{4})(?:\s*[-–/:]\s*(\d{4}))?")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A block of pixels of the global 500 m grid, with the years to fetch for it.

    Attributes
    ----------
    name : str
        Name of the site, or of the tile (``h18v04``); it can be part of a file's name.
    row, col, height, width : int
        Pixels of the global grid.
    years : tuple of int
    latitude, longitude : float or None
        Place of the site, degrees.
    site : str
        Identifier of the site as it was passed, "" for a tile.
    """

    name: str
    row: int
    col: int
    height: int
    width: int
    years: tuple[int, ...]
    latitude: float | None = None
    longitude: float | None = None
    site: str = ""

    @property
    def tiles(self) -> tuple[tuple[int, int], ...]:
        """The (h, v) of all tiles that the window touches."""
        rows = range(self.row // TILE, (self.row + self.height - 1) // TILE + 1)
        cols = range(self.col // TILE, (self.col + self.width - 1) // TILE + 1)
        return tuple((h, v) for v in rows for h in cols)

    @property
    def whole_tile(self) -> bool:
        """Whether the window is a whole tile."""
        return self.height == self.width == TILE and self.row % TILE == self.col % TILE == 0

    def part_of(self, tile: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """Return the first row, last row + 1, first column and last column + 1 of the part of a tile; None if empty."""
        r0, c0 = max(self.row, tile[1] * TILE), max(self.col, tile[0] * TILE)
        r1 = min(self.row + self.height, (tile[1] + 1) * TILE)
        c1 = min(self.col + self.width, (tile[0] + 1) * TILE)
        return (r0, r1, c0, c1) if r0 < r1 and c0 < c1 else None


@dataclass(frozen=True)
class Places:
    """Windows around sites, or of tiles, and notes for the user about places that are left out."""

    windows: tuple[Window, ...]
    at_sites: bool
    notes: tuple[str, ...] = ()

    @property
    def years(self) -> tuple[int, ...]:
        """All years, ascending."""
        return tuple(sorted({year for window in self.windows for year in window.years}))

    def tiles(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """Return the years to fetch of each tile that a window touches, sorted."""
        years: dict[tuple[int, int], set[int]] = {}
        for window in self.windows:
            for tile in window.tiles:
                years.setdefault(tile, set()).update(window.years)
        return {tile: tuple(sorted(years[tile])) for tile in sorted(years)}


def find_places(
    *, at_sites: Sites | None = None, bbox: Box | None = None, tiles: Iterable[str] | None = None, years: Years = None
) -> Places:
    """Return the windows of pixels to fetch.

    Parameters
    ----------
    at_sites : cube, path of a cube or table, DataFrame, or mapping of site to (latitude, longitude), optional
        The years of a cube's sites are those of their data; a table can have columns ``first_year`` and ``last_year``,
        or ``years`` such as 2012-2014.
    bbox : (west, south, east, north), optional
        Degrees; west of east, or across 180 degrees if west > east.
    tiles : iterable of str, optional
        Such as "h18v04".
    years : int, str or sequence of int, optional
        Such as 2018, "2015-2018" or "2015,2018"; sites with years of their own keep those that are among them.

    Returns
    -------
    Places

    Raises
    ------
    ConfigError
        If not exactly one of `at_sites`, `bbox` and `tiles` is passed, or a value is invalid.
    """
    passed = [name for name, value in (("at_sites", at_sites), ("bbox", bbox), ("tiles", tiles)) if value is not None]
    if len(passed) != 1:
        raise ConfigError(
            f"expected one of at_sites, bbox and tiles, found {' and '.join(passed) or 'none'}: pass a cube or table "
            "of sites (--at-sites), west,south,east,north (--bbox), or tiles such as h18v04 (--tiles)."
        )
    selected = parse_years(years)
    if at_sites is not None:
        return _site_places(at_sites, selected)
    if selected is None:
        raise ConfigError("years: expected years such as 2018 or 2015-2018, found none: pass them (--years).")
    if bbox is not None:
        windows = _bbox_windows(bbox, selected)
    else:
        windows = [tile_window(tile, selected) for tile in _parse_tiles(tiles or ())]
    return Places(tuple(windows), at_sites=False)


def parse_years(years: Years) -> tuple[int, ...] | None:
    """Return years in ascending order, None if `years` is None.

    Examples
    --------
    >>> parse_years("2015-2017, 2019"), parse_years(2018)
    ((2015, 2016, 2017, 2019), (2018,))
    """
    if years is None:
        return None
    parts = years.split(",") if isinstance(years, str) else [years] if isinstance(years, int) else list(years)
    found: set[int] = set()
    for part in parts:
        match = _PERIOD.fullmatch(str(part).strip())
        if match is None:
            raise ConfigError(f"years: expected years such as 2018, 2015-2018 or 2015,2018; found {part!r}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"years: expected the first year before the last one, found {part!r}.")
        found.update(range(first, last + 1))
    this_year = int(str(np.datetime64("today", "Y")))
    if wrong := sorted(year for year in found if not _FIRST_YEAR <= year <= this_year):
        raise ConfigError(f"years: MODIS has data from {_FIRST_YEAR} to {this_year}, found {wrong[0]}.")
    if not found:
        raise ConfigError("years: expected at least one year, found none.")
    return tuple(sorted(found))


def tile_window(tile: tuple[int, int], years: tuple[int, ...]) -> Window:
    """Return the window of a whole tile (h, v)."""
    h, v = tile
    return Window(name=tile_name(tile), row=v * TILE, col=h * TILE, height=TILE, width=TILE, years=years)


def tile_name(tile: tuple[int, int]) -> str:
    """Return the name of a tile (h, v), such as "h18v04"."""
    return f"h{tile[0]:02d}v{tile[1]:02d}"


def _parse_tiles(tiles: Iterable[str]) -> list[tuple[int, int]]:
    found = []
    for text in [tiles] if isinstance(tiles, str) else tiles:
        for part in str(text).split(","):
            match = _TILE_NAME.fullmatch(part.strip())
            tile = (int(match[1]), int(match[2])) if match else (99, 99)
            if tile[0] >= COLS // TILE or tile[1] >= ROWS // TILE:
                raise ConfigError(f"tiles: expected names from h00v00 to h35v17, found {part.strip()!r}.")
            found.append(tile)
    if not found:
        raise ConfigError("tiles: expected at least one tile such as h18v04, found none.")
    return sorted(set(found))


def _bbox_windows(bbox: Box, years: tuple[int, ...]) -> list[Window]:
    """Return for each tile the smallest window that contains every pixel in an area."""
    west, south, east, north = (float(edge) for edge in bbox)
    if not (-90 <= south < north <= 90 and -180 <= west <= 180 and -180 <= east <= 180 and west != east):
        raise ConfigError(
            f"bbox: expected west, south, east and north in degrees with south < north, found {tuple(bbox)}."
        )
    spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
    tiles: dict[tuple[int, int], list[int]] = {}
    for span in spans:
        _add_rows(tiles, span, south, north)
    return [
        Window(name=tile_name(tile), row=r0, col=c0, height=r1 - r0, width=c1 - c0, years=years)
        for tile, (r0, r1, c0, c1) in sorted(tiles.items())
    ]


def _add_rows(tiles: dict[tuple[int, int], list[int]], span: tuple[float, float], south: float, north: float) -> None:
    """Add the columns of each row of pixels in an area to the windows of the tiles."""
    rows = np.arange(math.floor((90 - north) * ROWS / 180), min(math.ceil((90 - south) * ROWS / 180), ROWS))
    width = np.cos(np.deg2rad(90 - (rows + 0.5) * 180 / ROWS))
    first = np.clip(np.floor((180 + span[0] * width) * ROWS / 180), 0, COLS - 1).astype(int)
    last = np.clip(np.floor((180 + span[1] * width) * ROWS / 180), 0, COLS - 1).astype(int)
    for v in np.unique(rows // TILE):
        mine = rows // TILE == v
        for h in range(first[mine].min() // TILE, last[mine].max() // TILE + 1):
            left, right = np.maximum(first[mine], h * TILE), np.minimum(last[mine], (h + 1) * TILE - 1)
            touched = left <= right
            if touched.any():
                window = [int(rows[mine][touched].min()), int(rows[mine][touched].max()) + 1]
                window += [int(left[touched].min()), int(right[touched].max()) + 1]
                old = tiles.get((h, int(v)), window)
                edges = zip((min, max, min, max), old, window, strict=True)
                tiles[h, int(v)] = [pick(before, now) for pick, before, now in edges]


def _site_places(at_sites: Sites, selected: tuple[int, ...] | None) -> Places:
    table = _open_sites(at_sites)
    places, years = read_sites(table), _site_years(table)
    windows: list[Window] = []
    notes: list[str] = []
    names = _file_names(places)
    without = [site for site in places if not _selected(years.get(site), selected)]
    if selected is None and any(site not in years for site in places):
        raise ConfigError(
            "years: the sites have no years of their own: pass years (--years 2015-2018), or a table with columns "
            "first_year and last_year."
        )
    if without:
        which = f"{', '.join(without[:10])}{', ...' if len(without) > 10 else ''}"
        notes.append(f"sites without data in the years ({len(without)}), which are left out: {which}")
    for site, (latitude, longitude) in places.items():
        mine = _selected(years.get(site), selected)
        if mine:
            windows += _site_windows(site, names[site], latitude, longitude, mine)
    if not windows:
        raise ConfigError(f"no site of {len(places)} has data in the years {selected}: pass other years.")
    return Places(tuple(windows), at_sites=True, notes=tuple(notes))


def _selected(own: tuple[int, ...] | None, selected: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the years of a site among the selected ones."""
    if own is None:
        return selected or ()
    this_year = int(str(np.datetime64("today", "Y")))
    own = tuple(year for year in own if _FIRST_YEAR <= year <= this_year)
    return own if selected is None else tuple(year for year in own if year in selected)


def _site_windows(site: str, name: str, latitude: float, longitude: float, years: tuple[int, ...]) -> list[Window]:
    """Return the window of a site; two if its chip is on both sides of 180 degrees east."""
    rows, cols = chip_index(latitude, longitude)
    columns = np.unique(cols)
    parts = np.split(columns, np.flatnonzero(np.diff(columns) > _GAP) + 1)
    r0, r1 = max(int(rows.min()) - MARGIN, 0), min(int(rows.max()) + 1 + MARGIN, ROWS)
    windows = []
    for n, part in enumerate(parts):
        c0, c1 = max(int(part[0]) - MARGIN, 0), min(int(part[-1]) + 1 + MARGIN, COLS)
        windows.append(
            Window(
                name=f"{name}-{n + 1}" if n else name,
                row=r0,
                col=c0,
                height=r1 - r0,
                width=c1 - c0,
                years=years,
                latitude=latitude,
                longitude=longitude,
                site=site,
            )
        )
    return windows


def _open_sites(at_sites: Sites) -> pd.DataFrame | xr.Dataset | Mapping[str, tuple[float, float]]:
    """Return the table, cube or mapping at a path."""
    if not isinstance(at_sites, (str, os.PathLike)):
        return at_sites
    path = Path(at_sites)
    if not path.exists():
        raise ConfigError(
            f"at_sites: {path} does not exist: pass a cube, or a table with site, latitude and longitude."
        )
    return open_store(path, kind="cube") if path.is_dir() else read_frame(path)


def _site_years(table: pd.DataFrame | xr.Dataset | Mapping[str, tuple[float, float]]) -> dict[str, tuple[int, ...]]:
    """Return the years of the sites of a cube or table that has them."""
    if isinstance(table, xr.Dataset):
        return _cube_years(table)
    if not isinstance(table, pd.DataFrame):
        return {}
    columns = {str(name).strip().lower(): name for name in table.columns}
    site = next((columns[name] for name in ("site", "site_id", "siteid", "id") if name in columns), None)
    if site is None:
        return {}
    if {"first_year", "last_year"} <= set(columns):
        texts = [
            f"{_whole(a)}-{_whole(b)}"
            for a, b in zip(table[columns["first_year"]], table[columns["last_year"]], strict=True)
        ]
    elif "years" in columns:
        texts = [str(text).strip() for text in table[columns["years"]]]
    else:
        return {}
    found = {}
    for name, text in zip(table[site], texts, strict=True):
        if match := _PERIOD.fullmatch(text):
            found[str(name)] = tuple(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def _whole(value: object) -> str:
    return str(value).strip().removesuffix(".0")


def _cube_years(cube: xr.Dataset) -> dict[str, tuple[int, ...]]:
    if not {"site", "time_start", "time_stop"} <= {*cube.coords, *cube.data_vars}:
        return {}
    starts = (cube["time_start"].values.astype("datetime64[h]") - _BEFORE.astype("timedelta64[h]")).astype(
        "datetime64[Y]"
    )
    stops = (cube["time_stop"].values.astype("datetime64[h]") - np.timedelta64(1, "h")).astype("datetime64[Y]")
    sites = [str(site) for site in np.atleast_1d(cube["site"].values)]
    pairs = zip(sites, np.atleast_1d(starts).astype(int) + 1970, np.atleast_1d(stops).astype(int) + 1970, strict=True)
    return {site: tuple(range(int(first), int(last) + 1)) for site, first, last in pairs}


def _file_names(sites: Iterable[str]) -> dict[str, str]:
    """Return a text for each site that can be part of the name of a file, different for each."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for site in sites:
        name = re.sub(r"[^A-Za-z0-9-]+", "-", site).strip("-")[:60]
        if name != site or name.lower() in used:
            name = f"{name}-{zlib.crc32(site.encode()):08x}".strip("-")
        used.add(name.lower())
        names[site] = name
    return names


def window_request(window: Window, **request: object) -> str:
    """Return the key of a request for a window of pixels; equal requests have equal keys."""
    return request_key({"window": [window.row, window.col, window.height, window.width], **request})

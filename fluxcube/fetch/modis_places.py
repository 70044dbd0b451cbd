"""Where and when MODIS is fetched: windows of pixels around sites, or tiles and the part of them in an area."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fluxcube.cubes.chips import chip_index
from fluxcube.errors import ConfigError, to_type
from fluxcube.fetch.items import file_names, request_key
from fluxcube.fetch.periods import Box, Years, parse_box, parse_years
from fluxcube.fetch.sites import Site, SiteChoice, find_sites
from fluxcube.sources.modis.grid import COLS, ROWS, TILE

#: Pixels around a chip, so that it is covered if a coordinate is corrected by its rounding error.
MARGIN = 2
#: Satellite data are used from this long before the first hour of a site.
_BEFORE = np.timedelta64(32, "D")
_FIRST_YEAR = 2000
#: Columns of a chip this far apart are on both sides of 180 degrees east.
_GAP = 1000
_TILE_NAME = re.compile(r"h(\d{1,2})v(\d{1,2})", re.IGNORECASE)


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
    *,
    at_sites: SiteChoice | None = None,
    bbox: Box | None = None,
    tiles: Iterable[str] | None = None,
    years: Years = None,
) -> Places:
    """Return the windows of pixels to fetch.

    Parameters
    ----------
    at_sites, bbox, years
        As of `fluxcube.fetch.sites.find_sites`, `fluxcube.fetch.periods.parse_box` and `parse_years`; sites with years
        of their own keep those that are among `years`.
    tiles : iterable of str, optional
        Such as "h18v04".

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
            f"expected one of at_sites, bbox and tiles, found {' and '.join(passed) or 'none'}: pass "
            + to_type(
                python="at_sites=(a cube or table of sites), bbox=(west, south, east, north), or tiles=['h18v04'].",
                shell="--at-sites CUBE_OR_TABLE, --bbox WEST,SOUTH,EAST,NORTH, or --tiles h18v04.",
            )
        )
    selected = parse_years(years, _FIRST_YEAR, _this_year())
    if at_sites is not None:
        return _site_places(at_sites, selected)
    if selected is None:
        example = to_type(python="years='2015-2018'", shell="--years 2015-2018")
        raise ConfigError(f"years: expected years, found none: pass for example {example}.")
    if bbox is not None:
        windows = _bbox_windows(bbox, selected)
    else:
        windows = [tile_window(tile, selected) for tile in _parse_tiles(tiles or ())]
    return Places(tuple(windows), at_sites=False)


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
    west, south, east, north = parse_box(bbox)
    if south == north or west == east:
        raise ConfigError(f"bbox: expected an area, with south < north and west != east, found {tuple(bbox)}.")
    spans = [(west, east)] if east <= 180 else [(west, 180.0), (-180.0, east - 360)]
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


def _this_year() -> int:
    return int(str(np.datetime64("today", "Y")))


def _site_places(at_sites: SiteChoice, selected: tuple[int, ...] | None) -> Places:
    sites, notes = find_sites(at_sites, _BEFORE)
    windows: list[Window] = []
    names = file_names(site.name for site in sites)
    without = [site.name for site in sites if not _selected(site.years, selected)]
    if selected is None and any(site.years is None for site in sites):
        example = to_type(python="years='2015-2018'", shell="--years 2015-2018")
        raise ConfigError(
            f"years: the sites have no years of their own: pass {example}, or a table with columns first_year and "
            "last_year."
        )
    if without:
        which = f"{', '.join(without[:10])}{', ...' if len(without) > 10 else ''}"
        notes.append(f"sites without data in the years ({len(without)}), which are left out: {which}")
    for site in sites:
        if mine := _selected(site.years, selected):
            windows += _site_windows(site, names[site.name], mine)
    if not windows:
        chosen = f"{selected[0]} to {selected[-1]}" if selected else f"from {_FIRST_YEAR} on"
        raise ConfigError(f"no site of {len(sites)} has data in the years {chosen}: pass other years.")
    return Places(tuple(windows), at_sites=True, notes=tuple(notes))


def _selected(own: tuple[int, ...] | None, selected: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the years of a site among the selected ones."""
    if own is None:
        return selected or ()
    own = tuple(year for year in own if _FIRST_YEAR <= year <= _this_year())
    return own if selected is None else tuple(year for year in own if year in selected)


def _site_windows(site: Site, name: str, years: tuple[int, ...]) -> list[Window]:
    """Return the window of a site; two if its chip is on both sides of 180 degrees east."""
    rows, cols = chip_index(site.latitude, site.longitude)
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
                latitude=site.latitude,
                longitude=site.longitude,
                site=site.name,
            )
        )
    return windows


def window_request(window: Window, **request: object) -> str:
    """Return the key of a request for a window of pixels; equal requests have equal keys."""
    return request_key({"window": [window.row, window.col, window.height, window.width], **request})

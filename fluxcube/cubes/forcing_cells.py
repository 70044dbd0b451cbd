"""Land cover of the cells of a grid, and the blocks of 4 km that represent each cell, from MODIS land cover.

Land cover has 240 pixels per degree, 1.2 gigabytes for the globe: it is read in windows of a few degrees, each once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import xarray as xr

from fluxcube.biomes import igbp_code, igbp_number
from fluxcube.cubes.chips import RasterSource, chip_index, sinusoidal_pixel
from fluxcube.errors import ConfigError
from fluxcube.sources.era5.series import Files
from fluxcube.sources.modis.rasters import COLS, ROWS, Tile, find_tiles, read_land_cover

log = logging.getLogger(__name__)

_CELLS = ("latitude", "longitude")
_WATER = igbp_number("WAT")
_PER_DEGREE = ROWS // 180
#: Size of a window in degrees, and pixels around it that chips can extend into: the sinusoidal grid is slanted.
_WINDOW, _MARGIN = 5.0, 32
# Further blocks of a class may be this much less pure than the purest; otherwise a mixed cell would have no second one.
_LESS_PURE = 0.25


@dataclass(frozen=True, eq=False)
class Cells:
    """Land cover and blocks of each cell of a grid.

    Attributes
    ----------
    igbp : (latitude, longitude) object
        IGBP class, "" where unknown.
    land : (latitude, longitude) float64
        Share of pixels that are not water; NaN where unknown.
    latitude, longitude : (latitude, longitude, block) float64
        Centres of the chips.
    classes : (latitude, longitude, block) object
        Class that each block represents.
    weights : (latitude, longitude, block) float32
        Share of the cell's land that each block represents; the shares of a cell add up to 1.
    """

    igbp: np.ndarray
    land: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    classes: np.ndarray
    weights: np.ndarray

    @classmethod
    def at_centres(cls, grid: Files, igbp: np.ndarray, blocks: int = 1) -> Cells:
        """Return cells of some classes with a block at their centres; further blocks have the weight 0."""
        shape = (*igbp.shape, blocks)
        lat, lon = grid.latitude[:, None, None], grid.longitude[None, :, None]
        weights = (np.arange(blocks) == 0).astype("float32")
        # Views, since a global grid of fine cells is large: copy them before changing them.
        spread = (np.broadcast_to(values, shape) for values in (lat, lon, igbp[..., None], weights))
        return cls(igbp, np.broadcast_to(np.nan, igbp.shape), *spread)

    def writable(self) -> Cells:
        """Return a copy that can be changed."""
        return Cells(*(getattr(self, one.name).copy() for one in fields(self)))


def plain_cells(igbp: str | xr.DataArray | None, grid: Files) -> Cells:
    """Return cells without land cover: one class, or a map of classes; chips at the centres.

    Parameters
    ----------
    igbp : str or DataArray (latitude, longitude) or None
        Class of every cell; None for unknown.
    grid : Files
        ERA5 files.

    Returns
    -------
    Cells
        With one block each.

    Raises
    ------
    UnknownNameError
        If a class is not one of IGBP.
    ConfigError
        If a map lacks a value at some cell.
    """
    shape = len(grid.latitude), len(grid.longitude)
    if isinstance(igbp, xr.DataArray):
        classes = _class_map(igbp, grid)
    else:
        classes = np.broadcast_to(np.array("" if igbp is None else igbp, object), shape)
    for code in {str(c) for c in (classes.ravel() if isinstance(igbp, xr.DataArray) else classes[:1, 0])} - {""}:
        igbp_number(code)
    return Cells.at_centres(grid, classes)


def at_cells(values: xr.DataArray, grid: Files, name: str) -> xr.DataArray:
    """Return the values (latitude, longitude) of a map at the cells of a grid.

    Parameters
    ----------
    values : DataArray (latitude, longitude)
        The map.
    grid : Files
        ERA5 files.
    name : str
        Name of the map in error messages.

    Returns
    -------
    DataArray (latitude, longitude)
        On the cells of the grid.

    Raises
    ------
    ConfigError
        If the map has other dimensions, or no value within a thousandth of a degree of some cell.
    """
    if set(values.dims) != set(_CELLS):
        raise ConfigError(f"{name} must have dims {_CELLS}, found {values.dims}.")
    at = {"latitude": grid.latitude, "longitude": grid.longitude}
    try:
        return values.transpose(*_CELLS).sel(at, method="nearest", tolerance=1e-3)
    except KeyError as problem:
        raise ConfigError(f"{name} must have a value at every cell of the grid: none at {problem}.") from None


def _class_map(igbp: xr.DataArray, grid: Files) -> np.ndarray:
    """Return the classes (latitude, longitude) of a map of IGBP numbers or codes."""
    classes = at_cells(igbp, grid, "igbp")
    if np.issubdtype(classes.dtype, np.number):
        return np.array([[igbp_code(n) if np.isfinite(n) else "" for n in row] for row in classes.values], object)
    return classes.values.astype(object).astype(str).astype(object)


def land_cells(source: RasterSource, grid: Files, blocks: int = 1) -> Cells:
    """Read the class, share of land and blocks of every cell from MCD12Q1.

    The class of a cell is the most frequent one of its pixels, water only if there is no other. With one block, this is
    the purest of that class (by the share of its 64 pixels), the nearest to the centre among equals. With several
    blocks, these are divided among land classes in proportion to their pixels (largest remainders); the first block of
    a class is chosen as above, each further one as far as possible from those before it, among blocks that are at most
    a quarter less pure.

    Parameters
    ----------
    source : path, folder or list
        MCD12Q1 rasters; with several years, the most frequent class is used.
    grid : Files
        ERA5 files.
    blocks : int
        Maximum number of blocks of a cell.

    Returns
    -------
    Cells
    """
    tiles = find_tiles(source, products=("MCD12Q1",))
    shape = len(grid.latitude), len(grid.longitude)
    cells = Cells.at_centres(grid, np.full(shape, "", object), blocks).writable()
    high, wide = grid.step
    for rows in _runs(grid.latitude, high):
        for cols in _runs(grid.longitude, wide):
            window = _Window.read(tiles, grid.latitude[rows], grid.longitude[cols], high, wide)
            if window.known:
                window.fill(cells, rows, cols, grid.land_fraction if grid.masked else None)
    unknown = int((cells.igbp == "").sum())
    if unknown:
        log.warning("%d of %d cells have no land cover: their class is empty", unknown, cells.igbp.size)
    cells.land[np.isnan(cells.land)] = 1.0
    return cells


def _runs(centres: np.ndarray, step: float) -> Iterator[slice]:
    """Yield runs of adjacent cells, a few degrees long."""
    ends = np.flatnonzero(np.abs(np.diff(centres)) > 1.5 * step) + 1
    length = max(1, int(_WINDOW / step))
    for a, b in zip((0, *ends), (*ends, len(centres)), strict=True):
        for at in range(int(a), int(b), length):
            yield slice(at, min(at + length, int(b)))


@dataclass(frozen=True, eq=False)
class _Window:
    """Land cover of a window of cells and of a margin that chips extend into."""

    classes: np.ndarray  # (rows, columns) uint8; 0 unknown
    row: int  # global row and column of the window's corner
    col: int
    latitude: np.ndarray  # centres of the cells
    longitude: np.ndarray
    high: float  # height and width of a cell, degrees
    wide: float

    @classmethod
    def read(
        cls, tiles: Sequence[Tile], latitude: np.ndarray, longitude: np.ndarray, high: float, wide: float
    ) -> _Window:
        """Read the land cover of some cells."""
        south, north = max(latitude.min() - high / 2, -90.0), min(latitude.max() + high / 2, 90.0)
        # Beyond the antimeridian the grid continues at its other end: only this side of a cell across it is used.
        west, east = max(longitude.min() - wide / 2, -180.0), min(longitude.max() + wide / 2, 179.9999)
        corners = sinusoidal_pixel(*np.meshgrid([south, north, np.clip(0.0, south, north)], [west, east]))
        rows = max(int(corners[0].min()) - _MARGIN, 0), min(int(corners[0].max()) + _MARGIN + 1, ROWS)
        cols = max(int(corners[1].min()) - _MARGIN, 0), min(int(corners[1].max()) + _MARGIN + 1, COLS)
        classes = read_land_cover(tiles, rows, cols)
        return cls(np.where(classes > _WATER, 0, classes), rows[0], cols[0], latitude, longitude, high, wide)

    @property
    def known(self) -> bool:
        """Whether any class is known."""
        return bool(self.classes.any())

    def fill(self, cells: Cells, rows: slice, cols: slice, mask: np.ndarray | None) -> None:
        """Set the cells of the window; chips of cells that are sea according to a mask stay at the centres."""
        counts = self._counts()
        known = counts[..., 1:].sum(-1) > 0
        dry = counts[..., 1:_WATER].sum(-1)
        number = np.where(dry > 0, counts[..., 1:_WATER].argmax(-1) + 1, _WATER)
        for i, j in zip(*np.nonzero(known), strict=True):
            cells.igbp[rows.start + i, cols.start + j] = igbp_code(int(number[i, j]))
        total = counts[..., 1:].sum(-1)
        cells.land[rows, cols] = np.where(known, dry / np.maximum(total, 1), np.nan)
        cells.classes[rows, cols] = cells.igbp[rows, cols, None]
        land = (dry > 0) if mask is None else (dry > 0) & (mask[rows, cols] > 0)
        at = np.nonzero(land)
        if not len(at[0]):
            return
        chips = chip_index(self.latitude[at[0]], self.longitude[at[1]])
        middle = sinusoidal_pixel(self.latitude[at[0]], self.longitude[at[1]])
        one = cells.weights.shape[-1] == 1
        # In most cells the chip at the centre consists of the class alone; then it is used.
        pure = (self._classes_at(*chips) == number[at][:, None, None]).all((1, 2))
        settled = one & pure & (self._classes_at(*middle) == number[at])
        for n in np.flatnonzero(~settled):
            i, j = at[0][n], at[1][n]
            around = tuple((pixels[n] - centre[n]).ravel() for pixels, centre in zip(chips, middle, strict=True))
            at_cell = rows.start + i, cols.start + j
            if one:
                (place,) = self._places(int(number[i, j]), i, j, 1, around)
                cells.latitude[(*at_cell, 0)], cells.longitude[(*at_cell, 0)] = place
            else:
                shares = share_out(counts[i, j, 1:_WATER], cells.weights.shape[-1])
                numbers = (np.flatnonzero(shares) + 1).tolist()
                places = {n: self._places(n, i, j, int(shares[n - 1]), around) for n in numbers}
                _set_blocks(cells, at_cell, counts[i, j], places)

    def _counts(self) -> np.ndarray:
        """Return the numbers of pixels of each class (row, column, 18); class 0 is unknown."""
        size = len(self.longitude)
        out = np.zeros((len(self.latitude), size, _WATER + 1), np.int64)
        west = self.longitude[0] - self.wide / 2
        for i in range(len(self.latitude)):
            pixels, lon = self._strip(i)
            cell = np.floor((lon - west) / self.wide + 1e-9).astype(np.int64)
            inside = (cell >= 0) & (cell < size)
            key = cell[inside] * (_WATER + 1) + pixels[inside]
            out[i] = np.bincount(key, minlength=size * (_WATER + 1)).reshape(size, -1)
        return out

    def _rows(self, i: int) -> np.ndarray:
        """Return the rows of the window whose pixels lie in a row of cells."""
        lat = self._latitudes(np.arange(len(self.classes)))
        centre = self.latitude[i]
        return np.flatnonzero((lat > centre - self.high / 2) & (lat <= centre + self.high / 2))

    def _strip(self, i: int, c0: int = 0, c1: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes and longitudes (row, column) of the pixels in a row of cells."""
        rows = self._rows(i)
        pixels = self.classes[rows[0] : rows[-1] + 1, c0:c1] if len(rows) else self.classes[:0, c0:c1]
        across = (self.col + c0 + np.arange(pixels.shape[1]) + 0.5) / _PER_DEGREE - 180.0
        return pixels, across / np.cos(np.deg2rad(self._latitudes(rows)))[:, None]

    def _latitudes(self, rows: np.ndarray) -> np.ndarray:
        return 90.0 - (self.row + rows + 0.5) / _PER_DEGREE

    def _classes_at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return the classes of global pixels; 0 outside the window."""
        r, c = rows - self.row, cols - self.col
        inside = (r >= 0) & (r < self.classes.shape[0]) & (c >= 0) & (c < self.classes.shape[1])
        return np.where(inside, self.classes[np.where(inside, r, 0), np.where(inside, c, 0)], 0)

    def _places(self, number: int, i: int, j: int, blocks: int, around: tuple) -> list[tuple[float, float]]:
        """Return the latitude and longitude of up to `blocks` blocks of a class in one cell."""
        rows, latitude, longitude = self._rows(i), self.latitude[i], self.longitude[j]
        west, east = longitude - self.wide / 2, longitude + self.wide / 2
        width = np.cos(np.deg2rad(self._latitudes(rows)))
        ends = (180.0 + np.outer((west, east), width)) * _PER_DEGREE - self.col
        c0, c1 = (int(np.clip(end, 0, self.classes.shape[1])) for end in (ends.min(), np.ceil(ends.max()) + 1))
        pixels, lon = self._strip(i, c0, c1)
        same = (pixels == number) & (lon >= west) & (lon < east)
        pure = np.where(same, self._purity(number, rows, c0, c1, around), -1.0)
        lat = np.broadcast_to(self._latitudes(rows)[:, None], lon.shape)
        row, col = (int(n) for n in sinusoidal_pixel(np.array(latitude), np.array(longitude)))
        centre = row - self.row - rows[0], col - self.col - c0
        squeeze = np.cos(np.deg2rad(latitude))
        places: list[tuple[float, float]] = []
        away = np.hypot(lat - latitude, (lon - longitude) * squeeze)
        best = pure >= pure.max() - 1e-9
        if best[centre]:
            places.append((float(latitude), float(longitude)))
        else:
            places.append(_place(lat, lon, np.where(best, away, np.inf).argmin()))
        near_best = pure >= max(pure.max() - _LESS_PURE, 0.0) - 1e-9
        closest = np.full(lon.shape, np.inf)
        for _ in range(blocks - 1):
            last = places[-1]
            closest = np.minimum(closest, np.hypot(lat - last[0], (lon - last[1]) * squeeze))
            farthest = np.where(near_best, closest, -1.0)
            if farthest.max() < 1 / _PER_DEGREE:
                break
            places.append(_place(lat, lon, farthest.argmax()))
        return places

    def _purity(self, number: int, rows: np.ndarray, c0: int, c1: int, around: tuple) -> np.ndarray:
        """Return the share of the class `number` in the 64 pixels of the chip that is centred on each pixel.

        Within a cell all chips consist of the same pixels relative to their own centre, to within one pixel: those of
        the chip at the cell's centre, including the slant of the sinusoidal grid.
        """
        down, right = around
        # Pixels outside the window are unknown, and treated as another class.
        top, left = rows[0] + down.min(), c0 + right.min()
        same = _window(self.classes, top, rows[-1] + 1 + down.max(), left, c1 + right.max()) == number
        same = same.view(np.uint8)
        total = np.zeros((len(rows), c1 - c0), np.uint8)
        for r, c in zip(down - down.min(), right - right.min(), strict=True):
            total += same[r : r + len(rows), c : c + c1 - c0]
        return total / 64.0


def _set_blocks(
    cells: Cells, at: tuple[int, int], counts: np.ndarray, places: Mapping[int, Sequence[tuple[float, float]]]
) -> None:
    """Set the blocks of one cell, from the numbers of its pixels and the places of blocks by class number."""
    represented = counts[list(places)].sum()
    block = 0
    for number, centres in places.items():
        for latitude, longitude in centres:
            cells.latitude[(*at, block)], cells.longitude[(*at, block)] = latitude, longitude
            cells.classes[(*at, block)] = igbp_code(number)
            cells.weights[(*at, block)] = counts[number] / represented / len(centres)
            block += 1
    cells.weights[at][block:] = 0.0


def _place(lat: np.ndarray, lon: np.ndarray, at: np.intp) -> tuple[float, float]:
    return float(lat.flat[at]), float(lon.flat[at])


def share_out(counts: np.ndarray, seats: int) -> np.ndarray:
    """Divide a number of blocks among classes in proportion to their pixels, by largest remainders.

    Parameters
    ----------
    counts : (class,) int
        Numbers of pixels.
    seats : int
        Number of blocks.

    Returns
    -------
    (class,) int
        Numbers of blocks, which add up to `seats`; 0 for a class without pixels. Of equal remainders the first wins.

    Examples
    --------
    >>> share_out(np.array([70, 0, 25, 5]), 4)
    array([3, 0, 1, 0])
    """
    exact = counts * seats / counts.sum()
    out = np.floor(exact).astype(np.int64)
    rest = np.where(counts > 0, exact - out, -1.0)
    out[np.argsort(-rest, kind="stable")[: seats - out.sum()]] += 1
    return out


def _window(values: np.ndarray, r0: int, r1: int, c0: int, c1: int) -> np.ndarray:
    """Return a part of an array; the part may extend beyond the array, where it is 0."""
    out = np.zeros((r1 - r0, c1 - c0), values.dtype)
    a0, a1, b0, b1 = max(r0, 0), min(r1, values.shape[0]), max(c0, 0), min(c1, values.shape[1])
    if a0 < a1 and b0 < b1:
        out[a0 - r0 : a1 - r0, b0 - c0 : b1 - c0] = values[a0:a1, b0:b1]
    return out

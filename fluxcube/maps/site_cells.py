"""Choose the cell of each tower: the one that contains it, the nearest with data, or the nearest of its class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.biomes import IGBP_CODES
from fluxcube.errors import SchemaError
from fluxcube.maps.axes import Grid, standard_names
from fluxcube.maps.pixels import read_cells

logger = logging.getLogger(__name__)

#: Properties of cells; sampled, they are coordinates named ``cell_<name>``.
STATIC = ("igbp", "elevation", "land_fraction", "cell_area", "koppen")
#: Maximum number of cells, along each axis, between the cell of a tower and a cell of its class.
MATCH_CELLS = 2
_CELLS = {"latitude", "longitude"}
_MAX_NAMES = 10
#: Function of cells (n, 2) that returns one value of each (n,).
Lookup = Callable[[np.ndarray], np.ndarray]


@dataclass(eq=False)
class SiteCells:
    """The cell of each tower, and what is special about it.

    Attributes
    ----------
    grid : Grid
        Cells of the maps.
    cells : (site, 2) int
        Cell that is used, (-1, -1) for none.
    note : (site,) object
        Text of ``cell_note``.
    counts : dict
        Names of sites by what the report says about them.
    moved : (site,) bool
        Whether another cell than that of the tower is used.
    sites : (site,) str
        Names of the towers.
    """

    grid: Grid
    cells: np.ndarray
    note: np.ndarray
    counts: dict[str, list[str]]
    moved: np.ndarray
    sites: np.ndarray

    @classmethod
    def at(cls, grid: Grid, towers: xr.Dataset) -> SiteCells:
        """Return the cells that contain the towers."""
        latitude, longitude = places_of(towers)
        cells = grid.containing(latitude, longitude)
        count = len(cells)
        sites = towers["site"].values if "site" in towers.coords else np.arange(count)
        out = cls(grid, cells, np.full(count, "", object), {}, np.zeros(count, bool), sites.astype(str))
        unplaced = ~(np.isfinite(latitude) & np.isfinite(longitude))
        for i in np.flatnonzero(cells[:, 0] < 0).tolist():
            out._remark(i, "without coordinates" if unplaced[i] else "outside the maps")
        return out

    def _remark(self, site: int, summary: str, note: str = "") -> None:
        self.note[site] = note or summary
        self.counts.setdefault(summary, []).append(str(self.sites[site]))

    def _use(self, site: int, cell: np.ndarray | None, summary: str, missing: str, km: float) -> None:
        """Use another cell for a tower, or none."""
        if cell is None:
            self.cells[site] = -1
            self._remark(site, missing)
        elif (cell != self.cells[site]).any():
            self.cells[site], self.moved[site] = cell, True
            self._remark(site, f"assigned {summary}", f"{summary}, {km:.1f} km from the tower")

    def move_to_data(self, towers: xr.Dataset, has_data: Lookup, max_distance_km: float) -> None:
        """Use the nearest cell with data where a tower's cell has none."""
        inside = np.flatnonzero(self.cells[:, 0] >= 0)
        lacking = inside[~has_data(self.cells[inside])]
        latitude, longitude = places_of(towers)
        for i in lacking.tolist():
            near = self.grid.neighbours(latitude[i], longitude[i], self.cells[i], km=max_distance_km, reach=None)[1:]
            cell = _first(near, has_data)
            missing = f"without a cell with data within {max_distance_km:g} km"
            self._use(i, cell, "the nearest cell with data", missing, self._km(towers, i, cell))

    def match(self, towers: xr.Dataset, class_of: Callable[[np.ndarray], np.ndarray], km: float | None) -> None:
        """Use the nearest cell of the class of each tower."""
        if "igbp" not in towers.coords:
            raise SchemaError("match_igbp needs the coordinate igbp of the towers; assign it, or leave match_igbp out.")
        latitude, longitude = places_of(towers)
        for i in np.flatnonzero(self.cells[:, 0] >= 0).tolist():
            code = str(towers["igbp"].values[i])
            near = self.grid.neighbours(latitude[i], longitude[i], self.cells[i], km=km, reach=MATCH_CELLS)
            found = near[(class_of(near) == code) & (code != "")]
            cell = found[0] if len(found) else None
            missing = f"without a cell of their class within {MATCH_CELLS} cells"
            self._use(i, cell, "the nearest cell of the class", missing, self._km(towers, i, cell))

    def note_sea(self, land: np.ndarray) -> None:
        """Note the towers whose cell has no land."""
        for i in np.flatnonzero((self.cells[:, 0] >= 0) & (land == 0)).tolist():
            self._remark(i, "in a cell without land")

    def _km(self, towers: xr.Dataset, site: int, cell: np.ndarray | None) -> float:
        if cell is None:
            return float("nan")
        latitude, longitude = places_of(towers)
        return float(self.grid.distance(latitude[site : site + 1], longitude[site : site + 1], cell[None])[0])

    def report(self, method: str, match_igbp: bool | xr.DataArray | None, max_distance_km: float | None) -> str:
        """Return how the maps were sampled as one sentence, and log the towers that are special."""
        text = "nearest cell" if method == "nearest" else "bilinear interpolation between cells"
        if match_igbp is not None and match_igbp is not False:
            text = f"nearest cell of the tower's IGBP class, at most {MATCH_CELLS} cells away"
        elif max_distance_km is not None:
            text += f", towers in cells without data: the nearest cell with data within {max_distance_km:g} km"
        parts = [text]
        for summary, sites in self.counts.items():
            logger.warning("%d of %d towers are %s: %s", len(sites), len(self.sites), summary, _named(sites))
            parts.append(f"{len(sites)} of {len(self.sites)} towers {summary} ({_named(sites)})")
        return "; ".join(parts)


def _named(sites: Sequence[str]) -> str:
    more = f" and {len(sites) - _MAX_NAMES} more" if len(sites) > _MAX_NAMES else ""
    return ", ".join(sites[:_MAX_NAMES]) + more


def places_of(towers: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the latitudes and longitudes (site,) of towers, degrees."""
    return np.asarray(towers["latitude"].values, float), np.asarray(towers["longitude"].values, float)


def _first(cells: np.ndarray, suits: Lookup) -> np.ndarray | None:
    """Return the first cell that suits; cells are looked up in growing batches, since values may have to be read."""
    start, count = 0, 8
    while start < len(cells):
        part = cells[start : start + count]
        good = suits(part)
        if good.any():
            return part[int(np.argmax(good))]
        start, count = start + count, count * 4
    return None


def property_of(array: xr.DataArray, grid: Grid, cells: np.ndarray) -> np.ndarray:
    """Return the values (n,) of a static property of cells (n, 2)."""
    return np.asarray(read_cells(array, *grid.positions(cells)).values)


def static_property(maps: xr.Dataset, name: str) -> xr.DataArray | None:
    """Return a property of the cells (latitude, longitude), None if the maps do not have it."""
    return maps[name] if name in maps and set(maps[name].dims) == _CELLS else None


def land_of(maps: xr.Dataset, grid: Grid, cells: np.ndarray) -> np.ndarray:
    """Return the land fraction (n,) of cells, NaN where it is not known."""
    land = static_property(maps, "land_fraction")
    return np.full(len(cells), np.nan) if land is None else property_of(land, grid, cells).astype(float)


def data_lookup(maps: xr.Dataset, grid: Grid) -> Lookup:
    """Return a function that reports which cells (n, 2) have land and, in some variable, a value at some time."""
    arrays = [
        array
        for name, array in maps.data_vars.items()
        if set(array.dims) >= _CELLS and name not in STATIC and array.dtype.kind == "f"
    ]

    def has_data(cells: np.ndarray) -> np.ndarray:
        import dask

        good = land_of(maps, grid, cells) != 0
        at = np.flatnonzero(good)
        if len(at):
            read = [read_cells(array, *grid.positions(cells[at])) for array in arrays]
            known = [xr.apply_ufunc(np.isfinite, one, dask="allowed") for one in read]
            finite = dask.compute(*[one.any([dim for dim in one.dims if dim != "site"]) for one in known])
            good[at] = np.any([one.values for one in finite], axis=0)
        return good

    return has_data


def class_lookup(maps: xr.Dataset, grid: Grid, classes: bool | xr.DataArray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that returns the IGBP codes (n,) of cells (n, 2)."""
    if isinstance(classes, xr.DataArray):
        array = standard_names(classes)
        if set(array.dims) != _CELLS:
            raise SchemaError(f"match_igbp: expected classes with dims latitude and longitude, found {array.dims}.")
        other = Grid.of(array)
        return lambda cells: igbp_codes(property_of(array, other, other.containing(*grid.centres(cells))))
    found = static_property(maps, "igbp")
    if found is None:
        raise SchemaError("match_igbp=True needs the variable igbp (latitude, longitude) of the maps: pass an array.")
    return lambda cells: igbp_codes(property_of(found, grid, cells))


def igbp_codes(classes: np.ndarray) -> np.ndarray:
    """Return IGBP codes, such as GRA, from codes or from numbers of MCD12Q1; "" where unknown."""
    if classes.dtype.kind in "OUS":
        return np.array([str(code) for code in classes], object)
    numbers = np.nan_to_num(classes.astype(float), nan=-1)
    return np.array([IGBP_CODES.get(int(number), "") for number in numbers], object)

"""The planet seen from a satellite: land cover, reflectance, snow and cloud on the MODIS grid."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from fluxcube.biomes import IGBP_NUMBERS
from fluxcube.simulation import sinusoidal, weather
from fluxcube.simulation.ecosystem import CLASSES, leaf_area, past_weather
from fluxcube.simulation.fields import make_field
from fluxcube.simulation.places import Region, Tower
from fluxcube.simulation.planet import SPIN_UP, Planet
from fluxcube.timestamps import DAY, HOUR, hour_axis, solar_noon

#: Side, in pixels, of the block around a tower: a chip of 8 x 8, also if rotated into a UTM zone, with a margin.
CROP = 14
_WATER = len(CLASSES)
_NODE = 0.5  # degrees between the nodes at which the region's leaf area is computed
_CLEAR_SKY = 16 * 24  # hours of cloudiness on which a composite depends

# Reflectance in bands 1 to 7: red, nir, blue, green, 1240, 1640 and 2130 nm.
_SOIL_DRY = np.array([0.19, 0.27, 0.09, 0.13, 0.34, 0.38, 0.33])
_SOIL_WET = np.array([0.10, 0.17, 0.05, 0.07, 0.20, 0.18, 0.13])
_LEAF_DRY = np.array([0.045, 0.34, 0.025, 0.060, 0.34, 0.24, 0.13])
_LEAF_WET = np.array([0.035, 0.38, 0.020, 0.055, 0.33, 0.17, 0.07])
_SNOW = np.array([0.90, 0.84, 0.92, 0.91, 0.48, 0.14, 0.10])
_LAKE = np.array([0.035, 0.020, 0.050, 0.055, 0.012, 0.008, 0.005])
# Canopies differ in their brightness in the near infrared and in the share of snow that they hide.
_BRIGHT = np.array([0.72, 0.90, 1.15, 0.95, 0.85, 0.90, 1.05, 1.20, 0.85])
_HIDES_SNOW = np.array([0.65, 0.65, 0.45, 0.55, 0.15, 0.25, 0.08, 0.05, 0.10])
_NEAR_INFRARED = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 0.3, 0.0])


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A block of pixels.

    Attributes
    ----------
    name : str
        Site, or "region".
    row, column : int
        Upper left pixel on the MODIS grid.
    classes : (row, column) int
        Index into `CLASSES`, or ``len(CLASSES)`` for water.
    latitude, longitude : (row, column) float64
        Pixel centres, degrees.
    """

    name: str
    row: int
    column: int
    classes: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray

    @property
    def number(self) -> np.ndarray:
        """MCD12Q1 class of each pixel, uint8."""
        return np.array([IGBP_NUMBERS[igbp] for igbp in (*CLASSES, "WAT")], "uint8")[self.classes]

    @property
    def tile(self) -> str:
        """Name of the tile that contains the block's centre."""
        rows, columns = self.classes.shape
        return sinusoidal.tile_name(self.row + rows // 2, self.column + columns // 2)


def reflectance(igbp: np.ndarray, leaves: np.ndarray, water: np.ndarray, snow: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the reflectance in MODIS bands 1 to 7.

    Parameters
    ----------
    igbp : (n,) int
        Index into `fluxcube.simulation.ecosystem.CLASSES`, or ``len(CLASSES)`` for open water.
    leaves : (n,) float
        Leaf area, m2 m-2.
    water : (n,) float
        Soil water, 0 to 1: wet soil and leaves are darker beyond 1.2 um.
    snow : (n,) float
        1 where snow lies.

    Returns
    -------
    (7, n) float32
    """
    cover, water, snow = (np.asarray(x, "float32") for x in (1.0 - np.exp(-0.5 * leaves), water, snow))
    land = np.minimum(igbp, len(CLASSES) - 1)
    bright, snow = _BRIGHT.astype("float32")[land] - 1, snow * (1 - _HIDES_SNOW.astype("float32")[land])
    lake = igbp == _WATER
    out = np.empty((7, len(cover)), "float32")
    for band in range(7):
        soil = _SOIL_DRY[band] + (_SOIL_WET[band] - _SOIL_DRY[band]) * water
        leaf = (_LEAF_DRY[band] + (_LEAF_WET[band] - _LEAF_DRY[band]) * water) * (1 + _NEAR_INFRARED[band] * bright)
        value = soil + (leaf - soil) * cover
        out[band] = np.where(lake, _LAKE[band], value + (_SNOW[band] - value) * snow)
    return out


def seasons(planet: Planet, day: np.ndarray, latitude: ArrayLike, longitude: ArrayLike) -> dict[str, np.ndarray]:
    """Compute the state of the land at local solar noon.

    Parameters
    ----------
    planet : Planet
    day : (day,) datetime64[D]
        Local dates.
    latitude, longitude : (place,) float
        Degrees.

    Returns
    -------
    dict
        `leaves` (class, place, day), m2 m-2, without the place's own vigour; `water` (place, day), 0 to 1; `cold`
        (place, day), the mean temperature of the last days, degC; `clear` (place, day), clearness over 16 days.
    """
    lat, lon = np.asarray(latitude, float), np.asarray(longitude, float)
    # From the beginning of the year, so that files of different periods agree.
    time = hour_axis(day[0].astype("datetime64[Y]").astype("datetime64[D]") - SPIN_UP, day[-1] + 2 * DAY)
    air = planet.weather(time, lat, lon)
    past = past_weather(air, 1.0)
    at = ((solar_noon(day, lon) - time[0]) / HOUR).astype(int)
    noon = {name: np.take_along_axis(past[name], at, 1) for name in ("growth", "moisture", "water", "cold")}
    season = np.take_along_axis(weather.solar_season(time, lat), at, 1)
    daylight = np.take_along_axis(weather.day_length(time, lat), at, 1)
    sowing = planet.sowing(lat, lon)
    leaves = [
        leaf_area(np.full(lat.shape, igbp), noon, season=season, daylight=daylight, sowing=sowing) for igbp in CLASSES
    ]
    return {"leaves": np.stack(leaves), "water": noon["water"], "cold": noon["cold"], "clear": _clear_sky(air, at)}


def appearance(
    planet: Planet, day: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, igbp: Sequence[str]
) -> np.ndarray:
    """Return the reflectance of places at local noon, without cloud or noise.

    Parameters
    ----------
    planet : Planet
    day : (day,) datetime64[D]
        Local dates, ascending.
    latitude, longitude : (place,) float
        Degrees.
    igbp : (place,) str
        Classes that grow on the planet.

    Returns
    -------
    (place, day, 8) float32
        MODIS bands 1 to 7, and 1 where snow lies.
    """
    state = seasons(planet, day, latitude, longitude)
    kind = np.array([CLASSES.index(name) for name in igbp])
    leaves = state["leaves"][kind, np.arange(len(kind))] * planet.vigour(latitude, longitude)[:, None]
    snow = state["cold"] < -1.0
    number = np.repeat(kind, len(day))
    bands = reflectance(number, leaves.ravel(), state["water"].ravel(), snow.ravel())
    return np.concatenate([bands, snow.reshape(1, -1)]).T.reshape(*snow.shape, 8).astype("float32")


def _clear_sky(air: Mapping[str, np.ndarray], at: np.ndarray) -> np.ndarray:
    """Return the share of the potential sunlight over the composite's days, (place, day)."""
    sums = [np.cumsum(air[name], 1) for name in ("SW_IN", "SW_IN_POT")]
    actual, potential = (np.take_along_axis(s, at, 1) - np.take_along_axis(s, at - _CLEAR_SKY, 1) for s in sums)
    return np.where(potential > 1.0, actual / np.maximum(potential, 1.0), 0.3)


def tower_ground(planet: Planet, tower: Tower) -> Ground:
    """Return the pixels around a tower: its class, with patches of others except in the middle."""
    row, column = (int(x) for x in sinusoidal.pixel_at(tower.latitude, tower.longitude))
    row, column = row - CROP // 2, column - CROP // 2
    latitude, longitude = _pixel_centres(row, column, (CROP, CROP))
    patch, other = _patches(planet, latitude, longitude)
    classes = np.full((CROP, CROP), CLASSES.index(tower.igbp))
    away = np.maximum(*np.abs(np.indices((CROP, CROP)) - (CROP - 1) / 2)) > 2
    classes = np.where(away & (patch > 1.25), other, classes)
    classes = np.where(away & (patch < (-1.3 if tower.igbp == "WET" else -2.0)), _WATER, classes)
    return Ground(name=tower.site, row=row, column=column, classes=classes, latitude=latitude, longitude=longitude)


def region_ground(planet: Planet) -> Ground:
    """Return the pixels of the region and a margin: each cell its class with patches of others, and towers' blocks."""
    cells = planet.region
    row, column, shape = _extent(cells)
    latitude, longitude = _pixel_centres(row, column, shape)
    patch, other = _patches(planet, latitude, longitude)
    i = np.clip(np.rint((cells.latitude[0] - latitude) / 0.25), 0, len(cells.latitude) - 1).astype(int)
    j = np.clip(np.rint((longitude - cells.longitude[0]) / 0.25), 0, len(cells.longitude) - 1).astype(int)
    index = {igbp: number for number, igbp in enumerate((*CLASSES, "WAT"))}
    classes = np.vectorize(index.get)(cells.igbp)[i, j]
    classes = np.where(patch > 0.75, other, np.where(patch < -2.1, _WATER, classes))
    for ground in _grounds_within(planet, row, column, shape):
        classes[_window(ground, row, column)] = ground.classes
    return Ground(name="region", row=row, column=column, classes=classes, latitude=latitude, longitude=longitude)


def _pixel_centres(row: int, column: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[row : row + shape[0], column : column + shape[1]]
    return sinusoidal.centre_of(rows, columns)


def _extent(cells: Region) -> tuple[int, int, tuple[int, int]]:
    """Return the first row and column, and the size, of the pixels of the region's cells and 5 km around them."""
    lat = np.array([cells.latitude[0] + 0.125, cells.latitude[-1] - 0.125])
    lon = np.array([cells.longitude[0] - 0.125, cells.longitude[-1] + 0.125])
    rows, columns = sinusoidal.pixel_at(*np.meshgrid(lat, lon))
    first = int(rows.min()) - 10, int(columns.min()) - 10
    return first[0], first[1], (int(rows.max()) + 11 - first[0], int(columns.max()) + 11 - first[1])


def _patches(planet: Planet, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a field of patches (mean 0, variance 1) and the class that grows in them."""
    rng = np.random.default_rng([planet.seed, 17])
    patch, kind = make_field(rng, (8, 30)), make_field(rng, (30, 90))
    present = np.array([i for i, igbp in enumerate(CLASSES) if igbp in {t.igbp for t in planet.towers}])
    flat = latitude.ravel(), longitude.ravel()
    choice = np.floor(len(present) * np.mod(1.7 * kind.at(*flat), 1.0)).astype(int)
    return patch.at(*flat).reshape(latitude.shape), present[choice].reshape(latitude.shape)


def _grounds_within(planet: Planet, row: int, column: int, shape: tuple[int, int]) -> list[Ground]:
    """Return the blocks of towers that are wholly within a larger block of pixels."""
    grounds = [tower_ground(planet, tower) for tower in planet.towers]
    return [g for g in grounds if 0 <= g.row - row <= shape[0] - CROP and 0 <= g.column - column <= shape[1] - CROP]


def _window(ground: Ground, row: int, column: int) -> tuple[slice, slice]:
    """Return the position of a tower's block within the block of pixels that begins at (row, column)."""
    top, left = ground.row - row, ground.column - column
    return slice(top, top + CROP), slice(left, left + CROP)


def tower_scenes(planet: Planet, towers: Sequence[Tower], days: np.ndarray) -> list[tuple[Ground, SceneOfDay]]:
    """Return for each tower its pixels and a function that returns their `Scene` on the n-th of `days`."""
    state = seasons(planet, days, [tower.latitude for tower in towers], [tower.longitude for tower in towers])
    out: list[tuple[Ground, SceneOfDay]] = []
    for n, tower in enumerate(towers):
        ground = tower_ground(planet, tower)
        own = {name: values[..., n : n + 1, :] for name, values in state.items()}
        corner = np.zeros((1, ground.classes.size), int)  # every pixel has the tower's own state
        out.append((ground, _Scenes(planet, ground, days, own, corner, np.ones_like(corner, "float32"))))
    return out


def region_scenes(planet: Planet, days: np.ndarray) -> tuple[Ground, SceneOfDay]:
    """Return the region's pixels and a function that returns their `Scene` on a day, as `tower_scenes` does."""
    ground = region_ground(planet)
    lat = np.arange(ground.latitude.min() - 0.1, ground.latitude.max() + _NODE, _NODE)
    lon = np.arange(ground.longitude.min() - 0.1, ground.longitude.max() + _NODE, _NODE)
    nodes = np.meshgrid(lat, lon, indexing="ij")
    state = seasons(planet, days, nodes[0].ravel(), nodes[1].ravel())
    y, x = (ground.latitude.ravel() - lat[0]) / _NODE, (ground.longitude.ravel() - lon[0]) / _NODE
    whole = _Scenes(planet, ground, days, state, *_bilinear(y, x, len(lon)))
    within = {g.name for g in _grounds_within(planet, ground.row, ground.column, ground.classes.shape)}
    parts = tower_scenes(planet, [tower for tower in planet.towers if tower.site in within], days)

    def scene(n: int, *, clouds: bool = True) -> Scene:
        out = whole(n, clouds=clouds)
        for part, tower_scene in parts:  # a pixel has the same values in every file
            rows, columns = _window(part, ground.row, ground.column)
            block = tower_scene(n, clouds=clouds)
            out.bands[:, rows, columns] = block.bands
            out.snow[rows, columns] = block.snow
            out.kind[rows, columns] = block.kind
            out.clear[rows, columns] = block.clear
        return out

    return ground, scene


def _bilinear(y: np.ndarray, x: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes (4, n) around points in units of the nodes' grid, and their weights (4, n)."""
    i, j = y.astype(int), x.astype(int)
    v, u = (y - i).astype("float32"), (x - j).astype("float32")
    first = i * columns + j
    return np.stack([first, first + 1, first + columns, first + columns + 1]), np.stack(
        [(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u]
    )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The land of one day over a block of pixels, in the values of MCD43A4 and MCD43A2.

    Attributes
    ----------
    bands : (7, row, column) int16
        Reflectance x 10000; 32767 is fill.
    snow : (row, column) uint8
        0 or 1; 255 is fill.
    kind : (row, column) uint8
        Land 1, shallow inland water 3.
    clear : (row, column) float32
        Clearness of the sky over the last 16 days, 0 to 1.
    """

    bands: np.ndarray
    snow: np.ndarray
    kind: np.ndarray
    clear: np.ndarray


class SceneOfDay(Protocol):
    """A function that returns the scene of the n-th day."""

    def __call__(self, n: int, *, clouds: bool = True) -> Scene:
        """Return the scene; without `clouds`, pixels that had no clear view in 16 days have their values, too."""


@dataclass(frozen=True)
class _Scenes:
    """Scenes of a block of pixels, from the state of the land at nodes around each pixel.

    Attributes
    ----------
    state : mapping
        Result of `seasons` at the nodes.
    corner : (corner, pixel) int
        Nodes around each pixel.
    weight : (corner, pixel) float32
        Weights of these nodes.
    """

    planet: Planet
    ground: Ground
    days: np.ndarray
    state: Mapping[str, np.ndarray]
    corner: np.ndarray
    weight: np.ndarray

    @functools.cached_property
    def _static(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class, vigour and roughness of each pixel."""
        flat = self.ground.latitude.ravel(), self.ground.longitude.ravel()
        rough = make_field(np.random.default_rng([self.planet.seed, 19]), (3, 12)).at(*flat)
        return self.ground.classes.ravel(), self.planet.vigour(*flat).astype("float32"), rough.astype("float32")

    def __call__(self, n: int, *, clouds: bool = True) -> Scene:
        kind, vigour, rough = self._static
        leaves = self._pixels(self.state["leaves"][:, :, n], np.minimum(kind, _WATER - 1)) * vigour
        water, cold, clear = (self._pixels(self.state[name][:, n]) for name in ("water", "cold", "clear"))
        rng = np.random.default_rng(
            [self.planet.seed, zlib.crc32(self.ground.name.encode()), int(self.days[n].astype(int))]
        )
        snow = (cold + 0.6 * rough < -1.0) & (kind != _WATER)
        values = reflectance(kind, leaves * (1 + 0.05 * rough), water, snow)
        values *= 1.0 + 0.03 * rng.standard_normal(values.shape, "float32")
        values += 0.003 * rng.standard_normal(values.shape[1], "float32")
        bands = np.clip(np.rint(values * 1e4), 1, 10000).astype("int16")
        fill = rng.random(kind.size, "float32") < 0.01
        if clouds:
            fill |= cloud_field(self.planet, self.ground, self.days[n], 23, (30, 400)) > -0.6 + 3.0 * clear
        bands[:, fill] = 32767
        bands[rng.random(bands.shape, "float32") < 0.002] = 32767
        shape = self.ground.classes.shape
        return Scene(
            bands=bands.reshape(7, *shape),
            snow=np.where(fill, 255, snow).astype("uint8").reshape(shape),
            kind=np.where(kind == _WATER, 3, 1).astype("uint8").reshape(shape),
            clear=clear.astype("float32").reshape(shape),
        )

    def _pixels(self, nodes: np.ndarray, kind: np.ndarray | None = None) -> np.ndarray:
        """Return the value at each pixel from values (node,) or, by class, (class, node)."""
        nodes = nodes.astype("float32")
        around = nodes[self.corner] if kind is None else nodes[kind, self.corner]
        return (around * self.weight).sum(0)


def cloud_field(
    planet: Planet, ground: Ground, day: np.datetime64, stream: int, wavelength: tuple[float, float]
) -> np.ndarray:
    """Return a field of clouds of a day (pixel,), mean 0 and variance 1, equal in all blocks of pixels.

    Parameters
    ----------
    planet : Planet
    ground : Ground
        The pixels.
    day : datetime64[D]
    stream : int
        Number of the random stream, one for each kind of clouds.
    wavelength : (float, float)
        Shortest and longest wave, km.
    """
    field = make_field(np.random.default_rng([planet.seed, stream, int(day.astype(int))]), wavelength, waves=12)
    step = max(1, ground.classes.shape[0] // 100)  # clouds are smoother than pixels
    coarse = field.at(ground.latitude[::step, ::step].ravel(), ground.longitude[::step, ::step].ravel())
    shape = ground.classes.shape
    coarse = coarse.reshape(-(-shape[0] // step), -(-shape[1] // step)).repeat(step, 0).repeat(step, 1)
    return coarse[: shape[0], : shape[1]].ravel()

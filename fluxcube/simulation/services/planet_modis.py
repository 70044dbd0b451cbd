"""The planet's MODIS images, as an Earth Engine serves them: the files of `fluxcube.simulation.raw`, pixel by pixel."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.simulation.grids import composite_days, end_of_record
from fluxcube.simulation.instruments import batches
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.reflectance import view, view_clouds, view_days
from fluxcube.simulation.surface import CROP, Ground, SceneOfDay, region_scenes, tower_scenes

_BANDS = tuple(f"Nadir_Reflectance_Band{n}" for n in range(1, 8))
_VIEWED = tuple(f"sur_refl_b{n:02d}" for n in range(1, 8))
#: Layers of each product.
_LAYERS = {
    "MCD43A4": _BANDS,
    "MCD43A2": ("Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType"),
    "MOD09GA": (*_VIEWED, "state_1km"),
    "MCD12Q1": ("LC_Type1",),
}
_PRODUCT_OF = {layer: product for product, layers in _LAYERS.items() for layer in layers}
#: Stored value of missing pixels of each layer.
_FILL = {
    **dict.fromkeys(_BANDS, 32767),
    **dict.fromkeys(_LAYERS["MCD43A2"], 255),
    **dict.fromkeys(_VIEWED, -28672),
    "state_1km": 65535,
    "LC_Type1": 255,
}
#: Number of images of the region and of towers that stay in RAM, up to 12 MB and 8 kB each.
_KEPT, _KEPT_OF_TOWERS = 4, 512

Layers = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Block:
    """The images of a block of pixels: days of composites and of views, all of them, and the scene of the n-th."""

    ground: Ground
    composites: np.ndarray
    views: np.ndarray
    days: np.ndarray
    scene: SceneOfDay

    def has(self, product: str, day: np.datetime64) -> bool:
        """Return whether a product has an image of the day."""
        return bool(np.isin(day, self.views if product == "MOD09GA" else self.composites))

    def is_of(self, row: int, col: int, height: int, width: int) -> bool:
        """Return whether a window is one around the tower of this block: it can have a wider margin."""
        rows, columns = self.ground.classes.shape
        middle = row + height // 2 - self.ground.row, col + width // 2 - self.ground.column
        return max(height, width) <= 2 * CROP and 0 <= middle[0] < rows and 0 <= middle[1] < columns


class PlanetImages:
    """Images of the planet for `fluxcube.simulation.services.earthengine.EarthEngine`.

    Each image is computed when it is requested; the last ones stay in RAM, so that requests of all tiles and products
    of a day compute it once. Pixels that no tower and not the region has are missing.

    Parameters
    ----------
    planet : Planet
    every : int
        Days between the images of MOD09GA.
    """

    def __init__(self, planet: Planet, every: int = 1) -> None:
        self.planet, self.every = planet, every
        self._one = threading.Lock()  # images are computed one after another
        self._tower_layers = functools.lru_cache(maxsize=_KEPT_OF_TOWERS)(self._compute)
        self._region_layers = functools.lru_cache(maxsize=_KEPT)(self._compute)

    def layers(self, product: str) -> Sequence[str]:
        """Return the names of the layers of a product."""
        return _LAYERS.get(product, ())

    def images(self, product: str, first: str, stop: str) -> list[np.datetime64]:
        """Return the days of a product's images anywhere, from `first` to before `stop`."""
        days = self._days.get(product, np.array([], "datetime64[D]"))
        return list(days[(days >= np.datetime64(first, "D")) & (days < np.datetime64(stop, "D"))])

    def layer(
        self, layer: str, day: np.datetime64, row: int, col: int, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored values (height, width) of a layer, and where they are missing."""
        out = np.full((height, width), _FILL[layer], "int32")
        with self._one:
            ground, values = self._values(layer, day, row, col, height, width)
        if values is not None:
            top, left = row - ground.row, col - ground.column
            r0, r1 = max(top, 0), min(top + height, values.shape[0])
            c0, c1 = max(left, 0), min(left + width, values.shape[1])
            if r0 < r1 and c0 < c1:
                out[r0 - top : r1 - top, c0 - left : c1 - left] = values[r0:r1, c0:c1]
        return out, out == _FILL[layer]

    def _values(
        self, layer: str, day: np.datetime64, row: int, col: int, height: int, width: int
    ) -> tuple[Ground, np.ndarray | None]:
        """Return the block of a window, and its values of a layer; None if it has no image of the day."""
        product = _PRODUCT_OF[layer]
        if product == "MCD12Q1":
            return self._region.ground, self._region.ground.number
        around = (n for n, tower in enumerate(self._towers) if tower.is_of(row, col, height, width))
        number = next(around, None)
        block = self._region if number is None else self._towers[number]
        if not block.has(product, day):
            return block.ground, None
        compute = self._region_layers if number is None else self._tower_layers
        return block.ground, compute(product == "MOD09GA", number, day)[layer]

    def _compute(self, viewed: bool, number: int | None, day: np.datetime64) -> Layers:
        """Return the layers of an image of the region or, by its number, of a tower."""
        block = self._region if number is None else self._towers[number]
        scene = block.scene(int(np.searchsorted(block.days, day)), clouds=not viewed)
        if viewed:
            values = view(scene, view_clouds(self.planet, block.ground, day, scene.clear))
            return dict(zip(_LAYERS["MOD09GA"], values, strict=True))
        layers = (*scene.bands, scene.snow, scene.kind)
        return dict(zip((*_BANDS, *_LAYERS["MCD43A2"]), layers, strict=True))

    @functools.cached_property
    def _region(self) -> _Block:
        composites, views, days = self._days_of(self.planet.forcing_start, self.planet.period[1])
        ground, scene = region_scenes(self.planet, days)
        return _Block(ground, composites, views, days, scene)

    @functools.cached_property
    def _towers(self) -> list[_Block]:
        blocks = []
        for batch in batches(self.planet):
            composites, views, days = self._days_of(*self._record(batch[0].years))
            for ground, scene in tower_scenes(self.planet, batch, days):
                blocks.append(_Block(ground, composites, views, days, scene))
        return blocks

    def _days_of(self, start: np.datetime64, stop: np.datetime64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the days of composites, of views, and of both, for a period of data."""
        composites, views = composite_days(start, stop), view_days(start, stop, self.every)
        return composites, views, np.union1d(composites, views)

    @functools.cached_property
    def _days(self) -> dict[str, np.ndarray]:
        """Days of the images of each product anywhere."""
        spans = [(self.planet.forcing_start, self.planet.period[1])]
        spans += [self._record(batch[0].years) for batch in batches(self.planet)]
        days = [self._days_of(*span) for span in spans]
        composites, views = (np.unique(np.concatenate([each[n] for each in days])) for n in (0, 1))
        first = self.planet.period[0].astype("datetime64[Y]").astype("datetime64[D]")
        return {"MCD43A4": composites, "MCD43A2": composites, "MOD09GA": views, "MCD12Q1": np.array([first])}

    def _record(self, years: tuple[int, int]) -> tuple[np.datetime64, np.datetime64]:
        start = np.datetime64(f"{years[0]}-{self.planet.record[0]}")
        return start, end_of_record(self.planet, years[1])

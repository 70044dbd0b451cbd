"""The planet's MODIS images, as an Earth Engine serves them: the files of `fluxcube.simulation.raw`, pixel by pixel."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
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
#: Number of images of the region that stay in RAM, about 7 MB each.
_KEPT = 2

Layers = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Block:
    """The images of a block of pixels: their days, and a function that returns the layers of the n-th day."""

    ground: Ground
    days: np.ndarray
    scene: SceneOfDay

    def is_of(self, row: int, col: int, height: int, width: int) -> bool:
        """Return whether a window is one around the tower of this block: it can have a wider margin."""
        rows, columns = self.ground.classes.shape
        middle = row + height // 2 - self.ground.row, col + width // 2 - self.ground.column
        return max(height, width) <= 2 * CROP and 0 <= middle[0] < rows and 0 <= middle[1] < columns


class PlanetImages:
    """Images of the planet for `fluxcube.simulation.services.earthengine.EarthEngine`.

    Each image is computed when it is requested. Pixels that no tower and not the region has are missing.

    Parameters
    ----------
    planet : Planet
    every : int
        Days between the images of MOD09GA.
    """

    def __init__(self, planet: Planet, every: int = 1) -> None:
        self.planet, self.every = planet, every
        self._one = threading.Lock()  # images are computed one after another
        self._tower_layers = functools.lru_cache(maxsize=512)(self._compute)
        self._flags: dict[int, Layers] = {}  # MCD43A2 of the region, small, of the images whose MCD43A4 was requested
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
        viewed = product == "MOD09GA"
        blocks = self._views if viewed else self._composites
        within = (n for n in range(1, len(blocks)) if blocks[n].is_of(row, col, height, width))
        number = 0 if product == "MCD12Q1" else next(within, 0)
        block = blocks[number]
        if product == "MCD12Q1":
            return block.ground, block.ground.number
        n = int(np.searchsorted(block.days, day))
        if n == len(block.days) or block.days[n] != day:
            return block.ground, None
        if number == 0 and product == "MCD43A2" and n in self._flags:
            return block.ground, self._flags[n][layer]
        return block.ground, (self._tower_layers if number else self._region_layers)(viewed, number, n)[layer]

    def _compute(self, viewed: bool, number: int, n: int) -> Layers:
        """Return the layers of the n-th image of a block."""
        block = (self._views if viewed else self._composites)[number]
        scene = block.scene(n)
        if viewed:
            values = view(scene, view_clouds(self.planet, block.ground, block.days[n], scene.clear))
            return dict(zip(_LAYERS["MOD09GA"], values, strict=True))
        flags = dict(zip(_LAYERS["MCD43A2"], (scene.snow, scene.kind), strict=True))
        if number == 0:
            self._flags[n] = flags
        return dict(zip(_BANDS, scene.bands, strict=True)) | flags

    @functools.cached_property
    def _composites(self) -> list[_Block]:
        """The region, and the towers."""
        return self._make(composite_days, clouds=True)

    @functools.cached_property
    def _views(self) -> list[_Block]:
        return self._make(lambda first, stop: view_days(first, stop, self.every), clouds=False)

    def _make(self, days_of: Callable[[np.datetime64, np.datetime64], np.ndarray], clouds: bool) -> list[_Block]:
        days = days_of(self.planet.forcing_start, self.planet.period[1])
        ground, scene = region_scenes(self.planet, days, clouds=clouds)
        blocks = [_Block(ground, days, scene)]
        for batch in batches(self.planet):
            days = days_of(*self._record(batch[0].years))
            scenes = tower_scenes(self.planet, batch, days, clouds=clouds)
            blocks += [_Block(ground, days, scene) for ground, scene in scenes]
        return blocks

    @functools.cached_property
    def _days(self) -> dict[str, np.ndarray]:
        """Days of the images of each product anywhere."""
        spans = [(self.planet.forcing_start, self.planet.period[1])]
        spans += [self._record(batch[0].years) for batch in batches(self.planet)]
        composites = np.unique(np.concatenate([composite_days(*span) for span in spans]))
        views = np.unique(np.concatenate([view_days(*span, self.every) for span in spans]))
        first = self.planet.period[0].astype("datetime64[Y]").astype("datetime64[D]")
        return {"MCD43A4": composites, "MCD43A2": composites, "MOD09GA": views, "MCD12Q1": np.array([first])}

    def _record(self, years: tuple[int, int]) -> tuple[np.datetime64, np.datetime64]:
        start = np.datetime64(f"{years[0]}-{self.planet.record[0]}")
        return start, end_of_record(self.planet, years[1])

"""One synthetic scene of the world in stored MODIS values, which the local services of all archives serve."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fluxcube.cubes.chips import chip_index
from fluxcube.sources.modis.grid import PRODUCTS

FILLS = {"MCD43A4": 32767, "MCD43A2": 255, "MOD09GA": -28672, "MOD09GA_STATE": 65535, "MODOCGA": -28672, "MCD12Q1": 255}
TYPES = {
    "MCD43A4": "int16",
    "MCD43A2": "uint8",
    "MOD09GA": "int16",
    "MOD09GA_STATE": "uint16",
    "MODOCGA": "int16",
    "MCD12Q1": "uint8",
}
#: Number of different values, from 0 or 1 on.
_VALUES = {"Snow_BRDF_Albedo": 2, "BRDF_Albedo_LandWaterType": 8, "LC_Type1": 17}
PART_OF = {layer: part for part, product in PRODUCTS.items() for layer in product.layers}


def parts_of(product: str) -> list[str]:
    """Products as readers know them, of a product as archives name it."""
    return [part for part in PRODUCTS if part == product or part.startswith(f"{product}_")]


class Scene:
    """Values by layer, day and global pixel. One pixel of ten is missing; some days have no image at all."""

    def __init__(self, days: Iterable[str] = (), missing: Iterable[str] = ()) -> None:
        self.days = np.array(sorted(set(days)), "datetime64[D]")
        self.missing = set(missing)  # "MCD43A2 2019-07-03": the product has no image of that day

    def layers(self, product: str) -> list[str]:
        """Layers of the images of a product, as an archive names it."""
        return [layer for part in parts_of(product) for layer in PRODUCTS[part].layers]

    def has(self, product: str, day: np.datetime64) -> bool:
        """Whether there is an image."""
        if product == "MCD12Q1":
            return str(day).endswith("-01-01")
        return bool((self.days == day).any()) and f"{product} {day}" not in self.missing

    def images(self, product: str, first: str, stop: str) -> list[np.datetime64]:
        """Days of the images from `first` to before `stop`."""
        first_day, stop_day = np.datetime64(first, "D"), np.datetime64(stop, "D")
        days = self.days
        if product == "MCD12Q1":
            years = np.arange(first_day.astype("datetime64[Y]"), stop_day.astype("datetime64[Y]"))
            days = years.astype("datetime64[D]")
        return [d for d in days if first_day <= d < stop_day and f"{product} {d}" not in self.missing]

    def pixels(self, layer: str, day: object, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored values of pixels and where they are missing; 1 km layers have each value 2 x 2 times."""
        coarse = 2 if PART_OF[layer] in ("MOD09GA_STATE", "MODOCGA") else 1
        rows, cols = (np.asarray(axis) // coarse for axis in (rows, cols))
        number = np.uint64(int(np.datetime64(str(day), "D").astype(int)) * 31 + sum(map(ord, layer)))
        mixed = rows.astype(np.uint64) * np.uint64(73856093) ^ cols.astype(np.uint64) * np.uint64(19349663)
        mixed = (mixed ^ number * np.uint64(83492791)) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)
        base = 1 if layer == "LC_Type1" else 0
        values = base + (mixed % np.uint64(_VALUES.get(layer, 9999))).astype("int64")
        return values, (mixed // np.uint64(10007)) % np.uint64(10) == 0

    def layer(self, layer: str, day: object, row: int, col: int, height: int, width: int) -> tuple:
        """Stored values (height, width) and where they are missing."""
        return self.pixels(layer, day, np.arange(row, row + height)[:, None], np.arange(col, col + width)[None])

    def stored(self, part: str, day: object, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Values (layer, height, width) of a product with its fill value where missing."""
        out = []
        for layer in PRODUCTS[part].layers:
            values, missing = self.layer(layer, day, row, col, height, width)
            out.append(np.where(missing, FILLS[part], values))
        return np.array(out).astype(TYPES[part])

    def chips(self, places: Iterable[tuple[float, float]], days: Iterable[str]) -> np.ndarray:
        """The chips (place, day, 9, 8, 8) by their definition: the physical value of the pixel, NaN where missing."""
        rows, cols = chip_index(*np.array(list(places)).T)
        out = []
        for day in days:
            bands = []
            for part in ("MCD43A4", "MCD43A2"):
                for layer in PRODUCTS[part].layers:
                    values, missing = self.pixels(layer, day, rows, cols)
                    physical = {
                        "Snow_BRDF_Albedo": values,
                        "BRDF_Albedo_LandWaterType": ~np.isin(values, (1, 2)),
                    }.get(layer, values.astype("float32") * np.float32(1e-4))
                    missing = missing | (not self.has(part, np.datetime64(day, "D")))
                    bands.append(np.where(missing, np.float32(np.nan), physical))
            out.append(np.stack(bands, 1))
        return np.stack(out, 1).astype("float32")

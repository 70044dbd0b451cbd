"""Write the planet's daily surface reflectance as MOD09GA: seven bands and state flags of single views, with clouds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fluxcube.simulation.grids import create_folder, each_day, end_of_record, modis_path, open_tiff, tiff_encoder
from fluxcube.simulation.places import Tower
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.surface import Ground, Scene, cloud_field, region_scenes, tower_scenes

PRODUCT = "MOD09GA"
#: Bits of the state flags: cloud state 01 is cloudy, bit 2 cloud shadow, 3-5 are 001 for land and 101 for water, 12 is
#: snow (MODIS Surface Reflectance User's Guide, Collection 6, Table 13).
_CLOUDY, _LAND, _WATER, _SNOW = 0b01, 0b001 << 3, 0b101 << 3, 1 << 12
_NO_STATE, _NO_VALUE = 65535, -28672
#: Reflectance of a cloud in bands 1 to 7, times 10000.
_CLOUD = np.array([6500, 6600, 6700, 6500, 6000, 4500, 3200], "int32")


def view_days(start: np.datetime64, stop: np.datetime64, every: int) -> np.ndarray:
    """Return every n-th day, counted from 1970-01-01, from 96 days before `start` up to `stop`, datetime64[D].

    Counted so, files of towers and of the region have the same days.

    Examples
    --------
    >>> view_days(np.datetime64("2018-05-01T00"), np.datetime64("2018-08-01T00"), 8)[-1]
    np.datetime64('2018-07-24')
    """
    first, stop = start.astype("datetime64[D]") - np.timedelta64(96, "D"), stop.astype("datetime64[D]")
    days = np.arange(first, stop)
    return days[days.astype(int) % every == 0]


def write_region_reflectance(planet: Planet, folder: str | Path, *, every: int = 1) -> int:
    """Write MOD09GA of the whole region, one GeoTIFF a day.

    Parameters
    ----------
    planet : Planet
    folder : path
        Created if missing.
    every : int
        Write each n-th day only.

    Returns
    -------
    int
        Number of files.
    """
    days = view_days(planet.forcing_start, planet.period[1], every)
    ground, scene = region_scenes(planet, days)
    folder = create_folder(folder)

    def write(n: int) -> None:
        today = scene(n, clouds=False)
        with open_tiff(modis_path(folder, PRODUCT, days[n], ground), PRODUCT, ground, compress="deflate") as tiff:
            tiff.write(view(today, view_clouds(planet, ground, days[n], today.clear)))

    each_day(write, len(days))
    return len(days)


def write_tower_reflectance(planet: Planet, towers: Sequence[Tower], folder: str | Path, *, every: int = 1) -> int:
    """Write MOD09GA of the pixels around towers of the same years; return the number of files."""
    first, last = towers[0].years
    days = view_days(np.datetime64(f"{first}-{planet.record[0]}"), end_of_record(planet, last), every)
    folder = create_folder(folder)
    for ground, scene in tower_scenes(planet, towers, days):
        encode = tiff_encoder(PRODUCT, ground)
        for n, day in enumerate(days):
            today = scene(n, clouds=False)
            values = view(today, view_clouds(planet, ground, day, today.clear))
            modis_path(folder, PRODUCT, day, ground).write_bytes(encode(values))
    return len(days) * len(towers)


def view(scene: Scene, cloudy: np.ndarray) -> np.ndarray:
    """Return the layers of MOD09GA of a scene: what the satellite sees of it through the clouds.

    Parameters
    ----------
    scene : Scene
        The land without clouds.
    cloudy : (row, column) bool
        Where clouds are, on 500 m pixels. The flags are those of the pixels of 1 km, in both of which any is cloudy.

    Returns
    -------
    (8, row, column) int32
        Reflectance x 10000, -28672 where there is none, and the state flags.
    """
    fill = scene.snow == 255
    bands = np.where(scene.bands == 32767, _NO_VALUE, scene.bands.astype("int32"))
    bands = np.where(cloudy & ~fill, _CLOUD[:, None, None], bands)
    state = np.where(scene.kind == 1, _LAND, _WATER) + _SNOW * (scene.snow == 1) + _CLOUDY * cloudy
    return np.concatenate([bands, np.where(fill, _NO_STATE, state)[None]]).astype("int32")


def view_clouds(planet: Planet, ground: Ground, day: np.datetime64, clear: np.ndarray) -> np.ndarray:
    """Return where clouds were at the time of the view (row, column), more of them where the sky was seldom clear.

    A pixel of 1 km is cloudy if any of its four pixels of 500 m is.
    """
    field = cloud_field(planet, ground, day, 29, (20, 300)).reshape(clear.shape)
    return _of_pairs(field > -1.5 + 2.2 * clear, ground)


def _of_pairs(mask: np.ndarray, ground: Ground) -> np.ndarray:
    """Return whether any pixel of the same 1 km pixel is set."""
    rows, columns = mask.shape
    top, left = ground.row % 2, ground.column % 2
    padded = np.pad(mask, ((top, (top + rows) % 2), (left, (left + columns) % 2)))
    coarse = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).any((1, 3))
    return coarse.repeat(2, 0).repeat(2, 1)[top : top + rows, left : left + columns]

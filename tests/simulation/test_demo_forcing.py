"""The demo's forcing: every cell of the region has its class, in however many files the land cover comes."""

from __future__ import annotations

import numpy as np
from packages import optional

from fluxcube import demo
from fluxcube.cubes.forcing import open_forcing
from fluxcube.simulation import Planet

rasterio = optional("rasterio")


def halves(path, folder):
    """Write the left and the right half of a raster as two files."""
    with rasterio.open(path) as tiff:
        values, profile, tags = tiff.read(), tiff.profile, tiff.tags()
        middle = tiff.width // 2
        for name, start, stop in (("h17v04", 0, middle), ("h18v04", middle, tiff.width)):
            window = rasterio.windows.Window(start, 0, stop - start, tiff.height)
            part = profile | {"width": window.width, "transform": tiff.window_transform(window)}
            target = folder / f"MCD12Q1.A2018001.{name}.061.2022001000000.tif"
            with rasterio.open(target, "w", **part) as out:
                out.write(values[..., start:stop])
                out.update_tags(**tags)


def test_land_cover_in_two_tiles_is_that_in_one(planet_files, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "open_forcing", lambda *paths, surface, **options: open_forcing(*paths, **options))
    planet = Planet(seed=0, quick=True)
    whole = demo._forcing(planet_files, planet).igbp.values
    for name in ("era5", "modis"):
        (tmp_path / name).symlink_to(planet_files / name)
    (tmp_path / "land_cover").mkdir()
    (source,) = (planet_files / "land_cover").rglob("*.tif")
    halves(source, tmp_path / "land_cover")
    parts = demo._forcing(tmp_path, planet).igbp.values
    assert (whole != "").all()
    np.testing.assert_array_equal(parts, whole)

"""The planet's MOD09GA: the land under clouds, equal in all files, and read back by the readers of the real product."""

from __future__ import annotations

import numpy as np
import pytest
from packages import optional

from fluxcube.cubes.surface import build_surface, clear_sky
from fluxcube.simulation import write_reflectance
from fluxcube.simulation.surface import appearance

rasterio = optional("rasterio")


@pytest.fixture(scope="module")
def views(small_planet, tmp_path_factory):
    return write_reflectance(small_planet, tmp_path_factory.mktemp("mod09ga"), every=32)


def _layers(path):
    with rasterio.open(path) as file:
        return file.read(), file.transform


def test_the_readers_of_the_product_find_the_appearance_of_the_land(views, small_planet):
    towers = small_planet.towers
    latitude, longitude = (np.array([getattr(t, name) for t in towers]) for name in ("latitude", "longitude"))
    found = build_surface(views, latitude, longitude).transpose("place", "day", "band")
    expected = appearance(small_planet, found.day.values, latitude, longitude, [t.igbp for t in towers])
    snow_free = expected[..., 7] == 0
    difference = (found.values[..., :7] - expected[..., :7])[snow_free]
    seen = np.isfinite(difference[:, 0])
    assert seen.sum() > 10 and 0.2 < seen.mean() < 0.8  # clouds hide the rest
    # Pixels differ from the tower's state by 5 % of leaf area and noise; some around a tower are of other classes.
    assert np.nanmedian(np.abs(difference), 0).max() < 0.02


def test_clouds_are_bright_and_flagged_by_pixels_of_1_km(views):
    path = next(views.glob("*.region.tif"))
    layers, transform = _layers(path)
    flags = layers[7]
    known = flags != 65535
    clear = clear_sky(flags)
    assert 0.1 < clear.mean() < 0.9
    assert layers[0][known & ~clear].min() > 6000 and np.median(layers[0][clear]) < 2500
    row = round((10007554.677 - transform.f) / 463.3127) % 2
    column = round((transform.c + 20015109.354) / 463.3127) % 2
    cloudy = (flags[row:, column:] & 3 == 1) & known[row:, column:]
    whole = known[row:, column:]
    pair = [a[: a.shape[0] // 2 * 2, : a.shape[1] // 2 * 2].reshape(a.shape[0] // 2, 2, -1, 2) for a in (cloudy, whole)]
    complete = pair[1].all((1, 3))
    assert (pair[0].any((1, 3)) == pair[0].all((1, 3)))[complete].all()


def test_a_pixel_has_the_same_view_in_the_files_of_the_region_and_of_a_tower(views):
    compared = 0
    for whole in views.glob("*.region.tif"):
        region, at = _layers(whole)
        for path in set(views.glob(f"*.{whole.name.split('.')[1]}.*.tif")) - {whole}:
            block, corner = _layers(path)
            row, column = (round(x / 463.3127) for x in (at.f - corner.f, corner.c - at.c))
            if 0 <= row < region.shape[1] and 0 <= column < region.shape[2]:
                same = region[:, row : row + block.shape[1], column : column + block.shape[2]]
                clear = clear_sky(block[7]) & clear_sky(same[7])
                assert (same[:7, clear] == block[:7, clear]).all()
                compared += clear.any()
    assert compared

"""Chips at a corner where tiles meet are the same from every service."""

from __future__ import annotations

import numpy as np
import pytest
from services.appeears import PASSWORD, USER, AppEEARS
from services.cmr import TOKEN, Earthdata
from services.earthengine import EarthEngine
from services.modis_scene import Scene
from services.stac import Planetary

import fluxcube.fetch as fetch
from fluxcube.cubes.chips import build_chips

# The corner of h18v03, h18v04, h19v03 and h19v04.
SITE = {"XX-Cor": (50.0, 15.5572)}
PARTS = [(row, col, 16, 16) for row in (9584, 9600) for col in (45584, 45600)]
SCENE = Scene(["2019-07-01", "2019-07-02"])
SERVICES = {
    "earthengine": lambda: EarthEngine(SCENE),
    "earthdata": lambda: Earthdata(SCENE, PARTS),
    "planetary": lambda: Planetary(SCENE, PARTS),
    "appeears": lambda: AppEEARS(SCENE, polls=0),
}


@pytest.mark.parametrize("service", SERVICES)
def test_chips_at_a_corner_of_tiles_are_the_same(service, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ee.deprecation._FetchDataCatalogStac", dict)
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    monkeypatch.setenv("EARTHDATA_USERNAME", USER)
    monkeypatch.setenv("EARTHDATA_PASSWORD", PASSWORD)
    caplog.set_level("INFO", "rasterio")
    options = {"project": "p"} if service == "earthengine" else {}
    with SERVICES[service]() as server:
        fetch.modis(tmp_path, service=service, at_sites=SITE, years=2019, endpoint=server.url, **options)
    chips = build_chips(tmp_path, *np.array(list(SITE.values())).T)
    expected = SCENE.chips(SITE.values(), ["2019-07-01", "2019-07-02"])
    if service == "planetary":
        expected[:, :, 7:] = np.nan  # it has no MCD43A2
    np.testing.assert_array_equal(chips.values, expected)

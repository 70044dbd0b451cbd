"""MODIS from the Planetary Computer, by the real STAC client and local blobs behind signed addresses."""

from __future__ import annotations

import logging
from datetime import timedelta

import numpy as np
import pytest
from services import web
from services.modis_scene import Scene
from services.secrets import assert_absent
from services.stac import SIGNATURE, Planetary

import fluxcube.fetch as fetch
from fluxcube.cubes.chips import build_chips
from fluxcube.errors import ConfigError, FetchError
from fluxcube.sources.modis.rasters import find_tiles, read_tile

# A site on the edge of two tiles, of which the service has the parts around it.
SITES = {"XX-Edg": (50.0, 13.565)}
DAYS = ["2019-07-01", "2019-07-02", "2019-08-05"]
SCENE = Scene([*DAYS, "2018-12-28", "2020-01-03"])
PARTS = [(9300, 45000, 300, 400), (9600, 45000, 300, 400)]
OPTIONS = {"service": "planetary", "at_sites": SITES, "years": 2019}


@pytest.fixture
def server(monkeypatch, caplog):
    monkeypatch.setattr("fluxcube.fetch.remote_file.pause", lambda seconds: None)
    monkeypatch.setattr("fluxcube.fetch.signing.pause", lambda seconds: None)
    caplog.set_level(logging.INFO, "rasterio")
    with Planetary(SCENE, PARTS) as service:
        yield service


def test_windows_of_signed_files_give_the_chips_of_the_scene(server, tmp_path, caplog):
    plan = fetch.modis(tmp_path, **OPTIONS, endpoint=server.url, plan=True)
    assert [item.name for item in plan.items] == [f"MCD43A4.061.XX-Edg.2019-{month}.tif" for month in ("07", "08")]
    assert "Earth Engine" in plan.notes[-1] and not server.asked("sas/v1|modis-061-cogs/")
    paths = fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    chips = build_chips(tmp_path, *np.array(list(SITES.values())).T)
    expected = SCENE.chips(SITES.values(), DAYS)
    expected[:, :, 7:] = np.nan  # the service has no MCD43A2
    np.testing.assert_array_equal(chips.values, expected)
    assert server.issued == 1
    assert_absent(SIGNATURE, caplog, tmp_path, plan)
    before = len(server.asked("/modis-061-cogs/"))
    assert fetch.modis(tmp_path, **OPTIONS, endpoint=server.url) == paths
    assert len(server.asked("/modis-061-cogs/")) == before


def test_only_the_blocks_of_a_window_are_read(server, tmp_path, monkeypatch):
    monkeypatch.setattr("fluxcube.fetch.remote_file._BLOCK", 1 << 14)
    server.parts = [(9000, 44800, 500, 700)]
    fetch.modis(tmp_path, **(OPTIONS | {"at_sites": {"XX-Mid": (51.5, 13.565)}}), endpoint=server.url)
    blobs = server.asked("/modis-061-cogs/")
    sent = sum(int(b) - int(a) + 1 for a, b in (r.headers["range"][6:].split("-") for r in blobs))
    whole = 21 * len(server.content(server.item(np.datetime64("2019-07-01"), (18, 3))["id"], "Nadir_Reflectance_Band1"))
    assert 0 < sent < whole / 3


def test_whole_tiles_and_areas(server, tmp_path):
    paths = fetch.modis(
        tmp_path / "tile", service="planetary", tiles=["h18v04"], years=2019, every=181, endpoint=server.url
    )
    assert len(paths) == 7
    with pytest.raises(FetchError, match="no image"):
        fetch.modis(tmp_path / "none", service="planetary", tiles=["h18v04"], years=2017, endpoint=server.url)
    options = {"service": "planetary", "bbox": (13.4, 49.95, 13.5, 50.05), "years": 2019, "endpoint": server.url}
    assert len(fetch.modis(tmp_path / "area", **options)) == 2 * len(DAYS)
    fetch.modis(tmp_path / "tile", service="planetary", tiles=["h18v04"], years=2019, endpoint=server.url)
    for folder in ("tile", "area"):
        tiles = find_tiles(tmp_path / folder)
        assert [str(tile.day) for tile in tiles] == sorted(DAYS * (2 if folder == "area" else 1))
        for tile in tiles:
            stored = SCENE.stored("MCD43A4", tile.day, tile.row, tile.col, tile.height, tile.width)
            np.testing.assert_array_equal(np.isnan(read_tile(tile)), stored == 32767)


def test_a_token_is_renewed_before_and_when_it_expires(server, tmp_path):
    server.lifetime = timedelta(minutes=1)
    fetch.modis(tmp_path / "short", **OPTIONS, endpoint=server.url)
    assert server.issued > 20
    server.lifetime, server.accepted = timedelta(hours=1), set()
    server.fail("/modis-061-cogs/", web.status(403, "expired"))
    before = server.issued
    fetch.modis(tmp_path / "refused", **OPTIONS, endpoint=server.url, jobs=1)
    assert server.issued == before + 2


@pytest.mark.parametrize(
    ("path", "faults", "text"),
    [
        ("/modis-061-cogs/", [web.page("gone")], "web page"),
        ("/modis-061-cogs/", [web.status(404, "BlobNotFound")], "no such file"),
        ("/modis-061-cogs/", [web.status(403, "no")], "access was refused"),
        ("token", [web.status(429, {"message": "rate limit"})], "no token was issued"),
        ("token", [web.status(200, {"other": 1})], "expected a token"),
        ("search", [web.status(400, {"code": "BadRequest"})], "search failed"),
        ("/modis-061-cogs/", [web.Fault(answer=web.Answer(b"no tiff at all" * 9000))], "no GeoTIFF"),
    ],
)
def test_faults_are_named(server, tmp_path, caplog, path, faults, text):
    server.fail(path, *faults, times=500)
    with pytest.raises(FetchError, match=text) as error:
        fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    assert_absent(SIGNATURE, caplog, tmp_path, error.value)
    assert not list(tmp_path.glob("*.tif"))


def test_faults_that_pass_do_not_matter(server, tmp_path):
    server.fail("/modis-061-cogs/", web.Fault(truncate=100), web.status(503), web.Fault(drop=True), web.status(429))
    assert len(fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)) == 2


def test_a_token_goes_to_no_other_server(server, tmp_path, monkeypatch):
    monkeypatch.setattr("fluxcube.fetch.planetary._API", server.url)
    with pytest.raises(FetchError, match="another server than Azure's"):
        fetch.modis(tmp_path, **OPTIONS)
    assert not server.issued


def test_only_its_product_is_offered(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(ConfigError, match="planetary has MCD43A4, not MCD43A2"):
        fetch.modis(tmp_path, **OPTIONS, products=["MCD43A4", "MCD43A2"], plan=True)

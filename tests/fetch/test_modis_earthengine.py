"""MODIS from Earth Engine, by the real client and a local server that evaluates its expressions."""

from __future__ import annotations

import logging
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from services import web
from services.earthengine import EarthEngine
from services.modis_scene import Scene
from services.secrets import assert_absent

import fluxcube.fetch as fetch
from fluxcube.cubes.chips import build_chips
from fluxcube.errors import ConfigError, CredentialsError, FetchError, QuotaError
from fluxcube.sources.modis.rasters import find_tiles, read_land_cover, read_tile

SITES = {"DE-Tha": (50.9626, 13.5651), "FJ-Edge": (-17.0, 179.999)}
DAYS = [f"2019-07-{day:02d}" for day in range(1, 13)] + ["2019-01-01", "2019-12-31"]
SCENE = Scene(DAYS, missing=["MCD43A2 2019-07-03"])


@pytest.fixture(autouse=True)
def no_catalogue(monkeypatch, caplog):
    """The client asks for a list of retired data sets; and it waits between its attempts."""
    monkeypatch.setattr("ee.deprecation._FetchDataCatalogStac", dict)
    monkeypatch.setattr("googleapiclient.http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("fluxcube.fetch.earthengine_client.pause", lambda seconds: None)
    monkeypatch.setattr("fluxcube.fetch.earthengine_client._TRIES", 2)
    for name in ("rasterio", "googleapiclient"):  # they log several lines a band
        caplog.set_level(logging.INFO, name)


@pytest.fixture
def server():
    with EarthEngine(SCENE) as service:
        yield service


def sites(**more):
    return pd.DataFrame({"site": list(SITES), "latitude": [50.9626, -17.0], "longitude": [13.5651, 179.999], **more})


def test_chips_are_those_of_the_pixels_of_the_scene(server, tmp_path, caplog):
    paths = fetch.modis(tmp_path, at_sites=SITES, years=2019, project="p", endpoint=server.url)
    names = sorted(path.name for path in paths)
    assert names == ["MCD43A4.061.DE-Tha.2019.tif", "MCD43A4.061.FJ-Edge-2.2019.tif", "MCD43A4.061.FJ-Edge.2019.tif"]
    latitude, longitude = np.array(list(SITES.values())).T
    chips = build_chips(tmp_path, latitude, longitude)
    days = sorted(DAYS)
    assert [str(day)[:10] for day in chips.day.values] == days
    np.testing.assert_array_equal(chips.values, SCENE.chips(SITES.values(), days))
    # One request of pixels a site and year (two for the chip across 180 degrees), and one list of days a product.
    assert len(server.asked("computePixels")) == 3 and len(server.asked("value:compute")) == 2
    assert "10.5067/MODIS/MCD43A4.061" in (tmp_path / "LICENCE.md").read_text()


def test_a_second_call_asks_for_nothing(server, tmp_path):
    options = {"at_sites": {"DE-Tha": SITES["DE-Tha"]}, "years": 2019, "project": "p", "endpoint": server.url}
    first = fetch.modis(tmp_path, **options)
    before = len(server.requests)
    assert fetch.modis(tmp_path, **options) == first
    plan = fetch.modis(tmp_path, **options, plan=True)
    assert not plan.missing and len(server.requests) == before
    first[0].unlink()
    fetch.modis(tmp_path, **options)
    assert first[0].exists()


def test_a_year_of_days_is_split_at_the_limit_of_bands(tmp_path):
    days = np.arange(np.datetime64("2019-01-01"), np.datetime64("2020-01-01"))
    with EarthEngine(Scene(map(str, days))) as server:
        options = {"at_sites": {"DE-Tha": SITES["DE-Tha"]}, "years": 2019, "project": "p", "endpoint": server.url}
        plan = fetch.modis(tmp_path, **options, plan=True)
        assert plan.cost.startswith(
            "6 requests"
        )  # 4 of pixels, since a request has at most 1024 bands, 2 lists of days
        (path,) = fetch.modis(tmp_path, **options)
        assert len(server.asked("computePixels")) == 4
        size = path.stat().st_size
        assert size == pytest.approx(plan.bytes, rel=0.2)
        assert len(find_tiles(tmp_path)) == 2 * 365
        fetch.modis(tmp_path / "each8", **options, every=8)
        assert len(server.asked("computePixels")) == 5
    tiles = find_tiles(tmp_path / "each8", products=["MCD43A4"])
    assert [str(tile.day) for tile in tiles] == [str(day) for day in days[::8]]


def test_surface_reflectance_and_its_flags_are_in_one_file(server, tmp_path):
    options = {"at_sites": {"DE-Tha": SITES["DE-Tha"]}, "years": 2019, "project": "p", "endpoint": server.url}
    fetch.modis(tmp_path, products=["MOD09GA", "MODOCGA", "MCD12Q1"], **options)
    tiles = {tile.product: tile for tile in find_tiles(tmp_path) if str(tile.day) in ("2019-07-04", "2019-01-01")}
    for product in ("MOD09GA", "MOD09GA_STATE", "MODOCGA", "MCD12Q1"):
        tile = tiles[product]
        day = "2019-01-01" if product == "MCD12Q1" else "2019-07-04"
        stored = SCENE.stored(product, day, tile.row, tile.col, tile.height, tile.width).astype("float64")
        missing = stored == {"MOD09GA_STATE": 65535, "MCD12Q1": 255}.get(product, -28672)
        scale = 1e-4 if product in ("MOD09GA", "MODOCGA") else 1.0
        values = read_tile(tile)
        np.testing.assert_array_equal(np.isnan(values), missing)
        np.testing.assert_allclose(values[~missing], stored[~missing] * scale, rtol=1e-6)


def test_an_area_is_cut_from_its_tiles_by_day(server, tmp_path):
    paths = fetch.modis(
        tmp_path, bbox=(19.9, 49.9, 20.1, 50.1), years=2019, every=400, project="p", endpoint=server.url
    )
    assert len(paths) == 6 and {path.name.split(".")[2] for path in paths} == {"h19v03", "h19v04"}  # they meet at 50 N
    assert sorted({path.name.partition(".A")[0] for path in paths}) == ["MCD12Q1", "MCD43A2", "MCD43A4"]
    for tile in find_tiles(tmp_path, products=["MCD43A4"]):
        stored = SCENE.stored("MCD43A4", "2019-01-01", tile.row, tile.col, tile.height, tile.width)
        np.testing.assert_array_equal(np.isnan(read_tile(tile)), stored == 32767)
        rows, cols = (tile.row, tile.row + 3), (tile.col, tile.col + 5)
        land = SCENE.stored("MCD12Q1", "2019-01-01", tile.row, tile.col, 3, 5)[0]
        np.testing.assert_array_equal(read_land_cover(find_tiles(tmp_path, products=["MCD12Q1"]), rows, cols), land)


def test_all_files_of_a_day_are_fetched_together(server, tmp_path):
    """A stopped fetch has whole days, and a service that computes images computes each once."""
    options = {"bbox": (19.9, 49.9, 20.1, 50.1), "years": [2019, 2020], "products": ["MCD43A4", "MCD12Q1"]}
    names = [item.name.rpartition("/")[2] for item in fetch.modis(tmp_path, plan=True, every=200, **options).items]
    assert [name.split(".")[1][1:] for name in names] == sorted(name.split(".")[1][1:] for name in names)
    assert [name[:7] for name in names[:6]] == ["MCD43A4"] * 2 + ["MCD12Q1"] * 2 + ["MCD43A4"] * 2
    assert len(names) == len(set(names)) == 2 * (2 + 2 + 2 * 1)


def test_a_whole_tile_is_split_at_the_limit_of_bytes(server, tmp_path, monkeypatch):
    plan = fetch.modis(tmp_path, tiles=["h18v04"], products=["MCD43A4"], years=2019, every=400, plan=True)
    assert plan.cost.startswith("6 requests") and "h18v04" in plan.items[0].name  # five strips, and the list of days
    monkeypatch.setattr("fluxcube.fetch.earthengine._STRIP_BYTES", 5_000)
    fetch.modis(
        tmp_path,
        bbox=(13.5, 50.9, 13.7, 51.0),
        products=["MCD43A4"],
        years=2019,
        every=400,
        project="p",
        endpoint=server.url,
    )
    assert len(server.asked("computePixels")) > 2
    (tile,) = find_tiles(tmp_path)
    stored = SCENE.stored("MCD43A4", "2019-01-01", tile.row, tile.col, tile.height, tile.width)
    np.testing.assert_array_equal(np.isnan(read_tile(tile)), stored == 32767)


def test_too_many_requests_are_tried_again(server, tmp_path):
    server.fail("computePixels", web.status(429, {"error": {"code": 429, "message": "Too many requests"}}), times=2)
    paths = fetch.modis(tmp_path, at_sites={"DE-Tha": SITES["DE-Tha"]}, years=2019, project="p", endpoint=server.url)
    assert len(paths) == 1


def test_a_request_that_cannot_be_computed_is_halved(server, tmp_path):
    options = {"at_sites": {"DE-Tha": SITES["DE-Tha"]}, "years": 2019, "project": "p", "endpoint": server.url}
    whole = fetch.modis(tmp_path / "whole", **options)
    server.requests.clear()
    server.fail("computePixels", web.status(400, {"error": {"code": 400, "message": "User memory limit exceeded."}}))
    halves = fetch.modis(tmp_path / "halves", **options)
    assert len(server.asked("computePixels")) == 3
    chips = [build_chips(paths, *np.array([SITES["DE-Tha"]]).T) for paths in (whole, halves)]
    np.testing.assert_array_equal(*chips)


@pytest.mark.parametrize(
    ("code", "message", "error", "text"),
    [
        (429, "Quota exceeded for quota metric 'Read requests'", QuotaError, "quota"),
        (
            403,
            "Caller does not have required permission to use project p",
            CredentialsError,
            "earthengine authenticate",
        ),
        (
            401,
            "Request had invalid authentication credentials.",
            CredentialsError,
            "code.earthengine.google.com/register",
        ),
        (400, "Collection.loadTable: Collection asset not found", FetchError, "not found"),
    ],
)
def test_refusals_are_named(server, tmp_path, code, message, error, text):
    server.fail("computePixels", web.status(code, {"error": {"code": code, "message": message}}), times=99)
    with pytest.raises(error, match=text):
        fetch.modis(tmp_path, at_sites={"DE-Tha": SITES["DE-Tha"]}, years=2019, project="p", endpoint=server.url)
    assert not list(tmp_path.glob("*.tif"))


@pytest.mark.parametrize("fault", [web.page("Sign in"), web.Fault(truncate=900, length=900), web.Fault(drop=True)])
def test_an_answer_that_is_no_array_is_refused(server, tmp_path, fault):
    server.fail("computePixels", fault, times=99)
    with pytest.raises(FetchError, match="Earth Engine"):
        fetch.modis(tmp_path, at_sites={"DE-Tha": SITES["DE-Tha"]}, years=2019, project="p", endpoint=server.url)
    assert not list(tmp_path.glob("*.tif"))


def test_without_an_account_the_command_that_makes_one_is_named(tmp_path, monkeypatch, caplog):
    from google.auth.exceptions import RefreshError

    def expired():
        raise RefreshError("invalid_grant: Token has been expired or revoked. secret-token-1234")

    monkeypatch.setattr("ee.data.get_persistent_credentials", expired)
    with pytest.raises(CredentialsError, match="earthengine authenticate") as error:
        fetch.modis(tmp_path, at_sites=SITES, years=2019, project="p")
    assert error.value.__cause__ is None and error.value.__context__ is None
    assert_absent("https://oauth2.googleapis.com/token?code=", caplog, tmp_path, error.value)


def test_years_of_sites_and_what_is_refused(tmp_path):
    table = sites(first_year=[2018, 2001], last_year=[2019, 2001])
    plan = fetch.modis(tmp_path, at_sites=table, plan=True)
    assert [item.name for item in plan.items][:2] == ["MCD43A4.061.DE-Tha.2018.tif", "MCD43A4.061.DE-Tha.2019.tif"]
    names = {"latitude": "location_lat", "longitude": "location_long", "site": "site_id"}  # as in a list of towers
    assert fetch.modis(tmp_path, at_sites=table.rename(columns=names), plan=True).items == plan.items
    narrow = fetch.modis(tmp_path, at_sites=table, years="2018-2019", plan=True)
    assert len(narrow.items) == 2 and "FJ-Edge" in narrow.notes[0]
    for options, text in [
        ({"at_sites": SITES}, "years"),
        ({"at_sites": SITES, "bbox": (0, 0, 1, 1), "years": 2019}, "one of"),
        ({"years": 2019}, "one of"),
        ({"tiles": ["h99v01"], "years": 2019}, "h00v00"),
        ({"bbox": (0, 2, 1, 1), "years": 2019}, "bbox"),
        ({"at_sites": SITES, "years": 1999}, "2000"),
        ({"at_sites": SITES, "years": "2019-2018"}, "first year"),
        ({"at_sites": SITES, "years": 2019, "series": True}, "series"),
        ({"at_sites": SITES, "years": 2000, "products": "MCD12Q1"}, "2001-01-01"),
        ({"at_sites": "no/such/table.csv"}, "does not exist"),
    ]:
        with pytest.raises(ConfigError, match=text):
            fetch.modis(tmp_path, plan=True, **options)
    assert not any(tmp_path.iterdir())


def test_years_and_names_of_a_cube(tmp_path):
    start, stop = (
        np.array([text], "datetime64[h]").astype("datetime64[ns]") for text in ("2018-01-15T00", "2020-01-01T00")
    )
    coords = {"site": ["Ü/1 x"], "latitude": ("site", [50.0]), "longitude": ("site", [10.0])}
    cube = xr.Dataset(coords=coords | {"time_start": ("site", start), "time_stop": ("site", stop)})
    plan = fetch.modis(tmp_path, at_sites=cube, plan=True)
    # Satellite data are used from 32 days before the first hour, and the stop is the hour after the last.
    assert [item.name.split(".")[-2] for item in plan.items] == ["2017", "2018", "2019"]
    assert re.fullmatch(r"MCD43A4\.061\.1-x-[0-9a-f]{8}\.2017\.tif", plan.items[0].name)

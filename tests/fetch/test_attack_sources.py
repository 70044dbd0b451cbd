"""Answers of the services that their clients do not expect: named errors, and nothing else is taken for data."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import xarray as xr
from services import web
from services.secrets import assert_absent
from services.shuttle import add_examples, running

from fluxcube import fetch
from fluxcube.errors import FetchError
from fluxcube.fetch.check_era5 import check_complete
from fluxcube.fetch.sites import find_sites

SITES = {"XX-Edg": (50.0, 13.565)}
PARTS = [(9300, 45000, 60, 400), (9600, 45000, 60, 400)]
BAD = [None, [], "text", {"error": "quota"}, {"result": {"x": [None]}}, {"items": [{"umm": None}]}]
BAD += [{"features": [{"id": 5}]}, {"files": [{"file_id": "../x"}]}, {"values": [{"site_id": 1}], "data_urls": 5}]


def answers(pattern: str, service, *bodies, code: int = 200) -> None:
    service.fail(pattern, *[web.Fault(web.Answer(body, code, type="application/json")) for body in bodies], times=99)


def _json(bodies):
    import json

    return [json.dumps(body) for body in bodies]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    for module in ("remote_file", "signing", "appeears", "appeears_client", "earthengine_client", "era5_cds"):
        monkeypatch.setattr(f"fluxcube.fetch.{module}.pause", lambda seconds: None)


@pytest.mark.parametrize("body", _json(BAD))
def test_malformed_lists_of_the_planetary_computer(body, tmp_path):
    from services.modis_scene import Scene
    from services.stac import Planetary

    options = {"service": "planetary", "at_sites": SITES, "years": 2019}
    with Planetary(Scene(["2019-07-01"]), PARTS) as server:
        for pattern in ("stac/v1/search", "stac/v1/?$", "sas/v1/token"):
            server._faults.clear()
            answers(pattern, server, body)
            with pytest.raises(FetchError):
                fetch.modis(tmp_path, **options, endpoint=server.url)
        server._faults.clear()
        answers("stac/v1/search", server, body, code=202)
        with pytest.raises(FetchError, match=r"list of images|search failed|no image"):
            fetch.modis(tmp_path, **options, endpoint=server.url)
    assert not list(tmp_path.glob("*.tif"))


@pytest.mark.parametrize("fault", ["json", "cut"])
def test_a_whole_tile_is_a_geotiff_and_complete(fault, tmp_path):
    from services.modis_scene import Scene
    from services.stac import Planetary

    with Planetary(Scene(["2019-07-01"]), PARTS) as server:
        content = server.content

        def cut(name, layer):
            body = content(name, layer)
            return body[: len(body) - 200]

        if fault == "json":
            answers("/modis-061-cogs/", server, {"error": "quota"})
        else:
            server.content = cut
        with pytest.raises(FetchError, match=r"expected a TIFF file, found|cut short|no GeoTIFF"):
            fetch.modis(tmp_path, service="planetary", tiles=["h18v04"], years=2019, endpoint=server.url)
    assert not list(tmp_path.rglob("MCD43A4/*.tif"))


@pytest.mark.parametrize("body", _json(BAD))
def test_malformed_lists_of_earthdata(body, tmp_path, monkeypatch):
    from services.cmr import TOKEN, Earthdata
    from services.modis_scene import Scene

    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    options = {"service": "earthdata", "products": ["MCD43A4"], "at_sites": SITES, "years": 2019}
    with Earthdata(Scene(["2019-07-01"]), [(9560, 45280, 40, 40)], ("MCD43A4",)) as server:
        answers("granules", server, body)
        with pytest.raises(FetchError, match=r"search in CMR failed|no tile"):
            fetch.modis(tmp_path, **options, endpoint=server.url)


@pytest.mark.parametrize("body", _json(BAD))
def test_malformed_answers_of_appeears_leave_no_trap(body, tmp_path, monkeypatch, caplog):
    """What a malformed answer says is not kept: the next call with a healthy service succeeds."""
    from services.appeears import PASSWORD, TOKEN, USER, AppEEARS
    from services.modis_scene import Scene

    monkeypatch.setenv("EARTHDATA_USERNAME", USER)
    monkeypatch.setenv("EARTHDATA_PASSWORD", PASSWORD)
    options = {"service": "appeears", "products": "MCD43A2", "at_sites": SITES, "years": 2019, "wait_hours": 0.05}
    with AppEEARS(Scene(["2019-07-01"]), polls=0) as server:
        for pattern in ("/login", "/task$", "/task/", r"/bundle/[\w-]+$"):
            server._faults.clear()
            server.fail("nothing")
            answers(pattern, server, body)
            with pytest.raises(FetchError):
                fetch.modis(tmp_path, **options, endpoint=server.url)
        server._faults.clear()
        for pattern, wrong in (("/task$", {"task_id": "²/../x"}), ("/login", f'{{"token": "{TOKEN}')):
            server._faults.clear()
            answers(pattern, server, wrong)
            with pytest.raises(FetchError) as failed:
                fetch.modis(tmp_path / "other", **options, endpoint=server.url)
            assert_absent(TOKEN, caplog, tmp_path, failed.value)
        server._faults.clear()
        assert fetch.modis(tmp_path / "other", **options, endpoint=server.url)
        assert fetch.modis(tmp_path, **options, endpoint=server.url)


@pytest.mark.parametrize("body", [*_json(BAD), "<html>busy</html>"])
def test_malformed_answers_of_earth_engine(body, tmp_path, monkeypatch):
    from services.earthengine import EarthEngine
    from services.modis_scene import Scene

    monkeypatch.setattr("ee.deprecation._FetchDataCatalogStac", dict)
    monkeypatch.setattr("googleapiclient.http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("fluxcube.fetch.earthengine_client._TRIES", 2)
    with EarthEngine(Scene(["2019-07-01"])) as server:
        options = {"at_sites": SITES, "years": 2019, "project": "p", "endpoint": server.url}
        for pattern in ("value:compute", "computePixels", "discovery"):
            server._faults.clear()
            answers(pattern, server, body)
            with pytest.raises(FetchError, match="Earth Engine"):
                fetch.modis(tmp_path, **options)
    assert not list(tmp_path.glob("*.tif"))


@pytest.fixture(scope="module")
def hubs():
    with running() as started:
        add_examples(started)
        yield started


@pytest.mark.parametrize("body", _json(BAD))
def test_malformed_lists_of_towers(hubs, body, tmp_path, monkeypatch):
    for service in hubs.all:
        service._faults.clear()
        answers("", service, body)
    monkeypatch.setenv("AMF_USER", "somebody")
    monkeypatch.setenv("AMF_EMAIL", "somebody@example.org")
    for source in ("shuttle", "icos", "ameriflux", "zenodo"):
        with pytest.raises(Exception) as failed:
            fetch.towers(tmp_path, source=source, services=hubs.services)
        assert type(failed.value).__module__ == "fluxcube.errors"


def test_years_that_are_no_list(hubs, tmp_path):
    for service in hubs.all:
        service._faults.clear()
    site = hubs.ameriflux.sites["US-Ha1"]
    try:
        for value in (5, 1e400, "2018", {"a": 1}, [None, "²²²²"]):
            hubs.ameriflux.sites["US-Ha1"] = {**site, "grp_publish_fluxnet": value}
            plan = fetch.towers(tmp_path, services=hubs.services, sites="US-Ha1", plan=True)
            assert [item.about["years"] for item in plan.items] == [[1991, 2020]]  # those of the file's name
    finally:
        hubs.ameriflux.sites["US-Ha1"] = site


def test_a_table_that_ends_within_quotation_marks_is_damaged(hubs, tmp_path):
    for service in hubs.all:
        service._faults.clear()
    text = "SITE_ID,PRODUCT_URL\n" + '"' + "x" * 200_000
    hubs.tern.fail("catalogue", web.Fault(web.Answer(text, type="text/csv")))
    plan = fetch.towers(tmp_path, services=hubs.services, plan=True)
    assert "TERN could not be listed" in plan.text() and "damaged near line" in plan.text()


def test_selected_years_are_the_named_ones(hubs, tmp_path):
    for service in hubs.all:
        service._faults.clear()
    plan = fetch.towers(tmp_path, services=hubs.services, years="1992,2023", plan=True)
    assert [item.about["site"] for item in plan.items] == ["US-Ha1", "US-xAA"]


def netcdf(path):
    xr.Dataset({"t2m": ("x", np.arange(50_000.0))}).to_netcdf(path, engine="netcdf4")
    return path.read_bytes()


def archive(path):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.nc", np.random.default_rng(0).bytes(9000))
    return body.getvalue()


def grib(path):
    message = b"GRIB\0\0\0\x02" + (400).to_bytes(8, "big") + b"x" * 380 + b"7777"
    old = b"GRIB" + (100).to_bytes(3, "big") + b"\x01" + b"x" * 88 + b"7777"
    return message + old + message


@pytest.mark.parametrize("make", [netcdf, archive, grib])
def test_files_of_era5_that_were_cut_are_recognised(make, tmp_path):
    """Also where the service states the length of the cut file."""
    path = tmp_path / "a"
    body = make(tmp_path / "whole")
    path.write_bytes(body)
    check_complete(path)
    for wrong in (body[:-9], body[: len(body) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(FetchError, match=r"damaged|cut short|expected"):
            check_complete(path)
        assert not path.exists()


def test_real_files_of_era5_are_complete(shared_data, tmp_path):
    files = [path for path in shared_data.rglob("*") if path.suffix in (".nc", ".grib", ".grb", ".zip")]
    assert files
    for number, path in enumerate(files):
        link = tmp_path / f"{number}{path.suffix}"  # what is not complete is removed
        link.symlink_to(path)
        check_complete(link)


@pytest.mark.parametrize("body", _json([*BAD, {"links": [5], "status": "successful", "jobID": "a"}]))
def test_malformed_answers_of_the_climate_data_store(body, tmp_path, monkeypatch):
    from services.cds import ClimateDataStore

    with ClimateDataStore() as cds:
        monkeypatch.setenv("CDSAPI_URL", f"{cds.url}/api")
        monkeypatch.setenv("CDSAPI_KEY", cds.KEY)
        for pattern in ("/execution", "/jobs/[^/]+$", "/results", "/files/"):
            cds._faults.clear()
            answers(pattern, cds, body)
            with pytest.raises(FetchError):
                fetch.era5(tmp_path, at_sites={"A": (47.0, 7.0)}, years=1940, variables="TA", jobs=1)
    assert not list(tmp_path.glob("A/*"))


def test_a_damaged_series_is_ordered_again(tmp_path, monkeypatch):
    """A zip of the right length, whose end is missing: nothing is kept of it, not even the id of the request."""
    from services import cds as service

    with service.ClimateDataStore() as cds:
        monkeypatch.setenv("CDSAPI_URL", f"{cds.url}/api")
        monkeypatch.setenv("CDSAPI_KEY", cds.KEY)
        options = {"at_sites": {"A": (47.0, 7.0)}, "years": 1940, "variables": "TA", "jobs": 1}
        content = service.content
        with monkeypatch.context() as patch:
            patch.setattr(service, "content", lambda name, body: content(name, body)[:-40])
            with pytest.raises(
                FetchError, match=r"series_\w+.zip: the zip is damaged(.|\n)*static_\w+.nc: expected \d+ bytes"
            ):
                fetch.era5(tmp_path, **options)
        assert not list(tmp_path.glob("A/*"))
        assert len(fetch.era5(tmp_path, **options)) == 2 and len(cds.orders) == 4


@pytest.mark.parametrize("status", [400, 403, 404, 418])
def test_a_key_that_the_climate_data_store_repeats_is_hidden(status, tmp_path, monkeypatch, caplog):
    from services.cds import ClimateDataStore

    with ClimateDataStore() as cds:
        monkeypatch.setenv("CDSAPI_URL", f"{cds.url}/api")
        monkeypatch.setenv("CDSAPI_KEY", cds.KEY)
        answers("/retrieve", cds, {"title": "refused", "detail": f"key {cds.KEY}"}, code=status)
        with pytest.raises(FetchError, match="refused") as failed:
            fetch.era5(tmp_path / "era5", years=2019, bbox=(7.1, 46.9, 7.4, 47.1), variables="TA", jobs=1)
        assert_absent(cds.KEY, caplog, tmp_path, failed.value)


def test_sites_in_every_form(tmp_path):
    table = tmp_path / "sites.csv"
    table.write_text(
        "SITE_ID,LAT,LON,first_year,last_year\nA/b c,50,13,2018,2019\nA/b c,50,13,2021,2021\nNo,,,2018,2018\n"
    )
    (site,), notes = find_sites(table)
    assert site.years == (2018, 2019, 2021) and "No" in notes[0]
    (known, other), _ = find_sites("DE-Tha, US-Ha1")
    assert known.name == "DE-Tha" and known.latitude == pytest.approx(50.96, abs=0.01) and 2018 in (known.years or ())
    assert [one.name for one in find_sites(["US-Ha1", "US-Ha1"])[0]] == [other.name]
    plan = fetch.era5(tmp_path / "e", at_sites=table, variables="TA", plan=True)
    (folder,) = {item.name.partition("/")[0] for item in plan.items}
    assert folder.startswith("A-b-c-") and len([item for item in plan.items if "series" in item.name]) == 2
    plan = fetch.modis(tmp_path / "m", at_sites="DE-Tha", years=2018, plan=True)
    assert [item.name for item in plan.items] == ["MCD43A4.061.DE-Tha.2018.tif"]
    with pytest.raises(KeyError, match="did you mean 'DE-Tha'"):
        find_sites("DE-Tah")
    for wrong, match in (
        ("none.csv", "does not exist"),
        ({"x": (91.0, 0.0)}, "latitude 91"),
        ({"x": (np.nan, 0)}, "no si"),
    ):
        with pytest.raises(ValueError, match=match):
            find_sites(wrong)
    empty = xr.Dataset(
        coords={
            "site": ["A", "B"],
            "latitude": ("site", [1.0, 2.0]),
            "longitude": ("site", [1.0, 2.0]),
            "time_start": ("site", np.array(["2018-01-01", "NaT"], "datetime64[ns]")),
            "time_stop": ("site", np.array(["2019-01-01", "NaT"], "datetime64[ns]")),
        }
    )
    assert [site.years for site in find_sites(empty)[0]] == [(2018,), ()]

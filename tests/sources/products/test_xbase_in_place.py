"""FLUXCOM-X-BASE read in place: stores of its exact layout by HTTP and from S3, with requests and bytes counted."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import time

import numpy as np
import pytest
import xarray as xr
from packages import optional
from services.arco import ZarrService
from services.secrets import assert_absent
from services.web import Fault, page, status
from xbase import CHUNKS, SMALL, cell_of, series, write_store

import fluxcube as fc
from fluxcube.errors import SchemaError, SourceError
from fluxcube.sources.products.at_sites import read_at_sites
from fluxcube.sources.products.stores import Traffic
from fluxcube.sources.products.table import products

optional("aiohttp")
SECRET = "not-a-secret-0123456789"
THARANDT = (50.9626, 13.5651)
#: Two towers of one chunk, one of another, and one on the other side of the earth, in the small store.
PLACES = {"DE-Aaa": (50.2, 13.1), "DE-Bbb": (51.7, 14.6), "US-Ccc": (40.5, -90.5), "AU-Ddd": (-35.5, 149.5)}


def towers(places) -> xr.Dataset:
    latitude, longitude = zip(*places.values(), strict=True)
    site = np.array(list(places), object)
    return xr.Dataset(
        coords={"site": site, "latitude": ("site", list(latitude)), "longitude": ("site", list(longitude))}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of the full size with three chunks of one tower, and small ones of two fluxes."""
    folder = tmp_path_factory.mktemp("fluxcom-x")
    write_store(folder / "full" / "NEE", "NEE", [cell_of(*THARANDT)], (1,))
    (chunk,) = (folder / "full" / "NEE" / "NEE").glob("1.0.*")
    for block in (2, 3):  # the same values again
        os.link(chunk, chunk.with_name(f"{block}{chunk.name[1:]}"))
    cells = [cell_of(*place, step=1.0) for place in PLACES.values()]
    for flux in ("NEE", "GPP"):
        write_store(folder / "FLUXCOMxBase" / flux, flux, cells, range(4), **SMALL)
    return folder


@pytest.fixture
def service(folder, monkeypatch):
    monkeypatch.setattr("fluxcube.sources.products.stores._FIRST_WAIT", 0.0)
    with ZarrService(folder) as service:
        yield service


def chunks_of(service, flux="NEE"):
    """Chunks of a flux that were requested, in order."""
    return [request.path.rpartition("/")[2] for request in service.asked(rf"/{flux}/{flux}/\d", method="GET")]


def size(folder, service):
    """Bytes of the files that were sent."""
    files = [folder / request.path.lstrip("/") for request in service.asked(method="GET")]
    return sum(file.stat().st_size for file in files if file.is_file())


def test_ten_years_of_a_tower_read_its_three_chunks(folder, service):
    """Of 97,200 chunks of 224 MB; before, only axes and metadata are read."""
    row, column = cell_of(*THARANDT)
    traffic = Traffic()
    maps = fc.open_product(f"{service.url}/full/NEE", traffic=traffic)
    assert maps.attrs["product"] == "x-base" and maps.sizes == {
        "time": 7670,
        "hour": 24,
        "latitude": 3600,
        "longitude": 7200,
    }
    assert not chunks_of(service) and traffic.bytes < 50_000 and traffic.requests < 12
    found = read_at_sites(f"{service.url}/full/NEE", towers({"DE-Tha": THARANDT}), time=slice("2005", "2014"))
    place = f"{row // 40}.{column // 40}"
    assert sorted(chunks_of(service)) == [f"{block}.0.{place}" for block in (1, 2, 3)]
    assert len(service.asked("/land_fraction/", method="GET")) == 1
    assert found.attrs["bytes_read"] + traffic.bytes == size(folder, service)
    assert np.datetime64("2001-01-01") + 1461 == np.datetime64("2005-01-01")
    expected = series("NEE", row, column, 1461 + np.arange(3652) % 1461).reshape(1, -1)
    np.testing.assert_array_equal(found.NEE.values, expected)
    assert found.time.values[0] == np.datetime64("2005-01-01T00") and found.time.values[-1] == np.datetime64(
        "2014-12-31T23"
    )
    assert found.land_fraction.item() == 0.75 and found.NEE.units == "umol m-2 s-1"


def test_each_chunk_of_several_towers_is_requested_once(folder, service):
    """Towers of one chunk share it; none between towers is read; RECO = NEE + GPP requests none again."""
    found = read_at_sites(f"{service.url}/FLUXCOMxBase", towers(PLACES))
    for flux in ("NEE", "GPP"):
        requested = chunks_of(service, flux)
        assert len(requested) == len(set(requested)) == 3 * 4
    for site, place in PLACES.items():
        cell = cell_of(*place, step=1.0)
        nee, gpp = (series(flux, *cell, np.arange(30)).reshape(-1) for flux in ("NEE", "GPP"))
        np.testing.assert_array_equal(found.NEE.sel(site=site).values, nee)
        np.testing.assert_allclose(found.RECO_NT.sel(site=site).values, nee + gpp, rtol=1e-6)
    assert found.RECO_NT.derived == "NEE + GPP_NT"
    assert np.abs(found.cell_latitude - towers(PLACES).latitude.values).max() <= 0.5


@pytest.mark.parametrize("time_first", [True, False])
def test_plain_xarray_selections_read_no_more(service, time_first):
    maps = fc.open_product(f"{service.url}/FLUXCOMxBase/NEE")
    cube = towers(PLACES)
    place = {"latitude": cube.latitude, "longitude": cube.longitude}
    days = slice("2001-01-10", "2001-01-12")
    if time_first:
        found = maps.NEE.sel(time=days).sel(place, method="nearest").load()
    else:
        found = maps.NEE.sel(place, method="nearest").sel(time=days).load()
    assert len(chunks_of(service)) == 3
    np.testing.assert_array_equal(found.isel(site=2), series("NEE", *cell_of(40.5, -90.5, step=1.0), np.arange(9, 12)))


def test_the_same_from_s3(folder, service):
    optional("s3fs")
    moto = optional("moto.server")
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        options = {"key": "reader", "secret": SECRET, "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
        files = s3fs.S3FileSystem(**options)
        files.mkdir("products")
        files.put(str(folder / "FLUXCOMxBase" / "NEE"), "products/FLUXCOMxBase/NEE", recursive=True)
        there = read_at_sites("s3://products/FLUXCOMxBase/NEE", towers(PLACES), storage_options=options)
        server.stop()
    here = read_at_sites(f"{service.url}/FLUXCOMxBase/NEE", towers(PLACES))
    xr.testing.assert_equal(there, here)
    assert there.attrs["bytes_read"] == here.attrs["bytes_read"] and there.attrs["requests"] == here.attrs["requests"]
    assert SECRET not in f"{there.attrs} {there.encoding}"


def test_a_chunk_that_does_not_exist_is_missing_and_one_that_fails_is_not(service):
    """The sea has no chunks. An error of the server is never read as sea."""
    url, cube = f"{service.url}/FLUXCOMxBase/NEE", towers({"DE-Aaa": PLACES["DE-Aaa"], "sea": (0.5, -30.5)})
    found = read_at_sites(url, cube)
    assert np.isnan(found.NEE.sel(site="sea")).all() and found.NEE.sel(site="DE-Aaa").notnull().all()
    assert found.land_fraction.sel(site="sea") == 0
    for faults in ([status(503)], [status(429)], [Fault(drop=True)], [Fault(truncate=100)], [status(500)] * 3):
        service.fail(r"/NEE/NEE/1\.0\.", *faults)
        again = read_at_sites(url, cube)
        assert again.attrs["retries"] <= len(faults)  # aiohttp repeats some requests itself
        xr.testing.assert_equal(again, found)


@pytest.mark.parametrize("fault", [status(503), status(403), status(401), page("Log in"), status(500, "not-a-secret")])
def test_what_cannot_be_read_is_an_error(service, fault):
    service.fail(r"/NEE/NEE/1\.0\.", *[fault] * 40)
    with pytest.raises(SourceError, match=r"values cannot be read") as raised:
        read_at_sites(f"{service.url}/FLUXCOMxBase/NEE", towers(PLACES))
    assert "not-a-secret" not in str(raised.value)


def test_after_an_error_no_further_chunk_is_requested(service, monkeypatch):
    monkeypatch.setattr("fluxcube.sources.products.lazy._BLOCK", 1)
    monkeypatch.setattr("fluxcube.sources.products.lazy._MAX_WORKERS", 2)
    service.fail(r"/NEE/NEE/", status(403), times=99)
    with pytest.raises(SourceError, match="values cannot be read"):
        read_at_sites(f"{service.url}/FLUXCOMxBase/NEE", towers(PLACES))
    time.sleep(0.1)
    assert len(chunks_of(service)) < 12


def test_a_mirror_on_disk_is_the_same(folder, service):
    there = read_at_sites(f"{service.url}/FLUXCOMxBase", towers(PLACES))
    here = read_at_sites(folder / "FLUXCOMxBase", towers(PLACES))
    xr.testing.assert_equal(here, there)
    assert here.attrs["product"] == "x-base"


def test_credentials_of_an_address_appear_nowhere(folder, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    with ZarrService(folder, token="any") as service:
        url = service.url.replace("http://", f"http://reader:{SECRET}@")
        maps = fc.open_product(f"{url}/FLUXCOMxBase/NEE")
        values = maps.isel(time=0, latitude=[3], longitude=[4]).load()
        service.fail(r"/NEE/NEE/", status(403), times=9)
        with pytest.raises(SourceError) as raised:
            maps.isel(time=20, latitude=0, longitude=0).load()
    assert_absent(SECRET, caplog, tmp_path, maps, values, maps.attrs, maps.NEE.encoding, raised.value)


def test_no_store_at_the_address_is_named(service):
    with pytest.raises(SourceError, match="no Zarr store, nor any of NEE, GPP, ET, ET_T below it"):
        fc.open_product(f"{service.url}/nothing", "x-base")


def test_a_signed_address_of_a_store_is_refused_without_its_key(service):
    with pytest.raises(SourceError, match="cannot be reached by a signed address") as raised:
        fc.open_product(f"{service.url}/FLUXCOMxBase/NEE?sig={SECRET}", "x-base")
    assert SECRET not in str(raised.value)


def test_the_short_name_is_the_public_address(service, monkeypatch):
    table = {**products(), "x-base": dataclasses.replace(products()["x-base"], address=f"{service.url}/FLUXCOMxBase")}
    monkeypatch.setattr("fluxcube.sources.products.open.products", lambda: table)
    assert set(fc.open_product("x-base").data_vars) == {"NEE", "GPP_NT", "RECO_NT"}
    assert products()["x-base"].address.startswith("https://swift.dkrz.de/")


def test_days_are_not_taken_for_hours_and_hours_start_at_zero(service):
    maps = fc.open_product(f"{service.url}/FLUXCOMxBase")
    assert maps.attrs["time_step"] == "hourly" and maps.hour.values.tolist() == list(range(24))
    assert "UTC" in maps.hour.long_name and maps.latitude[0] < maps.latitude[-1]
    assert {"NEE", "GPP_NT", "RECO_NT"} == set(maps.data_vars)


def test_the_maps_can_be_pickled_and_chunked(service):
    maps = pickle.loads(pickle.dumps(fc.open_product(f"{service.url}/FLUXCOMxBase/NEE")))
    part = maps.NEE.sel(latitude=slice(48, 52), longitude=slice(12, 16))
    np.testing.assert_array_equal(part.chunk({"time": 8}).load(), part.load())
    assert maps.NEE.encoding["preferred_chunks"] == dict(zip(maps.NEE.dims, SMALL["chunks"], strict=True))


def test_dask_requests_each_chunk_once_and_few_are_decoded_at_a_time(service, monkeypatch):
    """Of NEE, GPP and their sum, in many threads: a chunk that is being read is waited for."""
    maps = fc.open_product(f"{service.url}/FLUXCOMxBase")
    (gate,) = {array.variable._data.array.gate for array in (maps.NEE, maps.GPP_NT)}
    assert gate.limit == 8
    monkeypatch.setattr("fluxcube.sources.products.lazy._DECODED", 3 << 24)
    part = fc.open_product(f"{service.url}/FLUXCOMxBase").sel(latitude=slice(50, 58), longitude=slice(12, 20))
    before = len(service.requests)
    chunked = part.chunk({"time": 8, "latitude": 4, "longitude": 4}).compute(scheduler="threads", num_workers=8)
    for flux in ("NEE", "GPP"):
        requested = [r.path for r in service.requests[before:] if f"/{flux}/{flux}/" in r.path]
        assert len(requested) == len(set(requested)) == 4 * 4
    xr.testing.assert_equal(chunked, part.load())


def test_wrong_sites_and_periods_are_named(service):
    url = f"{service.url}/FLUXCOMxBase/NEE"
    with pytest.raises(SchemaError, match="no latitude"):
        read_at_sites(url, towers(PLACES).drop_vars("latitude"))
    with pytest.raises(SchemaError, match="no time step"):
        read_at_sites(url, towers(PLACES), time=slice("1999", "2000"))
    outside = read_at_sites(url, towers({"bad": (np.nan, 3.0), "DE-Aaa": PLACES["DE-Aaa"]}))
    assert np.isnan(outside.NEE.sel(site="bad")).all() and outside.NEE.sel(site="DE-Aaa").notnull().all()


def test_a_chunk_has_the_size_that_the_documentation_states():
    assert np.prod(CHUNKS) * 4 == 224_409_600

"""ERA5 in clouds, read in place over HTTP: only what is needed, each hour once, and no credential in any message."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

import numpy as np
import pytest
import xarray as xr
from packages import optional
from services.secrets import assert_absent
from services.web import status

import fluxcube as fc
from fluxcube.errors import MissingPackageError, SourceError
from fluxcube.sources.era5 import clouds
from fluxcube.sources.era5.clouds import default_options, extra_of, public_address
from fluxcube.sources.era5.open import find_sources
from fluxcube.sources.era5.variables import open_era5

optional("aiohttp")
BOX = {"bbox": (5, 40, 16, 56), "time": ("2019-07-02T00", "2019-07-02T23")}
SECRET = "t0ken-of-an-account"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from services.arco import write_arco, write_earth_data_hub

    folder = tmp_path_factory.mktemp("clouds")
    write_arco(folder)
    write_earth_data_hub(folder)
    return folder


@pytest.fixture
def service(folder):
    from services.arco import ZarrService

    with ZarrService(folder) as service:
        yield service


@pytest.fixture(scope="module")
def expected():
    from services.arco import globe

    names = "t2m", "d2m", "ssrd", "tp", "z", "lsm"
    return open_era5(globe("2019-07-01", 72, names), bbox=BOX["bbox"], time=("2019-07-02T00", "2019-07-02T23")).load()


def test_arco_is_the_same_forcing_and_only_the_region_is_kept(service, expected):
    """Of the axis from days before to after the valid period, only the requested hours are read."""
    found = open_era5(f"{service.url}/arco.zarr", **BOX)
    opened = len(service.chunks())
    assert not service.chunks("geopotential/")
    xr.testing.assert_allclose(found.load().drop_attrs(), expected.drop_attrs(), rtol=1e-5, atol=1e-3)
    # Opening reads samples, the axes and the static fields, far less than the store.
    assert opened < 0.4 * 4 * (48 + 72 + 24)


def test_a_copy_reads_each_hour_once(service, expected, tmp_path, monkeypatch):
    """Hour-wise chunks: a copy of a region requests each hour of each parameter once, after the samples of opening."""
    url = f"{service.url}/arco.zarr"
    monkeypatch.setattr("fluxcube.sources.era5.files.sample_days", lambda *args: [])
    copy = fc.copy_era5(url, tmp_path / "copy.zarr", **BOX, accumulation="hour", check=False)
    weather = [chunk for chunk in service.chunks() if not any(static in chunk for static in ("mask", "geopot", "/c/0"))]
    assert len(weather) == 4 * 25 == len(set(weather))
    # One chunk contains the globe: bytes read are those of the globe over those of the region, at best.
    ratio = service.bytes / (4 * 25 * 4 * 3 * 4)
    assert ratio < 37 * 72 / (4 * 3)
    found = open_era5(copy).load()
    xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs(), rtol=1e-5, atol=1e-3)
    before = len(service.requests)
    fc.copy_era5(url, tmp_path / "other.zarr", **BOX, accumulation="hour", check=False)
    assert len(service.requests) - before < 4 * 25 + 30


def test_earth_data_hub_needs_the_account_of_netrc(folder, expected, tmp_path, monkeypatch, caplog):
    from services.arco import ZarrService

    caplog.set_level(logging.DEBUG)
    with ZarrService(folder, token=SECRET) as service:
        url = f"{service.url}/era5-edh.zarr"
        with pytest.raises(SourceError, match=r"cannot be opened as Zarr \(.*the account is missing.*~/.netrc"):
            open_era5(url)
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login edh password {SECRET}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        options = {"client_kwargs": {"trust_env": True}}
        assert default_options(clouds.STORES["earth-data-hub-era5"]) == options
        found = open_era5(url, **BOX, storage_options=options)
        np.testing.assert_allclose(found.TA, expected.TA, atol=1e-3)
        # The token may be in the address, too, as Earth Data Hub shows it: it is in no message and in no store.
        inside = url.replace("//", f"//edh:{SECRET}@")
        copy = fc.copy_era5(inside, tmp_path / "copy.zarr", **BOX)
        opened = open_era5(inside, **BOX)
        np.testing.assert_array_equal(open_era5(copy).TA.values, opened.TA.values)
        keys = [str(key) for key in opened.TA.data.dask]
        service.fail("/t2m/c/", *[status(401)] * 99)
        with pytest.raises(SourceError, match=r"t2m at .* cannot be read \(.*the account is missing") as info:
            opened.TA.load()
        with pytest.raises(SourceError) as other:
            open_era5(inside.replace("edh.zarr", "other.zarr?sig=" + SECRET))
    source = find_sources(inside)[0]
    assert_absent(SECRET, caplog, copy, info.value, other.value, str(source), repr(source), keys, source.identity)


def test_stores_are_known_by_name(service, expected, monkeypatch):
    monkeypatch.setattr(clouds, "STORES", {"arco-era5": f"{service.url}/arco.zarr"})
    found = fc.open_forcing("arco-era5", **BOX)
    np.testing.assert_allclose(found.predictors.sel(variable="TA").transpose(*expected.TA.dims), expected.TA, atol=1e-3)


def test_how_stores_are_reached(monkeypatch):
    assert default_options("gs://gcp-public-data-arco-era5/ar/x.zarr") == {"token": "anon"}
    assert default_options("s3://era5-pds/zarr/2019/07/data/a.zarr") == {"anon": True}
    assert default_options("gs://my-bucket/a.zarr") == {} == default_options("https://example.org/a.zarr")
    assert extra_of("s3://a/b") == "s3" and extra_of("gs://a/b") == "cloud" == extra_of("simplecache::https://a/b")
    assert public_address("s3://key:secret@bucket/a.zarr") == "s3://bucket/a.zarr"
    assert public_address("folder/a@b.nc") == "folder/a@b.nc"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for scheme in ("gs", "gcs"):  # fsspec keeps the classes that it once imported
        monkeypatch.delitem(import_module("fsspec.registry")._registry, scheme, raising=False)
    with pytest.raises(MissingPackageError, match=r"pip install 'fluxcube\[cloud\]'"):
        open_era5("arco-era5")

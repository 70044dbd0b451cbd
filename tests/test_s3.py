"""A cube in a bucket opens as one on disk does, through a real S3 server; secrets stay where they were given."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr
from packages import optional

import fluxcube as fc
from fluxcube.errors import StoreError

optional("s3fs")
server = optional("moto.server")

SECRET = "not-a-secret-0123456789"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A cube of one small site."""
    sites = "site_id,latitude,longitude,utc_offset,igbp\nUS-Aaa,40,-90,-6,DBF\n"
    rows = "\n".join(f"20100101{h:02d}00,20100101{h + 1:02d}00,{h}.5,{-h}.25,0" for h in range(23))
    raw = tmp_path_factory.mktemp("raw")
    (raw / "sites.csv").write_text(sites)
    (raw / "FLX_US-Aaa_FLUXNET2015_FULLSET_HR_2010-2010_1-4.csv").write_text(
        f"TIMESTAMP_START,TIMESTAMP_END,TA_F,NEE_VUT_REF,NEE_VUT_REF_QC\n{rows}\n"
    )
    store = tmp_path_factory.mktemp("store") / "carbonsense.zarr"
    fc.build_carbonsense(raw, store)
    return store


@pytest.fixture(scope="module")
def bucket(small) -> Iterator[dict]:
    """An S3 server with the cube in it; what fsspec needs to reach it."""
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        options = {
            "key": "reader",
            "secret": SECRET,
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
        }
        files = s3fs.S3FileSystem(**options)
        files.mkdir("carbon")
        files.put(str(small), "carbon/carbonsense.zarr", recursive=True)
        yield options
        running.stop()


def test_a_cube_in_a_bucket_is_the_one_on_disk(small, bucket):
    url = "s3://carbon/carbonsense.zarr"
    there = fc.open_carbonsense(url, storage_options=bucket, variables=["TA"], max_qc=1)
    here = fc.open_carbonsense(small, variables=["TA"], max_qc=1)
    assert there.chunks == here.chunks and there.predictors.chunks is not None
    xr.testing.assert_identical(there.load(), here.load())
    assert fc.open_report(url, storage_options=bucket).equals(fc.open_report(small))


def test_intake_opens_a_bucket(small, bucket, monkeypatch):
    intake = pytest.importorskip("intake")
    catalog = intake.open_catalog(str(Path(__file__).parents[1] / "catalogs" / "fluxcube.yaml"))
    monkeypatch.setenv("FLUXCUBE_DATA", "s3://carbon")
    assert catalog.carbonsense(storage_options=bucket).to_dask().identical(fc.open_carbonsense(small))


def test_what_is_not_there_is_told(bucket):
    for url in ("s3://carbon/none.zarr", "s3://nobucket/carbonsense.zarr"):
        with pytest.raises(StoreError, match="s3://"):
            fc.open_carbonsense(url, storage_options=bucket)
    nowhere = bucket | {"client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    nowhere |= {"config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 2}}
    with pytest.raises(StoreError, match="cannot be opened"):
        fc.open_carbonsense("s3://carbon/carbonsense.zarr", storage_options=nowhere)


def test_secrets_are_neither_kept_nor_told(bucket, caplog, tmp_path):
    with caplog.at_level(logging.DEBUG, logger="fluxcube"):
        ds = fc.open_carbonsense("s3://carbon/carbonsense.zarr", storage_options=bucket)
        with pytest.raises(StoreError) as told:
            fc.open_carbonsense("s3://carbon/none.zarr", storage_options=bucket)
    said = f"{ds} {ds.attrs} {ds.encoding} {[v.encoding for v in ds.variables.values()]} {told.value} {caplog.text}"
    assert SECRET not in said and "reader" not in said
    ds.load().to_netcdf(tmp_path / "c.nc")
    assert SECRET.encode() not in (tmp_path / "c.nc").read_bytes() and SECRET.encode() not in pickle.dumps(ds)

"""From ERA5 to totals by commands, with every store in a bucket that the environment leads to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from buckets import SECRET, s3_server
from inference_fakes import fake
from packages import optional
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube import cli_maps
from fluxcube.cli import app
from fluxcube.errors import StoreError
from fluxcube.sources.era5.open import find_sources
from fluxcube.stores.objects import Bucket
from fluxcube.stores.reading import store_attrs

optional("netCDF4")
optional("matplotlib")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket that fsspec finds by the variables of the environment that all programs of S3 use."""
    import s3fs

    with s3_server() as (url, options), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", options["client_kwargs"]["endpoint_url"])
        patch.setenv("AWS_ACCESS_KEY_ID", options["key"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
        s3fs.S3FileSystem.clear_instance_cache()
        yield url
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def era5(tmp_path_factory) -> Path:
    time = np.arange("2019-07-01T00", "2019-07-03T01", dtype="datetime64[h]").astype("datetime64[ns]")
    shape, dims = (len(time), 4, 6), ("time", "latitude", "longitude")
    axes = {"time": time, "latitude": np.arange(48.0, 47.0, -0.25), "longitude": np.arange(7.0, 8.5, 0.25)}
    values = {"t2m": (290.0, "K"), "d2m": (280.0, "K"), "ssrd": (1e6, "J m**-2")}
    arrays = {n: (dims, np.full(shape, v, "float32"), {"units": u}) for n, (v, u) in values.items()}
    path = tmp_path_factory.mktemp("era5") / "era5.nc"
    xr.Dataset(arrays, axes).to_netcdf(path)
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None:
        raise done.exception
    assert SECRET not in done.output
    return done.stdout


@pytest.fixture(scope="module")
def stores(bucket, era5, tmp_path_factory) -> dict[str, str]:
    """The same stores in the bucket and on a disk, by name: the copy of ERA5, the forcing, the maps."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        model = fake(predictors=("TA", "SW_IN"), bands=())
        patch.setattr("fluxcube.inference.loading.load_model", lambda runs, **_: model)
        for place in (bucket, str(folder)):
            copied = fc.copy_era5(era5, f"{place}/era5.zarr", accumulation="hour", check=False)
            assert str(copied) == f"{place}/era5.zarr"
            run("forcing", copied, f"{place}/forcing.zarr", "--igbp", "GRA", "--no-check")
            run(
                "upscale",
                "run",
                f"{place}/forcing.zarr",
                f"{place}/maps.zarr",
                "--target",
                "NEE",
                "--no-check",
                "--allow-missing",
            )
    return {"bucket": bucket, "disk": str(folder)}


def test_values_are_those_on_a_disk(stores):
    for name in ("era5.zarr", "maps.zarr"):
        there, here = (xr.open_zarr(f"{stores[place]}/{name}", consolidated=False) for place in ("bucket", "disk"))
        for array in there.data_vars:
            np.testing.assert_array_equal(there[array].values, here[array].values)
    there, here = (fc.open_forcing(f"{stores[place]}/forcing.zarr") for place in ("bucket", "disk"))
    np.testing.assert_array_equal(there.predictors.values, here.predictors.values)
    ids = [store_attrs(f"{stores[place]}/era5.zarr")["store_id"] for place in ("bucket", "disk")]
    assert ids[0] == ids[1]


def test_commands_read_maps_in_a_bucket(stores, tmp_path):
    there, here = (f"{stores[place]}/maps.zarr" for place in ("bucket", "disk"))
    assert run("totals", there) == run("totals", here)
    run("plot", there, tmp_path / "nee.png")
    assert (tmp_path / "nee.png").read_bytes().startswith(b"\x89PNG")
    run("export", there, tmp_path / "nee.nc")
    with xr.open_dataset(tmp_path / "nee.nc") as written:
        np.testing.assert_array_equal(written.NEE, fc.open_maps(here).NEE)
    assert list(cli_maps.named_maps([there], taken=[])) == ["maps"]


def test_a_copy_of_era5_in_a_bucket_is_identified_by_its_content(bucket, era5):
    digests = set()
    for name, hours in (("one", 48), ("two", 48), ("three", 24)):
        copied = fc.copy_era5(era5, f"{bucket}/{name}/era5.zarr", accumulation="hour", check=False, **_first(hours))
        sources = find_sources(copied)
        digests.add(sources[0].identity[1])
    assert len(digests) == 2 and "" not in digests


def _first(hours: int) -> dict:
    return {"time": slice("2019-07-01", np.datetime64("2019-07-01") + np.timedelta64(hours - 1, "h"))}


def test_nothing_is_replaced_in_a_bucket(stores, era5):
    url = stores["bucket"]
    before = Bucket(f"{url}/maps.zarr").entries()
    for overwrite in ((), ("--overwrite",)):
        with pytest.raises(StoreError, match=r"forcing\.zarr exists.*choose another name"):
            run("forcing", f"{url}/era5.zarr", f"{url}/forcing.zarr", "--igbp", "GRA", "--no-check", *overwrite)
    with pytest.raises(StoreError, match=r"era5\.zarr exists.*choose another name"):
        fc.copy_era5(era5, f"{url}/era5.zarr", accumulation="hour", check=False, overwrite=True)
    with pytest.raises(StoreError, match="not a copy of ERA5"):
        fc.copy_era5(era5, f"{url}/maps.zarr", accumulation="hour", check=False, overwrite=True)
    assert Bucket(f"{url}/maps.zarr").entries() == before


def test_a_bucket_that_does_not_exist_is_reported_in_one_line(stores, bucket):
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/\S+: .*check the address"):
        fc.copy_era5(f"{stores['disk']}/era5.zarr", "s3://no-such-bucket/era5.zarr", check=False)

"""Maps, forcing and ERA5 copies in a bucket: the bytes of the same store on a disk, and the same promises."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from buckets import SECRET, bucket_server  # noqa: F401
from inference_fakes import fake

import fluxcube as fc
from fluxcube.cubes.forcing_store import open_forcing_store, write_forcing
from fluxcube.errors import StoreError
from fluxcube.inference.grid import upscale
from fluxcube.maps import store as maps_store
from fluxcube.maps.regions import even_chunks, region_tasks, regions
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.simulation.example import example_forcing
from fluxcube.stores import resumable
from fluxcube.stores.ledger import done_regions
from fluxcube.stores.objects import Bucket
from fluxcube.stores.reading import store_attrs

REGIONS = 2 * 2


#: What does not depend on the service is tested on one.
one_service = pytest.mark.parametrize("bucket_server", ["s3"], indirect=True)


class Stop(Exception):
    pass


def stop_after(count):
    def progress(done, total, text):
        if done >= count:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def forcing() -> xr.Dataset:
    ds = example_forcing(shape=(4, 6), days=2).load()
    land = np.ones((4, 6))
    land[:2, :3] = 0.0  # one block without land
    return ds.assign_coords(land_fraction=(("latitude", "longitude"), land)).chunk(latitude=2, longitude=3, time=48)


def maps_of(forcing: xr.Dataset) -> xr.Dataset:
    return upscale(fake(), forcing, targets=["NEE"], time_chunk=48)


@pytest.fixture(scope="module")
def maps(forcing) -> xr.Dataset:
    return maps_of(forcing)


@pytest.fixture(scope="module")
def local(maps, tmp_path_factory) -> Path:
    return write_maps(maps, tmp_path_factory.mktemp("disk") / "maps.zarr", scheduler="threads")


@pytest.fixture
def bucket(bucket_server, request) -> Bucket:  # noqa: F811
    url, options = bucket_server
    return Bucket(f"{url}/{request.node.originalname}/maps.zarr", options)


def write(maps: xr.Dataset, bucket: Bucket, **options):
    return write_maps(maps, bucket.url, storage_options=bucket.options, scheduler="threads", workers=2, **options)


@pytest.fixture(scope="module")
def finished(bucket_server, maps) -> tuple[Bucket, str]:  # noqa: F811
    """Maps that were written once, and all that was logged meanwhile."""
    url, options = bucket_server
    bucket, log = Bucket(f"{url}/finished/maps.zarr", options), io.StringIO()
    handler, logger = logging.StreamHandler(log), logging.getLogger("fluxcube")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        assert write(maps, bucket) == bucket.url
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return bucket, log.getvalue()


def opened(bucket: Bucket, **options) -> xr.Dataset:
    return open_maps(bucket.url, storage_options=bucket.options, **options)


def assert_equals_disk(bucket: Bucket, folder: Path) -> None:
    """Compare every file of a store on a disk with its object, and the identifiers of the content."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    own = {key for key in files if not key.startswith("ledger/")}
    assert own == {key for key in bucket.entries() if not key.startswith("ledger/")}
    assert [key for key in sorted(own) if bucket.read(key) != files[key].read_bytes()] == []
    assert store_attrs(bucket.url, storage_options=bucket.options)["store_id"] == store_attrs(folder)["store_id"]


def test_maps_in_a_bucket_are_those_on_a_disk(local, finished):
    bucket, _ = finished
    assert_equals_disk(bucket, local)
    xr.testing.assert_identical(opened(bucket).load(), open_maps(local).load())
    assert bucket.beside(".maps.zarr.lock").entries() == {}


def test_a_stopped_run_is_continued(maps, local, bucket):
    with pytest.raises(Stop):
        write(maps, bucket, progress=stop_after(2))
    with pytest.raises(StoreError, match="not finished"):
        opened(bucket)
    done = len(done_regions(bucket))
    assert opened(bucket, partial=True).attrs["regions_done"] == done < REGIONS
    seen = []
    write(maps, bucket, progress=lambda *step: seen.append(step))
    assert seen[0][0] == done and seen[-1][0] == REGIONS
    assert_equals_disk(bucket, local)


def warmer(forcing):
    """Return a forcing with other values, which no check of units refuses."""
    return forcing.assign(predictors=forcing.predictors.where(forcing["variable"] != "TA", forcing.predictors + 1))


@one_service
def test_a_run_that_stops_at_any_request_is_continued(maps, local, bucket, monkeypatch):
    """Requests that change something fail from the n-th one on: the objects are those that a kill leaves."""
    files = [file for file in local.rglob("*") if file.is_file() and "NEE/c/" not in file.as_posix()]
    created = len(files) - len(["manifest/zarr.json", "manifest/files.json", "ledger/regions.jsonl"])
    left, one_at_a_time = 0, threading.Lock()

    def limited(plain):
        def request(self, *args):
            nonlocal left
            with one_at_a_time:
                left -= ".lock" not in self.url
                if left < 0 and ".lock" not in self.url:
                    raise StoreError("stopped")
            return plain(self, *args)

        return request

    for limit in (1, created // 2, created - 1, created + 2, 1, 3, 2, 4, 2, 1):
        left = limit
        with monkeypatch.context() as patch, contextlib.suppress(StoreError):
            for name in ("write", "create", "upload", "remove"):
                patch.setattr(Bucket, name, limited(getattr(Bucket, name)))
            write(maps, bucket)
    assert not store_attrs(bucket.url, storage_options=bucket.options)["complete"]
    write(maps, bucket)
    assert_equals_disk(bucket, local)


@one_service
def test_other_inputs_are_refused(forcing, maps, bucket):
    with pytest.raises(Stop):
        write(maps, bucket, progress=stop_after(2))
    other = maps_of(warmer(forcing))
    with pytest.raises(StoreError, match=r"other inputs: predictors differ.*stores in buckets are not replaced"):
        write(other, bucket)
    with pytest.raises(StoreError, match="stores in buckets are not replaced; choose another name"):
        write(other, bucket, overwrite=True)
    with pytest.raises(StoreError, match=r"resume is off.*not replaced"):
        write(maps, bucket, resume=False)
    assert len(done_regions(bucket)) == 2


def test_finished_maps_are_not_replaced(maps, finished):
    bucket, _ = finished
    before = bucket.entries()
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"maps\.zarr exists.*not replaced"):
            write(maps, bucket, overwrite=overwrite)
    assert bucket.entries() == before


@one_service
def test_objects_of_others_stay(maps, bucket):
    for key in ("notes.txt", "time/zarr.json"):
        bucket.write(key, b"of another program")
        with pytest.raises(StoreError, match=rf"do not belong to this store, such as {key}"):
            write(maps, bucket)
        assert bucket.read(key) == b"of another program" and bucket.read("zarr.json") is None
        bucket.remove(key)


def test_two_writers(maps, bucket):
    refused = []

    def second(done, total, text):
        if not refused:
            with pytest.raises(StoreError, match="is writing it") as error:
                write(maps, bucket)
            refused.append(error)

    write(maps, bucket, progress=second)
    assert refused and opened(bucket).attrs["complete"] == 1


@one_service
def test_a_writer_that_lost_its_lock_does_not_finish(maps, bucket, monkeypatch):
    def lost(lock):
        raise StoreError("another writer took it over")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="took it over"):
        patch.setattr("fluxcube.stores.bucket_lock.BucketLock.check", lost)
        write(maps, bucket)
    with pytest.raises(StoreError, match="not finished"):
        opened(bucket)


@one_service
def test_a_lost_object_is_written_again_or_an_error(maps, local, bucket, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(maps_store, "finish_regions", lambda *args: stop_after(0)(0, 0, ""))
        write(maps, bucket)
    shard = next(key for key in bucket.entries() if key.startswith("NEE/c/"))
    plain = resumable.recorded_files

    def lose(place, listed):
        return plain(place, {key: entry for key, entry in listed.items() if key != shard})

    with monkeypatch.context() as patch, pytest.raises(StoreError, match=rf"missing, such as {shard}.*again"):
        patch.setattr(resumable, "recorded_files", lose)
        write(maps, bucket)
    bucket.remove(shard)
    write(maps, bucket)
    assert_equals_disk(bucket, local)


@one_service
def test_an_object_that_is_lost_later_is_an_error(maps, bucket):
    write(maps, bucket)
    ds = opened(bucket)
    shard = next(key for key in bucket.entries() if key.startswith("NEE/c/"))
    bucket.remove(shard)
    with pytest.raises(StoreError, match=f"{shard} is missing"):
        ds.load()


@one_service
def test_an_object_that_changed_after_its_record_is_read_again(maps, local, bucket, monkeypatch):
    """As a task that a killed client left on a cluster may do: the manifest describes what is there."""
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(maps_store, "finish_regions", lambda *args: stop_after(0)(0, 0, ""))
        write(maps, bucket)
    first, second = [key for key in bucket.entries() if key.startswith("NEE/c/")][:2]
    bucket.write(first, bucket.read(second))
    write(maps, bucket)
    manifest = json.loads(bucket.read("manifest/files.json"))
    assert manifest[first] == manifest[second]
    assert store_attrs(bucket.url, storage_options=bucket.options)["store_id"] != store_attrs(local)["store_id"]


@one_service
def test_a_task_of_another_run_does_not_write(forcing, maps, bucket):
    with pytest.raises(Stop):
        write(maps, bucket, progress=stop_after(2))
    other = even_chunks(maps_of(warmer(forcing)))
    task = next(region_tasks(other, bucket, [r for r in regions(other).values() if r.land]))
    with pytest.raises(StoreError, match="those of another predictors"):
        pickle.loads(pickle.dumps(task))()


def test_credentials_stay_where_they_were_passed(maps, finished):
    bucket, log = finished
    secrets = {SECRET, *(str(value) for value in bucket.options.values() if isinstance(value, str) and len(value) > 20)}
    with pytest.raises(StoreError) as error:
        write(maps, bucket)
    ds, even = opened(bucket), even_chunks(maps)
    task = next(region_tasks(even, bucket, [region for region in regions(even).values() if region.land]))
    shown = f"{ds} {ds.attrs} {ds.encoding} {error.value} {log} {bucket!r} {task!r} {ds.NEE.encoding}"
    stored = b"".join(bucket.read(key) or b"" for key in bucket.entries())
    assert "threads of this process" in log
    assert not [secret for secret in secrets if secret in shown or secret.encode() in stored]


@one_service
def test_a_temporary_folder_that_is_full_or_missing_is_named(maps, bucket, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(StoreError, match=r"temporary folder .* \(No space left.*TMPDIR"),
    ):
        patch.setattr("fluxcube.stores.shards._write_region", full)
        write(maps, bucket)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"no temporary folder .*TMPDIR"):
        patch.setattr("tempfile.tempdir", str(tmp_path / "none"))
        write(maps, bucket)


def test_forcing_in_a_bucket_is_that_on_a_disk(forcing, bucket, tmp_path):
    options = {"storage_options": bucket.options}
    with pytest.raises(Stop):
        write_forcing(forcing, bucket.url, workers=2, progress=stop_after(2), **options)
    with pytest.raises(StoreError, match=r"predictors differ.*not replaced"):
        write_forcing(
            warmer(forcing),
            bucket.url,
            **options,
        )
    assert write_forcing(forcing, bucket.url, workers=2, **options) == bucket.url
    assert_equals_disk(bucket, write_forcing(forcing, tmp_path / "forcing.zarr"))
    with pytest.raises(StoreError, match="not replaced"):
        write_forcing(forcing, bucket.url, overwrite=True, **options)
    there, here = fc.open_forcing(bucket.url, **options), open_forcing_store(tmp_path / "forcing.zarr")
    xr.testing.assert_identical(there.load(), here.load())


@one_service
def test_maps_of_a_forcing_in_a_bucket_are_continued_with_other_credentials(forcing, bucket):
    write_forcing(forcing, bucket.url, storage_options=bucket.options)
    options = {**bucket.options, "default_block_size": 4096}  # of the package; as a new token would
    digests = {
        maps_of(fc.open_forcing(bucket.url, storage_options=found)).attrs["input_digests"]
        for found in (bucket.options, options)
    }
    assert len(digests) == 1


def test_a_url_that_is_only_read_is_refused(maps):
    with pytest.raises(StoreError, match="only read"):
        write_maps(maps, "https://example.org/maps.zarr")
    with pytest.raises(StoreError, match="as text"):
        write_maps(maps, Path("s3://bucket/maps.zarr"))

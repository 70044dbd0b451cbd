"""Objects of buckets and their locks, on servers that speak the three protocols."""

from __future__ import annotations

import json
import pickle
import threading
from dataclasses import asdict, replace

import pytest
from buckets import bucket_server  # noqa: F401

from fluxcube.errors import StoreError
from fluxcube.stores import lock as disk_lock
from fluxcube.stores.bucket_lock import bucket_lock
from fluxcube.stores.objects import Bucket, place
from fluxcube.stores.owners import this_process


@pytest.fixture
def bucket(bucket_server, request) -> Bucket:  # noqa: F811
    url, options = bucket_server
    found = place(f"{url}/{request.node.originalname}/cube.zarr", options)
    assert isinstance(found, Bucket)
    return found


def test_objects_are_written_read_listed_copied_and_removed(bucket, tmp_path):
    assert bucket.read("a") is None and bucket.entries() == {}
    bucket.write("a", b"one")
    bucket.write("folder/b", b"three")
    assert bucket.read("a") == b"one"
    assert {name: entry.size for name, entry in bucket.entries().items()} == {"a": 3, "folder/b": 5}
    assert set(bucket.entries("folder")) == {"folder/b"}
    bucket.copy("folder/b", bucket.beside("other.zarr"), "c")
    assert bucket.beside("other.zarr").read("c") == b"three" and "c" not in bucket.entries()
    bucket.download("a", tmp_path / "deep" / "a")
    bucket.upload("z", tmp_path / "deep" / "a")
    assert bucket.read("z") == b"one"
    bucket.remove("a", "z", "folder/b", "never")
    assert bucket.entries() == {}


def test_the_service_decides_who_creates_an_object(bucket):
    assert bucket.create("state", b"first")
    assert not bucket.create("state", b"second")
    assert bucket.read("state") == b"first"


def test_a_second_writer_is_refused_and_learns_who_the_first_is(bucket):
    with bucket_lock(bucket) as lock:
        lock.check()
        with pytest.raises(StoreError, match=f"process {this_process().pid} .* is writing it"), bucket_lock(bucket):
            pass
    with bucket_lock(bucket) as again:
        again.check()
    assert bucket.beside(".cube.zarr.lock").entries() == {}


def _leave_lock(bucket, **changes) -> None:
    """Create the lock of a writer that was killed."""
    owner = replace(this_process(), **changes)
    assert bucket.beside(".cube.zarr.lock").create("000003.json", json.dumps(asdict(owner)).encode())


def test_a_killed_writer_of_this_machine_blocks_nobody(bucket):
    _leave_lock(bucket, start=1)
    with bucket_lock(bucket) as lock:
        lock.check()


def test_a_silent_writer_of_another_machine_loses_its_lock(bucket, monkeypatch):
    _leave_lock(bucket, host="elsewhere", boot="another")
    with pytest.raises(StoreError, match=r"on elsewhere.*active \d+ s ago, and 60 s"), bucket_lock(bucket):
        pass
    monkeypatch.setattr(disk_lock, "SILENCE", -1.0)
    with bucket_lock(bucket) as lost:
        monkeypatch.setattr("fluxcube.stores.bucket_lock._has_ended", lambda holder: True)
        with bucket_lock(bucket) as current:
            current.check()
            with pytest.raises(StoreError, match="took it over"):
                lost.check()


def test_signs_of_life_keep_a_lock(bucket, monkeypatch):
    monkeypatch.setattr(disk_lock, "HEARTBEAT", 0.02)
    seen = threading.Event()
    write = Bucket.write

    def noticed(self, key, data):
        write(self, key, data)
        if key.endswith(".beat"):
            seen.set()

    monkeypatch.setattr(Bucket, "write", noticed)
    with bucket_lock(bucket):
        assert seen.wait(10)


def test_a_service_without_conditions_is_refused(bucket, monkeypatch):
    monkeypatch.setattr(Bucket, "create", lambda self, key, data: self.write(key, data) or True)
    with pytest.raises(StoreError, match="ignores the condition"), bucket_lock(bucket):
        pass


def test_credentials_are_not_printed(bucket):
    whole = f"{bucket!r} {bucket}"
    assert not any(str(value) in whole for value in bucket.options.values())
    assert pickle.loads(pickle.dumps(bucket)).options == bucket.options


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "s3://b/../c", "s3://b/a//c", "ftp://b/a"])
def test_what_is_no_address_of_a_bucket_is_refused(url):
    with pytest.raises(StoreError, match="expected an address"):
        Bucket(url)


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(pytest.importorskip("s3fs").S3FileSystem, "retries", 1)
    once = {"client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}, "config_kwargs": {"retries": {"max_attempts": 0}}}
    gone = Bucket("s3://b/a", {"key": "k", "secret": "hidden", **once})
    with pytest.raises(StoreError, match="s3://b/a: cannot be reached") as caught:
        gone.read("x")
    assert "hidden" not in str(caught.value)

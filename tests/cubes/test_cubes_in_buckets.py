"""A cube in a bucket: the one that a disk would have; a state before or after each write, for every reader and kill."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from buckets import bucket_server, s3_server  # noqa: F401
from fsspec.implementations.memory import MemoryFileSystem
from tower_files import write_raw
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.errors import ConfigError, StoreError
from fluxcube.inventory import inspect, verify_store
from fluxcube.stores import bucket_states, lock
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.bucket_states import working_copy
from fluxcube.stores.building import finish
from fluxcube.stores.manifest import read_manifest
from fluxcube.stores.objects import Bucket, Entry
from fluxcube.stores.reading import open_store, store_attrs
from fluxcube.stores.remote import RemoteStore, verify_remote
from fluxcube.stores.shards import write_region
from fluxcube.stores.states import newest_record

REMOVED = "replaced and removed since"
REPLACED = "replaced, moved or removed since it was opened"


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """Raw files, a cube of one site, and that cube with a second site that sorts before the first."""
    folder = tmp_path_factory.mktemp("local")
    write_raw(folder / "raw", days=2)
    fc.build_carbonsense(folder / "raw", folder / "one.zarr", sites=["NP-Ccc"])
    shutil.copytree(folder / "one.zarr", folder / "two.zarr")
    fc.build_carbonsense(folder / "raw", folder / "two.zarr", sites=["FJ-Ddd"], append=True)
    return folder


@pytest.fixture(scope="module")
def s3():
    with s3_server() as found:
        yield found


@pytest.fixture
def cube(monkeypatch) -> tuple[str, dict]:
    """An address in a bucket that is kept in RAM, so that tests can send thousands of requests."""
    files = MemoryFileSystem()
    path, from_url = Bucket._path, RemoteStore.from_url
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(Bucket, "_files", lambda self: files)
    monkeypatch.setattr(Bucket, "_path", lambda self, key: f"/{path(self, key)}")
    monkeypatch.setattr(RemoteStore, "from_url", lambda url, **how: from_url(url.replace("s3://", "memory://"), **how))
    return "s3://bucket/folder/cube.zarr", {}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Two stores of one array each, whose values differ: few objects, for tests of each request."""
    folder = tmp_path_factory.mktemp("small")
    spec = ArraySpec(dims=("x",), shape=(4,), dtype="f4", chunks=(2,), shards=(4,), fill_value=np.nan, checksum=True)
    for name, number in (("one", 1.0), ("two", 2.0)):
        path = folder / f"{name}.zarr"
        create(path, xr.Dataset(coords={"x": np.arange(4)}), {"v": spec}, {"kind": "cube"})
        write_region(path, "v", [slice(0, 4)], np.full(4, number, "f4"))
        finish(path)
    return folder


def value(url: str, options: dict, **how) -> float:
    """Return the value of one of the small stores, all of whose values are equal."""
    return float(np.unique(open_store(url, kind="cube", storage_options=options, **how).v.values).item())


def put(store: Path, url: str, options: dict, **how: bool) -> None:
    """Publish a store that exists on the disk."""
    with working_copy(url, options, **how) as path:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(store, path)


def copied(store: Path, url: str, options: dict) -> Bucket:
    """Copy a store to a bucket object by object, as users do."""
    bucket = Bucket(url, options)
    for file in store.rglob("*"):
        if file.is_file():
            bucket.upload(file.relative_to(store).as_posix(), file)
    return bucket


def identity(store: Path | str, options: dict | None = None) -> object:
    return store_attrs(store, storage_options=options)["store_id"]


def nee(ds: xr.Dataset, site: str = "NP-Ccc") -> np.ndarray:
    return ds.fluxes.sel(site=site, target="NEE").values


def test_a_cube_is_built_and_appended_to_in_each_service(bucket_server, local):  # noqa: F811
    root, options = bucket_server
    url = f"{root}/folder/cube.zarr"
    report = fc.build_carbonsense(local / "raw", url, sites=["NP-Ccc"], storage_options=options)
    assert report.store == url and report.sites == ("NP-Ccc",)
    first = identity(url, options)
    assert first == identity(local / "one.zarr")
    ds = fc.open_carbonsense(url, storage_options=options)
    with pytest.raises(StoreError, match="exists"):
        fc.build_carbonsense(local / "raw", url, storage_options=options)
    report = fc.build_carbonsense(local / "raw", url, sites=["FJ-Ddd"], append=True, keep=True, storage_options=options)
    assert report.unchanged == ("NP-Ccc",) and identity(url, options) == identity(local / "two.zarr")
    now = fc.open_carbonsense(url, storage_options=options)
    xr.testing.assert_identical(now.load(), fc.open_carbonsense(local / "two.zarr").load())
    before = fc.open_carbonsense(url, version=str(first)[:8], storage_options=options)
    xr.testing.assert_identical(before.load(), ds.load())  # opened before the append, and read after it
    with pytest.raises(StoreError, match=f"no such state.*{first}"):
        fc.open_carbonsense(url, version="00", storage_options=options)
    assert not Bucket(f"{root}/folder/.cube.zarr.lock", options).entries()


def test_a_reader_of_a_state_that_was_removed_gets_an_error(cube, local):
    put(local / "one.zarr", *cube)
    ds = fc.open_carbonsense(cube[0], storage_options=cube[1])
    sent = pickle.dumps(ds)
    put(local / "two.zarr", *cube, append=True)
    for opened in (ds, pickle.loads(sent)):
        with pytest.raises(StoreError, match=REMOVED):
            nee(opened)
    with pytest.raises(StoreError, match="no such state"):
        fc.open_carbonsense(cube[0], version=str(identity(local / "one.zarr")), storage_options=cube[1])
    assert np.isfinite(nee(fc.open_carbonsense(cube[0], storage_options=cube[1]))).any()


def test_unchanged_files_are_copied_within_the_service(cube, local, monkeypatch):
    put(local / "one.zarr", *cube)
    sent: list[str] = []
    upload = Bucket.upload
    monkeypatch.setattr(Bucket, "upload", lambda self, key, file: (sent.append(key), upload(self, key, file))[1])
    put(local / "two.zarr", *cube, append=True)
    old, new = read_manifest(local / "one.zarr"), read_manifest(local / "two.zarr")
    assert {key for key in sent if "/c/" in key} == {key for key in new if "/c/" in key and old.get(key) != new[key]}


def test_an_append_that_changes_nothing_publishes_nothing(cube, local):
    put(local / "two.zarr", *cube)
    states = Bucket(f"{cube[0]}.states", cube[1])
    before = set(states.entries())
    fc.build_carbonsense(local / "raw", cube[0], sites=["NP-Ccc"], append=True, storage_options=cube[1])
    assert set(states.entries()) == before


def test_append_site_and_drivers_reach_a_bucket(cube, local):
    put(local / "one.zarr", *cube)
    table = fc.open_carbonsense(local / "one.zarr").predictors.sel(site="NP-Ccc", variable="TA").to_series()
    frame = table.dropna().rename("TA").reset_index()[["time", "TA"]].assign(site="NP-Ccc")
    fc.add_drivers_to_store(cube[0], frame, name="era5", storage_options=cube[1])
    ds = fc.open_carbonsense(cube[0], drivers="era5", storage_options=cube[1])
    assert np.isfinite(ds.predictors.values).any()
    with pytest.raises(StoreError, match=r"s3://.*no store there"):
        fc.add_drivers_to_store(f"{cube[0]}x", frame, storage_options=cube[1])
    with pytest.raises(ConfigError, match=r"^s3://"):  # errors name the address, not the temporary copy
        fc.build_carbonsense(
            local / "raw", cube[0], append=True, clock="standard", sites=["FJ-Ddd"], storage_options=cube[1]
        )


class Kill(BaseException):
    """The process ends: no later request of it reaches the service."""


class Service:
    """Counts the requests that change a bucket, and ends the process at one of them, before or after it is done."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.at, self.done = -1, False
        for name in ("create", "write", "upload", "copy", "remove"):
            patch.setattr(Bucket, name, self._wrapped(name, getattr(Bucket, name)))
        patch.setattr(bucket_states, "_REQUESTS", 1)  # in order

    def _wrapped(self, name, request):
        def method(bucket, *args):
            number = len(self.log)
            self.log.append(f"{name} {bucket.url} {args[0] if args else ''}")
            if self.at < 0 or number < self.at or (number == self.at and self.done):
                return request(bucket, *args)
            raise Kill

        return method


def test_a_kill_at_any_request_leaves_the_state_before_or_after(cube, small, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", -1.0)  # the lock of the killed writer is free at once
    url, options = cube
    service = Service(monkeypatch)
    put(small / "one.zarr", url, options)
    start = len(service.log)
    put(small / "two.zarr", url, options, append=True)
    requests, ends = len(service.log) - start, set()
    for at in range(requests):
        service.at = -1
        put(small / "one.zarr", url, options, overwrite=True)
        service.at, service.done = len(service.log) + at, at % 2 == 0
        with contextlib.suppress(Kill):
            put(small / "two.zarr", url, options, append=True, keep=at % 3 == 0)
        service.at = -1
        ends.add(found := value(url, options))
        if at % 3 == 0 and found == 2:
            assert value(url, options, version=str(identity(small / "one.zarr"))) == 1
    assert ends == {1, 2}
    put(small / "one.zarr", url, options, overwrite=True)  # removes what killed writers left
    records = Bucket(f"{url}.states", options)
    known = {*newest_record(Bucket(url, options)).kept, newest_record(Bucket(url, options)).folder}
    assert {key.partition("/")[0] for key in records.entries()} == {"records", *known}
    assert verified(url, options).endswith("files are as they were written")


def test_a_kill_of_the_first_build_leaves_nothing_or_the_store(cube, small, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", -1.0)
    service, options, ends = Service(monkeypatch), cube[1], set()
    put(small / "one.zarr", *cube)
    for at in range(len(service.log)):
        url = f"s3://bucket/first/{at}.zarr"
        service.at, service.done = len(service.log) + at, at % 2 == 0
        with contextlib.suppress(Kill):
            put(small / "one.zarr", url, options)
        service.at = -1
        try:
            ends.add(value(url, options))
        except StoreError as error:
            assert "no store there" in str(error)
            ends.add(0)
    assert ends == {0, 1}


def verified(url: str, options: dict) -> str:
    found = verify_remote(url, options)
    return "; ".join(found.faults) or f"{found.files} files are as they were written"


def test_the_second_of_two_writers_is_refused(cube, small):
    with (
        working_copy(*cube) as path,
        pytest.raises(StoreError, match=r"another run \(process \d+ on .*\) is writing it"),
    ):
        shutil.copytree(small / "one.zarr", path)
        put(small / "two.zarr", *cube)
    assert identity(*cube) == identity(small / "one.zarr")


def test_a_writer_that_lost_its_lock_does_not_undo_the_other(cube, small, monkeypatch):
    class Blind:
        def check(self) -> None:
            """See nothing, as a writer that was stopped just after it looked."""

    monkeypatch.setattr(bucket_states, "bucket_lock", lambda bucket: contextlib.nullcontext(Blind()))
    put(small / "one.zarr", *cube)
    with (
        pytest.raises(StoreError, match="another writer published a state first"),
        working_copy(*cube, append=True) as path,
    ):
        put(small / "two.zarr", *cube, append=True)
        (path / "zarr.json").write_text((path / "zarr.json").read_text() + " ")
    assert value(*cube) == 2


def test_a_copied_cube_is_pinned_and_can_be_appended_to(cube, local):
    bucket = copied(local / "one.zarr", *cube)
    ds, again = (fc.open_carbonsense(cube[0], storage_options=cube[1]) for _ in range(2))
    assert np.isfinite(nee(ds)).any()
    put(local / "two.zarr", *cube, append=True, keep=True)
    with pytest.raises(StoreError, match=REPLACED):
        nee(again)
    assert set(bucket.entries()) == {"zarr.json"}
    before = fc.open_carbonsense(cube[0], version=str(identity(local / "one.zarr")), storage_options=cube[1])
    np.testing.assert_array_equal(nee(before), nee(fc.open_carbonsense(local / "one.zarr")))


def test_a_copied_cube_that_is_replaced_while_it_is_read_is_an_error(cube, local):
    copied(local / "one.zarr", *cube)
    ds = fc.open_carbonsense(cube[0], storage_options=cube[1])
    sent = pickle.dumps(ds)
    copied(local / "two.zarr", *cube)
    for opened in (ds, pickle.loads(sent)):
        with pytest.raises(StoreError, match=REPLACED):
            nee(opened)


def check_metadata(bucket: Bucket, url: str, options: dict) -> None:
    """Attributes, metadata of arrays and documents that were changed are errors."""
    for key, old, new, match in (
        ("zarr.json", b"hourly tower", b"hourly power", "its attributes or its manifest were changed"),
        ("latitude/zarr.json", b"degrees_north", b"degrees_south", r"latitude/zarr\.json was changed"),
        ("report/NP-Ccc/zarr.json", b"28.0", b"29.0", r"report/NP-Ccc/zarr\.json was changed"),
    ):
        content = bucket.read(key)
        assert content is not None and old in content
        bucket.write(key, content.replace(old, new))
        with pytest.raises(StoreError, match=match):
            fc.open_carbonsense(url, storage_options=options)
            fc.open_report(url, storage_options=options)
        bucket.write(key, content)
    fc.open_report(url, storage_options=options)


@pytest.mark.parametrize("direct", [True, False])
def test_a_lost_or_changed_object_is_an_error(cube, local, direct):
    url, options = cube
    if direct:
        bucket = copied(local / "two.zarr", url, options)
    else:
        put(local / "two.zarr", url, options)
        folder = next(key for key in Bucket(f"{url}.states", options).entries() if "-" in key).partition("/")[0]
        bucket = Bucket(f"{url}.states/{folder}", options)
    ds = fc.open_carbonsense(url, storage_options=options)
    key = sorted(key for key in bucket.entries() if key.startswith("fluxes/c/1"))[0]
    content = bucket.read(key)
    bucket.write(key, content[:20] + bytes([content[20] ^ 4]) + content[21:])
    with pytest.raises(StoreError, match=r"fluxes cannot be read .*checksum"):
        nee(ds)
    assert f"{key}: chunk 0 is damaged" in verified(url, options)
    bucket.remove(key)
    with pytest.raises(StoreError, match=f"{key} is missing"):
        nee(fc.open_carbonsense(url, storage_options=options))
    assert f"{key}: it is missing" in verified(url, options)
    with pytest.raises(StoreError, match=f"expected .* in the object {key}, found none"):
        put(local / "two.zarr", url, options, append=True)
    bucket.write(key, content)
    check_metadata(bucket, url, options)
    bucket.remove("predictors_qc/zarr.json")
    with pytest.raises(StoreError, match=r"predictors_qc.*missing"):
        fc.open_carbonsense(url, storage_options=options)


def test_what_others_wrote_stays(cube, small):
    bucket = Bucket(*cube)
    bucket.write("notes.txt", b"mine")
    with pytest.raises(StoreError, match="was not written by fluxcube"):
        put(small / "one.zarr", *cube, overwrite=True)
    bucket.remove("notes.txt")
    with pytest.raises(StoreError, match="appeared while it was being written"), working_copy(*cube) as path:
        shutil.copytree(small / "one.zarr", path)
        bucket.write("zarr.json", b"theirs")
    assert bucket.read("zarr.json") == b"theirs"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"state": "../..", "kept": []}', b'{"state": 1, "kept": 2}'])
def test_a_damaged_record_is_named(cube, small, content):
    put(small / "one.zarr", *cube)
    Bucket(f"{cube[0]}.states", cube[1]).write("records/000002.json", content)
    for act in (fc.open_carbonsense, lambda store, storage_options: put(small / "two.zarr", store, storage_options)):
        with pytest.raises(StoreError, match=r"records/000002.json is damaged"):
            act(cube[0], storage_options=cube[1])


def test_the_command_line_takes_addresses(s3, local, monkeypatch):
    url, options = f"{s3[0]}/cube.zarr", s3[1]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", options["client_kwargs"]["endpoint_url"])
    run = CliRunner().invoke
    built = run(app, ["build", str(local / "raw"), url, "--site", "NP-Ccc"])
    assert built.exit_code == 0 and f"{url}: 1 site" in built.output
    assert run(app, ["build", str(local / "raw"), url, "--append", "--keep"]).exit_code == 0
    first = identity(local / "one.zarr")
    text = inspect(url)
    assert f"{url}: hourly cube of 4 sites" in text and f"earlier states that are kept: {first}" in text
    assert "files are as they were written" in verify_store(url)
    assert run(app, ["split", url, str(local / "folds.json"), "--kind", "sites", "--sites", "x"]).exit_code == 1


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\\..\\x"])
def test_names_of_objects_never_lead_out_of_the_copy(cube, small, monkeypatch, name):
    copied(small / "one.zarr", *cube)
    entries = Bucket.entries
    monkeypatch.setattr(Bucket, "entries", lambda self, key="": {name: Entry(1, None), **entries(self, key)})
    with pytest.raises(StoreError, match="leads out of the store"):
        put(small / "two.zarr", *cube, append=True)


def test_objects_that_mark_folders_are_no_files(cube, small):
    bucket = copied(small / "one.zarr", *cube)
    entries = {**bucket.entries(), "v/": Entry(0, None)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "entries", lambda self, key="": entries)
        assert verified(*cube).endswith("files are as they were written")


def test_transfers_are_reported(cube, small):
    texts: list[str] = []
    for store in ("one", "two"):
        with working_copy(*cube, append=True, progress=lambda done, total, text: texts.append(text)) as path:
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(small / f"{store}.zarr", path)
    assert {"upload v/c/0", "download v/c/0"} <= set(texts)

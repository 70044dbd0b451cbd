"""Damaged or hostile metadata of stores are one StoreError that names the store, never a traceback or another value."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import StoreError
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import finish
from fluxcube.stores.manifest import verify
from fluxcube.stores.reading import open_store
from fluxcube.stores.shards import write_region

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "s.zarr"
    hours = np.datetime64("2001-01-01", "ns") + np.arange(32) * np.timedelta64(1, "h")
    coords = xr.Dataset(coords={"time": hours, "site": np.array(["US-A", "DE-B"], object)})
    spec = ArraySpec(
        dims=("site", "time"),
        shape=(2, 32),
        dtype="float32",
        chunks=(1, 8),
        shards=(1, 32),
        checksum=True,
        fill_value=np.nan,
        attrs={"units": "K"},
    )
    create(path, coords, {"values": spec}, {"kind": "cube", "title": "t"})
    write_region(path, "values", (slice(0, 2), slice(0, 32)), np.arange(64, dtype="float32").reshape(2, 32))
    finish(path)
    return path


@pytest.fixture(params=["with a manifest", "of an earlier version"])
def store(request, whole, tmp_path) -> Path:
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    if request.param != "with a manifest":
        shutil.rmtree(path / "manifest")
        edited("", lambda meta: meta["attributes"].pop("store_id"))(path)
    return path


def edited(array: str, edit: Callable[[dict], object]) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        file = path / array / "zarr.json"
        meta = json.loads(file.read_text())
        edit(meta)
        file.write_text(json.dumps(meta))

    return change


def written(array: str, content: bytes) -> Callable[[Path], object]:
    return lambda path: (path / array / "zarr.json").write_bytes(content)


def replaced_by_folder(path: Path) -> None:
    (path / "time/zarr.json").unlink()
    (path / "time/zarr.json").mkdir()


def replaced_by_pipe(path: Path) -> None:
    (path / "time/zarr.json").unlink()
    os.mkfifo(path / "time/zarr.json")


def replaced_by_link(path: Path) -> None:
    (path / "time/zarr.json").unlink()
    (path / "time/zarr.json").symlink_to("zarr.json")


DAMAGE = {
    "huge shape": edited("values", lambda m: m.update(shape=[2, 2**50])),
    "huge coordinate": edited("time", lambda m: m.update(shape=[2**50])),
    "negative shape": edited("values", lambda m: m.update(shape=[2, -5])),
    "equal dimensions": edited("values", lambda m: m.update(dimension_names=["time", "time"])),
    "unknown codec": edited("values", lambda m: m.update(codecs=[{"name": "evil"}])),
    "pickle as codec": edited("site", lambda m: m.update(codecs=[{"name": "numcodecs.pickle"}])),
    "no codecs": edited("values", lambda m: m.pop("codecs")),
    "no chunk shape": edited("values", lambda m: m["chunk_grid"]["configuration"].clear()),
    "scale factor as text": edited("values", lambda m: m["attributes"].update(scale_factor="x")),
    "scale factor as list": edited("values", lambda m: m["attributes"].update(scale_factor=[1, 2])),
    "code in units": edited("time", lambda m: m["attributes"].update(units="hours since __import__('os')")),
    "far units": edited("time", lambda m: m["attributes"].update(units="hours since 9999999-01-01")),
    "no times": edited("time", lambda m: m["attributes"].update(units="m")),
    "bad fill value": edited("values", lambda m: m.update(fill_value="NaNNN")),
    "shape of text": edited("values", lambda m: m.update(shape=["a"])),
    "attributes as list": edited("values", lambda m: m.update(attributes=[1])),
    "no attributes": edited("", lambda m: m.update(attributes=None)),
    "kind as list": edited("", lambda m: m["attributes"].update(kind=["cube"])),
    "root is an array": edited("", lambda m: m.update(node_type="array")),
    "deep": written("", DEEP.encode()),
    "deep array": written("site", DEEP.encode()),
    "empty": written("", b""),
    "not UTF-8": written("values", b"\xff\xfe{}"),
    "number": written("", b"5"),
    "folder": replaced_by_folder,
    "pipe": replaced_by_pipe,
    "link to itself": replaced_by_link,
}


def test_a_whole_store_opens_without_a_word(store, caplog):
    assert open_store(store, kind="cube")["values"].sum().values == 2016
    assert not caplog.records


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_metadata_are_one_error(store, damage):
    damage(store)
    with pytest.raises(StoreError, match=r"s\.zarr"):
        open_store(store, kind="cube")["values"].load()


@pytest.mark.parametrize(
    "change",
    [
        edited("", lambda m: m["attributes"].update(title="u")),
        edited("values", lambda m: m["attributes"].update(scale_factor=2.0)),
        edited("values", lambda m: m.update(fill_value=5.0)),
        edited("time", lambda m: m["attributes"].update(units="days since 1970-01-01")),
        lambda path: shutil.rmtree(path / "site"),
    ],
    ids=["title", "scale", "fill value", "units", "lost array"],
)
def test_metadata_that_give_other_values_do_not_open(whole, tmp_path, change):
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    change(path)
    with pytest.raises(StoreError, match=r"changed since (it|the store) was written|is missing"):
        open_store(path, kind="cube")


def replaced_manifest(path: Path) -> None:
    (path / "manifest/files.json").unlink()
    os.mkfifo(path / "manifest/files.json")


@pytest.mark.parametrize(
    "change",
    [
        replaced_manifest,
        lambda path: (path / "manifest/files.json").write_bytes(b'{"values/c/0/0": [1e400, "x"]}'),
        lambda path: (path / "manifest/files.json").write_bytes(DEEP.encode()),
        edited("", lambda m: m["attributes"].pop("store_id")),
        edited("", lambda m: m["attributes"].update(store_id=5)),
    ],
    ids=["a pipe", "infinite size", "deep", "no store_id", "another store_id"],
)
def test_a_damaged_manifest_or_identifier_does_not_open(whole, tmp_path, change):
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    change(path)
    with pytest.raises(StoreError, match=r"s\.zarr"):
        open_store(path, kind="cube")


def test_a_lost_manifest_is_reported(whole, tmp_path, caplog):
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    shutil.rmtree(path / "manifest")
    with caplog.at_level(logging.WARNING):
        open_store(path, kind="cube")
    assert "has no manifest" in caplog.text


@pytest.mark.parametrize("content", [b"garbage" * 99, b"x", b"\0" * 500])
def test_a_damaged_chunk_names_store_and_array(store, content):
    opened = open_store(store, kind="cube")
    (store / "values/c/0/0").write_bytes(content)
    with pytest.raises(StoreError, match=r"s\.zarr: the array values cannot be read"):
        opened["values"].load()


def test_a_folder_in_place_of_a_chunk_is_no_missing_value(store):
    opened = open_store(store, kind="cube")
    (store / "values/c/0/0").unlink()
    (store / "values/c/0/0").mkdir()
    with pytest.raises(StoreError, match="expected a file at values/c/0/0"):
        opened["values"].load()


def test_an_empty_chunk_is_no_missing_value(store):
    opened = open_store(store, kind="cube")
    (store / "values/c/0/0").write_bytes(b"")
    with pytest.raises(StoreError, match="expected a file at values/c/0/0, found an empty one"):
        opened["values"].load()


@pytest.mark.parametrize("name", ["deep array", "no chunk shape", "no codecs", "attributes as list"])
def test_verify_names_damaged_metadata(whole, tmp_path, name):
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    DAMAGE[name](path)
    try:
        assert verify(path).faults
    except StoreError as error:
        assert "cannot be read" in str(error)

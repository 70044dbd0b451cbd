"""Stores that were changed by hand or on purpose: named errors, nothing outside the store, no damage carried on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tower_files import write_raw

import fluxcube as fc
from fluxcube.cubes.report import read_report
from fluxcube.errors import StoreError
from fluxcube.simulation.example import example_maps
from fluxcube.stores import files
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import remove, staging, store_lock
from fluxcube.stores.ledger import check_recorded, done_regions, mark_done
from fluxcube.stores.manifest import verify
from fluxcube.stores.owners import Owner
from fluxcube.stores.reading import store_attrs
from fluxcube.stores.shards import write_region
from fluxcube.stores.states import kept_states


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    write_raw(folder / "raw", days=2)
    fc.build_carbonsense(folder / "raw", folder / "c.zarr", sites=["NP-Ccc"])
    return folder


@pytest.fixture
def store(local, tmp_path) -> Path:
    return shutil.copytree(local / "c.zarr", tmp_path / "in" / "c.zarr")


def replace(store: Path, new: Path) -> None:
    with store_lock(store), staging(store, overwrite=True, keep=True) as place:
        shutil.copytree(new, place)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("forged", ["../../evil", "/tmp/evil", ".", ["a"], 5, None, ""])
def test_a_store_is_kept_below_its_states_only_whatever_its_identifier_says(store, local, forged):
    attrs = json.loads((store / "zarr.json").read_text())
    attrs["attributes"]["store_id"] = forged
    (store / "zarr.json").write_text(json.dumps(attrs))
    replace(store, local / "c.zarr")
    assert sorted(os.listdir(store.parent)) == ["c.zarr", "c.zarr.states"]
    assert os.listdir(store.parent.parent) == ["in"]
    assert len(kept_states(store)) == 1


def test_a_kept_state_of_another_name_does_not_open_as_that_state(store, local):
    replace(store, local / "c.zarr")
    (kept,) = kept_states(store).values()
    edit(store / "zarr.json", kept.name, "e" * 32)  # so that the name means the kept one
    kept.rename(kept.with_name("f" * 32))
    with pytest.raises(StoreError, match="expected the state that its name identifies, found"):
        fc.open_carbonsense(store, version="ffff")


def test_what_is_in_the_way_of_a_kept_state_stays_and_is_an_error(store, local):
    states = store.with_name("c.zarr.states")
    states.write_text("a file of the user")
    with pytest.raises(StoreError, match=r"c\.zarr\.states: expected the folder of earlier states"):
        replace(store, local / "c.zarr")
    assert states.read_text() == "a file of the user"
    states.unlink()
    place = states / str(store_attrs(store)["store_id"])
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("text")
    with pytest.raises(StoreError, match="found something else: move it away"):
        replace(store, local / "c.zarr")
    assert os.listdir(place) == ["thesis.txt"]
    assert not verify(store).faults


def test_a_symbolic_link_is_named_as_such(store, local):
    link = store.with_name("link.zarr")
    link.symlink_to("c.zarr")
    with pytest.raises(StoreError, match=r"is a symbolic link, and is not replaced: pass the path .*/in/c\.zarr"):
        fc.build_carbonsense(local / "raw", link, append=True, sites=["NP-Ccc", "FJ-Ddd"])
    assert fc.open_carbonsense(link).sizes["site"] == 1


def test_a_changed_document_is_not_carried_on_by_an_append(store, local):
    edit(store / "report" / "NP-Ccc" / "zarr.json", "28.0", "29.0")  # its latitude, which an append would write
    with pytest.raises(StoreError, match=r"report/NP-Ccc/zarr\.json was changed since the store was written"):
        fc.build_carbonsense(local / "raw", store, append=True, sites=["NP-Ccc", "FJ-Ddd"])
    with pytest.raises(StoreError, match="was changed since"):
        read_report(store)
    assert list(fc.open_carbonsense(store).site.values) == ["NP-Ccc"]


def test_a_damaged_index_is_reported_also_if_an_append_took_its_digest(store, local):
    shard = store / "fluxes" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 4  # in the index, before its checksum
    shard.write_bytes(content)
    fc.build_carbonsense(local / "raw", store, append=True, sites=["NP-Ccc", "US-Aaa"])
    assert any("fluxes/c/0" in fault for fault in verify(store).faults)


def test_a_lost_manifest_is_an_error_and_a_copy_by_xarray_opens(store, tmp_path, caplog):
    with xr.open_zarr(store, consolidated=False) as ds:
        ds.load().drop_encoding().to_zarr(tmp_path / "copy.zarr", zarr_format=3, consolidated=False)
    assert fc.open_carbonsense(tmp_path / "copy.zarr").sizes["site"] == 1
    assert "has no manifest" in caplog.text
    (store / "manifest" / "files.json").unlink()
    with pytest.raises(StoreError, match="its manifest is missing"):
        fc.open_carbonsense(store)
    shutil.rmtree(store / "manifest")
    with pytest.raises(StoreError, match="its manifest is missing"):
        fc.open_carbonsense(store)


def test_verify_reads_the_metadata_of_the_manifest_too(store):
    group = store / "manifest" / "zarr.json"
    edit(group, "size and", "size end")
    assert verify(store).faults == ("manifest/zarr.json: it was changed since the store was written",)
    group.unlink()
    assert verify(store).faults == ("manifest/zarr.json: it is missing",)


def test_two_writers_of_one_file_have_temporary_files_of_their_own(tmp_path):
    """Two containers may have equal numbers of processes."""
    with files.replacing(tmp_path / "a.csv") as one, files.replacing(tmp_path / "a.csv") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_lock_with_control_characters_is_named_in_one_line():
    assert str(Owner("\x1b[31mevil\nhost", "b", 1, 1, "ab")) == r"process 1 on \x1b[31mevil\nhost"


@pytest.mark.parametrize("how", ["lost", "cut"])
def test_a_shard_that_an_unfinished_map_lost_is_written_again(tmp_path, how):
    maps, done = example_maps(days=2).chunk(time=12, latitude=-1, longitude=-1), tmp_path / "whole.zarr"
    fc.write_maps(maps, done, scheduler="threads", workers=1)
    store = tmp_path / "maps.zarr"
    with pytest.raises(ZeroDivisionError):
        fc.write_maps(maps, store, scheduler="threads", workers=1, progress=lambda done, total, text: 1 / (done < 2))
    shard = next(file for file in sorted((store / "NEE" / "c").rglob("*")) if file.is_file())
    shard.write_bytes(shard.read_bytes()[:20]) if how == "cut" else shard.unlink()
    fc.write_maps(maps, store, scheduler="threads", workers=1)
    assert store_attrs(store)["store_id"] == store_attrs(done)["store_id"]


def test_a_shard_that_is_lost_before_the_end_is_an_error(tmp_path):
    store = tmp_path / "s.zarr"
    create(
        store,
        xr.Dataset(coords={"time": np.arange(4)}),
        {"v": ArraySpec(dims=("time",), shape=(4,), dtype="float32", chunks=(4,))},
        {},
    )
    region = (slice(0, 4),)
    mark_done(store, {"a": 0}, {"a": write_region(store, "v", region, np.ones(4, "float32"))})
    assert done_regions(store) == {"a": 0}
    (store / "v" / "c" / "0").unlink()
    assert not done_regions(store)
    with pytest.raises(StoreError, match=r"lacks 1 file of its regions, such as v/c/0; run the same call"):
        check_recorded(store)


@pytest.mark.parametrize("name", ["thesis.txt", "fluxes/c/mine.txt"])
def test_a_file_of_the_user_in_a_store_is_not_removed_with_it(store, local, name):
    (store / name).write_text("mine")
    with pytest.raises(StoreError, match=rf"did not write \({name}\), and is not replaced: move them away"):
        replace(store, local / "c.zarr")
    with pytest.raises(StoreError, match="move them away"), store_lock(store):
        remove(store)
    assert (store / name).read_text() == "mine"
    (store / name).rename(store.with_name("mine.txt"))
    replace(store, local / "c.zarr")

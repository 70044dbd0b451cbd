"""Earlier states of a store on a disk: kept, chosen by their identifier, and read on by those who had opened them."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tower_files import write_raw
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.errors import StoreError
from fluxcube.inventory import inspect
from fluxcube.stores import building, documents, states
from fluxcube.stores.building import staging, store_lock
from fluxcube.stores.manifest import verify
from fluxcube.stores.reading import store_attrs
from fluxcube.stores.states import choose_state, kept_states


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    write_raw(folder / "raw", days=2)
    fc.build_carbonsense(folder / "raw", folder / "one.zarr", sites=["NP-Ccc"])
    shutil.copytree(folder / "one.zarr", folder / "two.zarr")
    fc.build_carbonsense(folder / "raw", folder / "two.zarr", sites=["FJ-Ddd"], append=True)
    return folder


@pytest.fixture
def store(local, tmp_path) -> Path:
    return shutil.copytree(local / "one.zarr", tmp_path / "c.zarr")


def replace(store: Path, new: Path, *, keep: bool = True) -> None:
    with store_lock(store), staging(store, overwrite=True, keep=keep) as place:
        shutil.copytree(new, place)


def identity(store: Path) -> str:
    return str(store_attrs(store)["store_id"])


def nee(ds: xr.Dataset) -> np.ndarray:
    return ds.fluxes.sel(site="NP-Ccc", target="NEE").values


def test_an_append_keeps_the_state_before(store, local):
    first = identity(store)
    ds, expected = fc.open_carbonsense(store), fc.open_carbonsense(store).load()
    sent = pickle.dumps(fc.open_carbonsense(store))
    fc.build_carbonsense(local / "raw", store, sites=["FJ-Ddd"], append=True, keep=True)
    assert identity(store) == identity(local / "two.zarr")
    # Who had opened it reads on, also another process; who opens it by its identifier reads the same.
    for opened in (ds, pickle.loads(sent), fc.open_carbonsense(store, version=first[:6])):
        xr.testing.assert_identical(opened.load(), expected)
    assert fc.open_carbonsense(store, version=identity(store)).sizes["site"] == 2
    with pytest.raises(StoreError, match=f"no such state; states that can be opened: {first}, {identity(store)}"):
        fc.open_carbonsense(store, version="zz")
    assert first in inspect(store)


def test_a_kept_state_takes_no_space_and_stays(store, local):
    first = identity(store)
    root = (store / "zarr.json").stat().st_ino
    replace(store, local / "two.zarr")
    kept = kept_states(store)
    assert list(kept) == [first] and (kept[first] / "zarr.json").stat().st_ino == root
    assert not verify(kept[first]).faults
    ds = fc.open_carbonsense(store)
    replace(store, local / "one.zarr", keep=False)
    assert list(kept_states(store)) == [first]
    with pytest.raises(StoreError, match="replaced, moved or removed"):
        nee(ds)
    assert fc.open_carbonsense(store, version=first).sizes["site"] == 1


def test_a_disk_without_hard_links_keeps_copies(store, local, monkeypatch):
    def no_links(source, target):
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr("os.link", no_links)
    ds, before = fc.open_carbonsense(store), nee(fc.open_carbonsense(store))
    replace(store, local / "two.zarr")
    np.testing.assert_array_equal(nee(ds), before)


@pytest.mark.parametrize("step", ["link_file", "place_store", "replace_store"])
def test_a_kill_while_a_state_is_kept_loses_nothing(store, local, monkeypatch, step):
    class Kill(BaseException):
        pass

    def kill(*args):
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(building if step == "replace_store" else states, step, kill)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # a process that is killed removes nothing
        with pytest.raises(Kill):
            replace(store, local / "two.zarr")
    assert identity(store) == identity(local / "one.zarr")
    replace(store, local / "two.zarr")
    assert [entry.name for entry in states.states_folder(store).iterdir()] == [identity(local / "one.zarr")]


def test_a_store_of_an_earlier_version_can_be_kept(store, local):
    first = identity(store)
    shutil.rmtree(store / "manifest")
    root = json.loads((store / "zarr.json").read_text())
    del root["attributes"]["store_id"]
    (store / "zarr.json").write_text(json.dumps(root))
    replace(store, local / "two.zarr")
    assert fc.open_carbonsense(store, version=first).sizes["site"] == 1


def test_versions_are_chosen_by_their_beginning():
    known = {"a" * 32: 1, "ab" * 16 + "-0123456789ab": 2}
    assert choose_state("ab", known, "c.zarr") == 2
    for version, message in (("a", "several"), ("", "no such state"), ("../", "no such state")):
        with pytest.raises(StoreError, match=message):
            choose_state(version, known, "c.zarr")


def test_lost_metadata_and_files_are_named(store, local):
    copy = shutil.copytree(local / "two.zarr", store.with_name("d.zarr"))
    shutil.rmtree(copy / "predictors_qc")
    with pytest.raises(StoreError, match=r"predictors_qc.* (is|are) missing"):
        fc.open_carbonsense(copy)
    file = next(file for file in sorted((store / "fluxes" / "c").rglob("*")) if file.is_file())
    file.unlink()
    with pytest.raises(StoreError, match=r"expected .* bytes in the file fluxes/c/.*, found none"):
        fc.build_carbonsense(local / "raw", store, append=True, sites=["FJ-Ddd"])


def test_a_copied_pointer_opens_with_the_states_beside_it(store, local):
    first = identity(store)
    folder = states.states_folder(store) / f"{first}-0123456789ab"
    shutil.copytree(store, folder)
    shutil.rmtree(store)
    store.mkdir()
    attributes = {"kind": "cube", "state": folder.name, "store_id": first}
    (store / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
    assert fc.open_carbonsense(store).sizes["site"] == 1 and identity(store) == first
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match="copied from a bucket without its arrays"):
        fc.open_carbonsense(store)


def test_the_command_keeps_states(store, local):
    first = identity(store)
    arguments = ["build", str(local / "raw"), str(store), "--append", "--keep", "--site", "FJ-Ddd"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert list(kept_states(store)) == [first]


def test_the_report_is_of_one_state_and_whole(store, local, monkeypatch):
    entry = store / "report" / "NP-Ccc"
    assert set(fc.open_report(store).site) == {"NP-Ccc"}
    opened = documents.open_group
    monkeypatch.setattr(documents, "open_group", lambda *args: (opened(*args), replace(store, local / "two.zarr"))[0])
    assert set(fc.open_report(store).site) == {"NP-Ccc"}  # of the state that was opened, which is kept
    monkeypatch.undo()
    assert set(fc.open_report(store).site) == {"NP-Ccc", "FJ-Ddd"}
    shutil.rmtree(entry)
    with pytest.raises(StoreError, match="NP-Ccc of report are missing"):
        fc.open_report(store)

"""Checksums and manifests: a flipped bit or a lost file of a store is an error, never another value."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import fluxcube as fc
from fluxcube.errors import StoreError
from fluxcube.simulation.example import example_forcing
from fluxcube.stores.manifest import read_manifest, verify

KINDS = ("cube", "forcing")


@pytest.fixture(scope="module")
def stores(cube_store, tmp_path_factory):
    forcing = tmp_path_factory.mktemp("manifest") / "forcing.zarr"
    fc.write_forcing(example_forcing(shape=(2, 2), days=3).chunk(latitude=1, time=24), forcing)
    return {"cube": Path(cube_store), "forcing": forcing}


@pytest.fixture(params=KINDS)
def store(request, stores, tmp_path):
    return Path(shutil.copytree(stores[request.param], tmp_path / "s.zarr"))


def read_all(path):
    kind = "forcing" if (path / "land_fraction").exists() else "cube"
    ds = fc.open_forcing(path) if kind == "forcing" else fc.open_carbonsense(path)
    return ds.load()


def test_a_whole_store_is_verified(store):
    found = verify(store)
    assert not found.faults and found.files == len(read_manifest(store))
    assert found.store_id == read_all(store).attrs.get("store_id", found.store_id)


def test_every_flipped_bit_is_noticed(store):
    rng = np.random.default_rng(0)
    files = [path for path in sorted(store.glob("*/c/**/*")) if path.is_file() and path.stat().st_size]
    for _ in range(12):
        path = files[rng.integers(len(files))]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        assert verify(store).faults, path
        path.write_bytes(content)
    assert not verify(store).faults


def test_a_flipped_bit_is_not_read_as_a_value(stores, tmp_path):
    cube, rng = stores["cube"], np.random.default_rng(1)
    whole = fc.open_carbonsense(cube).fluxes.load()
    for number in range(6):
        copy = Path(shutil.copytree(cube, tmp_path / f"{number}.zarr"))
        files = sorted(path for path in (copy / "fluxes/c").rglob("*") if path.is_file())
        path = files[rng.integers(len(files))]
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            found = fc.open_carbonsense(copy).fluxes.load()
        except (StoreError, ValueError, RuntimeError):
            continue
        np.testing.assert_array_equal(found, whole)  # a bit of the file that no array uses


def test_a_file_that_a_copy_lost_is_not_read_as_missing_values(store):
    lost = next(path for path in sorted(store.glob("[fp]*s/c/**/*")) if path.is_file())
    lost.unlink()
    with pytest.raises(StoreError, match="is missing, which was there when the store was written"):
        read_all(store)
    assert verify(store).faults == (f"{lost.relative_to(store)}: it is missing",)


def test_changed_attributes_are_noticed(store):
    path = store / "zarr.json"
    path.write_text(path.read_text().replace("CC", "XX").replace("solar", "lunar").replace('"title": "', '"title": "x'))
    (fault,) = verify(store).faults
    assert "attributes" in fault


def test_a_store_without_a_manifest_is_named(store):
    shutil.rmtree(store / "manifest")
    with pytest.raises(StoreError, match="its manifest is missing"):
        read_all(store)
    with pytest.raises(StoreError, match="has no manifest"):
        verify(store)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_manifest_is_named(store, content):
    (store / "manifest/files.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"files\.json is damaged"):
        verify(store)

"""Temporary arrays of a store that is being built: those of a site are found without listing those of all sites."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fluxcube.errors import StoreError
from fluxcube.stores.building import spill, spilled, unspill


def test_each_site_has_its_own_keys(tmp_path):
    for key in ("XX-A", "XX-A1", "XX-A1.chips.2020-02-01", "XX-A1.chips.2020-01-01", "XX-A.chips.2020-01-01"):
        spill(tmp_path, key, {"values": np.array([len(key)])})
    assert spilled(tmp_path, "XX-A1.chips.") == ["XX-A1.chips.2020-01-01", "XX-A1.chips.2020-02-01"]
    assert spilled(tmp_path, "XX-A.chips.") == ["XX-A.chips.2020-01-01"]
    assert spilled(tmp_path, "XX-B.chips.") == []
    assert unspill(tmp_path, "XX-A1")["values"] == [5]


def test_listing_keys_of_a_site_does_not_read_those_of_others(tmp_path, monkeypatch):
    for site in range(50):
        spill(tmp_path, f"XX-{site:03d}.drivers.era5", {"values": np.zeros(1)})
    seen: list[str] = []
    scandir = os.scandir

    def counted(path: object = ".") -> object:
        with scandir(path) as entries:
            names = [entry.name for entry in entries]
        seen.extend(names)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert spilled(tmp_path, "XX-007.drivers.") == ["XX-007.drivers.era5"]
    assert seen == ["XX-007.drivers.era5.npz"]


@pytest.mark.parametrize("key", ["", "a/b", "..\\b", "a\0b", "../XX-A.chips."])
def test_keys_with_a_path_are_refused(tmp_path, key):
    with pytest.raises(StoreError, match="without a path"):
        spill(tmp_path, key, {})
    with pytest.raises(StoreError, match="without a path"):
        spilled(tmp_path, key)


def test_keys_that_begin_with_dots_stay_inside(tmp_path):
    for key in ("..", "..x", ".hidden.chips.1"):
        spill(tmp_path / "store", key, {"values": np.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".parts"]

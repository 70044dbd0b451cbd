"""Pipes, devices and links to nothing among the inputs: named, and never waited for."""

from __future__ import annotations

import os

import pytest

from fluxcube.errors import SourceError
from fluxcube.sources.modis.listing import survey_rasters
from fluxcube.sources.towers.discovery import discover

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
NAME = "FLX_{}_FLUXNET2015_FULLSET_2018-2018_1-4.zip"


def test_they_are_no_tower_archives(tmp_path):
    os.mkfifo(tmp_path / NAME.format("ES-Zaa"))
    os.symlink(NAME.format("ES-Zbb"), tmp_path / NAME.format("ES-Zbb"))
    os.symlink("/dev/zero", tmp_path / NAME.format("ES-Zcc"))
    os.symlink("nowhere", tmp_path / NAME.format("ES-Zdd"))
    found = discover(tmp_path)
    assert not found.archives
    assert [why for _, why in found.ignored] == ["no regular file: a link without a target, a pipe or a device"] * 4


def test_they_are_no_rasters(tmp_path):
    path = tmp_path / "MCD43A4.A2019185.h18v04.061.2019194040325.tif"
    os.mkfifo(path)
    with pytest.raises(SourceError, match="pipe or a device"):
        survey_rasters(path)
    assert not survey_rasters(tmp_path).rasters

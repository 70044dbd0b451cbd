"""GeoTIFFs with text that is none, positions that are none, and tags of absurd length."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from modis_files import A4, write_tiff

pytest.importorskip("rasterio")

from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import PIXEL
from fluxcube.sources.modis.rasters import find_tiles, read_tile

NAME = "MCD43A4.A2019185.h18v04.061.2019194040325.tif"


def read(path):
    return [read_tile(tile) for tile in find_tiles(path)]


@pytest.fixture
def tile(tmp_path):
    return write_tiff(tmp_path / NAME, np.ones((7, 3, 3), "int16"), (9900, 43500), names=A4)


def test_names_that_are_no_text(tile):
    data = tile.read_bytes()
    tile.write_bytes(data.replace(b"Nadir_Reflectance_Band3", b"Nadir_Refl\xf9ctance_Band3"))
    with pytest.raises(SourceError, match="cannot be read as a GeoTIFF"):
        read(tile)


def test_positions_that_are_no_numbers(tile):
    data = tile.read_bytes()
    at = data.rindex(struct.pack("<d", PIXEL))  # GDAL leaves an earlier header in the file
    tile.write_bytes(data[:at] + struct.pack("<d", np.nan) + data[at + 8 :])
    with pytest.raises(SourceError):
        read(tile)


def test_tags_of_more_values_than_the_file_has_bytes(tile):
    tile.write_bytes(b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 33550, 12, 0xFFFFFFFF, 8) + bytes(4))
    with pytest.raises(SourceError):
        read(tile)

"""Files of a year, with a band for each day and layer, are read without GDAL; the values are GDAL's."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from modis_files import A4, SPHERE_CRS
from rasterio.transform import from_origin

from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS
from fluxcube.sources.modis.plain_tiff import plain_layout
from fluxcube.sources.modis.rasters import find_tiles, list_rasters, read_tile

DAYS = [f"2019_07_{day:02d}" for day in range(1, 8)]
CORNER = 9000, 43210


def write_year(path, values, **options):
    """Write a band for each day and layer, as an export of `toBands`."""
    profile = {"driver": "GTiff", "dtype": values.dtype, "crs": SPHERE_CRS, "nodata": 32767, "interleave": "band"}
    corner = (CORNER[1] - COLS / 2) * PIXEL, (ROWS / 2 - CORNER[0]) * PIXEL
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(path, "w", **(profile | options), **shape, transform=from_origin(*corner, PIXEL, PIXEL)) as file:
        file.write(values)
        file.descriptions = [f"{day}_{layer}" for day in DAYS for layer in A4]
    return path


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(3).integers(0, 10000, (len(DAYS) * 7, 12, 14)).astype("int16")


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({}, True),
        ({"ENDIANNESS": "BIG"}, True),
        ({"dtype": "int32"}, True),
        ({"interleave": "pixel"}, False),
        ({"compress": "deflate"}, False),
        ({"blockysize": 4}, False),
        ({"tiled": True, "blockxsize": 16, "blockysize": 16}, False),
    ],
)
def test_values_are_those_of_gdal(tmp_path, values, options, plain):
    path = write_year(tmp_path / "site.2019.tif", values.astype(options.get("dtype", "int16")), **options)
    assert (plain_layout(path) is not None) == plain
    tiles = find_tiles(path)
    assert len(tiles) == len(DAYS)
    for n, tile in enumerate(tiles):
        window = read_tile(tile, (CORNER[0] + 2, CORNER[0] + 11), (CORNER[1] + 3, CORNER[1] + 9))
        assert window == pytest.approx(values[7 * n : 7 * n + 7, 2:11, 3:9] * np.float32(1e-4), abs=1e-7)


def test_few_bands_are_left_to_gdal(tmp_path, values):
    assert plain_layout(write_year(tmp_path / "site.2019.tif", values)) is not None
    few = tmp_path / "few.tif"
    with rasterio.open(few, "w", driver="GTiff", dtype="int16", count=2, height=3, width=3, crs=SPHERE_CRS) as file:
        file.write(np.ones((2, 3, 3), "int16"))
    assert plain_layout(few) is None
    assert plain_layout(tmp_path / "missing.tif") is None


def test_a_file_that_was_cut_short_is_refused(tmp_path, values):
    path = write_year(tmp_path / "MCD43A4.site.2019.tif", values)
    (last,) = [raster for raster in list_rasters(path) if str(raster.day) == "2019-07-07"]
    read_tile(find_tiles(path)[-1])
    path.write_bytes(path.read_bytes()[: plain_layout(path).offsets[-1] + 10])
    with pytest.raises(SourceError, match=r"download it again"):
        read_tile(find_tiles([last])[0])


def test_a_tag_with_more_values_than_the_file_has_bytes_takes_no_memory(tmp_path, values):
    path = write_year(tmp_path / "site.2019.tif", values)
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[4:8], "little")
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], "little"), 12):
        if int.from_bytes(content[entry : entry + 2], "little") == 273:  # the positions of the bands
            content[entry + 4 : entry + 8] = b"\xff" * 4
    path.write_bytes(content)
    assert plain_layout(path) is None

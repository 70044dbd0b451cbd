"""MODIS rasters: their positions on the global grid, and their physical values."""

from __future__ import annotations

import numpy as np
import pytest
from packages import optional

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis.rasters import (
    COLS,
    PIXEL,
    ROWS,
    check_raster,
    find_tiles,
    list_rasters,
    read_land_cover,
    read_tile,
)

rasterio = optional("rasterio")

SPHERE = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
A4 = [f"Nadir_Reflectance_Band{i}" for i in range(1, 8)]
A2 = ["Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType"]


def write(path, values, row, col, *, names=None, crs=SPHERE, shift=0.0, pixel=PIXEL, scale=None):
    """Write (band, y, x) integers with their corner at a pixel of the global grid."""
    values = np.asarray(values)
    transform = rasterio.transform.from_origin((col - COLS / 2) * PIXEL + shift, (ROWS / 2 - row) * PIXEL, pixel, pixel)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype, crs=crs, transform=transform, **shape) as file:
        file.write(values)
        if names:
            file.descriptions = names
        if scale:
            file.scales = [scale] * len(values)
    return path


def bands(height=4, width=5):
    """Bands with distinct values: band b at row y and column x has 1000 b + 10 y + x."""
    y, x = np.mgrid[:height, :width]
    return np.stack([1000 * b + 10 * y + x for b in range(1, 8)]).astype("int16")


def test_window_on_the_global_grid_and_values(tmp_path):
    path = write(tmp_path / "MCD43A4.A2019185.h18v04.061.site.tif", bands(), 9700, 44000, names=A4, scale=1e-4)
    (tile,) = find_tiles(tmp_path)
    assert (tile.path, tile.product, tile.day) == (path, "MCD43A4", np.datetime64("2019-07-04"))
    assert (tile.row, tile.col, tile.height, tile.width) == (9700, 44000, 4, 5)
    values = read_tile(tile)
    assert values.shape == (7, 4, 5) and values.dtype == np.float32
    assert values[2, 1, 3] == pytest.approx(0.3013)
    np.testing.assert_array_equal(read_tile(tile, (9701, 9703), (44002, 44005)), values[:, 1:3, 2:5])
    with pytest.raises(ConfigError, match=r"rows 9700\.\.9704"):
        read_tile(tile, (9699, 9701), (44000, 44001))


def test_the_grid_is_the_one_that_modis_documents():
    # https://modis-land.gsfc.nasa.gov/MODLAND_grid.html: western edge of the grid, width of a tile
    assert pytest.approx(20015109.354, abs=0.01) == ROWS * PIXEL
    assert pytest.approx(1111950.519667, abs=1e-3) == 2400 * PIXEL


def test_bands_follow_their_names_not_their_order(tmp_path):
    values = bands()
    shuffled = [6, 0, 3, 1, 5, 2, 4]
    write(tmp_path / "MCD43A4.A2019001.h18v04.061.a.tif", values, 10, 10, names=A4)
    write(tmp_path / "MCD43A4.A2019002.h18v04.061.a.tif", values[shuffled], 10, 10, names=[A4[i] for i in shuffled])
    write(tmp_path / "MCD43A4.A2019003.h18v04.061.a.tif", values, 10, 10)
    one, other, unnamed = (read_tile(tile) for tile in find_tiles(tmp_path))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, unnamed)


def test_fill_and_impossible_values_are_missing(tmp_path):
    raw = np.zeros((7, 1, 5), "int16")
    raw[:] = [0, 10000, 10001, 32767, -1]
    write(tmp_path / "MCD43A4.A2019001.h18v04.061.a.tif", raw, 10, 10, names=A4)
    flags = np.array([[[0, 1, 255, 2, 0, 0, 0, 0, 0]], [[0, 1, 2, 3, 4, 5, 6, 7, 255]]], "uint8")
    write(tmp_path / "MCD43A2.A2019001.h18v04.061.a.tif", flags, 10, 10, names=A2)
    a2, a4 = (read_tile(tile) for tile in find_tiles(tmp_path))
    np.testing.assert_allclose(a4[0, 0], [0.0, 1.0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(a2[0, 0], [0, 1, np.nan, np.nan, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(a2[1, 0], [1, 0, 0, 1, 1, 1, 1, 1, np.nan])


def test_land_cover_is_the_mode_of_the_years(tmp_path):
    for year, row in {2017: [1, 4, 255, 0], 2018: [10, 4, 255, 17], 2019: [10, 5, 12, 17]}.items():
        path = tmp_path / f"MCD12Q1.A{year}001.h18v04.061.region.tif"
        write(path, np.array([[row]], "uint8"), 100, 200, names=["LC_Type1"])
    tiles = find_tiles(tmp_path)
    assert read_land_cover(tiles, (99, 101), (199, 205)).tolist() == [[255] * 6, [255, 10, 4, 12, 17, 255]]
    assert read_land_cover(tiles[:1], (100, 101), (200, 204)).tolist() == [[1, 4, 255, 255]]
    assert read_land_cover([], (0, 1), (0, 1)).tolist() == [[255]]


@pytest.mark.parametrize(
    "crs, match",
    [
        ("ESRI:54008", "sphere"),
        ("+proj=sinu +lon_0=0 +datum=WGS84 +units=m", "18 km off"),
        ("+proj=sinu +lon_0=0 +R=6378137 +units=m", r"\+R=6371007.181"),
        ("+proj=sinu +lon_0=10 +R=6371007.181 +units=m", "lon_0"),
        ("EPSG:32632", "sinusoidal projection on the sphere"),
        (None, "no coordinate system"),
    ],
)
def test_other_projections_are_refused(tmp_path, crs, match):
    path = write(tmp_path / "MCD43A4.A2019185.h18v04.061.a.tif", bands(), 9700, 44000, names=A4, crs=crs)
    with pytest.raises(SourceError, match=match) as caught:
        find_tiles(tmp_path)
    assert str(path) in str(caught.value)


def test_other_grids_are_refused(tmp_path):
    near = write(tmp_path / "MCD43A4.A2019185.h18v04.061.a.tif", bands(), 9700, 44000, names=A4, shift=0.9)
    assert find_tiles(near)[0].col == 44000
    for name, change in {"half": {"shift": PIXEL / 2}, "two": {"shift": 2.0}, "500": {"pixel": 500.0}}.items():
        path = write(tmp_path / f"MCD43A4.A2019186.h18v04.061.{name}.tif", bands(), 9700, 44000, names=A4, **change)
        with pytest.raises(SourceError, match="not on the 500 m sinusoidal grid"):
            find_tiles(path)


def test_other_contents_are_refused(tmp_path):
    path = tmp_path / "MCD43A4.A2019185.h18v04.061.a.tif"
    for values, names, scale, match in (
        (bands()[:6], A4[:6], None, "must contain Nadir_Reflectance_Band1.*found 6 bands"),
        (bands().astype("uint8"), A4, None, "integers up to 10000, found uint8"),
        (bands(), A4, 0.01, r"scaled by 0\.0001"),
    ):
        with pytest.raises(SourceError, match=match):
            find_tiles(write(path, values, 0, 0, names=names, scale=scale))
    path.write_bytes(b"II*\0 not a GeoTIFF")
    with pytest.raises(SourceError, match="cannot be read as a GeoTIFF"):
        find_tiles(path)


def test_floats_are_accepted_where_they_are_unscaled_integers(tmp_path):
    path = tmp_path / "MCD43A4.A2019185.h18v04.061.a.tif"
    whole = read_tile(find_tiles(write(path, bands(), 0, 0, names=A4))[0])
    holes = bands().astype("float64")
    holes[3, 2, 2] = np.nan
    floats = read_tile(find_tiles(write(path, holes, 0, 0, names=A4))[0])
    assert np.isnan(floats[3, 2, 2]) and np.isnan(floats).sum() == 1
    np.testing.assert_array_equal(floats[~np.isnan(floats)], whole[~np.isnan(floats)])
    (tile,) = find_tiles(write(path, bands() * 1e-4, 0, 0, names=A4))
    with pytest.raises(SourceError, match=r"has integers, found 0\.1: pass the unscaled"):
        read_tile(tile)


def test_errors_for_folders_without_rasters_name_what_was_expected(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        find_tiles(tmp_path / "nowhere")
    (tmp_path / "notes.tif").write_bytes(b"")
    (tmp_path / "MOD09A1.A2019185.h18v04.061.2019.hdf").write_bytes(b"")
    with pytest.raises(SourceError, match=r"MCD43A4\.A2019185.* 2 other files were ignored.*MOD09A1 is not used"):
        list_rasters(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(SourceError, match="expected a MODIS raster"):
        list_rasters(tmp_path / "notes.txt")
    (tmp_path / "MCD43A4.A2019385.h18v04.061.a.tif").write_bytes(b"")
    with pytest.raises(SourceError, match="day 385"):
        list_rasters(tmp_path)


def test_listing_opens_nothing(tmp_path):
    (tmp_path / "MCD43A4.A2019185.h18v04.061.b.tif").write_bytes(b"broken")
    write(tmp_path / "MCD43A2.A2019185.h18v04.061.a.tif", np.ones((2, 3, 3), "uint8"), 5, 6, names=A2)
    a2, a4 = list_rasters(tmp_path)
    assert (a2.product, a4.product) == ("MCD43A2", "MCD43A4")
    assert [r.path for r in list_rasters(tmp_path, products=["MCD43A4"])] == [a4.path]
    assert check_raster(a2) == find_tiles(a2.path)[0]
    with pytest.raises(SourceError, match="cannot be read"):
        check_raster(a4)


def test_equal_headers_are_interpreted_once_and_any_difference_is_noticed(tmp_path, monkeypatch):
    import fluxcube.sources.modis.tiff as tiff

    opens = []
    plain = tiff._open
    monkeypatch.setattr(tiff, "_open", lambda path, **kw: opens.append(kw["georeferenced"]) or plain(path, **kw))
    tiff._layout.cache_clear()
    for day in (1, 2, 3):
        write(tmp_path / f"MCD43A4.A201900{day}.h18v04.061.a.tif", bands() + day, 700, 800, names=A4)
    tiles = find_tiles(tmp_path)
    assert opens == [True] and {(t.row, t.col) for t in tiles} == {(700, 800)}
    assert read_tile(tiles[2])[0, 0, 0] == pytest.approx(0.1003)
    changes = {"place": {"row": 701}, "names": {"names": A4[::-1]}, "crs": {"crs": "ESRI:54008"}, "size": {}}
    for n, (name, change) in enumerate(changes.items(), 4):
        values = bands(width=6) if name == "size" else bands()
        path = tmp_path / f"MCD43A4.A201900{n}.h18v04.061.a.tif"
        write(path, values, **{"row": 700, "col": 800, "names": A4} | change)
        if name == "crs":
            with pytest.raises(SourceError, match="sphere"):
                find_tiles(path)
        else:
            (tile,) = find_tiles(path)
            assert (tile.row, tile.width, tile.bands) == {
                "place": (701, 5, (1, 2, 3, 4, 5, 6, 7)),
                "names": (700, 5, (7, 6, 5, 4, 3, 2, 1)),
                "size": (700, 6, (1, 2, 3, 4, 5, 6, 7)),
            }[name]
    assert opens.count(True) == 5


def test_big_tiff_is_read_too(tmp_path):
    path = tmp_path / "MCD43A4.A2019001.h18v04.061.a.tif"
    write(path, bands(), 700, 800, names=A4)
    big = tmp_path / "MCD43A4.A2019002.h18v04.061.a.tif"
    with rasterio.open(path) as file, rasterio.open(big, "w", **file.profile | {"BIGTIFF": "YES"}) as out:
        out.write(file.read())
        out.descriptions = file.descriptions
    one, other = find_tiles(tmp_path)
    assert (other.row, other.col) == (700, 800)
    np.testing.assert_array_equal(read_tile(one), read_tile(other))


def test_real_land_cover_tile(shared_data):
    path = shared_data / "modis" / "MCD12Q1.A2001001.h00v08.006.2018142182903_LC_Type1.tif"
    (tile,) = find_tiles(path)
    assert (tile.row, tile.col, tile.height, tile.width) == (8 * 2400, 0, 2400, 2400)
    classes = read_tile(tile)
    with rasterio.open(path) as file:
        raw = file.read(1)
    known = np.isfinite(classes[0])
    np.testing.assert_array_equal(classes[0][known], raw[known])
    assert set(np.unique(raw[~known])) <= {0, 255}

"""HDF4 tiles: grid, layers and attributes as written by LP DAAC, and files that are refused."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest
from modis_files import A4, daily, flags, grid, nadir, name_of, structure, tile_of, write_hdf, write_tiff
from packages import optional

from fluxcube.errors import MissingPackageError, SourceError
from fluxcube.sources.modis import hdf, hdf_process, hdf_read
from fluxcube.sources.modis.grid import PIXEL, PRODUCTS, ROWS, Product, Raster
from fluxcube.sources.modis.rasters import (
    check_raster,
    find_tiles,
    list_rasters,
    read_pixels,
    read_tile,
    survey_rasters,
)

SD = optional("pyhdf.SD")
optional("rasterio")

CORNER = (4 * 2400 + 100, 18 * 2400 + 700)
DAY = "2019-07-04"


@pytest.fixture
def here(monkeypatch):
    """Read in this process, where calls of the library can be observed."""
    monkeypatch.setattr(hdf, "call", lambda function, path, **more: hdf_read.READERS[function](path, **more))
    hdf._layout.cache_clear()


def values(height=12, width=14, seed=0):
    return np.random.default_rng(seed).integers(0, 10000, (7, height, width)).astype("int16")


def write(folder, grids, product="MCD43A4", tile=None, **names):
    return write_hdf(folder / name_of(product, DAY, tile or tile_of(CORNER), **names), grids)


def test_a_tile_and_the_geotiff_of_it_are_the_same(tmp_path):
    raw = values()
    raw[2, 3, 4], raw[0, 0, 0] = 32767, -5
    path = write(tmp_path, [nadir(raw, CORNER)])
    write_tiff(tmp_path / "MCD43A4.A2019185.h18v04.061.cut.tif", raw, CORNER, names=A4)
    hdf, tif = find_tiles(tmp_path)
    assert hdf.path == path and hdf.day == np.datetime64(DAY) and hdf.tile == (18, 4)
    assert (hdf.row, hdf.col, hdf.height, hdf.width) == (tif.row, tif.col, tif.height, tif.width) == (*CORNER, 12, 14)
    np.testing.assert_array_equal(read_tile(hdf), read_tile(tif))
    assert np.isnan(read_tile(hdf)).sum() == 2 and read_tile(hdf)[3, 1, 1] == np.float32(raw[3, 1, 1] * 1e-4)
    rows, cols = (CORNER[i] + np.random.default_rng(1).integers(0, n, 40) for i, n in ((0, 12), (1, 14)))
    np.testing.assert_array_equal(read_pixels(hdf, rows, cols), read_pixels(tif, rows, cols))
    window = (CORNER[0] + 2, CORNER[0] + 5), (CORNER[1] + 9, CORNER[1] + 14)
    np.testing.assert_array_equal(read_tile(hdf, *window), read_tile(hdf)[:, 2:5, 9:14])


def test_snow_and_water_flags(tmp_path):
    snow, kind = np.array([[0, 1, 255, 0]]), np.array([[1, 0, 3, 255]])
    write(tmp_path, [flags([snow, kind], CORNER)], "MCD43A2")
    found = read_tile(find_tiles(tmp_path)[0])
    np.testing.assert_array_equal(found[0, 0], [0, 1, np.nan, 0])
    np.testing.assert_array_equal(found[1, 0], [0, 1, 1, np.nan])


def test_daily_tile_has_two_grids(tmp_path):
    raw, state = values(8, 6), np.arange(12).reshape(4, 3) * 1000
    state[0, 0] = 65535
    write(tmp_path, daily(raw, state, CORNER), "MOD09GA")
    bands, flag = find_tiles(tmp_path)
    assert (bands.product, flag.product) == ("MOD09GA", "MOD09GA_STATE")
    assert (bands.height, bands.width, bands.factor) == (flag.height, flag.width, flag.factor // 2) == (8, 6, 1)
    fine = read_tile(flag)
    assert fine.shape == (1, 8, 6) and np.isnan(fine[0, :2, :2]).all()
    np.testing.assert_array_equal(fine[0, 2:], np.repeat(np.repeat(state, 2, 0), 2, 1)[2:])
    # A window that begins and ends within 1 km pixels.
    r, c = CORNER
    np.testing.assert_array_equal(read_tile(flag, (r + 3, r + 8), (c + 1, c + 4)), fine[:, 3:8, 1:4])
    rows, cols = np.array([r + 3, r + 7, r + 2]), np.array([c + 5, c, c + 1])
    np.testing.assert_array_equal(read_pixels(flag, rows, cols), fine[:, rows - r, cols - c])
    assert read_tile(bands)[6, 7, 5] == np.float32(raw[6, 7, 5] * 1e-4)


def test_negative_reflectance_of_the_daily_product_is_valid_down_to_a_hundredth(tmp_path):
    raw = np.full((7, 2, 2), 500)
    raw[0] = [[-100, -101], [16000, 16001]]
    write(tmp_path, daily(raw, np.zeros((1, 1)), CORNER), "MOD09GA")
    np.testing.assert_allclose(read_tile(find_tiles(tmp_path)[0])[0], [[-0.01, np.nan], [1.6, np.nan]], rtol=1e-6)


def test_only_the_window_is_read(tmp_path, monkeypatch, here):
    path = write(tmp_path, [nadir(values(600, 300), CORNER)])
    asked = []
    plain = SD.SDS.get
    monkeypatch.setattr(SD.SDS, "get", lambda s, start, count: asked.append((start, count)) or plain(s, start, count))
    (tile,) = find_tiles(path)
    rows, cols = CORNER[0] + np.array([550, 10, 13, 12]), CORNER[1] + np.array([40, 5, 9, 7])
    read_pixels(tile, rows, cols)
    # Two strips, from north to south, of the rows and columns with the pixels, once for each band.
    assert asked == [((10, 5), (4, 5))] * 7 + [((550, 40), (1, 1))] * 7


def test_layers_in_chunks_of_rows_are_the_same(tmp_path):
    """MCD43 deflates 100 rows at a time; the chunk's edges must not show."""
    path = tmp_path / name_of("MCD43A4", DAY, tile_of(CORNER))
    raw = values(330, 60)
    write_hdf(path, [nadir(raw, CORNER)], chunk_rows=100)
    (tile,) = find_tiles(path)
    np.testing.assert_allclose(read_tile(tile), raw * 1e-4, rtol=1e-6)
    rows, cols = np.random.default_rng(0).integers(0, [[330], [60]], (2, 500))
    found = read_pixels(tile, CORNER[0] + rows, CORNER[1] + cols)
    np.testing.assert_array_equal(found, read_tile(tile)[:, rows, cols])


def test_the_later_edition_is_used(tmp_path):
    old = write(tmp_path, [nadir(values(seed=1), CORNER)], edition="061.2019194040325")
    new = write(tmp_path, [nadir(values(seed=2), CORNER)], edition="061.2021003111111")
    write(tmp_path, [nadir(values(seed=3), CORNER)], edition="006.2022003111111")
    listing = survey_rasters(tmp_path)
    assert [r.path for r in listing.rasters] == [new]
    assert len(listing.ignored) == 2 and (old, f"{new.name} is a later edition of the same tile and day") in (
        listing.ignored
    )


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"projection": "GCTP_GEO"}, "GCTP_GEO.*sinusoidal"),
        ({"parameters": "6378137.000000,0,0,0,0,0,0,0,0,0,0,0,0"}, "6378137"),
        ({"parameters": "6371007.181000,6356752.3,0,0,0,0,0,0,0,0,0,0,0"}, "ellipsoid is 18 km off"),
        ({"parameters": "6371007.181000,0,0,0,10000000,0,0,0,0,0,0,0,0"}, "around longitude 0"),
        ({"stretch": 2.0}, "not on the 500 m sinusoidal grid"),
        ({"stretch": 0.5}, "not on the 500 m sinusoidal grid"),
        ({"shift": 200.0}, "200.0 m off"),
        ({"shift": 4000 * PIXEL}, r"by its name it is tile h18v04.*one of the two is wrong"),
    ],
)
def test_other_grids_are_refused(tmp_path, changes, match):
    path = write(tmp_path, [nadir(values(), CORNER, **changes)])
    with pytest.raises(SourceError, match=match) as caught:
        find_tiles(path)
    assert str(path) in str(caught.value)


def test_other_contents_are_refused(tmp_path):
    path = tmp_path / name_of("MCD43A4", DAY, tile_of(CORNER))
    good = nadir(values(), CORNER)["fields"]

    def refused(fields, match, **kw):
        write_hdf(path, [grid("MOD_Grid_BRDF", CORNER, fields)], **kw)
        with pytest.raises(SourceError, match=match):
            find_tiles(path)

    band = "Nadir_Reflectance_Band3"
    raw, attributes = good[band]
    refused({k: v for k, v in good.items() if k != band}, f"must contain {band}")
    refused(good | {band: (raw.astype("float32"), attributes)}, f"{band} is stored as float32.*int16")
    refused(good | {band: (raw[:5], attributes)}, r"\(5, 14\); its grid is 12 x 14")
    refused(good | {band: (raw, attributes | {"scale_factor": 10000.0})}, r"scaled by 0\.0001")
    refused(good | {band: (raw, attributes | {"_FillValue": 9999})}, "fill value 9999 is also a value")
    refused(good | {band: (raw, attributes | {"_FillValue": -999})}, "differ in fill")
    text = structure([grid("MOD_Grid_BRDF", CORNER, good)])
    refused(good, "no StructMetadata", metadata="")
    refused(good, "describes no grid", metadata="GROUP=GridStructure\nEND_GROUP=GridStructure\n")
    refused(good, "has no Projection", metadata=text.replace("Projection=", "Projektion="))
    refused(good, "is no pair of numbers", metadata=text.replace("UpperLeftPointMtrs=(", "UpperLeftPointMtrs=(x"))
    refused(good, "no grid of StructMetadata.0 contains", metadata=text.replace("Nadir_Reflectance", "Nadir"))
    refused(good, "damaged", metadata=text.replace("XDim=14", "XDim=many"))


MANY = pytest.param(40, marks=pytest.mark.proof)


@pytest.mark.parametrize("cases", [6, MANY])
def test_files_that_were_cut_short_are_named(tmp_path, cases):
    path = write(tmp_path, [nadir(values(40, 40), CORNER)])
    whole = path.read_bytes()
    read_tile(find_tiles(path)[0])
    # Attributes are written last: wherever a file is cut, a listed object is missing.
    lengths = [0, 3, 4, 9, 100, *np.random.default_rng(0).integers(0, len(whole) - 100, cases)]
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match="HDF4") as caught:
            read_tile(find_tiles(path)[0])
        assert str(path) in str(caught.value)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + whole)  # HDF5, say
    with pytest.raises(SourceError, match="HDF4"):
        find_tiles(path)
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        check_raster(Raster(path=path, product="MCD43A4", day=np.datetime64(DAY)))


@pytest.mark.parametrize("cases", [6, MANY])
def test_damaged_bytes_neither_crash_nor_hang(tmp_path, cases):
    """The library crashes on some of these files, and with it its own process, but not this one."""
    path = write(tmp_path, [nadir(values(30, 30), CORNER)])
    whole, rng = path.read_bytes(), np.random.default_rng(5)
    errors = 0
    for _ in range(cases):
        damaged = bytearray(whole)
        for at in rng.integers(4, len(whole), 6):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_tile(find_tiles(path)[0]).shape[0] == 7
        except SourceError as error:
            errors += 1
            assert str(path) in str(error)
    assert errors >= cases // 12
    path.write_bytes(whole)
    assert read_tile(find_tiles(path)[0]).shape == (7, 30, 30)


def test_a_process_that_ends_or_hangs_affects_its_own_file_only(tmp_path, monkeypatch):
    path = write(tmp_path, [nadir(values(), CORNER)])
    (tile,) = find_tiles(path)
    with pytest.raises(SourceError, match=r"ended with status .* download it again"):
        list(hdf_process.call("no such function", path))
    expected = read_tile(tile)
    first = hdf_process.call("windows", path, bands=list(tile.bands), boxes=[[0, 2, 0, 2], [2, 4, 0, 2]])
    next(first)
    first.close()  # the second window is not read, and must not be the answer to another request
    np.testing.assert_array_equal(read_tile(tile), expected)
    monkeypatch.setattr(hdf_process.process, "patience", 0.2)
    os.kill(hdf_process.process.worker.process.pid, signal.SIGSTOP)  # it hangs, however busy the machine is
    with pytest.raises(SourceError, match=r"gave no answer within 0.2 s"):
        read_tile(tile)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_tile(tile), expected)


def test_without_pyhdf_the_extra_is_named(tmp_path, monkeypatch, here):
    path = write(tmp_path, [nadir(values(), CORNER)])
    monkeypatch.setitem(sys.modules, "pyhdf.SD", None)
    assert len(list_rasters(tmp_path)) == 1
    with pytest.raises(MissingPackageError, match=r"pip install 'fluxcube\[sources\]'"):
        find_tiles(path)


def test_a_real_land_cover_tile_equals_a_geotiff_converted_from_it(shared_data):
    folder = shared_data / "modis"
    tile, tif = find_tiles(folder, products=["MCD12Q1"])
    assert tile.path.suffix == ".hdf" and tif.path.suffix == ".tif"
    assert (tile.row, tile.col, tile.height, tile.width) == (tif.row, tif.col, tif.height, tif.width)
    np.testing.assert_array_equal(read_tile(tile), read_tile(tif))
    rng = np.random.default_rng(0)
    rows, cols = tile.row + rng.integers(0, 2400, 3000), tile.col + rng.integers(0, 2400, 3000)
    np.testing.assert_array_equal(read_pixels(tile, rows, cols), read_tile(tif)[:, rows - tif.row, cols - tif.col])


def test_real_tiles_of_other_products_are_on_the_same_grid(shared_data, monkeypatch, here):
    """A whole tile of a product like MCD43A4, and a part of a tile of MOD09A1 cut with other software."""
    folder = shared_data / "modis"
    bands = tuple(f"sur_refl_b{i:02d}" for i in range(1, 8))
    piece = Product(layers=bands, valid=(-100, 16000), scaled=True, types=("int16",))
    monkeypatch.setitem(PRODUCTS, "MOD09A1", piece)
    monkeypatch.setitem(
        PRODUCTS,
        "MCD43A3",
        Product(
            layers=tuple(f"BRDF_Albedo_Band_Mandatory_Quality_Band{i}" for i in range(1, 8)),
            valid=(0, 254),
        ),
    )
    quality, surface = find_tiles(folder, products=["MOD09A1", "MCD43A3"])
    quality, surface = (quality, surface) if quality.product == "MCD43A3" else (surface, quality)
    assert (quality.row, quality.col, quality.height, quality.width) == (7 * 2400, 15 * 2400, 2400, 2400)
    assert set(np.unique(read_tile(quality))) >= {0.0, 1.0}
    # The lower right corner in the part's metadata is the end of its rows and columns.
    assert (surface.height, surface.width) == (73, 66) and surface.tile == (18, 4)
    assert pytest.approx((ROWS / 2 - surface.row - 73) * PIXEL, abs=1e-3) == 5098293.132672
    raw = SD.SD(str(surface.path)).select("sur_refl_b02")[:]
    found = read_tile(surface)[1]
    np.testing.assert_allclose(found[np.isfinite(found)], raw[np.isfinite(found)] * 1e-4, rtol=1e-6)
    assert np.isfinite(found).mean() > 0.5 and (raw[np.isnan(found)] == -28672).all()


def test_an_error_after_other_files_is_confirmed_by_a_new_process(tmp_path, monkeypatch):
    """An error after other files may be caused by those files: the answer of a new process is final."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (write(tmp_path / name, [nadir(values(), CORNER)]) for name in ("one", "two"))
    (expected,) = hdf_process.call("layout", one, product="MCD43A4")
    asked, answers = [], hdf_process.process.answers

    def disordered(worker, function, path, options):
        asked.append(len(worker.seen))
        if len(worker.seen) > 1:
            worker.stop()
            raise SourceError("disorder")
        return answers(worker, function, path, options)

    monkeypatch.setattr(hdf_process.process, "answers", disordered)
    assert list(hdf_process.call("layout", two, product="MCD43A4")) == [expected]
    assert asked[0] > 1 and asked[-1] == 1, "first a process with a past, then one without"

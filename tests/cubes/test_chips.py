"""Chips: their pixels, checked against GDAL, and cutting them from rasters."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import xarray as xr
from modis_files import flags, nadir, name_of, write_hdf
from modis_files import write_tiff as write_at
from packages import optional

from fluxcube.cubes.chips import build_chips, chip_index, sinusoidal_pixel
from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis.rasters import COLS, PIXEL, ROWS, find_tiles, list_rasters
from fluxcube.variables import BANDS

rasterio = optional("rasterio")
optional("rioxarray")
warp = optional("rasterio.warp")

SPHERE = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
NAMES = {
    "MCD43A4": [f"Nadir_Reflectance_Band{i}" for i in range(1, 8)],
    "MCD43A2": ["Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType"],
}
PLACES = {  # latitude, longitude
    "Davos": (46.8153, 9.8559),
    "Hyytiala": (61.8474, 24.2948),
    "Finnmark": (70.05, 27.01),
    "tile edge": (50.0, 15.5572),
    "Manaus": (-2.6091, -60.2093),
    "equator": (0.001, 20.0),
    "Tierra del Fuego": (-54.9733, -66.7335),
    "Fiji": (-17.8, 179.999),
    "zone edge": (45.0, 6.001),
}


def transform(row, col):
    return rasterio.transform.from_origin((col - COLS / 2) * PIXEL, (ROWS / 2 - row) * PIXEL, PIXEL, PIXEL)


def write(folder, product, day, values, row, col, crop="a"):
    dtype = "int16" if product == "MCD43A4" else "uint8"
    values = np.asarray(values).astype(dtype)
    day = np.datetime64(day)
    number = (day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(int) + 1
    path = folder / f"{product}.A{str(day)[:4]}{number:03d}.h00v00.061.{crop}.tif"
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(
        path, "w", driver="GTiff", dtype=dtype, crs=SPHERE, transform=transform(row, col), **shape
    ) as file:
        file.write(values)
        file.descriptions = NAMES[product]
    return path


def crop_around(lat, lon, margin=30):
    rows, cols = chip_index(lat, lon)
    return rows.min() - margin, cols.min() - margin, np.ptp(rows) + 2 * margin + 1, np.ptp(cols) + 2 * margin + 1


def reprojected(lat, lon):
    """Pixel (row, column) that rioxarray takes for each of a chip's, nearest, and its zone's projection.

    The raster's pixels hold their own number. It spans the whole width of the grid, antimeridian included.
    """
    import rioxarray  # noqa: F401  (gives arrays their .rio)

    rows, _ = chip_index(lat, lon)
    row, height = rows.min() - 4, np.ptp(rows) + 9
    zone = int(((lon + 180) % 360) // 6) + 1
    source = xr.DataArray(
        np.arange(height * COLS, dtype="float64").reshape(height, COLS),
        dims=("y", "x"),
        coords={
            "y": (ROWS / 2 - row - 0.5 - np.arange(height)) * PIXEL,
            "x": (np.arange(COLS) + 0.5 - COLS / 2) * PIXEL,
        },
    ).rio.write_crs(SPHERE)
    utm = f"EPSG:{(32700 if lat < 0 else 32600) + zone}"
    x, y = pyproj.Transformer.from_crs("EPSG:4326", utm, always_xy=True).transform(lon, lat)
    out = source.rio.reproject(
        utm,
        transform=rasterio.transform.from_origin(x - 2000, y + 2000, 500, 500),
        shape=(8, 8),
        resampling=warp.Resampling.nearest,
        tolerance=0,
        nodata=-1,
    )
    number = out.values.astype(int)
    assert (number >= 0).all()
    return row + number // COLS, number % COLS, (utm, x, y)


def to_edge(utm, x, y):
    """Distance (pixels) of each of a chip's centres from the nearest edge of a sinusoidal pixel: (8, 8)."""
    grid = np.meshgrid(x + np.arange(-1750, 2000, 500), y + np.arange(1750, -2000, -500))
    at = pyproj.Proj(SPHERE)(*pyproj.Proj(utm)(*grid, inverse=True))
    return np.minimum(*(np.abs(p / PIXEL - np.rint(p / PIXEL)) for p in at))


def test_pixels_are_those_that_rioxarray_takes_and_others_are_ties_at_an_edge():
    """An independent reprojection at 70 N, in both hemispheres, at zones' edges and on both sides of 180 degrees."""
    rng = np.random.default_rng(8)
    places = [
        *PLACES.values(),
        (70.0, 25.0),
        (71.3, -156.6),
        (-17.8, -179.99),
        (65.0, 179.98),
        (66.0, -180.0),
        (52.0, 180.0),
        (-77.8, 166.7),
        *zip(np.degrees(np.arcsin(rng.uniform(-0.9, 0.94, 30))), rng.uniform(-180, 180, 30), strict=True),
    ]
    same, distances = [], []
    for lat, lon in places:
        rows, cols = chip_index(lat, lon)
        its_rows, its_cols, where = reprojected(lat, lon)
        equal = (its_rows == rows[0]) & (its_cols == cols[0])
        same.append(equal.mean())
        distances += to_edge(*where)[~equal].tolist()
        # Where they differ, the neighbour across that edge is taken.
        assert (np.abs(its_rows - rows[0]) <= 1).all()
        assert (np.abs((its_cols - cols[0] + COLS // 2) % COLS - COLS // 2) <= 1).all()
    assert np.mean(same) >= 0.995
    assert max(distances, default=0) < 1e-4  # of a pixel: 5 cm


def test_many_places_agree_with_a_chain_of_pyproj():
    rng = np.random.default_rng(3)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-0.97, 0.97, 300))), rng.uniform(-180, 180, 300)
    rows, cols = chip_index(lat, lon)
    sphere = pyproj.Proj(SPHERE)
    wrong = 0
    for i in range(0, 300, 5):
        utm = pyproj.Proj(proj="utm", zone=int((lon[i] + 180) // 6) + 1, south=lat[i] < 0, datum="WGS84")
        east, north = utm(lon[i], lat[i])
        grid = np.meshgrid(east + np.arange(-1750, 2000, 500), north + np.arange(1750, -2000, -500))
        x, y = sphere(*utm(*grid, inverse=True))
        wrong += (np.floor(x / PIXEL + COLS / 2) != cols[i]).sum() + (np.floor(ROWS / 2 - y / PIXEL) != rows[i]).sum()
    assert wrong / (60 * 128) < 0.002


def test_chips_stand_upright_around_the_place():
    for lat, lon in PLACES.values():
        rows, cols = (index[0] for index in chip_index(lat, lon))
        here = sinusoidal_pixel(np.array(lat), np.array(lon))
        assert (np.diff(rows[:, 0]) > 0).all(), "y runs from north to south"
        assert abs(rows.mean() - here[0]) <= 1
        if abs(lon) < 179:
            assert (np.diff(cols[0]) > 0).all(), "x runs from west to east"
            assert abs(cols.mean() - here[1]) <= 1
    rows, _ = chip_index(*PLACES["Davos"])
    # 8 pixels of 500 m are 8.6 of 463 m.
    assert 7 <= np.ptp(rows[0][:, 0]) <= 9


def test_across_the_antimeridian_columns_are_of_both_ends_of_the_grid():
    _, cols = chip_index(*PLACES["Fiji"])
    assert (np.diff(cols[0], axis=1) < -60000).sum() == 8
    east, west = chip_index(-17.8, 180.0), chip_index(-17.8, -180.0)
    np.testing.assert_array_equal(east, west)


def test_places_do_not_depend_on_each_other():
    lat, lon = np.array(list(PLACES.values())).T
    together = chip_index(lat, lon)
    for i in range(len(lat)):
        for one, many in zip(chip_index(lat[i], lon[i]), together, strict=True):
            np.testing.assert_array_equal(one[0], many[i])
    with pytest.raises(ConfigError, match="latitude"):
        chip_index([45.0, np.nan], [1.0, 1.0])


def planted(tmp_path, lat, lon):
    """Two days of both products around a place; pixel (y, x) of band b holds 100 b + its place in the raster."""
    row, col, height, width = crop_around(lat, lon, 3)
    ramp = np.arange(height * width).reshape(height, width)
    a4 = np.stack([ramp % 97 + 100 * b for b in range(1, 8)])
    a2 = np.stack([ramp % 2, ramp % 3])
    return row, col, a4, a2


def test_values_come_from_the_right_pixels_of_the_right_day(tmp_path):
    lat, lon = PLACES["Davos"]
    row, col, a4, a2 = planted(tmp_path, lat, lon)
    write(tmp_path, "MCD43A4", "2019-06-10", a4 + 1000, row, col)
    write(tmp_path, "MCD43A4", "2019-06-02", a4, row, col)
    write(tmp_path, "MCD43A2", "2019-06-02", a2, row, col)
    seen = []
    chips = build_chips(tmp_path, [lat], [lon], progress=lambda *a: seen.append(a[:2]))
    assert chips.dims == ("place", "day", "band", "y", "x") and chips.shape == (1, 2, 9, 8, 8)
    assert chips.dtype == np.float32 and tuple(chips.band.values) == BANDS
    assert chips.day.values.astype("datetime64[D]").astype(str).tolist() == ["2019-06-02", "2019-06-10"]
    assert chips.y.values.tolist() == list(range(1750, -2000, -500)) == (-chips.x.values).tolist()
    rows, cols = (index[0] for index in chip_index(lat, lon))
    np.testing.assert_allclose(chips[0, 0, :7], a4[:, rows - row, cols - col] / 1e4, rtol=1e-6)
    np.testing.assert_allclose(chips[0, 1, :7] - chips[0, 0, :7], 0.1, rtol=1e-5)
    flags = a2[:, rows - row, cols - col]
    np.testing.assert_array_equal(chips[0, 0, 7], flags[0])
    np.testing.assert_array_equal(chips[0, 0, 8], flags[1] == 0)  # 0 is ocean; 1 land and 2 shore are not water
    assert np.isnan(chips[0, 1, 7:]).all()  # no MCD43A2 that day
    assert seen == [(1, 2), (2, 2)]


def test_a_chip_with_more_than_half_its_reflectance_missing_is_missing(tmp_path):
    lat, lon = PLACES["Davos"]
    row, col, a4, a2 = planted(tmp_path, lat, lon)
    rows, cols = (index[0] - corner for index, corner in zip(chip_index(lat, lon), (row, col), strict=True))
    for day, lost in {"2019-06-02": 32, "2019-06-10": 33}.items():
        holes = a4.copy()
        holes[:, rows.ravel()[:lost], cols.ravel()[:lost]] = 32767
        write(tmp_path, "MCD43A4", day, holes, row, col)
        write(tmp_path, "MCD43A2", day, a2, row, col)
    write(tmp_path, "MCD43A4", "2019-06-18", a4, row, col)
    chips = build_chips(tmp_path, [lat], [lon])
    assert chips.day.dt.dayofyear.values.tolist() == [153, 169]  # the day that left no chip anywhere is not one
    assert np.isnan(chips[0, 0, :7]).sum() == 7 * 32 and np.isfinite(chips[0, 0, 7:]).all()


def test_a_missing_chip_of_one_place_is_missing_in_all_its_bands(tmp_path):
    places = np.array([PLACES["Davos"], (46.9, 9.9)])
    for place, value in zip(places, (500, 32767), strict=True):
        row, col, a4, a2 = planted(tmp_path, *place)
        write(tmp_path, "MCD43A4", "2019-06-02", np.full_like(a4, value), row, col, crop=f"s{value}")
        write(tmp_path, "MCD43A2", "2019-06-02", a2, row, col, crop=f"s{value}")
    chips = build_chips(tmp_path, *places.T)
    assert np.isfinite(chips[0]).all() and np.isnan(chips[1]).all()


def test_overlapping_and_adjoining_rasters_fill_each_other(tmp_path):
    lat, lon = PLACES["tile edge"]
    row, col, a4, _ = planted(tmp_path, lat, lon)
    cut = a4.shape[2] // 2
    for crop, part, left in (("left", a4[:, :, :cut], 0), ("right", a4[:, :, cut:], cut)):
        write(tmp_path / ".", "MCD43A4", "2019-06-02", part, row, col + left, crop=crop)
    rows, cols = (index[0] for index in chip_index(lat, lon))
    whole = a4[:, rows - row, cols - col] / 1e4
    np.testing.assert_allclose(build_chips(tmp_path, [lat], [lon])[0, 0, :7], whole, rtol=1e-6)
    # The first by name wins where both have values; its holes are filled from the second.
    first = np.where(np.arange(a4.shape[2]) % 2, a4 + 5000, 32767)
    write(tmp_path, "MCD43A4", "2019-06-02", first, row, col, crop="crop")
    mixed = build_chips(tmp_path, [lat], [lon])[0, 0, :7].values
    np.testing.assert_allclose(mixed, np.where((cols - col) % 2, whole + 0.5, whole), rtol=1e-6)


def test_places_without_rasters_are_missing_and_said(tmp_path, caplog):
    lat, lon = PLACES["Davos"]
    row, col, a4, _ = planted(tmp_path, lat, lon)
    write(tmp_path, "MCD43A4", "2019-06-02", a4, row, col)
    chips = build_chips(tmp_path, [10.0, lat], [20.0, lon])
    assert np.isnan(chips[0]).all() and np.isfinite(chips[1, 0, :7]).all()
    assert "1 of 2 places lie outside all MODIS rasters" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no MODIS raster"):
        build_chips(tmp_path / "empty", [lat], [lon])
    write(tmp_path / "empty", "MCD43A2", "2019-06-02", a4[:2] % 2, row, col)
    with pytest.raises(SourceError, match="need reflectance"):
        build_chips(tmp_path / "empty", [lat], [lon])


def test_chips_do_not_depend_on_how_rasters_are_given_or_read(tmp_path, monkeypatch):
    lat, lon = np.array([46.8153, 46.85, 46.95, 46.7]), np.array([9.8559, 9.9, 10.1, 9.7])
    rows, cols = chip_index(lat, lon)
    row, col, height, width = rows.min() - 2, cols.min() - 2, np.ptp(rows) + 5, np.ptp(cols) + 5
    a4 = np.random.default_rng(0).integers(0, 10000, (7, height, width))
    write(tmp_path, "MCD43A4", "2019-06-02", a4, row, col)
    chips = build_chips(tmp_path, lat, lon)
    np.testing.assert_allclose(chips[:, 0, :7], np.moveaxis(a4[:, rows - row, cols - col], 0, 1) / 1e4, rtol=1e-6)
    np.testing.assert_array_equal(build_chips(list_rasters(tmp_path), lat, lon), chips)
    np.testing.assert_array_equal(build_chips(find_tiles(tmp_path), lat, lon), chips)
    monkeypatch.setattr("fluxcube.sources.modis.rasters._WINDOW", 200)  # a window for every few rows
    np.testing.assert_array_equal(build_chips(tmp_path, lat, lon), chips)
    np.testing.assert_array_equal(build_chips(tmp_path, lat[::-1], lon[::-1]), chips[::-1])


def corner_place(tmp_path, make):
    """A place at the corner of four tiles; `make(tile, a4, a2, corner)` writes each tile's pixels around it."""
    lat, lon = PLACES["tile edge"]
    rows, cols = (index[0] for index in chip_index(lat, lon))
    row, col = rows.min() - 3, cols.min() - 3
    height, width = np.ptp(rows) + 7, np.ptp(cols) + 7
    rng = np.random.default_rng(5)
    a4, a2 = rng.integers(0, 10000, (7, height, width)), rng.integers(0, 2, (2, height, width))
    down, across = 3 * 2400 + 2400 - row, 19 * 2400 - col  # where the tiles' edges cut the block
    assert 3 < down < height - 3 and 3 < across < width - 3
    for v, r in ((3, slice(0, down)), (4, slice(down, None))):
        for h, c in ((18, slice(0, across)), (19, slice(across, None))):
            make((h, v), a4[:, r, c], a2[:, r, c], (row + r.start, col + c.start))
    return (lat, lon), a4[:, rows - row, cols - col] / 1e4, a2[:, rows - row, cols - col]


def test_a_chip_of_four_hdf_tiles(tmp_path):
    pytest.importorskip("pyhdf.SD")

    def make(tile, a4, a2, corner):
        write_hdf(tmp_path / name_of("MCD43A4", "2019-07-04", tile), [nadir(a4, corner)])
        write_hdf(tmp_path / name_of("MCD43A2", "2019-07-04", tile), [flags(a2, corner)])

    (lat, lon), bands, (snow, kind) = corner_place(tmp_path, make)
    chips = build_chips(tmp_path, [lat], [lon])
    np.testing.assert_allclose(chips[0, 0, :7], bands, rtol=1e-6)
    np.testing.assert_array_equal(chips[0, 0, 7:], [snow, kind == 0])
    # Without one of the four, its pixels alone are missing.
    lost = tmp_path / name_of("MCD43A4", "2019-07-04", (19, 4))
    lost.unlink()
    fewer = build_chips(tmp_path, [lat], [lon])[0, 0, 0].values
    rows, cols = chip_index(lat, lon)
    np.testing.assert_array_equal(np.isnan(fewer), (rows[0] >= 9600) & (cols[0] >= 19 * 2400))


def test_chips_do_not_depend_on_the_kind_of_file(tmp_path):
    pytest.importorskip("pyhdf.SD")
    folders = {name: tmp_path / name for name in ("hdf", "tif", "ee")}
    for folder in folders.values():
        folder.mkdir()

    def make(tile, a4, a2, corner):
        h, v = tile
        write_hdf(folders["hdf"] / name_of("MCD43A4", "2019-07-04", tile), [nadir(a4, corner)])
        write_hdf(folders["hdf"] / name_of("MCD43A2", "2019-07-04", tile), [flags(a2, corner)])
        for product, values, dtype in (("MCD43A4", a4, "int16"), ("MCD43A2", a2, "uint8")):
            write_at(folders["tif"] / f"{product}.A2019185.h{h}v{v:02d}.061.a.tif", values.astype(dtype), corner)
        both = np.concatenate([a4, a2]).astype("float64")
        names = [f"2019_07_04_{n}" for product in ("MCD43A4", "MCD43A2") for n in NAMES[product]]
        write_at(folders["ee"] / f"h{h}v{v}.tif", both, corner, names=names)

    (lat, lon), bands, _ = corner_place(tmp_path, make)
    first = build_chips(folders["hdf"], [lat], [lon])
    np.testing.assert_allclose(first[0, 0, :7], bands, rtol=1e-6)
    for name in ("tif", "ee"):
        np.testing.assert_array_equal(build_chips(folders[name], [lat], [lon]), first)


def test_tiles_away_from_every_place_are_not_opened(tmp_path):
    lat, lon = PLACES["Davos"]
    row, col, a4, _ = planted(tmp_path, lat, lon)
    write(tmp_path, "MCD43A4", "2019-06-02", a4, row, col)
    (tmp_path / name_of("MCD43A4", "2019-06-02", (20, 11))).write_bytes(b"not read")
    assert np.isfinite(build_chips(tmp_path, [lat], [lon])[0, 0, :7]).all()
    (tmp_path / name_of("MCD43A4", "2019-06-02", (18, 4))).write_bytes(b"damaged")
    with pytest.raises(SourceError, match=r"h18v04.*no HDF4 file"):
        build_chips(tmp_path, [lat], [lon])


def test_zones_depend_on_longitude_alone():
    """Western Norway is in zone 31 here, where UTM's exception would make it 32."""
    rows, cols = chip_index(61.0, 5.0)
    utm = pyproj.Proj(proj="utm", zone=31, datum="WGS84")
    east, north = utm(5.0, 61.0)
    grid = np.meshgrid(east + np.arange(-1750, 2000, 500), north + np.arange(1750, -2000, -500))
    x, y = pyproj.Proj(SPHERE)(*utm(*grid, inverse=True))
    assert (np.floor(x / PIXEL + COLS / 2) == cols[0]).mean() > 0.98
    assert (np.floor(ROWS / 2 - y / PIXEL) == rows[0]).mean() > 0.98

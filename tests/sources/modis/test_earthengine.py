"""Earth Engine exports: names of files and bands, masked pixels, and tables, whose pixels must be on the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from modis_files import A2, A4, GA, write_tiff
from packages import optional

from fluxcube.errors import SourceError
from fluxcube.sources.modis.earthengine import name_bands
from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS, SPHERE
from fluxcube.sources.modis.rasters import find_tiles, list_rasters, read_pixels, read_tile, survey_rasters

rasterio = optional("rasterio")

CORNER = (9704, 43985)


def bands(height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(1, 10000, (7, height, width)).astype("int16")


@pytest.mark.parametrize("file", ["MCD43A4_2019_07_04.tif", "2019_07_04.tif", "site-2019-07-04-0000000000.tif"])
def test_a_dated_file_of_named_bands(tmp_path, file):
    raw = bands()
    quality = np.zeros((7, 4, 5), "int16")
    names = [*A4, *(f"BRDF_Albedo_Band_Mandatory_Quality_Band{i}" for i in range(1, 8))]
    write_tiff(tmp_path / file, np.concatenate([raw, quality]), CORNER, names=names)
    (tile,) = find_tiles(tmp_path)
    assert (tile.product, tile.day, tile.bands) == ("MCD43A4", np.datetime64("2019-07-04"), (1, 2, 3, 4, 5, 6, 7))
    np.testing.assert_allclose(read_tile(tile), raw * 1e-4, rtol=1e-6)


def test_a_stack_of_days_and_both_products(tmp_path):
    days = {"2019_07_04": 1, "2019_07_05": 2, "2019_12_31": 3}
    stack, names = [], []
    for day, seed in days.items():
        flags = np.array([np.full((4, 5), seed % 2), np.full((4, 5), 1)])
        stack += [bands(seed=seed).astype("float64"), flags.astype("float64")]
        names += [f"{day}_{layer}" for layer in (*A4, *A2)]
    # Order in the file is not the product's: bands follow their names.
    order = np.random.default_rng(0).permutation(len(names))
    stack = np.concatenate(stack)[order]
    write_tiff(tmp_path / "export.tif", stack, CORNER, names=[names[i] for i in order])
    tiles = find_tiles(tmp_path)
    assert [(t.product, str(t.day).replace("-", "_")) for t in tiles] == [
        (product, day) for day in days for product in ("MCD43A2", "MCD43A4")
    ]
    for tile in tiles:
        seed = days[str(tile.day).replace("-", "_")]
        if tile.product == "MCD43A4":
            np.testing.assert_allclose(read_tile(tile), bands(seed=seed) * 1e-4, rtol=1e-6)
        else:
            assert (read_tile(tile) == np.array([seed % 2, 0])[:, None, None]).all()


def test_merged_collections_number_their_bands(tmp_path):
    found, _ = name_bands(Path("x.tif"), [f"1_2_2019_07_04_{layer}" for layer in A4])
    assert [(r.product, str(r.day), r.bands) for r in found] == [("MCD43A4", "2019-07-04", (1, 2, 3, 4, 5, 6, 7))]
    found, _ = name_bands(Path("2019_07_04.tif"), [f"0_{layer}" for layer in A4])
    assert str(found[0].day) == "2019-07-04"


def test_unnamed_bands_take_the_products_order_if_their_number_fits(tmp_path):
    write_tiff(tmp_path / "MCD43A4_2019_07_04.tif", bands(), CORNER)
    write_tiff(tmp_path / "MCD12Q1_2019_01_01.tif", np.full((1, 4, 5), 10, "uint8"), CORNER)
    cover, tile = find_tiles(tmp_path)
    assert cover.product == "MCD12Q1" and (read_tile(cover) == 10).all()
    np.testing.assert_allclose(read_tile(tile), bands() * 1e-4, rtol=1e-6)


def test_masked_pixels_of_integer_exports_are_missing_in_all_products(tmp_path):
    raw = bands()
    raw[:, 1, 2] = 0  # masked: Earth Engine writes 0
    raw[3, 0, 0] = 0  # a zero in one band is a value
    flags = np.array([np.zeros((4, 5)), np.ones((4, 5))]).astype("int16")
    flags[:, 1, 2] = 0
    write_tiff(tmp_path / "2019_07_04.tif", np.concatenate([raw, flags]), CORNER, names=[*A4, *A2])
    snow_water, reflectance = (read_tile(tile) for tile in find_tiles(tmp_path))
    hole = np.zeros((4, 5), bool)
    hole[1, 2] = True
    assert (np.isnan(reflectance) == hole).all() and (np.isnan(snow_water) == hole).all()
    assert reflectance[3, 0, 0] == 0
    # Without the mask the missing pixels would be water: land-water type 0 is the shallow ocean.
    assert (snow_water[1][~hole] == 0).all()
    state = np.zeros((1, 4, 5), "int16")
    write_tiff(tmp_path / "MOD09GA_2019_07_04.tif", np.concatenate([raw, state]), CORNER, names=[*GA, "state_1km"])
    daily, flag = (read_tile(t) for t in find_tiles(tmp_path, products=["MOD09GA", "MOD09GA_STATE"]))
    assert (np.isnan(daily) == hole).all() and (np.isnan(flag[0]) == hole).all()


def test_bit_flags_survive_a_sign(tmp_path):
    state = np.array([[[0, 1, 2**15 - 1, -(2**15), -2]]], "int16")
    write_tiff(
        tmp_path / "MOD09GA_2019_07_04.tif",
        np.concatenate([np.ones((7, 1, 5), "int16"), state]),
        CORNER,
        names=[*GA, "state_1km"],
    )
    flag = find_tiles(tmp_path, products=["MOD09GA_STATE"])[0]
    np.testing.assert_array_equal(read_tile(flag)[0, 0], [0, 1, 32767, 32768, 65534])


def test_fill_values_that_are_declared_count_and_must_not_be_data(tmp_path):
    raw = bands()
    raw[2, 1, 1] = -9999
    raw[5, 0, 0] = 0
    write_tiff(tmp_path / "2019_07_04.tif", raw, CORNER, names=A4, nodata=0)
    found = read_tile(find_tiles(tmp_path)[0])
    assert np.isnan(found).sum() == 2 and np.isnan(found[2, 1, 1]) and np.isnan(found[5, 0, 0])
    write_tiff(tmp_path / "2019_07_05.tif", raw[:2], CORNER, names=A2, nodata=0)
    with pytest.raises(SourceError, match="fill value 0 is also a value of MCD43A2"):
        find_tiles(tmp_path)


def test_other_files_are_ignored_with_a_reason(tmp_path, caplog):
    raw = bands()
    write_tiff(tmp_path / "good_2019_07_04.tif", raw, CORNER, names=A4)
    write_tiff(tmp_path / "undated.tif", raw, CORNER, names=A4)
    write_tiff(tmp_path / "2019_07_05.tif", raw[:6], CORNER, names=A4[:6])
    write_tiff(tmp_path / "2019_07_06.tif", raw, CORNER, names=[f"B{i}" for i in range(7)])
    write_tiff(tmp_path / "2019_07_07.tif", raw[[0, 0]], CORNER, names=[A4[0], f"1_{A4[0]}"])
    write_tiff(tmp_path / "2019_13_07.tif", raw, CORNER, names=A4)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "broken.tif").write_bytes(b"II*\0 nothing")
    reasons = {path.name: reason for path, reason in survey_rasters(tmp_path).ignored}
    assert [r.path.name for r in list_rasters(tmp_path)] == ["good_2019_07_04.tif"]
    assert "7 files" in caplog.text
    for name, words in {
        "undated.tif": "contain a date",
        "2019_07_05.tif": "lacks the bands Nadir_Reflectance_Band7",
        "2019_07_06.tif": "MODIS product",
        "2019_07_07.tif": "two of its bands",
        "2019_13_07.tif": "contain a date",
        "notes.csv": "no table of getRegion",
        "broken.tif": "cannot be read",
    }.items():
        assert words in reasons[name], name
    (tmp_path / "MCD43A4_2019_07_08.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(SourceError, match=r"MCD43A4_2019_07_08\.tif: cannot be read"):
        list_rasters(tmp_path)  # by its name it should be readable


def test_an_export_on_the_ellipsoid_is_refused_with_a_remedy(tmp_path):
    path = write_tiff(tmp_path / "2019_07_04.tif", bands(), CORNER, names=A4, crs="+proj=sinu +datum=WGS84 +units=m")
    with pytest.raises(SourceError, match=r"are on the MODIS grid.*gdal_edit\.py -a_srs"):
        find_tiles(path)


# --- tables -----------------------------------------------------------------------------------------------------


def region(days=("2019-07-04", "2019-07-05"), size=3, seed=0):
    """What getRegion returns for the pixels of a block, as a data frame; coordinates of the pixels' centres."""
    rng = np.random.default_rng(seed)
    r, c = (index.ravel() for index in np.mgrid[CORNER[0] : CORNER[0] + size, CORNER[1] : CORNER[1] + size])
    latitude = 90 - (r + 0.5) / 240
    x = (c + 0.5 - COLS / 2) * PIXEL
    longitude = np.degrees(x / (SPHERE * np.cos(np.radians(latitude))))
    parts = []
    for day in days:
        part = pd.DataFrame(
            {
                "id": day.replace("-", "_"),
                "longitude": longitude,
                "latitude": latitude,
                "time": np.datetime64(day, "ms").astype("int64"),
            }
        )
        for layer in A4:
            part[layer] = rng.integers(1, 10000, r.size)
        parts.append(part)
    return pd.concat(parts, ignore_index=True), r, c


def test_a_table_of_get_region_is_its_pixels(tmp_path):
    table, r, c = region()
    shuffled = table.sample(frac=1, random_state=1).astype({A4[1]: object})
    hole = shuffled.index[5]
    shuffled.loc[hole, A4[1]] = "None"
    shuffled.to_csv(tmp_path / "region.csv")
    tiles = find_tiles(tmp_path)
    assert [str(t.day) for t in tiles] == ["2019-07-04", "2019-07-05"]
    assert (tiles[0].row, tiles[0].col, tiles[0].height, tiles[0].width) == (*CORNER, 3, 3)
    for i, tile in enumerate(tiles):
        expected = table[list(A4)].to_numpy("float64")[9 * i : 9 * i + 9].T * 1e-4
        if 9 * i <= hole < 9 * i + 9:
            expected[1, hole - 9 * i] = np.nan
        np.testing.assert_allclose(read_pixels(tile, r, c), expected, rtol=1e-6)
        np.testing.assert_allclose(read_tile(tile).reshape(7, 9), expected, rtol=1e-6)


def test_pixels_that_a_table_lacks_are_missing(tmp_path):
    table, r, c = region(size=4)
    table.drop(index=[3, 7, 20]).to_csv(tmp_path / "region.csv", index=False)
    one, two = (read_pixels(tile, r, c) for tile in find_tiles(tmp_path))
    assert np.flatnonzero(np.isnan(one).all(0)).tolist() == [3, 7]
    assert np.flatnonzero(np.isnan(two).all(0)).tolist() == [4]


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda t: t.assign(latitude=t.latitude + 0.001), r"line 2: .*0\.24 pixels from the centre.*SR-ORG:6974"),
        (lambda t: t.assign(longitude=t.longitude.where(t.index != 7, 10.0)), r"line 9: .*\(1 of 18 rows"),
        (lambda t: t.assign(time=t.time + 86400000), "image 2019_07_04 has the time stamp of 2019-07-05"),
        (lambda t: pd.concat([t, t.tail(1)]), "line 19: this pixel and day appear again"),
        (lambda t: t.assign(**{A4[2]: "many"}), "line 2: Nadir_Reflectance_Band3 must be a number, found 'many'"),
        (lambda t: t.assign(latitude=t.latitude.where(t.index != 3)), "line 5: no latitude"),
        (lambda t: t.assign(**{A4[2]: 0.1234}), None),
        (lambda t: t.head(0), "no rows"),
    ],
)
def test_tables_that_cannot_be_mapped_are_refused(tmp_path, change, match):
    path = tmp_path / "region.csv"
    change(region()[0]).to_csv(path, index=False)
    with pytest.raises(SourceError, match=match or "has integers, found 0.1234") as caught:
        for tile in find_tiles(path):
            read_tile(tile)
    assert str(path) in str(caught.value)


def test_coordinates_of_the_ellipsoid_are_refused(tmp_path):
    """Coordinates sampled on the sinusoidal grid of an ellipsoid are not the centres of MODIS pixels."""
    import pyproj

    table, r, c = region(size=4)
    wrong = pyproj.Proj("+proj=sinu +datum=WGS84 +units=m")
    x, y = (c + 0.5 - COLS / 2) * PIXEL, (ROWS / 2 - r - 0.5) * PIXEL
    lon, lat = (np.tile(a, 2) for a in wrong(x, y, inverse=True))
    table.assign(longitude=lon, latitude=lat).to_csv(tmp_path / "region.csv", index=False)
    with pytest.raises(SourceError, match="another grid"):
        find_tiles(tmp_path)


def test_tables_of_other_bands_are_ignored(tmp_path):
    region()[0].rename(columns={A4[0]: "B1"}).to_csv(tmp_path / "region.csv", index=False)
    listing = survey_rasters(tmp_path)
    assert not listing.rasters and "form no MODIS product" in listing.ignored[0][1]

"""Layers of MODIS by name: bands in any order, other legends, one layer a file, several editions, other formats."""

from __future__ import annotations

import numpy as np
import pytest
from packages import optional

from fluxcube.cubes.chips import build_chips
from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS, sinusoidal_pixel
from fluxcube.sources.modis.layers import find_bands
from fluxcube.sources.modis.rasters import find_tiles, list_rasters, read_tile, survey_rasters

rasterio = optional("rasterio")

SPHERE = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
A4 = [f"Nadir_Reflectance_Band{i}" for i in range(1, 8)]
GA = [f"sur_refl_b{i:02d}_1" for i in range(1, 8)]
PLACE = np.array([47.25]), np.array([7.4])
ROW, COL = (int(v[0]) - 8 for v in sinusoidal_pixel(*PLACE))
STACK = (np.arange(1000, 8000, 1000)[:, None, None] * np.ones((7, 16, 16))).astype("int16")  # band n is n x 0.1


def tif(path, values, names=None, nodata=None, row=ROW, col=COL):
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.transform.from_origin((col - COLS / 2) * PIXEL, (ROWS / 2 - row) * PIXEL, PIXEL, PIXEL)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=SPHERE, transform=transform, nodata=nodata, **shape) as file:
        file.write(values)
        if names:
            file.descriptions = names
    return path


def bands_of(folder):
    return build_chips(folder, *PLACE).isel(place=0, day=0).mean(("y", "x")).values[:7].round(4).tolist()


EXPECTED = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
WAVE = [2, 3, 0, 1, 4, 5, 6]
ORDERS = {
    "colours": (WAVE, ["blue", "green", "red", "nir", "swir1", "swir2", "swir3"]),
    "colours with nir2": ([2, 3, 0, 1, 4, 5, 6], ["Blue", "Green", "Red", "NIR", "NIR2", "SWIR1", "SWIR2"]),
    "colours with numbers": (WAVE, ["blue_3", "green_4", "red_1", "nir_2", "swir_5", "swir_6", "swir_7"]),
    "falling numbers": (range(6, -1, -1), [f"Nadir_Reflectance_Band_{i}" for i in range(7, 0, -1)]),
    "short numbers": (range(6, -1, -1), [f"B{i:02d}" for i in range(7, 0, -1)]),
    "Band n": ([6, 0, 1, 2, 3, 4, 5], [f"Band {i}" for i in (7, 1, 2, 3, 4, 5, 6)]),
    "wavelengths": (WAVE, ["469 nm", "555 nm", "645 nm", "858 nm", "1240 nm", "1640 nm", "2130 nm"]),
    "ranges": (
        [1, 0, *range(2, 7)],
        ["Band 2 (841-876 nm)", "Band 1 (620-670 nm)", *(f"Band {i}" for i in range(3, 8))],
    ),
    "GDAL's subdatasets": (
        range(6, -1, -1),
        [f'HDF4_EOS:EOS_GRID:"x.hdf":MOD_Grid_BRDF:Nadir_Reflectance_Band{i}' for i in range(7, 0, -1)],
    ),
    "unnamed": (range(7), None),
    "from zero": (range(7), [f"band_{i}" for i in range(7)]),
    "one name for all": (range(7), ["reflectance"] * 7),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("file", ["MCD43A4.A2019185.h18v04.061.2019194040325.tif", "MCD43A4_2019_07_04.tif"])
def test_bands_count_by_what_they_are_called(tmp_path, name, file):
    order, names = ORDERS[name]
    tif(tmp_path / file, STACK[list(order)], names, 32767)
    assert bands_of(tmp_path) == pytest.approx(EXPECTED)


REFUSED = {
    "half of them": ["blue", "green", "red", "nir", "", "", ""],
    "twice": ["red", "red", "blue", "green", "swir1", "swir2", "swir3"],
    "another sensor's numbers": ["B2 blue", "B3 green", "B4 red", "B5 nir", "B6 swir1", "B7 swir2", "B8"],
    "falling from zero": [f"band_{i}" for i in range(6, -1, -1)],
    "unknown words": ["a", "b", "c", "d", "e", "f", "g"],
    "quality": [f"BRDF_Albedo_Band_Mandatory_Quality_Band{i}" for i in range(1, 8)],
    "another product": GA,
    "albedo": [f"Albedo_WSA_Band{i}" for i in range(1, 8)],
}


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_contradict_the_order_are_refused(tmp_path, name):
    tif(tmp_path / "MCD43A4.A2019185.h18v04.061.2019194040325.tif", STACK, REFUSED[name], 32767)
    with pytest.raises(SourceError, match=r"must contain Nadir_Reflectance_Band1.*found 7 bands \['"):
        bands_of(tmp_path)


def cover(value):
    return np.full((1, 16, 16), value, "uint8")


ACCEPTED = ["LC_Type1", None, "MCD12Q1:LC_Type1", "Land_Cover_Type_1", "IGBP", "Band 1", "land cover 2019", "lc_type1"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_land_cover_of_igbp_is_read(tmp_path, name):
    tif(tmp_path / "MCD12Q1.A2019001.h18v04.061.2022169160720.tif", cover(10), [name] if name else None, 255)
    (tile,) = find_tiles(tmp_path)
    assert np.unique(read_tile(tile)).tolist() == [10]


OTHER = ["LC_Prop1", "LC_Prop3", "LC_Type5", "LC_Type2", "Land_Cover_Type_3", "LC_Prop1_Assessment", "QC", "LW"]
OTHER += ["PFT", "UMD land cover", "MCD12Q1:MCD12Q1:LC_Prop2", "Band 2", "fractional vegetation"]


@pytest.mark.parametrize("name", OTHER)
def test_other_legends_of_land_cover_are_refused_by_name(tmp_path, name):
    tif(tmp_path / "MCD12Q1.A2019001.h18v04.061.2022169160720.tif", cover(6), [name], 255)
    with pytest.raises(SourceError, match=rf"must contain LC_Type1.*\['{name}'\]"):
        find_tiles(tmp_path)


@pytest.mark.parametrize(("name", "known"), [("LC_Type1", True), ("LC_Prop2", False), ("something", True)])
def test_the_long_name_counts_where_a_band_has_no_description(tmp_path, name, known):
    path = tif(tmp_path / "MCD12Q1.A2019001.h18v04.061.2022169160720.tif", cover(6), None, 255)
    with rasterio.open(path, "r+") as file:
        file.update_tags(long_name=name)
    if known:
        assert np.unique(read_tile(find_tiles(tmp_path)[0])).tolist() == [6]
        return
    with pytest.raises(SourceError, match=rf"must contain LC_Type1.*\['{name}'\]"):
        find_tiles(tmp_path)


def test_other_legends_in_the_file_s_name_or_values_are_refused(tmp_path):
    tif(tmp_path / "a" / "MCD12Q1.A2019001.h18v04.061.2022169160720_LC_Type5.tif", cover(6), None, 255)
    with pytest.raises(SourceError, match=r"no MODIS raster.*its layer LC_Type5 is not used"):
        list_rasters(tmp_path / "a")
    tif(tmp_path / "b" / "MCD12Q1.A2019001.h18v04.061.2022169160720_LC_Type1.tif", cover(6), ["LC_Type5"], 255)
    with pytest.raises(SourceError, match=r"must contain LC_Type1.*LC_Type5"):
        find_tiles(tmp_path / "b")
    tif(tmp_path / "c" / "MCD12Q1.A2019001.h18v04.061.2022169160720.tif", cover(21), None, 255)
    (tile,) = find_tiles(tmp_path / "c")
    with pytest.raises(SourceError, match="IGBP classes 1 to 17, found 21"):
        read_tile(tile)


@pytest.mark.parametrize("end", ["_PFT", "_LAI_alps", "_UMD", "_Type5", "_LC_Type2_mosaic", "_quality"])
@pytest.mark.parametrize("start", ["MCD12Q1_2019_01_01", "MCD12Q1.A2019001.h18v04.061.2022169160720"])
def test_the_legend_in_the_name_of_a_file_counts_where_its_band_has_none(tmp_path, start, end):
    tif(tmp_path / "other" / f"{start}{end}.tif", cover(6), None, 255)
    with pytest.raises(SourceError, match=r"expected LC_Type1 \(IGBP\), found|no MODIS raster.*not used"):
        find_tiles(tmp_path / "other")
    tif(tmp_path / "named" / f"{start}_mosaic.tif", cover(6), None, 255)
    assert len(find_tiles(tmp_path / "named")) == 1


NAMES = {
    "AppEEARS": "MCD43A4.061_{layer}_doy2019185000000_aid0001.tif",
    "AppEEARS without hours": "MCD43A4.061_{layer}_doy2019185_aid0001.tif",
    "a COG of an archive": "MCD43A4.A2019185.h18v04.061.2019194040325_{layer}.tif",
    "short": "MCD43A4.A2019185.h18v04.061.2019194040325_B{n:02d}.TIF",
    "with a point": "MCD43A4.A2019185.h18v04.061.2019194040325.{layer}.tif",
    "with a region": "MCD43A4.A2019185.h18v04.061.2019194040325_{layer}_alps.tif",
    "HEG": "MCD43A4.A2019185.h18v04.061.2019194040325_MOD_Grid_BRDF_{layer}.tif",
    "numbers and dates": "MCD43A4_{layer}_2019_185.tif",
    "of one day": "MCD43A4_2019_07_04_B{n}.tif",
    "underscores": "MCD43A4_A2019185_h18v04_061_{layer}.tif",
    "a mosaic without its product": "A2019185_mosaic_{layer}.tif",
    "a date of eight digits": "alps_MCD43A4_20190704_{layer}.tif",
    "folders": "{layer}/MCD43A4.A2019185.h18v04.061.2019194040325_{layer}.tif",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("described", [False, True])
def test_one_layer_a_file_is_one_raster(tmp_path, name, described):
    for n in (4, 1, 7, 2, 3, 6, 5):
        path = tmp_path / NAMES[name].format(layer=A4[n - 1], n=n)
        tif(path, STACK[n - 1 : n], [A4[n - 1]] if described else None, 32767)
    (raster,) = list_rasters(tmp_path)
    assert (raster.product, str(raster.day), len(raster.files)) == ("MCD43A4", "2019-07-04", 7)
    assert bands_of(tmp_path) == pytest.approx(EXPECTED)


def test_layers_that_only_their_bands_name(tmp_path):
    for n, at in enumerate((3, 0, 6, 1, 2, 5, 4), 8):
        path = tmp_path / f"MCD43A4.A2019185.h18v04.061.2019194040325_{n:02d}.tif"
        tif(path, STACK[at : at + 1], [A4[at]], 32767)
    assert bands_of(tmp_path) == pytest.approx(EXPECTED)


def test_layers_of_the_other_products(tmp_path):
    for n, layer in enumerate((*GA, "state_1km_1")):
        values = STACK[n : n + 1] if n < 7 else np.full((1, 16, 16), 8, "uint16")
        tif(tmp_path / f"MOD09GA.061_{layer}_doy2019185000000_aid0001.tif", values)
        tif(tmp_path / f"MOD09GA.A2019186.h18v04.061.2019194040325_{layer}.tif", values)
    for layer in ("Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType", "BRDF_Albedo_Platform"):
        tif(tmp_path / f"MCD43A2.A2019185.h18v04.061.2019194040325_{layer}.tif", cover(1), None, 255)
    tif(tmp_path / "MCD12Q1.061_LC_Type1_doy2019001000000_aid0001.tif", cover(10), None, 255)
    listing = survey_rasters(tmp_path)
    assert [(r.product, str(r.day), len(r.files)) for r in listing.rasters] == [
        ("MCD12Q1", "2019-01-01", 1),
        ("MCD43A2", "2019-07-04", 2),
        ("MOD09GA", "2019-07-04", 7),
        ("MOD09GA_STATE", "2019-07-04", 1),
        ("MOD09GA", "2019-07-05", 7),
        ("MOD09GA_STATE", "2019-07-05", 1),
    ]
    assert [reason for _, reason in listing.ignored] == ["its layer BRDF_Albedo_Platform is not used"]
    values = {(r.product, str(r.day)): read_tile(r).mean((1, 2)) for r in find_tiles(tmp_path)}
    np.testing.assert_allclose(values["MOD09GA", "2019-07-05"], EXPECTED, rtol=1e-5)
    assert values["MCD43A2", "2019-07-04"].tolist() == [1, 0] and values["MOD09GA_STATE", "2019-07-04"].tolist() == [8]


def test_layers_that_do_not_fit_together_are_named(tmp_path):
    name = "MCD43A4.A2019185.h18v04.061.2019194040325_{}.tif"
    for n in range(1, 7):
        tif(tmp_path / name.format(A4[n - 1]), STACK[n - 1 : n], None, 32767)
    with pytest.raises(SourceError, match="lacks the layers Nadir_Reflectance_Band7"):
        list_rasters(tmp_path)
    tif(tmp_path / name.format(A4[6]), STACK[6:7], None, 32767, row=ROW + 1)
    with pytest.raises(SourceError, match="its row differ from those of"):
        find_tiles(tmp_path)
    tif(tmp_path / name.format(A4[6]), STACK[6:7], [A4[0]], 32767)
    with pytest.raises(SourceError, match=r"by its name it contains Nadir_Reflectance_Band7.*described as.*Band1"):
        find_tiles(tmp_path)
    tif(tmp_path / name.format(A4[6]), STACK, None, 32767)
    with pytest.raises(SourceError, match="alone, found 7 bands"):
        find_tiles(tmp_path)


def test_two_regions_and_two_days_stay_apart(tmp_path):
    for n, layer in enumerate(A4):
        for day in (185, 186):
            for aid, row in (("aid0001", ROW), ("aid0002", ROW + 500)):
                tif(tmp_path / f"MCD43A4.061_{layer}_doy2019{day}000000_{aid}.tif", STACK[n : n + 1], None, 32767, row)
    tiles = find_tiles(tmp_path)
    assert [(str(t.day), t.row) for t in tiles] == [
        ("2019-07-04", ROW),
        ("2019-07-04", ROW + 500),
        ("2019-07-05", ROW),
        ("2019-07-05", ROW + 500),
    ]


def test_an_export_without_a_fill_value_is_missing_where_all_layers_are_zero(tmp_path):
    values = STACK.copy()
    values[:, 0, 0] = 0
    for n, layer in enumerate(A4):
        tif(tmp_path / f"MCD43A4_2019_07_04_{layer}.tif", values[n : n + 1])
    (tile,) = find_tiles(tmp_path)
    assert np.isnan(read_tile(tile)).sum() == 7


EDITIONS = {
    "collections": ("h18v04.006.2021194040325.tif", "h18v04.061.2019194040325.tif"),
    "productions": ("h18v04.061.2019194040325.tif", "h18v04.061.2021194040325.tif"),
    "of a region": ("h18v04.006.alps.tif", "h18v04.061.alps.tif"),
    "without a tile": ("006.2021194040325.tif", "061.2019194040325.tif"),
    "in folders": ("a/h18v04.006.2021194040325.tif", "b/h18v04.061.2019194040325.tif"),
    "other cuts": ("h18v04.006.alps.tif", "h18v04.061.west.tif"),
}


@pytest.mark.parametrize("name", EDITIONS)
@pytest.mark.parametrize("layers", [False, True], ids=["stack", "one layer a file"])
def test_the_later_edition_counts(tmp_path, name, layers):
    for edition, values in zip(EDITIONS[name], (STACK // 2, STACK), strict=True):
        folder, _, end = edition.rpartition("/")
        path = tmp_path / folder / f"MCD43A4.A2019185.{end}"
        if not layers:
            tif(path, values, A4, 32767)
            continue
        for n, layer in enumerate(A4):
            tif(path.with_name(f"{path.stem}_{layer}.tif"), values[n : n + 1], None, 32767)
    assert bands_of(tmp_path) == pytest.approx(EXPECTED)
    ignored = survey_rasters(tmp_path).ignored
    if name not in ("in folders", "other cuts"):
        assert len(ignored) == (7 if layers else 1) and "later edition" in ignored[0][1]


def test_an_earlier_collection_fills_no_gap_of_a_later_one(tmp_path):
    gap = STACK.copy()
    gap[:, 8] = 32767
    tif(tmp_path / "006" / "MCD43A4.A2019185.h18v04.006.2021194040325.tif", STACK // 2, A4, 32767)
    tif(tmp_path / "061" / "MCD43A4.A2019185.h18v04.061.2019194040325.tif", gap, A4, 32767)
    assert bands_of(tmp_path) == pytest.approx(EXPECTED)
    # Where the later one does not reach, the earlier one counts.
    tif(tmp_path / "061" / "MCD43A4.A2019185.h18v04.061.2019194040325.tif", gap[:, :8], A4, 32767)
    chips = build_chips(tmp_path, *PLACE).isel(place=0, day=0, band=0).values
    assert np.unique(chips).tolist() == pytest.approx([0.05, 0.1])
    # Cuts of one collection fill each other's gaps.
    tif(tmp_path / "x" / "MCD43A4.A2019185.h18v04.061.2019194040325.tif", STACK, A4, 32767)
    chips = build_chips(tmp_path, *PLACE).isel(place=0, day=0, band=0).values
    assert np.unique(chips).tolist() == pytest.approx([0.1])


def test_the_later_collection_of_appeears_counts(tmp_path):
    for n, layer in enumerate(A4):
        for collection, values in (("006", STACK // 2), ("061", STACK)):
            name = f"MCD43A4.{collection}_{layer}_doy2019185000000_aid0001.tif"
            tif(tmp_path / name, values[n : n + 1], None, 32767)
    assert bands_of(tmp_path) == pytest.approx(EXPECTED)


@pytest.mark.parametrize("name", ["MCD43A4_{}_2019_07_04", "MCD43A4_2019_07_04_{}", "MODIS_{}_MCD43A4_2019_07_04"])
def test_the_later_collection_of_an_export_counts(tmp_path, name):
    tif(tmp_path / f"{name.format('006')}.tif", STACK // 2, A4, 32767)
    tif(tmp_path / f"{name.format('061')}.tif", STACK, A4, 32767)
    assert bands_of(tmp_path) == pytest.approx(EXPECTED)


def test_cuts_of_one_edition_are_all_used(tmp_path):
    tif(tmp_path / "one" / "MCD43A4.A2019185.h18v04.061.2019194040325.tif", STACK, A4, 32767)
    tif(tmp_path / "two" / "MCD43A4.A2019185.h18v04.061.2019194040325.tif", STACK, A4, 32767, row=ROW + 500)
    assert len(list_rasters(tmp_path)) == 2


def test_the_last_day_of_a_common_year_is_365(tmp_path):
    for name in ("MCD43A4.A2019366.h18v04.061.a.tif", "MCD43A4.061_Nadir_Reflectance_Band1_doy2019366_aid0001.tif"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(SourceError, match="001 to 365, found day 366"):
            list_rasters(tmp_path / name)


@pytest.mark.parametrize("source", ["other.tif", "/vsicurl/http://127.0.0.1:9/x.tif"])
def test_a_file_that_refers_to_others_is_not_followed(tmp_path, source):
    band = "<SimpleSource><SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>".format(
        tmp_path / source if source.startswith("other") else source
    )
    tif(tmp_path / "other.tif", STACK, A4, 32767)
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{n}"><Description>{name}</Description>{band}</VRTRasterBand>'
        for n, name in enumerate(A4, 1)
    )
    path = tmp_path / "tiles" / "MCD43A4.A2019185.h18v04.061.2019194040325.tif"
    path.parent.mkdir()
    path.write_text(f'<VRTDataset rasterXSize="16" rasterYSize="16">{bands}</VRTDataset>')
    with pytest.raises(SourceError, match="cannot be read as a GeoTIFF"):
        find_tiles(path)
    cover_path = path.with_name("MCD12Q1.A2019001.h18v04.061.2022169160720.tif")
    cover_path.write_text(path.read_text())
    with pytest.raises(SourceError, match="cannot be read as a GeoTIFF"):
        find_tiles(cover_path)


def test_a_raster_of_another_format_under_the_ending_tif_is_refused(tmp_path):
    path = tmp_path / "MCD43A4.A2019185.h18v04.061.2019194040325.tif"
    with rasterio.open(path, "w", driver="PNG", height=8, width=8, count=1, dtype="uint8") as file:
        file.write(cover(1)[:, :8, :8])
    with pytest.raises(SourceError, match="cannot be read as a GeoTIFF"):
        find_tiles(tmp_path)


def test_real_tiles_of_one_band_a_file(shared_data):
    (tile,) = find_tiles(shared_data / "formats" / "mcd43a4_geotiff_h10v07")
    assert (str(tile.day), tile.row, tile.col, tile.height) == ("2018-07-04", 7 * 2400, 10 * 2400, 2400)
    window = (tile.row + 1000, tile.row + 1100), (tile.col + 1000, tile.col + 1100)
    values = read_tile(tile, *window)
    for band, path in zip(values, tile.files, strict=True):
        with rasterio.open(path) as file:
            raw = file.read(1, window=((1000, 1100), (1000, 1100)))
        np.testing.assert_allclose(band, np.where(raw == 32767, np.nan, raw * 1e-4), rtol=1e-6)


@pytest.mark.parametrize("names", [None, [f"Band {i}" for i in range(1, 9)], [*GA, "state_1km_1"]])
def test_reflectance_and_flags_in_one_file(tmp_path, names):
    values = np.concatenate([STACK, np.full((1, 16, 16), 8, "int16")])
    tif(tmp_path / "MOD09GA.A2019185.h18v04.061.2019194040325.tif", values, names)
    reflectance, state = find_tiles(tmp_path)
    np.testing.assert_allclose(read_tile(reflectance).mean((1, 2)), EXPECTED, rtol=1e-5)
    assert np.unique(read_tile(state)).tolist() == [8]


def test_the_real_overview_is_one_raster_whose_grid_is_refused(shared_data):
    folder = shared_data / "formats" / "mcd43a4_geotiff_h21v11_overview"
    listing = survey_rasters(folder)
    assert len(listing.rasters) == 1 and len(listing.ignored) == 7
    assert {reason for _, reason in listing.ignored} == {f"its layer B0{n}qa is not used" for n in range(1, 8)}
    with pytest.raises(SourceError, match="not on the 500 m sinusoidal grid"):
        find_tiles(folder)


def test_names_alone():
    assert find_bands("MCD43A2", ["Band 1", "Band 2"]) == (1, 2)
    assert find_bands("MCD43A2", ["BRDF_Albedo_LandWaterType", "Snow_BRDF_Albedo"]) == (2, 1)
    assert find_bands("MOD09GA", [*GA[::-1], "state_1km_1"]) == (7, 6, 5, 4, 3, 2, 1)
    assert find_bands("MOD09GA_STATE", [*GA, "state_1km_1"]) == (8,)
    assert find_bands("MCD12Q1", [f"LC_Type{i}" for i in (5, 4, 3, 2, 1)]) == (5,)
    assert find_bands("MCD12Q1", [""] * 13) is None

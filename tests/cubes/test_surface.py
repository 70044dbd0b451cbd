"""Daily surface reflectance of clear pixels, for each state flag, and land cover at sites."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modis_files import GA, daily, grid, name_of, ocean, tile_of, write_hdf, write_tiff
from packages import optional

from fluxcube.cubes.chips import block_index, chip_index
from fluxcube.cubes.surface import add_land_cover, build_surface, site_land_cover
from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis.quality import clear_sky
from fluxcube.sources.towers.badm import SiteInfo

optional("pyhdf.SD")
optional("rasterio")

PLACE = (46.8153, 9.8559)
Y = [750, 250, -250, -750]


@pytest.mark.parametrize(
    "bits, clear",
    [
        ("0000000000000000", True),
        ("0000000000000001", False),  # cloudy
        ("0000000000000010", False),  # mixed
        ("0000000000000011", False),  # not set, assumed clear
        ("0000000000000100", False),  # cloud shadow
        ("0000000000001000", True),  # land
        ("0000000000111000", True),  # deep ocean
        ("0000000011000000", True),  # high aerosol
        ("0000000100000000", False),  # small cirrus
        ("0000001000000000", False),  # average cirrus
        ("0000001100000000", False),  # high cirrus
        ("0000010000000000", False),  # internal cloud algorithm
        ("0000100000000000", True),  # fire
        ("0001000000000000", True),  # MOD35 snow
        ("0010000000000000", False),  # adjacent to cloud
        ("0100000000000000", True),  # salt pan
        ("1000000000000000", True),  # internal snow
        ("1111111111111111", False),  # fill
    ],
)
def test_each_bit_by_hand(bits, clear):
    """Bits from the 15th to the first, as the user's guide prints them."""
    assert clear_sky(np.array([int(bits, 2)]))[0] == clear


def test_options_widen_what_is_clear():
    every = np.arange(2**16)
    plain = clear_sky(every)
    assumed = clear_sky(every, assumed_clear=True)
    assert (assumed & ~plain).sum() == plain.sum()  # state 11 doubles what 00 alone lets through
    counts = [clear_sky(every, cirrus=n).sum() for n in range(4)]
    assert counts == [plain.sum() * n for n in (1, 2, 3, 4)]
    # Of 16 bits, 7 (two states, shadow, two of cirrus, internal cloud, adjacent) must be 0.
    assert plain.sum() == 2**9
    assert not clear_sky(np.array([np.nan, 65535.0]), assumed_clear=True, cirrus=3).any()
    with pytest.raises(ConfigError, match="cirrus"):
        clear_sky(every, cirrus=4)


@pytest.fixture
def scene():
    """Corner on the 1 km grid, reflectance (7, 24, 24) and state (12, 12) around the place."""
    rows, cols = block_index(*PLACE, Y, Y[::-1])
    corner = (int(rows.min()) - 8) // 2 * 2, (int(cols.min()) - 8) // 2 * 2
    raw = np.random.default_rng(0).integers(100, 6000, (7, 24, 24))
    return corner, raw, np.full((12, 12), 0b1000), rows[0] - corner[0], cols[0] - corner[1]


def write(folder, scene, day, raw=None, state=None):
    corner, plain_raw, plain_state = scene[:3]
    grids = daily(plain_raw if raw is None else raw, plain_state if state is None else state, corner)
    return write_hdf(folder / name_of("MOD09GA", day, tile_of(corner)), grids)


def test_the_block_is_the_middle_of_the_chip():
    rows, cols = block_index(*PLACE, Y, Y[::-1])
    chip = chip_index(*PLACE)
    np.testing.assert_array_equal(rows[0], chip[0][0, 2:6, 2:6])
    np.testing.assert_array_equal(cols[0], chip[1][0, 2:6, 2:6])


def test_mean_of_the_clear_pixels(tmp_path, scene):
    _, raw, state, r, c = scene
    write(tmp_path, scene, "2019-07-04")
    half = state.copy()
    # Clouds over the northern rows of 1 km pixels, as many as leave at least half of the block clear.
    half[: r.min() // 2 + 1] = 0b1001
    write(tmp_path, scene, "2019-07-05", state=half)
    write(tmp_path, scene, "2019-07-06", state=np.full_like(state, 0b1010))
    found = build_surface(tmp_path, [PLACE[0]], [PLACE[1]])
    assert found.dims == ("place", "day", "band") and found.dtype == np.float32
    assert found.band.values.tolist() == ["red", "nir", "blue", "green", "swir1", "swir2", "swir3", "snow"]
    assert found.day.dt.day.values.tolist() == [4, 5]  # the overcast day is dropped
    assert found.attrs["product"] == "MOD09GA" and (found.sel(band="snow") == 0).all()
    found = found.drop_sel(band="snow")
    np.testing.assert_allclose(found[0, 0], raw[:, r, c].mean((1, 2)) * 1e-4, rtol=1e-5)
    seen = half[r // 2, c // 2] == 0b1000
    assert 8 <= seen.sum() < 16
    np.testing.assert_allclose(found.quality[0], [1, seen.mean()])
    np.testing.assert_allclose(found[0, 1], raw[:, r[seen], c[seen]].mean(1) * 1e-4, rtol=1e-5)


def test_snow_is_its_share_of_the_clear_pixels(tmp_path, scene):
    """Of 16 pixels, those north are cloudy, whether with snow or not; of the others some are snow by either bit."""
    *_, state, r, c = scene
    flags = state.copy()
    flags[: r.min() // 2 + 1] |= 0b1 | 1 << 12
    flags[r.max() // 2, c.min() // 2] |= 1 << 15
    flags[r.max() // 2, c.max() // 2] |= 1 << 12
    write(tmp_path, scene, "2019-07-04", state=flags)
    found = build_surface(tmp_path, [PLACE[0]], [PLACE[1]])[0, 0]
    at = flags[r // 2, c // 2]
    clear = (at & 1) == 0
    assert 0 < (share := (clear & (at >> 12 & 0b1001 > 0)).sum() / clear.sum()) < 1
    assert float(found.sel(band="snow")) == pytest.approx(share)
    assert float(found.quality) == pytest.approx(clear.mean())


def test_ocean_bands_are_those_of_modocga(tmp_path, scene):
    """Bands 11 and 12 at 1 km, where the state flags of MOD09GA are clear; missing on a day without MODOCGA."""
    corner, _, state, r, c = scene
    half = state.copy()
    half[: r.min() // 2 + 1] = 0b1001
    values = np.random.default_rng(2).integers(100, 3000, (9, 12, 12))
    write(tmp_path, scene, "2019-07-04", state=half)
    write(tmp_path, scene, "2019-07-05")
    write_hdf(tmp_path / name_of("MODOCGA", "2019-07-04", tile_of(corner)), ocean(values, corner))
    write_hdf(tmp_path / name_of("MODOCGA", "2019-07-06", tile_of(corner)), ocean(values, corner))
    found = build_surface(tmp_path, [PLACE[0]], [PLACE[1]])
    assert found.band.values.tolist()[-3:] == ["snow", "green531", "green551"]
    assert found.day.dt.day.values.tolist() == [4, 5]
    clear = half[r // 2, c // 2] == 0b1000
    expected = values[3:5, r // 2, c // 2][:, clear].mean(1) * 1e-4
    np.testing.assert_allclose(found[0, 0, -2:], expected, rtol=1e-5)
    assert found[0, 1, -2:].isnull().all() and found[0, 1, :-2].notnull().all()
    # As two GeoTIFFs of AppEEARS, and as one.
    for folder in ("layers", "one"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, scene, "2019-07-04", state=half)
    for n, layer in enumerate(("sur_refl_b11_1", "sur_refl_b12_1")):
        path = tmp_path / "layers" / f"MODOCGA.061_{layer}_doy2019185_aid0001.tif"
        write_tiff(path, values[3 + n : 4 + n].astype("int16"), corner, factor=2, nodata=-28672)
    one = tmp_path / "one" / "MODOCGA.A2019185.h18v04.061.a.tif"
    names = [f"sur_refl_b{n:02d}_1" for n in range(8, 17)]
    write_tiff(one, values.astype("int16"), corner, factor=2, names=names, nodata=-28672)
    for folder in ("layers", "one"):
        again = build_surface(tmp_path / folder, [PLACE[0]], [PLACE[1]])
        np.testing.assert_array_equal(again[0, 0], found[0, 0])


def test_fewer_than_half_clear_is_missing_by_band(tmp_path, scene):
    _, raw, _, r, c = scene
    pixels = np.unique(np.stack([r.ravel(), c.ravel()]), axis=1)  # a block may take a pixel twice
    assert pixels.shape[1] > 8
    holes = raw.copy()
    lost = np.zeros((24, 24), bool)
    for row, col in pixels.T:  # take pixels away until 8 of the 16 places are left
        if (~lost[r, c]).sum() - ((r == row) & (c == col)).sum() >= 8:
            lost[row, col] = True
    assert (~lost[r, c]).sum() == 8
    holes[2][lost] = -28672
    write(tmp_path, scene, "2019-07-04", raw=holes)
    found = build_surface(tmp_path, [PLACE[0]], [PLACE[1]])[0, 0]
    np.testing.assert_allclose(found.sel(band="blue"), holes[2][r, c][~lost[r, c]].mean() * 1e-4, rtol=1e-5)
    row, col = next((row, col) for row, col in zip(r.ravel(), c.ravel(), strict=True) if not lost[row, col])
    holes[2][row, col] = -28672
    write(tmp_path, scene, "2019-07-04", raw=holes)
    found = build_surface(tmp_path, [PLACE[0]], [PLACE[1]])[0, 0]
    assert np.isnan(found.sel(band="blue")) and found.drop_sel(band="blue").notnull().all()
    assert float(found.quality) == 1  # clear and valid in the other bands


def test_options_reach_the_flags(tmp_path, scene, caplog):
    write(tmp_path, scene, "2019-07-04", state=np.full((12, 12), 0b11))
    write(tmp_path, scene, "2019-07-05", state=np.full((12, 12), 1 << 8))
    place = [PLACE[0], 10.0], [PLACE[1], 10.0]
    assert build_surface(tmp_path, *place).sizes["day"] == 0
    assert "1 of 2 places lie outside all MODIS rasters and have no surface" in caplog.text
    assert build_surface(tmp_path, *place, assumed_clear=True).day.dt.day.values.tolist() == [4]
    assert build_surface(tmp_path, *place, cirrus=1).day.dt.day.values.tolist() == [5]


def test_geotiffs_of_every_make_give_the_same(tmp_path, scene):
    corner, raw, state, *_ = scene
    state = np.random.default_rng(3).choice([0b1000, 0b1001], state.shape, p=[0.8, 0.2])
    fine = state.repeat(2, 0).repeat(2, 1)
    for folder in ("hdf", "one", "two", "ee"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "hdf", scene, "2019-07-04", state=state)
    raw16, fine16 = raw.astype("int16"), fine.astype("uint16")
    both = np.concatenate([raw, fine[None]]).astype("int32")
    write_tiff(tmp_path / "one/MOD09GA.A2019185.h18v04.061.a.tif", both, corner)
    write_tiff(tmp_path / "two/MOD09GA.A2019185.h18v04.061.500m.tif", raw16, corner, names=[f"{n}_1" for n in GA])
    write_tiff(
        tmp_path / "two/MOD09GA.A2019185.h18v04.061.1km.tif",
        state[None].astype("uint16"),
        corner,
        factor=2,
        names=["state_1km_1"],
    )
    names = [f"2019_07_04_{n}" for n in (*GA, "state_1km")]
    write_tiff(tmp_path / "ee/export.tif", np.concatenate([raw16, fine16[None].astype("int16")]), corner, names=names)
    expected = build_surface(tmp_path / "hdf", [PLACE[0]], [PLACE[1]])
    assert expected.sizes["day"] == 1
    for folder in ("one", "two", "ee"):
        np.testing.assert_allclose(build_surface(tmp_path / folder, [PLACE[0]], [PLACE[1]]), expected, rtol=1e-6)


def test_reflectance_without_flags_is_refused(tmp_path, scene):
    corner, raw = scene[:2]
    write_tiff(tmp_path / "MOD09GA.A2019185.h18v04.061.a.tif", raw.astype("int16"), corner)
    with pytest.raises(SourceError, match="no day has both"):
        build_surface(tmp_path, [PLACE[0]], [PLACE[1]])
    write_tiff(tmp_path / "MOD09GA.A2019186.h18v04.061.a.tif", raw[:3].astype("int16"), corner)
    with pytest.raises(SourceError, match="no day has both"):
        build_surface(tmp_path, [PLACE[0]], [PLACE[1]])


def test_land_cover_of_sites_is_the_mode_of_the_years(tmp_path):
    lat, lon = np.array([46.8153, 46.83, 46.85, 10.0]), np.array([9.8559, 9.90, 9.95, 20.0])
    rows, cols = (i[:, 0, 0] for i in block_index(lat, lon, np.zeros(1), np.zeros(1)))
    corner = int(rows[:3].min()) - 2, int(cols[:3].min()) - 2
    years = {2017: [1, 17, 255], 2018: [1, 17, 255], 2019: [4, 5, 0], 2020: [4, 17, 255], 2021: [2, 5, 255]}
    for year, classes in years.items():
        values = np.full((60, 80), 12, "uint8")
        values[rows[:3] - corner[0], cols[:3] - corner[1]] = classes
        layer = {"LC_Type1": (values, {"_FillValue": 255})}
        if year % 2:
            path = tmp_path / name_of("MCD12Q1", f"{year}-01-01", tile_of(corner))
            write_hdf(path, [grid("MCD12Q1", corner, layer)])
        else:
            write_tiff(tmp_path / f"MCD12Q1_{year}_01_01.tif", values[None], corner, names=["LC_Type1"])
    # 1 and 4 twice each: the lower; water thrice; never known; outside.
    assert site_land_cover(tmp_path, lat, lon).tolist() == [1, 17, 255, 255]
    places = [SiteInfo(site=f"XX-{i}", latitude=lat[i], longitude=lon[i], elevation=9.0) for i in range(4)]
    known = SiteInfo(site="XX-9", latitude=lat[1], longitude=lon[1], igbp="GRA")
    found = add_land_cover([*places, known, SiteInfo(site="XX-8")], tmp_path)
    assert [found[f"XX-{i}"][0] for i in range(4)] == [
        replace(place, igbp=igbp) for place, igbp in zip(places, ("ENF", "WAT", "", ""), strict=True)
    ]
    assert set(found) == {"XX-0", "XX-1", "XX-2", "XX-3"}
    assert "ENF is that of its pixel" in found["XX-0"][1] and "does not contain it either" in found["XX-3"][1]
    assert add_land_cover([known], "nowhere") == {}


def test_land_cover_of_a_real_tile(shared_data):
    from fluxcube.sources.modis.rasters import find_tiles, read_tile

    tile = find_tiles(shared_data / "modis", products=["MCD12Q1"])[1]
    classes = read_tile(tile)[0]
    lat, lon = np.array([9.0, 1.3]), np.array([-177.0, -179.0])
    row, col = ((90 - lat) * 240).astype(int), ((180 + lon * np.cos(np.radians(lat))) * 240).astype(int)
    found = site_land_cover(shared_data / "modis", lat, lon)
    np.testing.assert_array_equal(found, classes[row - tile.row, col - tile.col])

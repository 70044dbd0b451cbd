"""Red and near-infrared that are swapped: a warning names the sites; good data, water and snow cause none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import fluxcube as fc
from fluxcube.sources.modis.surface_checks import swapped_bands

BANDS = ("red", "nir", "snow")


def place(red, nir, snow=0.0, views=40, seed=0):
    """Views (day, band) of one place around some reflectance."""
    noise = 1 + 0.1 * np.random.default_rng(seed).standard_normal((views, 3))
    return np.array([red, nir, snow]) * np.where([True, True, False], noise, 1.0)


FOREST, WATER, SNOW = place(0.04, 0.3), place(0.05, 0.02), place(0.8, 0.6, snow=1.0)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([FOREST], [False]),
        ([WATER], [False]),
        ([SNOW], [False]),
        ([FOREST, FOREST, WATER, SNOW], [False] * 4),
        ([FOREST[:, [1, 0, 2]]], [True]),
        ([FOREST[:, [1, 0, 2]], FOREST, FOREST, WATER], [True, False, False, False]),
        ([place(0.07, 0.04)] * 4, [True] * 4),  # another dark band in place of nir, at every site
        ([FOREST[:5, [1, 0, 2]].repeat(2, 0)], [False]),  # too few views
    ],
)
def test_which_places_are_doubtful(places, expected):
    days = max(map(len, places))
    values = np.full((len(places), days, 3), np.nan)
    for i, one in enumerate(places):
        values[i, : len(one)] = one
    assert swapped_bands(values, BANDS).tolist() == expected
    assert not swapped_bands(values[..., :1], ["red"]).any()


def table(columns=("red", "nir")):
    days = pd.date_range("2010-06-01", periods=40).astype(str)
    parts = [
        pd.DataFrame({"site": site, "date": days, columns[0]: FOREST[:, 0], columns[1]: FOREST[:, 1]}) for site in "AB"
    ]
    return pd.concat(parts, ignore_index=True)


def test_a_table_of_swapped_bands_is_reported_with_its_sites(caplog):
    fc.read_surface(table())
    assert "swapped" not in caplog.text
    fc.read_surface(table(("nir", "red")))
    assert "negative" in caplog.text and "(A, B): red and near-infrared are probably swapped" in caplog.text
    caplog.clear()
    fc.read_surface(table(("nir", "red")), columns={"red": "nir", "nir": "red"})
    assert "swapped" not in caplog.text


def test_a_grid_of_swapped_bands_is_reported(caplog):
    from fluxcube.cubes.forcing_surface_grid import BAND, DAY, _check_scale

    values = np.broadcast_to(FOREST[:, :2].astype("float32"), (3, 3, 40, 2))
    dims = ("latitude", "longitude", DAY, BAND)
    coords = {"latitude": [3.0, 2.0, 1.0], "longitude": [7.0, 8.0, 9.0], DAY: np.arange(40), BAND: ["red", "nir"]}
    _check_scale(xr.DataArray(values, coords, dims))
    assert "swapped" not in caplog.text
    _check_scale(xr.DataArray(values[..., ::-1], coords, dims))
    assert "9 of 9 places" in caplog.text and "swapped" in caplog.text
    caplog.clear()
    _check_scale(xr.DataArray(np.broadcast_to(WATER[:, :2], values.shape), coords, dims))  # a grid of the sea
    assert "swapped" not in caplog.text


@pytest.mark.parametrize("name", ["mod09ga_daily_towers.nc", "mod09ga_daily_towers2.nc", "mod09ga_8day_towers.csv.gz"])
def test_no_real_tower_is_doubtful_and_nearly_all_are_if_swapped(shared_data, name, caplog):
    ds = fc.read_surface(shared_data / "vegetation" / name)
    assert "swapped" not in caplog.text
    bands = list(map(str, ds.band.values))
    values = ds.surface.values
    assert not any(swapped_bands(values[i : i + 1], bands)[0] for i in range(len(values)))
    other = [{"red": "nir", "nir": "red"}.get(band, band) for band in bands]
    alone = [swapped_bands(values[i : i + 1], other)[0] for i in range(len(values))]
    assert np.mean(alone) > 0.9 and swapped_bands(values, other).mean() > 0.95

"""Long-term statistics of surface reflectance, against pandas and numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxcube.cubes.climatology import MONTHS, STATISTICS, surface_climatology, surface_features
from fluxcube.errors import ConfigError
from fluxcube.variables import SURFACE_BANDS

DAYS = np.arange("2003-01-01", "2006-01-01", dtype="datetime64[D]")
BANDS = ("red", "nir", "swir2", "snow")


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    """Three places, a third of the days clear; the second has no view from May to July, the third has 19 views."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.02, 0.6, (3, len(DAYS), len(BANDS))).astype(np.float32)
    values[rng.random((3, len(DAYS))) > 0.35] = np.nan
    month = DAYS.astype("datetime64[M]").astype(int) % 12 + 1
    values[1, (month >= 5) & (month <= 7)] = np.nan
    values[2, np.flatnonzero(np.isfinite(values[2, :, 0]))[19:]] = np.nan
    return values


def test_percentiles_and_means_are_those_of_pandas(views):
    found = surface_climatology(views, DAYS, BANDS)
    features = surface_features(BANDS)
    assert features == (*BANDS, "NDVI", "NIRv", "LSWI") and found.shape == (3, len(STATISTICS), len(features))
    table = pd.DataFrame(views[0], index=pd.DatetimeIndex(DAYS), columns=BANDS)
    table["NDVI"] = (table.nir - table.red) / (table.nir + table.red)
    table["NIRv"] = table.NDVI * table.nir
    table["LSWI"] = (table.nir - table.swir2) / (table.nir + table.swir2)
    expected = table.quantile([0.1, 0.5, 0.9]).values
    np.testing.assert_allclose(found[0, :3], expected, rtol=1e-5)
    np.testing.assert_allclose(found[0, 3:], table.groupby(table.index.month).mean().values, rtol=1e-5)


def test_months_without_a_view_lie_between_their_neighbours(views):
    found = surface_climatology(views, DAYS, BANDS)[1, 3:]
    assert np.isfinite(found).all()
    april, august = found[MONTHS.index("m04")], found[MONTHS.index("m08")]
    np.testing.assert_allclose(found[4:7], april + (august - april) * np.array([[0.25], [0.5], [0.75]]), rtol=1e-5)


def test_around_the_new_year_and_a_single_month():
    values = np.full((2, len(DAYS), 1), np.nan, np.float32)
    month = DAYS.astype("datetime64[M]").astype(int) % 12 + 1
    values[0, month == 11], values[0, month == 3] = 0.2, 0.6
    values[1, month == 6] = 0.3
    found = surface_climatology(values, DAYS, ("red",))[:, 3:, 0]
    np.testing.assert_allclose(found[0, [11, 0, 1]], [0.3, 0.4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found[0, 6], 0.6 - 0.4 * 4 / 8, rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.3, rtol=1e-6)


def test_too_few_views(views):
    found = surface_climatology(views, DAYS, BANDS)
    assert np.isnan(found[2, :3]).all() and np.isfinite(found[2, 3:]).all()
    nothing = surface_climatology(np.full((1, 5, 1), np.nan), DAYS[:5], ("red",))
    assert nothing.shape == (1, 15, 1) and np.isnan(nothing).all()
    assert np.isnan(surface_climatology(np.empty((1, 0, 1)), DAYS[:0], ("red",))).all()


def test_order_of_days_other_places_and_impossible_indices_do_not_matter(views):
    whole = surface_climatology(views, DAYS, BANDS)
    order = np.random.default_rng(1).permutation(len(DAYS))
    np.testing.assert_allclose(surface_climatology(views[:, order], DAYS[order], BANDS), whole, rtol=1e-6)
    for i in range(3):
        np.testing.assert_array_equal(surface_climatology(views[i : i + 1], DAYS, BANDS)[0], whole[i])
    dark = np.full((1, len(DAYS), 2), [-0.01, 0.0101], np.float32)  # an NDVI of 201
    found = surface_climatology(dark, DAYS, ("red", "nir"))[0]
    assert np.isnan(found[:, 2]).all() and np.isfinite(found[:, :2]).all()


def test_every_index_of_all_bands_and_wrong_shapes():
    assert surface_features(SURFACE_BANDS)[len(SURFACE_BANDS) :] == (
        *("NDVI", "EVI", "NIRv", "NDWI", "LSWI", "CCI", "NDSI"),
    )
    with pytest.raises(ConfigError, match="3 bands"):
        surface_climatology(np.zeros((1, 5, 2)), DAYS[:5], ("red", "nir", "blue"))

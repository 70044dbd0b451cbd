"""Test vegetation indices: values computed by hand, lazy input, and limits."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.indices import evi, indices, ndvi, ndwi, nirv


def test_values_computed_by_hand():
    assert ndvi(0.04, 0.46) == pytest.approx(0.42 / 0.50)
    # 2.5 (0.46 - 0.04) / (0.46 + 0.24 - 0.15 + 1) = 1.05 / 1.55
    assert evi(0.04, 0.46, 0.02) == pytest.approx(1.05 / 1.55)
    assert nirv(0.04, 0.46) == pytest.approx(0.84 * 0.46)
    assert ndwi(0.46, 0.09) == pytest.approx(0.37 / 0.55)


def test_a_zero_denominator_is_missing():
    assert np.isnan(ndvi(np.array([0.0, 0.1]), np.array([0.0, 0.1]))).tolist() == [True, False]
    assert np.isnan(ndvi(np.array(-0.01), np.array(0.01)))  # surface reflectance may be slightly negative
    assert np.isnan(ndwi(0.0, 0.0)) and np.isnan(nirv(0.0, 0.0))
    # 0.5 + 6 x 0 - 7.5 x 0.2 + 1 = 0
    assert np.isnan(evi(0.0, 0.5, 0.2))


def test_relations():
    rng = np.random.default_rng(0)
    red, nir, blue, swir = rng.uniform(0.01, 0.6, (4, 500))
    assert (np.abs(ndvi(red, nir)) <= 1).all()
    np.testing.assert_allclose(ndvi(red, nir), -ndvi(nir, red))
    np.testing.assert_allclose(ndvi(3 * red, 3 * nir), ndvi(red, nir))  # brightness alone does not change it
    np.testing.assert_allclose(nirv(2 * red, 2 * nir), 2 * nirv(red, nir))
    np.testing.assert_allclose(ndwi(nir, swir), ndvi(swir, nir))  # the same form of other bands
    assert (np.sign(evi(red, nir, 0 * blue)) == np.sign(nir - red)).all()


@pytest.fixture
def chips():
    values = np.random.default_rng(1).uniform(0.01, 0.6, (2, 3, 9, 8, 8)).astype("float32")
    values[0, 1, 0, 2, 2] = np.nan
    names = ["red", "nir", "blue", "green", "swir1", "swir2", "swir3", "snow", "water"]
    return xr.DataArray(values, dims=("site", "day", "band", "y", "x"), coords={"band": names, "site": ["A", "B"]})


def test_dataset_of_named_bands(chips):
    found = indices(chips)
    assert list(found) == ["NDVI", "EVI", "NIRv", "NDWI", "LSWI", "NDSI"], "no CCI without 531 nm"
    red, nir, blue, swir3 = (chips.sel(band=name, drop=True) for name in ("red", "nir", "blue", "swir3"))
    for name, values in {
        "NDVI": ndvi(red, nir),
        "EVI": evi(red, nir, blue),
        "NIRv": nirv(red, nir),
        "NDWI": ndwi(nir, swir3),
    }.items():
        assert found[name].dims == ("site", "day", "y", "x") and found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=1e-6)
    assert found.NDVI.isnull().sum() == 1 and found.NDWI.notnull().all()
    assert list(found.site.values) == ["A", "B"] and found.EVI.attrs["units"] == "1"
    shuffled = chips.isel(band=[4, 5, 3, 6, 1, 0, 2])
    xr.testing.assert_identical(indices(shuffled), found)


def test_lazy_input_stays_lazy(chips):
    lazy = indices(chips.chunk({"day": 1, "band": 1}))
    assert all(isinstance(v.data, da.Array) for v in lazy.values())
    xr.testing.assert_allclose(lazy.compute(), indices(chips))


def test_missing_bands_are_named(chips):
    assert "NDWI" not in indices(chips.drop_sel(band="swir3"))
    with pytest.raises(SchemaError, match=r"NDVI needs red, nir"):
        indices(chips.sel(band=["snow", "water"]))
    with pytest.raises(SchemaError, match="dimension 'band'"):
        indices(chips.rename(band="wavelength"))

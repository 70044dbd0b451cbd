"""Faults of reflectance that is passed as a Dataset: scales of single bands and sites, and series with clouds."""

import numpy as np
import pytest
import xarray as xr

import fluxcube as fc
from fluxcube.cubes.surface_series import read_series
from fluxcube.errors import SourceError, UnknownNameError
from fluxcube.sources.modis.listing import list_rasters


@pytest.fixture
def series():
    days = np.arange("2010-01-01", "2011-07-01", dtype="datetime64[D]").astype("datetime64[ns]")
    values = np.random.default_rng(0).uniform(0.05, 0.4, (2, len(days), 3))
    values[:, ::2] = np.nan
    return xr.Dataset(
        {"surface": (("site", "day", "band"), values.astype("f4"), {"product": "MOD09GA"})},
        {"site": ["AA-One", "BB-Two"], "day": days, "band": ["red", "nir", "swir2"]},
    )


@pytest.mark.parametrize("factor, fault", [(1e-4, "scaled twice"), (1e4, "not scaled"), (100, "not scaled")])
@pytest.mark.parametrize("place", [{"site": 1, "band": 2}, {"site": 1}, {"band": 0}])
def test_one_band_or_site_in_another_scale_is_named(series, place, factor, fault):
    before = read_series(series, "surface")[0]
    series.surface[place] = series.surface[place] * factor
    site, band = series.site.values[place.get("site", 0)], series.band.values[place.get("band", 0)]
    with pytest.raises(SourceError, match=f"{band} of {site} has a median of .* {fault}"):
        read_series(series, "surface")
    assert len(before) == 2


def test_single_fills_are_not_called_a_scale(series):
    series.surface[0, 1, 0] = 3.2767
    with pytest.raises(SourceError, match="fill value"):
        read_series(series, "surface")


def test_one_number_for_all_gaps_is_a_fill(series):
    with pytest.raises(SourceError, match=r"found -1 in red .* fill value"):
        read_series(series.fillna(-1), "surface")


def test_percentages_of_snow_and_of_pixels_are_named(series):
    snow = series.copy(deep=True).assign_coords(band=["red", "nir", "snow"])
    snow.surface[..., 2] *= 100
    with pytest.raises(SourceError, match=r"in snow of .* snow is the share"):
        read_series(snow, "surface")
    share = xr.ones_like(series.surface[..., 0], dtype="f4").drop_vars("band")
    assert read_series(series.assign(surface_quality=share), "surface")[0][0].quality.max() == 1
    with pytest.raises(SourceError, match=r"surface_quality as a share .* such as 80"):
        read_series(series.assign(surface_quality=share * 80), "surface")


def test_unknown_bands_are_named_as_the_user_wrote_them(series):
    with pytest.raises(UnknownNameError, match="unknown band of surface reflectance 'b9'"):
        read_series(series.assign_coords(band=["red", "nir", "b9"]), "surface")


def test_all_views_of_a_daily_product_need_flags(series):
    """MOD09GA without flags is refused in a file of any form if it has more days than can be clear."""
    bands = {str(name): series.surface.sel(band=name, drop=True) for name in series.band.values}
    clear = xr.Dataset(bands, attrs={"product": "MOD09GA"})
    assert fc.read_surface(clear).surface.notnull().any()
    full = clear.fillna(0.2)
    with pytest.raises(SourceError, match="without state flags contains clouds"):
        fc.read_surface(full)
    table = full.to_dataframe().reset_index()
    with pytest.raises(SourceError, match="without state flags contains clouds"):
        fc.read_surface(table, product="MOD09GA")
    assert fc.read_surface(full, quality=None).surface.notnull().all()
    assert fc.read_surface(full.isel(day=slice(60))).surface.notnull().all()
    assert fc.read_surface(full.assign_attrs(product="MCD43A4")).surface.notnull().all()


def test_tables_in_a_folder_of_chips_are_named_with_their_option(tmp_path):
    (tmp_path / "towers-MOD09GA-061-results.csv").write_text("ID,red\n", "utf-8")
    with pytest.raises(SourceError, match=r"no MODIS raster in .*Tables of reflectance are read with surface="):
        list_rasters(tmp_path, products=("MCD43A4",))

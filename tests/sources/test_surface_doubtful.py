"""Reflectance that is 0, too dark, or of another product than was passed, is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fluxcube as fc
from fluxcube.errors import SourceError


def table(days=60, **bands):
    """A tidy table of one site with plausible bands."""
    rng = np.random.default_rng(0)
    values = {"red": 0.05, "nir": 0.3, "swir1": 0.2} | bands
    columns = {name: value * rng.uniform(0.9, 1.1, days) for name, value in values.items()}
    return pd.DataFrame({"site": "DE-Tha", "date": pd.date_range("2010-01-01", periods=days), **columns})


@pytest.mark.parametrize("band", ["red", "nir", "swir1"])
def test_a_band_of_zeros_is_refused_and_may_be_missing(band):
    frame = table(**{band: 0.0})
    with pytest.raises(SourceError, match=rf"{band} of DE-Tha is exactly 0 on 60 of 60 days.*missing=\[0\]"):
        fc.read_surface(frame)
    read = fc.read_surface(frame, missing=[0])
    assert band not in read.band and read.surface.notnull().any()


@pytest.mark.parametrize("factor", [0.0, 1e-4])
def test_a_few_rows_that_are_zero_or_scaled_twice_are_reported(factor, caplog):
    frame = table()
    frame.loc[::6, "nir"] *= factor
    fc.read_surface(frame)
    assert "many values of nir are below 0.001 at DE-Tha (10 of 60)" in caplog.text
    caplog.clear()
    fc.read_surface(table())
    assert "below 0.001" not in caplog.text


def test_no_site_of_the_real_towers_is_reported(shared_data, caplog):
    for name in ("mod09ga_daily_towers.nc", "mod09ga_daily_towers2.nc"):
        fc.read_surface(shared_data / "vegetation" / name)
    assert "below 0.001" not in caplog.text


@pytest.mark.parametrize(("option", "wrong"), [("product", "MCD43A4"), ("collection", "006")])
def test_another_product_or_collection_than_the_file_states_is_refused(option, wrong):
    frame = table().rename(columns={"red": "MOD09GA_061_sur_refl_b01_1", "nir": "MOD09GA_061_sur_refl_b02_1"})
    frame["MOD09GA_061_state_1km_1"] = 8
    right = {"product": "mod09ga", "collection": "61"}[option]
    assert fc.read_surface(frame, **{option: right}).surface.attrs["product"] == "MOD09GA"
    with pytest.raises(SourceError, match=f"expected the {option} '{wrong}' that was passed, the file states"):
        fc.read_surface(frame, **{option: wrong})


def test_series_without_coordinates_are_reported(caplog):
    sites = pd.DataFrame({"site": ["DE-Tha"], "latitude": [50.96], "longitude": [13.57]})
    fc.read_surface(table(), sites=sites)
    assert "no coordinates, so that the places of its series were not compared" in caplog.text

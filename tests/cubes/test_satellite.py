"""Satellite data of many sites: each raster is read once, and results do not depend on the spans of days."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from fluxcube.cubes import satellite
from fluxcube.cubes.satellite import BEFORE, Product, cut_sites
from fluxcube.stores.building import spilled, unspill

DAYS = np.arange("2010-01-01", "2010-03-02", dtype="datetime64[D]")
PLACES = [
    {"site": "US-Aaa", "latitude": 1.0, "longitude": 5.0, "start": "2010-01-01T00", "stop": "2010-03-02T00"},
    {"site": "US-Bbb", "latitude": 2.0, "longitude": 6.0, "start": "2010-02-20T05", "stop": "2010-02-25T00"},
    {"site": "US-Ccc", "latitude": 3.0, "longitude": 7.0, "start": "2015-01-01T00", "stop": "2016-01-01T00"},
]


def value(latitude: float, day: np.datetime64) -> float:
    return 1000 * latitude + float((day - DAYS[0]).astype(int))


def product(opened: Counter) -> Product:
    """One raster a day; a value, packed as in chips, shows its place and day; on every tenth day nothing is seen."""

    def build(rasters, latitude, longitude, progress=None):
        opened.update(raster.day for raster in rasters)
        days = [raster.day for raster in rasters]
        values = np.array([[[value(lat, d) * 1e-4] * 7 for d in days] for lat in latitude], "float32")
        values[:, [d in DAYS[::10] for d in days]] = np.nan
        if progress:
            progress(1, 1, "")
        return xr.DataArray(values, {"day": np.array(days, "datetime64[ns]")}, ("place", "day", "band"))

    days = lambda rasters: np.array(sorted({r.day for r in rasters}), "datetime64[D]")  # noqa: E731
    return Product("X", lambda folder: [], days, build, 7)


@pytest.mark.parametrize("length", [1, 7, 1000])
def test_every_raster_is_gone_through_once_whatever_the_span(length, tmp_path, monkeypatch):
    monkeypatch.setattr(satellite, "_BYTES", length * len(PLACES) * 7 * 4)
    opened, steps = Counter(), []
    rasters = [SimpleNamespace(day=day) for day in DAYS]
    found = cut_sites(tmp_path, product(opened), rasters, PLACES, lambda *step: steps.append(step))
    assert set(opened.values()) == {1}
    seen = np.setdiff1d(DAYS, DAYS[::10])
    np.testing.assert_array_equal(found["US-Aaa"], seen)
    first = np.datetime64("2010-02-20") - BEFORE
    np.testing.assert_array_equal(found["US-Bbb"], seen[(seen >= first) & (seen <= np.datetime64("2010-02-24"))])
    assert len(found["US-Ccc"]) == 0, "it measured when no raster was taken"
    for place in PLACES[:2]:
        parts = [unspill(tmp_path, key) for key in spilled(tmp_path, f"{place['site']}.chips.")]
        days, values = (np.concatenate([part[name] for part in parts]) for name in ("day", "values"))
        np.testing.assert_array_equal(days, found[place["site"]])
        np.testing.assert_array_equal(values[:, 0], [value(place["latitude"], day) for day in days])
    assert steps[-1][1] == len(DAYS)

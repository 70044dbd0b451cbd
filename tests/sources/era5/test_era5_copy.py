"""Copies of ERA5: equal forcing, each stored hour read once, interrupted copies resumed."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import SourceError, StoreError
from fluxcube.sources.era5 import copy as era5_copy
from fluxcube.sources.era5 import series as era5_series
from fluxcube.sources.era5.copy import copy_era5
from fluxcube.sources.era5.variables import open_era5

LATITUDE, LONGITUDE = np.arange(60.0, 30.0, -1.0), np.arange(0.0, 360.0, 5.0)


@pytest.fixture(scope="module")
def globe(tmp_path_factory):
    """Three days in a store with one hour of the globe in each chunk, on a longer time axis."""
    rng = np.random.default_rng(0)
    hours, shape = 96, (96, len(LATITUDE), len(LONGITUDE))
    light = np.maximum(0, np.sin(2 * np.pi * (np.add.outer(np.arange(hours), LONGITUDE / 15) - 6.5) / 24))[:, None]
    sun = 2e6 * light * rng.uniform(0.5, 1, shape)
    time = np.datetime64("2019-07-01", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    dims = ("time", "latitude", "longitude")
    ds = xr.Dataset(
        {
            "2m_temperature": (dims, (280 + rng.normal(size=shape)).astype("float32"), {"units": "K"}),
            "surface_solar_radiation_downwards": (dims, sun.astype("float32"), {"units": "J m**-2"}),
            "geopotential_at_surface": (dims, np.full(shape, 9806.65, "float32"), {"units": "m**2 s**-2"}),
            "land_sea_mask": (dims, np.full(shape, 0.5, "float32"), {"units": "(0 - 1)"}),
        },
        coords={"time": time, "latitude": LATITUDE, "longitude": LONGITUDE},
        attrs={"valid_time_start": "2019-07-01", "valid_time_stop": "2019-07-03"},
    )
    path = tmp_path_factory.mktemp("globe") / "globe.zarr"
    ds.to_zarr(path, encoding={n: {"chunks": (1, *shape[1:])} for n in ds}, consolidated=False)
    return path


@pytest.mark.parametrize("bbox", [None, pytest.param((-20, 35, 20, 55), marks=pytest.mark.proof), (170, 40, -170, 50)])
def test_a_copy_is_the_same_forcing(globe, tmp_path, bbox, monkeypatch):
    kw = {"bbox": bbox, "time": ("2019-07-01T05", "2019-07-03T10")}
    reads = []
    read = era5_series.read_box

    def counted(source, parameter, box):
        reads.append((parameter, box[0].start, box[0].stop))
        return read(source, parameter, box)

    expected = open_era5(globe, **kw).load()
    monkeypatch.setattr(era5_copy, "_BYTES", 8 * 20 * expected.sizes["latitude"] * expected.sizes["longitude"])
    with monkeypatch.context() as patch:
        patch.setattr(era5_series, "read_box", counted)
        path = copy_era5(globe, tmp_path / "copy.zarr", **kw, accumulation="hour")
    xr.testing.assert_equal(open_era5(path).load(), expected)
    assert xr.open_zarr(path, consolidated=False).t2m.encoding["chunks"][1:] == (16, 16)
    # Pieces of 20 hours, each stored hour in one of them (twice where a box lies at both ends of the axis).
    pieces = {(a, b) for member, a, b in reads if member == "t2m" and b - a > 1}
    hours = [hour for a, b in pieces for hour in range(a, b)]
    assert sorted(hours) == list(range(5, 60)) and max(b - a for a, b in pieces) == 20
    with pytest.raises(StoreError, match="exists"):
        copy_era5(globe, path, **kw)
    xr.testing.assert_equal(open_era5(copy_era5(globe, path, **kw, overwrite=True)).load(), expected)


def test_a_copy_that_was_stopped_goes_on_and_is_not_read_before(globe, tmp_path, monkeypatch):
    monkeypatch.setattr(era5_copy, "_BYTES", 8 * 10 * len(LATITUDE) * len(LONGITUDE))
    steps = []

    def stop(done, total, text):
        steps.append(text)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_era5(globe, tmp_path / "copy.zarr", progress=stop)
    with pytest.raises(SourceError, match="not finished"):
        open_era5(tmp_path / "copy.zarr")
    with pytest.raises(StoreError, match="exists"):
        copy_era5(globe, tmp_path / "copy.zarr", time=(None, "2019-07-02"))  # another period
    path = copy_era5(globe, tmp_path / "copy.zarr", progress=lambda done, total, text: steps.append(text))
    assert len(steps) == len(set(steps)) == 16
    xr.testing.assert_equal(open_era5(path).load(), open_era5(globe).load())

"""Maps of a model with streams: equal to a pass for each hour, whatever the chunks, at towers as in cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from inference_fakes import chunked, fake
from test_exactness import as_cube, cell_blocks, holed, same, written

from fluxcube.inference.grid import _time_chunk, upscale
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.models.base import Batch
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.samples.windows import gather
from fluxcube.training.plan import sizes_of

torch.set_num_threads(1)


def made(band=5, **changes):
    """A banded EcoPerceiver of random weights; its estimates depend on 3 x (band - 1) + 1 hours."""
    settings = {"latent": 16, "frequencies": 4, "embedding": 4, "heads": 2, "blocks": 2, "self_layers": 1} | changes
    config = EcoPerceiverConfig(context=band, head="dense", attention="banded", **settings)
    torch.manual_seed(3)
    spec = fake(memory_days=(1,)).spec
    model = EcoPerceiver(config, sizes_of(spec)).eval()
    with torch.no_grad():
        model.head.weight.normal_()
    return Predictor(model, spec, {"kind": "ecoperceiver"}, digest="none")


@pytest.fixture(scope="module")
def predictor():
    return made()


@pytest.fixture(scope="module")
def cells(predictor):
    """A forcing, and fluxes (time, latitude, longitude, targets) by a pass for each hour of each cell."""
    forcing = holed((2, 2), 3, 7, 70)
    return forcing, by_loop(predictor, forcing)


def by_loop(predictor, forcing):
    spec, length = predictor.spec, predictor.model.context
    shape = (forcing.sizes["time"], forcing.sizes["latitude"], forcing.sizes["longitude"], len(spec.targets))
    out = np.full(shape, np.nan, np.float32)
    for (i, j), block in cell_blocks(forcing, spec):
        for stop in range(1, shape[0] + 1):
            if block.observed[0, stop - 1]:
                arrays = gather(block, [0], [stop], min(stop, length), repeat_images=True)
                scaled = predictor.model.predict(Batch.of(arrays))[0, -1]
                out[stop - 1, i, j] = scaled * np.float32(spec.target_scale) + np.float32(spec.target_mean)
    return out


@pytest.mark.parametrize("least", [None, 1])
def test_maps_are_those_of_a_pass_for_each_hour(predictor, cells, least):
    forcing, expected = cells[0], cells[1].copy()
    expected[: (least or 13) - 1] = np.nan
    for step in (24, 240):
        lazy = chunked(forcing, latitude=1, longitude=2, time=31)
        maps = upscale(predictor, lazy, min_context=least, time_chunk=step)
        same(written(maps), expected, ("NEE", "GPP_NT"))


def test_a_part_of_the_time_is_that_of_the_whole(predictor):
    forcing = holed((2, 3), 6)
    whole = upscale(predictor, forcing, min_context=1).load()
    part = upscale(predictor, forcing, min_context=1, time=slice(forcing.time[50].values, None), time_chunk=24)
    spread = float(whole.NEE.std())
    np.testing.assert_allclose(part.NEE.values, whole.NEE.values[50:], rtol=0, atol=1e-5 * spread)


def test_a_tower_is_the_cell_around_it(predictor):
    forcing = holed((2, 3), 4, 5, 90)
    maps = upscale(predictor, chunked(forcing, latitude=1), time_chunk=24)
    cube = as_cube(forcing)
    towers, lazy = predict(predictor, cube), predict(predictor, cube.chunk(site=1))
    xr.testing.assert_equal(towers.NEE, lazy.NEE.load())
    for name in ("NEE", "RECO"):
        cells = maps[name].values.reshape(len(maps.time), -1)[:, 1:]
        np.testing.assert_allclose(cells, towers[name].values.T[:, 1:], rtol=1e-4, atol=1e-4)
    assert maps.attrs["context_hours"] == 13 and np.isfinite(maps.NEE.values[13:]).any()


@pytest.mark.parametrize(("band", "layers", "days"), [(32, 1, 40), (8, 1, 30), (32, 10, 156)])
def test_the_default_chunk_repeats_few_hours(band, layers, days):
    predictor = made(band, latent=2, self_layers=layers)
    step = _time_chunk(None, predictor, 1)
    assert step == 24 * days and (predictor.model.context - 1) / step <= 0.1


def test_old_chips_end_alike_in_every_chunk(predictor):
    """The only chip is used for 32 days, at noon of each day, wherever a chunk begins."""
    forcing = holed((1, 2), 40)
    first = forcing.day == forcing.day[0]
    forcing["modis"] = xr.where(first, np.float32(0.3), forcing.modis.where(False)).transpose(*forcing.modis.dims)
    whole = upscale(predictor, forcing, time_chunk=2400).NEE.load()
    without = upscale(predictor, forcing.assign(modis=forcing.modis.where(False)), time_chunk=2400).NEE.load()
    spread = float(whole.std())
    for step in (24 * 5, 24 * 33):
        parts = upscale(predictor, chunked(forcing, time=100), time_chunk=step).NEE
        np.testing.assert_allclose(parts.values, whole.values, rtol=0, atol=1e-5 * spread)
    differs = (abs(whole - without) > 1e-4 * spread).any(("latitude", "longitude")).values
    assert differs[24 : 24 * 32].mean() > 0.4 and not differs[24 * 36 :].any()


def test_bfloat16_is_close(predictor):
    forcing = holed((2, 2), 3)
    whole, half = (upscale(predictor, forcing, precision=p).NEE.values for p in (None, "bfloat16"))
    assert 1e-5 < np.nanstd(whole - half) / np.nanstd(whole) < 0.1


def test_a_forcing_without_an_observed_hour(predictor):
    forcing = holed((2, 2), 3)
    forcing["predictors"] = forcing.predictors.where(forcing["variable"].isin(["DOY", "TOD"]))
    assert np.isnan(upscale(predictor, forcing).NEE.values).all()

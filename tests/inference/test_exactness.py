"""A written map equals a plain loop over cells and hours that calls the model on each window."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inference_fakes import chunked, fake

from fluxcube.errors import ConfigError
from fluxcube.inference.grid import upscale
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.models.applicability import Applicability
from fluxcube.models.base import Batch
from fluxcube.samples.daymeans import block_days, day_columns
from fluxcube.samples.features import cube_block, make_block
from fluxcube.samples.windows import gather
from fluxcube.simulation.example import example_cube, example_forcing


def holed(shape, days, start=0, stop=None, seed=1):
    """A small forcing with holes of every kind: single values, hours, a cell's first day, chips, an unknown class."""
    rng = np.random.default_rng(seed)
    ds = example_forcing(shape=shape, days=days, seed=seed).isel(time=slice(start, stop))
    holes = xr.DataArray(rng.random(ds.predictors.shape) < 0.1, dims=ds.predictors.dims)
    ds["predictors"] = ds.predictors.where(~holes | ds["variable"].isin(["DOY", "TOD"]))
    ds["predictors"][-1, -1, :30] = np.nan
    gone = rng.random((*shape, ds.sizes["day"])) < 0.4
    ds["modis"] = ds.modis.where(~xr.DataArray(gone, dims=("latitude", "longitude", "day")))
    ds.igbp[-1, -1] = "SNO"
    return ds


def cell_blocks(forcing, spec):
    """Yield the position of each land cell in the grid, and its block."""
    for i, j in zip(*np.nonzero(forcing.land_fraction.values > 0), strict=True):
        cell = forcing.isel(latitude=[i], longitude=[j])
        yield (
            (i, j),
            make_block(
                cell.predictors.sel(variable=list(spec.predictors)).values[0],
                cell.time.values,
                cell.latitude.values,
                cell.longitude.values,
                spec=spec,
                statics={"elevation": cell.elevation.values[0], "igbp": cell.igbp.values[0]},
                chips=cell.modis.sel(band=list(spec.bands)).values[0],
                days=cell.day.values,
            ),
        )


def by_loop(predictor, forcing, stride, least, uncertainty=False):
    """Fluxes (time, latitude, longitude, targets): one window at a time, of one cell at a time."""
    spec, length = predictor.spec, predictor.model.context
    hours = forcing.sizes["time"]
    shape = (hours, forcing.sizes["latitude"], forcing.sizes["longitude"], len(spec.targets))
    out = np.full(shape, np.nan, np.float32)
    for (i, j), block in cell_blocks(forcing, spec):
        later = np.full((1, stride, block.inputs.shape[2]), np.nan, np.float32)
        longer = dataclasses.replace(block, inputs=np.concatenate([block.inputs, later], 1))
        for hour in range(hours):
            stop = hour + 1
            while (block.first_hour + stop) % stride:
                stop += 1
            if not block.observed[0, hour] or (stop < length and hour + 1 < least):
                continue
            scaled = predictor.model.predict(Batch.of(gather(longer, [0], [stop], length)))[0, hour - stop]
            out[hour, i, j] = scaled * np.float32(spec.target_scale) + np.float32(spec.target_mean)
    return out


def written(maps):
    """Write maps, and read what is on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        return open_maps(write_maps(maps, Path(folder) / "maps.zarr", scheduler="threads", workers=2)).load()


def same(maps, expected, targets, tolerance=1e-5):
    for i, name in enumerate(targets):
        spread = np.nanstd(expected[..., i])
        assert np.isfinite(expected[..., i]).any(), "a comparison of nothing"
        np.testing.assert_allclose(maps[name].values, expected[..., i], rtol=0, atol=tolerance * spread + 1e-6)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    context=st.integers(1, 9),
    stride=st.integers(1, 9),
    least=st.integers(1, 9),
    start=st.integers(0, 30),
    hours=st.integers(20, 60),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    step=st.sampled_from([24, 48, 240]),
    memory=st.sampled_from([(), (1,)]),
)
def test_any_size_and_any_chunks(context, stride, least, start, hours, rows, columns, step, memory):
    stride, least = min(stride, context), min(least, context)
    predictor = fake(context=context, memory_days=memory)
    forcing = holed((2, 3), 4, start, start + hours, seed=context)
    expected = by_loop(predictor, forcing, stride, least)
    lazy = chunked(forcing, latitude=rows, longitude=columns, time=17)
    same(upscale(predictor, lazy, stride=stride, min_context=least, time_chunk=step), expected, ("NEE", "GPP_NT"))


@pytest.mark.parametrize(("stride", "least"), [(1, None), (1, 3), (5, None), (5, 1)])
def test_what_is_written(stride, least, caplog):
    predictor = fake(context=7, memory_days=(1, 2))
    forcing = holed((3, 3), 4, 5, 70)
    expected = by_loop(predictor, forcing, stride, least or 7)
    lazy = chunked(forcing, latitude=2, longitude=2)
    maps = upscale(predictor, lazy, stride=stride, min_context=least, time_chunk=48)
    found = written(maps)
    same(found, expected, ("NEE", "GPP_NT"))
    missing = np.isnan(found.NEE.values[:, 1, 1]).nonzero()[0].tolist()
    if least is not None:
        assert missing == list(range(least - 1))
    else:  # the first window that lies in the forcing whole gives its last hours
        assert missing == list(range(missing[-1] + 1)) and 7 - stride <= len(missing) < 7
    assert found.attrs["min_context_hours"] == (least or 7)
    warned = f"the first {len(missing)} of {maps.sizes['time']} hours ({100 * len(missing) / maps.sizes['time']:.1f} %)"
    assert (warned in caplog.text) == bool(missing)
    upscale(predictor, lazy, stride=stride, min_context=least, time=slice(None, lazy.time.values[0]))
    assert ("no value in all of 1 hour: " in caplog.text) == bool(missing)


def test_the_first_hours_have_what_history_there_is():
    predictor, forcing = fake(context=7), holed((2, 2), 3)
    whole = upscale(predictor, forcing, stride=1)
    first = upscale(predictor, forcing, stride=1, min_context=1)
    xr.testing.assert_equal(first.NEE.isel(time=slice(6, None)), whole.NEE.isel(time=slice(6, None)))
    assert np.isfinite(first.NEE.values[:6, 0, 1]).all() and np.isnan(whole.NEE.values[:6]).all()
    part = upscale(predictor, forcing, stride=1, min_context=1, time=slice(forcing.time[9].values, None))
    np.testing.assert_array_equal(part.NEE.values, whole.NEE.values[9:])  # earlier hours are there
    towers = predict(predictor, as_cube(forcing), stride=1, min_context=1)
    np.testing.assert_allclose(towers.NEE.values.T[:, 1:], first.NEE.values.reshape(72, -1)[:, 1:], 1e-5, 1e-5)
    for wrong in (0, 8):
        with pytest.raises(ConfigError, match=r"1\.\.7"):
            upscale(predictor, forcing, min_context=wrong)


@pytest.fixture(scope="module")
def networks():
    """EcoPerceivers of random weights, for hours and for whole windows."""
    torch = pytest.importorskip("torch")
    from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
    from fluxcube.training.plan import sizes_of

    made = {}
    for head in ("last", "dense"):
        config = EcoPerceiverConfig(
            latent=16, frequencies=4, embedding=4, context=10, heads=2, blocks=2, self_layers=1, head=head
        )
        torch.manual_seed(3)
        spec = fake(memory_days=(1,)).spec
        model = EcoPerceiver(config, sizes_of(spec)).eval()
        with torch.no_grad():
            model.head.weight.normal_()
        made[head] = Predictor(model, spec, {"kind": "ecoperceiver"}, digest="none")
    return made


@pytest.mark.parametrize(
    ("head", "stride", "least"),
    [("last", 1, None), ("last", 1, 4), ("dense", 6, None), ("dense", 1, 2), ("dense", 10, 1)],
)
def test_a_network_is_its_own_plain_loop(networks, head, stride, least):
    predictor, forcing = networks[head], holed((2, 2), 3, 7, 60)
    expected = by_loop(predictor, forcing, stride, least or 10)
    maps = upscale(
        predictor, chunked(forcing, latitude=2, longitude=1), stride=stride, min_context=least, time_chunk=24
    )
    same(maps, expected, ("NEE", "GPP_NT"), 1e-4)


def test_half_precision_is_close_and_not_the_same(networks):
    forcing = holed((3, 2), 3)
    whole, half = (upscale(networks["dense"], forcing, precision=p).NEE.values for p in (None, "bfloat16"))
    error = np.nanstd(whole - half) / np.nanstd(whole)
    assert 1e-5 < error < 0.1
    with pytest.raises(ConfigError, match="float32, tf32 or bfloat16"):
        upscale(networks["dense"], forcing, precision="float16")
    with pytest.raises(ConfigError, match="neural networks"):
        upscale(fake(), forcing, precision="bfloat16")


def with_days(predictor, seed=0):
    """A predictor that knows training days."""
    columns = day_columns(predictor.spec)
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, len(columns))) * 0.3
    part = Applicability.of([c.name for c in columns], centres, np.arange(40) % 4, rng.random(len(columns)))
    return dataclasses.replace(predictor, applicability=part)


@pytest.mark.parametrize("memory", [(), (2,)])
def test_chunks_change_no_dissimilarity_and_cells_are_towers(memory):
    predictor = with_days(fake(context=4, memory_days=memory))
    forcing = holed((2, 3), 5, 5, 115)
    whole = upscale(predictor, forcing, time_chunk=240)
    assert list(whole) == ["NEE", "GPP_NT", "RECO", "dissimilarity", "applicable"]
    for step in (24, 72):
        parts = written(upscale(predictor, chunked(forcing, latitude=1, longitude=2, time=31), time_chunk=step))
        np.testing.assert_allclose(parts.dissimilarity, whole.dissimilarity, rtol=1e-4)
        np.testing.assert_array_equal(parts.applicable, whole.applicable)
    index = whole.dissimilarity
    assert np.isnan(index.values[:, 0, 0]).all() and np.isfinite(index.values[30:60, 0, 1]).all()  # ocean, land
    by_day = index.isel(latitude=0, longitude=1).groupby(index.time.dt.floor("D"))
    assert float(np.nanmax(by_day.max() - by_day.min())) == 0.0  # a day is one
    inside = (index <= predictor.applicability.threshold).where(index.notnull())
    np.testing.assert_array_equal(whole.applicable, inside)
    towers = predict(predictor, as_cube(forcing), applicability=True)
    np.testing.assert_allclose(towers.dissimilarity.values.T[:, 1:], index.values.reshape(len(index), -1)[:, 1:], 1e-4)


def as_cube(forcing):
    """Cells of a forcing as towers' own cube."""
    cells = forcing.stack(site=("latitude", "longitude"))
    n, hours = cells.sizes["site"], cells.sizes["time"]
    full = (
        example_cube(sites=n, days=-(-hours // 24) + 1).isel(time=slice(0, hours)).drop_vars(["modis", "day", "band"])
    )
    held = cells.predictors.transpose("site", "time", "variable").reindex(variable=full["variable"].values)
    ends = {"time_start": forcing.time.values[0], "time_stop": forcing.time.values[-1] + np.timedelta64(1, "h")}
    own = {name: ("site", cells[name].values) for name in ("latitude", "longitude", "elevation", "igbp")}
    full = full.assign_coords(time=forcing.time, day=forcing.day, band=forcing.band, **own)
    full = full.assign_coords({name: ("site", np.full(n, value)) for name, value in ends.items()})
    chips = cells.modis.transpose("site", "day", "band", "y", "x").values
    return full.assign(
        predictors=(("site", "time", "variable"), held.values), modis=(("site", "day", "band", "y", "x"), chips)
    )


def test_a_tower_is_the_cell_around_it(networks):
    forcing = holed((2, 3), 4, 5, 90)
    cube = as_cube(forcing)
    for predictor, stride in ((networks["dense"], 6), (networks["last"], 1)):
        maps = upscale(predictor, chunked(forcing, latitude=1), stride=stride, time_chunk=24)
        towers = predict(predictor, cube, stride=stride)
        for name in ("NEE", "RECO"):
            cells = maps[name].values.reshape(len(maps.time), -1)[:, 1:]
            np.testing.assert_allclose(cells, towers[name].values.T[:, 1:], rtol=1e-4, atol=1e-4)


def test_without_training_days_it_says_so_and_asked_by_name_it_refuses(caplog):
    forcing = holed((2, 2), 3)
    maps = upscale(fake(), forcing)
    assert "dissimilarity" not in maps and "training days" in caplog.text
    with pytest.raises(ConfigError, match="applicability=False"):
        upscale(fake(), forcing, applicability=True)
    caplog.clear()
    assert "applicable" not in upscale(fake(), forcing, applicability=False) and "days" not in caplog.text
    assert "dissimilarity" not in predict(with_days(fake()), example_cube(sites=2, days=3))


def test_a_cell_far_from_the_training_days_is_outside():
    forcing, predictor = example_forcing(shape=(2, 2), days=8), fake(bands=())
    block = cube_block(as_cube(forcing), predictor.spec)
    days, _ = block_days(block, predictor.spec)
    names = [column.name for column in day_columns(predictor.spec)]
    weight = np.isin(names, ["TA", "VPD"]).astype(float)
    part = Applicability.of(names, days.reshape(-1, len(names)), np.repeat(np.arange(4), 8), weight)
    predictor = dataclasses.replace(predictor, applicability=part)
    far = forcing.copy(deep=True)
    far.predictors.loc[{"variable": "TA"}] = 79.0
    near, away = (upscale(predictor, ds).isel(latitude=1, longitude=1).load() for ds in (forcing, far))
    assert (near.dissimilarity < 1e-3).all() and (near.applicable == 1).all()  # its own days
    assert (away.dissimilarity > part.threshold).all() and (away.applicable == 0).all()


def test_several_chips_a_cell_are_averaged_by_their_land():
    predictor, forcing = with_days(fake(context=4)), holed((2, 3), 3)
    rng = np.random.default_rng(2)
    chips = forcing.modis.expand_dims(block=3, axis=2) * xr.DataArray([1.0, 0.4, 0.7], dims="block")
    chips = chips.transpose("latitude", "longitude", "block", ...).astype("float32")
    shares = rng.random((2, 3, 3))
    shares[..., 2] = np.where(rng.random((2, 3)) < 0.5, np.nan, shares[..., 2])
    shares /= np.nansum(shares, -1, keepdims=True)
    classes = rng.choice(np.array(["DBF", "GRA", "ENF"], object), (2, 3, 3))
    dims = ("latitude", "longitude", "block")
    several = forcing.assign(modis=chips).assign_coords(block_weight=(dims, shares), block_igbp=(dims, classes))
    found = upscale(predictor, chunked(several, latitude=1, longitude=2, block=1), stride=2, time_chunk=24)
    alone = [
        upscale(predictor, forcing.assign(modis=chips.isel(block=k), igbp=several.block_igbp.isel(block=k)), stride=2)
        for k in range(3)
    ]
    stacked = xr.concat([maps.NEE for maps in alone], "block").transpose("latitude", "longitude", "block", "time")
    weights = np.nan_to_num(shares)[..., None]
    mean = (weights * np.nan_to_num(stacked.values)).sum(2)
    variance = (weights * (np.nan_to_num(stacked.values) - mean[:, :, None]) ** 2).sum(2)
    missing = np.isnan(stacked.values).all(2)
    for name, expected in (("NEE", mean), ("NEE_variance", variance)):
        wanted = np.where(missing, np.nan, expected)
        np.testing.assert_allclose(found[name].transpose("latitude", "longitude", "time"), wanted, rtol=1e-3, atol=1e-3)
    assert found.NEE_variance.attrs["units"] == "(umol m-2 s-1)2" and float(found.NEE_variance.max()) > 0.01
    one = upscale(predictor, several.isel(block=[0]).assign_coords(block_weight=(dims, np.ones((2, 3, 1)))), stride=2)
    np.testing.assert_array_equal(one.NEE.values, alone[0].NEE.values)
    np.testing.assert_array_equal(one.dissimilarity.values, alone[0].dissimilarity.values)

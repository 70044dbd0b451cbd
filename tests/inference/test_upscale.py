"""Maps: chunks change nothing, towers and cells are one path, ocean is free."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import ClassVar

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from inference_fakes import WindowModel, chunked, fake

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.evaluation.skill import evaluate
from fluxcube.inference import loading as module
from fluxcube.inference.grid import upscale
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.maps.at_sites import sample_at_sites
from fluxcube.schema import validate_maps
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.variables import predictors as all_predictors


@pytest.fixture(scope="module")
def forcing():
    rng = np.random.default_rng(1)
    ds = example_forcing(shape=(5, 7), days=12)
    ds = ds.isel(time=slice(5, 280))  # a start that no stride and no day divides
    holes = xr.DataArray(rng.random(ds.predictors.shape) < 0.1, dims=ds.predictors.dims)
    ds["predictors"] = ds.predictors.where(~holes | ds["variable"].isin(["DOY", "TOD"]))
    ds["predictors"][2, 3, 60:90] = np.nan
    gone = rng.random((5, 7, ds.sizes["day"])) < 0.4
    ds["modis"] = ds.modis.where(~xr.DataArray(gone, dims=("latitude", "longitude", "day")))
    return ds


def as_cube(forcing):
    """The cells of a forcing as towers."""
    cells = forcing.stack(site=("latitude", "longitude"))
    n, hours = cells.sizes["site"], cells.sizes["time"]
    full = example_cube(sites=n, days=-(-hours // 24)).isel(time=slice(0, hours)).drop_vars(["modis", "day", "band"])
    values = cells.predictors.transpose("site", "time", "variable").reindex(variable=list(all_predictors()))
    full = full.assign_coords(
        time=forcing.time,
        latitude=("site", cells.latitude.values),
        longitude=("site", cells.longitude.values),
        elevation=("site", cells.elevation.values),
        igbp=("site", cells.igbp.values),
        time_start=("site", np.full(n, forcing.time.values[0])),
        time_stop=("site", np.full(n, forcing.time.values[-1] + np.timedelta64(1, "h"))),
        day=forcing.day,
        band=forcing.band,
    )
    chips = cells.modis.transpose("site", "day", "band", "y", "x").values
    return full.assign(
        predictors=(("site", "time", "variable"), values.values), modis=(("site", "day", "band", "y", "x"), chips)
    )


@pytest.mark.parametrize(
    ("context", "stride", "days"), [(5, 1, ()), (5, 2, (1, 3)), (5, 5, ()), (30, 7, (1, 3)), (1, 1, (1,))]
)
def test_chunks_change_nothing_and_cells_are_towers(forcing, context, stride, days):
    forcing = forcing.isel(time=slice(0, 150))  # four days are longer than any window and memory
    predictor = fake(context=context, memory_days=days)
    towers = predict(predictor, as_cube(forcing), stride=stride)
    for chunks, step in (({}, 480), ({"latitude": 2, "longitude": 3, "time": 29}, 24), ({"latitude": (1, 4)}, 72)):
        maps = upscale(predictor, forcing.chunk(chunks) if chunks else forcing, stride=stride, time_chunk=step)
        for name in ("NEE", "GPP_NT", "RECO"):
            cells = maps[name].values.transpose(1, 2, 0).reshape(35, -1)
            assert np.isnan(cells[0]).all()  # the cell without land
            np.testing.assert_allclose(cells[1:], towers[name].values[1:], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_maps_sampled_at_towers_are_the_predictions_there(forcing, method):
    """Towers at the centres of the cells, with the inputs of the cells."""
    forcing = forcing.isel(time=slice(0, 150))
    predictor, cube = fake(context=5), as_cube(forcing)
    cube = cube.isel(site=slice(None, None, -1)).assign_coords(longitude=("site", cube.longitude.values[::-1] + 0.001))
    maps = upscale(predictor, forcing.chunk(latitude=2, longitude=3), stride=5)
    towers, sampled = predict(predictor, cube, stride=5), sample_at_sites(maps, cube)
    if method == "bilinear":
        cube = cube.assign_coords(longitude=cube.longitude - 0.001)
        sampled = sample_at_sites(maps, cube, method=method)
    for name in ("NEE", "GPP_NT", "RECO"):
        np.testing.assert_allclose(sampled[name][:-1], towers[name][:-1], rtol=2e-5, atol=1e-5)
        assert sampled[name][-1].isnull().all()  # the cell without land
    assert sampled.cell_note.values[-1] == "in a cell without land"
    scores = [
        evaluate(cube, data, max_qc=None).rmse.sel(target="NEE").item()
        for data in (towers.isel(site=slice(0, -1)), maps)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


@pytest.mark.parametrize("stride", [1, 7])
def test_a_part_of_the_hours_is_mapped_as_in_the_whole(forcing, stride):
    predictor = fake(context=30, memory_days=(1, 3))
    whole = upscale(predictor, forcing, stride=stride)
    part = slice("2018-06-05T07", "2018-06-07T20")
    cut = upscale(predictor, forcing, stride=stride, time=part)
    assert cut.time.identical(whole.time.sel(time=part)) and cut.time_bnds.sizes["time"] == 62
    np.testing.assert_allclose(cut.NEE, whole.NEE.sel(time=part), rtol=2e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="selects no time step"):
        upscale(predictor, forcing, time=slice("2030", "2031"))


def test_maps_are_labelled_and_lazy(forcing):
    stored = chunked(forcing, latitude=3, longitude=4)
    with dask.config.set(scheduler=_refuse):
        maps = upscale(fake(), stored, time_chunk=48)
    validate_maps(maps)
    assert maps.NEE.dims == ("time", "latitude", "longitude") and maps.NEE.dtype == np.float32
    assert maps.NEE.chunks == ((48, 48, 48, 48, 48, 35), (3, 2), (4, 3))
    assert maps.NEE.attrs["units"] == "umol m-2 s-1" and maps.latitude.attrs["units"] == "degrees_north"
    np.testing.assert_array_equal(maps.land_fraction, forcing.land_fraction)
    np.testing.assert_array_equal(maps.time_bnds[:, 1] - maps.time_bnds[:, 0], np.timedelta64(1, "h"))
    assert maps.attrs["kind"] == "maps" and maps.attrs["model_digest"] == "none"


def test_uneven_chunks_become_even(forcing):
    maps = upscale(fake(), forcing.chunk(latitude=(1, 3, 1), longitude=7))
    assert maps.NEE.chunksizes["latitude"] == (3, 2)


def test_blocks_without_land_cost_nothing(forcing):
    read = []

    def reader(block, block_info):
        read.append(block_info[0]["chunk-location"][:2])
        return block

    land = np.zeros((5, 7))
    land[3, 5] = 0.4
    ocean = forcing.chunk(latitude=2, longitude=3).assign_coords(land_fraction=(("latitude", "longitude"), land))
    values = da.map_blocks(reader, ocean.predictors.data, dtype="float32", meta=np.empty((0,) * 4, "float32"))
    maps = upscale(fake(), ocean.assign(predictors=(ocean.predictors.dims, values)))
    found = np.isfinite(maps.NEE.values).any(0)
    assert set(read) == {(1, 1)}
    assert np.argwhere(found).tolist() == [[3, 5]]


class Counting(WindowModel):
    """Notes how many windows it is asked for. In the module, not in the test: Dask copies what it cannot import."""

    seen: ClassVar[list[int]] = []

    def predict(self, batch):
        self.seen.append(len(batch.inputs))
        return super().predict(batch)


def test_only_land_cells_reach_the_model(forcing):
    Counting.seen.clear()
    land = np.zeros((5, 7))
    land[2, 2:4] = 1.0
    maps = upscale(
        dataclasses.replace(fake(), model=Counting()),
        forcing.assign_coords(land_fraction=(("latitude", "longitude"), land)),
        stride=1,
    )
    assert Counting.seen == []
    found = int(np.isfinite(maps.NEE.values).sum())
    assert found == sum(Counting.seen) == 2 * (275 - 4) - 30  # one cell has 30 hours without any predictor


def test_missing_predictors_are_masked_and_named(forcing):
    few = forcing.sel(variable=["VPD", "TOD", "TA"]).sel(band=["nir"])
    with pytest.raises(ConfigError, match=r"trained on DOY, SW_IN, band red, which.*allow_missing=True"):
        upscale(fake(), few)
    maps = upscale(fake(), few, allow_missing=True)
    assert maps.attrs["masked_predictors"] == "DOY, SW_IN, band red"
    nan = forcing.copy(deep=True)
    nan.predictors.loc[{"variable": ["DOY", "SW_IN"]}] = np.nan
    nan.modis.loc[{"band": "red"}] = np.nan
    np.testing.assert_array_equal(maps.NEE.values, upscale(fake(), nan).NEE.values)


def test_without_chips_class_or_elevation_it_says_so(forcing):
    bare = forcing.drop_vars("modis")
    bare["igbp"] = (("latitude", "longitude"), np.full((5, 7), "", object))
    bare["elevation"] = bare.elevation * np.nan
    maps = upscale(fake(), bare, allow_missing=True)
    assert maps.attrs["masked_predictors"] == "band red, band nir, igbp, elevation"
    assert np.isfinite(maps.NEE.values[10:, 1, 1]).all()


def test_a_grid_without_a_single_measured_predictor_is_refused(forcing):
    with pytest.raises(ConfigError, match="TA, SW_IN, VPD"):
        upscale(fake(), forcing.sel(variable=["DOY", "TOD", "SW_IN_POT"]))


def test_the_class_of_a_cell_changes_its_flux(forcing):
    other = forcing.assign_coords(igbp=(("latitude", "longitude"), np.full((5, 7), "ENF", object)))
    a, b = upscale(fake(), forcing).NEE.isel(time=100).values, upscale(fake(), other).NEE.isel(time=100).values
    same = forcing.igbp.values == "ENF"
    np.testing.assert_allclose(a[same], b[same], rtol=1e-6)
    assert (np.abs(a - b)[~same & np.isfinite(a)] > 0.5).all()


def test_targets_choose_and_strange_ones_are_refused(forcing):
    assert list(upscale(fake(), forcing, targets=["RECO"])) == ["RECO"]
    with pytest.raises(UnknownNameError, match="GPP_NT"):
        upscale(fake(), forcing, targets=["GPP_DT"])


@pytest.mark.parametrize("hours", [0, 23, 25, -24])
def test_time_chunks_are_days(forcing, hours):
    with pytest.raises(ConfigError, match="24"):
        upscale(fake(), forcing, time_chunk=hours)


def test_a_cube_is_no_forcing():
    with pytest.raises(SchemaError):
        upscale(fake(), example_cube(sites=2, days=2))


class Heavy(WindowModel):
    """A model that must never be shipped."""

    def __reduce__(self):
        raise AssertionError("the model went into the graph")


def test_the_graph_holds_no_weights(forcing, monkeypatch):
    on_disk = Predictor(Heavy(), fake().spec, {}, Path("/runs/heavy"), "abc")
    monkeypatch.setitem(module._loaded, ("/runs/heavy", "abc", "", "auto"), on_disk)
    lazy = upscale(on_disk, forcing).NEE
    pickle.dumps(lazy.__dask_graph__())
    with pytest.raises(AssertionError, match="went into the graph"):
        pickle.dumps(upscale(dataclasses.replace(on_disk, path=None), forcing).NEE.__dask_graph__())
    np.testing.assert_array_equal(lazy.values, upscale(fake(), forcing).NEE.values)


def _refuse(*args, **kwargs):
    raise AssertionError("computed something that should stay lazy")


def test_maps_of_a_grid_without_land_are_refused(forcing):
    sea = forcing.assign_coords(land_fraction=forcing.land_fraction * 0)
    with pytest.raises(ConfigError, match=r"no cell of the grid has land .*35 cells"):
        upscale(fake(context=5), sea)


def test_a_period_that_is_no_slice_is_refused(forcing):
    with pytest.raises(ConfigError, match=r"expected a slice.*found \('2018-01', '2018-02'\)"):
        upscale(fake(), forcing, time=("2018-01", "2018-02"))

"""Predictions at towers: labels, laziness, records of different lengths."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from inference_fakes import chunked, fake

from fluxcube.cubes.masks import scale_by_bounds
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.inference.towers import predict
from fluxcube.samples.features import cube_block
from fluxcube.simulation.example import example_cube


@pytest.fixture
def cube():
    return example_cube(sites=3, days=6)


def test_labelled_equals_block(cube):
    predictor = fake(memory_days=(1,))
    pred = predict(predictor, cube, stride=3)
    block = predictor.predict_block(cube_block(cube, predictor.spec), stride=3)
    np.testing.assert_array_equal(pred.NEE.values, block[..., 0])
    np.testing.assert_array_equal(pred.GPP_NT.values, block[..., 1])
    assert pred.NEE.dims == ("site", "time") and pred.NEE.dtype == np.float32
    assert pred.NEE.attrs["units"] == "umol m-2 s-1"
    xr.testing.assert_equal(pred.igbp.drop_vars("in_training"), cube.igbp)
    assert pred.in_training.values.tolist() == [True, False, False]
    assert pred.attrs["stride_hours"] == 3 and pred.attrs["model"] == "fake"


def test_respiration_is_derived_and_says_so(cube):
    pred = predict(fake(), cube)
    np.testing.assert_allclose(pred.RECO.values, (pred.NEE + pred.GPP_NT).values)
    assert pred.RECO.attrs["derived"] == "NEE + GPP_NT" and "standard_name" not in pred.RECO.attrs
    assert "RECO" not in predict(fake(targets=("NEE", "RECO_NT")), cube)
    assert "RECO" not in predict(fake(targets=("GPP_NT", "GPP_DT")), cube)


@pytest.mark.parametrize("chunks", [{"site": 1}, {"site": 2, "time": 31}])
def test_lazy_equals_eager_and_computes_nothing_before(cube, chunks):
    eager = predict(fake(memory_days=(1,)), cube)
    stored = chunked(cube, **chunks)
    with dask.config.set(scheduler=_refuse):
        lazy = predict(fake(memory_days=(1,)), stored)
    assert lazy.NEE.chunksizes["site"] == (1, 1, 1)
    xr.testing.assert_identical(lazy.compute(), eager)


def test_progress_counts_sites(cube):
    seen = []
    pred = predict(fake(), cube.chunk(site=1), progress=lambda *step: seen.append(step))
    assert seen == [(1, 3, "XX-S00"), (2, 3, "XX-S01"), (3, 3, "XX-S02")]
    assert pred.NEE.chunks is None


def test_each_site_from_its_first_hour_to_its_last(cube):
    start, stop = cube.time.values[30], cube.time.values[100]
    cube.time_start[1], cube.time_stop[1] = start, stop
    pred = predict(fake(), cube, stride=1)
    has = np.flatnonzero(np.isfinite(pred.NEE.values[1]))
    assert (has[0], has[-1]) == (34, 99)
    alone = predict(fake(), cube.isel(site=[1], time=slice(30, 100)), stride=1)
    np.testing.assert_array_equal(alone.NEE.values[0], pred.NEE.values[1, 30:100])


def test_a_site_does_not_depend_on_its_company(cube):
    together = predict(fake(), cube)
    for i in range(3):
        xr.testing.assert_identical(predict(fake(), cube.isel(site=[i])).NEE, together.NEE.isel(site=[i]))


def test_order_of_variables_does_not_matter(cube):
    xr.testing.assert_identical(predict(fake(), cube.isel(variable=slice(None, None, -1))), predict(fake(), cube))


def test_inputs_that_the_cube_lacks_are_refused_as_on_grids(cube, caplog):
    few = cube.drop_vars("modis").sel(variable=["DOY", "TOD", "TA"])
    refusal = r"trained on SW_IN, VPD, band red.*the cube lacks.*build_carbonsense\(modis=\).*allow_missing=True"
    with pytest.raises(ConfigError, match=refusal):
        predict(fake(), few)
    pred = predict(fake(), few, allow_missing=True)
    assert pred.attrs["masked_predictors"] == "SW_IN, VPD, band red, band nir"
    assert "SW_IN, VPD" in caplog.text
    assert np.isfinite(pred.NEE.values[:, 10:]).all()


def test_a_cube_with_no_measured_predictor_is_refused(cube):
    with pytest.raises(ConfigError, match="TA, SW_IN, VPD"):
        predict(fake(), cube.sel(variable=["DOY", "TOD"]), allow_missing=True)


def test_values_that_are_unknown_at_the_towers_of_a_selection_are_only_logged(cube, caplog):
    """A loop over single towers works although one has no elevation, no class or no value of a predictor."""
    unknown = cube.assign_coords(elevation=cube.elevation * np.nan, igbp=("site", np.array([""] * 3, object)))
    unknown = unknown.assign(predictors=unknown.predictors.where(unknown["variable"] != "VPD"))
    pred = predict(fake(), unknown)
    assert pred.attrs["masked_predictors"] == "igbp, elevation"
    assert "igbp, elevation" in caplog.text


def test_another_clock_is_refused(cube):
    with pytest.raises(ConfigError, match="clock='solar'"):
        predict(fake(), cube.assign_attrs(clock="standard"))


def test_a_forcing_is_no_cube(cube):
    with pytest.raises(SchemaError, match="predictors"):
        predict(fake(), cube.drop_vars("predictors"))


def _refuse(*args, **kwargs):
    raise AssertionError("computed something that should stay lazy")


def test_a_cube_that_is_normalised_or_in_other_units_is_refused(cube):
    with pytest.raises(ConfigError, match="normalized=False"):
        predict(fake(), scale_by_bounds(cube))
    kelvin = np.where(cube["variable"] == "TA", "K", cube.units.values).astype(object)
    with pytest.raises(ConfigError, match="TA must be in degC, found K"):
        predict(fake(), cube.assign_coords(units=("variable", kelvin)))


def test_labels_of_any_type_of_text_are_compared(cube):
    """Zarr returns text as NumPy's StringDType, which cannot be cast to other types of text."""
    text = cube.assign_coords(site=cube.site.values.astype(np.dtypes.StringDType()))
    assert predict(fake(), text).in_training.values.tolist() == [True, False, False]

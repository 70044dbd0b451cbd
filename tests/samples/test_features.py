"""Features: masks, normalisation, memory and chips, against naive loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.samples.features import FeatureSpec, class_of, cube_block, make_block
from fluxcube.samples.images import NO_CHIP, fill_pixels
from fluxcube.samples.memory import trailing_mean
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.variables import BANDS, table

FULL = FeatureSpec(
    predictors=("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT"),
    memory_days=(1, 3),
    bands=BANDS,
    static=("latitude", "elevation", "igbp"),
    igbp_classes=("DBF", "GRA"),
    targets=("NEE", "GPP_DT"),
    target_mean=(-1.0, 5.0),
    target_scale=(6.0, 8.0),
)


def naive_mean(values, hours):
    out = np.full(len(values), np.nan)
    for i in range(len(values)):
        span = values[max(0, i - hours + 1) : i + 1]
        span = span[np.isfinite(span)]
        if len(span) and len(span) >= hours / 2:
            out[i] = span.mean()
    return out


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.floats(0, 1), st.integers(0, 99))
def test_trailing_mean_equals_a_naive_loop(hours, length, gaps, seed):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(length) < gaps, np.nan, rng.normal(5, 20, length))
    np.testing.assert_allclose(trailing_mean(values, hours), naive_mean(values, hours), rtol=1e-5)


def test_spec_round_trips_through_json_and_refuses_what_it_does_not_know():
    assert FeatureSpec.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL
    with pytest.raises(UnknownNameError, match="did you mean 'predictors'"):
        FeatureSpec.from_dict({"predictor": ["TA"]})
    with pytest.raises(UnknownNameError, match="SW_IN"):
        FeatureSpec(predictors=("SW_INN",))
    with pytest.raises(ConfigError, match="LE"):
        FeatureSpec(predictors=("TA", "LE"), targets=("LE",))
    with pytest.raises(ConfigError, match="whole days"):
        FeatureSpec(predictors=("TA",), memory_days=(0,))


def test_memory_columns_leave_out_clocks_and_follow_the_spans():
    assert FULL.memory_predictors == ("TA", "SW_IN", "VPD")
    assert FULL.inputs[6:] == (
        "TA_MEAN_1D",
        "SW_IN_MEAN_1D",
        "VPD_MEAN_1D",
        "TA_MEAN_3D",
        "SW_IN_MEAN_3D",
        "VPD_MEAN_3D",
    )
    assert len(FULL.input_variables) == len(FULL.inputs)
    assert FULL.memory_steps == 72


def test_block_of_a_cube_is_the_physical_values_normalised():
    cube = example_cube(sites=3, days=9)
    block = cube_block(cube, FULL)
    ta = cube.predictors.sel(variable="TA").values
    low, high = table()["TA"].bounds
    np.testing.assert_allclose(block.inputs[..., 2], (ta - (low + high) / 2) / (high - low), atol=1e-6)
    mean = np.stack([naive_mean(row, 72) for row in ta])
    at = FULL.inputs.index("TA_MEAN_3D")
    np.testing.assert_allclose(block.inputs[..., at], (mean - (low + high) / 2) / (high - low), atol=1e-6)
    assert np.isnan(block.inputs[:, :35, at]).all()
    assert np.isfinite(block.inputs[:, 35:, at]).all()
    tod = cube.predictors.sel(variable="TOD").values
    np.testing.assert_allclose(block.inputs[..., 1], (tod - 12) / 12, atol=1e-6)
    assert block.first_hour == int(cube.time.values[0].astype("datetime64[h]").astype(int))
    np.testing.assert_allclose(block.numbers[:, 0], cube.latitude.values / 180, rtol=1e-6)
    assert block.classes.ravel().tolist() == [0, 1, -1]


def cells_of(forcing, chosen):
    cells = forcing.stack(cell=("latitude", "longitude")).transpose("cell", ...).isel(cell=chosen)
    return make_block(
        cells.predictors.sel(variable=list(FULL.predictors)).transpose("cell", "time", "variable").values,
        forcing.time.values,
        cells.latitude.values,
        cells.longitude.values,
        spec=FULL,
        statics={"elevation": cells.elevation.values, "igbp": cells.igbp.values},
        chips=cells.modis.transpose("cell", "day", "band", "y", "x").values,
        days=forcing.day.values,
    )


def test_a_cell_does_not_depend_on_its_neighbours():
    forcing = example_forcing(shape=(2, 2), days=10)
    together = cells_of(forcing, [0, 1, 2, 3])
    assert together.chips.shape == (4, 2, 9, 64)
    for cell in range(4):
        alone = cells_of(forcing, [cell])
        for name in ("inputs", "observed", "numbers", "classes", "chips", "chip_hour"):
            np.testing.assert_array_equal(getattr(together, name)[cell], getattr(alone, name)[0])


def test_bad_values_are_masked_before_the_means():
    cube = example_cube(sites=1, days=4)
    values = cube.predictors.sel(variable=list(FULL.predictors)).values
    broken = values.copy()
    broken[0, 30, 2] = -9999.0
    flags = np.zeros(values.shape, np.int8)
    flags[0, 40, 2] = 2
    place = (cube.latitude.values, cube.longitude.values)
    block = make_block(broken, cube.time.values, *place, spec=FULL, qc=flags)
    gaps = values.copy()
    gaps[0, [30, 40], 2] = np.nan
    expected = make_block(gaps, cube.time.values, *place, spec=FULL)
    np.testing.assert_array_equal(block.inputs, expected.inputs)
    assert np.isnan(block.inputs[0, [30, 40], 2]).all()
    loose = FeatureSpec.from_dict(FULL.to_dict() | {"predictor_max_qc": None})
    assert np.isfinite(make_block(values, cube.time.values, *place, spec=loose, qc=flags).inputs[0, 40, 2])


def test_observed_means_a_measured_predictor():
    cube = example_cube(sites=1, days=2)
    values = cube.predictors.sel(variable=list(FULL.predictors)).values
    values[0, 5, 2:5] = np.nan
    block = make_block(values, cube.time.values, cube.latitude.values, cube.longitude.values, spec=FULL)
    assert not block.observed[0, 5]
    assert block.observed[0, [4, 6]].all()


def test_chips_stand_at_local_noon_and_missing_ones_go_last():
    days = np.array(["2018-06-01", "2018-06-02", "2018-06-03"], "datetime64[ns]")
    chips = np.random.default_rng(0).random((2, 3, 9, 8, 8), dtype="float32")
    chips[0, 1] = np.nan
    cube = example_cube(sites=2, days=3)
    values = cube.predictors.sel(variable=list(FULL.predictors)).values
    block = make_block(values, cube.time.values, [40.0, 40.0], [0.0, -90.0], spec=FULL, chips=chips, days=days, qc=None)
    assert block.chip_hour.tolist() == [[12, 60, NO_CHIP], [18, 42, 66]]
    np.testing.assert_array_equal(block.chips[0, 1], chips[0, 2].reshape(9, 64))
    assert np.isnan(block.chips[0, 2]).all()


def test_missing_pixels_become_the_mean_of_their_band():
    rng = np.random.default_rng(1)
    pixels = rng.random((4, 9, 64), dtype="float32")
    pixels[0, 2, :10] = np.nan
    pixels[1, 3] = np.nan
    pixels[2, :7, :33] = np.nan
    pixels[3, 7] = np.nan
    filled = fill_pixels(pixels, BANDS)
    np.testing.assert_allclose(filled[0, 2, :10], pixels[0, 2, 10:].mean(), rtol=1e-6)
    assert np.isnan(filled[1, 3]).all()
    assert np.isfinite(filled[1, [0, 1, 2, 4]]).all()
    assert np.isnan(filled[2]).all()
    assert np.isnan(filled[3, 7]).all()
    np.testing.assert_array_equal(filled[3, :7], pixels[3, :7])


def test_another_clock_is_refused():
    cube = example_cube(sites=1, days=2).assign_attrs(clock="standard")
    with pytest.raises(ConfigError, match="clock"):
        cube_block(cube, FULL)


def test_a_predictor_that_the_cube_lacks_is_masked(caplog):
    cube = example_cube(sites=1, days=2)
    spec = FeatureSpec(predictors=("TA", "CO2"))
    block = cube_block(cube.sel(variable=["TA"]), spec)
    assert "CO2" in caplog.text
    assert np.isnan(block.inputs[..., 1]).all()
    np.testing.assert_array_equal(block.inputs, cube_block(cube, spec).inputs)


@pytest.mark.parametrize(
    ("text", "climate"),
    [("Dfb", "D"), ("dfb", "D"), (" ET", "E"), ("BSk (steppe)", "B"), ("Aw/Am", "A"), ("C", "C")]
    + [(text, "") for text in ("", "nan", "None", "NA", "-9999", "unknown", "arid", "Desert", "Cold", "Boreal")],
)
def test_text_that_is_no_koeppen_class_is_unknown(text, climate):
    """Its first letter would be a climate of its own, or that of other towers."""
    assert class_of("koppen", text) == climate

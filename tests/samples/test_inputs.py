"""Model inputs in bulk: trailing means over several spans, scaling and masks, against one column at a time."""

from __future__ import annotations

import numpy as np
import pytest

from fluxcube.normalisation import normalise, within_bounds
from fluxcube.samples import inputs as inputs_module
from fluxcube.samples.features import FeatureSpec, make_block
from fluxcube.samples.memory import trailing_mean, trailing_means
from fluxcube.variables import table

NAMES = ("DOY", "TA", "SW_IN", "WD", "P", "RH")


def weather(gaps: float, places: int = 5, hours: int = 130) -> np.ndarray:
    """Return values of which some are missing or outside their bounds; one place has none, and one column neither."""
    rng = np.random.default_rng(3)
    low, high = np.array([table()[name].bounds for name in NAMES], np.float32).T
    values = (low + high) / 2 + (high - low) * rng.normal(0, 0.25, (places, hours, len(NAMES)))
    values[rng.random(values.shape) < gaps] = np.nan
    values[0, 40:90, 4] = 0.0  # at the bound for longer than the mean
    values[1], values[:, :, 5], values[2, 7, 1] = np.nan, np.nan, np.inf
    return values.astype(np.float32)


def by_column(values: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """Compute one column after the other, as features were computed before."""
    bounded = [within_bounds(values[..., i], x, bounds=spec.bounds) for i, x in enumerate(spec.predictors)]
    columns = list(bounded)
    for days in spec.memory_days:
        columns += [trailing_mean(bounded[spec.predictors.index(x)], 24 * days) for x in spec.memory_predictors]
    inputs = normalise(np.stack(columns, -1), spec.input_variables, bounds=spec.bounds)
    if spec.input_scale:
        inputs = (inputs - np.float32(spec.input_mean)) / np.float32(spec.input_scale)
    return inputs


@pytest.mark.parametrize("gaps", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("bounds", ["table", "ours", "v1"])
@pytest.mark.parametrize("twice", [False, True])
def test_inputs_in_bulk_equal_one_column_at_a_time(monkeypatch, gaps, bounds, twice):
    monkeypatch.setattr(inputs_module, "_VALUES", 2000)  # one place at a time
    values, hours = weather(gaps), np.datetime64("2020-03-01T05", "ns") + np.arange(130) * np.timedelta64(1, "h")
    spec = FeatureSpec(predictors=NAMES, memory_days=(2, 1), bounds=bounds)
    if twice:
        scaling = {"input_mean": (0.1,) * len(spec.inputs), "input_scale": (0.3,) * len(spec.inputs)}
        spec = FeatureSpec(predictors=NAMES, memory_days=(2, 1), bounds=bounds, **scaling)
    before = values.copy()
    block = make_block(values, hours, np.zeros(5), np.zeros(5), spec=spec)
    expected = by_column(values, spec)
    np.testing.assert_array_equal(block.inputs, expected)
    np.testing.assert_array_equal(block.observed, np.isfinite(expected[..., 1:6]).any(-1))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("lead", [1, 29, 60])
def test_the_first_hours_may_enter_the_means_only(lead):
    values, hours = weather(0.2), np.datetime64("2020-03-01T05", "ns") + np.arange(130) * np.timedelta64(1, "h")
    spec = FeatureSpec(predictors=NAMES, memory_days=(1, 2))
    whole = make_block(values, hours, np.zeros(5), np.zeros(5), spec=spec)
    part = make_block(values, hours, np.zeros(5), np.zeros(5), spec=spec, lead=lead)
    np.testing.assert_array_equal(part.inputs, whole.inputs[:, lead:])
    np.testing.assert_array_equal(part.observed, whole.observed[:, lead:])
    assert part.first_hour == whole.first_hour + lead


def test_bounds_that_float32_rounds_mask_the_same_values(monkeypatch):
    def limits_of(name, **_):
        return (0.1, 0.7)

    monkeypatch.setattr("fluxcube.normalisation.bounds_of", limits_of)
    monkeypatch.setattr(inputs_module, "bounds_of", limits_of)
    near = np.float32([0.1, 0.7, 0.5])
    values = np.stack([near, np.nextafter(near, np.float32(1)), np.nextafter(near, np.float32(0))], 1).reshape(1, 9, 1)
    hours = np.datetime64("2020-01-01", "ns") + np.arange(9) * np.timedelta64(1, "h")
    spec = FeatureSpec(predictors=("TA",))
    block = make_block(values, hours, np.zeros(1), np.zeros(1), spec=spec)
    np.testing.assert_array_equal(block.inputs, by_column(values, spec))
    assert 0 < np.isnan(block.inputs).sum() < 9


@pytest.mark.parametrize("columns", [0, 1, 2, 3])
@pytest.mark.parametrize("first", [0, 5, 30])
def test_means_of_several_spans_equal_those_of_one(columns, first):
    rng = np.random.default_rng(columns)
    values = rng.normal(size=(2, columns, 30))
    values[0, : columns // 2, ::3] = np.nan
    found = trailing_means(values, (1, 4, 40), first=first)
    assert found.shape == (2, 3, columns, 30 - first)
    for i, steps in enumerate((1, 4, 40)):
        np.testing.assert_array_equal(found[:, i], trailing_mean(values, steps)[..., first:])

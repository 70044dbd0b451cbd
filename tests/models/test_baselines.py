"""Baselines: what they estimate, and what they do with missing inputs."""

from __future__ import annotations

import numpy as np
import pytest

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.regressions import MetClusters, MetClustersConfig, MetRegression, MetRegressionConfig
from fluxcube.models.simple import Mean, MeanConfig, MeanCycle, MeanCycleConfig

SIZES = Sizes(inputs=3, numbers=1, classes=(2,), targets=2)
COLUMNS = {"ta_column": 0, "sw_column": 1, "vpd_column": 2}


def weather(count=4000, seed=0):
    """Return TA, SW_IN and VPD that depend on each other, as measured ones do."""
    rng = np.random.default_rng(seed)
    ta, light = rng.normal(size=count), np.maximum(rng.normal(size=count), 0)
    return np.stack([ta, light, 0.5 * ta + 0.3 * rng.normal(size=count)], 1).astype("float32")


def test_the_mean_ignores_inputs_and_missing_fluxes():
    model = Mean(MeanConfig(), SIZES)
    model.fit(np.zeros((3, 0), "float32"), np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]]))
    assert model.predict_rows(np.zeros((2, 0), "float32")).tolist() == [[2.0, 0.0], [2.0, 0.0]]


def test_regression_of_each_set_of_inputs_is_least_squares_on_it():
    x = weather()
    noise = np.random.default_rng(1).normal(size=len(x))
    y = np.stack([1 + 2 * x[:, 0] - 3 * x[:, 1] + 0.5 * x[:, 2], noise + x[:, 2]], 1)
    x[::5, 0] = np.nan
    x[::7, 2] = np.nan
    y[::11, 1] = np.nan
    model = MetRegression(MetRegressionConfig(**COLUMNS), SIZES)
    model.fit(x, y)
    for inputs in ([0, 1, 2], [0], [1, 2]):
        rows = np.full((50, 3), np.nan, "float32")
        rows[:, inputs] = weather(50, 2)[:, inputs]
        for target in range(2):
            has = np.isfinite(x[:, inputs]).all(1) & np.isfinite(y[:, target])
            design = np.column_stack([x[has][:, inputs], np.ones(has.sum())])
            expected = np.linalg.lstsq(design, y[has, target], rcond=None)[0]
            found = model.predict_rows(rows)[:, target]
            np.testing.assert_allclose(found, rows[:, inputs] @ expected[:-1] + expected[-1], atol=1e-4)
    nothing = model.predict_rows(np.full((1, 3), np.nan, "float32"))[0]
    np.testing.assert_allclose(nothing, [np.mean(y[:, 0]), np.nanmean(y[:, 1])], atol=1e-5)


def test_a_constant_input_and_an_input_without_a_row_change_nothing():
    x, model = weather(), MetRegression(MetRegressionConfig(**COLUMNS), SIZES)
    y = np.tile(x[:, :1], 2)
    x[:, 1] = 0.25  # light of a polar night
    x[:, 2] = np.nan
    model.fit(x, y)
    rows = np.array([[1.0, 0.25, np.nan], [1.0, 0.9, np.nan], [2.0, np.nan, 3.0]], "float32")
    assert np.isfinite(model.predict_rows(rows)).all()
    np.testing.assert_allclose(model.predict_rows(rows)[:2, 0], [1.0, 1.0], atol=1e-4)


def test_clusters_fit_what_one_regression_cannot():
    x = weather()
    y = np.stack([np.abs(x[:, 0]), x[:, 1] * x[:, 0]], 1)
    line, clusters = (
        MetRegression(MetRegressionConfig(**COLUMNS), SIZES),
        MetClusters(MetClustersConfig(**COLUMNS), SIZES),
    )
    new = weather(500, 5)
    truth = np.stack([np.abs(new[:, 0]), new[:, 1] * new[:, 0]], 1)
    errors = []
    for model in (line, clusters):
        model.fit(x, y, seed=3)
        errors.append(np.square(model.predict_rows(new) - truth).mean(0))
    assert (errors[1] < 0.2 * errors[0]).all()
    gap = new.copy()
    gap[:, 2] = np.nan
    np.testing.assert_array_equal(clusters.predict_rows(gap), line.predict_rows(gap))
    again = MetClusters(MetClustersConfig(**COLUMNS), SIZES)
    again.fit(x, y, seed=3)
    np.testing.assert_array_equal(again.predict_rows(new), clusters.predict_rows(new))


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_few_and_equal_rows_have_an_estimate(count):
    x = np.tile(np.array([[0.1, 0.2, 0.3]], "float32"), (count, 1))
    model = MetClusters(MetClustersConfig(**COLUMNS, clusters=4), SIZES)
    model.fit(x, np.full((count, 2), 7.0))
    expected = 7.0 if count else 0.0
    np.testing.assert_allclose(model.predict_rows(weather(3)), expected, atol=1e-5)


def test_southern_months_are_shifted_by_half_a_year():
    config = MeanCycleConfig(doy_column=0, tod_column=1, latitude=0)
    model = MeanCycle(config, SIZES)
    batch = Batch(
        inputs=np.full((3, 1, 3), -1.0, "float32"),  # 1 January, midnight
        images=np.zeros((3, 0, 1, 64), "float32"),
        image_step=np.zeros((3, 0), int),
        numbers=np.array([[0.3], [-0.3], [np.nan]], "float32"),
        classes=np.zeros((3, 1), int),
    )
    assert model.rows(batch)[:, 1].tolist() == [0, 6, 0]
    with pytest.raises(ConfigError, match="latitude must be one of the 1 static numbers, found 1"):
        MeanCycle(MeanCycleConfig(doy_column=0, latitude=1), SIZES)
    with pytest.raises(ConfigError, match="months must be even"):
        MeanCycle(MeanCycleConfig(doy_column=0, latitude=0, months=13), SIZES)
    with pytest.raises(ConfigError, match="clusters must be 1 or more"):
        MetClustersConfig(**COLUMNS, clusters=0)

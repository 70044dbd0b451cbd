"""Trees and the two yardsticks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.models import registry
from fluxcube.models.base import Batch, Model, Sizes
from fluxcube.models.boosting import Boosting, BoostingConfig, chip_means
from fluxcube.models.simple import MeanCycle, MeanCycleConfig, SWLinear, SWLinearConfig

SIZES = Sizes(inputs=3, bands=2, numbers=1, classes=(2,), targets=2)


def make_batch(count, seed=0, hours=1):
    rng = np.random.default_rng(seed)
    met = rng.uniform(-1, 1, (count, hours, 3)).astype("float32")
    return Batch(
        met=met,
        images=rng.random((count, 2, 2, 64), dtype="float32"),
        image_step=np.tile([0, -1], (count, 1)),
        numbers=rng.uniform(-0.5, 0.5, (count, 1)).astype("float32"),
        classes=rng.integers(0, 2, (count, 1)),
    )


def test_swlinear_recovers_a_line():
    model, batch = SWLinear(SWLinearConfig(column=1), SIZES), make_batch(200)
    sun = batch.met[:, -1, 1]
    targets = np.stack([2 * sun - 1, -3 * sun], 1)
    targets[::7, 0] = np.nan
    batch.met[3, 0, 1] = np.nan
    targets[3] = [5.0, 5.0]
    model.fit(model.rows(batch), targets)
    out = model.predict(batch)[:, -1]
    keep = np.arange(200) != 3
    np.testing.assert_allclose(out[keep, 1], -3 * sun[keep], atol=1e-5)
    np.testing.assert_allclose(out[keep, 0], 2 * sun[keep] - 1, atol=1e-5)
    np.testing.assert_allclose(out[3], np.nanmean(targets, 0), atol=1e-5)


def test_mean_cycle_is_the_mean_of_its_bin_with_fallbacks():
    model = MeanCycle(MeanCycleConfig(doy_column=0, tod_column=1), SIZES)
    rows = np.array([[0, 0, 5], [0, 0, 5], [1, 0, 5], [0, 3, 5], [0, 0, 6]], "float32")
    targets = np.array([[1.0, 1], [3.0, 3], [8.0, 8], [20.0, np.nan], [100.0, 100]])
    model.fit(rows, targets)
    asked = np.array([[0, 0, 5], [1, 3, 5], [2, 0, 5], [1, 7, 5], [1, 7, 20]], "float32")
    #            bin     month and hour  unknown class   hour             all
    np.testing.assert_allclose(model.predict_rows(asked)[:, 0], [2.0, 20.0, 4.0, 8.0, 26.4], rtol=1e-6)


def test_mean_cycle_reads_the_clocks():
    model = MeanCycle(MeanCycleConfig(doy_column=0, tod_column=1), SIZES)
    doy = np.array([0.0, 30.6, 183.0, 365.9])
    tod = np.array([0.0, 13.0, 23.0, 23.9])
    batch = make_batch(4)._replace(classes=np.array([[0], [1], [-1], [0]]))
    batch.met[:, 0, 0] = doy / 183 - 1
    batch.met[:, 0, 1] = tod / 12 - 1
    assert model.rows(batch).tolist() == [[0, 0, 0], [1, 1, 13], [2, 6, 23], [0, 11, 23]]


def test_chip_means_weigh_by_distance_from_the_centre():
    images = np.zeros((2, 2, 1, 64), "float32")
    images[0, 0, 0, 27] = 1.0  # next to the centre
    images[1, 0, 0, 0] = 1.0  # a corner
    images[0, 1] = 50.0
    mean = chip_means(images, np.array([[0, -1], [0, -1]]), 1)[:, 0]
    distance = [np.hypot(3.5 - i, 3.5 - j) for i in range(8) for j in range(8)]
    total = sum(1 / d for d in distance)
    np.testing.assert_allclose(mean, [1 / distance[27] / total, 1 / distance[0] / total], rtol=1e-5)
    np.testing.assert_allclose(chip_means(np.full((1, 2, 1, 64), 0.3, "float32"), np.array([[0, 5]]), 1), 0.3)
    assert np.isnan(chip_means(images, np.full((2, 2), -1), 1)).all()


def test_boosting_learns_each_target_and_takes_gaps():
    model = Boosting(BoostingConfig(n_estimators=40, max_depth=4), SIZES)
    batch = make_batch(3000)
    batch.met[::5, 0, 2] = np.nan
    targets = np.stack([batch.met[:, 0, 0] ** 2, batch.classes[:, 0] + batch.images[:, 0, 1].mean(-1)], 1)
    targets[::3, 1] = np.nan
    logged = model.fit(model.rows(batch), targets, seed=3)
    assert set(logged) == {"trees_0", "trees_1"}
    out = model.predict(batch)[:, 0]
    seen = np.isfinite(targets)
    assert np.abs(out[seen] - targets[seen]).mean() < 0.05
    again = Boosting(model.config, SIZES)
    again.fit(again.rows(batch), targets, seed=3)
    assert again.weights() == model.weights()


def test_boosting_stops_early():
    model = Boosting(BoostingConfig(n_estimators=200, early_stopping=5), SIZES)
    rng = np.random.default_rng(0)
    rows, noise = model.rows(make_batch(500)), rng.normal(size=(500, 2))
    logged = model.fit(rows, noise, model.rows(make_batch(300, 1)), rng.normal(size=(300, 2)))
    assert logged["trees_0"] < 100


def test_boosting_takes_lags():
    model = Boosting(BoostingConfig(context=4, n_estimators=5), SIZES)
    assert model.rows(make_batch(2, hours=4)).shape == (2, 4 * 3 + 2 + 1 + 2)
    assert model.context == 4


def test_max_rows_are_drawn_by_seed():
    rows, targets = np.random.default_rng(0).normal(size=(500, 4)).astype("float32"), np.arange(1000.0).reshape(500, 2)
    weights = []
    for seed in (0, 0, 1):
        model = Boosting(BoostingConfig(max_rows=50, n_estimators=3, subsample=1.0, colsample_bytree=1.0), SIZES)
        model.fit(rows, targets, seed=seed)
        weights.append(model.weights()["model.0.ubj"])
    assert weights[0] == weights[1] != weights[2]


def test_presets_differ_and_configs_refuse_what_they_do_not_know():
    presets = [BoostingConfig(), BoostingConfig.published(), BoostingConfig.xbase()]
    assert len({tuple(dataclasses.asdict(p).values()) for p in presets}) == 3
    assert (presets[1].n_estimators, presets[1].max_depth, presets[2].max_leaves) == (150, 9, 31)
    with pytest.raises(UnknownNameError, match="max_depth"):
        BoostingConfig.from_dict({"maxdepth": 3})
    with pytest.raises(ConfigError, match="column 9"):
        SWLinear(SWLinearConfig(column=9), SIZES)
    with pytest.raises(ConfigError, match="train it first"):
        Boosting(BoostingConfig(), SIZES).predict(make_batch(1))


def test_all_models_keep_one_protocol():
    configs = {
        "ecoperceiver": {},
        "xgboost": {},
        "sw-linear": {"column": 0},
        "mean-cycle": {"doy_column": 0, "tod_column": 1},
    }
    assert set(configs) == set(registry.names())
    for name, config in configs.items():
        model = registry.build(name, config, SIZES)
        assert isinstance(model, Model) and model.kind == name
        assert model.n_targets == 2 and 1 <= model.emits <= model.context
    with pytest.raises(UnknownNameError, match="did you mean 'xgboost'"):
        registry.build("xgbost", {}, SIZES)

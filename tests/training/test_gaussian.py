"""Means with variances: the likelihood, its weights, and intervals that hold what they promise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import xarray as xr
from training_helpers import FAST, TARGETS, TINY, eco, small_cube, weights

from fluxcube.errors import ConfigError
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import checkpoint
from fluxcube.resolution import HOURLY
from fluxcube.samples.splits import per_igbp
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.training.calibration import LEVELS, calibration_factors
from fluxcube.training.loss import gaussian_nll, squared_error
from fluxcube.training.weights import WeightedWindows, flux_weights, inverse_variance

torch.set_num_threads(1)  # tests run beside each other

GAUSSIAN = dataclasses.replace(TINY, distribution="gaussian")


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def run(cube, tmp_path_factory):
    training = dataclasses.replace(FAST, epochs=6, val_windows=200)
    return eco(cube, tmp_path_factory.mktemp("gaussian") / "run", config=GAUSSIAN, training=training)


def drawn(shape=(5, 7, 2), seed=0):
    rng = torch.Generator().manual_seed(seed)
    mean, log_variance, wanted = (torch.randn(shape, generator=rng) for _ in range(3))
    wanted[torch.rand(shape, generator=rng) < 0.3] = torch.nan
    return mean, log_variance, wanted


def test_the_loss_is_torchs_own_likelihood():
    mean, log_variance, wanted = drawn()
    seen = torch.isfinite(wanted)
    normal = torch.distributions.Normal(mean[seen], (0.5 * log_variance[seen]).exp())
    constant = 0.5 * math.log(2 * math.pi) * seen.sum()
    torch.testing.assert_close(
        gaussian_nll(torch.cat([mean, log_variance], -1), wanted), -normal.log_prob(wanted[seen]).sum() - constant
    )
    torch.testing.assert_close(squared_error(mean, wanted), (mean - wanted)[seen].square().sum())


def test_missing_fluxes_of_one_target_change_nothing_but_their_own_term():
    mean, log_variance, wanted = drawn()
    out = torch.cat([mean, log_variance], -1).requires_grad_()
    odd = torch.full(wanted.shape, torch.nan)  # no weight where nothing is seen
    odd[torch.isfinite(wanted)] = 2.0
    gaussian_nll(out, wanted, odd, 0.5).backward()
    seen = torch.cat([torch.isfinite(wanted)] * 2, -1)
    assert torch.isfinite(out.grad).all() and (out.grad[~seen] == 0).all() and (out.grad[seen] != 0).all()


def test_weights_and_beta_scale_each_hours_loss():
    mean, log_variance, wanted = drawn()
    out = torch.cat([mean, log_variance], -1)
    for loss in (squared_error, gaussian_nll):
        torch.testing.assert_close(loss(out, wanted, torch.full(wanted.shape, 3.0)), 3 * loss(out, wanted))
    one = out.clone().requires_grad_()
    gaussian_nll(one, wanted, beta=1.0).backward()
    two = mean.clone().requires_grad_()
    (squared_error(two, wanted) / 2).backward()
    torch.testing.assert_close(one.grad[..., :2], two.grad)  # with beta = 1 the mean learns as by squared error


def test_the_mean_is_learnt_alone_at_first(cube, tmp_path):
    """After epochs of squared error the head of variances stands where it began."""
    training = dataclasses.replace(FAST, epochs=2, mse_epochs=2, keep="last", weight_decay=0.0)
    one = eco(cube, tmp_path / "one", config=GAUSSIAN, training=training)
    model, _ = checkpoint.load(one)
    assert (model.spread.weight == 0).all() and (model.head.weight != 0).all()
    two = eco(cube, tmp_path / "two", config=GAUSSIAN, training=dataclasses.replace(training, mse_epochs=1))
    assert (checkpoint.load(two)[0].spread.weight != 0).all()


def test_intervals_of_a_known_error_hold_their_share():
    """Errors three times as wide as said: the factor is 3, and the intervals hold 50, 80, 90 and 95 %."""
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(40000, 2)), rng.uniform(0.1, 2.0, (40000, 2))
    obs = mean + std * [3.0, 0.5] * rng.normal(size=mean.shape)
    obs[::3, 0] = np.nan
    found = calibration_factors(obs, mean, std, np.arange(40000) % 8, ("NEE", "LE"))
    assert found["NEE"]["factor"] == pytest.approx(3.0, rel=0.02)
    assert found["LE"]["factor"] == pytest.approx(0.5, rel=0.02)
    assert found["NEE"]["hours"] == np.isfinite(obs[:, 0]).sum() and found["NEE"]["sites"] == 8
    for level in LEVELS:
        for name in ("NEE", "LE"):
            for kind in ("calibrated", "held_out"):
                assert found[name][kind][f"{level:g}"] == pytest.approx(level, abs=0.01)
    assert found["NEE"]["as_given"]["0.95"] == pytest.approx(2 * 0.2432, abs=0.01)  # within 1.96 / 3 sigma


def test_a_site_that_is_unlike_the_others_is_told_by_what_is_held_out():
    rng = np.random.default_rng(1)
    site = np.repeat([0, 1, 2], 3000)
    obs = np.where(site == 2, 8.0, 1.0)[:, None] * rng.normal(size=(9000, 1))
    found = calibration_factors(obs, np.zeros((9000, 1)), np.ones((9000, 1)), site, ("NEE",))["NEE"]
    assert found["held_out"]["0.8"] < found["calibrated"]["0.8"] - 0.05
    assert calibration_factors(obs[:10], np.zeros((10, 1)), np.ones((10, 1)), site[:10], ("NEE",)) == {
        "NEE": {"factor": 1.0}
    }


def test_a_run_reports_its_coverage(run):
    _, about = checkpoint.load(run)
    assert about["calibration"] == run.calibration and set(run.calibration) == set(TARGETS)
    for found in run.calibration.values():
        assert set(found) >= {"factor", "hours", "sites", "as_given", "calibrated", "held_out"}
        shares = [found["calibrated"][f"{level:g}"] for level in LEVELS]
        assert shares == sorted(shares) and max(abs(s - v) for s, v in zip(shares, LEVELS, strict=True)) < 0.12
    assert "coverage of 80 % intervals: NEE" in run.summary


def test_predictions_come_with_calibrated_standard_deviations(cube, run):
    model = load_model(run)
    towers = cube.sel(site=list(run.split.val))
    plain, both = predict(model, towers), predict(model, towers, uncertainty=True)
    assert set(both) == {*plain, "NEE_std", "GPP_NT_std"} and "RECO" in plain
    xr.testing.assert_identical(both[list(plain)], plain)
    lazy = predict(run.path, towers.chunk(site=1), uncertainty=True)
    xr.testing.assert_allclose(lazy.compute(), both)
    for name in TARGETS:
        std, measured = (
            both[f"{name}_std"],
            towers.fluxes.sel(target=name).where(towers.fluxes_qc.sel(target=name) == 0),
        )
        assert std.attrs["units"] == plain[name].attrs["units"]
        assert set(std.attrs["calibration_sites"].split()) == set(run.split.val)
        assert std.attrs["calibration_factor"] == pytest.approx(run.calibration[name]["factor"])
        assert (np.isfinite(std) == np.isfinite(plain[name])).all() and float(std.min()) > 0
        inside = np.abs(measured - plain[name]) <= 1.2816 * std
        share = float(inside.where(np.isfinite(measured) & np.isfinite(std)).mean())
        assert share == pytest.approx(run.calibration[name]["calibrated"]["0.8"], abs=0.12)  # of other hours there
    unit = {name: found | {"factor": 1.0} for name, found in model.metadata["calibration"].items()}
    raw = dataclasses.replace(model, metadata={**model.metadata, "calibration": unit})
    factors = predict(model, towers, uncertainty=True).NEE_std / predict(raw, towers, uncertainty=True).NEE_std
    np.testing.assert_allclose(factors.values[np.isfinite(factors)], run.calibration["NEE"]["factor"], rtol=1e-5)


def test_a_model_that_knows_no_error_says_so(cube, tmp_path):
    one = eco(cube, tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="distribution='gaussian'"):
        predict(one, cube, uncertainty=True)
    assert not one.calibration


def test_weights_fall_with_the_error_of_a_label():
    spread = np.array([[0.5, 1.0], [1.0, np.nan], [2.0, 1.0], [np.nan, 1.0]])
    observed = np.array([[True, True], [True, True], [True, False], [True, True]])
    found = inverse_variance(spread, observed)
    typical = 1.0  # the median
    raw = 1 / (np.array([0.25, 1.0, 4.0, typical]) + typical)
    np.testing.assert_allclose(found[:, 0], raw / raw.mean(), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], [1, 1, 0, 1])


def with_uncertainty(cube, sites, factor):
    spread = xr.full_like(cube.fluxes, 1.0).where(cube.fluxes.notnull())
    wide = cube.site.isin(list(sites))
    return cube.assign(fluxes_randunc=xr.where(wide, factor * spread, spread).transpose(*cube.fluxes.dims))


def test_hours_of_large_random_uncertainty_count_less(cube, tmp_path):
    split = per_igbp(cube, seed=4)
    doubtful = with_uncertainty(cube, split.train[:2], 10.0)
    towers = load_towers(doubtful, split.train, cube_spec(cube, split.train, targets=TARGETS), HOURLY.limit(1)).scaled()
    found = flux_weights(doubtful, towers, ("randunc",))
    bad = np.repeat(np.isin(np.arange(len(split.train)), [0, 1]), 288)
    seen = np.isfinite(towers.fluxes)
    assert (found[~seen] == 0).all() and found[seen[:, 0], 0].mean() == pytest.approx(1.0, rel=1e-5)
    assert found[bad][seen[bad]].max() < found[~bad][seen[~bad]].min() / 5
    windows = WeightedWindows(towers, found, length=24, emits=24, stride=12, batch_size=8, partial=True)
    batch = windows[2]
    assert ((batch["weights"] > 0) == np.isfinite(batch["targets"])).all()
    assert ((batch["weights"].max((1, 2)) < 0.5) == (batch["site"] < 2)).all()

    training = dataclasses.replace(FAST, weight_by_randunc=True)
    plain, even = (
        eco(cube, tmp_path / "plain"),
        eco(with_uncertainty(cube, (), 1), tmp_path / "even", training=training),
    )
    odd = eco(doubtful, tmp_path / "odd", training=training)
    assert weights(odd.path) != weights(even.path)
    np.testing.assert_allclose(even.history[0]["loss"], plain.history[0]["loss"], rtol=1e-4)
    with pytest.raises(ConfigError, match="random uncertainty"):
        eco(cube, tmp_path / "none", training=training)

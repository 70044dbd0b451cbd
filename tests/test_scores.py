"""Score kernels: by hand, by identity, against numpy and scipy, and pooled from parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kernels import KERNELS, bias, corr2, mae, nse, rmse

from fluxcube.moments import SCORES, Moments, grouped_moments, moments, pool, scores_of


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    obs = rng.normal(-3, 8, (16, 40, 14))
    pred = 0.7 * obs + rng.normal(1, 3, obs.shape)
    obs[rng.random(obs.shape) < 0.2] = np.nan
    pred[rng.random(obs.shape) < 0.1] = np.nan
    return obs, pred


def test_by_hand():
    # obs 1 2 3 4 (mean 2.5, SST 5), errors +1 0 -1 +2 (SSE 6)
    obs, pred = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 6.0]
    assert nse(obs, pred) == pytest.approx(1 - 6 / 5)
    assert rmse(obs, pred) == pytest.approx(np.sqrt(6 / 4))
    assert mae(obs, pred) == pytest.approx(1.0)
    assert bias(obs, pred) == pytest.approx(0.5)
    # pred mean 3, its SST 12, sum of products -1.5*-1 + -0.5*-1 + 0.5*-1 + 1.5*3 = 6
    assert corr2(obs, pred) == pytest.approx(36 / (5 * 12))


def test_a_perfect_prediction(pairs):
    obs, _ = pairs
    assert nse(obs, obs) == 1 and rmse(obs, obs) == 0 and mae(obs, obs) == 0 and bias(obs, obs) == 0
    assert corr2(obs, obs) == pytest.approx(1, abs=1e-12)


def test_the_mean_has_no_skill(pairs):
    obs, _ = pairs
    assert nse(obs, np.full_like(obs, np.nanmean(obs))) == pytest.approx(0, abs=1e-12)


def test_obs_and_pred_are_not_alike(pairs):
    obs, pred = pairs
    assert bias(pred, obs) == pytest.approx(-bias(obs, pred))
    assert nse(pred, obs) != pytest.approx(nse(obs, pred))
    assert corr2(pred, obs) == pytest.approx(corr2(obs, pred))


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("name", SCORES)
def test_against_numpy_and_scipy(pairs, axis, name):
    stats = pytest.importorskip("scipy.stats")
    found = KERNELS[name](*pairs, axis=axis)
    axes = (0, 1, 2) if axis is None else np.atleast_1d(axis) % 3
    kept = [d for d in range(3) if d not in axes]
    flat = [np.transpose(x, (*kept, *axes)).reshape(*(x.shape[d] for d in kept), -1) for x in pairs]
    assert found.shape == flat[0].shape[:-1]
    for index in np.ndindex(found.shape):
        o, p = (x[index] for x in flat)
        both = np.isfinite(o) & np.isfinite(p)
        o, p = o[both], p[both]
        expected = {
            "nse": 1 - np.sum((p - o) ** 2) / np.sum((o - o.mean()) ** 2),
            "rmse": np.linalg.norm(p - o) / np.sqrt(len(o)),
            "mae": np.abs(p - o).mean(),
            "bias": np.mean(p - o),
            "corr2": stats.pearsonr(o, p).statistic ** 2,
        }[name]
        assert found[index] == pytest.approx(expected, rel=1e-10)


def test_missing_pairs_are_left_out(pairs):
    obs, pred = (x.ravel() for x in pairs)
    both = np.isfinite(obs) & np.isfinite(pred)
    for kernel in KERNELS.values():
        assert kernel(obs, pred) == pytest.approx(kernel(obs[both], pred[both]), rel=1e-12)
        assert kernel(obs, np.where(both, pred, np.inf)) == pytest.approx(kernel(obs, pred), rel=1e-12)


def test_nothing_to_score_is_nan_without_a_warning(recwarn):
    for kernel in KERNELS.values():
        assert np.isnan(kernel([], [])) and np.isnan(kernel([np.nan, 1.0], [1.0, np.nan]))
    assert np.isnan(nse([2.0], [2.0]))
    assert np.isnan(nse([0.1] * 7, [0.1, 0.2] * 3 + [0.1]))  # a constant's rounding is no variance
    assert np.isnan(corr2([1.0, 2.0, 3.0], [0.1, 0.1, 0.1]))
    assert not recwarn.list


def test_scale_and_shift(pairs):
    obs, pred = pairs
    for a, b in ((2.0, 0.0), (1.0, 1000.0), (-3.0, 5.0)):
        assert nse(a * obs + b, a * pred + b) == pytest.approx(nse(obs, pred), rel=1e-9)
        assert rmse(a * obs + b, a * pred + b) == pytest.approx(abs(a) * rmse(obs, pred), rel=1e-9)
        assert bias(a * obs + b, a * pred + b) == pytest.approx(a * bias(obs, pred), rel=1e-9)
        assert corr2(obs, a * pred + b) == pytest.approx(corr2(obs, pred), rel=1e-9)


def test_float32_input_is_summed_in_float64():
    obs = np.tile(np.array([400.0, 400.1], "float32"), 500_000)
    assert nse(obs, obs + np.float32(0.05)) == pytest.approx(0, abs=1e-3)


values = st.floats(-50, 50, width=32) | st.just(np.nan)


@settings(deadline=None, max_examples=30)
@given(arrays(float, (2, 5, 6), elements=values), st.integers(0, 5))
def test_parts_pool_to_the_whole(pairs, cut):
    obs, pred = pairs
    whole = moments(obs, pred, axis=-1)
    parts = [moments(obs[:, s], pred[:, s], axis=-1) for s in (slice(0, cut), slice(cut, None))]
    pooled = pool(Moments(*(np.stack(x) for x in zip(*parts, strict=True))), axis=0)
    for a, b in zip(pooled, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    everything = pool(whole)
    for a, b in zip(everything, moments(obs, pred), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_pooled_scores_are_not_mean_scores(pairs):
    each = scores_of(moments(*pairs, axis=(1, 2)))["nse"]
    assert scores_of(pool(moments(*pairs, axis=(1, 2))))["nse"] == pytest.approx(nse(*pairs), rel=1e-12)
    assert nse(*pairs) != pytest.approx(each.mean())


def test_groups_have_the_moments_of_their_pairs(pairs):
    label = np.random.default_rng(1).integers(-1, 5, pairs[0].shape)
    found = grouped_moments(*pairs, label, 6)
    for k in range(6):
        expected = moments(np.where(label == k, pairs[0], np.nan), pairs[1], axis=-1)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a[..., k], b, rtol=1e-10, atol=1e-10)
    one = grouped_moments(pairs[0][0, 0], pairs[1][0, 0], label[0, 0], 6)
    assert one.n.shape == (6,) and one.n.tolist() == found.n[0, 0].tolist()

"""Scaling of targets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.errors import ConfigError
from fluxcube.samples.scaling import fit_scaling, scale


@given(st.integers(0, 1000), st.integers(1, 5))
def test_scaled_training_targets_have_mean_0_and_spread_1(seed, parts):
    rng = np.random.default_rng(seed)
    values = rng.normal([-3, 40], [6, 9], (50 * parts, 2))
    values[rng.random(values.shape) < 0.3] = np.nan
    mean, spread = fit_scaling(np.array_split(values, parts), ["NEE", "LE"])
    np.testing.assert_allclose(mean, np.nanmean(values, 0))
    np.testing.assert_allclose(spread, np.nanstd(values, 0))
    scaled = scale(values, mean, spread)
    np.testing.assert_allclose(np.nanmean(scaled, 0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled * spread + mean, values, atol=1e-4)


def test_a_target_never_observed_is_named():
    with pytest.raises(ConfigError, match="FCH4"):
        fit_scaling([np.array([[1.0, np.nan]])], ["NEE", "FCH4"])

"""Test scaling by bounds: it is invertible, keeps the order, and masks predictors only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.errors import UnknownNameError
from fluxcube.normalisation import denormalise, inside, normalise
from fluxcube.variables import table

NAMES = tuple(table())
LOW, HIGH = (np.array(ends, float) for ends in zip(*(table()[name].bounds for name in NAMES), strict=True))
CYCLIC = np.array([table()[name].cyclic for name in NAMES])


def test_bounds_become_the_ends_of_the_scale():
    ends = np.where(CYCLIC, 1.0, 0.5)
    np.testing.assert_allclose(normalise(LOW, NAMES), -ends)
    np.testing.assert_allclose(normalise(HIGH, NAMES), ends)
    np.testing.assert_allclose(normalise((LOW + HIGH) / 2, NAMES), 0, atol=1e-12)


def test_the_two_ends_of_a_cycle_are_one_point_for_fourier_features():
    names = [name for name in NAMES if table()[name].cyclic]
    low, high = normalise(LOW[CYCLIC], names), normalise(HIGH[CYCLIC], names)
    assert len(names) == 3
    for k in range(13):
        for wave in (np.sin, np.cos):
            np.testing.assert_allclose(wave(2**k * np.pi * low), wave(2**k * np.pi * high), atol=1e-9)


@given(st.sampled_from(NAMES), st.floats(0, 1), st.sampled_from([np.float32, np.float64]))
def test_scaling_is_invertible(name, share, dtype):
    low, high = table()[name].bounds
    value = np.array([low + share * (high - low)], dtype)
    back = denormalise(normalise(value, [name]), [name])
    assert back.dtype == value.dtype
    np.testing.assert_allclose(back, value, atol=2 * (high - low) * np.finfo(dtype).eps)


@pytest.mark.parametrize("mask", [True, False])
def test_predictors_out_of_bounds_are_missing_and_targets_are_not(mask):
    values = np.stack([LOW - 1, HIGH + 1])
    scaled = normalise(values, NAMES, mask=mask)
    assert np.isnan(scaled).all() == mask and np.isnan(scaled).any() == mask
    assert not inside(values, NAMES).any() and inside(np.stack([LOW, HIGH]), NAMES).all()
    if not mask:
        np.testing.assert_allclose(denormalise(scaled, NAMES), values)


def test_missing_stays_missing_and_is_not_inside():
    values = np.full(len(NAMES), np.nan, np.float32)
    assert np.isnan(normalise(values, NAMES)).all() and np.isnan(normalise(values, NAMES, mask=False)).all()
    assert not inside(values, NAMES).any()


def test_names_go_with_the_last_axis():
    values = np.random.default_rng(0).uniform(LOW, HIGH, (3, 4, len(NAMES)))
    scaled = normalise(values, NAMES)
    order = np.random.default_rng(1).permutation(len(NAMES))
    np.testing.assert_array_equal(normalise(values[..., order], [NAMES[i] for i in order]), scaled[..., order])
    with pytest.raises(UnknownNameError, match="SW_IN"):
        normalise(values[..., :1], ["SW_INN"])

"""Support: chosen by the axis alone for predictions, drawn apart from its windows for training, and never a flux."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.errors import ConfigError
from fluxcube.samples.features import Block
from fluxcube.samples.support import Draws, block_with_embeddings, series_support, support_stops
from fluxcube.samples.windows import flatten, join

DAYS = np.arange("2001-01-01", "2004-01-01", dtype="datetime64[D]")


def numbered(places=2, days=300, first=11323):
    """A block whose every value tells its place and day."""
    met = (1000 * np.arange(places)[:, None] + np.arange(days)).astype("float32")[..., None]
    return Block(
        inputs=met,
        observed=np.ones((places, days), bool),
        numbers=np.zeros((places, 1), np.float32),
        classes=np.zeros((places, 0), np.int64),
        chips=np.empty((places, 0, 0, 64), np.float32),
        chip_hour=np.empty((places, 0), np.int64),
        first_hour=first,
    )


class Means:
    """A model whose embedding is the mean of the support."""

    context, support_windows, embedding_size = 45, 8, 1

    def encode(self, support):
        return support.mean((1, 2))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 12), st.sets(st.sampled_from([2001, 2002, 2003]), max_size=2))
def test_windows_lie_in_the_years_that_are_asked_for(length, count, years):
    stops = support_stops(DAYS, length, count, years=sorted(years))
    assert len(stops) == count and (np.diff(stops) >= 0).all()
    days = DAYS[stops[:, None] + np.arange(-length, 0)]
    assert set(np.unique(days.astype("datetime64[Y]").astype(int) + 1970)) <= (years or {2001, 2002, 2003})
    assert np.array_equal(stops, support_stops(DAYS, length, count, years=sorted(years)))


def test_windows_are_spread_over_the_seasons_and_need_drivers():
    months = {int(m) for m in (DAYS[support_stops(DAYS, 45, 8) - 22].astype("datetime64[M]").astype(int) % 12)}
    assert len(months) >= 6
    observed = np.ones(len(DAYS), bool)
    observed[200:900] = False
    stops = support_stops(DAYS, 45, 8, observed=observed)
    assert all(observed[stop - 45 : stop].mean() >= 0.5 for stop in stops) and stops.min() < 225 and stops.max() > 900
    assert not len(support_stops(DAYS, 45, 8, years=[1999])) and not len(support_stops(DAYS[:40], 45, 8))


def test_the_support_of_a_place_is_its_own_and_does_not_hang_on_the_others():
    block = numbered(3)
    codes = block_with_embeddings(block, Means()).numbers
    assert codes.shape == (3, 2) and np.allclose(np.diff(codes[:, 1]), 1000) and (codes[:, 0] == 0).all()
    alone = numbered(3)
    one = Block(**{k: v[[1]] if isinstance(v, np.ndarray) else v for k, v in vars(alone).items()})
    assert block_with_embeddings(one, Means()).numbers[0, 1] == codes[1, 1]


def test_a_place_without_a_day_in_the_support_years_is_named():
    series, first = flatten(numbered()), np.full(2, 11323)
    observed = np.ones(600, bool)
    with pytest.raises(ConfigError, match=r"XX-B has no 45 consecutive days with observed inputs in 2010: it runs"):
        observed[:300] = False  # the first place has no drivers at all
        series_support(series, first, observed, 45, 8, years=[2010], names=["XX-B", "XX-A"])
    none = series_support(series, first, observed, 45, 8)
    assert np.isnan(none[0]).all() and np.isfinite(none[1]).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.integers(0, 3), st.integers(5, 40), st.integers(1, 30))
def test_drawn_support_shares_no_day_with_its_windows(seed, epoch, length, span):
    series = join([numbered(1, 260), numbered(2, 150)])
    draws = Draws(series, length, 3, span, seed)
    ends = np.flatnonzero(draws.possible())
    ends = ends[np.random.default_rng(seed).integers(0, len(ends), 60)]
    support, group = draws.of(ends, epoch)
    assert support.shape[1:] == (3, length, 1) and len(support) == group.max() + 1
    place = np.searchsorted(series.start, ends, side="right") - 1
    for end, p, g in zip(ends, place, group, strict=True):
        query = series.inputs[max(end - length + 1, series.start[p]) : end + 1, 0]
        held = support[g, ..., 0]
        rows = series.inputs[series.start[p] : series.start[p] + series.hours[p], 0]
        assert np.isin(held, rows).all(), "of the same place, and drivers only"
        assert (np.diff(held, axis=1) == 1).all() and not np.isin(held, query).any()
    again, _ = Draws(series, length, 3, span, seed).of(ends, epoch)
    assert np.array_equal(support, again)
    other, _ = draws.of(ends, epoch + 1)
    assert other.shape != support.shape or not np.array_equal(support, other)


def test_windows_that_share_support_are_near_each_other():
    draws = Draws(flatten(numbered(2, 400)), 20, 4, 60, 0)
    ends = np.flatnonzero(draws.possible())
    _, group = draws.of(ends, 0)
    for g in np.unique(group):
        assert np.ptp(ends[group == g]) < 60
    assert len(np.unique(group)) < len(ends) / 20

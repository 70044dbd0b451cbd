"""Intervals: exact against rows resampled by hand, paired, and of the coverage they claim."""

from __future__ import annotations

import itertools

import kernels
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.errors import ConfigError, SchemaError, StoreError, UnknownNameError
from fluxcube.evaluation.bootstrap import draw_counts, interval, resample, student_quantile, weighted_median
from fluxcube.evaluation.report import format_table, read_sums, write_sums
from fluxcube.evaluation.skill import class_means, compare, evaluate, score_table, site_sums
from fluxcube.evaluation.sums import Sums
from fluxcube.moments import Moments, moments, pool, scores_of
from fluxcube.simulation.example import example_cube


def sums_of(obs, *preds):
    """Moments (site, model) of lists of rows per site."""
    parts = [[moments(o, p[i]) for p in preds] for i, o in enumerate(obs)]
    return Moments(*(np.array([[getattr(m, f) for m in row] for row in parts]) for f in Moments._fields))


def test_three_clusters_by_hand():
    """Two rows a cluster: every one of the 27 draws with replacement, its scores from the rows themselves."""
    obs = [[0.0, 2.0], [1.0, 5.0], [4.0, 4.0]]
    good, poor = [[0.0, 1.0], [1.0, 4.0], [4.0, 5.0]], [[1.0, 1.0], [3.0, 3.0], [6.0, 4.0]]
    every = list(itertools.product(range(3), repeat=3))
    counts = np.array([[draw.count(c) for c in range(3)] for draw in every])
    drawn = resample(sums_of(obs, good, poor), np.arange(3), counts)
    assert drawn.clusters == 3
    for at, draw in enumerate(every):
        for m, pred in enumerate((good, poor)):
            o, p = (np.concatenate([x[c] for c in draw]) for x in (obs, pred))
            np.testing.assert_allclose(drawn.values["rmse"][at, m], np.sqrt(((p - o) ** 2).mean()))
            expected = 1 - ((p - o) ** 2).sum() / ((o - o.mean()) ** 2).sum() if np.ptp(o) else np.nan
            np.testing.assert_allclose(drawn.values["nse"][at, m], expected, atol=1e-12)
    # by hand: all three once, good misses (0, 1, 0, 1, 0, 1): SSE 3; obs have mean 16/6 and squares 62: SST 62 - 256/6
    once = every.index((0, 1, 2))
    assert drawn.values["nse"][once, 0] == pytest.approx(1 - 3 / (62 - 256 / 6))
    assert drawn.values["rmse"][once, 0] == pytest.approx(np.sqrt(0.5))
    # the third cluster's observations do not vary, so the median is over the other two: 1/2 and 7/8, and 0 twice
    assert drawn.values["nse_site_median"][once].tolist() == pytest.approx([11 / 16, 0])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([0.0, 300.0, -5e4]))
def test_resampled_sums_are_resampled_rows(sites, clusters, seed, mean):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, clusters, sites)
    obs = [rng.normal(mean, 3, rng.integers(2, 9)) for _ in range(sites)]
    preds = [[o + rng.normal(m, 1, len(o)) for o in obs] for m in range(2)]
    present = np.unique(label)
    counts = draw_counts(len(present), 20, seed)
    drawn = resample(sums_of(obs, *preds), label, counts)
    for at, count in enumerate(counts):
        taken = [i for c, n in zip(present, count, strict=True) for i in np.flatnonzero(label == c).tolist() * int(n)]
        o = np.concatenate([obs[i] for i in taken])
        for m, pred in enumerate(preds):
            p = np.concatenate([pred[i] for i in taken])
            np.testing.assert_allclose(drawn.values["nse"][at, m], kernels.nse(o, p), rtol=1e-6)
            np.testing.assert_allclose(drawn.values["rmse"][at, m], kernels.rmse(o, p), rtol=1e-9)
            median = np.median([kernels.nse(obs[i], pred[i]) for i in taken])
            np.testing.assert_allclose(drawn.values["nse_site_median"][at, m], median, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9) | st.just(np.nan), st.integers(0, 3)), min_size=1, max_size=9))
def test_a_weighted_median_is_the_median_of_the_values_written_out(pairs):
    values, counts = (np.array(x) for x in zip(*pairs, strict=True))
    written = np.repeat(values, counts)
    written = written[np.isfinite(written)]
    found = weighted_median(values[:, None], counts[None])[0, 0]
    np.testing.assert_allclose(found, np.median(written) if len(written) else np.nan)


def test_draws_take_as_many_clusters_as_there_are():
    counts = draw_counts(7, 4000, seed=1)
    assert (counts.sum(1) == 7).all() and (counts == draw_counts(7, 4000, seed=1)).all()
    assert (counts != draw_counts(7, 4000, seed=2)).any()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(counts.var(0), 6 / 7, atol=0.06)


def test_student_s_t_is_the_integral_of_its_density():
    for degrees in (1, 2, 3, 7, 57):
        at = student_quantile(0.975, degrees)
        t = np.tan(np.linspace(-np.pi / 2, np.arctan(at), 400_001)[1:])  # t = tan(angle) makes the tail finite
        density = (1 + t**2 / degrees) ** (-(degrees + 1) / 2) * (1 + t**2)
        whole = (1 + (s := np.tan(np.linspace(-np.pi / 2, np.pi / 2, 400_001)[1:-1])) ** 2 / degrees) ** (
            -(degrees + 1) / 2
        ) * (1 + s**2)
        step = [(np.arctan(at) + np.pi / 2) / 400_000, np.pi / 400_000]
        assert density.sum() * step[0] / (whole.sum() * step[1]) == pytest.approx(0.975, abs=1e-4)


def test_an_interval_widens_with_fewer_clusters_and_a_higher_level():
    drawn = np.random.default_rng(0).normal(size=20_000)
    widths = [np.diff(interval(drawn, n))[0] for n in (1000, 30, 8, 4)]
    assert widths == sorted(widths) and widths[0] == pytest.approx(2 * 1.96, rel=0.02)
    assert np.diff(interval(drawn, 30, 0.8))[0] < widths[1]
    assert np.isnan(interval(drawn, 2)).all()


def test_intervals_of_a_difference_cover_what_they_say():
    """Two models at towers whose errors differ from tower to tower; the truth is the same over very many towers."""
    rng = np.random.default_rng(3)

    def world(clusters):
        """Moments (site, model): 40 hours a site, one to three sites a cluster."""
        sizes = rng.integers(1, 4, clusters)
        label = np.repeat(np.arange(clusters), sizes)
        shared, own = rng.normal(size=clusters)[label], rng.normal(size=(2, len(label)))
        strength = np.exp(0.4 * rng.normal(size=clusters))[label]
        obs = strength[:, None] * (5 * np.sin(np.arange(40) * 0.6) + rng.normal(size=(len(label), 40)))
        errors = (1.0 + 0.3 * np.tanh(shared + own[0]), 1.2 + 0.3 * np.tanh(shared + own[1]))
        preds = [obs + (strength * e)[:, None] * rng.normal(size=obs.shape) * 1.5 for e in errors]
        parts = [moments(obs, p, axis=1) for p in preds]
        return Moments(*(np.stack(x, 1) for x in zip(*parts, strict=True))), label

    whole = scores_of(pool(world(20_000)[0], axis=0))
    truth = {name: whole[name][0] - whole[name][1] for name in ("nse", "rmse")}
    hit = {(n, name): 0 for n in (6, 40) for name in truth}
    worlds = 300
    for clusters in (6, 40):
        for seed in range(worlds):
            drawn = resample(*world(clusters), draws=400, seed=seed)
            for name, value in truth.items():
                d = drawn.values[name]
                low, high = interval(d[:, 0] - d[:, 1], drawn.clusters)
                hit[clusters, name] += bool(low <= value <= high)
    share = {key: n / worlds for key, n in hit.items()}
    # Of 300 worlds 95 % +- 2.5 % are expected (two standard errors) if the interval is exact; it is a little narrow.
    assert all(0.90 <= share[40, name] <= 0.98 for name in truth), share
    assert all(0.84 <= share[6, name] <= 0.99 for name in truth), share


@pytest.fixture(scope="module")
def cube():
    """Three fluxes, and one that was not observed."""
    return example_cube(sites=16, days=6).sel(target=["NEE", "GPP_NT", "RECO_NT", "LE"])


@pytest.fixture(scope="module")
def predictions(cube):
    rng = np.random.default_rng(1)
    noise = xr.DataArray(rng.normal(size=cube.fluxes.shape).astype("float32"), dims=cube.fluxes.dims)
    site = xr.DataArray(rng.normal(size=16), dims="site")
    return {
        "sharp": (cube.fluxes + noise).where(cube.fluxes > -100),
        "blunt": cube.fluxes + 2 * noise + site,
        "gappy": (cube.fluxes * 0.8).where(noise < 1.5),
    }


def test_a_table_s_differences_are_those_of_its_scores_and_lie_in_their_intervals(cube, predictions):
    plain = compare(cube, predictions, by="igbp")
    table = compare(cube, predictions, by="igbp", clusters=50, against="blunt")
    pd.testing.assert_frame_equal(plain, table[list(plain)])
    assert table.attrs["against"] == "blunt" and plain.attrs["row_mask"] == table.attrs["row_mask"]
    for (_, _), rows in table[table.n > 0].groupby(["target", "group"]):
        base = rows[rows.model == "blunt"].iloc[0]
        assert np.isnan(base["nse_diff"]) and base["nse_low"] <= base["nse"] <= base["nse_high"]
        for _, row in rows[rows.model != "blunt"].iterrows():
            for score in ("nse", "rmse", "nse_site_median"):
                assert row[f"{score}_diff"] == pytest.approx(row[score] - base[score])
                assert row[f"{score}_diff_low"] <= row[f"{score}_diff"] <= row[f"{score}_diff_high"]
    text = format_table(table)
    assert "NSE (pooled), difference" in text and "Differences are from blunt" in text and "few sites" in text


def test_pairing_narrows_a_difference(cube, predictions):
    """A model against nearly itself: the towers' spread drops out."""
    near = {"blunt": predictions["blunt"], "near": predictions["blunt"] + 0.01}
    row = compare(cube, near, clusters=0).query("model == 'near' and target == 'NEE'").iloc[0]
    assert row.rmse_diff_high - row.rmse_diff_low < 0.05 * (row.rmse_high - row.rmse_low)


def test_clusters_seed_draws_and_level_matter(cube, predictions):
    def row(**options):
        table = compare(cube, predictions, **{"clusters": 0, "draws": 300} | options)
        return table.query("model == 'blunt' and target == 'NEE'").iloc[0]

    alone = row()
    assert alone.n_clusters == 16 and row(clusters=1e5).n_clusters == 1 and np.isnan(row(clusters=1e5).nse_low)
    assert alone.equals(row()) and not alone.equals(row(seed=1)) and not alone.equals(row(draws=301))
    assert row(level=0.5).nse_high < alone.nse_high
    pairs = {s: i // 2 for i, s in enumerate(cube.site.values.tolist())}
    assert row(clusters=pairs).n_clusters == 8 and row(clusters=pd.Series(pairs)).equals(row(clusters=pairs))


def test_what_cannot_be_resampled_is_refused(cube, predictions):
    with pytest.raises(UnknownNameError, match="sharpe"):
        compare(cube, predictions, clusters=0, against="sharpe")
    for clusters in (-1.0, "igbp", True):
        with pytest.raises(ConfigError, match="clusters"):
            compare(cube, predictions, clusters=clusters)
    with pytest.raises(ConfigError, match="no cluster"):
        compare(cube, predictions, clusters={"XX-S00": 1})
    with pytest.raises(ConfigError, match="draws"):
        compare(cube, predictions, clusters=0, draws=10)
    maps = xr.DataArray(np.zeros((3, 2, 2)), dims=("time", "latitude", "longitude"), name="NEE")
    maps = maps.assign_coords(time=cube.time[:3].values, latitude=[1.0, 2.0], longitude=[1.0, 2.0])
    with pytest.raises(SchemaError, match="grid"):
        compare(maps, {"a": maps}, clusters=0)


def test_sums_of_folds_join_to_the_table_of_all(cube, predictions, tmp_path):
    whole = site_sums(cube, predictions)
    folds = [site_sums(cube.isel(site=slice(a, a + 8)), predictions) for a in (0, 8)]
    for i, fold in enumerate(folds):
        write_sums(fold, tmp_path / f"{i}.csv")
    joined = Sums.join([read_sums(tmp_path / f"{i}.csv") for i in (1, 0)])
    for by in (None, "igbp", "koppen", "network", "site"):
        a, b = (score_table(s, by=by, clusters=50) for s in (whole, joined))
        if by == "site":
            a, b = (t.sort_values(["target", "group", "model"]).reset_index(drop=True) for t in (a, b))
        pd.testing.assert_frame_equal(a, b, rtol=1e-9, check_column_type=False, check_dtype=False)
    direct = evaluate(cube, predictions["sharp"].where(np.isfinite(predictions["gappy"])), by="igbp")
    table = score_table(joined, by="igbp").query("model == 'sharp'").set_index(["target", "group"])
    for target in direct.target.values:
        for group in direct.group.values:
            np.testing.assert_allclose(table.nse[target, group], direct.nse.sel(target=target, group=group), rtol=1e-9)


def test_towers_that_validate_several_folds_are_pooled(cube, predictions):
    """Half the hours of every tower in one part, half in the other: together they are the whole."""
    whole, half = site_sums(cube, predictions), cube.sizes["time"] // 2
    parts = [site_sums(cube.isel(time=hours), predictions) for hours in (slice(None, half), slice(half, None))]
    a, b = (score_table(s, by="site") for s in (whole, Sums.join(parts, repeated=True)))
    pd.testing.assert_frame_equal(a, b, rtol=1e-9, check_column_type=False, check_dtype=False)
    with pytest.raises(SchemaError, match="same sites"):
        Sums.join(parts)


def test_seasons_are_kept_where_asked(cube, predictions):
    sums = site_sums(cube, predictions, seasons=True)
    table = score_table(sums, by="season", clusters=0)
    assert table.query("group == 'summer' and target == 'NEE'").n.min() > 0
    pd.testing.assert_frame_equal(
        score_table(sums, by="igbp"), score_table(site_sums(cube, predictions), by="igbp"), rtol=1e-9
    )
    with pytest.raises(ConfigError, match="periods"):
        score_table(site_sums(cube, predictions), by="season")


def test_damaged_sums_are_refused(cube, predictions, tmp_path):
    sums = site_sums(cube, predictions)
    frame = sums.to_frame()
    with pytest.raises(SchemaError, match="columns"):
        Sums.from_frame(frame.drop(columns="sse"))
    with pytest.raises(SchemaError, match="same sites"):
        Sums.from_frame(frame.iloc[1:])
    with pytest.raises(SchemaError, match="same sites"):
        Sums.join([sums, sums])
    (tmp_path / "x.csv").write_text("a,b\n1,2\n", "utf-8")
    for path in (tmp_path / "x.csv", tmp_path / "none.csv"):
        with pytest.raises(StoreError, match="contains no sums"):
            read_sums(path)
    write_sums(sums, tmp_path / "y.csv")
    with pytest.raises(StoreError, match="exists"):
        write_sums(sums, tmp_path / "y.csv")


def test_means_over_classes_leave_small_ones_out():
    cube = example_cube(sites=18, days=4)  # DBF and GRA of five sites, ENF and CRO of four
    table = compare(cube, {"a": cube.fluxes + 1, "b": cube.fluxes * 0.5}, by="igbp")
    assert set(table[table.counted].group) == {"DBF", "GRA"}
    means = class_means(table).query("target == 'NEE' and model == 'b'").iloc[0]
    rows = table.query("target == 'NEE' and model == 'b' and group in ('DBF', 'GRA')")
    assert means.n_classes == 2 and means.nse == pytest.approx(rows.nse.mean())
    with pytest.raises(ConfigError, match="igbp"):
        class_means(compare(cube, {"a": cube.fluxes}))

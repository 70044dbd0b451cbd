"""Splits: a partition that cuts no cluster, drawn by seed."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fluxcube.errors import SplitError, UnknownNameError
from fluxcube.samples.clusters import Places
from fluxcube.samples.partition import share_hours
from fluxcube.samples.splits import (
    Split,
    cluster_sites,
    extrapolation,
    kfold,
    load_folds,
    make_splits,
    per_igbp,
    save_folds,
    sites_split,
    split_for,
    time_split,
    warm_site,
)

SPLITS = Path(__file__).resolve().parents[2] / "splits"


def towers(latitude, longitude, igbp):
    sites = np.array([f"XX-{i:03d}" for i in range(len(igbp))], object)
    on_site = {"latitude": latitude, "longitude": longitude, "igbp": np.array(igbp, object)}
    return xr.Dataset(coords={"site": sites, **{k: ("site", v) for k, v in on_site.items()}})


def random_towers(count, clumping, seed):
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(-60, 70, count), rng.uniform(-180, 180, count)
    for i in range(1, count):
        if rng.random() < clumping:
            near = rng.integers(0, i)
            latitude[i], longitude[i] = latitude[near] + rng.normal(0, 0.1), longitude[near]
    return towers(latitude, longitude, rng.choice(["ENF", "DBF", "GRA", "CRO", ""], count).tolist())


def haversine(a, b):
    (lat1, lon1), (lat2, lon2) = np.deg2rad(a), np.deg2rad(b)
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(min(1, h)))


def check(split, cube, buffer_km):
    """Every site once; no two sites within the buffer on two sides."""
    parts = [split.train, split.val, split.test]
    assert sorted(sum(parts, ())) == sorted(cube.site.values.tolist())
    side = {site: i for i, part in enumerate(parts) for site in part}
    place = {s: (float(a), float(b)) for s, a, b in zip(cube.site.values, cube.latitude, cube.longitude, strict=True)}
    for a in side:
        for b in side:
            if side[a] != side[b]:
                assert haversine(place[a], place[b]) > buffer_km
    igbp = dict(zip(cube.site.values, [c or "unknown" for c in cube.igbp.values], strict=True))
    for name, counts in split.counts.items():
        assert list(counts) == [sum(igbp[s] == name for s in part) for part in parts]
    trained = {igbp[s] for s in split.train}
    assert set(split.zero_shot) == {igbp[s] for s in split.test} - trained


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.floats(0, 0.8), st.integers(0, 10_000))
def test_per_igbp_is_a_partition_that_cuts_no_cluster(count, clumping, seed):
    cube = random_towers(count, clumping, seed)
    try:
        split = per_igbp(cube, seed=seed)
    except SplitError:
        assume(False)
    check(split, cube, 50.0)
    assert len(split.train) >= count / 2
    assert split == per_igbp(cube, seed=seed)


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 40), st.floats(0, 0.6), st.integers(2, 5), st.integers(0, 10_000))
def test_kfold_tests_every_site_once(count, clumping, k, seed):
    cube = random_towers(count, clumping, seed)
    try:
        folds = kfold(cube, k=k, seed=seed)
    except SplitError:
        assume(False)
    assert len(folds) == k
    assert sorted(site for fold in folds for site in fold.test) == sorted(cube.site.values.tolist())
    for fold in folds:
        check(fold, cube, 50.0)
        rest = np.isin(cube.site.values, (*fold.train, *fold.val))
        lone = len(set(cluster_sites(cube.latitude[rest], cube.longitude[rest]))) == 1
        assert lone or fold.val
    assert folds == kfold(cube, k=k, seed=seed)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.floats(0, 0.9), st.integers(0, 10_000), st.sampled_from([0.0, 10.0, 50.0, 500.0]))
def test_clusters_are_the_connected_parts(count, clumping, seed, buffer_km):
    cube = random_towers(count, clumping, seed)
    label = cluster_sites(cube.latitude, cube.longitude, buffer_km)
    points = list(zip(cube.latitude.values, cube.longitude.values, strict=True))
    parent = list(range(count))
    for i in range(count):
        for j in range(i):
            if buffer_km and haversine(points[i], points[j]) <= buffer_km:
                a, b = parent[i], parent[j]
                parent = [b if p == a else p for p in parent]
    for i in range(count):
        for j in range(count):
            assert (label[i] == label[j]) == (parent[i] == parent[j])


def test_clusters_reach_across_the_date_line_and_chains_hold_together():
    assert cluster_sites([0, 0], [179.9, -179.9], 50).tolist() == [0, 0]
    assert cluster_sites([0, 0.4, 0.8], [0, 0, 0], 50).tolist() == [0, 0, 0]
    assert cluster_sites([0, 0], [0, 0], 0).tolist() == [0, 1]


def test_lone_towers_meet_the_quotas_exactly():
    igbp = ["ENF"] * 40 + ["DBF"] * 11 + ["GRA"] * 6 + ["SNO"]
    cube = towers(np.linspace(-60, 60, 58), np.linspace(0, 170, 58), igbp)
    for seed in range(5):
        split = per_igbp(cube, seed=seed)
        tested = Counter(igbp[int(site[3:])] for site in split.test)
        assert tested == {"ENF": 5, "DBF": 3, "GRA": 2, "SNO": 1}
        assert len(split.val) == round(0.2 * (58 - 11))
        assert split.zero_shot == ("SNO",)
    assert per_igbp(cube, seed=0).test != per_igbp(cube, seed=1).test


def test_too_few_to_train_is_refused_and_kfold_offered():
    cube = towers([0.0, 10.0, 20.0, 30.0], [0.0, 0.0, 0.0, 0.0], ["ENF", "DBF", "GRA", "CRO"])
    with pytest.raises(SplitError, match="kfold"):
        per_igbp(cube)
    assert len(kfold(cube, k=2)) == 2
    with pytest.raises(SplitError, match="clusters"):
        kfold(cube, k=5)


def test_split_file_round_trip(tmp_path):
    split = per_igbp(random_towers(40, 0.2, 3), seed=3)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    assert Split.from_dict(split.to_dict()) == split


def test_bad_splits_are_refused(tmp_path):
    with pytest.raises(SplitError, match="A-1"):
        Split(train=("A-1", "A-2"), test=("A-1",))
    with pytest.raises(SplitError, match="training site"):
        Split(train=())
    with pytest.raises(UnknownNameError, match="A-3"):
        Split(train=("A-3",)).check(["A-1", "A-2"])
    with pytest.raises(SplitError, match="there is no file"):
        Split.load(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text('{"training": ["A"]}', "utf-8")
    with pytest.raises(SplitError, match="training"):
        Split.load(tmp_path / "odd.json")


def records(spans, offset=0, step="h"):
    """A cube of towers on one meridian, far apart, with these records (first, stop) and no fluxes but NEE."""
    count = len(spans)
    first, stop = (np.array([s[i] for s in spans], "datetime64[ns]") for i in (0, 1))
    time = np.arange(first.min(), stop.max(), np.timedelta64(1, step)).astype("datetime64[ns]")
    cube = towers(np.linspace(-50, 50, count), np.full(count, 15.0 * offset), ["GRA"] * count)
    rng = np.random.default_rng(0)
    shape = (count, len(time), 1)
    return cube.assign_coords(
        time=time,
        time_start=("site", first),
        time_stop=("site", stop),
        target=["NEE"],
        utc_offset=("site", np.full(count, float(offset))),
        variable=["TA"],
    ).assign(
        fluxes=(("site", "time", "target"), rng.normal(size=shape).astype("float32")),
        fluxes_qc=(("site", "time", "target"), np.zeros(shape, "int8")),
        fluxes_coverage=(("site", "time", "target"), np.ones(shape, "float32")),
        predictors=(("site", "time", "variable"), rng.normal(size=shape).astype("float32")),
    )


def records_of(count_years):
    spans = [(f"{2000 + i}-01-01", f"{2000 + i + n}-01-01") for i, n in enumerate(count_years)]
    cube = towers(np.linspace(-50, 50, len(spans)), np.zeros(len(spans)), ["GRA"] * len(spans))
    first, stop = (np.array([s[i] for s in spans], "datetime64[ns]") for i in (0, 1))
    time = np.array([first.min(), stop.max() - np.timedelta64(1, "h")])
    return cube.assign_coords(time=time, time_start=("site", first), time_stop=("site", stop))


def hours_of(split, part, site):
    return sum((np.datetime64(b) - np.datetime64(a)).astype(int) / 60 for a, b in split.periods[part][site])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.integers(1, 2), st.integers(0, 2), st.integers(0, 60))
def test_a_time_split_keeps_the_order_of_years_and_the_gap(lengths, test_years, val_years, gap):
    cube = records_of(lengths)
    assume(max(lengths) > test_years + val_years)
    split = time_split(cube, test_years=test_years, val_years=val_years, gap_days=gap)
    long = {s for s, n in zip(cube.site.values, lengths, strict=True) if n > test_years + val_years}
    assert set(split.train) == set(split.test) == long
    assert set(split.val) == (long if val_years else set())
    for site in long:
        (first, end), (begin, stop) = split.periods["train"][site][0], split.periods["test"][site][0]
        assert first == str(cube.time_start.sel(site=site).values.astype("datetime64[m]"))
        assert stop == str(cube.time_stop.sel(site=site).values.astype("datetime64[m]"))
        assert begin.endswith("-01-01T00:00")
        gaps = 1 + bool(val_years)
        days = sum(hours_of(split, part, site) for part in split.periods if site in split.periods[part]) / 24
        record = (cube.time_stop - cube.time_start).sel(site=site).values.astype("timedelta64[D]").astype(int)
        assert days == record - gaps * gap
        assert np.datetime64(begin) - np.datetime64(end) >= np.timedelta64(gap, "D")
    left = set(cube.site.values) - long
    assert all(site in " ".join(split.notes) for site in left)


def test_years_are_those_of_the_site_s_own_clock():
    # A record of 2003 to 2005 by a clock ten hours ahead begins on the last day of 2002 in UTC.
    cube = records([("2002-12-31T14", "2005-12-31T14")] * 2, offset=10)
    split = time_split(cube, val_years=0, gap_days=0)
    assert split.periods["test"]["XX-000"] == (("2004-12-31T14:00", "2005-12-31T14:00"),)
    assert split.periods["train"]["XX-000"] == (("2002-12-31T14:00", "2004-12-31T14:00"),)


def test_a_part_shows_the_fluxes_of_its_periods_and_the_weather_whole():
    cube = records([("2001-01-01", "2004-01-01"), ("2001-06-01", "2004-01-01"), ("2002-01-01", "2004-01-01")])
    split = time_split(cube, gap_days=10)
    assert split.train == ("XX-000", "XX-001")  # half of 2001 is a year, and XX-002 has but two
    shown = {part: split.part(cube, part) for part in ("train", "val", "test")}
    for part, ds in shown.items():
        seen = np.isfinite(ds.fluxes.values[..., 0])
        assert (seen == (ds.fluxes_qc.values[..., 0] >= 0)).all() and (seen == (ds.fluxes_coverage[..., 0] > 0)).all()
        for i, site in enumerate(ds.site.values):
            assert seen[i].sum() == hours_of(split, part, site)
        np.testing.assert_array_equal(ds.predictors, cube.predictors.sel(site=list(getattr(split, part))))
        assert ds.fluxes.dtype == np.float32 and ds.fluxes_qc.dtype == np.int8
        assert ds.fluxes.dims == cube.fluxes.dims
    together = sum(np.isfinite(ds.fluxes.values).astype(int) for ds in shown.values())
    assert together.max() == 1
    lazy = split.part(cube.chunk(time=1000), "test")
    assert lazy.fluxes.chunks is not None
    np.testing.assert_array_equal(lazy.fluxes, shown["test"].fluxes)
    whole = Split(train=("XX-001",), test=("XX-000",))
    assert whole.part(cube, "train").identical(cube.sel(site=["XX-001"]))
    with pytest.raises(UnknownNameError, match="part"):
        whole.part(cube, "tests")


def test_a_site_of_two_parts_needs_periods_that_do_not_overlap():
    before, after = [["2001-01-01", "2002-01-01"]], [["2002-01-01", "2003-01-01"]]
    split = Split(train=("A",), test=("A",), periods={"train": {"A": before}, "test": {"A": after}})
    assert Split.from_dict(split.to_dict()) == split
    for periods in ({"train": {"A": before}}, {"train": {"A": before}, "test": {"A": [["2001-12-31", "2003-01-01"]]}}):
        with pytest.raises(SplitError, match="A"):
            Split(train=("A",), test=("A",), periods=periods)
    whole = Split(train=("A",), test=("B",))
    assert share_hours(whole, "train", split, "test", "A") and not share_hours(split, "train", split, "test", "A")
    assert not share_hours(whole, "train", whole, "test", "B")
    with pytest.raises(SplitError, match="does not list"):
        Split(train=("A",), periods={"train": {"B": before}})
    with pytest.raises(ValueError, match="backwards"):
        Split(train=("A",), periods={"train": {"A": [["2002-01-01", "2001-01-01"]]}})


def test_a_tower_whose_training_years_fall_into_the_gap_is_left_out():
    cube = records_of([3, 6])
    split = time_split(cube, val_years=0, gap_days=800)
    assert split.train == split.test == ("XX-001",)
    assert "XX-000" in " ".join(split.notes)


def test_a_time_split_at_a_year():
    cube = records_of([3, 3, 3, 1])
    split = extrapolation(cube, "time", year=2002)
    assert split.train == ("XX-001",)  # of XX-000 2002 is the last year, of XX-002 the first
    assert split.periods["val"]["XX-001"] == (("2002-01-01T00:00", "2003-01-01T00:00"),)
    with pytest.raises(SplitError, match="2018"):
        extrapolation(cube, "time")


def test_a_warm_site_split_tests_the_later_years_of_the_same_towers():
    cube = records_of([3] * 9 + [1])
    cold = kfold(cube, k=5, seed=1)[0]
    warm = warm_site(cube, cold, known_years=1, gap_days=5)
    short = {"XX-009"}
    assert set(warm.test) == set(cold.test) - short and warm.val == cold.val
    assert set(warm.train) == set(cold.train) | set(warm.test)
    for site in warm.test:
        assert hours_of(warm, "train", site) < 366 * 24 < hours_of(warm, "test", site)
    assert set(warm.periods["train"]) == set(warm.test)
    with pytest.raises(SplitError, match="already"):
        warm_site(cube, warm)
    with pytest.raises(SplitError, match="nothing left"):
        warm_site(cube, cold, known_years=3)


@settings(max_examples=15, deadline=None)
@given(st.integers(12, 60), st.floats(0, 0.7), st.integers(0, 10_000), st.sampled_from(["space", "temperature"]))
def test_extrapolation_cuts_no_cluster_and_tests_the_warmest(count, clumping, seed, setting):
    cube = random_towers(count, clumping, seed)
    warmth = np.random.default_rng(seed).normal(size=count)
    cube["predictors"] = (("site", "time", "variable"), warmth[:, None, None] + np.zeros((count, 3, 1)))
    cube = cube.assign_coords(variable=["TA"])
    try:
        split = extrapolation(cube, setting, seed=seed, buffer_km=50)
    except SplitError:
        assume(False)
    check(split, cube, 50.0)
    assert len(split.test) >= round(40 / 207 * count)
    if setting == "temperature":
        label = cluster_sites(cube.latitude, cube.longitude)
        mean = {s: warmth[label == label[i]].mean() for i, s in enumerate(cube.site.values)}
        assert min(mean[s] for s in split.test) >= max(mean[s] for s in (*split.train, *split.val)) - 1e-9


def test_extrapolation_on_the_benchmark_s_207_lone_towers():
    cube = towers(np.linspace(-60, 70, 207), np.linspace(-170, 170, 207), ["GRA"] * 207)
    split = extrapolation(cube, "space", seed=3, buffer_km=0)
    assert [len(split.train), len(split.val), len(split.test)] == [147, 20, 40]
    with pytest.raises(UnknownNameError, match="spice"):
        extrapolation(cube, "spice")


def test_a_list_of_sites_tests_and_its_neighbours_leave_training(tmp_path):
    cube = towers([0.0, 0.1, 10.0, 20.0, 20.3, 30.0, 40.0, 50.0], np.zeros(8), ["GRA"] * 8)
    (tmp_path / "test.txt").write_text("# mine\nXX-000\nXX-003 # a comment\nYY-Absent\n", "utf-8")
    split = sites_split(cube, tmp_path / "test.txt")
    assert split.test == ("XX-000", "XX-003")
    assert sorted((*split.train, *split.val)) == ["XX-002", "XX-005", "XX-006", "XX-007"] and split.val
    notes = " ".join(split.notes)
    assert all(name in notes for name in ("YY-Absent", "XX-001", "XX-004"))
    verbatim = sites_split(cube, tmp_path / "test.txt", buffer_km=0)
    assert len(verbatim.train) + len(verbatim.val) == 6

    (tmp_path / "train.txt").write_text("XX-002,train\nXX-003,train\nXX-005,val\n", "utf-8")
    split = sites_split(cube, tmp_path / "train.txt")
    assert split.test == ("XX-000", "XX-001", "XX-004", "XX-006", "XX-007")
    assert split.train == ("XX-002",) and split.val == ("XX-005",)  # XX-003 is next to XX-004

    for text, match in (
        ("XX-000,tests", "line 1"),
        ("XX-000\nXX-000,train", "before"),
        ("# nothing", "no site"),
        ("ZZ-Zzz", "to test"),
    ):
        (tmp_path / "bad.txt").write_text(text, "utf-8")
        with pytest.raises(SplitError, match=match):
            sites_split(cube, tmp_path / "bad.txt")
    with pytest.raises(SplitError, match="not a list"):
        sites_split(cube, tmp_path / "none.txt")


@settings(max_examples=15, deadline=None)
@given(st.integers(12, 40), st.floats(0, 0.6), st.integers(0, 10_000))
def test_validation_blocks_are_distant_where_asked(count, clumping, seed):
    cube = random_towers(count, clumping, seed)
    try:
        folds = kfold(cube, k=3, seed=seed, val_km=600)
    except SplitError:
        assume(False)
    place = {s: (float(a), float(b)) for s, a, b in zip(cube.site.values, cube.latitude, cube.longitude, strict=True)}
    for fold in folds:
        check(fold, cube, 50.0)
        assert all(haversine(place[a], place[b]) > 600 for a in fold.val for b in fold.train)
    with pytest.raises(SplitError, match="val_km"):
        kfold(cube, k=3, val_km=10)


@settings(max_examples=12, deadline=None)
@given(st.integers(12, 60), st.floats(0, 0.7), st.integers(0, 10_000), st.integers(2, 5))
def test_no_move_and_no_exchange_of_clusters_spreads_classes_better(count, clumping, seed, k):
    cube = random_towers(count, clumping, seed)
    places = Places.of(cube, 50.0)
    assume(len(places.groups) >= k)
    folds = places.deal(k, np.random.default_rng(seed))
    assert all(folds)

    def uneven(folds):
        held = [sum((places.classes(g) for g in fold), Counter()) for fold in folds]
        sizes = Counter(places.igbp)
        classes = sum((h[c] - n / k) ** 2 for h in held for c, n in sizes.items())
        return classes + sum((h.total() - count / k) ** 2 for h in held)

    now = uneven(folds)
    for a in range(k):
        for b in range(k):
            for g in folds[a] if a != b else ():
                if len(folds[a]) > 1:
                    moved = [f - {g} if i == a else f | {g} if i == b else f for i, f in enumerate(folds)]
                    assert uneven(moved) >= now - 1e-9
                for h in folds[b]:
                    swap = {a: folds[a] - {g} | {h}, b: folds[b] - {h} | {g}}
                    assert uneven([swap.get(i, f) for i, f in enumerate(folds)]) >= now - 1e-9


def test_one_biome_trains_alone_and_the_test_stays():
    cube = random_towers(40, 0.2, 5)
    split = per_igbp(cube, seed=5)
    one = split.only(cube, "ENF")
    igbp = dict(zip(cube.site.values, cube.igbp.values, strict=True))
    assert set(one.train) == {s for s in split.train if igbp[s] == "ENF"} and one.test == split.test
    assert set(one.zero_shot) == {igbp[s] for s in split.test} - {"ENF"}
    assert one.counts["ENF"][0] == len(one.train)
    with pytest.raises(SplitError, match="WAT"):
        split.only(cube, ["WAT"])


def test_a_word_or_a_file_names_a_split(tmp_path):
    cube = random_towers(40, 0.2, 3)
    folds = kfold(cube, k=4, seed=2)
    save_folds(folds, tmp_path / "folds.json", notes=["why"])
    assert load_folds(tmp_path / "folds.json") == folds
    folds[1].save(tmp_path / "one.json")
    assert load_folds(tmp_path / "one.json") == folds[1:2]
    for text in ("kfold:2/4", f"{tmp_path}/folds.json:2", tmp_path / "one.json"):
        assert split_for(cube, text, seed=2) == folds[1]
    assert split_for(cube, "kfold") == kfold(cube)[0]
    assert split_for(cube, "blocks:1", seed=1) == kfold(cube, buffer_km=150, seed=1)[0]
    assert split_for(cube, "per-igbp", seed=1, buffer_km=0) == per_igbp(cube, seed=1, buffer_km=0)
    assert split_for(cube, "extrapolation:space", seed=1) == extrapolation(cube, "space", seed=1)
    for text, match in (
        ("kfold:6", "1 to 5"),
        ("kfold:a", "number"),
        ("per-igbp:2", "nothing after"),
        ("sites", "file"),
        (f"{tmp_path}/folds.json", "4 folds"),
        (f"{tmp_path}/folds.json:5", "numbered"),
        ("foldk", "neither"),
    ):
        with pytest.raises(SplitError, match=match):
            split_for(cube, text)
    assert make_splits(cube, "kfold", k=3, val_km=300) == kfold(cube, k=3, val_km=300) != kfold(cube, k=3)
    with pytest.raises(UnknownNameError, match="kind"):
        make_splits(cube, "folds")
    with pytest.raises(UnknownNameError):
        split_for(cube.isel(site=slice(20)), tmp_path / "one.json")


FILES = ("towers109.json", "towers109-blocks.json")


@pytest.fixture(scope="module")
def draw():
    spec = importlib.util.spec_from_file_location("draw", SPLITS / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FILES)
def test_the_committed_folds_are_what_the_code_draws(name, draw, tmp_path):
    cube = draw.places(SPLITS / "towers109.csv")
    save_folds(kfold(cube, **draw.FILES[name]), tmp_path / name, notes=draw.notes(cube, draw.FILES[name]))
    assert (tmp_path / name).read_bytes() == (SPLITS / name).read_bytes()
    # and a draw depends on nothing but place and class: not on the order of a table
    shuffled = cube.isel(site=np.random.default_rng(0).permutation(109)).sortby("site")
    assert kfold(shuffled, **draw.FILES[name]) == load_folds(SPLITS / name)


@pytest.mark.parametrize("name", FILES)
def test_the_committed_folds_test_each_of_109_towers_once_and_cut_no_cluster(name, draw):
    cube = draw.places(SPLITS / "towers109.csv")
    folds = load_folds(SPLITS / name)
    assert len(folds) == 5 and sorted(s for f in folds for s in f.test) == cube.site.values.tolist()
    assert {len(f.test) for f in folds} <= {21, 22}
    for fold in folds:
        check(fold, cube, draw.FILES[name]["buffer_km"])
        assert len(fold.train) > 60 and len(fold.val) > 15
    # every class of 5 towers and more is tested in four folds at least and trained in all
    for igbp, count in Counter(cube.igbp.values.tolist()).items():
        if count >= 5:
            assert sum(f.counts[igbp][2] > 0 for f in folds) >= 4 and all(f.counts[igbp][0] for f in folds), igbp


def test_the_committed_places_are_the_towers(shared_data, draw):
    cube = draw.places(SPLITS / "towers109.csv")
    real = draw.places(shared_data / "towers/sites.csv")
    assert cube.equals(real.sel(site=cube.site))


def test_the_folds_of_157_towers_are_what_the_code_draws_and_never_test_a_development_tower(draw, tmp_path):
    names = ("towers157.csv", "towers157-development.json", "towers157.json")
    (tmp_path / names[0]).write_bytes((SPLITS / names[0]).read_bytes())
    draw.draw_157(tmp_path)
    assert all((tmp_path / name).read_bytes() == (SPLITS / name).read_bytes() for name in names)
    cube = draw.places(SPLITS / names[0])
    (development,), folds = (load_folds(SPLITS / name) for name in names[1:])
    tested = sorted(site for fold in folds for site in fold.test)
    assert sorted([*tested, *development.test]) == cube.site.values.tolist() and len(cube.site) == 157
    for fold in (development, *folds):
        check(fold, cube, 50.0)
        assert not fold.val and sorted([*fold.train, *fold.test]) == cube.site.values.tolist()
        assert fold is development or set(development.test) <= set(fold.train)

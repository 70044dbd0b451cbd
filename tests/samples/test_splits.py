"""Splits: a partition that cuts no cluster, drawn by seed."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fluxcube.errors import SplitError, UnknownNameError
from fluxcube.samples.splits import Split, cluster_sites, kfold, per_igbp


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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=40, deadline=None)
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
    with pytest.raises(SplitError, match="not a split file"):
        Split.load(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text('{"training": ["A"]}', "utf-8")
    with pytest.raises(SplitError, match="training"):
        Split.load(tmp_path / "odd.json")

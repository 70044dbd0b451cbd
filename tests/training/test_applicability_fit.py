"""What a fitted model keeps of its training days."""

from __future__ import annotations

import numpy as np
import pytest
from training_helpers import TARGETS, eco, small_cube

from fluxcube.inference.loading import load_model
from fluxcube.models import checkpoint
from fluxcube.models.applicability import MAX_CENTRES
from fluxcube.models.base import Batch
from fluxcube.resolution import HOURLY
from fluxcube.samples.daymeans import Column, day_columns
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.splits import Split
from fluxcube.samples.towers import load_towers
from fluxcube.training.applicability import _quotas, _shuffled, _spread, column_weights, importance, training_days
from fluxcube.training.fit import fit


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return fit(
        small_cube(), model="sw-linear", target=TARGETS, memory_days=(1,), out=tmp_path_factory.mktemp("linear") / "run"
    )


def test_only_what_a_model_looks_at_has_weight(linear):
    part = load_model(linear).applicability
    assert {name for name, w in zip(part.names, part.weight, strict=True) if w} == {"SW_IN", "SW_IN_MEAN_1D"}
    assert part.centres.shape == (len(linear.split.train) * 12, len(part.names))
    assert len(np.unique(part.cluster)) == len(linear.split.train) and part.threshold > 0


def test_the_weight_of_a_linear_model_is_its_slope(linear):
    model = load_model(linear)
    towers = load_towers(small_cube(), list(linear.split.train), model.spec, HOURLY.limit(None))
    sun = towers.series.inputs[:, model.spec.inputs.index("SW_IN")]
    found = importance(model.model, [towers], day_columns(model.spec), seed=0)
    # Shuffled input: errors grow by twice the variance of what the input explained.
    explained = np.sqrt(np.mean(np.square(model.model.slope))) * sun[towers.observed()].std() * np.sqrt(2)
    assert found["SW_IN"] == pytest.approx(explained, rel=0.1)
    assert found["TA"] == 0.0


def test_columns_of_an_input_share_its_weight():
    columns = [Column("DOY cos", "DOY"), Column("DOY sin", "DOY"), Column("TA", "TA")]
    weights = column_weights(columns, {"DOY": 2.0, "TA": 3.0})
    np.testing.assert_allclose(np.square(weights).tolist(), [2.0, 2.0, 9.0])


def test_towers_have_as_many_days_each_and_long_ones_fill_up():
    assert _quotas([10, 500, 500], 300) == [10, 145, 145]
    assert _quotas([3, 2], 300) == [3, 2]
    quota = _quotas([4000] * 385, MAX_CENTRES)
    assert sum(quota) == MAX_CENTRES and max(quota) - min(quota) <= 1


def test_days_are_spread_over_the_seasons():
    dates = np.arange("2001-01-01", "2021-01-01", dtype="datetime64[D]")
    kept, rows = _spread(dates, np.arange(len(dates))[:, None], 12)
    assert sorted((kept.astype("datetime64[M]").astype(int) % 12).tolist()) == list(range(12))
    assert len(set(kept.astype("datetime64[Y]").tolist())) > 3
    np.testing.assert_array_equal(dates[rows[:, 0]], kept)


def test_training_days_do_not_depend_on_how_towers_come(linear):
    model, cube = load_model(linear), small_cube()
    sites = list(linear.split.train)
    columns = len(day_columns(model.spec))
    whole = training_days([load_towers(cube, sites, model.spec, HOURLY.limit(1))], sites, columns)
    single = training_days((load_towers(cube, [site], model.spec, HOURLY.limit(1)) for site in sites), sites, columns)
    for a, b in zip(whole, single, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_training_gives_the_same_file_and_members_share_days(tmp_path):
    one = eco(small_cube(), tmp_path / "one", epochs=1)
    both = eco(small_cube(), tmp_path / "both", epochs=1, seeds=[4, 5])
    files = [(path / checkpoint.APPLICABILITY).read_bytes() for path in (one.path, both.path / "seed-4")]
    assert files[0] == files[1]
    parts = [checkpoint.applicability(both.path / name) for name in ("seed-4", "seed-5")]
    np.testing.assert_array_equal(parts[0].centres, parts[1].centres)
    assert not np.array_equal(parts[0].weight, parts[1].weight)
    found = load_model(both).applicability
    mean = np.mean([part.weight / np.linalg.norm(part.weight) for part in parts], 0)
    np.testing.assert_allclose(found.weight, mean)


def test_towers_in_one_cluster_tell_no_threshold(tmp_path, caplog):
    cube = small_cube()
    cube = cube.assign_coords(latitude=cube.latitude * 0 + 45.0, longitude=cube.longitude * 0 + 8.0)
    sites = tuple(map(str, cube.site.values))
    split = Split(train=sites[:8], val=sites[8:10], test=sites[10:], buffer_km=50.0)
    run = fit(cube, model="sw-linear", target="NEE", split=split, out=tmp_path / "run")
    assert "no area of applicability" in caplog.text and load_model(run).applicability is None


def test_clusters_of_50_km_determine_the_threshold_whatever_the_buffer_of_the_split(tmp_path):
    cube = small_cube()
    step = np.arange(cube.sizes["site"])
    latitude = 40.0 + 1.0 * (step // 2) + 0.2 * (step % 2)
    cube = cube.assign_coords(latitude=("site", latitude), longitude=("site", 8.0 + 0 * step))
    sites = tuple(map(str, cube.site.values))
    found = []
    for buffer_km in (0.0, 150.0):
        split = Split(train=sites[:8], val=sites[8:10], test=sites[10:], buffer_km=buffer_km)
        run = fit(cube, model="sw-linear", target="NEE", split=split, out=tmp_path / f"run-{buffer_km:g}")
        found.append(load_model(run).applicability)
    assert found[0].threshold == found[1].threshold
    assert [len(np.unique(part.cluster)) for part in found] == [4, 4]  # pairs 22 km apart, 111 km from the next


def test_surface_columns_describe_a_day_and_those_of_an_index_are_shuffled_together():
    spec = FeatureSpec(predictors=("TA",), surface=("NDVI", "NDVI_MEAN_64D", "SURFACE_AGE"), static=("NDVI_P50",))
    columns = day_columns(spec)
    assert [(c.name, c.group) for c in columns] == [
        ("TA", "TA"),
        ("NDVI", "NDVI"),
        ("NDVI_MEAN_64D", "NDVI"),
        ("SURFACE_AGE", "SURFACE_AGE"),
        ("NDVI_P50", "NDVI_P50"),
    ]
    inputs = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    empty = np.empty((3, 0), np.float32)
    batch = Batch(
        inputs, np.empty((3, 0, 0, 64), np.float32), np.empty((3, 0), np.int64), empty, empty.astype(np.int64)
    )
    changed = _shuffled(batch, spec, "NDVI", np.array([2, 0, 1])).inputs
    assert (changed[..., [0, 3]] == inputs[..., [0, 3]]).all() and (changed[..., [1, 2]] != inputs[..., [1, 2]]).all()

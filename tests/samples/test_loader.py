"""Windows of towers: what is in them, who gets which, and that nothing but seed and epoch decides."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.models.base import Batch
from fluxcube.resolution import HOURLY
from fluxcube.samples.features import Block, FeatureSpec, cube_block
from fluxcube.samples.loader import Windows, load_windows
from fluxcube.samples.towers import Towers, cube_spec, load_towers
from fluxcube.samples.windows import join
from fluxcube.simulation.example import example_cube

SPEC = FeatureSpec(predictors=("TOD", "TA", "SW_IN"), targets=("NEE", "GPP_NT"))


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=4, days=20)


@pytest.fixture(scope="module")
def towers(cube):
    return load_towers(cube, ["XX-S00", "XX-S01", "XX-S02"], SPEC, HOURLY.limit(0))


def coded(stretches, seed=0, seen=0.7, step=1000):
    """Towers in which each hour holds its own site and hour: met = (site, hour), target = the hour since 1970.

    `stretches` has (site, hours) of each, in order; the stretches of a site are `step` hours apart.
    """
    rng = np.random.default_rng(seed)
    sites = sorted({site for site, _ in stretches})
    spec = FeatureSpec(predictors=("TA", "P"), targets=("NEE",))
    blocks, fluxes, first = [], [], []
    for at, (site, hours) in enumerate(stretches):
        met = np.stack([np.full(hours, site), at * step + np.arange(hours)], 1).astype("float32")
        blocks.append(
            Block(
                inputs=met[None],
                observed=np.ones((1, hours), bool),
                numbers=np.empty((1, 0), "float32"),
                classes=np.empty((1, 0), int),
                chips=np.empty((1, 0, 0, 64), "float32"),
                chip_hour=np.empty((1, 0), int),
                first_hour=at * step,
            )
        )
        fluxes.append(np.where(rng.random(hours) < seen, met[:, 1], np.nan).astype("float32"))
        first.append(at * step)
    return Towers(
        spec=spec,
        sites=tuple(f"S{site}" for site in sites),
        series=join(blocks),
        site=np.array([sites.index(site) for site, _ in stretches]),
        first_hour=np.array(first),
        fluxes=np.concatenate(fluxes)[:, None],
    )


STRETCHES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=6).map(sorted)


def whole(windows, epoch=0):
    """One epoch, its batches put together."""
    windows.set_epoch(epoch)
    batches = list(windows)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def keys(batch):
    """Site and time of each window."""
    return list(zip(batch["site"].tolist(), batch["time"].tolist(), strict=True))


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


@settings(max_examples=40, deadline=None)
@given(
    STRETCHES,
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 7),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_no_window_holds_an_hour_of_elsewhere(stretches, length, emits, stride, partial, shuffle, seed):
    emits, data = min(emits, length), coded(stretches, seed)
    options = {"length": length, "emits": emits, "partial": partial, "batch_size": 7, "seed": seed}
    try:
        windows = Windows(data, stride=stride, shuffle=shuffle, **options)
    except ConfigError as error:
        assert "no window" in str(error)
        fits = [
            h
            for (_, hours), start in zip(stretches, data.series.start, strict=True)
            for h in range(hours)
            if (partial or h >= length - 1)
            and np.isfinite(data.fluxes[start + max(0, h - emits + 1) : start + h + 1]).any()
        ]
        assert not fits
        return
    if not len(windows):
        assert stride > 1  # the epoch's phase may miss the few windows there are
        return
    got = whole(windows)
    place = got["time"] // 1000  # stretches are 1000 hours apart
    first = 1000 * place
    hour = got["time"][:, None] - np.arange(length)[::-1]
    inside = hour >= first[:, None]
    assert partial or inside.all()
    np.testing.assert_array_equal(got["mask"].all(2), inside)
    np.testing.assert_array_equal(got["mask"].any(2), inside)
    np.testing.assert_array_equal(got["inputs"][..., 1][inside], hour[inside])
    sites = np.array([site for site, _ in stretches])
    assert (got["inputs"][..., 0] == sites[place][:, None])[inside].all()
    assert [windows.sites[s] for s in got["site"]] == [f"S{site}" for site in sites[place]]
    targets, hour = got["targets"][..., 0], hour[:, length - emits :]
    assert np.isfinite(targets).any(1).all()
    np.testing.assert_array_equal(targets[np.isfinite(targets)], hour[np.isfinite(targets)])
    known = {h for h in data.fluxes[:, 0].tolist() if h == h}
    np.testing.assert_array_equal(np.isfinite(targets), np.isin(hour, list(known)) & (hour >= first[:, None]))
    assert len(set(keys(got))) == len(keys(got))


@settings(max_examples=30, deadline=None)
@given(STRETCHES, st.integers(1, 5), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_ranks_share_an_epoch_without_repeats(stretches, world, size, drop_last, epoch):
    data = coded([*stretches, (9, 30)], seen=1.0)
    options = {"length": 4, "seed": 3, "drop_last": drop_last}
    one = Windows(data, batch_size=size * world, **options)
    ranks = [Windows(data, batch_size=size, rank=r, world_size=world, **options) for r in range(world)]
    for windows in (one, *ranks):
        windows.set_epoch(epoch)
    lengths = {len(windows) for windows in ranks}
    assert len(lengths) == 1
    everything = keys(whole(Windows(data, length=4, shuffle=False)))
    left_out = {windows.left_out for windows in ranks}
    steps = [[keys(batch) for batch in windows] for windows in ranks]
    assert {len(s) for s in steps} == lengths
    assert len({tuple(map(len, s)) for s in steps}) == 1  # DDP weighs ranks alike
    given_ = [key for s in steps for batch in s for key in batch]
    assert len(set(given_)) == len(given_) and set(given_) <= set(everything)
    assert left_out == {len(everything) - len(given_)}
    assert drop_last or len(everything) - len(given_) < world
    for step, batch in zip(zip(*steps, strict=True), one, strict=False):
        together = sorted(key for part in step for key in part)
        assert set(together) <= set(keys(batch))  # equal but for what the last step leaves out
        assert len(together) == len(batch["time"]) or len(batch["time"]) < size * world


def test_seed_and_epoch_decide_and_nothing_else(towers):
    def epoch(seed, number, **options):
        return whole(Windows(towers, length=24, seed=seed, **options), number)

    first = epoch(0, 0)
    equal(first, epoch(0, 0))
    equal(first, epoch(0, 0, batch_size=17))
    for other in (epoch(0, 1), epoch(1, 0)):
        assert keys(other) != keys(first) and sorted(keys(other)) == sorted(keys(first))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    epoch(0, 2)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_each_pass_is_the_next_epoch_but_a_peek_is_none(towers):
    windows = Windows(towers, length=24, batch_size=100)
    peek = next(iter(windows))
    passes = [np.concatenate([batch["time"] for batch in windows]) for _ in range(3)]
    np.testing.assert_array_equal(passes[0][:100], peek["time"])
    assert windows.epoch == 3
    for number, times in enumerate(passes):
        np.testing.assert_array_equal(whole(Windows(towers, length=24), number)["time"], times)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_epoch_goes_on_as_the_unbroken_one(towers, shuffle):
    def fresh(**changes):
        settings_ = {"length": 24, "batch_size": 50, "stride": 3, "seed": 5, "shuffle": shuffle}
        return Windows(towers, **settings_ | changes)

    unbroken = fresh()
    unbroken.set_epoch(2)
    run = [*unbroken, *unbroken]
    stopped = fresh()
    stopped.set_epoch(2)
    for done, _ in enumerate(stopped, 1):
        if done == 3:
            break
    state = json.loads(json.dumps(stopped.state_dict()))
    assert (state["epoch"], state["batch"]) == (2, 3)
    resumed = fresh()
    resumed.load_state_dict(state)
    again = [*resumed, *resumed]
    assert len(again) == len(run) - 3
    for a, b in zip(again, run[3:], strict=True):
        equal(a, b)
    for name, value in {"seed": 6, "batch_size": 51, "stride": 2, "length": 25, "world_size": 2, "limit": 9}.items():
        with pytest.raises(ConfigError, match=f"{name} was"):
            fresh(**{name: value}).load_state_dict(state)
    towers = dataclasses.replace(towers, fluxes=np.ones_like(towers.fluxes))
    with pytest.raises(ConfigError, match="windows was"):
        fresh().load_state_dict(state)


def test_a_state_at_the_end_of_an_epoch_begins_the_next(towers):
    windows = Windows(towers, length=24)
    list(windows)
    assert (windows.state_dict()["epoch"], windows.state_dict()["batch"]) == (1, 0)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_neither_batches_nor_their_order(towers, workers):
    torch = pytest.importorskip("torch")
    windows = Windows(towers, length=24, batch_size=64, seed=1)
    plain = Windows(towers, length=24, batch_size=64, seed=1)
    loader = windows.loader(num_workers=workers, persistent_workers=workers > 0)
    assert len(loader) == len(plain)
    for _ in range(2):  # the second pass tells whether workers that live on draw the next epoch
        for done, (a, b) in enumerate(zip(loader, plain, strict=True), 1):
            assert all(isinstance(value, torch.Tensor) for value in a.values())
            assert (
                a["inputs"].dtype == torch.float32 and a["mask"].dtype == torch.bool and a["site"].dtype == torch.int64
            )
            equal(a, b)
            assert windows.state_dict()["batch"] == done  # what workers prepared in advance does not count
    assert windows.epoch == plain.epoch == 2
    windows.set_epoch(4, 5)
    plain.set_epoch(4, 5)
    assert len(loader) == len(plain) - 5
    for a, b in zip(loader, plain, strict=True):
        equal(a, b)


def test_a_plain_data_loader_takes_windows(towers):
    data = pytest.importorskip("torch.utils.data")
    windows = Windows(towers, length=24, batch_size=64)
    for a, b in zip(data.DataLoader(windows, batch_size=None), Windows(towers, length=24, batch_size=64), strict=True):
        equal(a, b)


def test_windows_travel_to_other_processes(towers):
    windows = Windows(towers, length=24, batch_size=64, seed=1)
    equal(pickle.loads(pickle.dumps(windows))[3], windows[3])


def test_an_epoch_copies_its_batches_and_no_more():
    data = coded([(0, 200_000)], step=200_000)
    wide = np.repeat(data.series.inputs, 16, axis=1)
    data = dataclasses.replace(data, series=dataclasses.replace(data.series, inputs=wide))
    windows = Windows(data, length=32, batch_size=64, limit=2000)
    tracemalloc.start()
    for _ in windows:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.3 * wide.nbytes


def test_torch_is_not_needed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fluxcube.simulation.example import example_cube\n"
        "from fluxcube.samples.loader import load_windows\n"
        "from fluxcube.errors import MissingPackageError\n"
        "windows = load_windows(example_cube(), length=24)\n"
        "assert sum(len(b['inputs']) for b in windows) > 0\n"
        "try: windows.loader()\n"
        "except MissingPackageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout


def test_a_batch_holds_what_the_cube_holds(cube):
    windows = load_windows(cube, SPEC, sites=["XX-S02", "XX-S01"], max_qc=0, length=30, emits=5, batch_size=40)
    assert windows.sites == ("XX-S02", "XX-S01") and windows.spec == SPEC
    batch = windows[1]
    for i in range(0, 40, 7):
        site, last = windows.sites[batch["site"][i]], batch["time"].astype("datetime64[h]")[i]
        times = last - np.arange(30)[::-1]
        block = cube_block(cube.sel(site=[site]), SPEC)
        at = np.searchsorted(cube.time.values, times[0].astype("datetime64[ns]"))
        np.testing.assert_array_equal(batch["inputs"][i], block.inputs[0, at : at + 30])
        np.testing.assert_array_equal(batch["mask"][i], np.isfinite(block.inputs[0, at : at + 30]))
        fluxes = cube.fluxes.sel(site=site, time=times[-5:], target=["NEE", "GPP_NT"])
        flags = cube.fluxes_qc.sel(site=site, time=times[-5:], target=["NEE", "GPP_NT"])
        np.testing.assert_array_equal(batch["targets"][i], fluxes.where(flags == 0).values.astype("float32"))
    assert np.isnan(batch["targets"]).any() and np.isfinite(batch["targets"]).any()
    assert isinstance(Batch.of(batch), Batch)


def test_missing_hours_are_masked_and_kept(cube):
    holed = cube.copy(deep=True)
    holed.predictors[0, 100:110] = np.nan
    windows = load_windows(holed, SPEC, sites=["XX-S00"], length=30, shuffle=False, max_qc=None)
    got = whole(windows)
    at = int(np.flatnonzero(got["time"] - got["time"][0] == 115 - 29)[0])
    np.testing.assert_array_equal(got["mask"][at].any(1), ~((np.arange(86, 116) >= 100) & (np.arange(86, 116) < 110)))
    assert len(got["time"]) == 480 - 29  # no window is lost


def test_holes_in_the_axis_are_not_crossed(cube):
    days = cube.time.dt.day.values
    part = cube.isel(time=np.flatnonzero((days < 6) | (days > 12)))
    windows = load_windows(part, cube_spec(part), sites=["XX-S01", "XX-S03"], length=24, max_qc=None, shuffle=False)
    whole_ = load_windows(cube, windows.spec, sites=["XX-S01", "XX-S03"], length=24, max_qc=None, shuffle=False)
    got, full = whole(windows), whole(whole_)
    assert windows.towers.series.hours.tolist() == [120, 192, 120, 192]
    assert len(got["time"]) == 2 * (120 - 23 + 192 - 23)
    assert len(windows.towers.series.chips) == len(whole_.towers.series.chips)  # once a tower, not once a stretch
    at = [keys(full).index(key) for key in keys(got)]
    equal(got, {name: values[at] for name, values in full.items()})  # chips of before the hole, too


def test_chips_stand_at_local_noon(cube):
    """By hand: at 90 W local noon is 18 UTC, at 20 E it is 10:40, in the hour of 10 UTC; chips come every 8 days."""
    assert cube.longitude.values[[0, 3]].tolist() == [-90.0, 20.0]
    windows = load_windows(cube, sites=["XX-S00", "XX-S03"], length=48, shuffle=False, max_qc=None)
    got = whole(windows)
    for site, noon in ((0, 18), (1, 10)):
        last = np.datetime64("2018-06-10T12")  # the window begins at 2018-06-08T13; the chip is of 2018-06-09
        i = keys(got).index((site, int(last.astype("datetime64[h]").astype(int))))
        steps = got["image_step"][i]
        assert steps[steps >= 0].tolist() == [0, 11 + noon]
        chips = cube.modis.isel(site=3 * site).sel(day=["2018-06-01", "2018-06-09"]).values.reshape(2, 9, 64)
        np.testing.assert_array_equal(got["images"][i][steps >= 0], chips)
        assert np.isnan(got["images"][i][steps < 0]).all()
    before = keys(got).index((0, int(np.datetime64("2018-06-09T17", "h").astype(int))))
    assert got["image_step"][before].max() == 0 and got["image_step"][before + 1].max() == 47


def test_every_setting_changes_something(towers):
    changes = {
        "length": 30,
        "batch_size": 41,
        "emits": 3,
        "stride": 2,
        "partial": True,
        "shuffle": False,
        "limit": 50,
        "seed": 1,
        "rank": 1,
        "world_size": 2,
        "drop_last": True,
    }
    for name, value in changes.items():
        settings_ = {"length": 24, "batch_size": 40, name: value} | ({"world_size": 2} if name == "rank" else {})
        base = Windows(towers, length=24, batch_size=40, world_size=2 if name == "rank" else 1)
        other = Windows(towers, **settings_)
        if name == "drop_last":
            assert len(other) == len(base) - 1 and other.left_out == base[len(base) - 1]["time"].size
            continue
        same = len(base) == len(other) and all(
            a[key].shape == b[key].shape and np.array_equal(a[key], b[key], equal_nan=True)
            for a, b in zip(base, other, strict=True)
            for key in a
        )
        assert not same, name
    fields = {f.name for f in dataclasses.fields(Windows) if f.init}
    assert fields == {*changes, "repeat_images", "towers"}  # which needs chips: see the next test


def test_repeated_images_stand_in_each_window_once_a_day(cube):
    once, daily = (load_windows(cube, length=60, batch_size=20, repeat_images=repeat)[0] for repeat in (False, True))
    np.testing.assert_array_equal(once["inputs"], daily["inputs"])
    assert ((once["image_step"] >= 0).sum(1) <= 2).all()  # chips come every 8 days
    assert np.isin((daily["image_step"] >= 0).sum(1), (2, 3)).all()


def test_settings_of_reading_change_what_is_read(cube):
    measured, filled = (load_windows(cube, max_qc=limit, length=24).towers.observed().sum() for limit in (0, 2))
    assert measured < filled
    assert len(load_windows(cube, sites=["XX-S01"], length=24).sites) == 1
    assert load_windows(cube, length=24).spec == cube_spec(cube)
    said = []
    load_windows(cube, length=24, progress=lambda done, total, text: said.append((done, total, text)))
    assert said[-1] == (4, 4, "reading XX-S03")
    spec = cube_spec(
        cube,
        ["XX-S00"],
        targets=("GPP_NT", "NEE"),
        predictors=("TA",),
        memory_days=(2,),
        bands=("red",),
        static=("igbp",),
        limit=HOURLY.limit(0),
    )
    expected = FeatureSpec(
        predictors=("TA",),
        memory_days=(2,),
        bands=("red",),
        static=("igbp",),
        targets=("GPP_NT", "NEE"),
        predictor_max_qc=0,
        igbp_classes=("DBF",),
        bounds="ours",
    )
    assert spec == expected


def test_scaled_towers_have_mean_0_and_spread_1_and_others_follow(cube):
    train = load_towers(cube, ["XX-S00", "XX-S01"], SPEC, HOURLY.limit(1))
    scaled = train.scaled()
    np.testing.assert_allclose(np.nanmean(scaled.fluxes, 0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(scaled.fluxes, 0), 1, atol=1e-5)
    back = scaled.fluxes * np.array(scaled.spec.target_scale) + np.array(scaled.spec.target_mean)
    np.testing.assert_allclose(back, train.fluxes, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        load_towers(cube, ["XX-S00", "XX-S01"], scaled.spec, HOURLY.limit(1)).fluxes, scaled.fluxes
    )
    with pytest.raises(ConfigError, match="already"):
        scaled.scaled()


def test_sites_without_hours_are_left_out_and_said(cube, caplog):
    stop = cube.time_stop.values.copy()
    stop[2] = cube.time.values[100]
    late = cube.assign_coords(time_stop=("site", stop)).isel(time=slice(200, None))
    with caplog.at_level("WARNING"):
        windows = load_windows(late, length=24)
    assert windows.sites == ("XX-S00", "XX-S01", "XX-S03") and "1 of 4 sites" in caplog.text
    with pytest.raises(ConfigError, match="XX-S02"):
        load_windows(late, sites=["XX-S02"], length=24)
    with pytest.raises(ConfigError, match="no site"):
        load_windows(late.assign_coords(time_stop=late.time_start), length=24)


def test_mistakes_are_named(cube, towers):
    for options, match in (
        ({"length": 0}, "length"),
        ({"length": 24, "batch_size": 0}, "batch_size"),
        ({"length": 4, "emits": 5}, "emits"),
        ({"length": 24, "stride": 0}, "stride"),
        ({"length": 24, "rank": 2, "world_size": 2}, "rank"),
        ({"length": 24, "seed": -1}, "seed"),
        ({"length": 481}, "no window of 481 hours"),
        ({"length": 24, "limit": 0}, "limit"),
    ):
        with pytest.raises(ConfigError, match=match):
            Windows(towers, **options)
    windows = Windows(towers, length=24, batch_size=50)
    for index in (-1, len(windows), 10**6):
        with pytest.raises(IndexError):
            windows[index]
    with pytest.raises(ConfigError, match="epoch"):
        windows.set_epoch(-1)
    with pytest.raises(UnknownNameError, match="XX-S99"):
        load_windows(cube, SPEC, sites=["XX-S99"], length=24)
    with pytest.raises(ConfigError, match=r"works on hours.*contains days"):
        load_windows(cube.assign_attrs(resolution="daily"), cube_spec(cube), length=24)
    with pytest.raises(ConfigError, match="normalized=False"):
        load_windows(cube.assign_attrs(normalized="by bounds"), length=24)


def test_a_cube_in_a_store_gives_windows_in_two_lines(cube_store):
    import fluxcube as fc

    cube = fc.open_carbonsense(cube_store)
    batch = next(iter(load_windows(cube, length=48, batch_size=8)))
    assert batch["inputs"].shape[:2] == (8, 48) and batch["images"].shape[2:] == (9, 64)
    assert batch["mask"].any()


def test_a_pass_is_of_the_epoch_it_was_begun_in(towers):
    windows = Windows(towers, length=24, batch_size=100)
    begun = iter(windows)
    windows.set_epoch(7, 2)
    np.testing.assert_array_equal(next(begun)["time"], Windows(towers, length=24, batch_size=100)[0, 0]["time"])
    assert (windows.state_dict()["epoch"], windows.state_dict()["batch"]) == (0, 1)


def test_targets_of_a_real_tower_are_the_hourly_means_of_its_file(shared_data, tmp_path):
    """Read independently: pandas, standard time moved by the tower's 9.5 h, the two halves of an hour averaged."""
    import pandas as pd

    import fluxcube as fc

    (path,) = (shared_data / "towers").glob("*_AU-ASM_*.zip")
    fc.build_carbonsense(shared_data / "towers", tmp_path / "c.zarr", sites=["AU-ASM"])
    batch = load_windows(fc.open_carbonsense(tmp_path / "c.zarr"), length=32, max_qc=0, batch_size=500)[0]
    table = pd.read_csv(path, na_values=-9999, usecols=["TIMESTAMP_START", "NEE_VUT_REF", "NEE_VUT_REF_QC"])
    hour = (pd.to_datetime(table.TIMESTAMP_START.astype(str)) - pd.Timedelta(hours=9.5)).dt.floor("h")
    means = table.groupby(hour).mean().loc[pd.DatetimeIndex(batch["time"].astype("datetime64[h]"))]
    np.testing.assert_allclose(batch["targets"][:, 0, 0], means.NEE_VUT_REF, rtol=1e-5, atol=1e-5)
    assert (means.NEE_VUT_REF_QC == 0).all() and len(means) == 500

"""Rows: what site by site gives is what all at once gives, and a killed run ends as an unbroken one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.models.base import Batch
from fluxcube.models.boosting import ROUNDS, Boosting, BoostingConfig
from fluxcube.models.imagemeans import chip_means
from fluxcube.resolution import HOURLY
from fluxcube.samples.features import cube_block
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.samples.windows import gather
from fluxcube.simulation.example import example_cube
from fluxcube.training import rows as training_rows
from fluxcube.training.plan import sizes_of
from fluxcube.training.rows import ModelRows, SiteRows, fit_rows, table

CONFIG = BoostingConfig(n_estimators=2 * ROUNDS + 5, lags=(1, 3), max_rows=700)


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def cube():
    cube = example_cube(sites=5, days=8)
    rng = np.random.default_rng(0)
    cube["fluxes"] = cube.fluxes.where(rng.random(cube.fluxes.shape) < 0.7)
    cube["fluxes_qc"] = cube.fluxes_qc.where(rng.random(cube.fluxes.shape) < 0.8, 1).astype("int8")
    return cube.isel(time=np.r_[0:90, 100:190])  # a hole in the axis


@pytest.fixture(scope="module")
def sites(cube):
    return [str(site) for site in cube.site.values]


@pytest.fixture(scope="module")
def spec(cube, sites):
    return cube_spec(cube, sites, targets=("NEE", "GPP_NT"), memory_days=(2,))


@pytest.fixture
def model(spec):
    return Boosting(CONFIG, sizes_of(spec))


@pytest.mark.parametrize("max_qc", [None, 1, 0])
def test_site_by_site_is_all_at_once(cube, sites, spec, model, max_qc):
    towers = load_towers(cube, sites, spec, HOURLY.limit(max_qc)).scaled()
    by_site = SiteRows(cube, sites, spec, HOURLY.limit(max_qc)).scaled()
    np.testing.assert_allclose(by_site.spec.target_mean, towers.spec.target_mean, rtol=1e-12)
    np.testing.assert_allclose(by_site.spec.target_scale, towers.spec.target_scale, rtol=1e-9)
    for a, b in zip(table(model, by_site), table(model, towers), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert by_site.counts.sum() == towers.observed().sum() == by_site.observed().sum()


@pytest.mark.parametrize("kept", [0, 40_000, 2**30])
def test_each_pass_gives_the_same_whatever_is_kept(monkeypatch, cube, sites, spec, model, kept):
    source = SiteRows(cube, sites, spec, HOURLY.limit(1)).scaled()
    rows = ModelRows(model, source, kept)
    read = []
    load = training_rows.load_towers
    monkeypatch.setattr(training_rows, "load_towers", lambda *a: read.append(a[1]) or load(*a))
    first, second = (list(rows.chunks()) for _ in range(2))
    assert len(read) == {0: 10, 40_000: len(read), 2**30: 5}[kept] and (kept != 40_000 or 5 < len(read) < 10)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_array_equal(np.concatenate([y for _, y in first]), rows.targets())


def test_measured_hours_are_those_of_flag_zero(cube, sites, spec):
    source = SiteRows(cube, sites, spec, HOURLY.limit(1))
    measured = source.measured()
    flags = cube.fluxes_qc.sel(target=list(spec.targets)).values.reshape(-1, 2)
    fluxes = cube.fluxes.sel(target=list(spec.targets)).values.reshape(-1, 2)
    seen = np.isfinite(fluxes) & (flags >= 0) & (flags <= 1)
    np.testing.assert_array_equal(measured, (seen & (flags == 0))[seen.any(1)])
    assert 0 < measured.sum() < np.isfinite(source.fluxes).sum()


def test_trailing_means_are_counted(spec):
    sizes = sizes_of(spec)
    assert [name for name in spec.inputs if name.endswith("_MEAN_2D")] == list(spec.inputs[-sizes.means :])
    assert sizes_of(dataclasses.replace(spec, memory_days=())).means == 0


def test_fluxes_scaled_twice_are_refused(cube, sites, spec):
    with pytest.raises(ConfigError, match="scaled already"):
        SiteRows(cube, sites, spec, HOURLY.limit(1)).scaled().scaled()


def test_trees_do_not_depend_on_how_rows_are_read(cube, sites, spec):
    weights = []
    source = SiteRows(cube, sites, spec, HOURLY.limit(1)).scaled()
    towers = load_towers(cube, sites, source.spec, HOURLY.limit(1))
    for data in (source, towers):
        model = Boosting(CONFIG, sizes_of(spec))
        fit_rows(model, data, None, seed=3)
        weights.append(model.weights())
    assert weights[0] == weights[1]


@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_run_ends_as_an_unbroken_one(monkeypatch, cube, sites, spec, tmp_path, at):
    train, val = SiteRows(cube, sites[:4], spec, HOURLY.limit(1)).scaled(), sites[4:]
    watched = SiteRows(cube, val, train.spec, HOURLY.limit(0))
    whole, broken, again = (Boosting(CONFIG, sizes_of(spec)) for _ in range(3))
    settings = {"seed": 1, "state": tmp_path / ".rows.state", "request": {"seed": 1, "config": {"lags": (1, 3)}}}
    logged = fit_rows(whole, train, watched, **settings)
    assert not list(tmp_path.iterdir())
    write, written = training_rows.write_atomically, []

    def killer(path, content):
        write(path, content)
        written.append(path)
        if len(written) == at:
            raise Killed

    monkeypatch.setattr(training_rows, "write_atomically", killer)
    with pytest.raises(Killed):
        fit_rows(broken, train, watched, **settings)
    monkeypatch.undo()
    rounds = []
    assert fit_rows(again, train, watched, **settings, progress=lambda done, *_: rounds.append(done)) == logged
    assert again.weights() == whole.weights()
    assert min(rounds[1:]) > ROUNDS  # the first call states from where the run is resumed
    assert not list(tmp_path.iterdir())


def test_a_state_of_other_settings_or_a_damaged_one_is_refused(cube, sites, spec, tmp_path):
    train = SiteRows(cube, sites, spec, HOURLY.limit(1)).scaled()
    path = tmp_path / ".rows.state"
    model = Boosting(CONFIG, sizes_of(spec))
    model.learn(ModelRows(model, train), seed=1, keep=lambda g: training_rows.save_growth(path, g, {"seed": 1}))
    with pytest.raises(ConfigError, match="seed was 1, is 2"):
        fit_rows(model, train, None, seed=2, state=path, request={"seed": 2})
    content = bytearray(path.read_bytes())
    for at in (5, 60, len(content) - 5):
        damaged = content.copy()
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            fit_rows(model, train, None, seed=1, state=path, request={"seed": 1})
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        fit_rows(model, train, None, seed=1, state=path, request={"seed": 1})


def test_missing_pixels_of_a_chip_do_not_count(cube, sites, spec):
    """Most of the gap lies at the rim, where pixels weigh little: the mean of a filled chip would be another."""
    gaps = cube.copy(deep=True)
    slope = np.linspace(0.5, 1.0, 8)  # across the chip
    gaps["modis"] = (gaps.modis * slope).where((np.arange(8) < 5)[:, None] | (np.arange(8) < 3)).astype("float32")
    valid = dataclasses.replace(spec, fill_chips=False)
    means = {}
    for name, one in (("valid", valid), ("filled", spec)):
        block = cube_block(gaps, one)
        batch = Batch.of(gather(block, np.arange(5), np.full(5, 80), 1))
        means[name] = chip_means(batch.images, batch.image_step, len(spec.bands))
    latest = (block.chip_hour < 80).sum(1) - 1
    pixels = gaps.modis.sel(band=list(spec.bands)).values[np.arange(5), latest]
    rows, cols = np.mgrid[:8, :8] - 3.5
    weight = np.broadcast_to(1 / np.hypot(rows, cols), pixels.shape)
    seen = np.isfinite(pixels)
    expected = np.where(seen, pixels * weight, 0).sum((-1, -2)) / np.where(seen, weight, 0).sum((-1, -2))
    np.testing.assert_allclose(means["valid"], expected, rtol=1e-5)
    assert np.abs(means["filled"] - expected).max() > 1e-3

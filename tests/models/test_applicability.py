"""Dissimilarity and area of applicability: against numbers worked by hand and a plain loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.models import applicability, checkpoint
from fluxcube.models.applicability import Applicability, combined
from fluxcube.models.base import Sizes
from fluxcube.models.simple import SWLinear, SWLinearConfig

NAMES = ("TA", "SW_IN", "VPD")


def some(rng, days=60, gaps=0.0, weight=(1.0, 0.5, 0.2)):
    centres = rng.normal(size=(days, 3)) * [1, 20, 300] + [5, 0, 1000]
    centres[rng.random(centres.shape) < gaps] = np.nan
    return Applicability.of(NAMES, centres, np.arange(days) % 5, np.array(weight))


def by_loop(part, days):
    """What the paper says, one pair at a time."""
    scaled = (part.centres - np.nanmean(part.centres, 0)) / np.nanstd(part.centres, 0) * part.weight
    centres = np.nan_to_num(scaled)
    far = [_apart(scaled[i], centres[j], part.weight) for i in range(len(scaled)) for j in range(len(scaled)) if i != j]
    out = []
    for day in days:
        x = (day - np.nanmean(part.centres, 0)) / np.nanstd(part.centres, 0) * part.weight
        out.append(min(_apart(x, centre, part.weight) for centre in centres) / np.nanmean(far))
    return np.array(out)


def _apart(x, centre, weight):
    known = np.isfinite(x)
    if not weight[known].any():
        return np.nan
    share = (weight[known] ** 2).sum() / (weight**2).sum()
    return np.sqrt(((x - centre)[known] ** 2).sum() / share)


def test_numbers_worked_by_hand():
    # Centres 0, 1 | 3, 4, of spread sqrt(2.5): any two are (1 + 3 + 4 + 2 + 3 + 1) / 6 = 7/3 apart, in these units.
    part = Applicability.of(["TA"], np.array([[0.0], [1.0], [3.0], [4.0]]), [0, 0, 1, 1], [7.0])
    np.testing.assert_allclose(part.index(np.array([[0.0], [2.0], [9.0]])), np.array([0.0, 1.0, 5.0]) / (7 / 3), 1e-6)
    # To the other cluster: 3, 2, 2, 3. Quartiles 2 and 3: none is above 3 + 1.5, so that the threshold is the largest.
    assert part.threshold == pytest.approx(3 / (7 / 3))


def test_the_threshold_is_the_largest_training_index_that_is_no_outlier():
    rng = np.random.default_rng(11)
    above = 0
    for _ in range(40):
        days, clusters = int(rng.integers(20, 200)), int(rng.integers(2, 12))
        part = Applicability.of(NAMES, rng.normal(size=(days, 3)), np.arange(days) % clusters, np.ones(3))
        distance, held_out = part._among()
        index = np.sort(held_out[np.isfinite(held_out)] / distance)
        low, high = np.quantile(index, (0.25, 0.75))
        whisker = high + 1.5 * (high - low)
        assert part.threshold == index[index <= whisker][-1] <= index[-1]
        above += whisker > index[-1]
    assert above  # the whisker alone exceeds every index in some of them


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_equals_a_plain_loop(gaps):
    rng = np.random.default_rng(1)
    part = some(rng, gaps=gaps)
    days = rng.normal(size=(40, 3)) * [2, 40, 600] + [5, 0, 1000]
    days[rng.random(days.shape) < gaps] = np.nan
    days[0] = np.nan
    np.testing.assert_allclose(part.index(days), by_loop(part, days), rtol=2e-4, atol=2e-5)
    assert np.isnan(part.index(days)[0])


def test_many_days_are_as_few():
    rng = np.random.default_rng(2)
    part, days = some(rng, days=700), rng.normal(size=(900, 3))
    np.testing.assert_allclose(part.index(days), np.concatenate([part.index(days[i : i + 1]) for i in range(900)]))


def test_neither_units_nor_order_nor_what_has_no_weight_matter():
    rng = np.random.default_rng(3)
    part, days = some(rng, weight=(1.0, 0.5, 0.0)), rng.normal(size=(20, 3)) + np.array([5, 0, 1000])
    shifted = Applicability.of(NAMES, part.centres * [10, 0.1, 1] + [3, 4, 5], part.cluster, part.weight * 9)
    np.testing.assert_allclose(shifted.index(days * [10, 0.1, 1] + [3, 4, 5]), part.index(days), rtol=1e-3)
    assert shifted.threshold == pytest.approx(part.threshold, rel=1e-4)
    turned = Applicability.of(NAMES[::-1], part.centres[:, ::-1], part.cluster, part.weight[::-1])
    np.testing.assert_allclose(turned.index(days[:, ::-1]), part.index(days), rtol=1e-5)
    elsewhere = days + np.array([0, 0, 1e6])
    np.testing.assert_array_equal(part.index(elsewhere), part.index(days))
    assert (some(rng, weight=(1, 0.5, 0.2)).index(elsewhere) > 100).all()


def test_a_centre_is_at_home_and_the_index_grows_with_distance():
    part = some(np.random.default_rng(4))
    np.testing.assert_allclose(part.index(part.centres), 0.0, atol=1e-6)
    ray = part.centres.mean(0) + np.linspace(5, 50, 10)[:, None] * np.array([1, 20, 300])
    assert (np.diff(part.index(ray)) > 0).all() and part.index(ray)[-1] > part.threshold


def test_the_threshold_is_of_other_clusters():
    rng = np.random.default_rng(5)
    centres = np.repeat(rng.normal(size=(6, 3)) * 10, 20, 0) + rng.normal(size=(120, 3)) * 0.01
    apart = Applicability.of(NAMES, centres, np.repeat(np.arange(6), 20), np.ones(3))
    mixed = Applicability.of(NAMES, centres, np.arange(120) % 6, np.ones(3))
    assert apart.threshold > 20 * mixed.threshold and apart.mean_distance == mixed.mean_distance


def test_without_weights_all_count_and_what_does_not_vary_never_does():
    rng = np.random.default_rng(6)
    centres = np.concatenate([rng.normal(size=(30, 2)), np.full((30, 1), 4.0)], 1)
    part = Applicability.of(NAMES, centres, np.arange(30) % 3, np.zeros(3))
    assert part.weight.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("centres", "cluster", "says"),
    [(np.eye(3), [1, 1, 1], "two clusters"), (np.ones((3, 3)), [0, 1, 2], "no input varies")],
)
def test_what_tells_nothing_is_refused(centres, cluster, says):
    with pytest.raises(ConfigError, match=says):
        Applicability.of(NAMES, centres, cluster, np.ones(3))


def test_members_share_days_and_mean_weights():
    rng = np.random.default_rng(7)
    a = some(rng, weight=(1.0, 0.0, 0.0))
    b = Applicability.of(NAMES, a.centres, a.cluster, np.array([0.0, 9.0, 0.0]))
    both = combined([a, b])
    np.testing.assert_allclose(both.weight, [0.5, 0.5, 0.0])
    assert combined([a]) is a
    assert combined([a, some(rng)]) is None
    assert combined([a, dataclasses.replace(b, names=NAMES[::-1])]) is None


def test_a_file_brings_all_back_and_is_a_safetensors_file():
    safetensors = pytest.importorskip("safetensors.numpy")
    part = some(np.random.default_rng(8), gaps=0.1)
    back = Applicability.from_bytes(part.to_bytes())
    for field in dataclasses.fields(part):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(part, field.name))
    tensors = safetensors.load(part.to_bytes())
    np.testing.assert_array_equal(tensors["centres"], part.centres)


def saved(folder, part):
    model = SWLinear(SWLinearConfig(column=0), Sizes(inputs=1))
    return checkpoint.save(model, folder, {"features": {"targets": ["NEE"]}}, part)


def test_a_checkpoint_keeps_it_sealed(tmp_path):
    part = some(np.random.default_rng(9))
    folder = saved(tmp_path / "run", part)
    assert checkpoint.applicability(folder).threshold == part.threshold
    path = folder / checkpoint.APPLICABILITY
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.applicability(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.applicability(folder)
    saved(folder, None)
    assert checkpoint.applicability(folder) is None and not path.exists()


def test_an_ensemble_has_what_its_members_have(tmp_path):
    rng = np.random.default_rng(10)
    a = some(rng, weight=(1.0, 0.0, 0.0))
    b = Applicability.of(NAMES, a.centres, a.cluster, np.array([0.0, 1.0, 0.0]))
    for name, part in (("seed-0", a), ("seed-1", b), ("seed-2", None)):
        saved(tmp_path / name, part)
    about = {"features": {"targets": ["NEE"]}}
    checkpoint.save_ensemble(tmp_path, ["seed-0", "seed-1"], about)
    assert checkpoint.applicability(tmp_path).weight.tolist() == [0.5, 0.5, 0.0]
    checkpoint.save_ensemble(tmp_path, ["seed-0", "seed-2"], about)
    assert checkpoint.applicability(tmp_path) is None


@pytest.mark.parametrize("columns", [3, 70])
def test_days_with_the_same_gaps_are_compared_together_or_alone(monkeypatch, columns):
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(80, columns))
    centres[rng.random(centres.shape) < 0.1] = np.nan
    part = Applicability.of([f"c{i}" for i in range(columns)], centres, np.arange(80) % 4, rng.random(columns))
    days = rng.normal(size=(300, columns))
    days[:90, 0] = days[90:120, -1] = days[120:160, :2] = days[160] = np.nan
    days[200:][rng.random((100, columns)) < 0.2] = np.nan
    found = []
    for alike in (1, 50, 10**6):
        monkeypatch.setattr(applicability, "_ALIKE", alike)
        found.append(part.index(days))
    np.testing.assert_allclose(found[0], found[2], rtol=1e-6)
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_allclose(part.index(days, "cpu"), found[2], rtol=1e-6)
    assert np.flatnonzero(np.isnan(found[0])).tolist() == [160]
    scaled = (days - part.mean) / part.scale * part.weight
    near = np.nan_to_num((part.centres - part.mean) / part.scale * part.weight)
    seen = np.isfinite(scaled)
    share = (seen * part.weight**2).sum(1) / (part.weight**2).sum()
    for i in np.flatnonzero(share):
        apart = np.square((scaled[i] - near)[:, seen[i]]).sum(1).min()
        assert found[1][i] == pytest.approx(np.sqrt(apart / share[i]) / part.mean_distance, rel=1e-5, abs=1e-6)


@pytest.mark.gpu
def test_a_card_finds_the_nearest_days_of_the_cpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a card")
    rng = np.random.default_rng(6)
    part = some(rng, days=500, gaps=0.1)
    days = rng.normal(size=(5000, 3)) * [1, 20, 300] + [5, 0, 1000]
    days[rng.random(days.shape) < 0.2] = np.nan
    np.testing.assert_allclose(part.index(days, "cuda"), part.index(days), atol=1e-6)

"""How far classes lie apart in an embedding: hand-worked numbers, exact chances, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.evaluation.separation import class_separation


def embedding(values, classes, longitude=None, koppen=None):
    values = np.asarray(values, float).reshape(len(classes), -1)
    n = len(classes)
    return xr.DataArray(
        values,
        dims=("site", "embedding"),
        coords={
            "site": [f"XX-{i:02d}" for i in range(n)],
            "igbp": ("site", np.array(classes, object)),
            "koppen": ("site", np.array(koppen or ["Cfb"] * n, object)),
            "latitude": ("site", np.zeros(n)),
            "longitude": ("site", 2.0 * np.arange(n) if longitude is None else np.array(longitude, float)),
        },
    )


def test_the_share_between_classes_is_worked_by_hand():
    # mean 6: 36 + 16 + 16 + 36 in all, of which 2 x 25 + 2 x 25 between
    found = class_separation(embedding([0, 2, 10, 12], list("AABB")), draws=6000)
    assert found.share == pytest.approx(100 / 104)
    # of the three ways to pair four places, one is as far apart
    assert found.p_value == pytest.approx(1 / 3, abs=0.02) and found.shuffled == pytest.approx(1 / 3, abs=0.02)
    assert found[3:] == (4, 2)


def test_labels_of_no_meaning_are_told_from_those_that_mean_something():
    rng = np.random.default_rng(0)
    classes = list("AABBBCCCCDDDDD" * 3)
    noise = embedding(rng.normal(size=(42, 5)), classes)
    by_chance = class_separation(noise)
    # k - 1 of n - 1 directions, whatever the sizes
    assert by_chance.shuffled == pytest.approx(3 / 41, abs=0.01) and by_chance.p_value > 0.05
    meant = noise + xr.DataArray([2.0 * ord(c) for c in classes], dims="site")
    assert class_separation(meant).p_value < 0.002 and class_separation(meant).share > 0.5


def test_turning_moving_and_stretching_all_changes_nothing():
    rng = np.random.default_rng(1)
    classes, values = list("AABBCC" * 3), rng.normal(size=(18, 3))
    turned = 7 * values @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 40
    one, other = (class_separation(embedding(v, classes)) for v in (values, turned))
    np.testing.assert_allclose(one, other)
    assert one == class_separation(embedding(values, classes).transpose("embedding", "site"))
    assert one != class_separation(embedding(values, classes), seed=1, draws=500)


def test_neighbours_of_a_class_count_once_and_places_of_no_class_do_not():
    values, classes = [0, 2, 10, 12, 5], list("AABBA")
    once = class_separation(embedding(values, classes))
    doubled = embedding([*values, 2, 3], [*classes, "A", ""], longitude=[0, 2, 4, 6, 8, 2.1, 20])
    assert class_separation(doubled) == once
    assert class_separation(doubled, clusters=0).n_places == 6
    # a neighbour of another class is a place of its own
    assert class_separation(embedding([*values, 2], [*classes, "B"], longitude=[0, 2, 4, 6, 8, 2.1])).n_places == 6


def test_climates_count_by_their_main_class():
    found = class_separation(embedding([0, 2, 10, 12], list("ABAB"), koppen=["Dfb", "Dfc", "Cfa", "Csb"]), by="koppen")
    assert found.share == pytest.approx(100 / 104) and found.n_classes == 2


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ConfigError, match="1 classes of 4 places"):
        class_separation(embedding([0, 1, 2, 3], list("AAAA")))
    with pytest.raises(ConfigError, match="2 classes of 2 places"):
        class_separation(embedding([0, 1], list("AB")))
    with pytest.raises(ConfigError, match="0 classes"):
        class_separation(embedding([0, 1], ["", ""]))
    for value in (0, 1, 1 / 3):  # of which a mean differs by rounding
        with pytest.raises(SchemaError, match="same everywhere"):
            class_separation(embedding([value] * 9, list("AAABBBCCC")))
    with pytest.raises(SchemaError, match="missing"):
        class_separation(embedding([1, np.nan, 1], list("AAB")))
    with pytest.raises(SchemaError, match="igbp"):
        class_separation(embedding([0, 1, 2], list("AAB")).drop_vars("igbp"))
    with pytest.raises(UnknownNameError, match="koppen"):
        class_separation(embedding([0, 1, 2], list("AAB")), by="network")

"""Hidden predictors: the share asked for, nested, in weeks or hours, and never a clock."""

from __future__ import annotations

import numpy as np
import pytest

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.evaluation.hiding import hide_predictors
from fluxcube.simulation.example import example_cube
from fluxcube.variables import COMPUTED


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=20, days=90)


def hidden(cube, share, **options):
    out = hide_predictors(cube, share, names=["TA", "SW_IN", "VPD"], **options)
    gone = np.isnan(out.predictors.values) & np.isfinite(cube.predictors.values)
    assert (out.predictors_qc.values[gone] == -1).all() and out.predictors_qc.dtype == np.int8
    kept = ~np.isnan(out.predictors.values)
    np.testing.assert_array_equal(out.predictors.values[kept], cube.predictors.values[kept])
    np.testing.assert_array_equal(out.predictors_qc.values[kept], cube.predictors_qc.values[kept])
    return dict(zip(cube["variable"].values, np.moveaxis(gone, -1, 0), strict=True))


@pytest.mark.parametrize("unit", ["variable", "token"])
def test_the_share_is_hidden_of_the_named_alone(cube, unit):
    for share in (0.2, 0.8):
        gone = hidden(cube, share, unit=unit)
        found = np.mean([gone[n].mean() for n in ("TA", "SW_IN", "VPD")])
        assert found == pytest.approx(share, abs=0.04 if unit == "variable" else 0.01)
        assert not any(gone[n].any() for n in gone if n not in ("TA", "SW_IN", "VPD"))


def test_more_hides_what_less_hid_and_an_outage_lasts_a_week(cube):
    less, more = hidden(cube, 0.3), hidden(cube, 0.6)
    assert all((more[n] >= less[n]).all() for n in less)
    weeks = less["TA"][:, : 12 * 168].reshape(20, 12, 168)
    assert (weeks.all(-1) | ~weeks.any(-1)).all()
    hours = hidden(cube, 0.3, unit="token")["TA"]
    assert (hours[:, 1:] != hours[:, :-1]).mean() == pytest.approx(2 * 0.3 * 0.7, abs=0.02)


def test_a_site_s_draw_is_its_own(cube):
    some = hide_predictors(cube.isel(site=[7, 3]), 0.5)
    np.testing.assert_array_equal(some.predictors, hide_predictors(cube, 0.5).predictors.isel(site=[7, 3]))
    assert not np.array_equal(hidden(cube, 0.5)["TA"], hidden(cube, 0.5, seed=1)["TA"])
    lazy = hide_predictors(cube.chunk(site=1), 0.5)
    assert lazy.predictors.chunks is not None
    np.testing.assert_array_equal(lazy.predictors.isel(site=[7, 3]), some.predictors)


def test_clocks_stay_and_nothing_or_all_can_be_hidden(cube):
    assert hide_predictors(cube, 0.0) is cube
    all_gone = hide_predictors(cube, 1.0)
    left = np.isfinite(all_gone.predictors.values).any((0, 1))
    assert set(all_gone["variable"].values[left]) <= set(COMPUTED)
    for bad in ({"share": 1.5}, {"share": 0.5, "unit": "day"}):
        with pytest.raises(ConfigError):
            hide_predictors(cube, **bad)
    with pytest.raises(UnknownNameError, match="TAIR"):
        hide_predictors(cube, 0.5, names=["TAIR"])

"""The variable table: what everything else derives from must be complete and possible."""

from __future__ import annotations

import pytest

from fluxcube.biomes import IGBP_CODES, igbp_code, igbp_number
from fluxcube.errors import UnknownNameError
from fluxcube.variables import (
    COMPUTED,
    PUBLISHED_PREDICTORS,
    RESOLUTIONS,
    check_role,
    predictors,
    table,
    targets,
    variable,
)

AGGREGATES = {"mean", "sum", "vector", "range", "computed"}


@pytest.mark.parametrize(("resolution", "name"), [(r, name) for r in RESOLUTIONS for name in table(r)])
def test_each_row_is_possible(resolution, name):
    row = variable(name, resolution)
    assert row.bounds[0] < row.bounds[1] and row.aggregate in AGGREGATES and row.units and row.long_name
    assert bool(row.aliases) != (row.aggregate in {"computed", "range"}), "read from a file, or computed"
    assert row.roles and set(row.roles) <= {"predictor", "target"}


def test_published_predictors_are_the_paper_s_21():
    assert len(PUBLISHED_PREDICTORS) == 21 and set(PUBLISHED_PREDICTORS) <= set(predictors())
    assert set(COMPUTED) <= set(predictors())
    assert targets()[0] == "NEE" and set(targets()) >= {"GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT", "LE", "FCH4"}


def test_aliases_name_one_variable_each():
    seen = [alias for row in table().values() for alias in row.aliases]
    assert len(seen) == len(set(seen))


def test_every_alias_of_the_real_headers_is_oneflux_s(shared_data):
    """Names and units against ONEFlux's own list of half-hourly variables."""
    text = (shared_data / "meta/ONEFlux_var_info_definitions_hh.txt").read_text("utf-8", errors="replace")
    for name in ("TA_F", "SW_IN_F", "VPD_F", "PA_F", "P_F", "WS_F", "NETRAD", "PPFD_IN", "CO2_F_MDS", "NEE_VUT_REF"):
        assert name in text and any(name in row.aliases for row in table().values())


def test_unknown_names_get_the_nearest():
    with pytest.raises(UnknownNameError, match="'SW_IN'"):
        variable("SWIN")
    with pytest.raises(UnknownNameError, match="target"):
        check_role(["TA"], "target")
    assert check_role(["TA", "VPD"], "predictor") == ("TA", "VPD")


def test_water_is_17_and_codes_round_trip():
    assert igbp_number("WAT") == 17 and igbp_code(0) == "" and igbp_code(255) == ""
    assert [igbp_number(igbp_code(n)) for n in IGBP_CODES] == list(range(1, 18))
    with pytest.raises(UnknownNameError):
        igbp_number("XYZ")


def test_a_day_is_not_24_hours_of_the_same_units():
    """A daily cube has fluxes as mass a day, and no time of day; precipitation is still a sum."""
    hourly, daily = table("hourly"), table("daily")
    assert set(hourly) - set(daily) == {"TOD"} and set(daily) - set(hourly) == {"TA_RANGE"}
    changed = {name for name in daily if name in hourly and daily[name].units != hourly[name].units}
    assert changed == {"P", "NEE", "GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT"}
    assert all(daily[name].aggregate == "sum" or daily[name].units == "gC m-2 d-1" for name in changed)
    with pytest.raises(UnknownNameError, match="resolution"):
        table("weekly")

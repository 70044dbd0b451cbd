"""Codes for missing values other than -9999 become missing and are counted; real peaks stay."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_japanflux import write

from fluxcube.errors import SourceError
from fluxcube.sources.towers.codes import possible, standard_deviations, without_impossible_values, without_known_codes
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.oneflux_daily import read_oneflux_daily
from fluxcube.sources.towers.readers import read_archive
from fluxcube.variables import table

NAME = "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2005_1-4.csv"
N = 96
RNG = np.random.default_rng(5)
GOOD = {
    "TA_F": RNG.normal(10, 5, N).round(3),
    "WS_F": RNG.uniform(0.1, 9, N).round(3),
    "SW_IN_F": RNG.uniform(0, 900, N).round(2),
    "VPD_F": RNG.uniform(0.1, 20, N).round(3),
    "NEE_VUT_REF": RNG.normal(-3, 6, N).round(3),
    "GPP_NT_VUT_REF": RNG.uniform(0, 20, N).round(3),
    "RECO_NT_VUT_REF": RNG.uniform(1, 6, N).round(3),
    "LE_F_MDS": RNG.uniform(-20, 300, N).round(2),
}
NAMES = dict(zip(GOOD, ("TA", "WS", "SW_IN", "VPD", "NEE", "GPP_NT", "RECO_NT", "LE"), strict=True))
CODES = [-9999.9, -6999, -6999.9, -99999, -999, -999.9, -99, -99.99, 9999, 99999, 1e20, -9990, -8765.4, 9.96921e36]


def read(tmp_path, columns):
    return read_archive(write(tmp_path, columns, name=NAME), utc_offset=0)


@pytest.mark.parametrize("code", CODES)
def test_codes_of_every_variable_become_missing_and_are_counted(tmp_path, code):
    at = np.array([3, 17, 40, 41, 42, 80])
    columns = {name: values.astype(object) for name, values in GOOD.items()}
    for values in columns.values():
        values[at] = code
    found, codes = read(tmp_path, columns), {}
    for column, name in NAMES.items():
        expected = GOOD[column].astype(np.float32)
        expected[at] = np.nan
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert (found[f"{name}_QC"].values[at] == -1).all()
        codes[name] = {f"{code:.7g}": len(at)}
    assert json.loads(found.attrs["missing_codes"]) == codes


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("NEE", [-93.59, 69.1, -49, 98.5]),  # the extremes of 157 real towers, in NEE, GPP and RECO
        ("LE", [745, 999, -99, -99.9, 1391]),
        ("H", [1059, 715, -99, 1391]),
        ("FCH4", [-99, 1234.5, 2000, 7999.5]),
        ("NETRAD", [-99, -99, 999]),
        ("PA", [99, 99.9, 99.99]),
        ("RH", [99, 99.9, 99.99]),
        ("VPD", [99, 99.9]),
        ("WD", [99, 99.99]),
        ("SW_IN", [999, 999.9, -5]),
        ("CO2", [999.5]),
    ],
)
def test_values_that_can_be_stay(name, peaks):
    values = np.float32(peaks)
    known, codes = without_known_codes(name, values)
    kept, others = without_impossible_values(name, known)
    assert codes == others == {} and kept is values


def test_a_code_among_possible_values_is_told_by_its_repetition():
    """-99 W m-2 is a latent heat flux that may be, but not twelve times to the digit and none near it."""
    le = np.float32(RNG.uniform(-20, 300, 500).round(2))
    le[100:112] = -99
    kept, codes = without_known_codes("LE", le)
    assert codes == {"-99": 12} and np.isnan(kept[100:112]).all() and np.isfinite(kept[:100]).all()
    whole = np.float32(np.rint(RNG.normal(-99, 3, 500)))
    assert without_known_codes("LE", whole)[1] == {}, "rounded to whole numbers"


def test_daily_values_have_daily_bounds(tmp_path):
    days = 60
    nee = np.linspace(-3, 2, days).round(3)
    rows = [str(day).replace("-", "") for day in np.datetime64("2005-01-01") + np.arange(days)]
    for code, missing in ((-99999, True), (-999, True), (-99, True), (299.5, False)):
        text = ["TIMESTAMP,NEE_VUT_REF,NEE_VUT_REF_QC"]
        text += [f"{row},{code if i < 3 else nee[i]},1" for i, row in enumerate(rows)]
        path = tmp_path / "FLX_XX-One_FLUXNET2015_SUBSET_DD_2005-2005_1-4.csv"
        path.write_text("\n".join(text) + "\n")
        found = read_oneflux_daily(path)
        assert np.isnan(found.NEE[:3]).all() == missing and np.isfinite(found.NEE[3:]).all()
        assert json.loads(found.attrs["missing_codes"]) == ({"NEE": {f"{code:g}": 3}} if missing else {})


def test_fog_is_saturated_and_what_is_beyond_is_not_air(tmp_path):
    rh = RNG.uniform(40, 99, N).round(2)
    rh[:4] = [100.6, 104.9, 105.1, 100]
    found = read(tmp_path, {"RH": rh})
    np.testing.assert_array_equal(found.RH[:4], np.float32([100, 100, 105.1, 100]))
    assert possible(found.RH.values[:4], "RH").tolist() == [True, True, False, True]


def test_another_layer_fills_where_one_has_a_code(tmp_path):
    ta = GOOD["TA_F"].astype(object)
    ta[:6] = -6999
    found = read(tmp_path, {"TA": ta, "TA_F": GOOD["TA_F"] + 1})
    np.testing.assert_allclose(found.TA[:6], GOOD["TA_F"][:6] + 1, rtol=1e-6)


@pytest.mark.parametrize("bad", [-0.5, -9999.9, 9999, 1e20])
def test_an_impossible_uncertainty_is_missing_and_its_flux_is_not(tmp_path, bad):
    columns = {"NEE_VUT_REF": [1, 2, 3], "NEE_VUT_REF_RANDUNC": [0.5, bad, 0.25]}
    found = read(tmp_path, columns)
    np.testing.assert_array_equal(found.NEE, np.float32([1, 2, 3]))
    np.testing.assert_array_equal(found.NEE_RANDUNC, np.float32([0.5, np.nan, 0.25]))


def test_wrong_units_are_refused_although_they_are_far_beyond_the_bounds():
    """The bulk of the values is in another unit: that is no code."""
    values = np.float32(RNG.normal(98_000, 500, 200))
    assert without_known_codes("PA", values)[1] == {}


def test_no_flux_of_real_towers_changes(shared_data):
    """Fluxes of all steps that the files have stay; -9999 alone is missing."""
    small = (shared_data / "towers" / "small.txt").read_text().split()
    for site in small[:4]:
        (path,) = (shared_data / "towers").glob(f"FLX_{site}_*.zip")
        found = read_oneflux(path, utc_offset=0.0, variables=["NEE", "GPP_NT", "RECO_NT"])
        assert json.loads(found.attrs["missing_codes"]) == {} and found.NEE.attrs["units"] == table()["NEE"].units


@pytest.mark.parametrize(
    ("code", "resolution", "count"), [(999, "hourly", 6), (999.9, "hourly", 9), (-888, "daily", 1)]
)
def test_codes_within_the_limits_of_a_heat_flux(code, resolution, count):
    values = GOOD["LE_F_MDS"].copy()
    values[:count] = code
    cleaned, codes = without_known_codes("LE", values, resolution)
    assert np.isnan(cleaned[:count]).all() and codes == {f"{code:g}": count}
    np.testing.assert_array_equal(cleaned[count:], values[count:])


def test_measured_whole_numbers_are_no_codes():
    values = np.arange(900.0, 1100.0).repeat(7)
    assert without_known_codes("LE", values) == (pytest.approx(values), {})


def test_light_far_below_zero_is_no_measurement():
    values, codes = without_impossible_values("SW_IN", np.array([-273.15, -12.0, 900.0]))
    np.testing.assert_array_equal(values, [np.nan, -12, 900])
    assert codes == {"-273.15": 1}


def test_a_flux_most_of_whose_values_are_impossible_is_in_another_unit(tmp_path):
    with pytest.raises(SourceError, match=r"NEE_VUT_REF: expected umol m-2 s-1, and \d+% .* another unit"):
        read(tmp_path, GOOD | {"NEE_VUT_REF": GOOD["NEE_VUT_REF"] * 1000})


def test_a_flux_without_any_value_is_noted(tmp_path):
    gone = np.full(N, -9999.9)
    columns = {name: gone if name.endswith("VUT_REF") else values for name, values in GOOD.items()}
    doubts = json.loads(read(tmp_path, columns).attrs["doubts"])
    assert [text for text in doubts if text.startswith("no value of NEE, GPP, RECO")]


def test_positive_codes_of_uncertainties_become_missing():
    values = np.array([0.3, 99.9, 999, 60.5, np.nan], np.float32)  # a large uncertainty that is no code stays
    cleaned, note = standard_deviations(values, table()["NEE"], "NEE_VUT_REF_RANDUNC")
    np.testing.assert_array_equal(cleaned, np.array([0.3, np.nan, np.nan, 60.5, np.nan], np.float32))
    assert "2 negative or impossible" in note

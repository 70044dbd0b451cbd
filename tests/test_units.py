"""Test conversion of units: spellings, round trips, composition of conversions, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.errors import ConfigError
from fluxcube.units import convert, is_unit, same_unit
from fluxcube.variables import RESOLUTIONS, table

#: Units that measure the same, each spelled as files do.
FAMILIES = {
    "temperature": ["degC", "°C", "deg C", "Celsius", "[degC]", "C", "K", "kelvin", "degF", "°F"],
    "pressure": ["Pa", "hPa", "mbar", "mb", "kPa", "bar", "(kPa)"],
    "energy flux": ["W m-2", "W/m2", "W m^-2", "W m**-2", "W·m⁻²", "W.m-2", "W m−2", "MJ m-2 d-1", "J m-2 s-1"],
    "depth": ["mm", "m", "cm", "kg m-2", "kg/m2"],
    "rain rate": ["mm h-1", "mm/h", "mm hr-1", "mm d-1", "kg m-2 s-1", "mm s-1", "mm per day", "cm day-1"],
    "speed": ["m s-1", "m/s", "km h-1", "km/h", "m.s-1"],
    "share": ["%", "percent", "1", "fraction", "m3 m-3", "m3/m3", "-", "ppm", "umol mol-1", "µmol mol⁻¹", "mmol/mol"],
    "carbon": [
        "umol m-2 s-1",
        "µmol m-2 s-1",
        "μmolCO2 m-2 s-1",
        "umol CO2 m-2 s-1",
        "umol/m2/s",
        "umol/(m2 s)",
        "nmol m-2 s-1",
        "nmolCH4 m-2 s-1",
        "gC m-2 d-1",
        "g C m-2 day-1",
        "mg CO2 m-2 s-1",
        "mgCO2/m2/s",
        "gCH4 m-2 d-1",
        "kgC m-2 s-1",
        "umolPhotons m-2 s-1",
        "µE m-2 s-1",
    ],
    "angle": ["degree", "deg", "degrees", "°", "rad"],
}
PAIR = st.sampled_from(list(FAMILIES.values())).flatmap(lambda units: st.tuples(*[st.sampled_from(units)] * 3))
VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5).map(np.array)


@given(VALUES, PAIR)
def test_round_trips_and_composed_conversions_agree(values, units):
    one, two, three = units
    there = convert(values, one, two)
    scale = np.abs(values).max() + 1000  # temperatures have zeros of their own
    assert np.allclose(convert(there, two, one), values, rtol=1e-9, atol=1e-9 * scale)
    far = np.abs(convert(values, one, three)).max() + 1
    assert np.allclose(convert(there, two, three), convert(values, one, three), rtol=1e-9, atol=1e-9 * far + 1e-6)


@given(VALUES, PAIR)
def test_a_unit_to_itself_changes_no_bit(values, units):
    assert np.array_equal(convert(values, units[0], units[0]), values)


@pytest.mark.parametrize(
    ("value", "one", "other", "expected"),
    [
        (0, "degC", "K", 273.15),
        (212, "degF", "degC", 100),
        (-40, "degF", "degC", -40),
        (1013.25, "hPa", "kPa", 101.325),
        (1, "mbar", "Pa", 100),
        (0.5, "fraction", "%", 50),
        (0.31, "m3 m-3", "%", 31),
        (0.4, "mmol mol-1", "ppm", 400),
        (1, "kg m-2 s-1", "mm h-1", 3600),
        (2.5, "cm", "mm", 25),
        (8.64, "MJ m-2 d-1", "W m-2", 100),
        (36, "km/h", "m s-1", 10),
        (1, "umol m-2 s-1", "gC m-2 d-1", 12.011e-6 * 86400),
        (44.009, "mg CO2 m-2 s-1", "umol m-2 s-1", 1000),
        (16.043, "mgCH4 m-2 h-1", "nmol m-2 s-1", 1e6 / 3600),
        (180, "deg", "rad", np.pi),
        (1, "µmol m⁻² s⁻¹", "nmol m-2 s-1", 1000),
        (1, "mm", "kg m-2", 1),
    ],
)
def test_values_computed_by_hand(value, one, other, expected):
    assert convert(value, one, other) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert convert(expected, other, one) == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[µmol+1s-1m-2]", "umol m-2 s-1"),  # EddyPro
        ("[mm+1hour-1]", "mm h-1"),
        ("[kg+1m-1s-2]", "Pa"),
        ("[mmol+1mol_d-1]", "mmol mol-1"),
        ("[deg_from_north]", "degree"),
        ("umolm-2s-1", "umol m-2 s-1"),  # REddyProc
        ("umol_m-2_s-1", "umol m-2 s-1"),
        ("Wm-2", "W m-2"),
        ("ms-1", "m s-1"),
        ("mms-1", "mm s-1"),
        ("MJm-2d-1", "MJ m-2 d-1"),
        ("gCm-2d-1", "gC m-2 d-1"),
        ("mgCO2m-2s-1", "mg CO2 m-2 s-1"),
        ("mg CO2-C m-2 s-1", "mg C m-2 s-1"),
        ("ugCH4-C/m2/h", "ug C m-2 h-1"),
        ("µmol m$^{-2}$ s$^{-1}$", "umol m-2 s-1"),
        ("Âµmol m-2 s-1", "umol m-2 s-1"),
        ("J/m2", "J m-2"),
        ("J m⁻²", "J m-2"),
        ("Kelvin", "K"),
        ("meters/second", "m s-1"),
    ],
)
def test_spellings_of_programs(one, other):
    assert convert(1.5, one, other) == 1.5 and same_unit(one, other) and is_unit(one)


def test_the_same_unit_is_not_one_of_another_size_or_quantity():
    assert not same_unit("[µmol+1s-1m-2]", "nmol m-2 s-1") and not same_unit("degC", "K")
    assert not same_unit("mm", "mm h-1") and not same_unit("mg C m-2 s-1", "mg CO2 m-2 s-1")
    assert same_unit("mg m-2 s-1", "mg CO2 m-2 s-1") and not same_unit("ug m-2 s-1", "mg CO2 m-2 s-1")
    assert not same_unit("bananas", "K") and not same_unit("bananas", "apples") and same_unit("bananas", "bananas")


def test_powers_of_ten_are_exact():
    values = np.array([1.0, 3.0, 12345.0])
    assert np.array_equal(convert(values, "umol m-2 s-1", "nmol m-2 s-1"), values * 1000)
    assert np.array_equal(convert(values, "m3 m-3", "%"), values * 100)
    assert np.array_equal(convert(values, "kPa", "hPa"), values * 10)


@given(VALUES, st.sampled_from([1, 10, 15, 30, 60]))
def test_a_rate_over_a_step_is_an_amount(values, step):
    amount = convert(values, "mm h-1", "mm", step_minutes=step)
    assert np.allclose(amount, values * step / 60)
    assert np.allclose(convert(values, "kg m-2 s-1", "mm", step_minutes=step), values * step * 60)
    assert np.allclose(convert(values, "J m-2", "W m-2", step_minutes=step), values / (step * 60))
    # an amount is the same amount whatever the step
    assert np.array_equal(convert(values, "mm", "mm", step_minutes=step), values)


@pytest.mark.parametrize("one", ["mm h-1", "kg m-2 s-1", "m s-1"])
def test_a_rate_without_a_step_is_refused(one):
    with pytest.raises(ConfigError, match=r"P: .*step_minutes"):
        convert(1.0, one, "mm", name="P")


def test_every_unit_of_the_table_is_known():
    for resolution in RESOLUTIONS:
        for row in table(resolution).values():
            assert convert(1.5, row.units, row.units, name=row.name) == 1.5


@pytest.mark.parametrize(
    "unit",
    [
        "foo",
        "",
        "m/",
        "(m",
        "m)",
        "/",
        "W m--2",
        "W m-2-",
        "degC degC x",
        "kkPa",
        "2 m",
        "mol-e",
        "ms",
        "kkm-2",
        "nm-",
        "m9999999",
    ],
)
def test_unknown_units_are_named_with_those_that_are_known(unit):
    with pytest.raises(ConfigError, match=r"TA: unit .* is not known.* Known units.*: degC, K") as error:
        convert(1.0, unit, "degC", name="TA")
    assert repr(unit) in str(error.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mm", "W m-2"),
        ("W m-2", "umol m-2 s-1"),
        ("hPa", "degC"),
        ("mg m-3", "umol mol-1"),
        ("m", "m s-1"),
        ("g m-2 s-1", "umol m-2 s-1"),
        ("%", "hPa"),
        ("deg", "%"),
        ("kg", "m"),
        ("mm s-1", "W m-2"),
    ],
)
def test_units_of_different_quantities_are_refused(one, other):
    with pytest.raises(ConfigError, match="measure different quantities; did you mean") as error:
        convert(1.0, one, other, name="X", step_minutes=30)
    assert repr(one) in str(error.value) and repr(other) in str(error.value)


def test_shape_dtype_and_gaps_are_kept():
    values = np.array([[1.0, np.nan], [3.0, 4.0]], np.float32)
    got = convert(values, "kPa", "hPa")
    assert got.dtype == np.float32 and got.shape == values.shape and np.isnan(got[0, 1])
    assert convert(np.array([1, 2]), "kPa", "hPa").dtype == np.float64
    assert values[0, 0] == 1.0  # what was given is not changed


@given(st.text(max_size=12))
def test_any_text_is_a_unit_or_a_config_error(text):
    try:
        assert convert(1.0, text, text) == 1.0
    except ConfigError:
        return

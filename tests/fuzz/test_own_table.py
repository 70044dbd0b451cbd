"""A table of one's own, written in any of the ways that people write tables: read right, or refused by name."""

from __future__ import annotations

import contextlib

import numpy as np
from fuzz_limits import cases, timed
from fuzz_tables import check_invariants
from hypothesis import given
from hypothesis import strategies as st
from test_bytes import damages

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.table import read_table

ROWS = 60
TIME = np.datetime64("2019-12-31T12:00", "m") + np.arange(ROWS) * np.timedelta64(30, "m")
_RNG = np.random.default_rng(3)
TAIR = np.round(_RNG.normal(5, 8, ROWS), 2)
FLUX = np.round(_RNG.normal(-2, 5, ROWS), 3)
FLAG = _RNG.integers(0, 3, ROWS)
LOST = _RNG.random(ROWS) < 0.2
OPTIONS = {
    "columns": {"TA": "Tair", "NEE": "Fc"},
    "units": {"TA": "degC", "NEE": "umol m-2 s-1"},
    "flags": {"NEE": "q"},
    "site": "XX-Own",
    "utc_offset": 1,
    "latitude": 51.0,
    "longitude": 10.0,
    "time": "when",
}

FORMS = {
    "%Y-%m-%d %H:%M": True,
    "%Y-%m-%dT%H:%M:%S": True,
    "%d.%m.%Y %H:%M": True,
    "%m/%d/%Y %H:%M": True,
    "%Y%m%d%H%M": True,
    "%Y/%m/%d %H:%M": True,
    "%Y|%j|%H:%M": True,
    "%Y|%m|%d|%H|%M": True,
    "%Y-%m-%dT%H:%MZ": False,
    "%d-%b-%Y %H:%M": False,
    "%Y%m%d": False,
}


@st.composite
def own_tables(draw) -> tuple[bytes, dict, bool]:
    """A table's bytes, what `read_table` is told of it, and whether it must be understood."""
    form = draw(st.sampled_from(sorted(FORMS)))
    separator = draw(st.sampled_from([",", ";", "\t"]))
    comma = separator != "," and draw(st.booleans())
    missing = draw(st.sampled_from(["-9999", "", "NaN", "-999.9"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    names = {2: ["Year", "DoY", "Hour"], 4: ["Year", "Month", "Day", "Hour", "Minute"]}.get(form.count("|"), ["when"])
    rows = [[*names, "Höhe", "Tair", "Fc", "q"]]
    for i, time in enumerate(TIME):
        numbers = [missing if LOST[i] else f"{TAIR[i]:.2f}", missing if LOST[i] else f"{FLUX[i]:.3f}"]
        times = time.item().strftime(form).split("|")
        rows.append([*times, "ü", *(n.replace(".", ",") if comma else n for n in numbers), str(FLAG[i])])
    before = draw(st.lists(st.sampled_from(["Wood of Zzz", "", "logger 1, program 2"]), max_size=2))
    text = end.join([*before, *(separator.join(row) for row in rows), ""])
    options = OPTIONS | {"stamp": draw(st.sampled_from(["start", "end"])), "missing": ("-9999", "-999.9", "-999,9")}
    options |= {"time": names[0] if len(names) == 1 else draw(st.sampled_from([None, names]))}
    return text.encode(encoding), options, FORMS[form]


def check_own(found, options) -> None:
    shift = np.timedelta64(60 + (30 if options["stamp"] == "end" else 0), "m")
    np.testing.assert_array_equal(found.time.values, (TIME - shift).astype("datetime64[ns]"))
    for name, values in (("TA", TAIR), ("NEE", FLUX)):
        np.testing.assert_allclose(found[name], np.where(LOST, np.nan, values), rtol=1e-6)
    np.testing.assert_array_equal(found.NEE_QC, np.where(LOST, -1, FLAG))
    np.testing.assert_array_equal(found.TA_QC, np.where(LOST, -1, 0))


@given(own_tables())
@cases(50)
def test_a_table_in_any_form(tmp_path, case):
    data, options, sure = case
    (tmp_path / "own.csv").write_bytes(data)
    with timed():
        try:
            found = read_table(tmp_path / "own.csv", **options)
        except (SourceError, ConfigError) as error:
            assert not sure and "own.csv" in str(error), error
            return
    check_own(found, options)
    check_invariants(found)


@given(own_tables(), damages())
@cases(80)
def test_a_damaged_table(tmp_path, case, damage):
    data, options, _ = case
    (tmp_path / "own.csv").write_bytes(damage(data))
    with timed(), contextlib.suppress(SourceError, ConfigError):
        check_invariants(read_table(tmp_path / "own.csv", **options))

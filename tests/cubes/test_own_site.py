"""One's own site: described, looked at and added to a cube, from Python and from the shell."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest

import fluxcube as fc
from fluxcube import cli
from fluxcube.cubes.own_site import describe_site
from fluxcube.errors import ConfigError, SourceError, StoreError, UnknownNameError

ENTRIES = {"site": "XX-Own", "latitude": 51.1, "longitude": 10.4, "utc_offset": 1, "igbp": "GRA", "stamp": "end"}
COLUMNS = {"TA": "Tair", "SW_IN": "Rg", "VPD": "VPD", "NEE": "Fc"}
UNITS = {"TA": "degC", "SW_IN": "W m-2", "VPD": "hPa", "NEE": "umol m-2 s-1"}


@pytest.fixture
def csv(tmp_path, monkeypatch):
    """A table of six days in half-hours, whose times are local standard time at the end of each."""
    time = pd.date_range("2020-06-01 00:30", periods=48 * 6, freq="30min")
    hour = time.hour + time.minute / 60 - 0.25
    light = np.clip(800 * np.sin((hour - 6) / 12 * np.pi), 0, None)
    temperature = 15 + 8 * np.sin((hour - 9) / 12 * np.pi)
    columns = {"Tair": temperature, "Rg": light, "VPD": 10 + light / 100, "Fc": 2 - light / 60}
    pd.DataFrame({"DATETIME": time.strftime("%Y-%m-%d %H:%M"), **columns}).to_csv(tmp_path / "my.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my.csv"


@pytest.fixture
def call(monkeypatch, capsys):
    def run(line: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["fluxcube", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().out

    return run


def test_a_site_makes_a_cube_and_joins_one(csv):
    found = fc.add_site(csv, "carbonsense.zarr", columns=COLUMNS, units=UNITS, **ENTRIES)
    assert found.record.sizes["time"] == 288 and found.record.attrs["step_minutes"] == 30
    fc.add_site(csv, "carbonsense.zarr", columns=COLUMNS, units=UNITS, **ENTRIES | {"site": "XX-Two"})
    cube = fc.open_carbonsense("carbonsense.zarr")
    assert cube.site.values.tolist() == ["XX-Own", "XX-Two"] and set(cube.igbp.values) == {"GRA"}
    # The first hour of the table is 00:00 to 01:00 of UTC+1.
    assert cube.time.values[0] == np.datetime64("2020-05-31T23")
    hours = pd.read_csv(csv).Tair.to_numpy().reshape(-1, 2).mean(1)
    np.testing.assert_allclose(cube.predictors.sel(site="XX-Own", variable="TA"), hours, rtol=1e-6)
    with pytest.raises(StoreError, match="set overwrite=True to replace it"):
        fc.add_site(csv, "carbonsense.zarr", columns=COLUMNS, units=UNITS, **ENTRIES)


def test_describe_edit_plan_and_add_from_the_shell(csv, call):
    status, text = call("add-site my.csv --describe")
    assert status == 0 and text == describe_site(csv)
    (csv.parent / "site.toml").write_text(text, "utf-8")
    status, _ = call("add-site my.csv carbonsense.zarr --declaration site.toml")
    assert "site, latitude, longitude, utc_offset must be stated: add --site" in status  # nothing is guessed
    (csv.parent / "site.toml").write_text(re.sub(r"(?m)^# (?=\w+ = )", "", text), "utf-8")
    status, planned = call("add-site my.csv --declaration site.toml --plan")
    assert status == 0 and "288 steps of 30 minutes, 2020-05-31T23:00" in planned
    assert "uptake is negative, as expected" in planned and not (csv.parent / "carbonsense.zarr").exists()
    status, added = call("add-site my.csv carbonsense.zarr --declaration site.toml --site XX-New")
    assert status == 0 and added.endswith("carbonsense.zarr: XX-New added\n")
    assert fc.open_carbonsense("carbonsense.zarr").site.values.tolist() == ["XX-New"]
    assert (
        "add --overwrite to replace it"
        in call("add-site my.csv carbonsense.zarr --declaration site.toml --site XX-New")[0]
    )


def test_a_declaration_takes_units_from_names_and_lists_what_is_not_recognised(tmp_path):
    (tmp_path / "own.csv").write_text("when,Temp (K),VPD_kPa,Rg,Licht\n2020-06-01 00:30,280,1,0,0\n", "utf-8")
    text = describe_site(tmp_path / "own.csv")
    declared = tomllib.loads(text)
    assert declared["columns"] == {"TA": "Temp (K)", "VPD": "VPD_kPa", "SW_IN": "Rg"}
    assert declared["units"] == {"TA": "K", "VPD": "kPa", "SW_IN": "W m-2"}
    assert "# Not recognised: when, Licht." in text and '## time = "when"' in text


def test_a_unit_at_the_end_of_a_usual_name_is_recognised(tmp_path):
    (tmp_path / "own.csv").write_text("when,Tair_C,Fc_umol,Rg_Wm2,rain_mm\n2020-06-01 00:30,8,1,0,0\n", "utf-8")
    declared = tomllib.loads(describe_site(tmp_path / "own.csv"))
    assert declared["columns"] == {"TA": "Tair_C", "NEE": "Fc_umol", "SW_IN": "Rg_Wm2", "P": "rain_mm"}
    assert declared["units"] == {"TA": "degC", "NEE": "umol m-2 s-1", "SW_IN": "W m-2", "P": "mm"}


def test_the_end_of_a_name_that_does_not_fit_its_variable_is_no_unit(tmp_path):
    (tmp_path / "own.csv").write_text("when,H_C,LE_C,Tair_K,rain_mm\n2020-06-01 00:30,8,1,280,0\n", "utf-8")
    declared = tomllib.loads(describe_site(tmp_path / "own.csv"))
    assert declared["units"] == {"H": "W m-2", "LE": "W m-2", "TA": "K", "P": "mm"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("add-site my.csv", "site, latitude, longitude, utc_offset, columns, units must be stated: add --site, --lat"),
        ("add-site no.csv", "no.csv: no such file, where the table of a site was expected; check its path"),
        ("build my.csv x.zarr", "If my.csv is a table of your own site, `fluxcube add-site my.csv STORE` adds it"),
        (
            "build made.zarr x.zarr",
            "made.zarr is a store that is built already: `fluxcube inspect made.zarr` describes",
        ),
        ("add-site my.csv --columns TA", "--columns: expected NAME=VALUE,NAME=VALUE such as NEE=Fc"),
        ("add-site my.csv --declaration no.toml", "no.toml: expected a TOML file with the options of a site"),
        ("add-site my.csv --declaration my.csv", "my.csv: expected a TOML file"),
    ],
)
def test_slips_say_what_to_type(csv, call, line, message):
    (csv.parent / "made.zarr").mkdir()
    (csv.parent / "made.zarr" / "zarr.json").touch()
    assert message in call(line)[0]


def test_slips_in_python(csv):
    with pytest.raises(ConfigError, match=r"site.* must be stated: pass them, or declaration=FILE"):
        fc.add_site(csv, "carbonsense.zarr")
    with pytest.raises(ConfigError, match="name the cube to add the site to, or plan=True"):
        fc.add_site(csv, columns=COLUMNS, units=UNITS, **ENTRIES)
    with pytest.raises(UnknownNameError, match="did you mean 'latitude'"):
        fc.add_site(csv, "carbonsense.zarr", latitud=3)


def test_a_wrong_sign_of_nee_is_refused_in_a_long_table_and_told_once_in_a_short_one(csv, caplog):
    table = pd.read_csv(csv)
    table["Fc"] *= -1
    table.to_csv(csv, index=False)
    found = fc.add_site(csv, "carbonsense.zarr", columns=COLUMNS, units=UNITS, **ENTRIES)
    assert caplog.text.count("NEE increases with light") == 1 and "check its sign" not in str(found)
    days = pd.concat([table] * 16, ignore_index=True)
    days["DATETIME"] = pd.date_range("2020-05-01 00:30", periods=len(days), freq="30min").strftime("%Y-%m-%d %H:%M")
    days.to_csv(csv, index=False)
    with pytest.raises(SourceError, match=r"NEE increases with light.*trust=\('NEE',\)"):
        fc.add_site(csv, plan=True, columns=COLUMNS, units=UNITS, **ENTRIES)
    caplog.clear()
    fc.add_site(csv, "carbonsense.zarr", overwrite=True, trust="NEE", columns=COLUMNS, units=UNITS, **ENTRIES)
    assert caplog.text.count("NEE increases with light") == 1 and "accepted by trust" in caplog.text


@pytest.mark.parametrize(("offset", "lag"), [(8, "7.3 h ahead of"), (2, "1.3 h ahead of"), (-1, "1.7 h behind")])
def test_a_clock_that_sunlight_contradicts_is_refused_unless_trusted(csv, offset, lag):
    options = {"columns": COLUMNS, "units": UNITS, **ENTRIES, "utc_offset": offset}
    for how in ({"plan": True}, {"store": "carbonsense.zarr"}):
        with pytest.raises(SourceError, match=f"its light is {lag} the sun.*pass utc_offset=1, or.*trust='utc_offset'"):
            fc.add_site(csv, **how, **options)
    assert not (csv.parent / "carbonsense.zarr").exists()
    fc.add_site(csv, "carbonsense.zarr", trust="utc_offset", **options)
    assert lag in fc.open_report("carbonsense.zarr", "notes").text.str.cat()


def test_a_unit_that_cannot_be_right_is_corrected_in_the_declaration(csv, call):
    table = pd.read_csv(csv)
    table["Tair"] += 273.15
    table.to_csv(csv, index=False)
    with pytest.raises(SourceError, match=r"looks like kelvin\. State that unit: units={'TA': 'K'} instead of 'degC'"):
        fc.add_site(csv, plan=True, columns=COLUMNS, units=UNITS, **ENTRIES)
    (csv.parent / "site.toml").write_text(re.sub(r"(?m)^# (?=\w+ = )", "", describe_site(csv)), "utf-8")
    line = "add-site my.csv --declaration site.toml --plan"
    assert 'TA = "K" under [units] in the declaration' in call(line)[0]
    declared = (csv.parent / "site.toml").read_text("utf-8").replace('TA = "degC"', 'TA = "K"')
    (csv.parent / "site.toml").write_text(declared, "utf-8")
    assert call(line)[0] == 0


def test_the_plan_names_unused_columns_and_variables_without_quality(csv):
    pd.read_csv(csv).assign(remark="ok", qc=0).to_csv(csv, index=False)
    options = {"columns": {"TA": "Tair", "SW_IN": "Rg"}, "units": {"TA": "degC", "SW_IN": "W m-2"}, **ENTRIES}
    lines = str(fc.add_site(csv, plan=True, flags={"TA": "qc"}, **options)).splitlines()
    assert "  no column of quality for SW_IN: all values count as measured" in lines
    assert "  columns not used: VPD, Fc, remark" in lines


def test_times_in_two_columns_of_unusual_names_are_named_as_the_message_says(csv, call):
    table = pd.read_csv(csv)
    when = table.pop("DATETIME").str.split(" ", expand=True)
    table.insert(0, "Datum", when[0].str.replace(r"(\d+)-(\d+)-(\d+)", r"\3.\2.\1", regex=True))
    table.insert(1, "Zeit", when[1])
    table.to_csv("own.csv", index=False, sep=";")
    line = (
        "add-site own.csv --plan --site XX-Own --latitude 51.1 --longitude 10.4 --utc-offset 1 --columns "
        "TA=Tair,NEE=Fc --units 'TA=degC,NEE=umol m-2 s-1'"
    )
    assert "choose it with --time COLUMN, or --time DATE,CLOCK" in call(line)[0]
    line += " --time Datum,Zeit"
    assert "pass --time-format '%d/%m/%Y %H:%M' or" in call(line)[0]  # the first six days of June
    line += " --time-format '%d.%m.%Y %H:%M'"
    assert "pass --stamp start or --stamp end (or middle)" in call(line)[0]
    status, text = call(f"{line} --stamp end")
    assert status == 0 and "2020-05-31T23:00" in text

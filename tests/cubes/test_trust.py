"""A cube counts codes for missing values, keeps real peaks, and leaves out records whose units or signs contradict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tower_files import write_places
from typer.testing import CliRunner

from fluxcube.catalog import open_carbonsense
from fluxcube.cli import app
from fluxcube.cubes.append import append_site
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.report import open_report
from fluxcube.errors import SourceError, UnknownNameError
from fluxcube.humidity import saturation_vapour_pressure
from fluxcube.sources.towers.inspection import inspect_raw
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.table import read_table

PLACES = {"US-Aaa": (40.0, -90.0, -6, "GRA"), "US-Bbb": (45.0, -100.0, -6, "GRA")}
DAYS = 20


def frame(seed: int = 1) -> pd.DataFrame:
    """Consistent half-hours of June, as ONEFlux has them."""
    rng = np.random.default_rng(seed)
    index = pd.date_range("2015-06-01", periods=48 * DAYS, freq="30min")
    hour = index.hour + index.minute / 60
    light = 900 * np.maximum(np.sin(np.pi * (hour - 6) / 12), 0) * rng.uniform(0.6, 1, len(hour))
    ta = 18 + 6 * np.sin(np.pi * (hour - 9) / 12) + rng.normal(0, 0.5, len(hour))
    rh = np.clip(80 - 2.5 * (ta - 12), 20, 100)
    gpp, reco = 20 * light / (light + 400), 2 + 0.1 * ta
    data = {"TA_F": ta, "SW_IN_F": light, "RH": rh, "VPD_F": saturation_vapour_pressure(ta) * (1 - rh / 100)}
    data |= {"NEE_VUT_REF": reco - gpp, "GPP_NT_VUT_REF": gpp, "RECO_NT_VUT_REF": reco, "LE_F_MDS": 0.3 * light}
    data |= {"G_F_MDS": 0.05 * light, "H_F_MDS": 0.3 * light}
    out = pd.DataFrame(data, index).round(3)
    return out.assign(**{f"{name}_QC": 0 for name in out if name[:2] not in ("RH", "GP", "RE")})


def write(folder, site="US-Aaa", data=None, **changes):
    """Write a site's table; `changes` are functions of a column."""
    data = frame() if data is None else data
    data = data.assign(**{name: change(data[name]) for name, change in changes.items()})
    stamps = [index.strftime("%Y%m%d%H%M") for index in (data.index, data.index + pd.Timedelta(minutes=30))]
    folder.mkdir(exist_ok=True)
    data.insert(0, "TIMESTAMP_START", stamps[0])
    data.insert(1, "TIMESTAMP_END", stamps[1])
    data.to_csv(folder / f"FLX_{site}_FLUXNET2015_FULLSET_HH_2015-2015_1-4.csv", index=False)
    write_places(folder, PLACES)
    return folder


def column(store, name, stack="fluxes"):
    return open_carbonsense(store)[stack].sel({"target" if stack == "fluxes" else "variable": name}).values


def replaced(at, value):
    return lambda values: values.where(~np.isin(np.arange(len(values)), at), value)


def test_codes_of_targets_are_counted_in_the_report(tmp_path):
    raw = write(tmp_path / "raw", NEE_VUT_REF=replaced(range(48, 60), -9999.9), LE_F_MDS=replaced([0, 1], 99999))
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    codes = {"NEE": {"-9999.9": 12}, "LE": {"99999": 2}}
    assert report.report["missing_codes"] == {"US-Aaa": codes}
    notes = open_report(tmp_path / "c.zarr", "notes")
    (text,) = notes[notes.kind.eq("missing_code") & notes.text.str.startswith("NEE")].text
    assert text.startswith("NEE: 12 values") and "-9999.9: 12" in text
    nee = column(tmp_path / "c.zarr", "NEE")
    assert np.isfinite(nee).sum() == 24 * DAYS - 6 and np.nanmin(nee) > -20


def test_measured_peaks_stay_in_predictors_and_fluxes(tmp_path):
    raw = write(tmp_path / "raw", LE_F_MDS=lambda v: v.where(v < 250, 745), H_F_MDS=lambda v: v.where(v < 250, 1391))
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    assert report.report["out_of_bounds"] == {} and report.report["missing_codes"] == {}
    assert np.nanmax(column(tmp_path / "c.zarr", "LE")) == np.nanmax(column(tmp_path / "c.zarr", "LE", "predictors"))
    assert np.nanmax(column(tmp_path / "c.zarr", "H", "predictors")) == 1391


def test_fog_is_kept_and_more_than_fog_is_missing(tmp_path):
    raw = write(tmp_path / "raw", RH=lambda v: v.where(np.arange(len(v)) > 3, [100.6, 104.9, 107, 108] + [0] * 956))
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    rh = column(tmp_path / "c.zarr", "RH", "predictors")[np.isfinite(column(tmp_path / "c.zarr", "TA", "predictors"))]
    assert rh[0] == 100 and np.isnan(rh[1]) and report.report["out_of_bounds"] == {"US-Aaa": {"RH": 2}}


TURNED = {
    "VPD": {"VPD_F": lambda v: v / 10},
    "NEE": {"NEE_VUT_REF": lambda v: -v},
    "GPP_NT": {"GPP_NT_VUT_REF": lambda v: -v},
    "LE": {"LE_F_MDS": lambda v: -v},
}


@pytest.mark.parametrize("name", TURNED)
def test_a_contradiction_leaves_the_site_out_unless_it_is_trusted(tmp_path, name):
    raw = write(tmp_path / "raw", **TURNED[name])
    write(raw, "US-Bbb")
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    assert report.sites == ("US-Bbb",) and f"trust=('{name}',)" in report.left_out["US-Aaa"]
    table = inspect_raw(raw).set_index("site")
    assert not table.used["US-Aaa"] and f"trust=('{name}',)" in table.why["US-Aaa"] and table.used["US-Bbb"]
    with pytest.raises(SourceError, match=f"trust=.'{name}'"):
        build_carbonsense(raw, tmp_path / "d.zarr", strict=True)
    trusted = build_carbonsense(raw, tmp_path / "d.zarr", trust=name)
    assert trusted.left_out == {} and "accepted by trust" in trusted.report["warnings"]["US-Aaa"][0]
    assert "US-Bbb" not in trusted.report["warnings"]


def test_an_appending_build_reads_the_trusted_site(tmp_path):
    raw = write(tmp_path / "raw", **TURNED["NEE"])
    write(raw, "US-Bbb")
    build_carbonsense(raw, tmp_path / "c.zarr")
    options = ["--append", "--trust", "NEE", "--trust", "LE"]
    result = CliRunner().invoke(app, ["build", str(raw), str(tmp_path / "c.zarr"), *options])
    assert result.exit_code == 0, result.output
    assert list(open_carbonsense(tmp_path / "c.zarr").site.values) == ["US-Aaa", "US-Bbb"]
    with pytest.raises(UnknownNameError, match="NEEE"):
        build_carbonsense(raw, tmp_path / "d.zarr", trust="NEEE")


def test_a_contradiction_is_found_whatever_is_requested(tmp_path):
    raw = write(tmp_path / "raw", **TURNED["VPD"])
    with pytest.raises(SourceError, match=r"VPD is 0\.1 times"):
        build_carbonsense(raw, tmp_path / "c.zarr", variables=["VPD"])
    assert build_carbonsense(raw, tmp_path / "c.zarr", variables=["SW_IN"]).left_out == {}


def test_an_own_table_that_is_trusted_is_appended(tmp_path):
    build_carbonsense(write(tmp_path / "raw"), tmp_path / "c.zarr")
    path = tmp_path / "own.csv"
    frame().to_csv(path, index_label="time")
    columns = {"NEE": "NEE_VUT_REF", "GPP_NT": "GPP_NT_VUT_REF", "RECO_NT": "RECO_NT_VUT_REF"}
    options = {"columns": columns, "units": dict.fromkeys(columns, "umol m-2 s-1"), "site": "XX-Own"}
    options |= {"utc_offset": -6, "latitude": 40.0, "longitude": -90.0, "stamp": "start"}
    record = read_table(path, **options)
    record["NEE"] *= -1
    with pytest.raises(SourceError, match="sign of NEE"):
        append_site(tmp_path / "c.zarr", record)
    append_site(tmp_path / "c.zarr", record.assign_attrs(trust='["NEE"]'))
    notes = open_report(tmp_path / "c.zarr", "notes")
    assert "accepted by trust" in notes[notes.site.eq("XX-Own")].text.iloc[0]


ODD = {
    "a fraction": ("G_F_MDS_QC", 0.5, ("G",)),
    "a scale of nine": ("H_F_MDS_QC", 7, ("H",)),
    "of NEE": ("NEE_VUT_REF_QC", 0.25, ("NEE", "GPP_NT")),
}


@pytest.mark.parametrize("case", ODD)
def test_one_odd_quality_column_costs_its_variable_alone_its_quality(tmp_path, case):
    name, flag, variables = ODD[case]
    raw = write(tmp_path / "raw", **{name: lambda values: values * 0 + flag})
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    (warning,) = report.report["warnings"]["US-Aaa"]
    assert f"column {name}: found {flag:g} (960 such rows)" in warning
    (row,) = inspect_raw(raw).to_dict("records")
    assert row["used"] and row["why"] in warning
    cube = open_carbonsense(tmp_path / "c.zarr").squeeze("site")
    flags = {name: cube.predictors_qc.sel(variable=name).values for name in ("TA", "G", "H")}
    flags |= {name: cube.fluxes_qc.sel(target=name).values for name in ("NEE", "GPP_NT", "LE")}
    for variable, found in flags.items():
        assert (found[found >= 0] == (3 if variable in variables else 0)).all()


def test_a_few_odd_flags_cost_these_steps_alone_their_quality(tmp_path):
    raw = write(tmp_path / "raw", NEE_VUT_REF_QC=replaced([100, 101, 300, 301], 4))
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    assert "(4 such rows)" in report.report["warnings"]["US-Aaa"][0]
    flags = open_carbonsense(tmp_path / "c.zarr").fluxes_qc.sel(target="NEE").values.ravel()
    assert (flags == 3).sum() == 2 and (flags == 0).sum() == 24 * DAYS - 2


def test_flags_of_missing_values_say_nothing(tmp_path):
    """A flag of 9 where nothing was measured, as some processing writes it."""
    gap = list(range(100, 400))
    raw = write(tmp_path / "raw", NEE_VUT_REF=replaced(gap, -9999), NEE_VUT_REF_QC=replaced(gap, 9))
    for name in ("GPP_NT_VUT_REF", "RECO_NT_VUT_REF"):
        (path,) = raw.glob("*_HH_*")
        table = pd.read_csv(path, dtype=str)
        table.loc[gap, name] = "-9999"
        table.to_csv(path, index=False)
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    assert report.report["warnings"] == {}
    flags = open_carbonsense(tmp_path / "c.zarr").fluxes_qc.sel(target="NEE").values.ravel()
    assert (flags == 0).sum() == 24 * DAYS - 150 and (flags > 0).sum() == 0


def test_most_columns_odd_is_another_kind_of_table(tmp_path):
    names = [name for name in frame() if name.endswith("_QC")]
    raw = write(tmp_path / "raw", **dict.fromkeys(names, lambda values: values * 0 + 0.75))
    with pytest.raises(SourceError, match="expected a flag 0, 1, 2 or 3"):
        build_carbonsense(raw, tmp_path / "c.zarr")
    assert not inspect_raw(raw).used.any()


@pytest.mark.parametrize("ending", ["VUT_USTAR50", "CUT_REF", "CUT_USTAR50"])
@pytest.mark.parametrize("usual", ["absent", "without a value"])
def test_nee_of_another_threshold_is_read_and_named(tmp_path, ending, usual):
    other = {name: name.replace("VUT_REF", ending) for name in frame() if "VUT_REF" in name}
    data = frame().rename(columns=other)
    data = data if usual == "absent" else data.assign(NEE_VUT_REF=-9999, NEE_VUT_REF_RANDUNC=0.5)
    raw = write(tmp_path / "raw", data=data)
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    assert f"NEE is read from NEE_{ending}" in report.report["warnings"]["US-Aaa"][0]
    assert f"NEE is read from NEE_{ending}" in inspect_raw(raw).why.iloc[0]
    cube = open_carbonsense(tmp_path / "c.zarr").squeeze("site")
    nee, gpp, reco = (cube.fluxes.sel(target=name).values for name in ("NEE", "GPP_NT", "RECO_NT"))
    np.testing.assert_allclose(nee, reco - gpp, atol=1e-2)
    flags = cube.fluxes_qc.sel(target="GPP_NT").values
    assert np.isfinite(nee).sum() == 24 * DAYS and (flags[np.isfinite(gpp)] == 0).all()
    assert "fluxes_randunc" not in cube or not np.isfinite(cube.fluxes_randunc.sel(target="NEE")).any()


def test_a_table_without_any_flux_of_carbon_says_what_it_has(tmp_path):
    carbon = [name for name in frame() if "VUT" in name]
    data = frame().drop(columns=carbon).assign(NEE_CUT_16=1.0, FC=2.0)
    raw = write(tmp_path / "raw", data=data)
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    (warning,) = report.report["warnings"]["US-Aaa"]
    assert "no NEE, GPP, RECO or methane flux was found; NEE_CUT_16, FC of the file are not read" in warning
    assert "NEE_CUT_16" in inspect_raw(raw).why.iloc[0]


@pytest.mark.parametrize("cell", [" ", "   ", "\t", " NaN", "NA  ", " -9999"])
def test_a_cell_of_blanks_is_missing(tmp_path, cell):
    raw = write(tmp_path / "raw", TA_F=lambda v: v.astype(object).where(np.arange(len(v)) % 100 > 3, cell))
    assert build_carbonsense(raw, tmp_path / "c.zarr").left_out == {}
    ta = column(tmp_path / "c.zarr", "TA", "predictors")
    assert np.isfinite(ta).sum() == 24 * DAYS - 20 and inspect_raw(raw).used.all()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_comma_at_the_end_of_every_row_or_of_the_header(tmp_path, end):
    raw = write(tmp_path / "raw")
    (path,) = raw.glob("*_HH_*")
    head, *rows = path.read_text().splitlines()
    commas = [f"{row}," for row in rows]
    right = read_oneflux(path, utc_offset=0)
    for lines in ([head, *commas], [f"{head},", *rows], [f"{head},", *commas], [head, *(f"{row},,, " for row in rows)]):
        path.write_bytes((end.join(lines) + end).encode())
        assert inspect_raw(raw).used.all() and read_oneflux(path, utc_offset=0).identical(right)
    path.write_bytes((end.join([head, *commas[:-1], rows[-1]]) + end).encode())
    with pytest.raises(SourceError, match="fields, where the header has"):
        read_oneflux(path, utc_offset=0)
    assert not inspect_raw(raw).used.any()

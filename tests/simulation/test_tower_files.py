"""Files of simulated towers, compared with real headers and with the true fluxes."""

from __future__ import annotations

import io
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.simulation import Planet, write_towers
from fluxcube.simulation.csvtext import csv_bytes, number_text, stamp_text
from fluxcube.simulation.instruments import _fill, batches
from fluxcube.timestamps import standard_to_utc

NAME = re.compile(r"(FLX_[A-Z]{2}-\w{3}_FLUXNET2015|AMF_[A-Z]{2}-\w{3}_FLUXNET)_FULLSET_(\d{4})-(\d{4})_(1-4|3-5)\.zip")


@pytest.fixture(scope="module")
def tables(small_raw) -> dict[str, pd.DataFrame]:
    out = {}
    for path in sorted((small_raw / "towers").glob("*.zip")):
        assert NAME.fullmatch(path.name), path.name
        with zipfile.ZipFile(path) as archive:
            (entry,) = archive.namelist()
            assert re.fullmatch(path.stem.replace("FULLSET", "FULLSET_(HH|HR)") + r"\.csv", entry)
            out[path.stem] = pd.read_csv(
                io.BytesIO(archive.read(entry)), dtype={"TIMESTAMP_START": str, "TIMESTAMP_END": str}
            )
    return out


def _real_header(shared_data) -> list[str]:
    (path,) = (shared_data / "formats").glob("FLX_CH-Cha_*first99rows.csv")
    return path.open(encoding="utf-8").readline().strip().split(",")


def test_columns_are_real_ones_in_their_order(tables, shared_data):
    real = _real_header(shared_data)
    for table in tables.values():
        places = [real.index(name) for name in table.columns]
        assert places == sorted(places)


def test_site_descriptions_have_the_real_layout(small_raw, small_planet, shared_data):
    ours = pd.read_csv(small_raw / "towers" / "FLX_AA-Flx_BIF_HH_20200501.csv")
    (path,) = (shared_data / "towers").glob("FLX_AA-Flx_BIF_HH_*.csv")
    real = pd.read_csv(path)
    assert list(ours.columns) == list(real.columns)
    pairs = set(zip(real.VARIABLE_GROUP, real.VARIABLE, strict=True))
    assert pairs <= set(zip(ours.VARIABLE_GROUP, ours.VARIABLE, strict=True))
    assert set(ours.SITE_ID) == {t.site for t in small_planet.towers}
    tower = small_planet.towers[0]
    own = ours[tower.site == ours.SITE_ID].set_index("VARIABLE").DATAVALUE
    assert float(own["LOCATION_LAT"]) == tower.latitude and own["IGBP"] == tower.igbp


def test_stamps_are_continuous_standard_time(tables, small_planet):
    for name, table in tables.items():
        tower = next(t for t in small_planet.towers if t.site == name.split("_")[1])
        start = pd.to_datetime(table.TIMESTAMP_START, format="%Y%m%d%H%M").to_numpy("datetime64[m]")
        end = pd.to_datetime(table.TIMESTAMP_END, format="%Y%m%d%H%M").to_numpy("datetime64[m]")
        step = np.timedelta64(tower.step_minutes, "m")
        assert (np.diff(start) == step).all() and (end - start == step).all()
        # By the real sun, decoded with the site's offset: light is centred on solar noon.
        utc = standard_to_utc(start, tower.utc_offset)
        hour = (utc - utc.astype("datetime64[D]")).astype(float) / 60 + tower.step_minutes / 120
        angle = 2 * np.pi * (hour + tower.longitude / 15 - 12) / 24
        light = table.SW_IN_POT.to_numpy()
        centre = np.degrees(np.arctan2((light * np.sin(angle)).sum(), (light * np.cos(angle)).sum())) / 15
        assert abs(centre) < 0.15, name


def test_values_are_sane_and_flags_are_onefluxs(tables):
    for table in tables.values():
        assert set(table.NEE_VUT_REF_QC.unique()) <= {0, 1, 2, 3}
        assert 0.35 < (table.NEE_VUT_REF_QC == 0).mean() < 0.85
        assert set(table.TA_F_QC.unique()) <= {0, 1, 2} and (table.TA_F_QC == 0).mean() > 0.8
        filled = [c for c in table.columns if c.endswith("_F") or "VUT_REF" in c]
        assert not (table[filled] == -9999).any().any()
        assert (table[["WD", "USTAR"]] == -9999).any().any()
        assert table.PA_F.between(60, 106).all() and table.VPD_F.between(0, 90).all()
        assert (table.SW_IN_F >= 0).all() and (table.P_F >= 0).all()


def test_partitioned_fluxes_close_in_the_file(tables):
    for table in tables.values():
        gap = table.NEE_VUT_REF - (table.RECO_NT_VUT_REF - table.GPP_NT_VUT_REF)
        assert gap.abs().max() < 1.5e-4
        assert (table.NEE_VUT_REF - (table.RECO_DT_VUT_REF - table.GPP_DT_VUT_REF)).abs().max() > 0.1


def test_measurements_are_the_truth_with_their_stated_noise_and_fills_are_not(tables, small_planet):
    name = next(name for name in tables if "ES-Zen" in name)
    tower, table = next(t for t in small_planet.towers if t.site == "ES-Zen"), tables[name]
    start = pd.to_datetime(table.TIMESTAMP_START, format="%Y%m%d%H%M").to_numpy("datetime64[m]")
    utc = standard_to_utc(start, tower.utc_offset)
    own = small_planet.states(
        utc, [tower.latitude], [tower.longitude], [tower.igbp], step_hours=0.5, names=("NEE", "TA")
    )
    error = table.NEE_VUT_REF.to_numpy() - own["NEE"][0]
    measured = table.NEE_VUT_REF_QC.to_numpy() == 0
    scaled = (error / table.NEE_VUT_REF_RANDUNC)[measured]
    assert abs(scaled.mean()) < 0.1 and 0.9 < scaled.std() < 1.1
    assert np.mean(scaled**4) / np.mean(scaled**2) ** 2 > 4  # heavy tails, as real ones
    assert np.abs(error[~measured]).mean() > np.abs(own["NEE"][0]).std() * 0.1
    good = table.TA_F_QC.to_numpy() == 0
    assert 0.1 < np.abs(table.TA_F.to_numpy() - own["TA"][0])[good].std() * 1.7 < 0.3


def test_nights_are_measured_less_often(tables):
    for table in tables.values():
        measured = table.NEE_VUT_REF_QC == 0
        assert measured[table.NIGHT == 1].mean() < measured[table.NIGHT == 0].mean()


def test_two_networks_overlap_with_slightly_different_values(tables, small_planet):
    both = [t.site for t in small_planet.towers if len(t.networks) == 2]
    assert both
    for site in both:
        flx, amf = (next(t for name, t in tables.items() if name.startswith(f"{n}_{site}")) for n in ("FLX", "AMF"))
        merged = flx.merge(amf, on="TIMESTAMP_START", suffixes=("_a", "_b"))
        assert len(merged) > 1000
        measured = (merged.NEE_VUT_REF_QC_a == 0) & (merged.NEE_VUT_REF_QC_b == 0)
        a, b = merged.NEE_VUT_REF_a[measured], merged.NEE_VUT_REF_b[measured]
        assert 0 < (a - b).abs().mean() < 0.3 and np.corrcoef(a, b)[0, 1] > 0.95
        assert ((merged.NEE_VUT_REF_QC_a == 0) != (merged.NEE_VUT_REF_QC_b == 0)).mean() > 0.005


def test_natively_hourly_sites_are_named_as_hourly(small_raw, small_planet):
    hourly = {t.site for t in small_planet.towers if t.step_minutes == 60}
    for path in (small_raw / "towers").glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            assert ("_HR_" in archive.namelist()[0]) == (path.name.split("_")[1] in hourly)


def test_the_same_seed_writes_the_same_bytes_and_progress_reaches_its_total(small_raw, small_planet, tmp_path):
    seen = []
    write_towers(Planet(small_planet.seed, quick=True), tmp_path, progress=lambda *step: seen.append(step))
    done, totals, texts = zip(*seen, strict=True)
    assert list(done) == list(range(1, totals[0] + 1)) and all(texts)
    for path in sorted((small_raw / "towers").iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_batches_share_a_clock_and_lose_no_tower():
    planet = Planet(0)
    groups = batches(planet)
    assert sorted(t.site for g in groups for t in g) == sorted(t.site for t in planet.towers)
    for group in groups:
        assert len({(t.step_minutes, t.years, 60 * t.utc_offset % t.step_minutes) for t in group}) == 1


@given(st.lists(st.floats(-9000, 9000), min_size=1, max_size=30), st.integers(0, 4))
def test_numbers_read_back(values, decimals):
    values = np.array(values)
    text = csv_bytes(["x"], [number_text(values, decimals)]).decode().splitlines()[1:]
    assert np.allclose([float(line) for line in text], values, atol=0.5000001 * 10.0**-decimals)
    assert all(re.fullmatch(r"-?(0|[1-9]\d*)" + (rf"\.\d{{{decimals}}}" if decimals else ""), line) for line in text)


@given(st.datetimes(pd.Timestamp("1991-01-01").to_pydatetime(), pd.Timestamp("2030-12-31").to_pydatetime()))
def test_stamps_read_back(moment):
    text = bytes(stamp_text(np.array([moment], "datetime64[m]"))[0]).decode()
    assert text == moment.strftime("%Y%m%d%H%M")


def test_gaps_are_filled_from_nearby_days_only():
    values = np.repeat(np.arange(40.0), 24)
    values[20 * 24 + 12] = np.nan
    filled, flag = _fill(values, 24)
    assert filled[20 * 24 + 12] == pytest.approx(20.0) and flag[20 * 24 + 12] == 1
    values[5 * 24 : 35 * 24] = np.nan
    filled, flag = _fill(values, 24)
    assert np.isfinite(filled).all() and flag[20 * 24] == 3 and flag[6 * 24] < 3

"""Benchmark protocols: metrics against independently typed formulas, their own tables, a cube, and their files."""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxcube import cli
from fluxcube.errors import (
    ConfigError,
    FluxcubeError,
    MissingPackageError,
    SchemaError,
    SourceError,
    StoreError,
    UnknownNameError,
)
from fluxcube.evaluation.protocols import (
    PROTOCOLS,
    evaluate_protocol,
    find_protocol,
    read_benchmark,
    read_predicted_table,
    write_protocol,
)
from fluxcube.evaluation.protocols import carbonfluxbench as daily
from fluxcube.evaluation.protocols import carbonsense as classes
from fluxcube.evaluation.protocols import fluxtrapolation as flux
from fluxcube.evaluation.protocols.files import latex_paper_table
from fluxcube.evaluation.report import write_predictions
from fluxcube.evaluation.seeds import member_sums
from fluxcube.simulation.example import example_cube

TA40 = "fluxtrapolation/TA40"


# FLUXtrapolation's metrics and scales


def typed_metrics(y, p):
    """The formulas of FLUXtrapolation's README and paper, typed anew for one environment."""
    both = np.isfinite(y) & np.isfinite(p)
    y, p = y[both], p[both]
    if not len(y):
        return dict.fromkeys(flux.METRICS, np.nan)
    variance = ((y - y.mean()) ** 2).sum()
    varies = len(set(y)) > 1 and len(set(p)) > 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mse": ((y - p) ** 2).mean(),
            "rmse": ((y - p) ** 2).mean() ** 0.5,
            "mae": abs(y - p).mean(),
            "nse": 1 - ((y - p) ** 2).sum() / variance if len(set(y)) > 1 else np.nan,
            "r2_score": np.corrcoef(y, p)[0, 1] ** 2 if varies else np.nan,
            "bias": (y - p).mean(),
            "relative_mae": abs(y - p).mean() / y.mean(),
            "relative_bias": (y - p).mean() / y.mean(),
        }


def typed_scales(frame):
    """The scales of one environment, with plain loops over groups: lists of observations and predictions."""
    days = [g for _, g in frame.groupby(frame.time.dt.floor("D"))]
    day = pd.DataFrame(
        [(g.time.iloc[0].floor("D"), g.y.mean() if len(g) >= 12 else np.nan, g.p.mean()) for g in days],
        columns=["time", "y", "p"],
    )
    out = {"hourly": (frame.y, frame.p), "daily": (day.y, day.p)}
    for name, key, least in (
        ("weekly", day.time.dt.to_period("W"), 4),
        ("monthly", day.time.dt.to_period("M"), 15),
    ):
        groups = [g for _, g in day.groupby(key)]
        y = [g.y.mean() if g.y.notna().sum() >= least else np.nan for g in groups]
        out[name] = (y, [g.p.mean() for g in groups])
    whole = day.dropna()
    cycle = {
        d: (g.y.mean() if len(g) >= 2 else np.nan, g.p.mean()) for d, g in whole.groupby(whole.time.dt.day_of_year)
    }
    out["seasonal"] = tuple(zip(*cycle.values(), strict=True))
    base = [cycle.get(d, (np.nan, np.nan)) for d in day.time.dt.day_of_year]
    out["anom"] = (day.y - [b[0] for b in base], day.p - [b[1] for b in base])
    years = [g for _, g in whole.groupby(whole.time.dt.year)]
    y, p = np.array([g.y.mean() if len(g) >= 183 else np.nan for g in years]), np.array([g.p.mean() for g in years])
    out["iav"] = (y - np.nanmean(y), p - p.mean())
    out["spatial"] = ([np.mean([g.y.mean() for g in years])], [p.mean()])
    return {name: tuple(np.asarray(x, float) for x in pair) for name, pair in out.items()}


@pytest.fixture(scope="module")
def series():
    """Three years of hours of two sites, with gaps, short days and missing observations."""
    rng, frames = np.random.default_rng(0), []
    for site in ("AU-ASM", "US-Ton"):
        time = pd.date_range("2018-11-03 05:00", "2021-10-09 13:00", freq="h")
        y = 2 + 3 * np.sin(np.arange(len(time)) / 1400) + rng.normal(size=len(time))
        p = y + rng.normal(size=len(time)) + 0.5
        keep = rng.random(len(time)) > 0.1
        for _ in range(30):
            first = rng.integers(len(time))
            keep[first : first + rng.integers(200)] = False
        y[rng.random(len(time)) < 0.05] = np.nan
        frames.append(pd.DataFrame({"site": site, "time": time, "y": y, "p": p})[keep])
    return pd.concat(frames, ignore_index=True)


def test_scales_and_metrics_are_those_of_fluxtrapolation(series):
    found = flux.environment_scores(series.site.values, series.time.values, series.y.values, series.p.values)
    found = found.set_index(["scale", "env"])
    assert set(found.index.levels[0]) == set(flux.SCALES)
    for site, rows in series.groupby("site"):
        for scale, (y, p) in typed_scales(rows).items():
            assert found.n_samples[scale, site] == len(y)
            for name, value in typed_metrics(y, p).items():
                if not (name.startswith("relative") and scale in ("anom", "iav")):  # divided by a rounding error there
                    assert found.loc[(scale, site), name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)


def test_relative_metrics_of_anomalies_are_undefined_rather_than_any_number(series):
    found = flux.environment_scores(series.site.values, series.time.values, series.y.values, series.y.values + 1)
    assert found.query("scale == 'iav'").relative_mae.isna().all()


def test_environments_of_the_split_in_time_are_site_years_except_at_scales_of_several_years(series):
    found = flux.environment_scores(
        series.site.values, series.time.values, series.y.values, series.p.values, by_year=True
    )
    assert set(found[found.scale == "weekly"].env) == {
        f"('{s}', {y})" for s in set(series.site) for y in range(2018, 2022)
    }
    assert set(found[found.scale == "iav"].env) == set(series.site)
    one = series[(series.site == "US-Ton") & (series.time.dt.year == 2020)]
    row = found.set_index(["scale", "env"]).loc[("monthly", "('US-Ton', 2020)")]
    assert row.rmse == pytest.approx(typed_metrics(*typed_scales(one)["monthly"])["rmse"])
    assert found[found.scale == "spatial"].nse.isna().all(), "one value of each environment has no variance"


def test_the_summary_and_the_leaderboard():
    rows = [
        ("GPP", "TA40", model, scale, env, 10, *[error * k] * 8)
        for model, error in (("constant", 2.0), ("ours", 1.0))
        for scale in ("hourly", "daily", "iav")
        for env, k in (("A", 1.0), ("B", 2.0), ("C", 4.0))
    ]
    scores = pd.DataFrame(rows, columns=["target", "setting", "model", "scale", "env", "n_samples", *flux.METRICS])
    table = flux.summary(scores).set_index(["model", "scale"])
    assert table.rmse_median["ours", "iav"] == 2.0 and table.rmse_p90["ours", "iav"] == pytest.approx(3.6)
    assert table.nse_p10["ours", "iav"] == pytest.approx(1.2)
    board = flux.leaderboard(scores, baseline="constant").set_index("model")
    assert board.skill["ours"] == 0.5 and board.skill["constant"] == 0.0
    assert "TA40 daily" not in board and "TA40 hourly" in board, "the leaderboard leaves out days and months"
    with pytest.raises(UnknownNameError):
        flux.leaderboard(scores, baseline="lr")


# CarbonFluxBench's metrics


def test_site_metrics_are_those_of_carbonfluxbench():
    rng = np.random.default_rng(1)
    y, p = rng.normal(2, 1, 50), rng.normal(2, 1, 50)
    found = daily.site_metrics(y, p)
    assert found["R2"] == pytest.approx(1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert found["RMSE"] == pytest.approx(np.sqrt(np.mean((y - p) ** 2)))
    assert found["nMAE"] == pytest.approx(np.mean(np.abs(p - y) / (np.abs(y.mean()) + 1e-9)))
    assert found["RAE"] == pytest.approx(np.mean(abs(y - p)) / np.mean(abs(y - y.mean())))
    constant = np.full(3, 0.1)
    assert (
        daily.site_metrics(constant, constant + 1)["R2"] == 0.0 and daily.site_metrics(constant, constant)["R2"] == 1.0
    )
    assert daily.site_metrics(constant, constant + 1)["RAE"] == np.inf
    assert np.isnan(daily.site_metrics(y[:1], p[:1])["R2"]) and np.isnan(daily.site_metrics(y[:0], p[:0])["RMSE"])


# FLUXtrapolation's own tables


@pytest.fixture(scope="module")
def published(tmp_path_factory, series):
    """A folder of FLUXtrapolation's layout, and a table of predictions."""
    folder = tmp_path_factory.mktemp("fluxnet_bench") / "data"
    (folder / "sites").mkdir(parents=True)
    rng = np.random.default_rng(2)
    for site, rows in [*series.groupby("site"), ("XX-Aaa", series[series.site == "US-Ton"])]:
        table = pd.DataFrame(
            {
                "time": rows.time,
                "year": rows.time.dt.year,
                "GPP": rows.y,
                "NEE": -rows.y,
                "ET": rows.y / 100,
                "TA": 10.0,
                "qc_mask": (rng.random(len(rows)) < 0.8).astype(int),
                "tower_lat": -22.3 if site == "AU-ASM" else 38.4,
                "tower_lon": 133.2 if site == "AU-ASM" else -121.0,
                "PFT_SAV": site == "AU-ASM",
                "PFT_WSA": site != "AU-ASM",
            }
        )
        table.to_csv(folder / "sites" / f"{site}.csv", index=False)
    predicted = pd.DataFrame(
        {"site_id": series.site, "time": series.time, "GPP": series.p, "NEE": -series.p, "ET": series.p / 100}
    )
    predicted.to_csv(folder / "mine.csv", index=False)
    return folder


def test_the_benchmark_reads_its_own_folder(published, series):
    obs = read_benchmark(published, sites=["AU-ASM", "US-Ton"])
    assert dict(obs.sizes)["site"] == 2 and set(obs.igbp.values) == {"SAV", "WSA"}
    rows = series[series.site == "US-Ton"].set_index("time").y
    site = obs.sel(site="US-Ton")
    assert int(site.in_table.sum()) == len(rows)
    assert np.allclose(site.GPP.sel(time=rows.index), rows, equal_nan=True)
    assert set(np.unique(obs.GPP_QC)) == {-1, 0, 2} and "XX-Aaa" not in obs.site
    assert read_benchmark(published, units={"GPP": "umol m-2 s-1"}).GPP.attrs["units"] == "umol m-2 s-1"


def test_scores_on_its_own_tables_are_the_benchmark_s_and_ours_are_of_measured_values(published, series):
    obs = read_benchmark(published, sites=find_protocol(TA40).sites())
    scores = evaluate_protocol(TA40, obs, {"mine": read_predicted_table(published / "mine.csv")})
    assert set(scores.benchmark.target) == {"GPP", "NEE", "ET"}
    direct = flux.environment_scores(series.site.values, series.time.values, series.y.values, series.p.values)
    both = scores.benchmark.query("target == 'GPP'").merge(direct, on=["scale", "env"], suffixes=("", "_direct"))
    assert len(both) == len(direct)
    for name in ("n_samples", "rmse", "bias", "r2_score"):
        assert np.allclose(both[name], both[f"{name}_direct"], equal_nan=True)
    own = scores.own.query("target == 'GPP'").set_index("group")
    assert own.n["hourly"] < scores.rows[0].obs.size and own.n["hourly"] == int((obs.GPP_QC == 0).sum())
    assert own.bias["hourly"] == pytest.approx(0.5, abs=0.05) and both.bias.iloc[0] < 0, "the signs are opposite"
    left = scores.removed.query("target == 'GPP'").rows.tolist()
    assert left[0] == left[1] == left[2] == int(series.y.notna().sum())
    assert any("2 of the 40 listed test sites are scored" in note for note in scores.notes)
    assert any("listed test sites without data (38)" in note for note in scores.notes)


def test_nine_metrics_files_of_three_settings(published, tmp_path):
    everywhere = published.parent / "renamed"
    mine = pd.read_csv(published / "mine.csv")
    short = {f.stem: pd.read_csv(f) for f in (published / "sites").iterdir()}
    short = {site: table[table.time.between("2018-12-01", "2019-02-01")] for site, table in short.items()}
    for setting in ("time-split", "spatial-easy40", "TA40"):
        protocol = find_protocol(f"fluxtrapolation/{setting}")
        names = dict(zip(("AU-ASM", "US-Ton"), protocol.sites()[:2], strict=True))
        folder = everywhere / setting / "sites"
        folder.mkdir(parents=True)
        for old, new in names.items():
            short[old].to_csv(folder / f"{new}.csv", index=False)
        mine.assign(site_id=mine.site_id.map(names)).to_csv(everywhere / f"{setting}.csv", index=False)
        predicted = read_predicted_table(everywhere / f"{setting}.csv")
        scores = evaluate_protocol(protocol, read_benchmark(folder.parent), {"my_model v2": predicted})
        write_protocol(scores, tmp_path / "out", strategy="max")
    files = sorted(path.name for path in (tmp_path / "out/results/metrics").iterdir())
    assert files == sorted(
        f"{s}_{t}_my-model-v2_val_max.csv"
        for s in ("time-split", "spatial-easy40", "TA40")
        for t in ("GPP", "NEE", "ET")
    )
    table = pd.read_csv(tmp_path / "out/results/metrics" / files[0])
    assert list(table) == ["target", "setting", "model", "scale", "env", "n_samples", *flux.METRICS]
    # Its code splits a file's name at the last two underscores into setting, flux and model.
    for path in (tmp_path / "out/results/models").iterdir():
        base = path.name.removesuffix("_predictions.csv").removesuffix("_val_max")
        assert base.rsplit("_", 2)[2] == "my-model-v2"
    predictions = pd.read_csv(tmp_path / "out/results/models/time-split_NEE_my-model-v2_val_max_predictions.csv")
    assert list(predictions) == ["y_true", "y_pred", "env", "site_id", "time"]
    assert pd.to_datetime(predictions.time).dt.year.min() == 2019
    assert set(predictions.env) == {f"('{s}', {y})" for s in set(predictions.site_id) for y in (2019,)}
    page = (tmp_path / "out/scores_TA40.md").read_text("utf-8")
    assert "squared correlation" in page and "40 of the code" in page
    with pytest.raises(StoreError, match="exists"):
        write_protocol(scores, tmp_path / "out", strategy="max")
    with pytest.raises(UnknownNameError, match="strategy"):
        write_protocol(scores, tmp_path / "out", strategy="best")


def test_tables_that_are_none_are_refused(published, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match="found none"):
        read_benchmark(tmp_path / "nothing.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="one CSV or parquet file per site"):
        read_benchmark(tmp_path / "empty")
    with pytest.raises(ConfigError, match="none of the requested sites"):
        read_benchmark(published, sites=["ZZ-Zzz"])
    texts = {
        "a,b\n1,2\n": "expected the columns of FLUXtrapolation",
        "site_id,time,qc_mask,GPP\nA,2019-01-01,1,2\nA,2019-01-01,1,3\n": "twice",
        "site_id,time,qc_mask,GPP\nA,noon,1,2\n": "expected times",
        "site_id,time,qc_mask,GPP\nA,2019-01-01T00:00+01:00,1,2\n": "without a zone",
        "site_id,time,qc_mask\nA,2019-01-01,1\n": "a column GPP, NEE or ET",
        "time,qc_mask,GPP\n2019-01-01,1,2\n": "column site_id or site",
        "": "no readable table",
    }
    for text, message in texts.items():
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(SourceError, match=message):
            read_benchmark(tmp_path / "t.csv")
    (tmp_path / "p.csv").write_text("site,time,name\nA,2019-01-01,x\n")
    with pytest.raises(SourceError, match="column of numbers"):
        read_predicted_table(tmp_path / "p.csv")
    (tmp_path / "y.csv").write_text("site_id,time,y_true,y_pred,env\nNA-Aaa,2019-01-01,1,2,x\n")
    with pytest.raises(ConfigError, match="target="):
        read_predicted_table(tmp_path / "y.csv")
    assert list(read_predicted_table(tmp_path / "y.csv", target="NEE").data_vars) == ["NEE"]
    (tmp_path / "target_fluxes_v2.parquet").write_bytes(b"PAR1")
    for package in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=re.escape("pip install 'fluxcube[tables]'")):
        read_benchmark(tmp_path / "target_fluxes_v2.parquet")


# CarbonFluxBench's own table


@pytest.fixture(scope="module")
def fluxbench(tmp_path_factory):
    """A table with the columns of target_fluxes_v2, of two test sites and another one, and predictions."""
    folder = tmp_path_factory.mktemp("carbonfluxbench")
    rng, days = np.random.default_rng(3), pd.date_range("2000-02-20", "2002-12-31", freq="D")
    tables = []
    for site, igbp in (("AU-Fog", "WET"), ("US-Ho1", "ENF"), ("XX-Aaa", "GRA")):
        gpp = np.abs(rng.normal(5, 2, len(days)))
        reco = np.abs(rng.normal(4, 1, len(days)))
        table = pd.DataFrame(
            {
                "TIMESTAMP": days.strftime("%Y%m%d").astype(int),
                "site": site,
                "lat": 10.0,
                "lon": 20.0,
                "IGBP": igbp,
                "GPP_NT_VUT_USTAR50": gpp,
                "RECO_NT_VUT_USTAR50": reco,
                "NEE_VUT_USTAR50": reco - gpp,
                "NEE_VUT_USTAR50_QC": rng.choice([1.0, 0.9], len(days)),
            }
        )
        table.loc[::7, "RECO_NT_VUT_USTAR50"] = -9999
        tables.append(table)
    whole = pd.concat(tables)
    whole.to_csv(folder / "target_fluxes_v2.csv", index=False)
    names = {"GPP_NT_VUT_USTAR50": "GPP_NT", "RECO_NT_VUT_USTAR50": "RECO_NT", "NEE_VUT_USTAR50": "NEE"}
    predicted = whole.rename(columns=names)[["site", "TIMESTAMP", *names.values()]].replace(-9999, 4.0)
    predicted[list(names.values())] += 0.5
    predicted.to_csv(folder / "mine.csv", index=False)
    return folder, whole


def test_carbonfluxbench_scores_whole_days_with_all_targets(fluxbench, tmp_path):
    folder, whole = fluxbench
    protocol = find_protocol("CarbonBench/Koppen")
    obs = read_benchmark(folder / "target_fluxes_v2.csv")
    assert obs.attrs["resolution"] == "daily" and obs.NEE.attrs["units"] == "gC m-2 d-1"
    assert obs.time.values[0] == np.datetime64("2000-02-24")
    scores = evaluate_protocol(protocol, obs, {"mine": read_predicted_table(folder / "mine.csv")})
    rows = whole[(whole.NEE_VUT_USTAR50_QC == 1) & (whole.RECO_NT_VUT_USTAR50 != -9999) & (whole.TIMESTAMP >= 20000224)]
    counted = rows.groupby("site").size()
    found = scores.benchmark[scores.benchmark.target == "NEE"].set_index("site")
    assert set(found.index) == {"AU-Fog", "US-Ho1"} and found.n.to_dict() == counted[["AU-Fog", "US-Ho1"]].to_dict()
    assert np.allclose(found.RMSE, 0.5) and found.loc["AU-Fog", ["IGBP", "Koppen"]].tolist() == ["WET", "A"]
    assert scores.summary.set_index("target").RMSE_median["GPP_NT"] == pytest.approx(0.5)
    own = scores.own.query("target == 'NEE'").set_index("group")
    assert own.n["daily"] == counted[["AU-Fog", "US-Ho1"]].sum() and own.bias["daily"] == pytest.approx(0.5)
    assert daily.by_class(scores.benchmark, "IGBP").n_sites.tolist() == [1] * 6
    files = write_protocol(scores, tmp_path / "out", features="minimal")
    table = pd.read_csv(next(f for f in files if f.parent.name == "eval_results"))
    assert files[-1].name == "mine_Koppen_minimal_ensemble.csv"
    columns = ["site", "IGBP", "Koppen", "R2", "RMSE", "nMAE", "RAE", "target", "model", "split_type", "n_seeds"]
    assert list(table) == columns and set(table.split_type) == {"Koppen"}
    assert set(table.target) == {"GPP_NT_VUT_USTAR50", "RECO_NT_VUT_USTAR50", "NEE_VUT_USTAR50"}


@pytest.mark.parametrize("kind", [int, str, "date"])
def test_a_parquet_table_may_have_dates_of_any_type(fluxbench, tmp_path, monkeypatch, kind):
    folder, whole = fluxbench
    stamps = pd.to_datetime(whole.TIMESTAMP.astype(str)) if kind == "date" else whole.TIMESTAMP.astype(kind)
    monkeypatch.setattr(pd, "read_parquet", lambda path: whole.assign(TIMESTAMP=stamps))
    (tmp_path / "target_fluxes_v2.parquet").write_bytes(b"")
    found = read_benchmark(tmp_path, sites=["AU-Fog"])
    expected = read_benchmark(folder / "target_fluxes_v2.csv", sites=["AU-Fog"])
    assert found.equals(expected) and np.isnan(found.RECO_NT.values).any()


def test_carbonfluxbench_scores_the_whole_days_of_a_daily_cube():
    time = pd.date_range("2010-01-01", periods=40, freq="D")
    quality = np.where(np.arange(40) % 4 == 0, 0.5, 1.0)
    values = np.stack([np.arange(40.0), np.arange(40.0) + 1], -1)[None].repeat(2, 0)
    values[1, 10:20, 1] = np.nan  # days on which one of the targets is missing
    dims = ("site", "time", "target")
    cube = xr.Dataset(
        {"fluxes": (dims, values), "fluxes_quality": (dims, np.broadcast_to(quality[None, :, None], values.shape))},
        {
            "site": ["AU-Fog", "US-Ho1"],
            "time": time,
            "target": ["NEE", "GPP_NT"],
            "target_units": ("target", ["gC m-2 d-1"] * 2),
            "igbp": ("site", ["", "GRA"]),
        },
        {"kind": "cube", "resolution": "daily"},
    )
    predicted = xr.Dataset(
        {n: cube.fluxes.sel(target=n, drop=True).reset_coords(drop=True) + 1 for n in cube.target.values}
    )
    scores = evaluate_protocol("carbonfluxbench/koppen", cube, {"mine": predicted})
    found = scores.benchmark.query("target == 'NEE'").set_index("site")
    assert found.n.to_dict() == {"AU-Fog": 30, "US-Ho1": 30 - 8} and np.allclose(found.RMSE, 1)
    assert found.loc["US-Ho1", "IGBP"] == "ENF", "classes are those of the benchmark's list"
    assert any("lack it: RECO_NT" in note for note in scores.notes)


def test_seeds_of_carbonfluxbench_are_averaged_before_they_are_scored(fluxbench):
    folder, _ = fluxbench
    obs, one = read_benchmark(folder / "target_fluxes_v2.csv"), read_predicted_table(folder / "mine.csv")
    scores = evaluate_protocol("carbonfluxbench/koppen", obs, {"mine": [one, one - 1.0]})
    assert np.allclose(scores.benchmark.RMSE, 0.0) and scores.seeds == {"mine": 2}


# A cube


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=4, days=20).assign_coords(site=np.array(["AU-ASM", "AU-DaS", "US-Ton", "XX-Aaa"], object))


def test_a_cube_is_scored_at_the_listed_sites_with_local_days_and_all_values(cube):
    fluxes = {name: cube.fluxes.sel(target=name).reset_coords(drop=True) + 1 for name in ("NEE", "GPP_NT")}
    predicted = xr.Dataset(fluxes).assign_coords(in_training=("site", [False, True, False, True]))
    scores = evaluate_protocol(TA40, cube, {"mine": predicted})
    assert set(scores.benchmark.env) == {"AU-ASM", "AU-DaS", "US-Ton"} and set(scores.benchmark.target) == {
        "NEE",
        "GPP",
    }
    hourly = scores.benchmark.query("scale == 'hourly' and target == 'NEE'")
    assert set(hourly.n_samples) == {20 * 24} and np.allclose(hourly.bias, -1, atol=1e-5)
    assert scores.own.query("target == 'NEE' and group == 'hourly'").n.item() < 3 * 480, "gap-filled hours are left out"
    site = scores.rows[0].time[scores.rows[0].site == "US-Ton"]
    offset = int(cube.utc_offset.sel(site="US-Ton"))
    assert site[0] == cube.time.values[0].astype("datetime64[s]") + np.timedelta64(offset, "h")
    notes = " ".join(scores.notes)
    assert "mine was trained on 1 of the test sites (AU-DaS)" in notes and "lack it: ET" in notes
    assert "split='benchmark:fluxtrapolation/TA40'" in notes


def test_units_are_converted_and_lazy_data_give_the_same(cube):
    gross = (cube.fluxes.sel(target=["NEE"]) * 1e3).assign_attrs(units="nmol m-2 s-1").isel(target=0, drop=True)
    ones = evaluate_protocol(TA40, cube.chunk(site=1), {"mine": gross.rename("NEE").chunk(time=100)})
    assert np.allclose(ones.benchmark.rmse.dropna(), 0, atol=1e-4)


def test_a_lazy_prediction_is_computed_once(cube):
    calls = []

    def block(values):
        calls.append(values.shape)
        return values

    nee = cube.fluxes.sel(target="NEE", drop=True).reset_coords(drop=True).chunk(site=1)
    lazy = nee.copy(data=nee.data.map_blocks(block, meta=np.empty((0, 0), "float32"))).rename("NEE")
    evaluate_protocol(TA40, cube, {"mine": lazy})
    assert len(calls) == 3, "one block of each test site, and none of the other site"


def test_the_split_in_time_scores_the_years_after_2018_of_the_site_s_own_clock():
    time = pd.date_range("2018-12-30", "2019-01-03", freq="h", inclusive="left")
    coords = {"site": ["US-Ton"], "time": time, "longitude": ("site", [-120.0]), "latitude": ("site", [38.0])}
    obs = xr.Dataset({"NEE": (("site", "time"), np.arange(float(len(time)))[None])}, coords)
    scores = evaluate_protocol("fluxtrapolation/time-split", obs, {"mine": obs + 1})
    assert scores.rows[0].time[0] == np.datetime64("2019-01-01") and len(scores.rows[0].time) == 48 - 8
    assert set(scores.benchmark.query("scale == 'daily'").env) == {"('US-Ton', 2019)"}


def test_mistakes_are_named(cube):
    nee = cube.fluxes.sel(target=["NEE"])
    with pytest.raises(UnknownNameError, match="did you mean 'fluxtrapolation/TA40'"):
        find_protocol("fluxtrapolation/TA4")
    with pytest.raises(ConfigError, match="expected a prediction"):
        evaluate_protocol(TA40, cube, {})
    with pytest.raises(ConfigError, match="expected a prediction"):
        evaluate_protocol(TA40, cube, {"mine": []})
    with pytest.raises(FluxcubeError, match="daily"):
        evaluate_protocol("carbonfluxbench/igbp", cube, {"mine": nee})
    with pytest.raises(SchemaError, match="none of its 40 test sites in common"):
        evaluate_protocol(TA40, cube.isel(site=[3]), {"mine": nee})
    with pytest.raises(SchemaError, match="expected a flux of fluxtrapolation/TA40"):
        evaluate_protocol(TA40, cube, {"mine": xr.Dataset({"FCH4": nee.isel(target=0, drop=True)})})
    with pytest.raises(SchemaError, match="dims"):
        evaluate_protocol(TA40, cube, {"mine": nee.isel(site=0, drop=True)})


def test_nothing_measured_is_defined(cube):
    empty = xr.full_like(cube.fluxes.sel(target=["NEE"]), np.nan)
    scores = evaluate_protocol(TA40, cube, {"mine": empty})
    assert scores.removed.rows.tolist()[1:] == [0, 0] and scores.benchmark.empty and not scores.rows[0].obs.size


def test_every_protocol_states_its_differences_and_source():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.differences and "arXiv" in protocol.source and protocol.sites()


# The table of CarbonSense


@pytest.fixture(scope="module")
def several():
    """Sums of two models with three seeds at eight sites, and what they were made from."""
    cube = example_cube(sites=8, days=4)
    rng = np.random.default_rng(4)
    nee = cube.fluxes.sel(target=["NEE"])
    members = {
        name: [nee + xr.DataArray(rng.normal(0, s, nee.shape), dims=nee.dims) for s in spread]
        for name, spread in (("XGBoost (own)", (1.0, 1.5, 2.0)), ("Eco_P & co", (0.5, 0.6, 0.7)))
    }
    return cube, members, member_sums(cube, members, max_qc=1)


def test_the_score_of_a_class_is_the_mean_over_seeds_of_the_pooled_score(several):
    cube, members, sums = several
    table = classes.class_table(sums, seen={"DBF", "GRA"}, clusters=0, draws=200)
    row = table.query("group == 'DBF' and model == 'XGBoost (own)'").iloc[0]
    good = cube.fluxes_qc.sel(target="NEE").isin([0, 1]) & (cube.igbp == "DBF")
    each = []
    for one in members["XGBoost (own)"]:
        y, p = (a.sel(target="NEE").where(good).values for a in (cube.fluxes, one))
        each.append(1 - np.nansum((y - p) ** 2) / np.nansum((y - np.nanmean(y)) ** 2))
    assert row.nse == pytest.approx(np.mean(each)) and row.nse_seed_std == pytest.approx(np.std(each, ddof=1))
    assert row.nse < row.nse_ensemble, "the mean of the seeds has smaller errors"
    assert row.n == int(good.sum()) and row.n_sites == 2 and row.seeds == 3 and np.isnan(row.nse_low)
    whole = table.query("group == 'all' and model == 'XGBoost (own)'").iloc[0]
    assert whole.nse_low < whole.nse < whole.nse_high and whole.rmse_low < whole.rmse < whole.rmse_high
    assert table.set_index("group").zero_shot.to_dict() == {
        "CRO": True,
        "DBF": False,
        "ENF": True,
        "GRA": False,
        "all": False,
    }
    assert table.attrs["row_mask"].endswith("where every seed of XGBoost (own) and Eco_P & co has a value")
    again = classes.class_table(sums, seen={"DBF", "GRA"}, clusters=0, draws=200)
    assert again.equals(table)


def test_one_seed_has_no_spread_and_the_protocol_gives_the_same_table(several):
    cube, members, _ = several
    names = np.array([*find_protocol("carbonsense/v1").sites()[:7], "XX-Aaa"], object)
    scores = evaluate_protocol(
        "carbonsense/v1",
        cube.assign_coords(site=names),
        {m: [one.assign_coords(site=names) for one in ones] for m, ones in members.items()},
        draws=200,
    )
    assert set(scores.benchmark.group) >= {"DBF", "all"} and scores.seeds["Eco_P & co"] == 3
    assert scores.summary.n_sites.tolist() == [7, 7]
    one = classes.class_table(member_sums(cube, {"a": members["XGBoost (own)"][:1]}, max_qc=1), draws=100)
    assert one.nse_seed_std.isna().all() and np.allclose(one.nse, one.nse_ensemble)


def test_latex_and_comparison_with_published_scores(several):
    _, _, sums = several
    table = classes.class_table(sums, clusters=0, draws=100)
    text = latex_paper_table(table)
    assert r"Eco\_P \& co" in text and r"$\pm$" in text and text.count(r"\\") == 7 and "±" not in text
    published = pd.DataFrame(
        [
            ("v1", "flag <= 1", "NEE", group, "XGBoost", score, value, n)
            for group, value, n in (("DBF", 0.7, 2), ("GRA", 0.6, 5))
            for score in ("nse", "rmse")
        ],
        columns=["split", "mask", "target", "group", "model", "score", "value", "n"],
    )
    beside = classes.beside_published(table, published, split="v1", mask="flag <= 1").set_index(["group", "model"])
    assert beside.published_nse["DBF", "XGBoost (own)"] == 0.7 and beside.comparable["DBF", "XGBoost (own)"] == "yes"
    assert beside.comparable["GRA", "XGBoost (own)"] == "no: 2 of 5 test sites"
    assert beside.comparable["DBF", "Eco_P & co"] == "" and np.isnan(beside.published_nse["DBF", "Eco_P & co"])
    other = classes.beside_published(table, published, split="v1", mask="flag <= 0").set_index(["group", "model"])
    assert other.comparable["DBF", "XGBoost (own)"].startswith("no: the published mask")
    assert not classes.beside_published(table, published, split="v2", mask="x").comparable.any()
    with pytest.raises(ConfigError):
        classes.class_table({})


# The command line


def command(monkeypatch, capsys, *words, status=0):
    monkeypatch.setattr(sys, "argv", ["fluxcube", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    text = capsys.readouterr()
    assert (ended.value.code or 0) == status or isinstance(ended.value.code, str) == bool(status), text
    return text.out + str(ended.value.code)


def test_the_command_scores_a_table_of_predictions_on_the_benchmark_s_table(published, tmp_path, monkeypatch, capsys):
    listed = command(monkeypatch, capsys, "protocols", "--format", "csv")
    assert 'fluxtrapolation/TA40,hourly,"GPP, NEE, ET",40,' in listed
    words = ("evaluate", published / "mine.csv", published, "--protocol", TA40, "--out", tmp_path / "out")
    out = command(monkeypatch, capsys, *words)
    assert "# fluxtrapolation/TA40" in out and (tmp_path / "out/results/metrics/TA40_NEE_mine_val_mean.csv").exists()
    write_predictions(read_predicted_table(published / "mine.csv"), tmp_path / "net.nc")
    again = command(monkeypatch, capsys, "evaluate", tmp_path / "net.nc", published, "--protocol", TA40)
    assert again.replace("| net |", "| mine |") == out, "predictions in NetCDF give the same page"
    refused = command(monkeypatch, capsys, *words, "--by", "igbp", "--scales", status=1)
    assert "leave out --by, --scales" in refused
    refused = command(monkeypatch, capsys, *words, "--digest", "0123456789ab", status=1)
    assert "leave out --digest" in refused
    refused = command(monkeypatch, capsys, *words, "--format", "csv", status=1)
    assert "prints Markdown, not csv" in refused and "--out FOLDER" in refused
    refused = command(monkeypatch, capsys, "evaluate", tmp_path, published, "--protocol", TA40, status=1)
    assert "contains no inputs for a run" in refused
    refused = command(monkeypatch, capsys, *words, "--draws", "5", status=1)
    assert "at least 100" in refused

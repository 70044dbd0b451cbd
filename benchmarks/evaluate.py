"""Time and peak RAM of scoring, on simulated values with the shape of CarbonSense.

    python benchmarks/evaluate.py [--sites 385] [--hours 70128] [--models 5] [--naive 4]

385 sites x 8 years of hours are 27 million site-hours. Observations and predictions of 5 models are computed site by
site while they are scored (Dask), in float32. One pass computes the sums at eight time scales with periods of seasons
and years; scores and 95 % intervals over clusters by class, season and year follow from them. The plain version, with
pandas, groups and resamples each model, scale and grouping of a few sites by itself; it is scaled to all sites, and its
scores of the hours by class are compared with those of fluxcube.
"""

from __future__ import annotations

import argparse
import resource
import time

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.evaluation.skill import evaluate_sums
from fluxcube.evaluation.timescales import SCALES, scale_sums

CLASSES = np.array(["DBF", "ENF", "GRA", "CRO", "EBF", "MF", "OSH", "SAV", "WET", "WSA"], object)
GROUPINGS = ("igbp", "season", "year")


def simulated(sites: int, hours: int, models: int) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """Return observations and predictions that are computed when they are used, one block for each site."""
    start = np.datetime64("2010-01-01T00", "ns")
    rng = np.random.default_rng(0)
    coords = {
        "site": np.array([f"XX-{i:03d}" for i in range(sites)], object),
        "time": start + np.arange(hours) * np.timedelta64(1, "h"),
        "latitude": ("site", rng.uniform(-40, 70, sites)),
        "longitude": ("site", rng.uniform(-180, 180, sites)),
        "igbp": ("site", CLASSES[np.arange(sites) % len(CLASSES)]),
    }

    def block(seed: int, gaps: float) -> da.Array:
        def make(block_info: dict) -> np.ndarray:
            site = block_info[None]["chunk-location"][0]
            truth, noise = np.random.default_rng(site), np.random.default_rng((site, seed))
            hour = np.arange(hours, dtype=np.float32)
            values = 4 * np.sin(hour * np.float32(2 * np.pi / 24)) + 5 * np.sin(hour * np.float32(2 * np.pi / 8766))
            values = values + truth.standard_normal(hours, np.float32)
            if seed:
                values = values + 2 * noise.standard_normal(hours, np.float32)
            values[noise.random(hours, np.float32) < gaps] = np.nan
            return values[None]

        return da.map_blocks(make, chunks=((1,) * sites, (hours,)), dtype=np.float32, meta=np.empty((0, 0), np.float32))

    def dataset(seed: int, gaps: float) -> xr.Dataset:
        nee = (("site", "time"), block(seed, gaps), {"units": "umol m-2 s-1"})
        return xr.Dataset({"NEE": nee}, coords=coords if not seed else {n: coords[n] for n in ("site", "time")})

    return dataset(0, 0.3), {f"model {i}": dataset(i, 0.01) for i in range(1, models + 1)}


def naive(obs: xr.Dataset, predictions: dict[str, xr.Dataset]) -> dict[tuple, float]:
    """Return the NSE by (model, scale, grouping, group), from pandas frames of each model."""
    out = {}
    for model, pred in predictions.items():
        frames = []
        for i, site in enumerate(obs.site.values):
            others = np.array([p.NEE[i].values for p in predictions.values()])
            local = pd.DatetimeIndex(obs.time.values) + pd.Timedelta(seconds=round(float(obs.longitude[i]) * 240))
            frame = pd.DataFrame({"obs": obs.NEE[i].values, "pred": pred.NEE[i].values}, index=local, dtype=float)
            frame = frame[np.isfinite(others).all(0)].dropna()
            frames.append(frame.assign(site=site, igbp=obs.igbp.values[i], south=float(obs.latitude[i]) < 0))
        hourly = pd.concat(frames)
        for scale in SCALES:
            values = resampled(hourly, scale)
            for grouping in GROUPINGS:
                keys = values["igbp"] if grouping == "igbp" else period(values, grouping)
                for group, rows in values.groupby(keys):
                    error = ((rows.pred - rows.obs) ** 2).sum()
                    spread = ((rows.obs - rows.obs.mean()) ** 2).sum()
                    out[model, scale, grouping, group] = 1 - error / spread if spread > 0 else np.nan
    return out


def resampled(hourly: pd.DataFrame, scale: str) -> pd.DataFrame:
    if scale == "hourly":
        return hourly
    frames = []
    for (site, igbp, south), rows in hourly.groupby(["site", "igbp", "south"]):
        days = rows[["obs", "pred"]].resample("D").agg(["mean", "count"])
        daily = days.xs("mean", axis=1, level=1)[days["obs", "count"] >= 12]
        rule, minimum = {"weekly": ("W", 4), "monthly": ("MS", 15), "interannual": ("YS", 183)}.get(scale, (None, 0))
        cycle = daily.groupby(daily.index.day_of_year).transform("mean")
        if rule:
            means = daily.resample(rule).agg(["mean", "count"])
            one = means.xs("mean", axis=1, level=1)[means["obs", "count"] >= minimum]
            one = one - one.mean() if scale == "interannual" else one
        else:
            one = {"anomaly": daily - cycle, "seasonal": cycle.groupby(cycle.index.day_of_year).head(1)}.get(
                scale, daily
            )
            one = daily.mean().to_frame().T.set_index(daily.index[:1]) if scale == "spatial" else one
        frames.append(one.assign(site=site, igbp=igbp, south=south))
    return pd.concat(frames)


def period(values: pd.DataFrame, grouping: str) -> np.ndarray:
    index = pd.DatetimeIndex(values.index)
    return (
        index.year.to_numpy() if grouping == "year" else ((index.month % 12) // 3 + 2 * values["south"]).to_numpy() % 4
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=385)
    parser.add_argument("--hours", type=int, default=8 * 8766)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--naive", type=int, default=4, help="sites of the plain version")
    options = parser.parse_args()
    obs, predictions = simulated(options.sites, options.hours, options.models)
    begin, cpu = time.perf_counter(), time.process_time()
    sums = scale_sums(obs, predictions, max_qc=None, periods=("season", "year"))
    passed = time.perf_counter()
    tables = {by: evaluate_sums(sums, by=by, clusters=50.0) for by in GROUPINGS}
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    hours = options.sites * options.hours / 1e6
    print(f"{hours:.1f} million site-hours, {options.models} models, {len(sums)} scales, {len(GROUPINGS)} groupings")
    print(f"wall {wall:.0f} s (one pass {passed - begin:.0f} s), CPU {cpu:.0f} s, peak {peak:.2f} GiB")
    few = obs.isel(site=slice(options.naive)), {n: p.isel(site=slice(options.naive)) for n, p in predictions.items()}
    begin = time.process_time()
    expected = naive(*few)
    plain = (time.process_time() - begin) * options.sites / options.naive
    own = evaluate_sums(scale_sums(*few, max_qc=None, periods=("season", "year")), by="igbp")
    worst = max(
        abs(value - float(own.nse.sel(model=model, scale=scale, group=group, target="NEE")))
        for (model, scale, grouping, group), value in expected.items()
        if grouping == "igbp" and scale in ("hourly", "daily", "weekly", "monthly", "interannual")
    )
    print(f"plain version, scaled to all sites: CPU {plain:.0f} s, {plain / cpu:.0f} times; NSE differs by {worst:.1e}")
    assert tables["igbp"].nse.notnull().all()


if __name__ == "__main__":
    main()

"""Measure what columns of the surface reflectance cost when features are computed.

    OMP_NUM_THREADS=1 python benchmarks/surface_features.py [--places 157] [--days 365] [--rounds 5]

A year of hourly weather and daily reflectance (nine bands, a third of the days clear) of many places is in RAM.
Features are computed by `make_block` with and without the default columns and percentiles, with the trailing means of
1, 7 and 30 days that models use, and with band tokens of one pixel; a climatology is passed, as stores have it.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import numpy as np

from fluxcube.samples.features import FeatureSpec, make_block
from fluxcube.samples.surface import DEFAULT_COLUMNS, STATISTICS, SurfaceRecord, static_feature
from fluxcube.variables import SURFACE_BANDS

PREDICTORS = ("DOY", "TOD", "TA", "SW_IN", "LW_IN", "VPD", "PA", "P", "WS", "SW_IN_POT")

#: Long-term statistics of surface reflectance, as static inputs.
PERCENTILES = ("NDVI_P10", "NDVI_P50", "NDVI_P90", "NIRv_P10", "NIRv_P50", "NIRv_P90")


def record(places: int, days: int, rng: np.random.Generator) -> SurfaceRecord:
    """Return random reflectance from 96 days before the year on, and a random climatology."""
    values = rng.uniform(0.02, 0.5, (places, days + 96, 9)).astype(np.float32)
    values[rng.random(values.shape[:2]) > 1 / 3] = np.nan
    features = tuple(dict.fromkeys(pair[0] for name in PERCENTILES if (pair := static_feature(name))))
    climatology = rng.uniform(0, 0.6, (places, len(STATISTICS), len(features))).astype(np.float32)
    dates = np.datetime64("2015-01-01") - 96 + np.arange(days + 96)
    return SurfaceRecord(values, dates, SURFACE_BANDS[:9], climatology, features)


def best(call, rounds: int) -> float:
    """Return the shortest CPU time of several calls in seconds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main(places: int, days: int, rounds: int) -> None:
    """Print the time of each set of features."""
    rng = np.random.default_rng(0)
    hours = np.datetime64("2015-01-01", "h") + np.arange(24 * days)
    values = rng.uniform(0, 1, (places, len(hours), len(PREDICTORS))).astype(np.float32)
    latitude, longitude = rng.uniform(-60, 70, places), rng.uniform(-180, 180, places)
    surface = record(places, days, rng)
    weather = FeatureSpec(predictors=PREDICTORS, static=("latitude",))
    means = dataclasses.replace(weather, memory_days=(1, 7, 30))
    extra = {"surface": DEFAULT_COLUMNS, "static": ("latitude", *PERCENTILES)}
    tokens = {"bands": SURFACE_BANDS[:7], "pixels": 1}
    print(f"{places} places, {days} days, {len(PREDICTORS)} predictors; CPU time, best of {rounds}")
    for label, spec in (
        ("weather", weather),
        ("weather, default columns", dataclasses.replace(weather, **extra)),
        ("weather, means of 1, 7 and 30 days", means),
        ("weather, means, default columns", dataclasses.replace(means, **extra)),
        ("weather, means, default columns, band tokens", dataclasses.replace(means, **extra, **tokens)),
    ):
        seconds = best(
            lambda spec=spec: make_block(values, hours, latitude, longitude, spec=spec, surface=surface), rounds
        )
        print(f"{label:45} {seconds:6.2f} s, {len(spec.inputs)} inputs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=157)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--rounds", type=int, default=3)
    main(**vars(parser.parse_args()))

"""Measure how fast windows are loaded, relative to loaders that query SQLite for each window, and to training.

    python benchmarks/windows.py [--sites 12] [--years 4] [--length 32] [--batch 512]

All loaders return the same batches (checked): weather, mask, targets, static numbers, site, time and, in the second
half, daily chips. The SQLite loaders are efficient: one table row per hour in a table clustered by (site, hour), one
connection, one prepared statement for each kind of data, everything in the page cache, items stacked by torch's own
collate. "ready" reads values that are stored normalised and masked; "raw" reads values in physical units and their
flags, as in archives, and masks and normalises each window; "pandas" reads the ready ones with pandas.read_sql_query.
All run on one thread, in turns, CPU time, best of the rounds. Training steps run on the requested number of threads.
Limits: 1,000 times the SQLite loader; never the bottleneck of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from fluxcube.models.base import Batch, Sizes
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import Towers
from fluxcube.samples.windows import join
from fluxcube.variables import BANDS, predictors, table

ROUNDS = 5
FIRST_HOUR = 300_000
GAPS = 0.05


def simulate(sites: int, years: int, columns: int, chips: bool) -> Towers:
    """Return random towers: `columns` inputs, one target, optionally one chip per day at 18 UTC."""
    rng = np.random.default_rng(0)
    hours, days = years * 8760, years * 365
    spec = FeatureSpec(
        predictors=tuple(predictors())[:columns],
        bands=BANDS if chips else (),
        static=("latitude", "elevation"),
        targets=("NEE",),
    )

    def site() -> Block:
        met = rng.random((1, hours, columns), dtype=np.float32) - np.float32(0.5)
        met[rng.random(met.shape, dtype=np.float32) < GAPS] = np.nan
        count = days if chips else 0
        return Block(
            inputs=met,
            observed=np.ones((1, hours), bool),
            numbers=rng.random((1, 2), dtype=np.float32),
            classes=np.empty((1, 0), np.int64),
            chips=rng.random((1, count, len(spec.bands), 64), dtype=np.float32),
            chip_hour=18 + 24 * np.arange(count)[None],
            first_hour=FIRST_HOUR,
        )

    return Towers(
        spec=spec,
        sites=tuple(f"XX-S{i:02d}" for i in range(sites)),
        series=join(site() for _ in range(sites)),
        site=np.arange(sites),
        first_hour=np.full(sites, FIRST_HOUR),
        fluxes=rng.normal(size=(sites * hours, 1)).astype(np.float32),
    )


def write_database(path: Path, towers: Towers) -> None:
    """Write one table row per hour, with prepared and with raw values, and one blob per chip."""
    series, columns = towers.series, len(towers.spec.inputs)
    database = sqlite3.connect(path)
    values = ", ".join(f"v{i} REAL" for i in range(columns))
    flags = ", ".join(f"q{i} INTEGER" for i in range(columns))
    key = "site INTEGER, hour INTEGER"
    end = "target REAL, PRIMARY KEY (site, hour)) WITHOUT ROWID"
    database.execute(f"CREATE TABLE ready ({key}, {values}, {end}")
    database.execute(f"CREATE TABLE raw ({key}, {values}, {flags}, {end}")
    database.execute(f"CREATE TABLE chips ({key}, image BLOB, PRIMARY KEY (site, hour))")
    marks = ", ".join("?" * (columns + 3)), ", ".join("?" * (2 * columns + 3))
    middle, width = _scale(towers.spec.inputs)
    for place, (start, hours) in enumerate(zip(series.start, series.hours, strict=True)):
        met = series.inputs[start : start + hours]
        missing = np.isnan(met)
        targets = towers.fluxes[start : start + hours, 0].tolist()
        ready = np.where(missing, None, met.astype(object)).tolist()
        raw = (np.where(missing, 0, met.astype(float)) * width + middle).tolist()
        flag = np.where(missing, 3, 0).tolist()  # a bad value where the other table has none
        database.executemany(
            f"INSERT INTO ready VALUES ({marks[0]})", ((place, h, *ready[h], targets[h]) for h in range(hours))
        )
        database.executemany(
            f"INSERT INTO raw VALUES ({marks[1]})", ((place, h, *raw[h], *flag[h], targets[h]) for h in range(hours))
        )
    owner = np.searchsorted(series.chip_zero, series.chip_key, side="right") - 1
    hour = series.chip_key - series.chip_zero[owner]
    chips = zip(owner.tolist(), hour.tolist(), series.chips, strict=True)
    database.executemany("INSERT INTO chips VALUES (?, ?, ?)", ((p, h, c.tobytes()) for p, h, c in chips))
    database.commit()
    database.close()


def _scale(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return middle and width of the variables' bounds."""
    low, high = np.array([table()[name].bounds for name in names]).T
    return (low + high) / 2, high - low


class PerItem(Dataset):
    """The obvious implementation: item i queries its window."""

    def __init__(self, path: Path, towers: Towers, length: int, kind: str):
        self.database = sqlite3.connect(path)
        self.length, self.bands = length, len(towers.spec.bands)
        self.columns, self.kind = len(towers.spec.inputs), kind
        letters = "vq" if kind == "raw" else "v"
        columns = ", ".join(f"{letter}{i}" for letter in letters for i in range(self.columns))
        source = "raw" if kind == "raw" else "ready"
        self.hours = f"SELECT {columns}, target FROM {source} WHERE site = ? AND hour BETWEEN ? AND ? ORDER BY hour"
        self.middle, self.width = (a.astype(np.float32) for a in _scale(towers.spec.inputs))
        self.chips = (
            "SELECT hour, image FROM chips WHERE site = ?1 AND hour BETWEEN "
            "coalesce((SELECT max(hour) FROM chips WHERE site = ?1 AND hour <= ?2), ?2) AND ?3 ORDER BY hour"
        )
        self.numbers = torch.from_numpy(towers.series.numbers)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        site, last = item
        first = last - self.length + 1
        rows = self._rows((site, first, last))
        values = rows[:, : self.columns]
        if self.kind == "raw":
            values = np.where(rows[:, self.columns : -1] <= 1, (values - self.middle) / self.width, np.float32(np.nan))
        met = torch.from_numpy(values)
        out = {
            "inputs": met,
            "mask": torch.isfinite(met),
            "targets": torch.from_numpy(rows[-1:, -1:]),
            "numbers": self.numbers[site],
            "site": site,
            "time": FIRST_HOUR + last,
        }
        return out | self._images(site, first, last) if self.bands else out

    def _rows(self, window: tuple[int, int, int]) -> np.ndarray:
        if self.kind == "pandas":
            return pd.read_sql_query(self.hours, self.database, params=window).to_numpy(np.float32, copy=True)
        return np.array(self.database.execute(self.hours, window).fetchall(), np.float32)

    def _images(self, site: int, first: int, last: int) -> dict[str, torch.Tensor]:
        count = self.length // 24 + 2
        images, step = np.full((count, self.bands, 64), np.nan, np.float32), np.full(count, -1)
        found = self.database.execute(self.chips, (site, first, last)).fetchall()
        for i, (hour, image) in enumerate(found, int(not found or found[0][0] > first)):  # 0 is for a chip before
            images[i], step[i] = np.frombuffer(image, np.float32).reshape(self.bands, 64), max(hour - first, 0)
        return {"images": torch.from_numpy(images), "image_step": torch.from_numpy(step)}


def per_item_loader(data: PerItem, windows: Windows, batches: int) -> DataLoader:
    """Return the SQLite loader over the first windows of the epoch of `windows`."""
    items = []
    for i in range(batches):
        batch = windows[i]
        items += zip(batch["site"].tolist(), (batch["time"] - FIRST_HOUR).tolist(), strict=True)
    return DataLoader(data, batch_size=windows.batch_size, sampler=items)


def check_same(ours: dict, theirs: dict) -> None:
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=name)


def rate(batches: Iterator, count: int) -> float:
    """Return windows per second of CPU over `count` batches."""
    start, windows = time.process_time(), 0
    for batch in itertools.islice(batches, count):
        windows += len(batch["time"])
    return windows / (time.process_time() - start)


def compare(towers: Towers, length: int, size: int, folder: Path) -> None:
    """Print windows per second of both loaders, and their ratio."""
    windows = Windows(towers, length=length, batch_size=size)
    path = folder / f"{len(towers.spec.bands)}.sqlite"
    write_database(path, towers)
    loaders: dict[str, Iterable] = {}
    for kind in ("pandas", "raw", "ready"):
        loaders[f"SQLite, per item, {kind}"] = per_item_loader(PerItem(path, towers, length, kind), windows, 2)
    loaders |= {"Windows, NumPy": windows, "Windows.loader(), torch": windows.loader()}
    best = dict.fromkeys(loaders, 0.0)
    for _ in range(ROUNDS):
        for name, loader in loaders.items():
            windows.set_epoch(0)
            for ours, theirs in zip(windows, itertools.islice(loader, 1), strict=False):
                check_same(ours, theirs)
            windows.set_epoch(0)
            best[name] = max(best[name], rate(iter(loader), 2 if "SQLite" in name else 200))
    (hours, inputs), bands = towers.series.inputs.shape, len(towers.spec.bands)
    print(f"T {length}, V {inputs}, bands {bands}, batch {size}; {hours:,} hours of {len(towers.sites)} sites")
    slow = {name.rpartition(" ")[2]: found for name, found in best.items() if "SQLite" in name}
    for name, found in best.items():
        ratios = "   ".join(f"x {found / base:5,.0f} {kind}" for kind, base in slow.items())
        print(f"  {name:<26} {found:10,.0f} windows/s   {ratios}", flush=True)


def shape(preset: str) -> EcoPerceiverConfig:
    """Return the settings of a preset with the paper's attention, over windows of 32 hours, for every preset alike."""
    return dataclasses.replace(getattr(EcoPerceiverConfig, preset)(), attention="window", context=32)


def training(towers: Towers, length: int, threads: int) -> None:
    """Print the share of a batch in a training step."""
    for name, size in (("small", 32), ("small", 512), ("published", 32)):
        config = shape(name)
        windows = Windows(towers, length=length, batch_size=size, emits=length if config.head == "dense" else 1)
        model = EcoPerceiver(config, Sizes(inputs=len(towers.spec.inputs), bands=len(towers.spec.bands), numbers=2))
        optimizer = torch.optim.AdamW(model.parameters())
        loading, step = [], []
        batches = iter(windows)
        torch.set_num_threads(threads)
        for _ in range(4):
            start = time.perf_counter()
            batch = next(batches)
            loaded = time.perf_counter()
            features = Batch.of(batch).map(torch.from_numpy)
            error = model(features) - torch.from_numpy(batch["targets"])
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
            loading.append(loaded - start)
            step.append(time.perf_counter() - loaded)
        torch.set_num_threads(1)
        batch_ms, step_ms = 1e3 * np.median(loading[1:]), 1e3 * np.median(step[1:])
        print(
            f"  EcoPerceiver {name:<9} batch {size:4d}: loading {batch_ms:7.2f} ms, step on {threads} threads "
            f"{step_ms:9.1f} ms: {batch_ms / step_ms:.2%}"
        )


def main(sites: int, years: int, length: int, size: int, threads: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for chips in (False, True):
            towers = simulate(sites if not chips else max(1, sites // 4), years, 31, chips)
            compare(towers, length, size, Path(folder))
    print(f"training, T {length}, V 31, daily chips of 9 bands")
    training(towers, length, threads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=12)
    parser.add_argument("--years", type=int, default=4)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    main(arguments.sites, arguments.years, arguments.length, arguments.batch, arguments.threads)

"""Splits of published benchmarks, from their lists of training, validation and test towers.

The lists are ``data/site_lists/*.csv``; ``data/site_lists/site_lists.md`` describes their sources.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

import numpy as np

from fluxcube.errors import SplitError, unknown
from fluxcube.samples import periods as spans
from fluxcube.samples.clusters import Places
from fluxcube.samples.partition import PARTS, Split
from fluxcube.samples.time_splits import described_split, time_split

#: Splits of published benchmarks, and the file of each.
BENCHMARK_SPLITS: Mapping[str, str] = MappingProxyType(
    {
        "fluxtrapolation/time-split": "fluxtrapolation-time-split",
        "fluxtrapolation/spatial-easy40": "fluxtrapolation-spatial-easy40",
        "fluxtrapolation/TA40": "fluxtrapolation-TA40",
        "carbonfluxbench/igbp": "carbonfluxbench-igbp",
        "carbonfluxbench/koppen": "carbonfluxbench-koppen",
        "carbonsense/v1": "carbonsense-v1",
    }
)
#: First test year minus one of FLUXtrapolation's split in time: this year validates.
CUT_YEAR = 2018
#: Share of the record of each training site of CarbonFluxBench, at its end, that validates.
_LAST = 0.2


@functools.cache
def benchmark_list(name: str) -> tuple[Mapping[str, str], ...]:
    """Return the lines of a shipped list of sites.

    Parameters
    ----------
    name : str
        Name of a file of ``data/site_lists``, without its ending.

    Returns
    -------
    tuple of mapping
        A mapping of columns to text for each site; the column "site" is always there.

    Raises
    ------
    UnknownNameError
        If there is no such list.

    Examples
    --------
    >>> benchmark_list("fluxtrapolation-TA40")[0]["site"], len(benchmark_list("fluxtrapolation-TA40"))
    ('AU-ASM', 60)
    """
    folder = resources.files("fluxcube").joinpath("data/site_lists")
    names = sorted(entry.name.removesuffix(".csv") for entry in folder.iterdir() if entry.name.endswith(".csv"))
    if name not in names:
        raise unknown("list of benchmark sites", name, names)
    with folder.joinpath(f"{name}.csv").open("r", encoding="utf-8") as file:
        return tuple(MappingProxyType(line) for line in csv.DictReader(file))


def benchmark_sites(name: str, part: str = "test") -> tuple[str, ...]:
    """Return the sites of one part of a benchmark's split, in alphabetical order.

    Parameters
    ----------
    name : str
        One of `BENCHMARK_SPLITS`.
    part : {"train", "val", "test"}
        Part of the split. In a split in time every site is in every part.

    Returns
    -------
    tuple of str
        Empty where the benchmark publishes no list for this part: all sites that are in no other part belong to it.

    Raises
    ------
    UnknownNameError
        If there is no such split or part.

    Examples
    --------
    >>> len(benchmark_sites("carbonsense/v1")), len(benchmark_sites("carbonfluxbench/igbp"))
    (47, 96)
    """
    if part not in PARTS:
        raise unknown("part of a split", part, PARTS)
    if name not in BENCHMARK_SPLITS:
        raise unknown("benchmark", name, BENCHMARK_SPLITS)
    lines = benchmark_list(BENCHMARK_SPLITS[name])
    return tuple(sorted(line["site"] for line in lines if line.get("part", part) == part))


def benchmark_split(cube, name: str) -> Split:
    """Split the towers of a cube as a published benchmark splits them.

    The published lists are used as they are, without a distance between parts. Listed sites that the cube lacks are
    counted and named in the notes. Where the benchmark publishes no list of training sites, every site of the cube
    that is in no other part trains.

    Parameters
    ----------
    cube : xr.Dataset
        With latitude, longitude and igbp on site.
    name : str
        One of `BENCHMARK_SPLITS`.

    Returns
    -------
    Split
        FLUXtrapolation's split in time trains before 2018, validates in 2018 and tests after it. CarbonFluxBench
        validates on the last fifth of the record of each training site (the benchmark: the last fifth of its table
        rows).

    Raises
    ------
    SplitError
        If the cube contains none of the test sites, or no site to train.
    UnknownNameError
        If there is no such benchmark.
    """
    listed = set(benchmark_sites(name)) | set(benchmark_sites(name, "val")) | set(benchmark_sites(name, "train"))
    sites = list(map(str, cube["site"].values))
    absent = sorted(listed - set(sites))
    notes = [f"site lists of {name} (fluxcube/data/site_lists/{BENCHMARK_SPLITS[name]}.csv)"]
    notes += [f"listed, but not in the cube ({len(absent)}): {', '.join(absent)}"] if absent else []
    if not any(site in sites for site in benchmark_sites(name)):
        raise SplitError(
            f"{name}: the cube contains none of the {len(benchmark_sites(name))} test sites of this benchmark; build a "
            "cube of its towers."
        )
    if name.endswith("time-split"):
        return _in_time(cube.sel(site=[site for site in sites if site in listed]), name, notes)
    return _by_sites(cube, sites, name, notes)


def _in_time(cube, name: str, notes: list[str]) -> Split:
    split = time_split(cube, year=CUT_YEAR, gap_days=0)
    return described_split(
        Places.of(cube, 0.0),
        [split.train, split.val, split.test],
        kind=name,
        periods=split.periods,
        notes=(*notes, *split.notes),
    )


def _by_sites(cube, sites: list[str], name: str, notes: list[str]) -> Split:
    parts = {part: [s for s in benchmark_sites(name, part) if s in sites] for part in PARTS}
    others = [site for site in sites if not any(site in names for names in parts.values())]
    if benchmark_sites(name, "train"):
        notes += [f"not listed, so in no part ({len(others)}): {', '.join(others)}"] if others else []
    else:
        parts["train"] = others
        notes.append("every other site of the cube trains: the benchmark publishes no list of training sites")
    if not parts["train"]:
        raise SplitError(f"{name}: the cube contains no site to train; build a cube with more towers.")
    periods = _last_fifth(cube, parts["train"]) if name.startswith("carbonfluxbench/") else {}
    parts["val"] += list(periods.get("val", {}))
    return described_split(
        Places.of(cube, 0.0), [parts[p] for p in PARTS], kind=name, periods=periods, notes=tuple(notes)
    )


def _last_fifth(cube, sites: list[str]) -> dict[str, dict[str, tuple[spans.Period, ...]]]:
    """Return the periods of training, and of validation, at training sites."""
    out: dict[str, dict[str, tuple[spans.Period, ...]]] = {"train": {}, "val": {}}
    for site, (first, stop, _) in spans.calendar(cube.sel(site=sites)).items():
        length = (stop - first).astype("timedelta64[D]")
        edge = first.astype("datetime64[D]") + np.timedelta64(round((1 - _LAST) * int(length.astype(int))), "D")
        train, val = spans.cut(first, stop, [edge], np.timedelta64(0, "D"))
        out["train"][site] = (train,) if train else ()
        out["val"] |= {site: (val,)} if val else {}
    return out

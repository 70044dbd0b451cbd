"""Shipped lists of benchmark sites, and the splits that they make of a cube."""

from __future__ import annotations

from collections import Counter
from importlib import resources

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import SplitError, UnknownNameError
from fluxcube.knownsites import known_sites
from fluxcube.samples.benchmark_splits import BENCHMARK_SPLITS, benchmark_list, benchmark_sites, benchmark_split
from fluxcube.samples.splits import make_splits, split_for

#: Number of listed sites of each part, as the sources have them.
COUNTS = {
    "fluxtrapolation/time-split": (131, 131, 131),
    "fluxtrapolation/spatial-easy40": (0, 20, 40),
    "fluxtrapolation/TA40": (0, 20, 40),
    "carbonfluxbench/igbp": (0, 0, 96),
    "carbonfluxbench/koppen": (0, 0, 92),
    "carbonsense/v1": (274, 64, 47),
}


def towers(sites, first="2010-01-01", stop="2022-01-01"):
    """A cube of coordinates alone, hourly, with a step per day to stay small."""
    time = np.arange(first, stop, dtype="datetime64[D]").astype("datetime64[ns]")
    n = len(sites)
    return xr.Dataset(
        coords={
            "site": ("site", np.array(sites, object)),
            "time": time,
            "latitude": ("site", np.linspace(30.0, 60.0, n)),
            "longitude": ("site", np.linspace(-120.0, 20.0, n)),
            "igbp": ("site", np.array(["GRA", "CRO"] * n, object)[:n]),
            "utc_offset": ("site", np.zeros(n)),
            "time_start": ("site", np.full(n, time[0])),
            "time_stop": ("site", np.full(n, time[-1])),
        }
    )


@pytest.mark.parametrize("name", BENCHMARK_SPLITS)
def test_lists_have_the_published_numbers_of_sites_and_no_site_twice(name):
    assert tuple(len(benchmark_sites(name, part)) for part in ("train", "val", "test")) == COUNTS[name]
    sites = [line["site"] for line in benchmark_list(BENCHMARK_SPLITS[name])]
    assert len(set(sites)) == len(sites)
    unknown = set(sites) - set(known_sites().site)
    assert len(unknown) <= 2, f"names that are no known towers are probably misspelt: {unknown}"
    assert f"`{BENCHMARK_SPLITS[name]}.csv`" in resources.files("fluxcube").joinpath(
        "data/site_lists/site_lists.md"
    ).read_text("utf-8"), "every list has a source"


def test_carbonsense_has_the_published_number_of_test_sites_of_each_class():
    igbp = dict(zip(known_sites().site, known_sites().igbp, strict=True))
    igbp["US-UM3"] = "WAT"  # a lake, whose class the Shuttle does not have; CarbonFluxBench has it
    found = Counter(igbp[site] for site in benchmark_sites("carbonsense/v1"))
    published = {"WET": 5, "DNF": 1, "WSA": 2, "EBF": 3, "ENF": 5, "DBF": 5, "CRO": 5, "MF": 3}
    published |= {"GRA": 5, "OSH": 5, "CVM": 1, "CSH": 2, "SAV": 3, "SNO": 1, "WAT": 1}
    assert found == published


def test_a_split_by_sites_uses_the_list_and_trains_on_the_rest():
    listed = benchmark_sites("fluxtrapolation/TA40")[:3]
    val = benchmark_sites("fluxtrapolation/TA40", "val")[:2]
    cube = towers([*listed, *val, "XX-Aaa", "XX-Bbb"])
    split = benchmark_split(cube, "fluxtrapolation/TA40")
    assert (set(split.test), set(split.val), set(split.train)) == (set(listed), set(val), {"XX-Aaa", "XX-Bbb"})
    assert split.kind == "fluxtrapolation/TA40" and split.buffer_km == 0
    assert any("not in the cube (55)" in note for note in split.notes), split.notes
    assert split_for(cube, "benchmark:fluxtrapolation/TA40") == split
    assert make_splits(cube, "benchmark:fluxtrapolation/TA40") == [split]


def test_carbonsense_leaves_sites_that_are_not_listed_in_no_part():
    cube = towers(["US-Los", "US-ALQ", "IE-Cra", "XX-Aaa"])
    split = benchmark_split(cube, "carbonsense/v1")
    assert (split.train, split.val, split.test) == (("US-Los",), ("US-ALQ",), ("IE-Cra",))
    assert any("not listed, so in no part (1): XX-Aaa" in note for note in split.notes)


def test_the_split_in_time_cuts_at_the_year_2018():
    cube = towers(["US-Ton", "AU-ASM", "XX-Aaa"])
    split = benchmark_split(cube, "fluxtrapolation/time-split")
    assert split.train == split.val == split.test == ("US-Ton", "AU-ASM")
    assert split.periods["test"]["US-Ton"][0][0].startswith("2019-01-01")
    assert split.periods["val"]["US-Ton"] == (("2018-01-01T00:00", "2019-01-01T00:00"),)


def test_carbonfluxbench_validates_on_the_last_fifth_of_training_sites():
    test = benchmark_sites("carbonfluxbench/igbp")[0]
    split = benchmark_split(towers([test, "XX-Aaa"], "2010-01-01", "2020-01-01"), "carbonfluxbench/igbp")
    assert split.test == (test,) and split.train == split.val == ("XX-Aaa",)
    (train,), (val,) = split.periods["train"]["XX-Aaa"], split.periods["val"]["XX-Aaa"]
    assert train[1] == val[0] and val[0] == "2017-12-31T00:00"


def test_mistakes_are_named():
    with pytest.raises(SplitError, match="none of the 40 test sites"):
        benchmark_split(towers(["XX-Aaa"]), "fluxtrapolation/TA40")
    with pytest.raises(SplitError, match="no site to train"):
        benchmark_split(towers(["AU-ASM"]), "fluxtrapolation/TA40")
    for text in ("fluxtrapolation/TA30", "", "TA40"):
        with pytest.raises(UnknownNameError, match="unknown benchmark"):
            split_for(towers(["AU-ASM"]), f"benchmark:{text}")
    with pytest.raises(UnknownNameError, match="list of benchmark sites"):
        benchmark_list("../sites")
    with pytest.raises(UnknownNameError, match="part of a split"):
        benchmark_sites("carbonsense/v1", "training")

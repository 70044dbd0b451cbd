"""A short form of `benchmarks/faults_inputs.py`: damaged and hostile files of every kind, read in other processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

for package in ("netCDF4", "rasterio", "openpyxl", "eccodes", "pyhdf"):
    pytest.importorskip(package)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
#: Parts of names: formats that are read in this process, which takes milliseconds; and kinds of hostile inputs.
FORMATS = ("tower archive", "CarbonSense", "metadata", "own table", "MODIS, GeoTIFF", "reflectance, CSV")
KINDS = (
    "name of a site: parent",
    "name in a zip: d",
    "pickle: o",
    "raster: V",
    "special file: link",
    "tar: s",
    "zip: e",
)


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import faults_inputs
    finally:
        sys.path.remove(str(BENCHMARKS))
    return faults_inputs


@pytest.fixture
def work(tmp_path):
    for name in ("cwd", "inputs"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_damaged_files_are_named_or_have_their_values(bench, work):
    for name, form in bench.valid_files().items():
        if name.startswith(FORMATS):
            counts, wrong = bench.mutate(name, form, work, seed=2, count=3)
            assert not wrong and counts.total() == 3


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs_are_refused_or_harmless(bench, work, kind):
    found = bench.attack(work, kind)
    assert found
    assert [one for one in found if one[1] not in (bench.NAMED, bench.WARNED, bench.EQUAL)] == []

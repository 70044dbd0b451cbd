"""The fault bench in short: kills, interleavings and flipped bits of `benchmarks/faults.py`."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def part(monkeypatch):
    """Return a part of the bench by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    if os.access("/dev/shm", os.W_OK):  # a busy disk makes each of thousands of small files slow
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    yield lambda name: importlib.import_module(f"faults_{name}")
    for name in [name for name in sys.modules if name.startswith("faults_")]:
        del sys.modules[name]


def check(rows):
    assert rows and all(held == tried > 0 for _, tried, held, _ in rows), rows


def test_two_writers_and_a_reader(part):
    check(part("writers").main(17, 10))


def test_kills_at_random_moments(part):
    check(part("kills").main(17, 3, only=("append", "overwrite", "forcing")))


def test_why_a_run_ended_is_known_to_the_bench(part, tmp_path):
    """A kill may come when the result is complete: the run after it is then refused, and the bench reads why."""
    kills, folder = part("kills"), tmp_path / "try"
    folder.mkdir()

    def refuse(folder):
        raise FileExistsError(f"{folder} exists")

    case = kills.Case(prepare=refuse, run=refuse, result="", opened=refuse)
    assert kills._fork(case, folder).wait() == 1
    assert kills._last_words(folder) == f"FileExistsError: {folder} exists"


def test_flipped_bits(part):
    rows = part("bits").main(17, 24, only=("cube.zarr", "maps.zarr", "xgb"))
    assert not any("other values" in notes for *_, notes in rows), rows

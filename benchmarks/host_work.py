"""Measure the host work of a map chunk: everything in `predict_cells` except the network.

    OMP_NUM_THREADS=1 python benchmarks/host_work.py [--against OTHER_TREE] [--rounds 3] [--cells 16] [--hours 720]

A chunk of 16 x 16 cells and 720 hours, 21 predictors with trailing means of 1, 7 and 30 days, daily chips of 9 bands
with gaps, static inputs, and dissimilarity to 4,096 training days; the model is replaced by a copy of one input. CPU
time of one thread per predicted cell-hour. With `--against`, another version of the package (a folder that contains
`fluxcube/`) computes the same chunk in a second process in the same rounds, and outputs are compared. `--profile`
prints where the time goes instead. Required: 1 us per cell-hour; aim: 0.2 us.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fluxcube.inference.cells import Piece, predict_cells
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.predictor import Predictor
from fluxcube.models.applicability import Applicability
from fluxcube.models.base import BaseModel, Batch, Sizes
from fluxcube.samples.daymeans import day_columns
from fluxcube.samples.features import FeatureSpec
from fluxcube.timestamps import DAY, HOUR
from fluxcube.variables import BANDS, predictors, table

PREDICTORS = tuple(predictors())[:21]
CONTEXT, STRIDE, CENTRES = 32, 8, 4096
START = np.datetime64("2019-06-01T00", "ns")
CASES = {
    "all of it": {},
    "without dissimilarity": {"applicability": False},
    "without chips": {"bands": ()},
    "without trailing means": {"memory_days": ()},
    "weather alone": {"bands": (), "memory_days": (), "applicability": False},
}


class Copy(BaseModel):
    """A model that returns one input for every hour of a window, which takes no time."""

    context, emits, n_targets, image_table = CONTEXT, CONTEXT, 1, True
    sizes = Sizes(inputs=len(PREDICTORS), bands=len(BANDS))

    def predict(self, batch: Batch) -> np.ndarray:
        return batch.inputs[..., 2:3]


def feature_spec(case: dict) -> FeatureSpec:
    """Return the features of a case."""
    settings = {"memory_days": (1, 7, 30), "bands": BANDS} | {k: v for k, v in case.items() if k != "applicability"}
    static = ("latitude", "elevation", "igbp")
    return FeatureSpec(predictors=PREDICTORS, static=static, igbp_classes=("GRA", "DBF"), **settings)


def weather(cells: int, hours: int, rng: np.random.Generator) -> np.ndarray:
    """Return smooth weather within bounds (cells, cells, hours, predictors); 1 in 1000 values is missing."""
    low, high = np.array([table()[name].bounds for name in PREDICTORS], np.float32).T
    phase = rng.random((cells, cells, 1, len(PREDICTORS)), np.float32)
    hour = np.arange(hours, dtype=np.float32)[:, None]
    wave = np.sin(2 * np.pi * (hour / 24 + phase)) + 0.05 * rng.standard_normal(
        (cells, cells, hours, len(PREDICTORS)), np.float32
    )
    values = (low + high) / 2 + (high - low) * np.float32(0.2) * wave
    values[:2, :, hours // 3 : hours // 2, 5] = np.nan
    return values.astype(np.float32)


def pixels(cells: int, days: int, rng: np.random.Generator) -> np.ndarray:
    """Return chips (cells, cells, days, bands, 8, 8): a fifth of them missing, and a tenth with some missing pixels."""
    shape = (cells, cells, days)
    chips = rng.integers(0, 4000, (*shape, len(BANDS), 8, 8), np.int16) * np.float32(1e-4)
    chips[rng.random(shape) < 0.2] = np.nan
    some = rng.random(shape) < 0.1
    chips[some, :, :2] = np.nan
    return chips


class Chunk:
    """A chunk and its model.

    Parameters
    ----------
    case : str
        Name of a case.
    cells, hours : int
        Length of the side of the chunk, and number of time steps to predict.
    """

    def __init__(self, case: str, cells: int, hours: int):
        rng = np.random.default_rng(0)
        spec, applicability = feature_spec(CASES[case]), CASES[case].get("applicability", True)
        before = -(-(CONTEXT - STRIDE + max(0, spec.memory_steps - 1)) // 24) * 24
        columns = day_columns(spec)
        centres = rng.normal(0, 0.2, (CENTRES, len(columns))).astype(np.float32)
        known = Applicability.of(
            [column.name for column in columns], centres, np.arange(CENTRES) % 40, np.ones(len(columns))
        )
        self.count = cells * cells * hours
        predictor = Predictor(Copy(), spec, digest="x", applicability=known)
        north = np.repeat(np.linspace(60, 40, cells), cells).reshape(cells, cells)
        arrays = {"elevation": np.full((cells, cells), 300.0), "igbp": np.full((cells, cells), "GRA")}
        time_axis = START + np.arange(before + hours) * HOUR
        days = None
        if spec.bands:
            days = np.arange(time_axis[0] - 34 * DAY, time_axis[-1] + DAY, DAY)
            arrays["chips"] = pixels(cells, len(days), rng)
        self.piece = Piece(
            reference=predictor,
            options=PredictionOptions(stride=STRIDE, min_context=CONTEXT, applicability=applicability),
            variables=PREDICTORS,
            bands=BANDS if spec.bands else (),
            time=time_axis,
            keep=slice(before, before + hours),
            arrays=tuple(arrays),
            statics=("elevation", "igbp"),
            days=days,
        )
        land = np.ones((cells, cells), bool)
        self.args = (weather(cells, before + hours, rng), land, north, north.T, *arrays.values())

    def run(self) -> tuple[float, np.ndarray]:
        """Return the CPU seconds per cell-hour, and the outputs."""
        start = time.process_time()
        out = predict_cells(*self.args, piece=self.piece)
        return (time.process_time() - start) / self.count, out


def serve(case: str, cells: int, hours: int, folder: Path) -> None:
    """Compute the chunk once for each line of the standard input; print the seconds of each."""
    chunk = Chunk(case, cells, hours)
    for i, _ in enumerate(sys.stdin):
        seconds, out = chunk.run()
        if not i:
            np.save(folder / "out.npy", out)
        print(seconds, flush=True)


def processes(trees: dict[str, Path | None], arguments: list[str]) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start one process for each version of the package."""
    for name, tree in trees.items():
        environment = dict(os.environ) | ({"PYTHONPATH": str(tree)} if tree else {})
        command = [sys.executable, __file__, *arguments, "--serve", name]
        yield (
            name,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
            ),
        )


def compared(case: str, options: argparse.Namespace) -> None:
    """Print the median of rounds of one case, and the difference of outputs, in which the versions take turns."""
    trees = {"this version": None} | ({"other version": options.against} if options.against else {})
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in trees}
        sizes = ["--cells", str(options.cells), "--hours", str(options.hours), "--case", case, "--folder", temporary]
        for folder in folders.values():
            folder.mkdir()
        children = dict(processes(trees, sizes))
        seconds: dict[str, list[float]] = {name: [] for name in trees}
        for number in range(options.rounds + 1):
            for name, child in children.items():
                child.stdin.write("\n")
                found = float(child.stdout.readline())
                if number:  # the first round fills caches
                    seconds[name].append(found)
        for child in children.values():
            child.communicate()
        outputs = [np.load(folder / "out.npy") for folder in folders.values()]
    line = "   ".join(f"{name} {1e6 * np.median(values):.3f} us" for name, values in seconds.items())
    if options.against:
        ratio = np.median(np.divide(seconds["other version"], seconds["this version"]))
        spread = np.nanstd(outputs[1], axis=(0, 1, 2))
        apart = np.nanmax(np.abs(outputs[0] - outputs[1]) / spread)
        same = np.array_equal(np.isnan(outputs[0]), np.isnan(outputs[1]))
        line += f"   ratio {ratio:.2f}   difference {apart:.1e} of the spread, {'same' if same else 'OTHER'} gaps"
    print(f"{case:<24} {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=16)
    parser.add_argument("--hours", type=int, default=720)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.case, options.cells, options.hours, options.folder / options.serve)
    elif options.profile:
        chunk = Chunk(options.case or "all of it", options.cells, options.hours)
        chunk.run()
        with cProfile.Profile() as profile:
            chunk.run()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    else:
        for case in [options.case] if options.case else CASES:
            compared(case, options)


if __name__ == "__main__":
    main()

"""Measure the CPU time of XGBoost on one fold of real towers: search, finalists, and each seed.

    python benchmarks/search.py CUBE [--split splits/towers157.json] [--fold 1] [--draws 10] [--seeds 1] [--rows 30000]

Inputs are six predictors of the hour and of seven earlier hours, trailing means of 1, 7 and 30 days and the class. The
time of a search is proportional to its number of draws; a run of fifty draws and five seeds is extrapolated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import fluxcube as fc
from fluxcube.samples.splits import load_folds
from fluxcube.training.config import TrainingConfig

PREDICTORS = ("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT")
LAGS = (1, 2, 3, 6, 12, 24, 31)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cube", type=Path)
    parser.add_argument("--split", type=Path, default=Path("splits/towers157.json"))
    parser.add_argument("--fold", type=int, default=1)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=30_000, help="feature rows on which draws are scored")
    args = parser.parse_args()
    cube, split = fc.open_carbonsense(args.cube), load_folds(args.split)[args.fold - 1]
    marks: dict[str, float] = {}
    begun = time.process_time()

    def progress(done: int, total: int, text: str) -> None:
        """Record the CPU time at the end of each phase so far."""
        phase = next((name for name in ("draw", "finalist") if text.startswith(name)), None)
        if phase:
            marks[phase] = time.process_time() - begun

    with tempfile.TemporaryDirectory() as folder:
        fc.fit(
            cube,
            model="xgboost",
            target="NEE",
            out=Path(folder) / "run",
            predictors=PREDICTORS,
            memory_days=(1, 7, 30),
            static=("igbp",),
            bands=(),
            split=split,
            search=args.draws,
            seeds=args.seeds,
            config={"lags": LAGS, "max_rows": 500_000, "search_rows": args.rows, "device": "cpu"},
            training=TrainingConfig(weigh=("quality", "sqrt-site")),
            progress=progress,
        )
    total = time.process_time() - begun
    draws, finals = marks["draw"], marks.get("finalist", marks["draw"]) - marks["draw"]
    seed = (total - draws - finals) / args.seeds
    print(
        f"{len(split.train)} towers: {args.draws} draws {draws:.0f} s, finalists {finals:.0f} s, each seed {seed:.0f} s"
    )
    print(f"fifty draws and five seeds: about {50 / args.draws * draws + finals + 5 * seed:.0f} s of CPU")


if __name__ == "__main__":
    main()

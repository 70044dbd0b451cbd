"""Train and score TAM-RL and daily baselines: `python recipes/tamrl_daily/recipe.py OUT [--sample]`."""

from pathlib import Path

import fluxcube as fc
from fluxcube.recipes import build_once, run_recipe, sample_raw, score_models


def main(out, *, sample, cube, towers, split, models):
    archives = sample_raw(out, "towers") / "towers" if sample else Path(towers or out / "towers")
    store = cube or build_once(archives, out / "daily.zarr", resolution="daily")
    return score_models(fc.open_carbonsense(store), out, models=models, split=split, log=print)


if __name__ == "__main__":
    print(run_recipe(main, __file__).to_string())

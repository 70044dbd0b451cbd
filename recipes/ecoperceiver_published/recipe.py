"""Train and score the published EcoPerceiver: `python recipes/ecoperceiver_published/recipe.py OUT [--sample]`."""

import fluxcube as fc
from fluxcube.recipes import run_recipe, score_models
from fluxcube.simulation import example_cube


def main(out, *, sample, cube, split, models):
    towers = example_cube(sites=12, days=3) if sample else fc.open_carbonsense(cube)
    return score_models(towers, out, models=models, split=split, log=print)


if __name__ == "__main__":
    print(run_recipe(main, __file__).to_string())

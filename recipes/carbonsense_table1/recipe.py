"""Compare EcoPerceiver and XGBoost by class: `python recipes/carbonsense_table1/recipe.py OUT [--sample]`."""

import fluxcube as fc
from fluxcube.evaluation.published import published_scores
from fluxcube.protocol_runs import sample_carbonsense, score_classes
from fluxcube.recipes import build_once, run_recipe


def main(out, *, sample, carbonsense, cube, split, seeds, models):
    folder = sample_carbonsense(out) if sample else carbonsense
    store = build_once(folder, out / "carbonsense.zarr") if folder else cube
    towers, published = fc.open_carbonsense(store), published_scores()
    return score_classes(towers, out, models=models, seeds=seeds, split=split, published=published, log=print)


if __name__ == "__main__":
    print(run_recipe(main, __file__).to_string())

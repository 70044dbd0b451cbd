"""Train a model of the recipe on every tower, and write its card: `python recipes/towers/ship.py CUBE OUT FOLDER`."""

import argparse
from pathlib import Path

import pandas as pd
from recipe import towers, variants_of

from fluxcube.experiments import trained
from fluxcube.samples.splits import Split

LABEL = "EcoPerceiver with memory"
#: Template of the model card; its figures come from `scores.csv`.
CARD = Path(__file__).parent / "card.md"


def everything(cube):
    """Return a split with all towers for training."""
    return Split(
        train=tuple(map(str, cube.site.values)), kind="all", notes=("every tower trains; none is left to score",)
    )


def lines(table):
    """Return a table of the model and the baselines as Markdown."""
    head = ["", "hours", "towers", *table.model.unique()]
    wide = table.pivot(index="group", columns="model", values="nse")[list(table.model.unique())]
    counts = table.groupby("group")[["n", "n_sites"]].first()
    rows = [[g, f"{counts.n[g]:,}", str(counts.n_sites[g]), *(f"{x:.3f}" for x in wide.loc[g])] for g in wide.index]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def card(name, variant, cube, scores):
    """Return the text of the card, with figures from the table of the recipe."""
    own = scores[scores.target == "NEE"].copy()
    own["group"] = own.group.fillna("all")
    whole, classes = own[own.group == "all"], own[own.group != "all"]
    first = whole.iloc[0]
    igbp = pd.Series(cube.igbp.values.astype(str), cube.site.values).value_counts()
    ours = whole[whole.model == LABEL].iloc[0]
    table = "Pooled NSE of NEE, and RMSE (umol m-2 s-1):\n\n" + lines(whole)
    table += f"\n\nIts RMSE is {ours.rmse:.2f}, its median NSE over towers {ours.nse_site_median:.2f}."
    return CARD.read_text("utf-8").format(
        name=name,
        seeds=variant.seeds,
        memory=", ".join(map(str, variant.memory_days)),
        hours=int(first.n),
        sites=int(first.n_sites),
        scores=table,
        classes=lines(classes),
        few=", ".join(sorted(igbp.index[igbp < 5])),
        towers=", ".join(f"{s} ({c})" for s, c in zip(cube.site.values, cube.igbp.values, strict=True)),
    )


def main(raw, out, folder):
    cube = towers(raw, out)
    (variant,) = variants_of("full", [LABEL])
    run = trained(cube, everything(cube), variant, out, log=print)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(p for p in run.rglob("*") if p.suffix in (".json", ".safetensors")):
        target = folder / path.relative_to(run)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    text = card(folder.name, variant, cube, pd.read_csv(out / "scores.csv"))
    (folder / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("raw", "out", "folder"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))

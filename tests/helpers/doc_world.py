"""The small simulated world in which the code blocks of the docs are run, and how training is shortened there."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
from doc_blocks import Block, commands

import fluxcube as fc

#: Fluxes and inputs that the models of the world have: what a forcing supplies, too.
INPUTS = {"predictors": ["TA", "SW_IN", "VPD"], "target": ["NEE", "GPP_NT"], "static": ["latitude", "igbp"]}
#: What a block makes: an existing one is removed before, as a reader has none. A block that appends says so.
_MAKES = (
    r"build_carbonsense\((?![^)]*append)[^,)]*,\s*\"([^\"]+)\"",
    r"\bout=\"([^\"]+)\"",
    r"(?:write_maps|write_forcing|copy_era5)\([^,]+,\s*\"([^\"]+)\"",
    r"save_mixed\(\"([^\"]+)\"",
    r"fc\.report\([^\n]*,\s*\"([^\"]+)\"",
)
#: Position of the path that a command makes among its arguments.
_MAKING = {"build": 1, "train": 1, "upscale": 2, "forcing": 1, "mix": 0, "split": 1}


def made_by(block: Block) -> list[str]:
    """Return the paths that a block makes."""
    if block.language == "python":
        return [path for pattern in _MAKES for path in re.findall(pattern, block.text)]
    made = []
    for _, words in commands(block):
        if words[0] == "fluxcube" and words[1] in _MAKING and "--append" not in words:
            made += [word for word in words[2:] if not word.startswith("--")][_MAKING[words[1]] :][:1]
        if words[0] == "fluxcube" and words[1] == "report":
            made.append(words[words.index("--out") + 1])
    return made


def clear(block: Block) -> None:
    """Remove what a block makes from the current folder."""
    for path in map(Path, made_by(block)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Shorten all training, without a change of the text of a block.

    Gradient descent makes one epoch of 64 windows of a narrow network, XGBoost four trees, an ensemble has at most two
    members, a search tries two settings, and inputs are weighed by the errors of few windows.
    """
    from fluxcube.training import applicability, fit

    make_plan, train_seeds = fit.make_plan, fit.train_seeds

    def short_plan(cube, request):
        plan = make_plan(cube, request)
        few = {"epochs": 1, "windows_per_epoch": 64, "val_windows": 64, "pretrain_epochs": None, "warmup_epochs": 0.5}
        narrow = {"latent": 16, "embedding": 4, "heads": 2, "blocks": 1, "hidden": 8, "n_estimators": 4, "summary": 0}
        fields = {field.name for field in dataclasses.fields(plan.config)}
        config = dataclasses.replace(plan.config, **{key: narrow[key] for key in fields & set(narrow)})
        training = dataclasses.replace(plan.training, **few)
        search = min(plan.search, 2) if plan.search else plan.search
        return dataclasses.replace(plan, config=config, training=training, search=search)

    def few_seeds(plan, seeds, *args, **options):
        return train_seeds(plan, min(seeds, 2) if isinstance(seeds, int) else seeds[:2], *args, **options)

    patch.setattr(fit, "make_plan", short_plan)
    patch.setattr(fit, "train_seeds", few_seeds)
    patch.setattr(applicability, "_WINDOWS", (8, 8))
    patch.setattr(applicability, "_ROWS", 64)


def build(raw: Path, cube: Path, folder: Path) -> None:
    """Fill a folder: raw files under the names of the docs, cubes, two runs and their maps."""
    folder.mkdir(parents=True)
    names = {"downloads": "towers", "tiles": "modis", "era5": "era5", "landcover": "land_cover"}
    for name, part in names.items():
        shutil.copytree(raw / part, folder / name)
    shutil.copytree(cube, folder / "carbonsense.zarr")
    store = fc.open_carbonsense(folder / "carbonsense.zarr")
    runs = {name: fc.fit(store, model=model, out=folder / "runs" / name, **INPUTS) for name, model in _MODELS.items()}
    forcing = fc.open_forcing(
        folder / "era5",
        modis=folder / "tiles",
        land_cover=folder / "landcover",
        time=("2018-06-01", "2018-06-30"),
    )
    fc.write_maps(fc.upscale(runs["xgb"], forcing), folder / "maps.zarr")


_MODELS = {"eco": "ecoperceiver", "xgb": "xgboost"}

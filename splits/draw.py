"""Draw the folds of the 109 and 157 towers again: `python splits/draw.py`; the result equals the committed files."""

from pathlib import Path

import pandas as pd
import xarray as xr

from fluxcube.samples.clusters import Places
from fluxcube.samples.splits import kfold, save_folds
from fluxcube.samples.time_splits import described_split

#: Settings of the draw of each file.
FILES = {
    "towers109.json": {"k": 5, "seed": 0, "buffer_km": 50.0, "val_km": 150.0},
    "towers109-blocks.json": {"k": 5, "seed": 0, "buffer_km": 150.0},
}


def places(table):
    """Return names, places and classes of towers, the only input of a draw."""
    sites = pd.read_csv(table)
    on_site = {name: ("site", sites[name].to_numpy(float)) for name in ("latitude", "longitude")}
    igbp = ("site", sites["igbp"].to_numpy(object))
    return xr.Dataset(coords={"site": sites["site_id"].to_numpy(object), "igbp": igbp, **on_site})


def notes(cube, settings):
    """Return the provenance of a draw."""
    drawn = Places.of(cube, settings["buffer_km"])
    called = ", ".join(f"{key}={value:g}" for key, value in settings.items())
    return [
        f"kfold(cube, {called}) over {len(drawn.groups)} clusters of {len(drawn.sites)} FLUXNET2015 towers (CC BY 4.0)",
        f"drawn by place and class alone (digest {drawn.digest}), before any model was trained on these folds",
    ]


def with_development(cube, *, k, seed, buffer_km):
    """Return the development split, whose test towers never test in the folds, and k folds of the other towers."""
    drawn = Places.of(cube, buffer_km)
    development = kfold(cube, k=k, seed=seed, buffer_km=buffer_km)[0].test
    others = [str(site) for site in cube.site.values if str(site) not in development]
    folds = kfold(cube.sel(site=others), k=k, seed=seed, buffer_km=buffer_km)

    def split(test, kind):
        train = [site for site in drawn.sites if site not in test]
        return described_split(drawn, [train, (), test], kind=kind, seed=seed, buffer_km=buffer_km)

    return split(development, "development"), [split(fold.test, f"kfold {i} of {k}") for i, fold in enumerate(folds, 1)]


def draw_157(folder):
    """Write the folds of the 157 towers and their development split."""
    cube = places(folder / "towers157.csv")
    settings = {"k": 5, "seed": 0, "buffer_km": 50.0}
    development, folds = with_development(cube, **settings)
    about = [
        f"{len(development.test)} development towers, on which settings are chosen: they train, and never test",
        f"five folds of the other {sum(len(fold.test) for fold in folds)}; no validation towers",
    ]
    save_folds([development], folder / "towers157-development.json", notes=[*notes(cube, settings), about[0]])
    save_folds(folds, folder / "towers157.json", notes=[*notes(cube, settings), *about])


def main(folder):
    """Write all files."""
    draw_157(folder)
    cube = places(folder / "towers109.csv")
    for name, settings in FILES.items():
        save_folds(kfold(cube, **settings), folder / name, notes=notes(cube, settings))


if __name__ == "__main__":
    main(Path(__file__).parent)

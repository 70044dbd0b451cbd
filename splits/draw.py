"""Draw the folds of the 109 towers again: `python splits/draw.py`; the result equals the committed files."""

from pathlib import Path

import pandas as pd
import xarray as xr

from fluxcube.samples.clusters import Places
from fluxcube.samples.splits import kfold, save_folds

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


def main(folder):
    """Write both files."""
    cube = places(folder / "towers109.csv")
    for name, settings in FILES.items():
        save_folds(kfold(cube, **settings), folder / name, notes=notes(cube, settings))


if __name__ == "__main__":
    main(Path(__file__).parent)

"""Fetch MODIS chips of a folder of towers: `python recipes/tower_chips/recipe.py OUT --set towers=FOLDER [--plan]`."""

from pathlib import Path

import fluxcube as fc
from fluxcube.recipes import build_once, read_endpoints, run_recipe, sample_raw


def main(out, *, sample, plan, towers, service, project, endpoints, every, years, sites):
    archives, chips = Path(towers or out / "towers"), out / "modis"
    if sample:
        raw = sample_raw(out, "towers", "modis")
        archives, chips = raw / "towers", raw / "modis"
    else:
        cube = build_once(archives, out / "towers.zarr", sites=sites)
        request = {"at_sites": cube, "service": service, "project": project, "every": every, "years": years}
        fetched = fc.fetch.modis(chips, plan=plan, endpoint=read_endpoints(endpoints)["modis"], **request)
        if plan:
            return fetched
    return fc.open_carbonsense(build_once(archives, out / "chips.zarr", modis=chips, sites=sites))


if __name__ == "__main__":
    print(run_recipe(main, __file__))

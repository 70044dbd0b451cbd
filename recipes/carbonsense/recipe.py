"""Fetch CarbonSense and chips, and build the cube: `python recipes/carbonsense/recipe.py OUT [--plan] [--sample]`."""

import fluxcube as fc
from fluxcube.recipes import build_once, run_recipe, sample_raw


def main(out, *, sample, plan, source, release, igbp, years, project, every, sites):
    archives = {"source": source, "release": release, "igbp": igbp, "years": years}
    if sample:
        raw = sample_raw(out, "towers", "modis")
        towers, chips = raw / "towers", raw / "modis"
    else:
        towers, chips = out / "towers", out / "modis"
        fetched = fc.fetch.towers(towers, plan=plan, **archives)
        if plan:
            return fetched
        cube = build_once(
            towers, out / "towers.zarr", sites=sites
        )  # the years of each site, for which chips are fetched
        fc.fetch.modis(chips, at_sites=cube, project=project, every=every)
    return fc.open_carbonsense(build_once(towers, out / "carbonsense.zarr", modis=chips, sites=sites))


if __name__ == "__main__":
    print(run_recipe(main, __file__))

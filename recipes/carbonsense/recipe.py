"""Fetch CarbonSense and chips, and build the cube: `python recipes/carbonsense/recipe.py OUT [--plan] [--sample]`."""

import fluxcube as fc
from fluxcube.recipes import build_once, read_endpoints, run_recipe, sample_raw


def main(out, *, sample, plan, source, release, igbp, years, project, endpoints, every, sites):
    archives = {"source": source, "release": release, "igbp": igbp, "years": years}
    if sample:
        raw = sample_raw(out, "towers", "modis")
        towers, chips = raw / "towers", raw / "modis"
    else:
        towers, chips = out / "towers", out / "modis"
        addresses = read_endpoints(endpoints)
        fetched = fc.fetch.towers(towers, plan=plan, endpoint=addresses["towers"], **archives)
        if plan:
            return fetched
        # This cube has the years of each site, for which chips are fetched.
        cube = build_once(towers, out / "towers.zarr", sites=sites)
        fc.fetch.modis(chips, at_sites=cube, project=project, every=every, endpoint=addresses["modis"])
    return fc.open_carbonsense(build_once(towers, out / "carbonsense.zarr", modis=chips, sites=sites))


if __name__ == "__main__":
    print(run_recipe(main, __file__))

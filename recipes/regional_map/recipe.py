"""Map the fluxes of a region: `python recipes/regional_map/recipe.py OUT [--plan] [--sample]`."""

import fluxcube as fc
from fluxcube.recipes import fetch_forcing, map_once, plan_forcing, run_recipe


def main(out, *, sample, plan, period, **area):
    if plan:
        return "\n".join(map(str, plan_forcing(out, **area)))
    forcing = fetch_forcing(out, sample=sample, **area)
    maps = map_once(area["model"], forcing, out / "maps.zarr", period=period)
    fc.plot_map(maps.NEE.mean("time", keep_attrs=True), out / "NEE.png")
    totals = fc.totals(maps, by="igbp", min_coverage=0.5)
    totals.to_dataframe().to_csv(out / "totals.csv")
    return totals


if __name__ == "__main__":
    print(run_recipe(main, __file__))

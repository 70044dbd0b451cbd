"""Fetch the forcing of a region and write it: `python recipes/era5_forcing/recipe.py OUT [--plan] [--sample]`."""

import fluxcube as fc
from fluxcube.recipes import fetch_forcing, is_complete, plan_forcing, run_recipe


def main(out, *, sample, plan, resolution, **area):
    if plan:
        return "\n".join(map(str, plan_forcing(out, **area)))
    store = out / "forcing.zarr"
    if not is_complete(store):
        forcing = fetch_forcing(out, sample=sample, resolution=resolution, **area)
        fc.write_forcing(forcing, store)
    return fc.open_forcing(store)


if __name__ == "__main__":
    print(run_recipe(main, __file__))

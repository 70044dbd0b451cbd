"""Map the fluxes of the globe: `python recipes/global_map_025/recipe.py OUT [--plan] [--sample]`."""

from fluxcube.planning.globe import plan_global
from fluxcube.recipes import fetch_forcing, map_once, run_recipe


def main(out, *, sample, plan, period, scheduler, cores_per_gpu, price, sample_tasks, **area):
    if plan:
        prices = {"cores_per_gpu": cores_per_gpu, "price": price, "sample_tasks": sample_tasks}
        return plan_global(out, period=period, **prices, **area)
    forcing = fetch_forcing(out, region="world", sample=sample, **area)
    return map_once(area["model"], forcing, out / "maps.zarr", period=period, scheduler=scheduler)


if __name__ == "__main__":
    print(run_recipe(main, __file__))

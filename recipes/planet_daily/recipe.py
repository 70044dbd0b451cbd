"""Map a simulated planet with daily models: `python recipes/planet_daily/recipe.py OUT [--seed 0] [--quick]`."""

import argparse
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import yaml

import fluxcube as fc
from fluxcube.cubes.climates import add_climates
from fluxcube.cubes.localdays import to_daily
from fluxcube.errors import StoreError
from fluxcube.experiments import Variant, trained
from fluxcube.samples.splits import per_igbp
from fluxcube.simulation import Planet, truth, write_era5, write_land_cover, write_towers
from fluxcube.timestamps import DAY
from fluxcube.variables import table

SETTINGS = yaml.safe_load((Path(__file__).parent / "meta.yaml").read_text("utf-8"))["parameters"]
FLUXES = tuple(SETTINGS["base"]["target"])
NO_SOILS = "the planet with one soil"


@dataclass(frozen=True)
class OneSoil(Planet):
    """The planet with the same soil everywhere: its fluxes depend on weather and class only."""

    def vigour(self, latitude, longitude):
        return np.ones(len(latitude))

    def sowing(self, latitude, longitude):
        return np.zeros(len(latitude))


def variants_of(budget, seed):
    """Return the models at a budget."""
    settings = SETTINGS["budgets"][budget]
    start = {"label": "", "seed": seed, "static": settings["static"]} | SETTINGS["base"]
    return [
        Variant(**start | {"model": line["model"]}).changed(settings.get(line["model"], {})).changed(line)
        for line in SETTINGS["models"]
    ]


def raw_files(planet, out):
    """Write raw files of towers, reanalysis and land cover, complete or not at all; return their folder."""
    raw, making = out / "raw", out / "raw.part"
    if not raw.exists():
        shutil.rmtree(making, ignore_errors=True)
        write_towers(planet, making / "towers")
        write_era5(planet, making / "era5")
        write_land_cover(planet, making / "land_cover")
        making.rename(raw)
    return raw


def towers_of(raw, out):
    """Return the daily cube of the towers."""
    store = out / "towers.zarr"
    if not store.exists():
        fc.build_carbonsense(raw / "towers", store, resolution="daily")
    return fc.open_carbonsense(store)


def split_of(cube, seed):
    """Return a split with all towers for training except those for validation, because maps are tested."""
    drawn = per_igbp(cube, seed=seed)
    return replace(drawn, train=drawn.train + drawn.test, test=(), counts={}, kind="all but validation")


def forcing_of(raw, variants):
    """Return the daily forcing, in RAM, because several models read it."""
    land_cover = next((raw / "land_cover").glob("*.tif"))
    hours = fc.open_forcing(raw / "era5", land_cover=land_cover, predictors=("TA", "SW_IN", "VPD", "P"))
    if any("koppen" in variant.static for variant in variants):
        hours = add_climates(hours)
    return fc.daily_forcing(hours).load()


def maps_of(run, forcing, days, several, out):
    """Return the maps of one model, with their spread if it is an ensemble."""
    store = out / "maps" / f"{run.name}.zarr"
    store.parent.mkdir(exist_ok=True)
    try:
        return fc.open_maps(store).load()
    except StoreError:  # not begun, or not finished
        maps = fc.upscale(run, forcing, time=days, uncertainty=several)
        return fc.open_maps(fc.write_maps(maps, store, workers=1)).load()


def true_days(planet, days):
    """Return true fluxes (time, latitude, longitude), gC m-2 d-1, for the days of the forcing (mean solar time).

    Hours across midnight contribute to each day in proportion.
    """
    first, last = (np.datetime64(day, "D") for day in (days.start, days.stop))
    hours = truth(planet, time=slice(first - DAY, last + 2 * DAY))
    flags = {
        f"{name}_{end}": ("time", np.full(hours.sizes["time"], value))
        for name in FLUXES
        for end, value in (("QC", np.int8(0)), ("COVERAGE", 1.0))
    }
    dates = np.arange(first, last + 1)
    out = np.full((len(FLUXES), len(dates), hours.sizes["latitude"], hours.sizes["longitude"]), np.nan, "float32")
    for i, j in np.argwhere(hours.NEE.isel(time=0).notnull().values):
        record = hours[list(FLUXES)].isel(latitude=i, longitude=j).assign(flags)
        made = to_daily(record, utc_offset=float(record.longitude) / 15).sel(time=dates)
        out[:, :, i, j] = [made[name].values for name in FLUXES]
    dims, units = ("time", "latitude", "longitude"), table("daily")
    arrays = {name: (dims, values, units[name].attrs) for name, values in zip(FLUXES, out, strict=True)}
    coords = {name: hours[name] for name in ("latitude", "longitude", "igbp", "has_tower")}
    coords |= {"time": dates.astype("datetime64[ns]"), "land_fraction": (hours.igbp != "WAT").astype(float)}
    return xr.Dataset(arrays, coords, {"resolution": "daily"})


def on(true, maps):
    """Return maps on the cells and days of the truth; coordinates of a grid may differ by rounding."""
    kept = maps.reindex_like(true[["latitude", "longitude"]], method="nearest", tolerance=1e-3)
    return kept.reindex(time=true.time).assign_coords(igbp=true.igbp, land_fraction=true.land_fraction)


def listed(ds, true):
    """Return land cells without a tower, as sites."""
    chosen = ds.assign_coords(has_tower=true.has_tower).stack(site=("latitude", "longitude")).reset_index("site")
    names = [f"{a:.3f} {b:.3f}" for a, b in zip(chosen.latitude.values, chosen.longitude.values, strict=True)]
    return chosen.assign_coords(site=names).isel(site=(~chosen.has_tower & (chosen.land_fraction > 0)).values)


def scores(maps, true):
    """Return scores in cells without a tower, with intervals over blocks of cells, relative to each reference model."""
    obs, side = listed(true, true), SETTINGS["block"]
    corner = float(true.latitude.max()), float(true.longitude.min())
    rows, columns = ((corner[0] - obs.latitude) // side).astype(int), ((obs.longitude - corner[1]) // side).astype(int)
    blocks = {s: f"{r}-{c}" for s, r, c in zip(obs.site.values, rows.values, columns.values, strict=True)}
    cells = {label: listed(ds[list(FLUXES)], true) for label, ds in maps.items()}
    about = {"min_quality": None, "clusters": blocks, "draws": SETTINGS["draws"]}
    tables = [fc.compare(obs, cells, against=first, **about).assign(against=first) for first in SETTINGS["against"]]
    return pd.concat(tables, ignore_index=True)


def trust(maps, true):
    """Return rank correlations of spread and absolute error of an ensemble, over means of cells and over all days."""
    rows = []
    for label, ds in maps.items():
        for name in (name for name in FLUXES if f"{name}_spread" in ds):
            error, spread = np.abs(ds[name] - true[name]), ds[f"{name}_spread"]
            pair = xr.Dataset({"error": error, "spread": spread}).where(~true.has_tower)
            cells, days = (part.to_dataframe()[["error", "spread"]].dropna() for part in (pair.mean("time"), pair))
            ranks = [part.rank().corr().iloc[0, 1] for part in (cells, days)]
            rows.append([label, name, *ranks, days.spread.mean(), days.error.mean(), len(cells)])
    return pd.DataFrame(rows, columns=["model", "target", "over_cells", "over_days", "spread", "error", "n_cells"])


def soils(maps, true, planet):
    """Return the share of squared error in the means of cells, and their correlation with the vigour of leaves."""
    latitude, longitude = (grid.values.ravel() for grid in xr.broadcast(true.latitude, true.longitude))
    vigour = np.log(planet.vigour(latitude, longitude)).reshape(true.has_tower.shape)
    rows = []
    for label, ds in maps.items():
        for name in FLUXES:
            error = (ds[name] - true[name]).where(~true.has_tower)
            cells = error.mean("time")
            known = cells.notnull().values
            share = float((cells**2).mean() / (error**2).mean())
            rows.append([label, name, share, np.corrcoef(cells.values[known], vigour[known])[0, 1]])
    return pd.DataFrame(rows, columns=["model", "target", "share_of_cells", "correlation"])


def difference(row):
    """Return the difference in NSE from the reference model, as text."""
    if row.model == row.against:
        return ""
    return f"{row.nse_diff:+.3f} [{row.nse_diff_low:+.3f}, {row.nse_diff_high:+.3f}]"


def written(scored, trusted, soil, about):
    """Return the tables as Markdown."""
    firsts = SETTINGS["against"]
    heads = [
        "model",
        "flux",
        "NSE",
        *(f"NSE less that of {first}" for first in firsts),
        "RMSE (gC m-2 d-1)",
        "bias",
        "NSE, median cell",
    ]
    lines = [
        f"# Daily maps of the simulated planet\n\n{about}\n",
        "## Against the truth, on cells without a tower\n",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for _, rows in scored.groupby(["target", "model"], sort=False):
        row = next(rows.itertuples())
        cells = [
            row.model,
            row.target,
            f"{row.nse:.3f} [{row.nse_low:.3f}, {row.nse_high:.3f}]",
            *map(difference, rows.itertuples()),
            f"{row.rmse:.3f} [{row.rmse_low:.3f}, {row.rmse_high:.3f}]",
            f"{row.bias:+.3f}",
            f"{row.nse_site_median:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "\n## Rank correlation of spread and absolute error\n",
        "| model | flux | over cells | over cells and days | mean spread | mean absolute error |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.model} | {r.target} | {r.over_cells:.2f} | {r.over_days:.2f} | {r.spread:.3f} | {r.error:.3f} |"
        for r in trusted.itertuples()
    ]
    lines += [
        "\n## Effect of soils: squared error in means of cells, and correlation with the logarithm of vigour\n",
        "| model | flux | share of squared error | correlation |",
        "|---|---|---:|---:|",
    ]
    lines += [f"| {r.model} | {r.target} | {r.share_of_cells:.2f} | {r.correlation:+.2f} |" for r in soil.itertuples()]
    return "\n".join(lines) + "\n"


def draw(maps, true, path):
    """Draw mean NEE and GPP: the truth, TAM-RL, and TAM-RL and CT-LSTM minus the truth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(wspace=0.05, hspace=0.04)
    axes = figure.subplots(2, 4)
    has_tower = true.has_tower.values
    rows, columns = np.nonzero(has_tower)
    for name, line in zip(("NEE", "GPP_NT"), axes, strict=True):
        there = true[name].notnull() & maps["TAM-RL"][name].notnull() & maps["CT-LSTM"][name].notnull()
        mean = {label: ds[name].where(there).mean("time", keep_attrs=True) for label, ds in maps.items()}
        mean["truth"] = true[name].where(there).mean("time", keep_attrs=True)
        whole = limits_of([mean["truth"], mean["TAM-RL"]], centred=name == "NEE")
        errors = {at: (mean[at] - mean["truth"]).assign_attrs(true[name].attrs) for at in ("TAM-RL", "CT-LSTM")}
        apart = limits_of(list(errors.values()), centred=True)
        for ax, label in zip(line[:2], ("truth", "TAM-RL"), strict=True):
            fc.plot_map(mean[label].rename(name), ax=ax, limits=whole, title=f"{name}, {label}", coast=False)
        for ax, (label, error) in zip(line[2:], errors.items(), strict=True):
            fc.plot_map(
                error.rename(name),
                ax=ax,
                limits=apart,
                diverging=True,
                title=f"{name}, {label} minus truth",
                coast=False,
            )
        for ax in line:
            ax.plot(true.longitude.values[columns], true.latitude.values[rows], "k^", markersize=5, fillstyle="none")
    figure.suptitle("Means of the simulated planet's days; triangles are towers, pale grey is water")
    figure.savefig(path, dpi=130)


def limits_of(arrays, centred):
    """Return common limits of the colours of several maps."""
    values = np.concatenate([a.values[np.isfinite(a.values)] for a in arrays])
    if centred:
        far = float(np.abs(values).max())
        return -far, far
    return 0.0, float(values.max())


def main(out, *, seed=0, quick=False, log=print):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    planet, budget = Planet(seed=seed, quick=quick), "quick" if quick else "full"
    raw = raw_files(planet, out)
    cube = towers_of(raw, out)
    split, variants = split_of(cube, seed), variants_of(budget, seed)
    runs = {v.label: trained(cube, split, v, out, log=log) for v in variants}
    forcing = forcing_of(raw, variants)
    days = slice(str(planet.period[0].astype("datetime64[D]")), str((planet.period[1] - DAY).astype("datetime64[D]")))
    maps = {v.label: maps_of(runs[v.label], forcing, days, bool(v.seeds), out) for v in variants}
    true = true_days(planet, days)
    maps = {label: on(true, ds) for label, ds in maps.items()}
    compared = maps | {NO_SOILS: true_days(OneSoil(seed, quick), days)}
    scored, trusted, soil = scores(compared, true), trust(maps, true), soils(compared, true, planet)
    about = (
        f"Seed {seed}; {len(split.train)} training and {len(split.val)} validation towers; "
        f"{int(scored.n_sites.max())} cells without a tower, {int(scored.n.max()):,} days of them."
    )
    (out / "maps.md").write_text(written(scored, trusted, soil, about), "utf-8")
    scored.to_csv(out / "maps.csv", index=False)
    trusted.merge(soil, how="outer").to_csv(out / "errors.csv", index=False)
    draw(maps, true, out / "maps.png")
    return scored


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the planet, the split and the weights")
    parser.add_argument("--quick", action="store_true", help="a smaller planet, to test that it runs")
    options = vars(parser.parse_args())
    print(main(options.pop("out"), **options).to_string())

"""A daily cube and a daily forcing in memory: plausible weather, fluxes that follow it and add up."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.models.tamrl import TAMRLConfig
from fluxcube.schema import validate_cube, validate_forcing, variable_coords
from fluxcube.timestamps import DAY
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit
from fluxcube.variables import predictors, targets

DRIVERS = ("TA", "TA_RANGE", "SW_IN", "VPD", "SW_IN_POT")
TARGETS = ("NEE", "GPP_NT", "RECO_NT")
STRENGTH = {"DBF": 9.0, "GRA": 5.0, "ENF": 7.0, "CRO": 11.0}
TINY = {"hidden": 8, "context": 20, "stride": 5}
TINY_TAM = TINY | {"embedding": 6, "code": 3, "encoder": 4, "generator": 5, "support": 3}
FAST = TrainingConfig(epochs=4, batch_size=32, lr=1e-2, val_windows=200)


def daily_cube(sites=12, days=240, seed=0, quality=None):
    """A cube of days; a fifth of them of quality 0.6, unless it is given."""
    rng = np.random.default_rng(seed)
    latitude, longitude = np.linspace(35, 60, sites), np.linspace(-120, 20, sites)
    igbp = np.array([list(STRENGTH)[i % 4] for i in range(sites)], object)
    time = (np.datetime64("2004-02-01", "ns") + np.arange(days) * DAY).astype("datetime64[ns]")
    weather = drivers(time, latitude, rng)
    fluxes = carbon(weather, igbp, rng)
    good = np.where(rng.random((sites, days)) < 0.2, 0.6, 1.0) if quality is None else np.full((sites, days), quality)
    ds = xr.Dataset(
        {
            **_stack("predictors", "variable", predictors("daily", declared=False), weather, np.ones((sites, days))),
            **_stack("fluxes", "target", targets("daily"), fluxes, good),
        },
        coords={
            "site": ("site", np.array([f"XX-D{i:02d}" for i in range(sites)], object)),
            "time": time,
            **variable_coords(predictors("daily", declared=False), resolution="daily"),
            **variable_coords(targets("daily"), "target", "daily"),
            "latitude": ("site", latitude),
            "longitude": ("site", longitude),
            "elevation": ("site", np.linspace(10.0, 900.0, sites)),
            "igbp": ("site", igbp),
            "koppen": ("site", np.array([("Cfb", "Dfb", "Dfc")[i % 3] for i in range(sites)], object)),
            "network": ("site", np.full(sites, "EXAMPLE", object)),
            "utc_offset": ("site", np.round(longitude / 15)),
            "time_start": ("site", np.full(sites, time[0])),
            "time_stop": ("site", np.full(sites, time[-1] + DAY)),
        },
        attrs={"kind": "cube", "clock": "solar", "resolution": "daily", "title": "days"},
    )
    return validate_cube(ds)


def daily_forcing(cube):
    """A grid whose cells, one row of them, have the drivers of a cube's sites."""
    values = cube.predictors.sel(variable=list(DRIVERS)).values[None]
    cells = ("latitude", "longitude")
    n = cube.sizes["site"]
    return validate_forcing(
        xr.Dataset(
            {"predictors": ((*cells, "time", "variable"), values)},
            coords={
                "latitude": [45.0],
                "longitude": np.linspace(0, 1, n),
                "time": cube.time.values,
                **variable_coords(DRIVERS, resolution="daily"),
                "elevation": (cells, cube.elevation.values[None]),
                "igbp": (cells, cube.igbp.values[None]),
                "koppen": (cells, cube.koppen.values[None]),
                "land_fraction": (cells, np.ones((1, n))),
            },
            attrs={"kind": "forcing", "clock": "solar", "resolution": "daily", "title": "days"},
        )
    )


def drivers(time, latitude, rng):
    """Weather (site, day) by name."""
    doy = (time - time.astype("datetime64[Y]")) / DAY
    season = -np.cos(2 * np.pi * (doy - 10) / 365)
    potential = 300 + (latitude[:, None] / 60) * 180 * season
    clear = rng.uniform(0.25, 0.75, potential.shape)
    ta = 12 - (latitude[:, None] - 45) / 2 + 10 * season + rng.normal(0, 2, potential.shape)
    return {
        "DOY": np.broadcast_to(doy, potential.shape),
        "TA": ta,
        "TA_RANGE": 4 + 14 * clear,
        "SW_IN": clear * potential,
        "VPD": np.maximum(0.3 * ta * clear + 2, 0),
        "SW_IN_POT": potential,
    }


def carbon(weather, igbp, rng):
    """Fluxes (site, day), with NEE = RECO - GPP."""
    strength = np.array([STRENGTH[c] for c in igbp])[:, None]
    warm = 1 / (1 + np.exp(-(weather["TA"] - 5) / 4))
    gpp = strength * warm * weather["SW_IN"] / (weather["SW_IN"] + 150) + rng.normal(0, 0.2, warm.shape)
    reco = 2.0 * 2.0 ** ((weather["TA"] - 10) / 10) + rng.normal(0, 0.2, warm.shape)
    return {"NEE": reco - gpp, "GPP_NT": gpp, "RECO_NT": reco}


def _stack(name, dim, labels, arrays, good):
    empty = np.full(good.shape, np.nan)
    values = np.stack([arrays.get(label, empty) for label in labels], -1).astype("float32")
    quality = np.where(np.isfinite(values), good[..., None], np.nan).astype("float32")
    return {name: (("site", "time", dim), values), f"{name}_quality": (("site", "time", dim), quality)}


def train(cube, out, model="tam-rl", **changes):
    """Train a small model of days."""
    config = {"tam-rl": TINY_TAM, "tam-lstm": TINY | {"embedding": 6}, "ct-lstm": TINY, "lstm": TINY}[model]
    if isinstance(changes.get("config"), TAMRLConfig):
        config = changes.pop("config")
    config = {**config, **changes.pop("config", {})} if isinstance(config, dict) else config
    settings = {"predictors": DRIVERS, "static": ("igbp", "koppen"), "target": TARGETS, "training": FAST, "seed": 3}
    return fit(cube, model=model, out=out, config=config, **settings | changes)

"""Distance of scored towers from the training towers: a check for leakage, and errors by distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.knownsites import known_site
from fluxcube.sources.modis.surface_checks import distance_km

#: Training towers of one model: their names; or, of the models of several folds, the names by scored tower.
TrainingSites = Iterable[str] | Mapping[str, Iterable[str]]
#: Bounds of the classes of distance, km.
EDGES = (0.0, 10.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, np.inf)
_COLUMNS = ("model", "site", "igbp", "nearest", "distance_km", "same_site", "n_training")


def nearest_training_tower(
    sites: xr.Dataset, training_sites: Mapping[str, TrainingSites], *, towers: xr.Dataset | None = None
) -> pd.DataFrame:
    """Return the training tower nearest to each scored tower, for each model.

    A scored tower that is a training tower itself, or has one at a few kilometres, is not independent of the training:
    its scores are those of a place that the model has seen.

    Parameters
    ----------
    sites : xr.Dataset
        Scored towers: the coordinates site, latitude and longitude (degrees), and igbp if known; such as the cube.
    training_sites : mapping of str
        By model, the names of its training towers; of a cross-validation, a mapping of each scored tower to the
        training towers of the model of its fold.
    towers : xr.Dataset, optional
        Further places, with the same coordinates: the cube of the training. Places of other towers are those of
        `fluxcube.knownsites.known_sites`.

    Returns
    -------
    pd.DataFrame
        A row per model and site with columns model, site, igbp ("" where unknown), nearest (name of the training tower,
        "" if there is none), distance_km (great-circle distance, NaN if there is none), same_site (whether the scored
        tower is a training tower) and n_training (number of training towers with a known place). The attribute
        ``unplaced`` names training towers without a known place, which are left out.

    Raises
    ------
    SchemaError
        If `sites` have no coordinates site, latitude and longitude.
    ConfigError
        If the training towers of a model are one text instead of a list.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=1)
    >>> names = cube.site.values.tolist()
    >>> nearest_training_tower(cube, {"a": names[:2]}).same_site.tolist()
    [True, True, False, False]
    """
    scored = _places(sites)
    known = ({} if towers is None else _places(towers)) | scored
    classes = dict(zip(scored, sites["igbp"].values.astype(str), strict=True)) if "igbp" in sites.coords else {}
    rows: list[dict[str, object]] = []
    unplaced: set[str] = set()
    for model, training in training_sites.items():
        if isinstance(training, str):
            raise ConfigError(f"training_sites[{model!r}]: expected a list of names, found the text {training!r}.")
        # An iterator would be empty after the first site.
        training = training if isinstance(training, Mapping) else list(training)
        for site, place in scored.items():
            names = sorted(set(map(str, training.get(site, ()) if isinstance(training, Mapping) else training)))
            placed = {name: _place_of(name, known) for name in names}
            unplaced |= {name for name, at in placed.items() if at is None}
            others = {name: at for name, at in placed.items() if at is not None}
            about = {"model": model, "site": site, "igbp": classes.get(site, ""), "n_training": len(others)}
            rows.append(about | _nearest(place, others) | {"same_site": site in names})
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    table.attrs = {"unplaced": ", ".join(sorted(unplaced))}
    return table


def error_by_distance(scores: pd.DataFrame, distances: pd.DataFrame, *, edges: Sequence[float] = EDGES) -> pd.DataFrame:
    """Return the median skill of sites in classes of distance from the nearest training tower.

    Parameters
    ----------
    scores : pd.DataFrame
        Scores by site, as `fluxcube.evaluation.sitemeans.site_scores` returns them.
    distances : pd.DataFrame
        Table returned by `nearest_training_tower`; models without a row in it are left out.
    edges : sequence of float
        Increasing bounds of the classes (km). A site at a bound is in the class that begins there.

    Returns
    -------
    pd.DataFrame
        A row per target, model and class that has a site, with columns target, units, model, low_km, high_km, distance
        (text), n_sites, and nse and rmse (medians over sites) with their 10th and 90th percentiles, which end in
        ``_p10`` and ``_p90``.

    Raises
    ------
    ConfigError
        If the edges do not increase.
    SchemaError
        If a column is missing.
    """
    if len(edges) < 2 or not all(np.diff(np.asarray(edges, float)) > 0):
        raise ConfigError(f"edges: expected at least two increasing distances in km, found {tuple(edges)}.")
    if missing := {"target", "units", "site", "model", "rmse", "nse"} - set(scores):
        raise SchemaError(f"scores: expected the table of site_scores(), found one without {sorted(missing)}.")
    both = scores.merge(distances[["model", "site", "distance_km"]], on=["model", "site"])
    at = np.searchsorted(np.asarray(edges, float), both["distance_km"].to_numpy(float), side="right") - 1
    inside = np.isfinite(both["distance_km"].to_numpy(float)) & (at >= 0) & (at < len(edges) - 1)
    both = both.assign(bin=at)[inside]
    out = []
    for (target, model, bin_), rows in both.groupby(["target", "model", "bin"], sort=False):
        low, high = float(edges[bin_]), float(edges[bin_ + 1])
        row = {"target": target, "units": rows["units"].iloc[0], "model": model, "low_km": low, "high_km": high}
        row |= {"distance": _range(low, high), "n_sites": len(rows)}
        out.append(row | _percentiles("nse", rows["nse"]) | _percentiles("rmse", rows["rmse"]))
    columns = ["target", "units", "model", "low_km", "high_km", "distance", "n_sites"]
    columns += [f"{name}{end}" for name in ("nse", "rmse") for end in ("", "_p10", "_p90")]
    table = pd.DataFrame(out, columns=columns)
    order = {name: {v: i for i, v in enumerate(dict.fromkeys(scores[name]))} for name in ("target", "model")}
    return table.sort_values(
        ["target", "model", "low_km"], key=lambda c: c.map(order[c.name]) if c.name in order else c
    ).reset_index(drop=True)


def _places(sites: xr.Dataset) -> dict[str, tuple[float, float]]:
    """Return latitude and longitude by name."""
    if missing := [name for name in ("site", "latitude", "longitude") if name not in sites.variables]:
        raise SchemaError(f"expected sites with coordinates site, latitude and longitude, found no {missing[0]}.")
    columns = (np.atleast_1d(sites[name].values) for name in ("site", "latitude", "longitude"))
    return {str(site): (float(lat), float(lon)) for site, lat, lon in zip(*columns, strict=True)}


def _place_of(site: str, known: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    place = known.get(site)
    if place is None and (entry := known_site(site)) is not None:
        place = (entry.latitude, entry.longitude)
    return place if place is not None and np.isfinite(place).all() else None


def _nearest(place: tuple[float, float], others: Mapping[str, tuple[float, float]]) -> dict[str, object]:
    if not others or not np.isfinite(place).all():
        return {"nearest": "", "distance_km": np.nan}
    latitude, longitude = np.array(list(others.values())).T
    km = distance_km(latitude, longitude, np.array(place[0]), np.array(place[1]))
    at = int(km.argmin())
    return {"nearest": list(others)[at], "distance_km": float(km[at])}


def _range(low: float, high: float) -> str:
    if not np.isfinite(high):
        return f"{low:g} km and more"
    return f"below {high:g} km" if low == 0 else f"{low:g} to {high:g} km"


def _percentiles(name: str, values: pd.Series) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    low, middle, high = np.percentile(finite, (10, 50, 90)) if len(finite) else (np.nan,) * 3
    return {name: middle, f"{name}_p10": low, f"{name}_p90": high}

"""Evidence of a report: the scored towers, the predictions, their sums, and the rows that were used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.evaluation.common_rows import CommonRows, rows_in_common
from fluxcube.evaluation.scales import scale_table
from fluxcube.evaluation.series import site_series
from fluxcube.evaluation.skill import GROUPS, IntervalOptions, score_table
from fluxcube.evaluation.subsets import subset_masks, subset_sums
from fluxcube.evaluation.sums import QualityOptions, Sums, site_sums
from fluxcube.moments import pool, scores_of
from fluxcube.plotting.canvas import print_units
from fluxcube.resolution import DEFAULT, Resolution, quality_limit, resolution_of
from fluxcube.samples.quality import best_flags

#: Towers that a model was trained on when it predicted a scored tower, by model and scored tower.
Seen = Mapping[str, Mapping[str, frozenset[str]]]

#: Maximum number of values of the series that a page contains.
_MAX_VALUES = 250_000
#: Number of towers whose weather is in RAM at once.
_BLOCK = 16


@dataclass(frozen=True)
class Evidence:
    """What the sections of a report are written from.

    Attributes
    ----------
    cube : xr.Dataset
        Cube of the scored towers.
    predictions : mapping of str to xr.Dataset
        Predictions at these towers by name of the model.
    sums : Sums
        Sums of every tower and season, on the row mask that all models have in common.
    targets : tuple of str
        Scored fluxes.
    seen : mapping
        By model and scored tower, the towers that the model was trained on when it predicted this tower; models and
        towers for which this is not recorded are absent.
    draws : int
        Number of resampled sets of towers for intervals; 0 for no intervals.
    removed : pd.DataFrame
        Columns target, step, n, removed, n_sites: the rows that each step leaves.
    clusters : float
        Distance (km) within which towers are in one cluster.
    seed : int
        Seed of the resampled sets.
    limits : mapping
        Limit of quality, as `site_sums` takes it.
    against : str
        Model from which differences are computed; "" if there is one model only.
    records : mapping of str to sequence of mapping
        By model, the descriptions of its runs (``run.json`` or ``ensemble.json``, with those of its members).
    towers : xr.Dataset or None
        Coordinates of every tower of the cube, training towers included; by default those of the scored towers.
    split : str
        The split in words; "" if it is not known.
    split_kind : str
        Name of the split, such as "sites:xbase", by which published scores are compared; "" if it is not known.
    left_out : tuple of str
        Fluxes that some models predict, but not all: they are not scored.
    in_time : bool
        Whether the split separates periods of the same towers.
    title : str
        Title of the report.
    """

    cube: xr.Dataset
    predictions: Mapping[str, xr.Dataset]
    sums: Sums
    targets: tuple[str, ...]
    seen: Seen = field(default_factory=dict)
    draws: int = 1000
    removed: pd.DataFrame = field(default_factory=pd.DataFrame)
    clusters: float = 50.0
    seed: int = 0
    limits: QualityOptions = field(default_factory=lambda: QualityOptions())
    against: str = ""
    records: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    towers: xr.Dataset | None = None
    split: str = ""
    split_kind: str = ""
    left_out: tuple[str, ...] = ()
    in_time: bool = False
    title: str = "Models at towers"

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""
        return self.sums.models

    @property
    def resolution(self) -> Resolution:
        """Resolution of the cube."""
        return resolution_of(self.cube)

    @property
    def steps(self) -> str:
        """Noun of the time steps: hours or days."""
        return self.resolution.steps

    @property
    def intervals(self) -> IntervalOptions:
        """Options of intervals and differences, as `score_table` takes them."""
        if not self.draws:
            return {}
        options: IntervalOptions = {"clusters": self.clusters, "draws": self.draws, "seed": self.seed}
        return {**options, "against": self.against} if self.against else options

    def units(self, target: str) -> str:
        """Return the printed units of a flux."""
        return print_units(self.sums.units_of(target))

    def scores(self, by: str | None = None) -> pd.DataFrame:
        """Return the table of scores of all towers together, or of each group, with intervals."""
        key = by or "all"
        if key not in self._tables:
            self._tables[key] = score_table(self.sums, by=by, **self.intervals)
        return self._tables[key]

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {}

    @cached_property
    def sites(self) -> pd.DataFrame:
        """Scores of each tower: a row per target, site and model with its coordinates, n and every score."""
        frames = []
        for target in self.targets:
            m = pool(self.sums.moments[target], axis=1)
            scores, places = scores_of(m), self.sums.places[target].to_dataframe().reset_index(drop=True)
            for i, model in enumerate(self.models):
                one = {name: values[:, i] for name, values in scores.items()}
                frames.append(places.assign(target=target, model=model, n=m.n[:, i].astype(int), **one))
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def scales(self) -> pd.DataFrame:
        """Scores at every time scale, with intervals."""
        return scale_table(self.cube, self.predictions, **self.limits, **self.intervals)

    @cached_property
    def subsets(self) -> pd.DataFrame | str:
        """Scores in heat, cold, drought and transitions, with intervals; a reason if the cube has no such subsets."""
        try:
            parts = [self._subsets_of(slice(i, i + _BLOCK)) for i in range(0, self.cube.sizes["site"], _BLOCK)]
        except SchemaError as error:
            return str(error)
        sums = {name: Sums.join([part[name] for part in parts]) for name in parts[0]}
        tables = [score_table(one, **self.intervals).assign(group=name) for name, one in sums.items()]
        out = pd.concat(tables, ignore_index=True)
        out.attrs = tables[0].attrs | {"by": "subset"}
        return out

    def _subsets_of(self, sites: slice) -> dict[str, Sums]:
        """Return the sums of a block of towers in each subset: the weather of all towers would need much RAM."""
        cube = self.cube.isel(site=sites)
        names = [name for name in ("predictors", "surface_climatology") if name in cube]
        weather = cube[names]
        if "variable" in weather.dims:
            drivers = [name for name in ("TA", "VPD", "SW_IN_POT") if name in weather["variable"].values]
            weather = weather.sel(variable=drivers).load()  # read once: every variable of a chunk is decompressed
        masks = subset_masks(weather)
        chosen = {model: one.sel(site=cube["site"].values) for model, one in self.predictions.items()}
        return subset_sums(cube, chosen, masks, **self.limits)

    @cached_property
    def rows(self) -> CommonRows:
        """Observed and predicted values on the common rows, in RAM."""
        return rows_in_common(self.cube, self.predictions, **self.limits)

    @cached_property
    def series(self) -> xr.Dataset:
        """Series of every tower: of 8 days, or of months if those would be too many values for a page."""
        out = site_series(self.rows, step="8D")
        if sum(int(np.isfinite(out[name].values).sum()) for name in out.data_vars) > _MAX_VALUES:
            out = site_series(self.rows, step="month")
        return out

    @cached_property
    def classes(self) -> dict[str, str]:
        """IGBP class of every tower, training towers included; empty where the cube has no classes."""
        towers = self.cube if self.towers is None else self.towers
        if "igbp" not in towers.coords:
            return {}
        return dict(zip(map(str, towers["site"].values), map(str, towers["igbp"].values), strict=True))

    @cached_property
    def best(self) -> dict[str, str]:
        """Model with the highest pooled NSE, by flux; the first one where none is defined."""
        out = {}
        for target, rows in self.scores().groupby("target", sort=False):
            known = rows[rows["nse"].notna()]
            out[str(target)] = str(known.loc[known["nse"].idxmax(), "model"]) if len(known) else self.models[0]
        return out

    def has_groups(self, by: str) -> bool:
        """Return whether the scored towers can be grouped by a kind of group of `score_table`."""
        if by not in GROUPS:
            return False
        if by == "continent":
            return {"latitude", "longitude"} <= set(self.cube.coords)
        return by == "season" or self.has_coordinate("koppen" if by == "climate" else by)

    def has_coordinate(self, name: str) -> bool:
        """Return whether the scored towers have a coordinate, such as igbp, with a value at any of them."""
        if name not in self.cube.coords:
            return False
        return bool((np.asarray(self.cube[name].values).astype(str) != "").any())


def count_rows(
    cube: xr.Dataset, predictions: Mapping[str, xr.Dataset], targets: Sequence[str], limits: QualityOptions
) -> pd.DataFrame:
    """Count the rows (pairs of a tower and a time step) that each step of the row mask leaves.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of the towers to score.
    predictions : mapping of str to xr.Dataset
        Predictions by model.
    targets : sequence of str
        Fluxes.
    limits : mapping
        Limit of quality, as `site_sums` takes it.

    Returns
    -------
    pd.DataFrame
        Columns target, step, n (rows left), removed (rows that this step removed), n_sites (towers with a row left).
        The last step of a flux has the rows that are scored.
    """
    import dask

    resolution = resolution_of(cube)
    limit = quality_limit(
        resolution,
        limits.get("max_qc", DEFAULT),
        limits.get("min_quality", DEFAULT),
        default=resolution.measured,
    )
    steps: list[tuple[str, str, xr.DataArray]] = []
    for target in targets:
        obs = cube["fluxes"].sel(target=target).reset_coords(drop=True)
        mask = obs.notnull()
        steps.append((target, "finite observations", mask.sum("time")))
        flags = f"fluxes{resolution.quality}"
        if flags in cube and limit.value is not None:
            quality = cube[flags].sel(target=target).reset_coords(drop=True)
            best = xr.DataArray(best_flags(cube), dims="site")
            mask = mask & xr.apply_ufunc(limit.accepts, quality, best, dask="parallelized", output_dtypes=[bool])
            steps.append((target, f"with {limit}", mask.sum("time")))
        for model, data in predictions.items():
            mask = mask & data[target].reset_coords(drop=True).reindex(site=obs.site, time=obs.time).notnull()
            steps.append((target, f"where {model} has a value", mask.sum("time")))
    counts = dask.compute(*(count.data for *_, count in steps))
    rows = [
        {"target": target, "step": step, "n": int(count.sum()), "n_sites": int((count > 0).sum())}
        for (target, step, _), count in zip(steps, counts, strict=True)
    ]
    out = pd.DataFrame(rows)
    removed = -out.groupby("target", sort=False)["n"].diff()
    out.insert(3, "removed", removed.fillna(0).astype(int))
    return out


def evidence_of(
    cube: xr.Dataset,
    predictions: Mapping[str, xr.Dataset],
    *,
    seen: Seen | None = None,
    limits: QualityOptions | None = None,
    against: str | None = None,
    draws: int = 1000,
    clusters: float = 50.0,
    seed: int = 0,
    records: Mapping[str, Sequence[Mapping]] | None = None,
    towers: xr.Dataset | None = None,
    split: str = "",
    split_kind: str = "",
    left_out: tuple[str, ...] = (),
    in_time: bool = False,
    title: str = "Models at towers",
) -> Evidence:
    """Compute the sums of predictions at towers, and count their rows.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of the towers to score.
    predictions : mapping of str to xr.Dataset
        Predictions by model; they may be lazy.
    seen, limits, draws, clusters, seed, records, towers, split, split_kind, left_out, in_time, title
        As the attributes of `Evidence`.
    against : str, optional
        Model from which differences are computed; by default the first.

    Returns
    -------
    Evidence
    """
    limits = limits or QualityOptions()
    sums = site_sums(cube, predictions, seasons=True, **limits)
    return Evidence(
        cube=cube,
        predictions=predictions,
        sums=sums,
        targets=tuple(sums.targets),
        seen=seen or {},
        draws=draws,
        removed=count_rows(cube, predictions, sums.targets, limits),
        clusters=clusters,
        seed=seed,
        limits=limits,
        against=(against or sums.models[0]) if len(sums.models) > 1 else "",
        records=records or {},
        towers=towers,
        split=split,
        split_kind=split_kind,
        left_out=left_out,
        in_time=in_time,
        title=title,
    )

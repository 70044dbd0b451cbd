"""Score predictions by a benchmark protocol: its own metrics on its own rows, and fluxcube's scores beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, to_type
from fluxcube.evaluation.protocols import carbonfluxbench, carbonsense, fluxtrapolation
from fluxcube.evaluation.protocols.definitions import Protocol, find_protocol
from fluxcube.evaluation.protocols.rows import (
    ScoredRows,
    at_test_sites,
    in_test_period,
    mean_of,
    prepared,
    scored_rows,
)
from fluxcube.evaluation.protocols.tables import LOCAL_CLOCK
from fluxcube.evaluation.scales import scale_table
from fluxcube.evaluation.seeds import member_sums
from fluxcube.evaluation.skill import score_table
from fluxcube.evaluation.sums import Labelled, site_sums
from fluxcube.resolution import check_resolution

logger = logging.getLogger(__name__)

#: Predictions of a model, or of each of its seeds.
Predicted = Labelled | Sequence[Labelled]


@dataclass(frozen=True)
class ProtocolScores:
    """Scores of a benchmark protocol.

    Attributes
    ----------
    protocol : Protocol
        The protocol.
    benchmark : pd.DataFrame
        Scores by the benchmark's own definitions and names: of each environment and scale (FLUXtrapolation), of each
        site (CarbonFluxBench), or of each class (CarbonSense).
    summary : pd.DataFrame
        The benchmark's aggregation of them.
    own : pd.DataFrame
        Fluxcube's scores, on measured values, at up to eight scales; of CarbonSense by IGBP class.
    removed : pd.DataFrame
        Number of rows that each step left, with columns target, step, rows.
    rows : tuple of ScoredRows
        The scored rows.
    seeds : mapping of str to int
        Number of seeds of each model.
    notes : tuple of str
        Sites that are missing, fluxes that are not scored, models that were trained on test sites, and how the
        benchmark's definitions differ from fluxcube's.
    """

    protocol: Protocol
    benchmark: pd.DataFrame
    summary: pd.DataFrame
    own: pd.DataFrame
    removed: pd.DataFrame
    rows: tuple[ScoredRows, ...]
    seeds: Mapping[str, int]
    notes: tuple[str, ...]


def evaluate_protocol(
    name: str | Protocol,
    obs: Labelled,
    predictions: Mapping[str, Predicted],
    *,
    clusters: float = 50.0,
    draws: int = 1000,
    seed: int = 0,
) -> ProtocolScores:
    """Score predictions by a benchmark protocol.

    Parameters
    ----------
    name : str or Protocol
        One of `PROTOCOLS`, ``"fluxtrapolation/TA40"``.
    obs : xr.Dataset or xr.DataArray
        A tower cube, or the benchmark's own table (`read_benchmark`). Its sites are those of the protocol's test list;
        listed sites that it lacks are counted and named in the notes.
    predictions : mapping of str to xr.Dataset, or to a sequence of them
        Predictions by model, of models that were trained on the protocol's training sites (`Protocol.split`); several
        for the seeds of a model. Lazy ones are computed once, at the test sites. All models are scored at the time
        steps that all of them predict.
    clusters : float
        Distance in km within which sites are resampled together, for the intervals of CarbonSense's table.
    draws, seed : int
        Number of resampled sets, and seed of the random generator.

    Returns
    -------
    ProtocolScores

    Raises
    ------
    UnknownNameError
        If there is no such protocol.
    SchemaError
        If there is no test site or flux in common.
    ConfigError
        If there is no prediction, or the data have another resolution than the protocol.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=20).assign_coords(site=["AU-ASM", "AU-DaS", "US-Ton", "XX-Aaa"])
    >>> scores = evaluate_protocol("fluxtrapolation/TA40", cube, {"same": cube.fluxes})
    >>> [float(x) for x in scores.summary.query("scale == 'daily'").rmse_median], len(scores.benchmark.env.unique())
    ([0.0, 0.0], 3)
    """
    import dask

    protocol = find_protocol(name) if isinstance(name, str) else name
    members = {model: _members(one) for model, one in predictions.items()}
    if not members or not all(members.values()):
        raise ConfigError(
            f"{protocol.name}: expected a prediction for each model, found none; pass {{name: prediction}}."
        )
    if isinstance(obs, xr.Dataset):
        check_resolution(obs, protocol.resolution, f"the protocol {protocol.name}")
    observed = prepared(protocol, obs, "observations")
    predicted = {m: [prepared(protocol, one, m) for one in several] for m, several in members.items()}
    flat = {f"{m} {i}": one for m, several in predicted.items() for i, one in enumerate(several)}
    sites = at_test_sites(protocol, observed, flat)
    observed = in_test_period(protocol, observed.sel(site=sites))
    lazy = {m: [one.sel(site=sites) for one in several] for m, several in predicted.items()}
    observed, predicted = dask.compute(observed, lazy)  # once: three tables are computed from them
    means = {model: mean_of(several) for model, several in predicted.items()}
    if protocol.benchmark == "carbonsense":
        means = {f"{m} {i}": one for m, several in predicted.items() for i, one in enumerate(several)}
    rows, removed = scored_rows(protocol, observed, means)
    benchmark, summary, own = _tables(protocol, rows, observed, predicted, means, clusters, draws, seed)
    notes = _notes(protocol, sites, rows, predicted)
    for note in notes:
        logger.info("%s: %s", protocol.name, note)
    seeds = {m: max(len(several), int(several[0].attrs.get("ensemble_members", 1))) for m, several in predicted.items()}
    return ProtocolScores(
        protocol, benchmark, summary, own, removed, tuple(rows), seeds, (*notes, *protocol.differences)
    )


def _members(one: Predicted) -> list[Labelled]:
    return [one] if isinstance(one, xr.Dataset | xr.DataArray) else list(one)


def _tables(
    protocol: Protocol,
    rows: Sequence[ScoredRows],
    obs: xr.Dataset,
    predicted: Mapping[str, Sequence[xr.Dataset]],
    means: Mapping[str, xr.Dataset],
    clusters: float,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the benchmark's scores, its aggregation of them, and fluxcube's own scores."""
    if protocol.benchmark == "carbonsense":
        sums = member_sums(obs, predicted, **protocol.limit)
        table = carbonsense.class_table(sums, listed=protocol.sites(), clusters=clusters, draws=draws, seed=seed)
        own = score_table(site_sums(obs, means, **protocol.own_limit), by="igbp")
        return table, table[table["group"] == "all"].reset_index(drop=True), own
    own = scale_table(_with_local_days(obs), means, **protocol.own_limit)
    if protocol.benchmark == "fluxtrapolation":
        table = _by_model(protocol, rows, lambda row, pred: _environments(protocol, row, pred))
        return table, fluxtrapolation.summary(table), own
    table = _by_model(protocol, rows, lambda row, pred: _by_site(obs, row, pred))
    return table, carbonfluxbench.summary(table), own


def _with_local_days(obs: xr.Dataset) -> xr.Dataset:
    """Return observations whose local time stamps are not shifted by their longitude once more."""
    if not obs.attrs.get(LOCAL_CLOCK):
        return obs
    return obs.assign_coords(longitude=("site", np.zeros(obs.sizes["site"])))


def _by_model(protocol: Protocol, rows: Sequence[ScoredRows], scores) -> pd.DataFrame:
    """Return the tables of all fluxes and models as one, with columns target, setting and model."""
    frames = [
        scores(row, pred).assign(target=row.target, setting=protocol.setting, model=model)
        for row in rows
        for model, pred in row.preds.items()
    ]
    out = pd.concat(frames, ignore_index=True)
    first = ["target", "setting", "model"]
    return out[first + [name for name in out if name not in first]]


def _environments(protocol: Protocol, row: ScoredRows, pred: np.ndarray) -> pd.DataFrame:
    return fluxtrapolation.environment_scores(row.site, row.time, row.obs, pred, by_year=protocol.in_time)


def _by_site(obs: xr.Dataset, row: ScoredRows, pred: np.ndarray) -> pd.DataFrame:
    """Return CarbonFluxBench's metrics of each site with a scored day."""
    names = list(map(str, obs["site"].values))
    lines = []
    for site in np.unique(row.site):
        mask = row.site == site
        at = names.index(str(site))
        classes = {
            column: str(obs[name].values[at]) if name in obs.coords else ""
            for column, name in (("IGBP", "igbp"), ("Koppen", "koppen"))
        }
        metrics = carbonfluxbench.site_metrics(row.obs[mask], pred[mask])
        lines.append({"site": str(site), **classes, "n": int(mask.sum()), **metrics})
    columns = ["site", "IGBP", "Koppen", "n", *carbonfluxbench.METRICS]
    return pd.DataFrame(lines, columns=columns)


def _notes(
    protocol: Protocol,
    sites: Sequence[str],
    rows: Sequence[ScoredRows],
    predicted: Mapping[str, Sequence[xr.Dataset]],
) -> list[str]:
    listed = protocol.sites()
    absent = sorted(set(listed) - set(sites))
    notes = [f"{len(sites)} of the {len(listed)} listed test sites are scored"]
    notes += [f"listed test sites without data ({len(absent)}): {', '.join(absent)}"] if absent else []
    missing = [target for target in protocol.targets if target not in {row.target for row in rows}]
    notes += [f"not scored, because the data or a model lack it: {', '.join(missing)}"] if missing else []
    for model, several in predicted.items():
        known = [] if protocol.in_time else _trained_on(several, sites)
        if known:
            name = f"benchmark:{protocol.name}"
            split = to_type(python=f"split={name!r}", shell=f"--split {name}")
            notes.append(
                f"{model} was trained on {len(known)} of the test sites ({', '.join(known[:5])}"
                f"{', ...' if len(known) > 5 else ''}): its scores are not scores of this protocol; train it "
                f"with {split}"
            )
    return notes


def _trained_on(several: Sequence[xr.Dataset], sites: Sequence[str]) -> list[str]:
    """Return the test sites on which a model was trained, as its predictions record."""
    return sorted(
        {
            str(site)
            for one in several
            if "in_training" in one.coords
            for site, seen in zip(one["site"].values, one["in_training"].values, strict=True)
            if bool(seen) and str(site) in sites
        }
    )

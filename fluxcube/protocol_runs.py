"""Run benchmark protocols: train models on their splits, score them, and write the files of their leaderboards.

`score_classes` makes the table of CarbonSense, as `recipes/carbonsense_table1` does.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.evaluation.protocols.carbonsense import beside_published, class_table
from fluxcube.evaluation.protocols.definitions import find_protocol
from fluxcube.evaluation.protocols.files import write_class_table, write_protocol
from fluxcube.evaluation.protocols.scoring import ProtocolScores, evaluate_protocol
from fluxcube.evaluation.seeds import member_sums
from fluxcube.experiments import Variant, member_predictions
from fluxcube.knownsites import known_sites
from fluxcube.models import registry
from fluxcube.samples.benchmark_splits import benchmark_sites
from fluxcube.samples.partition import Split
from fluxcube.samples.splits import split_for
from fluxcube.simulation.published import write_v1
from fluxcube.simulation.records import Place, simulate_record

#: Protocol of the published table.
CARBONSENSE = "carbonsense/v1"
#: Name of its split and its row mask in the table of published scores.
_NAME, _MASK = "carbonsense-v1", "flag <= 1"
#: A pickle of an empty mapping, as CarbonSense has it for a site without images.
_NO_IMAGES = b"}."


def run_protocols(
    cube: xr.Dataset,
    names: Sequence[str],
    models: Sequence[Mapping[str, object]],
    out: str | Path,
    *,
    log: Callable[[str], object] | None = None,
) -> dict[str, ProtocolScores]:
    """Train models on the splits of benchmark protocols, score them, and write ``scores/`` with the benchmarks' files.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of towers.
    names : sequence of str
        Protocols (`fluxcube.evaluation.protocols.PROTOCOLS`); the three settings of FLUXtrapolation together make its
        files of each model.
    models : sequence of mapping
        Settings of each model (`fluxcube.experiments.Variant`).
    out : path
        Folder of runs, predictions and scores; what is finished there is not repeated.
    log : callable, optional
        Called with one line of text for each finished step.

    Returns
    -------
    dict of str to ProtocolScores
        By protocol.

    Raises
    ------
    UnknownNameError
        If there is no such protocol.
    SplitError
        If the cube contains none of the test sites of a protocol, or no site to train.
    """
    protocols = [find_protocol(name) for name in names]
    variants = [Variant.from_dict(dict(line)) for line in models]
    found = {}
    for protocol in protocols:
        split = protocol.split(cube)
        predictions = {v.label: member_predictions(cube, split, v, out, log=log or _quiet) for v in variants}
        found[protocol.name] = evaluate_protocol(protocol, cube, predictions)
        write_protocol(found[protocol.name], Path(out) / "scores", overwrite=True)
    return found


def _quiet(text: str) -> None:
    """Ignore finished steps."""


def score_classes(
    cube: xr.Dataset,
    out: str | Path,
    *,
    models: Sequence[Mapping[str, object]],
    seeds: int = 10,
    split: str = f"benchmark:{CARBONSENSE}",
    published: pd.DataFrame | None = None,
    log: Callable[[str], object] | None = None,
) -> pd.DataFrame:
    """Train several seeds of models on one split, and write their scores by IGBP class as the CarbonSense paper does.

    Parameters
    ----------
    cube : xr.Dataset
        Hourly cube of towers.
    out : path
        Folder of runs, predictions and ``scores/``; what is finished there is not repeated.
    models : sequence of mapping
        Settings of each model (`fluxcube.experiments.Variant`). As in the paper, models that are not trained by descent
        train on the validation sites as well.
    seeds : int
        Number of seeds of each model.
    split : str
        Kind of split, or a file (`fluxcube.samples.splits.split_for`); by default the published one.
    published : pandas.DataFrame, optional
        Published scores to set beside those of the published split
        (`fluxcube.evaluation.published.published_scores`).
    log : callable, optional
        Called with one line of text for each finished step.

    Returns
    -------
    pandas.DataFrame
        Table of `fluxcube.evaluation.protocols.carbonsense.class_table`.

    Raises
    ------
    ConfigError
        If `seeds` is below 1.
    SplitError
        If the cube contains none of the test sites, or no site to train.
    """
    if seeds < 1:
        raise ConfigError(f"seeds: expected 1 or more, found {seeds}.")
    chosen = split_for(cube, split)
    members = {}
    for line in models:
        variant = Variant.from_dict({**line, "seeds": seeds})
        part = chosen if registry.by_descent(variant.model) else _with_validation(chosen)
        members[variant.label] = member_predictions(cube, part, variant, out, log=log or _quiet)
    sums = member_sums(chosen.part(cube, "test"), members, max_qc=1)
    classes = dict(zip(map(str, cube["site"].values), map(str, cube["igbp"].values), strict=True))
    listed = benchmark_sites(CARBONSENSE) if chosen.kind == CARBONSENSE else ()
    table = class_table(sums, seen={classes[site] for site in (*chosen.train, *chosen.val)}, listed=listed)
    if published is not None and chosen.kind == CARBONSENSE:
        table = beside_published(table, published, split=_NAME, mask=_MASK)
    notes = (*chosen.notes, *find_protocol(CARBONSENSE).differences)
    write_class_table(table, Path(out) / "scores", title=f"Test towers of the split {chosen.kind}", notes=notes)
    return table


def _with_validation(split: Split) -> Split:
    """Return a split whose validation sites train."""
    counts = {name: [train + val, 0, test] for name, (train, val, test) in split.counts.items()}
    return dataclasses.replace(split, train=(*split.train, *split.val), val=(), counts=counts)


def sample_carbonsense(out: str | Path, *, train: int = 5, val: int = 1, test: int = 4) -> Path:
    """Return a folder in the layout of CarbonSense v1 with simulated records of some of its towers, written once.

    Parameters
    ----------
    out : path
        Output folder of the recipe.
    train, val, test : int
        Number of towers of each part of the published split.

    Returns
    -------
    Path
        ``out/raw/carbonsense``; the records are simulated, and there are no images.
    """
    raw, unfinished = Path(out) / "raw" / "carbonsense", Path(out) / "raw.part"
    if raw.exists():
        return raw
    shutil.rmtree(unfinished, ignore_errors=True)
    known = known_sites().set_index("site")
    counts = {"train": train, "val": val, "test": test}
    for site in (s for part, count in counts.items() for s in benchmark_sites(CARBONSENSE, part)[:count]):
        row = known.loc[site]
        place = Place(
            site=site,
            latitude=float(row["latitude"]),
            longitude=float(row["longitude"]),
            igbp=str(row["igbp"]) or "WAT",
            utc_offset=float(row["utc_offset"] if np.isfinite(row["utc_offset"]) else round(row["longitude"] / 15)),
        )
        record = simulate_record(place, "2012-06-01", days=4, step_minutes=60)
        write_v1(unfinished / "carbonsense", record, place, dump=lambda images: _NO_IMAGES)
    raw.parent.mkdir(parents=True, exist_ok=True)
    (unfinished / "carbonsense").rename(raw)
    unfinished.rmdir()
    return raw

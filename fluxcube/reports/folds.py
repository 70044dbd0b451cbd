"""Folds of a report: which towers are scored, in which periods, and which towers the models were trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.reports.evidence import Seen
from fluxcube.samples.partition import PARTS
from fluxcube.samples.splits import Split


class Predicted(Protocol):
    """Predictions of a model, and the splits of its runs."""

    @property
    def predictions(self) -> xr.Dataset:
        """Predictions (site, time)."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits of its runs; none if only predictions were passed."""


#: Parts of a split that can be scored.
SCORED_PARTS = ("test", "val", "train", "all")


def towers_of(split: Split | None, cube: xr.Dataset, part: str) -> xr.Dataset:
    """Return the towers of a part of a split, with the fluxes of its periods; every tower for "all".

    Raises
    ------
    ConfigError
        If the split has no such towers, or the cube lacks some of them.
    """
    if part not in SCORED_PARTS:
        raise ConfigError(f"part={part!r}: expected one of {', '.join(SCORED_PARTS)}.")
    if part == "all":
        return cube
    sites = () if split is None else getattr(split, part)
    if not sites:
        raise ConfigError(
            f'a run has no {part} towers in its split: choose another part, or "all" to score every tower of the cube.'
        )
    if absent := sorted(set(sites) - set(map(str, cube["site"].values))):
        some = f"{', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}"
        raise ConfigError(
            f"the cube lacks {len(absent)} of the {len(sites)} {part} towers of a run ({some}): pass the cube that was "
            'split, or part="all" to score every tower of this one.'
        )
    assert split is not None
    return split.part(cube, part)


def training_of(splits: Sequence[Split], sites: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the towers that were used for training and validation when a tower was predicted, by tower.

    Parameters
    ----------
    splits : sequence of Split
        Splits of the folds.
    sites : sequence of str
        Scored towers; those that no fold tests are absent from the result, except if there is one split only.
    """
    out: dict[str, frozenset[str]] = {}
    for split in splits:
        used = frozenset((*split.train, *split.val))
        tested = sites if len(splits) == 1 else [site for site in split.test if site in set(sites)]
        out |= dict.fromkeys(map(str, tested), used)
    return out


def seen_by(gathered: Mapping[str, Predicted], splits: Sequence[Split], sites: Sequence[str]) -> Seen:
    """Return the training towers of every model, by scored tower: those of its runs, else those of `splits`."""
    out = {}
    for label, one in gathered.items():
        if known := one.splits or tuple(splits):
            out[label] = training_of(known, sites)
    return out


def kind_of(split: Split) -> str:
    """Return the kind of a split, without the number of the fold.

    >>> kind_of(Split(train=("a",), kind="kfold 2 of 5"))
    'kfold'
    """
    return re.sub(r" \d+ of \d+$", "", split.kind)


def describe_splits(splits: Sequence[Split]) -> str:
    """Return the splits in words, for the section on rows."""
    if not splits:
        return ""
    kinds = list(dict.fromkeys(kind_of(split) for split in splits))
    folds = "one fold" if len(splits) == 1 else f"{len(splits)} folds"
    sizes = [f"{len(split.train)}/{len(split.val)}/{len(split.test)}" for split in splits]
    buffers = sorted({split.buffer_km for split in splits})
    text = f"{', '.join(kinds)}, {folds}; training/validation/test towers {', '.join(sizes)}"
    if any(buffers):
        text += f"; towers closer than {max(buffers):g} km are in one part"
    seeds = sorted({split.seed for split in splits if split.seed is not None})
    return text + (f"; seed of the split {', '.join(map(str, seeds))}" if seeds else "")


def scored_towers(
    cube: xr.Dataset, gathered: Mapping[str, Predicted], splits: Sequence[Split], part: str
) -> xr.Dataset:
    """Return the cube of the towers that every model predicts, with the fluxes of the scored periods.

    Raises
    ------
    ConfigError
        If the models have no tower of the cube in common.
    """
    first = next((one.splits for one in gathered.values() if one.splits), tuple(splits))
    if part in PARTS and any(split.periods for split in first):
        parts = [split.part(cube, part) for split in first if getattr(split, part)]
        cube = (
            parts[0] if len(parts) == 1 else xr.concat(parts, "site", join="outer", coords="minimal", compat="override")
        )
    sites = [str(site) for site in cube["site"].values]
    common = [s for s in sites if all(s in one.predictions.indexes["site"] for one in gathered.values())]
    if not common:
        counts = ", ".join(f"{label} {one.predictions.sizes['site']}" for label, one in gathered.items())
        raise ConfigError(
            f"nothing to score: the models and the cube of {len(sites)} towers have no tower in common (towers of the "
            f"models: {counts}); pass the cube that the models were tested on."
        )
    chosen = cube.sel(site=common)
    bounds = [one.predictions["time"].values[[0, -1]] for one in gathered.values() if one.predictions.sizes["time"]]
    start, stop = min(b[0] for b in bounds), max(b[1] for b in bounds)
    inside = (chosen["time"].values >= np.datetime64(start)) & (chosen["time"].values <= np.datetime64(stop))
    return chosen.isel(time=inside)

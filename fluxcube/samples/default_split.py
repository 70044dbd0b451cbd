"""The split of a run that names none: class by class where there are enough towers, else a fold of whole clusters."""

from __future__ import annotations

import dataclasses
import logging

from fluxcube.errors import SplitError
from fluxcube.samples.cluster_splits import kfold, one_cluster, per_igbp
from fluxcube.samples.clusters import Places
from fluxcube.samples.partition import Split
from fluxcube.tabletext import counted

log = logging.getLogger(__name__)

#: Number of folds, or of clusters where there are fewer.
_FOLDS = 5


def default_split(cube, *, seed: int = 0, buffer_km: float = 50.0) -> Split:
    """Split towers class by class, or take one of five folds of whole clusters where that would leave too few to train.

    `per_igbp` is taken if at least half of the towers train, and some validate and test. Otherwise, which is usual for
    fewer than some thirty towers of many classes, the first of the folds of `kfold` with these properties is taken; of
    fewer than five clusters, each is a fold; if no fold has these properties, that with the most training towers. The
    notes of the split say so.

    Parameters
    ----------
    cube : xr.Dataset
        With latitude, longitude and igbp on site.
    seed : int
        Of the draw.
    buffer_km : float
        Towers closer than this are in the same part.

    Returns
    -------
    Split
        Of two clusters without validation towers, of three or more with towers in each part.

    Raises
    ------
    SplitError
        If there is only one tower, or all are one cluster.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> default_split(example_cube(sites=3, days=2)).kind
    'kfold 1 of 3'
    """
    places = Places.of(cube, buffer_km)
    try:
        split = per_igbp(cube, seed=seed, buffer_km=buffer_km)
        if split.val and split.test:
            return split
        fault = f"would leave no tower to {'test' if split.val else 'validate'}"
    except SplitError as error:
        fault = str(error).partition(":")[0]
    if len(places.groups) < 2:
        raise one_cluster(places)
    folds = kfold(cube, k=min(_FOLDS, len(places.groups)), seed=seed, buffer_km=buffer_km)
    chosen = next((fold for fold in folds if _complete(fold, len(places.sites))), None)
    chosen = chosen or max(folds, key=lambda fold: (bool(fold.val), len(fold.train)))
    note = _note(places, chosen, fault)
    log.warning("%s", note)
    return dataclasses.replace(chosen, notes=(*chosen.notes, note))


def _complete(fold: Split, towers: int) -> bool:
    """Return whether at least half of the towers train, and some validate."""
    return bool(fold.val) and 2 * len(fold.train) >= towers


def _note(places: Places, fold: Split, fault: str) -> str:
    number = fold.kind.removeprefix("kfold ")
    parts = f"{len(fold.train)} train, {len(fold.val)} validate, {len(fold.test)} test"
    return (
        f"{counted(len(places.sites), 'tower')}, {counted(len(set(places.igbp)), 'IGBP class', 'IGBP classes')}: "
        f"fold {number} of whole clusters ({parts}) instead of per-igbp, by which {fault}"
    )

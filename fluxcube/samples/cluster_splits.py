"""Splits by whole clusters of neighbouring towers: class by class, and in folds."""

from __future__ import annotations

import math
import os
from collections import Counter

import numpy as np
import xarray as xr

from fluxcube.cubes.selection import as_cube
from fluxcube.errors import SplitError, to_type
from fluxcube.samples.clusters import Places
from fluxcube.samples.partition import Split
from fluxcube.samples.time_splits import described_split

#: Buffers (km) that a message proposes where all towers are one cluster.
_BUFFERS = (20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.0)


def per_igbp(cube, *, seed: int = 0, buffer_km: float = 50.0) -> Split:
    """Split towers class by class: of n sites about min(5, ceil(n / 5)) test, the rest 80/20 train and val.

    Clusters move whole, so a class may get more or fewer than its share.

    Parameters
    ----------
    cube : xr.Dataset
        With latitude, longitude and igbp on site.
    seed : int
        Of the draw.
    buffer_km : float
        Towers closer than this are on one side; 0 reproduces the CarbonSense paper.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If fewer than half of the sites are training sites.

    References
    ----------
    Fortier et al. 2024, arXiv:2406.04940.
    """
    places = Places.of(cube, buffer_km)
    rng = np.random.default_rng(seed)
    test = places.draw({c: min(5, math.ceil(0.2 * n)) for c, n in Counter(places.igbp).items()}, rng)
    rest = [g for g in places.groups if g not in test]
    split = rest_split(places, places.at(test), places.at(rest), rng, kind="per_igbp", seed=seed) if rest else None
    training = len(split.train) if split else 0
    if split is None or 2 * training < len(places.sites):
        raise SplitError(
            f"only {training} of {len(places.sites)} sites would train: use folds of whole clusters, "
            + to_type(python="split=fluxcube.kfold(cube)[0].", shell="--split kfold:1.")
        )
    return split


def kfold(
    cube: xr.Dataset | str | os.PathLike,
    *,
    k: int = 5,
    seed: int = 0,
    buffer_km: float = 50.0,
    val_km: float | None = None,
) -> list[Split]:
    """Split towers into k folds of whole clusters; each is the test of one split, and a fifth of the rest its val.

    Classes are spread over the folds as evenly as whole clusters allow: no move of a cluster to another fold, and no
    exchange of two, brings the folds' numbers of sites, by class and in all, nearer to a k-th.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A cube, or a Dataset with latitude, longitude and igbp on site.
    k : int
        Folds, 2 or more.
    seed : int
        Of the draw.
    buffer_km : float
        Towers closer than this are on one side; 150 tests on distant blocks.
    val_km : float, optional
        Validate on blocks this far from the training towers, so that what is chosen there suits new regions rather
        than neighbours; by default `buffer_km`.

    Returns
    -------
    list of Split
        k of them; every site is tested once.

    Raises
    ------
    SplitError
        If there are fewer clusters than folds, or so few that a fold would leave none to train.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> [len(fold.test) for fold in kfold(example_cube(sites=12, days=2), k=4)]
    [3, 3, 3, 3]
    """
    places = Places.of(as_cube(cube), buffer_km)
    val_km = buffer_km if val_km is None else val_km
    if len(places.groups) < 2:
        raise one_cluster(places)
    if not 2 <= k <= len(places.groups):
        raise SplitError(f"k must be 2..{len(places.groups)}, the number of clusters; found {k}.")
    if val_km < buffer_km:
        raise SplitError(f"val_km must be buffer_km ({buffer_km:g}) or more, else a cluster is cut; found {val_km:g}.")
    rng = np.random.default_rng(seed)
    splits: list[Split] = []
    for fold in places.deal(k, rng):
        test, rest = places.at(fold), places.at(g for g in places.groups if g not in fold)
        kind = f"kfold {len(splits) + 1} of {k}"
        splits.append(rest_split(places, test, rest, rng, kind=kind, seed=seed, val_km=val_km))
    return splits


def rest_split(
    places: Places,
    test: list[int],
    rest: list[int],
    rng: np.random.Generator,
    *,
    kind: str,
    seed: int,
    val_km: float | None = None,
    notes: tuple[str, ...] = (),
) -> Split:
    """Draw a fifth of the `rest` for validation, in whole groups; the others are training sites."""
    left = places.take(rest, val_km)
    val = left.draw(left.share(0.2, rng), rng) if len(left.groups) > 1 else set()
    if not val and len(left.groups) > 1:
        val = {min(left.groups, key=lambda g: (len(left.members[g]), g))}
    if len(val) == len(left.groups):
        raise SplitError(f"no cluster of {len(places.groups)} is left to train: use fewer folds or a smaller buffer.")
    parts = [left.at(g for g in left.groups if g not in val), left.at(val)]
    named = [[left.sites[i] for i in part] for part in parts] + [[places.sites[i] for i in test]]
    far = (
        () if val_km in (None, places.buffer_km) else (f"validation blocks are more than {val_km:g} km from training",)
    )
    return described_split(places, named, kind=kind, seed=seed, buffer_km=places.buffer_km, notes=(*notes, *far))


def one_cluster(places: Places) -> SplitError:
    """Return the error for towers of which none can be held out, with what to type instead."""
    in_time = to_type(python='split="time"', shell="--split time, or write the split with --kind time")
    if len(places.sites) == 1:
        return SplitError(
            f"{places.sites[0]} is the only tower, so no other can validate or test: add towers, or split its years "
            f"with {in_time}."
        )
    return SplitError(
        f"all {len(places.sites)} towers are one cluster: each is within {places.buffer_km:g} km of another, so that "
        f"none can be held out. Split their years with {in_time}{_smaller(places)}."
    )


def _smaller(places: Places) -> str:
    """Return what to type for a buffer small enough for three clusters; "" if two towers or places are there."""
    everywhere = range(len(places.sites))
    enough = (km for km in _BUFFERS if len(places.take(everywhere, km).groups) >= 3)
    km = next((km for km in enough if km < places.buffer_km), None)
    if km is None:
        return ""
    folds = to_type(
        python=f"split=fluxcube.kfold(cube, k=3, buffer_km={km:g})[0]",
        shell=f"`fluxcube split carbonsense.zarr folds.json --kind kfold --k 3 --buffer-km {km:g}`, then --split "
        "folds.json:1",
    )
    return f", or accept neighbours that are farther apart than {km:g} km: {folds}"

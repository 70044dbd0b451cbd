"""Splits: which towers train, which stop training, which are kept to score; neighbours never part.

Towers closer than a buffer see the same weather and often the same stand, so clusters of them move whole.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fluxcube.errors import SplitError, unknown

#: Mean radius of the Earth (IUGG), km.
_EARTH = 6371.0088


@dataclass(frozen=True)
class Split:
    """Sites by use.

    Attributes
    ----------
    train, val, test : tuple of str
        Disjoint lists of sites.
    kind : str
        How it was made.
    seed : int or None
        Of the draw.
    buffer_km : float
        Sites closer than this are on one side.
    counts : mapping
        Class to its numbers of train, val and test sites.
    zero_shot : tuple of str
        Classes that are tested but not trained.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    kind: str = "given"
    seed: int | None = None
    buffer_km: float = 0.0
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    zero_shot: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("train", "val", "test", "zero_shot"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        twice = [site for site, n in Counter((*self.train, *self.val, *self.test)).items() if n > 1]
        if twice:
            raise SplitError(f"{', '.join(sorted(twice))}: listed more than once in the split; list each site once.")
        if not self.train:
            raise SplitError("a split must have at least one training site; its list is empty.")

    def to_dict(self) -> dict:
        """Return what JSON can hold; `from_dict` is its inverse."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> Split:
        """Make a split of what `to_dict` returned, refusing unknown keys (UnknownNameError)."""
        valid = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in valid:
                raise unknown("split key", key, valid)
        return cls(**values)

    def save(self, path: str | os.PathLike) -> None:
        """Write the split as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Split:
        """Read a split that `save` wrote.

        Raises
        ------
        SplitError
            If the file is missing or is no split.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text("utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SplitError(f"{path} is not a split file (JSON with train, val and test lists): {error}") from error

    def check(self, sites: Sequence[str]) -> None:
        """Raise UnknownNameError if the split names a site that is not among `sites`."""
        known = set(map(str, sites))
        for site in (*self.train, *self.val, *self.test):
            if site not in known:
                raise unknown("site of the split", site, known)


def cluster_sites(latitude: np.ndarray, longitude: np.ndarray, buffer_km: float = 50.0) -> np.ndarray:
    """Group sites so that any two within `buffer_km` share a group (single linkage).

    Parameters
    ----------
    latitude, longitude : (n,) float
        Degrees.
    buffer_km : float
        Great-circle distance; 0 leaves every site alone.

    Returns
    -------
    (n,) int64
        Group of each site, numbered by first appearance.

    Examples
    --------
    >>> cluster_sites([50.0, 50.1, 50.2, 60.0], [8.0, 8.0, 8.0, 8.0], buffer_km=15).tolist()
    [0, 0, 0, 1]
    """
    lat, lon = np.deg2rad(np.asarray(latitude, float)), np.deg2rad(np.asarray(longitude, float))
    label = np.full(len(lat), -1)
    for first in range(len(lat)):
        if label[first] >= 0:
            continue
        label[first] = group = label.max() + 1
        edge = [first] if buffer_km > 0 else []
        while edge:
            at = edge.pop()
            near = (_distance(lat[at], lon[at], lat, lon) <= buffer_km) & (label < 0)
            label[near] = group
            edge += np.flatnonzero(near).tolist()
    return label


def _distance(lat: float, lon: float, lats: np.ndarray, lons: np.ndarray) -> np.ndarray:
    """Great-circle distance in km (haversine), angles in radians."""
    a = np.sin((lats - lat) / 2) ** 2 + np.cos(lat) * np.cos(lats) * np.sin((lons - lon) / 2) ** 2
    return 2 * _EARTH * np.arcsin(np.sqrt(np.minimum(a, 1.0)))


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
        If fewer than half of the sites would train.

    References
    ----------
    Fortier et al. 2024, arXiv:2406.04940.
    """
    table = _Table.of(cube, buffer_km)
    rng = np.random.default_rng(seed)
    sizes = Counter(table.igbp)
    test = table.draw({c: min(5, math.ceil(0.2 * n)) for c, n in sizes.items()}, rng, table.groups)
    rest = [g for g in table.groups if g not in test]
    split = table.split(test, rest, rng, kind="per_igbp", seed=seed, buffer_km=buffer_km) if rest else None
    training = len(split.train) if split else 0
    if 2 * training < len(table.sites):
        raise SplitError(
            f"only {training} of {len(table.sites)} sites would train: use kfold(cube, k=5) and average the folds, or "
            "give your own Split."
        )
    return split


def kfold(cube, *, k: int = 5, seed: int = 0, buffer_km: float = 50.0) -> list[Split]:
    """Split towers into k folds of whole clusters; each is the test of one split, and a fifth of the rest its val.

    Parameters
    ----------
    cube : xr.Dataset
        With latitude, longitude and igbp on site.
    k : int
        Folds, 2 or more.
    seed, buffer_km
        As for `per_igbp`.

    Returns
    -------
    list of Split
        k of them; every site is tested once.

    Raises
    ------
    SplitError
        If there are fewer clusters than folds, or so few that a fold would leave none to train.
    """
    table = _Table.of(cube, buffer_km)
    if not 2 <= k <= len(table.groups):
        raise SplitError(f"k must be 2..{len(table.groups)}, the number of clusters; found {k}.")
    rng = np.random.default_rng(seed)
    folds = table.deal(k, rng)
    splits = []
    for fold in folds:
        rest = [g for g in table.groups if g not in fold]
        splits.append(
            table.split(fold, rest, rng, kind=f"kfold {len(splits) + 1} of {k}", seed=seed, buffer_km=buffer_km)
        )
    return splits


@dataclass(frozen=True)
class _Table:
    """Sites, their classes, and which of them form each group."""

    sites: tuple[str, ...]
    igbp: tuple[str, ...]
    members: Mapping[int, tuple[int, ...]]

    @classmethod
    def of(cls, cube, buffer_km: float) -> _Table:
        label = cluster_sites(cube["latitude"].values, cube["longitude"].values, buffer_km)
        members = {int(g): tuple(np.flatnonzero(label == g).tolist()) for g in np.unique(label)}
        igbp = tuple(str(c) or "unknown" for c in np.atleast_1d(cube["igbp"].values))
        return cls(tuple(map(str, np.atleast_1d(cube["site"].values))), igbp, members)

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(self.members)

    def classes(self, group: int) -> Counter:
        return Counter(self.igbp[i] for i in self.members[group])

    def draw(self, quota: Mapping[str, int], rng: np.random.Generator, groups: Sequence[int]) -> set[int]:
        """Take groups, in random order, as long as each brings the classes nearer to their quotas."""
        chosen: set[int] = set()
        taken: Counter = Counter()
        for group in rng.permutation(sorted(groups)).tolist():
            more = self.classes(group)
            gain = sum(abs(taken[c] - quota.get(c, 0)) - abs(taken[c] + n - quota.get(c, 0)) for c, n in more.items())
            if gain > 0:
                chosen.add(group)
                taken += more
        return chosen

    def deal(self, k: int, rng: np.random.Generator) -> list[set[int]]:
        """Deal groups, large ones first, each to the fold that has least of its classes, then fewest sites."""
        folds: list[set[int]] = [set() for _ in range(k)]
        held = [Counter() for _ in range(k)]
        order = rng.permutation(sorted(self.groups)).tolist()
        for group in sorted(order, key=lambda g: -len(self.members[g])):
            more = self.classes(group)
            # An empty fold comes first: every fold must test something.
            load = [
                (bool(fold), sum(h[c] * n for c, n in more.items()), h.total())
                for fold, h in zip(folds, held, strict=True)
            ]
            at = load.index(min(load))
            folds[at].add(group)
            held[at] += more
        return folds

    def split(self, test: set[int], rest: Sequence[int], rng: np.random.Generator, **about) -> Split:
        """Draw a fifth of the `rest` for val and train on the others."""
        val = self.draw(self._fifth(rest, rng), rng, rest) if len(rest) > 1 else set()
        if not val and len(rest) > 1:
            val = {min(rest, key=lambda g: (len(self.members[g]), g))}
        parts = [set(rest) - val, val, test]
        if not parts[0]:
            raise SplitError(f"no cluster of {len(self.groups)} is left to train: use fewer folds or a smaller buffer.")
        indices = [sorted(i for g in part for i in self.members[g]) for part in parts]
        train, val_sites, test_sites = (tuple(self.sites[i] for i in part) for part in indices)
        counts = {c: [sum(self.igbp[i] == c for i in part) for part in indices] for c in sorted(set(self.igbp))}
        zero = tuple(c for c, (n, _, tested) in counts.items() if not n and tested)
        return Split(train, val_sites, test_sites, counts=counts, zero_shot=zero, **about)

    def _fifth(self, groups: Sequence[int], rng: np.random.Generator) -> dict[str, int]:
        """Quotas that add up to a fifth of the sites: the largest remainders are rounded up."""
        sizes = sum((self.classes(g) for g in groups), Counter())
        quota = {c: math.floor(0.2 * n) for c, n in sizes.items()}
        wanted = max(1, round(0.2 * sizes.total()))
        by_rest = sorted(rng.permutation(sorted(sizes)).tolist(), key=lambda c: quota[c] - 0.2 * sizes[c])
        for c in by_rest[: wanted - sum(quota.values())]:
            quota[c] += 1
        return quota

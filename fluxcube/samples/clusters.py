"""Clusters of neighbouring towers, and their assignment to parts of a split by location and class alone."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Mean radius of the Earth (IUGG), km.
_EARTH = 6371.0088


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


def neighbours(latitude: np.ndarray, longitude: np.ndarray, of: Sequence[int], buffer_km: float) -> np.ndarray:
    """Return which sites (n,) lie within `buffer_km` of one of the sites `of` (their positions), those included."""
    lat, lon = np.deg2rad(np.asarray(latitude, float)), np.deg2rad(np.asarray(longitude, float))
    near = np.zeros(len(lat), bool)
    for at in of:
        near[at] = True
        if buffer_km > 0:
            near |= _distance(lat[at], lon[at], lat, lon) <= buffer_km
    return near


def _distance(lat: float, lon: float, lats: np.ndarray, lons: np.ndarray) -> np.ndarray:
    """Great-circle distance in km (haversine), angles in radians."""
    a = np.sin((lats - lat) / 2) ** 2 + np.cos(lat) * np.cos(lats) * np.sin((lons - lon) / 2) ** 2
    return 2 * _EARTH * np.arcsin(np.sqrt(np.minimum(a, 1.0)))


@dataclass(frozen=True)
class Places:
    """Names, locations, classes and groups of sites: the only information that random draws use.

    Attributes
    ----------
    sites, igbp : tuple of str
        Names and classes.
    latitude, longitude : (n,) float
        Degrees.
    buffer_km : float
        Sites closer than this share a group.
    members : mapping
        Group to the positions of its sites.
    """

    sites: tuple[str, ...]
    igbp: tuple[str, ...]
    latitude: np.ndarray
    longitude: np.ndarray
    buffer_km: float
    members: Mapping[int, tuple[int, ...]]

    @classmethod
    def of(cls, cube, buffer_km: float) -> Places:
        """Return the sites of a cube, or of any Dataset with latitude, longitude and igbp on site."""
        igbp = tuple(str(c) or "unknown" for c in np.atleast_1d(cube["igbp"].values))
        sites = tuple(map(str, np.atleast_1d(cube["site"].values)))
        lat, lon = (np.atleast_1d(np.asarray(cube[name].values, float)) for name in ("latitude", "longitude"))
        return cls._grouped(sites, igbp, lat, lon, buffer_km)

    @classmethod
    def _grouped(cls, sites, igbp, latitude, longitude, buffer_km) -> Places:
        label = cluster_sites(latitude, longitude, buffer_km)
        members = {int(g): tuple(np.flatnonzero(label == g).tolist()) for g in np.unique(label)}
        return cls(sites, igbp, latitude, longitude, buffer_km, members)

    def take(self, positions: Iterable[int], buffer_km: float | None = None) -> Places:
        """Return a selection of the sites, with groups computed from this selection alone."""
        at = sorted(positions)
        names, classes = (tuple(values[i] for i in at) for values in (self.sites, self.igbp))
        buffer_km = self.buffer_km if buffer_km is None else buffer_km
        return self._grouped(names, classes, self.latitude[at], self.longitude[at], buffer_km)

    @property
    def groups(self) -> tuple[int, ...]:
        """Labels of the groups."""
        return tuple(self.members)

    @property
    def digest(self) -> str:
        """Hash of names, locations (to 1e-4 degrees, about 10 m) and classes, on which draws depend."""
        rows = zip(self.sites, self.latitude, self.longitude, self.igbp, strict=True)
        text = "\n".join(f"{site},{lat:.4f},{lon:.4f},{igbp}" for site, lat, lon, igbp in rows)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def at(self, groups: Iterable[int]) -> list[int]:
        """Return the positions of the sites of some groups."""
        return sorted(i for group in groups for i in self.members[group])

    def classes(self, group: int) -> Counter:
        """Return the number of sites of each class in a group."""
        return Counter(self.igbp[i] for i in self.members[group])

    def draw(self, quota: Mapping[str, int], rng: np.random.Generator) -> set[int]:
        """Return groups, in random order, each of which brings the classes closer to their quotas."""
        chosen: set[int] = set()
        taken: Counter = Counter()
        for group in rng.permutation(sorted(self.groups)).tolist():
            more = self.classes(group)
            gain = sum(abs(taken[c] - quota.get(c, 0)) - abs(taken[c] + n - quota.get(c, 0)) for c, n in more.items())
            if gain > 0:
                chosen.add(group)
                taken += more
        return chosen

    def share(self, part: float, rng: np.random.Generator) -> dict[str, int]:
        """Return the number of sites of each class for a fraction of all sites (largest remainders are rounded up)."""
        sizes = Counter(self.igbp)
        quota = {c: math.floor(part * n) for c, n in sizes.items()}
        wanted = max(1, round(part * len(self.sites)))
        by_rest = sorted(rng.permutation(sorted(sizes)).tolist(), key=lambda c: quota[c] - part * sizes[c])
        for c in by_rest[: max(0, wanted - sum(quota.values()))]:
            quota[c] += 1
        return quota

    def deal(self, k: int, rng: np.random.Generator) -> list[set[int]]:
        """Assign groups to k folds: large groups first, then moves and exchanges until none improves the balance.

        The balance is the sum, over folds and classes, of the squared difference between the number of sites of a
        class in a fold and 1/k of the class, plus the same for all sites together. No move of one group and no
        exchange of two groups reduces it further.
        """
        order = rng.permutation(sorted(self.groups)).tolist()
        order.sort(key=lambda g: -len(self.members[g]))
        vectors = self._vectors(order)
        held = np.zeros((k, vectors.shape[1]), int)
        fold = np.empty(len(order), int)
        for i, vector in enumerate(vectors):
            # An empty fold comes first: every fold must test something.
            load = [(bool(h.any()), int(h @ vector), int(h[-1])) for h in held]
            fold[i] = load.index(min(load))
            held[fold[i]] += vector
        while _improve(fold, vectors, held):
            pass
        return [{order[i] for i in np.flatnonzero(fold == f)} for f in range(k)]

    def _vectors(self, groups: Sequence[int]) -> np.ndarray:
        """Return the number of sites of each class, then of all sites, in each group."""
        names = sorted(set(self.igbp))
        counts = [[self.classes(g)[c] for c in names] for g in groups]
        return np.array([[*row, sum(row)] for row in counts], int)


def _improve(fold: np.ndarray, vectors: np.ndarray, held: np.ndarray) -> bool:
    """Make the best move of one group or exchange of two; return whether one improved the balance."""
    # Taking w from fold a to fold b changes the sum of squares by 2 w.(held_b - held_a) + 2 w.w.
    count, size = len(fold), np.bincount(fold, minlength=len(held))
    squares = (vectors**2).sum(1)
    onto = vectors @ held.T  # (group, fold)
    own = onto[np.arange(count), fold]
    move = 2 * (onto - own[:, None] + squares[:, None])
    move[size[fold] == 1] = 0  # the last group of a fold stays
    g, b = np.unravel_index(np.argmin(move), move.shape)
    away = onto[:, fold]  # (g, h): group g on the fold of h
    apart = squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T
    swap = 2 * (away - own[:, None] - own[None, :] + away.T + apart)
    i, j = np.unravel_index(np.argmin(swap), swap.shape)
    if min(move[g, b], swap[i, j]) >= 0:
        return False
    if move[g, b] <= swap[i, j]:
        held[fold[g]] -= vectors[g]
        held[b] += vectors[g]
        fold[g] = b
    else:
        held[fold[i]] += vectors[j] - vectors[i]
        held[fold[j]] += vectors[i] - vectors[j]
        fold[i], fold[j] = fold[j], fold[i]
    return True

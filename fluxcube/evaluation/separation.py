"""Separation: distances between classes of places in an embedding, with a permutation test of their significance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.intervals import cluster_labels
from fluxcube.evaluation.sitemeans import GROUPS
from fluxcube.samples.features import class_of

#: Relative differences below this are rounding errors of a mean.
_ROUNDING = 1e-12


class Separation(NamedTuple):
    """Share of the variance of embeddings that lies between classes.

    Attributes
    ----------
    share : float
        Share of the variance between classes in the total variance, 0 to 1.
    shuffled : float
        Mean share for shuffled labels: the share expected by chance for these numbers of classes and places.
    p_value : float
        Share of permutations, the original labels included, with at least the share of the original labels.
    n_places, n_classes : int
        Numbers of places and of classes.
    """

    share: float
    shuffled: float
    p_value: float
    n_places: int
    n_classes: int


def class_separation(
    embeddings: xr.DataArray, *, by: str = "igbp", clusters: float = 50.0, draws: int = 1000, seed: int = 0
) -> Separation:
    """Compute the share of the variance of embeddings that lies between classes, and compare it with shuffled labels.

    Nearby sites of one class count as one place, with their mean embedding. Since they have the same weather, separate
    places would make the class look more compact than it is. Sites of unknown class are left out.

    Parameters
    ----------
    embeddings : xr.DataArray
        Embeddings (site, embedding), as `model.embed(cube)` returns them, with the coordinate `by`.
    by : {"igbp", "koppen"}
        Classes: IGBP classes, or the main climates of the Köppen classification.
    clusters : float
        Distance in km within which sites of a class are one place; 0: each site is a place.
    draws, seed : int
        Number of permutations of the labels, and seed of the random generator.

    Returns
    -------
    Separation

    Raises
    ------
    SchemaError
        If the array has other dimensions or lacks `by`, is the same at all places, or contains missing values.
    ConfigError
        If there are fewer than two classes, no more places than classes, or fewer than 100 draws.
    UnknownNameError
        If `by` is another coordinate.

    References
    ----------
    Anderson 2001, doi:10.1111/j.1442-9993.2001.01070.pp.x (permutation test, with Euclidean distances)

    Examples
    --------
    >>> embeddings = xr.DataArray([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]], dims=("site", "embedding"))
    >>> embeddings = embeddings.assign_coords(igbp=("site", list("AAABBB")), site=list("abcdef"))
    >>> separation = class_separation(embeddings, clusters=0)
    >>> round(separation.share, 3), separation.shuffled < 0.3
    (0.999, True)
    """
    values, labels = _places(embeddings, by, clusters)
    n, classes = len(labels), int(labels.max(initial=-1)) + 1
    if classes < 2 or n <= classes or draws < 100:
        raise ConfigError(
            f"expected two or more classes, more places than classes, and 100 draws or more; "
            f"found {classes} classes of {n} places, and {draws} draws."
        )
    size, values = float((values**2).sum()), values - values.mean(0)
    total = float((values**2).sum())
    if not total > _ROUNDING**2 * size:
        why = "the same everywhere" if np.isfinite(total) else "missing at a place"
        raise SchemaError(f"the embedding is {why}: expected finite values that differ between places.")
    rng = np.random.default_rng(seed)
    share = _between(values, labels) / total
    shuffled = np.array([_between(values, rng.permutation(labels)) for _ in range(draws)]) / total
    # A permutation that exchanges whole classes has the same share, except for rounding.
    extreme = int((shuffled >= share - 1e-9).sum())
    return Separation(share, float(shuffled.mean()), (1 + extreme) / (1 + draws), n, classes)


def _places(embeddings: xr.DataArray, by: str, clusters: float) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (place, embedding), and the number of the class of each place."""
    if by not in GROUPS:
        raise unknown("group", by, GROUPS)
    if set(embeddings.dims) != {"site", "embedding"} or by not in embeddings.coords:
        found = sorted(map(str, embeddings.coords))
        raise SchemaError(
            f"embeddings: expected dims (site, embedding) and the coordinate {by}, found {embeddings.dims} and {found}."
        )
    classes = np.array([class_of(by, name) for name in embeddings[by].values], object)
    near = cluster_labels(embeddings["site"].coords.to_dataset().reset_coords(), clusters)
    keys = sorted({(name, int(cluster)) for name, cluster in zip(classes, near, strict=True) if name})
    values = embeddings.transpose("site", "embedding").values.astype(float)
    means = [values[(classes == name) & (near == cluster)].mean(0) for name, cluster in keys]
    labels = np.unique([name for name, _ in keys], return_inverse=True)[1]
    return np.array(means).reshape(len(keys), embeddings.sizes["embedding"]), labels


def _between(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the sum of squares between classes, of values whose overall mean is 0."""
    members = labels[None] == np.arange(labels.max() + 1)[:, None]
    return float(((members @ values) ** 2 / members.sum(1)[:, None]).sum())

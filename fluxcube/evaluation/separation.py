"""How far classes of places lie apart in an embedding, and whether chance would do as well."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.sitemeans import GROUPS
from fluxcube.evaluation.skill import cluster_labels
from fluxcube.samples.features import class_of

#: Relative differences that are no more than what a mean's rounding leaves.
_ROUNDING = 1e-12


class Separation(NamedTuple):
    """What of an embedding's variance lies between classes.

    Attributes
    ----------
    share : float
        Between classes, of the whole variance, 0 to 1.
    shuffled : float
        The same of shuffled labels, on average: what so many classes of so few places have by chance.
    p_value : float
        Share of draws, the labels as they are among them, that lie as far apart.
    n_places, n_classes : int
        What is compared.
    """

    share: float
    shuffled: float
    p_value: float
    n_places: int
    n_classes: int


def class_separation(
    codes: xr.DataArray, *, by: str = "igbp", clusters: float = 50.0, draws: int = 1000, seed: int = 0
) -> Separation:
    """Tell how far classes lie apart in an embedding, against shuffled labels.

    Neighbours of one class count as one place, their mean: they have the same weather, and would make a class look
    closer than it is. Places of no known class are left out.

    Parameters
    ----------
    codes : xr.DataArray
        (site, embedding), as `model.embed(cube)` gives it, with the coordinate `by`.
    by : {"igbp", "koppen"}
        Classes: IGBP's, or the main climates of Köppen's.
    clusters : float
        Sites of a class within so many km of each other are one place; 0: each is its own.
    draws, seed : int
        Shuffles of labels, and of which generator.

    Returns
    -------
    Separation

    Raises
    ------
    SchemaError
        If the array is no embedding of sites with classes, is the same everywhere, or lacks a value.
    ConfigError
        If there are fewer than two classes, no more places than classes, or fewer than 100 draws.
    UnknownNameError
        If `by` is neither.

    References
    ----------
    Anderson 2001, doi:10.1111/j.1442-9993.2001.01070.pp.x (the permutation test, of Euclidean distances)

    Examples
    --------
    >>> codes = xr.DataArray([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]], dims=("site", "embedding"))
    >>> codes = codes.assign_coords(igbp=("site", list("AAABBB")), site=list("abcdef"))
    >>> found = class_separation(codes, clusters=0)
    >>> round(found.share, 3), found.shuffled < 0.3
    (0.999, True)
    """
    values, labels = _places(codes, by, clusters)
    n, classes = len(labels), int(labels.max(initial=-1)) + 1
    if classes < 2 or n <= classes or draws < 100:
        raise ConfigError(
            f"classes lie apart where there are two or more, and more places than classes, told by 100 draws or more; "
            f"found {classes} classes of {n} places, and {draws} draws."
        )
    size, values = float((values**2).sum()), values - values.mean(0)
    whole = float((values**2).sum())
    if not whole > _ROUNDING**2 * size:
        why = "the same everywhere" if np.isfinite(whole) else "missing at a place"
        raise SchemaError(f"the embedding is {why}: there is no variance to share out.")
    rng = np.random.default_rng(seed)
    share = _between(values, labels) / whole
    shuffled = np.array([_between(values, rng.permutation(labels)) for _ in range(draws)]) / whole
    # A shuffle that only renames classes of a size is as far apart, but for rounding.
    as_far = int((shuffled >= share - 1e-9).sum())
    return Separation(share, float(shuffled.mean()), (1 + as_far) / (1 + draws), n, classes)


def _places(codes: xr.DataArray, by: str, clusters: float) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (place, embedding) and the number of each one's class."""
    if by not in GROUPS:
        raise unknown("group", by, GROUPS)
    if set(codes.dims) != {"site", "embedding"} or by not in codes.coords:
        found = sorted(map(str, codes.coords))
        raise SchemaError(
            f"an embedding has dims (site, embedding) and the coordinate {by}; found {codes.dims}, {found}."
        )
    classes = np.array([class_of(by, code) for code in codes[by].values], object)
    near = cluster_labels(codes["site"].coords.to_dataset().reset_coords(), clusters)
    keys = sorted({(name, int(cluster)) for name, cluster in zip(classes, near, strict=True) if name})
    values = codes.transpose("site", "embedding").values.astype(float)
    means = [values[(classes == name) & (near == cluster)].mean(0) for name, cluster in keys]
    labels = np.unique([name for name, _ in keys], return_inverse=True)[1]
    return np.array(means).reshape(len(keys), codes.sizes["embedding"]), labels


def _between(values: np.ndarray, labels: np.ndarray) -> float:
    """Sum over classes of their size times the squared distance of their mean from that of all, which is 0."""
    members = labels[None] == np.arange(labels.max() + 1)[:, None]
    return float(((members @ values) ** 2 / members.sum(1)[:, None]).sum())

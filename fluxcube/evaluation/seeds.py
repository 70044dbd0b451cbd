"""Intervals of the scores of ensembles over clusters of towers and over seeds.

The mean of an ensemble depends on the seeds of its members, as a score depends on the towers. Both are resampled: whole
clusters of towers, and members with replacement. From the products of the errors of each two members at a tower, the
squared error of the mean of any of them follows, so that no predictions are averaged again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.evaluation.bootstrap import draw_counts, interval
from fluxcube.evaluation.groups import PLACE_GROUPS, By, group_names, label_of, place_masks
from fluxcube.evaluation.intervals import cluster_labels
from fluxcube.evaluation.sums import Labelled, aligned_pairs
from fluxcube.resolution import DEFAULT, Default

#: Scores of the table.
SCORES = ("nse", "rmse", "nse_site_median", "rmse_site_mean")
#: Distinguishes the draws of members from those of clusters.
_MEMBERS = 1


@dataclass(frozen=True)
class MemberSums:
    """Sums of one flux from which the scores of the mean of any members of an ensemble follow.

    Attributes
    ----------
    places : xr.Dataset
        Coordinates of the towers, with the dimension place.
    n, mean, variation : (place,) float
        Number of scored time steps, mean of the observations, and sum of their squared deviations from it.
    products : mapping of str to (place, members, members) float
        Sums over time steps of the products of the errors of two members, by model.
    attrs : mapping
        The row mask in words.
    """

    places: xr.Dataset
    n: np.ndarray
    mean: np.ndarray
    variation: np.ndarray
    products: Mapping[str, np.ndarray]
    attrs: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def join(cls, folds: Sequence[MemberSums]) -> MemberSums:
        """Return the sums of the towers of several folds; a model has equal numbers of members in all of them."""
        first = folds[0]
        for one in folds:
            for model, products in one.products.items():
                if model not in first.products or products.shape[1] != first.products[model].shape[1]:
                    raise ConfigError(f"{model}: expected the same models and numbers of members in all folds.")
        return cls(
            places=xr.concat([one.places for one in folds], "place"),
            n=np.concatenate([one.n for one in folds]),
            mean=np.concatenate([one.mean for one in folds]),
            variation=np.concatenate([one.variation for one in folds]),
            products={model: np.concatenate([one.products[model] for one in folds]) for model in first.products},
            attrs=first.attrs,
        )

    def at(self, mask: np.ndarray) -> MemberSums:
        """Return the sums of some of the towers."""
        products = {model: x[mask] for model, x in self.products.items()}
        places = self.places.isel(place=np.flatnonzero(mask))
        return replace(
            self, places=places, n=self.n[mask], mean=self.mean[mask], variation=self.variation[mask], products=products
        )


def mean_of_members(pred: Labelled) -> Labelled:
    """Return the mean of the members of a prediction with a dimension `member`, where all have a value; else itself."""
    if not isinstance(pred, xr.Dataset | xr.DataArray) or "member" not in pred.dims:
        return pred
    if isinstance(pred, xr.Dataset):  # the mean of the members' standard deviations is not that of their mean
        pred = pred.drop_vars([n for n, v in pred.items() if str(n).endswith("_std") and "member" in v.dims])
    return pred.mean("member", skipna=False, keep_attrs=True)


def members_of(pred: Labelled) -> list[Labelled]:
    """Return the members of a prediction with a dimension `member`; else itself, as the only one."""
    if "member" not in pred.dims:
        return [pred]
    return [pred.isel(member=i, drop=True) for i in range(pred.sizes["member"])]


def member_sums(
    obs: Labelled,
    members: Mapping[str, Sequence[Labelled]],
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> dict[str, MemberSums]:
    """Compute the sums of the members of several models, at the time steps that all of them predict.

    Parameters
    ----------
    obs, qc, max_qc, min_quality
        As `fluxcube.evaluation.sums.site_sums` takes them.
    members : mapping of str to sequence of xr.Dataset
        Predictions of each member of each model; a model without members has one.

    Returns
    -------
    dict of str to MemberSums
        By flux.

    Raises
    ------
    SchemaError
        If observations and predictions have no flux, site or time step in common.
    ConfigError
        If the units of a prediction cannot be converted to those of the observations.
    """
    flat = {f"{model} {i}": one for model, several in members.items() for i, one in enumerate(several)}
    pairs, places, attrs, _ = aligned_pairs(obs, flat, qc=qc, max_qc=max_qc, min_quality=min_quality)
    return {target: _sums(pair, places[target], members, attrs) for target, pair in pairs.items()}


def _sums(
    pair: Sequence[xr.DataArray], places: xr.Dataset, members: Mapping[str, Sequence[Labelled]], attrs: Mapping
) -> MemberSums:
    """Return the sums of one flux from its observations and the predictions of all members of all models."""
    arrays = [np.asarray(one.transpose("site", "time").values, np.float64) for one in pair]
    count = len(arrays[0])
    n, mean, variation = np.zeros(count), np.full(count, np.nan), np.zeros(count)
    products = {model: np.zeros((count, len(several), len(several))) for model, several in members.items()}
    for place in range(count):
        rows = np.isfinite([array[place] for array in arrays]).all(0)
        if not rows.any():
            continue
        obs, *estimates = (array[place, rows] for array in arrays)
        n[place], mean[place], variation[place] = len(obs), obs.mean(), np.square(obs - obs.mean()).sum()
        errors, at = np.stack(estimates) - obs, 0
        for model, several in members.items():
            own = errors[at : at + len(several)]
            products[model][place] = own @ own.T
            at += len(several)
    return MemberSums(places, n, mean, variation, products, attrs)


def seed_table(
    sums: Mapping[str, MemberSums],
    *,
    by: By = None,
    clusters: float | Mapping[str, object] = 50.0,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    against: str | None = None,
) -> pd.DataFrame:
    """Return the scores of ensembles with intervals over clusters of towers, and over clusters and seeds.

    Parameters
    ----------
    sums : mapping of str to MemberSums
        Sums of each flux, as `member_sums` returns them.
    by : str, sequence of str or None
        Groups of sites, as `fluxcube.evaluate` takes them.
    clusters : float or mapping of str to label
        Distance in km within which towers are in one cluster (0: each tower is a cluster), or the cluster of each.
    draws, seed : int
        Number of resampled sets, and seed of the random generator.
    level : float
        Nominal coverage of an interval.
    against : str, optional
        Reference model of the differences; by default the first.

    Returns
    -------
    pd.DataFrame
        A row per flux, group (if there are groups) and model with columns target, group, model, members, n_sites,
        n_clusters and, for each of nse and rmse (all time steps pooled), nse_site_median and rmse_site_mean: the score
        of the ensemble; ``_low``, ``_high``, bounds of its interval over clusters; ``_seeds_low``, ``_seeds_high``,
        over clusters and members; ``_one`` and ``_one_std``, mean and standard deviation of the scores of single
        members; and ``_diff`` to the reference model with bounds over clusters and members. With few members the
        interval over seeds is too narrow, since a bootstrap of M members has (M - 1) / M of their variance. Groups
        without a scored time step have no row.

    Raises
    ------
    UnknownNameError
        If `against` is not a model of the sums, or `by` contains no group of sites.
    """
    names = group_names(by)
    if other := [name for name in names if name not in PLACE_GROUPS]:
        raise unknown("group of sites", other[0], PLACE_GROUPS)
    rows = []
    for target, whole in sums.items():
        base = against or next(iter(whole.products))
        if base not in whole.products:
            raise unknown("model", base, whole.products)
        labels = cluster_labels(whole.places, clusters)
        for key, mask in place_masks(whole.places, len(whole.n), names).items():
            scored = mask & (whole.n > 0)
            if names and not scored.any():
                continue
            table = _Resampling(whole.at(scored), labels[scored], draws, seed, level)
            reference = table.draw(base, members=True)
            group = {"group": label_of(key)} if names else {}
            for model in whole.products:
                rows.append({"target": target, **group, "model": model} | table.row(model, base, reference))
    out = pd.DataFrame(rows)
    out.attrs = dict(next(iter(sums.values())).attrs) | {"draws": draws, "seed": seed, "clusters": clusters}
    return out


class _Resampling:
    """The resampled clusters of one flux, and the scores of models on them."""

    def __init__(self, sums: MemberSums, clusters: np.ndarray, draws: int, seed: int, level: float):
        labels, which = np.unique(clusters, return_inverse=True)
        self.clusters, self.draws, self.seed, self.level = len(labels), draws, seed, level
        self.n, self.mean, self.variation, self.products = sums.n, sums.mean, sums.variation, sums.products
        self.counts = draw_counts(self.clusters, draws, seed)[:, which]

    def row(self, model: str, base: str, reference: Mapping[str, np.ndarray]) -> dict[str, object]:
        """Return the scores of a model, and their differences to the resampled scores of the reference model."""
        members = self.products[model].shape[1]
        whole, by_cluster, by_both = self.score(model), self.draw(model), self.draw(model, members=True)
        single = [self.score(model, np.eye(members)[i]) for i in range(members)]
        first = self.score(base)
        out: dict[str, object] = {"members": members, "n_sites": len(self.n), "n_clusters": self.clusters}
        for name in SCORES:
            values = [one[name] for one in single]
            out[name] = whole[name]
            out |= self._bounds(name, by_cluster[name]) | self._bounds(f"{name}_seeds", by_both[name])
            out |= {
                f"{name}_one": np.mean(values),
                f"{name}_one_std": np.std(values, ddof=1) if members > 1 else np.nan,
            }
            out[f"{name}_diff"] = whole[name] - first[name]
            out |= self._bounds(f"{name}_diff", by_both[name] - reference[name] if model != base else 0 * by_both[name])
        return out

    def score(self, model: str, share: np.ndarray | None = None) -> dict[str, float]:
        """Return the scores on all towers of a mean of members, of which each has a share; by default equal ones."""
        members = self.products[model].shape[1]
        shares = np.full((1, members), 1 / members) if share is None else share[None]
        return {
            name: float(values[0]) for name, values in self._scores(model, shares, np.ones((1, len(self.n)))).items()
        }

    def draw(self, model: str, *, members: bool = False) -> dict[str, np.ndarray]:
        """Return the scores of each draw (draws,): of clusters, and with `members` of members as well."""
        count = self.products[model].shape[1]
        shares = np.full((self.draws, count), 1 / count)
        if members and count > 1:
            names = sorted(self.products).index(model)  # members of two models are drawn independently
            rng = np.random.default_rng((self.seed, _MEMBERS, names))
            shares = rng.multinomial(count, shares[0], size=self.draws) / count
        return self._scores(model, shares, self.counts)

    def _scores(self, model: str, shares: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return scores (draws,) of repeated towers (draws, place), and of members with shares (draws, members)."""
        error = np.einsum("dm,pmk,dk->dp", shares, self.products[model], shares, optimize=True)
        n = counts @ self.n
        mean = counts @ (self.n * self.mean) / n
        spread = self.n * np.square(self.mean - mean[:, None]) + self.variation
        total = (counts * spread).sum(1)
        squared = (counts * error).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(self.variation > 0, 1 - error / self.variation, np.nan)
        repeats = counts.astype(int)
        medians = [_median(np.repeat(row, times)) for row, times in zip(each, repeats, strict=True)]
        site_rmse = (counts * np.sqrt(error / self.n)).sum(1) / counts.sum(1)
        return {
            "nse": 1 - squared / total,
            "rmse": np.sqrt(squared / n),
            "nse_site_median": np.array(medians),
            "rmse_site_mean": site_rmse,
        }

    def _bounds(self, name: str, drawn: np.ndarray) -> dict[str, float]:
        low, high = interval(drawn, self.clusters, self.level)
        return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else np.nan

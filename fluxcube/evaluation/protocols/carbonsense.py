"""The table of CarbonSense and EcoPerceiver: scores by IGBP class, averaged over seeds (arXiv:2406.04940)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.evaluation.bootstrap import draw_counts, interval
from fluxcube.evaluation.seeds import MemberSums
from fluxcube.evaluation.skill import cluster_labels

#: Scores of the table.
SCORES = ("nse", "rmse")
#: Distinguishes the draws of seeds from those of clusters.
_SEEDS = 2


def class_table(
    sums: Mapping[str, MemberSums],
    *,
    seen: Iterable[str] | None = None,
    listed: Sequence[str] = (),
    clusters: float = 50.0,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the scores of each IGBP class and model: the mean over the seeds of the pooled score of each seed.

    Parameters
    ----------
    sums : mapping of str to MemberSums
        Sums of each flux (`fluxcube.evaluation.seeds.member_sums` or `fluxcube.experiments.score_members`).
    seen : iterable of str, optional
        IGBP classes of the training sites; the others are marked zero_shot.
    listed : sequence of str
        Test sites of the protocol; classes of which some are not scored are marked.
    clusters : float
        Distance in km within which test sites are resampled together; 0: each site alone.
    draws, seed : int
        Number of resampled sets, and seed of the random generator.

    Returns
    -------
    pd.DataFrame
        A row per flux, class and model with columns target, group, [zero_shot,] model, seeds, n (hours), n_sites,
        n_clusters and, for nse and rmse: the mean over seeds; ``_seed_std``, the standard deviation between seeds;
        ``_low`` and ``_high``, a 95 % interval over clusters of sites and over seeds (NaN for fewer than 3 clusters);
        ``_ensemble``, the score of the mean prediction of all seeds. The group "all" contains all sites.

    Raises
    ------
    ConfigError
        If there is no flux.
    """
    if not sums:
        raise ConfigError("expected the sums of at least one flux, found none; pass those of score_members.")
    rows = []
    for target, one in sums.items():
        classes = np.array([str(name) or "unknown" for name in one.places["igbp"].values], dtype=object)
        for group in [*sorted(set(classes.tolist())), "all"]:
            mask = (one.n > 0) & ((classes == group) | (group == "all"))
            marks = {} if seen is None else {"zero_shot": group != "all" and group not in set(seen)}
            if mask.any():
                part = _Class(one, mask, clusters, draws, seed)
                rows += [{"target": target, "group": group, **marks, **part.row(model)} for model in one.products]
    out = pd.DataFrame(rows)
    first = next(iter(sums.values()))
    scored = {str(site) for site in first.places["site"].values[first.n > 0]}
    absent = sorted(set(listed) - scored)
    quality = str(first.attrs.get("row_mask", "every finite observation")).partition(", where ")[0]
    mask = f"{quality}, where every seed of {' and '.join(first.products)} has a value"
    out.attrs = dict(first.attrs) | {"row_mask": mask, "draws": draws, "seed": seed, "clusters": clusters}
    out.attrs["absent_sites"] = absent
    return out


class _Class:
    """The sums of the sites of one class, and their resampled scores."""

    def __init__(self, sums: MemberSums, mask: np.ndarray, clusters: float, draws: int, seed: int):
        self.sums = replace(
            sums,
            places=sums.places.isel(place=mask),
            n=sums.n[mask],
            mean=sums.mean[mask],
            variation=sums.variation[mask],
            products={model: products[mask] for model, products in sums.products.items()},
        )
        labels, which = np.unique(cluster_labels(self.sums.places, clusters), return_inverse=True)
        self.clusters, self.seed = len(labels), seed
        self.counts = draw_counts(self.clusters, draws, seed)[:, which]

    def row(self, model: str) -> dict[str, object]:
        """Return the scores of a model."""
        products = self.sums.products[model]
        errors = np.einsum("pmm->pm", products)
        seeds = errors.shape[1]
        once = np.ones((1, len(self.sums.n)))
        each, drawn = self._scores(errors, once), self._scores(errors, self.counts)
        mean = self._scores(products.mean((1, 2))[:, None], once)
        rng = np.random.default_rng((self.seed, _SEEDS, sorted(self.sums.products).index(model)))
        picks = rng.integers(seeds, size=(len(self.counts), seeds))
        out: dict[str, object] = {
            "model": model,
            "seeds": seeds,
            "n": int(self.sums.n.sum()),
            "n_sites": len(self.sums.n),
            "n_clusters": self.clusters,
        }
        for name in SCORES:
            low, high = interval(np.take_along_axis(drawn[name], picks, 1).mean(1), self.clusters)
            out |= {
                name: float(each[name].mean()),
                f"{name}_seed_std": float(each[name].std(ddof=1)) if seeds > 1 else np.nan,
                f"{name}_low": float(low),
                f"{name}_high": float(high),
                f"{name}_ensemble": float(mean[name][0, 0]),
            }
        return out

    def _scores(self, errors: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return scores (draws, seeds) from squared errors (place, seeds), of places repeated (draws, place) times."""
        n = counts @ self.sums.n
        mean = counts @ (self.sums.n * self.sums.mean) / n
        spread = self.sums.n * np.square(self.sums.mean - mean[:, None]) + self.sums.variation
        total, squared = (counts * spread).sum(1)[:, None], counts @ errors
        with np.errstate(divide="ignore", invalid="ignore"):
            nse = np.where(total > 0, 1 - squared / total, np.nan)
        return {"nse": nse, "rmse": np.sqrt(squared / n[:, None])}


def beside_published(table: pd.DataFrame, published: pd.DataFrame, *, split: str, mask: str) -> pd.DataFrame:
    """Add published scores to a table of classes, and whether they can be compared.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `class_table` returned.
    published : pd.DataFrame
        Columns split, mask, target, group, model, score, value and, optionally, n (number of test sites) and
        aggregation, as `fluxcube.evaluation.published.published_scores` returns them. A model of the table takes the
        scores of the published model whose name its own name begins with.
    split, mask : str
        Split and row mask of the table, in the words of `published`.

    Returns
    -------
    pd.DataFrame
        The table with ``published_nse``, ``published_rmse`` and comparable: "yes", "no: ..." with the reason, or ""
        where nothing is published.
    """
    rows = published[published["score"].isin(SCORES) & (published["split"] == split)]
    out = table.copy()
    for score in SCORES:
        out[f"published_{score}"] = [_value(rows, row, score) for _, row in table.iterrows()]
    absent = table.attrs.get("absent_sites", [])
    reasons = []
    for _, row in out.iterrows():
        own = _matching(rows, row)
        if own.empty:
            reasons.append("")
        elif (own["mask"] != mask).any():
            reasons.append(f"no: the published mask is {own['mask'].iloc[0]}, here it is {mask}")
        elif "n" in own and own["n"].notna().any() and int(own["n"].max()) != row["n_sites"]:
            reasons.append(f"no: {row['n_sites']} of {int(own['n'].max())} test sites")
        elif absent and ("n" not in own or own["n"].isna().all()):
            reasons.append(f"no: {len(absent)} test sites are missing")
        else:
            reasons.append("yes")
    out["comparable"] = reasons
    out.attrs = dict(table.attrs)
    return out


def _matching(published: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """Return the published scores of the flux, class and model of a row."""
    same = published[(published["target"] == row["target"]) & (published["group"] == row["group"])]
    return same[np.array([str(row["model"]).startswith(str(name)) for name in same["model"]], bool)]


def _value(published: pd.DataFrame, row: pd.Series, score: str) -> float:
    own = _matching(published, row)
    values = own.loc[own["score"] == score, "value"]
    return float(values.iloc[0]) if len(values) else np.nan


def paper_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table in the form of the paper: a row per class, and NSE and RMSE of each model as columns.

    Parameters
    ----------
    table : pd.DataFrame
        Table of one flux that `class_table` returned.

    Returns
    -------
    pd.DataFrame
        Index group; columns of two levels, the model and NSE or RMSE; text with four decimals as in the paper, followed
        by the standard deviation between seeds if there is more than one.
    """
    wide = {}
    for model in dict.fromkeys(table["model"]):
        rows = table[table["model"] == model].set_index("group")
        for score in SCORES:
            wide[model, score.upper()] = [
                _number(value, spread) for value, spread in zip(rows[score], rows[f"{score}_seed_std"], strict=True)
            ]
    index = pd.Index(list(dict.fromkeys(table["group"])), name="IGBP")
    return pd.DataFrame(wide, index=index)


def _number(value: float, spread: float) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:.4f}" if not np.isfinite(spread) else f"{value:.4f} ± {spread:.4f}"

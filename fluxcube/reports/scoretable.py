"""Every score of a report as one table, and as one Dataset."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.reports.evidence import Evidence

#: Groups whose scores are in `scores.csv`, besides those of sections.
_GROUPS = ("igbp", "climate", "koppen", "continent", "season")


#: Values of a score in `scores.nc`.
_VALUES = ("nse", "rmse", "mae", "bias", "corr2", "nse_site_median", "rmse_site_median", "n", "n_sites", "n_clusters")


def score_frame(evidence: Evidence) -> pd.DataFrame:
    """Return every table of scores below each other, with the column `by`: the kind of the groups.

    Parameters
    ----------
    evidence : Evidence
        What the report is written from.
    """
    kinds = {"all": evidence.scores()}
    kinds |= {by: evidence.scores(by) for by in _GROUPS if evidence.has_groups(by)}
    kinds["scale"] = evidence.scales
    if not isinstance(evidence.subsets, str):
        kinds["subset"] = evidence.subsets
    sites = evidence.sites.rename(columns={"site": "group"})
    kinds["site"] = sites[["target", "group", "model", "n", "nse", "rmse", "mae", "bias", "corr2"]].assign(
        units=[evidence.sums.units_of(target) for target in sites["target"]], n_sites=1
    )
    out = pd.concat([table.assign(by=by) for by, table in kinds.items()], ignore_index=True)
    first = ["by", "target", "units", "group", "model", "n", "n_sites"]
    return out[first + [name for name in out if name not in first]]


def score_dataset(frame: pd.DataFrame, attrs: Mapping[str, object]) -> xr.Dataset:
    """Return a table of `score_frame` as a Dataset (target, group, model); `by` is a coordinate of the groups.

    Parameters
    ----------
    frame : pd.DataFrame
        Table that `score_frame` returned.
    attrs : mapping
        Attributes, such as the row mask.
    """
    keys = list(dict.fromkeys(zip(frame["by"], frame["group"], strict=True)))
    targets, models = (list(dict.fromkeys(frame[name])) for name in ("target", "model"))
    at = [
        pd.Index(targets).get_indexer(frame["target"]),
        pd.MultiIndex.from_tuples(keys).get_indexer(pd.MultiIndex.from_frame(frame[["by", "group"]])),
        pd.Index(models).get_indexer(frame["model"]),
    ]
    names = [name for name in frame if name.startswith(tuple(_VALUES)) and frame[name].dtype.kind in "fi"]
    arrays = {}
    for name in names:
        values = np.full((len(targets), len(keys), len(models)), np.nan)
        values[tuple(at)] = frame[name].to_numpy(float)
        arrays[name] = (("target", "group", "model"), values)
    units = frame.drop_duplicates("target").set_index("target").loc[targets, "units"]
    coords = {
        "target": np.array(targets, object),
        "group": np.array([group for _, group in keys], object),
        "model": np.array(models, object),
        "by": ("group", np.array([by for by, _ in keys], object)),
        "units": ("target", units.to_numpy(object)),
    }
    return xr.Dataset(arrays, coords, {name: str(value) for name, value in attrs.items()})

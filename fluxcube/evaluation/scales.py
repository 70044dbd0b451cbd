"""Scores at up to eight time scales: a model may predict seasons well and differences between years badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import pandas as pd
import xarray as xr

from fluxcube.evaluation.skill import IntervalOptions, score_table
from fluxcube.evaluation.sums import Labelled
from fluxcube.evaluation.timescales import SCALES, at_scales, scale_sums
from fluxcube.resolution import DEFAULT, Default

__all__ = ["SCALES", "at_scales", "scale_sums", "scale_table"]


def scale_table(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    **options: Unpack[IntervalOptions],
) -> pd.DataFrame:
    """Compute scores at eight time scales (seven for daily data) on a common row mask.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them; data of towers.
    **options
        Options of intervals: clusters, draws, seed, level and against, as `score_table` takes them.

    Returns
    -------
    pd.DataFrame
        Table of `score_table` with the scale as the group. n is the number of hours, days, weeks, months, days of the
        year, days, years and sites.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=30, gaps=0)
    >>> table = scale_table(cube, {"same": cube.fluxes.sel(target=["NEE"])})
    >>> table.set_index("group").n[["hourly", "daily", "weekly", "seasonal"]].tolist()
    [2880, 120, 16, 0]
    """
    sums = scale_sums(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    tables = [score_table(one, **options).assign(group=scale) for scale, one in sums.items()]
    out = pd.concat(tables, ignore_index=True)
    out["target"] = pd.Categorical(out["target"], list(dict.fromkeys(out["target"])), ordered=True)
    out = out.sort_values("target", kind="stable").astype({"target": object}).reset_index(drop=True)
    out.attrs = dict(tables[0].attrs) | {"by": "scale"}
    return out

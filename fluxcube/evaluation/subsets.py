"""Scores on subsets of the time steps of each tower: heat, cold, dry air, and seasonal transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Unpack

import pandas as pd
import xarray as xr

from fluxcube.evaluation.masks import SUBSETS, subset_masks
from fluxcube.evaluation.periods import Periods
from fluxcube.evaluation.skill import IntervalOptions, score_table
from fluxcube.evaluation.sums import Labelled, Sums, site_sums
from fluxcube.moments import Moments
from fluxcube.resolution import DEFAULT, Default

__all__ = ["SUBSETS", "subset_masks", "subset_sums", "subset_table"]


def subset_sums(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    masks: xr.Dataset,
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> dict[str, Sums]:
    """Compute the sums of each tower in each subset, preceded by those of all time steps ("all").

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them; data of towers.
    masks : xr.Dataset
        Boolean arrays (site, time) by name of the subset, such as those of `subset_masks`. Sites and time steps that
        they lack are in no subset.

    Returns
    -------
    dict of str to Sums
        Sums by subset; a time step can be in several of them.
    """
    sums = site_sums(
        obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality, periods=("subset",), subsets=masks
    )
    return {label: _of_period(sums, i) for i, (label,) in enumerate(sums.periods.labels)}


def _of_period(sums: Sums, position: int) -> Sums:
    """Return the sums of one period, as the only one."""
    found = {t: Moments(*(x[:, [position]] for x in m)) for t, m in sums.moments.items()}
    return replace(sums, moments=found, periods=Periods())


def subset_table(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    masks: xr.Dataset,
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    **options: Unpack[IntervalOptions],
) -> pd.DataFrame:
    """Compute scores on subsets of the time steps, on a common row mask.

    Parameters
    ----------
    obs, predictions, masks, qc, max_qc, min_quality
        As `subset_sums` takes them.
    **options
        Options of intervals, as `score_table` takes them.

    Returns
    -------
    pd.DataFrame
        Table of `score_table` with the subset as the group; "all" is first.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=40, gaps=0)
    >>> table = subset_table(cube, {"same": cube.fluxes.sel(target=["NEE"])}, subset_masks(cube))
    >>> table.group.tolist()
    ['all', 'heat', 'cold', 'dry air', 'dry month']
    """
    sums = subset_sums(obs, predictions, masks, qc=qc, max_qc=max_qc, min_quality=min_quality)
    tables = [score_table(one, **options).assign(group=name) for name, one in sums.items()]
    out = pd.concat(tables, ignore_index=True)
    out.attrs = dict(tables[0].attrs) | {"by": "subset"}
    return out

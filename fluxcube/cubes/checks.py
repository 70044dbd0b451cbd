"""What a tower's record tells of itself: values that cannot be, a clock that the sun contradicts, places apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.normalisation import inside


def within_bounds(record: xr.Dataset, names: Sequence[str]) -> tuple[xr.Dataset, dict[str, int]]:
    """Make values missing that are outside their variable's bounds, at the record's own step.

    Before any averaging, so that one impossible half-hour neither spoils its hour nor hides in it.

    Parameters
    ----------
    record : xr.Dataset
        Dim time; per variable ``NAME``, in the table's units, and its flag ``NAME_QC``.
    names : sequence of str
        Variables to check, where the record has them.

    Returns
    -------
    record : xr.Dataset
        With NaN and flag -1 in place of such values; arrays that had none are the same objects.
    counts : dict of str to int
        How many there were of each variable that had any.
    """
    counts, made = {}, {}
    for name in (name for name in names if name in record):
        values = record[name].values
        bad = np.isfinite(values) & ~inside(values[:, None], [name])[:, 0]
        if bad.any():
            counts[name] = int(bad.sum())
            made[name] = record[name].copy(data=np.where(bad, values.dtype.type(np.nan), values))
            flags = record[f"{name}_QC"]
            made[f"{name}_QC"] = flags.copy(data=np.where(bad, flags.dtype.type(-1), flags.values))
    return record.assign(made), counts

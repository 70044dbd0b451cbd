"""Best quality flag of each site: some publications do not record which values were measured."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.sources.towers.networks import networks


def best_flags(ds: xr.Dataset | xr.DataArray) -> np.ndarray:
    """Return the best (lowest) flag that the publications of each site can have.

    It is 0 (measured) of nearly all. The published CarbonSense kept no flags: a value of version 1 had flag 0 or 1 and
    has 1 here, one of version 2 is of unknown quality and has 2. There, this flag counts as measured when values are
    selected for training, validation and scores.

    Parameters
    ----------
    ds : xr.Dataset or xr.DataArray
        Data with the dimension site, and the coordinate network (publications of a site, separated by ";").

    Returns
    -------
    (site,) int8
        From ``best_flag`` in ``data/networks.yml``; 0 for a site of several publications of which one has flags, for
        unknown networks, and where there is no coordinate network. An array of no dimension for data without sites.

    Examples
    --------
    >>> names = ["CarbonSense v1", "CarbonSense v2", "FLUXNET2015;CarbonSense v1"]
    >>> best_flags(xr.Dataset(coords={"network": ("site", names)}))
    array([1, 2, 0], dtype=int8)
    """
    if "site" not in ds.dims:
        return np.zeros((), np.int8)
    if "network" not in ds.coords:
        return np.zeros(ds.sizes["site"], np.int8)
    return np.array([_best_flag(str(names)) for names in ds["network"].values], np.int8)


def _best_flag(names: str) -> int:
    known = networks()
    return min(known[name].best_flag if name in known else 0 for name in names.split(";"))


def named_best_flags(ds: xr.Dataset | xr.DataArray) -> str:
    """Return the sites whose best flag is not 0, for messages: "flag 1 of XX-Aaa, flag 2 of XX-Bbb"; "" for none."""
    flags = best_flags(ds)
    if not flags.any():
        return ""
    sites = np.asarray(ds["site"].values).astype(str)
    return ", ".join(f"flag {flag} of {_shortened(sites[flags == flag])}" for flag in np.unique(flags[flags > 0]))


def _shortened(sites: np.ndarray, maximum: int = 5) -> str:
    more = f" and {len(sites) - maximum} more" if len(sites) > maximum else ""
    return ", ".join(sites[:maximum]) + more

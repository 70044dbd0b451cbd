"""The rows of a protocol: observations and predictions of its test sites, with fluxes under the benchmark's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.evaluation.common_units import with_units
from fluxcube.evaluation.protocols.definitions import Protocol
from fluxcube.evaluation.protocols.tables import IN_TABLE, LOCAL_CLOCK
from fluxcube.evaluation.sums import Labelled, aligned_pairs, data_resolution
from fluxcube.resolution import Resolution
from fluxcube.samples.benchmark_splits import CUT_YEAR, benchmark_list

_QC = ("_QC", "_QUALITY")


@dataclass(frozen=True)
class ScoredRows:
    """Scored rows of one flux.

    Attributes
    ----------
    target, units : str
        Flux by the benchmark's name, and the units of the values.
    site : (rows,) str
        Sites.
    time : (rows,) datetime64[s]
        Local times.
    obs : (rows,) float
        Observations, NaN where the benchmark has a row without one.
    preds : mapping of str to (rows,) float
        Predictions by model.
    """

    target: str
    units: str
    site: np.ndarray
    time: np.ndarray
    obs: np.ndarray
    preds: Mapping[str, np.ndarray]


def prepared(protocol: Protocol, data: Labelled, who: str) -> xr.Dataset:
    """Return data with one variable per flux under the benchmark's names, and flags or qualities beside them.

    Parameters
    ----------
    protocol : Protocol
    data : xr.Dataset or xr.DataArray
        A tower cube, a Dataset with a variable per flux, or an array that is named after a flux or has a dimension
        target.
    who : str
        Name of the data in messages.

    Raises
    ------
    SchemaError
        If there is no flux of the protocol, or no dimension site or time.
    """
    ending = data_resolution(data).quality
    arrays: dict[str, xr.DataArray] = {}
    if isinstance(data, xr.Dataset) and "fluxes" in data:
        for name in map(str, data["target"].values):
            arrays[name] = with_units(data["fluxes"].sel(target=name))
            if f"fluxes{ending}" in data:
                arrays[f"{name}{ending.upper()}"] = data[f"fluxes{ending}"].sel(target=name)
    elif isinstance(data, xr.Dataset):
        arrays = {str(name): array for name, array in data.data_vars.items()}
    elif "target" in data.dims:
        arrays = {str(name): with_units(data.sel(target=name)) for name in data["target"].values}
    else:
        arrays = {str(data.name): data}
    out = _renamed(protocol, arrays)
    if not any(name in out for name in protocol.targets):
        expected = ", ".join(" or ".join(names) for names in protocol.targets.values())
        raise SchemaError(
            f"{who}: expected a flux of {protocol.name} ({expected}), found {', '.join(arrays) or 'none'}."
        )
    ds = xr.Dataset(
        {name: array.drop_vars([c for c in array.coords if not array[c].ndim]) for name, array in out.items()}
    )
    if missing := {"site", "time"} - set(ds.dims):
        raise SchemaError(
            f"{who}: expected fluxes of towers with dims (site, time), found no {' and '.join(sorted(missing))}; "
            "sample maps at the towers first."
        )
    return ds.assign_attrs(data.attrs)


def _renamed(protocol: Protocol, arrays: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    out: dict[str, xr.DataArray] = {}
    for target, names in protocol.targets.items():
        found = next((name for name in names if name in arrays), None)
        if found is not None:
            out[target] = arrays[found]
            out |= {f"{target}{q}": arrays[f"{found}{q}"] for q in _QC if f"{found}{q}" in arrays}
    return out


def at_test_sites(protocol: Protocol, obs: xr.Dataset, predictions: Mapping[str, xr.Dataset]) -> list[str]:
    """Return the test sites that the observations and all predictions contain.

    Raises
    ------
    SchemaError
        If there is none.
    """
    there = [set(map(str, ds["site"].values)) for ds in (obs, *predictions.values())]
    sites = [site for site in protocol.sites() if all(site in names for names in there)]
    if not sites:
        raise SchemaError(
            f"{protocol.name}: the observations and predictions have none of its {len(protocol.sites())} test sites in "
            f"common; of the {len(there[0])} observed sites {len(there[0] & set(protocol.sites()))} are test sites."
        )
    return sites


def in_test_period(protocol: Protocol, obs: xr.Dataset) -> xr.Dataset:
    """Return observations at test sites within the test period, with the classes that the benchmark's list has."""
    obs = with_classes(protocol, obs)
    if protocol.complete:
        whole = np.logical_and.reduce([obs[t].notnull() for t in protocol.targets if t in obs])
        obs = obs.assign({t: obs[t].where(whole) for t in protocol.targets if t in obs})
    if not protocol.in_time:
        return obs
    keep = local_years(obs) > CUT_YEAR
    later = obs.sel(time=keep.any("site"))
    mask = keep.sel(time=later["time"])
    if IN_TABLE in later.coords:
        later = later.assign_coords({IN_TABLE: later[IN_TABLE] & mask})
    return later.assign({t: later[t].where(mask) for t in protocol.targets if t in later})


def with_classes(protocol: Protocol, obs: xr.Dataset) -> xr.Dataset:
    """Return observations with the coordinates igbp and koppen of the benchmark's list, where it has them."""
    lines = {line["site"]: line for line in benchmark_list(protocol.name.replace("/", "-"))}
    for name in ("igbp", "koppen"):
        known = [lines.get(str(s), {}).get(name) for s in obs["site"].values]
        if any(known):
            own = obs[name].values if name in obs.coords else [""] * len(known)
            obs = obs.assign_coords(
                {name: ("site", np.array([k or str(o) for k, o in zip(known, own, strict=True)], object))}
            )
    return obs


def local_shift(obs: xr.Dataset) -> np.ndarray:
    """Return by how much the local time of each site is ahead of the time axis, (site,) timedelta64[s].

    It is the offset of standard time where it is known, else longitude / 15; 0 for local time stamps.
    """
    resolution = data_resolution(obs)
    count = obs.sizes["site"]
    if resolution.local or obs.attrs.get(LOCAL_CLOCK):
        return np.zeros(count, "timedelta64[s]")
    if "longitude" not in obs.coords and "utc_offset" not in obs.coords:
        raise SchemaError("local days need the coordinate utc_offset or longitude on each site; assign one.")
    blank = np.full(count, np.nan)
    offset = np.asarray(obs["utc_offset"].values, float) if "utc_offset" in obs.coords else blank
    longitude = np.asarray(obs["longitude"].values, float) if "longitude" in obs.coords else blank
    hours = np.where(np.isfinite(offset), offset, longitude / 15)
    if not np.isfinite(hours).all():
        lost = [str(s) for s, h in zip(obs["site"].values, hours, strict=True) if not np.isfinite(h)]
        raise SchemaError(f"{', '.join(lost[:5])}: expected utc_offset or longitude, found none; assign one.")
    return np.round(hours * 3600).astype("timedelta64[s]")


def local_years(obs: xr.Dataset) -> xr.DataArray:
    """Return the local year of each site and time step, (site, time)."""
    time = obs["time"].values.astype("datetime64[s]")
    local = time[None] + local_shift(obs)[:, None]
    years = local.astype("datetime64[Y]").astype(int) + 1970
    return xr.DataArray(years, dims=("site", "time"), coords={"site": obs["site"], "time": obs["time"]})


def scored_rows(
    protocol: Protocol, obs: xr.Dataset, predictions: Mapping[str, xr.Dataset]
) -> tuple[list[ScoredRows], pd.DataFrame]:
    """Return the rows that a protocol scores, of each flux, and the number of rows that each step left.

    Parameters
    ----------
    protocol : Protocol
    obs : xr.Dataset
        Observations at the test sites within the test period (`in_test_period`), in RAM.
    predictions : mapping of str to xr.Dataset
        Predictions at the same sites, by model, in RAM.

    Returns
    -------
    list of ScoredRows, and pd.DataFrame
        The latter with columns target, step, rows.
    """
    pairs, _, _, units = aligned_pairs(obs, predictions, qc=None, **protocol.limit)
    every, _, _, _ = aligned_pairs(obs, predictions, qc=None, **_no_limit(data_resolution(obs)))
    out, steps = [], []
    for target, arrays in pairs.items():
        observed, *predicted = (a.transpose("site", "time") for a in arrays)
        out.append(
            _flat(protocol, obs, observed, dict(zip(predictions, predicted, strict=True)), units.get(target, ""))
        )
        steps += [
            (target, "observed at the test sites in the test period", int(obs[target].notnull().sum())),
            (target, "predicted by every model", int(np.isfinite(every[target][0].values).sum())),
            (target, f"within the limit of quality ({_limit_text(protocol)}): scored", int(observed.notnull().sum())),
        ]
    return out, pd.DataFrame(steps, columns=["target", "step", "rows"])


def _flat(
    protocol: Protocol, obs: xr.Dataset, observed: xr.DataArray, predicted: Mapping[str, xr.DataArray], units: str
) -> ScoredRows:
    """Return the rows of one flux from aligned arrays (site, time)."""
    finite = np.isfinite(observed.values)
    # A benchmark that scores every value counts the rows of its tables without an observation, too.
    listed = IN_TABLE in observed.coords and None in protocol.limit.values()
    known = np.logical_and.reduce([np.isfinite(p.values) for p in predicted.values()])
    keep = known & (observed[IN_TABLE].values | finite if listed else finite)
    site, step = np.nonzero(keep)
    shift = dict(zip(map(str, obs["site"].values), local_shift(obs), strict=True))
    names = observed["site"].values.astype(str)
    shifts = np.array([shift[name] for name in names.tolist()], "timedelta64[s]")
    return ScoredRows(
        target=str(observed.name),
        units=units,
        site=names[site],
        time=observed["time"].values.astype("datetime64[s]")[step] + shifts[site],
        obs=observed.values[keep].astype(float),
        preds={model: p.values[keep].astype(float) for model, p in predicted.items()},
    )


def _no_limit(resolution: Resolution) -> dict:
    return {resolution.option: None}


def _limit_text(protocol: Protocol) -> str:
    (option, value), *_ = protocol.limit.items()
    return "none" if value is None else f"{option} {value}"


def mean_of(several: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the mean of the predictions of several seeds; missing where one of them is."""
    if len(several) == 1:
        return several[0]
    together = xr.concat(several, "member", join="inner", combine_attrs="override", coords="minimal", compat="override")
    return together.mean("member", skipna=False, keep_attrs=True)

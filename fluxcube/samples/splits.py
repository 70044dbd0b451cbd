"""Splits of towers into training, validation and test sets, with neighbouring towers in the same set.

Towers closer than a buffer have the same weather and often the same vegetation, so their cluster is never divided. A
split in time has periods; fluxes of a site outside of its periods are missing.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import xarray as xr

from fluxcube.cubes.selection import as_cube
from fluxcube.errors import ConfigError, SplitError, to_type, unknown
from fluxcube.samples.benchmark_splits import benchmark_split
from fluxcube.samples.cluster_splits import kfold, per_igbp
from fluxcube.samples.clusters import Places, cluster_sites
from fluxcube.samples.default_split import default_split
from fluxcube.samples.listed_split import sites_split
from fluxcube.samples.partition import Split, load_folds, save_folds
from fluxcube.samples.time_splits import described_split, time_split, warm_site

__all__ = [
    "KINDS",
    "Split",
    "cluster_sites",
    "default_split",
    "extrapolation",
    "kfold",
    "load_folds",
    "make_splits",
    "per_igbp",
    "save_folds",
    "sites_split",
    "split",
    "split_for",
    "time_split",
    "warm_site",
]

#: Kinds of splits of `make_splits`, and the first word of the text that `split_for` takes.
KINDS = ("auto", "per-igbp", "kfold", "blocks", "time", "warm-site", "extrapolation", "sites")
#: A split as `fluxcube.fit` takes it: a Split, a list of one, a kind, or a file.
SplitChoice: TypeAlias = Split | Sequence[Split] | str | os.PathLike
#: First word of the splits of published benchmarks, ``benchmark:fluxtrapolation/TA40``.
_BENCHMARK = "benchmark"
#: The three settings of FLUXtrapolation.
SETTINGS = ("time", "space", "temperature")

#: Distance that separates blocks (km): towers this far apart seldom share weather or a region's management.
_BLOCK_KM = 150.0


def extrapolation(
    cube,
    setting: str,
    *,
    test: float = 40 / 207,
    val: float = 20 / 207,
    year: int = 2018,
    seed: int = 0,
    buffer_km: float = 50.0,
) -> Split:
    """Split as one of the three settings of FLUXtrapolation does, on the towers of this cube.

    Parameters
    ----------
    cube : xr.Dataset
        A cube; for "temperature" with the predictor TA.
    setting : {"time", "space", "temperature"}
        Years after `year` test, `year` validates, of towers that have years before, in and after it; or towers drawn
        at random test; or the warmest towers do, by the mean of TA.
    test, val : float
        Shares of the sites, for "space" and "temperature": the benchmark's 40 and 20 of 207.
    year : int
        For "time".
    seed : int
        Of the draw of test ("space") and val.
    buffer_km : float
        Clusters move whole, unlike the benchmark's, which 0 reproduces; the warmth of a cluster is its sites' mean.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If a part would be empty.
    UnknownNameError
        If there is no such setting.

    References
    ----------
    FLUXtrapolation, arXiv:2605.19812. Its lists of sites are of its own 207 towers: for these, use `sites_split`.
    """
    if setting not in SETTINGS:
        raise unknown("setting of FLUXtrapolation", setting, SETTINGS)
    if setting == "time":
        return dataclasses.replace(time_split(cube, year=year, gap_days=0), kind="extrapolation in time")
    places, rng = Places.of(cube, buffer_km), np.random.default_rng(seed)
    order = rng.permutation(places.groups).tolist()
    if setting == "temperature":
        warmth = _mean_temperature(cube)
        order.sort(key=lambda g: -np.mean(warmth[list(places.members[g])]))
    tested = _first(places, order, test)
    rest = rng.permutation([g for g in order if g not in tested]).tolist()
    held = _first(places, rest, val) if val else set()
    parts = [set(rest) - held, held, tested]
    if not all(parts[::2]):
        raise SplitError(f"a share of {test:g} of {len(places.sites)} sites leaves none to train or test.")
    named = [[places.sites[i] for i in places.at(part)] for part in parts]
    return described_split(places, named, kind=f"extrapolation in {setting}", seed=seed, buffer_km=buffer_km)


def _first(places: Places, order: Sequence[int], share: float) -> set[int]:
    """Return the first groups of an order that together contain at least a fraction of the sites."""
    wanted, taken, count = max(1, round(share * len(places.sites))), set(), 0
    for group in order:
        if count >= wanted:
            break
        taken.add(group)
        count += len(places.members[group])
    return taken


def _mean_temperature(cube) -> np.ndarray:
    """Return the mean of TA at each site, including gap-filled values, since TA is not a target."""
    if "TA" not in cube["variable"].values:
        raise SplitError('setting="temperature" needs the predictor TA in the cube.')
    mean = cube["predictors"].sel(variable="TA").mean("time").values
    if not np.isfinite(mean).all():
        cold = [str(s) for s, m in zip(cube["site"].values, mean, strict=True) if not np.isfinite(m)]
        raise SplitError(f"these sites have no TA, so they cannot be ranked by it: {', '.join(cold)}; leave them out.")
    return mean


#: Options of `make_splits` and the kinds that use them; the other kinds reject them.
_USED_BY = {
    "k": ("kfold", "blocks", "warm-site"),
    "val_km": ("kfold", "blocks", "warm-site"),
    "setting": ("extrapolation",),
    "sites": ("sites",),
    "buffer_km": tuple(kind for kind in KINDS if kind != "time"),
}


def make_splits(
    cube,
    kind: str = "kfold",
    *,
    k: int | None = None,
    seed: int = 0,
    buffer_km: float | None = None,
    val_km: float | None = None,
    setting: str | None = None,
    sites: str | os.PathLike | None = None,
) -> list[Split]:
    """Return the splits of a kind: k splits for "kfold", "blocks" and "warm-site", one for the others.

    Parameters
    ----------
    cube : xr.Dataset
        A cube.
    kind : {"auto", "per-igbp", "kfold", "blocks", "time", "warm-site", "extrapolation", "sites"}
        What to make; "auto" is the default of `fluxcube.fit` (`default_split`); "blocks" are folds of clusters 150 km
        apart, "warm-site" is made of the folds. Or ``benchmark:NAME``, the split of a published benchmark
        (`fluxcube.samples.benchmark_splits.benchmark_split`).
    k : int, optional
        Of "kfold", "blocks" and "warm-site": folds, by default 5.
    seed : int
        Of the draw.
    buffer_km : float, optional
        Towers closer than this are on one side; by default 50, and 150 for "blocks".
    val_km : float, optional
        Of "kfold", "blocks" and "warm-site": as `kfold` takes it.
    setting : str, optional
        Of "extrapolation": time, space (the default) or temperature.
    sites : path, optional
        Of "sites": the file, or the name of a list that fluxcube ships, such as "xbase".

    Raises
    ------
    ConfigError
        If an option is passed that this kind does not use.
    SplitError
        If the towers cannot be split so.
    UnknownNameError
        If there is no such kind.
    """
    if kind.startswith(f"{_BENCHMARK}:"):
        return [benchmark_split(cube, kind.partition(":")[2])]
    if kind not in KINDS:
        raise unknown("kind of split", kind, (*KINDS, f"{_BENCHMARK}:NAME"))
    options = {"k": k, "val_km": val_km, "setting": setting, "sites": sites, "buffer_km": buffer_km}
    for name, value in options.items():
        if value is not None and kind not in _USED_BY[name]:
            raise ConfigError(f"{name} is for {' and '.join(_USED_BY[name])}, not for {kind}: leave it out.")
    km = (_BLOCK_KM if kind == "blocks" else 50.0) if buffer_km is None else buffer_km
    if kind == "sites":
        if sites is None:
            raise SplitError(
                "a split by sites needs the file that lists them: pass "
                + to_type(python="sites=FILE, or sites='xbase'.", shell="--sites FILE, or --sites xbase.")
            )
        return [sites_split(cube, sites, seed=seed, buffer_km=km)]
    folds = functools.partial(kfold, cube, k=5 if k is None else k, seed=seed, buffer_km=km, val_km=val_km)
    makers: dict[str, Callable[[], list[Split]]] = {
        "auto": lambda: [default_split(cube, seed=seed, buffer_km=km)],
        "per-igbp": lambda: [per_igbp(cube, seed=seed, buffer_km=km)],
        "kfold": folds,
        "blocks": folds,
        "time": lambda: [time_split(cube)],
        "warm-site": lambda: [warm_site(cube, fold) for fold in folds()],
        "extrapolation": lambda: [extrapolation(cube, setting or "space", seed=seed, buffer_km=km)],
    }
    return makers[kind]()


def split(
    cube: xr.Dataset | str | os.PathLike,
    kind: str = "auto",
    *,
    k: int | None = None,
    seed: int = 0,
    buffer_km: float | None = None,
    val_km: float | None = None,
    setting: str | None = None,
    sites: str | os.PathLike | None = None,
) -> Split | list[Split]:
    """Split towers into training, validation and test towers, with neighbours in the same part.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A cube.
    kind : {"auto", "per-igbp", "kfold", "blocks", "time", "warm-site", "extrapolation", "sites"}
        How to split. "auto" is what `fluxcube.fit` does by default: class by class, or a fold of whole clusters where
        that would leave too few towers to train. Or ``benchmark:NAME``, the split of a published benchmark.
    k, seed, buffer_km, val_km, setting, sites
        As `make_splits` takes them; each is refused where the kind does not use it.

    Returns
    -------
    Split or list of Split
        A list for the kinds "kfold", "blocks" and "warm-site", whose parts are the folds. `fluxcube.fit` takes one of
        them as ``split=``.

    Raises
    ------
    ConfigError
        If an option is passed that this kind does not use.
    SplitError
        If the towers cannot be split so.
    UnknownNameError
        If there is no such kind.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> split(example_cube(sites=12, days=2), "kfold", k=4)[0].kind
    'kfold 1 of 4'
    """
    made = make_splits(
        as_cube(cube), kind, k=k, seed=seed, buffer_km=buffer_km, val_km=val_km, setting=setting, sites=sites
    )
    return made if kind in _USED_BY["k"] else made[0]


def one_split(cube: xr.Dataset, given: SplitChoice, *, seed: int = 0) -> Split:
    """Return the split that an option names: a `Split`, the only one of a list, or that of a text (`split_for`).

    Raises
    ------
    SplitError
        If there are several, none, or the text names no split.
    """
    if isinstance(given, Split):
        return given
    if isinstance(given, str | os.PathLike):
        return split_for(cube, given, seed=seed)
    folds = list(given)
    if len(folds) != 1 or not isinstance(folds[0], Split):
        raise SplitError(
            f"split: expected one Split, found a list of {len(folds)}: pass one of them, such as split=folds[0], and "
            "train a run for each."
        )
    return folds[0]


def split_for(cube, text: str | os.PathLike, *, seed: int = 0, buffer_km: float | None = None) -> Split:
    """Return the split of a kind, or one read from a file.

    Parameters
    ----------
    cube : xr.Dataset
        A cube.
    text : str or path
        ``auto``, ``per-igbp``, ``time``, ``kfold:2`` (of 5) or ``kfold:2/10``, ``blocks:1``, ``warm-site:1``,
        ``extrapolation:space`` (or time, temperature), ``sites:<file>``, ``sites:xbase``,
        ``benchmark:fluxtrapolation/TA40``; or a split file, or one of folds and the number of one,
        ``towers109.json:2``.
    seed, buffer_km
        As `make_splits` takes them; a file has its own.

    Raises
    ------
    SplitError
        If the text names no split, or the towers cannot be split so.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> split_for(example_cube(sites=10, days=2), "kfold:2/5").kind
    'kfold 2 of 5'
    """
    text = os.fspath(text)
    kind, _, argument = text.partition(":")
    if kind == _BENCHMARK:
        return benchmark_split(cube, argument)
    if kind not in KINDS:
        split = _from_file(text)
        split.check(cube["site"].values)
        return split
    make = functools.partial(make_splits, cube, kind, seed=seed, buffer_km=buffer_km)
    if kind == "extrapolation":
        return make(setting=argument or None)[0]
    if kind == "sites":
        return make(sites=argument or None)[0]
    if kind in ("auto", "per-igbp", "time"):
        if argument:
            raise SplitError(f"{kind} takes nothing after it, found {text!r}.")
        return make()[0]
    number, _, of = (argument or "1").partition("/")
    at, k = _number(number, text), _number(of or "5", text)
    if not 1 <= at <= k:
        raise SplitError(f"{text!r}: folds are numbered 1 to {k}.")
    return make(k=k)[at - 1]


def _number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise SplitError(f"{whole!r}: expected the number of a fold, as kfold:2 or kfold:2/10.")
    return int(text)


def _from_file(text: str) -> Split:
    path, colon, number = text.rpartition(":")
    if not colon or not number.isdigit():
        if not Path(text).exists():
            raise SplitError(f"{text!r} is neither a split file nor a kind of split ({', '.join(KINDS)}).")
        return Split.load(text)
    folds = load_folds(path)
    if not 1 <= int(number) <= len(folds):
        raise SplitError(f"{path} holds {len(folds)} folds, numbered from 1; found {number}.")
    return folds[int(number) - 1]

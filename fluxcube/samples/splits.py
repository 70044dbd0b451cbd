"""Splits of towers into training, validation and test sets, with neighbouring towers in the same set.

Towers closer than a buffer have the same weather and often the same vegetation, so their cluster is never divided. A
split in time has periods; fluxes of a site outside of its periods are missing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fluxcube.errors import ConfigError, SplitError, unknown
from fluxcube.parsing import read_text
from fluxcube.samples.benchmark_splits import benchmark_split
from fluxcube.samples.clusters import Places, cluster_sites, neighbours
from fluxcube.samples.partition import PARTS, Split, load_folds, save_folds
from fluxcube.samples.site_lists import site_list, site_lists
from fluxcube.samples.time_splits import described_split, time_split, warm_site

__all__ = [
    "KINDS",
    "Split",
    "cluster_sites",
    "extrapolation",
    "kfold",
    "load_folds",
    "make_splits",
    "per_igbp",
    "save_folds",
    "sites_split",
    "split_for",
    "time_split",
    "warm_site",
]

#: Kinds of splits of `make_splits`, and the first word of the text that `split_for` takes.
KINDS = ("per-igbp", "kfold", "blocks", "time", "warm-site", "extrapolation", "sites")
#: First word of the splits of published benchmarks, ``benchmark:fluxtrapolation/TA40``.
_BENCHMARK = "benchmark"
#: The three settings of FLUXtrapolation.
SETTINGS = ("time", "space", "temperature")

#: Distance that separates blocks (km): towers this far apart seldom share weather or a region's management.
_BLOCK_KM = 150.0


def per_igbp(cube, *, seed: int = 0, buffer_km: float = 50.0) -> Split:
    """Split towers class by class: of n sites about min(5, ceil(n / 5)) test, the rest 80/20 train and val.

    Clusters move whole, so a class may get more or fewer than its share.

    Parameters
    ----------
    cube : xr.Dataset
        With latitude, longitude and igbp on site.
    seed : int
        Of the draw.
    buffer_km : float
        Towers closer than this are on one side; 0 reproduces the CarbonSense paper.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If fewer than half of the sites are training sites.

    References
    ----------
    Fortier et al. 2024, arXiv:2406.04940.
    """
    places = Places.of(cube, buffer_km)
    rng = np.random.default_rng(seed)
    test = places.draw({c: min(5, math.ceil(0.2 * n)) for c, n in Counter(places.igbp).items()}, rng)
    rest = [g for g in places.groups if g not in test]
    split = _rest_split(places, places.at(test), places.at(rest), rng, kind="per_igbp", seed=seed) if rest else None
    training = len(split.train) if split else 0
    if split is None or 2 * training < len(places.sites):
        raise SplitError(
            f"only {training} of {len(places.sites)} sites would train: use kfold(cube, k=5) and average the folds, or "
            "pass your own Split."
        )
    return split


def kfold(cube, *, k: int = 5, seed: int = 0, buffer_km: float = 50.0, val_km: float | None = None) -> list[Split]:
    """Split towers into k folds of whole clusters; each is the test of one split, and a fifth of the rest its val.

    Classes are spread over the folds as evenly as whole clusters allow: no move of a cluster to another fold, and no
    exchange of two, brings the folds' numbers of sites, by class and in all, nearer to a k-th.

    Parameters
    ----------
    cube : xr.Dataset
        With latitude, longitude and igbp on site.
    k : int
        Folds, 2 or more.
    seed : int
        Of the draw.
    buffer_km : float
        Towers closer than this are on one side; 150 tests on distant blocks.
    val_km : float, optional
        Validate on blocks this far from the training towers, so that what is chosen there suits new regions rather
        than neighbours; by default `buffer_km`.

    Returns
    -------
    list of Split
        k of them; every site is tested once.

    Raises
    ------
    SplitError
        If there are fewer clusters than folds, or so few that a fold would leave none to train.
    """
    places = Places.of(cube, buffer_km)
    val_km = buffer_km if val_km is None else val_km
    if len(places.groups) < 2:
        raise SplitError(f"all towers are one cluster: each is within {buffer_km:g} km of another; reduce buffer_km.")
    if not 2 <= k <= len(places.groups):
        raise SplitError(f"k must be 2..{len(places.groups)}, the number of clusters; found {k}.")
    if val_km < buffer_km:
        raise SplitError(f"val_km must be buffer_km ({buffer_km:g}) or more, else a cluster is cut; found {val_km:g}.")
    rng = np.random.default_rng(seed)
    splits: list[Split] = []
    for fold in places.deal(k, rng):
        test, rest = places.at(fold), places.at(g for g in places.groups if g not in fold)
        kind = f"kfold {len(splits) + 1} of {k}"
        splits.append(_rest_split(places, test, rest, rng, kind=kind, seed=seed, val_km=val_km))
    return splits


def _rest_split(
    places: Places,
    test: list[int],
    rest: list[int],
    rng: np.random.Generator,
    *,
    kind: str,
    seed: int,
    val_km: float | None = None,
    notes: tuple[str, ...] = (),
) -> Split:
    """Draw a fifth of the `rest` for validation, in whole groups; the others are training sites."""
    left = places.take(rest, val_km)
    val = left.draw(left.share(0.2, rng), rng) if len(left.groups) > 1 else set()
    if not val and len(left.groups) > 1:
        val = {min(left.groups, key=lambda g: (len(left.members[g]), g))}
    if len(val) == len(left.groups):
        raise SplitError(f"no cluster of {len(places.groups)} is left to train: use fewer folds or a smaller buffer.")
    parts = [left.at(g for g in left.groups if g not in val), left.at(val)]
    named = [[left.sites[i] for i in part] for part in parts] + [[places.sites[i] for i in test]]
    far = (
        () if val_km in (None, places.buffer_km) else (f"validation blocks are more than {val_km:g} km from training",)
    )
    return described_split(places, named, kind=kind, seed=seed, buffer_km=places.buffer_km, notes=(*notes, *far))


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


def sites_split(cube, path: str | os.PathLike, *, seed: int = 0, buffer_km: float = 50.0) -> Split:
    """Split by a list of sites in a text file, or by a list that fluxcube ships.

    A line is a site, or a site and its part (``US-Ha1,train``); a site alone tests; ``#`` begins a comment. If none
    trains, all others train, a fifth of them validating, clusters whole; if none tests, all others test. The list
    "xbase" contains the 295 training sites of FLUXCOM-X-BASE: they train, a fifth of them validating, clusters whole,
    and all other sites of the cube test. A tower
    within the buffer of a test tower does not train, nor validate, nor one near a validation tower train: they are
    left out, and named in the notes, as is what the cube lacks.

    Parameters
    ----------
    cube : xr.Dataset
        With latitude, longitude and igbp on site.
    path : path
        The file, or the name of a list (`fluxcube.samples.site_lists`); a file of that name comes first.
    seed : int
        Of the draw of val.
    buffer_km : float
        0 takes the lists as they are.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If the file cannot be read, names a part that is none, or leaves no site to train or test.
    """
    shipped = os.fspath(path) in site_lists() and not Path(path).exists()
    listed = dict(site_list(os.fspath(path))) if shipped else _listed(Path(path))
    places = Places.of(cube, buffer_km)
    at = {site: i for i, site in enumerate(places.sites)}
    absent = [site for site in listed if site not in at]
    parts = {p: [at[s] for s, part in listed.items() if part == p and s in at] for p in PARTS}
    others = [i for site, i in at.items() if site not in listed]
    if not any(part == "test" for part in listed.values()):
        parts["test"], others = others, []
    notes = [f"by {Path(path).name}"]
    notes += [f"listed, but not in the cube ({len(absent)}): {', '.join(absent)}"] if absent else []
    rest = not any(part == "train" for part in listed.values())
    if rest:
        parts["train"], others = others, []
    # A list of a user leaves out validation towers on purpose; one of a publication names none for other reasons.
    drawn = rest or shipped
    for first, later in (("test", "val"), ("test", "train"), ("val", "train")):
        near = neighbours(places.latitude, places.longitude, parts[first], buffer_km)
        gone = [places.sites[i] for i in parts[later] if near[i]]
        parts[later] = [i for i in parts[later] if not near[i]]
        notes += [f"left out of {later}, within {buffer_km:g} km of {first} ({len(gone)}): {', '.join(gone)}"] * bool(
            gone
        )
    if others:
        notes.append(f"not listed, so in no part ({len(others)}): {', '.join(places.sites[i] for i in others)}")
    for part in ("train", "test"):
        if not parts[part]:
            raise SplitError(f"{path} leaves no site to {part}: {'; '.join(notes)}.")
    kind, rng = f"sites:{Path(path).name}", np.random.default_rng(seed)
    if drawn and not parts["val"]:
        return _rest_split(places, parts["test"], parts["train"], rng, kind=kind, seed=seed, notes=tuple(notes))
    named = [[places.sites[i] for i in sorted(parts[p])] for p in PARTS]
    return described_split(places, named, kind=kind, seed=seed, buffer_km=buffer_km, notes=tuple(notes))


def _listed(path: Path) -> dict[str, str]:
    """Return the sites of a file, in its order, and the part of each."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise SplitError(
            f"{path} is not a list of sites: {error}; lists that fluxcube ships: {', '.join(site_lists())}."
        ) from error
    out: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        fields = [word.strip() for word in line.partition("#")[0].split(",")]
        if not fields[0] or (not out and fields[0].lower() == "site"):  # a blank line, or a header
            continue
        part = fields[1] if len(fields) > 1 and fields[1] else "test"
        if part not in PARTS or len(fields) > 2:
            raise SplitError(f"{path}, line {number}: expected SITE or SITE,part (train, val or test), found {line!r}.")
        if out.get(fields[0], part) != part:
            raise SplitError(f"{path}, line {number}: {fields[0]} was listed as {out[fields[0]]} before.")
        out[fields[0]] = part
    if not out:
        raise SplitError(f"{path} lists no site.")
    return out


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
    kind : {"per-igbp", "kfold", "blocks", "time", "warm-site", "extrapolation", "sites"}
        What to make; "blocks" are folds of clusters 150 km apart, "warm-site" is made of the folds. Or
        ``benchmark:NAME``, the split of a published benchmark (`fluxcube.samples.benchmark_splits.benchmark_split`).
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
                "a split by sites needs the file that lists them: --sites FILE, or --sites xbase (sites= in Python)."
            )
        return [sites_split(cube, sites, seed=seed, buffer_km=km)]
    folds = functools.partial(kfold, cube, k=5 if k is None else k, seed=seed, buffer_km=km, val_km=val_km)
    makers: dict[str, Callable[[], list[Split]]] = {
        "per-igbp": lambda: [per_igbp(cube, seed=seed, buffer_km=km)],
        "kfold": folds,
        "blocks": folds,
        "time": lambda: [time_split(cube)],
        "warm-site": lambda: [warm_site(cube, fold) for fold in folds()],
        "extrapolation": lambda: [extrapolation(cube, setting or "space", seed=seed, buffer_km=km)],
    }
    return makers[kind]()


def split_for(cube, text: str | os.PathLike, *, seed: int = 0, buffer_km: float | None = None) -> Split:
    """Return the split of a kind, or one read from a file.

    Parameters
    ----------
    cube : xr.Dataset
        A cube.
    text : str or path
        ``per-igbp``, ``time``, ``kfold:2`` (of 5) or ``kfold:2/10``, ``blocks:1``, ``warm-site:1``,
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
    if kind in ("per-igbp", "time"):
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

"""Groups of sites and of time steps: by class, climate, continent, network, season, year, time of day and subset."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError, unknown
from fluxcube.evaluation.continents import CONTINENTS, continents_of
from fluxcube.evaluation.masks import check_subsets
from fluxcube.evaluation.periods import ALL, KINDS, periods_of
from fluxcube.evaluation.sums import Sums
from fluxcube.moments import Moments
from fluxcube.resolution import resolution_of

#: Groups of sites.
PLACE_GROUPS = ("igbp", "koppen", "climate", "continent", "site", "network")
#: Groups of sites and of time steps.
GROUPS = (*PLACE_GROUPS, *KINDS)

#: Climates by the first letter of a Köppen-Geiger class; boreal ones depend on the third (`climate_of`).
_CLIMATES = {"A": "tropical", "B": "dry", "C": "temperate", "D": "continental", "E": "polar"}

#: Argument `by` of the public functions: a group, several, or None for all time steps of all sites.
By = str | Sequence[str] | None


def group_names(by: By) -> tuple[str, ...]:
    """Return the groups of an argument `by`: one, several (also as ``"igbp,season"``), or none.

    Raises
    ------
    UnknownNameError
        If a group is none of `GROUPS`.

    Examples
    --------
    >>> group_names("igbp"), group_names("igbp, season"), group_names(None)
    (('igbp',), ('igbp', 'season'), ())
    """
    if by is None:
        return ()
    names = tuple(part.strip() for part in by.split(",")) if isinstance(by, str) else tuple(by)
    for name in names:
        if name not in GROUPS:
            raise unknown("group", name, GROUPS)
    return tuple(dict.fromkeys(names))


def check_groups(cube: xr.Dataset, by: By) -> None:
    """Refuse groups that a tower cube cannot have, before anything is computed.

    Raises
    ------
    UnknownNameError
        If a group is none of `GROUPS`.
    SchemaError
        If the cube lacks a coordinate or a predictor of the group, or is daily and the group needs hours.
    """
    names = group_names(by)
    for name in set(names) & set(PLACE_GROUPS):
        place_labels(cube.coords.to_dataset().reset_coords(), name)
    if "subset" in names:
        check_subsets(cube)
    kinds = [name for name in names if name in KINDS and name != "subset"]
    periods_of(kinds, cube["time"].values, resolution_of(cube), None)


def kinds_of(by: By) -> tuple[str, ...]:
    """Return those groups of an argument `by` that are periods of time steps."""
    return tuple(name for name in group_names(by) if name in KINDS)


def groups_of(sums: Sums, target: str, by: By) -> dict[tuple[str, ...], tuple[Moments, np.ndarray]]:
    """Return the moments (place, model) of each group, and a mask of its places.

    Parameters
    ----------
    sums : Sums
        Sums of the sites.
    target : str
        Flux.
    by : str, sequence of str or None
        Groups. The keys have a label for each of them; the key is empty for None.

    Raises
    ------
    SchemaError
        If the places lack the coordinate of a group.
    ConfigError
        If the sums have no such periods.
    """
    names = group_names(by)
    count = len(sums.moments[target].n)
    masks = place_masks(sums.places[target], count, [name for name in names if name in PLACE_GROUPS])
    periods = sums.of_periods(target, [name for name in names if name in KINDS])
    out = {}
    for (places, mask), (period, m) in itertools.product(masks.items(), periods.items()):
        labels = {"place": iter(places), "period": iter(period)}
        key = tuple(next(labels["place" if name in PLACE_GROUPS else "period"]) for name in names)
        out[key] = (Moments(*(x[mask] for x in m)), mask)
    return out


def place_masks(places: xr.Dataset, count: int, names: Sequence[str]) -> dict[tuple[str, ...], np.ndarray]:
    """Return a mask of the places of each group of sites; for several kinds of groups, of each combination.

    Parameters
    ----------
    places : xr.Dataset
        Coordinates of the places, with the dimension place.
    count : int
        Number of places.
    names : sequence of str
        Of `PLACE_GROUPS`.
    """
    out: dict[tuple[str, ...], np.ndarray] = {(): np.ones(count, bool)}
    for name in names:
        of_name = _masks_of(places, name)
        out = {(*key, label): mask & more for key, mask in out.items() for label, more in of_name.items()}
    # Combinations without a site, such as a class that a continent lacks, are no groups
    return {key: mask for key, mask in out.items() if len(names) < 2 or mask.any()}


def _masks_of(places: xr.Dataset, name: str) -> dict[str, np.ndarray]:
    labels = place_labels(places, name)
    every = {label for several in labels for label in several}
    if name == "site":
        ordered = [several[0] for several in labels]
    elif name == "continent":
        ordered = sorted(every, key=lambda label: ((*CONTINENTS, label).index(label), label))
    else:
        ordered = sorted(every)
    return {label or "unknown": np.array([label in several for several in labels], bool) for label in ordered}


def place_labels(places: xr.Dataset, name: str) -> list[list[str]]:
    """Return the groups of each place: several of a site of several networks, "" for an unknown one.

    Parameters
    ----------
    places : xr.Dataset
        Coordinates of the places, with the dimension place.
    name : str
        One of `PLACE_GROUPS`.

    Raises
    ------
    SchemaError
        If the places lack the coordinate of the group.
    """
    if name == "continent" and "continent" not in places:
        return [[label] for label in _continents(places)]
    coordinate = "koppen" if name == "climate" else name
    if coordinate not in places:
        raise SchemaError(
            f"by={name!r} needs the coordinate {coordinate} on each site; found {sorted(map(str, places))}."
        )
    values = places[coordinate].values
    known = ["" if value is None or value != value else str(value) for value in values.tolist()]  # NaN is no class
    return [_labels(name, value) for value in known]


def _continents(places: xr.Dataset) -> list[str]:
    located = {"latitude", "longitude"} <= set(places)
    if not located and "site" not in places:
        raise SchemaError(
            "by='continent' needs latitude and longitude, or IDs of sites; found "
            f"{sorted(map(str, places))}: add these coordinates."
        )
    latitude, longitude = (places[name].values if located else None for name in ("latitude", "longitude"))
    return list(continents_of(latitude, longitude, places["site"].values if "site" in places else None))


def _labels(name: str, value: str) -> list[str]:
    """Return the groups of a site from its coordinate."""
    if name == "climate":
        return [climate_of(value)]
    return value.split(";") if name == "network" else [value]


def climate_of(koppen: str) -> str:
    """Return the climate of a Köppen-Geiger class: tropical, dry, temperate, continental, boreal or polar.

    Continental climates with cool summers (third letter c or d) are boreal. It is "" for an unknown class.

    Examples
    --------
    >>> climate_of("Cfb"), climate_of("Dfb"), climate_of("Dfc"), climate_of("BWh")
    ('temperate', 'continental', 'boreal', 'dry')
    """
    if koppen.startswith("D") and koppen[2:3] in ("c", "d"):
        return "boreal"
    return _CLIMATES.get(koppen[:1], "")


def label_of(key: Sequence[str]) -> str:
    """Return the name of a group from its labels: "all" of none, else joined by commas.

    Examples
    --------
    >>> label_of(()), label_of(["DBF"]), label_of(["DBF", "summer"])
    ('all', 'DBF', 'DBF, summer')
    """
    return ", ".join(key) or ALL

"""Lists of sites that fluxcube ships: the towers of published splits and products, by name, for ``sites:NAME``.

The lists are ``data/site_lists/*.csv``; the text files beside them describe their sources.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib import resources

from fluxcube.errors import SplitError, unknown


def site_lists() -> tuple[str, ...]:
    """Return the names of the lists of sites that fluxcube ships.

    Examples
    --------
    >>> "xbase" in site_lists()
    True
    """
    folder = resources.files("fluxcube").joinpath("data/site_lists")
    return tuple(sorted(f.name.removesuffix(".csv") for f in folder.iterdir() if f.name.endswith(".csv")))


def site_list(name: str) -> Mapping[str, str]:
    """Return the sites of a list that fluxcube ships, and the part of each: train, val or test.

    Parameters
    ----------
    name : str
        Name of the list; "xbase" contains the 295 training sites of FLUXCOM-X-BASE.

    Returns
    -------
    mapping of str to str
        Part by site, in the order of the list.

    Raises
    ------
    UnknownNameError
        If there is no such list.
    SplitError
        If the list does not assign its sites to parts.

    Examples
    --------
    >>> sites = site_list("xbase")
    >>> len(sites), sites["US-Ha1"]
    (295, 'train')
    """
    if name not in site_lists():
        raise unknown("list of sites", name, site_lists())
    text = resources.files("fluxcube").joinpath(f"data/site_lists/{name}.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    if any(not row.get("part") for row in rows):
        raise SplitError(f"the list {name} names sites without their part (train, val or test), so it is no split.")
    return {row["site"]: row["part"] for row in rows}

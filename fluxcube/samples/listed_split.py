"""A split by a list of sites, in a file or shipped with fluxcube."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fluxcube.errors import SplitError
from fluxcube.parsing import read_text
from fluxcube.samples.cluster_splits import rest_split
from fluxcube.samples.clusters import Places, neighbours
from fluxcube.samples.partition import PARTS, Split
from fluxcube.samples.site_lists import site_list, site_lists
from fluxcube.samples.time_splits import described_split

#: Names of the columns of sites and of parts in the header of a list, in lower case.
_SITE = ("site", "site_id", "siteid", "sites", "id", "tower", "tower_id", "station", "station_id")
_PART = ("part", "split", "set", "subset", "fold")


def sites_split(cube, path: str | os.PathLike, *, seed: int = 0, buffer_km: float = 50.0) -> Split:
    """Split by a list of sites in a text file, or by a list that fluxcube ships.

    A line is a site, or a site and its part (``US-Ha1,train``); a site alone tests; ``#`` begins a comment. A table
    with a header needs a column such as ``site`` or ``SITE_ID``; others than ``part`` are ignored. If none
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
    listed = dict(site_list(os.fspath(path))) if shipped else listed_sites(Path(path))
    places = Places.of(cube, buffer_km)
    at = {site: i for i, site in enumerate(places.sites)}
    absent = [site for site in listed if site not in at]
    parts = {p: [at[s] for s, part in listed.items() if part == p and s in at] for p in PARTS}
    others = [i for site, i in at.items() if site not in listed]
    if not any(part == "test" for part in listed.values()):
        parts["test"], others = others, []
    notes = [f"by {Path(path).name}"]
    unlisted = [] if shipped else [site for site in at if site not in listed]
    notes += [f"listed, but not in the cube ({len(absent)}): {_named(absent, unlisted)}"] if absent else []
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
        return rest_split(places, parts["test"], parts["train"], rng, kind=kind, seed=seed, notes=tuple(notes))
    named = [[places.sites[i] for i in sorted(parts[p])] for p in PARTS]
    return described_split(places, named, kind=kind, seed=seed, buffer_km=buffer_km, notes=tuple(notes))


def listed_sites(path: Path) -> dict[str, str]:
    """Return the sites of a file, in its order, and the part of each: "test" where the file names none.

    Parameters
    ----------
    path : Path
        Text with a site, or a site and its part, in a line; ``#`` begins a comment. With a header that has a column
        such as ``site`` or ``SITE_ID``, and optionally one such as ``part``, other columns are ignored. Fields are
        separated by commas, semicolons or tabs.

    Raises
    ------
    SplitError
        If the file cannot be read, lists no site, or one in two parts, or names a part that is none.
    """
    rows = _rows(path)
    columns = _header(rows[0][1]) if rows else None
    out: dict[str, str] = {}
    for number, fields in rows if columns is None else rows[1:]:
        site, part = _site_and_part(fields, columns, f"{path}, line {number}")
        if out.get(site, part) != part:
            raise SplitError(f"{path}, line {number}: {site} was listed as {out[site]} before.")
        out[site] = part
    if not out:
        raise SplitError(f"{path} lists no site.")
    return out


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and fields of each line of a file that has some besides a comment."""
    try:
        lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    except (OSError, ValueError) as error:
        raise SplitError(
            f"{path} is not a list of sites: {error}; lists that fluxcube ships: {', '.join(site_lists())}."
        ) from error
    mark = next((mark for mark in ",;\t" if any(mark in line for line in lines)), ",")
    rows = [(number, [field.strip(" \t\"'") for field in line.split(mark)]) for number, line in enumerate(lines, 1)]
    return [(number, fields) for number, fields in rows if fields[0] or len(fields) > 1]


def _header(fields: list[str]) -> tuple[int, int | None] | None:
    """Return the columns of sites and of parts of a header; None if the line is none."""
    lower = [field.lower().replace(" ", "_") for field in fields]
    site, part = (next((lower.index(n) for n in names if n in lower), None) for names in (_SITE, _PART))
    return None if site is None else (site, part)


def _site_and_part(fields: list[str], columns: tuple[int, int | None] | None, where: str) -> tuple[str, str]:
    """Return the site and the part of a line."""
    if columns is None:
        if len(fields) > 2:
            raise SplitError(
                f"{where}: expected SITE or SITE,part (train, val or test), found {', '.join(fields)!r}; a list with "
                "more columns needs a header with a column site."
            )
        columns = 0, 1
    site, part = (fields[at] if at is not None and at < len(fields) else "" for at in columns)
    if not site:
        raise SplitError(f"{where}: expected a site, found an empty field.")
    if part and part not in PARTS:
        raise SplitError(f"{where}: expected SITE or SITE,part (train, val or test), found {', '.join(fields)!r}.")
    return site, part or "test"


def _named(absent: list[str], sites: Sequence[str]) -> str:
    """Return sites that a cube lacks, each with the nearest of its sites."""
    near = [difflib.get_close_matches(site, sites, n=1, cutoff=0.6) for site in absent]
    hints = (f" (did you mean {found[0]}?)" if found else "" for found in near)
    return ", ".join(site + hint for site, hint in zip(absent, hints, strict=True))

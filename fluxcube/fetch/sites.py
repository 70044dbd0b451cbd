"""The sites of the option `at_sites`: their places and years, from a cube, a table, or ids of known towers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.fetch.periods import PERIOD
from fluxcube.knownsites import known_site, known_sites
from fluxcube.sources.modis.surface_sites import Sites, read_sites
from fluxcube.sources.modis.surface_tables import read_frame
from fluxcube.stores.reading import open_store

#: A cube or a table (or its path), a mapping of site to (latitude, longitude), or ids of known towers.
SiteChoice: TypeAlias = Sites | Sequence[str]

_ID = re.compile(r"[A-Z]{2}-[A-Za-z0-9]{3}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A site at which data are fetched.

    Attributes
    ----------
    name : str
    latitude, longitude : float
        Degrees.
    years : tuple of int or None
        Years of the site's own data; None where they are not known.
    """

    name: str
    latitude: float
    longitude: float
    years: tuple[int, ...] | None = None


def find_sites(at_sites: SiteChoice, before: np.timedelta64 | None = None) -> tuple[list[Site], list[str]]:
    """Return sites, and notes about sites that are left out.

    Parameters
    ----------
    at_sites : cube, path of a cube or table, DataFrame, mapping of site to (latitude, longitude), or ids
        The years of a cube's sites are those of their data. A table can have the columns ``first_year`` and
        ``last_year``, or ``years`` such as 2012-2014. Ids, such as "DE-Tha,US-Ha1" or a list, are those of
        `fluxcube.known_sites`.
    before : timedelta64, optional
        How long before the first hour of a cube's site data are needed.

    Returns
    -------
    sites, notes : list

    Raises
    ------
    ConfigError, UnknownNameError
        If there is no such file, site or column.
    """
    table = _opened(at_sites)
    if isinstance(table, list):
        return table, []
    years = _cube_years(table, before) if isinstance(table, xr.Dataset) else _table_years(table)
    sites, without = [], []
    for name, (latitude, longitude) in read_sites(table).items():
        if not np.isfinite([latitude, longitude]).all():
            without.append(name)
            continue
        if abs(latitude) > 90 or abs(longitude) > 360:
            raise ConfigError(
                f"at_sites: expected degrees, found latitude {latitude:g} and longitude {longitude:g} of {name}: "
                "correct the table."
            )
        sites.append(Site(name=name, latitude=latitude, longitude=longitude, years=years.get(name)))
    if not sites:
        raise ConfigError("at_sites: no site has a latitude and a longitude: add them.")
    return sites, [f"sites without a place, which are left out: {_shown(without)}"] if without else []


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


def _opened(at_sites: SiteChoice) -> list[Site] | pd.DataFrame | xr.Dataset | Mapping[str, tuple[float, float]]:
    """Return the table, cube or mapping at a path, or the known sites of a list of ids."""
    if isinstance(at_sites, (str, os.PathLike)):
        path = Path(at_sites)
        if path.exists():
            return open_store(path, kind="cube") if path.is_dir() else read_frame(path)
        names = [part.strip() for part in str(at_sites).split(",") if part.strip()]
        if not names or not all(map(_ID.fullmatch, names)):
            raise ConfigError(
                f"at_sites: {path} does not exist: pass a cube, a table with site, latitude and longitude, or ids of "
                "known towers such as DE-Tha,US-Ha1."
            )
        return [_known(name) for name in names]
    if isinstance(at_sites, (pd.DataFrame, xr.Dataset, Mapping)):
        return at_sites
    return [_known(str(name)) for name in dict.fromkeys(at_sites)]


def _known(name: str) -> Site:
    site = known_site(name)
    if site is None:
        raise unknown("site", name, known_sites()["site"])
    span = site.first_year, site.last_year
    years = None if span[0] is None or span[1] is None else tuple(range(span[0], span[1] + 1))
    return Site(name=name, latitude=site.latitude, longitude=site.longitude, years=years)


def _table_years(table: pd.DataFrame | Mapping[str, tuple[float, float]]) -> dict[str, tuple[int, ...]]:
    """Return the years of the sites of a table that has them; rows of the same site are joined."""
    if not isinstance(table, pd.DataFrame):
        return {}
    columns = {str(name).strip().lower(): name for name in table.columns}
    site = next((columns[name] for name in ("site", "site_id", "siteid", "id") if name in columns), None)
    if site is None:
        return {}
    if {"first_year", "last_year"} <= set(columns):
        pairs = zip(table[columns["first_year"]], table[columns["last_year"]], strict=True)
        texts = [f"{_whole(first)}-{_whole(last)}" for first, last in pairs]
    elif "years" in columns:
        texts = [_whole(text) for text in table[columns["years"]]]
    else:
        return {}
    years: dict[str, set[int]] = {}
    for name, text in zip(table[site], texts, strict=True):
        if match := PERIOD.fullmatch(text):
            years.setdefault(str(name), set()).update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return {name: tuple(sorted(own)) for name, own in years.items()}


def _whole(value: object) -> str:
    return str(value).strip().removesuffix(".0")


def _cube_years(cube: xr.Dataset, before: np.timedelta64 | None) -> dict[str, tuple[int, ...]]:
    """Return the years of the data of each site; `time_stop` is the hour after the last."""
    if not {"site", "time_start", "time_stop"} <= {*cube.coords, *cube.data_vars}:
        return {}
    hour = np.timedelta64(1, "h")
    starts, stops = (np.atleast_1d(cube[name].values).astype("datetime64[h]") for name in ("time_start", "time_stop"))
    starts, stops = starts - (before or 0 * hour).astype("timedelta64[h]"), stops - hour
    years: dict[str, tuple[int, ...]] = {}
    for site, start, stop in zip(np.atleast_1d(cube["site"].values), starts, stops, strict=True):
        first, last = (int(stamp.astype("datetime64[Y]").astype(int)) + 1970 for stamp in (start, stop))
        years[str(site)] = () if np.isnat([start, stop]).any() else tuple(range(first, last + 1))
    return years

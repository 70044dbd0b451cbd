"""The table of products: how each is recognised, and which of its variables is which flux."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from types import MappingProxyType
from typing import Any

import xarray as xr
import yaml

from fluxcube.errors import SourceError, unknown

#: Fluxes that were separated from NEE by a method, which is part of their names in fluxcube.
PARTITIONED = ("GPP", "RECO")
#: The product whose rules apply to the files of all others, too.
GENERIC = "cf"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which variables of a file are a flux.

    Attributes
    ----------
    flux : str
        Name in fluxcube, for GPP and RECO without the partition.
    names, standard_names : tuple of str
        Names in the files (lower case), and CF standard names.
    sign : int
        -1 for a flux that is positive towards the land.
    units : str
        Units where the files have none; "" if they must have some.
    substance : str
        Substance of a mass whose units do not name one, "" if it must be named.
    suffix : str
        Ending of the name of a companion: "_std" for an uncertainty, "_spread" for the spread of an ensemble.
    """

    flux: str
    names: tuple[str, ...]
    standard_names: tuple[str, ...] = ()
    sign: int = 1
    units: str = ""
    substance: str = ""
    suffix: str = ""

    def matches(self, name: str, variable: xr.Variable) -> bool:
        """Return whether a variable of a file is this flux, by its name or its CF standard name."""
        return name.lower() in self.names or variable.attrs.get("standard_name") in self.standard_names


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product of the table `data/products.yml`, which describes the attributes."""

    name: str
    title: str
    citation: str
    doi: str
    licence: str
    files: tuple[str, ...]
    attributes: Mapping[str, str]
    partition: str
    clock: str
    note: str
    rules: tuple[Rule, ...]
    address: str = ""
    members: tuple[str, ...] = ()

    def recognises(self, names: Iterable[str], attrs: Mapping[str, object]) -> bool:
        """Return whether names of files or the global attributes of one file identify this product."""
        if any(re.search(pattern, name, re.IGNORECASE) for pattern in self.files for name in names):
            return True
        found = ((pattern, str(attrs.get(key, ""))) for key, pattern in self.attributes.items())
        return any(re.search(pattern, value, re.IGNORECASE | re.DOTALL) for pattern, value in found)


@functools.cache
def products() -> Mapping[str, Product]:
    """Return the table of products, by name.

    Examples
    --------
    >>> list(products())
    ['x-base', 'fluxcom-rs-meteo', 'metaflux', 'gloflux', 'upch4', 'cf']
    """
    text = resources.files("fluxcube").joinpath("data/products.yml").read_text("utf-8")
    table = yaml.safe_load(text)
    generic = _rules(table[GENERIC]["variables"])
    generic += tuple(_companion(rule, suffix) for rule in generic for suffix in ("_std", "_spread"))
    return MappingProxyType({name: _product(name, row, generic) for name, row in table.items()})


def product_named(name: str) -> Product:
    """Return a product of the table (UnknownNameError if there is none of that name)."""
    if name not in products():
        raise unknown("product", name, products())
    return products()[name]


def recognised(names: Iterable[str], attrs: Mapping[str, object], where: str) -> Product:
    """Return the product that names of files and global attributes identify.

    Parameters
    ----------
    names : iterable of str
        Names of files and stores, without folders.
    attrs : mapping
        Global attributes of one of them.
    where : str
        The source, for messages.

    Raises
    ------
    SourceError
        If they identify no product, or several.
    """
    names = tuple(names)
    found = [product for product in products().values() if product.recognises(names, attrs)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(products())
    what = (
        f"looks like {' and '.join(one.name for one in found)}" if found else "is no product that fluxcube recognises"
    )
    raise SourceError(
        f"{where} {what}: pass product=, one of {known}. With product={GENERIC!r} the variables are found by their CF "
        "standard names, else by their names (NEE, GPP, RECO, LE, H, ET, FCH4), and their units are those of the file."
    )


def _product(name: str, row: Mapping[str, Any], generic: tuple[Rule, ...]) -> Product:
    fields = {key: value for key, value in row.items() if key != "variables"}
    for key in ("files", "members"):
        fields[key] = tuple(row.get(key, ()))
    own = () if name == GENERIC else _rules(row["variables"])
    return Product(name=name, rules=own + generic, **fields)


def _companion(rule: Rule, suffix: str) -> Rule:
    """Return the rule of the standard deviation or the spread of a flux, by the names of the flux."""
    return replace(rule, names=tuple(name + suffix for name in rule.names), standard_names=(), suffix=suffix)


def _rules(rows: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            **{
                **row,
                "names": tuple(name.lower() for name in row["names"]),
                "standard_names": tuple(row.get("standard_names", ())),
            }
        )
        for row in rows
    )

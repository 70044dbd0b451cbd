"""The table of products: how each is recognised, and which of its variables is which flux.

The file ``data/products.yml`` lists the products of the package; an entry point of the group ``fluxcube.products`` of
another package adds one, as a mapping with the keys of that file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from types import MappingProxyType
from typing import Any

import xarray as xr
import yaml

from fluxcube.errors import ConfigError, SourceError, unknown
from fluxcube.extensions import Extended, Extension

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
    citation: str = ""
    doi: str = ""
    licence: str = ""
    files: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    partition: str = ""
    clock: str = ""
    note: str = ""
    rules: tuple[Rule, ...] = ()
    address: str = ""
    members: tuple[str, ...] = ()

    def recognises(self, names: Iterable[str], attrs: Mapping[str, object]) -> bool:
        """Return whether names of files or the global attributes of one file identify this product."""
        if any(re.search(pattern, name, re.IGNORECASE) for pattern in self.files for name in names):
            return True
        found = ((pattern, str(attrs.get(key, ""))) for key, pattern in self.attributes.items())
        return any(re.search(pattern, value, re.IGNORECASE | re.DOTALL) for pattern, value in found)


def products() -> Extended[Product]:
    """Return the table of products, by name: those of this package, then those of other packages.

    Examples
    --------
    >>> list(products())[:6]
    ['x-base', 'fluxcom-rs-meteo', 'metaflux', 'gloflux', 'upch4', 'cf']
    """
    return Extended("products", _shipped(), _product_of)


@functools.cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    return yaml.safe_load(resources.files("fluxcube").joinpath("data/products.yml").read_text("utf-8"))


@functools.cache
def _shipped() -> Mapping[str, Product]:
    return MappingProxyType({name: _product(name, row, _generic()) for name, row in _table().items()})


@functools.cache
def _generic() -> tuple[Rule, ...]:
    """Return the rules of all products: names and CF standard names of fluxes, and of their companions."""
    generic = _rules(_table()[GENERIC]["variables"])
    return generic + tuple(_companion(rule, suffix) for rule in generic for suffix in ("_std", "_spread"))


def _product_of(extension: Extension) -> Product:
    """Return the product of another package: its entry point names a mapping, or a function that returns one."""
    found = extension.load()
    row = found() if callable(found) else found
    if not isinstance(row, Mapping) or "title" not in row:
        raise ConfigError(f"expected a mapping with title, files and variables, found {row!r:.80}")
    known = [one.name for one in fields(Product) if one.name not in ("name", "rules")]
    for key in row:
        if key not in (*known, "variables"):
            raise unknown("key of a product", key, (*known, "variables"))
    for pattern in (*row.get("files", ()), *row.get("attributes", {}).values()):
        re.compile(pattern)
    return _product(extension.name, row, _generic())


def product_named(name: str) -> Product:
    """Return a product of the table (UnknownNameError if there is none of that name)."""
    if name not in products():
        raise unknown("product", name, products().names())
    return products()[name]


def recognising(names: Iterable[str], attrs: Mapping[str, object]) -> list[Product]:
    """Return the products that names of files or global attributes identify; of other packages if none of ours does."""
    names = tuple(names)
    own = [product for product in _shipped().values() if product.recognises(names, attrs)]
    return own or [product for product in products().values() if product.recognises(names, attrs)]


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
    found = recognising(names, attrs)
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
    settings = {key: value for key, value in row.items() if key != "variables"}
    for key in ("files", "members"):
        settings[key] = tuple(row.get(key, ()))
    own = () if name == GENERIC else _rules(row.get("variables", ()))
    return Product(name=name, rules=own + generic, **settings)


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

"""Copies of ERA5 in clouds that are read in place: names, addresses, and how they are reached.

Their parameters and axes have the names of some dialect (`fluxcube.sources.era5.parameters`): ARCO-ERA5 those of
requests, Earth Data Hub those of the Climate Data Store's files, AWS and the Planetary Computer their own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from fluxcube.stores.objects import access_errors

#: Stores by a short name, which can be passed instead of the address.
STORES: Mapping[str, str] = MappingProxyType(
    {
        "arco-era5": "gs://gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3",
        "earth-data-hub-era5": "https://data.earthdatahub.destine.eu/era5/era5-single-levels-atmosphere-v0.zarr",
        "earth-data-hub-era5-land": (
            "https://data.earthdatahub.destine.eu/era5/reanalysis-era5-land-no-antartica-v0.zarr"
        ),
    }
)
#: Options of fsspec for addresses that begin so: public buckets without an account, and an account in ~/.netrc.
_OPTIONS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("gs://gcp-public-data-arco-era5/", {"token": "anon"}),
    ("s3://era5-pds/", {"anon": True}),
    ("https://data.earthdatahub.destine.eu/", {"client_kwargs": {"trust_env": True}}),
)
_EXTRAS = {"s3": "s3", "s3a": "s3"}
_USER = re.compile(r"(?<=://)[^/@]*@")
_NOT_ALLOWED = ("401", "403", "unauthorized", "forbidden", "permission", "anonymous", "credentials", "login")


def address_of(source: str) -> str:
    """Return the address of a store that is passed by its short name; other texts are unchanged."""
    return STORES.get(source, source)


def default_options(address: str) -> Mapping[str, object]:
    """Return the options of fsspec for a known store."""
    return next((options for start, options in _OPTIONS if address.startswith(start)), {})


def public_address(address: str) -> str:
    """Return an address without user, password and query, in which signed addresses contain a key.

    Examples
    --------
    >>> public_address("https://edh:token@host.eu/era5.zarr?sig=abc")
    'https://host.eu/era5.zarr?***'
    """
    if "://" not in address:
        return address
    place, mark, _ = _USER.sub("", address).partition("?")
    return place + ("?***" if mark else "")


def without_user(address: str, options: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Return an address of HTTP without user and password, which are in the options of fsspec then: it logs addresses.

    Parameters
    ----------
    address : str
    options : mapping
        Of fsspec.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.username:
        return address, dict(options)
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    header = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    client = options.get("client_kwargs", {})
    merged = {**options, "client_kwargs": {**(client if isinstance(client, Mapping) else {}), "headers": header}}
    return _USER.sub("", address, count=1), merged


def extra_of(address: str) -> str:
    """Return the extra that contains the packages for an address."""
    return _EXTRAS.get(address.partition("://")[0].rpartition("::")[2], "cloud")


def remote_errors() -> tuple[type[Exception], ...]:
    """Return the errors that libraries of remote stores raise; those of a library count once it is imported."""
    return (KeyError, *access_errors())


def describe(problem: Exception) -> str:
    """Return what went wrong with a remote store, without the message, which might contain credentials."""
    status = str(getattr(problem, "status", "") or getattr(problem, "code", "") or "")
    text = f"{status} {problem}".lower()
    name = f"{type(problem).__name__}{f' {status}' if status else ''}"
    if any(word in text for word in _NOT_ALLOWED):
        return (
            f"{name}: the account is missing or not accepted; Earth Data Hub needs a token in ~/.netrc (machine "
            "data.earthdatahub.destine.eu), other stores need storage_options"
        )
    return name

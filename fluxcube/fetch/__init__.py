"""Fetch what a cube, a model or a map needs from the services that publish it.

Each function writes files into a folder, with a ledger (``fetch.jsonl``) and the licence (``LICENCE.md``) beside them.
A second call fetches only what is missing, and continues what was stopped. The names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fluxcube.errors import missing_package

if TYPE_CHECKING:
    from fluxcube.fetch.era5_fetch import era5 as era5
    from fluxcube.fetch.era5_fetch import era5_land as era5_land
    from fluxcube.fetch.modis_fetch import modis as modis
    from fluxcube.fetch.towers_fetch import towers as towers

#: The public functions, and the module that defines each. A module must not have the name of a function.
_PUBLIC = {
    "towers": "fluxcube.fetch.towers_fetch",
    "era5": "fluxcube.fetch.era5_fetch",
    "era5_land": "fluxcube.fetch.era5_fetch",
    "modis": "fluxcube.fetch.modis_fetch",
}

__all__ = sorted(_PUBLIC)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'fluxcube.fetch' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
        extra = f"fetch-{name.partition('_')[0]}"
        try:
            if not name.startswith("era5"):  # clouds need no requests
                import requests  # noqa: F401  (the modules that all share do not know for what they are imported)

            return getattr(importlib.import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            raise missing_package(str(error.name), extra, f"fluxcube.fetch.{name}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

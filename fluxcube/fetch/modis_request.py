"""A request for MODIS data, as every service receives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fluxcube.fetch.modis_places import Places
from fluxcube.fetch.modis_products import Product

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `fluxcube.fetch.modis` was called with, checked; there are no credentials in it.

    Attributes
    ----------
    folder : Path
    products : tuple of Product
    places : Places
    every : int
        Each n-th day of the year.
    jobs : int
    progress : callable or None
    project : str or None
        Google Cloud project, for Earth Engine.
    endpoint : str or None
        Address of the service, if it is another one than the service's own.
    series : bool
        Whether a table of the pixel at each site is fetched instead of chips (AppEEARS).
    wait_hours : float
        Longest wait for a task in a queue.
    """

    folder: Path
    products: tuple[Product, ...]
    places: Places
    every: int = 1
    jobs: int = 4
    progress: Progress | None = None
    project: str | None = None
    endpoint: str | None = None
    series: bool = False
    wait_hours: float = 24.0

"""Maps of classes: a colour for each, and a legend instead of a colour bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from fluxcube.plotting.canvas import PALETTE
from fluxcube.plotting.mapframe import MapFrame

if TYPE_CHECKING:
    from matplotlib.patches import Patch

#: The layer of maps that tells whether a model is within its area of applicability, and its two colours.
_APPLICABLE, _WITHIN, _OUTSIDE = "applicable", "#56B4E9", "#E69F00"


class Category(NamedTuple):
    """A class of a map.

    Attributes
    ----------
    low, high : float
        Values from `low` to below `high` are of this class.
    label, color, hatch : str
        Its entry in the legend; "" is no pattern.
    """

    low: float
    high: float
    label: str
    color: str
    hatch: str = ""


def categories_of(da: xr.DataArray) -> list[Category]:
    """Return the classes of a field; none for a field of numbers.

    Examples
    --------
    >>> [one.label for one in categories_of(xr.DataArray([True, False], name="forest"))]
    ['not forest', 'forest']
    """
    if da.name == _APPLICABLE:
        return _applicable(str(da.attrs.get("averaged_over", "")) or ("flag_values" not in da.attrs and "share"))
    if da.dtype.kind == "b":
        return _two(f"not {da.name}", str(da.name))
    values, meanings = da.attrs.get("flag_values"), str(da.attrs.get("flag_meanings", "")).split()
    if values is None or not meanings or len(np.atleast_1d(values)) != len(meanings):
        return []
    return _flags(np.atleast_1d(values).astype(float), meanings)


def _applicable(share: str | bool) -> list[Category]:
    """Return the two classes of `applicable`, or of the share of time in which it is 1."""
    often = "at least half of the time" if share else ""
    return _two(
        f"outside the area of applicability {'more than half of the time' if share else ''}".strip(),
        f"within the area of applicability {often}".strip(),
    )


def _two(no: str, yes: str) -> list[Category]:
    return [Category(-np.inf, 0.5, no, _OUTSIDE, "////"), Category(0.5, np.inf, yes, _WITHIN)]


def _flags(values: np.ndarray, meanings: list[str]) -> list[Category]:
    import matplotlib

    colors = PALETTE if len(meanings) <= len(PALETTE) else matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    return [
        Category(value - 0.5, value + 0.5, name.replace("_", " "), matplotlib.colors.to_hex(colors[i % len(colors)]))
        for i, (value, name) in enumerate(zip(values, meanings, strict=True))
    ]


def draw_categories(
    frame: MapFrame, x: np.ndarray, y: np.ndarray, values: np.ndarray, categories: list[Category]
) -> list[Patch]:
    """Draw cells (latitude, longitude) with edges in degrees by their class; return the entries of the legend."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    index = np.full(values.shape, -1)
    for i, one in enumerate(categories):
        index[(values >= one.low) & (values < one.high)] = i
    cmap = ListedColormap([one.color for one in categories])
    shown = np.ma.masked_less(index, 0)
    frame.cells(x, y, shown, cmap=cmap, vmin=-0.5, vmax=len(categories) - 0.5)
    present = [one for i, one in enumerate(categories) if (index == i).any()]
    for one in present:
        if one.hatch:
            _hatch(frame, x, y, index == categories.index(one), one.hatch)
    return [
        Patch(facecolor=one.color, edgecolor="#303030", linewidth=0.0, label=one.label, hatch=one.hatch)
        for one in present
    ]


def _hatch(frame: MapFrame, x: np.ndarray, y: np.ndarray, chosen: np.ndarray, hatch: str) -> None:
    """Hatch chosen cells; neighbouring cells of a row are one box, so that the pattern continues."""
    edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, first), (_, last) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    corners = np.stack([x[first], x[last], y[rows], y[rows + 1]], 1)
    frame.boxes(corners, zorder=1.5, facecolor="none", edgecolor="#303030", hatch=hatch, linewidth=0.0)

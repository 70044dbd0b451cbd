"""Axes of a map: cells, boxes, lines and points in degrees are drawn in its projection, with coasts, borders and ticks.

Without a projection, the axes are degrees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxcube.plotting.canvas import ink
from fluxcube.plotting.outlines import REGION, outlines_within
from fluxcube.plotting.projections import Box, Projection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection, QuadMesh

#: Cells of a projected map are drawn with corners at most this far apart (degrees), so that their edges are curved.
_CELL = 2.0
_GRATICULE = "#00000030"


@dataclass(frozen=True)
class MapFrame:
    """The axes of a map.

    Attributes
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    box : Box
        What they show.
    projection : Projection or None
        None for axes in degrees.
    """

    ax: Axes
    box: Box
    projection: Projection | None = None

    def cells(self, x: np.ndarray, y: np.ndarray, values: np.ma.MaskedArray, **style: Any) -> QuadMesh:
        """Draw cells (latitude, longitude) with edges in degrees east, x, and north, y."""
        if self.projection is None:
            return self.ax.pcolormesh(x, y, values, rasterized=True, **style)
        fine = [np.interp(np.arange(0, len(e) - 1 + 1e-9, 1 / n), np.arange(len(e)), e) for e, n in _parts(x, y)]
        (_, across), (_, up) = _parts(x, y)
        values = np.ma.masked_array(
            np.repeat(np.repeat(values.data, up, 0), across, 1),
            np.repeat(np.repeat(np.ma.getmaskarray(values), up, 0), across, 1),
        )
        east, north = self.projection.xy(*np.meshgrid(fine[0], np.clip(fine[1], self.box.south, self.box.north)))
        lost = ~(np.isfinite(east) & np.isfinite(north))
        hidden = lost[1:, 1:] | lost[1:, :-1] | lost[:-1, 1:] | lost[:-1, :-1]
        values = np.ma.masked_where(hidden, values)
        return self.ax.pcolormesh(np.nan_to_num(east), np.nan_to_num(north), values, rasterized=True, **style)

    def boxes(self, corners: np.ndarray, **style: Any) -> None:
        """Draw boxes (n, 4): west, east, south and north, in degrees."""
        from matplotlib.collections import PolyCollection

        west, east, south, north = corners.T
        rings = list(np.stack([west, south, east, south, east, north, west, north], 1).reshape(-1, 4, 2))
        if self.projection is not None:
            rings = [self.projection.curve(np.concatenate([ring, ring[:1]])) for ring in rings]
            rings = [ring[np.isfinite(ring).all(1)] for ring in rings]
        self.ax.add_collection(PolyCollection(rings, **style), autolim=False)

    def lines(self, lines: Iterable[np.ndarray], **style: Any) -> None:
        """Draw lines (points, 2) in degrees, which lie between the western and eastern edge."""
        from matplotlib.collections import LineCollection

        if self.projection is not None:
            lines = [np.stack(self.projection.xy(line[:, 0], line[:, 1]), 1) for line in lines]
        collection = LineCollection(list(lines), **style)
        self.ax.add_collection(collection, autolim=False)
        self._clip(collection)

    def points(self, longitude: np.ndarray, latitude: np.ndarray, **style: Any) -> PathCollection:
        """Draw markers at places in degrees; those outside of the box are not shown."""
        x, y, _ = self.place(longitude, latitude)
        return self.ax.scatter(x, y, **style)

    def place(self, longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x and y of places in degrees on these axes, NaN outside of the box, and which are inside."""
        east = self.box.west + (np.asarray(longitude, float) - self.box.west) % 360
        north = np.asarray(latitude, float)
        inside = (east <= self.box.east) & (north >= self.box.south) & (north <= self.box.north)
        x, y = (east, north) if self.projection is None else self.projection.xy(east, north)
        return np.where(inside, x, np.nan), np.where(inside, y, np.nan), inside

    def land(self, *, coast: bool = True, borders: bool | None = None) -> None:
        """Draw coasts and borders of countries; borders by default on maps of a region."""
        b = self.box
        if borders or (borders is None and coast and max(b.east - b.west, b.north - b.south) <= REGION):
            lines = outlines_within("borders", b.west, b.east, b.south, b.north)
            self.lines(lines, colors="#505050", linewidths=0.4, zorder=2, linestyles=(0, (5, 2)))
        if coast:
            lines = outlines_within("coast", b.west, b.east, b.south, b.north)
            self.lines(lines, colors="#303030", linewidths=0.6, zorder=2)

    def finish(self, background: str | None = None) -> None:
        """Set the limits, the ticks or the graticule, and the colour behind the map."""
        if self.projection is None:
            _degree_axes(self.ax, self.box)
            if background is not None:
                self.ax.set_facecolor(background)
        else:
            self._edge(background)
            self._graticule()

    @property
    def pad(self) -> float | None:
        """Distance of a title in points: labels of meridians are around a map of a pole."""
        outline = self._outline()
        return 16.0 if outline is not None and self.box.around and self._circle(outline) else None

    def _outline(self) -> np.ndarray | None:
        outline = None if self.projection is None else self.projection.outline
        return None if outline is None or not np.isfinite(outline).all() else outline

    def _clip(self, artist: Any) -> None:
        if (outline := self._outline()) is not None:
            from matplotlib.path import Path

            artist.set_clip_path(Path(outline, closed=True), self.ax.transData)

    def _edge(self, background: str | None) -> None:
        """Draw the edge of the map, and set the limits of the axes."""
        from matplotlib.patches import Polygon

        self.ax.set(aspect="equal", xticks=[], yticks=[])
        outline = self._outline()
        if outline is None:  # part of the box is not on the map: the axes are its frame
            self.ax.autoscale_view()
            self.ax.set_facecolor(background or "none")
            return
        self.ax.set_axis_off()
        self.ax.add_patch(Polygon(outline, facecolor=background or "none", edgecolor="none", zorder=0.2))
        self.ax.add_patch(Polygon(outline, facecolor="none", edgecolor=ink(), linewidth=0.8, zorder=4, clip_on=False))
        margin = 0.01 * np.ptp(outline, axis=0)
        low, high = outline.min(0) - margin, outline.max(0) + margin
        self.ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))

    def _graticule(self) -> None:
        """Draw meridians and parallels with labels outside of the edge of the map."""
        b = self.box
        meridians, parallels = degree_ticks(b.west, b.east), degree_ticks(max(b.south, -89.0), min(b.north, 89.0))
        if b.around:
            meridians = meridians[meridians < b.west + 360 - 1e-6]
        tall = [np.linspace((m, b.south), (m, b.north), 90) for m in meridians]
        wide = [np.linspace((b.west, p), (b.east, p), 181) for p in parallels]
        self.lines([*tall, *wide], colors=_GRATICULE, linewidths=0.4, zorder=1.8)
        outline = self._outline()
        if outline is None:
            return
        if b.around and self._circle(outline):
            self._labels(meridians, np.full(len(meridians), b.south if b.north > 0 else b.north), "EW", outline)
            return
        self._labels(np.full(len(parallels), b.west), parallels, "NS", outline)
        if b.south > -85:
            self._labels(meridians, np.full(len(meridians), b.south), "EW", outline)

    def _circle(self, outline: np.ndarray) -> bool:
        """Whether the edge is a parallel around a pole."""
        distance = np.hypot(*(outline - outline.mean(0)).T)
        return bool(np.ptp(distance) < 0.05 * distance.mean())

    def _labels(self, longitude: np.ndarray, latitude: np.ndarray, letters: str, outline: np.ndarray) -> None:
        """Write degrees beside points of the edge, away from the middle of the map."""
        assert self.projection is not None
        centre = (outline.min(0) + outline.max(0)) / 2
        x, y = self.projection.xy(longitude, latitude)
        circle = self.box.around and self._circle(outline)
        for lon, lat, at in zip(longitude, latitude, np.stack([x, y], 1), strict=True):
            away = (
                (at - centre) / np.hypot(*(at - centre))
                if circle
                else np.array([-1, 0] if letters == "NS" else [0, -1])
            )
            text = degrees((lon + 180) % 360 - 180, "EW") if letters == "EW" else degrees(lat, "NS")
            label = self.ax.annotate(
                text, at, xytext=tuple(4 * away), textcoords="offset points", fontsize=7, annotation_clip=False
            )
            label.set_horizontalalignment("center" if abs(away[0]) < 0.4 else "right" if away[0] < 0 else "left")
            label.set_verticalalignment("center" if abs(away[1]) < 0.4 else "top" if away[1] < 0 else "bottom")


def _parts(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Return the edges of both axes, and the number of parts into which each cell is divided."""
    return [(edges, max(1, int(np.ceil(np.abs(np.diff(edges)).max() / _CELL)))) for edges in (x, y)]


def _degree_axes(ax: Axes, box: Box) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set(xlim=(box.west, box.east), ylim=(box.south, box.north), aspect=1 / squeeze(box.south, box.north))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: degrees((v + 180) % 360 - 180, "EW")))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: degrees(v, "NS")))
    ax.tick_params(labelsize=8)


def degree_ticks(low: float, high: float, number: int = 6) -> np.ndarray:
    """Return round degrees between two ends, at about `number` equal steps.

    Examples
    --------
    >>> degree_ticks(-180, 180).tolist()
    [-180.0, -120.0, -60.0, 0.0, 60.0, 120.0, 180.0]
    >>> degree_ticks(4.9, 7.1).tolist()
    [5.0, 5.5, 6.0, 6.5, 7.0]
    """
    steps = np.array([0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 15, 20, 30, 60])
    step = steps[np.argmin(np.abs(np.log(steps * number / max(high - low, 1e-3))))]
    return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step


def squeeze(south: float, north: float) -> float:
    """Return the width of a degree of longitude over one of latitude at the middle; 1 for maps of much of the world."""
    return 1.0 if north - south > 60 else max(0.1, float(np.cos(np.deg2rad((south + north) / 2))))


def degrees(value: float, letters: str) -> str:
    """Return degrees as text, with the first letter for positive values and the second for negative ones.

    >>> degrees(-7.5, "EW")
    '7.5°W'
    """
    letter = "" if value == 0 or abs(value) == 180 else letters[0] if value > 0 else letters[1]
    return f"{abs(round(value, 6)):g}°{letter}"


def shape_of(box: Box, projection: Projection | None) -> float:
    """Return height over width of a map, limited to usual shapes of a page."""
    height, width = box.north - box.south, (box.east - box.west) * squeeze(box.south, box.north)
    outline = None if projection is None else projection.outline
    if outline is not None and np.isfinite(outline).all():
        width, height = np.ptp(outline, axis=0)
    elif outline is not None:
        width = height = 1.0
    return float(np.clip(0.85 * height / width, 0.3, 1.3))

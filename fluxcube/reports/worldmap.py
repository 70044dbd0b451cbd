"""The map of towers as inline SVG, which the page colours by a score."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
import pandas as pd

from fluxcube.plotting.outlines import coast_lines
from fluxcube.reports.evidence import Evidence
from fluxcube.tabletext import counted

_SCORES = {"nse": "NSE", "rmse": "RMSE", "bias": "bias", "corr2": "corr²"}
#: Margin about the towers, and the smallest width and height of the map (degrees).
_MARGIN, _WIDTH, _HEIGHT = 6.0, 60.0, 30.0


def map_widget(evidence: Evidence) -> str:
    """Return the map with its controls, and the place of the series, as HTML."""
    sites = evidence.sites.drop_duplicates("site")
    places = _placed(sites)
    scores = [f'<option value="{key}">{name}</option>' for key, name in _SCORES.items()]
    models = [_option(model, model == evidence.best[evidence.targets[0]]) for model in evidence.models]
    towers = [_option(str(site)) for site in sorted(sites["site"])]
    none = '<option value="" selected>none</option>'
    controls = [
        f'<label>Score <select id="map-score">{"".join(scores)}</select></label>',
        f'<label>Model <select id="map-model">{"".join(models)}</select></label>',
        f'<label>minus <select id="map-against">{none}{"".join(map(_option, evidence.models))}</select></label>',
        f'<label>Tower <select id="map-tower"><option value="">choose</option>{"".join(towers)}</select></label>',
        '<span><button type="button" id="map-in" aria-label="Zoom in">+</button> '
        '<button type="button" id="map-out" aria-label="Zoom out">−</button> '
        '<button type="button" id="map-all">all</button></span>',
    ]
    ramp = '<span id="ramp-low"></span><span class="ramp" id="ramp"></span><span id="ramp-high"></span>'
    legend = f'<p class="legend"><strong id="map-title"></strong> <span class="scale">{ramp}</span></p>'
    panel = '<div id="series" aria-live="polite"><p class="absent">No tower is chosen.</p></div>'
    return f'<div class="map"><div class="pick">{"".join(controls)}</div>{legend}{_svg(places)}{panel}</div>'


def _option(value: str, selected: bool = False) -> str:
    mark = " selected" if selected else ""
    return f'<option value="{escape(value)}"{mark}>{escape(value)}</option>'


def _placed(sites: pd.DataFrame) -> pd.DataFrame:
    """Return the towers with a known place."""
    if not {"latitude", "longitude"} <= set(sites):
        return sites.iloc[:0]
    known = np.isfinite(sites["latitude"].astype(float)) & np.isfinite(sites["longitude"].astype(float))
    return sites[known]


def _svg(places: pd.DataFrame) -> str:
    """Return the map: land, and a circle for each tower; in degrees, with north at the top."""
    left, top, width, height = _view(places)
    land = "".join(_path(line) for line in coast_lines())
    dots = "".join(_dot(row, first=i == 0) for i, row in enumerate(places.to_dict("records")))
    number = counted(len(places), "tower")
    return (
        f'<svg id="map-svg" viewBox="{left:g} {top:g} {width:g} {height:g}" role="group" '
        f'aria-label="Map of {number}, coloured by the chosen score">'
        f'<path class="land" d="{land}"/>{dots}</svg>'
    )


def _dot(row: Mapping, *, first: bool) -> str:
    """Return the circle of one tower; the first one is in the tab order."""
    site = escape(str(row["site"]))
    place = f'cx="{float(row["longitude"]):.3f}" cy="{-float(row["latitude"]):.3f}" r="1"'
    role = f'role="button" tabindex="{0 if first else -1}" data-site="{site}" aria-label="{site}"'
    return f'<circle class="dot" {place} {role}><title>{site}</title></circle>'


def _view(places: pd.DataFrame) -> tuple[float, float, float, float]:
    """Return the part of the world that contains the towers: left, top, width and height."""
    if not len(places):
        return -180.0, -85.0, 360.0, 145.0
    east, north = places["longitude"].astype(float), places["latitude"].astype(float)
    left, right = _span(east.min(), east.max(), _WIDTH, -180.0, 180.0)
    bottom, top = _span(north.min(), north.max(), max(_HEIGHT, 0.35 * (right - left)), -90.0, 90.0)
    return left, -top, right - left, top - bottom


def _span(low: float, high: float, smallest: float, first: float, last: float) -> tuple[float, float]:
    middle, half = (low + high) / 2, max(smallest, high - low + 2 * _MARGIN) / 2
    start = min(max(middle - half, first), last - 2 * half) if 2 * half < last - first else first
    return start, min(start + 2 * half, last)


def _path(line: np.ndarray) -> str:
    """Return one coast line (N, 2) of longitude and latitude as a path, in tenths of a degree."""
    points = [f"{x:.1f},{-y:.1f}".replace(".0", "") for x, y in line]
    unique = [point for i, point in enumerate(points) if not i or point != points[i - 1]]
    return f"M{' '.join(unique)}"

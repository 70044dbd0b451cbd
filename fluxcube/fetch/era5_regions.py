"""Names of regions, for requests: boxes around continents and some regions that are often mapped."""

from __future__ import annotations

from fluxcube.errors import unknown
from fluxcube.fetch.periods import Box

#: (west, south, east, north), degrees.
REGIONS: dict[str, Box] = {
    "world": (-180.0, -90.0, 180.0, 90.0),
    "africa": (-20.0, -36.0, 53.0, 38.0),
    "alps": (5.0, 43.5, 17.0, 48.5),
    "amazon": (-80.0, -20.0, -44.0, 10.0),
    "asia": (25.0, -11.0, 180.0, 78.0),
    "australia": (112.0, -44.0, 154.0, -10.0),
    "europe": (-25.0, 34.0, 45.0, 72.0),
    "iberia": (-10.0, 35.5, 4.5, 44.0),
    "north-america": (-170.0, 7.0, -52.0, 75.0),
    "oceania": (110.0, -50.0, 180.0, 0.0),
    "scandinavia": (4.0, 54.0, 32.0, 72.0),
    "south-america": (-82.0, -56.0, -34.0, 13.0),
    "usa": (-125.0, 24.0, -66.0, 50.0),
}


def region_box(name: str) -> Box:
    """Return the box (west, south, east, north) of a region, degrees.

    Raises
    ------
    UnknownNameError
        If the name is not in the table.

    Examples
    --------
    >>> region_box("Alps")
    (5.0, 43.5, 17.0, 48.5)
    """
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    if key not in REGIONS:
        raise unknown("region", name, REGIONS)
    return REGIONS[key]

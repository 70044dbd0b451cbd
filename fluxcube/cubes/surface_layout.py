"""Layout of the surface reflectance of a tower cube in its store: coordinates, arrays, and the part of each site.

The store has every day from `fluxcube.cubes.layout.DAY_EPOCH` on, like that of chips; `fluxcube.open_carbonsense` omits
days without a value. Bands and features of a store never change, so that appending leaves the files of other sites as
they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fluxcube.cubes.climatology import STATISTICS, surface_climatology, surface_features
from fluxcube.cubes.layout import DAY_EPOCH, DAYS_SHARD, Place, day_axis, write_days
from fluxcube.errors import ConfigError
from fluxcube.resolution import resolution_of
from fluxcube.schema import SURFACE_BEFORE, SURFACE_DIMS
from fluxcube.stores.arrays import ArraySpec
from fluxcube.stores.building import spill, spilled, unspill
from fluxcube.stores.reading import open_store
from fluxcube.stores.shards import write_run
from fluxcube.variables import SURFACE_BANDS

_log = logging.getLogger(__name__)

#: Number of days per chunk.
_CHUNK = 1370
#: Attributes of `surface` that describe its source, and must not differ between the sites of a cube.
SOURCE_ATTRS = ("product", "collection", "lookahead_days")


@dataclass(frozen=True, kw_only=True)
class SurfaceParts:
    """Surface reflectance that was spilled to the store that is being built.

    Attributes
    ----------
    bands : tuple of str
        Bands that any site has.
    quality : bool
        Whether any site has a quality.
    attrs : mapping
        Attributes of the array `surface`.
    days : mapping of str to (day,) datetime64[D]
        Days to be stored, by site; a site that was spilled and has none of its own time has an empty array.
    """

    bands: tuple[str, ...]
    quality: bool
    attrs: Mapping[str, object] = field(default_factory=dict)
    days: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SurfaceLayout:
    """Labels and attributes of the surface arrays of a store.

    Attributes
    ----------
    days : (day,) datetime64[D]
        Days on which any site has a value; at least one.
    bands, features : tuple of str
        Labels. A store without `surface_climatology`, as older versions wrote, has no features.
    quality : bool
        Whether the store has `surface_quality`.
    attrs : mapping
        Attributes of the array `surface`.
    """

    days: np.ndarray
    bands: tuple[str, ...]
    features: tuple[str, ...]
    quality: bool
    attrs: Mapping[str, object]


def surface_layout(source: Path | None, parts: SurfaceParts | None) -> SurfaceLayout | None:
    """Return the layout of a store with the sites of another one and those of `parts`; None without reflectance.

    Raises
    ------
    ConfigError
        If the two have different products or collections.
    """
    old = None if source is None else stored_layout(source)
    new = None if parts is None else _layout_of(parts)
    if old is None or new is None:
        return old or new
    check_same_source(old.attrs, new.attrs, str(source))
    if dropped := [band for band in new.bands if band not in old.bands]:
        _log.warning("%s has no bands %s: not added; build it again with overwrite", source, ", ".join(dropped))
    return SurfaceLayout(
        days=np.union1d(old.days, new.days),
        bands=old.bands,
        features=old.features or surface_features(old.bands),
        quality=old.quality or new.quality,
        attrs={**new.attrs, **old.attrs},
    )


def stored_layout(store: Path) -> SurfaceLayout | None:
    """Return the layout of an existing cube; None if it has no surface reflectance."""
    with open_store(store, kind="cube", dask=False) as old:
        if "surface" not in old:
            return None
        day, band = SURFACE_DIMS[resolution_of(old).name]
        return SurfaceLayout(
            days=old[day].values[old[f"{day}_held"].values].astype("datetime64[D]"),
            bands=tuple(map(str, old[band].values)),
            features=tuple(map(str, old.feature.values)) if "surface_climatology" in old else (),
            quality="surface_quality" in old,
            attrs=dict(old.surface.attrs),
        )


def check_same_source(stored: Mapping[str, object], new: Mapping[str, object], where: str) -> None:
    """Refuse reflectance of another product or collection than that of a cube (ConfigError); an unknown one passes."""
    for key in SOURCE_ATTRS:
        if key in stored and key in new and str(stored[key]) != str(new[key]):
            raise ConfigError(
                f"{where}: its surface reflectance has {key} {stored[key]}, and the new one has {new[key]}: expected "
                "one product in a cube; build two cubes, or build this one again with overwrite."
            )


def _layout_of(parts: SurfaceParts) -> SurfaceLayout | None:
    days = [days for days in parts.days.values() if len(days)]
    if not days:
        return None
    return SurfaceLayout(
        days=np.unique(np.concatenate(days)),
        bands=parts.bands,
        features=surface_features(parts.bands),
        quality=parts.quality,
        attrs=parts.attrs,
    )


def surface_coords(layout: SurfaceLayout, resolution: str) -> dict[str, tuple]:
    """Return the coordinates of the surface arrays: labels, every day from the epoch on, and which days have data."""
    day, band = SURFACE_DIMS[resolution]
    axis = day_axis(layout.days)
    coords: dict[str, tuple] = {
        day: (day, axis.astype("datetime64[ns]"), {"long_name": "date of the satellite product"}),
        f"{day}_held": (day, np.isin(axis, layout.days), {"long_name": "days of which some site has a value"}),
        band: (band, np.array(layout.bands, object)),
    }
    if layout.features:
        coords["statistic"] = ("statistic", np.array(STATISTICS, object))
        coords["feature"] = ("feature", np.array(layout.features, object))
    return coords


def surface_arrays(layout: SurfaceLayout, sites: int, resolution: str) -> dict[str, ArraySpec]:
    """Return the surface arrays of a store of some number of sites, as `fluxcube.stores.arrays.create` expects them."""
    day, band = SURFACE_DIMS[resolution]
    days, bands = len(day_axis(layout.days)), len(layout.bands)
    arrays = {
        "surface": ArraySpec(
            dims=("site", day, band),
            shape=(sites, days, bands),
            dtype="float32",
            chunks=(1, _CHUNK, bands),
            shards=(1, DAYS_SHARD, bands),
            fill_value=np.nan,
            attrs={"long_name": "surface reflectance under a clear sky", **layout.attrs, "units": "1"},
        )
    }
    if layout.quality:
        arrays["surface_quality"] = ArraySpec(
            dims=("site", day),
            shape=(sites, days),
            dtype="float32",
            chunks=(1, _CHUNK),
            shards=(1, DAYS_SHARD),
            fill_value=np.nan,
            attrs={"long_name": "share of the pixels of surface reflectance that are clear and valid", "units": "1"},
        )
    if layout.features:
        shape = len(STATISTICS), len(layout.features)
        arrays["surface_climatology"] = ArraySpec(
            dims=("site", "statistic", "feature"),
            shape=(sites, *shape),
            dtype="float32",
            chunks=(1, *shape),
            shards=(1, *shape),
            fill_value=np.nan,
            attrs={
                "long_name": "percentiles and monthly means of surface reflectance and its indices over all years",
                "units": "1",
            },
        )
    return arrays


def stored_span(place: Place) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and last date of which a site's reflectance is stored: its own time, and 96 days before."""
    start, stop = np.datetime64(str(place["start"]), "h"), np.datetime64(str(place["stop"]), "h")
    first = (start - SURFACE_BEFORE).astype("datetime64[D]")
    return max(first, DAY_EPOCH), (stop - np.timedelta64(1, "h")).astype("datetime64[D]")


def spill_surface(
    building: Path,
    place: Place,
    days: np.ndarray,
    values: np.ndarray,
    bands: Sequence[str],
    quality: np.ndarray | None,
) -> np.ndarray:
    """Spill some days of a site's reflectance for `write_surface`, and return those of its own time.

    Parameters
    ----------
    building : path
        Store that is being built.
    place : mapping
        As `fluxcube.cubes.layout.placed` returns it.
    days : (day,) datetime64[D]
        Dates, ascending, also of years in which the tower did not measure. Those of several calls do not overlap.
    values : (day, band) float32
        Reflectance of `bands`.
    bands : sequence of str
        Names of the bands.
    quality : (day,) float32 or None
        Share of pixels that are clear and valid, where it is known.

    Returns
    -------
    (day,) datetime64[D]
        Days with a value that the store will contain.
    """
    first, last = stored_span(place)
    seen = np.isfinite(values).any(1)
    if len(days):
        arrays = {"day": days, "values": values.astype(np.float32), "bands": np.array(list(bands), str)}
        arrays |= {} if quality is None else {"quality": quality.astype(np.float32)}
        spill(building, f"{place['site']}.surface.{days[0]}", arrays)
    return days[seen & (days >= first) & (days <= last)]


def write_surface(building: Path, at: int, place: Place, layout: SurfaceLayout) -> None:
    """Write the reflectance of a site that `spill_surface` spilled, and the statistics of its whole record.

    Parameters
    ----------
    building : path
        Store that is being built.
    at : int
        Index of the site on its axis.
    place : mapping
        As `fluxcube.cubes.layout.placed` returns it.
    layout : SurfaceLayout
        Of the store.
    """
    parts = [unspill(building, key) for key in spilled(building, f"{place['site']}.surface.")]
    if not parts:
        return
    days = np.concatenate([part["day"] for part in parts])
    values = np.concatenate([_in_bands(part, layout.bands) for part in parts])
    if layout.features:
        write_run(building, "surface_climatology", at, 0, _statistics(values, days, layout))
    first, last = stored_span(place)
    # Days without a value are written, too, for their quality: another site may have one.
    kept = (days >= first) & (days <= min(last, layout.days.max()))
    _write_days(building, "surface", at, days[kept], values[kept])
    if layout.quality:
        none = [np.full(len(part["day"]), np.nan, np.float32) for part in parts]
        quality = np.concatenate([part.get("quality", empty) for part, empty in zip(parts, none, strict=True)])
        _write_days(building, "surface_quality", at, days[kept], quality[kept])


def _statistics(values: np.ndarray, days: np.ndarray, layout: SurfaceLayout) -> np.ndarray:
    """Return the statistics (statistic, feature) of values (day, band), for the features of the store."""
    statistics = surface_climatology(values[None], days, layout.bands)[0]
    found = dict(zip(surface_features(layout.bands), statistics.T, strict=True))
    none = np.full(len(STATISTICS), np.nan, np.float32)
    return np.stack([found.get(name, none) for name in layout.features], 1)


def _in_bands(part: Mapping[str, np.ndarray], bands: Sequence[str]) -> np.ndarray:
    """Return spilled values (day, band) of the bands of the store; NaN where the site lacks a band."""
    own = [str(band) for band in part["bands"]]
    out = np.full((len(part["day"]), len(bands)), np.nan, np.float32)
    for i, band in enumerate(bands):
        if band in own:
            out[:, i] = part["values"][:, own.index(band)]
    return out


def _write_days(building: Path, name: str, at: int, days: np.ndarray, values: np.ndarray) -> None:
    """Write values (day, ...) of a site; without any, the site becomes empty."""
    if not len(days):
        days, values = np.array([DAY_EPOCH]), np.full((1, *values.shape[1:]), np.nan, np.float32)
    write_days(building, name, at, days, values, np.nan)


def in_order(bands: Iterable[str]) -> tuple[str, ...]:
    """Return bands in the order of `fluxcube.variables.SURFACE_BANDS`, each once."""
    present = set(bands)
    return tuple(band for band in SURFACE_BANDS if band in present)

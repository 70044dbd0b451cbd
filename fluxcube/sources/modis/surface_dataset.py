"""Form the Dataset of surface reflectance (site, day, band) from the clear reflectance of files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.sources.modis.quality import QualityRules
from fluxcube.sources.modis.surface_checks import warn_cloudy_years, warn_swapped_bands
from fluxcube.sources.modis.surface_merge import check_same_place, one_product
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.sources.modis.surface_summary import Summary
from fluxcube.variables import SURFACE_BANDS

log = logging.getLogger(__name__)

#: Days after its date that views of a product are from.
_LOOKAHEAD = {"MCD43A4": 8}


def as_dataset(batches: Sequence[tuple[Observations, Summary]], rules: QualityRules) -> xr.Dataset:
    """Return the Dataset of all batches, with the days on which any site has a value.

    Parameters
    ----------
    batches : sequence of (Observations, Summary)
        The files (of which sites, places, products and names of flags are used), and their clear reflectance.
    rules : QualityRules
        The rules that were applied, for the attributes.

    Returns
    -------
    xarray.Dataset
        As `fluxcube.read_surface` returns it.

    Raises
    ------
    SourceError
        If there is no clear value, or the batches contradict each other.
    """
    if not batches:
        raise SourceError("no reflectance was read: pass at least one file.")
    about = [part for part, _ in batches]
    product, collection = one_product(about)
    check_same_place(about)
    sites = tuple(dict.fromkeys(name for part in about for name in part.sites))
    where, joined = about[0].source, _joined(batches, sites)
    site, day = joined.site, joined.day
    clear = np.isfinite(joined.values).any(axis=1)
    if not clear.any():
        raise SourceError(
            f"{where}: none of {len(day)} entries is clear and valid: check the flags (quality=None uses all values)."
        )
    warn_cloudy_years(sites, site, day, clear, where)
    if lacking := [sites[i] for i in np.flatnonzero(np.bincount(site[clear], minlength=len(sites)) == 0)]:
        log.warning("%s: no clear view of %d sites: %s", where, len(lacking), ", ".join(lacking[:10]))
    days = np.unique(day[clear])
    if len(batches) > 1:  # in one batch, each site and day occurs once
        _check_separate(joined, sites, where)
    surface, shares = _on_grid(joined, sites, days)
    warn_swapped_bands(surface, SURFACE_BANDS, sites, where)
    bands = np.flatnonzero(np.logical_or.reduce(np.isfinite(joined.values)))
    _report_bands([SURFACE_BANDS[i] for i in bands], where)
    coords: dict[str, object] = {
        "site": ("site", np.array(sites, object)),
        "day": ("day", days.astype("datetime64[ns]")),
        "band": ("band", np.array([SURFACE_BANDS[i] for i in bands], object)),
    }
    ds = xr.Dataset(
        {
            "surface": (("site", "day", "band"), surface[:, :, bands], _attrs(about, product, collection, rules)),
            "surface_quality": (("site", "day"), shares, {"units": "1", "long_name": "share of clear, valid pixels"}),
        },
        coords=coords,
    )
    return ds.assign_coords(_places(about, sites))


def _joined(batches: Sequence[tuple[Observations, Summary]], sites: Sequence[str]) -> Summary:
    """Return the entries of all batches, with indices into `sites`."""
    position = {name: i for i, name in enumerate(sites)}
    own = [np.array([position[name] for name in part.sites], np.intp)[summary.site] for part, summary in batches]
    return Summary(
        site=np.concatenate(own),
        day=np.concatenate([summary.day for _, summary in batches]),
        values=np.concatenate([summary.values for _, summary in batches]),
        share=np.concatenate([summary.share for _, summary in batches]),
    )


def _on_grid(joined: Summary, sites: tuple[str, ...], days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return reflectance (site, day, band) and shares of clear pixels (site, day), NaN without an entry."""
    on = np.isin(joined.day, days)
    site, at = joined.site[on], np.searchsorted(days, joined.day[on])
    surface = np.full((len(sites), len(days), len(SURFACE_BANDS)), np.nan, np.float32)
    shares = np.full((len(sites), len(days)), np.nan, np.float32)
    surface[site, at] = joined.values[on]
    shares[site, at] = joined.share[on]
    return surface, shares


def _check_separate(joined: Summary, sites: Sequence[str], where: str) -> None:
    """Refuse files of different forms that contain the same site and day."""
    order = np.lexsort((joined.day, joined.site))
    site, day = joined.site[order], joined.day[order]
    if (twice := np.flatnonzero((site[1:] == site[:-1]) & (day[1:] == day[:-1]))).size:
        raise SourceError(
            f"{where}: {sites[int(site[twice[0]])]} has reflectance for {day[twice[0]]} in files of two forms: pass "
            "those of one."
        )


def _report_bands(bands: Sequence[str], where: str) -> None:
    """Report which bands are missing: as a warning where NDVI cannot be computed."""
    lacking = [name for name in SURFACE_BANDS[:7] if name not in bands]
    if lacking:
        level = logging.WARNING if {"red", "nir"} & set(lacking) else logging.INFO
        log.log(level, "%s: no values of the bands %s; indices that need them are missing", where, ", ".join(lacking))


def _attrs(about: Sequence[Observations], product: str, collection: str, rules: QualityRules) -> dict[str, str | int]:
    """Return the attributes of `surface`."""
    flags = {name.split(":")[0] for part in about for name in part.flags}
    screening = ", ".join(f"{name}: {rule}" for name, rule in rules.rules.items() if name in flags) or "none"
    comment = f"Rules of quality: {screening}."
    if "clear_sky" in rules.rules.values() and "state_1km" in flags:
        comment += (
            f" Clear sky: cirrus at most {rules.cirrus}, aerosol at most {rules.aerosol}, next to clouds: "
            f"{rules.adjacent}, cloud state 11: {rules.assumed_clear}."
        )
    if (longest := max(part.period for part in about)) > 1:
        comment += f" Composites of {longest} days, at the last of these."
    if product in _LOOKAHEAD:
        comment += f" The fit of a day uses views up to {_LOOKAHEAD[product]} days after it."
    attrs: dict[str, str | int] = {"long_name": "surface reflectance under a clear sky", "units": "1"}
    attrs |= {"product": product} if product else {}
    attrs |= {"collection": collection} if collection else {}
    return attrs | {
        "lookahead_days": _LOOKAHEAD.get(product, 0),
        "source": Path(about[0].source).name,
        "comment": comment,
    }


def _places(about: Sequence[Observations], sites: Sequence[str]) -> dict[str, tuple[str, np.ndarray]]:
    """Return the coordinates of the sites that the files state; none if they state none."""
    place = {name: (np.nan, np.nan) for name in sites}
    for part in about:
        for i, name in enumerate(part.sites):
            if np.isnan(place[name][0]):
                place[name] = (float(part.latitude[i]), float(part.longitude[i]))
    latitude, longitude = np.array([place[name] for name in sites]).T
    if not np.isfinite(latitude).any():
        return {}
    return {"latitude": ("site", latitude), "longitude": ("site", longitude)}

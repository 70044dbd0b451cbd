"""Add images of another sensor, or embeddings of images, to a tower cube or a forcing, lazily."""

from __future__ import annotations

import logging
import re

import numpy as np
import xarray as xr

from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.cubes.surface_series import MAX_DISTANCE_KM
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.resolution import HOURLY, resolution_of
from fluxcube.schema import IMAGES, image_dims, validate_cube, validate_forcing
from fluxcube.sources.modis.surface_checks import distance_km
from fluxcube.timestamps import DAY

log = logging.getLogger(__name__)

_CELLS = ("latitude", "longitude")
_NAME = re.compile(r"[a-z][a-z0-9]*")
_DATES = ("day", "date", "time")
#: Largest difference between coordinates of images and of cells, in degrees, and days that are sampled to check values.
_SAME_PLACE, _SAMPLE = 1e-4, 8
#: Fraction of the upper bound below which no value of reflectance stays, not even over water or in shadow.
_SCALED_TWICE = 1e-3


def add_images(
    cube: Cube,
    name: str,
    images: xr.DataArray,
    *,
    product: str,
    scale: float = 1.0,
    offset: float = 0.0,
    bounds: tuple[float, float] = (0.0, 1.0),
    hold_days: int = 32,
    delay_days: int = 0,
) -> xr.Dataset:
    """Return an hourly cube or forcing with images of another kind than its chips: another sensor, or embeddings.

    `fluxcube.fit` uses them by default (``images=``): EcoPerceiver gives each band of each kind of images a token, at
    local solar noon of the image's day; XGBoost takes the mean of each band of the latest image, weighted by inverse
    distance from the centre. Maps need the same images on the grid: add them to the forcing.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        An hourly tower cube or forcing, lazy or in RAM; it is not changed.
    name : str
        Name of the kind, of lower-case letters and digits, such as "sentinel2".
    images : xr.DataArray
        (site, day, band, y, x), on a forcing (latitude, longitude, day, band, y, x); the dimension of days may be named
        ``date`` or ``time``, too. Images of one pixel, and embeddings, have no y and x. Days are local dates; NaN is
        missing. Sites are matched by name; coordinates of cells must be those of the forcing.
    product : str
        Name of the product, such as "S2_L2A": maps of another product than that of training are refused.
    scale, offset : float
        value = stored value x scale + offset.
    bounds : (float, float)
        Limits of the values after scaling, by default those of reflectance. Values beyond are missing; models see
        values that the limits scale to 0..1.
    hold_days : int
        Number of days after which an image is no longer used, even without a newer one.
    delay_days : int
        Number of days from the date of an image until it is known, such as 366 for an embedding of a year, dated 1
        January. With 0, an image is known from local solar noon of its own day on.

    Returns
    -------
    xr.Dataset
        The cube with the array ``images_NAME`` and the dimensions NAME_day, NAME_band, NAME_y and NAME_x. Nothing but a
        sample of the values is computed.

    Raises
    ------
    ConfigError
        If the cube is daily, or has images of this name; if options are invalid; if more than half of a sample of the
        values lie beyond `bounds`, or all lie near 0; if no image is of use in the time of the cube; or if the images
        have no site of the cube, coordinates more than 2 km from the towers, or other cells than the forcing.
    SchemaError
        If the images have other dimensions, no names of bands, no dates, or a date twice.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=2)
    >>> days = np.array(["2018-06-03", "2018-06-13"], "datetime64[ns]")
    >>> coords = {"site": cube.site.values, "day": days, "band": ["B4", "B8"]}
    >>> images = xr.DataArray(np.full((2, 2, 2, 5, 5), 2500), coords, ("site", "day", "band", "y", "x"))
    >>> more = add_images(cube, "sentinel2", images, product="S2_L2A", scale=1e-4)
    >>> more.images_sentinel2.dims, float(more.images_sentinel2.max())
    (('site', 'sentinel2_day', 'sentinel2_band', 'sentinel2_y', 'sentinel2_x'), 0.25)
    """
    cube = as_cube(cube)
    # The labels of images that were dropped from the cube may remain.
    unused = [c for c in image_dims(name) if c in cube.coords and not any(c in a.dims for a in cube.values())]
    cube = cube.drop_vars(unused)
    grid = _check(cube, name, product, scale, bounds, hold_days, delay_days)
    array = _standard(images, name, _CELLS if grid else ("site",))
    _check_period(array, cube, name, hold_days, delay_days)
    if not grid:
        _check_places(images, cube, name)
    array = _on_cells(array, cube, name) if grid else _at_sites(array, cube, name)
    values = array.astype("float32") * np.float32(scale) + np.float32(offset)
    _check_values(values, name, bounds)
    day = image_dims(name)[0]
    values = values.where((values >= bounds[0]) & (values <= bounds[1]))
    values = values.assign_coords({day: values[day].values + delay_days * DAY})
    values.attrs = {
        "long_name": f"images {name} ({product})",
        "units": "1",
        "product": product,
        "value_bounds": [float(bound) for bound in bounds],
        "hold_days": int(hold_days),
    }
    out = cube.assign({f"{IMAGES}{name}": values})
    return validate_forcing(out) if grid else validate_cube(out)


def _check(
    cube: xr.Dataset,
    name: str,
    product: str,
    scale: float,
    bounds: tuple[float, float],
    hold_days: int,
    delay_days: int,
) -> bool:
    """Refuse cubes and options that do not fit; return whether the cube is a forcing."""
    if "predictors" not in cube or not ("site" in cube.dims or set(_CELLS) <= set(cube.dims)):
        raise SchemaError(
            f"expected a tower cube or a forcing with predictors, found the dimensions {tuple(cube.dims)}: pass what "
            "open_carbonsense or open_forcing returned."
        )
    if resolution_of(cube) is not HOURLY:
        raise ConfigError("images are for hourly cubes, since daily models have no image tokens: pass an hourly cube.")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a name of lower-case letters and digits, such as 'sentinel2', found {name!r}.")
    if f"{IMAGES}{name}" in cube:
        raise ConfigError(
            f"the cube has images {name} already: to replace them, remove them with "
            f".drop_dims({list(image_dims(name))})."
        )
    if clash := [dim for dim in image_dims(name) if dim in cube.dims or dim in cube.coords]:
        raise ConfigError(f"the cube has a dimension {clash[0]} already: choose another name than {name!r}.")
    if not product:
        raise ConfigError("product must be the name of the satellite product, found an empty text.")
    if not np.isfinite(scale) or not scale:
        raise ConfigError(f"scale must be a number other than 0, found {scale!r}.")
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise ConfigError(f"bounds must be (low, high), found {bounds!r}.")
    for option, value, least in (("hold_days", hold_days, 1), ("delay_days", delay_days, 0)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{option} must be whole days of {least} or more, found {value!r}.")
    return "site" not in cube.dims


def _standard(images: xr.DataArray, name: str, places: tuple[str, ...]) -> xr.DataArray:
    """Return images with the standard names and order of dimensions, by ascending local date."""
    if not isinstance(images, xr.DataArray):
        raise SchemaError(
            f"images {name}: expected an xarray.DataArray, found {type(images).__name__}: select a variable of a "
            "Dataset, or stack its variables with .to_dataarray('band')."
        )
    dims = set(map(str, images.dims))
    date = next((dim for dim in _DATES if dim in dims), None)
    inner = {"band", "y", "x"} if dims & {"y", "x"} else {"band"}
    if date is None or dims != {*places, date, *inner}:
        raise SchemaError(
            f"images {name}: expected the dimensions {(*places, 'day', 'band', 'y', 'x')}, or without y and x for one "
            f"pixel, found {images.dims}: rename or select dimensions."
        )
    if missing := [dim for dim in (*places, date, "band") if dim not in images.coords]:
        raise SchemaError(f"images {name}: expected the coordinate {missing[0]}, found none: assign its labels.")
    if images[date].dtype.kind != "M":
        raise SchemaError(f"images {name}: expected dates on {date}, found {images[date].dtype}: convert them.")
    if "y" not in dims:
        images = images.expand_dims(["y", "x"], (-2, -1))
    images = images.drop_vars([c for c in images.coords if c not in (*places, date, "band")])
    images = images.transpose(*places, date, "band", "y", "x").rename(
        dict(zip((date, "band", "y", "x"), image_dims(name), strict=True))
    )
    day, band = image_dims(name)[:2]
    days = images[day].values.astype("datetime64[D]").astype("datetime64[ns]")
    images = images.assign_coords({day: days, band: np.array([str(b) for b in images[band].values], object)})
    for dim in (day, band):
        if len(np.unique(images[dim].values)) != images.sizes[dim]:
            raise SchemaError(
                f"images {name}: expected each {dim.removeprefix(name + '_')} once, found one several times: average "
                "the images of a day, and select each band once."
            )
    if not images.size:
        raise SchemaError(f"images {name}: expected at least one image, found {dict(images.sizes)}.")
    return images if (np.diff(days) > np.timedelta64(0)).all() else images.isel({day: np.argsort(days)})


def _at_sites(images: xr.DataArray, cube: xr.Dataset, name: str) -> xr.DataArray:
    """Return the images of the sites of a cube, in their order; sites without images are missing."""
    sites, own = [str(site) for site in cube.site.values], [str(site) for site in images.site.values]
    if len(set(own)) != len(own):
        raise SchemaError(f"images {name}: expected each site once, found one several times: select one of them.")
    missing = [site for site in sites if site not in own]
    if len(missing) == len(sites):
        raise ConfigError(
            f"images {name}: no site of the cube ({', '.join(sites[:3])}...) is among those of the images "
            f"({', '.join(own[:3])}...): sites are matched by name; rename them."
        )
    if missing:
        log.warning("images %s: %d of %d sites have none (%s)", name, len(missing), len(sites), ", ".join(missing[:5]))
    if sites == own:
        return images.assign_coords(site=cube.site)
    images = images.assign_coords(site=np.array(own, object)).astype("float32")
    return images.reindex(site=np.array(sites, object)).assign_coords(site=cube.site)


def _on_cells(images: xr.DataArray, cube: xr.Dataset, name: str) -> xr.DataArray:
    """Return the images of the cells of a forcing, in their order."""
    for dim in _CELLS:
        images = images.sortby(dim, ascending=bool(cube[dim][0] <= cube[dim][-1]))
        found, expected = images[dim].values, cube[dim].values
        if found.shape != expected.shape or np.abs(found - expected).max() > _SAME_PLACE:
            raise ConfigError(
                f"images {name}: expected the {len(expected)} cells of the forcing on {dim}, {expected[0]:g} to "
                f"{expected[-1]:g}, found {len(found)}, {found[0]:g} to {found[-1]:g}: cut images around the centres "
                "of its cells."
            )
        images = images.assign_coords({dim: cube[dim]})
    chunks = cube.predictors.chunksizes
    return images.chunk({dim: chunks[dim] for dim in _CELLS}) if chunks else images


def _check_period(images: xr.DataArray, cube: xr.Dataset, name: str, hold_days: int, delay_days: int) -> None:
    """Refuse images of which none can be used in the time of a cube (ConfigError)."""
    days, (first, last) = images[image_dims(name)[0]].values + delay_days * DAY, cube.time.values[[0, -1]]
    if not ((days >= first - (hold_days + 1) * DAY) & (days <= last)).any():
        periods = [
            f"{a.astype('datetime64[D]')} to {b.astype('datetime64[D]')}" for a, b in (days[[0, -1]], (first, last))
        ]
        raise ConfigError(
            f"images {name}: they are known from {periods[0]}, each for {hold_days} days, and the cube is of "
            f"{periods[1]}: pass images of that period, or a larger hold_days."
        )


def _check_places(images: xr.DataArray, cube: xr.Dataset, name: str) -> None:
    """Refuse images whose coordinates are those of another place than the site of that name (ConfigError)."""
    if any(images.coords[c].dims != ("site",) if c in images.coords else True for c in _CELLS):
        return  # they do not state where they are
    own = {str(site): i for i, site in enumerate(images.site.values)}
    for site, *place in zip(cube.site.values, cube.latitude.values, cube.longitude.values, strict=True):
        if str(site) not in own:
            continue
        found = [float(images[c].values[own[str(site)]]) for c in _CELLS]
        km = float(distance_km(*place, *found))
        if km > MAX_DISTANCE_KM:
            raise ConfigError(
                f"images {name}: those of {site} lie at {found[0]:.4f} N {found[1]:.4f} E, {km:.1f} km from the tower: "
                f"expected at most {MAX_DISTANCE_KM:g} km. Cut images around the tower, or drop their coordinates if "
                "they are wrong."
            )


def _check_values(values: xr.DataArray, name: str, bounds: tuple[float, float]) -> None:
    """Refuse images mostly beyond their bounds, or scaled twice, in a sample of their days and places."""
    at = {dim: np.unique(np.linspace(0, values.sizes[dim] - 1, _SAMPLE).astype(int)) for dim in values.dims[:-3]}
    sample = values.isel(at).values
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        log.warning("images %s: no value in a sample of their days and places", name)
        return
    beyond = (sample < bounds[0]) | (sample > bounds[1])
    if beyond.mean() > 0.5:
        raise ConfigError(
            f"images {name}: {100 * beyond.mean():.0f} % of the values of a sample, such as {np.median(sample):g}, lie "
            f"beyond the bounds {bounds[0]:g} to {bounds[1]:g}: pass the scale factor of the product (scale=0.0001 for "
            "integers of 0 to 10000), or other bounds."
        )
    if bounds[0] == 0 and 0 < sample.max() < _SCALED_TWICE * bounds[1]:
        raise ConfigError(
            f"images {name}: no value of a sample is above {sample.max():g}, of bounds {bounds[0]:g} to {bounds[1]:g}: "
            "the scale factor was probably applied twice; leave scale out, or pass narrower bounds."
        )
    if beyond.any():
        log.info("images %s: %.3g %% of a sample lie beyond the bounds: missing", name, 100 * beyond.mean())

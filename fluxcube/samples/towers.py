"""Towers in RAM: model inputs and observed fluxes, read from a cube one site at a time."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, unknown
from fluxcube.normalisation import OURS, TABLE
from fluxcube.resolution import DAILY, DEFAULT, QualityLimit, check_resolution, resolution_of
from fluxcube.samples.features import CHIP_PIXELS, Block, FeatureSpec, absent_satellite, class_of, cube_block
from fluxcube.samples.images import ImageKind, Images, image_kinds
from fluxcube.samples.quality import best_flags
from fluxcube.samples.scaling import scale, standardise
from fluxcube.samples.surface import DEFAULT_COLUMNS, bands_needed, static_feature
from fluxcube.samples.windows import Series, join
from fluxcube.schema import SURFACE_DIMS, check_units
from fluxcube.sources.towers.codes import IMPOSSIBLE
from fluxcube.variables import BANDS, COMPUTED, SURFACE_BANDS, grid_predictors, statics, table
from fluxcube.variables import predictors as all_predictors

log = logging.getLogger(__name__)

#: Array and words of `_cube_bands` for bands of the surface reflectance.
_POINTS = ("surface", "surface reflectance: build it with surface=")
#: A predictor present in less than this fraction of the time steps is left out by default.
_LEAST_SHARE = 0.01
#: Column of the number of time steps of a site.
_STEPS = "steps"
#: Words for predictors, and the share of the sites that must have those of "common".
WORDS = ("grid", "common")
_COMMON = 0.9


@dataclass(frozen=True)
class Towers:
    """Features and fluxes of several towers, concatenated.

    Attributes
    ----------
    spec : FeatureSpec
        Columns of the features, and scaling of the fluxes.
    sites : tuple of str
        Towers.
    series : Series
        Features; one place per tower, or per stretch of its hours where the time axis has holes.
    site : (n,) int64
        Position in `sites` of each place's tower.
    first_hour : (n,) int64
        Steps from 1970-01-01T00 to each place's first: UTC hours, or days.
    fluxes : (N, targets) float32
        Scaled as in `spec`; NaN where not observed or where the quality is not accepted.
    """

    spec: FeatureSpec
    sites: tuple[str, ...]
    series: Series
    site: np.ndarray
    first_hour: np.ndarray
    fluxes: np.ndarray

    def observed(self) -> np.ndarray:
        """Return whether any target is observed in each hour (N,)."""
        return np.isfinite(self.fluxes).any(1)

    def scaled(self, kept: Sequence[str] = (), *, inputs: bool = False) -> Towers:
        """Return the towers with each target scaled to mean 0 and standard deviation 1, except those `kept`.

        Non-cyclic inputs of daily towers are scaled, too, and of hourly ones with `inputs`, unless they already are.
        The new `spec` has the scaling.

        Raises
        ------
        ConfigError
            If a target is observed in no hour, or if the fluxes are scaled already.
        """
        spec, fluxes = standardise(self.spec, self.fluxes, kept)
        scaled = dataclasses.replace(self, spec=spec, fluxes=fluxes)
        inputs = inputs or spec.time_resolution.scaled_inputs
        return scaled._with_scaled_inputs() if inputs and not spec.input_scale else scaled

    def _with_scaled_inputs(self) -> Towers:
        inputs, spec = self.series.inputs, self.spec
        seen = np.isfinite(inputs)
        count = np.maximum(seen.sum(0), 1)
        mean = np.where(seen, inputs, 0).sum(0, dtype=np.float64) / count
        spread = np.sqrt(np.square(np.where(seen, inputs - mean, 0)).sum(0, dtype=np.float64) / count)
        mean[list(spec.cyclic_columns)], spread[list(spec.cyclic_columns)] = 0.0, 1.0
        spread = np.where(spread > 0, spread, 1.0)
        spec = dataclasses.replace(spec, input_mean=tuple(mean.tolist()), input_scale=tuple(spread.tolist()))
        scaled = (inputs - np.array(spec.input_mean, np.float32)) / np.array(spec.input_scale, np.float32)
        return dataclasses.replace(self, spec=spec, series=dataclasses.replace(self.series, inputs=scaled))


def cube_spec(
    cube,
    sites: Sequence[str] | None = None,
    *,
    targets: str | Sequence[str] = "NEE",
    predictors: str | Sequence[str] | None = None,
    memory_days: Sequence[int] = (),
    bands: Sequence[str] | None = None,
    static: Sequence[str] | None = None,
    surface: str | Sequence[str] = DEFAULT,
    lookahead: int = 0,
    pixels: int = CHIP_PIXELS,
    images: Sequence[str] | None = None,
    limit: QualityLimit | None = None,
    bounds: str | None = None,
) -> FeatureSpec:
    """Return the inputs and targets of a model for a cube.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory.
    sites : sequence of str, optional
        Training towers, which decide on predictors and classes; by default all of the cube with an hour in it.
    targets : str or sequence of str
        Fluxes.
    predictors : str or sequence of str, optional
        Predictors, or a word of `choose_predictors`; by default all with data in more than 1 % of the sites' hours that
        are not targets.
    memory_days : sequence of int
        Number of days of the trailing means that are added as inputs.
    bands : sequence of str, optional
        Bands of the chips of an hourly cube, or with `pixels` = 1 of its surface reflectance; by default all where the
        cube has chips, and () for none.
    static : sequence of str, optional
        Some of "latitude", "elevation", "igbp", "koppen", and percentiles such as "NDVI_P10"; by default the first
        three and the static predictors that `fluxcube.add_predictor` added to the cube.
    surface : str or sequence of str
        Columns of the surface reflectance (`fluxcube.samples.surface.column_of`); () for none. By default those of
        `fluxcube.samples.surface.DEFAULT_COLUMNS` that the bands of the cube allow.
    lookahead : int
        Number of days by which views of the surface reflectance are known earlier.
    pixels : {64, 1}
        Whether `bands` are bands of chips, or of the surface reflectance.
    images : sequence of str, optional
        Kinds of other images that `fluxcube.add_images` added to an hourly cube; by default all of them.
    limit : QualityLimit, optional
        Quality of the hourly predictors that are used, by default flags of at most 1. Daily predictors are used
        whatever their quality.
    bounds : {"table", "v1", "v2", "ours"}, optional
        Bounds by which predictors are scaled (`fluxcube.normalisation.bounds_of`), by default "ours" for hourly cubes
        and "table" for daily ones.

    Returns
    -------
    FeatureSpec
        With fluxes in their units; see `Towers.scaled`.

    Raises
    ------
    ConfigError
        If the settings contradict each other or the cube.
    UnknownNameError
        If the cube or the variable table does not contain a name.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube_spec(example_cube(), targets=("NEE", "GPP_NT"), bands=()).inputs
    ('DOY', 'TOD', 'TA', 'SW_IN', 'VPD', 'SW_IN_POT')
    """
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    resolution = resolution_of(cube)
    # Check the names of the targets before any data is read.
    FeatureSpec(predictors=("DOY",), targets=targets, resolution=resolution.name)
    _check_cube(cube, resolution.name)
    limit = resolution.limit(resolution.training_limit) if limit is None else limit
    sites = sites_with_hours(cube) if sites is None else sites
    predictors = choose_predictors(cube, sites, targets, limit, predictors)
    log.info("predictors: %s", ", ".join(predictors))
    for name in static or ():
        if name in statics() and name not in cube.coords:
            raise unknown("static predictor of the cube (add it with fluxcube.add_predictor)", name, cube.coords)
    for name in predictors:
        if name not in cube["variable"].values:
            raise unknown("predictor of the cube", name, (*cube["variable"].values, *WORDS))
    bands = _cube_bands(cube, bands, pixels)
    columns = default_surface(cube) if surface == DEFAULT else (surface,) if isinstance(surface, str) else surface
    _check_surface(cube, tuple(columns), tuple(static or ()))
    if static is None:
        static = ("latitude", "elevation", "igbp", *(name for name in statics() if name in cube.coords))
    return FeatureSpec(
        predictors=tuple(predictors),
        memory_days=tuple(memory_days),
        bands=tuple(bands),
        static=tuple(static),
        targets=targets,
        predictor_max_qc=limit.predictor_flag,
        clock=cube.attrs.get("clock", "solar"),
        resolution=resolution.name,
        igbp_classes=_classes(cube, sites, "igbp") if "igbp" in static else (),
        koppen_classes=_classes(cube, sites, "koppen") if "koppen" in static else (),
        bounds=bounds or (TABLE if resolution is DAILY else OURS),
        surface=tuple(columns),
        lookahead=lookahead,
        pixels=pixels if bands else CHIP_PIXELS,
        images=_cube_images(cube, images),
    )


def _cube_images(cube, names: Sequence[str] | None) -> tuple[ImageKind, ...]:
    """Return the kinds of images of these names; by default all of an hourly cube."""
    kinds = image_kinds(cube)
    for name in names or ():
        if name not in kinds:
            raise unknown("kind of images of the cube (add it with fluxcube.add_images)", name, kinds)
    if names is None:
        names = () if resolution_of(cube) is DAILY else tuple(kinds)
    return tuple(kinds[name] for name in names)


def _check_surface(cube, columns: tuple[str, ...], static: tuple[str, ...]) -> None:
    """Refuse surface columns and long-term percentiles that the reflectance of a cube cannot supply (ConfigError)."""
    percentiles = tuple(name for name in static if static_feature(name))
    if "surface" not in cube:
        if columns or percentiles:
            option, names = ("surface", columns) if columns else ("static", percentiles)
            raise ConfigError(
                f"{option}={names}, but the cube has no surface reflectance: build it with surface=, or "
                + ("pass surface=()." if columns else "leave them out.")
            )
        return
    present = _array_bands(cube, "surface")
    for needed, name in [(bands_needed([c]), c) for c in columns] + [(bands_needed([], [s]), s) for s in percentiles]:
        if absent := sorted(set(needed) - set(present)):
            raise ConfigError(
                f"{name} needs the bands {', '.join(needed)}, and the surface reflectance of the cube lacks "
                f"{', '.join(absent)} (it has {', '.join(present)}): build the cube from files with these bands, or "
                "leave it out."
            )


def _cube_bands(cube, bands: Sequence[str] | None, pixels: int) -> tuple[str, ...]:
    """Return the bands of the tokens of a model; by default all of the chips, where the cube has chips."""
    if resolution_of(cube) is DAILY:
        return tuple(bands or ())  # a daily specification refuses any
    array, words = ("modis", "chips: build it with modis=") if pixels == CHIP_PIXELS else _POINTS
    if array not in cube and (bands or pixels != CHIP_PIXELS):
        what = "pixels=1" if bands is None else f"bands={tuple(bands)}"
        raise ConfigError(f"{what}, but the cube has no {words}, or pass bands=().")
    if bands is None:
        return () if array not in cube else _array_bands(cube, array)
    return tuple(bands)


def _array_bands(cube, array: str) -> tuple[str, ...]:
    valid = BANDS if array == "modis" else SURFACE_BANDS
    dim = "band" if array == "modis" else SURFACE_DIMS[resolution_of(cube).name][1]
    return tuple(name for name in valid if name in cube[array][dim].values)


def default_surface(cube) -> tuple[str, ...]:
    """Return the default columns of the surface reflectance that the bands of a cube allow."""
    if "surface" not in cube:
        return ()
    present = set(_array_bands(cube, "surface"))
    return tuple(name for name in DEFAULT_COLUMNS if present.issuperset(bands_needed([name])))


def site_classes(cube, sites: Sequence[str], name: str) -> list[str]:
    """Return the class ("igbp") or main climate ("koppen") of some sites; "" is unknown."""
    classes = dict(zip(map(str, cube["site"].values), map(str, cube[name].values), strict=True))
    return [class_of(name, classes[site]) for site in sites]


def _classes(cube, sites: Sequence[str], name: str) -> tuple[str, ...]:
    return tuple(sorted(set(site_classes(cube, sites, name)) - {""}))


def choose_predictors(
    cube,
    sites: Sequence[str],
    targets: Sequence[str],
    limit: QualityLimit,
    requested: str | Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Return the predictors that were requested by name or by a word; by default all present ones that are no targets.

    A predictor is present at sites that have it in more than 1 % of their time steps: where its flag is accepted; a
    daily one where it has a value.

    Parameters
    ----------
    cube : xr.Dataset
        A cube.
    sites : sequence of str
        Training towers.
    targets : sequence of str
        Fluxes, which are no predictors.
    limit : QualityLimit
        Quality of the predictors that are used.
    requested : str or sequence of str, optional
        Names, which are returned as they are, and words: "grid" is that part of
        `fluxcube.variables.grid_predictors` that the sites have, "common" what at least 90 % of the sites with any
        predictor have. Sites that lack a predictor of these words are logged.

    Raises
    ------
    ConfigError
        If there is none.
    """
    names = (requested,) if isinstance(requested, str) else requested
    if names is not None and not set(names) & set(WORDS):
        return tuple(names)
    present = _present(cube, sites, targets, limit)
    if names is None:
        return _in_all(present, "no predictor has data in more than 1 % of the training hours: name them yourself.")
    chosen: list[str] = []
    for name in names:
        chosen += _of_word(name, present, resolution_of(cube).name) if name in WORDS else [name]
    return tuple(dict.fromkeys(chosen))


def _present(cube, sites: Sequence[str], targets: Sequence[str], limit: QualityLimit) -> pd.DataFrame:
    """Return the number of time steps (site, predictor) in which a predictor is accepted, and all of them ("steps")."""
    every = all_predictors(resolution_of(cube).name)
    names = [str(n) for n in cube["variable"].values if n in every and n not in targets]
    rows = []
    for site in sites:
        one = site_years(cube, site).sel(variable=names)
        rows.append([*accepted_predictors(one, limit).sum((0, 1)), one.sizes["time"]])
    return pd.DataFrame(rows, index=list(sites), columns=[*names, _STEPS])


def _in_all(present: pd.DataFrame, fault: str) -> tuple[str, ...]:
    """Return the predictors with data in more than 1 % of the steps of all sites together (ConfigError if none)."""
    total = present.sum()
    chosen = tuple(name for name in present.columns[:-1] if total[name] > _LEAST_SHARE * total[_STEPS])
    if not chosen:
        raise ConfigError(fault)
    return chosen


def _of_word(word: str, present: pd.DataFrame, resolution: str) -> tuple[str, ...]:
    """Return the predictors of a word (ConfigError if there is none), and log the sites that lack one of them."""
    fault = f"predictors={word!r}: the training towers have none of them; name the predictors yourself."
    chosen = _in_all(present, fault)
    has = present[list(present.columns[:-1])].gt(_LEAST_SHARE * present[_STEPS], axis=0)
    has = has[has.drop(columns=[name for name in COMPUTED if name in has]).any(axis=1)]  # sites with any weather
    if word == "grid":
        chosen = tuple(name for name in chosen if name in grid_predictors(resolution))
    else:
        chosen = tuple(name for name in chosen if has[name].mean() >= _COMMON)
    if not set(chosen) - set(COMPUTED):
        raise ConfigError(fault)
    for name in chosen:
        if lacking := has.index[~has[name]].tolist():
            shown = f"{', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
            log.warning("%s is missing at %d of %d training towers: %s", name, len(lacking), len(has), shown)
    return chosen


def accepted_predictors(one, limit: QualityLimit) -> np.ndarray:
    """Return where predictors (site, time, variable) have an accepted flag; daily ones, where they have a value."""
    if limit.predictor_flag is None and not limit.resolution.lower_is_better:
        return np.isfinite(one["predictors"].values)
    flags = one["predictors_qc"].values
    return (flags >= 0) & limit.accepts(flags, best_flags(one)[:, None, None])


def load_towers(
    cube, sites: Sequence[str], spec: FeatureSpec, limit: QualityLimit, progress: Callable | None = None
) -> Towers:
    """Read some sites of a cube, one at a time, each over its own years.

    Parameters
    ----------
    cube : xr.Dataset
        A cube, lazy or in memory; its time axis may have holes (a selection of seasons, say).
    sites : sequence of str
        Sites to read.
    spec : FeatureSpec
        Inputs, targets and their scaling.
    limit : QualityLimit
        Quality of the fluxes that are used; the others become NaN.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Towers
        They take about ``4 (inputs + targets)`` bytes per time step and 256 bytes per band and chip.

    Raises
    ------
    ConfigError
        If a site has no hour in the cube, or the cube is of another resolution than the spec or normalised.
    UnknownNameError
        If the cube has no such site or target.
    """
    _check_cube(cube, spec.resolution)
    if absent := absent_satellite(cube, spec):
        log.warning("the cube cannot supply %s: masked", ", ".join(absent))
    fluxes, first = [], []

    def read() -> Iterator[Series]:
        for done, site in enumerate(sites, 1):
            one = site_years(cube, site)
            series, hours = _features(one, spec)
            fluxes.append(scale(good_fluxes(one, spec.targets, limit), spec.target_mean, spec.target_scale))
            first.append(hours)
            if progress:
                progress(done, len(sites), f"reading {site}")
            yield series

    return Towers(
        spec=spec,
        sites=tuple(map(str, sites)),
        series=join(read()),
        site=np.repeat(np.arange(len(first)), [len(hours) for hours in first]),
        first_hour=np.concatenate(first),
        fluxes=np.concatenate(fluxes),
    )


def sites_with_hours(cube) -> list[str]:
    """Return the sites with at least one time step in the cube; the number of others is logged."""
    time = cube["time"].values
    start, stop = (np.searchsorted(time, cube[name].values) for name in ("time_start", "time_stop"))
    names = [str(site) for site in cube["site"].values]
    kept = [name for name, a, b in zip(names, start, stop, strict=True) if b > a]
    if not kept:
        raise ConfigError(f"no site of the cube has an hour between {time[0]} and {time[-1]}: widen the selection.")
    if len(kept) < len(names):
        log.warning("%d of %d sites have no hour in the cube: left out", len(names) - len(kept), len(names))
    return kept


def site_years(cube, site: str):
    """Return one site of a cube, its dimension kept, cut to the hours it has data for."""
    at = {str(name): i for i, name in enumerate(cube["site"].values)}
    if site not in at:
        raise unknown("site", site, at)
    time, i = cube["time"].values, at[site]
    start, stop = (int(np.searchsorted(time, cube[name].values[i])) for name in ("time_start", "time_stop"))
    if stop <= start:
        raise ConfigError(f"{site} has no hour between {time[0]} and {time[-1]}: leave it out of the split.")
    return cube.isel(site=slice(i, i + 1), time=slice(start, stop))  # a slice: Dask indexes it much faster than a list


def _check_cube(cube, resolution: str) -> None:
    check_resolution(cube, resolution, "this set of features")
    check_units(cube)


def _features(one, spec: FeatureSpec) -> tuple[Series, np.ndarray]:
    """Features of one site and the first hour of each stretch without a hole; all share the site's chips."""
    blocks = list(_stretches(one, spec))
    first = np.array([block.first_hour for block in blocks])
    series = join(blocks)
    return dataclasses.replace(series, chip_zero=series.chip_zero[0] + first - first[0]), first


def _stretches(one, spec: FeatureSpec) -> Iterator[Block]:
    time = one["time"].values
    step = spec.time_resolution.step
    edges = [0, *(np.flatnonzero(np.diff(time) != step) + 1), len(time)]
    last = (time[-1] - time[0]) // step
    arrays = ["modis", *(kind.array for kind in spec.images)]
    for at, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = one if len(edges) == 2 else one.isel(time=slice(start, stop))
        block = cube_block(part.drop_vars(arrays, errors="ignore") if at else part, spec)
        chips, *images = (
            _until(kind, -1 if at else last) for kind in (Images(block.chips, block.chip_hour), *block.images)
        )
        yield dataclasses.replace(block, chips=chips.pixels, chip_hour=chips.hour, images=tuple(images))


def _until(images: Images, last: int) -> Images:
    """Return the images of one place that are known by a time step; those that are not present come after it."""
    kept = int(np.searchsorted(images.hour[0], last, side="right")) if last >= 0 else 0
    return Images(images.pixels[:, :kept], images.hour[:, :kept])


def good_fluxes(one, targets: Sequence[str], limit: QualityLimit) -> np.ndarray:
    """Return the fluxes (time, targets) float32 of a cube of one site, NaN where their quality is not accepted.

    Parameters
    ----------
    one : xr.Dataset
        As `site_years` returns it.
    targets : sequence of str
        Fluxes.
    limit : QualityLimit
        Accepted quality. At a site whose publication kept no better flag (`best_flags`), that flag counts as measured.

    Raises
    ------
    ConfigError
        If the limit is of the other resolution, a daily quality is above 1, or a flux is beyond 10 times its bounds.
    UnknownNameError
        At a target that the cube does not have.
    """
    for name in targets:
        if name not in one["target"].values:
            raise unknown("target of the cube", name, one["target"].values)
    check_resolution(one, limit.resolution.name, f"a limit of {limit.resolution.option}")
    arrays = ["fluxes"] if limit.value is None else ["fluxes", f"fluxes{limit.resolution.quality}"]
    selected = one[arrays].sel(target=list(targets))
    values = np.array(selected["fluxes"].values[0], np.float32)
    if limit.value is not None:
        quality = selected[f"fluxes{limit.resolution.quality}"].values[0]
        limit.check(quality, str(one["site"].values[0]))
        values[~limit.accepts(quality, best_flags(one)[0])] = np.nan
    _check_possible(one, values, targets, limit.resolution.name)
    return values


def _check_possible(one, values: np.ndarray, targets: Sequence[str], resolution: str) -> None:
    """Refuse fluxes that no place has: a model would fit a single one of them only, and predict infinity."""
    known = table(resolution)
    for i, name in enumerate(targets):
        if name not in known:
            continue
        largest = IMPOSSIBLE * max(map(abs, known[name].bounds))
        if (bad := np.flatnonzero(np.abs(values[:, i]) > largest)).size:
            where = f"{one['site'].values[0]}, {name}, {one['time'].values[bad[0]]}"
            raise ConfigError(
                f"{where}: expected values between -{largest:g} and {largest:g} {known[name].units}, found "
                f"{values[bad[0], i]:g} (and {bad.size - 1} more such values): set them to NaN, or correct the units."
            )


def day_quality(one) -> np.ndarray:
    """Return the quality (time, targets) of a daily cube of one site.

    Raises
    ------
    ConfigError
        If a value is above 1: it is then a flag of 0 to 3, for which lower is better, and not a share.
    """
    quality = one["fluxes_quality"].values[0]
    DAILY.limit(None).check(quality, str(one["site"].values[0]))
    return quality

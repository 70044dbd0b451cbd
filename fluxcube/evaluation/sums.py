"""Sums: sufficient statistics of predictions at towers, from which every table of scores is computed.

Every score follows from eight numbers for each site, model and flux (`fluxcube.moments.Moments`), which one pass over
the time steps computes. They are small and can be joined over folds, so that tables and intervals need no new
predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypedDict

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.common_steps import check_unaveraged
from fluxcube.evaluation.passes import lazy_moments, moments_of_places
from fluxcube.evaluation.periods import ALL, KINDS, SEASONS, Periods, period_numbers, periods_of
from fluxcube.evaluation.rows import (
    INPUTS,
    Aligned,
    Labelled,
    QualityOptions,
    aligned,
    aligned_pairs,
    common_rows,
    data_resolution,
    inputs_of,
)
from fluxcube.moments import Moments, pool
from fluxcube.resolution import DEFAULT, HOURLY, Default, Resolution
from fluxcube.variables import Variable, table

__all__ = [
    "SEASONS",
    "Aligned",
    "Labelled",
    "QualityOptions",
    "SumOptions",
    "Sums",
    "aligned",
    "aligned_pairs",
    "common_rows",
    "data_resolution",
    "site_sums",
]

_KEYS = ("target", "model")
#: Beginning of the names of attributes with the number of time steps of each flux that are left after a step.
ROWS = "rows_"
#: Coordinates of a place that are stored with its sums, for groups and clusters.
_COORDS = ("site", "igbp", "koppen", "network", "latitude", "longitude", "elevation")


@dataclass(frozen=True)
class Sums:
    """Sufficient statistics of the predictions of several models, on a common row mask.

    Attributes
    ----------
    models : tuple of str
        Names of the models.
    moments : mapping of str to Moments
        Moments by target; each array is (place, period, model).
    places : mapping of str to xr.Dataset
        Coordinates of the places by target, with the dimension place.
    attrs : mapping
        The row mask in words, the limit of quality, the resolution, and for each flux the number of time steps that
        each step left: rows_observed, rows_after_quality, rows_common (at time steps that all models have) and
        rows_scored (where all models have a value), at the sites that all have.
    units : mapping of str to str
        Units of each target that has any in the data, as the observations have them.
    periods : Periods
        Periods of time steps that are separate, such as seasons; one with all time steps by default.
    """

    models: tuple[str, ...]
    moments: Mapping[str, Moments]
    places: Mapping[str, xr.Dataset]
    attrs: Mapping[str, object]
    units: Mapping[str, str] = field(default_factory=dict)
    periods: Periods = field(default_factory=Periods)

    def units_of(self, target: str) -> str:
        """Return the units of a target: those of the data, else those of the variable table."""
        rows = table(str(self.attrs.get("resolution", HOURLY.name)))
        return self.units.get(target) or (rows[target].units if target in rows else "")

    @property
    def targets(self) -> list[str]:
        """Fluxes that are scored."""
        return list(self.moments)

    @property
    def seasonal(self) -> bool:
        """Whether there are sums of each season."""
        return "season" in self.periods.kinds

    def of_periods(self, target: str, kinds: Sequence[str] = ()) -> dict[tuple[str, ...], Moments]:
        """Return the moments (place, model) of each period, pooled over the kinds that are not in `kinds`.

        Parameters
        ----------
        target : str
            Flux.
        kinds : sequence of str
            Kinds of periods to separate; their labels, in this order, are the keys. None: all time steps.

        Raises
        ------
        ConfigError
            If the sums have no such periods.
        """
        m, have = self.moments[target], self.periods.kinds
        if missing := set(kinds) - set(have):
            raise ConfigError(
                f"by={sorted(missing)[0]!r} needs sums of its periods: compute them with "
                f"site_sums(..., periods={tuple(kinds)!r})."
            )
        positions: dict[tuple[str, ...], list[int]] = {}
        for i, label in enumerate(self.periods.labels):
            named = dict(zip(have, label, strict=True))
            if any(not named[kind] for kind in kinds):
                continue  # values that have no period of this kind
            if "subset" in kinds or named.get("subset", ALL) == ALL:
                positions.setdefault(tuple(named[kind] for kind in kinds), []).append(i)
        return {
            label: Moments(*(x[:, at[0]] for x in m)) if len(at) == 1 else pool(Moments(*(x[:, at] for x in m)), axis=1)
            for label, at in positions.items()
        }

    def whole(self, target: str) -> Moments:
        """Return the moments (place, model) of all time steps."""
        if len(self.periods.labels) == 1 < self.moments[target].n.shape[1]:  # sums built without their periods
            return pool(self.moments[target], axis=1)
        return self.of_periods(target)[()]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per target, place, period and model: its coordinates and its moments.

        `from_frame` is the inverse; `fluxcube.evaluation.report.write_sums` and `read_sums` keep every digit.
        """
        frames = []
        for target, m in self.moments.items():
            places = self.places[target]
            index = np.indices(m.n.shape).reshape(3, -1)
            columns = {name: places[name].values[index[0]] for name in _COORDS if name in places}
            columns |= {
                kind: np.array(labels, object)[index[1]]
                for kind, labels in zip(self.periods.kinds, zip(*self.periods.labels, strict=True), strict=True)
            }
            columns |= {} if self.periods.kinds else {"season": "all"}
            columns |= {"model": np.array(self.models, object)[index[2]]}
            columns |= {name: values.ravel() for name, values in m._asdict().items()}
            units = {"units": self.units[target]} if target in self.units else {}
            frames.append(pd.DataFrame({"target": target, **units, **columns}))
        out = pd.concat(frames, ignore_index=True)
        out.attrs = dict(self.attrs)
        return out

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Sums:
        """Return the sums of a table that `to_frame` returned, or of several such tables one below the other.

        Raises
        ------
        SchemaError
            If columns are missing, a model lacks a place that another model has, or a target has two units.
        """
        kinds = [kind for kind in KINDS if kind in frame]
        missing = {*_KEYS, "site", *Moments._fields} - set(frame)
        if missing or not kinds:
            missing |= set() if kinds else {"season"}
            raise SchemaError(f"expected a table of sums, found no columns {', '.join(sorted(missing))}.")
        models = list(dict.fromkeys(frame["model"]))
        labels = _period_labels(frame, kinds)
        found, places = {}, {}
        units: dict[str, str] = {}
        for target, rows in frame.groupby("target", sort=False):
            if "units" in rows:
                units |= _one_unit(str(target), rows["units"], table(str(frame.attrs.get("resolution", HOURLY.name))))
            sites = list(dict.fromkeys(rows["site"]))
            found[target] = _moments_of(str(target), rows, kinds, (sites, labels, models))
            first = rows.drop_duplicates("site").set_index("site").loc[sites].reset_index()
            kept = [c for c in first if c not in (*_KEYS, *kinds, "units", *Moments._fields)]
            places[target] = xr.Dataset({c: ("place", _plain(first[c])) for c in kept})
        periods = Periods() if kinds == ["season"] and labels == [("all",)] else Periods(tuple(kinds), tuple(labels))
        return cls(tuple(models), found, places, dict(frame.attrs), units, periods)

    @classmethod
    def join(cls, parts: Sequence[Sums], *, repeated: bool = False) -> Sums:
        """Join the sums of several folds.

        Parameters
        ----------
        parts : sequence of Sums
            Sums of the folds; their sites are disjoint unless `repeated` is set.
        repeated : bool
            Whether a site may be in several parts, as validation towers may be; its sums are then pooled.

        Raises
        ------
        SchemaError
            If a site is in two parts and `repeated` is false, or the parts contain different models.
        """
        frames = [part.to_frame() for part in parts]
        for frame in frames:  # those of the folds are added below
            frame.attrs = {}
        out = pd.concat(frames, ignore_index=True)
        if repeated:
            out = _pooled(out)
        others = {name: value for name, value in parts[0].attrs.items() if not name.startswith(ROWS)}
        if any(part.attrs.get(INPUTS) != others.get(INPUTS) for part in parts):  # each fold has a model of its own
            others |= _joined_inputs([inputs_of(part.attrs) for part in parts])
        out.attrs = others | added_rows([part.attrs for part in parts])
        return cls.from_frame(out)


def _joined_inputs(parts: Sequence[Mapping[str, Mapping[str, str]]]) -> dict[str, str]:
    """Return the inputs of several folds: different identifiers and digests of one input one after the other."""
    out: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        records = [part.get(name, {}) for part in parts]
        keys = dict.fromkeys(key for record in records for key in record)
        out[name] = {key: " ".join(dict.fromkeys(r[key] for r in records if key in r)) for key in keys}
    return {INPUTS: json.dumps(out)}


def added_rows(attrs: Sequence[Mapping[str, object]]) -> dict[str, dict[str, int]]:
    """Return the numbers of time steps that all parts have as attributes, added."""
    out: dict[str, dict[str, int]] = {}
    for name in attrs[0]:
        counts = [one for part in attrs if isinstance(one := part.get(name), Mapping)]
        if name.startswith(ROWS) and len(counts) == len(attrs):  # sums that were written before have none
            targets = dict.fromkeys(target for one in counts for target in one)
            out[name] = {target: sum(int(one.get(target, 0)) for one in counts) for target in targets}
    return out


def _period_labels(frame: pd.DataFrame, kinds: list[str]) -> list[tuple[str, ...]]:
    """Return the labels of the periods of a table, in order; years of several folds are sorted."""
    labels = list(dict.fromkeys(map(tuple, frame[kinds].fillna("").astype(str).to_numpy(object).tolist())))
    if "year" in kinds:
        at = kinds.index("year")
        others = list(dict.fromkeys(label[:at] + label[at + 1 :] for label in labels))
        years = sorted({label[at] for label in labels})
        labels = [(*other[:at], year, *other[at:]) for other in others for year in years]
    return labels


def _moments_of(
    target: str, rows: pd.DataFrame, kinds: list[str], axes: tuple[list[str], list[tuple[str, ...]], list[str]]
) -> Moments:
    """Return the moments (place, period, model) of one target from rows of a table; years may be missing."""
    sites, labels, models = axes
    order = pd.MultiIndex.from_tuples(
        [(site, *label, model) for site in sites for label in labels for model in models],
        names=["site", *kinds, "model"],
    )
    text = {kind: rows[kind].fillna("").astype(str) for kind in kinds}
    indexed = rows.assign(**text).set_index(["site", *kinds, "model"])
    complete = len(indexed) == len(order) or ("year" in kinds and len(indexed) * len(models) > 0)
    if not complete or not indexed.index.is_unique or not ("year" in kinds or order.isin(indexed.index).all()):
        raise SchemaError(
            f"sums of {target}: {len(rows)} rows are not {len(sites)} sites x {len(labels)} "
            f"{' and '.join(kinds)}s x {len(models)} models, each once; every model must be scored on the same sites."
        )
    empty = {name: np.nan if name in ("obs", "pred") else 0.0 for name in Moments._fields}
    shape = (len(sites), len(labels), len(models))
    absent = ~order.isin(indexed.index)
    indexed = indexed.reindex(order)
    columns = {name: indexed[name].to_numpy(float) for name in Moments._fields}
    return Moments(*(np.where(absent, empty[name], x).reshape(shape) for name, x in columns.items()))


def _one_unit(target: str, column: pd.Series, rows: Mapping[str, Variable]) -> dict[str, str]:
    """Return the units of a target, if it has any; sums without units are in those of the variable table."""
    every = {str(unit) for unit in column.fillna("")}
    named = every - {""}
    known = named | ({rows[target].units} if "" in every and target in rows else set())
    if len(known if named else ()) > 1:
        raise SchemaError(
            f"sums of {target} have the units {' and '.join(sorted(known))}: compute all parts in one unit."
        )
    return dict.fromkeys([target], *named) if named else {}


def _pooled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one row per target, season, model and site."""
    keys = [*_KEYS, *(kind for kind in KINDS if kind in frame), "site"]
    fields = list(Moments._fields)
    out = frame.drop_duplicates(keys).set_index(keys)
    several = frame[frame.duplicated(keys, keep=False)]
    for key, rows in several.groupby(keys, sort=False):
        out.loc[key, fields] = [float(x) for x in pool(Moments(*(rows[name].to_numpy(float) for name in fields)))]
    return out.reset_index()


def _plain(column: pd.Series) -> np.ndarray:
    """Return numbers as float and text as objects, with empty text for empty fields of a CSV file."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(float)
    return column.astype(object).where(column.notna(), "").to_numpy(object)


class SumOptions(TypedDict, total=False):
    """Options of `site_sums`."""

    qc: xr.DataArray | None
    max_qc: int | Default | None
    min_quality: float | Default | None
    periods: Sequence[str]
    subsets: xr.Dataset | None


def site_sums(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    seasons: bool = False,
    periods: Sequence[str] = (),
    subsets: xr.Dataset | None = None,
) -> Sums:
    """Compute the sums from which every score follows, at the time steps that all models have in common.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them.
    seasons : bool
        Whether to compute sums of each local season, as ``periods=("season",)`` does.
    periods : sequence of str
        Kinds of periods to separate, of `fluxcube.evaluation.periods.KINDS`: tables by each of them, or by several
        together, follow from the sums.
    subsets : xr.Dataset, optional
        Boolean arrays (site, time) by name of the subset, for periods "subset".

    Returns
    -------
    Sums

    Raises
    ------
    SchemaError
        If they have no flux, site or time step in common.
    ConfigError
        If the units of a prediction cannot be converted to those of the observations.
    """
    data = aligned(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    kinds = tuple(dict.fromkeys((*periods, *(("season",) if seasons else ()))))
    split, moments = computed_moments(data, list(data.pairs.values()), kinds, data.resolution, subsets)
    sums = sums_of(data, dict(zip(data.pairs, moments.moments, strict=True)), split, moments.rows)
    return without_empty_years({"": sums})[""]


def sums_of(
    data: Aligned, moments: Mapping[str, Moments], periods: Periods, rows: Mapping[str, Mapping[str, int]]
) -> Sums:
    """Return sums of aligned data from moments (place, period, model), and numbers of time steps by flux and step."""
    out = Sums(data.models, moments, data.places, data.attrs, data.units, periods)
    steps = {f"{ROWS}{step}": {t: counts[step] for t, counts in rows.items()} for step in next(iter(rows.values()))}
    scored = {target: int(out.whole(target).n[:, 0].sum()) for target in out.targets}
    return replace(out, attrs={**data.attrs, **steps, f"{ROWS}scored": scored})


def without_empty_years(several: Mapping[str, Sums]) -> dict[str, Sums]:
    """Return sums without the years in which none of them has a time step, such as those around the time axis.

    Parameters
    ----------
    several : mapping of str to Sums
        Sums with the same periods.
    """
    periods = next(iter(several.values())).periods
    if "year" not in periods.kinds:
        return dict(several)
    at = periods.kinds.index("year")
    scored = sum(m.n.sum((0, 2)) for one in several.values() for m in one.moments.values())
    years = {label[at] for label, n in zip(periods.labels, np.atleast_1d(scored), strict=True) if n} | {""}
    kept = [i for i, label in enumerate(periods.labels) if label[at] in years]
    if years == {""}:
        return dict(several)
    labels = replace(periods, labels=tuple(periods.labels[i] for i in kept))
    return {
        name: replace(
            one, periods=labels, moments={t: Moments(*(x[:, kept] for x in m)) for t, m in one.moments.items()}
        )
        for name, one in several.items()
    }


class Computed(NamedTuple):
    """Moments (place, period, model), and numbers of time steps by flux and step."""

    moments: list[Moments]
    rows: dict[str, dict[str, int]]


def computed_moments(
    data: Aligned,
    pairs: Sequence[tuple[xr.DataArray, ...]],
    kinds: Sequence[str],
    resolution: Resolution,
    subsets: xr.Dataset | None,
) -> tuple[Periods, Computed]:
    """Return the periods of the data, and the moments of arrays, in one pass over all data.

    Parameters
    ----------
    data : Aligned
        Aligned data, whose numbers of time steps are computed, too.
    pairs : sequence of tuple of xr.DataArray
        Arrays to compute the moments of: those of `data`, and others with the same coordinates.
    kinds, resolution, subsets
        As `fluxcube.evaluation.periods.periods_of` takes them.
    """
    import dask

    if subsets is not None:
        check_unaveraged(data.attrs, "subsets of time steps")
    first = next(iter(data.pairs.values()))[0]
    periods = periods_of(kinds, first["time"].values, resolution, subsets)
    lazy = [lazy_moments(pair, period_numbers(pair[0], periods, resolution, subsets), periods) for pair in pairs]
    values, rows = dask.compute(lazy, {t: {k: v.variable for k, v in of.items()} for t, of in data.rows.items()})
    counts = {target: {step: int(count.sum()) for step, count in of.items()} for target, of in rows.items()}
    return periods, Computed([moments_of_places(one) for one in values], counts)

"""The data of one tower, hourly or daily, and what reading both kinds has in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.schema import PARTS, stack_parts
from fluxcube.sources.towers import codes, contradictions
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.table import OWN
from fluxcube.tabletext import counted
from fluxcube.variables import table

#: The variable that the clock is checked with; it is read even where it was not requested.
LIGHT = "SW_IN"

#: A warning is issued if more than this share of a predictor's values is out of bounds.
WARN_SHARE = 0.001


@dataclass(frozen=True, kw_only=True)
class TowerOptions:
    """How a tower is read.

    Attributes
    ----------
    predictors, targets : sequence of str
        Names of the variable table to read.
    rule : {"newest", "quality"}
        Which publication supplies a step that several have (`fluxcube.cubes.fusion.fuse`).
    clock : {"solar", "standard"}
        Clock of DOY and TOD, as in `fluxcube.build_carbonsense`. Daily towers ignore it: their days, and so their
        DOY, follow the tower's standard time.
    trust : tuple of str
        Variables whose unit and sign are right although the record contradicts them
        (`fluxcube.sources.towers.contradictions`).
    strict : bool
        Raise an error, instead of a warning, where the sun contradicts the clock, flags look reversed, or sources
        place the site in different locations (`fluxcube.cubes.checks`), and for an archive that cannot be read even
        where another one can.
    """

    predictors: Sequence[str]
    targets: Sequence[str]
    rule: str = "newest"
    clock: str = "solar"
    strict: bool = False
    trust: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Predictors and targets, each once."""
        return tuple(dict.fromkeys([*self.predictors, *self.targets]))


@dataclass(frozen=True)
class Stack:
    """Some variables of one site: `parts` maps an ending (`fluxcube.schema.PARTS`) to an array (time, name)."""

    names: tuple[str, ...]
    parts: Mapping[str, np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """Values (time, name) float32, in the units of the variable table."""
        return self.parts[""]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """The hourly or daily data of one site, from the first step with a value to the last.

    Attributes
    ----------
    info : SiteInfo
        Metadata of the site.
    utc_offset : float
        Hours east of UTC of its newest time stamps.
    networks : tuple of str
        Publications that supplied a value, newest first.
    time : (time,) datetime64[ns]
        UTC hours, or local dates, without gaps.
    predictors, fluxes : Stack
        Variables that have a value; the computed ones are among the predictors.
    fusion : dict
        Fusion report of `fluxcube.cubes.fusion.fuse`.
    out_of_bounds : dict of str to int
        By predictor, the number of values at the native step, in all publications, that became missing because they
        are physically impossible, and the number of such hourly sums (of a daily tower: days).
    flags_assumed : dict of str to int
        By variable, the number of native steps that had a value and no flag, and were assigned the flag that their
        column's name implies.
    missing_codes : dict of str to dict
        By variable and code, the number of native values that became missing because they are codes for missing values
        or impossible (`fluxcube.sources.towers.codes`).
    warnings : tuple of str
        What users of the site should know; each warning is also logged.
    lost : tuple of str
        What publications had lost before they were read, each prefixed by its label.
    unread : dict of str to str
        Archives that could not be read although others could, and the reasons.
    quality : dict
        What each rule removed, by stack and variable. Of hourly towers, ``values``: the number of native values in all
        publications; shares of them, where not 0: ``out_of_bounds`` (physically impossible), ``hour_incomplete`` (in an
        hour of which less than half was observed, or in a sum that was not observed completely, or winds without a mean
        direction), ``split`` (kept, divided between two hours), ``no_flag`` (kept, with the flag that their column's
        name implies). ``hours``: the number of hours with a value; shares of the hourly values of all publications:
        ``sum_out_of_bounds`` (impossible sums of possible halves) and ``superseded`` (replaced by another
        publication's); ``remain``: shares of `hours` whose flag is at most 0, 1 and 2. Daily towers:
        `fluxcube.cubes.daily.read_daily_tower`.
    sun_lag : dict of str to float
        Hours by which the light of each publication is late relative to the sun, where there is enough light.
    """

    info: SiteInfo
    utc_offset: float
    networks: tuple[str, ...]
    time: np.ndarray
    predictors: Stack
    fluxes: Stack
    fusion: dict
    out_of_bounds: dict[str, int]
    flags_assumed: dict[str, int] = field(default_factory=dict)
    missing_codes: dict[str, dict[str, int]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)
    quality: dict = field(default_factory=dict)
    sun_lag: dict[str, float] = field(default_factory=dict)


class Publication(Protocol):
    """What is known of one publication of a site, hourly or daily."""

    @property
    def rank(self) -> int:
        """Lower is newer."""

    @property
    def label(self) -> str:
        """Name that no other publication of the site has."""

    @property
    def network(self) -> str:
        """Network that published it."""


def contributors(publications: Sequence[Publication], fusion: Mapping[str, Mapping]) -> tuple[str, ...]:
    """Return the networks, newest first, of the publications that supplied a value according to a fusion report."""
    used = {source for sources in fusion.values() for source in sources}
    ordered = sorted(publications, key=lambda p: (p.rank, p.label))
    return tuple(dict.fromkeys(p.network for p in ordered if p.label in used))


def trim(fused: xr.Dataset, files: Sequence[str], resolution: str = "hourly") -> xr.Dataset:
    """Remove the steps without any value at both ends.

    Raises
    ------
    SourceError
        If no value is left; the message names the `files`.
    """
    values = [v.values for name, v in fused.data_vars.items() if name in table(resolution)]
    observed = np.flatnonzero(np.isfinite(values).any(0)) if values else np.array([], int)
    if not len(observed):
        raise SourceError(
            f"{', '.join(files)}: no value in any of the variables requested; check that the file belongs to the site"
        )
    return fused.isel(time=slice(int(observed[0]), int(observed[-1]) + 1))


def stack_of(fused: xr.Dataset, stack: str, names: Sequence[str], resolution: str = "hourly") -> Stack:
    """Return the variables of a record (time,) that are among `names` as a stack of a cube of a resolution."""
    present = tuple(name for name in names if name in fused)
    parts = {}
    for ending in stack_parts(stack, resolution):
        columns = [fused.get(name + ending.upper()) for name in present]
        if PARTS[ending].required or any(column is not None for column in columns):
            parts[ending] = _columns(columns, ending, fused.sizes["time"])
    return Stack(present, parts)


def _columns(columns: Sequence[xr.DataArray | None], ending: str, steps: int) -> np.ndarray:
    """Combine arrays (time,) to one (time, name); coverage remains a share, as in an opened cube."""
    dtype = np.float32 if ending == "_coverage" else PARTS[ending].dtype
    out = np.full((steps, len(columns)), PARTS[ending].fill, dtype)
    for i, column in enumerate(columns):
        if column is not None:
            out[:, i] = column.values
    return out


def join_stacks(one: Stack, other: Stack) -> Stack:
    """Return the variables of two stacks, which have the same parts, as one stack."""
    parts = {ending: np.concatenate([one.parts[ending], other.parts[ending]], -1) for ending in one.parts}
    return Stack(one.names + other.names, parts)


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of counts by name."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total


def repeats_of(record: xr.Dataset) -> tuple[str, ...]:
    """Return a sentence on the table rows that a record, native or daily, left out because its clock was set back."""
    repeats = record.attrs.get("clock_repeats", 0)
    return (f"{counted(repeats, 'row')} left out where the clock was set back",) if repeats else ()


def codes_of(record: xr.Dataset, names: Sequence[str]) -> dict[str, codes.Codes]:
    """Return the codes for missing values that reading a record found in some variables, by variable and code."""
    found = json.loads(record.attrs.get("missing_codes", "{}"))
    return {name: found[name] for name in found if name in names}


def add_codes(counts: Iterable[Mapping[str, codes.Codes]]) -> dict[str, codes.Codes]:
    """Return the sums of counts by variable and code."""
    total: dict[str, codes.Codes] = {}
    for one in counts:
        for name, found in one.items():
            total[name] = codes.added(total.get(name, {}), found)
    return total


def doubts_of(record: xr.Dataset) -> tuple[str, ...]:
    """Return sentences on what was doubtful when a record, native or daily, was read."""
    return tuple(str(sentence) for sentence in json.loads(record.attrs.get("doubts", "[]")))


def told_of(record: xr.Dataset, names: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences that reading the table of an own site has logged already; none of other records."""
    if record.attrs.get("network") != OWN:
        return ()
    return (*doubts_of(record), *(codes.sentence(name, found) for name, found in codes_of(record, names).items()))


def compared(names: Sequence[str], resolution: str = "hourly") -> tuple[str, ...]:
    """Return variables and those that their units and signs are checked with, each once."""
    others = [name for name in contradictions.compared_with(names) if name in table(resolution)]
    return tuple(dict.fromkeys([*names, *others]))


def check_units_and_signs(record: xr.Dataset, options: TowerOptions) -> tuple[str, ...]:
    """Refuse a record, native or daily, that contradicts the unit or sign of a variable; return sentences on doubts.

    Raises
    ------
    SourceError
        If the variable is neither in ``options.trust`` nor in the attribute ``trust`` of the record.
    """
    trust = (*options.trust, *json.loads(record.attrs.get("trust", "[]")))
    values = {str(name): array.values for name, array in record.data_vars.items() if name in contradictions.CHECKED}
    return contradictions.checked(
        values,
        step_minutes=float(record.attrs["step_minutes"]),
        where=str(record.attrs["source_file"]),
        trust=trust,
        names=options.names,
        own=record.attrs.get("network") == OWN,
    )


def lost_of(record: xr.Dataset) -> tuple[str, ...]:
    """Return sentences on what the publication of a record, native or daily, had lost before it was read."""
    return tuple(str(sentence) for sentence in json.loads(record.attrs.get("lost", "[]")))

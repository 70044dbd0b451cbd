"""One tower: every archive of a site, read, turned into hours, fused, checked and completed with what place gives."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from fluxcube.cubes.fusion import fuse
from fluxcube.cubes.hourly import to_hourly
from fluxcube.errors import SourceError
from fluxcube.normalisation import inside
from fluxcube.schema import PARTS, stack_parts
from fluxcube.solar import potential_radiation
from fluxcube.sources.badm import SiteInfo, clock_of
from fluxcube.sources.networks import Archive
from fluxcube.sources.oneflux import read_oneflux
from fluxcube.timestamps import HOUR, local_clock
from fluxcube.variables import COMPUTED, table

_log = logging.getLogger(__name__)

#: Rank, label and hours of one archive.
_Record = tuple[int, str, xr.Dataset]

CLOCKS = ("solar", "standard")

#: More of a predictor out of bounds than this is worth a warning.
_WARN_SHARE = 0.001


@dataclass(frozen=True)
class Stack:
    """Some variables of one site: `parts` has an array (time, name) by ending (`fluxcube.schema.PARTS`)."""

    names: tuple[str, ...]
    parts: Mapping[str, np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """Values (time, name) float32, in the table's units."""
        return self.parts[""]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One site's hours, from the first that has a value to the last.

    Attributes
    ----------
    info : SiteInfo
        What is known of it.
    utc_offset : float
        Hours east of UTC of its newest stamps.
    networks : tuple of str
        Publications that gave a value, newest first.
    time : (time,) datetime64[ns]
        UTC hours, without holes.
    predictors, fluxes : Stack
        Names that have a value; the computed ones are among the predictors.
    given : dict
        Fusion report of `fluxcube.cubes.fusion.fuse`.
    out_of_bounds : dict of str to int
        Hours of a predictor that became missing because their value cannot be.
    flags_assumed : dict of str to int
        Native steps of a variable that had a value and no flag, and took the one that its column's name implies.
    warnings : tuple of str
        What its users should know; each is logged, too.
    unread : dict of str to str
        Archives that could not be read beside others that could, and why.
    """

    info: SiteInfo
    utc_offset: float
    networks: tuple[str, ...]
    time: np.ndarray
    predictors: Stack
    fluxes: Stack
    given: dict
    out_of_bounds: dict[str, int]
    flags_assumed: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)


def read_tower(
    archives: Sequence[Archive],
    info: SiteInfo,
    *,
    predictors: Sequence[str],
    targets: Sequence[str],
    rule: str = "newest",
    clock: str = "solar",
    strict: bool = False,
) -> Tower:
    """Read one site from all of its archives.

    Parameters
    ----------
    archives : sequence of Archive
        Of this site.
    info : SiteInfo
        With latitude and longitude (degrees).
    predictors, targets : sequence of str
        Names of the variable table to read.
    rule, clock : str
        As in `fluxcube.build_carbonsense`.
    strict : bool
        Raise for an archive that cannot be read even where another one can.

    Raises
    ------
    SourceError
        If no archive can be read, or there is no value in any.
    """
    names = tuple(dict.fromkeys([*predictors, *targets]))
    records, unread = _read(archives, clock_of(info), names, strict)
    fused, given = fuse(records, rule=rule)
    fused = _with_values(fused, archives)
    time = fused.time.values
    offset = info.utc_offset if info.utc_offset is not None else float(round(info.longitude / 15))
    stack, out_of_bounds = _masked(_stack(fused, "predictors", predictors))
    return Tower(
        info=info,
        utc_offset=offset,
        networks=_contributors(archives, given),
        time=time,
        predictors=_joined(_computed(time, info, info.longitude / 15 if clock == "solar" else offset), stack),
        fluxes=_stack(fused, "fluxes", targets),
        given=given,
        out_of_bounds=out_of_bounds,
        flags_assumed=_flags_assumed(records),
        warnings=_warnings(info, stack, out_of_bounds, records),
        unread=unread,
    )


def _read(
    archives: Sequence[Archive], offset, names: Sequence[str], strict: bool
) -> tuple[list[_Record], dict[str, str]]:
    """Read each archive as hours: (rank, label, record); and why some could not be."""
    records: list[_Record] = []
    unread: dict[str, str] = {}
    label = _labels(archives)
    for archive in archives:
        try:
            record = read_oneflux(archive, utc_offset=offset, variables=names)
        except SourceError as error:
            if strict or len(archives) == 1:
                raise
            unread[archive.path.name] = str(error)
            continue
        records.append((archive.rank, label(archive), to_hourly(record)))
    if not records:
        raise SourceError("; ".join(unread.values()))
    return records, unread


def _labels(archives: Sequence[Archive]) -> Callable[[Archive], str]:
    """Name each archive by its network; where that is not enough, by its file too."""
    networks = [archive.network for archive in archives]
    return lambda a: a.network if networks.count(a.network) == 1 else f"{a.network}: {a.location.name}"


def _contributors(archives: Sequence[Archive], given: dict) -> tuple[str, ...]:
    label = _labels(archives)
    used = {source for sources in given.values() for source in sources}
    ordered = sorted(archives, key=lambda archive: archive.rank)
    return tuple(dict.fromkeys(archive.network for archive in ordered if label(archive) in used))


def _with_values(fused: xr.Dataset, archives: Sequence[Archive]) -> xr.Dataset:
    """Cut away hours without any value at both ends."""
    values = [v.values for name, v in fused.data_vars.items() if name in table()]
    observed = np.flatnonzero(np.isfinite(values).any(0)) if values else np.array([], int)
    if not len(observed):
        files = ", ".join(archive.path.name for archive in archives)
        raise SourceError(f"{files}: no value in any of the variables asked for; check that the file is the site's")
    return fused.isel(time=slice(int(observed[0]), int(observed[-1]) + 1))


def _stack(fused: xr.Dataset, stack: str, names: Sequence[str]) -> Stack:
    present = tuple(name for name in names if name in fused)
    parts = {}
    for ending in stack_parts(stack):
        columns = [fused.get(name + ending.upper()) for name in present]
        if PARTS[ending].required or any(column is not None for column in columns):
            parts[ending] = _columns(columns, ending, fused.sizes["time"])
    return Stack(present, parts)


def _columns(columns: Sequence[xr.DataArray | None], ending: str, hours: int) -> np.ndarray:
    """Put arrays (time,) side by side (time, name); coverage stays a share, as a cube shows it."""
    dtype = np.float32 if ending == "_coverage" else PARTS[ending].dtype
    out = np.full((hours, len(columns)), PARTS[ending].fill, dtype)
    for i, column in enumerate(columns):
        if column is not None:
            out[:, i] = column.values
    return out


def _masked(stack: Stack) -> tuple[Stack, dict[str, int]]:
    """Make predictors missing where their value cannot be, and count those hours."""
    if not stack.names:
        return stack, {}
    bad = np.isfinite(stack.values) & ~inside(stack.values, stack.names)
    counts = {name: int(n) for name, n in zip(stack.names, bad.sum(0), strict=True) if n}
    cleared = {ending: np.where(bad, stack.parts[ending].dtype.type(PARTS[ending].fill), stack.parts[ending])
               for ending in ("", "_qc")}  # fmt: skip
    return Stack(stack.names, {**stack.parts, **cleared}), counts


def _flags_assumed(records: Sequence[_Record]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, _, record in records:
        for name, count in json.loads(record.attrs["flags_assumed"]).items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _warnings(
    info: SiteInfo, stack: Stack, out_of_bounds: dict[str, int], records: Sequence[_Record]
) -> tuple[str, ...]:
    """Say what is doubtful of a site; that its clock is assumed was logged by `clock_of`."""
    found = []
    for _, label, record in records:
        if record.attrs["clock_repeats"]:
            found.append(f"{label}: {record.attrs['clock_repeats']} rows left out where the clock was set back")
            _log.warning("%s: %s", info.site, found[-1])
    if info.utc_offset is None:
        found.append("no UTC_OFFSET: stamps were decoded with the whole hour nearest to longitude / 15")
    for name, count in out_of_bounds.items():
        share = count / (count + int(np.isfinite(stack.values[:, stack.names.index(name)]).sum()))
        if share > _WARN_SHARE:
            found.append(f"{name}: {100 * share:.2g} % of its hours were out of bounds and became missing")
            _log.warning("%s: %s", info.site, found[-1])
    return tuple(found)


def _computed(time: np.ndarray, info: SiteInfo, offset: float) -> Stack:
    """Return what place and time alone give: the local clock and sunlight above the atmosphere."""
    doy, tod = local_clock(time, offset)
    columns = {"DOY": doy, "TOD": tod, "SW_IN_POT": potential_radiation(time, info.latitude, info.longitude)}
    values = np.stack([columns[name] for name in COMPUTED], -1).astype(np.float32)
    flags, coverage = np.zeros(values.shape, np.int8), np.ones(values.shape, np.float32)
    return Stack(COMPUTED, {"": values, "_qc": flags, "_coverage": coverage})


def _joined(one: Stack, other: Stack) -> Stack:
    parts = {ending: np.concatenate([one.parts[ending], other.parts[ending]], -1) for ending in one.parts}
    return Stack(one.names + other.names, parts)


def span(tower: Tower) -> tuple[np.datetime64, np.datetime64]:
    """Return the first hour and the hour after the last."""
    return tower.time[0], tower.time[-1] + HOUR

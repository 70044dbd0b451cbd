"""A user's own site: its table is described, checked, and added to a cube."""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.cubes.append import append_site, check_record
from fluxcube.cubes.clocks import check_own_clock
from fluxcube.errors import ConfigError, SourceError, to_type, unknown
from fluxcube.parsing import read_text
from fluxcube.sources.towers.anycsv import header_of
from fluxcube.sources.towers.table import read_table
from fluxcube.sources.towers.tableunits import without_unit
from fluxcube.units import convert
from fluxcube.variables import COMPUTED
from fluxcube.variables import table as variable_table

log = logging.getLogger(__name__)

#: Options that a declaration may contain: those of `fluxcube.read_table`, which checks their values.
OPTIONS = (
    "site", "latitude", "longitude", "utc_offset", "igbp", "koppen", "elevation", "stamp", "time", "time_format",
    "step", "missing", "licence", "citation", "encoding", "trust", "columns", "units", "flags", "flag_map",
)  # fmt: skip
#: Number of unused columns that are named.
_SHOWN = 8
#: Name by which ``trust`` accepts a clock that sunlight contradicts.
_CLOCK = "utc_offset"
_REQUIRED = ("site", "latitude", "longitude", "utc_offset", "columns", "units")
#: Names of columns that are usual at towers, in lower case, besides those of the variable table.
_USUAL = {
    "tair": "TA", "t_air": "TA", "airtemp": "TA", "air_temp": "TA", "air_temperature": "TA", "temp": "TA",
    "temperature": "TA", "rg": "SW_IN", "swin": "SW_IN", "global_radiation": "SW_IN", "solar_radiation": "SW_IN",
    "rh": "RH", "relative_humidity": "RH", "fc": "NEE", "co2_flux": "NEE", "co2flux": "NEE", "fco2": "NEE",
    "nee": "NEE", "precip": "P", "precipitation": "P", "rain": "P", "rainfall": "P", "pressure": "PA",
    "air_pressure": "PA", "wind_speed": "WS", "u*": "USTAR", "ustar": "USTAR", "le": "LE", "h": "H", "rn": "NETRAD",
    "tsoil": "TS_1",
}  # fmt: skip


#: Units as they end the names of columns, in lower case, besides those that `without_unit` knows.
_ENDINGS = {
    "_c": "degC",
    "_k": "K",
    "_umol": "umol m-2 s-1",
    "_wm2": "W m-2",
    "_w_m2": "W m-2",
    "_mm": "mm",
    "_ms": "m s-1",
    "_pct": "%",
}
_LIKE_TIME = re.compile(r"(?i)(date.?time|time.?stamp|when|time|date|datum|zeit)(_.*)?")


@dataclass(frozen=True)
class OwnSite:
    """What was understood of the table of a site.

    Attributes
    ----------
    record : xr.Dataset
        Values at the step of the table, in UTC, in the units of the variable table.
    """

    record: xr.Dataset

    def __str__(self) -> str:
        record = self.record
        first, last = (np.datetime_as_string(t, "m") for t in record.time.values[[0, -1]])
        head = (
            f"{record.attrs['site']} at {record.attrs['latitude']:g}, {record.attrs['longitude']:g}, UTC"
            f"{record.attrs['utc_offset']:+g}: {record.sizes['time']} steps of {record.attrs['step_minutes']} minutes, "
            f"{first} to {last} UTC"
        )
        names = [name for name in record.data_vars if not str(name).endswith("_QC")]
        return "\n".join([head, *(_line(str(name), record[name]) for name in names), *_sign(record), *_left(record)])


def _line(name: str, array: xr.DataArray) -> str:
    """Return what was read of one variable: units, the share that is missing, and the range of the values."""
    values = array.values[np.isfinite(array.values)]
    span = f"{values.min():.4g} to {values.max():.4g}" if values.size else "no value"
    missing = 1 - values.size / array.size
    return f"  {name}: {span} {variable_table()[name].units}, {missing:.0%} missing"


def _sign(record: xr.Dataset) -> list[str]:
    """Return a line on the sign of NEE: by day, plants take up CO2, so that it is lower than at night."""
    if not {"NEE", "SW_IN"} <= set(record.data_vars):
        return []
    day = record["SW_IN"] > 100
    by_day, by_night = (float(record["NEE"].where(part).mean()) for part in (day, record["SW_IN"] < 10))
    if not by_day > by_night:
        return [f"  NEE is {by_day:.2g} by day and {by_night:.2g} by night: uptake is negative, as expected"]
    noted = any("NEE" in doubt for doubt in json.loads(record.attrs["doubts"]))  # a note says what to check
    check = "" if noted else ": check its sign; uptake must be negative"
    return [f"  NEE is {by_day:.2g} by day and {by_night:.2g} by night{check}"]


def _left(record: xr.Dataset) -> list[str]:
    """Return lines on the variables without a quality column, and on the columns that are not used."""
    bare, unused = (json.loads(record.attrs.get(name, "[]")) for name in ("without_flags", "unused_columns"))
    lines = [f"  no column of quality for {', '.join(bare)}: all values count as measured"] if bare else []
    if unused:
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        lines.append(f"  columns not used: {', '.join(unused[:_SHOWN])}{more}")
    return lines


def add_site(
    table: str | os.PathLike,
    store: str | os.PathLike | None = None,
    *,
    declaration: str | os.PathLike | None = None,
    plan: bool = False,
    overwrite: bool = False,
    keep: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> OwnSite:
    """Add the table of one's own site to a cube; a cube of this site alone is made if there is none.

    Parameters
    ----------
    table : path
        A CSV file or spreadsheet, as `fluxcube.read_table` reads it.
    store : path or URL, optional
        The cube; not needed with `plan`.
    declaration : path, optional
        A TOML file with the options below, as `describe_site` writes it; options that are passed replace those in it.
    plan : bool
        Read and check the table, and write nothing.
    overwrite : bool
        Replace a site of that name.
    keep : bool
        Keep the earlier state of the cube.
    progress : callable, optional
        ``progress(done, total, text)``.
    **options
        ``site``, ``latitude``, ``longitude``, ``utc_offset``, ``columns`` and ``units``, and the others of
        `fluxcube.read_table`. ``trust`` may also contain ``"utc_offset"``, which accepts a clock that sunlight
        contradicts.

    Returns
    -------
    OwnSite
        What was understood; print it.

    Raises
    ------
    ConfigError
        If an option is missing, or contradicts the table.
    SourceError
        If the table cannot be read, or contradicts the unit or sign of a variable, or its sunlight the clock.
    StoreError
        If the cube has the site already, or cannot be written.
    UnknownNameError
        If there is no such option, variable or class.

    Examples
    --------
    >>> print(add_site("my_site.csv", declaration="my_site.toml", plan=True))  # doctest: +SKIP
    >>> add_site("my_site.csv", "carbonsense.zarr", declaration="my_site.toml")  # doctest: +SKIP
    """
    declared = {} if declaration is None else read_declaration(declaration)
    if not Path(table).is_file():
        raise SourceError(f"{table}: no such file, where the table of a site was expected; check its path.")
    chosen = {**declared, **{name: value for name, value in options.items() if value is not None}}
    for name in chosen:
        if name not in OPTIONS:
            raise unknown("option of a site", name, OPTIONS)
    if missing := [name for name in _REQUIRED if name not in chosen]:
        raise ConfigError(f"{table}: {', '.join(missing)} must be stated: {_how(missing, table)}")
    if store is None and not plan:
        raise ConfigError(
            f"{table}: name the cube to add the site to, or {to_type(python='plan=True', shell='--plan')}."
        )
    found = OwnSite(_checked(table, chosen, progress))
    if plan:
        check_record(found.record)
    elif store is not None:
        append_site(store, found.record, create=True, overwrite=overwrite, keep=keep)
    return found


def _checked(table: str | os.PathLike, options: dict[str, Any], progress: Callable | None) -> xr.Dataset:
    """Return the record of a table, whose clock is checked unless ``trust`` contains it."""
    trust = options.pop("trust", ())
    names = (trust,) if isinstance(trust, str) else tuple(trust)
    record = read_table(table, progress=progress, trust=[name for name in names if name != _CLOCK], **options)
    if _CLOCK not in names:
        check_own_clock(record, str(table))
    return record


def _how(names: Sequence[str], path: str | os.PathLike) -> str:
    """Return what to type for options that are missing."""
    options = ", ".join(f"--{name.replace('_', '-')}" for name in names)
    return to_type(
        python=f"pass them, or declaration=FILE with them (fluxcube.cubes.own_site.describe_site({str(path)!r})).",
        shell=f"add {options}, or type `fluxcube add-site {path} --describe > site.toml`, edit that file, and pass "
        "--declaration site.toml.",
    )


def read_declaration(path: str | os.PathLike) -> dict[str, Any]:
    """Return the options in the TOML file of a site (ConfigError if it is none)."""
    try:
        return tomllib.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a TOML file with the options of a site: {error}") from error


def describe_site(path: str | os.PathLike) -> str:
    """Return a declaration of the site of a table, as TOML with guesses from its header, for the user to edit.

    Parameters
    ----------
    path : path
        The table.
    """
    names = header_of(path)
    guesses: dict[str, str] = {}
    for name in names:
        if (variable := _guess(name)) and variable not in guesses:
            guesses[variable] = name
    others = [name for name in names if name not in guesses.values()]
    time = next((name for name in others if _LIKE_TIME.fullmatch(name)), "when")
    return "\n".join(
        [
            f"# {Path(path).name}: columns {', '.join(names)}",
            "# Fill in these lines without their sign #, and check the guesses of columns and their units below.",
            '# site = "XX-Own"',
            "# latitude = 51.1      # degrees north",
            "# longitude = 10.4     # degrees east",
            "# utc_offset = 1       # hours east of UTC of the times, standard time",
            '# igbp = "GRA"',
            '# stamp = "end"        # whether a time is the start, middle or end of its period',
            "# Only if the column of times has no usual name, its name, or those of date and clock:",
            f"## time = {_quoted(time)}",
            '## time = ["date", "clock"]',
            "",
            *_columns(others),
            "[columns]",
            *(f"{variable} = {_quoted(name)}" for variable, name in guesses.items()),
            "",
            "[units]",
            *(f"{variable} = {_quoted(_unit(variable, name))}" for variable, name in guesses.items()),
            "",
        ]
    )


def _columns(others: Sequence[str]) -> list[str]:
    """Return lines on columns for which nothing is guessed."""
    if not others:
        return []
    return [
        f"# Not recognised: {', '.join(others)}.",
        '# Add those that you need, each with its unit, e.g. NEE = "Fc", and in [units] NEE = "umol m-2 s-1".',
    ]


def _guess(name: str) -> str | None:
    """Return the variable that a column probably contains."""
    bare = _split_unit(name)[0].strip().lower().replace(" ", "_")
    for variable, row in variable_table().items():
        if variable not in COMPUTED and bare in {variable.lower(), *map(str.lower, row.aliases)}:
            return variable
    return _USUAL.get(bare.removesuffix("_f"))


def _unit(variable: str, column: str) -> str:
    """Return the unit that a column's name states, else that of the variable table.

    What ends a name is no unit if it does not fit the variable: H_C is the corrected sensible heat, not one in degC.
    """
    stated, units = _split_unit(column)[1], variable_table()[variable].units
    try:
        convert(np.zeros(1), stated or units, units, name=variable, step_minutes=30)
    except ConfigError:
        return units
    return stated or units


def _split_unit(column: str) -> tuple[str, str]:
    """Return the name of a column without the unit at its end, and that unit; empty if there is none."""
    ending = next((one for one in _ENDINGS if column.lower().endswith(one)), "")
    return (column[: -len(ending)], _ENDINGS[ending]) if ending else without_unit(column)


def _quoted(text: str) -> str:
    escaped = text.replace(chr(92), chr(92) * 2).replace('"', chr(92) + '"')
    return f'"{escaped}"'


def pairs(text: str | None, option: str) -> Mapping[str, str] | None:
    """Parse NAME=VALUE,NAME=VALUE (ConfigError if it is not such a list); None stays None."""
    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if not parts or not all(equals and name.strip() and value.strip() for name, equals, value in parts):
        raise ConfigError(f"{option}: expected NAME=VALUE,NAME=VALUE such as NEE=Fc,TA=Tair; found {text!r}.")
    return {name.strip(): value.strip() for name, _, value in parts}

"""Print requests for ERA5 as a short Python program, to be run on a computer that has an account.

Requests for months, which differ by year, month and days only, are printed as one line each with a list of months.
"""

from __future__ import annotations

import calendar
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fluxcube.fetch.era5_request import HOURS, Request, month_name

#: Stands for the month in the name of a file; no file name contains it.
_MARK = "*"
#: Year, month, first and last day.
_Month = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Group:
    """Requests for months that have the same data set, parameters, area and hours."""

    name: str
    dataset: str
    body: Mapping[str, object]
    months: tuple[_Month, ...]


def script(requests: Sequence[Request]) -> str:
    """Return a Python program that sends requests with the CDS's own client.

    Examples
    --------
    >>> print(script([Request("a.nc", "reanalysis-era5-land", {"year": ["2018"]}, (), 0, 0)]))
    # Needs: pip install cdsapi, an account (https://cds.climate.copernicus.eu/how-to-api), and the accepted licence.
    import calendar
    import os
    <BLANKLINE>
    import cdsapi
    <BLANKLINE>
    <BLANKLINE>
    def months(first, last):
        return [(y, m, 1, calendar.monthrange(y, m)[1]) for y in range(first, last + 1) for m in range(1, 13)]
    <BLANKLINE>
    <BLANKLINE>
    def monthly(name, dataset, request, months):
        for y, m, first, last in months:
            days = "" if (first, last) == (1, calendar.monthrange(y, m)[1]) else f"-{first:02d}-{last:02d}"
            when = {"year": [f"{y}"], "month": [f"{m:02d}"], "day": [f"{d:02d}" for d in range(first, last + 1)]}
            hours = {"time": [f"{hour:02d}:00" for hour in range(24)]}
            yield name.replace("*", f"{y}-{m:02d}{days}"), dataset, {**request, **when, **hours}
    <BLANKLINE>
    <BLANKLINE>
    client = cdsapi.Client()
    for name, dataset, request in [
        ('a.nc', 'reanalysis-era5-land', {'year': ['2018']}),
    ]:
        if not os.path.exists(name):
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
            client.retrieve(dataset, request, name + ".part")
            os.replace(name + ".part", name)
    """
    lines = (line for part in _parts(requests) for line in _lines(part))
    return "\n".join([_BEFORE, *(f"    {line}" for line in lines), _AFTER])


_BEFORE = """\
# Needs: pip install cdsapi, an account (https://cds.climate.copernicus.eu/how-to-api), and the accepted licence.
import calendar
import os

import cdsapi


def months(first, last):
    return [(y, m, 1, calendar.monthrange(y, m)[1]) for y in range(first, last + 1) for m in range(1, 13)]


def monthly(name, dataset, request, months):
    for y, m, first, last in months:
        days = "" if (first, last) == (1, calendar.monthrange(y, m)[1]) else f"-{first:02d}-{last:02d}"
        when = {"year": [f"{y}"], "month": [f"{m:02d}"], "day": [f"{d:02d}" for d in range(first, last + 1)]}
        hours = {"time": [f"{hour:02d}:00" for hour in range(24)]}
        yield name.replace("*", f"{y}-{m:02d}{days}"), dataset, {**request, **when, **hours}


client = cdsapi.Client()
for name, dataset, request in ["""
_AFTER = """\
]:
    if not os.path.exists(name):
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        client.retrieve(dataset, request, name + ".part")
        os.replace(name + ".part", name)"""


def _parts(requests: Sequence[Request]) -> list[_Group | Request]:
    """Return the requests, those for months in groups."""
    groups: dict[str, _Group | Request] = {}
    for request in requests:
        month = _month(request)
        if month is None:
            groups[request.name] = request
            continue
        name = request.name.replace(month_name(*month), _MARK, 1)
        body = {key: value for key, value in request.body.items() if key not in ("year", "month", "day", "time")}
        key = f"{name} {request.dataset} {body}"
        before = groups.get(key)
        earlier = before.months if isinstance(before, _Group) else ()
        groups[key] = _Group(name, request.dataset, body, (*earlier, month))
    return list(groups.values())


def _month(request: Request) -> _Month | None:
    """Return the month of a request with all hours of consecutive days, None for other requests."""
    body = request.body
    year, month, days = (body.get(key) for key in ("year", "month", "day"))
    if not (isinstance(year, list) and isinstance(month, list) and isinstance(days, list) and days):
        return None
    found = int(year[0]), int(month[0]), int(days[0]), int(days[-1])
    consecutive = days == [f"{day:02d}" for day in range(found[2], found[3] + 1)]
    alone = (year, month) == ([f"{found[0]}"], [f"{found[1]:02d}"]) and body.get("time") == HOURS
    return found if consecutive and alone and request.name.count(month_name(*found)) == 1 else None


def _lines(part: _Group | Request) -> Iterator[str]:
    if isinstance(part, Request):
        yield f"({part.name!r}, {part.dataset!r}, {dict(part.body)!r}),"
        return
    yield "*monthly("
    yield f"    {part.name!r},"
    yield f"    {part.dataset!r},"
    yield f"    {dict(part.body)!r},"
    yield f"    {_months(part.months)},"
    yield "),"


def _months(months: Sequence[_Month]) -> str:
    """Return a list of months as Python; whole years are a call of the function ``months``."""
    texts: list[str] = []
    whole: list[int] = []
    for year, group in itertools.groupby(months, lambda month: month[0]):
        own = list(group)
        if own == [(year, m, 1, calendar.monthrange(year, m)[1]) for m in range(1, 13)]:
            if whole and year != whole[-1] + 1:
                texts.append(f"*months({whole[0]}, {whole[-1]})")
                whole = []
            whole.append(year)
            continue
        texts += [f"*months({whole[0]}, {whole[-1]})"] if whole else []
        whole = []
        texts += map(str, own)
    texts += [f"*months({whole[0]}, {whole[-1]})"] if whole else []
    return f"[{', '.join(texts)}]"

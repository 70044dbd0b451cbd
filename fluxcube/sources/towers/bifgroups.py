"""Group the rows of BADM interchange files (BIF): the values of a group were reported together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.metatext import Row

#: Values of a group: variable to (line, text).
Group = dict[str, tuple[int, str]]
#: Site, group and family of variables (``LOCATION``, ``IGBP``, ...) of a row.
_Key = tuple[str, str, str]
_Item = tuple[str, int, str]


def group_rows(
    location: Location, header: Sequence[str], rows: Sequence[Row], *, site: str
) -> tuple[dict[str, list[Group]], list[int]]:
    """Return the groups of each site, in order of the file, and the lines of rows without a site.

    Where a file has no GROUP_ID, or a group has a variable twice, the values of one family of variables (the names of
    which begin with the same word) are divided into groups by repetition.

    Parameters
    ----------
    location : Location
        The file, for messages.
    header : sequence of str
        Names of the columns, in upper case; VARIABLE and DATAVALUE are among them.
    rows : sequence of (int, list of str)
        Line number and fields of each row below the header.
    site : str
        Site of a file without the column SITE_ID, from its name; "" if its name has none.

    Raises
    ------
    SourceError
        If a row is cut, or there is no site.
    """
    at = {name: header.index(name) for name in header}
    value_at, last = at["DATAVALUE"], len(header) - 1
    if "SITE_ID" not in at and not site:
        raise SourceError(f"{location}: no column SITE_ID, and no site such as JP-Tak in its name; add one of them")
    items: dict[_Key, list[_Item]] = {}
    nameless = []
    for line, row in rows:
        if len(row) <= max(at["VARIABLE"], value_at):
            raise SourceError(
                f"{location}, line {line}: {len(row)} fields, expected {len(header)}; the file is cut, get it again"
            )
        of_row = row[at["SITE_ID"]].strip() if "SITE_ID" in at else site
        if not of_row:
            nameless.append(line)
            continue
        # Some files do not quote texts with commas: the last column contains the rest of the line.
        value = ",".join(row[value_at:]) if value_at == last else row[value_at]
        variable = row[at["VARIABLE"]].strip().upper()
        group = row[at["GROUP_ID"]].strip() if "GROUP_ID" in at else ""
        items.setdefault((of_row, group, variable.partition("_")[0]), []).append((variable, line, value.strip()))
    groups: dict[str, list[Group]] = {}
    for (of_row, _, _), members in items.items():
        groups.setdefault(of_row, []).extend(_divided(members))
    return groups, nameless


def _divided(items: Sequence[_Item]) -> Iterator[Group]:
    """Yield groups in which each variable occurs once.

    Where each variable occurs equally often, the first ones belong together, the second ones, and so on, whether rows
    are sorted by group or by variable. Else a group ends where one of its variables occurs again.
    """
    counts: dict[str, int] = {}
    numbers = []
    for variable, _, _ in items:
        numbers.append(counts.get(variable, 0))
        counts[variable] = numbers[-1] + 1
    if len(set(counts.values())) > 1:
        numbers, number = [], 0
        present: set[str] = set()
        for variable, _, _ in items:
            if variable in present:
                number, present = number + 1, set()
            present.add(variable)
            numbers.append(number)
    groups: dict[int, Group] = {}
    for number, (variable, line, value) in zip(numbers, items, strict=True):
        groups.setdefault(number, {})[variable] = line, value
    yield from groups.values()

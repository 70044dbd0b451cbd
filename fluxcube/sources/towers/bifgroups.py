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
#: Names of the variables that are used, by family: those of a complete group, and those that a group may lack.
_NEEDED = {"LOCATION": ("LAT", "LONG"), "IGBP": ("",), "CLIMATE": ("KOEPPEN",), "UTC": ("OFFSET",)}
_OPTIONAL = ("ELEV", "DATE_START", "OFFSET_DATE_START", "KOEPPEN_DATE_START")


def group_rows(
    location: Location, header: Sequence[str], rows: Sequence[Row], *, site: str
) -> tuple[dict[str, list[Group]], list[int]]:
    """Return the groups of each site, in order of the file, and the lines of rows without a site.

    Only variables on place, class, climate and offset from UTC are in the groups.

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
        If a row is cut, there is no site, or entries without GROUP_ID cannot be told apart.
    """
    at = {name: header.index(name) for name in header}
    value_at, last = at["DATAVALUE"], len(header) - 1
    if "SITE_ID" not in at and not site:
        raise SourceError(f"{location}: no column SITE_ID, and no site such as JP-Tak in its name; add one of them")
    items: dict[_Key, list[_Item]] = {}
    groups: dict[str, list[Group]] = {}
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
        groups.setdefault(of_row, [])
        variable = row[at["VARIABLE"]].strip().upper()
        variable = "LOCATION_LONG" if variable == "LOCATION_LON" else variable  # both spellings are common
        family, _, name = variable.partition("_")
        if family not in _NEEDED or name not in (*_NEEDED[family], *_OPTIONAL):
            continue
        # Some files do not quote texts with commas: the last column contains the rest of the line.
        value = ",".join(row[value_at:]) if value_at == last else row[value_at]
        group = row[at["GROUP_ID"]].strip() if "GROUP_ID" in at else ""
        items.setdefault((of_row, group, family), []).append((variable, line, value.strip()))
    for (of_row, number, family), members in items.items():
        divided = list(_divided(members))
        if not number and len(divided) > 1:
            _check_whole(divided, family, f"{location}, {of_row}")
        groups[of_row].extend(divided)
    return groups, nameless


def _check_whole(groups: Sequence[Group], family: str, where: str) -> None:
    """Refuse groups without numbers that lack what they need, such as a date without its value."""
    needed = {f"{family}_{name}".rstrip("_") for name in _NEEDED[family]}
    for group in groups:
        if not needed.issubset(group) and set(group) - {"LOCATION_ELEV"}:
            line = min(line for line, _ in group.values())
            raise SourceError(
                f"{where}: the entries of {family} from line {line} on cannot be told apart, for the file has no "
                f"GROUP_ID and {', '.join(sorted(needed))} and their dates differ in number; add GROUP_ID"
            )


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

"""What a fetch consists of: items (one file each), the licence of the data, and the plan."""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fluxcube.errors import FetchError
from fluxcube.fetch.addresses import public
from fluxcube.tabletext import counted

if TYPE_CHECKING:
    import pandas as pd

#: Files that fetch itself writes into a folder; the second name of the licence is used where the user has such a file.
LEDGER, LOCK, LICENCE, STAGING = "fetch.jsonl", "fetch.lock", "LICENCE.md", ".fetching"
OTHER_LICENCE = "LICENCE-fetched.md"
_OWN = frozenset(name.lower() for name in (LEDGER, LOCK, LICENCE, OTHER_LICENCE))
#: Endings of files that are not complete.
PART, PART_STATE = ".part", ".part.json"
#: Characters that no part of a name may contain: separators of any system, and what a shell or a terminal interprets.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\]')
_SCHEME = re.compile(r"(?i)[a-z][a-z0-9+.-]*://")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|com[\d\xb9\xb2\xb3]|lpt[\d\xb9\xb2\xb3])\s*(\..*)?")
#: Maximum length of a name in bytes: file systems allow 255, of which the endings of an incomplete file need some.
_MAX_BYTES = 240


def fault_of_name(name: object) -> str:
    """Return why a text cannot be the name of a file in the folder of a fetch; "" if it can.

    Names come from servers: they must not lead out of the folder, replace files that fetch keeps there, or be invalid
    on another operating system.

    Examples
    --------
    >>> fault_of_name("h18v04/MCD43A4.A2018001.h18v04.061.hdf")
    ''
    >>> fault_of_name("../outside.zip")
    "contains the folder '..'"
    """
    if not isinstance(name, str) or not name:
        return "is empty"
    if len(name.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        return f"is longer than {_MAX_BYTES} bytes"
    if _FORBIDDEN.search(name) or not name.isprintable():
        return "contains a character that a file name must not contain"
    if name.startswith(("/", "~")):
        return "is an absolute path"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"contains the folder {part!r}"
        if part.startswith(".") or part != part.strip() or part.endswith("."):
            return "has a part that begins with a dot or a blank, or ends with one"
        if _DEVICES.fullmatch(part):
            return "is the name of a device"
    last = name.rpartition("/")[2].lower()
    if last in _OWN or last.endswith((PART, PART_STATE)):
        return "is a name that fetch uses itself"
    return ""


def check_name(name: object) -> None:
    """Refuse a name that `fault_of_name` reports.

    Raises
    ------
    FetchError
        If the name cannot be used.
    """
    if fault := fault_of_name(name):
        shown = repr(name)[:80].encode("unicode_escape").decode()
        raise FetchError(f"the service sent the file name {shown}, which {fault}: nothing was written; report this.")


def file_names(sites: Iterable[str]) -> dict[str, str]:
    """Return a text for each site that can be part of the name of a file, different for each."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for site in sites:
        name = re.sub(r"[^A-Za-z0-9-]+", "-", site).strip("-")[:60]
        if name != site or name.lower() in used:
            name = f"{name}-{zlib.crc32(site.encode()):08x}".strip("-")
        used.add(name.lower())
        names[site] = name
    return names


def request_key(request: Mapping[str, object]) -> str:
    """Return the canonical JSON of a request: equal requests have equal keys, whatever the order of their entries.

    Examples
    --------
    >>> request_key({"year": 2018, "area": [50, 5, 45, 10]})
    '{"area":[50,5,45,10],"year":2018}'
    """
    return json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


@dataclass(frozen=True)
class Item:
    """One file to fetch.

    Attributes
    ----------
    name : str
        Path of the file relative to the folder, with ``/`` between folders.
    key : str
        What identifies the request: its canonical JSON (`request_key`), or the URL without credentials.
    size : int or None
        Bytes; None if the service does not report them.
    exact : bool
        Whether `size` is the size of the file, not an estimate.
    about : mapping
        What the file contains: data set, period, tile, site, ``citation`` and the like. It is written to the ledger and
        must not contain credentials.
    checksum : (str, str) or None
        Algorithm (a name of hashlib) and hexadecimal digest, as published by the service.
    """

    name: str
    key: str
    size: int | None = None
    exact: bool = False
    about: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    checksum: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if _SCHEME.match(self.key):
            object.__setattr__(self, "key", public(self.key))


@dataclass(frozen=True)
class Licence:
    """Licence and citation of fetched data; both are written to ``LICENCE.md`` beside them.

    Attributes
    ----------
    name, url : str
        Name of the licence, and the page with its text (and where it is accepted).
    text : str
        What the licence or the data policy requires, in one or a few sentences.
    citation, doi : str
        How the data are cited.
    """

    name: str
    url: str = ""
    text: str = ""
    citation: str = ""
    doi: str = ""


@dataclass(frozen=True)
class Plan:
    """What a fetch will request, and what it costs; nothing has been ordered yet.

    Attributes
    ----------
    source : str
        The service, as LICENCE.md and the ledger name it.
    items : tuple of Item
        Every file of the request, also those that are already there.
    have : tuple of Item
        Those of `items` that are already there, complete.
    notes : tuple of str
        What the user must know: sites without data, what needs a click in a browser, and the like.
    seconds : float or None
        Expected time.
    cost : str or None
        Quota that the request uses, in units of the service.
    licence : Licence or None
    """

    source: str
    items: tuple[Item, ...]
    have: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    cost: str | None = None
    licence: Licence | None = None

    def __post_init__(self) -> None:
        folded = Counter(unicodedata.normalize("NFC", item.name).casefold() for item in self.items)
        twice = [name for name, n in folded.items() if n > 1]
        if twice:
            raise FetchError(f"{self.source}: two files would have the same name {twice[0]}; nothing was fetched.")

    def __str__(self) -> str:
        return self.text()

    @property
    def missing(self) -> tuple[Item, ...]:
        """Items that are not there yet."""
        have = {item.name for item in self.have}
        return tuple(item for item in self.items if item.name not in have)

    @property
    def bytes(self) -> int:
        """Known bytes of the missing items; items of unknown size count as 0."""
        return sum(item.size or 0 for item in self.missing)

    def text(self, max_items: int = 20) -> str:
        """Return the plan as lines for a terminal: requests, bytes, time, quota, files and notes."""
        missing = self.missing
        lines = [f"{self.source}: {len(missing)} of {counted(len(self.items), 'file')} to fetch, {self._size_text()}"]
        if self.have:
            lines.append(f"already there: {counted(len(self.have), 'file')}")
        if self.seconds is not None:
            lines.append(f"time: about {duration_text(self.seconds)}")
        if self.cost:
            lines.append(f"quota: {self.cost}")
        if self.licence:
            lines.append(f"licence: {self.licence.name}{f' ({self.licence.url})' if self.licence.url else ''}")
        width = max((len(item.name) for item in missing[:max_items]), default=0)
        lines += [f"  {item.name:{width}}  {_item_size(item)}" for item in missing[:max_items]]
        if len(missing) > max_items:
            lines.append(f"  ... and {len(missing) - max_items} more")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def table(self) -> pd.DataFrame:
        """Return the missing files: ``file``, ``bytes`` (missing if not known), and whether these are ``exact``."""
        import pandas as pd

        rows = [(item.name, item.size, item.exact) for item in self.missing]
        return pd.DataFrame(rows, columns=["file", "bytes", "exact"]).astype({"bytes": "Int64"})

    def _size_text(self) -> str:
        unknown = sum(item.size is None for item in self.missing)
        exact = all(item.exact for item in self.missing)
        known = f"{'' if exact else 'about '}{size_text(self.bytes)}"
        if not unknown:
            return known
        if unknown == len(self.missing):
            return "of a size that the service does not report"
        return f"{known} and {counted(unknown, 'file')} of unknown size"


def _item_size(item: Item) -> str:
    return "size unknown" if item.size is None else f"{'' if item.exact else 'about '}{size_text(item.size)}"


def size_text(size: float) -> str:
    """Return bytes with a unit.

    Examples
    --------
    >>> size_text(12_400_000)
    '12.4 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration_text(seconds: float) -> str:
    """Return seconds as text with the unit that suits them.

    Examples
    --------
    >>> duration_text(5400)
    '1.5 hours'
    """
    for limit, unit, name in ((120, 1, "seconds"), (7200, 60, "minutes"), (172800, 3600, "hours")):
        if seconds < limit and not (unit == 60 and seconds >= 3600):
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:.3g} days"


def within(folder: Path, item: Item) -> Path:
    """Return the path of an item in a folder."""
    return folder.joinpath(*item.name.split("/"))

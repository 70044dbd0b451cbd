"""Names of sites: which ones a cube can contain."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fluxcube.errors import SourceError, printable

#: Maximum length of a site name: those of networks have 6 characters.
MAX_LENGTH = 32
#: Names of devices on Windows, which no file can have there, with any ending.
_DEVICE = re.compile(r"CON|PRN|AUX|NUL|(COM|LPT)\d", re.IGNORECASE)
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_LENGTH - 1}}}")


def fault_of_site(site: object) -> str:
    """Return why a name cannot be that of a site; "" if it can.

    A site's name becomes part of file names in a store, so that it must not contain a path.

    Examples
    --------
    >>> fault_of_site("XX-Own")
    ''
    >>> print(fault_of_site("../../outside"))
    expected a short name of letters, digits, - and _, such as 'XX-Own', found '../../outside'; rename the site
    """
    if isinstance(site, str) and _NAME.fullmatch(site):
        return (
            "a device of Windows has this name, so that no file can; rename the site" if _DEVICE.fullmatch(site) else ""
        )
    found = printable(repr(site)[: 2 * MAX_LENGTH])
    length = len(site) if isinstance(site, str) else 0
    long = f" ({length} characters, the maximum is {MAX_LENGTH})" if length > MAX_LENGTH else ""
    return f"expected a short name of letters, digits, - and _, such as 'XX-Own', found {found}{long}; rename the site"


def find_twins(sites: Iterable[str]) -> dict[str, str]:
    """Return the sites whose name differs from that of an earlier one in case only, with the earlier one.

    On disks that do not distinguish upper and lower case, as on macOS and Windows, the files of both would be one.

    Parameters
    ----------
    sites : iterable of str
        In the order of preference.

    Examples
    --------
    >>> find_twins(["DE-Hai", "DE-Tha", "de-hai"])
    {'de-hai': 'DE-Hai'}
    """
    first: dict[str, str] = {}
    twins = {}
    for site in sites:
        if (earlier := first.setdefault(site.casefold(), site)) != site:
            twins[site] = earlier
    return twins


def check_site(site: object) -> None:
    """Refuse a name that cannot be that of a site.

    Raises
    ------
    SourceError
        If it is not 1 to 32 letters, digits, - and _, beginning with a letter or a digit, or is the name of a device.
    """
    if fault := fault_of_site(site):
        raise SourceError(f"site: {fault}")

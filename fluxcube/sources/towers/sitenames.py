"""Names of sites: which ones a cube can contain, and how names from files are shown in messages."""

from __future__ import annotations

import re
import unicodedata

from fluxcube.errors import SourceError

#: Maximum length of a site name: those of networks have 6 characters.
MAX_LENGTH = 32
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
        return ""
    found = printable(repr(site)[: 2 * MAX_LENGTH])
    length = len(site) if isinstance(site, str) else 0
    long = f" ({length} characters, the maximum is {MAX_LENGTH})" if length > MAX_LENGTH else ""
    return f"expected a short name of letters, digits, - and _, such as 'XX-Own', found {found}{long}; rename the site"


def check_site(site: object) -> None:
    """Refuse a name that cannot be that of a site.

    Raises
    ------
    SourceError
        If it is not 1 to 32 letters, digits, - and _, beginning with a letter or a digit.
    """
    if fault := fault_of_site(site):
        raise SourceError(f"site: {fault}")


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with its control characters escaped, so that a name from a file cannot steer a terminal.

    Parameters
    ----------
    text : str
        Text that may contain names of files, of sites or of columns.
    keep : str
        Control characters that stay, such as line ends.

    Examples
    --------
    >>> print(printable("FLX_\x1b[31mred.zip"))
    FLX_\x1b[31mred.zip
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_visible(c) else c.encode("unicode_escape").decode() for c in text)


def _is_visible(character: str) -> bool:
    """Return whether a character is printable or a blank of any width, as file names in Japanese have."""
    return character.isprintable() or unicodedata.category(character) == "Zs"

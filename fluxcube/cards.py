"""Short descriptions of objects, as text and as HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

#: Number of names that are listed before "and N more", and of lines of facts.
_NAMES, _LINES = 8, 12
#: Colours of the page are inherited, so that a card is legible on a light and on a dark background.
_BOX = "display:inline-block;border:1px solid rgba(128,128,128,.5);border-radius:4px;padding:.5em .8em;color:inherit"
_CELL = "text-align:left;vertical-align:top;padding:.1em .8em .1em 0;background:none;color:inherit"


def few(names: Sequence[object], number: int = _NAMES) -> str:
    """Return names as text, the first few of many.

    Examples
    --------
    >>> few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(map(str, names[:number]))
    more = len(names) - number
    return f"{shown} and {more} more" if more > 0 else shown or "none"


def card(title: str, facts: Mapping[str, object], then: Sequence[str] = ()) -> str:
    """Return facts about an object as HTML, without scripts, style sheets or files.

    Parameters
    ----------
    title : str
        What the object is.
    facts : mapping of str to object
        Facts by name; empty ones are left out.
    then : sequence of str
        What may be typed next.

    Returns
    -------
    str
        A box of at most 12 lines of facts; all text is escaped, since names may come from files.

    Examples
    --------
    >>> "&lt;b&gt;" in card("Run", {"path": "<b>"})
    True
    """
    known = [(name, str(value)) for name, value in facts.items() if value not in (None, "", (), [])]
    rows = [_row(name, html.escape(value)) for name, value in known[:_LINES]]
    if then:
        rows.append(_row("next", "<br>".join(f"<code>{html.escape(line)}</code>" for line in then)))
    body = f'<table style="border:none;margin:.3em 0 0 0;color:inherit">{"".join(rows)}</table>'
    return f'<div style="{_BOX}"><strong>{html.escape(title)}</strong>{body}</div>'


def _row(name: str, cell: str) -> str:
    heading = f'<th style="{_CELL};font-weight:normal;opacity:.7">{html.escape(name)}</th>'
    return f'<tr style="background:none">{heading}<td style="{_CELL}">{cell}</td></tr>'

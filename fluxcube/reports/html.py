"""HTML of sections: every text is escaped, so that names from files cannot become markup."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from fluxcube.citations import url_of
from fluxcube.reports.section import Column, Figure, Section, Table, plain_number

#: Tables with more rows than this have a field to filter them.
_LONG = 7


def section_html(section: Section, pictures: Mapping[str, str], widgets: Mapping[str, str]) -> str:
    """Return a section as HTML.

    Parameters
    ----------
    section : Section
        Section of the report.
    pictures : mapping of str to str
        Markup of each figure by its name: inline SVG.
    widgets : mapping of str to str
        Markup of the interactive parts by name.
    """
    parts = [f'<section id="{escape(section.name)}">', f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    if section.absent:
        parts.append(f'<p class="absent">{escape(section.absent)}</p>')
    if section.widget:
        parts.append(widgets[section.widget])
    parts += [table_html(table) for table in section.first]
    if section.figures:
        figures = [_figure(figure, pictures[figure.name]) for figure in section.figures]
        parts.append('<div class="figures">' + "\n".join(figures) + "</div>")
    parts += [table_html(table) for table in section.tables]
    return "\n".join([*parts, "</section>"])


def _figure(figure: Figure, picture: str) -> str:
    kind = "wide" if figure.wide else "half"
    name, caption = escape(figure.name), escape(figure.caption)
    head = f'<figure id="fig-{name}" class="{kind}"{_target(figure.target)}>'
    return f'{head}<div class="picture">{picture}</div>\n<figcaption>{caption}</figcaption></figure>'


def table_html(table: Table) -> str:
    """Return a table as HTML that sorts by any column, and filters if it is long."""
    label, name = escape(table.caption), escape(table.name)
    parts = [f'<div class="table" id="tab-{name}"{_target(table.target)}>']
    if len(table.data) > _LONG:
        parts.append(f'<input type="search" class="filter" placeholder="Filter rows" aria-label="Filter: {label}">')
    parts.append(f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>')
    parts.append(f"<caption>{label}</caption>")
    parts.append(f"<thead><tr>{''.join(map(_heading, table.columns))}</tr></thead><tbody>")
    for row, texts in zip(table.data.to_dict("records"), table.cells(), strict=True):
        cells = [_cell(c, row.get(c.name), text) for c, text in zip(table.columns, texts, strict=True)]
        parts.append(f"<tr>{''.join(cells)}</tr>")
    parts.append("</tbody></table></div>")
    parts += [f'<p class="note">{escape(table.note)}</p>'] if table.note else []
    return "\n".join([*parts, "</div>"])


def _heading(column: Column) -> str:
    kind = ' class="number"' if column.numeric else ""
    return f'<th scope="col"{kind}><button type="button">{escape(column.heading)}</button></th>'


def _cell(column: Column, value: object, text: str) -> str:
    if column.numeric:
        item = getattr(value, "item", None)
        key = plain_number(item() if callable(item) else value)
        data = "" if key is None else f' data-v="{key:.10g}"'
        main, bracket, rest = text.partition(" [")
        small = f' <span class="interval">[{escape(rest)}</span>' if bracket else ""
        return f'<td class="number"{data}>{escape(main)}{small}</td>'
    if column.form == "site" and text:
        return f'<td><button type="button" class="tower" data-site="{escape(text)}">{escape(text)}</button></td>'
    if column.form == "doi" and url_of(text):
        return f'<td><a href="{escape(url_of(text))}" rel="noreferrer">{escape(text)}</a></td>'
    kind = ' class="long"' if column.form == "long" else ""
    return f"<td{kind}>{escape(text)}</td>"


def _target(target: str) -> str:
    return f' data-target="{escape(target)}"' if target else ""


def inline_svg(svg: str, *, prefix: str, alt: str, sentinel: str) -> str:
    """Return an SVG file as markup to be placed inside of a page.

    Parameters
    ----------
    svg : str
        File that matplotlib wrote.
    prefix : str
        Prefix of all names in it, so that two figures of a page share none.
    alt : str
        Description of the figure.
    sentinel : str
        Colour that is replaced by that of the page's text, ``#rrggbb``; "" for none.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    if sentinel:
        body = re.sub(re.escape(sentinel), "currentColor", body, flags=re.IGNORECASE)
    body, rules = _classes(body, prefix)
    head, rest = body[: body.index(">")], body[body.index(">") :]
    width, height = (re.search(rf'\b{name}="([\d.]+)pt"', head) for name in ("width", "height"))
    pixels = f"{float(width[1]) * 1.35:.0f}px" if width and height else ""
    size = f' style="max-width:{pixels}"' if pixels else ""
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    title = f"<title>{escape(alt)}</title>" + (f"<style>{rules}</style>" if rules else "")
    return f'{head} role="img" aria-label="{escape(alt)}"{size}>{title}{rest[1:]}'.replace("\n", " ").strip()


def _classes(body: str, prefix: str) -> tuple[str, str]:
    """Replace styles that many elements of an SVG repeat by classes; return the SVG and the rules of the classes."""
    counts = Counter(re.findall(r' style="([^"<>]{20,})"', body))
    names = {style: f"{prefix}-{i}" for i, style in enumerate(style for style, n in counts.items() if n > 2)}
    body = re.sub(r' style="([^"<>]{20,})"', lambda m: f' class="{names[m[1]]}"' if m[1] in names else m[0], body)
    return body, "".join(f".{name}{{{style}}}" for style, name in names.items())


def inline_png(png: bytes, *, alt: str) -> str:
    """Return a PNG file as markup that contains the picture.

    Parameters
    ----------
    png : bytes
        File.
    alt : str
        Description of the figure.
    """
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}" alt="{escape(alt)}">'


def script_json(value: object) -> str:
    r"""Return JSON for a script element, in which no text can end the element.

    Examples
    --------
    >>> script_json({"name": "</script><b>"})
    '{"name":"\\u003c/script\\u003e\\u003cb\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def navigation(sections: Sequence[Section]) -> str:
    """Return the links to the sections."""
    return "\n".join(f'<li><a href="#{escape(s.name)}">{escape(s.title)}</a></li>' for s in sections)

"""The page: sections, figures and data joined into one HTML file that needs no network."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

from fluxcube import __version__
from fluxcube.errors import FluxcubeError
from fluxcube.plotting.canvas import INK, figure_of, picture_bytes, report_style
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.html import inline_png, inline_svg, navigation, script_json, section_html
from fluxcube.reports.section import Figure, Section
from fluxcube.reports.towers import page_data
from fluxcube.reports.worldmap import map_widget
from fluxcube.tabletext import counted

#: Size of an inline SVG (bytes) above which the page contains the PNG instead, if that is smaller.
_LARGE = 100_000

logger = logging.getLogger(__name__)


def render(sections: Sequence[Section], evidence: Evidence, pictures: Mapping[str, str]) -> str:
    """Return the page as one HTML text: no file and no address is loaded by it.

    Parameters
    ----------
    sections : sequence of Section
        Sections in their order.
    evidence : Evidence
        What they were written from.
    pictures : mapping of str to str
        Inline SVG of each figure by its name.
    """
    widgets = {"map": map_widget(evidence)}
    buttons = [
        f'<button type="button" data-flux="{escape(target)}" aria-pressed="false">{escape(target)}</button>'
        for target in evidence.targets
    ]
    parts = {
        "title": escape(evidence.title),
        "subtitle": escape(_subtitle(evidence)),
        "targets": "".join(buttons),
        "navigation": navigation(sections),
        "sections": "\n".join(section_html(section, pictures, widgets) for section in sections),
        "footer": escape(
            f"Written by fluxcube {__version__}. The page is complete in itself: it loads nothing. The charts of "
            "series use uPlot (MIT licence)."
        ),
        "data": script_json(page_data(evidence)),
        "plot_css": _asset("uPlot.min.css"),
        "css": _asset("page.css"),
        "plot_js": _asset("uPlot.min.js"),
        "js": _asset("page.js"),
    }
    return Template(_asset("page.html")).substitute(parts)


def _subtitle(evidence: Evidence) -> str:
    counts = [
        f"{target}: {int(m.n.sum((0, 1))[0]):,} {evidence.steps} at "
        f"{counted(int((m.n.sum((1, 2)) > 0).sum()), 'tower')}"
        for target, m in evidence.sums.moments.items()
    ]
    return f"{', '.join(evidence.models)}. {'; '.join(counts)}."


def _asset(name: str) -> str:
    return resources.files("fluxcube").joinpath("data/report", name).read_text("utf-8")


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes
    ----------
    inline : str
        Markup for the page, in which text and axes have the colour of the page's text.
    svg, png : bytes
        Files, on a transparent and on a white ground.
    """

    inline: str
    svg: bytes
    png: bytes


def picture(figure: Figure) -> Picture | None:
    """Draw a figure; return None, and log the reason, if there is nothing to draw.

    Parameters
    ----------
    figure : Figure
        Figure of a section.
    """
    with report_style():
        try:
            axes = figure.draw()
        except FluxcubeError as error:
            logger.warning("figure %s is left out: %s", figure.name, error)
            return None
        svg = picture_bytes(axes, "svg")
    figure_of(axes).set_facecolor("white")
    png = picture_bytes(axes, "png")
    inline = inline_svg(svg.decode("utf-8"), prefix=figure.name, alt=figure.alt, sentinel=INK)
    if len(inline) > _LARGE and len(png) * 4 / 3 < len(inline):
        inline = inline_png(png, alt=figure.alt)
    return Picture(inline, svg, png)

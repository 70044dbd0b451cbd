"""Helpers shared by all figures: new axes, writing files, printed units, and a style for each class and model."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxcube.errors import ConfigError, StoreError, missing_package
from fluxcube.stores.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that can be distinguished without red or green, and grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#8C8C8C")
#: One marker fewer than colours, so that few pairs of colour and marker repeat.
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "p")
_UNKNOWN = ("#8C8C8C", "h")
#: Each IGBP class has the same style in all figures; related classes share a colour or a shape.
_IGBP_STYLES = {
    "ENF": ("#009E73", "^"),
    "DNF": ("#009E73", "v"),
    "EBF": ("#000000", "s"),
    "DBF": ("#D55E00", "o"),
    "MF": ("#8C8C8C", "*"),
    "CSH": ("#CC79A7", "<"),
    "OSH": ("#CC79A7", ">"),
    "WSA": ("#E69F00", "X"),
    "SAV": ("#E69F00", "P"),
    "GRA": ("#F0E442", "v"),
    "CRO": ("#56B4E9", "D"),
    "CVM": ("#56B4E9", "d"),
    "WET": ("#0072B2", "p"),
    "WAT": ("#0072B2", "8"),
    "URB": ("#8C8C8C", "X"),
    "SNO": ("#8C8C8C", "D"),
    "BSV": ("#D55E00", "H"),
}

#: Colour of text and axes of figures in `report_style`: a page replaces it by the colour of its own text.
INK = "#010203"
#: Settings of matplotlib that have the colour of text and axes.
_INKED = (
    *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "hatch.color", "legend.labelcolor"),
    *("xtick.color", "ytick.color", "xtick.labelcolor", "ytick.labelcolor"),
)
#: Name of the observations in tables beside the models.
_OBSERVED = "observed"
#: Dots per inch of a figure in a notebook.
_SCREEN = 100
_OURS = "fluxcube"  # label of figures that are not the caller's
#: Colours of models, with a contrast of 3:1 on white and on black; markers and lines differ as well.
_MODEL_COLORS = ("#0072B2", "#D55E00", "#009E73", "#C4699B", "#B07A00", "#7A7ADB", "#808080")
_LINES = ("-", "--", "-.", ":")

__all__ = [
    "INK",
    "MARKERS",
    "PALETTE",
    "Style",
    "class_styles",
    "figure_of",
    "fit_title",
    "ink",
    "model_styles",
    "new_axes",
    "new_grid",
    "new_panels",
    "picture_bytes",
    "print_units",
    "report_style",
    "save_picture",
    "styles_of",
]


@dataclass(frozen=True)
class Style:
    """How one model is drawn.

    Attributes
    ----------
    color, marker, line : str
        Colour, marker and line style of matplotlib.
    """

    color: str
    marker: str
    line: str


@contextlib.contextmanager
def report_style(ink: str = INK) -> Iterator[None]:
    """Draw and write figures for a page: transparent, text and axes in one colour, and text of SVG files as text.

    Parameters
    ----------
    ink : str
        Colour of text and axes. A page replaces the default, `INK`, in SVG files by ``currentColor``, so that figures
        are legible on a light and on a dark background. For PNG files pass the colour of the text.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
        from cycler import cycler
    except ImportError:
        raise missing_package("matplotlib", "plot", "drawing") from None
    settings: dict[Any, Any] = dict.fromkeys(_INKED, ink)
    settings |= dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none")
    settings |= {"svg.fonttype": "none", "svg.hashsalt": "fluxcube"}
    settings |= {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"]}
    settings |= {"axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": cycler(color=_MODEL_COLORS)}
    settings |= {"text.parse_math": False}  # names of sites and models are shown as they are, with $ and _
    with matplotlib.rc_context(settings):
        yield


def ink() -> str:
    """Return the colour of text and axes: black, or that of `report_style` within it."""
    import matplotlib

    return str(matplotlib.rcParams["text.color"])


def model_styles(models: Iterable[str]) -> dict[str, Style]:
    """Return the style of each model, in their order; "observed" is drawn in the colour of the text.

    Pass the models of all figures of a page, so that a model has the same style in each.

    Examples
    --------
    >>> model_styles(["observed", "EcoPerceiver"])["EcoPerceiver"].color
    '#0072B2'
    """
    names = [name for name in dict.fromkeys(models) if name != _OBSERVED]
    styles = {
        name: Style(
            _MODEL_COLORS[i % len(_MODEL_COLORS)],
            MARKERS[i % len(MARKERS)],
            _LINES[(i + i // len(_MODEL_COLORS)) % len(_LINES)],
        )
        for i, name in enumerate(names)
    }
    return {_OBSERVED: Style(ink(), "o", "-")} | styles


def styles_of(models: Iterable[str], styles: Mapping[str, Style] | None) -> dict[str, Style]:
    """Return a style for each model: that of a page, or one that the page does not use for a model it does not know.

    Observations have the colour of the text, whatever it was when the styles of the page were made.
    """
    every = model_styles([*(styles or {}), *models])
    return {**every, **(styles or {}), _OBSERVED: every[_OBSERVED]}


class Panels(tuple["Axes", ...]):
    """Axes of one figure, in a tuple; a notebook shows the figure, as it does for single axes that fluxcube made.

    Figures are not registered with pyplot, which would keep each of a thousand in RAM, so that notebooks must be told.
    """

    __slots__ = ()

    @property
    def figure(self) -> Figure:
        """The figure."""
        return figure_of(self[0])

    def _repr_png_(self) -> bytes:
        return picture_bytes(self[0], "png", dpi=_SCREEN)


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return `ax`, or the axes of a new figure of (width, height) inches, which is not registered with pyplot.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    return new_panels(1, size)[0] if ax is None else ax


def new_panels(number: int, size: tuple[float, float]) -> list[Axes]:
    """Return a number of axes side by side in one new figure, created as by `new_axes`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib", "plot", "drawing") from None
    figure = Figure(figsize=size, layout="constrained", label=_OURS)
    FigureCanvasAgg(figure)
    return list(figure.subplots(1, number, squeeze=False)[0])


def new_grid(number: int, columns: int, size: tuple[float, float]) -> list[Axes]:
    """Return a number of axes in rows of `columns`, each of (width, height) inches, with common scales, in one figure.

    Axes of the last row that are not needed are removed.
    """
    columns = max(1, min(columns, number))
    lines = -(-number // columns)
    first = new_axes(None, (size[0] * columns, size[1] * lines))
    figure = figure_of(first)
    first.remove()
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel())
    for ax in axes[number:]:
        ax.remove()
    for ax in axes[max(0, number - columns) : number]:
        ax.tick_params(labelbottom=True)
    return axes[:number]


def save_picture(ax: Axes, path: str | Path | None) -> Axes:
    """Write the figure of `ax` to `path`, if there is one, replacing an existing file; return `ax`.

    Raises
    ------
    StoreError
        If the folder does not exist, or the disk is full.
    ConfigError
        If matplotlib cannot write the file format of the ending.
    """
    with _without_advice():  # finding the texts computes the ticks, too
        _show_names_as_they_are(ax)
    _show_in_notebooks(ax)
    if path is None:
        return ax
    path = Path(path)
    if not path.parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    figure = figure_of(ax)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ConfigError(f"cannot write {path}: expected one of the endings {', '.join(sorted(known))}.")
    # Drawn in RAM first: matplotlib's writer of PDF hides the error of a full disk behind one of its own.
    with replacing(path) as temporary:
        temporary.write_bytes(picture_bytes(ax, path.suffix.lstrip(".").lower()))
    return ax


def save_panels(axes: Sequence[Axes], path: str | Path | None) -> Panels:
    """Write a figure of several axes as `save_picture` does; return the axes."""
    save_picture(axes[0], path)
    return Panels(axes)


def _show_in_notebooks(ax: Axes) -> None:
    """Let a notebook show a figure of fluxcube for its axes and for itself."""
    figure = figure_of(ax)
    if figure.get_label() == _OURS:
        for shown in (ax, figure):
            setattr(shown, "_repr_png_", functools.partial(picture_bytes, ax, "png", dpi=_SCREEN))  # noqa: B010


def _show_names_as_they_are(ax: Axes) -> None:
    """Keep matplotlib from reading the text between two $ in names of models, sites and files as a formula.

    In a figure of the caller, only `ax` is changed.
    """
    from matplotlib.axes import Axes
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    figure = figure_of(ax)
    ours = figure.get_label() == _OURS
    axes = [one for one in (figure if ours else ax).findobj(Axes) if isinstance(one, Axes)]
    texts = list(figure.texts) if ours else []
    legends = [*(figure.legends if ours else []), *filter(None, (one.get_legend() for one in axes))]
    for one in axes:
        texts += [one.title, one.xaxis.label, one.yaxis.label, *one.texts]
        for axis in (one.xaxis, one.yaxis):
            if isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter):  # others write powers of ten
                texts += axis.get_ticklabels()
    for text in [*texts, *(text for legend in legends for text in (legend.get_title(), *legend.get_texts()))]:
        text.set_parse_math(False)


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Ignore warnings of matplotlib on ticks and margins, which a user cannot change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def picture_bytes(ax: Axes, ending: str, *, dpi: int = 150) -> bytes:
    """Return the figure of `ax` as the bytes of a file: "png", "svg" or another format of matplotlib.

    SVG files have coordinates with two decimals, no names of groups and no date: they are small and reproducible.
    """
    picture = io.BytesIO()
    metadata = {"Date": None} if ending == "svg" else None
    with _without_advice():
        figure_of(ax).savefig(picture, dpi=dpi, bbox_inches="tight", format=ending, metadata=metadata)
    return _small_svg(picture.getvalue()) if ending == "svg" else picture.getvalue()


def _small_svg(svg: bytes) -> bytes:
    """Round the coordinates of an SVG file to two decimals of a point; leave out indents and the names of groups."""
    coordinates = re.compile(rb'\s(?:d|x|y|points)="[^"]*"', re.DOTALL)
    number = re.compile(rb"(\d+\.\d\d)\d+")
    svg = coordinates.sub(lambda found: number.sub(rb"\1", found.group()), svg)
    svg = re.sub(rb' transform="rotate\(-?0[^"]*\)"', b"", svg)
    return re.sub(rb'<g id="[^"]*"', b"<g", re.sub(rb"\n\s+", b"\n", svg))


def figure_of(ax: Axes) -> Figure:
    """Return the whole figure that contains `ax`.

    Raises
    ------
    ConfigError
        If the axes were removed from their figure.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ConfigError("ax: expected axes of a figure, found axes that were removed from theirs; make new ones.")
    return figure


def fit_title(ax: Axes, title: str, *, fontsize: float = 11, pad: float | None = None) -> None:
    """Set the title of `ax`, its lines wrapped so that none is wider than the share of the figure that `ax` has.

    Axes with a colour bar are not in the middle of their share, so that a fifth of it is left free.
    """
    figure, place = figure_of(ax), ax.get_subplotspec()
    columns = 1 if place is None else place.get_gridspec().ncols / len(place.colspan)
    room = 0.82 * figure.bbox.width / columns
    text = ax.set_title(title, fontsize=fontsize, pad=pad)
    text.set_parse_math(False)
    lines = title.split("\n")
    for _ in range(4):
        width, letters = text.get_window_extent().width, max(map(len, text.get_text().split("\n")))
        if width <= room or letters < 8:
            return
        most = max(8, int(letters * room / width))
        text.set_text("\n".join(part for line in lines for part in textwrap.wrap(line, most) or [""]))


def print_units(units: str) -> str:
    """Return a UDUNITS string as it is printed, with raised powers.

    >>> print_units("umol m-2 s-1")
    'µmol m⁻² s⁻¹'
    """
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    units = units.replace("CO2", "CO₂").replace("CH4", "CH₄")  # digits of a formula are no powers
    units = re.sub(r"(?<=[A-Za-z])-?\d+", lambda m: m.group().translate(raised), units)
    return re.sub(r"\bu(?=mol\b|g\b|m\b)", "µ", units).replace("degC", "°C")


def class_styles(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each label, in alphabetical order; those of IGBP classes are always the same.

    Colours are those of Okabe and Ito, and grey: they can be distinguished without red or green, and markers without
    colours.

    References
    ----------
    Okabe and Ito 2008, "Color Universal Design", https://jfly.uni-koeln.de/color/

    Examples
    --------
    >>> class_styles(["MF", "DBF"])["DBF"] == class_styles(["DBF", "CRO", "ENF"])["DBF"]
    True
    """
    names = sorted(set(labels))
    others = [name for name in names if name not in _IGBP_STYLES and name != "unknown"]
    cycled = {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)}
    return {name: (_IGBP_STYLES | cycled | {"unknown": _UNKNOWN})[name] for name in names}

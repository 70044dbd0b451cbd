"""Helpers shared by all figures: new axes, writing files, printed units, and a colour and marker for each class."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

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

__all__ = ["MARKERS", "PALETTE", "class_styles", "figure_of", "new_axes", "new_panels", "print_units", "save_picture"]


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
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return list(figure.subplots(1, number, squeeze=False)[0])


def save_picture(ax: Axes, path: str | Path | None) -> Axes:
    """Write the figure of `ax` to `path`, if there is one, replacing an existing file; return `ax`.

    Raises
    ------
    StoreError
        If the folder does not exist, or the disk is full.
    ConfigError
        If matplotlib cannot write the file format of the ending.
    """
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
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, bbox_inches="tight", format=path.suffix.lstrip(".").lower())
    with replacing(path) as temporary:
        temporary.write_bytes(picture.getvalue())
    return ax


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

"""Draw the diagrams of the docs from the package's own settings and an example cube: `write_diagrams(folder)`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon

from fluxcube.models.ecoperceiver_config import EcoPerceiverConfig
from fluxcube.models.tamrl import TAMRLConfig
from fluxcube.simulation.example import example_cube
from fluxcube.variables import BANDS, PUBLISHED_PREDICTORS

BLUE, GREEN, ORANGE, GREY, INK = "#cfe2f3", "#d5ead3", "#fbe1c6", "#eeeeee", "#222222"


def write_diagrams(folder: Path) -> None:
    """Write every diagram as an SVG file; the same settings give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {"cube": cube, "ecoperceiver": ecoperceiver, "attention": attention, "tamrl": tamrl, "clock": clock}
    with plt.rc_context(
        {"svg.hashsalt": "fluxcube", "font.size": 10, "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        for name, draw in drawings.items():
            figure = draw()
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None}, facecolor="white")
            plt.close(figure)


def cube() -> plt.Figure:
    """Draw the arrays of a cube as boxes whose edges are their dimensions, with the sizes of an example cube."""
    ds = example_cube(sites=4, days=20)
    figure, ax = _canvas(11, 4.6)
    for name, x, width, colour in (("predictors", 0.3, 3.0, BLUE), ("fluxes", 4.3, 1.9, GREEN)):
        _box3d(ax, x, 0.9, width, 2.2, colour)
        site, time, last = (f"{dim} ({ds.sizes[dim]})" for dim in ds[name].dims)
        ax.text(x + width / 2, 2.0, f"{name}\n{name}_qc\n{name}_coverage", ha="center", va="center")
        ax.text(x + width / 2, 0.65, last, ha="center", va="top")
        ax.text(x - 0.12, 2.0, time, ha="right", va="center", rotation=90)
        ax.text(x + 0.15, 3.55, site, ha="left", va="bottom", rotation=35)
    for k in range(3):
        _square(ax, 7.2 + 0.22 * k, 1.2 + 0.22 * k, 1.6, ORANGE)
    ax.text(8.45, 2.4, "modis", ha="center", va="center")
    ax.text(8.0, 0.95, f"x ({ds.sizes['x']} pixels of 500 m)", ha="center", va="top")
    ax.text(7.05, 2.0, f"y ({ds.sizes['y']})", ha="right", va="center", rotation=90)
    ax.text(
        9.45, 1.5, f"band ({ds.sizes['band']}),\nfor each site\nand day ({ds.sizes['day']})", ha="left", va="center"
    )
    ax.text(
        5.5,
        4.5,
        "one axis of sites, with latitude, longitude, elevation, igbp, koppen, network, utc_offset",
        ha="center",
    )
    ax.set(xlim=(-0.4, 11), ylim=(0.2, 4.9))
    return figure


def ecoperceiver() -> plt.Figure:
    """Draw the published EcoPerceiver: tokens of each hour, latents, blocks of attention, and the head."""
    config = EcoPerceiverConfig.published()
    values, bands = len(PUBLISHED_PREDICTORS), len(BANDS)
    figure, ax = _canvas(11, 6)
    hours = (f"hour t - {config.context - 1}", "...", "hour t - 1", "hour t")
    for column, label in enumerate(hours):
        x = 0.6 + 2.3 * column
        ax.text(x + 0.8, 0.15, label, ha="center")
        if label == "...":
            for y in (1.2, 4.6):
                ax.text(x + 0.8, y, "...", ha="center", va="center", fontsize=16)
            continue
        _block(
            ax, x - 0.15, 0.6, 1.9, 1.2, BLUE, f"{values} tokens of values,\n{bands} of bands at the\nnoon of an image"
        )
        _block(ax, x, 2.5, 1.6, 0.9, GREEN, f"latent\n{config.latent} numbers")
        _block(ax, x, 4.2, 1.6, 0.8, GREEN, "latent")
        _arrow(ax, (x + 0.8, 1.8), (x + 0.8, 2.5))
        _arrow(ax, (x + 0.8, 3.4), (x + 0.8, 4.2))
    for start, end in ((2.2, 5.2), (6.8, 7.5)):
        _arrow(ax, (start, 2.95), (end, 2.95), colour="#6a9f64")
    ax.text(9.4, 2.1, "cross-attention: a latent reads\nthe tokens of its own hour", va="center", fontsize=9)
    ax.text(9.4, 2.95, "causal self-attention: it reads\nthe latents up to its hour", va="center", fontsize=9)
    ax.text(
        9.4,
        3.8,
        f"{config.blocks} times (shared weights), then\n{config.self_layers} more self-attentions",
        va="center",
        fontsize=9,
    )
    _block(ax, 7.5, 5.4, 1.6, 0.6, ORANGE, "linear head")
    _arrow(ax, (8.3, 5.0), (8.3, 5.4))
    ax.text(9.4, 5.7, "flux of hour t", va="center", fontsize=9)
    codes = 2 * config.frequencies
    text = f"a value becomes {codes} sines and cosines and {config.embedding} learned numbers of its variable"
    ax.text(5.2, -0.35, text, ha="center", fontsize=9)
    ax.set(xlim=(0.3, 12.4), ylim=(-0.6, 6.2))
    return figure


def attention() -> plt.Figure:
    """Draw which hours an hour attends to: in windows whose last hours are used, and in a band."""
    hours, window, stride, band = 24, 8, 4, 8
    latest = np.arange(hours)[:, None]
    earlier = np.arange(hours)[None, :]
    ends = (latest // stride + 1) * stride
    windows = (earlier <= latest) & (earlier >= ends - window)
    banded = (earlier <= latest) & (earlier > latest - band)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True)
    titles = (
        f"windows of T = {window} hours,\nthe last {stride} are used (stride {stride})",
        f"a band of T = {band} hours",
    )
    for ax, seen, title in zip(axes, (windows, banded), titles, strict=True):
        ax.imshow(seen, cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        ax.set(title=title, xlabel="hour that is read")
    axes[0].set_ylabel("hour that is estimated")
    return figure


def tamrl() -> plt.Figure:
    """Draw TAM-RL: support windows become a code of the place, which modulates the LSTM of the days to be estimated."""
    config = TAMRLConfig.published()
    figure, ax = _canvas(11, 4.2)
    for k in range(3):
        _block(ax, 0.2 + 0.12 * k, 2.6 + 0.12 * k, 1.9, 0.9, BLUE, "")
    ax.text(
        1.4,
        3.29,
        f"{config.support} support windows\nof {config.context} days of weather",
        ha="center",
        va="center",
        fontsize=9,
    )
    _block(ax, 3.0, 2.75, 1.7, 0.9, GREEN, f"task encoder:\nBiLSTM ({config.encoder})")
    _block(ax, 5.4, 2.75, 1.5, 0.9, ORANGE, f"code of the place:\n{config.code} numbers")
    _block(ax, 7.6, 2.75, 1.5, 0.9, GREEN, "generator:\n\u03b31, \u03b21, \u03b32, \u03b22")
    for start, end in ((2.4, 3.0), (4.7, 5.4), (6.9, 7.6)):
        _arrow(ax, (start, 3.2), (end, 3.2))
    _block(ax, 0.2, 0.5, 1.9, 0.9, BLUE, f"the {config.context} days up to\nthe estimated day")
    _block(ax, 3.0, 0.5, 1.7, 0.9, GREEN, f"input layer ({config.embedding})\nx \u2192 \u03b31 x + \u03b21")
    _block(ax, 5.4, 0.5, 1.5, 0.9, GREEN, f"LSTM ({config.hidden})")
    _block(ax, 7.6, 0.5, 1.5, 0.9, GREEN, "h \u2192 \u03b32 h + \u03b22")
    _block(ax, 9.7, 0.5, 1.5, 0.9, ORANGE, "linear head:\nfluxes of the day")
    for start, end in ((2.1, 3.0), (4.7, 5.4), (6.9, 7.6), (9.1, 9.7)):
        _arrow(ax, (start, 0.95), (end, 0.95))
    _arrow(ax, (8.1, 2.75), (4.0, 1.4))
    _arrow(ax, (8.4, 2.75), (8.4, 1.4))
    ax.set(xlim=(0, 11.4), ylim=(0.2, 4.1))
    return figure


def clock() -> plt.Figure:
    """Draw three clocks of a tower in central Europe: stamps of the file, the cube, and the time that models see."""
    figure, ax = _canvas(9.5, 2.6)
    rows = (("file: local standard time (UTC+1), half-hours", 0.0, 2, BLUE), ("cube: hours in UTC", -1.0, 1, GREEN))
    for row, (label, shift, pieces, colour) in enumerate(rows):
        y = 1.5 - row
        ax.text(-0.15, y + 0.3, label, ha="right", va="center", fontsize=9)
        for hour in range(4):
            for piece in range(pieces):
                ax.add_patch(plt.Rectangle((hour + piece / pieces, y), 1 / pieces, 0.6, fc=colour, ec=INK, lw=0.8))
            ax.text(hour + 0.5, y + 0.3, f"{(10 + hour + shift):02.0f}:00", ha="center", va="center", fontsize=9)
    ax.text(
        -0.15, -0.2, "TOD of the model at 10.45\u00b0 E (UTC + longitude / 15)", ha="right", va="center", fontsize=9
    )
    for hour in range(4):
        ax.text(hour + 0.02, -0.2, f"{9 + hour + 10.45 / 15:.2f} h", ha="left", va="center", fontsize=9)
    ax.set(xlim=(-4.6, 4.1), ylim=(-0.5, 2.3))
    return figure


def _canvas(width: float, height: float) -> tuple[plt.Figure, Axes]:
    figure, ax = plt.subplots(figsize=(width, height))
    ax.set_axis_off()
    return figure, ax


def _block(ax: Axes, x: float, y: float, width: float, height: float, colour: str, text: str) -> None:
    ax.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=colour, ec=INK, lw=0.8)
    )
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _square(ax: Axes, x: float, y: float, side: float, colour: str) -> None:
    ax.add_patch(plt.Rectangle((x, y), side, side, fc=colour, ec=INK, lw=0.8))


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, lw=1, shrinkA=1, shrinkB=1)
    )


def _box3d(ax: Axes, x: float, y: float, width: float, height: float, colour: str, depth: float = 0.55) -> None:
    """Draw a box: its front is (time, variable), its depth is the sites."""
    front = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    back = [(a + depth, b + depth * 0.7) for a, b in front]
    for corners in ([front[3], front[2], back[2], back[3]], [front[1], back[1], back[2], front[2]], front):
        ax.add_patch(Polygon(corners, fc=colour, ec=INK, lw=0.8))

"""Names with the marks of formulas are drawn as they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxcube.plotting.canvas import new_axes, save_picture
from fluxcube.plotting.maps import plot_map

pytest.importorskip("matplotlib")
NAMES = (r"$\frac{$", "$a_b$", r"\$x$y$z", "100 % ^ # & ~ {}", "<script>alert(1)</script>", "a\x1bb")


@pytest.mark.parametrize("name", NAMES)
def test_titles_labels_legends_and_ticks(tmp_path, name):
    ax = new_axes(None, (4, 3))
    ax.plot([1, 2], [3, 4], label=name)
    ax.set(title=name, xlabel=name, ylabel=name)
    ax.set_xticks([1, 2], [name, name])
    ax.legend(title=name)
    ax.annotate(name, (1, 3))
    ax.figure.suptitle(name)
    ax.figure.legend(loc="outside upper center")
    save_picture(ax, tmp_path / "a.svg")
    if "$" in name:
        assert not any(text.get_parse_math() for text in [ax.title, *ax.get_xticklabels(), *ax.legend_.get_texts()])


def test_powers_of_ten_are_formulas_still(tmp_path):
    ax = new_axes(None, (4, 3))
    ax.loglog([1, 1000], [1, 1000])
    save_picture(ax, tmp_path / "a.svg")
    assert all(text.get_parse_math() for text in ax.get_xticklabels())


def test_maps_of_any_name(tmp_path):
    coords = {"latitude": np.arange(3.0), "longitude": np.arange(3.0), "time": pd.Timestamp("2018-01-01")}
    maps = xr.DataArray(np.ones((3, 3)), coords, ("latitude", "longitude"), r"$\frac{$", {"long_name": r"$\oops{$"})
    plot_map(maps, path=tmp_path / "a.png")


def test_texts_of_other_axes_of_the_caller_stay():
    from matplotlib.figure import Figure

    other, ax = Figure().subplots(1, 2)
    other.set_title("$R^2$")
    save_picture(ax, None)
    assert other.title.get_parse_math() and not ax.title.get_parse_math()

"""Objects in notebooks: short, escaped, without files from elsewhere, and legible on any background."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import fluxcube as fc
from fluxcube.cards import card, few
from fluxcube.cubes.carbonsense import BuildReport
from fluxcube.samples.partition import Split
from fluxcube.simulation.example import example_cube
from fluxcube.training.run import Run

HOSTILE = '<script>alert("1")</script>'


class _Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.lines = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.lines.append(data)


def parsed(html: str) -> _Text:
    reader = _Text()
    reader.feed(html)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    cube = example_cube(sites=6, days=6).load()
    split = Split(("XX-S00", "XX-S01", "XX-S02"), ("XX-S03",), ("XX-S04", "XX-S05"), kind="by hand")
    return fc.fit(cube, model="mean-cycle", out=tmp_path_factory.mktemp("runs") / "mean", split=split)


def objects(run):
    split = Split((HOSTILE, *(f"XX-S{i:02d}" for i in range(40))), kind=HOSTILE, notes=(HOSTILE,))
    yield split
    yield Run(run.path, split, ({"val_nse_NEE": 0.5},), HOSTILE)
    yield run
    yield fc.load_model(run)
    yield fc.load_windows(example_cube(days=3), length=6)
    left = {f"XX-{i}": HOSTILE for i in range(9)}
    yield BuildReport(store="a.zarr", sites=("XX-S00",), left_out=left, report={"warnings": {HOSTILE: [""]}})


def test_cards_are_short_escaped_and_need_no_other_file(run):
    for one in objects(run):
        html = one._repr_html_()
        reader = parsed(html)
        assert set(reader.tags) <= {"div", "strong", "table", "tr", "th", "td", "code", "br"}, one
        assert reader.tags.count("tr") <= 15 and len(html) < 8000
        assert not re.search(r"https?:|url\(|src=|href=", html)
        assert not re.search(r"(?<![-\w])(color|background):\s*(?!inherit|none)", html), "colours are the page's"
        assert type(one).__name__ in reader.lines[0]
        assert "\n" not in repr(one) and len(repr(one)) < 700


def test_cards_tell_what_an_object_is_and_what_to_type_next(run):
    text = " ".join(parsed(run._repr_html_()).lines)
    assert str(run.path) in text and "XX-S03" in text and f'fc.load_model("{run.path}")' in text
    text = " ".join(parsed(fc.load_model(run)._repr_html_()).lines)
    assert "NEE (umol m-2 s-1)" in text and "fc.predict(model, cube)" in text and "mean-cycle" in text
    assert repr(run.split) == "<Split by hand: 3 train, 1 val, 2 test sites>"
    assert repr(Split(train=("a",))).endswith(": 1 train site>")
    assert few(list("abc"), 2) == "a, b and 1 more" and few([]) == "none"
    assert "absent" not in card("x", {"absent": "", "there": 0.5}) and "0.5" in card("x", {"there": 0.5})

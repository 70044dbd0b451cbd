"""Every code block of README, docs and recipes asks for what exists, and is run unless it says why not."""

from __future__ import annotations

import shutil

import pytest
from doc_blocks import REASONS, ROOT, Block, blocks, commands, faults, pages, run
from doc_world import build, clear, made_by, shorten
from once import make_once

PAGES = {page.relative_to(ROOT).as_posix(): blocks(page) for page in pages()}
RUN = [name for name, found in PAGES.items() if any(one.reason is None for one in found)]


@pytest.fixture
def world(planet_files, cube_store, tmp_path_factory, tmp_path, monkeypatch):
    """The current folder: a copy of the simulated world, in which all training is short (`doc_world.shorten`)."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            shorten(patch)
            build(planet_files, cube_store, folder)

    made = make_once(tmp_path_factory, "docs", make)
    shutil.copytree(made, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.delenv("FLUXCUBE_DATA", raising=False)
    shorten(monkeypatch)


@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(page, world):
    names: dict = {}
    for block in PAGES[page]:
        if block.reason is None:
            clear(block)
            run(block, names)


@pytest.mark.parametrize("page", [name for name, found in PAGES.items() if found])
def test_blocks_ask_for_what_exists(page):
    assert [fault for block in PAGES[page] for fault in faults(block)] == []


def test_reasons_come_from_the_list():
    every = [block for found in PAGES.values() for block in found]
    unknown = [f"{b.where}: {b.reason}" for b in every if b.reason and not b.reason.startswith(REASONS)]
    assert unknown == [], f"known reasons: {', '.join(REASONS)}"
    count = sum(block.reason is None for name in RUN for block in PAGES[name])
    assert count >= 15, f"{count} of {len(every)} blocks are run"


def block(text: str, language: str = "python") -> Block:
    return Block("docs/page.md", 7, language, text, None)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (block("fc.upscail(1)"), "docs/page.md:7: fluxcube has no upscail"),
        (block("\nfc.open_maps('a', sites=3)"), "docs/page.md:8: fc.open_maps: got an unexpected keyword"),
        (block("from fluxcube.schema import absent"), "7: fluxcube.schema has no absent"),
        (block("fc.fit(cube, ...", "python"), "docs/page.md:7"),
        (block("# once\nfluxcube train a.zarr \\\n  runs/a --modle xgboost", "bash"), "docs/page.md:8: No such option"),
        (block("fluxcube tain a.zarr", "bash"), "docs/page.md:7: No such command"),
        (block("fluxcube build raw/", "bash"), "docs/page.md:7: Missing argument"),
        (block("python recipes/absent/recipe.py out/", "bash"), "there is no recipes/absent"),
        (block("make absent", "bash"), "no such target"),
    ],
)
def test_faults_of_blocks_are_found_with_their_line(found, fault):
    assert any(fault in one for one in faults(found)), faults(found)


def test_blocks_that_are_true_have_no_faults():
    text = "fluxcube train carbonsense.zarr runs/a --set config.width=8  # a comment\nmake test\nfluxcube --help"
    assert faults(block(text, "bash")) == []
    assert faults(block("import fluxcube as fc\nfc.open_maps('maps.zarr')")) == []


def test_a_program_that_is_not_run_needs_a_reason():
    with pytest.raises(AssertionError, match=r"docs/page\.md:7: sudo is not run here"):
        run(block("sudo apt install make", "bash"), {})


def test_commands_are_lines_without_comments():
    text = "fluxcube a \\\n    b # c\n\n# d\nfluxcube 'e f'"
    assert list(commands(block(text, "bash"))) == [(7, ["fluxcube", "a", "b"]), (11, ["fluxcube", "e f"])]


def test_what_a_block_makes_is_known():
    text = 'fc.build_carbonsense("raw/", "a.zarr")\nfc.build_carbonsense("raw/", "b.zarr", append=True)\n'
    assert made_by(block(text + 'fc.fit(ds, out="runs/c")')) == ["a.zarr", "runs/c"]
    assert made_by(block("fluxcube build raw/ a.zarr --modis t/\nfluxcube upscale r f m.zarr", "bash")) == [
        "a.zarr",
        "m.zarr",
    ]


def test_a_block_has_the_names_of_earlier_ones_and_errors_have_its_line():
    names: dict = {}
    assert run(block("x = 2\nprint(x)"), names) == "2\n"
    with pytest.raises(ZeroDivisionError) as error:
        run(block("y = x\ny / 0"), names)
    assert error.traceback[-1].lineno == 7 and str(error.traceback[-1].path).endswith("page.md")

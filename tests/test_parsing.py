"""Small files of users, damaged or hostile: one error that names the file, for every reader of JSON, YAML and text."""

from __future__ import annotations

import json
import os

import pytest

import fluxcube as fc
from fluxcube.errors import CheckpointError, ConfigError, SourceError, SplitError, StoreError
from fluxcube.evaluation.report import read_predictions, read_sums
from fluxcube.maps.shares import by_region
from fluxcube.parsing import MAX_DEPTH, parse_json, parse_yaml, read_bytes
from fluxcube.recipes import _change, read_recipe
from fluxcube.samples.listed_split import listed_sites
from fluxcube.samples.partition import Split, load_folds
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.training.run import _recorded
from fluxcube.training.search import _read as read_draws

CONTENTS = {
    "deep": b"[" * 100_000,
    "nested": b"[" * 500 + b"]" * 500,
    "list": b"[1]",
    "number": b"5",
    "large number": b"9" * 10_000,
    "nothing": b"",
    "null": b"null",
    "not UTF-8": b"\xff\xfe{}",
    "zeros": b"\0" * 100,
    "open": b'{"train": ["a"',
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_no_mapping_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(content, dict)


def test_depth_is_limited():
    assert parse_json("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), list)
    with pytest.raises(ValueError, match="nested more than"):
        parse_json("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), list)


def test_a_pipe_a_folder_and_a_large_file_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(101))
    with pytest.raises(ValueError, match="a pipe or a device"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a pipe or a device"):
        read_bytes("/dev/zero")
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        read_bytes(tmp_path / "large", 100)


@pytest.mark.parametrize("text", ["a: &x [*x]", "!!python/object/apply:os.system [id]", "a: [", "[" * 5000, "- 1"])
def test_yaml_without_references_and_tags(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_yaml(text, dict)


#: Readers of files, and the class of their error.
READERS = {
    "split": (Split.load, SplitError),
    "folds": (load_folds, SplitError),
    "regions": (lambda path: by_region(path, None, None, "name"), ConfigError),
    "sums": (read_sums, StoreError),
    "predictions": (read_predictions, StoreError),
    "draws": (lambda path: read_draws(path, {"data": 1}), CheckpointError),
    "data": (_recorded, CheckpointError),
    "checkpoint": (lambda path: fc.load_model(path.parent), CheckpointError),
    "recipe": (lambda path: read_recipe(path.parent), ConfigError),
}
NAMES = {"checkpoint": "run.json", "recipe": "meta.yaml"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_readers_name_the_file(tmp_path, name, content):
    read, error = READERS[name]
    path = tmp_path / NAMES.get(name, "file")
    path.write_bytes(content)
    with pytest.raises(error, match=tmp_path.name):
        read(path)


@pytest.mark.parametrize("name", READERS)
def test_readers_do_not_wait_for_a_pipe(tmp_path, name):
    read, error = READERS[name]
    path = tmp_path / NAMES.get(name, "file")
    os.mkfifo(path)
    with pytest.raises(error, match=tmp_path.name):
        read(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", None])
def test_site_lists(tmp_path, content):
    os.mkfifo(tmp_path / "l") if content is None else (tmp_path / "l").write_bytes(content)
    with pytest.raises(SplitError, match="/l "):
        listed_sites(tmp_path / "l")


SPLIT = Split(train=("a", "b"), test=("c",), counts={"DBF": [1, 0, 1]}).to_dict()


@pytest.mark.parametrize("key", SPLIT)
@pytest.mark.parametrize("value", ["x", 5, None, [1], [[1]], {"a": 1}, {"train": {"a": [["x", "y"]]}}, True, 1e400])
def test_splits_of_other_types(tmp_path, key, value):
    (tmp_path / "s.json").write_text(json.dumps(SPLIT | {key: value}))
    try:
        found = Split.load(tmp_path / "s.json").to_dict()
    except SplitError as error:
        assert "s.json" in str(error)
    else:  # the value is of the right type
        assert found[key] == value or not value


@pytest.mark.parametrize(
    "content",
    [
        {"type": "FeatureCollection", "features": 5},
        {"type": "FeatureCollection", "features": [5]},
        {"type": "Feature", "properties": [1]},
        {"type": "Polygon", "coordinates": 5},
        {"type": "Polygon", "coordinates": [5]},
        {"type": "Polygon", "coordinates": [[["a", "b"]] * 4]},
        {"type": "Polygon", "coordinates": [[[1], [2], [3]]]},
        {"type": "Polygon", "coordinates": [[{"x": 1}] * 4]},
        {"type": "MultiPolygon", "coordinates": [5]},
        {"type": "MultiPolygon", "coordinates": {"a": 1}},
        {"type": "Polygon", "coordinates": [[[1e400, 0], [1, 1], [2, 2]]]},
    ],
    ids=str,
)
def test_regions_of_other_types(tmp_path, content):
    import numpy as np

    (tmp_path / "r.json").write_text(json.dumps(content))
    edges = np.array([[0.0, 1.0], [1.0, 2.0]])
    with pytest.raises(ConfigError):
        by_region(tmp_path / "r.json", edges, edges, "name")


@pytest.mark.parametrize("value", ["&a [1, *a]", "[", "!!python/name:os.system"])
def test_set_refuses_what_is_no_plain_value(value):
    recipe = type("R", (), {"parameters": {"years": 1}})()
    with pytest.raises(ConfigError, match="not YAML"):
        _change(recipe, f"years={value}")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.nc"])
def test_damaged_tables_of_users(tmp_path, name):
    from fluxcube.cubes.own_values import _read_file

    (tmp_path / name).write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\0abc" if name.endswith("gz") else b'\0\xff\xfe,\n"')
    with pytest.raises(SourceError, match=name):
        _read_file(tmp_path / name)


def test_a_changed_ledger_line_does_not_count(tmp_path):
    (tmp_path / "ledger").mkdir()
    mark_done(tmp_path, {"0:4": 0, "4:8": 3})
    file = tmp_path / "ledger/regions.jsonl"
    assert done_regions(tmp_path) == {"0:4": 0, "4:8": 3}
    file.write_bytes(
        file.read_bytes().replace(b'"4:8"', b'"4:9"') + b'5\n[]\n{"done": [1]}\n{"done": "8:12"}\n' + b"[" * 9999
    )
    assert done_regions(tmp_path) == {"0:4": 0, "8:12": 0}  # the last one is of an earlier version
    for replace in (file.mkdir, lambda: os.mkfifo(file)):
        file.rmdir() if file.is_dir() else file.unlink()
        replace()
        with pytest.raises(StoreError, match=r"regions\.jsonl cannot be read"):
            done_regions(tmp_path)


def test_references_of_yaml_expand_to_a_limited_size():
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}", dict) == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    for form in ("&a{0} [{1}]", "&a{0} {{<<: [{1}]}}"):
        lines = ["- &a0 {k: v}", *("- " + form.format(i, ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 12))]
        with pytest.raises(ValueError, match="references to more than"):
            parse_yaml("\n".join(lines), list)

"""Trees of a checkpoint that were changed: refused in Python, before XGBoost, which would crash, receives them."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost

from fluxcube.models.treecheck import checked_trees
from fluxcube.models.ubjson import read_ubjson, write_ubjson


@pytest.fixture(scope="module")
def booster():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 4))
    data = xgboost.DMatrix(rows, rows[:, 0] + rows[:, 1] ** 2)
    return xgboost.train({"max_depth": 3, "nthread": 1}, data, num_boost_round=3)


@pytest.fixture(scope="module")
def content(booster):
    return bytes(booster.save_raw("ubj"))


def test_checked_trees_are_the_same_model(booster, content):
    again = xgboost.Booster()
    again.load_model(bytearray(checked_trees(content)))
    rows = np.random.default_rng(1).normal(size=(50, 4))
    assert (again.inplace_predict(rows) == booster.inplace_predict(rows)).all()
    assert bytes(again.save_raw("ubj")) == content


def test_pruned_trees_pass():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 4))
    data = xgboost.DMatrix(rows, rows[:, 0])
    pruned = xgboost.train({"gamma": 5.0, "tree_method": "exact", "nthread": 1}, data, num_boost_round=3)
    again = xgboost.Booster()
    again.load_model(bytearray(checked_trees(bytes(pruned.save_raw("ubj")))))
    assert (again.inplace_predict(rows) == pruned.inplace_predict(rows)).all()


def changed(content, change):
    model = read_ubjson(content)
    change(model["learner"], model["learner"]["gradient_booster"]["model"]["trees"][1])
    return write_ubjson(model)


def put(name, at, value):
    def change(_, tree):
        tree[name] = tree[name].copy()
        tree[name][at] = value

    return change


def cycle(_, tree):
    tree["left_children"] = tree["left_children"].copy()
    inner = np.flatnonzero(tree["left_children"] != -1)
    tree["left_children"][inner[-1]] = inner[0]


def of(name, value):
    return lambda learner, tree: tree.update({name: value})


def several_targets(learner, _):
    learner["learner_model_param"]["num_target"] = "3"


CHANGES = {
    "a child beyond the nodes": put("left_children", 0, 10**6),
    "a negative child": put("right_children", 0, -7),
    "one child only": put("right_children", 0, -1),
    "the root as a child": put("left_children", 0, 0),
    "a child of two nodes": cycle,
    "a wrong parent": put("parents", 1, 2),
    "a feature beyond the inputs": put("split_indices", 0, 4),
    "a negative feature": put("split_indices", 0, -1),
    "a threshold of NaN": put("split_conditions", 0, np.nan),
    "an infinite estimate": put("base_weights", 0, np.inf),
    "a split by category": put("split_type", 0, 1),
    "text for an array": of("left_children", "x"),
    "an array that is too short": of("parents", np.zeros(2, np.int32)),
    "several outputs": several_targets,
    "no parameters": of("tree_param", []),
    "a number of nodes that is not a number": of("tree_param", {"num_nodes": "9" * 40, "num_feature": "4"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_impossible_trees_are_refused(content, change):
    with pytest.raises(ValueError, match=r"tree 1|expected one output"):
        checked_trees(changed(content, change))


@pytest.mark.parametrize("seed", range(8))
def test_random_changes_are_refused_or_harmless(content, seed):
    rng, rows = np.random.default_rng(seed), np.random.default_rng(1).normal(size=(50, 4))
    for _ in range(25):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 20)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        again = xgboost.Booster()
        try:
            again.load_model(bytearray(checked_trees(bytes(damaged))))
        except (ValueError, xgboost.core.XGBoostError):
            continue
        again.inplace_predict(rows)


HOSTILE = {
    "empty": b"",
    "deep": b"[" * 100_000,
    "a length of 2^62": b"{L" + (2**62).to_bytes(8, "big") + b"x",
    "an array of 2^40": b"{U\x01a[$d#L" + (2**40).to_bytes(8, "big"),
    "elements without content": b"[$Z#L" + (2**40).to_bytes(8, "big"),
    "JSON": b'{"learner": {}}',
    "more than one value": b"[]" + b"[]",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_at_once(content):
    with pytest.raises(ValueError):
        checked_trees(content)

"""Check the structure of XGBoost's trees before the library receives them.

XGBoost trusts the numbers in a file: a child beyond the last node, a cycle of nodes or a feature that does not exist
makes it read beyond its memory, which ends the process or returns wrong estimates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fluxcube.models.ubjson import read_ubjson, write_ubjson

#: Arrays of a tree with one value for each node; others are allowed if XGBoost adds them.
_NODES = {
    "left_children": "i",
    "right_children": "i",
    "parents": "i",
    "split_indices": "i",
    "split_conditions": "f",
    "default_left": "u",
    "base_weights": "f",
    "sum_hessian": "f",
    "loss_changes": "f",
    "split_type": "u",
}
#: Arrays of splits by category, which fluxcube's trees do not have.
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_LEAF = -1


def checked_trees(content: bytes) -> bytes:
    """Return the trees of a file in the form in which XGBoost can read them safely.

    Parameters
    ----------
    content : bytes
        UBJSON that ``Booster.save_raw("ubj")`` returned: regression trees with numbers as inputs and one output.

    Returns
    -------
    bytes
        UBJSON of the same trees.

    Raises
    ------
    ValueError
        If the file is damaged; if a tree is none: a child, a parent or a feature that does not exist, a node with two
        parents, arrays of different lengths, values that are not finite; or if it contains another kind of model.
    """
    model = read_ubjson(content)
    try:
        _check(_entry(model, "learner", dict))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"it is no model of XGBoost: {type(error).__name__} {error}") from error
    return write_ubjson(model)


def _entry(parent: Any, name: str, kind: type) -> Any:
    if not isinstance(parent, dict) or not isinstance(parent.get(name), kind):
        raise ValueError(f"it lacks {name}, or {name} is of another type")
    return parent[name]


def _check(learner: dict) -> None:
    booster = _entry(learner, "gradient_booster", dict)
    if booster.get("name") != "gbtree":
        raise ValueError(f"expected gbtree, found {str(booster.get('name'))[:20]!r}")
    parameters = _entry(learner, "learner_model_param", dict)
    features = _count(parameters, "num_feature")
    if int(parameters.get("num_class", 0)) > 1 or int(parameters.get("num_target", 1)) != 1:
        raise ValueError("expected one output, found several")
    if not np.isfinite(float(str(parameters["base_score"]).strip("[]"))):
        raise ValueError("base_score is not finite")
    model = _entry(booster, "model", dict)
    trees = _entry(model, "trees", list)
    if _count(_entry(model, "gbtree_model_param", dict), "num_trees") != len(trees):
        raise ValueError(f"{len(trees)} trees are not as many as num_trees")
    _check_groups(model, len(trees))
    for number, tree in enumerate(trees):
        try:
            _check_tree(tree, features)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from error


def _count(parameters: dict, name: str) -> int:
    text = _entry(parameters, name, str)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"{name}: expected a number, found {text[:20]!r}")
    return int(text)


def _check_groups(model: dict, trees: int) -> None:
    """Check the output of each tree, and the first tree of each round."""
    outputs, starts = (np.asarray(model.get(name, default)) for name, default in (("tree_info", []), (_STARTS, [0])))
    if outputs.shape != (trees,) or outputs.astype(int).any():
        raise ValueError("tree_info: expected a 0 for each tree")
    if _STARTS in model and (
        starts.ndim != 1
        or starts.dtype.kind != "i"
        or not len(starts)
        or starts[0]
        or starts[-1] != trees
        or (np.diff(starts) < 0).any()
    ):
        raise ValueError(f"{_STARTS}: expected the first tree of each round, ascending, and {trees}")
    if any(len(part) for part in model.get("cats", {}).values()):
        raise ValueError("expected numbers as inputs, found categories")


_STARTS = "iteration_indptr"


def _check_tree(tree: Any, features: int) -> None:
    parameters = _entry(tree, "tree_param", dict)
    nodes = _count(parameters, "num_nodes")
    if parameters.get("size_leaf_vector", "1") not in ("0", "1"):
        raise ValueError("expected one output, found several")
    if nodes < 1:
        raise ValueError("no nodes")
    if _count(parameters, "num_feature") > features:
        raise ValueError("more features than the model")
    arrays = {name: _array(tree, name, kind, nodes) for name, kind in _NODES.items()}
    if any(len(np.asarray(tree.get(name, []))) for name in _CATEGORIES) or arrays["split_type"].any():
        raise ValueError("expected numbers as inputs, found categories")
    left, right, parents = (arrays[name] for name in ("left_children", "right_children", "parents"))
    inner = left != _LEAF
    if ((right != _LEAF) != inner).any():
        raise ValueError("a node with one child")
    children, owners = np.concatenate([left[inner], right[inner]]), np.tile(np.flatnonzero(inner), 2)
    # Each node has at most one parent, and the root none, so that no path returns to a node.
    if ((children < 1) | (children >= nodes)).any() or len(np.unique(children)) != len(children):
        raise ValueError("a child that does not exist, or that has two parents")
    if (parents[children] != owners).any():
        raise ValueError("a parent that does not have its child")
    if ((arrays["split_indices"][inner] < 0) | (arrays["split_indices"][inner] >= features)).any():
        raise ValueError("a feature that does not exist")
    if not np.isfinite(arrays["split_conditions"]).all() or not np.isfinite(arrays["base_weights"]).all():
        raise ValueError("a threshold or an estimate that is not finite")


def _array(tree: dict, name: str, kind: str, nodes: int) -> np.ndarray:
    values = np.asarray(tree.get(name))
    if values.shape != (nodes,) or values.dtype.kind not in (kind, *("iu" if kind == "u" else "")):
        raise ValueError(f"{name}: expected {nodes} numbers, found {values.dtype} {values.shape}")
    return values

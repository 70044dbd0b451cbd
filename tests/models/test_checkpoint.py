"""Checkpoints: what is saved is what is loaded, and damage is named."""

from __future__ import annotations

import gzip
import json
import pickletools

import numpy as np
import pytest
import torch

from fluxcube import shipping
from fluxcube.errors import CheckpointError
from fluxcube.models import checkpoint, registry
from fluxcube.models.base import Batch, Sizes

torch.set_num_threads(1)  # tests run beside each other

SIZES = Sizes(inputs=3, bands=2, numbers=1, classes=(2,), targets=2, protected=(0,))
CONFIGS = {
    "ecoperceiver": {"latent": 16, "heads": 2, "blocks": 1, "self_layers": 1, "context": 8, "head": "dense"},
    "xgboost": {"n_estimators": 4},
    "mean": {},
    "sw-linear": {"column": 2},
    "mean-cycle": {"doy_column": 0, "tod_column": 1},
    "met-clusters": {"ta_column": 0, "sw_column": 1, "vpd_column": 2, "clusters": 4},
}


def make_batch(count=5, hours=8):
    rng = np.random.default_rng(0)
    return Batch(
        inputs=rng.uniform(-0.5, 0.5, (count, hours, 3)).astype("float32"),
        images=rng.random((count, 2, 2, 64), dtype="float32"),
        image_step=np.tile([0, 3], (count, 1)),
        numbers=rng.uniform(-0.5, 0.5, (count, 1)).astype("float32"),
        classes=rng.integers(0, 2, (count, 1)),
    )


def trained(kind):
    torch.manual_seed(0)
    model = registry.build(kind, CONFIGS[kind], SIZES)
    if kind == "ecoperceiver":
        torch.nn.init.normal_(model.head.weight)
    else:
        batch = make_batch(200, model.context)
        model.fit(model.rows(batch), np.random.default_rng(1).normal(size=(200, 2)))
    return model


@pytest.fixture(params=list(CONFIGS))
def saved(request, tmp_path):
    model = trained(request.param)
    return model, checkpoint.save(model, tmp_path / "run", {"features": {"predictors": ["TA"]}, "note": "ä"})


def test_round_trip_is_exact(saved):
    model, folder = saved
    loaded, metadata = checkpoint.load(folder)
    batch = make_batch(hours=model.context)
    np.testing.assert_array_equal(loaded.predict(batch), model.predict(batch))
    assert np.isfinite(loaded.predict(batch)[:, -1]).all()
    assert (loaded.config, loaded.sizes) == (model.config, model.sizes)
    assert metadata["note"] == "ä" and metadata["kind"] == model.kind
    assert metadata["versions"]["numpy"] == np.__version__


def test_files_are_json_safetensors_or_ubjson_and_never_pickle(saved):
    _, folder = saved
    for path in folder.iterdir():
        assert path.suffix in (".json", ".safetensors", ".ubj")
        content = path.read_bytes()
        assert content[:2] != b"PK"
        with pytest.raises((ValueError, IndexError, UnicodeDecodeError)):
            list(pickletools.genops(content))


def test_equal_models_have_equal_digests(saved, tmp_path):
    model, folder = saved
    again = checkpoint.save(trained(model.kind), tmp_path / "again", {"features": {}})
    assert checkpoint.digest(folder) == checkpoint.digest(again)


def weights_file(folder):
    return next(path for path in sorted(folder.iterdir()) if path.name != "run.json")


def test_a_damaged_file_is_named(saved):
    _, folder = saved
    path = weights_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        checkpoint.load(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{path.name} is missing"):
        checkpoint.load(folder)


def edit(folder, **changes):
    path = folder / "run.json"
    about = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}), "utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": None}, "lacks digest"),
        ({"features": None}, "lacks features"),
        ({"format": 99}, "update fluxcube"),
        ({"kind": "oracle"}, "unknown model"),
        ({"config": {"wings": 2}}, "wings"),
        ({"files": {}}, "lacks 'model"),
        ({"files": {"../model.json": "0"}}, "outside its folder"),
        ({"sizes": {"inputs": 4, "targets": 3, "classes": [5]}}, "fit|lacks"),
    ],
)
def test_a_foreign_run_json_is_refused(saved, changes, message):
    _, folder = saved
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"has no run\.json"):
        checkpoint.digest(tmp_path)
    (tmp_path / "run.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoint.load(tmp_path)


def test_run_json_is_written_last(tmp_path, monkeypatch):
    model, order = trained("sw-linear"), []
    write = checkpoint.write_atomically
    monkeypatch.setattr(
        checkpoint, "write_atomically", lambda path, content: (order.append(path.name), write(path, content))
    )
    checkpoint.save(model, tmp_path, {"features": {}})
    assert order == ["model.json", "run.json"]


def test_weights_may_be_stored_compressed_and_damage_is_named(saved, tmp_path):
    model, folder = saved
    shipping.ship(folder, tmp_path / "shipped")
    loaded, _ = checkpoint.load(tmp_path / "shipped")
    batch = make_batch(hours=model.context)
    np.testing.assert_array_equal(loaded.predict(batch), model.predict(batch))
    assert checkpoint.digest(tmp_path / "shipped") == checkpoint.digest(folder)
    for path in (tmp_path / "shipped").glob("*.gz"):
        content = path.read_bytes()
        for wrong in (content[:-9], content[:40] + b"\0" * 40 + content[80:], b"text", gzip.compress(bytes(10**7))):
            path.write_bytes(wrong)
            with pytest.raises(CheckpointError, match=f"{path.name}|{path.stem}"):
                checkpoint.load(tmp_path / "shipped")
        path.write_bytes(content)
    assert bool(list((tmp_path / "shipped").glob("*.gz"))) == (model.kind == "xgboost")

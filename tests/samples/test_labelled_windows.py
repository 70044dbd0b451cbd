"""Labels for a training loop of one's own, and the Lightning data module."""

from __future__ import annotations

import numpy as np
import pytest
from training_helpers import TARGETS, small_cube

import fluxcube as fc
from fluxcube.errors import ConfigError, MissingPackageError, UnknownNameError
from fluxcube.samples.splits import Split

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests run beside each other


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def split(cube):
    sites = list(map(str, cube.site.values))
    return Split(train=tuple(sites[:8]), val=tuple(sites[8:10]), test=tuple(sites[10:]))


def masked_error(estimate, batch):
    """The loss that the docs show: the mean squared error over the observed fluxes."""
    return ((estimate - batch["y"]) ** 2 * batch["y_mask"]).sum() / batch["y_mask"].sum()


def test_labels_are_the_fluxes_without_gaps_and_scaled(cube, split):
    options = {"length": 24, "emits": 4, "batch_size": 16, "seed": 3}
    plain = fc.load_windows(cube, sites=split.train, targets=TARGETS, **options)
    labelled = fc.load_windows(cube, sites=split.train, targets=TARGETS, labels=True, **options)
    one, two = next(iter(plain)), next(iter(labelled))
    assert two["y"].shape == two["y_mask"].shape == (16, 4, 2) and "y" not in one
    assert (two["y_mask"] == np.isfinite(one["targets"])).all() and np.isfinite(two["y"]).all()
    mean, scale = np.array(labelled.spec.target_mean), np.array(labelled.spec.target_scale)
    seen = two["y_mask"]
    np.testing.assert_allclose((two["y"] * scale + mean)[seen], one["targets"][seen], rtol=1e-4, atol=1e-4)
    fluxes = labelled.towers.fluxes
    np.testing.assert_allclose(np.nanmean(fluxes, 0), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(fluxes, 0), 1, atol=1e-3)
    with pytest.raises(ConfigError, match="targets: the spec has its own"):
        fc.load_windows(cube, labelled.spec, targets="NEE", **options)


def test_a_plain_loop_learns(cube, split):
    windows = fc.load_windows(cube, sites=split.train, targets="NEE", labels=True, length=24, batch_size=64, seed=1)
    columns = len(windows.spec.inputs)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(columns, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(3):
        for batch in windows.loader():
            loss = masked_error(model(torch.nan_to_num(batch["inputs"][:, -1:])), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])


def test_the_data_module_trains_with_lightning(cube, split):
    lightning = pytest.importorskip("lightning")
    from fluxcube.samples.lightning import WindowsDataModule

    class Line(lightning.LightningModule):
        def __init__(self, columns):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(columns, 1), {"train": [], "val": []}

        def training_step(self, batch, _):
            self.seen["train"].append(batch["site"].numpy())
            return masked_error(self.layer(torch.nan_to_num(batch["inputs"][:, -1:])), batch)

        def validation_step(self, batch, _):
            self.seen["val"].append(batch["site"].numpy())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-2)

    data = WindowsDataModule(cube, split, targets="NEE", length=24, batch_size=128, limit=512, seed=2)
    data.setup()
    model = Line(len(data.train.spec.inputs))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data)
    fresh = fc.load_windows(cube, sites=split.train, labels=True, length=24, batch_size=128, limit=512, seed=2)
    expected = [fresh[epoch, step]["site"] for epoch in (0, 1) for step in range(4)]
    assert len(model.seen["train"]) == 8, "each pass is the next epoch"
    assert all((one == two).all() for one, two in zip(model.seen["train"], expected, strict=True))
    assert (expected[0] != expected[4]).any()
    assert len(model.seen["val"]) == 2 * len(data.val) and data.val.sites == split.val
    assert data.val.spec == data.train.spec and data.test.sites == split.test


def test_options_of_windows_are_checked_before_towers_are_read(cube, monkeypatch):
    monkeypatch.setattr("fluxcube.samples.loader.load_towers", lambda *_: pytest.fail("towers were read"))
    with pytest.raises(ConfigError, match=r"pass the number of time steps, such as length=24\.$"):
        fc.load_windows(cube, batch_size=8)
    with pytest.raises(UnknownNameError, match="unknown option of windows 'lenght': did you mean 'length'"):
        fc.load_windows(cube, lenght=24)


def test_the_data_module_takes_a_split_file_and_a_limit_of_flags(cube, split, tmp_path):
    pytest.importorskip("lightning")
    from fluxcube.samples.lightning import WindowsDataModule

    split.save(tmp_path / "split.json")
    data = WindowsDataModule(cube, tmp_path / "split.json", length=24, max_qc=1)
    data.setup()
    assert (data.train.sites, data.val.sites) == (split.train, split.val)
    measured = fc.load_windows(cube, data.train.spec, sites=split.val, labels=True, length=24, max_qc=0)
    assert len(data.val) == len(measured), "only measured fluxes validate, whatever trains"


def test_without_lightning_the_module_names_the_extra(cube, split, monkeypatch):
    from fluxcube.samples import lightning as module

    monkeypatch.setattr(module, "_Base", object)
    with pytest.raises(MissingPackageError, match=r"fluxcube\[lightning\]"):
        module.WindowsDataModule(cube, split, length=24)

"""CUDA graphs and the path of few kernels, on a card with `-m gpu`; on the CPU with cards that are imitated."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch

from fluxcube.models.base import Batch, Sizes
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.models.graphs import Replayed

CONFIG = EcoPerceiverConfig(latent=16, frequencies=4, embedding=4, context=12, heads=2, blocks=2, self_layers=1)
SIZES = Sizes(inputs=5, bands=2, targets=1)


def make_model(**changes):
    torch.manual_seed(0)
    model = EcoPerceiver(dataclasses.replace(CONFIG, **changes), SIZES).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def make_batch(count=3, length=12, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-0.5, 0.5, (count, length, 5)).astype(np.float32)
    inputs[rng.random(inputs.shape) < 0.2] = np.nan
    step = np.tile([0, 5, -1], (count, 1))
    step[0] = -1
    images = rng.random((count, 3, 2, 64), dtype=np.float32)
    return Batch(inputs, images, step, np.empty((count, 0), np.float32), np.empty((count, 0), np.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("length", [12, 30])
@pytest.mark.parametrize("head", ["last", "dense"])
def test_a_card_returns_what_the_cpu_returns_replayed_or_not(head, length):
    model = make_model(head=head)
    batches = [make_batch(length=length, seed=seed) for seed in (0, 1)]
    expected = [model.predict(batch) for batch in batches]
    model.to("cuda")
    direct = [model.predict(batch) for batch in batches]
    model.replayed = Replayed(model, model.estimates)
    again = [model.predict(batch) for batch in (*batches, batches[0])]
    for got, want in zip((*direct, *again), (*expected, *expected, expected[0]), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.nanstd(want))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_gradients_of_a_card_are_those_of_the_cpu():
    batch = make_batch().map(torch.from_numpy)
    grads = []
    for device in ("cpu", "cuda"):
        model = make_model(head="dense").to(device)
        model(batch.map(lambda a, to=device: a.to(to))).square().mean().backward()
        grads.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    for name in grads[0].keys() & grads[1].keys():
        torch.testing.assert_close(grads[1][name], grads[0][name], atol=1e-5, rtol=1e-3, msg=name)


class FakeGraph:
    """A graph that calls its function again with the tensors of its capture."""

    def replay(self):
        self.out.copy_(self.function(self.batch))


@pytest.fixture
def imitated(monkeypatch):
    """Streams and graphs of a card, without one."""

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    captures = []

    class OnCard(Replayed):
        def __call__(self, batch):
            return super().__call__(batch._replace(inputs=batch.inputs.as_subclass(CudaLike)))

        def _capture(self, batch):
            captured = super()._capture(batch)
            captured.graph.function, captured.graph.batch, captured.graph.out = self.function, *captured[1:]
            captures.append(captured)
            return captured

    return OnCard, captures


class CudaLike(torch.Tensor):
    """A tensor that claims to be on a card."""

    is_cuda = True


def test_each_shape_is_captured_once_and_its_results_are_not_overwritten(imitated):
    on_card, captures = imitated
    model = make_model()
    replayed = on_card(model, lambda batch: model(batch._replace(inputs=batch.inputs.as_subclass(torch.Tensor))), 2)
    a, b, other = (make_batch(n, seed=s).map(torch.from_numpy) for n, s in ((3, 0), (3, 1), (4, 2)))
    with torch.inference_mode():
        first, second = replayed(a), replayed(b)
        torch.testing.assert_close(first, model(a))
        torch.testing.assert_close(second, model(b))
        assert len(captures) == 1
        torch.testing.assert_close(replayed(other), model(other))
        assert len(captures) == 2
        replayed(make_batch(5).map(torch.from_numpy))
        replayed(other)
        assert len(captures) == 3, "the shapes used last are kept"
        model.head.weight.data = model.head.weight.data.clone() * 2
        torch.testing.assert_close(replayed(other), model(other))
        assert len(captures) == 4, "moved parameters are captured again"


def test_a_cpu_calls_the_function():
    model = make_model()
    model.replayed = Replayed(model, model.estimates)
    plain = make_model()
    for length in (12, 20):
        np.testing.assert_array_equal(
            model.predict(make_batch(length=length)), plain.predict(make_batch(length=length))
        )

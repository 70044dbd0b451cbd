"""Graphs without holes: shapes that do not depend on data, whole graphs for the compiler, few kernels, tables."""

from __future__ import annotations

import collections
import dataclasses
import re
import shutil

import numpy as np
import pytest
import torch
from test_ecoperceiver import TINY, make_batch, make_model
from test_images import SIZES as KINDS
from test_images import make_block as make_images
from test_sliding import ALL, BARE, block, tensors
from torch._inductor.utils import run_and_get_code
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fluxcube.models.base import Sizes
from fluxcube.models.dropout import DropoutKey
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.models.sharing import repeated
from fluxcube.models.sliding import predict_sliding
from fluxcube.samples.windows import flatten, gather

torch.set_num_threads(1)

SUMMARY = dataclasses.replace(ALL, means=2)
#: Settings and inputs that differ in the code they reach.
MODELS = pytest.mark.parametrize(
    ("change", "sizes"),
    [({}, ALL), ({"head": "last"}, BARE), ({"summary": 8, "distribution": "gaussian"}, SUMMARY), ({}, KINDS)],
    ids=["all inputs", "weather only", "summary", "several kinds of images"],
)
DEVICES = pytest.mark.parametrize("few", [False, True], ids=["cpu", "card"])
#: Operations that launch no kernel, beside views: allocations and scalars of the host.
FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "scalar_tensor"),
    *("detach", "alias", "_unsafe_view", "lift_fresh", "_record_function_enter_new", "_record_function_exit"),
}


class Kernels(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] += not (func.is_view or name in FREE)
        return func(*args, **(kwargs or {}))


def kernels(run) -> int:
    with Kernels() as mode:
        run()
    return mode.counts.total()


def make(change, sizes, *, few=False, seed=0):
    model = make_model(dataclasses.replace(TINY, dropout=0.0, **change), sizes, seed)
    if few:
        for module in model.modules():
            module.few_kernels = True  # what a tensor on a card decides
    return model


def places(sizes, hours=60, count=3):
    return make_images(sizes, hours, count) if sizes.image_bands else block(sizes, hours, count)


def cut(sizes, stops, length=12, **kwargs):
    """Windows of three places in turn."""
    stops = np.asarray(stops)
    return tensors(gather(flatten(places(sizes, **kwargs)), np.arange(len(stops)) % 3, stops, length))


def series(sizes, hours=30):
    return cut(sizes, [40, 60, 50], hours)


def spread(x):
    return float(x.float().std())


@MODELS
def test_few_kernels_return_what_many_return(change, sizes):
    """The path of a card: bands in every hour, folded weights, fused attention."""
    many, few = make(change, sizes), make(change, sizes, few=True)
    batch, whole = cut(sizes, np.arange(9) + 12), series(sizes)
    with torch.no_grad():
        for run in (lambda model: model(batch), lambda model: predict_sliding(model, whole)):
            torch.testing.assert_close(run(few), run(many), atol=1e-5 * spread(run(many)), rtol=1e-5)
    for model in (many, few):
        model(batch).square().sum().backward()
    for (name, a), b in zip(many.named_parameters(), few.parameters(), strict=True):
        if a.grad is None or name.endswith("key.bias"):  # which has no effect
            continue
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4 * float(a.grad.abs().max() + 1e-6), rtol=1e-3, msg=name)


@DEVICES
@MODELS
def test_series_of_many_cells_pass_at_once(change, sizes, few):
    model, whole = make(change, sizes, few=few), series(sizes)
    with torch.no_grad():
        together = predict_sliding(model, whole)
        alone = torch.cat([predict_sliding(model, whole.take([i])) for i in range(3)])
    assert together.shape == (3, 19, model.head.out_features * (2 if "distribution" in change else 1))
    torch.testing.assert_close(together, alone, atol=1e-5 * spread(alone), rtol=1e-5)


SHORT = {"context": 6, "blocks": 1}
GRAPHS = pytest.mark.parametrize(
    ("change", "sizes", "few"),
    [
        ({}, ALL, False),
        ({"head": "last"}, BARE, True),
        ({"summary": 8, "distribution": "gaussian"}, SUMMARY, False),
        ({}, KINDS, False),
        ({}, KINDS, True),
    ],
    ids=["all inputs", "weather only, card", "summary", "several kinds of images", "several kinds, card"],
)


def copied(batch):
    """Return a batch in the usual layout: others are recompiled for."""
    return batch.map(lambda a: a.clone(memory_format=torch.contiguous_format))


@GRAPHS
def test_one_graph_serves_any_data(change, sizes, few):
    """One compilation of the forward pass and one of the sliding windows; other data never compile again."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph

    model = make(SHORT | change, sizes, few=few)
    forward = torch.compile(model, backend=backend, fullgraph=True)
    sliding = torch.compile(lambda batch: predict_sliding(model, batch), backend=backend, fullgraph=True)
    first, whole = copied(cut(sizes, [20, 30, 40], 6)), copied(series(sizes, 10))
    empty = first._replace(image_step=torch.full_like(first.image_step, -1))
    missing = whole._replace(inputs=torch.full_like(whole.inputs, torch.nan))
    with torch.no_grad():
        for batch in (first, copied(cut(sizes, [13, 33, 58], 6)), empty):
            torch.testing.assert_close(forward(batch), model(batch))
        for batch in (whole, copied(whole.take([2, 1, 0])), missing):
            torch.testing.assert_close(sliding(batch), predict_sliding(model, batch))
    assert len(graphs) == 2


@pytest.mark.parametrize(("sizes", "few"), [(ALL, False), (KINDS, True)], ids=["cpu", "several kinds, card"])
def test_a_training_step_is_one_graph(sizes, few):
    torch._dynamo.reset()
    model, batch = make(SHORT | {"self_layers": 0}, sizes, few=few), copied(cut(sizes, [20, 30, 40], 6))
    target = torch.randn(3, 6, sizes.targets)

    def loss(batch):
        return (model(batch) - target).square().mean()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    loss(batch).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    compiled(batch).backward()
    for name, p in model.named_parameters():
        if name in expected and not name.endswith("key.bias"):
            torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


@DEVICES
@MODELS
def test_shapes_follow_from_shapes(change, sizes, few):
    """Tensors without values: whatever asks for one, or has a shape that depends on one, fails."""
    model = make(change, sizes, few=few)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch, whole = (x.map(mode.from_tensor) for x in (cut(sizes, [20, 30, 40]), series(sizes)))
        assert model(batch).shape[:2] == (3, model.emits)
        assert predict_sliding(model, whole).shape[:2] == (3, 19)
        if few:
            model(batch).sum().backward()


PUBLISHED = dataclasses.replace(EcoPerceiverConfig.published(), latent=16, heads=2, frequencies=2, embedding=4)
SIZES = Sizes(inputs=5, bands=3, targets=1)


def published(head):
    """The published layers, narrow, as a card computes them."""
    torch.manual_seed(0)
    model = EcoPerceiver(dataclasses.replace(PUBLISHED, head=head), SIZES)
    for module in model.modules():
        module.few_kernels = True
    return model.eval()


@pytest.mark.parametrize("head", ["last", "dense"])
def test_kernels_of_the_published_forward_pass(head):
    """Two products, an attention and a norm each in 20 layers with two products, a norm and a GELU, and two sums."""
    model, batch = published(head), make_batch(2, 32, SIZES)
    with torch.no_grad():
        assert kernels(lambda: model(batch)) <= 240


@pytest.mark.parametrize("cells", [1, 3])
def test_kernels_of_sliding_windows_do_not_grow_with_cells(cells):
    model, batch = published("last"), make_batch(cells, 50, SIZES)
    with torch.no_grad():
        assert kernels(lambda: predict_sliding(model, batch)) <= 290


def test_kernels_of_a_training_step():
    model, batch = published("dense").train(), make_batch(2, 32, SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        model(batch).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()

    step()
    assert kernels(step) <= 700


@pytest.mark.slow
def test_launches_of_the_compiled_forward_pass():
    """As the compiler writes them at the published width: fused loops, products and attention."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    torch._dynamo.reset()
    model = EcoPerceiver(EcoPerceiverConfig.published(), SIZES).eval()
    for module in model.modules():
        module.few_kernels = True
    batch = make_batch(2, 32, SIZES)
    with torch.no_grad():
        out, codes = run_and_get_code(torch.compile(model, fullgraph=True), batch)
        torch.testing.assert_close(out, model(batch), atol=1e-4, rtol=1e-4)
    body = codes[0][codes[0].index("def call(") :]
    launches = re.findall(r"^ +(?:\w+ = )?(?:cpp_fused\w*|extern_kernels\.\w+|torch\.ops[\w.]+)\(", body, re.MULTILINE)
    assert len(codes) == 1 and 100 < len(launches) <= 200


def test_gradients_of_shared_parameters_are_those_of_autograd():
    """Of several types, of one that no block uses, and of one that only some blocks use."""
    a, b, c, d = (torch.randn(3, requires_grad=True, dtype=t) for t in (torch.float32, torch.bfloat16) * 2)
    frozen = torch.randn(3)

    def loss(blocks):
        return sum(
            (i + 1) * (x * y * last).sum() + (z.square().sum() if i == 1 else 0)
            for i, (x, y, z, _, last) in enumerate(blocks)
        )

    loss([(a, b, c, d, frozen)] * 3).backward()
    expected = [x.grad.clone() for x in (a, b, c)]
    for x in (a, b, c):
        x.grad = None
    loss(repeated([a, b, c, d, frozen], 3)).backward()
    for x, grad in zip((a, b, c), expected, strict=True):
        torch.testing.assert_close(x.grad, grad)
    assert d.grad is None and frozen.grad is None


def test_few_kernels_learn_in_half_precision():
    """Folded weights are bfloat16 then, and parameters float32."""
    many, few = make({}, ALL), make({}, ALL, few=True)
    batch = cut(ALL, np.arange(9) + 12)
    for model in (many, few):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch).square().mean()
        loss.backward()
    for (name, a), b in zip(many.named_parameters(), few.parameters(), strict=True):
        if a.grad is not None and not name.endswith("key.bias"):
            assert b.grad.dtype == a.grad.dtype
            assert float((a.grad - b.grad).norm()) <= 0.1 * float(a.grad.norm()) + 1e-4, name


def as_table(batch):
    """Return the batch with each distinct image once, in another order and with rows that no window needs."""
    images, step = batch.images.numpy(), batch.image_step.numpy()
    flat = images.reshape(-1, *images.shape[2:])
    order = np.random.default_rng(0).permutation(len(flat))
    table = np.concatenate([np.full_like(flat[:1], np.nan), flat[order]])
    row = np.where(step >= 0, 1 + np.argsort(order).reshape(step.shape), 0)
    return batch._replace(images=torch.from_numpy(table), image_row=torch.from_numpy(row))


@DEVICES
@pytest.mark.parametrize("sizes", [ALL, KINDS, dataclasses.replace(KINDS, bands=0)], ids=["one", "three", "two"])
def test_a_table_of_images_is_the_images(sizes, few):
    model = make({}, sizes, few=few)
    batch, whole = cut(sizes, np.arange(9) + 12), series(sizes)
    with torch.no_grad():
        torch.testing.assert_close(model(as_table(batch)), model(batch))
        torch.testing.assert_close(predict_sliding(model, as_table(whole)), predict_sliding(model, whole))
    numpy = as_table(batch).map(lambda a: a.numpy())
    np.testing.assert_allclose(model.predict(numpy), model.predict(batch.map(lambda a: a.numpy())), atol=1e-5)
    np.testing.assert_array_equal(
        numpy.without_table().images[batch.image_step >= 0], batch.images[batch.image_step >= 0]
    )


def test_dropout_of_a_table_drops_in_each_window():
    model = make_model(dataclasses.replace(TINY, dropout=0.5), ALL)
    batch = cut(ALL, np.arange(9) + 12)
    a, b = (model.drop(x, DropoutKey(1, 0, 0), torch.arange(9)) for x in (batch, as_table(batch)))
    seen = (batch.image_step >= 0).numpy()
    np.testing.assert_array_equal(a.images.numpy()[seen], b.images.numpy()[seen])
    assert b.image_row is None and EcoPerceiver.image_table


@pytest.mark.parametrize("few", [False, True], ids=["cpu", "card"])
def test_estimates_are_not_rounded_in_half_precision(few):
    """A head in bfloat16 has 8 bits: a few hundred distinct estimates, however many hours there are."""
    model = make({}, BARE, few=few)
    batch = cut(BARE, np.arange(120) % 48 + 12)
    batch = batch._replace(inputs=torch.rand(120, 12, BARE.inputs) - 0.5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(batch)
        slid = predict_sliding(model, batch._replace(inputs=torch.rand(120, 24, BARE.inputs) - 0.5))
    assert out.dtype == slid.dtype == torch.float32
    for x in (out, slid):
        assert len(x.unique()) > 0.95 * x.numel()

"""Linear layers by oneDNN: results and gradients of torch's own, in every layout, and where they leave it to torch."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from fluxcube.models import linear
from fluxcube.models.linear import Linear

torch.set_num_threads(1)  # tests run beside each other

LARGE = (4, 32, 64)
LAYOUTS = {
    "three dimensions": lambda: torch.randn(8, 32, 64),
    "rows": lambda: torch.randn(256, 64),
    "four dimensions": lambda: torch.randn(2, 4, 32, 64),
    "transposed": lambda: torch.randn(32, 8, 64).transpose(0, 1),
    "columns of a wider array": lambda: torch.randn(8, 32, 128)[..., ::2],
    "expanded": lambda: torch.randn(32, 64).expand(8, -1, -1),
    "small": lambda: torch.randn(2, 3, 64),
    "empty": lambda: torch.randn(0, 32, 64),
}


def pair(bias=True):
    torch.manual_seed(0)
    own = Linear(64, 192, bias=bias)
    plain = nn.Linear(64, 192, bias=bias)
    plain.load_state_dict(own.state_dict())
    return own, plain


def gradients(layer, x, needs_x):
    x = x.detach().clone().requires_grad_(needs_x) if needs_x else x
    out = layer(x)
    torch.manual_seed(1)
    (out * torch.randn_like(out)).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("needs_x", [True, False])
def test_results_and_gradients_are_those_of_torch(layout, bias, needs_x):
    own, plain = pair(bias)
    torch.manual_seed(2)
    x = LAYOUTS[layout]()
    for a, b in zip(gradients(own, x, needs_x), gradients(plain, x, needs_x), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and a.is_contiguous() == b.is_contiguous()
            torch.testing.assert_close(
                a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max()) if b.numel() else 1.0)
            )
    with torch.inference_mode():
        torch.testing.assert_close(own(x), plain(x), rtol=1e-5, atol=1e-5)


def test_frozen_weights_have_no_gradient():
    own, _ = pair()
    own.weight.requires_grad_(False)
    x = torch.randn(256, 64, requires_grad=True)
    own(x).sum().backward()
    assert x.grad is not None and own.weight.grad is None and own.bias.grad is not None
    own.bias.grad = None
    own(x.detach()).sum().backward()
    assert own.bias.grad.unique().item() == 256
    own.bias.requires_grad_(False)
    assert not own(x.detach()).requires_grad


def calls(monkeypatch):
    made = []
    product = linear._product
    monkeypatch.setattr(linear, "_product", lambda *args: made.append(1) or product(*args))
    return made


def test_large_products_of_float32_alone_are_taken_from_torch(monkeypatch):
    made = calls(monkeypatch)
    own, _ = pair()
    with torch.no_grad():
        own(torch.randn(256, 64))
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this build of torch has no oneDNN")
        assert made == [1]
        own(torch.randn(4, 64))
        copy.deepcopy(own).double()(torch.randn(256, 64).double())
        with torch.autocast("cpu", torch.bfloat16):
            assert own(torch.randn(256, 64)).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            own(torch.randn(256, 64))
        assert copy.deepcopy(own).to("meta")(torch.randn(256, 64, device="meta")).device.type == "meta"
    assert made == [1]


def test_weights_are_stored_as_those_of_torch():
    own, plain = pair()
    assert list(own.state_dict()) == list(plain.state_dict())
    content = io.BytesIO()
    torch.save(own.state_dict(), content)
    torch.manual_seed(0)
    again = nn.Linear(64, 192)
    assert torch.equal(again.weight, own.weight), "drawn as torch draws them"


def test_a_compiled_layer_is_one_graph():
    own, plain = pair()
    x = torch.randn(256, 64, requires_grad=True)
    out = torch.compile(own, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(out, plain(x))

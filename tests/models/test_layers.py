"""Layers against plain implementations."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from fluxcube.models.layers import (
    CausalSelfAttention,
    WindowedCrossAttention,
    fourier_features,
    octaves,
    tokens_in_place,
)

torch.set_num_threads(1)  # tests run beside each other


@pytest.mark.parametrize("frequencies", [1, 8, 12, 16, 20])
def test_fourier_features_are_exact(frequencies):
    x = torch.linspace(-1, 1, 1001)
    turns = x.double().numpy()[:, None] * 2.0 ** np.arange(frequencies)
    expected = np.concatenate([np.sin(np.pi * turns), np.cos(np.pi * turns)], 1)
    got = fourier_features(x, frequencies)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_the_ends_of_a_cycle_have_one_code():
    ends = fourier_features(torch.tensor([-1.0, 1.0]), 12)
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=0)
    middle = fourier_features(torch.tensor([-0.5, 0.5]), 12)
    assert (middle[0] - middle[1]).abs().max() > 1  # where acyclic variables end, they must differ


def test_autocast_does_not_touch_the_features():
    x = torch.linspace(-1, 1, 101)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fourier_features(x, 12)
    assert torch.equal(inside, fourier_features(x, 12))


def plain_attention(query, key, value, heads):
    """Attention of (t, H) over (v, H), one head at a time."""
    width = query.shape[1] // heads
    out = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = (query[:, part] @ key[:, part].T / width**0.5).softmax(-1)
        out.append(weights @ value[:, part])
    return torch.cat(out, 1)


def test_cross_attention_equals_projected_keys_and_values():
    from fluxcube.models.layers import MASKED, Tokens

    torch.manual_seed(0)
    layer = WindowedCrossAttention(16, 10, 4, 2)
    torch.nn.init.normal_(layer.key.bias)
    torch.nn.init.normal_(layer.value.bias)
    hours, seen = torch.randn(5, 7, 10), torch.rand(5, 7) < 0.6
    seen[:, 0] = True
    extra, extra_seen = torch.randn(2, 3, 10), torch.tensor([[True, False, True], [True, True, True]])
    chosen = torch.tensor([1, 4])
    both = torch.cat([seen[chosen], extra_seen], 1)
    tokens = Tokens(
        values=hours,
        bias=torch.where(seen, 0.0, MASKED)[:, None],
        present=torch.ones(5, 1),
        rows=chosen,
        more=torch.cat([hours[chosen], extra], 1),
        more_bias=torch.where(both, 0.0, MASKED)[:, None],
    )
    latents = torch.randn(5, 16)
    got = layer.attend(latents, tokens)
    for row in range(5):
        mine = hours[row][seen[row]]
        if row in (1, 4):
            at = chosen.tolist().index(row)
            mine = torch.cat([mine, extra[at][extra_seen[at]]])
        one = plain_attention(layer.query(latents[row : row + 1]), layer.key(mine), layer.value(mine), 4)
        torch.testing.assert_close(got[row : row + 1], layer.out(one), atol=1e-5, rtol=1e-5)


def test_self_attention_equals_a_plain_loop_over_the_past():
    torch.manual_seed(1)
    layer = CausalSelfAttention(16, 4, 2)
    latents = torch.randn(3, 6, 16)
    future = torch.full((6, 6), -1e9).triu(1)
    got = layer.attend(latents, future)
    for window in range(3):
        query, key, value = layer.query_key_value(latents[window]).chunk(3, -1)
        for t in range(6):
            past = plain_attention(query[t : t + 1], key[: t + 1], value[: t + 1], 4)
            torch.testing.assert_close(got[window, t], layer.out(past)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("plain", [False, True], ids=["features", "features and value"])
@pytest.mark.parametrize("frequencies", [1, 8, 17])
def test_tokens_in_place_are_the_normalised_ones(frequencies, plain):
    torch.manual_seed(0)
    values, embedding = torch.rand(3, 5, 7) * 2 - 1, torch.randn(7, 4)
    values[0, 0] = torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5, 0.25, 1e-8])
    features = [fourier_features(values, frequencies), *([values[..., None]] if plain else [])]
    raw = torch.cat([*features, embedding.expand(3, 5, -1, -1)], -1)
    norm = torch.nn.LayerNorm(raw.shape[-1])
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    with torch.no_grad():
        for context in (contextlib.nullcontext(), torch.autocast("cpu", torch.bfloat16)):
            with context:
                got = tokens_in_place(values, octaves(frequencies), embedding, norm, plain=plain)
            torch.testing.assert_close(got, norm(raw), atol=1e-5, rtol=1e-5)


def test_tokens_of_equal_features_are_finite():
    """All features and the embedding are equal: the variance that follows from the sum of squares rounds to zero."""
    norm, half = torch.nn.LayerNorm(6), 0.5**0.5
    with torch.no_grad():
        got = tokens_in_place(torch.full((2, 1), 0.25), octaves(1), torch.full((1, 4), half), norm, plain=False)
    assert torch.isfinite(got).all()

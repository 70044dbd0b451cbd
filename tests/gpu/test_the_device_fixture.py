"""A test with the fixture `device` runs on the CPU in every run, and on a GPU only where `-m gpu` selects it."""

from __future__ import annotations

import torch


def test_a_tensor_is_on_the_device_of_the_test(device):
    assert torch.ones(2, device=device).device.type == device

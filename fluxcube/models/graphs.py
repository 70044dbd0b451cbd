"""Replay the passes of a network as CUDA graphs, so that a card waits for no kernel to be launched.

A graph contains the launches of all kernels of a pass, with the addresses of its tensors: a batch is copied to the
addresses of the first one of its shape. That is possible because no shape in `EcoPerceiver` depends on the data.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fluxcube.models.base import Batch

#: Number of passes before a graph is captured, in which libraries choose their kernels and allocate what they need.
_WARM_UP = 3
#: Default number of shapes whose graphs are kept; each keeps its intermediate results in the memory of the card.
_SHAPES = 4


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: Batch[Tensor]
    out: Tensor


class Replayed:
    """A function of a batch that is captured once for each shape of a batch, and replayed after that.

    Assign one to `EcoPerceiver.replayed` to predict by graphs on a card. On a CPU the function is called as it is.

    Parameters
    ----------
    network : nn.Module
        Its parameters are part of the graphs: graphs are captured again when they have been moved.
    function : callable
        From a batch of tensors to a tensor; no shape may depend on the data.
    shapes : int
        Number of shapes whose graphs are kept: those used last.
    """

    def __init__(self, network: nn.Module, function: Callable[[Batch[Tensor]], Tensor], shapes: int = _SHAPES):
        self.network, self.function, self.shapes = network, function, shapes
        self._captured: OrderedDict[tuple, _Captured] = OrderedDict()

    def __call__(self, batch: Batch[Tensor]) -> Tensor:
        """Return the function of a batch; the tensor is the caller's own."""
        if not batch.inputs.is_cuda:
            return self.function(batch)
        key = self._key(batch)
        if key not in self._captured:
            while len(self._captured) >= self.shapes:
                self._captured.popitem(last=False)
            self._captured[key] = self._capture(batch)
        self._captured.move_to_end(key)
        captured = self._captured[key]
        for name, array in batch.present().items():
            getattr(captured.batch, name).copy_(array, non_blocking=True)
        captured.graph.replay()
        return captured.out.clone()

    def _key(self, batch: Batch[Tensor]) -> tuple:
        """Return what a graph depends on: shapes, types, precision, and where the parameters lie."""
        arrays = [(name, tuple(a.shape), a.dtype) for name, a in batch.present().items()]
        device = batch.inputs.device.type
        half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        precision = half, torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
        return (*arrays, precision, *(p.data_ptr() for p in self.network.parameters()))

    def _capture(self, batch: Batch[Tensor]) -> _Captured:
        own = batch.map(torch.clone)
        stream = torch.cuda.Stream(batch.inputs.device)
        stream.wait_stream(torch.cuda.current_stream(batch.inputs.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.function(own)
        torch.cuda.current_stream(batch.inputs.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.function(own)
        return _Captured(graph, own, out)

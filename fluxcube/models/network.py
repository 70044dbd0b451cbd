"""Models that are torch modules: what they share in training, inference and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fluxcube.models.base import BaseModel, Batch, Config, Sizes
from fluxcube.models.dropout import DropoutKey
from fluxcube.models.tensors import from_files, to_device, to_files


class Network(nn.Module, BaseModel):
    """A model that gradient descent trains.

    Subclasses define `forward`, which returns scaled fluxes (B, emitted time steps, targets), or twice as many columns
    for a Gaussian head: means, then logarithms of variances.

    Parameters
    ----------
    config : Config
        Settings; its field `context`, if it has one, is the number of time steps of a window.
    sizes : Sizes
        Numbers of inputs and targets.
    """

    trainer: ClassVar[str] = "descent"
    #: Tensors whose rows stand for one input, band or target each ("inputs", "bands", "targets"): a checkpoint can be
    #: trained further with others. Empty for a model that cannot.
    tensor_rows: ClassVar[Mapping[str, str]] = {}
    #: Settings that no weight depends on: they may change when a checkpoint is trained further.
    free_settings: ClassVar[tuple[str, ...]] = ("dropout",)
    #: For a model of two training stages: False in the first one.
    joint: bool = True

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes

    @property
    def context(self) -> int:
        """Number of time steps of a window: that of the settings."""
        return getattr(self.config, "context", 1)

    @classmethod
    def rows_of_tensors(cls, config: Config) -> Mapping[str, str]:
        """Return `tensor_rows` of a model with these settings."""
        return cls.tensor_rows

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The model itself."""
        return (self,)

    @property
    def support_queries(self) -> int:
        """Maximum number of training windows of a place that share their support windows."""
        return 1

    @property
    def drops_inputs(self) -> bool:
        """Whether `drop` masks inputs."""
        return False

    def drop(self, batch: Batch[Tensor], key: DropoutKey, rows: Tensor) -> Batch[Tensor]:
        """Mask inputs of training windows (dropout of inputs); by default none are masked.

        `forward` masks no inputs itself, so that a batch may be divided among passes and processes.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows; they are not changed.
        key : DropoutKey
            Position of the step.
        rows : (B,) int64 Tensor
            Positions of these windows in the whole batch of the step.
        """
        return batch

    def on_device(self, batch: Batch) -> Batch[Tensor]:
        """Return a batch of arrays or tensors as tensors on the model's device."""
        device = next(self.parameters()).device
        return batch.map(lambda array: to_device(array, device))

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, targets) float32 in scaled units; NaN in the time steps that `forward` does not return."""
        if self.training:
            self.eval()
        with torch.inference_mode():
            out = self(self.on_device(batch))[..., : self.n_targets].float().cpu().numpy()
        full = np.full((*batch.inputs.shape[:2], self.n_targets), np.nan, np.float32)
        full[:, -out.shape[1] :] = out
        return full

    def weights(self) -> dict[str, bytes]:
        """Return the weights as one safetensors file."""
        return to_files(self)

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load weights that `weights` returned."""
        from_files(self, files)
        self.eval()

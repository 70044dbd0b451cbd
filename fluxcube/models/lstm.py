"""LSTMs over windows of days: the drivers alone, or with the place's static features beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes, check_kinds, from_known_keys
from fluxcube.models.tensors import from_files, to_files

#: What small presets share.
SMALL = {"hidden": 32, "dropout": 0.4, "supervised": 15, "skip": True}


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Shape of an LSTM.

    Attributes
    ----------
    hidden : int
        Width of the hidden state.
    layers : int
        LSTM layers, one upon the other.
    dropout : float
        Share of the final hidden state that is dropped in training, and between layers.
    context : int
        Days of a window.
    stride : int
        Days between the windows of an epoch in training.
    supervised : int
        Last days of a window that training learns from; 1 is the paper. A model predicts a window's last day alone.
    skip : bool
        Whether a day's own inputs stand beside its hidden state, and a hidden layer mixes them, before fluxes are
        made of it: what answers within the day then does not have to pass the LSTM. False is the paper.
    """

    hidden: int = 64
    layers: int = 1
    dropout: float = 0.2
    context: int = 45
    stride: int = 15
    supervised: int = 1
    skip: bool = False

    def __post_init__(self):
        check_kinds(self)
        for name in ("hidden", "layers", "context", "stride", "supervised"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be a share in [0, 1), found {self.dropout}.")
        if self.supervised > self.context:
            raise ConfigError(f"supervised must be at most context, found {self.supervised} of {self.context} days.")

    @classmethod
    def small(cls) -> LSTMConfig:
        """Return what validation towers chose on `recipes/daily`: seconds a seed on a laptop."""
        return cls(**SMALL)

    @classmethod
    def published(cls) -> LSTMConfig:
        """Return the width of CarbonBench's best.

        References
        ----------
        arXiv:2603.09868
        """
        return cls(hidden=128)

    @classmethod
    def from_dict(cls, values: Mapping) -> LSTMConfig:
        """Make a config of a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class Recurrent(nn.Module):
    """What all LSTMs share: their inputs, what they give, and how they are kept.

    Subclasses set `kind` and whether they see the `static` features. A missing input is its training mean, as inputs
    are scaled; a class that training did not see is none of those it saw.

    Parameters
    ----------
    config : LSTMConfig
        Shape.
    sizes : Sizes
        Numbers of inputs and targets.
    """

    kind = ""
    #: Whether numbers and one-hot classes of the place stand beside each day's drivers.
    static = True
    #: As for EcoPerceiver; the dropout of hidden states is always the model's own.
    drops_itself = True
    emits = 1

    def __init__(self, config: LSTMConfig, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes
        self.drivers = sizes.inputs + len(sizes.cyclic)
        width = self.drivers + (sizes.numbers + sum(sizes.classes) if self.static else 0)
        self.lstm = self._lstm(width)
        self.drop_hidden = nn.Dropout(config.dropout)
        if config.skip:
            both = config.hidden + self.lstm.input_size
            self.mix = nn.Sequential(nn.Linear(both, config.hidden), nn.GELU(), nn.Dropout(config.dropout))
        self.head = nn.Linear(config.hidden, sizes.targets)
        nn.init.zeros_(self.head.bias)

    def _lstm(self, width: int) -> nn.LSTM:
        config = self.config
        between = config.dropout if config.layers > 1 else 0.0
        return nn.LSTM(width, config.hidden, config.layers, batch_first=True, dropout=between)

    @property
    def context(self) -> int:
        """Days of a window."""
        return self.config.context

    @property
    def n_targets(self) -> int:
        """Fluxes per day."""
        return self.sizes.targets

    @property
    def supervised(self) -> int:
        """Last days of a window that training learns from."""
        return self.config.supervised

    @property
    def stride(self) -> int:
        """Days between training windows."""
        return self.config.stride

    def drop(self, batch: Batch, rng: np.random.Generator, rows: np.ndarray, total: int) -> Batch:
        """Return the batch as it is: inputs are not dropped."""
        return batch

    def forward(self, batch: Batch) -> Tensor:
        """Return scaled fluxes (B, supervised, targets) in training, (B, 1, targets) otherwise.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows.
        """
        x = self.inputs(batch)
        return self.fluxes(self.lstm(x)[0], x)

    def fluxes(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return scaled fluxes of the last days by their hidden states (B, T, hidden) and what the LSTM was given."""
        hidden = self.drop_hidden(hidden[:, -self.given :])
        if self.config.skip:
            hidden = self.mix(torch.cat([hidden, x[:, -self.given :]], -1))
        return self.head(hidden)

    @property
    def given(self) -> int:
        """Last days of a window that `forward` gives."""
        return self.config.supervised if self.training else 1

    def inputs(self, batch: Batch) -> Tensor:
        """Return what stands at each day of a window (B, T, inputs): drivers, and static features where seen."""
        met = self.driven(batch.met)
        if not self.static:
            return met
        numbers = torch.nan_to_num(batch.numbers[:, : self.sizes.numbers])
        one_hot = [
            (batch.classes[:, i : i + 1] == torch.arange(count, device=met.device)).to(met.dtype)
            for i, count in enumerate(self.sizes.classes)
        ]
        fixed = torch.cat([numbers, *one_hot], -1)
        return torch.cat([met, fixed[:, None].expand(-1, met.shape[1], -1)], -1)

    def driven(self, met: Tensor) -> Tensor:
        """Return the drivers (..., inputs + cyclic): missing ones filled, cyclic ones as sine and cosine."""
        met = torch.nan_to_num(met)
        if not self.sizes.cyclic:
            return met
        columns = list(self.sizes.cyclic)
        angle = math.pi * met[..., columns]
        met = met.clone()
        met[..., columns] = angle.sin()
        return torch.cat([met, angle.cos()], -1)

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, targets) float32 in scaled units; NaN in all days but the last."""
        if self.training:
            self.eval()
        device = self.head.weight.device
        with torch.inference_mode():
            out = self(Batch(*(torch.as_tensor(array, device=device) for array in batch))).float().cpu().numpy()
        full = np.full((*batch.met.shape[:2], self.n_targets), np.nan, np.float32)
        full[:, -1:] = out
        return full

    def weights(self) -> dict[str, bytes]:
        """Return the weights as one safetensors file."""
        return to_files(self)

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Take the weights that `weights` gave."""
        from_files(self, files)
        self.eval()


class PlainLSTM(Recurrent):
    """LSTM over the drivers alone: it is told nothing of the place.

    References
    ----------
    Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735

    Examples
    --------
    >>> model = PlainLSTM(LSTMConfig(hidden=8), Sizes(inputs=3, classes=(5,), targets=2))
    >>> model.lstm.input_size
    3
    """

    kind = "lstm"
    static = False


class CTLSTM(Recurrent):
    """LSTM over the drivers with one-hot static features appended to each day.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026, arXiv:2603.09974

    Examples
    --------
    >>> CTLSTM(LSTMConfig(hidden=8), Sizes(inputs=3, numbers=1, classes=(5,), targets=2)).lstm.input_size
    9
    """

    kind = "ct-lstm"

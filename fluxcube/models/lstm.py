"""LSTMs over daily windows: of the model inputs alone, or with the static features of the place beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.network import Network
from fluxcube.models.settings import check_types, from_known_keys

#: Settings that the small presets share.
SMALL: dict[str, Any] = {"hidden": 32, "dropout": 0.4, "supervised": 15, "skip": True}


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Shape of an LSTM.

    Attributes
    ----------
    hidden : int
        Width of the hidden state.
    layers : int
        Number of LSTM layers.
    dropout : float
        Fraction of the final hidden state that is dropped in training, and between layers.
    context : int
        Number of days of a window.
    stride : int
        Days between the windows of an epoch in training.
    supervised : int
        Number of days, the last ones of a window, that training learns from; the paper has 1. A model predicts only
        the last day of a window.
    skip : bool
        Whether the inputs of a day are concatenated with its hidden state and mixed by a hidden layer before the head:
        responses within the day then need not pass through the LSTM. The paper has False.
    """

    hidden: int = 64
    layers: int = 1
    dropout: float = 0.2
    context: int = 45
    stride: int = 15
    supervised: int = 1
    skip: bool = False

    def __post_init__(self):
        check_types(self)
        for name in ("hidden", "layers", "context", "stride", "supervised"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be a share in [0, 1), found {self.dropout}.")
        if self.supervised > self.context:
            raise ConfigError(f"supervised must be at most context, found {self.supervised} and {self.context} days.")

    @classmethod
    def small(cls) -> LSTMConfig:
        """Return the settings with the best validation score in `recipes/daily`: seconds per seed on a laptop."""
        return cls(**SMALL)

    @classmethod
    def quick(cls) -> LSTMConfig:
        """Return the settings of `small`; the preset is quick by its training (`TrainingConfig.quick`)."""
        return cls.small()

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
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class Recurrent(Network):
    """What all LSTMs share: their inputs and their head.

    Subclasses set `kind` and whether they use the `static` features. A missing input is replaced by its training mean,
    which is 0 since inputs are scaled; a class that is absent from training has an all-zero one-hot code.

    Parameters
    ----------
    config : LSTMConfig
        Shape.
    sizes : Sizes
        Numbers of inputs and targets.
    """

    free_settings = ("dropout", "stride", "supervised")
    #: Whether numbers and one-hot classes of the place are concatenated with the inputs of each day.
    static: bool = True
    config: LSTMConfig

    def __init__(self, config: LSTMConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.n_inputs = sizes.inputs + len(sizes.cyclic)
        width = self.n_inputs + (sizes.numbers + sum(sizes.classes) if self.static else 0)
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
        """Number of days of a window."""
        return self.config.context

    @property
    def supervised(self) -> int:
        """Number of days, the last ones of a window, that training learns from."""
        return self.config.supervised

    @property
    def training_stride(self) -> int:
        """Days between training windows."""
        return self.config.stride

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return scaled fluxes (B, supervised, targets) in training, (B, 1, targets) otherwise.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows.
        """
        x = self.features(batch)
        return self.fluxes(self.lstm(x)[0], x)

    def fluxes(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return scaled fluxes of the last days from hidden states (B, T, hidden) and inputs `x` of the LSTM."""
        hidden = self.drop_hidden(hidden[:, -self.returned :])
        if self.config.skip:
            hidden = self.mix(torch.cat([hidden, x[:, -self.returned :]], -1))
        return self.head(hidden)

    @property
    def returned(self) -> int:
        """Number of days, the last ones of a window, that `forward` returns."""
        return self.config.supervised if self.training else 1

    def features(self, batch: Batch[Tensor]) -> Tensor:
        """Return the features of each day of a window (B, T, features): inputs, and static features if used."""
        inputs = self.filled(batch.inputs)
        if not self.static:
            return inputs
        numbers = torch.nan_to_num(batch.numbers[:, : self.sizes.numbers])
        one_hot = [
            (batch.classes[:, i : i + 1] == torch.arange(count, device=inputs.device)).to(inputs.dtype)
            for i, count in enumerate(self.sizes.classes)
        ]
        fixed = torch.cat([numbers, *one_hot], -1)
        return torch.cat([inputs, fixed[:, None].expand(-1, inputs.shape[1], -1)], -1)

    def filled(self, inputs: Tensor) -> Tensor:
        """Return the inputs (..., inputs + cyclic): missing ones filled, cyclic ones as sine and cosine."""
        inputs = torch.nan_to_num(inputs)
        if not self.sizes.cyclic:
            return inputs
        columns = list(self.sizes.cyclic)
        angle = math.pi * inputs[..., columns]
        inputs = inputs.clone()
        inputs[..., columns] = angle.sin()
        return torch.cat([inputs, angle.cos()], -1)


class PlainLSTM(Recurrent):
    """LSTM over the model inputs alone, without any feature of the place.

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
    """LSTM over the model inputs with static numbers and one-hot classes appended to each day.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026, arXiv:2603.09974

    Examples
    --------
    >>> CTLSTM(LSTMConfig(hidden=8), Sizes(inputs=3, numbers=1, classes=(5,), targets=2)).lstm.input_size
    9
    """

    kind = "ct-lstm"

"""TAM-RL: an LSTM whose input and hidden state are modulated by what its place's drivers look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.lstm import SMALL, LSTMConfig, Recurrent

#: Support windows that pass the encoder together outside of training.
_PASS = 2048


class Film(NamedTuple):
    """Modulation of a window's input layer and of its hidden state: x' = gamma1 x + beta1, h' = gamma2 h + beta2.

    Attributes
    ----------
    gamma1, beta1 : (B, 1, embedding) Tensor
    gamma2, beta2 : (B, 1, hidden) Tensor
    """

    gamma1: Tensor
    beta1: Tensor
    gamma2: Tensor
    beta2: Tensor


@dataclass(frozen=True, kw_only=True)
class TAMLSTMConfig(LSTMConfig):
    """Shape of TAM-RL's forward model.

    Attributes
    ----------
    embedding : int
        Width of the input layer, which modulation acts on; 0 is the inputs themselves.
    static : bool
        Whether numbers and one-hot classes of the place are among the inputs.
    """

    embedding: int = 64
    static: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.embedding < 0:
            raise ConfigError(f"embedding must be 0 or more, found {self.embedding}.")

    @classmethod
    def small(cls) -> TAMLSTMConfig:
        """Return what validation towers chose on `recipes/daily`: seconds a seed on a laptop."""
        return cls(**SMALL, embedding=32)


@dataclass(frozen=True, kw_only=True)
class TAMRLConfig(TAMLSTMConfig):
    """Shape of TAM-RL.

    Attributes
    ----------
    code : int
        Length of z, the embedding of a place.
    encoder : int
        Hidden width of the task encoder, each way.
    generator : int
        Hidden width of the generator.
    support : int
        Windows of a place's drivers that its embedding is the mean over.
    queries : int
        Windows of a place, at most, that share their support in training: those `stride` days apart.
    modulate : bool
        Whether the embedding modulates anything; False is the forward model, trained the same way.
    """

    code: int = 16
    encoder: int = 64
    generator: int = 32
    support: int = 8
    queries: int = 4
    modulate: bool = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("code", "encoder", "generator", "support", "queries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")

    @classmethod
    def small(cls) -> TAMRLConfig:
        """Return what validation towers chose on `recipes/daily`: seconds a seed on a laptop."""
        return cls(**SMALL, embedding=32, queries=8)

    @classmethod
    def published(cls) -> TAMRLConfig:
        """Return the widths of CarbonBench's best by class.

        References
        ----------
        arXiv:2603.09868
        """
        return cls(hidden=128, embedding=128, code=64, encoder=128, generator=64)


class TAMLSTM(Recurrent):
    """TAM-RL's forward model alone: input layer, LSTM, linear head.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026, arXiv:2603.09974
    """

    kind = "tam-lstm"

    def __init__(self, config: TAMLSTMConfig, sizes: Sizes):
        self.static = config.static  # before Module's own __init__, as a plain attribute
        super().__init__(config, sizes)
        self.embed_input = nn.Linear(self._width, config.embedding) if config.embedding else nn.Identity()

    def _lstm(self, width: int) -> nn.LSTM:
        self._width = width
        return super()._lstm(self.config.embedding or width)

    @property
    def embedded(self) -> int:
        """Width of what the LSTM is given."""
        return self.config.embedding or self._width

    def forward(self, batch: Batch, film: Film | None = None) -> Tensor:
        """Return scaled fluxes (B, supervised, targets) in training, (B, 1, targets) otherwise.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows.
        film : Film, optional
            What modulates each window; None is gamma = 1, beta = 0.
        """
        x = self.embed_input(self.inputs(batch))
        x = x if film is None else film.gamma1 * x + film.beta1
        hidden, _ = self.lstm(x)
        hidden = hidden if film is None else film.gamma2 * hidden + film.beta2
        return self.fluxes(hidden, x)


class TAMRL(TAMLSTM):
    """Task-aware modulation: what a place's drivers look like sets how the forward model works there.

    A BiLSTM over windows of a place's drivers makes its embedding z, their mean; a generator makes of z what modulates
    the forward model.

    Embeddings come in as the last `code_size` of a batch's numbers, so that a place is encoded once, however many
    windows it has; `forward` makes them of support windows itself where it is given some.

    The generator begins with gamma = 1 and beta = 0: joint training starts from what the forward model learned before.

    References
    ----------
    Renganathan et al. 2025, arXiv:2310.04727; Rozanov, Renganathan & Kumar 2026, arXiv:2603.09974; Perez et al. 2018
    (FiLM), arXiv:1709.07871

    Examples
    --------
    >>> model = TAMRL(TAMRLConfig(code=4), Sizes(inputs=3, targets=2))
    >>> model.encode(np.zeros((5, 8, 45, 3), np.float32)).shape
    (5, 4)
    """

    kind = "tam-rl"
    #: False while the forward model alone is trained.
    joint = True

    def __init__(self, config: TAMRLConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.encoder = nn.LSTM(self.drivers, config.encoder, batch_first=True, bidirectional=True)
        self.code = nn.Linear(2 * config.encoder, config.code)
        self.generator = nn.Sequential(
            nn.Linear(config.code, config.generator),
            nn.GELU(),
            nn.Linear(config.generator, 2 * (self.embedded + config.hidden)),
        )
        nn.init.zeros_(self.generator[-1].weight)
        nn.init.zeros_(self.generator[-1].bias)

    @property
    def code_size(self) -> int:
        """Numbers of a place's embedding."""
        return self.config.code

    @property
    def support(self) -> int:
        """Windows of a place that its embedding is made of."""
        return self.config.support

    def forward(self, batch: Batch, support: Tensor | None = None, group: Tensor | None = None) -> Tensor:
        """Return scaled fluxes (B, supervised, targets) in training, (B, 1, targets) otherwise.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows; without `support`, the last `code_size` of `numbers` (B, S + code_size) are their embeddings.
        support : (G, K, T, V) Tensor, optional
            Windows of drivers of the windows' own places.
        group : (B,) Tensor, optional
            Which of the G is each window's; by default the one of its number.
        """
        if not self.joint or not self.config.modulate:
            return super().forward(batch)
        code = self._given_code(batch) if support is None else self.encoded(support)
        return super().forward(batch, self.film(code if group is None else code[group]))

    def film(self, code: Tensor) -> Film:
        """Turn embeddings (B, code) into what modulates their windows."""
        width, hidden = self.embedded, self.config.hidden
        gamma1, beta1, gamma2, beta2 = self.generator(code)[:, None].split([width, width, hidden, hidden], -1)
        return Film(1 + gamma1, beta1, 1 + gamma2, beta2)

    def encoded(self, support: Tensor) -> Tensor:
        """Return embeddings (B, code): the mean over support windows (B, K, T, V)."""
        flat = self.driven(support.flatten(0, 1))
        _, (hidden, _) = self.encoder(flat)
        codes = self.code(torch.cat([hidden[0], hidden[1]], -1))
        return codes.unflatten(0, support.shape[:2]).mean(1)

    def encode(self, support: np.ndarray) -> np.ndarray:
        """Return embeddings (n, code) float32 of places' support windows (n, K, T, V), normalised; NaN is missing."""
        if self.training:
            self.eval()
        device = self.head.weight.device
        size = max(1, _PASS // max(1, support.shape[1]))
        out = [np.empty((0, self.code_size), np.float32)]
        with torch.inference_mode():
            for at in range(0, len(support), size):
                part = np.ascontiguousarray(support[at : at + size], np.float32)
                part = torch.from_numpy(part).to(device)
                out.append(self.encoded(part).float().cpu().numpy())
        return np.concatenate(out)

    def _given_code(self, batch: Batch) -> Tensor:
        given = batch.numbers.shape[-1] - self.sizes.numbers
        if given != self.code_size:
            raise ConfigError(
                f"a batch for {self.kind} needs {self.code_size} numbers of its place's embedding after its "
                f"{self.sizes.numbers} static ones, found {given}: encode the support first."
            )
        return batch.numbers[:, self.sizes.numbers :]

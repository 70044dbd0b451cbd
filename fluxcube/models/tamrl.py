"""TAM-RL: an LSTM whose input and hidden state are modulated by an embedding of its place.

The embedding is made from support windows: windows of the model inputs of the same place, without any flux.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.lstm import SMALL, LSTMConfig, Recurrent

#: Maximum number of support windows in one pass of the encoder outside of training.
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
        Width of the input layer, which is modulated; 0 modulates the inputs themselves.
    static : bool
        Whether numbers and one-hot classes of the place are among the inputs. The paper has False, so that the
        modulation of TAM-RL has information that the forward model lacks.
    """

    embedding: int = 64
    static: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.embedding < 0:
            raise ConfigError(f"embedding must be 0 or more, found {self.embedding}.")

    @classmethod
    def small(cls) -> TAMLSTMConfig:
        """Return the settings with the best validation score in `recipes/daily`: seconds per seed on a laptop."""
        return cls(**SMALL, embedding=32)

    @classmethod
    def published(cls) -> TAMLSTMConfig:
        """Return the paper's form, without static inputs, at the width of CarbonBench's best.

        References
        ----------
        arXiv:2603.09974 (form), arXiv:2603.09868 (width)
        """
        return cls(hidden=128, embedding=128, static=False)


@dataclass(frozen=True, kw_only=True)
class TAMRLConfig(TAMLSTMConfig):
    """Shape of TAM-RL.

    Attributes
    ----------
    code : int
        Length of z, the embedding of a place.
    encoder : int
        Hidden width of the task encoder in each direction.
    generator : int
        Hidden width of the generator.
    support : int
        Number of support windows of a place; its embedding is the mean over them.
    queries : int
        Maximum number of windows of a place, `stride` days apart, that share their support windows in training.
    modulate : bool
        Whether the embedding modulates anything; False is the forward model alone, trained the same way.
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
        """Return the settings with the best validation score in `recipes/daily`: seconds per seed on a laptop."""
        return cls(**SMALL, embedding=32, queries=8)

    @classmethod
    def published(cls) -> TAMRLConfig:
        """Return the paper's form, without static inputs of the forward model, at the widths of CarbonBench's best.

        References
        ----------
        arXiv:2603.09974 (form), arXiv:2603.09868 (widths, the best by class)
        """
        return cls(hidden=128, embedding=128, code=64, encoder=128, generator=64, static=False)


class TAMLSTM(Recurrent):
    """TAM-RL's forward model alone: input layer, LSTM, linear head.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026, arXiv:2603.09974
    """

    kind = "tam-lstm"
    config: TAMLSTMConfig

    def __init__(self, config: TAMLSTMConfig, sizes: Sizes):
        self.static = config.static  # before Module's own __init__, as a plain attribute
        super().__init__(config, sizes)
        self.embed_input = nn.Linear(self._width, config.embedding) if config.embedding else nn.Identity()

    def _lstm(self, width: int) -> nn.LSTM:
        self._width = width
        return super()._lstm(self.config.embedding or width)

    @property
    def embedded(self) -> int:
        """Width of the inputs of the LSTM."""
        return self.config.embedding or self._width

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return scaled fluxes (B, supervised, targets) in training, (B, 1, targets) otherwise."""
        return self.modulated(batch, None)

    def modulated(self, batch: Batch[Tensor], film: Film | None) -> Tensor:
        """Return what `forward` returns, with modulated input layer and hidden state.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows.
        film : Film or None
            Modulation of each window; None is gamma = 1, beta = 0.
        """
        x = self.embed_input(self.features(batch))
        x = x if film is None else film.gamma1 * x + film.beta1
        hidden, _ = self.lstm(x)
        hidden = hidden if film is None else film.gamma2 * hidden + film.beta2
        return self.fluxes(hidden, x)


class TAMRL(TAMLSTM):
    """Task-aware modulation: an embedding of the place modulates the forward model.

    A BiLSTM encodes each support window of a place; the mean is its embedding z. A generator turns z into the
    modulation of the forward model.

    Embeddings are the last `embedding_size` columns of a batch's numbers, so that a place is encoded once for all its
    windows; in training `forward` computes them from support windows that are passed to it.

    The generator begins with gamma = 1 and beta = 0, so that joint training starts from the trained forward model.

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
    config: TAMRLConfig
    #: The forward model is trained alone first, then with encoder and generator.
    stages = 2
    uses_support = True

    def __init__(self, config: TAMRLConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.encoder = nn.LSTM(self.n_inputs, config.encoder, batch_first=True, bidirectional=True)
        self.code = nn.Linear(2 * config.encoder, config.code)
        first = nn.Linear(config.code, config.generator)  # before the last one: the order decides the random weights
        last = nn.Linear(config.generator, 2 * (self.embedded + config.hidden))
        self.generator = nn.Sequential(first, nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @property
    def embedding_size(self) -> int:
        """Length of a place's embedding."""
        return self.config.code

    @property
    def support_windows(self) -> int:
        """Number of support windows that an embedding is made from."""
        return self.config.support

    @property
    def support_queries(self) -> int:
        """Maximum number of training windows of a place that share their support windows."""
        return self.config.queries

    def forward(self, batch: Batch[Tensor], support: Tensor | None = None, group: Tensor | None = None) -> Tensor:
        """Return scaled fluxes (B, supervised, targets) in training, (B, 1, targets) otherwise.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows; without `support`, the last `embedding_size` columns of `numbers` are their embeddings.
        support : (G, K, T, V) Tensor, optional
            Support windows of the places of the windows.
        group : (B,) Tensor, optional
            Index into `support` for each window; by default its own position.
        """
        if not self.joint or not self.config.modulate:
            return self.modulated(batch, None)
        embedding = self._embedding_of(batch) if support is None else self.encoded(support)
        return self.modulated(batch, self.film(embedding if group is None else embedding[group]))

    def film(self, embedding: Tensor) -> Film:
        """Return the modulation of windows from their embeddings (B, embedding_size)."""
        width, hidden = self.embedded, self.config.hidden
        gamma1, beta1, gamma2, beta2 = self.generator(embedding)[:, None].split([width, width, hidden, hidden], -1)
        return Film(1 + gamma1, beta1, 1 + gamma2, beta2)

    def encoded(self, support: Tensor) -> Tensor:
        """Return embeddings (B, embedding_size): the mean over support windows (B, K, T, V)."""
        flat = self.filled(support.flatten(0, 1))
        _, (hidden, _) = self.encoder(flat)
        embeddings = self.code(torch.cat([hidden[0], hidden[1]], -1))
        return embeddings.unflatten(0, support.shape[:2]).mean(1)

    def encode(self, support: np.ndarray) -> np.ndarray:
        """Return embeddings (n, embedding_size) float32 of normalised support windows (n, K, T, V); NaN is missing."""
        if self.training:
            self.eval()
        device = self.head.weight.device
        size = max(1, _PASS // max(1, support.shape[1]))
        out = [np.empty((0, self.embedding_size), np.float32)]
        with torch.inference_mode():
            for at in range(0, len(support), size):
                part = torch.from_numpy(np.ascontiguousarray(support[at : at + size], np.float32))
                out.append(self.encoded(part.to(device)).float().cpu().numpy())
        return np.concatenate(out)

    def _embedding_of(self, batch: Batch[Tensor]) -> Tensor:
        found = batch.numbers.shape[-1] - self.sizes.numbers
        if found != self.embedding_size:
            raise ConfigError(
                f"a batch for {self.kind} needs an embedding of {self.embedding_size} numbers after its "
                f"{self.sizes.numbers} static numbers, found {found}: encode the support windows first."
            )
        return batch.numbers[:, self.sizes.numbers :]

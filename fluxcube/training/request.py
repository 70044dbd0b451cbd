"""The request of a fit: what `fluxcube.fit` was called with, checked as far as it can be without a cube."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fluxcube.errors import ConfigError
from fluxcube.models import registry
from fluxcube.models.base import Config
from fluxcube.resolution import DEFAULT, Default, QualityLimit
from fluxcube.samples.splits import SplitChoice
from fluxcube.stores.objects import Bucket
from fluxcube.training.config import TrainingConfig
from fluxcube.training.run import by_torchrun
from fluxcube.training.settings import LABEL_SETTINGS, takes_weights

#: Settings of the loss that only gradient descent uses.
_LOSS = ("balance", "pretrain_epochs")


@dataclass(frozen=True, eq=False, kw_only=True)
class FitRequest:
    """What to learn, from what and how; the meanings are those of the parameters of `fluxcube.training.fit.fit`.

    Raises
    ------
    ConfigError
        If options exclude each other, or would have no effect for the model.
    UnknownNameError
        If there is no such model.
    """

    model: str
    limit: QualityLimit
    target: str | Sequence[str] | None = None
    predictors: Sequence[str] | None = None
    memory_days: Sequence[int] | None = None
    bands: Sequence[str] | None = None
    static: Sequence[str] | None = None
    bounds: str | None = None
    surface: Sequence[str] | Default | None = DEFAULT
    lookahead: int | None = None
    pixels: int | None = None
    images: Sequence[str] | None = None
    split: SplitChoice | None = None
    train_igbp: str | Sequence[str] | None = None
    config: Config | Mapping | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    init: str | os.PathLike | Bucket | None = None
    seed: int = 0
    search: int | None = None
    bag: float = 1.0

    def __post_init__(self):
        cls, descent = registry.model_class(self.model), registry.by_descent(self.model)
        if self.search is not None and not cls.searchable:
            raise ConfigError(f"search is not available for {self.model}: leave it out, or set its config.")
        if self.search is not None and self.search < 1:
            raise ConfigError(f"search must be 1 draw or more, found {self.search}.")
        if not 0 < self.bag <= 1:
            raise ConfigError(
                f"bag must be a fraction of the training towers, above 0 and at most 1, found {self.bag}."
            )
        if self.init is not None and not descent:
            known = " or ".join(registry.names(trainer="descent"))
            raise ConfigError(f"init trains a checkpoint of {known} further: {self.model} cannot be; leave it out.")
        if self.memory_days and cls.uses_support:
            raise ConfigError(
                f"memory_days: the support windows of {self.model} cannot contain trailing means; leave them out."
            )
        if not descent:
            self._check_without_descent()
        elif self.training.pretrain_epochs is not None and cls.stages < 2:
            raise ConfigError(f"pretrain_epochs is for models of two stages: {self.model} is trained in one stage.")

    def _check_without_descent(self) -> None:
        """Refuse what only gradient descent can use."""
        if by_torchrun():
            raise ConfigError(f"{self.model} trains in one process: start it without torchrun.")
        names = _LOSS if takes_weights(self.model) else (*LABEL_SETTINGS, *_LOSS)
        values = {name: getattr(self.training, name) for name in names}
        if unused := [name for name, value in values.items() if value is not None and value is not False]:
            raise ConfigError(
                f"{' and '.join(unused)}: settings of gradient descent, which does not train {self.model}; leave them "
                "out."
            )

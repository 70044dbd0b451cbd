"""The scores of two arrays, from their moments."""

from __future__ import annotations

import numpy as np

from fluxcube.moments import SCORES, moments, scores_of


def _kernel(name):
    def score(obs, pred, axis=None) -> np.ndarray:
        return scores_of(moments(obs, pred, axis))[name]

    return score


KERNELS = {name: _kernel(name) for name in SCORES}
nse, rmse, mae, bias, corr2 = KERNELS.values()

"""Description of a model in a notebook."""

from __future__ import annotations

from typing import Any

from fluxcube.cards import card, few
from fluxcube.errors import without_secrets


def predictor_card(predictor: Any) -> str:  # a Predictor, whose module imports this one
    """Return what a model predicts, from what, and how good it was on its validation towers, as HTML."""
    spec, about = predictor.spec, predictor.metadata
    split, units = about.get("split") or {}, about.get("target_units") or {}
    last = (about.get("history") or [{}])[-1]
    scores = [f"{name[4:]} {value:.3g}" for name, value in last.items() if name.startswith("val_")]
    where = without_secrets(predictor.place)
    facts = {
        "folder": where,
        "targets": ", ".join(f"{name} ({units[name]})" if name in units else name for name in spec.targets),
        "predictors": few(spec.predictors, 12),
        "trailing means": f"{', '.join(map(str, spec.memory_days))} days" if spec.memory_days else "",
        "satellite": few((*spec.surface, *spec.bands, *(kind.array for kind in spec.images)), 12),
        "static": ", ".join(spec.static),
        "data": predictor.resolution,
        "validation": ", ".join(scores),
        **{part: f"{len(split[part])}: {few(split[part])}" for part in ("train", "test") if split.get(part)},
        "calibrated": ", ".join(predictor.calibrated),
    }
    members = len(predictor.model.members)
    title = f"Predictor: {f'{members} of ' if members else ''}{predictor.model.kind}"
    return card(title, facts, ("fc.predict(model, cube)", "fc.upscale(model, forcing)"))

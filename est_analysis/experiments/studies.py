"""Every recipe by name."""

from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from est_analysis.errors import unknown_name
from est_analysis.experiments import (
    est_ablations,
    first_experiments,
    flatness,
    grid,
    polynomial_recipes,
    raptr_ablations,
    reproduce,
    stability_depth,
)
from est_analysis.experiments.recipes import RECIPES
from est_analysis.experiments.study import Request, Study


def _stability(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    settings = stability_depth.SCALES[request.scale]
    settings = replace(settings, seeds=request.seeds or settings.seeds)
    request.say(f"{request.scale} scale: {settings.seeds} nets a variant, width {settings.width}")
    frame = stability_depth.measure_stability_depth(settings)
    return frame, {"seeds": list(range(settings.seeds))}


_TEXT = [
    Study(
        name=recipe.name,
        description=recipe.description,
        version=recipe.version,
        scales={name: scale.cost for name, scale in recipe.scales.items()},
        measure=partial(reproduce.measure, recipe),
    )
    for recipe in RECIPES.values()
]
_STABILITY = Study(
    name="stability-vs-depth",
    description="how much a net at initialisation moves when one layer is bypassed, against depth",
    version=1,
    scales={"smoke": "seconds", "quick": "under a minute on one core", "report": "about ten minutes on one core"},
    measure=_stability,
    on_text=False,
)
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        *_TEXT,
        grid.STUDY,
        est_ablations.ABLATION.study,
        raptr_ablations.ABLATION.study,
        flatness.STUDY,
        *polynomial_recipes.STUDIES,
        _STABILITY,
        first_experiments.STUDY,
    )
}


def find_study(name: str) -> Study:
    """The recipe called `name`.

    Raises:
        InputError: no such recipe; the message lists those there are.
    """
    if name not in STUDIES:
        raise unknown_name("recipe", name, STUDIES)
    return STUDIES[name]

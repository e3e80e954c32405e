"""Every recipe by name."""

from est_analysis.errors import unknown_name
from est_analysis.experiments.language_models import (
    est_ablations,
    flatness,
    grid,
    raptr_ablations,
    reproduce,
    sampling_overhead,
)
from est_analysis.experiments.small_nets import first_experiments, polynomial_recipes, stability_depth
from est_analysis.experiments.study import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        reproduce.STUDY,
        grid.STUDY,
        est_ablations.ABLATION.study,
        raptr_ablations.ABLATION.study,
        flatness.STUDY,
        *polynomial_recipes.STUDIES,
        stability_depth.STUDY,
        first_experiments.STUDY,
        sampling_overhead.STUDY,
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

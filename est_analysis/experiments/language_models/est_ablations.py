"""What EST's parts, its schedule and its sampling law are worth: each changed alone, on the grid's GPT-2.

The baseline, EST and the controls are the grid's own runs. Every contender has the learning rate that was best for it
in a sweep (scale `rates`).
"""

from typing import Any

from est_analysis.experiments.language_models.ablation import Ablation
from est_analysis.experiments.language_models.contenders import CONTENDERS as ON_THE_GRID
from est_analysis.experiments.language_models.contenders import Contender
from est_analysis.experiments.language_models.grid_rates import BEST_RATE as GRID_RATES
from est_analysis.experiments.language_models.grid_rates import BEST_RATE_LONGER as GRID_RATES_LONGER

_FROM_THE_GRID = ("full", "short", "est", "est/two-stage", "est/constant")


def _est(schedule: str, note: str, **options: Any) -> Contender:
    return Contender(method="est", schedule=schedule, options=options, note=note)


COMPONENTS: dict[str, Contender] = {
    "est/only-heads": _est("70:0.5,1,1; 150:1,1,1", "EST's stages, only heads sampled"),
    "est/only-mlp": _est("70:1,0.5,1; 150:1,1,1", "EST's stages, only MLP columns sampled"),
    "est/only-layers": _est("20:1,1,0.5; 150:1,1,1", "EST's stages, only layers sampled: in the first one"),
    "est/heads-layers": _est("20:0.5,1,0.5; 70:0.5,1,1; 150:1,1,1", "EST's stages, no MLP columns sampled"),
    "est/mlp-layers": _est("20:1,0.5,0.5; 70:1,0.5,1; 150:1,1,1", "EST's stages, no heads sampled"),
}
SCHEDULES: dict[str, Contender] = {
    "est/one-stage": _est("gpt2-one-stage", "Table 3: the complete model is never trained"),
    "est/two-stage-a": _est("gpt2-two-stage-a", "Table 3"),
    "est/two-stage-b": _est("gpt2-two-stage-b", "Table 3; also EST's stages without layers sampled"),
    "est/two-stage-c": _est("gpt2-two-stage-c", "Table 3"),
    "est/three-stage": _est("gpt2-three-stage", "Table 3: layers sampled in stage 2, heads and MLP not"),
    "est/half-as-long": _est("10:0.5,0.5,0.5; 35:0.5,0.5,1; 150:1,1,1", "the sampled stages half as long"),
    "est/twice-as-long": _est("40:0.5,0.5,0.5; 140:0.5,0.5,1; 150:1,1,1", "the sampled stages twice as long"),
    "est/mild": _est("20:0.75,0.75,0.75; 70:0.75,0.75,1; 150:1,1,1", "three quarters where EST has a half"),
    "est/harsh": _est("20:0.25,0.25,0.25; 70:0.25,0.25,1; 150:1,1,1", "a quarter where EST has a half"),
    "est/linear": _est(
        "160:0.5,0.5,1; 320:0.75,0.75,1; 450:1,1,1", "equal steps of size for equally long, at EST's 26.7 %"
    ),
    "est/exponential": _est("32:0.25,0.25,1; 64:0.5,0.5,1; 150:1,1,1", "doubling after equally long, at EST's 26.7 %"),
}
LAWS: dict[str, Contender] = {
    "est/bernoulli": _est("", "each head, column and layer by itself with probability p", law="bernoulli"),
    "est/unscaled": _est("", "without the factors 1/p of eqs. 5 and 6", normalise=False),
}
CONTROLS: dict[str, Contender] = {
    "short/half": Contender(
        method="short", schedule="gpt2-one-stage", note="control: the full model on ONE-STAGE's layer FLOPs"
    ),
}
CONTENDERS: dict[str, Contender] = {
    **{label: ON_THE_GRID[label] for label in _FROM_THE_GRID},
    **COMPONENTS,
    **SCHEDULES,
    **LAWS,
    **CONTROLS,
}
# The sweep is in paper_figures/data/ablation_rates.csv.
BEST_RATE: dict[str, float] = {
    **{label: GRID_RATES["gpt2"][label] for label in _FROM_THE_GRID},
    "est/only-heads": 4e-3,
    "est/only-mlp": 4e-3,
    "est/only-layers": 2e-3,
    "est/heads-layers": 2e-3,
    "est/mlp-layers": 2e-3,
    "est/one-stage": 4e-3,
    "est/two-stage-a": 4e-3,
    "est/two-stage-b": 4e-3,
    "est/two-stage-c": 4e-3,
    "est/three-stage": 2e-3,
    "est/half-as-long": 2e-3,
    "est/twice-as-long": 2e-3,
    "est/mild": 4e-3,
    "est/harsh": 2e-3,
    "est/linear": 4e-3,
    "est/exponential": 4e-3,
    "est/bernoulli": 2e-3,
    "est/unscaled": 4e-3,
    "short/half": 4e-3,
}

# For four times the steps: the paper's Table 3, and what stood out after the shorter training. The sweep of those that
# the grid has not is in paper_figures/data/ablation_rates_report.csv.
BEST_RATE_LONGER: dict[str, float] = {
    **{label: GRID_RATES_LONGER["gpt2"][label] for label in ("full", "short", "est")},
    "short/half": 16e-3,
    "est/one-stage": 8e-3,
    "est/two-stage-a": 8e-3,
    "est/two-stage-b": 8e-3,
    "est/two-stage-c": 8e-3,
    "est/three-stage": 4e-3,
    "est/only-layers": 4e-3,
    "est/half-as-long": 4e-3,
    "est/unscaled": 8e-3,
}

ABLATION = Ablation(
    name="est-ablations",
    description="EST's components, schedules and sampling law, each changed alone, on the grid's GPT-2",
    contenders=CONTENDERS,
    rates=BEST_RATE,
    longer_rates=BEST_RATE_LONGER,
    costs={
        "smoke": "a minute or two; shows that the code runs, nothing else",
        "rates": "the learning-rate sweep: three runs a contender or more",
        "quick": "about half an hour on one core, besides the grid's own runs",
        "report-rates": "the learning-rate sweep for `report`, over an hour on two cores",
        "report": "about half an hour on two cores: twelve contenders for four times the steps",
    },
)

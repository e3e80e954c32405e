"""How much RaPTr depends on its schedule, its axis and its scaling, beside stacking on the same schedules.

On the grid's GPT-2, at a quarter fewer layer FLOPs each (with warm-up 17.5 %), with the best learning rate of each
(scale `rates`). What the grid has, it runs there. RaPTr keeps the first and last of the eight layers always.
"""

from est_analysis.experiments.language_models.ablation import Ablation
from est_analysis.experiments.language_models.contenders import CONTENDERS as ON_THE_GRID
from est_analysis.experiments.language_models.contenders import Contender
from est_analysis.experiments.language_models.grid_rates import BEST_RATE as GRID_RATES
from est_analysis.experiments.language_models.grid_rates import BEST_RATE_LONGER as GRID_RATES_LONGER

_FROM_THE_GRID = ("full", "short", "raptr", "stochastic_depth", "gradual_stacking")
_TWO_STAGES = "1:1,1,0.5; 2:1,1,1"
_DOUBLING = "1:1,1,0.25; 2:1,1,0.5; 5:1,1,1"


def _raptr(schedule: str, note: str, output_scale: str = "none") -> Contender:
    options = {} if output_scale == "none" else {"output_scale": output_scale}
    return Contender(method="raptr", schedule=schedule, options=options, note=note)


SCHEDULES: dict[str, Contender] = {
    "raptr/two-stage": _raptr(_TWO_STAGES, "half of the layers for half of the steps"),
    "raptr/exponential": _raptr(
        _DOUBLING,
        "a quarter, half, all of the layers: doubling after equally long; a quarter are the two that always run, so "
        "that nothing is random there",
    ),
    "raptr/late": _raptr("2:1,1,0.625; 3:1,1,1", "five of eight layers for two thirds of the steps"),
    "raptr/warm-up": _raptr(
        "ul2-raptr-12-16-20-24", "all layers for 30 % of the steps first, then half to all: 17.5 % saved"
    ),
    "gradual_stacking/two-stage": Contender(
        method="gradual_stacking", schedule=_TWO_STAGES, note="RaPTr's schedule of that name"
    ),
    "gradual_stacking/exponential": Contender(
        method="gradual_stacking", schedule=_DOUBLING, note="RaPTr's schedule of that name"
    ),
}
AXES: dict[str, Contender] = {
    "raptr/width": _raptr(
        "1:0.5,0.5,1; 2:0.75,0.75,1; 3:1,1,1", "heads and MLP columns instead of layers, in equal steps"
    ),
}
SCALINGS: dict[str, Contender] = {
    f"raptr/{scale}": _raptr("", "6-8-10-12 with kept layers scaled", scale)
    for scale in ("sqrt_gap", "linear_gap", "inv_p")
}
CONTENDERS: dict[str, Contender] = {
    **{label: ON_THE_GRID[label] for label in _FROM_THE_GRID},
    **SCHEDULES,
    **AXES,
    **SCALINGS,
}
# The sweep is in paper_figures/data/raptr_ablation_rates.csv.
BEST_RATE: dict[str, float] = {
    **{label: GRID_RATES["gpt2"][label] for label in _FROM_THE_GRID},
    "raptr/two-stage": 4e-3,
    "raptr/exponential": 8e-3,
    "raptr/late": 8e-3,
    "raptr/warm-up": 8e-3,
    "gradual_stacking/two-stage": 8e-3,
    "gradual_stacking/exponential": 8e-3,
    "raptr/width": 4e-3,
    "raptr/sqrt_gap": 4e-3,
    "raptr/linear_gap": 4e-3,
    "raptr/inv_p": 4e-3,
}

# For four times the steps: schedules, RaPTr's and stacking's, and RaPTr's own scaling. The sweep of those that the grid
# has not is in paper_figures/data/raptr_ablation_rates_report.csv.
BEST_RATE_LONGER: dict[str, float] = {
    **{label: GRID_RATES_LONGER["gpt2"][label] for label in ("full", "short", "raptr", "gradual_stacking")},
    "raptr/two-stage": 8e-3,
    "raptr/exponential": 8e-3,
    "raptr/late": 8e-3,
    "raptr/warm-up": 16e-3,
    "raptr/sqrt_gap": 8e-3,
    "gradual_stacking/two-stage": 16e-3,
    "gradual_stacking/exponential": 8e-3,
}

ABLATION = Ablation(
    name="raptr-ablations",
    description="RaPTr's schedule, axis and scaling, each changed alone, beside stacking, on the grid's GPT-2",
    contenders=CONTENDERS,
    rates=BEST_RATE,
    longer_rates=BEST_RATE_LONGER,
    costs={
        "smoke": "a minute or two; shows that the code runs, nothing else",
        "rates": "the learning-rate sweep: three runs a contender or more",
        "quick": "about a quarter of an hour on one core, besides the grid's own runs",
        "report-rates": "the learning-rate sweep for `report`, about an hour on two cores",
        "report": "half an hour on two cores: its schedules, stacking's and its scaling for four times the steps",
    },
)

"""Learning rates of the grid: the best of each contender on each family, found by the rule of `rate_sweep`.

Version 1 of the grid had GPT-2's rates for all, which left BERT's and T5's baselines badly trained. Version 2 trusted
one seed, and took the rates of the common length for other budgets: RaPTr then lay 0.024 nats [-0.005, 0.053] above the
line through full models at once and twice the steps.
"""

from collections.abc import Mapping

Rates = Mapping[str, Mapping[str, float]]  # family -> contender -> learning rate

_FAMILIES = ("gpt2", "llama", "megatron-bert", "t5")
_THOUSANDTHS = {
    "full": (8, 4, 4, 2),
    "short": (4, 4, 1, 4),
    "est": (2, 2, 2, 2),
    "est/two-stage": (4, 4, 2, 4),
    "est/constant": (4, 4, 2, 2),
    "raptr": (4, 2, 2, 2),
    "raptr_reversed": (8, 4, 4, 2),
    "stochastic_depth": (8, 4, 2, 4),
    "pld": (4, 2, 1, 2),
    "gradual_stacking": (8, 4, 8, 4),
    "msg": (16, 4, 2, 2),
    "staged": (16, 4, 4, 8),
}
# The sweep is in paper_figures/data/grid_rates.csv.
BEST_RATE: Rates = {
    family: {label: rates[place] / 1000 for label, rates in _THOUSANDTHS.items()}
    for place, family in enumerate(_FAMILIES)
}
# Of those that run at other budgets of steps too, on GPT-2.
BEST_RATE_AT: Mapping[float, Rates] = {
    0.5: {"gpt2": {"full": 4e-3, "est": 4e-3, "raptr": 2e-3}},
    2.0: {"gpt2": {"full": 16e-3, "est": 4e-3, "raptr": 8e-3}},
}
# For four times the steps: of the contenders swept at this length, and of two that keep a rate as high as the full
# model's; the others do not run at it. The sweep is in paper_figures/data/grid_rates_report.csv.
_LONGER_THOUSANDTHS: Mapping[str, Mapping[str, float]] = {
    "gpt2": {
        "full": 16,
        "short": 16,
        "est": 4,
        "raptr": 8,
        "raptr_reversed": 16,
        "stochastic_depth": 8,
        "gradual_stacking": 16,
        "msg": 16,
        "staged": 16,
    },
    "llama": {"full": 8, "short": 8, "est": 4, "raptr": 8},
    "megatron-bert": {"full": 8, "short": 4, "est": 4, "raptr": 8},
    "t5": {"full": 4, "short": 4, "est": 2, "raptr": 4},
}
BEST_RATE_LONGER: Rates = {
    family: {label: rate / 1000 for label, rate in rates.items()} for family, rates in _LONGER_THOUSANDTHS.items()
}
# What `report-rates` sweeps: a family runs at `report` once it has rates of its own.
_FEW = ("full", "short", "est", "raptr")
LONGER: Mapping[str, tuple[str, ...]] = {
    "gpt2": tuple(_LONGER_THOUSANDTHS["gpt2"]),
    "llama": _FEW,
    "megatron-bert": _FEW,
    "t5": _FEW,
}


def best_rate(family: str, label: str, rates: Rates = BEST_RATE) -> float:
    """The learning rate of a contender: the baseline's for one that was not in the sweep, GPT-2's for such a family."""
    of_family = rates[family if family in rates else "gpt2"]
    return of_family.get(label, of_family["full"])

"""Learning rates of the grid: the best of each contender on each family, and how a sweep finds it.

A sweep tries `RATES` on seed 100, which the grid itself does not run. Where the best of them is the lowest or the
highest, the next octave is tried too, as far as `LIMITS`. Then the two best are run on two seeds more, and all of
`RATES` of the full model and the shorter one, which all others are judged by; the lowest mean counts. Rates that one
seed orders another may order the other way, the more so at the edge of what can be trained.

How the rule came about: at first one seed decided. When in a run of the grid one of the full model's three seeds failed
at a rate beyond `RATES`, such rates had to hold on more seeds. When on the grid's own seeds the shorter full model did
better at a rate that the sweep had not chosen, all had to, and budgets other than 1 got rates of their own; on the
sweep's seeds that model keeps its rate. So far that is done on GPT-2; other families have the rates of one seed.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

RATES = (2e-3, 4e-3, 8e-3)
LIMITS = (0.5e-3, 32e-3)
MORE_SEEDS = (101, 102)
_CONTROLS = ("full", "short")

Rates = Mapping[str, Mapping[str, float]]  # family -> contender -> learning rate
Swept = tuple[str, str, float]  # family, contender, budget
_SWEPT = ["family", "method", "budget"]

_FAMILIES = ("gpt2", "llama", "megatron-bert", "t5")
_THOUSANDTHS = {
    "full": (8, 4, 4, 2),
    "short": (4, 2, 1, 2),
    "est": (2, 2, 2, 2),
    "est/two-stage": (4, 4, 2, 4),
    "est/constant": (4, 4, 2, 4),
    "raptr": (4, 2, 2, 2),
    "raptr_reversed": (8, 4, 4, 2),
    "stochastic_depth": (8, 4, 2, 4),
    "pld": (4, 4, 1, 4),
    "gradual_stacking": (8, 4, 4, 4),
    "msg": (16, 4, 8, 4),
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
_LONGER_THOUSANDTHS: dict[str, float] = {
    "full": 16,
    "short": 16,
    "est": 4,
    "raptr": 8,
    "raptr_reversed": 16,
    "stochastic_depth": 8,
    "gradual_stacking": 16,
    "msg": 16,
    "staged": 16,
}
BEST_RATE_LONGER: Rates = {"gpt2": {label: rate / 1000 for label, rate in _LONGER_THOUSANDTHS.items()}}


def best_rate(family: str, label: str, rates: Rates = BEST_RATE) -> float:
    """The learning rate of a contender: the baseline's for one that was not in the sweep, GPT-2's for such a family."""
    of_family = rates.get(family, rates["gpt2"])
    return of_family.get(label, of_family["full"])


def beyond(sweep: pd.DataFrame) -> dict[Swept, tuple[float, float]]:
    """What a sweep has to try next on its first seed.

    Args:
        sweep: columns family, method, budget, lr, seed and validation_loss (final), one finished run a row.

    Returns:
        What was swept -> (its best rate, the next octave to try), where the best is at an end inside `LIMITS`.
    """
    found = {}
    for name, losses in _on_the_first_seed(sweep):
        best = float(losses.idxmin())
        for end, octave in ((losses.index.min(), best / 2), (losses.index.max(), best * 2)):
            if best == end and LIMITS[0] <= octave <= LIMITS[1] and octave not in losses.index:
                found[name] = (best, octave)
    return found


def finalists(sweep: pd.DataFrame) -> dict[Swept, tuple[float, ...]]:
    """The two best rates on the first seed, the best first; then, of the full and the shorter model, those of `RATES`.

    Args:
        sweep: as for `beyond`.
    """
    return {
        name: tuple(
            dict.fromkeys([*map(float, losses.nsmallest(2).index), *(RATES if name[1].startswith(_CONTROLS) else ())])
        )
        for name, losses in _on_the_first_seed(sweep)
    }


def _on_the_first_seed(sweep: pd.DataFrame) -> Iterator[tuple[Swept, pd.Series]]:
    """Losses by learning rate of everything that was swept."""
    for name, runs in sweep[sweep["seed"] == sweep["seed"].min()].groupby(_SWEPT):
        yield name, runs.set_index("lr")["validation_loss"]


def best_rates(sweep: pd.DataFrame) -> dict[Swept, float]:
    """Of the finalists the one with the least mean loss over all seeds of the sweep.

    Args:
        sweep: as for `beyond`. One whose finalists have not run on more seeds is decided by its first.
    """
    runs = sweep.groupby([*_SWEPT, "lr"])["validation_loss"].agg(["mean", "size"])
    best = {}
    for name, rates in finalists(sweep).items():
        most = max(runs["size"][(*name, rate)] for rate in rates)
        several = [rate for rate in rates if runs["size"][(*name, rate)] == most]
        best[name] = min(several, key=lambda rate, name=name: runs["mean"][(*name, rate)])
    return best

"""How fast each estimator of a trace closes in on a trace that is known."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from est_analysis.curvature.hvp import HessianOperator
from est_analysis.curvature.loss import Objective
from est_analysis.curvature.lowrank import hutch_pp, xtrace
from est_analysis.curvature.taylor.engine import TaylorEngine
from est_analysis.curvature.trace import Budget, hutchinson
from est_analysis.rng import stream

Estimator = Callable[[int, int], float]  # budget, repeat -> estimate


def dense_hessian(objective: Objective, batches: Sequence[Any]) -> Tensor:
    """The whole Hessian of the mean loss over `batches`, (n, n) in float64, a column a product: for small n."""
    operator = HessianOperator(objective, batches)
    like = next(iter(objective.parameters.values()))
    columns = [operator.matvec(unit).double() for unit in torch.eye(operator.n, dtype=like.dtype, device=like.device)]
    return torch.stack(columns, dim=1)


def convergence(
    objective: Objective,
    batches: Sequence[Any],
    hessian: Tensor,
    *,
    budgets: Sequence[int],
    repeats: int,
    seed: int,
) -> pd.DataFrame:
    """Estimates of the trace at equal cost.

    Args:
        objective: the loss.
        batches: the data, equally many targets each.
        hessian: of the mean loss over them, from `dense_hessian`.
        budgets: costs, in Hessian-vector products with all of the data (or as many with its parts); multiples of 6.
        repeats: of each estimator at each budget, with other random vectors.
        seed: of those.

    Returns:
        Columns estimator, budget, repeat, estimate, truth.
    """
    estimators = _estimators(objective, batches, hessian, seed)
    truth = float(hessian.trace())
    rows = [
        (name, budget, repeat, estimator(budget, repeat), truth)
        for name, estimator in estimators.items()
        for budget in budgets
        for repeat in range(repeats)
    ]
    return pd.DataFrame(rows, columns=["estimator", "budget", "repeat", "estimate", "truth"])


def _estimators(objective: Objective, batches: Sequence[Any], hessian: Tensor, seed: int) -> dict[str, Estimator]:
    n = len(hessian)

    def fixed(budget: int, repeat: int) -> float:
        signs = torch.randint(2, (n, budget), generator=stream(seed, "fixed", budget, repeat)).to(hessian) * 2 - 1
        return float(torch.linalg.vecdot(signs, hessian @ signs, dim=0).mean())

    def fresh(budget: int, repeat: int) -> float:
        # Each batch along `budget` probes of its own; one number is kept of each, whatever the engine.
        limits = Budget(rel_se=1e-12, max_pairs=max(budget * len(batches), 2 * budget), probes=budget, target="batches")
        return hutchinson(objective, batches, engine=TaylorEngine(), seed=seed + 1 + repeat, budget=limits).value

    def low_rank(estimate: Callable, name: str) -> Estimator:
        def run(budget: int, repeat: int) -> float:
            generator = stream(seed, name, budget, repeat)
            return estimate(lambda v: hessian @ v, n, budget=budget, generator=generator).value

        return run

    return {
        "Hutchinson, a probe for all data": fixed,
        "Hutchinson, fresh probes a batch": fresh,
        "Hutch++": low_rank(hutch_pp, "hutch++"),
        "XTrace": low_rank(xtrace, "xtrace"),
    }

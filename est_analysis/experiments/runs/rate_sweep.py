"""How a sweep finds the learning rate of each contender.

A sweep tries `RATES` on seed 100, which no other scale runs. Where the best of them is the lowest or the
highest, the next octave is tried too, as far as `LIMITS`. Then the two best are run on two seeds more, and all of
`RATES` of the full model and the shorter one, which all others are judged by; the lowest mean counts. Rates that one
seed orders another may order the other way, the more so at the edge of what can be trained. A run whose loss is no
number any more has an infinite one, and stops nothing.

How the rule came about: at first one seed decided. When in a run of the grid one of the full model's three seeds failed
at a rate beyond `RATES`, such rates had to hold on more seeds. When on the grid's own seeds the shorter full model did
better at a rate that the sweep had not chosen, all had to, and budgets other than 1 got rates of their own; on the
sweep's seeds that model keeps its rate.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:  # it loads torch, which reports of sweeps do without
    from est_analysis.experiments.runs.side_by_side import Entry

RATES = (2e-3, 4e-3, 8e-3)
LIMITS = (0.5e-3, 32e-3)
FIRST_SEED = 100
MORE_SEEDS = (101, 102)
_CONTROLS = ("full", "short")
GRID = ("family", "method", "budget")  # columns that tell the grid's contenders apart

Swept = tuple[Any, ...]  # what a sweep finds one learning rate for: its values of such columns, "method" among them


def try_rates(
    runs: Sequence["Entry"],
    run: Callable[[Sequence["Entry"]], pd.DataFrame],
    *,
    say: Callable[[str], None],
    by: Sequence[str] = GRID,
) -> pd.DataFrame:
    """The rows of `runs` and of all that follow from them; says what is best.

    Args:
        runs: of one seed, at every rate to try.
        run: gives the rows of runs, with the columns `by`, lr and those of a run; runs made before cost nothing again.
        say: is told of each round and of the best rate of each.
        by: labels of the runs, whose values make one thing to find a rate for.
    """
    rows = run(runs)
    while more := following(runs, rows, by=by):
        say(f"{len(more)} runs more, at learning rates next to the best or on more seeds")
        runs = [*runs, *more]
        rows = run(runs)
    for name, rate in best_rates(final_losses(rows), by=by).items():
        say(f"best learning rate of {' '.join(map(str, name))}: {rate:g}")
    return rows


def final_losses(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a run: its last `validation_loss`, in a column of that name."""
    losses = rows[rows["metric"] == "validation_loss"]
    return losses.loc[losses.groupby("run_id")["step"].idxmax()].rename(columns={"value": "validation_loss"})


def following(runs: Sequence["Entry"], rows: pd.DataFrame, *, by: Sequence[str] = GRID) -> list["Entry"]:
    """The runs of a sweep that are still to be made, given the rows of `runs`."""
    losses = final_losses(rows)
    octaves, made = beyond(losses, by=by), {repr(entry.spec) for entry in runs}
    tried = [(tuple(entry.labels[name] for name in by), entry.spec.settings.lr, entry) for entry in runs]
    if octaves:
        more = [_at(entry, lr=octaves[what][1]) for what, lr, entry in tried if lr == octaves.get(what, (None,))[0]]
    else:
        last = finalists(losses, by=by)
        more = [_at(entry, seed=seed) for what, lr, entry in tried for seed in MORE_SEEDS if lr in last[what]]
    return list({repr(entry.spec): entry for entry in more if repr(entry.spec) not in made}.values())


def _at(entry: "Entry", *, lr: float | None = None, seed: int | None = None) -> "Entry":
    """`entry` at another learning rate or with another seed."""
    spec = entry.spec
    settings = spec.settings if lr is None else replace(spec.settings, lr=lr)
    return replace(entry, spec=replace(spec, settings=settings, seed=spec.seed if seed is None else seed))


def beyond(sweep: pd.DataFrame, *, by: Sequence[str] = GRID) -> dict[Swept, tuple[float, float]]:
    """What a sweep has to try next on its first seed.

    Args:
        sweep: columns `by`, lr, seed and validation_loss (final), one finished run a row.
        by: tell apart what is swept.

    Returns:
        What was swept -> (its best rate, the next octave to try), where the best is at an end inside `LIMITS`.
    """
    found = {}
    for name, losses in _on_the_first_seed(sweep, by):
        best = float(losses.idxmin())
        for end, octave in ((losses.index.min(), best / 2), (losses.index.max(), best * 2)):
            if best == end and LIMITS[0] <= octave <= LIMITS[1] and octave not in losses.index:
                found[name] = (best, octave)
    return found


def finalists(sweep: pd.DataFrame, *, by: Sequence[str] = GRID) -> dict[Swept, tuple[float, ...]]:
    """The two best rates on the first seed, the best first; then, of the full and the shorter model, those of `RATES`.

    Args:
        sweep: as for `beyond`.
        by: as for `beyond`.
    """
    method = list(by).index("method")
    found = {}
    for name, losses in _on_the_first_seed(sweep, by):
        usual = [rate for rate in RATES if rate in losses.index] if name[method].startswith(_CONTROLS) else []
        found[name] = tuple(dict.fromkeys([*map(float, losses.nsmallest(2).index), *usual]))
    return found


def _on_the_first_seed(sweep: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[Swept, pd.Series]]:
    """Losses by learning rate of everything that was swept."""
    for name, runs in sweep[sweep["seed"] == sweep["seed"].min()].groupby(list(by)):
        yield name, runs.set_index("lr")["validation_loss"]


def best_rates(sweep: pd.DataFrame, *, by: Sequence[str] = GRID) -> dict[Swept, float]:
    """Of the rates that most seeds ran at, which are the finalists, the one with the least mean loss.

    Args:
        sweep: as for `beyond`. One whose finalists have not run on more seeds is decided by its first.
        by: as for `beyond`.
    """
    runs = sweep.groupby([*by, "lr"])["validation_loss"].agg(["mean", "size"])
    best = {}
    for name, rates in runs.groupby(list(by)):
        losses = rates.loc[rates["size"] == rates["size"].max(), "mean"]
        best[name] = float(losses.idxmin()[-1])
    return best

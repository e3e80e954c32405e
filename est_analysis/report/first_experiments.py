"""Table, headline and caveat of the first experiments."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from est_analysis.claims import NotMeasured, Verdict, final, saving
from est_analysis.claims.first_checks import loss_gap, of_net, subnet_drop
from est_analysis.claims.first_experiments import WORDS
from est_analysis.plots import in_order, method_style

from .tables import MISSING, cell, effect_cell, spread, tally


def _gap(frame: pd.DataFrame, task: str, net: str, method: str) -> str:
    return effect_cell(lambda: loss_gap(frame, task, net, method, "full"), "{:+.4f}".format)


def _change(frame: pd.DataFrame, task: str, net: str, method: str) -> str:
    try:
        return f"{100 * subnet_drop(frame, task, net, method).effect:+.1f} %"
    except NotMeasured:
        return MISSING


def first_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a task, net and training: final loss, its distance from the full net, accuracy, saving, transitions."""

    def row(task: str, net: str, rows: pd.DataFrame, method: str) -> dict[str, str]:
        runs = rows[rows["method"] == method]
        return {
            "task": WORDS[task],
            "net": net,
            "method": method_style(method).label,
            "seeds": str(runs["seed"].nunique()),
            "learning rate": f"{runs['lr'].iloc[0]:g}",
            "final held-out loss": cell(lambda: final(rows, method, "validation_loss"), spread),
            "minus the full net's [95 %]": MISSING if method == "full" else _gap(frame, task, net, method),
            "accuracy": cell(lambda: final(rows, method, "accuracy"), lambda part: f"{part.mean():.2f} %"),
            "layer FLOPs saved": cell(lambda: saving(rows, method), lambda part: f"{part.mean():.1f} %"),
            "change at a transition": _change(frame, task, net, method),
        }

    found = []
    nets = frame["net"].unique() if "net" in frame.columns else []
    for task in WORDS:
        for net in sorted(nets):
            try:
                rows = of_net(frame, task, net)
            except NotMeasured:
                continue
            found += [row(task, net, rows, method) for method in in_order(rows["method"])]
    return pd.DataFrame(found)


def first_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """How far EST's MLP and RaPTr's stack end from the full nets, and how many claims held."""
    parts = []
    for task, words in WORDS.items():
        for net, method in (("mlp", "est"), ("stack", "raptr")):
            gap = _gap(frame, task, net, method)
            if gap != MISSING:
                parts.append(f"{method_style(method).label} on {words} ({net}) {gap}")
    opening = "; ".join(parts) or "No net could be compared with the full one"
    return f"Final held-out loss minus the full net's, with 95 % intervals: {opening}. {tally(verdicts, scale)}"


def caveat(context: Mapping[str, Any]) -> str:
    """How far the runs are from the papers', in plain words."""
    seeds = len(context.get("seeds") or ())
    repeats = f"{seeds} seed{'' if seeds == 1 else 's'}" if seeds else "few seeds"
    return (
        f"The sizes are ours: nets of a few thousand parameters, {repeats} a training, on 1,297 images or on "
        "polynomials. Neither paper trains such nets; most of this summaries ask, and the papers' own sentences "
        "are about models thousands of times larger, which could not be read in full for RaPTr. Each training has its "
        "best learning rate of six on seeds that are not shown. The digits are few enough to be learned by heart, so "
        "a method that regularises is favoured there. A verdict here is about this setting alone."
    )

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write your own method
#
# A training method answers one question a step: *which part of the model trains now?* The answer is a mask, a pure
# function of the step, so that every rank and every resumed run draws the same. Everything else (the loop, costs,
# checkpoints, Hugging Face, the report) is the same for all methods. This notebook adds a **schedule** in one cell and
# a **method** in another, and sends both through the grid in which the published methods are compared: at equal steps,
# beside the full model and beside the *shorter* full model, which spends as few FLOPs and is the rival to beat.

# %%
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from IPython.display import display

from est_analysis import plots
from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.claim import decide
from est_analysis.claims.grid import FAMILIES, loss_difference
from est_analysis.experiments.language_models.contenders import CONTENDERS, Contender
from est_analysis.experiments.language_models.grid import SCALES, entries
from est_analysis.experiments.language_models.grid_rates import BEST_RATE
from est_analysis.experiments.runs.side_by_side import run_all
from est_analysis.methods import METHODS, build_method
from est_analysis.methods.cost import method_cost
from est_analysis.methods.method import StagedMethod
from est_analysis.models.families import find_preset
from est_analysis.report.grid import grid_table
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.subnet.schedule import SCHEDULES, Rates, Schedule, Stage

# %matplotlib inline

SMOKE = os.environ.get("EST_SCALE") == "smoke"  # tests shrink what takes time; nothing else changes
torch.set_num_threads(1)

# %% [markdown]
# ## A schedule
#
# RaPTr's 6-8-10-12 grows in four equal stages. Does it matter *when* the layers come? Here the first half of training
# has half of the layers and the second half all of them: the same mean depth, so the same cost.

# %%
SCHEDULES["half-then-all"] = Schedule(
    name="half-then-all",
    source="this notebook",
    stages=(Stage(until=1, rates=Rates(layers=0.5)), Stage(until=2, rates=Rates())),
)

# %% [markdown]
# ## A method
#
# RaPTr drops layers one by one; the residual stream then passes gaps everywhere. *Window* drops one contiguous run of
# them, at a random place between the first and the last layer. A method is a class with a default schedule, a `draw`
# for the rates of a stage, and its own stream of random numbers (`self.generator(step)`), never the global one.


# %%
@dataclass(frozen=True, kw_only=True)
class Window(StagedMethod):
    """One contiguous run of layers is bypassed, never the first or the last. Source: this notebook."""

    default_schedule = "bert-raptr-6-8-10-12"

    def draw(self, rates, step):
        layers, generator = self.shape.num_layers, self.generator(step)
        # The mean depth need not be whole: round up or down at random so that its mean is right.
        wanted = layers - rates.layers * layers
        dropped = int(wanted + torch.rand((), generator=generator).item())
        start = 1 + int(torch.randint(layers - 1 - dropped, (), generator=generator))
        gap = range(start, start + dropped)
        return SubnetMask(layers=tuple(None if layer in gap else LayerMask() for layer in range(layers)))


METHODS["window"] = Window

# %% [markdown]
# That is all. What does it draw, and what does it cost?

# %%
config = find_preset("grid", vocab_size=256)
method = build_method("window", shape=config.architecture(64).stack, total_steps=12, seed=0)
for step in range(1, 13):
    mask = method.mask(step)
    print(
        f"step {step:2}  "
        + "".join("█" if mask is None or layer else "·" for layer in (mask or SubnetMask.full(8)).layers)
    )
cost = method_cost(method, config.architecture(64))
print(f"{100 * cost.paper_saving:.1f} % fewer layer FLOPs, {100 * cost.true_saving:.1f} % fewer in all")

# %% [markdown]
# ## Through the grid
#
# Small models, few steps and three seeds: enough to show how it is done and to see large effects. Methods that are
# registered in a notebook are known to its own process only, hence `workers=0`.
#
# A comparison is only as fair as its learning rates. The grid's own contenders have the best of a sweep; one that it
# does not know gets the full model's, unless it is given another. Here both newcomers get RaPTr's. Before you believe a
# difference, sweep theirs too (`scale.rates`, as `est run grid --scale rates` does), at the length that you train for:
# the grid's rates are those of 600 steps, and this notebook takes 300.

# %%
contenders = {label: CONTENDERS[label] for label in ("full", "short", "raptr")} | {
    "raptr/half-then-all": Contender(method="raptr", schedule="half-then-all", note="all growth at half-time"),
    "window": Contender(method="window", note="a contiguous gap"),
}
scale = replace(SCALES["quick"], families=("gpt2",), steps=300, budgets=())
if SMOKE:
    scale = replace(SCALES["smoke"], families=("gpt2",), steps=12, budgets=(), seeds=(0, 1))
root = Path(tempfile.mkdtemp())  # a folder that stays would keep finished runs from being made again
rates = BEST_RATE["gpt2"] | dict.fromkeys(("raptr/half-then-all", "window"), BEST_RATE["gpt2"]["raptr"])
runs = entries(replace(scale, best={1.0: {"gpt2": rates}}), corpus="python", contenders=contenders)
frame = run_all(runs, root=root, workers=0)
display(grid_table(frame).style.hide())
plots.grid_gaps(frame)

# %% [markdown]
# ## The published methods
#
# So they stand in the committed grid (`est run grid`), each at its own best learning rate: first after 600 steps, then
# after 2,400, where all but GPT-2 have four contenders. Loss minus the full model's, and every claim: the difference in
# nats, and the call (+ supported, x refuted, ~ inconclusive).

# %%
data = next(folder for folder in (Path("paper_figures/data"), Path("../paper_figures/data")) if folder.is_dir())
committed = {scale: pd.read_csv(data / f"grid_{scale}.csv", keep_default_na=False) for scale in ("quick", "report")}
display(plots.grid_lengths(list(committed.values())))

# %%
claims = [claim for claim in CLAIMS.values() if claim.recipe == "grid" and "frontier" not in claim.id]
calls = {"supported": "+", "refuted": "x", "inconclusive": "~"}
cells = {}
for scale, rows_of_scale in committed.items():
    for one in judge(claims, rows_of_scale, scale=scale):
        if one.verdict in calls:
            family = one.claim.rpartition(".")[2]
            statement = CLAIMS[one.claim].statement.rpartition(", on a small")[0]
            cells.setdefault((statement, scale), {})[FAMILIES[family]] = f"{one.effect:+.3f} {calls[one.verdict]}"
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame(cells).T.fillna(""))

# %% [markdown]
# After 600 steps methods that train every weight at every step (stacking, Staged Training, MSG) end ahead of EST and
# RaPTr on GPT-2 and Llama. After 2,400 RaPTr ends below the shorter full model on three families of four, on 2.3 to
# 2.6 % more layer FLOPs; of EST no family shows it. BERT is still on a plateau after 600 steps.

# %% [markdown]
# ## Verdict
#
# Each is judged like the papers' methods: the interval of the difference over seeds must lie on one side of zero. The
# threshold (better than the shorter full model; better than RaPTr) was written before the runs.

# %%
rows = []
for ours in ("raptr", "raptr/half-then-all", "window"):
    for theirs in ("short", "raptr"):
        if ours != theirs:
            found = loss_difference(frame, "gpt2", ours, theirs)
            interval = f"{found.interval[0]:+.3f} to {found.interval[1]:+.3f}"
            verdict = decide(found.interval, (float("-inf"), 0.0))
            rows.append((f"{ours} ends better than {theirs}", f"{found.effect:+.3f}", interval, verdict))
display(pd.DataFrame(rows, columns=["statement", "nats", "95 % interval", "verdict"]).style.hide())

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
# # EST in ten minutes
#
# **Evolving Subnetwork Training** (arXiv 2406.06962) trains a random part of a Transformer at every step and lets that
# part grow: first half of the layers with half of their heads and MLP columns, then all layers with half of each, then
# everything. The paper's claim for GPT-2: 26.7 % of the training FLOPs saved, and no loss in the loss.
#
# This notebook shows the mechanism, predicts the saving, trains a small pair live, and ends with the verdict on
# committed runs of more seeds and more steps.

# %%
import os
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import display

from est_analysis import plots
from est_analysis.claims import CLAIMS, judge
from est_analysis.experiments.runs.run import run
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.experiments.runs.store import collect
from est_analysis.models.families import find_preset
from est_analysis.models.gpt2.model import GPT2
from est_analysis.rng import stream
from est_analysis.subnet.cost import find_architecture, schedule_cost
from est_analysis.subnet.sample import sample_fixed_size
from est_analysis.subnet.schedule import Rates, find_schedule
from est_analysis.train.settings import Execution, Settings

# %matplotlib inline

SMOKE = os.environ.get("EST_SCALE") == "smoke"  # tests shrink the live part; nothing else changes

# %% [markdown]
# ## 1. A subnetwork is a value
#
# A mask says which layers run and, inside each, which heads and MLP columns. It is an argument of `forward`; the model
# itself never changes. Inactive weights are not multiplied by zero, they are not touched at all.

# %%
config = find_preset("tiny", vocab_size=256)
model = GPT2(config).initialise(seed=0)
half = Rates(heads=0.5, mlp=0.5, layers=0.5)
mask = sample_fixed_size(config.architecture(128).stack, half, generator=stream(0, "mask", 1))
for index, layer in enumerate(mask.layers):
    print(index, "bypassed" if layer is None else f"heads {layer.heads.tolist()}, {len(layer.columns)} of 192 columns")

# %% [markdown]
# Attention and MLP outputs are scaled by 1/p (eqs. 5, 6), so that the average over all masks is the full output.
# Layers are not (eq. 7): a bypassed layer simply adds nothing. What was not sampled gets no gradient.

# %%
tokens = torch.randint(256, (4, 65), generator=stream(0, "tokens"))
model.loss(tokens[:, :-1], tokens[:, 1:], mask).backward()
active = mask.active_layers[0]
touched = model.blocks[active].mlp.up_weight.grad.abs().sum(1) > 0
print("MLP columns with a gradient:", int(touched.sum()), "of", len(touched))
print("bypassed layers without any:", [i for i, block in enumerate(model.blocks) if block.mlp.up_weight.grad is None])

# %% [markdown]
# ## 2. Prediction: what the schedule saves
#
# The paper counts the layers alone. The LM head is computed in full at every step, so the saving that a clock can see
# is smaller; for GPT-2 it still allows 1.24x, and the paper measured 1.22x.

# %%
cost = schedule_cost(find_schedule("gpt2-est"), find_architecture("gpt2"))
print(f"paper's convention {cost.paper_saving:.1%}, with the head {cost.true_saving:.1%}", end=", ")
print(f"speed-up allowed {cost.ideal_speedup:.3f}x")
assert round(100 * cost.paper_saving, 1) == 26.7

# %% [markdown]
# ## 3. Measurement: a pair trained here and now
#
# 200,000 parameters on the installed Python's own source. Two hundred steps are far too few for a verdict (a GPT-2 of
# the paper saw 630 tokens a parameter, this one sees 4); they show the shape of the curve: the subnetwork's loss lies
# above the full model's and can drop at a transition, while the full model's own validation loss is continuous, because
# a transition changes no weight.

# %%
steps, batch = (16, 4) if SMOKE else (200, 32)
settings = Settings(steps=steps, lr=2e-3, warmup=steps // 20, log_every=max(1, steps // 40), eval_every=steps // 8)
quiet = Execution(threads=1, progress=False)
with tempfile.TemporaryDirectory() as folder:
    pair = [TrainSpec(method=m, batch_size=batch, validation_tokens=16_384, settings=settings) for m in ("full", "est")]
    live = collect([run(spec, quiet, root=Path(folder)).folder for spec in pair])
display(plots.loss_curves(live))

# %%
spent = live[live["metric"] == "layer_flops"].groupby("method")["value"].max()
print(f"layer FLOPs saved, charged from the masks that were drawn: {1 - spent['est'] / spent['full']:.1%}")

# %% [markdown]
# ## 4. Verdict: the committed runs
#
# Three seeds of baseline, EST and RaPTr, trained by `make reproduce`; thresholds were fixed before the runs, but
# where a claim's `known` says otherwise. Each interval is a 95 % Student interval over seeds. Tens of tokens a
# parameter are not the paper's hundreds: a verdict speaks for this scale alone.

# %%
data = Path("paper_figures/data/reproduce_quick.csv")
committed = pd.read_csv(data if data.exists() else Path("..") / data)
display(plots.loss_curves(committed))

# %%
claims = [claim for claim in CLAIMS.values() if claim.recipe == "reproduce"]
verdicts = judge(claims, committed, scale="quick")
table = pd.DataFrame(
    {
        "claim": [claim.statement for claim in claims],
        "effect": [verdict.effect for verdict in verdicts],
        "interval": [verdict.interval for verdict in verdicts],
        "unit": [verdict.unit for verdict in verdicts],
        "verdict": [verdict.verdict for verdict in verdicts],
    }
)
with pd.option_context("display.max_colwidth", None):
    display(table)

# %%
by_id = {verdict.claim: verdict for verdict in verdicts}
assert by_id["est.layer-flops"].verdict == "supported"  # arithmetic, whatever the seeds

# %% [markdown]
# **Verdict at this scale:** the FLOPs saved are as claimed and the clock follows; the loss is not as claimed: after so
# short a training EST ends well above the baseline, and because the losses differ, the flatness claim cannot be tested.
# After four times the steps, at rates of their own, a quarter of the gap is left. That traces need almost equal
# losses, and what is said of the training curve at transitions, came when rows at this scale were known; the other
# thresholds came before them.

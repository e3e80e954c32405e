"""RaPTr's numbers on BERT, UL2 and the stability of nets, as far as they could be read, beside ours."""

from functools import partial

import pandas as pd

from est_analysis.claims import Measured, saving
from est_analysis.claims.checks import final_loss_gap
from est_analysis.claims.raptr_stability import depth_exponent
from est_analysis.claims.statistics import over_seeds

from .cells import DIFFERENCE, NO_TIMES, SEEDS_NOTE, PrintedTable, final_mean, of_the_family, small_note
from .data import DataFolder
from .table import Cell, Table, measured

PAPER = "RaPTr, arXiv 2402.05913"
BERT, UL2, THEORY = "BERT-base experiments", "UL2 experiments", "theory of stage transitions"
EXPONENT = "exponent of the gap in 1/L"
_READ = (
    "The paper's own tables could not be read: its numbers are those of its abstract and of public reviews that quote "
    "it."
)
_DOWNSTREAM = "this needs a model of 1.6B parameters and downloads: 'est claims raptr.paper-scale.ul2-downstream'"


def flops_ratio(frame: pd.DataFrame, *, method: str) -> Measured:
    """How many times the layer FLOPs of `method` the full model spends."""
    return over_seeds(1 / (1 - saving(frame, method) / 100), unit="x", detail="")


def bert(data: DataFolder) -> Table:
    """BERT-base, beside the grid's pre-norm BERT."""
    grid, printed = of_the_family(data, "megatron-bert"), PrintedTable(data.published, "RaPTr", BERT)
    methods = {
        "Original": "full",
        "RaPTr 6-8-10-12": "raptr",
        "Gradual stacking": "gradual_stacking",
        "PLD": "pld",
        "full model, shorter (ours)": "short",
    }
    cells = {}
    ran = set(methods.values()) if grid.frame is None else set(grid.frame["method"])
    for row, method in methods.items():
        if method not in ran and not printed.at(row, "loss")["published"]:
            continue  # a rival that could not be read, and of which the longest training has nothing
        cells[row, "loss"] = measured(grid, partial(final_mean, method=method), **printed.at(row, "loss"))
        if method != "full":
            gap = partial(final_loss_gap, ours=method)
            cells[row, DIFFERENCE] = measured(grid, gap, **printed.difference(row), form="+.3f")
            flops = partial(flops_ratio, method=method)
            text = printed.at(row, "speed-up by FLOPs")
            cells[row, "speed-up by FLOPs"] = measured(grid, flops, **text, form=".2f")
            cells[row, "speed-up"] = Cell(**printed.at(row, "speed-up"), why=NO_TIMES)
    shape = (
        "Ours have their norms before attention and MLP and fewer layers, of which each method trains the same shares; "
        "each method has its own best learning rate on this model."
    )
    return Table(
        title="RaPTr on BERT",
        locus=f"{PAPER}, {BERT}",
        heading="method",
        cells=cells,
        notes=(_READ, SEEDS_NOTE, small_note(grid), shape),
    )


def ul2(data: DataFolder) -> Table:
    """UL2-1.6B, beside the grid's T5, which is trained on UL2's mixture of denoisers."""
    grid, printed = of_the_family(data, "t5"), PrintedTable(data.published, "RaPTr", UL2)
    row = "RaPTr"
    cells = {
        (row, "perplexity"): Cell(**printed.at(row, "perplexity"), why="see the loss"),
        (row, DIFFERENCE): measured(grid, partial(final_loss_gap, ours="raptr"), form="+.3f"),
        (row, "speed-up by FLOPs"): measured(
            grid, partial(flops_ratio, method="raptr"), **printed.at(row, "speed-up by FLOPs"), form=".2f"
        ),
        (row, "speed-up"): Cell(**printed.at(row, "speed-up"), why=NO_TIMES),
        (row, "QA and SuperGLUE"): Cell(**printed.at(row, "QA and SuperGLUE"), why=_DOWNSTREAM),
    }
    warmup = "The paper's run trains the full model for 30k steps first, ours has no such start and so saves more."
    return Table(
        title="RaPTr on UL2",
        locus=f"{PAPER}, {UL2}",
        heading="method",
        cells=cells,
        notes=(_READ, SEEDS_NOTE, small_note(grid), warmup),
    )


def exponents(data: DataFolder) -> Table:
    """How the gap of a stage transition falls with depth: C L^-c, beside nets at initialisation."""
    rows, printed = data.find("stability-vs-depth"), PrintedTable(data.published, "RaPTr", THEORY)
    variants = {"residual + layer norm": "residual+norm", "no layer norm": "residual", "no residual": "norm"}
    cells = {
        (row, EXPONENT): measured(rows, partial(depth_exponent, method=method), **printed.at(row, EXPONENT), form=".3f")
        for row, method in variants.items()
    }
    gelu = "residual + layer norm, GELU blocks (ours)"
    cells[gelu, EXPONENT] = measured(rows, partial(depth_exponent, method="gelu residual+norm"))
    trained, falls = "BERT of 24 layers", "Psi falls up to layer"
    why = "this needs trained models of several depths; 'est stability CHECKPOINT' measures one"
    for column in (EXPONENT, falls):
        cells[trained, column] = Cell(**printed.at(trained, column), why=why)
    return Table(
        title="How a transition's gap falls with the depth L",
        locus=f"{PAPER}, {THEORY}",
        heading="net",
        cells=cells,
        notes=(
            _READ,
            "The lemma's O(1/sqrt L) is an exponent of at least 1/2 for L to infinity, its Omega(1) one of 0; ours are "
            "fits of the mean of Psi over layers, depths from 32 on, with 95 % t intervals over nets at "
            "initialisation. The 0.88 is a fit to trained models, of a worst-case gap.",
        ),
    )

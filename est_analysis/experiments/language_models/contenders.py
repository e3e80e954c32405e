"""What the grid compares: every method at about a quarter fewer layer FLOPs than the full model, and the controls."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from est_analysis.methods import Option


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method with a schedule and options of its own.

    Attributes:
        method: a key of `methods.METHODS`.
        schedule: a published schedule or `END:HEADS,MLP,LAYERS;...`; empty for the method's own.
        options: of the method.
        note: what it is there for.
    """

    method: str
    schedule: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    note: str


# A label's part after the slash says how the method was changed; figures name it (`plots.style.CHANGES`).
CONTENDERS: dict[str, Contender] = {
    "full": Contender(method="full", note="the baseline, at full cost"),
    "short": Contender(method="short", note="control: the full model on as many layer FLOPs as EST"),
    "est": Contender(method="est", note="the practical schedule, 26.7 % saved"),
    "est/two-stage": Contender(
        method="est",
        schedule="8:0.5,0.5,1; 15:1,1,1",
        note="control: without stage 1, at the same cost (the paper's two-stage schedules save other amounts)",
    ),
    "est/constant": Contender(
        method="est", schedule="1:0.75,0.75,1", note="control: no growing, three quarters of heads and columns"
    ),
    "raptr": Contender(method="raptr", note="6-8-10-12 in four equal stages, 25 % saved"),
    "raptr_reversed": Contender(method="raptr_reversed", note="control: the same sizes, large to small"),
    "stochastic_depth": Contender(method="stochastic_depth", note="control: the same mean depth, constant"),
    "pld": Contender(method="pld", note="the same mean depth, shrinking; deep layers dropped most"),
    "gradual_stacking": Contender(method="gradual_stacking", note="6-9-12 in three equal stages, 25 % saved"),
    "msg": Contender(method="msg", note="EST's baseline: four stages, 22 to 23 % saved"),
    "staged": Contender(
        method="staged",
        schedule="36:0.5,0.5,1; 100:1,1,1",
        note="half width for 36 % of the steps: 25 to 27 % saved, where EST's run of it stopped at a third",
    ),
}

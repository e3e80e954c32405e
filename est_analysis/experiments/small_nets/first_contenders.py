"""What the first experiments compare: nets, and on each the full net, EST, RaPTr, their controls and their variants.

A two-layer MLP has columns to sample and no layers, a stack layers. EST's practical schedule needs both, so an MLP
trains half of its columns for 8/15 of the steps, which costs what EST does: 26.7 % less. Stacks grow over 1/2 and 3/4
to all of their layers, 25 % saved, EST and RaPTr alike: only the law of the draw differs. The shapes of growth cost
5/8 of the full net, whichever it is; their rates are whole columns of 240.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

from est_analysis.methods import Option

TASK_NAMES = ("digits", "polynomial")
COLUMNS = 240  # the shapes of growth are whole numbers of these


@dataclass(frozen=True, kw_only=True)
class FirstContender:
    """One training of one net.

    Attributes:
        method: a key of `methods.METHODS`.
        schedule: as in `TrainSpec`.
        warmup: first steps that train the full net, in the units of the schedule, which includes them.
        options: of the method.
        share: of the steps of the others that it trains for.
    """

    method: str
    schedule: str = "full"
    warmup: int = 0
    options: Mapping[str, Option] = field(default_factory=dict)
    share: float = 1.0


def _stages(axis: str, *rates: int, out_of: int = COLUMNS) -> str:
    """Equal stages at `rates` of `out_of` columns or layers."""
    pattern = {"columns": "{0}:1,{1!r},1", "layers": "{0}:1,1,{1!r}"}[axis]
    return "; ".join(pattern.format(end, rate / out_of) for end, rate in enumerate(rates, start=1))


_HALF = "8:1,0.5,1; 15:1,1,1"
_GROWTHS = {
    "linear": (60, 96, 132, 168, 204, 240),
    "exponential": (82, 102, 126, 156, 194, 240),  # each about 1.24 times the one before
    "step": (60, 60, 60, 240, 240, 240),
    "flat": (150,) * 6,
}

MLP_CONTENDERS: dict[str, FirstContender] = {
    "full": FirstContender(method="full"),
    "short": FirstContender(method="full", share=11 / 15),
    "est": FirstContender(method="est", schedule=_HALF),
    "est/unscaled": FirstContender(method="est", schedule=_HALF, options={"normalise": False}),
    "dropout": FirstContender(method="dropout", schedule=_HALF),
    "est/one-stage": FirstContender(method="est", schedule="1:1,0.5,1"),
    **{
        f"est/{name}": FirstContender(method="est", schedule=_stages("columns", *rates))
        for name, rates in _GROWTHS.items()
    },
}
_DEPTHS = _stages("layers", 2, 3, 4, out_of=4)
_PLAIN = {
    "full": FirstContender(method="full"),
    "est": FirstContender(method="est", schedule=_DEPTHS),
    "raptr": FirstContender(method="raptr", schedule=_DEPTHS),
}
STACK_CONTENDERS: dict[str, FirstContender] = {
    **_PLAIN,
    "short": FirstContender(method="full", share=0.75),
    "raptr/sqrt_gap": FirstContender(method="raptr", schedule=_DEPTHS, options={"output_scale": "sqrt_gap"}),
    "raptr/linear_gap": FirstContender(method="raptr", schedule=_DEPTHS, options={"output_scale": "linear_gap"}),
    # The full net's third of the steps, two ninths of all of them moved to the beginning.
    "raptr/warm-up": FirstContender(method="raptr", schedule="5:1,1,0.5; 8:1,1,0.75; 9:1,1,1", warmup=2),
    **{
        f"raptr/{name}": FirstContender(method="raptr", schedule=_stages("layers", *rates))
        for name, rates in _GROWTHS.items()
        if name != "flat"
    },
}
# How a net is built: a plain two-layer MLP, or a stack with what it is made without.
NETS: dict[str, Mapping[str, FirstContender]] = {
    "mlp": MLP_CONTENDERS,
    "stack": STACK_CONTENDERS,
    "stack/no-norm": _PLAIN,
    "stack/no-residual": _PLAIN,
}


def trainings() -> list[tuple[str, str, str]]:
    """(task, net, label) of everything that is trained."""
    return [(task, net, label) for task, net in product(TASK_NAMES, NETS) for label in NETS[net]]

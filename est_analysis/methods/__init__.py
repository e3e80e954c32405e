"""Training methods, one file each. A new method is a new file and a line in `METHODS`."""

from est_analysis.errors import InputError, unknown_name
from est_analysis.methods.est import EST
from est_analysis.methods.full import Full
from est_analysis.methods.method import Method
from est_analysis.methods.raptr import RaPTr
from est_analysis.subnet.mask import StackShape
from est_analysis.subnet.schedule import find_schedule

METHODS: dict[str, type[Method]] = {"full": Full, "est": EST, "raptr": RaPTr}


def find_method(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        InputError: no such method; the message lists those there are.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def build_method(
    name: str,
    *,
    shape: StackShape,
    total_steps: int,
    seed: int,
    schedule: str | None = None,
    output_scale: str = "none",
) -> Method:
    """The method called `name`, with its schedule stretched to `total_steps` and checked against `shape`.

    Args:
        name: a key of `METHODS`.
        shape: the stack to sample from.
        total_steps: steps of the run.
        seed: seed of the run.
        schedule: name of a schedule; the method's own published one unless given.
        output_scale: RaPTr's factor on kept layers; other methods have none.

    Raises:
        InputError: unknown names, or rates that do not fit the shape.
    """
    kind = find_method(name)
    if output_scale != "none" and kind is not RaPTr:
        raise InputError(f"output scale '{output_scale}' belongs to raptr; {name} has none")
    plan = find_schedule(schedule or kind.default_schedule).rescaled(total_steps)
    options = {"output_scale": output_scale} if kind is RaPTr else {}
    return kind(shape=shape, schedule=plan, seed=seed, **options).check()

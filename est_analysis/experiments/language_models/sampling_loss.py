"""What sampling costs in loss, measured at the checkpoints of an EST run: by drawing masks, and to second order.

At every stage transition, with the weights as they are, three things are taken on the same held-out sequences:

- the loss under masks that the run's own method draws, minus the full model's: of the stage before and of the one
  after, whole and by what is sampled (heads, columns, both, layers), and of heads that are drawn one by one;
- the first and second derivative of the loss from the full model towards the same masks (`models.gates`), exact;
- gradients in the gates with labels drawn from the model: the quadratic forms sum_i u_i' F u_i and U' F U with the
  Fisher matrix F of the outputs in place of the Hessian, which is all that a formula of the cost needs.

A mask holds for all positions of a sequence, so positions are summed before anything is squared.

Rows, at the step of the checkpoint. `stage<k>` are the stages from 0; a part is one of `PARTS`.

| metric | what |
|---|---|
| full_loss | of the full model on the sequences |
| stage<k>_rate_heads, _columns, _layers | p_H, p_M, p_L |
| stage<k>_<part>_cost | mean over masks and sequences of the sampled loss minus the full model's |
| stage<k>_<part>_cost_stderr, _cost_text_stderr | its standard error from masks, and from text |
| stage<k>_<part>_first_order | derivative towards the masks, mean over them |
| stage<k>_<part>_rest_stderr | the cost's standard error from masks without its first order |
| stage<k>_<part>_second_order, _second_order_stderr | half the second derivative, mean over the masks, and its error |
| slope_layers | sum over layers of the derivative in the layer's gate |
| fisher_<kind>_units, fisher_<kind>_total | sum over modules of sum_i u_i' F u_i and of U' F U |
| fisher_<kind>_units_stderr | from text and drawn labels |
| count_<kind> | units a module: heads, columns; layers |
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from est_analysis.curvature.taylor.directions import derivatives_along
from est_analysis.data.objective import objective_validation
from est_analysis.errors import InputError
from est_analysis.experiments.language_models.reproduce_scales import Scale
from est_analysis.experiments.runs.afterwards import Row, keep_rows
from est_analysis.experiments.runs.run import FinishedRun, prepare_data, prepare_objective
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.methods.est import EST
from est_analysis.models.gates import Gates, gate_gradients, gated_losses, gates_of, sequence_losses
from est_analysis.models.hf import load_folder
from est_analysis.models.language_model import CausalLanguageModel
from est_analysis.rng import stream
from est_analysis.subnet.mask import StackShape, SubnetMask
from est_analysis.subnet.schedule import Rates

PARTS = ("heads", "columns", "width", "layers", "all", "heads_bernoulli")
_EXPANDED = ("heads", "columns", "layers")  # what the second order of all parts is made of
_AT_ONCE = 8  # second derivatives that are held at once, in two sums


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How much is drawn.

    Attributes:
        masks: of every stage and part; an even number up to 8, or a multiple of 8.
        sequences: held-out ones, the same for everything.
        draws: of the labels, for the Fisher matrix.
    """

    masks: int
    sequences: int
    draws: int

    def __post_init__(self) -> None:
        if self.masks < 2 or self.masks % min(self.masks + self.masks % 2, _AT_ONCE):
            raise InputError(f"masks={self.masks}; use an even number up to {_AT_ONCE}, or a multiple of {_AT_ONCE}")


def measure_sampling_loss(scale: Scale, spec: TrainSpec, result: FinishedRun) -> None:
    """Measure what sampling costs at every transition of a finished EST run into `sampling.csv`, once.

    At the end of the run the last stage that samples is measured once more, whole, as if it came back. Runs of other
    methods are left alone.
    """
    if spec.method != "est":
        return
    settings = SamplingSettings(
        masks=scale.sampling_masks,
        sequences=scale.sampling_sequences,
        draws=scale.sampling_draws,
    )

    def rows() -> Iterator[Row]:
        data = prepare_data(spec)
        objective = prepare_objective(spec, data)
        config = spec.model_config(vocab_size=objective.vocab_size)
        sampler = Sampler(method=spec.build_method(config), settings=settings, seed=spec.seed)
        ((tokens, labels),) = objective_validation(
            objective,
            data.validation,
            seq_len=spec.seq_len,
            batch_size=settings.sequences,
            max_tokens=settings.sequences * spec.seq_len,
        )
        batch = tokens.to(scale.device), labels.to(scale.device)
        for step, plan in sampler.plan(result.steps).items():
            model = load_folder(result.checkpoint.with_name(f"step{step:06d}")).to(scale.device)
            found = sampler.measure(model, *batch, *plan)
            yield from ((step, metric, value) for metric, value in found.items())

    keep_rows("sampling", spec, result, identity=asdict(settings), measure=rows)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The masks of a run's stages, and what is measured with them.

    Attributes:
        method: draws; its law and factors are the run's.
        settings: how much.
        seed: of drawn labels.
    """

    method: EST
    settings: SamplingSettings
    seed: int

    def plan(self, steps: int) -> dict[int, tuple[list[int], tuple[str, ...]]]:
        """Stages and parts by the step of the checkpoint: both sides of every transition, and the end."""
        transitions = self.method.course.transitions
        found = {step: ([stage, stage + 1], PARTS) for stage, step in enumerate(transitions)}
        sampled = [stage for stage, (_, rates) in enumerate(self.method.course.spans) if not rates.full]
        return found | ({steps: (sampled[-1:], ("all",))} if sampled else {})

    def masks(self, rates: Rates, count: int, *, bernoulli: bool = False) -> list[SubnetMask]:
        """Masks number 1 to `count` at `rates`, none of which the run has trained with."""
        method = replace(self.method, law="bernoulli") if bernoulli else self.method
        unused = self.method.course.total_steps
        return [method.draw(rates, unused + 1 + number) for number in range(count)]

    def measure(
        self,
        model: CausalLanguageModel,
        tokens: Tensor,
        labels: Tensor,
        stages: list[int],
        parts: tuple[str, ...] = PARTS,
    ) -> dict[str, float]:
        """Every metric of one checkpoint."""
        with torch.no_grad():
            full = sequence_losses(model, tokens, labels)
        slopes = Gates(*(gradient.mean(0) for gradient in gate_gradients(model, tokens, labels)))
        found = {"full_loss": full.mean().item(), "slope_layers": slopes.layers.sum().item()}
        costs: dict[tuple[Rates, bool], dict[str, float]] = {}  # stages and parts may have the same rates
        for stage in stages:
            rates = self.method.course.spans[stage][1]
            named = {"heads": rates.heads, "columns": rates.mlp, "layers": rates.layers}
            found |= {f"stage{stage}_rate_{kind}": rate for kind, rate in named.items()}
            for part, (at, bernoulli) in self._parts(rates).items():
                if part in parts and (at, bernoulli) not in costs:
                    masks = self.masks(at, self.settings.masks, bernoulli=bernoulli)
                    costs[at, bernoulli] = self._cost(model, tokens, labels, masks, full, slopes)
                    if part in _EXPANDED:
                        costs[at, bernoulli] |= self._second_order(model, tokens, labels, masks)
                if part in parts:
                    found |= {f"stage{stage}_{part}_{name}": value for name, value in costs[at, bernoulli].items()}
        return found | fisher_forms(model, tokens, draws=self.settings.draws, seed=self.seed)

    def _parts(self, rates: Rates) -> dict[str, tuple[Rates, bool]]:
        """(rates, whether each by itself) of every part that samples something."""
        parts = {
            "heads": (Rates(heads=rates.heads), False),
            "columns": (Rates(mlp=rates.mlp), False),
            "layers": (Rates(layers=rates.layers), False),
            "width": (Rates(heads=rates.heads, mlp=rates.mlp), False),
            "all": (rates, False),
        }
        if self.method.law == "fixed_size" and self.method.shape.heads_per_group == 1:
            parts["heads_bernoulli"] = (Rates(heads=rates.heads), True)
        return {part: at for part, at in parts.items() if not at[0].full}

    def _cost(
        self,
        model: CausalLanguageModel,
        tokens: Tensor,
        labels: Tensor,
        masks: list[SubnetMask],
        full: Tensor,
        slopes: Gates,
    ) -> dict[str, float]:
        with torch.no_grad():
            losses = [sequence_losses(model, tokens, labels, mask.to(tokens.device)) for mask in masks]
        excess = torch.stack(losses) - full  # (masks, B)
        towards = directions(masks, self.method.shape, slopes)
        first = sum((along * slope).flatten(1).sum(1) for along, slope in zip(towards, slopes, strict=True))  # (masks,)
        return {
            "cost": excess.mean().item(),
            "cost_stderr": _stderr(excess.mean(1)),
            "cost_text_stderr": _stderr(excess.mean(0)),
            "first_order": first.mean().item(),
            "rest_stderr": _stderr(excess.mean(1) - first),
        }

    def _second_order(
        self, model: CausalLanguageModel, tokens: Tensor, labels: Tensor, masks: list[SubnetMask]
    ) -> dict[str, float]:
        ones, halves = Gates.ones(model), []
        for start in range(0, len(masks), _AT_ONCE):
            along = directions(masks[start : start + _AT_ONCE], self.method.shape, ones)
            _, second = derivatives_along(
                lambda *gates: gated_losses(model, Gates(*gates), tokens, labels), ones, along, groups=2
            )
            halves.append(0.5 * second.mean(1))
        each = torch.cat(halves)
        return {"second_order": each.mean().item(), "second_order_stderr": _stderr(each)}


def directions(masks: list[SubnetMask], shape: StackShape, like: Gates) -> Gates:
    """From the full model to each mask: gates minus 1, (masks, ...)."""
    gates = [gates_of(mask, shape) for mask in masks]
    return Gates(*(torch.stack(one).to(kind) - 1 for one, kind in zip(zip(*gates, strict=True), like, strict=True)))


def fisher_forms(model: CausalLanguageModel, tokens: Tensor, *, draws: int, seed: int) -> dict[str, float]:
    """The quadratic forms with the Fisher matrix, from labels that the model draws at every position.

    E over labels of (d log p(labels of a sequence) / d gate)^2, mean over tokens: labels are independent given the
    tokens, so cross terms of different labels vanish in the mean, and those of sequences too.
    """
    with torch.no_grad():
        chances = model(tokens).softmax(-1)
    generator = stream(seed, "gates", "labels", device=tokens.device)
    found: dict[str, list[Tensor]] = {}
    for _ in range(draws):
        drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view_as(tokens)
        for name, values in squared_gradients(gate_gradients(model, tokens, drawn), tokens.shape[1]).items():
            found.setdefault(name, []).append(values)
    each = {name: torch.stack(values).mean(0) for name, values in found.items()}  # (B,)
    shape = Gates.ones(model)
    counts = {"heads": shape.heads.shape[1], "columns": shape.columns.shape[1], "layers": len(shape.layers)}
    return {
        **{f"fisher_{name}": values.mean().item() for name, values in each.items()},
        **{f"fisher_{kind}_units_stderr": _stderr(each[f"{kind}_units"]) for kind in counts},
        **{f"count_{kind}": float(count) for kind, count in counts.items()},
    }


def squared_gradients(gradients: Gates, length: int) -> dict[str, Tensor]:
    """The forms of every sequence, (B,), from gradients (B, ...) of its mean loss over `length` positions.

    For a loss that is the mean over tokens the form of a direction is (sum of the tokens' gradients)^2 / tokens.
    """
    modules = {"heads": gradients.heads, "columns": gradients.columns, "layers": gradients.layers[:, None]}
    units = {f"{kind}_units": length * g.square().sum((1, 2)) for kind, g in modules.items()}
    return units | {f"{kind}_total": length * g.sum(2).square().sum(1) for kind, g in modules.items()}


def _stderr(values: Tensor) -> float:
    return (values.std() / len(values) ** 0.5).item() if len(values) > 1 else 0.0

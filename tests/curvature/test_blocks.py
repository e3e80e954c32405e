"""The split of a trace: names of real models, exact sums, and the standard error."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    T5Config,
)

from est_analysis.curvature.blocks import breakdown, by_batch, group_of, kind_totals, layer_of
from est_analysis.curvature.estimate import Sample, estimate
from est_analysis.curvature.hvp import HvpEngine
from est_analysis.curvature.loss import CallableObjective
from est_analysis.curvature.probes import Probes
from est_analysis.errors import InputError
from est_analysis.rng import stream


def built(auto, config):
    """A model without memory: only its names and shapes matter."""
    with torch.device("meta"):
        return auto.from_config(config)


DECODER = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
ENCODER_DECODER = {"vocab_size": 30, "d_model": 8, "encoder_layers": 2, "decoder_layers": 2}
GPT2 = built(
    AutoModelForCausalLM,
    GPT2Config(vocab_size=30, n_positions=10, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0),
)
T5 = built(AutoModelForSeq2SeqLM, T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2))
MODELS = {
    "gpt2": GPT2,
    "llama": built(AutoModelForCausalLM, LlamaConfig(**DECODER, num_key_value_heads=1)),
    "neox": built(AutoModelForCausalLM, GPTNeoXConfig(**DECODER)),
    "mixtral": built(AutoModelForCausalLM, MixtralConfig(**DECODER, num_key_value_heads=1, num_local_experts=2)),
    "opt": built(AutoModelForCausalLM, OPTConfig(**DECODER, ffn_dim=12, word_embed_proj_dim=4)),
    "bert": built(AutoModelForMaskedLM, BertConfig(**DECODER)),
    "t5": T5,
    "bart": built(
        AutoModelForSeq2SeqLM, BartConfig(**ENCODER_DECODER, encoder_attention_heads=2, decoder_attention_heads=2)
    ),
}


def module_kinds(model):
    """Kinds by the class of the module that holds each parameter, where it tells: another source than the names."""
    kinds = {}
    for module_name, module in model.named_modules():
        owner = type(module).__name__
        for name, _ in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}"
            if "Norm" in owner:
                kinds[full] = "norms"
            elif isinstance(module, nn.Embedding) and "relative" not in module_name:
                kinds[full] = "embeddings"
            else:
                parents = module_name.split(".")
                above = [model.get_submodule(".".join(parents[:i])) for i in range(1, len(parents) + 1)]
                classes = " ".join(type(m).__name__ for m in above)
                if "Attention" in classes:
                    kinds[full] = "attention"
                elif any(part in classes for part in ("MLP", "Expert", "DenseReluDense", "DenseAct", "Moe", "Router")):
                    kinds[full] = "mlp"
    return kinds


@pytest.mark.parametrize("family", MODELS)
def test_kinds_agree_with_the_classes_of_the_modules(family):
    model = MODELS[family]
    names = [name for name, _ in model.named_parameters()]
    kinds = {name: group_of(name) for name in names}
    assert "other" not in kinds.values()
    known = module_kinds(model)
    assert {name: kinds[name] for name in names if name in known} == {n: known[n] for n in names if n in known}
    assert {"embeddings", "norms", "attention", "mlp"} <= set(kinds.values())
    assert {layer_of(name) for name in names} == {None, 0, 1}
    # Inside a layer there is neither embedding nor head.
    assert {kinds[name] for name in names if layer_of(name) is not None} == {"norms", "attention", "mlp"}


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("transformer.wte.weight", "embeddings", None),
        ("transformer.ln_f.bias", "norms", None),
        ("transformer.h.11.mlp.c_proj.bias", "mlp", 11),
        ("transformer.h.0.ln_2.weight", "norms", 0),
        ("model.layers.7.post_attention_layernorm.weight", "norms", 7),
        ("model.layers.7.self_attn.q_norm.weight", "norms", 7),
        ("lm_head.weight", "head", None),
        ("embed_out.weight", "head", None),
        ("gpt_neox.embed_in.weight", "embeddings", None),
        ("bert.embeddings.LayerNorm.weight", "norms", None),
        ("bert.encoder.layer.4.attention.output.dense.weight", "attention", 4),
        ("bert.encoder.layer.4.output.dense.weight", "mlp", 4),
        ("bert.encoder.layer.4.intermediate.dense.bias", "mlp", 4),
        ("cls.predictions.transform.dense.weight", "head", None),
        ("cls.predictions.decoder.bias", "head", None),
        ("decoder.bias", "head", None),
        ("classifier.0.weight", "head", None),
        ("shared.weight", "embeddings", None),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "attention", 0),
        ("decoder.block.3.layer.2.DenseReluDense.wi_0.weight", "mlp", 3),
        ("model.decoder.layers.1.encoder_attn_layer_norm.weight", "norms", 1),
        ("model.layers.5.block_sparse_moe.experts.3.w1.weight", "mlp", 5),
        ("model.decoder.project_in.weight", "embeddings", None),
        ("model.decoder.project_out.weight", "head", None),
        ("transformer.attentions.2.q_lin.weight", "attention", 2),
        ("transformer.layer_norm1.2.weight", "norms", 2),
        ("backbone.layers.1.mixer.A_log", "other", 1),
        ("0.weight", "other", None),
    ],
)
def test_names(name, kind, layer):
    assert (group_of(name), layer_of(name)) == (kind, layer)


# --- the rows ---------------------------------------------------------------------------------------------------------


class Shapes:
    """An objective that is only its parameters: those of `model`, with random values."""

    def __init__(self, model):
        draws = stream(0, "weights")
        self.parameters = {name: torch.randn(p.shape, generator=draws) for name, p in model.named_parameters()}


def rows_of(objective, count=4):
    return torch.randn(count, len(objective.parameters), generator=stream(0, "blocks"), dtype=torch.float64)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("split", [breakdown, kind_totals])
def test_rows_sum_to_the_whole(family, split):
    objective = Shapes(MODELS[family])
    blocks, weights = rows_of(objective), torch.tensor([3, 1, 4, 2])
    rows = split(objective, blocks, weights)
    whole = (weights.double() @ blocks.sum(1) / 10).item()
    assert sum(row.trace for row in rows) == pytest.approx(whole, abs=1e-12)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in objective.parameters.values())
    squares = sum(p.double().square().sum().item() for p in objective.parameters.values())
    assert sum(row.weight_norm**2 for row in rows) == pytest.approx(squares, rel=1e-12)
    assert len({(row.layer, row.kind) for row in rows}) == len(rows)


def test_rows_come_in_the_models_order_with_layers_named():
    rows = breakdown(Shapes(GPT2), rows_of(Shapes(GPT2)))
    inside = [(layer, kind) for layer in "01" for kind in ("norms", "attention", "mlp")]
    assert [(row.layer, row.kind) for row in rows] == [("-", "embeddings"), *inside, ("-", "norms")]
    assert rows[0].parameters == 30 * 8 + 10 * 8, "the tied table counts once"
    totals = kind_totals(Shapes(GPT2), rows_of(Shapes(GPT2)))
    assert [(row.layer, row.kind) for row in totals] == [("-", k) for k in ("embeddings", "norms", "attention", "mlp")]


def test_the_two_stacks_of_an_encoder_decoder_are_told_apart():
    layers = {row.layer for row in breakdown(Shapes(T5), rows_of(Shapes(T5)))}
    assert layers == {"-", "encoder 0", "encoder 1", "decoder 0", "decoder 1"}
    for single in ("bert", "opt"):  # "encoder" or "decoder" in the names, but only one of them
        objective = Shapes(MODELS[single])
        assert {row.layer for row in breakdown(objective, rows_of(objective))} == {"-", "0", "1"}


class Two:
    """Two groups, of 2 and 3 parameters."""

    parameters = {"wte.weight": torch.tensor([3.0, 4.0]), "lm_head.weight": torch.tensor([1.0, 2.0, 2.0])}  # noqa: RUF012


def test_a_row_by_hand():
    blocks = torch.tensor([[1.0, 10.0], [4.0, 10.0], [2.0, 10.0]])
    table, head = breakdown(Two(), blocks, torch.tensor([1, 2, 1]))
    assert table.trace == pytest.approx((1 + 8 + 2) / 4)
    # Deviations -1.75, 1.25, -0.75 with weights 1, 2, 1.
    assert table.stderr == pytest.approx(math.sqrt(3 / 2 * (1.75**2 + 2.5**2 + 0.75**2)) / 4)
    assert (table.weight_norm, table.scale_invariant) == (5.0, pytest.approx(25 * 2.75 / 2))
    assert (head.trace, head.stderr) == (10.0, 0.0)
    assert (head.weight_norm, head.scale_invariant) == (3.0, pytest.approx(9 * 10 / 3))


def test_equal_weights_give_the_standard_error_of_a_mean():
    blocks = rows_of(Shapes(GPT2), 7)
    row = breakdown(Shapes(GPT2), blocks)[0]
    table = blocks[:, :2].sum(1)
    assert row.stderr == pytest.approx((table.std() / 7**0.5).item(), rel=1e-12)
    weighted = breakdown(Shapes(GPT2), blocks, torch.full((7,), 5))[0]
    assert (weighted.trace, weighted.stderr) == pytest.approx((row.trace, row.stderr), rel=1e-12)


def test_the_total_of_a_kind_has_its_own_error_and_the_sum_of_its_layers():
    objective = Shapes(GPT2)
    blocks = rows_of(objective)
    mlps = [row for row in breakdown(objective, blocks) if row.kind == "mlp"]
    (total,) = (row for row in kind_totals(objective, blocks) if row.kind == "mlp")
    members = [i for i, name in enumerate(objective.parameters) if ".mlp." in name]
    assert total.stderr == pytest.approx((blocks[:, members].sum(1).std() / 2).item(), rel=1e-12)
    assert total.scale_invariant == pytest.approx(sum(row.scale_invariant for row in mlps))


def test_a_second_sweep_adds_probes_and_no_batches():
    """Three batches, of which two were measured twice: the rows sum to the estimate, and the whole has its error."""
    blocks = torch.randn(5, 2, generator=stream(0, "sweeps"), dtype=torch.float64)
    samples = [
        Sample(
            index=i,
            batch=i % 3,
            weight=(2, 1, 5)[i % 3],
            loss=0.0,
            pairs=2,
            values=(share.sum().item(),) * 2,
            seconds=0.0,
        )
        for i, share in enumerate(blocks)
    ]
    samples = [replace(sample, blocks=tuple(share.tolist())) for sample, share in zip(samples, blocks, strict=True)]
    found = estimate(samples, engine="hvp")
    rows = breakdown(Two(), *by_batch(samples))
    assert sum(row.trace for row in rows) == pytest.approx(found.value, rel=1e-12)
    (whole,) = kind_totals(Two(), *by_batch(samples), kind_of=lambda name: "all")
    assert (whole.trace, whole.stderr) == pytest.approx((found.value, found.stderr), rel=1e-12)


def test_the_standard_error_is_the_spread_over_repetitions():
    """Weighted batches with noise 1 / sqrt(weight); a mutant that forgets the weights is off."""
    draws, repeats = stream(0, "repeats"), 400
    weights = torch.tensor([1.0, 1.0, 1.0, 16.0] * 40)
    noise = torch.randn(repeats, 160, 2, generator=draws, dtype=torch.float64) / weights[:, None].sqrt()
    rows = [breakdown(Two(), blocks, weights)[0] for blocks in noise]
    spread = torch.tensor([row.trace for row in rows]).std().item()
    told = sum(row.stderr for row in rows) / repeats
    assert spread == pytest.approx(760**-0.5, rel=0.15)  # 1 / sqrt(total weight); a deviation from 400 has error 3.5 %
    assert told == pytest.approx(spread, rel=0.15)
    mutant = sum((blocks[:, 0].std() / 160**0.5).item() for blocks in noise) / repeats
    assert mutant != pytest.approx(spread, rel=0.15)


def test_the_scale_of_weights_before_a_norm_changes_the_trace_but_not_the_invariant():
    x, y = (torch.randn(6, 4, generator=stream(0, name), dtype=torch.float64) for name in "xy")

    class Normed(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.wte = nn.Linear(4, 4, bias=False).double()
            with torch.no_grad():
                self.wte.weight.copy_(scale * torch.randn(4, 4, generator=stream(0, "w"), dtype=torch.float64))

        def forward(self, x):
            return F.layer_norm(self.wte(x), (4,), eps=0.0)

    def row(scale):
        objective = CallableObjective(Normed(scale), lambda model, batch: F.mse_loss(model(x), y))
        measured = HvpEngine().measure(objective, None, Probes(0, range(8)))
        return breakdown(objective, measured.blocks)[0]

    small, large = row(1.0), row(3.0)
    assert large.trace == pytest.approx(small.trace / 9, rel=1e-9)
    assert large.scale_invariant == pytest.approx(small.scale_invariant, rel=1e-9)


def test_one_batch_has_traces_and_no_standard_error():
    (row, *_) = breakdown(Two(), torch.tensor([[3.0, 4.0]]))
    assert (row.trace, math.isnan(row.stderr)) == (3.0, True)


@pytest.mark.parametrize(
    ("blocks", "weights", "message"),
    [
        (torch.ones(3, 5), None, r"shape \(3, 5\) for 2 parameter tensors; give \(m, 2\)"),
        (torch.ones(2), None, r"shape \(2,\)"),
        (torch.ones(2, 2), torch.ones(3), "one positive number a batch"),
        (torch.ones(2, 2), torch.tensor([1, 0]), "one positive number a batch"),
    ],
)
@pytest.mark.parametrize("split", [breakdown, kind_totals])
def test_bad_blocks_are_refused(split, blocks, weights, message):
    with pytest.raises(InputError, match=message):
        split(Two(), blocks, weights)

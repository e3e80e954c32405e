"""The Hessian trace of a finished run's final checkpoint, kept beside its rows."""

import json
from pathlib import Path

import torch

from est_analysis.curvature.loss import load_causal_model
from est_analysis.curvature.trace import hutchinson
from est_analysis.data.batches import validation_batches
from est_analysis.experiments.recipes import Scale
from est_analysis.experiments.run import prepare_data
from est_analysis.experiments.spec import TrainSpec
from est_analysis.experiments.store import write_atomically
from est_analysis.train.rows import COLUMNS


def measure_trace(spec: TrainSpec, scale: Scale, name: str, folder: Path, checkpoint: Path) -> None:
    """Measure the Hessian trace of a finished run on held-out text into `trace.csv`, once."""
    identity = {"pairs": scale.trace_pairs, "sequences": scale.trace_sequences, "checkpoint": checkpoint.name}
    note, rows = folder / "trace.json", folder / "trace.csv"
    if rows.exists() and note.exists() and json.loads(note.read_text()) == identity:
        return
    data = prepare_data(spec)
    batches = validation_batches(
        data.validation,
        seq_len=spec.seq_len,
        batch_size=scale.trace_sequences,
        max_tokens=scale.trace_pairs * scale.trace_sequences * spec.seq_len,
    )
    model = load_causal_model(checkpoint).to(torch.device(scale.device))
    moved = ((tokens.to(scale.device), labels.to(scale.device)) for tokens, labels in batches)
    estimate = hutchinson(model, moved, seed=spec.seed)
    values = {
        "hessian_trace": estimate.value,
        "hessian_trace_stderr": estimate.stderr,
        "hessian_trace_pairs": estimate.pairs,
        "hessian_trace_seconds": estimate.seconds,
    }
    lines = [",".join(COLUMNS)]
    lines += [f"{name},{spec.seed},{spec.settings.steps},{metric},{value!r}" for metric, value in values.items()]
    write_atomically(rows, "\n".join(lines) + "\n")
    write_atomically(note, json.dumps(identity))

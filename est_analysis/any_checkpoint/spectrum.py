"""Largest eigenvalues and spectral density of a checkpoint's Hessian on one fixed set of batches."""

from typing import Any

from est_analysis.any_checkpoint.trace import Prepared
from est_analysis.curvature.hvp import HessianOperator
from est_analysis.curvature.lanczos import spectral_density, top_eigenvalues
from est_analysis.curvature.memory import available_bytes
from est_analysis.errors import InputError
from est_analysis.rng import stream

_BASIS = 20  # vectors of the Lanczos basis, in float64


def require_spectrum(prepared: Prepared) -> None:
    """Refuse what `spectrum_record` could not do, before anything is measured.

    Raises:
        InputError: the weights are too coarse for second derivatives, or the Lanczos basis does not fit into memory.
    """
    dtype = next(iter(prepared.objective.parameters.values())).dtype
    if dtype.itemsize < 4:
        raise InputError(f"--spectrum computes in the weights' precision, and {dtype} is too coarse; use float32")
    needed, free = 8 * _BASIS * prepared.objective.num_parameters, available_bytes(prepared.device)
    if needed > free:
        raise InputError(
            f"--spectrum holds {_BASIS} vectors of {prepared.objective.num_parameters:,} numbers, "
            f"{needed / 2**30:.1f} GiB where {free / 2**30:.1f} are free; leave it out"
        )


def spectrum_record(
    prepared: Prepared, *, batches: int = 2, count: int = 5, steps: int = _BASIS, probes: int = 2
) -> dict[str, Any]:
    """Top eigenvalues and density of the Hessian of the mean loss over the first batches.

    Args:
        prepared: the checkpoint.
        batches: how many are taken as the data; the operator must stay fixed.
        count: eigenvalues.
        steps: Lanczos steps a probe of the density.
        probes: of the density.
    """
    batches = min(batches, len(prepared.inputs))
    data = [prepared.inputs[index] for index in range(batches)]
    operator = HessianOperator(prepared.objective, data)
    seed, device = prepared.identity["seed"], prepared.device

    def generator(name: str):
        return stream(seed, "spectrum", name, device=device)

    # Three digits: the next batch's eigenvalues differ by more.
    pairs = top_eigenvalues(operator.matvec, operator.n, count=count, generator=generator("top"), tolerance=1e-3)
    density = spectral_density(
        operator.matvec, operator.n, steps=steps, probes=probes, generator=generator("density")
    )  # fmt: skip
    return {
        "of": "Hessian",
        "targets": sum(prepared.objective.weight(batch) for batch in data),
        "top_eigenvalues": [float(value) for value in pairs.values],
        "density": {"grid": density.grid.tolist(), "density": density.density.tolist(), "width": float(density.width)},
        "trace_of_these_batches": float(density.traces.mean()),
        "trace_of_these_batches_stderr": float(density.traces.std() / probes**0.5) if probes > 1 else None,
        "matvecs": pairs.matvecs + density.matvecs,
    }

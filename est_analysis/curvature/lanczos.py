"""Spectrum of one fixed symmetric operator from its products alone: its largest eigenvalues, and its density."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from est_analysis.errors import InputError

Matvec = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Eigenpairs:
    """Eigenvalues of largest magnitude.

    Attributes:
        values: (count,), by decreasing magnitude, in float64.
        vectors: (n, count), orthonormal.
        matvecs: products spent.
    """

    values: Tensor
    vectors: Tensor
    matvecs: int


@dataclass(frozen=True, kw_only=True)
class Density:
    """Density of eigenvalues, with integral 1.

    Attributes:
        n: dimension.
        grid: (points,), middles of equal cells that reach 6 widths beyond all nodes.
        density: (points,), the nodes broadened by Gaussians, mean over each cell.
        nodes: (probes, steps), Ritz values of each probe; those past the end of a probe's Krylov space are 0.
        weights: (probes, steps), each row's sum is 1; 0 where there is no node.
        width: standard deviation of the Gaussians.
        matvecs: products spent.
    """

    n: int
    grid: Tensor
    density: Tensor
    nodes: Tensor
    weights: Tensor
    width: float
    matvecs: int

    @property
    def traces(self) -> Tensor:
        """(probes,): n times the first moment, exactly v' A v of the probe's random signs v (Hutchinson's estimate)."""
        return self.n * (self.weights * self.nodes).sum(1)


def top_eigenvalues(
    matvec: Matvec, n: int, *, count: int, generator: torch.Generator, tolerance: float = 1e-6
) -> Eigenpairs:
    """The `count` eigenvalues of largest magnitude, by implicitly restarted Lanczos (ARPACK, Lehoucq et al. 1998).

    Started from one random vector, so of an eigenvalue that occurs several times some copies may be missed.

    Args:
        matvec: v -> A v, (n,) -> (n,), on float64 vectors.
        n: dimension.
        count: how many, below n.
        generator: of the starting vector; products are asked for on its device.
        tolerance: relative accuracy of the eigenvalues; products in float32 have no more than 1e-6 to give.

    Raises:
        InputError: no such count, no convergence within ARPACK's 10 n restarts, or an operator that is 0.
    """
    if not 1 <= count < n:
        raise InputError(f"count={count} eigenvalues of a matrix of dimension {n}; use 1 to {n - 1}")
    calls = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        # A copy: ARPACK goes on to write where the vector lies.
        given = torch.tensor(vector.reshape(n), dtype=torch.float64, device=generator.device)
        return matvec(given).cpu().double().numpy()

    # ARPACK asks `rng` for a new vector only where the first one's Krylov space ends.
    start = torch.randn(n, generator=generator, dtype=torch.float64, device=generator.device).cpu().numpy()
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=count, which="LM", v0=start, tol=tolerance, rng=np.random.default_rng(0))
    except ArpackNoConvergence as error:
        found = len(error.eigenvalues)
        raise InputError(f"tolerance={tolerance}: {found} of {count} converged; use a larger") from error
    except ArpackError as error:
        if "Starting vector is zero" not in str(error):
            raise
        raise InputError("the operator maps a random vector to 0: all its eigenvalues are 0") from error
    order = np.argsort(-np.abs(values), kind="stable")
    return Eigenpairs(
        values=torch.from_numpy(values[order]), vectors=torch.from_numpy(vectors[:, order]), matvecs=calls
    )


def spectral_density(
    matvec: Matvec,
    n: int,
    *,
    steps: int,
    probes: int,
    generator: torch.Generator,
    grid_points: int = 1024,
    width: float | None = None,
) -> Density:
    """Density of eigenvalues by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017; Ghorbani et al. 2019).

    From random signs v, k Lanczos steps give the k-node Gauss quadrature of the measure that puts weight (u_i'v)^2 / n
    on eigenvalue i: it integrates polynomials up to degree 2k - 1 exactly, and over v the mean weight is 1 / n.
    Vectors are orthogonalised against all earlier ones, twice, or converged eigenvalues would come back as ghosts.
    Memory: `steps` vectors of n float64 numbers.

    Args:
        matvec: v -> A v, (n,) -> (n,), on float64 vectors.
        n: dimension.
        steps: Lanczos steps a probe; a Krylov space that ends earlier ends the steps.
        probes: random vectors, averaged.
        generator: of the signs; vectors live on its device.
        grid_points: where the density is told.
        width: standard deviation of the Gaussian put on each node; by default 1 % of the extreme nodes' distance.

    Raises:
        InputError: steps above n, or a number below 1.
    """
    if not 1 <= steps <= n:
        raise InputError(f"steps={steps} for dimension {n}; use 1 to {n}")
    if probes < 1:
        raise InputError(f"probes={probes}; use at least 1")
    if grid_points < 1:
        raise InputError(f"grid_points={grid_points}; use at least 1")
    if width is not None and not width > 0:
        raise InputError(f"width={width}; use a positive one, or none for 1 % of the spectrum's extent")
    nodes = torch.zeros(probes, steps, dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    matvecs = 0
    for probe in range(probes):
        signs = 2.0 * torch.randint(2, (n,), generator=generator, device=generator.device).double() - 1
        diagonal, beside = _tridiagonal(matvec, signs / n**0.5, steps)
        values, vectors = torch.linalg.eigh(diagonal.diag() + beside.diag(1) + beside.diag(-1))
        nodes[probe, : len(values)] = values
        weights[probe, : len(values)] = vectors[0] ** 2
        matvecs += len(values)
    grid, density, width = _broadened(nodes, weights, grid_points, width)
    return Density(n=n, grid=grid, density=density, nodes=nodes, weights=weights, width=width, matvecs=matvecs)


def _tridiagonal(matvec: Matvec, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Lanczos from a unit vector: diagonal (k,) and off-diagonal (k - 1,), k <= `steps`, of A in its Krylov space."""
    basis = start.new_zeros(steps, len(start))
    basis[0] = start
    diagonal, beside = [], []
    size = 0.0  # of A, as far as seen
    for step in range(steps):
        image = matvec(basis[step]).to(start)
        diagonal.append(basis[step] @ image)
        size = max(size, image.norm().item())
        for _ in range(2):  # twice is enough (Giraud, Langou & Rozloznik 2005)
            image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        norm = image.norm()
        # What is left outside an invariant space is rounding: nodes made of it have no weight, but cost products.
        if step + 1 == steps or norm <= 10 * torch.finfo(torch.float64).eps * len(start) ** 0.5 * size:
            break
        beside.append(norm)
        basis[step + 1] = image / norm
    return torch.stack(diagonal).cpu(), torch.tensor([b.item() for b in beside], dtype=torch.float64)


def _broadened(nodes: Tensor, weights: Tensor, points: int, width: float | None) -> tuple[Tensor, Tensor, float]:
    seen, mass = nodes[weights > 0], weights[weights > 0] / len(nodes)
    low, high = seen.min().item(), seen.max().item()
    if width is None:
        # Where all eigenvalues are alike their distance is rounding: 1e-4 of their size then, or of 1.
        width = max(0.01 * (high - low), 1e-4 * (max(abs(low), abs(high)) or 1.0))
    edges = torch.linspace(low - 6 * width, high + 6 * width, points + 1, dtype=torch.float64)
    # The mean over each cell, so that however coarse the grid no mass falls between its points.
    shares = torch.zeros(points, dtype=torch.float64)
    for node, share in zip(seen, mass, strict=True):
        shares += share * torch.special.ndtr((edges - node) / width).diff()
    return (edges[1:] + edges[:-1]) / 2, shares / edges.diff(), width

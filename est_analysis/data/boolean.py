"""Polynomials on the cube {-1, +1}^d, and how much of one a trained network has learned.

Under the uniform law the monomials chi_S(x) = prod_{i in S} x_i are orthonormal, so every f is the sum of
c_S(f) chi_S with c_S(f) = E[f chi_S]. The target of RaPTr's polynomial experiment (arXiv 2402.05913) has a few terms of
every degree up to k; what is reported is, degree by degree, the squared error of the learned coefficients.

| here | meaning |
|---|---|
| `supports`, `coefficients` | S_j and c_j of f* = sum_j c_j chi_{S_j} |
| `error` of degree l | sum over |S| = l of (c_S(f) - c_S)^2, divided by that of c_S^2: 0 learned, 1 not |
| `off_support` | sum of c_S(f)^2 over all S that f* does not have |
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from est_analysis.errors import InputError, unknown_name

CoefficientLaw = Literal["normal", "sign", "equal"]
_LARGEST_CUBE = 16
_CHUNK = 2**22  # numbers of the largest tensor that exists at once


@dataclass(frozen=True, kw_only=True, eq=False)
class BooleanPolynomial:
    """f*(x) = sum_j c_j prod_{i in S_j} x_i on {-1, +1}^d.

    Attributes:
        dimension: d.
        supports: the S_j, each ascending and 0-based, all distinct; () is the constant.
        coefficients: the c_j, (terms,) float64.

    >>> f = BooleanPolynomial(dimension=3, supports=((0,), (0, 2)), coefficients=torch.tensor([2.0, 3.0]).double())
    >>> f(torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]])).tolist()
    [5.0, -5.0, 1.0]
    """

    dimension: int
    supports: tuple[tuple[int, ...], ...]
    coefficients: Float[Tensor, " terms"]

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise InputError(f"a cube of dimension {self.dimension} has no points; use at least 1")
        for support in self.supports:
            if list(support) != sorted(set(support) & set(range(self.dimension))):
                raise InputError(
                    f"{support} is not a support in {self.dimension} dimensions; use distinct indices "
                    f"among 0..{self.dimension - 1} in ascending order"
                )
        if len(set(self.supports)) < len(self.supports):
            raise InputError("a support occurs twice in a polynomial; add up its coefficients")
        if self.coefficients.dtype != torch.float64 or self.coefficients.shape != (len(self.supports),):
            raise InputError(
                f"coefficients of shape {tuple(self.coefficients.shape)} and type {self.coefficients.dtype} do not "
                f"fit {len(self.supports)} supports; use one float64 number a support"
            )

    @property
    def degree(self) -> int:
        """Largest degree of a term; 0 of the zero polynomial."""
        return max(map(len, self.supports), default=0)

    @cached_property
    def degrees(self) -> Int64[Tensor, " terms"]:
        """Degree of every term."""
        return torch.tensor([len(support) for support in self.supports], device=self.coefficients.device).long()

    @property
    def variance(self) -> float:
        """Variance of f*(x) under the uniform law: the sum of squares of all coefficients but the constant's."""
        return float(self.coefficients[self.degrees > 0].square().sum())

    def basis(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch terms"]:
        """chi_S(x) of every term, exactly +1 or -1; `x` must be, and is not checked to be, on the cube.

        Float32, or float64 for float64 `x`.
        """
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        members, offset = self._quarters[0].to(x.device, dtype), self._quarters[1].to(x.device, dtype)
        # Of |S| signs k are negative: |S|/4 - sum/4 = k/2, whose fraction is 0 or 1/2 by the parity of k. All exact.
        halves = torch.addmm(offset, x.reshape(-1, self.dimension).to(dtype), members, alpha=-1)
        return halves.frac_().mul_(-4).add_(1).view(*x.shape[:-1], len(self.supports))

    def __call__(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """f*(x), in the precision of `basis`."""
        basis = self.basis(x)
        return basis @ self.coefficients.to(basis)

    def to(self, device: torch.device | str) -> "BooleanPolynomial":
        """The same polynomial with its tensors on `device`, so that evaluating it there moves nothing."""
        return BooleanPolynomial(
            dimension=self.dimension, supports=self.supports, coefficients=self.coefficients.to(device)
        )

    @cached_property
    def _quarters(self) -> tuple[Tensor, Tensor]:
        """A quarter of the 0/1 matrix of members (d, terms) and a quarter of the degrees (terms,)."""
        members = torch.zeros(self.dimension, len(self.supports))
        for term, support in enumerate(self.supports):
            members[list(support), term] = 0.25
        return members.to(self.coefficients.device), self.degrees.float() / 4


def num_basis_polynomials(dimension: int, degree: int) -> int:
    """Number of monomials of one degree in `dimension` variables, C(d, l).

    >>> num_basis_polynomials(100, 3)
    161700
    """
    return math.comb(dimension, degree)


def random_polynomial(
    *,
    dimension: int,
    max_degree: int,
    terms: int,
    law: CoefficientLaw = "normal",
    generator: torch.Generator,
    include_constant: bool = False,
) -> BooleanPolynomial:
    """A polynomial with `terms` distinct supports of every degree 1..`max_degree`, uniform without replacement.

    Args:
        dimension: d.
        max_degree: k; terms come in the order of their degrees.
        terms: number of terms of each degree.
        law: of coefficients: `normal` N(0, 1), `sign` +1 or -1 with equal odds, `equal` all 1.
        generator: source of randomness.
        include_constant: add one term of degree 0.

    Raises:
        InputError: a degree that the dimension does not have, or not that many terms of.
    """
    if law not in get_args(CoefficientLaw):
        raise unknown_name("coefficient law", law, get_args(CoefficientLaw))
    if terms < 1 or max_degree < 1:
        raise InputError(f"{terms} terms of degrees up to {max_degree} make no polynomial; use at least 1 of each")
    if max_degree > dimension:
        raise InputError(f"degree {max_degree} is above the dimension; use at most {dimension}")
    for degree in range(1, max_degree + 1):
        there = num_basis_polynomials(dimension, degree)
        if terms > there:
            raise InputError(
                f"{dimension} variables have {there} monomials of degree {degree}, not {terms}; "
                f"use at most {there} terms or more variables"
            )
    supports = [()] if include_constant else []
    for degree in range(1, max_degree + 1):
        supports += _distinct_subsets(dimension, degree, terms, generator)
    count = len(supports)
    coefficients = {
        "normal": lambda: torch.randn(count, dtype=torch.float64, generator=generator),
        "sign": lambda: torch.randint(2, (count,), generator=generator).double() * 2 - 1,
        "equal": lambda: torch.ones(count, dtype=torch.float64),
    }[law]()
    return BooleanPolynomial(dimension=dimension, supports=tuple(supports), coefficients=coefficients)


def _distinct_subsets(total: int, size: int, count: int, generator: torch.Generator) -> list[tuple[int, ...]]:
    """`count` distinct subsets of `size` of 0..total-1, uniform without replacement."""
    there = math.comb(total, size)
    if 2 * count > there:  # few subsets in all: shuffling them is cheap, and drawing again and again would not be
        subsets = list(combinations(range(total), size))
        return [subsets[i] for i in torch.randperm(there, generator=generator)[:count].tolist()]
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        found[tuple(torch.randperm(total, generator=generator)[:size].sort().values.tolist())] = None
    return list(found)


# The whole cube -------------------------------------------------------------------------------------------------------


def hypercube(dimension: int) -> Float[Tensor, "points d"]:
    """All 2^d points, float32: coordinate i of point number n is -1 where bit i of n is set.

    Raises:
        InputError: too many points to enumerate.

    >>> hypercube(2).int().tolist()
    [[1, 1], [-1, 1], [1, -1], [-1, -1]]
    """
    if not 1 <= dimension <= _LARGEST_CUBE:
        raise InputError(
            f"a cube of dimension {dimension} is not enumerated; use 1 to {_LARGEST_CUBE}, "
            "or component_errors, which samples its points"
        )
    bits = torch.arange(2**dimension)[:, None] >> torch.arange(dimension) & 1
    return (1 - 2 * bits).float()


def walsh_hadamard(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """sum_x f(x) chi_S(x) for all S from the values of f at all points of `hypercube`: n log n additions.

    Entry number m of the result belongs to the S whose members are the set bits of m. Applied twice it gives n f.

    Raises:
        InputError: a length that is no power of two.
    """
    size = values.shape[-1]
    if size < 1 or size & (size - 1):
        raise InputError(f"{size} values are not those of a cube; their number must be a power of 2")
    out = values.clone(memory_format=torch.contiguous_format)
    half = 1
    while half < size:
        low, high = out.view(*out.shape[:-1], size // (2 * half), 2, half).unbind(-2)
        low += high
        high.mul_(-2).add_(low)  # (low + high) - 2 high
        half *= 2
    return out


def exact_coefficients(
    function: Callable[[Tensor], Tensor], dimension: int, *, chunk: int = 4096
) -> Float[Tensor, "*batch points"]:
    """c_S(f) of every S, ordered as in `walsh_hadamard`, float64, from f at all 2^d points.

    Args:
        function: points (B, d) -> values (B,), or (N, B) of several functions at once.
        dimension: d, at most 16.
        chunk: points a call.

    >>> exact_coefficients(lambda x: 3 + x[:, 0] * x[:, 1], 2).tolist()
    [3.0, 0.0, 0.0, 1.0]
    """
    with torch.no_grad():
        values = torch.cat([function(points).double() for points in hypercube(dimension).split(chunk)], dim=-1)
    return walsh_hadamard(values) / 2**dimension


# How much is learned --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class ComponentErrors:
    """What a function, or each of several (leading axes), has learned of a polynomial; all float64.

    Attributes:
        degrees: the degrees that the polynomial has, ascending.
        error: squared error of the coefficients of each degree over their sum of squares, (..., degrees). Estimates
            are unbiased, so that of a component that is learned may come out below 0.
        stderr: standard error of `error`, (..., degrees); 0 where it is exact. Near error 0 somewhat too large.
        off_support: sum of squares of all coefficients that the polynomial does not have, (...).
        mse: mean squared difference from the polynomial, (...): all of the above together.
        samples: number of points.
    """

    degrees: tuple[int, ...]
    error: Tensor
    stderr: Tensor
    off_support: Tensor
    mse: Tensor
    samples: int


def component_errors_exact(
    function: Callable[[Tensor], Tensor], polynomial: BooleanPolynomial, *, chunk: int = 4096
) -> ComponentErrors:
    """The errors of `function` in every component of `polynomial`, from all 2^d points (`exact_coefficients`).

    >>> f = BooleanPolynomial(dimension=2, supports=((0,), (0, 1)), coefficients=torch.tensor([1.0, 2.0]).double())
    >>> component_errors_exact(lambda x: x[:, 0] + x[:, 1], f).error.tolist()
    [0.0, 1.0]
    """
    difference = exact_coefficients(function, polynomial.dimension, chunk=chunk)
    index = torch.tensor([sum(1 << i for i in support) for support in polynomial.supports]).long()
    difference[..., index] -= polynomial.coefficients.cpu()
    squares = difference.square()
    mse = squares.sum(-1)
    degrees, blocks, norms = _by_degree(polynomial)
    on_support = squares[..., index]
    error = torch.stack([on_support[..., block].sum(-1) for block in blocks], dim=-1) / norms.cpu()
    squares[..., index] = 0
    return ComponentErrors(
        degrees=degrees,
        error=error,
        stderr=torch.zeros_like(error),
        off_support=squares.sum(-1),
        mse=mse,
        samples=2**polynomial.dimension,
    )


def component_errors(
    outputs: Float[Tensor, "*batch B"], x: Float[Tensor, "*batch B d"], polynomial: BooleanPolynomial
) -> ComponentErrors:
    """Unbiased estimates of what functions have learned of `polynomial`, from their values at uniform points.

    Args:
        outputs: f(x) of one function, or of several along leading axes.
        x: fresh uniform points of the cube, the same for all functions (B, d) or their own.
        polynomial: the target.

    Raises:
        InputError: fewer than two points, or shapes that do not fit.
    """
    sums = ComponentSums(polynomial)
    functions = max(1, outputs.numel() // max(1, outputs.shape[-1]))
    chunk = max(1, _CHUNK // (functions * max(1, len(polynomial.supports))))
    if x.shape[-2:-1] != outputs.shape[-1:]:
        raise InputError(f"{outputs.shape[-1]} values do not belong to points of shape {tuple(x.shape)}; give one each")
    for values, points in zip(outputs.split(chunk, -1), x.split(chunk, -2), strict=True):
        sums.add(values, points)
    return sums.result()


class ComponentSums:
    """Running sums from which `component_errors` are computed, so that any number of points fits into memory.

    With r = f - f* and v_S = r chi_S, coefficients are off by delta_S = E[v_S]. For n points, D_S = mean v_S and
    chi_S^2 = 1, the pairs of different points give delta_S^2 without the bias Var(v_S)/n of D_S^2:

        U_S = (n D_S^2 - mean r^2) / (n - 1).

    Using r instead of f takes away the noise of what is already known. Since E[r^2] is the sum of delta_S^2 over all S,
    `off_support` is mean r^2 - sum U_S. A sum of U_S over one degree is a U-statistic of degree 2 with kernel v.v', so
    with V = E[v v'] its variance is about 4/n (delta' V delta - |delta|^4) + 2/n^2 |V|^2; the first term is estimated
    with D in delta's place, less the |V|^2/n by which that is too large, and never below 0.
    """

    def __init__(self, polynomial: BooleanPolynomial) -> None:
        self.polynomial, self.samples = polynomial, 0
        self._degrees, self._blocks, self._norms = _by_degree(polynomial)
        self._first: Tensor | float = 0.0  # sum of v, (..., terms)
        self._second: Sequence[Tensor | float] = [0.0] * len(self._blocks)  # sums of v v', (..., m, m) a degree
        self._squares: Tensor | float = 0.0  # sum of r^2, (...)

    @torch.no_grad()
    def add(self, outputs: Float[Tensor, "*batch B"], x: Float[Tensor, "*batch B d"]) -> "ComponentSums":
        """Take in the values `outputs` of the functions at the points `x`; every call must be for the same functions.

        Raises:
            InputError: shapes that do not fit.
        """
        if x.shape[-1] != self.polynomial.dimension or (x.dim() > 2 and x.shape[:-1] != outputs.shape):
            raise InputError(
                f"values of shape {tuple(outputs.shape)} do not belong to points of shape {tuple(x.shape)} "
                f"in {self.polynomial.dimension} dimensions; use (N, B) and (B, d) or (N, B, d)"
            )
        basis = self.polynomial.basis(x).double()
        residual = outputs.double() - basis @ self.polynomial.coefficients.to(basis)
        values = residual[..., None] * basis  # (..., B, terms)
        self._first = self._first + values.sum(-2)
        self._squares = self._squares + residual.square().sum(-1)
        parts = [values[..., block] for block in self._blocks]
        self._second = [old + part.mT @ part for old, part in zip(self._second, parts, strict=True)]
        self.samples += outputs.shape[-1]
        return self

    def result(self) -> ComponentErrors:
        """The estimates from all points so far.

        Raises:
            InputError: fewer than two points.
        """
        n = self.samples
        if n < 2:
            raise InputError(f"{n} points give no unbiased estimate; use at least 2")
        mse, means = self._squares / n, self._first / n
        squares = (n * means.square() - mse[..., None]) / (n - 1)
        total, stderr = [], []
        for block, second in zip(self._blocks, self._second, strict=True):
            moment, mean, estimate = second / n, means[..., block], squares[..., block].sum(-1)
            noise = moment.square().sum((-2, -1))
            projected = ((moment @ mean[..., None]).squeeze(-1) * mean).sum(-1) - noise / n - estimate.square()
            total.append(estimate)
            stderr.append((4 / n * projected.clamp(min=0) + 2 / n**2 * noise).sqrt())
        error, norms = torch.stack(total, -1), self._norms.to(mse.device)
        return ComponentErrors(
            degrees=self._degrees,
            error=error / norms,
            stderr=torch.stack(stderr, -1) / norms,
            off_support=mse - error.sum(-1),
            mse=mse,
            samples=n,
        )


def _by_degree(polynomial: BooleanPolynomial) -> tuple[tuple[int, ...], list[Tensor], Tensor]:
    """The degrees it has, the indices of the terms of each, and their sums of squares (degrees,)."""
    if not polynomial.supports:
        raise InputError("the zero polynomial has no components to learn; give one with terms")
    degrees = tuple(sorted({len(support) for support in polynomial.supports}))
    blocks = [(polynomial.degrees == degree).nonzero().flatten() for degree in degrees]
    norms = torch.stack([polynomial.coefficients[block].square().sum() for block in blocks])
    return degrees, blocks, norms

"""Every claim by its id."""

from difflib import get_close_matches

from est_analysis.errors import InputError

from . import (
    analytic,
    costs,
    est,
    est_ablations,
    est_downstream,
    est_flatness,
    est_overhead,
    est_sampling,
    first_experiments,
    grid,
    raptr,
    raptr_ablations,
    raptr_polynomials,
    raptr_stability,
    raptr_theory,
    untested,
)
from .claim import Claim

CLAIMS: dict[str, Claim] = {
    **est.CLAIMS,
    **est_ablations.CLAIMS,
    **est_flatness.CLAIMS,
    **est_downstream.CLAIMS,
    **est_sampling.CLAIMS,
    **est_overhead.CLAIMS,
    **raptr.CLAIMS,
    **raptr_ablations.CLAIMS,
    **raptr_polynomials.CLAIMS,
    **raptr_stability.CLAIMS,
    **raptr_theory.CLAIMS,
    **first_experiments.CLAIMS,
    **grid.CLAIMS,
    **analytic.CLAIMS,
    **costs.CLAIMS,
    **untested.CLAIMS,
}
# What the claims <group>.<member> of a group say together.
GROUPS: dict[str, str] = {
    **analytic.GROUPS,
    **costs.GROUPS,
    **est_ablations.GROUPS,
    **est_downstream.GROUPS,
    **est_overhead.GROUPS,
    **raptr_ablations.GROUPS,
    **raptr_theory.GROUPS,
    **untested.GROUPS,
}


def find_claim(name: str) -> Claim:
    """The claim called `name`; an unknown one is an `InputError` that suggests the nearest.

    >>> find_claim("est.flatness").locus
    'Section 5.2, Table 5 (GPT-2: 2510 against 11763)'
    """
    if name not in CLAIMS:
        near = get_close_matches(name, CLAIMS, n=1, cutoff=0.5)
        hint = f" did you mean '{near[0]}'?" if near else ""
        raise InputError(f"unknown claim '{name}':{hint} 'est claims' lists them all")
    return CLAIMS[name]

"""Every claim by its id."""

from est_analysis.errors import unknown_name

from . import est, raptr, raptr_polynomials, raptr_stability
from .claim import Claim

CLAIMS: dict[str, Claim] = {**est.CLAIMS, **raptr.CLAIMS, **raptr_polynomials.CLAIMS, **raptr_stability.CLAIMS}


def find_claim(name: str) -> Claim:
    """The claim called `name`; an unknown one is an `InputError` that suggests the nearest.

    >>> find_claim("est.flatness").locus
    'Section 5.2, Table 5 (GPT-2: 2510 against 11763)'
    """
    if name not in CLAIMS:
        raise unknown_name("claim", name, CLAIMS)
    return CLAIMS[name]

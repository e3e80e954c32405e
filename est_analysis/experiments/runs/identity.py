"""Names of runs: hashes of all that decides their numbers, given as plain values.

Loads no torch, so that a name can be checked without it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def name_of_training(fields: Mapping[str, Any], *, data_hash: str, numerics: int) -> str:
    """`<method>-<12 hex digits>`.

    Args:
        fields: of the spec, without those that are left unsaid (`spec.said`).
        data_hash: of the tokens it trains on; empty where the spec says what the data are.
        numerics: version of the numerics.
    """
    return f"{fields['method']}-{_digest({'spec': fields, 'data': data_hash, 'numerics': numerics})}"


def name_of_random_net(settings: Mapping[str, Any], variant: str, seed: int, *, numerics: int) -> str:
    """`stability-<variant>-<seed>-<12 hex digits>`.

    Args:
        settings: of what is measured, without how many seeds.
        variant: of the net.
        seed: of the net.
        numerics: version of the numerics.
    """
    identity = {"settings": settings, "variant": variant, "seed": seed, "numerics": numerics}
    return f"stability-{variant.replace(' ', '-')}-{seed}-{_digest(identity)}"


def name_of_linear_net(settings: Mapping[str, Any], law: str | None) -> str:
    """`linear-<law>-<12 hex digits>` of the law of the masks; None for no masks."""
    digits = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return f"linear-{law or 'full'}-{digits}"


def _digest(identity: Mapping[str, Any]) -> str:
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]

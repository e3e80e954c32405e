"""Settings that came after runs had been named: left as they are by default, they leave those names as they were."""

from dataclasses import Field
from typing import Any

_MARK = "est_analysis.added_later"
# `field(default=..., metadata=ADDED_LATER)`: at its default the field is not part of a run's identity, since runs made
# before it existed had that value without saying so. Never change such a default.
ADDED_LATER = {_MARK: True}


def unsaid(field: Field, value: Any) -> bool:
    """Whether `value` of a dataclass's `field` is what earlier runs had without saying so."""
    return _MARK in field.metadata and value == field.default

"""A method's card, as its module's docstring tells it."""

import inspect
import re
from dataclasses import dataclass

from est_analysis.methods.method import Method


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a method is, in a line, and where it comes from."""

    summary: str
    source: str


def method_card(kind: type[Method]) -> Card:
    """The first line of the docstring of the method's file, and the sentence in it that begins with `Source:`.

    >>> from est_analysis.methods.est import EST
    >>> method_card(EST).source
    'arXiv 2406.06962, section 3, Algorithm 1'
    """
    text = inspect.getdoc(inspect.getmodule(kind))
    # A sentence ends with a full stop before a capital, so "et al. 2019" goes on.
    source = re.search(r"^Source: (.+?)\.\s+(?=[A-Z])", text, flags=re.MULTILINE | re.DOTALL)
    return Card(summary=text.splitlines()[0], source=" ".join(source[1].split()))

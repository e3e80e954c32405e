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

    Of a method that is written elsewhere, in a notebook say, that of the class; what it does not say is empty.

    >>> from est_analysis.methods.est import EST
    >>> method_card(EST).source
    'arXiv 2406.06962, section 3, Algorithm 1'
    """
    docs = getattr(inspect.getmodule(kind), "__doc__", None), kind.__dict__.get("__doc__")
    texts = [inspect.cleandoc(doc or "") for doc in docs]
    text = next((text for text in texts if "Source: " in text), texts[1] or kind.__name__)
    # A sentence ends with a full stop before a capital, so "et al. 2019" goes on.
    source = re.search(r"(?:^|(?<=\s))Source: (.+?)\.(?:\s+(?=[A-Z])|\s*$)", text, flags=re.DOTALL)
    summary = re.split(r"\sSource: ", text.splitlines()[0])[0]
    return Card(summary=summary, source=" ".join(source[1].split()) if source else "")

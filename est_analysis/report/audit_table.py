"""EST's printed numbers beside the same ones recomputed, as text."""

from collections.abc import Iterable, Sequence

from est_analysis.claims.audit import Finding

COLUMNS = ("where", "what", "of", "printed", "recomputed", "agrees", "from")


def row(found: Finding, *, no: str) -> tuple[str, ...]:
    """The cells of one number, one for each of `COLUMNS`; `no` where it does not agree."""
    ends = dict.fromkeys(found.printed.written_like_it(end) for end in vars(found.recomputed).values())
    agrees = "yes" if found.agrees else no
    return found.locus, found.column, found.row, found.printed.text, " to ".join(ends), agrees, found.how


def agreement(findings: Sequence[Finding]) -> str:
    """How many agree, and what that means."""
    return (
        f"{sum(found.agrees for found in findings)} of {len(findings)} agree: some number that rounds to the printed "
        "one is within what the paper's own settings and rounded numbers allow."
    )


def markdown(findings: Iterable[Finding]) -> str:
    """The table in Markdown, those that disagree first and in bold, and the note."""
    findings = sorted(findings, key=lambda found: found.agrees)
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row(found, no="**no**") for found in findings)]
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in lines] + ["", agreement(findings)])

"""`build_report`: the page, the Markdown, the rows, the verdicts and the figures of one set of runs."""

from .build import build_report

__all__ = ["build_report"]

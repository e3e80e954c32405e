"""Where the repository keeps figures, tables and measured rows."""

from pathlib import Path

FIGURES = Path(__file__).resolve().parents[1] / "paper_figures"
DATA = FIGURES / "data"

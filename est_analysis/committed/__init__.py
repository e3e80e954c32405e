"""What the repository keeps of measurements: where, thinned to what is read again, and how every run was made."""

from pathlib import Path

FIGURES = Path(__file__).resolve().parents[2] / "paper_figures"
DATA = FIGURES / "data"

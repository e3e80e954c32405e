"""Final loss against learning rate for every method: the sweep that chose the learning rates of the quick recipe.

Run it as `python paper_figures/learning_rates.py`. It reads `data/learning_rates.csv`, one finished run a row.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots

HERE = Path(__file__).resolve().parent


def draw(sweep: pd.DataFrame) -> Figure:
    """One line a method, its best learning rate filled."""
    with plots.style():
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for method in plots.in_order(sweep["method"]):
            look, runs = plots.method_style(method), sweep[sweep["method"] == method].sort_values("lr")
            axes.plot(
                runs["lr"],
                runs["validation_loss"],
                color=look.colour,
                marker=look.marker,
                mfc="white",
                label=look.label,
            )
            best = runs.loc[runs["validation_loss"].idxmin()]
            axes.plot(best["lr"], best["validation_loss"], color=look.colour, marker=look.marker)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(sweep["lr"].unique()), [f"{rate:g}" for rate in sorted(sweep["lr"].unique())])
        axes.set_xlabel("peak learning rate")
        axes.set_ylabel("final validation loss (nats per token)")
        axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the learning-rate sweep.")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    for path in plots.save(draw(pd.read_csv(HERE / "data" / "learning_rates.csv")), arguments.out, "learning_rates"):
        print(path)


if __name__ == "__main__":
    main()

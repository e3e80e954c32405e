import html
from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest

from est_analysis import plots
from est_analysis.claims import CLAIMS
from est_analysis.report import build_report
from est_analysis.report.grid import grid_table
from est_analysis.report.layouts import LAYOUTS, TEXT, find_layout
from est_analysis.report.polynomials import components_table, transitions_table
from est_analysis.report.rates import rates_figure, rates_table
from est_analysis.report.stability import stability_table

OF_TEXT = {"grid", "est-ablations", "raptr-ablations", "flatness", "first-experiments", "sampling-overhead"}


def stability_frame():
    """Mean Psi of exactly L^(-1/2) and of exactly 1, and a variant nobody predicted."""
    laws = {"residual+norm": lambda depth: depth**-0.5, "norm": lambda depth: 1.0, "novel": lambda depth: 0.5}
    rows = []
    for method, law in laws.items():
        for seed in (0, 1):
            rows += [(method, seed, depth, "mean_psi", law(depth) * (1 + seed)) for depth in (8, 32, 64, 128)]
            rows += [(method, seed, 8, f"psi_{layer}", law(layer)) for layer in range(1, 9)]
    frame = pd.DataFrame(rows, columns=["method", "seed", "step", "metric", "value"])
    return frame.assign(schedule="", run_id=frame["method"] + frame["seed"].astype(str))


@pytest.fixture(scope="module")
def frames(make_polynomials, planted):
    ablations = run_path(str(Path(__file__).parents[1] / "synthetic_ablations.py"))
    return {
        "poly-raptr-vs-pld": make_polynomials(),
        "transition-smoothness": make_polynomials(methods=tuple(planted.CHANGES), tail=False),
        "stability-vs-depth": stability_frame(),
        "first-experiments": run_path(str(Path(__file__).parents[1] / "synthetic_first.py"))["first_frame"](),
        "grid": run_path(str(Path(__file__).parents[1] / "synthetic_grid.py"))["grid_frame"](),
        "flatness": run_path(str(Path(__file__).parents[1] / "synthetic_flatness.py"))["flatness_frame"](),
        "est-ablations": ablations["ablation_frame"](),
        "sampling-overhead": run_path(str(Path(__file__).parents[1] / "synthetic_overhead.py"))["overhead_frame"](),
        "raptr-ablations": ablations["raptr_ablation_frame"](),
    }


@pytest.fixture(scope="module")
def reports(frames, tmp_path_factory):
    """Each recipe's report, written from its rows in another order than they came."""
    found = {}
    for recipe, frame in frames.items():
        context = {"scale": "quick", "recipe": recipe, "seeds": [0, 1, 2], "num_parameters": 12_345}
        shuffled = frame.sample(frac=1.0, random_state=0)
        found[recipe] = build_report(shuffled, context, tmp_path_factory.mktemp("report")).parent
    return found


@pytest.mark.parametrize("recipe", LAYOUTS)
def test_report_holds_its_own_figures_table_and_claims(recipe, reports, frames):
    folder, layout = reports[recipe], find_layout(recipe)
    drawn = {path.name for path in (folder / "figures").glob("*")}
    assert drawn == {f"{one.name}{ending}" for one in layout.illustrations for ending in (".png", ".svg")}
    claims = [claim.id for claim in CLAIMS.values() if claim.recipe == recipe]
    assert pd.read_csv(folder / "claims.csv")["id"].tolist() == claims
    assert claims
    for name in ("report.md", "report.html"):
        text = " ".join(html.unescape((folder / name).read_text()).split())
        assert all(cell in text for cell in layout.table(frames[recipe]).to_numpy().ravel())
        assert all(part in text for part in (layout.note, *(one.caption for one in layout.illustrations)))
        assert recipe in OF_TEXT or ("are ours" in text and "could not be read" in text)
        assert "Not drawn" not in text
        assert ("## Figures" in text or ">Figures<" in text) == bool(layout.illustrations)


@pytest.mark.parametrize("recipe", sorted(LAYOUTS.keys() - OF_TEXT))
@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_report_speaks_of_no_text(recipe, name, reports):
    text = " ".join(html.unescape((reports[recipe] / name).read_text()).split())
    for word in ("nats", "token", "LM head", "GPT", "Hessian"):
        assert f" {word}" not in text


def test_order_of_the_rows_does_not_matter(reports, frames, tmp_path):
    recipe = "transition-smoothness"
    context = {"scale": "quick", "recipe": recipe, "seeds": [0, 1, 2], "num_parameters": 12_345}
    build_report(frames[recipe], context, tmp_path)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert path.read_bytes() == (reports[recipe] / path.relative_to(tmp_path)).read_bytes(), path.name


def test_components_table_by_hand(frames):
    table = components_table(frames["poly-raptr-vs-pld"]).set_index("method")
    assert table.loc["RaPTr"].to_dict() == {
        "seeds": "3",
        "mean depth": "9.00",
        "layer FLOPs saved": "25.00 %",
        "error, degree 1": "0.010 ± 0.010",
        "error, degree 2": "0.110 ± 0.010",
        "error, degree 3": "0.210 ± 0.010",
        "relative loss": "0.250 ± 0.000",
        "error, degree 3, after the tail": "0.160 ± 0.010",
    }
    assert table.index.tolist() == ["full model", "RaPTr", "PLD"]


def test_mean_depth_weighs_windows_by_their_length(make_polynomials):
    frame = make_polynomials(methods=("raptr",), seeds=(0,))
    # Without the first two windows of the first stage its third stands for all 30 steps, and nothing changes.
    left_out = (frame["metric"] == "active_layers") & (frame["step"] < 30)
    assert components_table(frame[~left_out])["mean depth"].item() == "9.00"


def test_headlines_name_the_numbers(reports):
    texts = {recipe: (folder / "report.md").read_text() for recipe, folder in reports.items()}
    expected = "Error of degree 3, the highest, at the end (0: learned, 1: not; means over 3 seeds): full model 0.110, "
    assert f"{expected}RaPTr 0.210, PLD 0.810. Of 8 claims" in texts["poly-raptr-vs-pld"]
    # Mean of a run -0.2 + 0.01 seed: -0.19 -+ 4.303 * 0.01 / sqrt(3)
    assert "RaPTr -19.0 % [-21.5, -16.5], PLD +1.0 % [-1.5, +3.5], gradual" in texts["transition-smoothness"]
    assert "c being: residual + layer norm 0.500 [0.500, 0.500]; no residual" in texts["stability-vs-depth"]


def test_grid_table_and_headline_by_hand(frames, reports):
    table = grid_table(frames["grid"]).set_index(["family", "method"])
    row = table.loc["T5", "EST"]
    assert row["minus the full model's [95 %]"] == "+0.050 [+0.050, +0.050]"
    assert (row["layer FLOPs saved"], row["total FLOPs saved"]) == ("20.0 %", "20.0 %")
    assert not [name for name in table if "speed" in name]  # two runs at once slow each other down
    assert table.index.get_level_values("family").unique().tolist() == ["GPT-2", "T5"]
    text = (reports["grid"] / "report.md").read_text()
    assert "each family: GPT-2: RaPTr (-0.0200 nats from the full model); T5: RaPTr (-0.0200" in text


def test_transitions_table_brackets_what_learned_nothing(frames):
    table = transitions_table(frames["transition-smoothness"]).set_index("method")["change at a transition [95 %]"]
    assert table["RaPTr"] == "-19.0 % [-21.5, -16.5]"
    assert table["RaPTr, no residual"] == "(+1.0 % [-1.5, +3.5])"
    assert table.index[:4].tolist() == ["RaPTr", "RaPTr, no layer norm", "RaPTr, no residual", "RaPTr, √gap scaling"]


def test_stability_table_by_hand():
    table = stability_table(stability_frame()).set_index("net")
    assert table.loc["residual + layer norm"].to_dict() == {
        "nets drawn": "2",
        "depths": "8, 32, 64, 128",
        "mean Psi, L = 8": "0.5303",  # 1.5 / sqrt(8)
        "mean Psi, L = 32": "0.2652",
        "mean Psi, L = 64": "0.1875",
        "mean Psi, L = 128": "0.1326",
        "exponent [95 %]": "0.500 [0.500, 0.500]",
    }
    assert table.index.tolist() == ["residual + layer norm", "no residual", "novel"]


@pytest.mark.parametrize("recipe", LAYOUTS)
def test_missing_metrics_degrade(recipe, frames, tmp_path):
    frame = frames[recipe]
    frame = frame[frame["seed"] == 0].assign(metric="something else").drop_duplicates(["run_id", "step"])
    page = html.unescape(build_report(frame, {"scale": "smoke", "recipe": recipe}, tmp_path).read_text())
    assert page.count("Not drawn: no rows of metric") == len(find_layout(recipe).illustrations)
    assert page.count(">untested<") == sum(claim.recipe == recipe for claim in CLAIMS.values())


def test_other_recipes_are_of_text():
    assert find_layout("reproduce") is find_layout(None) is find_layout("novel") is TEXT


def sweep_frame():
    """A sweep of two methods whose best rates differ, on two seeds at two rates and one at a third, step by step."""
    runs = [("full", lr, seed, 2.0 + abs(lr - 8e-3) * 100) for lr in (4e-3, 8e-3) for seed in (100, 101)]
    runs += [("est", lr, seed, 3.0 + abs(lr - 4e-3) * 100) for lr in (4e-3, 8e-3) for seed in (100, 101)]
    runs += [("full", 16e-3, 100, 1.0)]
    rows = [
        (f"{method}-{lr}-{seed}", method, "", lr, seed, step, "validation_loss", loss + 10 - step)
        for method, lr, seed, loss in runs
        for step in (5, 10)
    ]
    return pd.DataFrame(rows, columns=["run_id", "method", "schedule", "lr", "seed", "step", "metric", "value"])


def test_a_sweep_reports_its_rates_and_judges_nothing(tmp_path):
    page = build_report(sweep_frame(), {"scale": "report-rates", "recipe": "flatness"}, tmp_path)
    assert pd.read_csv(tmp_path / "claims.csv").empty
    drawn = plots.learning_rates(pd.read_csv(tmp_path / "rates.csv"))  # what `est figures` does with it
    best = {line.get_gid(): line.get_xdata().tolist() for line in drawn.axes[0].lines}
    assert (best["best:full"], best["best:est"]) == ([8e-3], [4e-3])
    text = html.unescape(page.read_text())
    assert "Best learning rates: EST 0.004, full model 0.008." in text
    assert "Claims</h2>" not in text
    assert "no claim is judged by it" in text
    table = rates_table(sweep_frame()).set_index("method")
    assert table.loc["full model"].to_dict() == {
        "best": "0.008", "0.004": "2.4000 (2)", "0.008": "2.0000 (2)", "0.016": "1.0000 (1)"
    }  # fmt: skip
    assert table.loc["EST", "0.016"] == "-"
    twice = [sweep_frame().assign(corpus=name, run_id=name + sweep_frame()["run_id"]) for name in ("text", "hmm")]
    assert rates_table(pd.concat(twice))["corpus"].tolist() == ["hmm", "hmm", "text", "text"]
    lines = {line.get_gid() for line in rates_figure(pd.concat(twice)).axes[0].lines}
    assert {"sweep:text:full", "sweep:hmm:full"} <= lines


def test_a_sweep_without_losses(tmp_path):
    frame = sweep_frame().assign(metric="something else")
    page = build_report(frame, {"scale": "rates", "recipe": "grid"}, tmp_path)
    assert "Not drawn: no rows of metric 'validation_loss'" in html.unescape(page.read_text())

"""The dagger of an estimate: where its estimator error is large for what is claimed, and what its note says."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_console import RESULTS, printed

from vlae.estimation.reliability import MARK, doubtful, reliability_warnings
from vlae.experiment.summary import run_summary
from vlae.report.html.details import _estimate
from vlae.report.metric_values import metrics_of_results
from vlae.report.runs import Run, Runs
from vlae.report.tables.captions import _remedy
from vlae.report.tables.cells import why_unreliable
from vlae.report.tables.formats import to_json
from vlae.report.tables.layout import layout
from vlae.report.tables.table import make_table

FITTED = "test.log_likelihood.fitted.mean"
SEEDS = (-0.002, 0.0, 0.001, 0.002)
"""Differences between seeds, which make one of 0.04 nats significant."""


def section(mean: float, total: float | None, **other: object) -> dict:
    """A proposal of results.json with this estimator error."""
    error = {"monte_carlo": 0.001, "bias": total, "total": total}
    return {"mean": mean, "standard_error": 0.1, "ess_median": 100.0, "estimator_error": error, **other}


def run(model: str, seed: int, mean: float, total: float | None, **other: object) -> Run:
    results = {
        "test": {"log_likelihood": {"fitted": section(mean, total, **other)}},
        "best_epoch": 1,
        "epochs": 1,
    }
    settings = {"model.name": model, "dataset.name": "digits", "output_dist.name": "gaussian", "seed": seed}
    return Run(f"{model}-{seed}", "", settings, "done", "", metrics_of_results(results))


def table_of(means: Mapping[str, float], errors: Mapping[str, float | None]):
    shifts = {model: (-1) ** place * 0.1 * place for place, model in enumerate(means)}
    runs = [run(model, seed, mean + SEEDS[seed] * (1 + shifts[model]), errors[model])
            for model, mean in means.items() for seed in range(len(SEEDS))]  # fmt: skip
    return make_table(Runs("a sweep", tuple(runs)), metric=FITTED)


def marked(table) -> list[str]:
    return [line[0].text for line in layout(table).lines if MARK in line[1].marks]


@pytest.mark.parametrize(("total", "bad"), [(0.0, False), (0.09, False), (0.11, True), (None, True)])
def test_an_error_above_a_tenth_of_a_nat_is_doubtful_whatever_k_hat_says(total, bad):
    assert doubtful(section(-1.0, total, k_hat_unreliable=0.0)) == bad
    assert doubtful(section(-1.0, total, k_hat_unreliable=1.0)) == bad


def test_a_cell_is_marked_where_its_error_is_above_a_tenth_of_a_nat():
    found = table_of({"vae": -80.0, "vlae": -79.0, "hf": -78.0}, {"vae": 0.4, "vlae": 0.01, "hf": 0.02})
    assert marked(found) == ["VAE"]
    [note] = [note for note in found.notes if note.startswith(MARK)]
    assert "may be too low by up to 0.4 nats" in note
    assert "evaluate.num_samples=20000" in note
    assert "quarter" not in note


@pytest.mark.parametrize(("of_one", "is_marked"), [(0.2, False), (0.4, True), (None, True)])
def test_a_cell_is_marked_by_the_error_of_its_mean_over_seeds(of_one, is_marked):
    """One run of four with a larger error: (0.2 + 3 * 0.01) / 4 is below 0.1, (0.4 + 3 * 0.01) / 4 is above."""
    runs = [run("vae", seed, -80.0 + SEEDS[seed], of_one if seed == 3 else 0.01) for seed in range(4)]
    runs += [run("vlae", seed, -80.0 + SEEDS[seed], 0.01) for seed in range(4)]
    assert marked(make_table(Runs("a sweep", tuple(runs)), metric=FITTED)) == (["VAE"] if is_marked else [])


def test_a_cell_is_marked_where_its_error_is_above_a_quarter_of_the_smallest_claim():
    errors = {"vae": 0.002, "vlae": 0.002, "hf": 0.012}
    near, far = {"vae": -80.0, "vlae": -79.0, "hf": -79.04}, {"vae": -80.0, "vlae": -79.0, "hf": -79.5}
    found = table_of(near, errors)
    assert not next(cell for cell in found.cells if cell.row == ("hf",)).as_good
    assert marked(found) == ["HF"]
    assert any("more than a quarter of the smallest difference" in note for note in found.notes)
    assert marked(table_of(far, errors)) == []
    assert marked(table_of(dict.fromkeys(near, -80.0), errors)) == []  # nothing is claimed


def test_an_error_that_cannot_be_bounded_is_said():
    found = table_of({"vae": -80.0, "vlae": -79.0}, {"vae": None, "vlae": 0.01})
    assert marked(found) == ["VAE"]
    assert any("too low by an unknown amount" in note for note in found.notes)
    assert json.loads(to_json(found))["cells"][0]["unbounded"] == len(SEEDS)
    all_of_them = table_of({"vae": -80.0, "vlae": -79.0}, {"vae": None, "vlae": None})
    assert marked(all_of_them) == []
    assert "All estimates are unreliable: these estimates may be too low by an unknown" in all_of_them.caption


def test_the_reason_of_runs_is_their_error_or_k_hat():
    old = metrics_of_results({
        "test": {"log_likelihood": {"fitted": {"mean": -1.0, "k_hat_unreliable": 0.5}}}, "best_epoch": 1, "epochs": 1,
    })  # fmt: skip
    runs = [run("vae", 0, -1.0, 0.4), Run("old", "", {}, "done", "", old), run("vae", 1, -1.0, 0.01)]
    assert why_unreliable(runs[:1], FITTED) == "may be too low by up to 0.4 nats"
    assert why_unreliable(runs[1:2], FITTED).startswith("the k-hat")
    assert why_unreliable(runs[2:], FITTED) == ""
    assert "0.4 nats; the k-hat" in why_unreliable(runs, FITTED)


def summary_with(**totals: float | None) -> tuple[str, list[str]]:
    results = copy.deepcopy(RESULTS)
    own = results["test"]["log_likelihood"]["own"]
    for name, total in totals.items():
        error = {"monte_carlo": 0.001, "bias": total, "total": total}
        beside = {} if name == "fitted" else {"difference": -0.83, "difference_standard_error": 0.05}
        beside |= {"difference_from": "fitted"} if beside else {}
        results["test"]["log_likelihood"][name] = own | {"estimator_error": error} | beside
    results["test"]["gaps"] = None
    return " ".join(printed(run_summary(results, Path("runs/here"))).split()), reliability_warnings(results)


def test_beside_a_reliable_common_estimate_the_shortfall_of_others_is_shown_without_a_dagger():
    shown, warnings = summary_with(own=None, fitted=0.02)
    assert MARK not in shown
    assert warnings == []
    assert "0.83 ± 0.05 lower than fitted" in shown
    assert shown.index("test log-likelihood, fitted") < shown.index("test log-likelihood, own")


def test_an_unreliable_common_estimate_is_marked_with_its_error_and_the_command_that_lowers_it():
    shown, warnings = summary_with(own=0.3, fitted=0.12)
    assert MARK in shown
    assert any("fitted may be too low by up to 0.12 nats" in text for text in warnings)
    assert "evaluate.num_samples=20000" in warnings[-1]
    shown, alone = summary_with(own=None)
    assert "'evaluate.proposals=[own,fitted]'" in alone[-1]
    assert "[own,fitted]" in shown.replace("│ │ ", "")


@pytest.mark.parametrize(("fitted", "marked"), [(0.02, False), (0.3, True), (None, True)])
def test_the_report_marks_an_estimate_as_the_summary_does(fitted, marked):
    """Beside a reliable estimate by the common proposal no other needs a mark."""
    metrics = {}
    for name, total in {"own": 0.4, "fitted": fitted}.items():
        about = f"test.log_likelihood.{name}"
        doubtful = total is None or total > 0.1
        metrics |= {f"{about}.mean": -80.0, f"{about}.standard_error": 0.1, f"{about}.unreliable": doubtful}
        metrics |= {f"{about}.estimator_error.monte_carlo": 0.1, f"{about}.estimator_error.total": total}
    run = Run("a", "", {"model.name": "vae", "seed": 0}, "done", "", metrics)
    assert (MARK in _estimate(run, "own")) == marked


@pytest.mark.parametrize("has_fitted", [True, False])
def test_the_advice_names_the_fitted_proposal_that_runs_have(has_fitted):
    about = "test.log_likelihood.{}.mean".format
    names = ("own", "fitted") if has_fitted else ("own",)
    run = Run("a", "", {"seed": 0}, "done", "", {about(name): -80.0 for name in names})
    said = _remedy("own", [run])
    assert (f"--metric {about('fitted')}" in said) == has_fitted
    assert ("evaluate.proposals=[own,fitted]" in said) != has_fitted
    assert "evaluate.num_samples" in _remedy("fitted", [run])

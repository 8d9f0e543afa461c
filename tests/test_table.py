"""Tables of runs: the content of a cell, the runs that share one, the best model, and equal formats."""

import csv
import io
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from programs import need
from recorded import container, done, results, stopped
from rich.console import Console
from scipy.stats import ttest_rel

from vlae.cli.commands.table import ENDINGS
from vlae.config.run_id import run_id
from vlae.errors import UserError
from vlae.estimation.reliability import MARK
from vlae.launching import queues, sweep_index
from vlae.launching.queues import Waiting
from vlae.report.filter import terms
from vlae.report.names import CHOICES, HOLE
from vlae.report.plots.draw import draw
from vlae.report.runs import LeftOut, Run, Runs
from vlae.report.sources.run_directories import collect_runs
from vlae.report.tables.cells import Cell, Coverage
from vlae.report.tables.formats import FIELDS, FORMATS, in_terminal, tex, to_csv, to_json
from vlae.report.tables.layout import layout
from vlae.report.tables.significance import difference
from vlae.report.tables.table import Table, make_table
from vlae.report.tables.wording import Name, Wording
from vlae.runs.directory import RunDirectory

VAE, VLAE, HF = "model=vae", "model=vlae", "model=hf"
OWN, FITTED = "test.log_likelihood.own.mean", "test.log_likelihood.fitted.mean"


def table_of(runs_dir, name=None, **asked):
    return make_table(collect_runs(name, runs_dir), **asked)


def from_json(text):
    """The table as a program reads it back: JSON has lists for tuples."""
    found = json.loads(text)
    cells = tuple(Cell(**fields_of(cell)) for cell in found.pop("cells"))
    unread = tuple(LeftOut(*each) for each in found.pop("unread"))
    return Table(**{key: tuples(value) for key, value in found.items()}, cells=cells, unread=unread)


def fields_of(cell):
    found = {key: tuples(value) for key, value in cell.items()}
    return found | {"coverage": tuple(Coverage(*each) for each in found["coverage"] or ())}


def tuples(value):
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def from_csv(text, row_keys):
    """The cells as a program reads them back, of which the first columns name the row."""
    _, *lines = csv.reader(io.StringIO(text))
    found = []
    for line in lines:
        values = [read_field(field) for field in line]
        keys = len(values) - len(FIELDS)
        rest = dict(zip(FIELDS, values[keys:], strict=True))
        rest |= {name: rest[name] or "" for name in ("missing", "images", "paired_over")}
        found.append(Cell(tuple(values[:row_keys]), tuple(values[row_keys:keys]), **fields_of(rest)))
    return tuple(found)


def read_field(field):
    """JSON, or else a text; empty: missing."""
    try:
        return json.loads(field) if field else None
    except ValueError:
        return field


def cells(found):
    return {cell.row[0] if len(cell.row) == 1 else cell.row: cell for cell in found.cells}


@pytest.fixture
def vlae(command, tmp_path):
    """``vlae table <words>``"""
    return lambda *words: command("table", *words, "--runs-dir", tmp_path)


# --- cells ------------------------------------------------------------------------------------------------------------


def calibrate(path, **shares):
    """Give a recorded run the coverage of 50 and of 90 % regions by these posteriors."""
    found = json.loads((path / "results.json").read_text())
    sections = {
        name: {
            f"coverage_{m}{end}": v for m in (50, 90) for end, v in (("", share), ("_standard_error", 0.05))
        }
        for name, share in shares.items()
    }
    found["test"]["bracket"] = {"calibration": sections}
    (path / "results.json").write_text(json.dumps(found))


def test_calibration_is_the_mean_over_seeds_or_has_the_error_of_the_only_one(tmp_path, vlae):
    for seed, share in enumerate((0.4, 0.6)):
        calibrate(done(tmp_path, container(VAE, seed=seed)), own=share, fitted=0.5)
    calibrate(done(tmp_path, container(VLAE)), fitted=0.53)  # a model without a density
    done(tmp_path, container(HF))
    found = table_of(tmp_path, calibration=True)
    shown = layout(found)
    assert shown.header[2:] == ("own, 50 %", "own, 90 %", "fitted, 50 %", "fitted, 90 %")
    texts = {line[0].text: [text.text for text in line[2:]] for line in shown.lines}
    assert texts == {
        "VAE": ["0.50 ± 0.10"] * 2 + ["0.50 ± 0.00"] * 2,
        "VLAE": [HOLE] * 2 + ["0.53 ± 0.05"] * 2,
        "HF": [HOLE] * 4,
    }
    assert [n for n in found.notes if n.startswith("Own or fitted")]
    assert found.cells == from_json(to_json(found)).cells == from_csv(to_csv(found), len(found.row_keys))
    assert not any(cell.coverage for cell in table_of(tmp_path).cells)
    transposed = layout(found, transpose=True)
    assert [line[0].text for line in transposed.lines[1:]] == [*shown.header[2:]]


def test_calibration_of_several_columns_names_them(tmp_path):
    for output in ("gaussian", "bernoulli"):
        calibrate(done(tmp_path, container(f"output_dist={output}", VAE)), own=0.5)
    heads = layout(table_of(tmp_path, calibration=True)).header
    assert len(set(heads)) == len(heads) == 7
    assert all("Gaussian" in head or "Bernoulli" in head for head in heads[1:])


def test_calibration_that_no_run_has_is_refused(tmp_path, vlae):
    done(tmp_path, container(VAE))
    status, _, error = vlae("--calibration")
    assert status == 2
    assert "--calibration: no run has one; it needs evaluate.bracket.num_images" in error


def test_a_cell_is_the_mean_of_its_seeds_with_its_standard_error(tmp_path):
    for seed in range(3):
        done(tmp_path, container(VAE, seed=seed), level=seed**2)
    done(tmp_path, container(VLAE), level=3)
    runs, found = collect_runs(None, tmp_path), cells(table_of(tmp_path, metric=OWN))
    values = [run.value(OWN) for run in runs.runs if run.value("model.name") == "vae"]
    assert found["vae"].mean == pytest.approx(sum(values) / 3)
    assert found["vae"].standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(3))
    assert (found["vae"].n, found["vlae"].n, found["vlae"].standard_error) == (3, 1, None)
    texts = [line[1].text for line in layout(table_of(tmp_path, metric=OWN)).lines]
    assert [("n =" in text, "±" in text) for text in texts] == [(False, True), (True, False)]


def test_an_empty_cell_has_a_reason(tmp_path):
    done(tmp_path, container(VAE, seed=0))
    stopped(tmp_path, container(VAE, seed=1), state="failed", reason="exception")
    stopped(tmp_path, container(HF, seed=0))
    stopped(tmp_path, container(HF, seed=1), state="interrupted", reason="SIGTERM")
    queues.create(
        tmp_path,
        kind="local",
        sweep="s",
        code=tmp_path,
        runs=[Waiting(run_id(container(HF)), 0)],
        settings={},
    )
    found = table_of(tmp_path)
    assert {name: (cell.n, cell.runs, cell.missing) for name, cell in cells(found).items()} == {
        "vae": (1, 2, "1 failed (exception)"),
        "hf": (0, 2, "1 interrupted (SIGTERM), 1 queued"),
    }
    shown = layout(found)
    assert [line[1].text[:1] == "–" for line in shown.lines] == [False, True]
    letters = [line[1].marks for line in shown.lines]
    assert letters == [("a",), ("b",)]
    assert dict(shown.notes)["a"] == "1 failed (exception)"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.yaml", "results.json", "status.json", None])
@pytest.mark.parametrize("name", ["s", None])
def test_an_unreadable_run_is_only_a_note(tmp_path, file, name):
    of = {(t, s): container(VLAE, f"model.num_updates={t}", seed=s) for t in (1, 2) for s in (0, 1)}
    labels = {run_id(c): f"model.num_updates={t} seed={s}" for (t, s), c in of.items()}
    sweep_index.record_sweep(tmp_path, "s", labels, [])
    paths = {key: done(tmp_path, cfg) for key, cfg in of.items()}
    if file:
        (paths[2, 1] / file).write_text("[")
    else:
        shutil.rmtree(paths[2, 1])
    found = table_of(tmp_path, name)
    assert {row: (cell.n, cell.runs) for row, cell in cells(found).items()} == {
        ("vlae", 1): (2, 2),
        ("vlae", 2): (1, 1),
    }
    named = [note for note in found.notes if note.startswith("Left out: ")]
    assert len(named) == (file is not None or name == "s")
    assert all(
        re.match(rf"Left out: {paths[2, 1].name} \(({file}|its directory is missing)", n) for n in named
    )
    assert from_json(to_json(found)) == found
    assert "over seeds 0, 1 (3 runs)" in found.caption


@pytest.mark.parametrize(
    ("key", "value", "shared"),
    [
        ("evaluate__num_gap_images", 7, True),
        ("evaluate__proposals", ["own", "fitted", "student_t"], True),
        ("evaluate__num_samples", 7, False),
        ("trainer__epochs", 7, False),
    ],
)
def test_scores_that_do_not_change_the_metric_share_a_cell(tmp_path, key, value, shared):
    done(tmp_path, container(VAE, seed=0))
    done(tmp_path, container(VAE, seed=1, **{key: value}))
    found = table_of(tmp_path, metric="test.log_likelihood.fitted.mean")
    assert [cell.n for cell in found.cells] == ([2] if shared else [1, 1])
    if key != "trainer__epochs":  # the ELBO of training depends on no scores
        assert [cell.n for cell in table_of(tmp_path, metric="validation.elbo").cells] == [2]


def test_a_launch_counts_when_it_is_complete(tmp_path):
    """As long as the latest launch, with other settings, is not complete, the table is that of the launch before."""
    launches = {}
    for samples in (7, 9):
        found = [container(VAE, seed=seed, evaluate__num_samples=samples) for seed in (0, 1)]
        launches[samples] = [run_id(cfg) for cfg in found]
        for cfg in found[: 1 if samples == 9 else 2]:
            done(tmp_path, cfg, level=samples)
        if samples == 9:
            stopped(tmp_path, found[1])
        sweep_index.record_sweep(tmp_path, "s", dict.fromkeys(launches[samples], ""), [])
    [cell] = table_of(tmp_path, "s").cells
    assert (cell.n, round(cell.mean)) == (2, 8)
    assert "Launch 1: launch 2 is not complete, which --evaluation 2 shows" in table_of(tmp_path, "s").notes
    [cell] = make_table(collect_runs("s", tmp_path, 2)).cells
    assert (cell.n, cell.runs, round(cell.mean)) == (1, 2, 10)
    done(tmp_path, container(VAE, seed=1, evaluate__num_samples=9), level=9)
    [cell] = table_of(tmp_path, "s").cells
    assert (cell.n, round(cell.mean)) == (2, 10)


def test_costs_that_other_runs_have_paid_are_noted(tmp_path):
    for seed in (0, 1):
        file = done(tmp_path, container(VAE, seed=seed)) / "results.json"
        content = json.loads(file.read_text())
        content["cost"]["train_seconds_taken_over"] = 1.0 * seed
        file.write_text(json.dumps(content))
    found = table_of(tmp_path, metric="cost.train_seconds").notes
    assert (
        "What other runs have computed is included, in 1 of 2 runs (cost.train_seconds_taken_over)" in found
    )
    assert not [note for note in table_of(tmp_path).notes if "other runs" in note]


def test_a_training_scored_twice_is_one_seed(tmp_path):
    for samples in (7, 9):
        done(tmp_path, container(VAE, seed=0, evaluate__num_samples=samples))
    assert [cell.n for cell in table_of(tmp_path, metric="validation.elbo").cells] == [1]


def test_damaged_runs_alone_make_no_table(tmp_path):
    (done(tmp_path, container(VAE)) / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"no runs; 1 left out: \S+ \(results.json"):
        table_of(tmp_path)


def test_a_condition_without_runs_lists_the_values(tmp_path):
    for seed in (0, 1):
        done(tmp_path, container(VAE, seed=seed))
    with pytest.raises(UserError, match=r"no runs with trainer\.batch_size=4; trainer\.batch_size is 128"):
        table_of(tmp_path, where="trainer.batch_size=4")


def test_a_copy_of_a_run_is_no_further_seed(tmp_path):
    paths = [done(tmp_path, container(VAE, seed=seed)) for seed in (0, 1)]
    shutil.copytree(paths[0], tmp_path / paths[0].name.replace("-s0-", "-s7-"))
    found = table_of(tmp_path)
    assert [(cell.n, cell.runs) for cell in found.cells] == [(2, 2)]
    assert f"it is a copy of {paths[0].name}" in " ".join(found.notes)


def test_an_estimator_missing_in_one_run_stays_the_tables(tmp_path):
    paths = [done(tmp_path, container(model)) for model in (VAE, VLAE)]
    content = json.loads((paths[0] / "results.json").read_text())
    content["test"]["log_likelihood"]["fitted"]["mean"] = None
    (paths[0] / "results.json").write_text(json.dumps(content))
    found = table_of(tmp_path)
    assert found.metric == "test.log_likelihood.fitted.mean"
    assert {row: cell.n for row, cell in cells(found).items()} == {"vae": 0, "vlae": 1}


def test_an_unreliable_estimate_is_marked(tmp_path):
    done(tmp_path, container(VAE, seed=0), unreliable=0.04)
    done(tmp_path, container(VLAE, seed=0), unreliable=0.06)
    marks = {line[0].text: line[1].marks for line in layout(table_of(tmp_path)).lines}
    assert marks == {"VAE": (), "VLAE": (MARK,)}
    assert any(note.startswith(MARK) for note in table_of(tmp_path).notes)
    assert not any(note.startswith(MARK) for note in table_of(tmp_path, metric="test.elbo").notes)


@pytest.mark.slow
@pytest.mark.parametrize("unreliable", [[0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5], [0.0, 0.0]])
def test_a_common_mark_is_stated_once_in_the_caption(tmp_path, unreliable):
    for model, share in zip((VAE, HF, VLAE), unreliable, strict=False):
        done(tmp_path, container(model), unreliable=share)
    stopped(tmp_path, container("model=iaf"), state="failed", reason="exception")
    found = table_of(tmp_path)
    once = len(unreliable) > 1 and all(share > 0.05 for share in unreliable)
    marks = [MARK in line[1].marks for line in layout(found).lines if line[1].value is not None]
    assert sum(marks) == (0 if once else sum(share > 0.05 for share in unreliable))
    said = [note.startswith(f"{MARK} Unreliable") for note in found.notes]
    assert ("All estimates are unreliable" in found.caption, any(said)) == (once, any(marks))


def test_a_metric_that_is_no_number_is_missing_in_its_cell(tmp_path):
    for model in (VAE, VLAE):
        for seed in (0, 1):
            path = done(tmp_path, container(model, seed=seed))
    content = json.loads((path / "results.json").read_text())
    content["test"]["log_likelihood"]["fitted"]["mean"] = "good"
    (path / "results.json").write_text(json.dumps(content))
    found = cells(table_of(tmp_path))
    assert {name: (cell.n, cell.runs, cell.missing) for name, cell in found.items()} == {
        "vae": (2, 2, ""),
        "vlae": (1, 2, "1 done, but the metric is 'good'"),
    }
    with pytest.raises(UserError, match=f"is 'good' in {path.name}"):
        table_of(tmp_path, where="model=vlae and seed=1", metric=FITTED)


def test_left_out_runs_are_named(tmp_path):
    done(tmp_path, container(VAE))
    path = done(tmp_path, container(VLAE))
    (path / "results.json").write_text("{")
    assert [f"Left out: {path.name} (" in note for note in table_of(tmp_path).notes] == [True]


# --- what shares a cell -----------------------------------------------------------------------------------------------


def test_different_settings_share_no_cell(tmp_path):
    for lr in ("1e-3", "5e-4"):
        for seed in (0, 1):
            done(tmp_path, container(VAE, f"optimizer.lr={lr}", seed=seed))
    with pytest.raises(UserError, match=r"optimizer.lr: 0.0005, 0.001") as refused:
        table_of(tmp_path, rows=["model"])
    where, rows = re.search(r"--where '(.*?)', or .* --rows (\S+)", str(refused.value)).groups()
    (cell,) = table_of(tmp_path, where=where, rows=["model"]).cells
    assert cell.n == 2
    assert [cell.n for cell in table_of(tmp_path, rows=rows.split(",")).cells] == [2, 2]


@pytest.mark.slow
def test_by_default_every_varied_setting_has_a_row(tmp_path):
    """This holds in tables and figures; a setting that differs only between models names no row."""
    for lr in ("1e-3", "5e-4"):
        for seed in (0, 1):
            done(tmp_path, container(VAE, f"optimizer.lr={lr}", seed=seed))
    done(tmp_path, container(VLAE, "trainer.epochs=7", "optimizer.lr=1e-3"))
    found = table_of(tmp_path)
    names = ["VAE, optimizer.lr = 0.0005", "VAE, optimizer.lr = 0.001", "VLAE, optimizer.lr = 0.001"]
    assert [line[0].text for line in layout(found).lines] == names
    assert [cell.n for cell in found.cells] == [2, 2, 1]
    runs = collect_runs(None, tmp_path)
    for kind in ("likelihood_vs_updates", "cost"):
        legend = [text.get_text() for text in draw(kind, runs).legends[0].get_texts()]
        assert [name for name in legend if name != "published"] == names
    by_lr = table_of(tmp_path, columns=["optimizer.lr"])
    assert [line[0].text for line in layout(by_lr).lines] == ["VAE", "VLAE"]


@pytest.mark.slow
def test_runs_of_several_datasets_have_rows_beside_other_columns(tmp_path):
    for output in ("gaussian", "bernoulli"):
        done(tmp_path, container(VAE, f"output_dist={output}"))
    found = table_of(tmp_path, columns=["seed"])
    assert [line[0].text for line in layout(found).lines] == ["VAE, Bernoulli", "VAE, Gaussian"]


@pytest.mark.slow
@effort(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), unique=True, max_size=12))
def test_no_cell_of_any_table_mixes_settings(kinds):
    """Runs with the settings a, b, c and a seed, in all tables by any of them."""
    runs = [
        Run(
            str(kind), "", dict(zip("abc", kind[:3], strict=True)) | {"seed": kind[3]}, "done", "", {OWN: 1.0}
        )
        for kind in kinds
    ]
    for keys in (["a"], ["a", "b"], ["a", "b", "c"]):
        mixed = len({kind[:3] for kind in kinds}) > len({kind[: len(keys)] for kind in kinds})
        try:
            found = make_table(Runs("", tuple(runs)), metric=OWN, rows=keys, columns=["state"])
        except UserError:
            assert mixed or not kinds
        else:
            assert not mixed
            assert sum(cell.n for cell in found.cells) == len(kinds)


def test_t_names_a_row_where_a_model_has_several(tmp_path):
    done(tmp_path, container(VAE))
    done(tmp_path, container(VLAE, "model.num_updates=2"))
    assert [line[0].text for line in layout(table_of(tmp_path)).lines] == ["VAE", "VLAE"]
    done(tmp_path, container(VLAE, "model.num_updates=10"))
    assert [line[0].text for line in layout(table_of(tmp_path)).lines] == [
        "VAE",
        "VLAE, T = 2",
        "VLAE, T = 10",
    ]


def test_the_default_estimator_is_one_of_all_runs(tmp_path):
    done(tmp_path, container(VAE))
    assert table_of(tmp_path).metric == FITTED
    path = done(tmp_path, container(VLAE))
    results = json.loads((path / "results.json").read_text())
    del results["test"]["log_likelihood"]["fitted"]
    (path / "results.json").write_text(json.dumps(results))
    assert table_of(tmp_path).metric == OWN
    assert "with each model's own q(z | x)" in table_of(tmp_path).caption
    assert cells(table_of(tmp_path, metric=FITTED))["vlae"].missing == "1 done without this metric"


@pytest.mark.slow
def test_differences_in_training_are_noted(tmp_path):
    done(tmp_path, container(VAE, "trainer.epochs=5"))
    done(tmp_path, container(VLAE, "trainer.epochs=7"))
    assert "Rows of one column also differ in trainer.epochs (5, 7)" in table_of(tmp_path).notes


# --- who is best ------------------------------------------------------------------------------------------------------


def test_one_seed_is_tested_by_a_paired_t_test_over_images():
    one, other = np.random.default_rng(0).normal(size=(2, 1, 9))
    d, expected = difference((one - other).mean(1), one - other), ttest_rel(one[0], other[0])
    assert (d.p_value, d.over) == (pytest.approx(expected.pvalue), "images")
    assert d.mean / d.standard_error == pytest.approx(expected.statistic)


def test_without_images_the_paired_t_test_is_over_seeds():
    one, other = np.random.default_rng(0).normal(size=(2, 5))
    d, expected = difference(one - other, None), ttest_rel(one, other)
    assert (d.p_value, d.over) == (pytest.approx(expected.pvalue), "seeds")
    assert d.mean / d.standard_error == pytest.approx(expected.statistic)


def test_the_variance_of_a_difference_is_the_two_way_one():
    d = np.random.default_rng(1).normal(size=(4, 6)) + np.arange(6) * 0.8
    S, N = d.shape
    mean = sum(d[s, i] for s in range(S) for i in range(N)) / (S * N)
    rows, columns = [sum(d[s]) / N for s in range(S)], [sum(d[:, i]) / S for i in range(N)]
    seeds = N * sum((row - mean) ** 2 for row in rows) / (S - 1)
    images = S * sum((column - mean) ** 2 for column in columns) / (N - 1)
    rest = sum((d[s, i] - rows[s] - columns[i] + mean) ** 2 for s in range(S) for i in range(N))
    rest /= (S - 1) * (N - 1)
    found = difference(d.mean(1), d)
    assert found.mean == pytest.approx(mean)
    assert found.standard_error**2 == pytest.approx((seeds + images - rest) / (S * N))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("spread", [(1, 1, 1), (0, 1, 3), (1, 0, 1), (0.1, 1, 0.3)])
def test_equal_models_rarely_differ_significantly(seeds, spread):
    """Rarely is at most 5 % of the time, but for the error of 1,000 trials."""
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        of_seed, of_image = generator.normal(size=(seeds, 1)), generator.normal(size=(1, 40))
        d = spread[0] * of_seed + spread[1] * of_image + spread[2] * generator.normal(size=(seeds, 40))
        wrong += difference(d.mean(1), d).significant
    assert wrong / 1000 < 0.07


def test_equal_models_do_not_differ_and_one_number_is_untested():
    assert difference(np.zeros(3), np.zeros((3, 4))).p_value == 1
    assert not difference(np.zeros(3), None).significant
    assert difference(np.ones(1), None) is None


@pytest.mark.slow
def test_the_best_and_its_equals_are_bold(tmp_path):
    for seed in range(3):
        done(tmp_path, container(VAE, seed=seed), level=-5)
        done(tmp_path, container(HF, seed=seed), level=0.0)
        done(tmp_path, container(VLAE, seed=seed), level=0.01)
    found = table_of(tmp_path)
    by_row = cells(found)
    assert {name: (cell.best, cell.as_good) for name, cell in by_row.items()} == {
        "vae": (False, False),
        "hf": (False, True),
        "vlae": (True, True),
    }
    assert by_row["vae"].difference == pytest.approx(by_row["vae"].mean - by_row["vlae"].mean)
    assert by_row["vae"].paired_over == "images and seeds"
    assert [line[1].bold for line in layout(found).lines] == [False, True, True]
    cheap = cells(table_of(tmp_path, metric="cost.train_seconds"))  # the same for all
    assert all(cell.as_good for cell in cheap.values())
    assert "paired over images and seeds" in found.caption


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_with_two_seeds_only_the_best_is_bold_and_with_one_nothing(tmp_path, seeds):
    for seed in range(seeds):
        for model, level in ((VAE, -5.0), (HF, 0.0), (VLAE, 0.01)):
            done(tmp_path, container(model, seed=seed), level=level)
    found = table_of(tmp_path)
    assert [line[1].bold for line in layout(found).lines] == [False, False, seeds == 2]
    assert not any(cell.tested for cell in found.cells)
    assert found.caption.endswith("Bold: the best of each column.") == (seeds == 2)
    assert "significant" not in found.caption + "".join(found.notes)
    assert [note.startswith("Too few seeds to compare: ") for note in found.notes] == [True]


def test_a_cell_with_too_few_seeds_is_not_bold(tmp_path):
    for seed in range(3):
        for model, level in ((VAE, -5.0), (VLAE, 0.01)):
            done(tmp_path, container(model, seed=seed), level=level)
    done(tmp_path, container(HF), level=0.0)
    found = table_of(tmp_path)
    assert {name: (cell.tested, cell.as_good) for name, cell in cells(found).items()} == {
        "vae": (True, False),
        "hf": (False, False),
        "vlae": (False, True),
    }
    (note,) = [note for note in found.notes if "too few" in note]
    assert note.startswith(
        "1 cell with too few seeds to compare: three in common with the best of the column"
    )


def test_equal_metrics_are_bold_and_a_single_one_is_not(tmp_path):
    for seed in (0, 1):
        done(tmp_path, container(VAE, seed=seed))
    assert [line[1].bold for line in layout(table_of(tmp_path)).lines] == [False]
    for seed in (0, 1):
        done(tmp_path, container(VLAE, seed=seed))
    lines = layout(table_of(tmp_path, metric="cost.train_seconds")).lines  # the same for both
    assert [line[1].bold for line in lines] == [True, True]


def test_the_best_follows_the_direction_of_the_metric(tmp_path):
    done(tmp_path, container(VAE, seed=0))
    done(tmp_path, container(VLAE, seed=5))
    assert cells(table_of(tmp_path, metric="cost.train_seconds"))["vae"].best
    assert not any(cell.best for cell in table_of(tmp_path, metric="best_epoch").cells)


def test_a_run_with_damaged_images_is_named_in_comparisons(tmp_path):
    for seed in (0, 1):
        done(tmp_path, container(VAE, seed=seed))
        path = done(tmp_path, container(VLAE, seed=seed), level=1.0)
    whole = table_of(tmp_path)
    (path / "test_log_likelihood.npz").write_bytes(b"damaged")
    found = table_of(tmp_path)
    assert whole.unread == ()
    assert cells(found)["vae"].p_value != cells(whole)["vae"].p_value
    ((name, because),) = found.unread
    assert name == path.name
    assert because.startswith("test_log_likelihood.npz cannot be read (")
    (path / "test_log_likelihood.npz").rename(path / "elsewhere")
    assert table_of(tmp_path).unread == ((name, "test_log_likelihood.npz is missing"),)
    assert sum(f"{name} ({because})" in note for note in found.notes) == 1
    assert from_json(to_json(found)) == found
    for write in ("markdown", "html", "latex"):
        written = FORMATS[write](found, 2, False).replace("\\", "").replace("{}", "")
        assert re.search(rf"cannot be read: {name} \(test_log_likelihood", written)


def test_a_run_with_fewer_images_is_named_and_not_compared(tmp_path):
    paths = [done(tmp_path, container(model), level=len(model)) for model in (VAE, VLAE)]
    file = paths[0] / "test_log_likelihood.npz"
    np.savez(file, **{name: array[:-1] for name, array in np.load(file).items()})
    found = table_of(tmp_path)
    because = f"it has log_likelihood_fitted of 11 images, {paths[1].name} of 12"
    assert found.unread == ((paths[0].name, because),)
    assert cells(found)["vae"].p_value is None


@pytest.mark.slow
def test_other_test_images_are_not_compared(tmp_path):
    done(tmp_path, container(VAE, "evaluate.num_images=10"), images=10)
    done(tmp_path, container(VLAE), level=3)
    shown = table_of(tmp_path)
    assert not any(cell.best or cell.as_good or cell.p_value for cell in shown.cells)
    assert "2 cells not compared" in " ".join(shown.notes)
    done(tmp_path, container(HF), level=2)
    found = cells(table_of(tmp_path))
    assert [name for name, cell in found.items() if cell.best] == ["vlae"]
    assert (found["vae"].as_good, found["vae"].p_value) == (False, None)


@pytest.mark.slow
def test_probabilities_are_not_compared_with_densities(tmp_path):
    """The images of a Bernoulli output are binary, and its metrics log-probabilities: less than 0 for any model."""
    for model, level in ((VAE, 1), (VLAE, 2)):
        for output in ("bernoulli", "gaussian"):
            done(
                tmp_path, container(model, f"output_dist={output}"), level=level + 9 * (output == "gaussian")
            )
    rows = table_of(tmp_path, rows=["model", "output_dist"], columns=["dataset"])
    assert {cell.row for cell in rows.cells if cell.best} == {("vlae", "bernoulli"), ("vlae", "gaussian")}


# --- published --------------------------------------------------------------------------------------------------------


def published_runs(tmp_path):
    of = ("dataset=mnist", "output_dist=bernoulli")
    done(tmp_path, container(VAE, *of), level=-86.0)
    done(tmp_path, container(VLAE, *of, "model.num_updates=4"), level=-84.0)
    done(tmp_path, container(VLAE, *of, "model.num_updates=3"), level=-84.5)


@pytest.mark.slow
def test_published_metrics_are_shown_beside_ours(tmp_path):
    published_runs(tmp_path)
    found = table_of(tmp_path, metric=OWN, published=True)
    plain = table_of(tmp_path, metric=OWN)
    by_row = cells(found)
    assert {row: cell.published for row, cell in by_row.items()} == {
        ("vae", None): -85.37,
        ("vlae", 3): None,
        ("vlae", 4): -83.72,
    }
    for cell in found.cells:
        assert cell.published is None or cell.published_difference == pytest.approx(
            cell.mean - cell.published
        )
    bare = [replace(cell, published=None, published_difference=None) for cell in found.cells]
    assert bare == list(plain.cells)
    header = layout(found).header
    assert header == ("", *(f"MNIST, Bernoulli, {kind}" for kind in ("ours", "published", "difference")))
    assert any(note.startswith("Published: Park, Kim, Kim (ICML 2019)") for note in found.notes)


def test_published_metrics_match_data_and_output(tmp_path):
    done(tmp_path, container(VAE))
    with pytest.raises(UserError, match="--published: no published"):
        table_of(tmp_path, published=True)


# --- conditions -------------------------------------------------------------------------------------------------------

KNOWN = ["seed", "model.name", "optimizer.lr", "x"]
scalars = st.one_of(
    st.integers(-3, 3), st.sampled_from(["vae", "vlae", "a and b", "3"]), st.booleans(), st.none()
)


@pytest.mark.slow
@effort(max_examples=200)
@given(scalars, st.sampled_from(["=", "==", "!=", "<", "<=", ">", ">="]), scalars)
def test_a_condition_holds_as_python_says(own, op, value):
    run = Run("", "", {"x": own}, "done")
    written = f'"{value}"' if isinstance(value, str) else json.dumps(value)
    (term,) = terms(f"x {op} {written}", KNOWN)
    same = own == value and type(own) is type(value)
    if op in ("=", "==", "!="):
        assert term.holds(run) == (same if op != "!=" else not same)
    elif type(own) is type(value) and isinstance(own, int | str) and not isinstance(own, bool):
        assert (
            term.holds(run)
            == {"<": own < value, "<=": own <= value, ">": own > value, ">=": own >= value}[op]
        )
    else:
        assert not term.holds(run)


def test_all_terms_of_a_condition_must_hold():
    found = terms("seed<3 and model in vae,vlae and optimizer.lr>=1e-3 and x='a and b'", KNOWN)
    assert [(term.key, term.op, term.value) for term in found] == [
        ("seed", "<", 3),
        ("model.name", "in", ["vae", "vlae"]),
        ("optimizer.lr", ">=", 0.001),
        ("x", "=", "a and b"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "seed",
        "seed<",
        "<3",
        "seed ~ 3",
        "__import__('os').system('false')",
        "seed<3 and",
        "(seed<3)",
        "exit()",
    ],
)
def test_an_invalid_condition_is_refused(text):
    with pytest.raises(UserError, match="--where: "):
        terms(text, KNOWN)


# --- formats ----------------------------------------------------------------------------------------------------------

names = st.one_of(
    st.text(max_size=12), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)


@effort(max_examples=30, deadline=None)
@given(st.lists(names, min_size=1, max_size=4, unique=True), st.floats(-1e6, 1e6))
def test_csv_and_json_are_read_back_equal(names, value):
    runs = [
        Run(f"{i}", "", {"name": name, "seed": seed}, "done", "", {OWN: value + i * seed / 3})
        for i, name in enumerate(names)
        for seed in (0, 1)
    ]
    runs.append(Run("x", "", {"name": 'missing, "one"\n', "seed": 0}, "failed", "exception"))
    found = make_table(
        Runs('"\n,', tuple(runs)), metric=OWN, rows=["name"], columns=["state"], where="id != y"
    )
    assert from_json(to_json(found)) == found
    read = from_csv(to_csv(found), len(found.row_keys))
    assert read == found.cells
    assert [list(map(type, cell.row)) for cell in read] == [list(map(type, cell.row)) for cell in found.cells]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " =", "＝"])
def test_csv_has_no_formulas_and_keeps_numbers(start):
    label = f"{start}cmd|' /C calc'!A0"
    runs = [
        Run(str(i), "", {"name": label, label: seed, "seed": 0}, "done", "", {OWN: -1.5})
        for i, seed in enumerate((-1, 0))
    ]
    found = make_table(Runs(label, tuple(runs)), metric=OWN, rows=["name"], columns=[label])
    lines = list(csv.reader(io.StringIO(to_csv(found))))
    fields = [field.strip() for line in lines for field in line]
    assert not [
        field for field in fields if field[:1] in tuple("=+@＝") or (field[:1] == "-" and not number(field))
    ]
    assert {"-1", "-1.5"} <= {*fields}
    assert from_csv(to_csv(found), 1) == found.cells


def number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class _Page(HTMLParser):
    """The texts of the cells, by line."""

    def __init__(self):
        super().__init__()
        self.lines, self.open = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")
            self.open = True
        assert tag != "script"

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.lines[-1][-1] += data


HOSTILE = "<script>alert(1)</script> & | `a` **b** $x_1$ 100% \\n #~^{}"


def hostile():
    runs = [
        Run(n, "", {"name": n, "seed": s}, "done", "", {OWN: -1.0 - s})
        for n in (HOSTILE, "vae")
        for s in (0, 1)
    ]
    runs = [run._replace(id=f"{run.id}{run.settings['seed']}") for run in runs]
    return make_table(Runs(HOSTILE, tuple(runs)), metric=OWN, rows=["name"], columns=["state"])


def test_names_are_text_in_html():
    page = _Page()
    page.feed(FORMATS["html"](hostile(), 2, False))
    assert [line[0] for line in page.lines] == ["", *(line[0].text for line in layout(hostile()).lines)]
    assert {line[1] for line in page.lines[1:]} == {"-1.50 ± 0.50"}


def test_names_are_text_in_markdown():
    lines = FORMATS["markdown"](hostile(), 2, False).splitlines()[:4]
    assert [len(re.split(r"(?<!\\)\|", line)) for line in lines] == [4] * 4
    assert "<script" not in "\n".join(lines)
    assert not re.search(r"(?<![\\*])\*\*b", "\n".join(lines))


def test_a_transposed_table_swaps_rows_and_columns(tmp_path):
    published_runs(tmp_path)
    done(tmp_path, container(VAE))
    found = table_of(tmp_path)
    one, other = layout(found), layout(found, transpose=True)
    assert [text.text for text, *_ in one.lines] == list(other.header[1:])
    assert [text.text for text, *_ in other.lines] == list(one.header[1:])
    for i, line in enumerate(one.lines):
        assert [replace(t, marks=()) for t in line[1:]] == [replace(o[i + 1], marks=()) for o in other.lines]


@pytest.mark.slow
@pytest.mark.parametrize("decimals", [0, 3])
def test_every_readable_format_shows_the_same_numbers(tmp_path, decimals):
    published_runs(tmp_path)
    found = table_of(tmp_path, metric=OWN, published=True)
    figures = re.compile(r"\d+(?:\.\d+)? ± \d+(?:\.\d+)?|\d{2,3}\.\d{3}")
    console = Console(file=io.StringIO(), width=200)
    console.print(in_terminal(layout(replace(found, title=""), decimals)))
    written = [
        console.file.getvalue(),
        *(FORMATS[name](found, decimals, False) for name in ("markdown", "html", "latex")),
    ]
    numbers_of = [set(figures.findall(text.replace(r"$\pm$", "±"))) for text in written]
    assert all(each == numbers_of[0] for each in numbers_of)
    assert len(numbers_of[0]) == (0 if decimals == 0 else 3 + 2)


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(tmp_path):
    for seed in range(2):
        for model in (VAE, VLAE, HF):
            done(tmp_path, container(model, seed=seed))
    for write in FORMATS.values():
        assert write(table_of(tmp_path), 2, False) == write(table_of(tmp_path), 2, False)


# --- LaTeX ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pdf(tmp_path):
    """``pdf(tex)``: the text of what pdflatex makes of it."""
    packages = "texlive-latex-base texlive-latex-recommended poppler-utils"
    need("pdflatex", "pdftotext", packages=packages)

    def compiled(name):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert run.returncode == 0, run.stdout[-2000:]
        place = str((tmp_path / name).with_suffix(".pdf"))
        return subprocess.run(
            ["pdftotext", "-layout", place, "-"], capture_output=True, text=True, check=True
        ).stdout

    return compiled


PAPER = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\begin{document}
Before, see Table~\ref{LABEL}.
\input{table.tex}
After.
\end{document}
"""


@pytest.mark.slow
def test_a_latex_table_compiles_alone_and_in_a_paper(pdf, tmp_path):
    for seed in range(2):
        done(tmp_path / "runs", container(VAE, seed=seed), level=-5, unreliable=0.5)
    stopped(tmp_path / "runs", container(VLAE), state="failed", reason="exception")
    content = FORMATS["latex"](table_of(tmp_path / "runs"), 2, False)
    (tmp_path / "table.tex").write_text(content)
    label = re.search(r"\\label\{(tab:[a-zA-Z0-9.-]+)\}", content)[1]
    (tmp_path / "paper.tex").write_text(PAPER.replace("LABEL", label))
    pdf("paper.tex")  # writes the numbers that references need
    alone, inside = pdf("table.tex"), pdf("paper.tex")
    caption = re.search(r"\\caption\{(.*)\}", content)[1]
    assert "cccc" not in caption  # the code: it is in a comment
    assert re.match("% .*Code: cccccccccc\n", content)
    for text in (alone, inside):
        assert "Table 1: Test log-likelihood" in text
        assert re.search(r"VAE\s+−\d\.\d\d ± \d\.\d\d†", text)
        assert re.search(r"VLAE\s+–a", text)
    assert "Before, see Table 1." in inside
    assert "After." in inside


@pytest.mark.slow
def test_a_latex_caption_has_space_to_the_top_rule(tmp_path, pdf):
    """Measured by the lines of text in the PDF: the header is at least a line and a half below the caption."""
    for model in (VAE, VLAE):
        done(tmp_path / "runs", container(model))
    (tmp_path / "table.tex").write_text(FORMATS["latex"](table_of(tmp_path / "runs"), 2, False))
    pdf("table.tex")
    words = subprocess.run(
        ["pdftotext", "-bbox", tmp_path / "table.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    tops = {word: float(top) for top, word in re.findall(r'yMin="([\d.]+)".*>(images.|digits,)<', words)}
    assert tops["digits,"] - tops["images."] > 20


@pytest.mark.slow
def test_a_wide_latex_table_is_scaled_to_the_page(tmp_path, pdf):
    for seed in range(14):
        done(tmp_path / "runs", container(VAE, seed=seed), level=-1000.0)
    found = table_of(tmp_path / "runs", columns=["seed"])
    (tmp_path / "table.tex").write_text(FORMATS["latex"](found, 6, False))
    pdf("table.tex")
    assert "Overfull \\hbox" not in (tmp_path / "table.log").read_text()


@pytest.mark.slow
def test_names_are_text_in_latex(pdf, tmp_path):
    (tmp_path / "table.tex").write_text(FORMATS["latex"](hostile(), 2, False))
    assert "<script>alert(1)</script> & |" in pdf("table.tex")


NAMES = r"""
VLAE: {text: ours, latex: '\textsc{Ours}~$x^2$'}
VAE: baseline
Gaussian: normal
"""


@pytest.fixture
def two_models(tmp_path):
    for model in (VAE, VLAE, HF):
        done(tmp_path, container(model))
    (tmp_path / "names.yaml").write_text(NAMES)
    return tmp_path


@pytest.mark.slow
def test_rows_and_columns_have_names_and_an_order_of_ones_own(two_models, vlae, pdf):
    how = ("--names", two_models / "names.yaml", "--caption", "All & more", "--label", "tab:own")
    assert vlae(*how, "--out", two_models / "table.tex")[0] == 0
    content, text = (two_models / "table.tex").read_text(), pdf("table.tex")
    assert r"\label{tab:own}" in content
    assert r"\textsc{Ours}~$x^2$ &" in content
    assert "Table 1: All & more" in text
    assert text.index("Ours") < text.index("baseline") < text.index("HF")
    assert "digits, normal" in text


def test_names_of_ones_own_stand_in_every_format_for_readers(two_models, vlae):
    for format in ("markdown", "html", "terminal"):
        status, text, _ = vlae("--names", two_models / "names.yaml", "--format", format)
        assert status == 0
        assert text.index("ours") < text.index("baseline") < text.index("HF"), format
        assert "VLAE" not in text.partition("baseline")[0]
    own = {"HF": Name("flow")}
    for transpose in (False, True):
        found = layout(table_of(two_models), transpose=transpose, wording=Wording(own))
        names = found.header[1:] if transpose else [line[0].text for line in found.lines]
        assert list(names) == ["flow", "VAE", "VLAE"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("VEA: a", "--names: no row or column has 'VEA'; did you mean VAE"),
        ("[a]", "names.yaml: expected lines NAME: OWN NAME, got"),
        ("", "names.yaml: expected lines NAME: OWN NAME, got"),
        ("VAE: 3", "names.yaml: VAE: expected a text, or text: and latex:, got 3"),
        ("VAE: {latex: a}", "names.yaml: VAE: expected a text, or text: and latex:"),
        ("VAE: {text: a, tex: b}", "names.yaml: VAE: expected a text, or text: and latex:"),
        ("VAE: [", "names.yaml is no YAML"),
        (None, "--names: cannot read"),
    ],
)
def test_names_that_cannot_be_used_are_refused(content, message, two_models, vlae):
    (two_models / "names.yaml").unlink()
    if content is not None:
        (two_models / "names.yaml").write_text(content)
    status, out, err = vlae("--names", two_models / "names.yaml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_label_goes_with_latex(two_models, vlae):
    status, _, err = vlae("--label", "tab:a")
    assert (status, "--label: goes with --format latex" in err) == (2, True)


@given(st.text())
def test_no_name_contains_a_latex_command(text):
    rest = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$-\$|\$\\(pm|geq|dagger)\$", "", tex(text))
    assert not set(rest) & set("\\{}$&#%_^~")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_and_writes_the_same(vlae, tmp_path):
    done(tmp_path, container(VAE))
    for name in FORMATS:
        status, out, _ = vlae("--format", name)
        file = tmp_path / f"{name}.out"
        assert (status, vlae("--format", name, "--out", file)[:2]) == (0, (0, f"{file}\n"))
        assert file.read_text() == out
    for seed in (0, 1):
        done(tmp_path, container(VLAE, seed=seed), level=-9.0)
        done(tmp_path, container(VAE, seed=seed))
    status, out, _ = vlae("--rows", "seed", "--cols", "dataset,output_dist,model", "--decimals", 3)
    assert status == 0
    assert "seed = 0" in out
    assert "**" not in out  # one seed per cell
    assert re.search(
        r"VAE +│ +\*\*-?\d\.\d{3} ± \d\.\d{3}\*\* │\n", vlae("--decimals", 3)[1]
    )  # the best, in plain text


@pytest.mark.slow
def test_notes_beside_a_csv_file_are_printed(vlae, tmp_path):
    done(tmp_path, container(VAE))
    done(tmp_path, container(VLAE))
    assert vlae("--format", "csv")[2] == ""
    path = done(tmp_path, container(HF))
    (path / "results.json").write_text("{")
    for words in ([], ["--out", tmp_path / "x.csv"]):
        (line,) = vlae("--format", "csv", *words)[2].splitlines()
        assert line.startswith(f"vlae: Left out: {path.name} (results.json holds no JSON object")
    assert vlae("--format", "json")[2] == ""  # it is in its notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--format", "latx"],
            "--format: expected one of terminal, markdown, latex, html, csv, json, got 'latx'",
        ),
        (["--metric", "test/elbo"], "--metric: no run has a metric 'test/elbo'; did you mean test.elbo"),
        (["--metric", "environment.host"], "--metric: expected a number, environment.host is 'h' in"),
        (["--rows", "mdel"], "--rows: no run has 'mdel'; did you mean model?"),
        (["--rows", ""], "--rows: expected one or several comma-separated keys, got ''"),
        (["--cols", " ,"], "--cols: expected one or several comma-separated keys, got ' ,'"),
        (["--rows", "model", "--cols", "model"], "--cols: model is also in --rows; name each key once"),
        (["--cols", "model"], "--cols: model is also in --rows by default; name each key once"),
        (
            ["--where", "model=VAE and seed<9"],
            "no runs with model=VAE and seed<9; model.name is vae; seed is 0",
        ),
        (
            ["--out", "."],
            "--out: expected a file that ends in .txt, .md, .tex, .html, .htm, .csv, .json, got '.'",
        ),
        (["--out", ".", "--format", "csv"], "--out: expected a file, got '.'"),
        (["--out", ""], "--out: expected a file, got ''"),
        (["--out", "x.doc"], "--out: expected a file that ends in .txt, .md, "),
        (["--cols", "optimizer.lrr"], "--cols: no run has 'optimizer.lrr'; did you mean optimizer.lr"),
        (["--where", "sed=3"], "--where: no run has 'sed'; did you mean seed"),
        (["--where", "seed>7"], "no runs with seed>7"),
        (["nothing"], "no sweep and no run 'nothing'"),
        (["--out", "nowhere/x.csv", "--format", "csv"], "cannot write nowhere/x.csv"),
        (["--published"], "--published: no published"),
    ],
)
def test_a_wrong_command_is_one_message_and_status_2(vlae, tmp_path, words, message):
    done(tmp_path, container(VAE))
    status, out, err = vlae(*words)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_directory_without_runs_is_reported(vlae, tmp_path):
    assert "no runs" in vlae()[2]
    (tmp_path / "x").mkdir()
    assert "no runs; 1 left out: x (it is no run: it has no config.yaml)" in vlae()[2]
    for i in range(8):
        (tmp_path / f"y{i}").mkdir()
    err = vlae()[2]
    assert "no runs; 9 left out: x (it is no run: it has no config.yaml), y0 (" in err
    assert err.endswith(", and 4 more\n")


@pytest.mark.slow
def test_an_unmet_condition_lists_the_existing_values(tmp_path):
    for seed in range(12):
        done(tmp_path, container(VAE if seed else VLAE, seed=seed))
    for where, hint in {
        "model=VAE": "model.name is one of vae, vlae",
        "seed>20": "seed is from 0 to 11",
        "seed='1'": "seed is from 0 to 11",
        "T=2": "T is one of null, 4",
        "model.hidden_dims=[5]": "model.hidden_dims is [64, 64]",
    }.items():
        with pytest.raises(UserError, match=re.escape(f"no runs with {where}; {hint}") + "$"):
            table_of(tmp_path, where=where)


@pytest.mark.slow
def test_without_a_near_match_some_choices_are_listed(vlae, tmp_path):
    done(tmp_path, container(VAE))
    for option in ("--rows", "--metric"):
        _, _, err = vlae(option, "q0q0")
        assert len(err) < 800
        assert err.endswith("; `vlae metrics` lists metrics, `python launch.py --help` settings)\n")
        choices = re.search(r"choices: (.*), and \d+ more", err)[1].split(", ")
        assert len(choices) == CHOICES
        for choice in choices:
            other = ["--cols", "state"] if choice in ("dataset", "output_dist") else []
            assert vlae(option, choice, *other)[0] == 0, choice
    _, _, err = vlae("--format", "q0q0")
    assert err.count("latex") == 1


def test_rows_and_columns_share_no_key(tmp_path):
    for model in (VAE, VLAE):
        done(tmp_path, container(model))
    assert [line[0].text for line in layout(table_of(tmp_path, rows=["T"])).lines] == [HOLE, "T = 4"]
    found = table_of(tmp_path, rows=["dataset", "model"])
    assert (found.row_keys, found.column_keys) == (("dataset.name", "model.name"), ("output_dist.name",))
    found = table_of(tmp_path, columns=["T"])
    assert (found.row_keys, found.column_keys) == (("model.name",), ("T",))


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "format"), ENDINGS.items())
def test_the_file_suffix_sets_the_format_unless_format_does(vlae, tmp_path, ending, format):
    done(tmp_path, container(VAE))
    file, same, other = (tmp_path / name for name in (f"a.{ending}", "b", f"c.{ending}"))
    assert vlae("--out", file) == (0, f"{file}\n", "")
    assert vlae("--out", same, "--format", format)[0] == 0
    assert file.read_bytes() == same.read_bytes()
    assert vlae("--out", other, "--format", "markdown")[0] == 0
    assert other.read_text().startswith("| ")


def test_an_unwritable_output_is_refused_before_reading(vlae, monkeypatch):
    monkeypatch.setattr(sys.modules["vlae.report.sources.run_directories"], "collect_runs", None)
    for words in (["--out", "nowhere/x.tex"], ["--out", "nowhere/x", "--format", "csv"]):
        assert vlae(*words)[2] == f"vlae: cannot write {words[1]}: the directory nowhere does not exist\n"


@pytest.mark.parametrize("turned", [False, True])
def test_of_runs_that_differ_in_proposals_alone_the_one_with_the_metric_counts(tmp_path, turned):
    done(tmp_path, container(VAE), level=-80.0)
    cfg = container(VAE, "evaluate.proposals=[own,student_t]")
    values = np.linspace(-71.0, -69.0, 12)
    RunDirectory(done(tmp_path, cfg)).write_results(results(cfg, {"own": values, "student_t": values}))
    found = collect_runs(None, tmp_path)
    if turned:
        found = replace(found, runs=found.runs[::-1])
    for estimator, level in (("fitted", -79.0), ("student_t", -70.0)):
        [cell] = make_table(found, metric=f"test.log_likelihood.{estimator}.mean").cells
        assert (cell.n, round(cell.mean or 0.0)) == (1, level)

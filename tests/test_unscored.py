"""``evaluate=none``: a run that is trained and validated, not scored, and every reader of its results."""

import json
from pathlib import Path

import pytest
import torch
from recorded import container, done
from recorded import results as made_up

import vlae
from vlae.config.run_id import run_id
from vlae.errors import UserError
from vlae.report.metric_values import VALIDATION, metrics_of_results
from vlae.report.sources.run_directories import collect_runs
from vlae.report.sources.wandb import results_of
from vlae.report.tables.table import make_table
from vlae.runs.directory import RunDirectory
from vlae.system.disk import RecordError
from vlae.trackers.run_history import RunHistory, flat

TINY = (
    "model=vae", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=2", "device=cpu",
    "num_threads=1",
)  # fmt: skip
FEW = ("evaluate=quick", "evaluate.num_samples=20", "evaluate.num_gap_images=0")
TIMES = ("seconds", "memory_bytes")


def make_run(runs_dir: Path, *overrides: str) -> Path:
    results = vlae.run([*TINY, *overrides, f"runs_dir={runs_dir}"], quiet=True)
    return runs_dir / results["run_id"]


@pytest.fixture(scope="module")
def unscored(tmp_path_factory) -> Path:
    """A run without scores, alone in its runs directory."""
    return make_run(tmp_path_factory.mktemp("alone"), "evaluate=none")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """A run without scores and one with, of the same settings otherwise, in one runs directory."""
    runs_dir = tmp_path_factory.mktemp("both")
    return make_run(runs_dir, "evaluate=none"), make_run(runs_dir, *FEW)


def results_in(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


# --- the run --------------------------------------------------------------------------------------------------


def test_it_is_done_with_an_empty_test_section_and_its_validation_elbo(unscored):
    found = results_in(unscored)
    assert (found["test"], RunDirectory(unscored).state()) == ({}, "done")
    assert isinstance(found["validation"]["elbo"], float)
    assert found["cost"]["seconds_by_proposal"] == {}
    assert not (unscored / "test_log_likelihood.npz").exists()


def test_training_is_that_of_the_scored_run(both):
    """Law: weights, metrics of epochs, pictures and validation ELBO are those of the run that is scored."""
    one, other = both
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in both]
    ours, theirs = ([{k: v for k, v in line.items() if k not in TIMES} for line in each] for each in lines)
    assert ours == theirs
    weights = [vlae.load(str(run)).model.state_dict() for run in both]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert results_in(one)["validation"] == results_in(other)["validation"]
    pictures = [{p.name: p.read_bytes() for p in sorted((run / "images").iterdir())} for run in both]
    assert pictures[0] == pictures[1] != {}


def test_the_same_command_again_shows_it_and_how_to_score_it(unscored, capsys):
    before = (unscored / "results.json").stat().st_mtime_ns
    found = vlae.run([*TINY, "evaluate=none", f"runs_dir={unscored.parent}"])
    assert (found, (unscored / "results.json").stat().st_mtime_ns) == (results_in(unscored), before)
    assert "the same command without evaluate=none" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_best_epoch_by_test_images_is_no_validation_elbo(tmp_path, command):
    run = make_run(tmp_path, "evaluate=none", "trainer.selection=test", "trainer.epochs=1")
    assert results_in(run)["validation"] == {"elbo": None}
    status, out, err = command("show", str(run))
    assert (status, err, "ELBO" in out, "selected on test" in out) == (0, "", False, True)
    status, out, _ = command("table", "--runs-dir", str(tmp_path))
    assert (status, "No run has this metric yet" in out) == (0, True)


# --- its record -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{}, {"test": {}}, {"test": None, "best_epoch": 1}, {"best_epoch": 1}])
def test_results_that_are_none_are_still_refused(tmp_path, content):
    cfg = container("evaluate=none")
    run = RunDirectory.create(tmp_path, run_id(cfg), cfg)
    run.write_results(content)
    with pytest.raises(RecordError, match="holds no metrics of a run"):
        run.results()


@pytest.mark.parametrize("content", [{}, {"test": {}}, {"test": {}, "best_epoch": 1}])
def test_incomplete_results_have_no_metrics(content):
    with pytest.raises(ValueError, match="lacks metrics of a run"):
        metrics_of_results(content)


def test_its_metrics_have_no_test_and_come_back_from_weights_and_biases(unscored):
    """Law: what a summary there holds has the metrics of results.json that are not None."""
    found = metrics_of_results(results_in(unscored))
    assert found[VALIDATION] == results_in(unscored)["validation"]["elbo"]
    assert not [key for key in found if key.startswith("test.")]
    back = metrics_of_results({"test": {}, **results_of(flat(results_in(unscored)) | {"epoch": 2})})
    assert back == {key: value for key, value in found.items() if value is not None}


@pytest.mark.slow
def test_event_files_have_the_validation_elbo(tmp_path):
    pytest.importorskip("tensorboardX")
    from vlae.trackers.tensorboard_mirror import EventFiles

    cfg = container("tracker=tensorboard", "evaluate=none")
    run = RunDirectory.create(tmp_path, run_id(cfg), cfg)
    run.write_results(made_up(cfg, {}) | {"test": {}, "validation": {"elbo": -7.5}})
    mirror = EventFiles(RunHistory(run))
    mirror.start()
    mirror.finish()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.path / "tracking" / "tensorboard")).Reload()
    assert found.Tags()["scalars"] == ["validation/elbo"]
    assert found.Scalars("validation/elbo")[0].value == -7.5


# --- every reader, beside a scored run ------------------------------------------------------------------------


def table(runs_dir: Path, **asked: object) -> str:
    return vlae.table(runs_dir=runs_dir, **asked)


def test_show_says_that_it_is_not_scored(command, both):
    status, out, err = command("show", both[0].name, "--runs-dir", str(both[0].parent))
    elbo = results_in(both[0])["validation"]["elbo"]
    assert (status, err) == (0, "")
    assert f"{elbo:.2f} nats" in out
    assert "not scored" in out
    assert "log-likelihood" not in out


def unscored_run(runs_dir: Path, *overrides: str, seed: int = 0) -> None:
    cfg = container(*overrides, "evaluate=none", seed=seed)
    run = RunDirectory.create(runs_dir, run_id(cfg), cfg)
    run.write_results(made_up(cfg, {}) | {"test": {}})


METRICS = (None, "test.elbo", "test.log_likelihood.own.mean", "test.log_likelihood.own.ess_median")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scoring", ["evaluate=default", "evaluate=quick"])
def test_a_cell_says_how_many_of_its_runs_are_not_scored(tmp_path, metric, scoring):
    for seed in (0, 1):
        done(tmp_path, container("model=vae", scoring, seed=seed), level=-80.0)
    unscored_run(tmp_path, "model=vae", seed=2)
    unscored_run(tmp_path, "model=hf")
    found = make_table(collect_runs(None, tmp_path), metric=metric)
    assert {cell.row: (cell.n, cell.runs, cell.missing) for cell in found.cells} == {
        ("vae",): (2, 3, "1 not scored"),
        ("hf",): (0, 1, "1 not scored"),
    }


@pytest.mark.parametrize("metric", [*METRICS, VALIDATION])
@pytest.mark.parametrize("scoring", ["evaluate=default", "evaluate=quick"])
def test_a_run_without_scores_changes_no_table_that_has_its_training_with_scores(tmp_path, metric, scoring):
    done(tmp_path, container("model=vae", scoring), level=-80.0)
    before = make_table(collect_runs(None, tmp_path), metric=metric)
    unscored_run(tmp_path, "model=vae")
    assert make_table(collect_runs(None, tmp_path), metric=metric) == before


@pytest.mark.slow
def test_the_validation_elbo_is_in_a_table_once_for_both(both):
    """Both have the same training, and the metric depends on nothing else."""
    text = table(both[0].parent, metric=VALIDATION)
    assert text.count(f"{results_in(both[0])['validation']['elbo']:.2f}") == 1
    assert "Validation ELBO in nats per image" in text


def test_without_any_score_the_table_is_of_the_validation_elbo(unscored):
    text = table(unscored.parent)
    assert "Validation ELBO in nats per image (higher is better)" in text
    assert f"{results_in(unscored)['validation']['elbo']:.2f}" in text
    with pytest.raises(UserError, match=r"no run has a metric 'test.elbo'; these runs were not scored"):
        table(unscored.parent, metric="test.elbo")


def test_a_frame_has_its_validation_elbo_and_no_test_metric(both):
    frame = vlae.runs(runs_dir=both[0].parent).set_index("id")
    assert frame[VALIDATION].notna().all()
    assert frame["test.elbo"].isna().to_dict() == {both[0].name: True, both[1].name: False}


@pytest.mark.slow
def test_status_logs_and_metrics_are_as_of_any_run(command, both):
    for words in (["status"], ["logs", both[0].name], ["show", both[1].name]):
        status, out, err = command(*words, "--runs-dir", both[0].parent)
        assert (status, err) == (0, "")
        assert out


@pytest.mark.slow
def test_compare_shows_the_validation_elbo_of_both(command, both):
    status, out, err = command("compare", both[0], both[1])
    assert (status, err) == (0, "")
    [line] = [line for line in out.splitlines() if VALIDATION in line]
    assert line.count(f"{results_in(both[0])['validation']['elbo']:.3f}") == 2
    assert f"{both[0].name} was not scored on the test images" in " ".join(out.split())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curves", "cost", "likelihood_vs_updates", "covariance", "estimators"])
def test_figures_are_drawn_of_what_there_is(both, kind):
    assert vlae.plot(kind, runs_dir=both[0].parent).axes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curves", "cost", "likelihood_vs_updates", "covariance"])
def test_figures_of_unscored_runs_alone_show_the_validation_elbo(unscored, kind):
    assert vlae.plot(kind, runs_dir=unscored.parent).axes


def test_estimators_of_unscored_runs_alone_are_refused(unscored):
    with pytest.raises(UserError, match="no run that is done and scored has its directory here"):
        vlae.plot("estimators", runs_dir=unscored.parent)


@pytest.mark.slow
def test_the_report_warns_and_lists_it(both, unscored, tmp_path):
    text = vlae.report(out=tmp_path / "both.html", runs_dir=both[0].parent).read_text()
    assert "1 run of 2 was trained and validated, and not scored on the test images" in text
    assert "not scored; the same command without evaluate=none" in text
    text = vlae.report(out=tmp_path / "alone.html", runs_dir=unscored.parent).read_text()
    assert "<th>Validation ELBO</th>" in text
    assert "<th>log-likelihood" not in text


@pytest.mark.slow
def test_it_samples_images(command, unscored, tmp_path):
    status, _, err = command("sample", unscored, "--out", tmp_path / "grid.png")
    assert (status, err) == (0, "")
    assert (tmp_path / "grid.png").stat().st_size > 0


@pytest.mark.parametrize("words", [(), ("evaluate.num_samples=20",), ("evaluate=none",)])
def test_scoring_it_again_needs_a_choice_that_scores(command, unscored, words):
    before = sorted(unscored.parent.iterdir())
    status, out, err = command("evaluate", unscored, *words, "device=cpu")
    assert (status, out, sorted(unscored.parent.iterdir())) == (2, "", before)
    assert "evaluate.proposals: expected own among them, got [], which scores nothing; add evaluate=" in err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the command without it", "vlae evaluate"])
def test_it_is_scored_without_training_as_a_run_of_its_own(command, how, tmp_path):
    """Law: the scores are those of the run that was never without them."""
    run, alone = make_run(tmp_path, "evaluate=none"), make_run(tmp_path / "alone", *FEW)
    before = (run / "results.json").read_bytes()
    if how == "vlae evaluate":
        status, out, _ = command("evaluate", run, "device=cpu", *FEW)
        assert (status, "test log-likelihood, laplace" in out) == (0, True)
    else:
        make_run(tmp_path, *FEW)
    scored = results_in(tmp_path / alone.name)
    assert scored["taken_over"]["training"] == {
        **scored["taken_over"]["training"], "run": run.name, "epochs": 2,
    }  # fmt: skip
    assert scored["test"] == results_in(alone)["test"]
    assert (run / "results.json").read_bytes() == before

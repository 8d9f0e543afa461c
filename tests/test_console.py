"""The output of a run: plain lines without a terminal, nothing when quiet, every metric; and Ctrl-C."""

import copy
import io
import signal
from pathlib import Path

import pytest
from rich.console import Console

from vlae.estimation import reliability
from vlae.experiment.summary import run_summary, status_table
from vlae.system import console
from vlae.system.console import Reporter, duration
from vlae.system.interruption import SIGNALS, Interrupted, Interruption

RESULTS = {
    "run_id": "vlae-digits-gaussian-s0-0123456789",
    "best_epoch": 17,
    "epochs": 23,
    "selection": "validation",
    "test": {
        "elbo": -12.345,
        "elbo_standard_error": 0.456,
        "log_likelihood": {
            "own": {
                "mean": -11.219,
                "standard_error": 0.347,
                "num_samples": 5000,
                "num_images": 297,
                "ess_median": 123.4,
                "ess_min": 5.6,
                "elbo": -12.345,
                "elbo_standard_error": 0.456,
                "k_hat_limit": 0.7,
                "k_hat_unreliable": 0.02,
                "samples_mean": 4321.0,
                "samples_for_a_tenth": 654.3,
                "mean_in_model_space": -11.2,
            }
        },
        "bits_per_dim": 3.21987,
        "uniform_bits_per_dim": 8.0,
        "gaps": {
            "num_images": 100,
            "elbo": -12.5,
            "optimal_elbo": -12.0,
            "log_likelihood": -10.9,
            "log_likelihood_by": "laplace",
            "approximation": 1.1,
            "approximation_standard_error": 0.04,
            "amortisation": 0.5,
            "amortisation_standard_error": 0.03,
            "iterations": 4,
        },
    },
    "validation": {"elbo": -13.0},
    "cost": {
        "train_seconds": 78.91,
        "seconds_per_epoch": 3.43,
        "evaluate_seconds": 2.34,
        "peak_memory_bytes": 1,
        "parameters": 1234567,
    },
}


def printed(table: object) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    return out.getvalue()


def progress(reporter: Reporter) -> None:
    """Three epochs as a run reports them: steps without metrics between lines with them."""
    with reporter:
        reporter.line("begun")
        reporter.warn("[not] markup")
        for epoch in (1, 2, 3):
            reporter.advance("training epoch", epoch - 0.5, 3)
            reporter.advance("training epoch", epoch, 3, f"ELBO -{epoch}.00", last=epoch == 3)


# --- progress -----------------------------------------------------------------------------------------------------


def test_progress_without_a_terminal_is_plain_lines(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    progress(Reporter(tmp_path / "log.txt"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    lines = err.splitlines()
    assert lines[:2] == ["begun", "warning: [not] markup"]
    assert [line.split("  ")[:2] for line in lines[2:]] == [
        [f"training epoch {epoch}/3", f"ELBO -{epoch}.00"] for epoch in (1, 2, 3)
    ]
    assert [line.endswith(" s left") for line in lines[2:]] == [True, True, False]
    assert (tmp_path / "log.txt").read_text().splitlines() == lines


def test_progress_lines_are_rare_but_the_last_is_printed(capsys):
    progress(Reporter())
    assert [line for line in capsys.readouterr().err.splitlines() if "epoch" in line] == [
        "training epoch 3/3  ELBO -3.00"
    ]


def test_a_long_epoch_prints_progress_without_metrics(capsys, monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    progress(Reporter())
    assert "training epoch 0.5/3" in capsys.readouterr().err


def test_the_time_left_is_extrapolated_from_this_attempt(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 20.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with Reporter() as reporter:  # resumes from epoch 50: 10 epochs took 10 seconds
        reporter.advance("training epoch", 50, 100)
        reporter.advance("training epoch", 60, 100, "ELBO -1.00")
    assert capsys.readouterr().err.splitlines() == ["training epoch 60/100  ELBO -1.00  40.0 s left"]


def test_quiet_prints_nothing_and_still_writes_the_log(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    reporter = Reporter(tmp_path / "log.txt", quiet=True)
    progress(reporter)
    reporter.result(run_summary(RESULTS, tmp_path))
    assert capsys.readouterr() == ("", "")
    assert "training epoch 3/3  ELBO -3.00" in (tmp_path / "log.txt").read_text()


def test_the_log_of_an_attempt_is_appended_to(tmp_path, capsys):
    (tmp_path / "log.txt").write_text("before\n")
    progress(Reporter(tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text().startswith("before\nbegun\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.9, "59.9 s"), (60, "1 min 00 s"), (185.2, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_have_readable_units(seconds, text):
    assert duration(seconds) == text


# --- summary ------------------------------------------------------------------------------------------------------


def test_the_summary_prints_every_metric(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    Reporter().result(run_summary(RESULTS, Path("runs/here")))
    out, err = capsys.readouterr()
    assert err == ""
    for text in (
        "vlae-digits-gaussian-s0-0123456789", "-12.3", "± 0.46", "-11.22 ± 0.35 nats", "4321", "654", "297 images",
        "123.4", "5.6", "3.2199", "17 of 23", "validation", "78.9", "3.43 per epoch",
        "2.3 evaluation", "1,234,567", "runs/here",
    ):  # fmt: skip
        assert text in out, text


def test_missing_metrics_are_left_out():
    results = copy.deepcopy(RESULTS)
    results["test"]["bits_per_dim"] = None
    results["test"]["elbo_standard_error"] = None
    own = results["test"]["log_likelihood"]["own"]
    own |= {"standard_error": None, "elbo_standard_error": None, "k_hat_unreliable": None}
    results["test"]["gaps"] = None
    text = printed(run_summary(results, Path("runs/here")))
    assert "None" not in text
    assert "bits" not in text
    assert "±" not in text.replace("for ±0.1", "")


def test_unreliable_metrics_are_marked():
    results = copy.deepcopy(RESULTS)
    results["test"] |= {"bits_per_dim": 7.9}
    assert reliability.reliability_warnings(results) == []
    assert reliability.MARK not in printed(run_summary(results, Path("runs/here")))
    results["test"]["log_likelihood"]["own"]["k_hat_unreliable"] = 0.051
    assert "5% (own)" in reliability.reliability_warnings(results)[0]
    assert "probably too low" in reliability.reliability_warnings(results)[0]
    assert f"-11.22 ± 0.35 {reliability.MARK}" in printed(run_summary(results, Path("runs/here")))
    results["test"] |= {"bits_per_dim": 8.1}
    assert "uniform noise" in reliability.reliability_warnings(results)[1]


def test_results_of_the_first_version_are_shown():
    """They have one estimator, and less of it."""
    results = copy.deepcopy(RESULTS)
    first = (
        "mean",
        "standard_error",
        "num_samples",
        "num_images",
        "ess_median",
        "ess_min",
        "mean_in_model_space",
    )
    own = results["test"]["log_likelihood"]["own"]
    results["test"]["log_likelihood"]["own"] = {name: own[name] for name in first}
    del results["test"]["gaps"]
    text = printed(run_summary(results, Path("runs/here")))
    assert "-11.22 ± 0.35" in text
    assert "None" not in text
    assert reliability.MARK not in text


def test_every_unfinished_mode_search_is_reported():
    results = copy.deepcopy(RESULTS)
    proposals = results["test"]["log_likelihood"]
    for name, images in (("laplace", 7), ("student_t", 0), ("mixture", 8)):
        proposals[name] = proposals["own"] | {"mode_search": {"unconverged": images}}
    text = " ".join(printed(run_summary(results, Path("runs/here"))).split())
    assert "laplace: the search for the mode did not settle for 7 images" in text
    assert "mixture: the search for the mode did not settle for 8 images" in text
    assert "student_t: the search" not in text


def test_the_stages_of_a_fit_are_shown_and_what_remains_unreliable():
    results = copy.deepcopy(RESULTS)
    proposals = results["test"]["log_likelihood"]
    fit = {"components_mean": 1.25, "stages": {"fit": 297, "longer": 4, "annealed": 0}}
    proposals["fitted"] = proposals["own"] | fit | {"unreliable_images": {"number": 0, "positions": None}}
    results["cost"]["seconds_by_stage"] = {"fitted": {"fit": 3.14, "longer": 1.0, "annealed": 0.0}}
    stages = "fitted: 1.2 modes per image; 297 images fitted in 3.1 s, 4 with longer chains in 1.0 s"

    def shown():
        return " ".join(printed(run_summary(results, Path("runs/here"))).split())

    assert stages in shown()
    assert "annealed" not in shown()
    assert "k-hat is bad" not in shown()
    proposals["fitted"]["unreliable_images"] = {"number": 1, "positions": "17"}
    assert f"{stages}; k-hat is bad on 1 image: 17" in shown()
    proposals["fitted"]["unreliable_images"] = {"number": 21, "positions": ", ".join(map(str, range(20)))}
    assert "k-hat is bad on 21 images: 0, 1, 2," in shown()
    assert "19, ..." in shown()


def test_unreliable_metrics_are_marked_in_every_table():
    results = copy.deepcopy(RESULTS)
    proposals = results["test"]["log_likelihood"]
    proposals["laplace"] = proposals["own"] | {"k_hat_unreliable": 0.3}
    level = {"mean": -10.9, "standard_error": 0.2}
    beside = level | {"difference": -0.1, "difference_standard_error": 0.05}
    chains = {"num_images": 5, "num_chains": 4, "num_distributions": 30, "ess_median": 3.0, "ess_min": 2.0}
    check = chains | {"acceptance": 0.7, "proposals": {"own": beside, "laplace": beside}}
    proposals["ais"] = level | check
    results["test"]["bdmc"] = check | {"lower": level, "upper": level, "gap": 0.3, "gap_standard_error": 0.1}
    tables = run_summary(results, Path("runs/here")).renderables
    marked = ("-11.22 ± 0.35 nats †", "-11.22 ± 0.35 †", "-10.90 ± 0.20 †", "-10.90 ± 0.20 †", "-10.90 †")
    for table, text in zip(tables, marked, strict=True):
        shown = printed(table)
        assert text in shown
        assert shown.count(reliability.MARK) == (2 if "warning" in shown or "Gaps" in shown else 1)


def test_the_status_of_a_failed_run_shows_why():
    status = {
        "run_id": "vae", "state": "failed", "reason": "exception", "message": "NonFiniteError: at step 3",
        "attempt": 2, "updated": "2024-01-01T00:00:00+00:00", "progress": {"epoch": 1, "step": 13},
    }  # fmt: skip
    text = printed(status_table(status, Path("runs/vae")))
    for word in ("vae", "failed", "NonFiniteError: at step 3", "2", "13", "runs/vae"):
        assert word in text


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_handlers_are_restored(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Interruption() as interruption:
        interruption.check()
        signal.raise_signal(number)
        assert interruption.requested
        with pytest.raises(Interrupted) as stop:
            interruption.check()
    assert stop.value.number == number
    assert not isinstance(stop.value, Exception)
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_stays_so(number):
    before = signal.signal(number, signal.SIG_IGN)  # by nohup, or by a shell in whose background we run
    try:
        with Interruption() as interruption:
            signal.raise_signal(number)
            assert not interruption.requested
            assert number not in interruption.signals
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_second_ctrl_c_stops_at_once():
    with Interruption():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_further_requests_of_a_scheduler_do_not_stop_at_once():
    with Interruption() as interruption:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        assert interruption.requested

"""``vlae status``, ``vlae logs`` and ``vlae cancel``: their output for runs in every state, and their effect."""

import json
import math
import re
import signal
from pathlib import Path

import pytest

from simulation.scripted import ScriptedSlurm, identity
from vlae.launching import cancel, logs, queues, sweep_index
from vlae.launching.queues import Waiting
from vlae.launching.run_state import RunState
from vlae.launching.status_table import ORDER, ROWS, totals
from vlae.runs.directory import RunDirectory
from vlae.runs.rerun import RERUNS

LOST = "vae-digits-gaussian-s0-0123456789"


@pytest.fixture
def vlae(command, tmp_path):
    """``vlae <words>``"""
    return lambda *words: command(*words, "--runs-dir", tmp_path)


@pytest.fixture
def run(tmp_path):
    """``run("vae-0", state="failed")``: a run directory with that in its record."""

    def make(name, **status):
        directory = RunDirectory.create(tmp_path, name, {"name": name})
        if status.get("state") == "done":
            directory.write_results({"test": {"elbo": -1.0}})
        if status:
            directory.write_status(attempt=1, **status)
        return directory

    return make


@pytest.fixture
def queue(tmp_path):
    """``queue("vae-0", "vae-1")``: a local queue that this process holds, with these runs."""

    def make(*names, kind="local", is_rerun=False, attempts=0):
        waiting = [Waiting(name, attempts, is_rerun, task) for task, name in enumerate(names)]
        return queues.create(
            tmp_path, kind=kind, sweep="s", code=tmp_path, runs=waiting, settings={"cluster": identity()}
        )

    return make


def rows(out):
    """The cells of the table below its heading."""
    lines = re.split(r"\n(?:\.\.\. and |what is said|\S+: \d+ runs?,)", out)[0].splitlines()
    return [["" if cell == "-" else cell for cell in re.split(r"\s{2,}", line)] for line in lines]


# --- status -------------------------------------------------------------------------------------------------------


def test_runs_that_need_attention_come_first(vlae, run, queue):
    run("a", state="done", where="host", gpu_seconds=3600.0)
    run("b")
    run("c")
    run("d", state="interrupted", reason="SIGTERM", progress={"epoch": 3, "epochs": 60, "elbo": -101.234})
    run("e", state="failed", reason="exception", message="ValueError: 7", gpu_seconds=1800.0)
    attempt = run("f").claim()
    queue("c")
    status, out, err = vlae("status")
    assert (status, err) == (0, "")
    found = rows(out)
    assert [row[0] for row in found] == ["f", "e", "d", "c", "b", "a"]
    assert re.fullmatch(r"running, seen \d+\.\d s ago", found[0][1])
    assert [row[1] for row in found[1:]] == [
        *("failed (exception: ValueError: 7)", "interrupted (SIGTERM)", "queued", "new", "done")
    ]
    assert found[2][2] == "epoch 3/60, ELBO -101.23"
    assert found[-1][3] == "host"
    assert "6 runs, 1 new, 1 queued, 1 running, 1 interrupted, 1 failed, 1 done; 1.5 GPU hours" in out
    assert attempt.number == 1


def test_the_order_has_every_state():
    states = [RunState(name, Path(name), name, gpu_seconds=36.0) for name in ORDER]
    assert totals("s", states[:1]) == "s: 1 run, 1 running; 0.0 GPU hours"
    assert totals("s", []) == "s: 0 runs"


def test_a_sweep_is_found_by_its_name_or_a_unique_prefix(vlae, run, tmp_path):
    run("vae-0", state="done")
    run("vlae-0", state="done")
    sweep_index.record_sweep(tmp_path, "smoke", {"vae-0": "model=vae", "vlae-1": "model=vlae"}, [])
    sweep_index.record_sweep(tmp_path, "smoke-2", {"vlae-0": "model=vlae"}, [])
    for name, runs in {"smoke": ["model=vlae", "model=vae"], "smoke-": ["model=vlae"]}.items():
        status, out, _ = vlae("status", name)
        assert status == 0
        assert [row[0] for row in rows(out)] == runs
    assert "smoke-2: 1 run, 1 done" in out
    assert "smoke: 2 runs, 1 new, 1 done" in vlae("status", "smoke")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "note",
    [
        {"name": "s"},
        {"name": "s", "runs": ["a"]},
        {"name": "s", "runs": {"a": None}},
        *({"name": "s", "runs": {"a": "", name: ""}} for name in ("../x", "", ".x", "a\0b", "\ud800")),
    ],
)
def test_a_damaged_sweep_note_is_one_message_with_the_file(vlae, run, tmp_path, note):
    run("a", state="done")
    sweep_index.record_sweep(tmp_path, "s", {"a": ""}, [])
    file = tmp_path / ".sweeps" / "s.json"
    file.write_text(json.dumps(note))
    for word in ("status", "table", "report", "cancel", "logs"):
        status, out, err = vlae(word, "s")
        assert (status, out) == (2, "")
        assert re.match(rf"vlae: {re.escape(str(file))}: runs: expected .*, got ", err)
    assert "1 run, 1 done" in vlae("status")[1]


def test_runs_are_found_by_an_id_prefix(vlae, run):
    for name in ("vae-0", "vae-1", "vlae-0"):
        run(name, state="done")
    status, out, _ = vlae("status", "vae")
    assert (status, [row[0] for row in rows(out)]) == (0, ["vae-0", "vae-1"])


def test_an_unknown_name_is_one_message_with_the_names(vlae, run, tmp_path):
    run("vae-0")
    for name in ("smoke", "smooth"):
        sweep_index.record_sweep(tmp_path, name, {"vae-0": ""}, [])
    for word in ("status", "cancel"):
        status, out, err = vlae(word, "smokes")
        assert (status, out) == (2, "")
        assert err.startswith("vlae: no sweep and no run 'smokes'")
        assert "did you mean smoke?" in err
        assert "sweeps: smoke, smooth" in err
    assert vlae("status", "smo")[0] == 2  # could be either


def test_a_folder_without_runs_has_none(vlae):
    status, out, err = vlae("status")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"no runs in .* yet: python launch\.py starts them\n", out)
    for word in ("status", "show", "logs", "cancel"):
        status, out, err = vlae(word, "smoke")
        assert (status, out) == (2, "")
        assert re.fullmatch(r"vlae: no .*run 'smoke' in .*, which has no runs yet\n", err)


def test_an_invalid_result_is_a_failure_explained_by_show(vlae, run):
    file = run("a", state="done").path / "results.json"
    for content in ("{}", "[1]", '{"test": {}}'):
        file.write_text(content)
        status, out, _ = vlae("status")
        assert (status, rows(out)[0][1].startswith("failed (unreadable record: ")) == (0, True)
        status, out, err = vlae("show", "a")
        assert (status, out) == (2, "")
        assert re.fullmatch(rf"vlae: {re.escape(str(file))} holds no [^\n]*\n", err)
        assert file.read_text() == content


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [{"state": "over"}, {"gpu_seconds": None}, {"progress": ["epoch", 3]}, {"reason": ["a"]}, {"where": 3}],
)
def test_a_wrongly_typed_status_fails_only_its_run(vlae, run, wrong):
    file = run("a", state="interrupted").path / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    run("b")
    status, out, err = vlae("status")
    assert (status, err) == (0, "")
    broken, whole = rows(out)
    (key,) = wrong
    assert (broken[0], whole) == ("a", ["b", "new", "", ""])
    assert broken[1].startswith(f"failed (unreadable record: {file}: {key}: expected ")


def test_an_invalid_claim_fails_only_its_run(vlae, run):
    file = run("a").claim().directory / "claim.json"
    file.write_text("{}")
    run("b")
    status, out, err = vlae("status")
    assert (status, err) == (0, "")
    broken, whole = rows(out)
    assert (broken[0], whole) == ("a", ["b", "new", "", ""])
    assert broken[1].startswith(f"failed (unreadable record: {file}: pid: expected a valid integer, got null")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["results", "status", "nothing"])
def test_a_run_without_its_config_is_a_failure(vlae, run, tmp_path, what):
    place = run(LOST, state="done").path
    for file in (
        "config.yaml",
        *{"results": [], "status": ["results.json"]}.get(what, ["results.json", "status.json"]),
    ):
        (place / file).unlink()
    if what == "nothing":
        (place / "attempts").rmdir()
    sweep_index.record_sweep(tmp_path, "smoke", {LOST: ""}, [])
    (tmp_path / "notes").mkdir()
    for words in ([], ["smoke"], ["vae-"]):
        status, out, err = vlae("status", *words)
        assert (status, err) == (0, "")
        (row,) = rows(out)
        assert row[0] == LOST
        assert row[1].startswith(f"failed (unreadable record: {place} has no config.yaml. Move it away")


@pytest.mark.slow
def test_the_table_has_a_limit_unless_all_is_given(vlae, run):
    for i in range(ROWS + 2):
        run(f"run-{i:02}", state="failed" if i == ROWS + 1 else "done")
    _, out, _ = vlae("status")
    assert len(rows(out)) == ROWS
    assert rows(out)[0][0] == f"run-{ROWS + 1}"
    assert "... and 2 more: --all shows them" in out
    assert f"{ROWS + 2} runs, 1 failed, {ROWS + 1} done" in out
    _, out, _ = vlae("status", "--all")
    assert len(rows(out)) == ROWS + 2
    assert "more" not in out


def test_markup_is_printed_verbatim(vlae, run, tmp_path):
    run("a", state="failed", reason="[/]", message="bad [red]x[/red]", where="[bold]host")
    sweep_index.record_sweep(tmp_path, "[red]s", {"a": "dims=[/] [red]"}, [])
    status, out, _ = vlae("status", "[red]s")
    assert status == 0
    assert rows(out) == [["dims=[/] [red]", "failed ([/]: bad [red]x[/red])", "", "[bold]host"]]
    assert "[red]s: 1 run" in out
    run("b", state="interrupted", reason="[/]").claim()
    (tmp_path / "b" / "attempts" / "1" / "log.txt").write_text("[red] [/]\n")
    assert vlae("logs", "b")[1] == "[red] [/]\n"
    assert "1 run," in vlae("status", "b")[1]


def test_a_metric_that_is_not_finite_is_shown(vlae, run):
    run("a", state="interrupted", progress={"epoch": 3, "epochs": 60, "elbo": math.nan})
    assert rows(vlae("status")[1])[0][2] == "epoch 3/60, ELBO not finite"


def test_a_silent_run_is_doubtful(vlae, run):
    run("a").claim()
    run("a").write_status(updated="2020-01-01T00:00:00+00:00")
    assert rows(vlae("status")[1])[0][1].endswith("ago (silent)")


def test_an_unreachable_slurm_is_a_warning_below_the_table(vlae, run, queue, tmp_path, monkeypatch):
    slurm = ScriptedSlurm().install(monkeypatch)
    run("a")
    waiting = queue("a", kind="slurm")
    waiting.record_jobs({0: "12"})
    slurm.waits("12")
    status, out, _ = vlae("status")
    assert (status, rows(out)[0]) == (0, ["a", "queued (Resources)", "", "job 12"])
    slurm.unreachable()
    status, out, _ = vlae("status")
    assert (status, rows(out)[0][1]) == (0, "queued")
    assert "may be out of date: cannot reach Slurm: scontrol show con" in out


def test_watch_without_a_terminal_prints_once(vlae, run):
    run("a").claim()
    status, out, _ = vlae("status", "--watch")
    assert (status, len(rows(out))) == (0, 1)


# --- logs ---------------------------------------------------------------------------------------------------------


def begin(directory, text, state=None):
    """An attempt that has logged ``text``, and ended if there is a state."""
    attempt = directory.claim()
    attempt.log.write_text(text)
    if state is not None:
        end(directory, attempt.number, state)
    return attempt


def end(directory, number, state):
    directory.write_status(state=state, attempt=number)
    (directory.path / "attempts" / str(number) / "ended.json").write_text("{}")


def test_the_log_is_that_of_the_last_attempt(vlae, run):
    directory = run("a")
    assert vlae("logs", "a")[:2] == (0, "a was never started: the command that made it starts it\n")
    begin(directory, "first\n", "interrupted")
    begin(directory, "second ±\n", "failed")
    assert vlae("logs", "a")[:2] == (0, "second ±\n")
    assert vlae("logs", "b")[0] == 2


def test_a_waiting_run_has_no_log_yet(vlae, run, queue):
    run("a")
    queue("a")
    status, out, _ = vlae("logs", "a")
    assert (status, "`vlae logs a -f` waits with it" in out) == (0, True)


def test_the_logs_of_a_sweep_are_those_of_its_runs(vlae, run, tmp_path):
    labels = {f"run-{i:02}": f"seed={i}" for i in range(12)}
    run("run-00")
    sweep_index.record_sweep(tmp_path, "smoke", labels, [])
    for words in (("logs", "smoke"), ("logs", "smoke", "-f")):
        status, out, err = vlae(*words)
        assert (status, out) == (2, "")
        assert err.startswith("vlae: 'smoke' is a sweep of 12 runs, each with a log of its own:\n")
        assert "\n  vlae logs run-03  seed=3\n" in err
        assert err.endswith("\n  ...\n")


class Clock:
    """A stand-in for ``time``: one event at each sleep, in this order; at the end nothing is left to wait for."""

    def __init__(self, *events):
        self.events, self.slept = list(events), []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.events.pop(0)()


@pytest.fixture
def follow(monkeypatch):
    """``follow(run, event, ...)``: what is printed while these happen."""

    def go(directory, *events):
        clock, lines = Clock(*events), []
        monkeypatch.setattr(logs, "time", clock)
        logs.stream_log(directory, lines.append)
        assert clock.events == []
        return "".join(lines)

    return go


def append(attempt, text):
    with attempt.log.open("a") as file:
        file.write(text)


@pytest.mark.parametrize("state", ["done", "failed", "interrupted"])
def test_a_log_is_followed_until_the_run_ends(run, follow, state):
    directory = run("a")
    attempt = begin(directory, "1\n")

    def last():
        append(attempt, "3\n")
        directory.write_results({"test": {"elbo": -1.0}}) if state == "done" else end(directory, 1, state)

    assert follow(directory, lambda: append(attempt, "2\n"), last) == "1\n2\n3\n"


def test_later_attempts_are_followed_while_the_run_waits(run, queue, follow, tmp_path, monkeypatch):
    slurm = ScriptedSlurm().install(monkeypatch)
    directory = run("a")
    queue("a", kind="slurm").record_jobs({0: "12"})
    slurm.waits("12")
    attempts = []

    def first():
        attempts.append(begin(directory, "1\n"))

    def preempted():
        append(attempts[0], "saved\n")
        end(directory, 1, "interrupted")

    def second():
        append(attempts[0], "late\n")
        attempts.append(begin(directory, "2\n"))
        directory.write_results({"test": {"elbo": -1.0}})

    assert follow(directory, first, preempted, second) == "1\nsaved\nlate\n2\n"


def test_following_ends_if_the_run_waits_nowhere(run, queue, follow):
    directory = run("a")
    waiting = queue("a")
    assert follow(directory, lambda: None, lambda: waiting.end("ended")).startswith("a was never started")
    begin(directory, "1\n", "interrupted")
    assert follow(directory) == "1\n"


# --- cancel -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_runs_in_a_living_queue_are_cancelled(vlae, run, queue, tmp_path):
    for name in ("a", "b", "c"):
        run(name)
    waiting = queue("a", "b", "c")
    sweep_index.record_sweep(tmp_path, "s", {"a": "seed=0", "b": "seed=1"}, [])
    status, out, _ = vlae("cancel", "s")
    assert (status, out.splitlines()) == (
        0,
        ["cancelled: seed=0", "cancelled: seed=1", "s: 2 of 2 runs were waiting or running"],
    )
    assert waiting.cancelled_runs() == {"a", "b"}
    assert "0 of 2 runs" in vlae("cancel", "s")[1]
    assert "cancelled: c\n" in vlae("cancel", "c")[1]
    assert waiting.cancelled_runs() == {"a", "b", "c"}


def test_a_run_is_cancelled_in_every_queue(vlae, run, queue, tmp_path):
    """A run in a dead queue may be in a living one, or be executed without any."""
    dead, living = queue("a"), queue("a")
    place = dead.path / "claim.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "process_start": 1.0}))
    run("a")
    assert "cancelled: a\n" in vlae("cancel", "a")[1]
    assert (dead.cancelled_runs(), living.cancelled_runs()) == ({"a"}, {"a"})


def test_the_progress_of_a_rerun_is_shown(vlae, run, queue, tmp_path):
    run("a", state="done")
    RunDirectory.create(tmp_path / ".reruns", "a", {"name": "a"}).write_status(
        state="failed", attempt=1, reason="exception", message="ValueError: x"
    )
    out = vlae("status")[1]
    assert "failed again (exception: ValueError: x)" in out
    assert "1 failed" in out


def test_ended_and_new_runs_are_not_cancelled(vlae, run, queue):
    run("a", state="done")
    run("b", state="failed", reason="exception")
    run("c")
    queue("a", "c").end("ended")
    for name in ("a", "b", "c"):
        assert vlae("cancel", name)[:2] == (0, f"{name}: 0 of 1 runs were waiting or running\n")


def test_a_rerun_can_be_cancelled(vlae, run, queue, tmp_path):
    run("a", state="done")
    waiting = queue("a", is_rerun=True)
    assert "cancelled: a\n" in vlae("cancel", "a")[1]
    assert waiting.cancelled_runs() == {"a"}
    RunDirectory.create(tmp_path / RERUNS, "a", {})
    assert "0 of 1" in vlae("cancel", "a")[1]


@pytest.mark.parametrize("is_rerun", [False, True])
def test_a_run_without_a_queue_is_stopped_directly(vlae, run, monkeypatch, tmp_path, is_rerun):
    directory = run("a")
    if is_rerun:
        directory.write_results({"test": {"elbo": -1.0}})
        directory = RunDirectory.create(tmp_path / RERUNS, "a", {})
    directory.claim()
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(cancel.os, "kill", lambda *words: sent.append(words))
        assert "1 of 1 runs" in vlae("cancel", "a")[1]
    assert sent == [(directory.holder()["pid"], signal.SIGTERM)]


def test_a_run_of_another_host_needs_its_queue_to_cancel(vlae, run):
    directory = run("a")
    claim = directory.claim().directory / "claim.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "place": "elsewhere"}))
    assert "0 of 1 runs" in vlae("cancel", "a")[1]


def test_a_job_without_runs_is_cancelled(vlae, run, tmp_path, monkeypatch):
    slurm = ScriptedSlurm().install(monkeypatch)
    for name in ("a", "b", "c"):
        run(name)
    waiting = [Waiting("a", 0, task=0), Waiting("b", 0, task=0), Waiting("c", 0, task=1)]
    queue = queues.create(
        tmp_path, kind="slurm", sweep="s", code=tmp_path, runs=waiting, settings={"cluster": slurm.identity}
    )
    queue.record_jobs({0: "12_0", 1: "12_1"})
    slurm.waits("12_0", "12_1")

    def cancelled(name):
        slurm.calls()
        assert "1 of 1 runs" in vlae("cancel", name)[1]
        return [call for call in slurm.calls() if call.startswith("scancel")]

    assert cancelled("a") == []
    assert cancelled("c") == ["scancel 12_1"]
    assert cancelled("b") == ["scancel 12_0 12_1"]

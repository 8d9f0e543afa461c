"""Laws of the run directory: whole or absent, one process at a time, honest about its state."""

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlae.config.problems import shown
from vlae.config.run_id import OF_A_COMMAND
from vlae.config.run_id import run_id as run_id_of
from vlae.launching.run_state import state_on_disk
from vlae.runs import attempts, lease
from vlae.runs.attempts import RunHeld
from vlae.runs.directory import RunDirectory, all_runs, find, forced_directory, promote
from vlae.runs.rerun import recover
from vlae.system import files, processes
from vlae.system.disk import RecordError
from vlae.system.files import write_atomically
from vlae.system.interruption import Interrupted

CONFIG = {
    "model": {"name": "vlae", "_target_": "vlae.models.vlae.VLAE", "latent_dim": 2, "hidden_dims": [8, 8]},
    "dataset": {"name": "digits", "lambda": 1e-6, "on": True},
    "output_dist": {"name": "gaussian"},
    "optimizer": {"name": "adam", "lr": 5e-4, "betas": [0.9, 0.999]},
    "trainer": {"epochs": 3, "patience": None},
    "seed": 0,
    "device": "auto",
    "schema_version": 2,
}
RUN_ID = run_id_of(CONFIG)


@pytest.fixture(autouse=True, scope="module")
def _no_fsync() -> Iterator[None]:
    """It matters when the power fails, which no test can try, and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", RUN_ID, CONFIG)


def in_python(script: str, *arguments: object, **options) -> subprocess.Popen:
    """A Python of its own that executes ``script``."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    tests = Path(__file__).parent
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tests, **options)


def first_line(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline()


def output_of(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def visible_and_hidden(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- writing


def test_a_process_killed_while_writing_leaves_the_old_content_or_the_new(tmp_path):
    path, contents = tmp_path / "file", [bytes([letter]) * 300_000 for letter in b"ab"]
    write_atomically(path, contents[0])
    script = """
        import sys
        from vlae.system.files import write_atomically
        print("ready", flush=True)
        while True:
            for letter in b"ba":
                write_atomically(sys.argv[1], bytes([letter]) * 300_000)
    """
    seen: list[bytes] = []
    chance = random.Random(0)
    while len(seen) < 12 or len(set(seen)) < 2:  # two: it was killed amid its work
        writer = in_python(script, path)
        assert first_line(writer) == "ready\n"
        time.sleep(chance.uniform(0, 0.05))
        writer.kill()
        writer.communicate()
        assert path.read_bytes() in contents
        seen.append(path.read_bytes()[:1])


def test_a_write_that_does_not_fit_changes_nothing_and_names_path_and_reason(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: both are an OSError in the middle of a write."""
    script = """
        import resource, sys
        from pathlib import Path
        from vlae.runs.directory import RunDirectory
        from vlae.system.disk import RecordError
        from vlae.system.files import write_atomically
        path = Path(sys.argv[1])
        run = RunDirectory(path.parent)
        write_atomically(path, b"old")
        run.append_metrics({"epoch": 1, "note": "x" * 3000})
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        for act in (lambda: write_atomically(path, b"new" * 10_000), lambda: run.append_metrics({"note": "y" * 3000})):
            try:
                act()
            except RecordError as error:
                print(error)
        names = sorted(each.name for each in path.parent.iterdir())
        whole = path.with_name("metrics.jsonl").read_bytes().endswith(b"}\\n")
        print(path.read_text(), [line["epoch"] for line in run.metrics()], whole, names)
    """
    first, second, last = output_of(in_python(script, tmp_path / "results.json")).splitlines()
    assert first.startswith(f"cannot write {tmp_path}/results.json: File too large")
    assert second.startswith(f"cannot write {tmp_path}/metrics.jsonl: ")
    assert last == "old [1] True ['metrics.jsonl', 'results.json']"


@pytest.mark.parametrize("place", ["file/below", "missing/below"])
def test_an_unwritable_place_is_an_error_that_names_it(tmp_path, place):
    """Permission bits do not bind root, so a place is used in which nobody can write."""
    tmp_path.joinpath("file").touch()
    with pytest.raises(RecordError, match=re.escape(f"cannot write {tmp_path / place}")):
        write_atomically(tmp_path / place, b"")
    if place == "file/below":
        with pytest.raises(RecordError, match=f"{tmp_path / 'file'} is not a directory"):
            RunDirectory.create(tmp_path / "file", RUN_ID, CONFIG)
    assert visible_and_hidden(tmp_path) == {"file"}


def test_a_missing_directory_is_named_and_nothing_is_said_of_what_was_there_before(tmp_path):
    with pytest.raises(RecordError, match=rf": the directory {tmp_path / 'missing'} does not exist$"):
        write_atomically(tmp_path / "missing" / "below", b"")


def test_below_a_file_there_is_no_run_and_creating_one_names_the_file(tmp_path):
    """All that a start does before it creates its run's directory."""
    file = tmp_path / "file"
    file.touch()
    for runs_dir in (file, file / "below"):
        recover(runs_dir, RUN_ID)
        run = RunDirectory(runs_dir / RUN_ID)
        run.refuse_if_held()
        assert (run.results(), run.holder(), run.state(), run.run_id) == (None, None, "new", RUN_ID)
        assert all_runs(runs_dir) == []
        with pytest.raises(RecordError, match="no run"):
            find(runs_dir, RUN_ID)
        for create in (RunDirectory.create, forced_directory):
            with pytest.raises(RecordError, match=rf"^cannot write \S+{RUN_ID}: {file} is not a directory$"):
                create(runs_dir, RUN_ID, CONFIG)


# --- creation and config


def test_reading_states_imports_neither_torch_nor_hydra():
    script = """
        import sys, vlae.runs.directory
        print({name.split(".")[0] for name in sys.modules} & {"torch", "hydra", "omegaconf", "numpy"})
    """
    assert output_of(in_python(script)) == "set()\n"


text = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=12)  # no control characters
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(config=st.dictionaries(text.filter(lambda key: key not in OF_A_COMMAND), values, max_size=4))
def test_a_frozen_config_reads_back_with_the_same_values_and_types(tmp_path_factory, config):
    run = RunDirectory.create(tmp_path_factory.mktemp("runs"), "run", config)
    text = run.path.joinpath("config.yaml").read_text("utf-8")
    assert repr(yaml.safe_load(text)) == repr(config)
    assert text.startswith("#")


def test_a_frozen_config_is_the_one_that_was_given(run):
    assert repr(run.config()) == repr(CONFIG)
    assert run.state() == "new"


def test_how_a_start_was_asked_for_is_not_frozen(tmp_path):
    for force in (True, False):
        run = RunDirectory.create(tmp_path / str(force), RUN_ID, CONFIG | {"force": force})
        assert run.config() == CONFIG | {"force": False}


@pytest.mark.parametrize("value", [(8, 8), float("nan"), "\x85"])
def test_a_config_that_yaml_would_change_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="plain values only"):
        RunDirectory.create(tmp_path, "run", {"model": {"hidden_dims": value}})
    assert visible_and_hidden(tmp_path) == set()


def test_creating_an_existing_run_changes_nothing(run, tmp_path):
    before = run.path.joinpath("config.yaml").stat().st_mtime_ns
    again = RunDirectory.create(tmp_path / "runs", RUN_ID, CONFIG | {"device": "cpu"})
    assert again.config() == CONFIG
    assert run.path.joinpath("config.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "edit",
    ["lr: 0.0005 -> lr: 0.005", "seed: 0 -> seed: [", "seed: 0 -> seed: &a [*a]", "seed: 0 -> ", "vlae -> 3"],
)
def test_an_edited_config_is_refused(run, edit):
    path = run.path / "config.yaml"
    old, new = edit.split(" -> ")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecordError, match=re.escape(f"{path} was edited by hand")):
        run.config()


def test_a_renamed_directory_is_the_same_run(run):
    renamed = RunDirectory(run.path.rename(run.path.with_name("my best one")))
    assert renamed.run_id == RUN_ID
    assert renamed.config() == CONFIG


def test_creation_killed_at_any_step_leaves_a_whole_run_or_none():
    script = """
        from killing import killed_at_every_step
        from test_record import CONFIG, RUN_ID, RunDirectory, all_runs

        def check(folder):
            assert all(run.config() == CONFIG and run.status()["run_id"] == RUN_ID for run in all_runs(folder))
            assert RunDirectory.create(folder, RUN_ID, CONFIG).config() == CONFIG

        print(killed_at_every_step(lambda folder: None, lambda f: RunDirectory.create(f, RUN_ID, CONFIG), check))
    """
    assert int(output_of(in_python(script))) > 5


# --- claims


def put_claim(run: RunDirectory, **changes: object) -> None:
    lease.put_claim(run.path / "attempts" / "1", lease.new_claim() | changes)


def test_of_processes_that_claim_at_once_exactly_one_wins_and_the_others_know_who(tmp_path):
    """Half of the runs are new; in the others all find an attempt whose process is dead."""
    processes, rounds = 8, 20
    for number in range(rounds):
        run = RunDirectory.create(tmp_path, f"run{number}", CONFIG)
        if number % 2:
            put_claim(run, process_start=0.0)
    script = """
        import json, multiprocessing, os, sys
        from pathlib import Path
        from vlae.runs.attempts import RunHeld
        from vlae.runs.directory import RunDirectory

        def contend(barrier, reports):
            for number in range(rounds):
                run = RunDirectory(folder / f"run{number}")
                barrier.wait()
                try:
                    reports.put((number, run.claim().number, os.getpid()))
                except RunHeld as held:
                    reports.put((number, None, held.holder["pid"]))
                barrier.wait()

        folder, processes, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
        context = multiprocessing.get_context("fork")
        barrier, reports = context.Barrier(processes), context.Queue()
        for _ in range(processes):
            context.Process(target=contend, args=(barrier, reports), daemon=True).start()
        print(json.dumps([reports.get(timeout=100) for _ in range(processes * rounds)]))
    """
    reports = json.loads(output_of(in_python(script, tmp_path, processes, rounds)))
    for number in range(rounds):
        of_round = [(attempt, pid) for round_, attempt, pid in reports if round_ == number]
        winners = [(attempt, pid) for attempt, pid in of_round if attempt is not None]
        assert len(winners) == 1
        assert winners[0][0] == 1 + number % 2
        assert [pid for _, pid in of_round] == [winners[0][1]] * processes
        assert os.listdir(tmp_path / f"run{number}" / "attempts" / ".new") == []


HOLDER = """
    import sys, time
    from vlae.runs.directory import RunDirectory
    with RunDirectory(sys.argv[1]).claim() as attempt:
        attempt.heartbeat({"epoch": 3, "epochs": 60})
        print("holding", flush=True)
        time.sleep(60)
"""


def test_a_killed_holder_is_recovered_at_once(run):
    holder = in_python(HOLDER, run.path)
    assert first_line(holder) == "holding\n"
    assert run.state() == "running"
    with pytest.raises(RunHeld) as held:
        run.claim()
    assert re.fullmatch(
        rf"run {RUN_ID} is being executed by process {holder.pid} on host \S+ since \d\d:\d\d "
        rf"\(attempt 1, epoch 3/60\); wait for it, or watch it with `vlae show {RUN_ID}`",
        str(held.value),
    )
    owner = processes.mark(processes.place(), holder.pid, processes.process_start(holder.pid))
    elsewhere = processes.mark("another host", holder.pid, 3.0)
    leftovers = [
        run.path / f".status.json.{owner}.00000000.tmp",
        run.path / "images" / "epoch-000001" / f".samples.png.{owner}.00000000.tmp",
        run.path / "attempts" / ".new" / f"2.{owner}.00000000",
        run.path / "checkpoints" / ".last.next",
        run.path / "checkpoints" / ".previous.pt.link",
    ]
    kept = run.path / f".status.json.{elsewhere}.00000000.tmp"
    for path in (*leftovers, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: processes.process_start(holder.pid) is None)  # a zombie: nobody has waited for it
    status = run.status()
    assert (status["state"], status["reason"], status["progress"]["epoch"]) == ("interrupted", "killed", 3)
    with run.claim() as attempt:
        assert attempt.number == 2
        assert [path for path in (*leftovers, kept) if path.exists()] == [kept]
        assert {path.name for path in (run.path / "attempts" / "1").iterdir()} <= {"claim.json", "log.txt"}
    holder.communicate()


def test_a_process_id_that_belongs_to_another_process_by_now_holds_nothing(run):
    put_claim(run, process_start=processes.process_start(os.getpid()) - 1000)
    assert run.holder() is None
    assert run.claim().number == 2


def test_a_claim_counts_though_its_answer_was_lost(run, monkeypatch):
    """NFS repeats a request whose answer is lost, and then reports that there is nothing to rename."""
    real = os.rename

    def rename(source: object, target: object) -> None:
        real(source, target)  # pyright: ignore
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "rename", rename)
    assert run.claim().number == 1


def test_a_process_does_not_share_a_run_with_itself(run):
    with run.claim(), pytest.raises(RunHeld, match=f"process {os.getpid()} "):
        run.claim()


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


@pytest.mark.parametrize(
    ("started", "updated", "lives"),
    [(10, 10, True), (9000, 240, True), (9000, 360, False), (360, 360, False)],
)
def test_a_process_on_another_host_lives_as_long_as_it_gives_signs_of_life(run, started, updated, lives):
    put_claim(run, host="elsewhere", place="elsewhere", started=ago(started))
    run.write_status(state="running", attempt=1, updated=ago(updated))
    assert run.state() == ("running" if lives else "interrupted")
    if lives:
        with pytest.raises(RunHeld, match="on host elsewhere"):
            run.claim()
    else:
        assert run.claim().number == 2


SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")


@pytest.fixture
def in_slurm(monkeypatch) -> Callable[..., None]:
    def enter(**variables: str) -> None:
        for name in SLURM:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return enter


TASK = {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(
    ("before", "now", "lives"),
    [
        ({"JOB_ID": "7"}, {"JOB_ID": "7", "RESTART_COUNT": "1"}, False),
        ({"JOB_ID": "7", "RESTART_COUNT": "9"}, {"JOB_ID": "7", "RESTART_COUNT": "10"}, False),
        ({**TASK, "JOB_ID": "7"}, {**TASK, "JOB_ID": "7", "RESTART_COUNT": "1"}, False),
        ({"JOB_ID": "7", "RESTART_COUNT": "2"}, {"JOB_ID": "7", "RESTART_COUNT": "1"}, True),
        ({"JOB_ID": "7"}, {"JOB_ID": "7"}, True),  # a job on two nodes
        ({"JOB_ID": "7"}, {"JOB_ID": "8", "RESTART_COUNT": "1"}, True),
        ({**TASK, "JOB_ID": "7"}, {**TASK, "ARRAY_TASK_ID": "4", "RESTART_COUNT": "1"}, True),
        ({"JOB_ID": "7"}, {}, True),
        ({}, {"RESTART_COUNT": "1"}, True),
    ],
)
def test_a_requeued_slurm_job_takes_over_from_its_earlier_start_at_once(run, in_slurm, before, now, lives):
    in_slurm(**before)
    put_claim(run, host="elsewhere", place="elsewhere")
    run.write_status(state="running", attempt=1)
    in_slurm(**now)
    assert run.state() == ("running" if lives else "interrupted")
    with pytest.raises(RunHeld) if lives else contextlib.nullcontext():
        assert run.claim().number == 2


def test_of_processes_in_one_slurm_job_on_one_host_the_living_holds_the_run(run, in_slurm):
    in_slurm(JOB_ID="7")
    holder = in_python(HOLDER, run.path)
    assert first_line(holder) == "holding\n"
    in_slurm(JOB_ID="7", RESTART_COUNT="1")  # here its process is seen, whatever Slurm counts
    with pytest.raises(RunHeld):
        run.claim()
    holder.kill()
    holder.communicate()
    assert run.claim().number == 2


@pytest.mark.parametrize(("updated", "lives"), [(240, True), (360, False)])
@pytest.mark.parametrize(
    "hidden", [psutil.AccessDenied, psutil.NoSuchProcess], ids=["hidepid=1", "hidepid=2"]
)
def test_a_hidden_process_of_another_user_is_judged_by_its_signs_of_life(
    run, monkeypatch, hidden, updated, lives
):
    put_claim(run, started=ago(9000))
    run.write_status(state="running", attempt=1, updated=ago(updated))
    monkeypatch.setattr(psutil, "Process", raising(hidden(1)))
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: False)
    monkeypatch.setattr(os, "kill", raising(PermissionError()))
    assert run.state() == ("running" if lives else "interrupted")
    if hidden is psutil.NoSuchProcess:
        monkeypatch.setattr(os, "kill", raising(ProcessLookupError()))  # there is no process of that id
        assert run.state() == "interrupted"


def raising(error: Exception) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


def test_a_process_that_was_out_of_touch_stops_when_another_has_taken_over(run):
    first = run.claim()
    claim = first.directory / "claim.json"
    as_seen_elsewhere = {"place": "elsewhere", "started": ago(9000)}
    claim.write_text(json.dumps(json.loads(claim.read_text()) | as_seen_elsewhere))
    run.write_status(updated=ago(9000))
    second = run.claim()
    with pytest.raises(RecordError, match="attempt 2 executes the run now"), first:
        first.heartbeat({"epoch": 1})
    assert run.status()["attempt"] == second.number == 2
    assert run.state() == "running"


def test_a_run_has_not_failed_whose_attempt_stops_for_a_successor_that_is_killed_at_once(run):
    first = run.claim()
    successor = lease.new_claim() | {"process_start": 0.0}
    lease.put_claim(run.path / "attempts" / "2", successor)  # nothing else was written
    with pytest.raises(RecordError, match="attempt 2 executes the run now"), first:
        first.heartbeat({"epoch": 1})
    assert (run.status()["state"], run.status()["reason"]) == ("interrupted", "taken over")


def test_a_claim_killed_at_any_step_can_be_made_again():
    script = """
        from killing import killed_at_every_step
        from test_record import CONFIG, RUN_ID, RunDirectory

        def check(folder):
            run = RunDirectory(folder / RUN_ID)
            assert run.state() in ("new", "interrupted")
            with run.claim():
                assert run.state() == "running"

        def prepare(folder):
            RunDirectory.create(folder, RUN_ID, CONFIG)

        print(killed_at_every_step(prepare, lambda folder: RunDirectory(folder / RUN_ID).claim(), check))
    """
    assert int(output_of(in_python(script))) > 5


# --- attempts and state


class StopRequest(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "state", "reason", "message"),
    [
        (None, "interrupted", "stopped", None),
        (ValueError("loss is NaN"), "failed", "exception", "ValueError: loss is NaN"),
        (KeyboardInterrupt(), "interrupted", "SIGINT", None),
        (Interrupted(signal.SIGTERM), "interrupted", "SIGTERM", None),
        (StopRequest("enough"), "interrupted", "StopRequest", "enough"),
    ],
)
def test_an_attempt_records_how_it_ended_and_releases_the_run(run, error, state, reason, message):
    expected = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with expected, run.claim() as attempt:
        assert run.state() == "running"
        if error is not None:
            raise error
    status = run.status()
    assert (status["state"], status["reason"], status["message"]) == (state, reason, message)
    assert status["attempt"] == 1
    ended = json.loads(attempt.directory.joinpath("ended.json").read_text())
    assert (ended["state"], ended["reason"]) == (state, reason)
    trace = attempt.directory / "traceback.txt"
    assert trace.exists() == (state == "failed")
    if state == "failed":
        assert "raise error" in trace.read_text()
    with run.claim() as attempt:
        assert attempt.number == 2
        assert run.status()["reason"] is None


def test_on_a_full_disk_the_error_of_the_run_is_reported_and_the_run_is_released(run, monkeypatch):
    def replace(*paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def execute(attempt: attempts.Attempt, error: Exception | None) -> None:
        with attempt:
            if error:
                raise error

    for error, reported in ((ValueError("loss is NaN"), "loss is NaN"), (None, "No space left on device")):
        attempt = run.claim()
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises((ValueError, RecordError), match=reported):
            execute(attempt, error)
        with pytest.raises(RecordError, match="cannot write"):
            run.claim()
        monkeypatch.undo()
        assert run.holder() is None
        assert run.state() == "interrupted"
    with run.claim() as attempt:
        assert attempt.number == 3


def test_only_results_make_a_run_done(run):
    run.write_status(state="done")
    assert run.state() == "interrupted"
    with run.claim():
        run.write_results({"test": {"elbo": np.float32(-1.5)}})
    assert run.state() == "done"
    run.write_status(state="running")  # killed between its results and its status
    assert run.status()["state"] == "done"
    assert run.results() == {"test": {"elbo": -1.5}}
    run.path.joinpath("results.json").unlink()
    assert run.state() == "interrupted"


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"test": {}}', '{"test": [1]}', '{"epochs": 3}', "3", "", "[" * 9999]
)
def test_what_is_no_result_makes_no_run_done_and_stays_as_it_is(run, content):
    file = run.path / "results.json"
    file.write_text(content)
    for look in (run.results, run.status, run.state):
        with pytest.raises(RecordError, match=r"results\.json holds no ") as caught:
            look()
        assert "\n" not in str(caught.value)
    assert file.read_text() == content


def test_a_heartbeat_writes_at_most_every_two_seconds(monkeypatch, tmp_path):
    clock, written = [100.0], []
    monkeypatch.setattr(attempts.time, "monotonic", lambda: clock[0])
    attempt = attempts.Attempt(
        tmp_path / "1", lambda **fields: written.append((clock[0], fields["progress"]))
    )
    for step in range(101):
        clock[0] = 100.0 + step / 10
        attempt.heartbeat({"step": step})
    assert written == [(100.0 + 2 * k, {"step": 20 * k}) for k in range(6)]


def test_a_run_shows_life_during_one_long_step(monkeypatch, run):
    monkeypatch.setattr(lease, "PULSE_EVERY", 0.01)
    with run.claim():
        run.write_status(updated=ago(9000))
        wait_until(lambda: lease.seconds_since(run.status()["updated"]) < 100)


def test_a_status_with_a_misspelt_key_or_state_is_refused(run):
    for fields in ({"stat": "running"}, {"state": "runing"}):
        with pytest.raises(ValueError, match=r"status\.json has the keys"):
            run.write_status(**fields)


WRONG = [
    *(("state", value) for value in ("runing", None, 3, [])),
    *(("gpu_seconds", value) for value in (None, "3", True, float("nan"), 10**400)),
    *(
        ("progress", value)
        for value in ([], "epoch 3", {"epoch": "3", "epochs": 4}, {"elbo": "low"}, {"doing": 3})
    ),
    *((key, value) for key in ("reason", "message", "where") for value in (3, ["a"], {})),
    *(("updated", value) for value in (3, "yesterday", "2026-01-01T00:00:00")),
    *(("attempt", value) for value in ("1", 1.5, True)),
    *(("run_id", value) for value in (None, 3)),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_status_that_no_run_writes_is_refused_with_the_file_the_key_and_the_value(run, key, value):
    file = run.path / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    for look in (run.status, run.state, lambda: run.write_status(attempt=1), run.claim):
        with pytest.raises(RecordError, match=re.escape(f"{file}: {key}: expected ")) as caught:
            look()
        assert f"got {shown(value)}" in str(caught.value)
    assert list((run.path / "attempts").iterdir()) == []


WRONG_IN_CLAIMS = [
    *(("pid", value) for value in (None, "17", 1.5, True, -5)),
    *(("process_start", value) for value in (None, "early")),
    *((key, value) for key in ("place", "host", "token") for value in (None, 3)),
    *(("slurm_job", value) for value in (17, ["17"])),
    ("slurm_restarts", "1"),
    *(("started", value) for value in (None, 3, "yesterday", "2026-01-01T00:00:00")),
]


@pytest.mark.parametrize(("key", "value"), WRONG_IN_CLAIMS)
def test_a_claim_that_nobody_has_made_is_refused_with_the_file_the_key_and_the_value(run, key, value):
    put_claim(run, **{key: value})
    run.write_status(state="running", attempt=1)
    file = run.path / "attempts" / "1" / "claim.json"
    for look in (run.status, run.state, run.holder, run.refuse_if_held, run.claim):
        with pytest.raises(RecordError, match=re.escape(f"{file}: {key}: expected ")) as caught:
            look()
        assert f"got {shown(value)}" in str(caught.value)
    file.rename(run.path / "moved away")
    assert run.state() == "interrupted"
    assert run.claim().number == 2


def test_a_damaged_claim_of_an_attempt_that_has_ended_is_in_nobodys_way(run):
    with run.claim() as attempt:
        pass
    attempt.directory.joinpath("claim.json").write_text("{}")
    assert run.claim().number == 2


def test_a_status_of_an_older_version_may_lack_any_key(run):
    file = run.path / "status.json"
    known = json.loads(file.read_text())
    for key in known:
        file.write_text(json.dumps({k: v for k, v in known.items() if k != key}))
        assert run.state() == "new"
    file.write_text("{}")
    assert run.state() == "new"


def test_a_status_is_readable_json_with_its_keys_in_order(run):
    text = run.path.joinpath("status.json").read_text()
    assert list(json.loads(text)) == [
        "run_id",
        "state",
        "attempt",
        "progress",
        "updated",
        "reason",
        "message",
        "where",
        "gpu_seconds",
        "progressed",
    ]
    assert datetime.fromisoformat(json.loads(text)["updated"]).utcoffset() == timedelta(0)
    assert text.count("\n") > 7


def test_ten_thousand_states_need_few_files_each(run, monkeypatch):
    """The cost of a status is counted in files opened, which does not depend on the machine."""
    opened: list[Path] = []

    def seen(path, *words, **keys):
        opened.append(Path(path))
        return open(path, *words, **keys)

    monkeypatch.setattr(files, "open", seen, raising=False)
    run.write_results({"test": {"elbo": -1.0}})
    opened.clear()
    assert run.status()["state"] == "done"
    assert [path.name for path in opened] == ["status.json", "results.json"]


# --- metrics and results


def test_metrics_read_back_as_appended_with_null_for_what_is_no_number(run):
    run.append_metrics({"epoch": 1, "train/elbo_nats": np.float64(-1.25), "step": np.int64(7), "ok": True})
    run.append_metrics({"epoch": 2, "train/elbo_nats": float("nan"), "x": np.float32("inf"), "ä": None})
    assert run.metrics() == [
        {"epoch": 1, "train/elbo_nats": -1.25, "step": 7, "ok": True},
        {"epoch": 2, "train/elbo_nats": None, "x": None, "ä": None},
    ]
    assert run.path.joinpath("metrics.jsonl").read_text("utf-8").count("\n") == 2


@given(value=values)
def test_what_is_finite_is_recorded_as_it_is_in_json_that_every_parser_reads(value):
    read = json.loads(files.json_bytes(value), parse_constant=pytest.fail)
    if "inf" not in str(value):
        assert repr(read) == repr(value)


def test_a_value_that_json_cannot_hold_is_refused(run):
    with pytest.raises(TypeError, match="not object"):
        run.append_metrics({"epoch": object()})
    assert run.metrics() == []


def test_a_torn_last_line_is_ignored_and_gives_way_to_the_next(run):
    run.append_metrics({"epoch": 1})
    size = run.metrics_size()
    with run.path.joinpath("metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "el')
    assert run.metrics() == [{"epoch": 1}]
    assert run.metrics_size() == size
    run.append_metrics({"epoch": 2})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]


def test_a_damaged_line_in_the_middle_is_an_error(run):
    run.path.joinpath("metrics.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl has a line that is no JSON"):
        run.metrics()


def test_metrics_go_back_to_a_checkpoint_and_on_from_there(run):
    sizes = [run.metrics_size()]
    for epoch in range(1, 5):
        run.append_metrics({"epoch": epoch})
        sizes.append(run.metrics_size())
    for epoch in (4, 2, 0):
        run.truncate_metrics(sizes[epoch])
        assert [line["epoch"] for line in run.metrics()] == list(range(1, epoch + 1))
    run.append_metrics({"epoch": 1})
    for size in (sizes[1] - 1, sizes[4]):
        with pytest.raises(RecordError, match="no line ends at byte"):
            run.truncate_metrics(size)


def test_results_keep_their_order_and_are_readable(run):
    run.write_results({"run_id": RUN_ID, "test": {"elbo": -1.0}, "best_epoch": 3})
    assert run.path.joinpath("results.json").read_text() == textwrap.dedent(f"""\
        {{
          "run_id": "{RUN_ID}",
          "test": {{
            "elbo": -1.0
          }},
          "best_epoch": 3
        }}
        """)


def test_a_run_killed_at_any_moments_ends_with_what_an_undisturbed_one_records(run):
    script = """
        import sys, time
        from vlae.runs.directory import RunDirectory
        run = RunDirectory(sys.argv[1])
        with run.claim() as attempt:
            print("begun", flush=True)
            for epoch in range(1 + len(run.metrics()), 61):
                attempt.heartbeat({"epoch": epoch})
                run.append_metrics({"epoch": epoch})
                time.sleep(0.005)
            run.write_results({"test": {"epochs": len(run.metrics())}})
    """
    chance = random.Random(1)
    kills = 0
    while run.state() != "done":
        process = in_python(script, run.path)
        assert first_line(process) == "begun\n"
        time.sleep(chance.uniform(0, 0.15))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        assert run.state() in ("interrupted", "done")
    assert kills > 0
    assert [line["epoch"] for line in run.metrics()] == list(range(1, 61))
    assert run.results() == {"test": {"epochs": 60}}


# --- finding


@pytest.fixture
def runs_dir(tmp_path) -> Path:
    for name in [
        "vae-digits-s0-aa",
        "vae-digits-s0-ab",
        "iaf-mnist-s0-cc",
        "iaf-mnist-s0-c",
        *map("m{}".format, range(12)),
    ]:
        RunDirectory.create(tmp_path / "runs", name, CONFIG)
    tmp_path.joinpath("runs", "empty").mkdir()
    RunDirectory.create(tmp_path / "runs" / ".forced", "hidden-run", CONFIG)
    return tmp_path / "runs"


@pytest.mark.parametrize("name", ["iaf-mnist-s0-cc", "iaf-mnist-s0-c", "vae-digits-s0-ab", "m11"])
def test_a_run_is_found_by_its_id_even_where_that_begins_another(runs_dir, name, monkeypatch):
    monkeypatch.chdir(runs_dir.parent)
    for given_ in (name, str(runs_dir / name), f"runs/{name}/", f"./runs/{name}"):
        assert find(runs_dir, given_).path == runs_dir / name


def test_a_run_is_found_by_a_beginning_that_no_other_shares(runs_dir, monkeypatch):
    assert find(runs_dir, "vae-digits-s0-aa"[:-1] + "a").path.name == "vae-digits-s0-aa"
    assert find(runs_dir, str(runs_dir / "m11")[:-1] + "1").path.name == "m11"
    monkeypatch.chdir(runs_dir.parent)
    runs_dir.parent.joinpath("iaf-mnist-s0-cc").mkdir()  # a directory of that name, which is no run
    assert find(runs_dir, "iaf-mnist-s0-cc").path.parent == runs_dir


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vae", "'vae' could be any of 2 runs in .*:\n  vae-digits-s0-aa\n  vae-digits-s0-ab$"),
        ("m", r"'m' could be any of 12 runs in .*(\n  m\d+){10}\n  \.\.\.$"),
        ("", "'' could be any of 16 runs"),
        ("vea-digits-s0-aa", "no run 'vea-digits-s0-aa' in .*; did you mean vae-digits-s0-aa, "),
        ("mnist", "no run 'mnist' in .*; did you mean iaf-mnist-s0-c, iaf-mnist-s0-cc"),
        ("hidden-run", "no run 'hidden-run' in [^;]*$"),
        ("empty", "empty is not a run: it has no config.yaml"),
        ("elsewhere/x", "no run 'elsewhere/x': no directory elsewhere$"),
    ],
)
def test_a_name_that_means_no_run_is_answered_with_what_there_is(runs_dir, name, message):
    with pytest.raises(RecordError, match=message):
        find(runs_dir, name)


def test_all_runs_are_the_visible_ones(runs_dir):
    assert len(all_runs(runs_dir)) == 16
    assert all_runs(runs_dir / "missing") == []


# --- forced runs


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below, with its inode and the time of its last change."""
    return {str(path): ((found := path.lstat()).st_ino, found.st_mtime_ns) for path in folder.rglob("*")}


def finished(run: RunDirectory, value: int) -> RunDirectory:
    with run.claim():
        run.append_metrics({"value": value})
        run.write_results({"test": {"value": value}})
    return run


def test_the_old_result_stays_until_the_new_one_is_there(run):
    runs_dir = finished(run, 1).path.parent
    forced = forced_directory(runs_dir, RUN_ID, CONFIG)
    recover(runs_dir, RUN_ID)
    with pytest.raises(RecordError, match=r"no results\.json: it does not replace"):
        promote(forced, runs_dir)
    assert run.results() == {"test": {"value": 1}}
    assert forced_directory(runs_dir, RUN_ID, CONFIG).path == forced.path  # an interrupted one goes on
    assert promote(finished(forced, 2), runs_dir).results() == run.results() == {"test": {"value": 2}}
    assert run.run_id == RUN_ID
    assert run.config() == CONFIG
    assert not [name for name in visible_and_hidden(runs_dir) if name.endswith(RUN_ID) and name != RUN_ID]


def test_a_run_that_is_being_executed_is_not_replaced(run):
    runs_dir = run.path.parent
    with run.claim(), pytest.raises(RunHeld):
        forced_directory(runs_dir, RUN_ID, CONFIG)
    forced = finished(forced_directory(runs_dir, RUN_ID, CONFIG), 2)
    with run.claim():
        with pytest.raises(RunHeld):
            promote(forced, runs_dir)
        recover(runs_dir, RUN_ID)
        assert run.results() is None
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 2}}


def test_a_replacement_killed_at_any_step_is_completed_by_the_next_start():
    script = """
        import json
        from killing import killed_at_every_step
        from test_record import CONFIG, RUN_ID, RunDirectory, everything, find, finished
        from test_record import forced_directory, promote, recover

        def prepare(folder):
            finished(RunDirectory.create(folder, RUN_ID, CONFIG), 1)
            finished(forced_directory(folder, RUN_ID, CONFIG), 2)

        def act(folder):
            promote(forced_directory(folder, RUN_ID, CONFIG), folder)

        def check(folder):
            run, old = RunDirectory(folder / RUN_ID), RunDirectory(folder / ".replaced" / RUN_ID)
            whole = [each.path for each in (run, old) if each.path.exists() and each.results() and each.config()]
            assert whole == [each.path for each in (run, old) if each.path.exists()] != []
            before = everything(folder)
            assert find(folder, RUN_ID[:-1]).results()["test"]["value"] in (1, 2) and everything(folder) == before
            assert find(folder, RUN_ID[:-1], to_write=True).path == run.path  # completes it
            assert run.results() == {"test": {"value": 2}} and not old.path.exists()
            recover(folder, RUN_ID)
            assert run.results()["test"] == run.metrics()[0] == {"value": 2} and run.config() == CONFIG
            left = {path.name for path in folder.rglob("*") if path.parent.parent == folder} - {"config.yaml"}
            assert not {name for name in left if RUN_ID in name}, left
            recover(folder, RUN_ID)
            assert run.results() == {"test": {"value": 2}}

        print(killed_at_every_step(prepare, act, check))
    """
    assert int(output_of(in_python(script))) > 8


def test_a_replacement_that_another_start_came_between_is_completed(run):
    """Killed between its two renames, after which a start that did not `recover` made the run anew."""
    runs_dir = finished(run, 1).path.parent
    finished(forced_directory(runs_dir, RUN_ID, CONFIG), 2)
    runs_dir.joinpath(".replaced").mkdir()
    run.path.rename(runs_dir / ".replaced" / RUN_ID)
    RunDirectory.create(runs_dir, RUN_ID, CONFIG)
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 2}}
    assert RUN_ID not in [*os.listdir(runs_dir / ".replaced"), *os.listdir(runs_dir / ".forced")]


def test_an_old_run_comes_back_where_the_new_one_has_vanished(run):
    runs_dir = finished(run, 1).path.parent
    runs_dir.joinpath(".replaced").mkdir()
    run.path.rename(runs_dir / ".replaced" / RUN_ID)
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 1}}


def test_a_forced_run_that_is_being_executed_is_named_with_its_place(run):
    forced = forced_directory(run.path.parent, RUN_ID, CONFIG)
    with forced.claim(), pytest.raises(RunHeld) as held:
        forced.claim()
    message = str(held.value)
    assert message.startswith(
        f"run {RUN_ID}, forced in {forced.path}, is being executed by process {os.getpid()} "
    )
    assert message.endswith(f"`vlae show {forced.path}`")
    assert find(run.path.parent, str(forced.path)).path == forced.path


def test_a_look_for_a_run_writes_nothing_where_nothing_is_to_recover(run, monkeypatch):
    runs_dir = finished(run, 1).path.parent
    with forced_directory(runs_dir, RUN_ID, CONFIG).claim():
        pass
    runs_dir.joinpath(".replaced").mkdir()

    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, refuse)
    recover(runs_dir, RUN_ID)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 1}}


def test_a_look_finds_the_run_wherever_a_killed_replacement_left_it_and_writes_nothing(run):
    runs_dir, replaced = finished(run, 1).path.parent, run.path.parent / ".replaced"
    finished(forced_directory(runs_dir, RUN_ID, CONFIG), 2)
    before = everything(runs_dir)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 1}}
    assert everything(runs_dir) == before
    replaced.mkdir()
    run.path.rename(replaced / RUN_ID)
    before = everything(runs_dir)
    for name in (RUN_ID, RUN_ID[:-1], str(run.path)):
        assert find(runs_dir, name).results() == {"test": {"value": 2}}
    assert everything(runs_dir) == before
    shutil.rmtree(runs_dir / ".forced" / RUN_ID)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 1}}
    assert find(runs_dir, RUN_ID, to_write=True).path == run.path


def test_who_may_only_read_finds_the_old_run_until_another_puts_the_new_one_in_its_place(run, monkeypatch):
    runs_dir = finished(run, 1).path.parent
    finished(forced_directory(runs_dir, RUN_ID, CONFIG), 2)

    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "rename"):
        monkeypatch.setattr(os, name, refuse)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 1}}
    with pytest.raises(RecordError, match="cannot write"):
        recover(runs_dir, RUN_ID)
    monkeypatch.undo()
    recover(runs_dir, RUN_ID)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 2}}


def test_a_new_run_that_another_process_moves_away_while_recovering_is_not_deleted(run, monkeypatch):
    """Two recover at once: the second takes the new run, put in its place a moment ago, for the old one."""
    runs_dir = finished(run, 1).path.parent
    replaced = runs_dir / ".replaced" / RUN_ID
    finished(RunDirectory.create(runs_dir / ".replaced", RUN_ID, CONFIG), 0)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source) == replaced and run.path.exists():  # deleting begins
            real(replaced, runs_dir / ".replaced" / ".oldest")
            real(run.path, replaced)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 1}}


def test_what_a_killed_attempt_on_another_host_left_goes_with_the_next_one(run):
    put_claim(run, place="another host", pid=7, process_start=3.2, started=ago(9000))
    leftover = run.path / f".status.json.{processes.mark('another host', 7, 3.2)}.00000000.tmp"
    other = run.path / f".status.json.{processes.mark('another host', 8, 3.2)}.00000000.tmp"
    leftover.touch()
    other.touch()
    with run.claim():
        assert (leftover.exists(), other.exists()) == (False, True)


def test_a_status_that_says_running_of_a_run_that_is_done_is_corrected_by_a_writer_alone(run):
    with run.claim() as attempt:
        run.write_results({"test": {"elbo": 1.0}})
        run.settle()
        assert (
            json.loads((run.path / "status.json").read_text())["state"] == "running"
        )  # it is being executed
    run.write_status(state="running", reason="x")
    (attempt.directory / ".reserve").touch()
    before = (run.path / "status.json").read_bytes()
    assert run.status()["state"] == "done"
    assert state_on_disk(run.path).stale
    assert (run.path / "status.json").read_bytes() == before
    run.settle()
    recorded = json.loads((run.path / "status.json").read_text())
    assert (recorded["state"], recorded["reason"]) == ("done", None)
    assert not state_on_disk(run.path).stale
    assert not (attempt.directory / ".reserve").exists()


def test_a_run_that_is_not_done_is_not_settled(run):
    run.write_status(state="running")
    run.settle()
    assert json.loads((run.path / "status.json").read_text())["state"] == "running"


def test_a_name_that_no_file_can_have_is_no_run(tmp_path):
    with pytest.raises(RecordError, match="no run 'xxx"):
        find(tmp_path, "x" * 300)

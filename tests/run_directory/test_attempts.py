"""A run is honest about its state."""

import contextlib
import errno
import json
import os
import re
import signal
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from run_directory.example import (
    ago,
    put_claim,
    wait_until,
)
from vlae.config.problems import format_value
from vlae.launching.run_state import state_on_disk
from vlae.runs import attempts, lease
from vlae.runs.attempts import refuse_if_held
from vlae.system import files
from vlae.system.disk import RecordError
from vlae.system.interruption import Interrupted


class StopRequest(BaseException):
    pass


@pytest.mark.slow
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


def test_a_full_disk_does_not_hide_the_error_or_keep_the_claim(run, monkeypatch):
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"test": {}}', '{"test": [1]}', '{"epochs": 3}', "3", "", "[" * 9999]
)
def test_an_invalid_result_makes_no_run_done(run, content):
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


def test_a_run_writes_heartbeats_during_a_long_step(monkeypatch, run):
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


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), WRONG)
def test_an_invalid_status_is_refused_with_file_key_and_value(run, key, value):
    file = run.path / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    for look in (run.status, run.state, lambda: run.write_status(attempt=1), run.claim):
        with pytest.raises(RecordError, match=re.escape(f"{file}: {key}: expected ")) as caught:
            look()
        assert f"got {format_value(value)}" in str(caught.value)
    assert list((run.path / "attempts").iterdir()) == []


WRONG_IN_CLAIMS = [
    *(("pid", value) for value in (None, "17", 1.5, True, -5)),
    *(("process_start", value) for value in (None, "early")),
    *((key, value) for key in ("place", "host", "token") for value in (None, 3)),
    *(("slurm_job", value) for value in (17, ["17"])),
    ("slurm_restarts", "1"),
    *(("started", value) for value in (None, 3, "yesterday", "2026-01-01T00:00:00")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), WRONG_IN_CLAIMS)
def test_an_invalid_claim_is_refused_with_file_key_and_value(run, key, value):
    put_claim(run, **{key: value})
    run.write_status(state="running", attempt=1)
    file = run.path / "attempts" / "1" / "claim.json"
    for look in (run.status, run.state, run.holder, partial(refuse_if_held, run.path), run.claim):
        with pytest.raises(RecordError, match=re.escape(f"{file}: {key}: expected ")) as caught:
            look()
        assert f"got {format_value(value)}" in str(caught.value)
    file.rename(run.path / "moved away")
    assert run.state() == "interrupted"
    assert run.claim().number == 2


def test_a_damaged_claim_of_an_ended_attempt_blocks_nothing(run):
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
        "training",
        "trains",
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


def test_only_a_writer_corrects_the_running_status_of_a_done_run(run):
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

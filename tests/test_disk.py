"""Disks that refuse to be written: waiting until they take writes again, and what the record says meanwhile."""

import contextlib
import errno
import json
import os
import subprocess
import tempfile
import threading

import pytest
from programs import do_without
from recorded import container

from vlae.config.run_id import run_id
from vlae.experiment import run as experiment_run
from vlae.experiment.run import execute
from vlae.launching.run_state import state_on_disk
from vlae.runs.directory import RunDirectory
from vlae.system import disk
from vlae.system.disk import (
    DiskError,
    Patience,
    RecordError,
    patient,
    patiently,
    reason_of,
    refusal_in,
    why_refused,
)
from vlae.system.files import appearing, cannot_write, read_json, write_atomically
from vlae.system.interruption import Interrupted

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(disk, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(disk, "SLICE", 0.01)


class Small:
    """A file system of two MiB, mounted for a test."""

    def __init__(self, path):
        self.path, self.filler = path, path / "filler"

    def fill(self):
        with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self):
        self.filler.unlink()


@pytest.fixture
def small(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        do_without(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield Small(place)
    subprocess.run(["umount", "--lazy", place], check=True)


def refusing(number, path="/"):
    return OSError(number, os.strerror(number), str(path))


# --- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left on /"),
        (errno.EDQUOT, "disk quota exceeded on /"),
        (errno.EROFS, "read-only file system on /"),
        (errno.EIO, "input/output error on /"),
        (errno.ESTALE, "stale file handle on /"),
        (errno.ENOTCONN, "no connection to /"),
        (errno.ENOENT, None),
        (errno.EACCES, None),
        (None, None),
    ],
)
def test_the_reason_names_error_and_file_system(number, said):
    assert reason_of(OSError(number, "it"), "/") == said


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN])
def test_a_closed_terminal_is_no_disk_error(number):
    assert refusal_in(OSError(number, "it")) is None
    assert refusal_in(refusing(number)) is not None
    assert refusal_in(OSError(errno.ENOSPC, "it")) == "no space left on device"


def test_the_reason_is_found_in_the_chain_of_errors():
    error = RuntimeError("training failed")
    error.__cause__ = cannot_write(disk.Path("/a/b"), refusing(errno.ENOSPC))
    assert refusal_in(error) == "no space left on /"
    assert refusal_in(ValueError("no space left")) is None


def test_a_probe_writes_and_leaves_nothing(small):
    assert why_refused(small.path) is None
    small.fill()
    assert why_refused(small.path) == f"no space left on {small.path}"
    small.empty()
    assert why_refused(small.path) is None
    assert list(small.path.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,ro", small.path], check=True)
    assert why_refused(small.path) == f"read-only file system on {small.path}"


# --- waiting ------------------------------------------------------------------------------------------------------


def test_a_refused_write_is_retried_and_reported_once(tmp_path):
    said, tries = [], []

    @patiently
    def write():
        tries.append(1)
        if len(tries) < 5:
            raise DiskError("cannot write", "no space left on /")
        return "written"

    patience = Patience(tmp_path)
    patience.say = said.append
    with patient(patience):
        assert write() == "written"
    assert said == ["no space left on /", None]


def test_without_patience_the_first_failure_is_the_error(small):
    small.fill()
    for write in (
        lambda: write_atomically(small.path / "a", b"b"),
        lambda: RunDirectory.create(small.path, "a-run", {}),
    ):
        with pytest.raises(DiskError, match=r"No space left on device; what was there before is unchanged"):
            write()
    assert [path.name for path in small.path.iterdir() if path.is_file()] == ["filler"]


def test_waiting_ends_by_timeout_signal_or_hopelessness(tmp_path):
    error = DiskError("cannot write", "no space left on /")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlae.system.disk.PATIENCE", 0.0)
        with pytest.raises(DiskError), patient(Patience(tmp_path)):
            patiently(_raising(error))()
    signalled = Patience(tmp_path)
    signalled.check = _raising(Interrupted(15))
    with pytest.raises(Interrupted), patient(signalled):
        patiently(_raising(error))()
    (tmp_path / "something").touch()
    with pytest.raises(RecordError, match="of another kind"), patient(Patience(tmp_path)):
        patiently(_raising(RecordError("of another kind")))()


def _raising(error):
    def act():
        raise error

    return act


def test_a_missing_file_system_is_waited_for(tmp_path):
    home, away = tmp_path / "runs", tmp_path / "away"
    home.mkdir()
    (home / "run").mkdir()
    home.rename(away)
    patience = Patience(home)
    patience.say = lambda reason: away.rename(home) if reason == f"{home} is gone" else None
    with patient(patience):
        write_atomically(home / "run" / "file", b"content")
    assert (home / "run" / "file").read_bytes() == b"content"


# --- every writer of a run ----------------------------------------------------------------------------------------


def _saves(run):
    import torch

    from vlae.runs import checkpoint

    checkpoint.save(run.path / "checkpoints", {"weights": torch.zeros(1000)})


def _appears(run):
    with appearing(run.path / "images" / "epoch-000001") as staged:
        write_atomically(staged / "samples.png", bytes(5000))


def _takes_over(run):
    """From a run on another file system, so that the checkpoint is copied."""
    import torch

    from vlae.config.schema import Trainer
    from vlae.experiment.take_over import take_over
    from vlae.runs import checkpoint
    from vlae.training.checkpoints import Progress

    with tempfile.TemporaryDirectory() as folder:
        other = RunDirectory.create(folder, "other", {"seed": 0})
        other.append_metrics({"epoch": 1, "global_step": 2, "seconds": 1.0, "validation/elbo_nats": -1.0})
        weights = {"weights": torch.zeros(1000)}
        progress = vars(
            Progress(epoch=1, step=2, best_epoch=1, best_elbo=-1.0, best_model=weights, seconds=1.0)
        )
        state = {
            "model": weights,
            "optimizer": {},
            "progress": progress,
            "metrics_size": other.metrics_size(),
        }
        checkpoint.save(other.path / "checkpoints", state)
        assert take_over(other, run, "training", Trainer(epochs=3), {"weights": torch.Size([1000])})


WRITERS = {
    "status": lambda run: run.write_status(progress={"epoch": 3}),
    "metrics": lambda run: [run.append_metrics({"epoch": i, "text": "x" * 3000}) for i in range(3)],
    "results": lambda run: run.write_results({"test": {"elbo": 1.0}, "text": "x" * 9000}),
    "checkpoint": _saves,
    "pictures": _appears,
    "claim": lambda run: run.claim(),
    "taking over": _takes_over,
}


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_each_writer_waits_for_a_full_disk(small, tmp_path, writer):
    run = RunDirectory.create(small.path / "runs", "a-run", {"seed": 0})
    other = RunDirectory.create(tmp_path / "runs", "a-run", {"seed": 0})
    small.fill()
    looks = threading.Semaphore(0)
    patience = Patience(run.path.parent)
    patience.check = looks.release
    thread = threading.Thread(target=lambda: _patiently(patience, WRITERS[writer], run))
    thread.start()
    assert all(looks.acquire(timeout=20) for _ in range(9))  # a few tries in vain, which must leave nothing
    small.empty()
    thread.join(20)
    WRITERS[writer](other)
    assert _content(run.path) == _content(other.path)


def _patiently(patience, write, run):
    with patient(patience):
        write(run)


def _content(path):
    """The content of each file, except claims and times."""
    files = {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
    assert not [name for name in files if name.endswith(".tmp")]
    return {
        name: content
        for name, content in files.items()
        if not name.endswith("claim.json") and name != "status.json"
    } | {"status": read_json(path / "status.json")["progress"]}


def test_a_metrics_line_is_written_once_despite_a_disk_error(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "a-run", {})
    run.append_metrics({"epoch": 1})
    errors, fsync = [refusing(errno.EIO), refusing(errno.EIO)], os.fsync

    def fail(descriptor):
        if errors:
            raise errors.pop()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with patient(Patience(tmp_path)):
        run.append_metrics({"epoch": 2})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]


# --- the record ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_reported_although_nothing_can_be_written(small):
    run = RunDirectory.create(small.path, "a-run", {})
    with contextlib.suppress(DiskError), run.claim() as attempt:
        small.fill()
        attempt.waits("no space left on /scratch")
        assert (run.status()["state"], run.status()["reason"]) == ("running", "no space left on /scratch")
        raise DiskError("cannot write", "no space left on /scratch")
    found = state_on_disk(run.path)
    assert (found.state, found.reason) == ("interrupted", "no space left on /scratch")
    assert run.holder() is None
    small.empty()
    with run.claim() as attempt:
        assert attempt.number == 2
        assert run.status()["reason"] is None


def test_a_failure_on_a_full_disk_is_recorded_with_its_message(small):
    run = RunDirectory.create(small.path, "a-run", {})
    with contextlib.suppress(ValueError), run.claim():
        small.fill()
        raise ValueError("wrong" * 5000)
    status = run.status()
    assert (status["state"], status["reason"]) == ("failed", "exception")
    assert status["message"].startswith("ValueError: wrongwrong")


def test_a_heartbeat_that_the_disk_refuses_stops_nothing(small):
    run = RunDirectory.create(small.path, "a-run", {})
    with run.claim() as attempt:
        small.fill()
        with patient(Patience(small.path)):
            attempt.heartbeat({"epoch": 3})
        small.empty()
    assert run.status()["progress"] == {"epoch": 3}


def test_a_run_stops_if_its_directory_was_replaced_meanwhile(tmp_path):
    run = RunDirectory.create(tmp_path, "a-run", {})
    with run.claim() as attempt:
        attempt.waits("no space left on /")
        claim = attempt.directory / "claim.json"
        claim.write_text(json.dumps(read_json(claim) | {"token": "other"}))
        with pytest.raises(RecordError, match="another process took over this run"):
            attempt.waits(None)


def test_an_attempt_leaves_no_reserved_file(tmp_path):
    run = RunDirectory.create(tmp_path, "a-run", {})
    with run.claim() as attempt:
        attempt.waits("no space left on /")
        attempt.waits(None)
    assert {path.name for path in attempt.directory.iterdir()} == {"claim.json", "ended.json"}


def test_a_library_on_a_full_disk_interrupts_the_run(tmp_path, monkeypatch):
    cfg = container()
    run = RunDirectory.create(tmp_path, run_id(cfg), cfg)

    def carry_out(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(experiment_run, "_carry_out", carry_out)
    with pytest.raises(DiskError):
        execute(run, lambda: None, captured=True)
    assert (run.status()["state"], run.status()["reason"]) == ("interrupted", "no space left on device")

"""Runs on Weights & Biases, with the real client: the data at a recording server, and the cost of its failures."""

import base64
import contextlib
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from launching import run_command
from PIL import Image
from wandb_server import KEY

from vlae.config.compose import compose
from vlae.config.overrides import CONF
from vlae.config.run_id import run_id
from vlae.launching import sweep_index
from vlae.runs.directory import RunDirectory, promote
from vlae.system.interruption import Interrupted
from vlae.trackers.process import ENDS_WITHIN, start_mirror, upload_later
from vlae.trackers.run_history import RunHistory
from vlae.trackers.wandb_mirror import JITTER, jitter

pytestmark = pytest.mark.slow

TINY = (
    *("model=vlae", "dataset.sizes.latent_dim=2", "dataset.sizes.hidden_dims=[3]"),
    *("device=cpu", "trainer.epochs=6", "tracker=wandb"),
)
A_FEW_SECONDS = ENDS_WITHIN + 1.5


@pytest.fixture
def client(tmp_path, monkeypatch):
    """An environment without a key, whose files are all below ``tmp_path``."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "SLURM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "client"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def with_key(monkeypatch, server, tmp_path):
    for name, value in server.environment(tmp_path / "client").items():
        if name in ("WANDB_BASE_URL", "WANDB_API_KEY"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def online(client, server, tmp_path, monkeypatch):
    """The same with a key, and the server."""
    with_key(monkeypatch, server, tmp_path)
    return server


class FakeRun:
    """A run directory that is written without training: what a run leaves in it, epoch by epoch."""

    def __init__(self, runs_dir, *overrides, seed=0):
        words = [*TINY, f"runs_dir={runs_dir}", f"seed={seed}", "tracker.group=sweep", *overrides]
        container = compose(words)
        self.directory = RunDirectory.create(runs_dir, run_id(container), container)
        self.id = self.directory.run_id

    def epochs(self, first, last):
        for epoch in range(first, last + 1):
            line = {"epoch": epoch, "global_step": 10 * epoch, "train/elbo_nats": -100.0 / epoch}
            self.directory.append_metrics(line | {"validation/elbo_nats_after_1": -50.0 / epoch})
            if epoch % 2 == 0:
                self.picture(f"epoch-{epoch:06d}", "reconstructions", epoch)

    def picture(self, folder, name, grey):
        place = self.directory.path / "images" / folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), grey, np.uint8)).save(place / f"{name}.png")

    def complete(self):
        self.picture("", "prior_samples", 99)
        np.savez(
            self.directory.path / "test_log_likelihood.npz",
            elbo=np.array([-3.0, -4.0]),
            ess=np.array([5.0, 5.0]),
            log_likelihood=np.array([-1.0, -2.0]),
            log_likelihood_laplace=np.array([-0.5, -1.5]),
        )
        own = {"mean": -1.5, "k_hat_unreliable": None}
        results = {"run_id": self.id, "epochs": 6, "test": {"elbo": -2.5, "log_likelihood": {"own": own}}}
        self.directory.write_results(results)

    def go(self):
        """All of it, in the middle of which its mirror begins."""
        self.epochs(1, 3)
        wait_for(lambda: self.kept().get("sent"))
        self.epochs(4, 6)
        self.complete()

    def attempt(self, act, end=None):
        """One attempt that calls ``act``; the seconds that its end took."""
        began = math.nan
        try:
            with start_mirror(self.directory), self.directory.claim():
                act()
                began = time.monotonic()
                if end is not None:
                    raise end
        except BaseException as error:
            if error is not end:
                raise
        return time.monotonic() - began

    def log(self):
        return (self.directory.path / "tracking" / "log.txt").read_text()

    def kept(self):
        """The record of its mirror, also of an offline one."""
        run_history = RunHistory(self.directory)
        return run_history.notes_of("wandb") | run_history.notes_of("wandb-offline")

    def size_after(self, epoch):
        lines = (self.directory.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        return sum(map(len, lines[:epoch]))


@pytest.fixture
def run(tmp_path):
    return FakeRun(tmp_path / "runs")


def wait_for(reached, seconds=60):
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(KeyError):  # there is no such run yet
            if reached():
                return
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def history(recorded, key="train/elbo_nats"):
    """The epochs of one metric in the order in which they arrived."""
    return [line["epoch"] for line in recorded.history if key in line]


def segments(run):
    """Values of all attempts, in their order."""
    found = (run.directory.path / "tracking" / "wandb").glob("*run-2*")
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def read_back(segment):
    """The records of a transaction log: their kinds, with what they hold as plain values.

    LevelDB's log format after a header of seven bytes: blocks of 32 KiB, of parts of records with seven bytes each.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = segment.glob("*.wandb")
    data, at, parts, found = file.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            found.append(plain(record))
    return found


def plain(record):
    kind = record.WhichOneof("record_type")
    part = getattr(record, kind)
    if kind == "run":
        kind, part = "config", part.config
    items = getattr(part, "item", None) or getattr(part, "update", None) or ()
    return kind, {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def vlae(run, *words, status=0):
    """The command, in a process of its own."""
    done = run_command("vlae.cli", *words, "--runs-dir", run.directory.path.parent, cwd=Path.cwd())
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- what arrives -------------------------------------------------------------------------------------------------


def test_all_data_of_a_run_arrive(online, run):
    run.attempt(run.go)
    found = online.run(run.id)
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert [line["global_step"] for line in found.history if "global_step" in line] == [
        10,
        20,
        30,
        40,
        50,
        60,
    ]
    assert history(found, "validation/elbo_nats_after_1") == [1, 2, 3, 4, 5, 6]
    assert found.exit_codes == [0]
    assert (found.group, found.display_name) == ("sweep", run.id)
    assert set(found.tags) == {"vlae", "digits", "gaussian"}
    assert f"run {run.id}, code " in found.notes
    frozen = run.directory.config()
    for key in ("model", "trainer", "seed"):
        assert found.config[key] == frozen[key]
    assert (found.summary["test/elbo"], found.summary["test/log_likelihood/own/mean"]) == (-2.5, -1.5)
    assert history(found, "images/reconstructions") == [2, 4, 6]
    line = next(line for line in found.history if "images/reconstructions" in line)
    picture = run.directory.path / "images" / "epoch-000002" / "reconstructions.png"
    assert found.files[line["images/reconstructions"]["path"]] == picture.read_bytes()
    assert found.summary["final/prior_samples"]["width"] == 5
    (table,) = [a for a in online.artifacts if a.type == "run_table"]
    rows = json.loads(table.files["test/per_image.table.json"])
    assert rows["columns"] == ["image", "elbo", "log_likelihood", "log_likelihood_laplace"]
    assert rows["data"] == [[0, -3.0, -1.0, -0.5], [1, -4.0, -2.0, -1.5]]
    assert upload_later(run.directory) == ""


def test_the_api_key_is_in_no_file(online, run, monkeypatch):
    monkeypatch.setenv("WANDB_DEBUG", "true")
    monkeypatch.setenv("WANDB_CORE_DEBUG", "true")
    run.attempt(run.go)
    found = online.run(run.id)
    assert len([p for p in run.directory.path.rglob("*") if p.is_file()]) > 10
    assert with_the_key(run) == []
    assert KEY not in json.dumps([found.config, found.summary, found.notes, found.fields])


def with_the_key(run):
    """Files of the run, its client's logs among them."""
    encoded = base64.b64encode(f"api:{KEY}".encode())
    found = {p: p.read_bytes() for p in run.directory.path.rglob("*") if p.is_file()}
    return [p for p, content in found.items() if KEY.encode() in content or encoded in content]


def test_the_best_model_is_uploaded_on_request(online, tmp_path):
    run = FakeRun(tmp_path / "runs", "tracker.artifacts=true")
    (run.directory.path / "checkpoints").mkdir()
    (run.directory.path / "checkpoints" / "last.pt").write_bytes(b"weights")
    run.attempt(run.go)
    (model,) = [a for a in online.artifacts if a.type == "model"]
    assert model.files["last.pt"] == b"weights"


def test_attempts_of_a_run_are_one_run(online, run):
    def first():
        run.epochs(1, 3)
        wait_for(lambda: history(online.run(run.id)) == [1, 2, 3])

    run.attempt(first, end=Interrupted(signal.SIGUSR2))
    assert online.run(run.id).state != "finished"

    def second():  # it goes back to its checkpoint
        run.directory.truncate_metrics(run.size_after(2))
        run.epochs(3, 6)
        wait_for(lambda: run.kept().get("sent") == 9)
        run.complete()

    run.attempt(second)
    found = online.run(run.id)
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert found.exit_codes[-1] == 0
    assert len(online.runs) == 1


def test_a_rerun_is_another_wandb_run(online, run, tmp_path):
    run.attempt(run.go)
    rerun = FakeRun(tmp_path / "runs" / ".reruns")
    assert rerun.id == run.id
    rerun.attempt(rerun.go)
    assert history(online.run(f"{run.id}-g2")) == [1, 2, 3, 4, 5, 6]
    assert history(online.run(run.id)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("later", ["tracker=wandb", "tracker=none"])
def test_a_rerun_without_a_mirror_does_not_replace_the_old_one(online, run, tmp_path, later):
    run.attempt(run.go)
    rerun = FakeRun(tmp_path / "runs" / ".reruns", later)
    online.stop()
    rerun.attempt(lambda: (rerun.epochs(1, 6), rerun.complete()))
    online.start()
    promoted = promote(rerun.directory)
    vlae(run, "sync", *(["--rebuild"] if later == "tracker=none" else []))
    names = {found.name for found in online.runs.values()}
    assert names == ({run.id, f"{run.id}-g2"} if later == "tracker=wandb" else {f"{run.id}-g3"})
    assert promoted.path.name == run.id


def test_the_end_of_a_run_is_logged(online, tmp_path):
    failed, stopped = FakeRun(tmp_path / "runs"), FakeRun(tmp_path / "runs", seed=1)

    def a_little(run):
        return lambda: (run.epochs(1, 2), wait_for(lambda: run.kept().get("sent")))

    failed.attempt(a_little(failed), end=ValueError("x"))
    stopped.attempt(a_little(stopped), end=Interrupted(signal.SIGTERM))
    assert online.run(failed.id).exit_codes == [1]
    assert online.run(stopped.id).exit_codes == [255]
    logged = {key: online.run(failed.id).summary[f"status/{key}"] for key in ("state", "reason", "message")}
    assert logged == {"state": "failed", "reason": "exception", "message": "ValueError: x"}
    assert online.run(stopped.id).summary["status/reason"] == "SIGTERM"

    def the_rest():
        stopped.epochs(3, 6)
        wait_for(lambda: stopped.kept().get("sent") == 9)
        stopped.complete()

    stopped.attempt(the_rest)
    assert online.run(stopped.id).summary["status/state"] == "done"
    assert online.run(stopped.id).summary["status/reason"] == ""


def test_the_key_of_wandb_login_is_found(client, server, run):
    login = [sys.executable, "-m", "wandb", "login", "--host", server.url, KEY]
    subprocess.run(login, check=True, capture_output=True, timeout=60)
    run.attempt(run.go)
    assert history(server.run(run.id)) == [1, 2, 3, 4, 5, 6]
    assert server.keys == {KEY}


# --- one writer at a time -----------------------------------------------------------------------------------------


def test_a_sync_skips_a_run_that_is_being_sent(online, run):
    # its mirror has said nothing yet when it is synced
    online.fail(slow=12.0, only="RunResumeStatus|UpsertBucket")

    def act():
        run.epochs(1, 3)
        wait_for(lambda: online.count("RunResumeStatus|UpsertBucket"))
        assert f"{run.id}: under way, it is being sent" in vlae(run, "sync", run.id)
        online.fail()
        assert "still running" in vlae(run, "sync", run.id, "--rebuild")
        run.epochs(4, 6)
        wait_for(lambda: run.kept().get("sent") == 9)
        run.complete()

    run.attempt(act)
    found = online.run(run.id)
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert found.exit_codes == [0]


def test_a_run_waits_for_a_sync_of_it(online, run):
    place = run.directory.path / "tracking"
    place.mkdir()
    with FileLock(place / "lock") as lock:

        def act():
            run.epochs(1, 6)
            wait_for(lambda: "waiting" in run.log())
            assert not online.runs
            lock.release()
            wait_for(lambda: run.kept().get("sent") == 9)
            run.complete()

        run.attempt(act)
    assert history(online.run(run.id)) == [1, 2, 3, 4, 5, 6]


def test_a_run_that_waits_in_vain_is_logged_offline(online, run):
    run.epochs(1, 3)
    (run.directory.path / "tracking").mkdir()
    code = """
import sys
from pathlib import Path
from vlae.runs.directory import RunDirectory
from vlae.trackers import wandb_mirror as wandb
from vlae.trackers.run_history import RunHistory

wandb.PATIENCE = 0.1
mirror = wandb.WandbMirror(RunHistory(RunDirectory(Path(sys.argv[1]))))
mirror.start()
mirror.finish()
"""
    with FileLock(run.directory.path / "tracking" / "lock"):
        subprocess.run([sys.executable, "-c", code, str(run.directory.path)], check=True, timeout=60)
    assert run.kept()["reason"] == "it is being sent by another process"
    assert not online.runs
    assert len(segments(run)) == 1


def test_a_running_offline_run_can_be_synced(client, server, run, tmp_path, monkeypatch):
    def act():
        run.epochs(1, 3)
        wait_for(lambda: run.kept().get("sent") == 4)
        with_key(monkeypatch, server, tmp_path)
        assert "synced: " in vlae(run, "sync", run.id)
        assert server.run(run.id).summary["status/state"] == "running"
        run.epochs(4, 6)
        run.complete()

    run.attempt(act)
    assert "synced: " in vlae(run, "sync", run.id)
    assert history(server.run(run.id)) == [1, 2, 3, 4, 5, 6]
    assert server.run(run.id).exit_codes[-1] == 0


def test_slurm_jobs_contact_the_service_at_different_times(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert jitter() == 0
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    waits = [jitter() for _ in range(200)]
    assert min(waits) < JITTER / 4
    assert JITTER * 3 / 4 < max(waits) <= JITTER


# --- without a key ------------------------------------------------------------------------------------------------


def test_without_a_key_a_run_is_logged_offline(client, run, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    run.attempt(run.go)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert "offline, without a key" in upload_later(run.directory)
    (segment,) = segments(run)
    records = read_back(segment)
    lines = [values for kind, values in records if kind == "history"]
    assert [line["epoch"] for line in lines if "train/elbo_nats" in line] == [1, 2, 3, 4, 5, 6]
    assert sum(any(key.startswith("images/reconstructions") for key in line) for line in lines) == 3
    given = next(values for kind, values in records if kind == "config")
    assert given["model"]["latent_dim"] == 2
    summary = {key: value for kind, values in records if kind == "summary" for key, value in values.items()}
    assert summary["test/elbo"] == -2.5
    assert {"files", "exit"} <= {kind for kind, _ in records}


def test_several_attempts_are_synced_as_one_run(client, server, run, tmp_path, monkeypatch):
    def part(first, last):
        run.epochs(first, last)
        wait_for(lambda: run.kept().get("sent") == {3: 4, 6: 9}[last])

    run.attempt(lambda: part(1, 3), end=Interrupted(signal.SIGUSR2))
    run.attempt(lambda: (part(4, 6), run.complete()))
    with_key(monkeypatch, server, tmp_path)
    assert "synced" in vlae(run, "sync", run.id)
    found = server.run(run.id)
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert found.summary["test/elbo"] == -2.5
    upserts = found.num_upserts
    assert "complete: " in vlae(run, "sync")
    assert found.num_upserts == upserts

    server.runs.clear()  # and by wandb's own
    offline = [str(segment) for segment in segments(run) if segment.name.startswith("offline-")]
    command = [sys.executable, "-m", "wandb", "sync", *offline]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    found = server.run(run.id)
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert found.summary["test/elbo"] == -2.5


def test_a_mirror_is_rebuilt_from_the_run_directory(online, run):
    run.attempt(run.go)
    shutil.rmtree(run.directory.path / "tracking" / "wandb")
    assert "synced: " in vlae(run, "sync", run.id, "--rebuild")
    assert [found.name for found in online.runs.values()] == [f"{run.id}-g2"]
    found = online.run(f"{run.id}-g2")
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert history(found, "images/reconstructions") == [2, 4, 6]
    assert found.summary["test/elbo"] == -2.5
    assert "complete: " in vlae(run, "sync")


def test_a_mirror_stays_until_the_new_one_has_arrived(online, run):
    run.attempt(run.go)
    online.fail(status=401, only="file_stream")  # all else is answered
    assert "not synced: Weights & Biases did not take everything" in vlae(run, "sync", "--rebuild", status=2)
    assert history(online.run(run.id)) == [1, 2, 3, 4, 5, 6]
    online.fail()
    assert "synced: " in vlae(run, "sync", run.id)
    assert history(online.run(f"{run.id}-g2")) == [1, 2, 3, 4, 5, 6]
    assert "synced: " in vlae(run, "sync", run.id, "--rebuild")
    assert [found.name for found in online.runs.values()] == [f"{run.id}-g3"]  # of all that were before


def test_an_unchanged_run_is_not_sent_again(online, run):
    run.attempt(lambda: (run.epochs(1, 2), wait_for(lambda: run.kept().get("sent"))), end=ValueError("x"))
    assert "synced: " in vlae(run, "sync", run.id)
    found, before = online.run(run.id), len(segments(run))
    exits = list(found.exit_codes)
    assert "nothing new: " in vlae(run, "sync", run.id)
    assert (found.exit_codes, len(segments(run))) == (exits, before)


def test_a_sync_completes_truncated_event_files(client, tmp_path):
    run = FakeRun(tmp_path / "runs", "tracker=tensorboard")
    run.attempt(lambda: (run.epochs(1, 6), run.complete(), wait_for(lambda: event_files(run))))
    assert upload_later(run.directory) == ""
    shutil.rmtree(run.directory.path / "tracking")
    assert "event files were not completed" in upload_later(run.directory)
    assert "event files made" in vlae(run, "sync", run.id)  # without a key
    assert event_files(run)
    assert upload_later(run.directory) == ""


def test_offline_runs_are_synced_one_after_the_other(client, server, tmp_path, monkeypatch):
    runs = [FakeRun(tmp_path / "runs", seed=seed) for seed in (0, 1)]
    for run in runs:
        run.attempt(run.go)
    with_key(monkeypatch, server, tmp_path)
    said = vlae(runs[0], "sync", "--rebuild")
    assert all(f"({run.id} was not there)" in said for run in runs)
    assert sorted(found.name for found in server.runs.values()) == sorted(f"{run.id}-g2" for run in runs)


def test_a_run_that_cannot_be_synced_stops_no_other(client, server, tmp_path, monkeypatch):
    runs = [FakeRun(tmp_path / "runs", seed=seed) for seed in (0, 1)]
    for run in runs:
        run.attempt(run.go)
    (runs[0].directory.path / "test_log_likelihood.npz").write_bytes(b"damaged")
    with_key(monkeypatch, server, tmp_path)
    said = vlae(runs[0], "sync", status=2)
    assert f"{runs[0].id}: not synced: " in said
    assert f"{runs[1].id}: synced: " in said
    assert "1 run could not be synced" in said
    assert server.run(runs[1].id).summary["test/elbo"] == -2.5


BOTH = "tracker=[wandb,tensorboard]"


def test_a_disabled_mirror_beside_another_writes_nothing(online, tmp_path):
    run = FakeRun(tmp_path / "runs", BOTH, "tracker.mode=disabled")
    run.attempt(lambda: (run.epochs(1, 6), run.complete(), wait_for(lambda: event_files(run))))
    assert upload_later(run.directory) == ""
    assert "asks for no mirror" in vlae(run, "sync", run.id)
    assert not online.runs
    assert not run.kept()


def test_event_files_do_not_wait_for_a_service_that_is_down(online, tmp_path):
    online.fail(slow=30.0)
    run = FakeRun(tmp_path / "runs", BOTH)
    run.attempt(lambda: (run.epochs(1, 6), wait_for(lambda: event_files(run), 20), run.complete()))
    assert "`vlae sync" in upload_later(run.directory)


def event_files(run):
    return list(run.directory.path.glob("tracking/tensorboard/events*"))


def test_without_a_key_nothing_is_synced(client, run):
    run.attempt(run.complete)
    assert "no key for Weights & Biases at https://" in vlae(run, "sync", run.id, status=2)


@pytest.mark.parametrize("words", [("sync",), ("table", "--from", "wandb:tester/vlae")])
def test_an_unreachable_service_is_reported_soon(client, server, run, words, tmp_path, monkeypatch):
    run.attempt(run.complete)
    with_key(monkeypatch, server, tmp_path)
    server.stop()
    began = time.monotonic()
    said = vlae(run, *words, status=2)
    assert f"Weights & Biases: {server.url} could not be reached (" in said
    assert "credentials" not in said
    assert time.monotonic() - began < 20  # the client alone takes 30
    if words[0] == "sync":
        assert said.endswith("; nothing was uploaded\n")


@pytest.mark.parametrize(("name", "value"), [("WANDB_BASE_URL", "api.wandb.ai"), ("WANDB_API_KEY", " ")])
def test_a_refused_environment_stops_no_other_mirror(online, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    run = FakeRun(tmp_path / "runs", BOTH)
    run.attempt(lambda: (run.epochs(1, 6), run.complete(), wait_for(lambda: event_files(run))))
    assert upload_later(run.directory).startswith("Weights & Biases: it fails or refuses: ")
    said = vlae(run, "sync", status=2)
    assert len(said.splitlines()) == 1
    assert said.startswith("vlae: Weights & Biases: ")


def test_files_of_a_mirror_fail_no_done_run(online, run):
    run.attempt(run.complete)
    (run.directory.path / "tracking" / "wandb.json").write_text("{")
    assert "wandb.json" in upload_later(run.directory)
    assert "not synced: " in vlae(run, "sync", run.id, status=2)
    (run.directory.path / "tracking" / "wandb.json").write_text('{"generation": "y"}')
    assert "expected a number as generation, got 'y'" in vlae(run, "sync", run.id, status=2)


# --- failures of the service --------------------------------------------------------------------------------------

FAULTS = {
    "slow": {"slow": 30.0},
    "too many requests": {"status": 429},
    "server error": {"status": 500},
    "key refused": {"status": 401},
    "connections dropped": {"drop": True},
}


@pytest.mark.parametrize(
    ("fault", "when"),
    [
        *((fault, "from the start") for fault in ("slow", "server error", "key refused", "dead")),
        *((fault, "in mid-run") for fault in ("too many requests", "connections dropped", "dead")),
    ],
)
def test_a_failing_service_costs_seconds_and_is_completed_later(online, run, fault, when):
    def fail():
        online.stop() if fault == "dead" else online.fail(**FAULTS[fault])

    def act():
        run.epochs(1, 3)
        if when == "in mid-run":
            wait_for(lambda: run.kept().get("sent") == 4)
            fail()
        run.epochs(4, 6)
        run.complete()

    if when == "from the start":
        fail()
    assert run.attempt(act) < A_FEW_SECONDS
    assert "`vlae sync" in upload_later(run.directory)
    assert with_the_key(run) == []
    if fault == "dead":
        online.start()
    online.fail()
    assert "synced: " in vlae(run, "sync", run.id)
    found = online.run(run.id)
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert found.summary["test/elbo"] == -2.5
    assert upload_later(run.directory) == ""


def test_a_run_continues_offline_without_the_service(online, run):
    online.fail(drop=True)

    def act():
        run.epochs(1, 3)
        wait_for(lambda: run.kept().get("mode") == "offline", 120)
        run.epochs(4, 6)
        wait_for(lambda: run.kept().get("sent") == 9)
        run.complete()

    run.attempt(act)
    text = upload_later(run.directory)
    assert text.startswith(f"Weights & Biases: {online.url} could not be reached (")
    assert len(text.splitlines()) == 1
    assert any(segment.name.startswith("offline-") for segment in segments(run))


# --- many runs ----------------------------------------------------------------------------------------------------


def test_a_sweep_is_a_group_of_distinct_runs(online, tmp_path):
    words = ["-m", "model=vae,hf", "seed=range(0,4)", *TINY[1:], f"runs_dir={tmp_path / 'runs'}"]
    words += ["evaluate.num_samples=5", "evaluate.num_images=5", "evaluate.num_gap_images=0", "num_threads=1"]
    command = [sys.executable, str(CONF.parent / "launch.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs_dir = tmp_path / "runs"
    assert any(history(run) for run in online.runs.values())  # while they ran, or some seconds later
    sync = [
        sys.executable,
        "-c",
        "from vlae.cli.app import main; main()",
        "sync",
        "--runs-dir",
        str(runs_dir),
    ]
    subprocess.run(sync, check=True, capture_output=True, timeout=300)  # what a mirror had no time for
    assert len(online.runs) == 8
    found = list(online.runs.values())
    assert [run.group for run in found] == sweep_index.sweep_names(runs_dir) * 8
    assert len({run.project for run in found}) == 1
    assert all(history(run) == [1, 2, 3, 4, 5, 6] for run in found)
    assert all("test/elbo" in run.summary for run in found)

"""Old queues are removed without an effect on the state of any run."""

import json
import os
import shutil

import pytest
from test_files import in_python

from vlae.launching import queues
from vlae.launching.cleanup import remove_old_queues
from vlae.launching.queues import Waiting, all_queues
from vlae.launching.run_state import Observer
from vlae.runs.directory import RunDirectory
from vlae.runs.lease import new_claim
from vlae.runs.rerun import RERUNS

LONG_AGO = "2020-01-01T00:00:00+00:00"


@pytest.fixture
def queue(tmp_path):
    """``queue("slurm", ended=LONG_AGO, reasons={...})``: a queue of the runs a, b, c; only a has results."""
    for name in "abc":
        run = RunDirectory.create(tmp_path, name, {"seed": name})
        if name == "a":
            run.write_results({})

    def make(kind="local", ended=None, reasons=None, created=LONG_AGO, is_rerun=False):
        waiting = [Waiting(name, 0, is_rerun) for name in "abc"]
        made = queues.create(tmp_path, kind=kind, sweep="s", code=tmp_path, runs=waiting, settings={})
        rewrite(made.path / "queue.json", created=created)
        if ended:
            made.end("ended", reasons)
            rewrite(made.path / "ended.json", ended=ended)
        return made

    return make


def rewrite(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def left(tmp_path):
    """Tokens of the queues that are there after a removal, which changed no state of a run."""
    paths = [tmp_path / name for name in "abc"]
    before = [Observer(tmp_path).state(path) for path in paths]
    remove_old_queues(tmp_path)
    assert [Observer(tmp_path).state(path) for path in paths] == before
    return {queue.token for queue in all_queues(tmp_path)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_only_queues_that_ended_long_ago_are_removed(queue, tmp_path, kind):
    old = queue(kind, ended=LONG_AGO)
    new = queue(kind)
    new.end("ended")
    assert left(tmp_path) == {new.token}
    assert [path.name for path in old.path.parent.iterdir() if path.name != new.token] == [".new"]
    assert list(old.path.parent.joinpath(".new").iterdir()) == []


@pytest.mark.slow
def test_a_running_queue_stays_at_any_age(queue, tmp_path):
    going_on = queue("local")
    submitted = queue("slurm")
    assert left(tmp_path) == {going_on.token, submitted.token}


def test_an_old_queue_of_a_killed_process_is_removed(queue, tmp_path):
    old, new = queue("local"), queue("local", created=new_claim()["started"])
    for killed in (old, new):
        rewrite(killed.path / "claim.json", process_start=1.0)
    assert left(tmp_path) == {new.token}


@pytest.mark.slow
def test_a_queue_stays_while_it_explains_a_missing_result(queue, tmp_path):
    queue("slurm", ended=LONG_AGO, reasons={"a": "missing"})
    needed = queue("slurm", ended=LONG_AGO, reasons={"a": "missing", "b": "time limit"})
    cancelled = queue("local", ended=LONG_AGO)
    cancelled.cancel(["c"])
    RunDirectory(tmp_path / "c").write_status(state="interrupted", attempt=1, reason="SIGTERM")
    assert left(tmp_path) == {needed.token, cancelled.token}
    assert Observer(tmp_path).state(tmp_path / "b").reason == "time limit"
    assert Observer(tmp_path).state(tmp_path / "c").reason == "cancelled"
    RunDirectory(tmp_path / "b").write_results({})
    assert left(tmp_path) == {cancelled.token}
    shutil.rmtree(tmp_path / "c")
    remove_old_queues(tmp_path)
    assert all_queues(tmp_path) == []


@pytest.mark.slow
def test_a_queue_stays_until_its_rerun_is_in_place(queue, tmp_path):
    waiting = queue("slurm", ended=LONG_AGO, reasons={"b": "time limit"}, is_rerun=True)
    RunDirectory.create(tmp_path / RERUNS, "b", {"seed": "b"})
    assert left(tmp_path) == {waiting.token}
    os.rename(tmp_path / "b", tmp_path / "old")
    os.rename(tmp_path / RERUNS / "b", tmp_path / "b")
    assert left(tmp_path) == set()


def test_a_damaged_queue_does_not_stop_the_removal(queue, tmp_path):
    for name in ("ended.json", "cancelled.json"):
        queue("local", ended=LONG_AGO).path.joinpath(name).write_text("{")
    queue("local", ended=LONG_AGO)
    remove_old_queues(tmp_path)
    assert len(all_queues(tmp_path)) == 2


@pytest.mark.slow
def test_a_killed_removal_leaves_a_whole_queue_or_none(tmp_path):
    script = """
        from pathlib import Path
        from killing import killed_at_every_step
        from test_queues import LONG_AGO, rewrite
        from vlae.launching.cleanup import remove_old_queues
        from vlae.launching.queues import all_queues, create

        def prepare(folder):
            queue = create(folder, kind="slurm", sweep="s", code=folder, runs=[], settings={})
            queue.end("ended")
            rewrite(queue.path / "ended.json", ended=LONG_AGO)

        def check(folder):
            assert all(queue.ended is not None for queue in all_queues(folder))
            remove_old_queues(folder)
            assert all_queues(folder) == []

        print(killed_at_every_step(prepare, remove_old_queues, check))
    """
    assert int(in_python(script)) > 5

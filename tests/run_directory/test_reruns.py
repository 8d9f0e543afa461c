"""A rerun replaces the old run when it is done, and not before."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from run_directory.example import (
    CONFIG,
    RUN_ID,
    everything,
    finished,
    in_python,
    output_of,
    visible_and_hidden,
)
from vlae.runs.attempts import RunHeld
from vlae.runs.directory import RunDirectory, find, promote, rerun_directory
from vlae.runs.rerun import REPLACED, RERUNS, recover
from vlae.system.disk import RecordError


def test_the_old_result_stays_until_the_new_one_exists(run):
    runs_dir = finished(run, 1).path.parent
    rerun = rerun_directory(runs_dir, RUN_ID, CONFIG)
    recover(runs_dir, RUN_ID)
    with pytest.raises(RecordError, match=r"no results\.json: it does not replace"):
        promote(rerun)
    assert run.results() == {"test": {"value": 1}}
    assert rerun_directory(runs_dir, RUN_ID, CONFIG).path == rerun.path  # an interrupted one resumes
    assert promote(finished(rerun, 2)).results() == run.results() == {"test": {"value": 2}}
    assert run.run_id == RUN_ID
    assert run.config() == CONFIG
    assert not [name for name in visible_and_hidden(runs_dir) if name.endswith(RUN_ID) and name != RUN_ID]


def test_a_run_that_is_being_executed_is_not_replaced(run):
    runs_dir = run.path.parent
    with run.claim(), pytest.raises(RunHeld):
        rerun_directory(runs_dir, RUN_ID, CONFIG)
    rerun = finished(rerun_directory(runs_dir, RUN_ID, CONFIG), 2)
    with run.claim():
        with pytest.raises(RunHeld):
            promote(rerun)
        recover(runs_dir, RUN_ID)
        assert run.results() is None
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 2}}


@pytest.mark.slow
def test_the_next_start_completes_a_killed_replacement():
    script = """
        import json
        from killing import killed_at_every_step
        from run_directory.example import CONFIG, RUN_ID, everything, finished
        from vlae.runs.directory import RunDirectory, find, rerun_directory, promote
        from vlae.runs.rerun import REPLACED, RERUNS, recover

        def prepare(folder):
            finished(RunDirectory.create(folder, RUN_ID, CONFIG), 1)
            finished(rerun_directory(folder, RUN_ID, CONFIG), 2)

        def act(folder):
            promote(rerun_directory(folder, RUN_ID, CONFIG))

        def check(folder):
            run, old = RunDirectory(folder / RUN_ID), RunDirectory(folder / REPLACED / RUN_ID)
            whole = [each.path for each in (run, old) if each.path.exists() and each.results() and each.config()]
            assert whole == [each.path for each in (run, old) if each.path.exists()] != []
            before = everything(folder)
            assert find(folder, RUN_ID[:-1]).results()["test"]["value"] in (1, 2) and everything(folder) == before
            assert find(folder, RUN_ID[:-1], to_write=True).path == run.path  # completes it
            assert run.results() == {"test": {"value": 2}} and not old.path.exists()
            recover(folder, RUN_ID)
            assert run.results()["test"] == run.metrics()[0] == {"value": 2} and run.config() == CONFIG
            left = [path for path in folder.rglob("*") if RUN_ID in path.name]
            assert left == [run.path]
            recover(folder, RUN_ID)
            assert run.results() == {"test": {"value": 2}}

        print(killed_at_every_step(prepare, act, check))
    """
    assert int(output_of(in_python(script))) > 8


def test_a_replacement_survives_another_start_in_between(run):
    """Killed between its two renames, after which a start that did not `recover` made the run again."""
    runs_dir = finished(run, 1).path.parent
    finished(rerun_directory(runs_dir, RUN_ID, CONFIG), 2)
    runs_dir.joinpath(REPLACED).mkdir(parents=True)
    run.path.rename(runs_dir / REPLACED / RUN_ID)
    RunDirectory.create(runs_dir, RUN_ID, CONFIG)
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 2}}
    assert RUN_ID not in [*os.listdir(runs_dir / REPLACED), *os.listdir(runs_dir / RERUNS)]


def test_an_old_run_returns_if_the_new_one_has_vanished(run):
    runs_dir = finished(run, 1).path.parent
    runs_dir.joinpath(REPLACED).mkdir(parents=True)
    run.path.rename(runs_dir / REPLACED / RUN_ID)
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 1}}


def test_a_rerun_that_is_being_executed_is_named_with_its_place(run):
    rerun = rerun_directory(run.path.parent, RUN_ID, CONFIG)
    with rerun.claim(), pytest.raises(RunHeld) as held:
        rerun.claim()
    message = str(held.value)
    assert message.startswith(
        f"run {RUN_ID}, rerun in {rerun.path}, is being executed by process {os.getpid()} "
    )
    assert message.endswith(f"`vlae show {rerun.path}`")
    assert find(run.path.parent, str(rerun.path)).path == rerun.path


def test_finding_a_run_writes_nothing_without_need(run, monkeypatch):
    runs_dir = finished(run, 1).path.parent
    with rerun_directory(runs_dir, RUN_ID, CONFIG).claim():
        pass
    runs_dir.joinpath(REPLACED).mkdir(parents=True)

    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, refuse)
    recover(runs_dir, RUN_ID)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 1}}


def test_a_reader_finds_the_run_after_a_killed_replacement(run):
    runs_dir, replaced = finished(run, 1).path.parent, run.path.parent / REPLACED
    finished(rerun_directory(runs_dir, RUN_ID, CONFIG), 2)
    before = everything(runs_dir)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 1}}
    assert everything(runs_dir) == before
    replaced.mkdir(parents=True)
    run.path.rename(replaced / RUN_ID)
    before = everything(runs_dir)
    for name in (RUN_ID, RUN_ID[:-1], str(run.path)):
        assert find(runs_dir, name).results() == {"test": {"value": 2}}
    assert everything(runs_dir) == before
    shutil.rmtree(runs_dir / RERUNS / RUN_ID)
    assert find(runs_dir, RUN_ID).results() == {"test": {"value": 1}}
    assert find(runs_dir, RUN_ID, to_write=True).path == run.path


def test_a_reader_sees_the_old_run_until_a_writer_replaces_it(run, monkeypatch):
    runs_dir = finished(run, 1).path.parent
    finished(rerun_directory(runs_dir, RUN_ID, CONFIG), 2)

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


def test_recovery_by_two_processes_deletes_no_new_run(run, monkeypatch):
    """Two recover at once: the second takes the new run, put in its place a moment ago, for the old one."""
    runs_dir = finished(run, 1).path.parent
    replaced = runs_dir / REPLACED / RUN_ID
    finished(RunDirectory.create(runs_dir / REPLACED, RUN_ID, CONFIG), 0)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source) == replaced and run.path.exists():  # deleting begins
            real(replaced, runs_dir / REPLACED / ".oldest")
            real(run.path, replaced)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    recover(runs_dir, RUN_ID)
    assert run.results() == {"test": {"value": 1}}

"""Launches by a launcher that only records its calls: the runs started, the files left, the messages."""

import contextlib
import copy
import dataclasses
import re
import sys
import threading

import pytest
import yaml

from simulation.scripted import ScriptedSlurm
from vlae.config.compose import compose
from vlae.config.overrides import CONF
from vlae.config.problems import ConfigError
from vlae.experiment import frozen_run
from vlae.experiment.frozen_run import DONE, FAILED, HELD, work
from vlae.launching import cleanup, queues
from vlae.launching.composed_runs import ComposedRuns
from vlae.launching.launch import launch_runs
from vlae.launching.launch_lock import hold_launch_lock
from vlae.launching.launcher import Launcher, launcher_of
from vlae.launching.local_launcher import LocalQueue
from vlae.launching.queues import QUEUES, Waiting
from vlae.launching.slurm_launcher import SlurmArrays
from vlae.launching.slurm_state import SlurmError
from vlae.launching.sweep_index import name_of, read_sweep
from vlae.runs import snapshot
from vlae.runs.directory import RunDirectory
from vlae.system.interruption import Interrupted

TINY = ("model=vae", "dataset.sizes.latent_dim=2", "dataset.sizes.hidden_dims=[3]", "device=cpu")


@pytest.fixture(scope="module")
def composed():
    return compose(TINY)


@pytest.fixture
def jobs(composed, tmp_path, monkeypatch):
    """``jobs("retry=true", seeds=2)``: runs in ``tmp_path/runs`` that differ in their seed."""
    source = tmp_path / "source"
    (source / "vlae").mkdir(parents=True)
    (source / "vlae" / "job.py").write_text("as it was\n")
    monkeypatch.setattr(snapshot, "SOURCE", source)
    monkeypatch.setattr(sys, "argv", ["launch.py", "-m", "seed=0,1"])
    monkeypatch.setenv("COLUMNS", "200")

    def compose(overrides):
        container = copy.deepcopy(composed) | {"runs_dir": str(tmp_path / "runs")}
        for text in overrides:
            key, _, value = text.partition("=")
            container[key] = int(value) if value.isdigit() else {"true": True}.get(value, value)
        return container

    return lambda *more, seeds=2: ComposedRuns([[f"seed={i}", *more] for i in range(seeds)], compose)


class FakeLauncher(Launcher):
    """Executes nothing: its queues last until they are ended."""

    here, kind, order = True, "local", "seeds"

    def at_once(self, planned):
        return 1

    def __init__(self, status=0, refusal=None):
        self.status, self.refusal, self.calls, self.queues = status, refusal, [], []

    def check_plan(self, planned):
        super().check_plan(planned)
        self.calls.append("check")
        if self.refusal:
            raise self.refusal

    def prepare(self, schedule, frozen):
        planned = schedule.plan
        self.calls.append("prepare")
        assert frozen.parent == planned.runs_dir / ".code"
        assert (frozen / "vlae" / "job.py").read_text() == "as it was\n"
        for run in planned.starting:
            assert RunDirectory(run.path).config()["seed"] == run.container["seed"]
        assert read_sweep(planned.runs_dir, planned.sweep) is not None
        return self.create_queue(schedule, frozen, {})

    def execute(self, queue):
        self.calls.append("execute")
        with hold_launch_lock(queue.runs_dir, lambda holder: pytest.fail("others can launch meanwhile")):
            self.queues.append(queue)
        return self.status


@pytest.fixture
def launcher():
    return FakeLauncher()


@pytest.fixture
def runs(tmp_path):
    """The run directories, by seed."""

    def find():
        found = [RunDirectory(file.parent) for file in (tmp_path / "runs").glob("vae-*/config.yaml")]
        return sorted(found, key=lambda run: run.config()["seed"])

    return find


def left(tmp_path):
    """The files in the runs directory, and its queues, besides launch locks."""
    place = tmp_path / "runs"
    found = [*place.glob("*"), *place.glob(f"{QUEUES}/[!.]*")]
    return sorted(path.name for path in found if path.name != QUEUES)


# --- launch -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_code_runs_and_sweep_are_recorded_before_execution(jobs, launcher, runs, tmp_path, capsys):
    launcher.status = 7
    assert launch_runs(jobs(), launcher, "s") == 7
    assert launcher.calls == ["check", "prepare", "execute"]
    (queue,) = launcher.queues
    ids = [run.run_id for run in runs()]
    assert [run.run_id for run in queue.runs] == ids
    assert queue.settings == {"labels": dict(zip(ids, ["seed=0", "seed=1"], strict=True)), "skipped": {}}
    remembered = read_sweep(tmp_path / "runs", "s")
    assert remembered["runs"] == queue.settings["labels"]
    assert remembered["command"] == ["launch.py", "-m", "seed=0,1"]
    assert "s: 2 runs, 2 new; starting 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_sweep_starts_nothing_but_is_recorded(jobs, launcher, runs, tmp_path, capsys):
    launch_runs(jobs(), launcher, "s")
    for run in runs():
        run.write_results({"test": {"elbo": -1.0}})
    launcher.queues[0].end("ended")
    launcher.calls.clear()
    assert launch_runs(jobs(), launcher, "t") == 0
    assert launcher.calls == []
    assert read_sweep(tmp_path / "runs", "t")["runs"] == read_sweep(tmp_path / "runs", "s")["runs"]
    err = capsys.readouterr().err
    assert "t: 2 runs, 2 done\n" in err
    assert err.endswith("nothing to do\n")


@pytest.mark.slow
def test_failed_runs_set_the_exit_status_and_restart_on_request(jobs, launcher, runs, capsys):
    launch_runs(jobs(), launcher, "s")
    launcher.queues[0].end("ended")
    done, failed = runs()
    done.write_results({"test": {"elbo": -1.0}})
    failed.write_status(state="failed", attempt=1, reason="exception", message="ValueError: [red] [/]")
    launcher.calls.clear()
    capsys.readouterr()
    assert launch_runs(jobs(), launcher, "s") == 1
    assert launcher.calls == []
    err = capsys.readouterr().err
    assert "  failed: seed=1: ValueError: [red] [/]\n" in err
    assert "retry=true starts the failed runs again" in err
    assert launch_runs(jobs("retry=true"), launcher, "s") == 0
    assert [run.run_id for run in launcher.queues[-1].runs] == [failed.path.name]
    assert launcher.queues[-1].settings["skipped"] == {"done": 1}


@pytest.mark.parametrize("name", ["starting", "[red]s", None])
def test_a_dry_run_shows_the_plan_and_writes_nothing(jobs, launcher, tmp_path, capsys, name):
    assert launch_runs(jobs("dry_run=true"), launcher, name) == 0
    assert launcher.calls == ["check"]
    assert not (tmp_path / "runs").exists()
    out = capsys.readouterr().out
    assert f"{name or 'sweep-'}" in out
    assert "2 runs, 2 new; would start 2" in out
    for seed in (0, 1):
        assert re.search(rf"vae-\S+ +seed={seed} +new +starts", out)


def test_a_dry_run_reports_refusals(jobs, tmp_path):
    refusal = ConfigError(["hydra.launcher.workers: too many"])
    with pytest.raises(ConfigError, match="too many"):
        launch_runs(jobs("dry_run=true"), FakeLauncher(refusal=refusal))


@pytest.mark.slow
def test_a_second_launch_beside_a_living_queue_starts_nothing(jobs, launcher, runs, capsys):
    launch_runs(jobs(), launcher, "s")
    launcher.calls.clear()
    assert launch_runs(jobs(), launcher, "s") == 0
    assert launcher.calls == []
    assert "s: 2 runs, 2 queued\nnothing to do\n" in capsys.readouterr().err
    assert launch_runs(jobs(seeds=3), launcher, "s") == 0  # of a larger sweep, what is new
    assert [run.run_id for run in launcher.queues[-1].runs] == [runs()[2].path.name]
    launcher.queues[0].end("interrupted")
    launch_runs(jobs(seeds=3), launcher, "s")
    assert [run.run_id for run in launcher.queues[-1].runs] == [run.path.name for run in runs()[:2]]


@pytest.mark.slow
def test_the_same_launch_twice_at_once_starts_each_run_once(jobs, launcher):
    launcher.execute = lambda queue: launcher.queues.append(queue) or 0
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(launch_runs(jobs(), launcher, "s"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (statuses, launcher.calls, len(launcher.queues)) == ([0] * 3, ["check", "prepare"], 1)


@pytest.mark.slow
@pytest.mark.parametrize("refusal", [ConfigError(["x: no"]), SlurmError("cannot reach Slurm")])
def test_a_refusal_leaves_nothing_on_disk(jobs, runs, tmp_path, refusal):
    with pytest.raises(type(refusal)):
        launch_runs(jobs(), FakeLauncher(refusal=refusal), "s")
    assert left(tmp_path) == []
    assert launch_runs(jobs(), FakeLauncher(), "s") == 0  # its turn is over


@pytest.mark.slow
def test_only_local_runs_must_fit_this_machine(jobs, launcher, tmp_path):
    with pytest.raises(ConfigError, match="cuda:99"):
        launch_runs(jobs("device=cuda:99"), launcher, "s")
    assert (launcher.calls, left(tmp_path)) == ([], [])
    launcher.here = False
    assert launch_runs(jobs("device=cuda:99"), launcher, "s") == 0


@pytest.mark.slow
def test_a_submission_that_is_refused_leaves_runs_that_may_start(jobs, launcher, tmp_path):
    def refuse(planned, frozen):
        raise SlurmError("Slurm refused the submission")

    broken = FakeLauncher()
    broken.prepare = refuse
    with pytest.raises(SlurmError):
        launch_runs(jobs(), broken, "s")
    assert launch_runs(jobs(), launcher, "s") == 0
    assert len(launcher.queues[0].runs) == 2


@pytest.mark.slow
def test_a_submission_killed_before_it_began_is_repeated(jobs, launcher, runs, tmp_path, monkeypatch, capsys):
    slurm = ScriptedSlurm().install(monkeypatch)
    launch_runs(jobs(), launcher, "s")
    launcher.queues[0].end("ended")
    waiting = [Waiting(run.path.name, 0, task=i) for i, run in enumerate(runs())]
    settings = {"largest_array": 1000, "cluster": slurm.identity}
    orphan = queues.create(
        tmp_path / "runs", kind="slurm", sweep="s", code=tmp_path, runs=waiting, settings=settings
    )
    slurm.unreachable()  # then it may have submitted
    launcher.calls.clear()
    assert launch_runs(jobs(), launcher, "s") == 0
    assert launcher.calls == []
    slurm.unreachable(False)
    assert launch_runs(jobs(), launcher, "s") == 0
    assert launcher.calls == ["check", "prepare", "execute"]
    assert orphan.ended["state"] == "never submitted"


@pytest.mark.slow
def test_a_launch_removes_queues_that_ended_long_ago(jobs, launcher, tmp_path, monkeypatch):
    launch_runs(jobs(), launcher, "s")
    launcher.queues[0].end("ended")
    monkeypatch.setattr(cleanup, "KEPT", -1.0)
    launch_runs(jobs(), launcher, "s")
    assert [queue.token for queue in queues.all_queues(tmp_path / "runs")] == [launcher.queues[1].token]


@pytest.mark.slow
def test_runs_cancelled_while_a_launch_waits_do_not_start(jobs, launcher, runs, capsys, monkeypatch):
    module = sys.modules["vlae.launching.launch"]
    waited = []

    @contextlib.contextmanager
    def lock_after_a_cancelled_launch(runs_dir):
        if not waited:
            waited.append(1)
            launch_runs(jobs(), launcher, "s")
            (queue,) = launcher.queues
            queue.cancel([queue.runs[0].run_id])
            queue.end("ended")
        with hold_launch_lock(runs_dir) as ours:
            yield ours

    monkeypatch.setattr(module, "hold_launch_lock", lock_after_a_cancelled_launch)
    assert launch_runs(jobs(), launcher, "s") == 0
    cancelled, other = runs()
    assert [run.run_id for run in launcher.queues[1].runs] == [other.path.name]
    launcher.queues[1].end("ended")
    assert "1 run cancelled while this command waited: rerun it to start them" in capsys.readouterr().err
    assert launch_runs(jobs(), launcher, "s") == 0
    assert [run.run_id for run in launcher.queues[2].runs] == [cancelled.path.name, other.path.name]


# --- the command --------------------------------------------------------------------------------------------------


def test_a_sweep_is_named_after_its_file_and_runs():
    assert name_of(None, ["seed=1"]) is None
    assert name_of("sweeps/smoke.yaml", []) == "smoke"
    assert name_of("smoke.yaml", ["device=cpu", "+retry=true", "runs_dir=/x", "dry_run=true"]) == "smoke"
    other = name_of("smoke.yaml", ["seed=1", "trainer.epochs=2", "force=true"])
    assert re.fullmatch(r"smoke-[0-9a-f]{6}", other)
    assert name_of("smoke.yaml", ["trainer.epochs=2", "device=cuda", "seed=1"]) == other
    assert name_of("smoke.yaml", ["seed=2", "trainer.epochs=2"]) != other


@pytest.mark.parametrize(("name", "chosen"), [("local", LocalQueue), ("slurm", SlurmArrays)])
def test_the_keys_and_defaults_of_a_launcher_are_those_of_its_file(name, chosen):
    settings = yaml.safe_load((CONF / "hydra" / "launcher" / f"{name}.yaml").read_text())
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    assert dataclasses.asdict(launcher_of(chosen, settings)) == settings
    defaults = {field.name: field.default for field in dataclasses.fields(chosen)}
    assert defaults.keys() == settings.keys()
    own = {key: value for key, value in defaults.items() if value is not dataclasses.MISSING}
    assert own == {key: settings[key] for key in own}


def test_all_launcher_problems_are_reported_together():
    right = {"workers": None, "runs_per_gpu": 2, "run_timeout_min": None, "order": "cheap"}
    assert launcher_of(LocalQueue, right).order == "cheap"
    with pytest.raises(ConfigError) as caught:
        launcher_of(LocalQueue, {**right, "worker": 2, "runs_per_gpu": 0})
    per_gpu, worker = sorted(caught.value.problems)
    assert worker.startswith("hydra.launcher.worker: ")
    assert "did you mean hydra.launcher.workers?" in worker
    assert per_gpu.startswith("hydra.launcher.runs_per_gpu: expected 1 or more")


# --- a worker -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "a", {})


@pytest.fixture
def executions(monkeypatch):
    """Runs that were executed; ``executions.end``: what it raises."""

    class Executions(list):
        end = None

    found = Executions()

    def execute(directory, prepare, **how):
        found.append(directory.path.name)
        if found.end is not None:
            raise found.end

    monkeypatch.setattr(frozen_run, "execute", execute)
    return found


def attempt(run, state):
    made = run.claim()
    run.write_status(state=state, attempt=made.number)
    made.directory.joinpath("ended.json").write_text("{}")
    if state == "done":
        run.write_results({"test": {"elbo": -1.0}})


@pytest.mark.parametrize(("state", "status"), [("failed", FAILED), ("done", HELD)])
def test_a_worker_skips_a_run_that_had_its_turn(run, executions, state, status):
    """It reports a failure: a job that is requeued for its other runs has not ended well."""
    attempt(run, state)
    assert work(run.path, 0) == status
    assert executions == []
    assert work(run.path, 1) == DONE
    assert executions == ["a"]


def test_a_worker_does_not_recreate_a_deleted_run(run, executions, tmp_path, capsys):
    run.write_results({})
    assert work(tmp_path / ".reruns" / "a", 0) == HELD  # it has taken the place of the old one
    assert work(tmp_path / "b", 0) == FAILED
    assert "is not a run directory (moved or deleted?)" in capsys.readouterr().err
    assert executions == []
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == ["a"]


def test_an_unrecorded_error_prints_a_traceback(run, executions, capsys):
    executions.end = OSError("the claim could not be made")
    assert work(run.path, 0) == FAILED
    assert "OSError: the claim could not be made" in capsys.readouterr().err
    run.write_status(state="failed", attempt=1)
    assert work(run.path, 1) == FAILED
    assert capsys.readouterr().err == ""


def test_a_worker_resumes_a_run_interrupted_since(run, executions):
    attempt(run, "interrupted")
    assert work(run.path, 0) == DONE
    assert executions == ["a"]


def test_a_worker_skips_a_run_that_is_being_executed(run):
    run.claim()
    assert work(run.path, 0) == HELD
    assert len(list((run.path / "attempts").glob("[!.]*"))) == 1


@pytest.mark.parametrize(("end", "status"), [(ValueError("x"), FAILED), (Interrupted(15), 128 + 15)])
def test_the_exit_status_of_a_worker_is_the_end_of_its_run(run, executions, end, status):
    executions.end = end
    assert work(run.path, 0) == status


def test_a_run_that_cannot_be_prepared_fails_with_a_traceback(run, capfd):
    with capfd.disabled():
        assert work(run.path, 0) == FAILED
    assert run.state() == "failed"
    assert "edited by hand" in (run.path / "attempts" / "1" / "log.txt").read_text()

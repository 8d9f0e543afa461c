"""The plan of a sweep: each run once, with its true state, and only what is missing starts."""

import json
import shutil
import time
from pathlib import Path

import pytest
from test_files import in_python

from simulation.scripted import ScriptedSlurm
from vlae.config.compose import compose
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id
from vlae.launching import queues
from vlae.launching.composed_runs import ComposedRuns, labels_of
from vlae.launching.launch_lock import LOCKS, hold_launch_lock, refuse_if_lost
from vlae.launching.plan import create_run_directories, make_plan, should_start
from vlae.launching.plan_checks import check_runs
from vlae.launching.queues import Waiting
from vlae.launching.run_state import UNREADABLE, RunState
from vlae.launching.schedule import make_schedule
from vlae.launching.sweep_index import read_sweep, record_sweep
from vlae.runs import lease
from vlae.runs.directory import RunDirectory
from vlae.runs.lease import new_claim, put_claim
from vlae.system.disk import RecordError

TINY = (
    "model=vae",
    "dataset.sizes.latent_dim=2",
    "dataset.sizes.hidden_dims=[3]",
    "trainer.epochs=1",
    "device=cpu",
)


@pytest.fixture
def planned(tmp_path):
    """``planned(*overrides, seeds=3)``: the plan of runs that differ in their seed."""

    def make(*overrides, seeds=3):
        jobs = [[*TINY, f"runs_dir={tmp_path}", f"seed={seed}", *overrides] for seed in range(seeds)]
        return make_plan(ComposedRuns(jobs, compose))

    return make


def directory_of(run):
    return RunDirectory.create(run.path.parent, run.run_id, run.container)


def finish(run, **cost):
    directory_of(run).write_results({"run_id": run.run_id, "epochs": 1, "test": {"elbo": -1.0}, "cost": cost})


@pytest.mark.slow
def test_only_missing_and_interrupted_runs_start(planned):
    new = planned(seeds=5).runs
    finish(new[0])
    directory_of(new[1]).write_status(state="failed", attempt=1, reason="exception", message="a bug")
    directory_of(new[2]).write_status(state="interrupted", attempt=1)
    with directory_of(new[3]).claim():
        runs = planned(seeds=5).runs
        assert [run.state.state for run in runs] == ["done", "failed", "interrupted", "running", "new"]
        assert [run.starts for run in runs] == [False, False, True, False, True]
        assert [run.starts for run in planned("retry=true", seeds=5).runs] == [False, True, True, False, True]
        reruns = planned("force=true", seeds=5).runs
        assert [run.starts for run in reruns] == [True, True, True, False, True]
        # what is new, too: it takes over nothing
        assert [run.state.is_rerun for run in reruns] == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("state", "reason", "plain", "retry", "force"),
    [
        ("new", "", True, True, True),
        ("interrupted", "killed", True, True, True),
        ("failed", "exception", False, True, True),
        ("failed", UNREADABLE, False, False, False),
        ("queued", "", False, False, False),
        ("running", "", False, False, False),
        ("done", "", False, False, False),
    ],
)
def test_which_states_start(state, reason, plain, retry, force):
    found = RunState("a", Path("runs/a"), state, reason=reason)
    assert [should_start(found), should_start(found, retry=True), should_start(found, force=True)] == [
        plain,
        retry,
        force,
    ]


@pytest.mark.slow
def test_planning_writes_nothing(planned, tmp_path):
    assert len(planned().starting) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_given_twice_is_planned_once(tmp_path):
    jobs = [
        [*TINY, f"runs_dir={tmp_path}", *extra] for extra in ([], ["seed=0"], ["seed=1"], ["device=auto"])
    ]
    found = make_plan(ComposedRuns(jobs, compose))
    assert (len(found.runs), found.merged) == (2, 2)


@pytest.mark.slow
def test_runs_wait_in_a_living_queue_for_their_turn(planned, tmp_path):
    runs = planned().runs
    create_run_directories(planned())
    queue = queues.create(
        tmp_path,
        kind="local",
        sweep="s",
        code=tmp_path,
        runs=[Waiting(run.run_id, run.state.attempts) for run in runs],
        settings={},
    )
    assert [run.state.state for run in planned().runs] == ["queued"] * 3
    assert planned("retry=true", "force=true").starting == []
    directory_of(runs[0]).write_status(state="failed", attempt=1, reason="exception")
    finish(runs[1])
    assert [run.state.state for run in planned().runs] == ["failed", "done", "queued"]
    queue.end("ended")
    assert [run.starts for run in planned().runs] == [False, False, True]


@pytest.mark.slow
def test_a_dead_queue_holds_nothing(planned, tmp_path):
    create_run_directories(planned())
    runs = [Waiting(run.run_id, 0) for run in planned().runs]
    queue = queues.create(tmp_path, kind="local", sweep="s", code=tmp_path, runs=runs, settings={})
    dead = {**new_claim(), "process_start": 1.0}
    queue.path.joinpath("claim.json").write_text(json.dumps(dead))
    assert [run.state.state for run in planned().runs] == ["new"] * 3


@pytest.mark.slow
def test_all_problems_of_all_runs_are_reported_together(planned, tmp_path):
    with pytest.raises(ConfigError) as caught:
        planned("seed=x", "trainer.epoch=3")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["trainer.epoch", "seed"]
    with pytest.raises(ConfigError) as caught:  # what shows only with the targets
        check_runs(planned("model.num_steps=3", "model.activation=7"), here=True)
    assert [p.split(":")[0] for p in caught.value.problems] == ["model.num_steps", "model.activation"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_problem_names_its_file_and_first_run(tmp_path):
    common = [*TINY[1:], f"runs_dir={tmp_path}", "evaluate.num_samples=0"]
    jobs = [
        [f"model={m}", *extra, *common] for m, extra in (("vae", ["seed=x"]), ("hf", ["seed=y"]), ("iaf", []))
    ]
    with pytest.raises(ConfigError) as caught:
        ComposedRuns(jobs, compose, "mine.yaml")
    assert caught.value.problems == [
        "evaluate.num_samples: expected 1 or more, got 0 [mine.yaml: all of its 3 runs]",
        "seed: expected a whole number, got 'x' [mine.yaml: model=vae seed=x]",
        "seed: expected a whole number, got 'y' [mine.yaml: model=hf seed=y]",
    ]
    jobs = [[f"model={model}", "model.num_steps=2", *common[:-1]] for model in ("hf", "savae", "vae")]
    with pytest.raises(ConfigError) as caught:  # which shows only with the targets
        check_runs(make_plan(ComposedRuns(jobs, compose, "mine.yaml")), here=True)
    assert [problem.partition(" [")[2] for problem in caught.value.problems] == [
        "mine.yaml: model=hf]",
        "mine.yaml: model=vae]",
    ]


@pytest.mark.slow
def test_a_launch_has_one_runs_dir(tmp_path):
    jobs = [[*TINY, f"runs_dir={tmp_path / name}"] for name in "ab"]
    with pytest.raises(ConfigError, match="runs_dir: expected one value"):
        ComposedRuns(
            [*jobs, [*jobs[0], "seed=1"]],
            lambda job: {**compose(job), "seed": jobs.index(job[:6])},
        )


@pytest.mark.slow
def test_frozen_paths_are_absolute_and_runs_keep_their_id(planned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [run] = planned("dataset=mnist", "dataset.root=data", seeds=1).runs
    create_run_directories(planned("dataset=mnist", "dataset.root=data", seeds=1))
    frozen = RunDirectory(run.path).config()  # which checks the id
    assert frozen["dataset"]["root"] == str(tmp_path / "data")
    assert frozen["runs_dir"] == str(tmp_path)


@pytest.mark.slow
def test_the_last_launch_decides_how_a_run_is_executed(planned):
    create_run_directories(planned("num_threads=1", "evaluate.memory_budget=64", seeds=1))
    [run] = planned("num_threads=2", "evaluate.memory_budget=128", "dry_run=true", seeds=1).runs
    create_run_directories(planned("num_threads=2", "evaluate.memory_budget=128", seeds=1))
    frozen = RunDirectory(run.path).config()
    assert (frozen["num_threads"], frozen["evaluate"]["memory_budget"], frozen["dry_run"]) == (2, 128, False)
    assert run_id(frozen) == run.run_id


@pytest.mark.slow
def test_an_ended_slurm_job_holds_no_run(planned, tmp_path, monkeypatch):
    """Its process was killed on another host, where this one cannot look."""
    slurm = ScriptedSlurm().install(monkeypatch)
    create_run_directories(planned(seeds=1))
    [run] = planned(seeds=1).runs
    queue = queues.create(
        tmp_path,
        kind="slurm",
        sweep="s",
        code=tmp_path,
        runs=[Waiting(run.run_id, run.state.attempts)],
        settings={"cluster": slurm.identity},
    )
    queue.record_jobs({0: "12"})
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    directory = directory_of(run)
    claim = directory.claim().directory / "claim.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "host": "n1", "place": "n1"}))
    monkeypatch.delenv("SLURM_JOB_ID")
    slurm.runs("12")
    assert planned(seeds=1).starting == []
    assert directory.holder() is not None
    slurm.clear()
    slurm.known("12", "OUT_OF_MEMORY")
    again = planned(seeds=1)
    assert [r.state.reason for r in again.starting] == ["out of memory"]
    create_run_directories(again)
    assert directory.holder() is None
    status = directory.status()
    assert (status["state"], status["reason"]) == ("interrupted", "out of memory")
    assert directory.claim().number == 2


@pytest.mark.slow
def test_an_edited_run_is_reported_and_stops_no_other(planned):
    run, _, _ = planned().runs
    directory_of(run).write_status(state="interrupted", attempt=1)
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace("epochs: 1", "epochs: 2"))
    edited, *others = planned("retry=true").runs
    assert (edited.state.state, edited.state.reason, edited.starts) == ("failed", "unreadable record", False)
    assert "edited by hand" in edited.state.message
    assert [other.starts for other in others] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("retry=true",)])
def test_an_invalid_result_is_a_reported_failure(planned, words):
    new = planned().runs
    finish(new[1])
    for run, content in ((new[0], "{}"), (new[1], '{"test": {"elbo": -1.0}, "cost": []}')):
        directory_of(run).path.joinpath("results.json").write_text(content)
    found = planned(*words)
    damaged, done, _ = found.runs
    assert (damaged.state.state, damaged.state.reason, damaged.starts) == (
        "failed",
        "unreadable record",
        False,
    )
    assert "results.json holds no metrics" in damaged.state.message
    assert (done.state.state, make_schedule(found).seconds) == ("done", {})
    assert damaged.path.joinpath("results.json").read_text() == "{}"


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("retry=true",)])
def test_a_run_without_its_config_stops_no_other(planned, words):
    lost = planned().runs[0]
    directory_of(lost).path.joinpath("config.yaml").unlink()
    found, *others = planned(*words).runs
    assert (found.state.state, found.state.reason, found.starts) == ("failed", "unreadable record", False)
    assert [other.starts for other in others] == [True, True]


def test_labels_distinguish_runs():
    said = {
        "a": ["model=vae", "seed=0", "++trainer.epochs=3"],
        "b": ["model=vae", "seed=1", "trainer.epochs=3"],
    }
    assert labels_of(said) == {"a": "seed=0", "b": "seed=1"}
    assert labels_of({"a": ["model=vae", "runs_dir=x", "force=true"]}) == {"a": "model=vae"}
    assert labels_of({"a": ["seed=1", "seed=2"]}) == {"a": "seed=2"}


@pytest.mark.slow
def test_the_time_is_estimated_from_similar_runs(planned):
    assert make_schedule(planned()).seconds == {}
    finish(planned().runs[0], train_seconds=10.0, evaluate_seconds=2.0)
    assert sum(make_schedule(planned()).seconds.values()) == 24.0


@pytest.mark.slow
def test_a_sweep_is_named_by_its_runs(planned):
    assert planned().sweep == planned("device=auto").sweep
    assert planned().sweep != planned(seeds=4).sweep


def test_a_sweep_is_recorded_by_name(tmp_path):
    assert read_sweep(tmp_path, "s") is None
    record_sweep(tmp_path, "s", {"a": "seed=0"}, ["launch.py"])
    record_sweep(tmp_path, "s", {"b": "seed=1"}, ["launch.py"])
    assert read_sweep(tmp_path, "s")["runs"] == {"b": "seed=1"}
    assert read_sweep(tmp_path, "../s") is None


# --- one launch at a time -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_launch_locks_never_overlap(tmp_path):
    """Processes count together: a count is lost where one reads it before another has written it."""
    script = """
        import sys, time
        from multiprocessing import get_context
        from pathlib import Path
        from vlae.launching.launch_lock import LOCKS, hold_launch_lock, refuse_if_lost

        folder, count = Path(sys.argv[1]), Path(sys.argv[1], "count")

        def launch(barrier):
            barrier.wait()
            for _ in range(3):
                with hold_launch_lock(folder):
                    before = int(count.read_text())
                    time.sleep(0.02)
                    count.write_text(str(before + 1))

        count.write_text("0")
        context = get_context("fork")
        barrier = context.Barrier(6, timeout=60)
        processes = [context.Process(target=launch, args=(barrier,)) for _ in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        print([process.exitcode for process in processes], count.read_text())
    """
    assert in_python(script, tmp_path) == f"{[0] * 6} 18\n"


def test_a_lost_launch_lock_is_noticed(tmp_path, monkeypatch):
    """The other host heard nothing of this process for minutes."""
    with hold_launch_lock(tmp_path) as ours:
        refuse_if_lost(ours)
        lease.show_life(ours)
        put_claim(ours.with_name("2"), new_claim())
        with pytest.raises(RecordError, match="another launch took the lock"):
            refuse_if_lost(ours)
        shutil.rmtree(ours)  # it can no longer be written to


def test_a_launch_lock_writes_heartbeats(tmp_path, monkeypatch):
    """A long launch of another host is thus known to live."""
    monkeypatch.setattr(lease, "PULSE_EVERY", 0.01)
    with hold_launch_lock(tmp_path) as ours:
        until = time.monotonic() + 10
        while not (ours / "status.json").exists():
            assert time.monotonic() < until


def test_the_launch_lock_of_a_dead_process_is_free(tmp_path):
    with hold_launch_lock(tmp_path):
        pass
    [last] = (tmp_path / LOCKS).glob("[!.]*")
    last.joinpath("ended.json").unlink()
    last.joinpath("claim.json").write_text(json.dumps({**new_claim(), "process_start": 1.0}))
    with hold_launch_lock(tmp_path, waiting=lambda holder: pytest.fail("it is dead")):
        pass
    assert len(list((tmp_path / LOCKS).glob("[!.]*"))) == 1

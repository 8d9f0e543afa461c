"""The launcher ``slurm`` on a real Slurm: what was submitted runs once, to its end, whatever happens to its jobs."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from launching import Shell, run_command

from slurm.cluster import Cluster, wait_until
from vlae.launching.queues import all_queues
from vlae.launching.run_state import Observer, RunState
from vlae.runs.directory import all_runs

ROOT = Path(__file__).parents[2]
TINY = (
    "-m", "model=vae", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6]", "trainer.epochs=4",
    "num_threads=1", "trainer.checkpoint_every=0.2", "evaluate.num_samples=20", "evaluate.num_images=20",
    "device=cpu", "evaluate.num_gap_images=0",
)  # fmt: skip
SLURM = (
    "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=10",
    "hydra.launcher.signal_delay_s=5",
)  # fmt: skip
LONG = "trainer.epochs=150"
SIGNALLED = 1 << signal.SIGUSR2 - 1 | 1 << signal.SIGTERM - 1
"""Pending signals, as in /proc."""
URGENT = ("-p", "urgent", "-N4", "--exclusive", "-t", "1", "-o", "/dev/null", "--wrap", "sleep 3")
"""A job that all others have to make room for."""


@pytest.fixture
def place(alone):
    """A directory that is not below /tmp, which no cluster shares."""
    path = Path.home() / f".vlae-test-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def launch(place: Path, *arguments: str, status: int = 0, root: Path = ROOT) -> str:
    done = run_command(root / "launch.py", *TINY, *SLURM, *arguments, cwd=place, together=True)
    assert done.returncode == status, done.stdout
    return done.stdout


def states(place: Path) -> list[RunState]:
    observer = Observer(place / "runs")
    return [observer.state(run.path) for run in all_runs(place / "runs")]


def names(place: Path) -> list[str]:
    return [state.state for state in states(place)]


def wait_for(place: Path, *expected: str, seconds: float = 240) -> None:
    wait_until(lambda: sorted(names(place)) == sorted(expected), seconds, lambda: str(states(place)))


def training(place: Path, number: int = 1) -> bool:
    found = [state for state in states(place) if state.state == "running" and "step" in state.progress]
    return len(found) >= number


def claims(place: Path) -> list[list[dict[str, object]]]:
    """The claims of each run, one for each attempt."""
    return [
        [json.loads(file.read_text()) for file in sorted(run.path.glob("attempts/*/claim.json"))]
        for run in all_runs(place / "runs")
    ]


def outcomes(place: Path) -> dict[str, str]:
    """The part of each run's results that must not depend on how often it was stopped."""
    found = {}
    for run in all_runs(place / "runs"):
        results = run.results()
        assert results is not None
        del results["cost"], results["environment"]
        found[run.path.name] = re.sub(r'"seconds[a-z_]*": [^,}]*', "", json.dumps(results))
    return found


def straight(place: Path, *arguments: str) -> dict[str, str]:
    """The outcomes of the same sweep, on this machine and without a stop."""
    done = run_command(ROOT / "launch.py", *TINY, *arguments, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return outcomes(place)


@pytest.fixture(scope="session")
def reference(can_start, tmp_path_factory):
    """The results of two long runs without a stop."""
    return straight(tmp_path_factory.mktemp("straight"), "seed=0,1", LONG)


@contextlib.contextmanager
def standing_still(place):
    """Stop the only run until Slurm has signalled it: on a fast machine it would be done before."""
    run = psutil.Process(all_runs(place / "runs")[0].holder()["pid"])
    run.suspend()
    try:
        wait_until(lambda: run.status() == psutil.STATUS_STOPPED, 10, "it does not stand still")
        yield
        wait_until(lambda: was_signalled(run), 120, "no signal")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            run.resume()


def was_signalled(stopped: psutil.Process) -> bool:
    """A signal is pending, or the process runs again: Slurm wakes some of those that it signals."""
    try:
        (pending,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{stopped.pid}/status").read_text())
        return bool(int(pending, 16) & SIGNALLED) or stopped.status() != psutil.STATUS_STOPPED
    except (psutil.NoSuchProcess, OSError):
        return True  # it has ended by now


def slurm(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def job_of(place: Path) -> str:
    (queue,) = all_queues(place / "runs")
    return queue.jobs()[0]


def test_runs_share_the_gpus_and_each_sees_its_own(place, cluster):
    text = launch(place, "seed=range(0,5)")
    assert "submitted as Slurm job" in text
    wait_for(place, *["done"] * 5)
    every = [claim for (claim,) in claims(place)]
    assert {claim["visible_gpus"] for claim in every} <= {"0", "1"}
    assert all(claim["gpus"] == 1.0 for claim in every)
    assert len({claim["slurm_job"] for claim in every}) == 5
    assert "nothing to do" in launch(place, "seed=range(0,5)")


def test_runs_of_one_job_share_its_gpu_but_no_failure(place, cluster):
    failing = ("optimizer=sgd", "optimizer.lr=1e-4,1e30")
    launch(place, "seed=0,1", *failing, "hydra.launcher.runs_per_job=4")
    wait_for(place, "done", "done", "failed", "failed")
    assert {claim["gpus"] for (claim,) in claims(place)} == {0.25}
    assert len({claim["slurm_job"] for (claim,) in claims(place)}) == 1
    job = job_of(place)
    wait_until(
        lambda: "JobState=FAILED" in slurm("scontrol", "show", "job", job), 30, "the job has not failed"
    )
    failed = [state for state in states(place) if state.state == "failed"]
    assert all("NonFiniteError" in state.message and state.reason == "exception" for state in failed)
    assert "retry=true" in launch(place, "seed=0,1", *failing, status=1)


def epochs_trained(place: Path) -> int:
    """Epochs that the runs have trained themselves, by their results."""
    found = [run.results() for run in all_runs(place / "runs")]
    taken = [results["taken_over"]["training"] for results in found]
    return sum(results["epochs"] - (t["epochs"] if t else 0) for results, t in zip(found, taken, strict=True))


def test_runs_of_one_training_are_one_job_and_are_scored_again_without_training(place, cluster):
    launch(place, "seed=0,1", "trainer.epochs=2,4", "evaluate.num_samples=10,20", "hydra.sweeper.name=s")
    wait_for(place, *["done"] * 8)
    jobs = {run.path.name.split("-")[3]: set() for run in all_runs(place / "runs")}
    for run, [claim] in zip(all_runs(place / "runs"), claims(place), strict=True):
        jobs[run.path.name.split("-")[3]].add(claim["slurm_job"])
    assert {seed: len(found) for seed, found in jobs.items()} == {"s0": 1, "s1": 1}
    assert epochs_trained(place) == 2 * 4
    words = ["evaluate", "s", "evaluate.proposals=[own,laplace,student_t]", *SLURM]
    done = run_command("vlae.cli", *words, cwd=place, together=True)
    assert done.returncode == 0, done.stdout
    assert "starting 8, which train 0 of 24 epochs" in done.stdout
    wait_for(place, *["done"] * 16)
    assert epochs_trained(place) == 2 * 4
    metric = [
        "--metric",
        "test.log_likelihood.student_t.mean",
        "--rows",
        "model,trainer.epochs,evaluate.num_samples",
    ]
    table = run_command("vlae.cli", "table", "s", *metric, "--format", "csv", cwd=place)
    assert len(table.stdout.splitlines()) == 1 + 4, table.stderr


def test_a_killed_run_is_reported_and_resumes(place, reference, cluster):
    launch(place, "seed=0,1", LONG)
    wait_until(lambda: training(place, 2), 120, "no training")
    victim = all_runs(place / "runs")[0]
    os.kill(victim.holder()["pid"], signal.SIGKILL)
    wait_for(place, "interrupted", "done")
    assert [s.reason for s in states(place) if s.state == "interrupted"] == ["killed"]
    launch(place, "seed=0,1", LONG)
    wait_for(place, "done", "done")
    assert outcomes(place) == reference


def test_a_job_resumes_after_its_time_limit_to_the_same_result(place, cluster, reference):
    launch(place, "seed=0", LONG, "hydra.launcher.signal_delay_s=45")
    wait_until(lambda: training(place), 120, "no training")
    with standing_still(place):
        shown = slurm("scontrol", "show", "job", job_of(place))
        ((hours, minutes, seconds),) = re.findall(r"RunTime=(\d+):(\d+):(\d+)", shown)
        limit = 60 * int(hours) + int(minutes) + 1 + (int(seconds) >= 10)  # at least 50 seconds are left
        slurm("scontrol", "update", f"JobId={job_of(place)}", f"TimeLimit={limit}")
    wait_until(
        lambda: "JobState=PENDING" in slurm("scontrol", "show", "job", job_of(place)), 120, "not requeued"
    )
    slurm("scontrol", "update", f"JobId={job_of(place)}", "TimeLimit=10")  # one stop is enough
    wait_for(place, "done")
    (attempts,) = claims(place)
    assert len(attempts) > 1
    assert len({claim["slurm_job"] for claim in attempts}) == 1
    ended = [
        json.loads(f.read_text()) for f in all_runs(place / "runs")[0].path.glob("attempts/1/ended.json")
    ]
    assert [(end["state"], end["reason"]) for end in ended] == [("interrupted", "SIGUSR2")]
    assert outcomes(place).items() <= reference.items()


def test_a_preempted_run_resumes_to_the_same_result(place, cluster, reference):
    launch(place, "seed=0", LONG)
    wait_until(lambda: training(place), 120, "no training")
    with standing_still(place):
        slurm("sbatch", *URGENT)
    wait_for(place, "queued", seconds=60)
    wait_for(place, "done")
    (attempts,) = claims(place)
    assert len(attempts) == 2
    assert outcomes(place).items() <= reference.items()


def test_a_run_preempted_without_a_signal_resumes(place, alone, reference, tmp_path_factory, monkeypatch):
    """Most clusters are set up so: SIGTERM, as for a cancelled job. It has a minute, for a busy machine."""
    with Cluster(tmp_path_factory.mktemp("term"), user_signal=False, grace_time=60, kill_wait=30) as plain:
        for name, value in plain.environment().items():
            monkeypatch.setenv(name, value)
        launch(place, "seed=0", LONG)
        wait_until(lambda: training(place), 120, "no training")
        with standing_still(place):
            plain.submit(*URGENT)
        wait_for(place, "done")
        (attempts,) = claims(place)
        assert len(attempts) == 2
        end = json.loads((all_runs(place / "runs")[0].path / "attempts" / "1" / "ended.json").read_text())
        assert (end["state"], end["reason"]) == ("interrupted", "SIGTERM")
        assert outcomes(place).items() <= reference.items()


def test_a_run_of_a_lost_node_resumes_to_the_same_result(place, cluster, reference):
    launch(place, "seed=0", LONG)
    wait_until(lambda: training(place), 120, "no training")
    (node,) = re.findall(r"NodeList=(n\d)", slurm("scontrol", "show", "job", job_of(place)))
    pid = all_runs(place / "runs")[0].holder()["pid"]
    cluster.kill_daemon(node)
    for process in [psutil.Process(pid), *psutil.Process(pid).parents()]:  # a node takes its jobs with it
        if "slurmstepd" in process.name():
            children = process.children(recursive=True)
            for each in [process, *children]:  # first the one that would still report the end of the job
                each.kill()
    wait_for(place, "done")
    assert len(claims(place)[0]) == 2
    assert outcomes(place).items() <= reference.items()


def test_a_later_edit_does_not_change_submitted_runs(place, cluster):
    root = place / "project"
    for name in ("vlae", "conf", "hydra_plugins", "launch.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (root / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, root / name)
    launch(place, "seed=0,1,2", "trainer.epochs=10", "hydra.launcher.array_parallelism=1", root=root)
    for file in (root / "vlae").rglob("*.py"):
        file.write_text("raise RuntimeError('edited')\n")
    for file in (root / "conf").rglob("*.yaml"):
        file.write_text("epochs: 1\n")
    assert names(place) != ["done"] * 3
    wait_for(place, *["done"] * 3)
    assert {run.results()["epochs"] for run in all_runs(place / "runs")} == {10}


def test_an_array_above_the_limit_is_split(place, tmp_path_factory, monkeypatch):
    with Cluster(tmp_path_factory.mktemp("small"), max_array_size=2) as small:
        for name, value in small.environment().items():
            monkeypatch.setenv(name, value)
        launch(place, "seed=range(0,5)", "trainer.epochs=1")
        (queue,) = all_queues(place / "runs")
        arrays = {}
        for job in queue.jobs().values():
            arrays.setdefault(job.partition("_")[0], []).append(job)
        assert sorted(len(jobs) for jobs in arrays.values()) == [1, 2, 2]
        wait_for(place, *["done"] * 5)
        assert [len(attempts) for attempts in claims(place)] == [1] * 5


def test_a_command_killed_after_submission_submits_nothing_twice(place, monkeypatch, cluster):
    """sbatch stands still after it has submitted; then the command is killed."""
    real, fake = shutil.which("sbatch"), place / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n{real} "$@" > {place}/submitted && touch {place}/waiting && sleep 600\n')
    fake.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
        process = Shell(place, [*TINY, *SLURM, "seed=0,1"])
    wait_until((place / "waiting").exists, 60, "nothing was submitted")
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.send(signal.SIGKILL)
    process.wait()
    text = launch(place, "seed=0,1")
    assert "starting" not in text
    wait_for(place, "done", "done")
    assert [len(attempts) for attempts in claims(place)] == [1, 1]


def test_two_shells_submit_one_sweep_once(place, cluster):
    processes = [Shell(place, [*TINY, *SLURM, "seed=0,1"]) for _ in range(2)]
    texts = [process.wait() for process in processes]
    assert sum("submitted as Slurm job" in text for text in texts) == 1, texts
    assert sum("nothing to do" in text for text in texts) == 1, texts
    wait_for(place, *["done"] * 2)
    assert [len(attempts) for attempts in claims(place)] == [1] * 2


def test_a_cancelled_run_stops_and_resumes_when_launched_again(place, cluster):
    launch(place, "seed=0,1", "trainer.epochs=20000", "hydra.launcher.array_parallelism=1")
    wait_until(lambda: training(place), 120, "no training")
    done = slurm("vlae", "cancel", "vae", "--runs-dir", str(place / "runs"))
    assert "2 of 2 runs" in done
    wait_until(lambda: not slurm("squeue", "-h"), 60, "jobs are left")
    wait_for(place, "interrupted", "interrupted")
    assert {state.reason for state in states(place)} == {"cancelled"}
    text = launch(place, "seed=0,1", "trainer.epochs=20000", "dry_run=true")
    assert "would start 2" in text


def test_a_refused_launch_leaves_nothing(place, cluster, tmp_path):
    text = launch(place, "seed=0", f"runs_dir={tmp_path / 'runs'}", status=2)
    assert "runs_dir: " in text
    assert "expected a directory that all nodes share" in text
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("[!.]*"))
    text = launch(place, "seed=0", "hydra.launcher.partition=nowhere", status=2)
    assert "Slurm refused the submission" in text
    assert "invalid partition specified: nowhere" in text
    assert names(place) == ["new"]

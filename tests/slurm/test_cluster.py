"""Behaviour of Slurm that the launcher relies on: how it signals a job, starts it again, and reports its end.

Measured with Slurm 22.05. No code of vlae runs here.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from slurm import recorder
from slurm.cluster import CONTROLLER, GPUS_PER_NODE, NODES, Cluster, wait_until


def python(record: Path, *arguments: object, seconds: float = 300) -> str:
    """The command of a job that writes ``record``."""
    return " ".join(map(str, [sys.executable, recorder.__file__, record, seconds, *arguments]))


def lines(record: Path) -> list[list[str]]:
    return [line.split() for line in record.read_text().splitlines()] if record.is_file() else []


def starts(record: Path) -> list[list[str]]:
    """Node, number of restarts, process, GPUs: of every start."""
    return [line[1:] for line in lines(record) if line[0] == "start"]


def signals(record: Path) -> list[str]:
    """Each signal once, in order."""
    return list(dict.fromkeys(line[0] for line in lines(record) if line[0].startswith("SIG")))


def wait_for(reached: Callable[[], object], what: str, seconds: float = 60) -> None:
    wait_until(lambda: bool(reached()), seconds, what)


def how_it_ended(cluster: Cluster, job: str) -> tuple[str, str, str]:
    shown = cluster.show(job)
    return shown["JobState"], shown["Reason"], shown["ExitCode"]


def test_eight_tasks_run_at_once_each_on_its_own_gpu(cluster, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\nexec {python(tmp_path / '$SLURM_ARRAY_TASK_ID')}\n")
    cluster.submit("--array=0-7", "--gpus-per-node=1", "--output=/dev/null", script)
    wait_for(lambda: all(starts(tmp_path / str(task)) for task in range(8)), "eight tasks at once")
    gpus = [(node, gpu) for task in range(8) for node, _, _, gpu in starts(tmp_path / str(task))]
    assert sorted(gpus) == [(node, str(gpu)) for node in NODES for gpu in range(GPUS_PER_NODE)]


def test_the_submission_decides_who_gets_the_time_limit_signal(cluster, tmp_path):
    """--signal=USR2 goes to the steps, which srun makes, and --signal=B:USR2 to the batch shell alone.

    So the process must be started by srun, or take the shell's place with exec. Slurm looks every 30 seconds, and so
    signals up to a minute before the time that is asked for; at the limit there is SIGTERM, then SIGKILL.
    """
    limit, usr2 = "TIMEOUT", ["SIGUSR2", "SIGTERM"]
    ways = {
        "srun": ("USR2", "srun {}", usr2, limit),
        "exec": ("B:USR2", "exec {}", usr2, limit),
        "child": ("USR2", "{}", ["SIGTERM"], limit),
        "exec-unsignalled": ("USR2", "exec {}", ["SIGTERM"], limit),
        # the shell dies of the signal, the process is killed without one, and nothing says that a limit was near
        "child-of-signalled": ("B:USR2", "{}\ntrue", [], "FAILED"),
    }
    jobs = {
        name: cluster.submit(
            f"--signal={signal}@30",
            "--time=1",
            "--output=/dev/null",
            "--wrap",
            command.format(python(tmp_path / name)),
        )
        for name, (signal, command, _, _) in ways.items()
    }
    wait_for(lambda: signals(tmp_path / "srun") and signals(tmp_path / "exec"), "USR2")
    assert cluster.state(jobs["srun"]) == "RUNNING"
    for job in jobs.values():
        if cluster.state(job) == "RUNNING":
            cluster.command("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    for name, (_, _, expected, state) in ways.items():
        assert cluster.wait_for(jobs[name], "TIMEOUT", "FAILED", "COMPLETED") == state, name
        assert signals(tmp_path / name) == expected, name
        assert cluster.show(jobs[name])["Restarts"] == "0", "a time limit queues no job again"


def test_a_preempted_job_is_signalled_and_requeued(cluster, tmp_path):
    """USR2 comes at once, SIGTERM after GraceTime. A job that leaves before that is over for Slurm, with its status."""
    both_signals = ["SIGUSR2", "SIGTERM"]
    ways = {
        "srun": (["--signal=USR2@60"], "srun", "stay", both_signals, "COMPLETED"),
        "exec": (["--signal=B:USR2@60"], "exec", "stay", both_signals, "COMPLETED"),
        "without": ([], "exec", "stay", ["SIGTERM"], "COMPLETED"),
        "never": (["--signal=B:USR2@60", "--no-requeue"], "exec", "stay", both_signals, "PREEMPTED"),
        "requeues": (["--signal=B:USR2@60"], "exec", "requeue", both_signals, "COMPLETED"),
        "leaves": (["--signal=B:USR2@60"], "exec", "fail", ["SIGUSR2"], "FAILED"),
    }
    jobs = {
        name: cluster.submit(
            *options, "--time=60", "--gpus-per-node=1", "--output=/dev/null",
            "--wrap", f"{command} {python(tmp_path / name, at_usr2)}",
        )
        for name, (options, command, at_usr2, _, _) in ways.items()
    }  # fmt: skip
    wait_for(lambda: all(starts(tmp_path / name) for name in ways), "running jobs")
    urgent = cluster.submit(
        "--partition=urgent", "--nodes=4", "--gpus-per-node=2", "--output=/dev/null", "--wrap=true"
    )
    wait_for(lambda: signals(tmp_path / "srun"), "USR2")
    shown = cluster.show(jobs["srun"])
    assert shown["JobState"] == "RUNNING"
    assert shown["PreemptTime"] != "None"  # this distinguishes a preemption from a time limit
    assert cluster.wait_for(urgent, "COMPLETED") == "COMPLETED"
    for name, (_, _, _, expected, state) in ways.items():
        assert cluster.wait_for(jobs[name], "COMPLETED", "FAILED", "PREEMPTED") == state, name
        assert signals(tmp_path / name) == expected, name
        restarts = ["0", "1"] if state == "COMPLETED" else ["0"]
        assert [start[1] for start in starts(tmp_path / name)] == restarts, name
        assert cluster.show(jobs[name])["Restarts"] == restarts[-1], name


def test_jobs_of_a_lost_node_restart_on_another_one(cluster, tmp_path):
    """They get no signal. If only the daemon is gone, the first process continues beside the second."""
    jobs = {
        name: cluster.submit(
            "--nodes=1",
            "--exclusive",
            "--output=/dev/null",
            *options,
            "--wrap",
            f"exec {python(tmp_path / name)}",
        )
        for name, options in {"lost": [], "unseen": [], "never": ["--no-requeue"]}.items()
    }
    wait_for(lambda: all(starts(tmp_path / name) for name in jobs), "three running jobs")
    nodes = {name: starts(tmp_path / name)[0][0] for name in jobs}
    assert len(set(nodes.values())) == 3
    cluster.lose_node(nodes["lost"])
    cluster.kill_daemon(nodes["unseen"])
    cluster.lose_node(nodes["never"])
    assert not psutil.pid_exists(int(starts(tmp_path / "lost")[0][2]))
    for name in ("lost", "unseen"):
        assert cluster.wait_for(jobs[name], "COMPLETED", "NODE_FAIL", "FAILED") == "COMPLETED"
        (node, *first), (other, *second) = starts(tmp_path / name)
        assert (first[0], second[0]) == ("0", "1")
        assert other != node
        assert signals(tmp_path / name) == []
    assert psutil.pid_exists(int(starts(tmp_path / "unseen")[0][2]))
    assert how_it_ended(cluster, jobs["never"])[:2] == ("NODE_FAIL", "NodeDown")


def test_state_reason_and_exit_code_say_how_a_job_ended(cluster, tmp_path):
    """A job has only the exit status of a process under srun: a signal is 128 + its number."""
    kill = "-c 'kill -9 $$'"
    expected = {
        "exit 0": ("COMPLETED", "None", "0:0"),
        "exit 3": ("FAILED", "NonZeroExitCode", "3:0"),
        f"exec sh {kill}": ("FAILED", "JobLaunchFailure", "0:9"),
        f"sh {kill}; exit $?": ("FAILED", "NonZeroExitCode", "137:0"),
        f"srun sh {kill}": ("FAILED", "NonZeroExitCode", "137:0"),
    }
    jobs = {command: cluster.submit("--output=/dev/null", "--wrap", command) for command in expected}
    jobs["log"] = cluster.submit("--output", tmp_path / "no" / "folder", "--wrap=true")
    expected["log"] = ("FAILED", "JobLaunchFailure", "0:53")  # where the log cannot be written, nothing runs
    for command, job in jobs.items():
        cluster.wait_for(job, "COMPLETED", "FAILED")
        assert how_it_ended(cluster, job) == expected[command], command


def test_a_cancelled_job_gets_sigterm(cluster, tmp_path):
    job = cluster.submit(
        "--signal=B:USR2@60", "--output=/dev/null", "--wrap", f"exec {python(tmp_path / 'job')}"
    )
    array = cluster.submit("--array=0-3", "--hold", "--output=/dev/null", "--wrap=true")
    wait_for(lambda: starts(tmp_path / "job"), "a running job")
    cluster.command("scancel", job, f"{array}_2")
    assert cluster.wait_for(job, "CANCELLED") == "CANCELLED"
    assert signals(tmp_path / "job") == ["SIGTERM"]
    assert cluster.show(f"{array}_2") == {}  # it had not been split from the array yet
    assert cluster.state(f"{array}_3") == "PENDING"


def test_array_indices_are_below_maxarraysize(alone, tmp_path):
    with Cluster(tmp_path / "small", max_array_size=5) as small:
        with pytest.raises(AssertionError, match="Invalid job array specification"):
            small.submit("--array=0-5", "--output=/dev/null", "--wrap=true")
        with pytest.raises(AssertionError, match="Invalid job array specification"):
            small.submit("--array=5", "--output=/dev/null", "--wrap=true")
        array = small.submit("--array=0-4", "--output=/dev/null", "--wrap=true")
        assert small.wait_for(f"{array}_4", "COMPLETED") == "COMPLETED"


def test_a_stopped_controller_is_an_error_and_forgets_no_job(cluster, tmp_path):
    job = cluster.submit("--output=/dev/null", "--wrap", f"exec {python(tmp_path / 'job')}")
    wait_for(lambda: starts(tmp_path / "job"), "a running job")
    running, state = time.time(), cluster.directory / "state" / "job_state"
    # something to save: that the job runs may be on disk already, and then nothing would be written again
    cluster.command("scontrol", "update", f"JobId={job}", "Comment=running")
    wait_for(lambda: state.is_file() and state.stat().st_mtime > running, "the state on disk")
    cluster.kill_daemon(CONTROLLER)
    with pytest.raises(AssertionError, match="Unable to contact slurm controller"):
        cluster.submit("--output=/dev/null", "--wrap=true")
    cluster.start_daemon(CONTROLLER)
    assert cluster.wait_for(job, "RUNNING") == "RUNNING"


def test_a_stopped_cluster_leaves_no_process(alone, tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    with cluster:
        for way in ("srun", "exec"):
            cluster.submit("--output=/dev/null", "--wrap", f"{way} {python(tmp_path / way)}")
        wait_for(lambda: starts(tmp_path / "srun") and starts(tmp_path / "exec"), "two running jobs")
        assert processes_of(cluster)
    assert not processes_of(cluster)


def test_a_cluster_that_cannot_start_leaves_no_process(alone, tmp_path):
    cluster = Cluster(tmp_path / "cluster", grace_time="soon")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="has ended"):
        cluster.start()
    assert not processes_of(cluster)


def processes_of(cluster: Cluster) -> list[Path]:
    mark, found = f"SLURM_CONF={cluster.configuration}".encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes().split(b"\0"):
                found.append(environment)
    return found

"""What Slurm says of its jobs: squeue first, then scontrol, then the accounting, where there is one."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from vlae.errors import UserError

WAITS = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "CONFIGURING", "RESV_DEL_HOLD"}
RUNS = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED"}
REASONS = {
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "node lost",
    "BOOT_FAIL": "node lost",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "FAILED": "killed",
    "COMPLETED": "missing",
}
"""Why a run of a job that ended so has no results, where its own record does not say."""


class SlurmError(UserError, RuntimeError):
    """Slurm cannot be reached, or refuses a submission: the message is its own."""


@dataclass(frozen=True)
class JobState:
    """Of a job, or of one task of an array."""

    state: str
    """waiting, running, or ended"""
    reason: str = ""
    """Waiting: why; ended: one of the REASONS."""
    node: str = ""


def slurm(*command: str, seconds: float = 120) -> str:
    """What a command of Slurm prints. SlurmError: it is not there, or fails."""
    if shutil.which(command[0]) is None:
        text = f"cannot reach Slurm: there is no {command[0]} on this machine; launch from a login node"
        raise SlurmError(text)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        text = f"cannot reach Slurm: {' '.join(command[:3])} gave no answer in {seconds:.0f} s"
        raise SlurmError(text) from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise SlurmError(f"cannot reach Slurm: {' '.join(command[:3])}: {said}")
    return done.stdout


def largest_array() -> int:
    """Tasks that an array may have. SlurmError: the cluster cannot be reached."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", slurm("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(found[1])) if found else 1000


def queued_jobs(name: str | None = None) -> dict[str, JobState]:
    """This user's jobs that wait or run, by id: ``123``, and ``123_4`` for a task of an array. name: those alone."""
    found = {}
    named = [] if name is None else ["-n", name]
    for line in slurm("squeue", "--me", "-h", "-r", *named, "-o", "%A|%F|%K|%T|%r|%N").splitlines():
        job, array, task, state, reason, node = line.split("|", 5)
        found[f"{array}_{task}" if task.isdigit() else job] = _job_state(state, reason, node)
    return found


def ended_jobs(array: str) -> dict[str, JobState]:
    """How the tasks of an array, or a single job, have ended, as far as Slurm still knows."""
    found: dict[str, JobState] = {}
    for ask in (_by_accounting, _by_controller):
        with contextlib.suppress(SlurmError):
            found.update(ask(array))
    return found


def _by_controller(array: str) -> dict[str, JobState]:
    found = {}
    for line in slurm("scontrol", "show", "job", "-o", array).splitlines():
        told = dict(re.findall(r"\b(JobId|ArrayJobId|ArrayTaskId|JobState|NodeList)=(\S+)", line))
        task = told.get("ArrayTaskId", "")
        key = f"{told['ArrayJobId']}_{task}" if task.isdigit() else told.get("JobId", array)
        found[key] = _job_state(told.get("JobState", ""), "", told.get("NodeList", ""))
    return found


def _by_accounting(array: str) -> dict[str, JobState]:
    found = {}
    for line in slurm("sacct", "-n", "-P", "-X", "-j", array, "-o", "JobID,State,NodeList").splitlines():
        job, state, node = line.split("|", 2)
        found[job] = _job_state(state, "", node)
    return found


def _job_state(state: str, reason: str, node: str) -> JobState:
    name = state.split()[0].rstrip("+") if state else ""  # "CANCELLED by 1000"
    node = "" if node in ("(null)", "None assigned") else node
    if name in WAITS:
        return JobState("waiting", "" if reason in ("None", "") else reason)
    if name in RUNS:
        return JobState("running", node=node)
    return JobState("ended", REASONS.get(name, name.lower().replace("_", " ")), node)


def cancel(jobs: Iterable[str]) -> None:
    """SlurmError: it cannot be reached. Jobs that have ended are passed over."""
    if jobs := list(jobs):
        slurm("scancel", *jobs)

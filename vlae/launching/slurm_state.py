"""States of Slurm jobs: from squeue first, then scontrol, then the accounting if there is one."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vlae.errors import UserError

WAITS = {
    *("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED", "CONFIGURING"),
    *("RESV_DEL_HOLD",),
}
RUNS = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
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
"""The reason why a run of a job that ended so has no results, if its own record has none."""
NO_SLURM = "cannot reach Slurm"


class SlurmError(UserError, RuntimeError):
    """Slurm cannot be reached, or refuses a submission: the message is its own."""


@dataclass(frozen=True)
class JobState:
    """The state of a job, or of one task of an array."""

    state: str  # waiting, running, or ended
    reason: str = ""  # waiting: why; ended: one of the REASONS
    node: str = ""


MISSING = JobState("ended", "missing")  # the state of a job that Slurm does not know, or no longer


def slurm(*command: str, seconds: float = 120) -> str:
    """The output of a Slurm command. SlurmError: it is not there, or fails."""
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{NO_SLURM}: there is no {command[0]} on this machine; launch from a login node")
    begin = " ".join(command[:3])
    whole = {**os.environ, "SLURM_BITSTR_LEN": "0"}  # shows all tasks of an array
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=whole)
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{NO_SLURM}: {begin} gave no answer in {seconds:.0f} s") from error
    if done.returncode:
        raise SlurmError(f"{NO_SLURM}: {begin}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Cluster:
    """The cluster whose controller answers the commands of this machine."""

    identity: str  # its name, controller and port: the name alone may be that of another cluster too
    largest_array: int  # tasks that an array may have


def this_cluster() -> Cluster:
    """SlurmError: it cannot be reached."""
    config = dict(re.findall(r"^(\S+)\s*= *(.*?)\s*$", slurm("scontrol", "show", "config"), re.MULTILINE))
    if "ClusterName" not in config:
        raise SlurmError(f"{NO_SLURM}: scontrol show config does not say which cluster this is")
    controller = config.get("SlurmctldHost[0]", config.get("SlurmctldHost", ""))
    identity = f"{config['ClusterName']} (controller {controller}, port {config.get('SlurmctldPort', '')})"
    largest = config.get("MaxArraySize", "")
    return Cluster(identity, max(1, int(largest)) if largest.isdigit() else 1000)


def queued_jobs(name: str | None = None) -> dict[str, JobState]:
    """This user's jobs that wait or run, by id: ``123``, and ``123_4`` for a task. name: only jobs of this name."""
    found = {}
    named = [] if name is None else ["-n", name]
    for line in slurm("squeue", "--me", "-h", "-r", *named, "-o", "%A|%F|%K|%T|%r|%N").splitlines():
        job, array, task, state, reason, node = line.split("|", 5)
        found[f"{array}_{task}" if task.isdigit() else job] = _job_state(state, reason, node)
    return found


def known_jobs(jobs: Iterable[str]) -> dict[str, JobState]:
    """The states of jobs, and of tasks of arrays; MISSING where Slurm says that it knows no such job.

    A job is left out where Slurm's answer is empty: nothing follows from that. SlurmError: Slurm cannot be asked.
    """
    arrays = {job: job.partition("_")[0] for job in jobs}
    answers = {array: _by_controller(array) for array in sorted(set(arrays.values()))}
    found = {job: state for answer in answers.values() for job, state in (answer or {}).items()}
    for array in sorted({arrays[job] for job in arrays.keys() - found.keys()}):
        found = _by_accounting(array) | found
    missing = {job: MISSING for job, array in arrays.items() if answers[array] is not None}
    return {job: state for job, state in (missing | found).items() if job in arrays}


def was_preempted(job: str) -> bool:
    """True if this running job must make room for another. SlurmError: Slurm does not answer, or know the job."""
    lines = [fields for fields in _job_fields(job) if fields.get("JobState") == "RUNNING"]
    return any(fields.get("PreemptTime", "")[:1].isdigit() for fields in lines)


def restarts_of(job: str, *, seconds: float) -> int | None:
    """The number of restarts of this job by Slurm; None: it does not say. SlurmError: as in `was_preempted`."""
    numbers = [fields.get("Restarts", "") for fields in _job_fields(job, seconds)]
    return next((int(number) for number in numbers if number.isdigit()), None)


def _job_fields(job: str, seconds: float = 120) -> list[dict[str, str]]:
    """The fields of each line that describes this job, or task of an array."""
    lines = slurm("scontrol", "show", "job", "-o", job, seconds=seconds).splitlines()
    return [fields for fields in map(_fields, lines) if job in _ids(fields)]


def _by_controller(array: str) -> dict[str, JobState] | None:
    """States of the tasks of an array that scontrol knows; None: the answer is empty."""
    found = {}
    lines = _lines_unless("Invalid job id", "scontrol", "show", "job", "-o", array)
    for fields in map(_fields, lines or []):
        state = _job_state(fields.get("JobState", ""), "", fields.get("NodeList", ""))
        found |= dict.fromkeys(_ids(fields), state)
    return None if lines == [] else found


def _fields(line: str) -> dict[str, str]:
    """The fields of one line of ``scontrol show job -o``; of two alike the first, for a comment is free text."""
    return dict(reversed(re.findall(r"(?:^| )(\w+)=(\S+)", line)))


def _ids(fields: dict[str, str]) -> list[str]:
    """The jobs, or tasks of an array, that one line of ``scontrol show job`` describes.

    JobId does not name a task: that of the last task of an array is the array's own.
    """
    if "ArrayTaskId" in fields:
        return [f"{fields['ArrayJobId']}_{task}" for task in tasks_of(fields["ArrayTaskId"])]
    return [fields["JobId"]] if "JobId" in fields else []


def _by_accounting(array: str) -> dict[str, JobState]:
    if shutil.which("sacct") is None:
        return {}
    found, columns = {}, "JobID,State,NodeList"
    for line in _lines_unless("disabled", "sacct", "-n", "-P", "-X", "-j", array, "-o", columns) or []:
        job, state, node = line.split("|", 2)
        number, _, tasks = job.partition("_")
        ids = [f"{number}_{task}" for task in tasks_of(tasks)] if tasks else [job]
        found |= dict.fromkeys(ids, _job_state(state, "", node))
    return found


def tasks_of(text: str) -> Iterator[int]:
    """Task numbers from Slurm's notation for tasks that wait together.

    >>> list(tasks_of("[0-2,7,10-20:5%4]"))
    [0, 1, 2, 7, 10, 15, 20]
    """
    for part in text.strip("[]").partition("%")[0].split(","):
        if found := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = found.groups()
            yield from range(int(first), int(last or first) + 1, int(step or 1))


def _lines_unless(words: str, *command: str) -> list[str] | None:
    """The lines that a command prints; None if it fails with these words."""
    try:
        return slurm(*command).splitlines()
    except SlurmError as error:
        if words in str(error):
            return None
        raise


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

"""Output and failures of the commands of Slurm: squeue, scontrol, sacct, scancel."""

import re
from collections.abc import Sequence
from datetime import datetime, timezone

from simulation.slurm import Job, Refused, Slurm
from simulation.world import EPOCH

UNREACHABLE = "Unable to contact slurm controller (connect failure)"


class NoAnswer(Exception):
    """The command hangs."""


def answer(slurm: Slurm, command: Sequence[str]) -> str:
    """Errors: Refused, whose text the command prints as it fails; NoAnswer."""
    program, *words = command
    now = slurm.world.now
    if slurm.empty_until.get(program, -1.0) > now and words[:2] != ["show", "config"]:
        return ""
    if program == "sacct":
        return _sacct(slurm, words)
    if slurm.silent_until > now:
        raise NoAnswer
    if slurm.away_until > now:
        failed = {"squeue": "slurm_load_jobs error", "scontrol": "slurm_load_jobs error"}
        if "requeue" in words:
            raise Refused(f"Unexpected message received for job {words[-1]}")
        if program == "scancel":
            raise Refused(f"scancel: error: Kill job error on job id {words[0]}: {UNREACHABLE}")
        raise Refused(f"{failed.get(program, f'{program}: error')}: {UNREACHABLE}")
    if program == "squeue":
        return _squeue(slurm, words)
    if program == "scontrol":
        return _scontrol(slurm, words)
    if program == "scancel":
        for name in (word for word in words if not word.startswith("-")):
            slurm.cancel(name)
        return ""
    raise Refused(f"{program}: command not found")


def _option(words: Sequence[str], *names: str) -> str | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in names:
            return following
        for name in names:
            if name.startswith("--") and word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def _squeue(slurm: Slurm, words: Sequence[str]) -> str:
    name, form = _option(words, "-n", "--name"), _option(words, "-o", "--format") or "%A"
    lines = []
    for job in slurm.jobs:
        if job.ended is not None or not job.mine or (name is not None and job.request.name != name):
            continue
        for task in job.tasks():
            values = {
                "%A": str(job.id),
                "%F": str(job.array or job.id),
                "%K": "N/A" if task is None else str(task),
                "%i": str(job.id) if task is None else f"{job.array}_{task}",
                "%j": job.request.name,
                "%T": job.state,
                "%r": job.reason,
                "%N": job.node,
            }
            lines.append(re.sub("%[A-Za-z]", lambda found, values=values: values[found[0]], form))
    return "".join(f"{line}\n" for line in lines)


def _scontrol(slurm: Slurm, words: Sequence[str]) -> str:
    given = [word for word in words if not word.startswith("-")]
    if given[:2] == ["show", "config"]:
        settings = slurm.settings
        return (
            f"AccountingStorageType   = accounting_storage/{'slurmdbd' if settings.accounting else 'none'}\n"
            f"ClusterName             = {settings.title or settings.name}\n"
            f"MaxArraySize            = {settings.max_array_size}\n"
            f"MinJobAge               = {settings.min_job_age:.0f} sec\n"
            f"SlurmctldHost[0]        = {settings.name}-controller\n"
            "SlurmctldPort           = 6817\n"
            "SLURM_CONF              = /etc/slurm/slurm.conf\n"
        )
    if given[0] == "ping":
        return "Slurmctld(primary) at controller is UP\n"
    if given[:2] == ["show", "job"]:
        found = slurm.find(given[2])
        if not found and "_" in given[2]:
            raise Refused(f"Job {given[2]} not found")
        if not found:
            raise Refused("slurm_load_jobs error: Invalid job id specified")
        task = given[2].partition("_")[2]
        return "".join(f"{_describe(job, task)}\n" for job in found)
    if given[0] == "requeue":
        for name in given[1].split(","):
            slurm.requeue(name)
        return ""
    raise Refused(f"invalid keyword: {given[0]}")


def _describe(job: Job, asked: str) -> str:
    """asked: the one task that was asked for, of several that wait together."""
    of_array = ""
    if job.array is not None:
        tasks, throttle = job.task if job.task is not None else _ranges(job.waiting), ""
        if job.request.at_once < 1000:
            throttle = f" ArrayTaskThrottle={job.request.at_once}"
            tasks = f"{tasks}%{job.request.at_once}" if job.waiting else tasks
        tasks = asked or tasks
        of_array = f"ArrayJobId={job.array} ArrayTaskId={tasks}{throttle} "
    preempted = "None"
    if job.preempted is not None:
        preempted = datetime.fromtimestamp(EPOCH + job.preempted, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    status = f"{max(job.status, 0)}:{-min(job.status, 0)}"
    return (
        f"JobId={job.id} {of_array}JobName={job.request.name} UserId=root(0) GroupId=root(0) MCS_label=N/A "
        f"Account=(null) QOS=(null) JobState={job.state} Reason={job.reason} Dependency=(null) "
        f"Requeue={int(job.request.requeue)} Restarts={job.restarts} BatchFlag=1 Reboot=0 ExitCode={status} "
        f"PreemptEligibleTime=Unknown PreemptTime={preempted} Partition=gpu ReqNodeList=(null) ExcNodeList=(null) "
        f"NodeList={job.node or '(null)'} NumNodes=1 WorkDir=/shared"
    )


def _ranges(tasks: Sequence[int]) -> str:
    """``0-3,7``."""
    parts: list[list[int]] = []
    for task in tasks:
        if parts and parts[-1][1] == task - 1:
            parts[-1][1] = task
        else:
            parts.append([task, task])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in parts)


def _sacct(slurm: Slurm, words: Sequence[str]) -> str:
    if not slurm.settings.accounting:
        raise Refused("Slurm accounting storage is disabled")
    asked = _option(words, "-j", "--jobs") or ""
    number, _, wanted = asked.partition("_")
    lines = []
    live = [
        (job.array or job.id, task, job) for job in slurm.jobs for task in job.tasks() if job.ended is None
    ]
    accounts = {(array, task): (job.state, job.node) for array, task, job in live if job.started}
    for key, (readable, state, node) in slurm.accounts.items():
        if key not in accounts and (node or readable <= slurm.world.now):
            accounts[key] = (state if readable <= slurm.world.now else "RUNNING", node)
    for (array, task), (state, node) in accounts.items():
        if str(array) == number and wanted in ("", str(task)):
            name = str(array) if task is None else f"{array}_{task}"
            shown = f"{state} by 0" if state == "CANCELLED" else state
            lines.append(f"{name}|{shown}|{node or 'None assigned'}\n")
    return "".join(lines)

"""The launcher ``slurm``: job arrays through submitit. The only module that imports it.

Each task of an array executes the runs of its share with a pool of processes on its node, one GPU's worth of them:
`vlae.launching.slurm_task`.
"""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vlae.config.problems import ConfigError, Problem
from vlae.config.schema import Count, Minutes
from vlae.launching.plan import Plan, create_queue
from vlae.launching.queues import NEVER, Queue
from vlae.launching.slurm_state import SlurmError, queued_jobs, this_cluster
from vlae.launching.slurm_task import FIRST_LINES, NEVER_SUBMITTED, Task
from vlae.runs import snapshot_check
from vlae.system.console import Console

Seconds = Annotated[int, Field(ge=1)]
OF_ONE_MACHINE = {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run")}
PATIENCE = 0.8
"""Part of the time between signal and end in which the runs of a job have to end by themselves."""
STARTS_WITHIN = 120
"""Seconds between the start of a job and its signal, at least: Slurm sends it up to a minute early."""
OWN_KEYS = {"time": "timeout_min", "signal": "signal_delay_s"}
"""Options of sbatch, and the key of the launcher that stands for each."""


@dataclass
class SlurmArrays:
    """The launcher ``slurm``; conf/hydra/launcher/slurm.yaml explains its keys."""

    here = False
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    timeout_min: Count
    mem_gb: Count | None
    cpus_per_task: Count | None
    gpus_per_node: Annotated[int, Field(ge=0)] | None
    array_parallelism: Count
    runs_per_job: Count
    signal_delay_s: Seconds
    max_requeues: Annotated[int, Field(ge=0)]
    setup: list[str]
    sbatch: dict[str, Any]
    run_timeout_min: Minutes | None = None

    def check_plan(self, planned: Plan) -> None:
        """SlurmError: it cannot be reached.

        ConfigError: the limits leave no time to execute anything, or the nodes could not see the run directories.
        """
        if problems := self._problems():
            raise ConfigError(problems)
        place = planned.runs_dir.resolve()
        if not OF_ONE_MACHINE.isdisjoint([place, *place.parents]):
            text = f"{planned.runs_dir} is on this machine alone; expected a directory that all nodes share"
            raise ConfigError([Problem("runs_dir", text)])
        this_cluster()

    def _problems(self) -> list[Problem]:
        limit, needed = 60 * self.timeout_min, self.signal_delay_s + STARTS_WITHIN
        problems = [
            Problem("hydra.launcher.sbatch", f"expected no key {key}; hydra.launcher.{instead} is for that")
            for key, instead in OWN_KEYS.items()
            if key in self.sbatch
        ]
        if limit < needed:
            text = (
                f"expected at least {-(-needed // 60)} with hydra.launcher.signal_delay_s={self.signal_delay_s}, got "
                f"{self.timeout_min}: {STARTS_WITHIN} s are needed to start and to make a step before the signal, "
                f"which may come a minute early"
            )
            problems.append(Problem("hydra.launcher.timeout_min", text))
        return problems

    def prepare(self, planned: Plan, frozen: Path) -> Queue:
        """Submits, so that nobody else can do so meanwhile; what is submitted is recorded array by array."""
        cluster = this_cluster()
        settings = {
            "max_requeues": self.max_requeues,
            "largest_array": cluster.largest_array,
            "cluster": cluster.identity,
            "use_gpus": self.gpus_per_node != 0,
            "patience": PATIENCE * self.signal_delay_s,
            "run_timeout_min": self.run_timeout_min,
        }
        queue = create_queue(planned, frozen, "slurm", settings, self.runs_per_job)
        jobs: dict[int, str] = {}
        arrays = parts(queue)
        tasks = sum(len(part) for part in arrays)
        try:
            for part in arrays:
                at_once = max(1, self.array_parallelism * len(part) // tasks)
                jobs.update(self._submit(queue, part, at_once))
                queue.record_jobs(jobs)
        except Exception as error:
            with contextlib.suppress(SlurmError):  # then the next launch does it
                adopt(queue)  # what it took all the same
            text = " ".join(str(error).split()) or type(error).__name__
            raise SlurmError(f"Slurm refused the submission: {text}") from error
        return queue

    def execute(self, queue: Queue) -> int:
        """Say how to follow the jobs, which Slurm executes."""
        jobs = ", ".join(dict.fromkeys(job.partition("_")[0] for job in queue.jobs().values()))
        text = f"submitted as Slurm job {jobs}; follow it with `vlae status {queue.sweep} --watch`"
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
        return 0

    def _submit(self, queue: Queue, tasks: Sequence[int], at_once: int) -> dict[int, str]:
        import submitit

        # the batch shell is signalled (B:) and passes it on to Python. With srun in between, cores would have to be
        # asked for twice
        python = f"vlae_run {shlex.quote(sys.executable)}"
        executor = submitit.SlurmExecutor(folder=queue.path / "slurm", python=python)
        setup = [*FIRST_LINES, *self.setup, *code_setup(queue.code)]
        own = ("partition", "account", "qos", "constraint", "cpus_per_task")
        submission = {
            **{key: getattr(self, key) for key in own},
            "time": self.timeout_min,
            "mem": self.mem_gb and f"{self.mem_gb}GB",
            "gpus_per_node": self.gpus_per_node or None,
        }
        more = {"chdir": queue.code, "requeue": True, "signal": f"B:USR2@{self.signal_delay_s}"}
        executor.update_parameters(
            **{key: value for key, value in submission.items() if value is not None},
            job_name=queue.job_name,
            array_parallelism=at_once,
            stderr_to_stdout=True,
            setup=setup,
            use_srun=False,
            additional_parameters={**more, **self.sbatch},
        )
        jobs = executor.map_array(Task(str(queue.path)), tasks)
        return {task: job.job_id for task, job in zip(tasks, jobs, strict=True)}


def code_setup(code: str) -> list[str]:
    """Lines of a batch script, after `FIRST_LINES`, after which Python imports the frozen code. They verify it first.

    The text that verifies it travels in the script: days may lie between the submission and the start, in which files
    of the copy may be deleted or changed.
    """
    text = Path(snapshot_check.__file__).read_text(encoding="utf-8")
    check = shlex.join([sys.executable, "-I", "-c", text, code])
    return [
        f"vlae_run {check} || exit 1",
        "export PYTHONDONTWRITEBYTECODE=1",  # nothing is written into the copy
        f"export PYTHONPATH={shlex.quote(code)}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]


def parts(queue: Queue) -> list[Sequence[int]]:
    """The tasks of a queue, in arrays that the cluster takes."""
    tasks, largest = sorted({run.task for run in queue.runs}), queue.settings["largest_array"]
    return [tasks[i : i + largest] for i in range(0, len(tasks), largest)]


def adopt(queue: Queue) -> None:
    """Finds the jobs of a launch whose command was killed between the submission and its record.

    Hold the launch lock: then nobody is submitting. What was not submitted waits no longer, and may be launched again.
    Nothing happens where the jobs are another cluster's. SlurmError: Slurm cannot be asked.
    """
    if queue.cluster != this_cluster().identity:
        return
    jobs = queue.jobs()
    found = queued_jobs(queue.job_name)
    unknown = sorted(
        {int(job.partition("_")[0]) for job in found} - {int(j.partition("_")[0]) for j in jobs.values()}
    )
    missing = [part for part in parts(queue) if part[0] not in jobs]
    for array, part in zip(unknown, missing, strict=False):
        of_array = len(part) > 1
        jobs.update({task: f"{array}_{i}" if of_array else str(array) for i, task in enumerate(part)})
    if not jobs:
        queue.end(NEVER_SUBMITTED)
        return
    for task, job in jobs.items():
        _put_task(queue, task, job)
    queue.record_jobs({task: NEVER for part in missing for task in part} | jobs)


def _put_task(queue: Queue, task: int, job: str) -> None:
    """Write the file that the job of a task waits for, where submitit has not.

    submitit writes it after the submission, so a command that is killed in between leaves a job without one, and the
    job gives up after a minute. submitit has no public function that writes the file for a job it did not submit.
    """
    from submitit.core.utils import DelayedSubmission

    place = queue.path / "slurm" / f"{job}_submitted.pkl"
    if not place.exists():
        DelayedSubmission(Task(str(queue.path)), task).dump(place)

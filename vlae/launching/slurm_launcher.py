"""The launcher ``slurm``: its keys, and the options of sbatch that they stand for.

A launch is submitted as job arrays (`vlae.launching.slurm_submission`), of which each task executes its share of the
runs on its node (`vlae.launching.slurm_task`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vlae.config.problems import ConfigError, Problem
from vlae.config.schema import Count, Minutes
from vlae.launching.launcher import Launcher, say
from vlae.launching.plan import Plan
from vlae.launching.queues import Queue
from vlae.launching.schedule import Order, Schedule
from vlae.launching.slurm_state import this_cluster
from vlae.launching.slurm_submission import submit

Seconds = Annotated[int, Field(ge=1)]
OF_ONE_MACHINE = {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run")}
PATIENCE = 0.8  # part of the time between signal and end in which the runs of a job have to end by themselves
STARTS_WITHIN = 120
"""Seconds between the start of a job and its signal, at least: Slurm sends it up to a minute early."""
OWN_KEYS = {"time": "timeout_min", "signal": "signal_delay_s"}
"""Options of sbatch, and the key of the launcher that stands for each."""


@dataclass
class SlurmArrays(Launcher):
    """The launcher ``slurm``; conf/hydra/launcher/slurm.yaml explains its keys."""

    here, kind = False, "slurm"
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
    order: Order = "seeds"

    def check_plan(self, plan: Plan) -> None:
        """SlurmError: Slurm cannot be reached.

        ConfigError: besides what is wrong with the runs, the limits leave no time to execute anything, or the nodes
        could not see the run directories.
        """
        super().check_plan(plan)
        if problems := self._problems():
            raise ConfigError(problems)
        place = plan.runs_dir.resolve()
        if not OF_ONE_MACHINE.isdisjoint([place, *place.parents]):
            text = f"{plan.runs_dir} is on this machine alone; expected a directory that all nodes share"
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
                "which may come a minute early"
            )
            problems.append(Problem("hydra.launcher.timeout_min", text))
        return problems

    def at_once(self, plan: Plan) -> int:
        """As many as the array and its jobs take at a time."""
        return self.array_parallelism * self.runs_per_job

    def prepare(self, schedule: Schedule, frozen: Path) -> Queue:
        """Submit the queue, so that no other command can do so meanwhile."""
        cluster = this_cluster()
        settings = {
            "max_requeues": self.max_requeues,
            "largest_array": cluster.largest_array,
            "cluster": cluster.identity,
            "use_gpus": self.gpus_per_node != 0,
            "patience": PATIENCE * self.signal_delay_s,
            "run_timeout_min": self.run_timeout_min,
        }
        queue = self.create_queue(schedule, frozen, settings, self.runs_per_job)
        submit(queue, self._sbatch_options(queue), self.setup, self.array_parallelism)
        return queue

    def _sbatch_options(self, queue: Queue) -> dict[str, Any]:
        own = ("partition", "account", "qos", "constraint", "cpus_per_task")
        options = {
            **{key: getattr(self, key) for key in own},
            "time": self.timeout_min,
            "mem": self.mem_gb and f"{self.mem_gb}GB",
            "gpus_per_node": self.gpus_per_node or None,
        }
        # the batch shell is signalled (B:) and passes it on to Python
        more = {"chdir": queue.code, "requeue": True, "signal": f"B:USR2@{self.signal_delay_s}"}
        chosen = {key: value for key, value in options.items() if value is not None}
        return {**chosen, "additional_parameters": {**more, **self.sbatch}}

    def execute(self, queue: Queue) -> int:
        """Say how to follow the jobs, which Slurm executes."""
        jobs = ", ".join(dict.fromkeys(job.partition("_")[0] for job in queue.jobs().values()))
        text = f"submitted as Slurm job {jobs}; follow it with `vlae status {queue.sweep} --watch`"
        say(text)
        return 0

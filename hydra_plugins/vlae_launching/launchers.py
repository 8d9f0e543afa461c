"""The launchers ``local`` and ``slurm``, which differ in the queue that takes the runs alone."""

from collections.abc import Sequence
from typing import Any, NoReturn, final

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class QueueLauncher(Launcher):
    """What both have in common. Abstract, so Hydra offers only the other two."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def hand_over(self, kind: str, jobs: Sequence[Sequence[str]]) -> NoReturn:
        """All runs to a queue of this kind. Ends the command with its exit status."""
        from vlae.launching.hydra_entry import launch_sweep

        raise SystemExit(launch_sweep(kind, self.settings, jobs, self.hydra_context, self.config))


@final
class LocalLauncher(QueueLauncher):
    """A queue of processes on this machine; `vlae.launching.local_launcher`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.hand_over("local", job_overrides)


@final
class SlurmLauncher(QueueLauncher):
    """Job arrays through submitit; `vlae.launching.slurm_launcher`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.hand_over("slurm", job_overrides)

"""The launchers ``local`` and ``slurm`` as Hydra finds them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, final

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from vlae.launching.launcher import Launcher as VlaeLauncher


class QueueLauncher(Launcher):
    """The part that both share. Abstract, so Hydra offers only the other two."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context, self.config = hydra_context, config

    def launch_with(self, chosen: type["VlaeLauncher"], jobs: Sequence[Sequence[str]]) -> NoReturn:
        """Launch all runs with this launcher. Ends the command with its exit status."""
        from vlae.launching.hydra_entry import launch_sweep

        raise SystemExit(launch_sweep(chosen, self.settings, jobs, self.hydra_context, self.config))


@final
class LocalLauncher(QueueLauncher):
    """A queue of processes on this machine; `vlae.launching.local_launcher`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch the runs; never returns."""
        from vlae.launching.local_launcher import LocalQueue

        self.launch_with(LocalQueue, job_overrides)


@final
class SlurmLauncher(QueueLauncher):
    """Job arrays through submitit; `vlae.launching.slurm_launcher`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch the runs; never returns."""
        from vlae.launching.slurm_launcher import SlurmArrays

        self.launch_with(SlurmArrays, job_overrides)

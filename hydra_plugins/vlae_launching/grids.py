"""The sweeper: every run of a sweep file, times the sweeps on the command line."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """A sweeper that hands all runs of a sweep to the launcher at once, as overrides."""

    def __init__(self, file: str | None = None, name: str | None = None) -> None:
        self.file, self.name = file, name
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over, and make the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all runs. Ends the command with its exit status, where the launcher is one of ours."""
        from vlae.config.overrides import added_directories, expand
        from vlae.config.sweep_file import expand_file, place_of
        from vlae.config.values import refuse_too_many

        assert self.launcher is not None
        of_file = expand_file(place_of(self.file)) if self.file else [[]]
        of_command = expand(arguments, added_directories(self.config))
        refuse_too_many(len(of_file) * len(of_command))
        runs = [[*of_grid, *given] for of_grid in of_file for given in of_command]
        return self.launcher.launch(runs, 0)

"""A launcher: a way to execute the runs of a plan."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from vlae.config.checks import wrong_leaves
from vlae.config.problems import ConfigError, problems_of, section_of, with_suggestions
from vlae.launching.plan import Plan
from vlae.launching.plan_checks import check_runs
from vlae.launching.plan_queue import create_queue
from vlae.launching.queues import Queue
from vlae.launching.schedule import Order, Schedule, make_schedule
from vlae.system.console import standard_error


class Launcher(ABC):
    """A way to execute runs. Its constructor takes the keys of ``hydra.launcher``, each with a type."""

    here: ClassVar[bool]  # True if it executes runs on this machine
    kind: ClassVar[str]  # of its queues
    order: Order

    def check_plan(self, plan: Plan) -> None:
        """Check the runs that start, before anything is on disk. UserError: the reason why they cannot be executed."""
        check_runs(plan, here=self.here)

    @abstractmethod
    def at_once(self, plan: Plan) -> int:
        """How many chains of runs it executes at a time, at most."""

    def schedule(self, plan: Plan) -> Schedule:
        """The runs that start, in the order of this launcher."""
        return make_schedule(plan, self.order)

    @abstractmethod
    def prepare(self, schedule: Schedule, frozen: Path) -> Queue:
        """The queue of the runs that start, while no other command can launch; ``frozen`` is their code."""

    def create_queue(
        self, schedule: Schedule, frozen: Path, settings: dict[str, Any], chains_per_task: int = 1
    ) -> Queue:
        """The queue of the runs that start. settings: of this launcher, which the queue keeps."""
        return create_queue(schedule, frozen, self.kind, settings, chains_per_task)

    @abstractmethod
    def execute(self, queue: Queue) -> int:
        """Execute the queue; the exit status of the command."""


def say(text: str) -> None:
    """Print one line for the user, beside the output of the command."""
    standard_error().print(text, markup=False)


def launcher_of(chosen: type[Launcher], settings: dict[str, Any]) -> Launcher:
    """The launcher with these settings. ConfigError: everything that is wrong with them."""
    hints = {k: h for k, h in get_type_hints(chosen.__init__, include_extras=True).items() if k != "return"}
    problems = problems_of(section_of(hints), settings, "hydra.launcher")
    if problems := problems or wrong_leaves(settings, "hydra.launcher"):
        raise ConfigError(with_suggestions(problems, [f"hydra.launcher.{key}" for key in hints]))
    return chosen(**settings)

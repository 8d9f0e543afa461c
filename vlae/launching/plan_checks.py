"""The runs that start, checked before anything is written: their configuration, this machine, its environment."""

from vlae.config.compose import validate
from vlae.config.limits import beyond_the_machine
from vlae.config.problems import ConfigError
from vlae.errors import check_libraries
from vlae.launching.plan import Plan
from vlae.system.console import loading
from vlae.system.files import check_writable
from vlae.trackers.process import environment_problems


def check_runs(plan: Plan, *, here: bool) -> None:
    """ConfigError: everything that is wrong with the runs that start. RecordError: nowhere to write them.

    here: they are executed on this machine, which must have their device.
    """
    if not plan.starting:
        return
    check_writable(plan.runs_dir)
    if here:
        with loading():
            check_libraries()
    wrong: dict[str, list[str]] = {}
    for run in plan.starting:
        try:
            if problems := environment_problems(run.container["tracker"]):
                raise ConfigError(problems)
            validate(run.container if here else {**run.container, "device": "auto"})
            if problems := beyond_the_machine(run.container, here=here):
                raise ConfigError(problems)
        except ConfigError as error:
            wrong[run.run_id] = error.problems
    if wrong:
        raise ConfigError(plan.problems(wrong))

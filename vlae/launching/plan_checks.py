"""The runs that start, checked before anything is written: their configuration, this machine, its environment."""

from vlae.config.problems import ConfigError
from vlae.experiment.initial_weights import check_source
from vlae.experiment.start import check_settings
from vlae.launching.plan import Plan
from vlae.system.console import loading
from vlae.system.files import check_writable
from vlae.system.libraries import check_libraries


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
            check_settings(run.container, here=here)
            check_source(run.container)
        except ConfigError as error:
            wrong[run.run_id] = error.problems
    if wrong:
        raise ConfigError(plan.problems(wrong))

"""The run of one configuration: begun, continued, or shown."""

from typing import Any

from vlae.config.compose import compose, with_absolute_paths
from vlae.config.options import check_call
from vlae.experiment.run import execute
from vlae.experiment.start import check_and_prepare
from vlae.experiment.summary import run_summary
from vlae.runs.directory import RunDirectory, check_directory, directory_of, rerun_directory
from vlae.system.console import Reporter
from vlae.trackers.process import upload_later


def run_overrides(overrides: object, *, quiet: bool = False) -> dict[str, Any]:
    """`run_configuration` for ``vlae.run``. ConfigError: everything that is wrong with the overrides."""
    return run_configuration(compose(check_call(overrides)), quiet=quiet)


def run_configuration(container: dict[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """Bring the run of this configuration to its results, from its present state, and return them.

    A run that is done shows its results; one that was interrupted or killed continues from the last checkpoint. With
    ``force=true`` it runs again beside the old results, and replaces them when it has its own.
    Errors: ConfigError, DataError before anything is on disk; RunHeld by another process; those of ``execute``.
    """
    directory, reporter = directory_of(container), Reporter(quiet=quiet)
    results = directory.results()
    if results is not None and not container["force"]:
        directory.config()  # RecordError: it was edited
        directory.settle()
        reporter.line(f"done: {directory.path}")
        reporter.result(run_summary(results, directory.path))
        return results
    if note := check_directory(container):
        reporter.line(note)
    prepared = check_and_prepare(container, quiet)
    frozen = with_absolute_paths(container)
    create = rerun_directory if container["force"] else RunDirectory.create
    executed = create(directory.path.parent, directory.path.name, frozen)
    executed.carry_out_as(frozen)
    results = execute(executed, lambda: prepared, quiet=quiet)
    reporter.result(run_summary(results, directory.path))
    if text := upload_later(directory):
        reporter.line(text)
    return results

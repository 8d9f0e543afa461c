"""The run of a composed configuration, for ``python launch.py`` and ``vlae.run``: begun, continued, or shown."""

from typing import Any

from vlae.errors import OutOfMemory, out_of_memory
from vlae.experiment.create import check_directory, create, directory_of, settle
from vlae.experiment.run import execute
from vlae.experiment.start import check_and_prepare
from vlae.experiment.summary import summary
from vlae.system.console import Reporter
from vlae.system.interruption import Interrupted
from vlae.trackers.process import upload_later

LESS_MEMORY = "a smaller trainer.batch_size or evaluate.memory_budget needs less"


def run_command(container: dict[str, Any]) -> int:
    """`run` for ``python launch.py``. Returns the exit status: 0, or 128 + the number of a signal."""
    try:
        run(container)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except Exception as error:
        if text := out_of_memory(error):
            raise OutOfMemory(f"{text}; {LESS_MEMORY}") from error
        raise
    return 0


def run(container: dict[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """Bring the run of this configuration to its results, from its present state, and return them.

    A run that is done shows its results; one that was interrupted or killed continues from the last checkpoint. With
    ``force=true`` it runs again beside the old results, and replaces them when it has its own.
    Errors: ConfigError, DataError before anything is on disk; RunHeld by another process; those of ``execute``.
    """
    directory, reporter = directory_of(container), Reporter(quiet=quiet)
    results = directory.results()
    if results is not None and not container["force"]:
        settle(directory)
        reporter.line(f"done: {directory.path}")
        reporter.result(summary(results, directory.path))
        return results
    if note := check_directory(container):
        reporter.line(note)
    prepared = check_and_prepare(container, quiet)
    results = execute(create(container), lambda: prepared, quiet=quiet)
    reporter.result(summary(results, directory.path))
    if text := upload_later(directory):
        reporter.line(text)
    return results

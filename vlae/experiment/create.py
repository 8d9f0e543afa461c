"""The run directory of a composed configuration: where it is, whether it can be written, and how it is made."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from vlae.config.compose import with_absolute_paths
from vlae.config.run_id import run_id
from vlae.runs.directory import RunDirectory, note_on_earlier, rerun_directory
from vlae.runs.rerun import recover
from vlae.system.disk import DiskError
from vlae.system.files import check_writable


def directory_of(container: dict[str, Any]) -> RunDirectory:
    """The directory of this configuration, there or not. What a killed rerun has left is completed."""
    runs_dir, identity = Path(container["runs_dir"]), run_id(container)
    recover(runs_dir, identity)
    return RunDirectory(runs_dir / identity)


def settle(directory: RunDirectory) -> None:
    """Correct what a killed process left of a run that is done. RecordError: its configuration was edited."""
    directory.config()
    with suppress(DiskError):  # settling can wait
        directory.settle()


def check_directory(container: dict[str, Any]) -> str:
    """A note if the run exists under an earlier scheme of ids, else empty.

    RecordError: ``runs_dir`` cannot be written; RunHeld: another process executes the run. Both come before the
    seconds that importing torch takes, and a download.
    """
    runs_dir, identity = Path(container["runs_dir"]), run_id(container)
    check_writable(runs_dir)
    RunDirectory(runs_dir / identity).refuse_if_held()
    return note_on_earlier(runs_dir, {identity: container})


def create(container: dict[str, Any]) -> RunDirectory:
    """The directory to execute, with the configuration frozen in it; with ``force``, one beside that of the old run."""
    make = rerun_directory if container["force"] else RunDirectory.create
    frozen = with_absolute_paths(container)
    directory = make(Path(container["runs_dir"]), run_id(container), frozen)
    directory.carry_out_as(frozen)
    return directory

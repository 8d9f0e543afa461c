"""Run directories as a source of rows: a sweep, the runs of an id prefix, or all of a runs directory."""

import os
from dataclasses import replace
from pathlib import Path

from vlae.launching.status_table import select_runs
from vlae.launching.sweep_index import read_sweep
from vlae.report.runs import Runs, collect
from vlae.report.sources.run_rows import read_rows
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, expand_path


def collect_runs(name: str | None, runs_dir: StrPath, launch: int | None = None) -> Runs:
    """The runs that a name means in ``runs_dir``, each once: those of a sweep, of an id prefix, or (None) all of them.

    launch: of the sweep, 1 being its first. None: the latest; as long as that is not complete, with the earlier ones.
    RecordError: the name means nothing, or ``runs_dir`` cannot be read.
    """
    title, labels = select_runs(runs_dir, name, launch)
    folder = Path(expand_path(runs_dir)).absolute()
    if name is None:
        labels = dict.fromkeys(_directories(folder), "")
    found = collect(title, read_rows(folder, labels))
    sweep = read_sweep(folder, title) if launch is None and name is not None else None
    if sweep is None or (not found.left_out and all(run.metrics is not None for run in found.runs)):
        return found
    earlier = (collect(title, read_rows(folder, each["runs"])) for each in sweep["earlier"])
    return replace(found, earlier=tuple(earlier))


def _directories(runs_dir: Path) -> list[str]:
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:  # a network file system may refuse what the permissions allow
        raise RecordError(f"cannot read {runs_dir}: {error.strerror or error}") from error

"""Run directories as a source of rows: a sweep, the runs of an id prefix, or all of a runs directory."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlae.launching.status_table import select_runs
from vlae.launching.sweep_index import Launch, read_sweep
from vlae.report.runs import Runs, collect, training_of
from vlae.report.sources.run_rows import read_rows
from vlae.system.console import count_of
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, expand_path


def collect_runs(name: str | None, runs_dir: StrPath, launch: int | None = None) -> Runs:
    """The runs that a name means in ``runs_dir``, each once: those of a sweep, of an id prefix, or (None) all of them.

    launch: of the sweep, 1 being its first. None: the latest, or the one before it that has scored the same models, as
    long as the latest is not complete.
    RecordError: the name means nothing, or ``runs_dir`` cannot be read.
    """
    title, labels = select_runs(runs_dir, name, launch)
    folder = Path(expand_path(runs_dir)).absolute()
    if name is None:
        labels = dict.fromkeys(_directories(folder), "")
    found = collect(title, read_rows(folder, labels))
    sweep = read_sweep(folder, title) if launch is None and name is not None else None
    return _newest_complete(found, folder, sweep["earlier"]) if sweep else found


def _newest_complete(runs: Runs, folder: Path, earlier: Sequence[Launch]) -> Runs:
    """These runs of the latest launch, or those of an earlier one, if only that has scored all of these models."""
    trainings = set(map(training_of, runs.runs))
    if not runs.left_out and all(run.metrics is not None for run in runs.runs):
        return runs
    for number, launch in reversed([*enumerate(earlier, 1)]):
        before = collect(runs.title, read_rows(folder, launch["runs"]))
        done = {training_of(run) for run in before.runs if run.metrics is not None}
        if len(done) == len({*map(training_of, before.runs)}) and not before.left_out and trainings <= done:
            complete = count_of(sum(run.metrics is not None for run in runs.runs), "run")
            latest = (
                f"of launch {len(earlier) + 1} {complete} of {len(runs.runs) + len(runs.left_out)} are done"
            )
            return replace(
                before, note=f"Launch {number}: {latest}, which --evaluation {len(earlier) + 1} shows"
            )
    return runs


def _directories(runs_dir: Path) -> list[str]:
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:  # a network file system may refuse what the permissions allow
        raise RecordError(f"cannot read {runs_dir}: {error.strerror or error}") from error

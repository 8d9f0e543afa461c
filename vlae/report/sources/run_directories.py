"""Run directories as a source of rows: a sweep, the runs of an id prefix, or all of a runs directory."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlae.launching.status_table import select_runs
from vlae.launching.sweep_index import Launch, read_sweep
from vlae.report.runs import Run, Runs, collect, training_of
from vlae.report.sources.run_rows import read_rows
from vlae.system.console import count_of
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, expand_path


def collect_runs(name: str | None, runs_dir: StrPath, launch: int | None = None) -> Runs:
    """The runs that a name means in ``runs_dir``, each once: those of a sweep, of an id prefix, or (None) all of them.

    launch: of the sweep, 1 being its first. None: the latest; where a run of it is not done, that of an earlier launch
    stands for it which has the same training and is done.
    RecordError: the name means nothing, or ``runs_dir`` cannot be read.
    """
    title, labels = select_runs(runs_dir, name, launch)
    folder = Path(expand_path(runs_dir)).absolute()
    if name is None:
        labels = dict.fromkeys(_directories(folder), "")
    found = collect(title, read_rows(folder, labels))
    sweep = read_sweep(folder, title) if launch is None and name is not None else None
    return _with_earlier_scores(found, folder, sweep["earlier"]) if sweep else found


def _with_earlier_scores(runs: Runs, folder: Path, earlier: Sequence[Launch]) -> Runs:
    """The same runs, each that is not done as an earlier launch has scored it, if one has.

    Of a launch that scores one training in several ways a run stands for itself alone.
    """
    trainings = Counter(map(training_of, runs.runs))
    alone = [run for run in runs.runs if run.metrics is None and trainings[training_of(run)] == 1]
    wanted = {training_of(run): run.id for run in alone}
    found: dict[str, Run] = {}
    for launch in reversed(earlier) if wanted else ():
        rows = (row for row in read_rows(folder, launch["runs"]) if isinstance(row, Run))
        for run in rows:
            if run.metrics is not None and (replaced := wanted.get(training_of(run))):
                found.setdefault(replaced, run)
    if not found:
        return runs
    some = f"{len(found)} of {count_of(len(runs.runs), 'run')}"
    text = f"{some} with the scores of an earlier launch, because newer ones are not done"
    return replace(runs, runs=tuple(found.get(run.id, run) for run in runs.runs), note=text)


def _directories(runs_dir: Path) -> list[str]:
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:  # a network file system may refuse what the permissions allow
        raise RecordError(f"cannot read {runs_dir}: {error.strerror or error}") from error

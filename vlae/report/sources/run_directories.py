"""Run directories as a source of rows: a sweep, the runs of an id prefix, or all of a runs directory."""

import os
from collections.abc import Iterator
from pathlib import Path

from vlae.launching.run_state import UNREADABLE, Observer
from vlae.launching.status_table import select_runs
from vlae.report.metric_values import metrics_of_results
from vlae.report.runs import History, LeftOut, Run, Runs, collect
from vlae.report.sources.run_files import Config, Configs, PerImage
from vlae.runs.directory import read_status
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, expand_path, read_json


class RunDirectories:
    """The runs that a name means in ``runs_dir``: a sweep, an id prefix, or (None) all of them."""

    def __init__(self, runs_dir: StrPath, name: str | None = None) -> None:
        """Errors: RecordError where the name means nothing."""
        self.title, self._labels = select_runs(runs_dir, name)
        self.runs_dir = Path(expand_path(runs_dir)).absolute()
        self._all = name is None

    def __iter__(self) -> Iterator[Run | LeftOut]:
        observer, configs = Observer(self.runs_dir), Configs()
        labels = dict.fromkeys(_directories(self.runs_dir), "") if self._all else self._labels
        for name, label in labels.items():
            place = f"{self.runs_dir}/{name}"
            try:
                yield _run(place, label, configs.read(place), observer)
            except RecordError as error:
                yield LeftOut(name, str(error).replace(f"{place}/", ""))


def collect_runs(name: str | None, runs_dir: StrPath) -> Runs:
    """The runs that a name means in ``runs_dir``, each once. RecordError: the name means nothing."""
    return collect(RunDirectories(runs_dir, name))


def _directories(runs_dir: Path) -> list[str]:
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:
        raise RecordError(f"cannot read {runs_dir}: {error.strerror or error}") from error


def _run(place: str, label: str, config: Config, observer: Observer) -> Run:
    """The row of a run. RecordError: a file cannot be read, or the directory is that of another run."""
    name = os.path.basename(place)
    recorded = read_status(place)["run_id"]
    run_id = recorded if config.earlier else config.run_id
    if recorded != run_id:
        raise RecordError(f"config.yaml was edited: it is that of {run_id}, frozen for {recorded}")
    if name != run_id:
        copied = os.path.isdir(os.path.join(os.path.dirname(place), run_id))
        raise RecordError(f"it is a copy of {run_id}" if copied else f"it was {run_id}, and was renamed")
    history = History(f"{place}/metrics.jsonl")
    found = Run(run_id, label, config.settings, "done", "", None, None, history, place, config.earlier)
    results = read_json(f"{place}/results.json")
    if results is None:
        state = observer.state(Path(place))
        if state.reason == UNREADABLE:
            raise RecordError(state.message)
        if state.state == "done":  # since its files were looked at
            raise RecordError("it ended while it was read")
        return found._replace(state=state.state, reason=state.reason)
    if results.get("run_id") != run_id:
        raise RecordError(f"results.json is that of another run, {results.get('run_id')}")
    images = PerImage(f"{place}/test_log_likelihood.npz")
    try:
        return found._replace(metrics=metrics_of_results(results), per_image=images)
    except ValueError as error:
        raise RecordError(f"results.json: {error}") from error

"""Run directories as a source of rows: a sweep, the runs of an id prefix, or all of a runs directory."""

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.lib.npyio import NpzFile

from vlae.config.run_id import exact_text, id_of, newer_schema, scientific, settings
from vlae.launching.run_state import UNREADABLE, Observer
from vlae.launching.status_table import select_runs
from vlae.report.metric_values import metrics_of_results
from vlae.report.runs import LeftOut, Run
from vlae.runs.directory import metrics_of, read_status
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, expanded, read_bytes, read_json

_SEED = re.compile(r"^seed: (0|[1-9][0-9]*)\n", re.MULTILINE)


class RunDirectories:
    """The runs that a name means in ``runs_dir``: a sweep, an id prefix, or (None) all of them."""

    def __init__(self, runs_dir: StrPath, name: str | None = None) -> None:
        """Errors: RecordError where the name means nothing."""
        self.title, self._labels = select_runs(runs_dir, name)
        self.runs_dir = Path(expanded(runs_dir)).absolute()
        self._all = name is None

    def __iter__(self) -> Iterator[Run | LeftOut]:
        observer, configs = Observer(self.runs_dir), Configs()
        earlier: list[Run] = []
        ids: dict[str, str] = {}
        labels = dict.fromkeys(_directories(self.runs_dir), "") if self._all else self._labels
        for name, label in labels.items():
            place = f"{self.runs_dir}/{name}"
            try:
                config = configs.read(place)
                run = _run(place, label, config, observer)
            except RecordError as error:
                yield LeftOut(name, str(error).replace(f"{place}/", ""))
                continue
            if config.earlier:
                earlier.append(run)
            else:
                ids[_exact(run)] = name
                yield run
        for run in earlier:
            twin = ids.get(_exact(run))
            yield LeftOut(run.id, f"it is {twin} under an earlier scheme of ids") if twin else run


def _directories(runs_dir: Path) -> list[str]:
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:
        raise RecordError(f"cannot read {runs_dir}: {error.strerror or error}") from error


def _exact(run: Run) -> str:
    return exact_text(dict(run.settings))


class Config(NamedTuple):
    """What config.yaml says of a run."""

    run_id: str
    settings: Mapping[str, Any]
    earlier: bool
    """The run was made under an earlier scheme of ids, so that its id does not follow from its settings."""


class Configs:
    """Reads frozen configurations; those that differ in their seed alone are parsed once."""

    def __init__(self) -> None:
        self._parsed: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {}

    def read(self, place: str) -> Config:
        """The configuration of the run directory ``place``. RecordError: there is none, or it is not that of a run."""
        content = read_bytes(f"{place}/config.yaml")
        if content is None:
            gone = (
                "its directory is missing"
                if not os.path.isdir(place)
                else "it is no run: it has no config.yaml"
            )
            raise RecordError(gone)
        try:
            return self._config(content.decode())
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"config.yaml is not that of a run ({' '.join(str(error).split())})") from error

    def _config(self, text: str) -> Config:
        seed = _SEED.search(text)
        shared = text[: seed.start()] + text[seed.end() :] if seed else text
        if shared not in self._parsed:
            parsed = yaml.load(shared, yaml.CSafeLoader)
            if reason := newer_schema(parsed):
                raise RecordError(f"config.yaml was {reason}")
            texts = {key: exact_text(value) for key, value in scientific(parsed).items()}
            self._parsed[shared] = parsed, texts, settings(parsed)
        container, texts, found = self._parsed[shared]
        if seed:
            own = {"seed": int(seed[1])}
            container, texts, found = container | own, texts | {"seed": seed[1]}, found | own
        return Config(id_of(container, texts), found, "schema_version" not in container)


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
    results = read_json(f"{place}/results.json")
    if results is None:
        state = observer.state(Path(place))
        if state.reason == UNREADABLE:
            raise RecordError(state.message)
        if state.state == "done":  # since its files were looked at
            raise RecordError("it ended while it was read")
        return Run(
            run_id, label, config.settings, state.state, state.reason, history=history, directory=place
        )
    if results.get("run_id") != run_id:
        raise RecordError(f"results.json is that of another run, {results.get('run_id')}")
    try:
        metrics = metrics_of_results(results)
    except ValueError as error:
        raise RecordError(f"results.json: {error}") from error
    images = PerImage(f"{place}/test_log_likelihood.npz")
    return Run(run_id, label, config.settings, "done", "", metrics, images, history, place)


class History:
    """The lines of metrics.jsonl, read when they are asked for; a line torn by a kill does not count."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, every: int = 1) -> list[dict[str, Any]]:
        """The first line, and then one in ``every``. RecordError: one of them is no JSON object."""
        lines = (read_bytes(self.path) or b"").split(b"\n")[:-1]
        found = metrics_of(self.path, [line for n, line in enumerate(lines, 1) if n == 1 or n % every == 0])
        if not all(isinstance(line, dict) for line in found):
            raise RecordError(f"{self.path} has a line that is no JSON object")
        return found

    def epochs(self) -> int:
        """The number of whole lines."""
        return (read_bytes(self.path) or b"").count(b"\n")


class PerImage:
    """The arrays of test_log_likelihood.npz, with one entry per test image, read when they are asked for."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, name: str) -> np.ndarray | None:
        """The array of this name: [images], NaN where an image has no value. None: there is no such array.

        RecordError: the file is missing, or cannot be read.
        """
        file = os.path.basename(self.path)
        if (content := read_bytes(self.path)) is None:
            raise RecordError(f"{file} is missing")
        try:
            with NpzFile(io.BytesIO(content)) as archive:
                found = archive.get(name)
        except Exception as error:  # what numpy, zip and zlib raise depends on where the damage is
            raise RecordError(f"{file} cannot be read ({error})") from error
        if found is not None and (found.ndim != 1 or found.dtype.kind not in "fiu"):
            got = f"the shape {found.shape} and the type {found.dtype}"
            raise RecordError(f"{file}: expected a number for each image, {name} has {got}")
        return found

"""Run directories as a source of rows: a sweep, the runs of a beginning, or all of a runs directory."""

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vlae.config.problems import Problem
from vlae.config.run_id import RUN_ID, exact_text, id_of, newer_schema, scientific, settings
from vlae.launching.run_state import UNREADABLE, Observer
from vlae.launching.status_table import select_runs
from vlae.report.metric_values import figures
from vlae.report.runs import DAMAGED, NEVER, LeftOut, Run
from vlae.report.sources.cache import Entry, Index, stamp_of
from vlae.report.values import read_value
from vlae.runs.directory import RunDirectory, read_status
from vlae.system.disk import RecordError
from vlae.system.files import LARGEST_CONFIG, StrPath, check_bounded, expanded, read_bytes, read_json
from vlae.system.npz import Archive

_SECTION = re.compile(r"^(?=[^\s#-])", re.MULTILINE)
"""Where a section of a frozen config begins: what belongs to one is indented, or an entry of a list."""
_SEED = re.compile(r"seed: (0|[1-9][0-9]*)\n")


class RunDirectories:
    """The runs that a name means in ``runs_dir``: a sweep, how ids begin, or (None) all of them."""

    def __init__(self, runs_dir: StrPath, name: str | None = None) -> None:
        """Errors: RecordError where it means nothing."""
        self.title, self._labels = select_runs(runs_dir, name)
        self.runs_dir = Path(expanded(runs_dir)).absolute()
        self._all = name is None

    def __iter__(self) -> Iterator[Run | LeftOut]:
        index, observer, reader = Index(self.runs_dir), Observer(self.runs_dir), Reader()
        earlier: list[Run] = []
        ids: dict[str, str] = {}
        labels = dict.fromkeys(_directories(self.runs_dir), "") if self._all else self._labels
        for name, label in labels.items():
            place = f"{self.runs_dir}/{name}"
            stamp, settled = stamp_of(place)
            entry = index.get(name, stamp)
            if entry is None:
                if not os.path.isdir(place):
                    reason = _leads_nowhere(place)
                    never = Run(name, label, settings_told(name, label), NEVER)
                    yield _damaged(name, label, None, reason) if reason else never
                    continue
                try:
                    entry = reader.entry(place)
                except RecordError as error:
                    yield _damaged(
                        name, label, reader.settings_of(place), str(error).replace(f"{place}/", "")
                    )
                    continue
                if settled:
                    index.put(name, stamp, entry)
            row = _row(place, name, label, entry, observer)
            if isinstance(row, Run):
                if entry.earlier:
                    earlier.append(row)
                    continue
                ids[_exact(row)] = name
            yield row
        for row in earlier:
            twin = ids.get(_exact(row))
            yield LeftOut(row.id, f"it is {twin} under an earlier scheme of ids") if twin else row
        if self._all:
            index.keep(set(labels))
        index.save()


def _row(place: str, name: str, label: str, entry: Entry, observer: Observer) -> Run | LeftOut:
    if name != entry.run_id:
        if os.path.isdir(os.path.join(os.path.dirname(place), entry.run_id)):
            return LeftOut(name, f"it is a copy of {entry.run_id}")
        return Run(name, label, entry.settings, DAMAGED, f"it was {entry.run_id}, and was renamed")
    metrics = Metrics(place)
    if entry.figures is not None:
        images = PerImage(f"{place}/test_log_likelihood.npz")
        return Run(entry.run_id, label, entry.settings, "done", "", entry.figures, images, metrics, place)
    state = observer.state(Path(place))
    if state.reason == UNREADABLE:
        return _damaged(name, label, entry.settings, state.message.replace(f"{place}/", ""))
    if state.state == "done":  # since its files were looked at
        return LeftOut(name, "it has ended in this moment")
    return Run(
        entry.run_id,
        label,
        entry.settings,
        state.state,
        state.reason,
        metrics=metrics,
        directory=place,
    )


def _exact(run: Run) -> str:
    return exact_text(dict(run.settings))


def _damaged(name: str, label: str, known: Mapping[str, Any] | None, because: str) -> Run | LeftOut:
    """A run of which its settings are ``known``, or what its name tells; of a directory that is no run, nothing."""
    if known is None and not label and not RUN_ID.fullmatch(name):
        return LeftOut(name, because)
    return Run(name, label, known or settings_told(name, label), DAMAGED, because)


@dataclass
class Metrics:
    """The lines of metrics.jsonl, read when they are asked for."""

    place: str

    def __call__(self) -> list[dict[str, Any]]:
        """RecordError: one of them is no JSON, or no object."""
        lines = RunDirectory(self.place).metrics()
        if not all(isinstance(line, dict) for line in lines):
            raise RecordError(f"{self.place}/metrics.jsonl has a line that is no JSON object")
        return lines


class PerImage:
    """Arrays with an entry a test image, read when they are asked for."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, name: str) -> np.ndarray | None:
        """None: there is no such array. NaN: it is not known of this image. RecordError: the file is damaged."""
        file = os.path.basename(self.path)
        if (content := read_bytes(self.path)) is None:
            raise RecordError(f"{file} is missing")
        try:
            found = Archive(io.BytesIO(content)).read([name]).get(name)
        except Exception as error:  # what numpy, zip and zlib raise depends on where the damage is
            raise RecordError(f"{file} cannot be read ({error})") from error
        if found is not None and (found.ndim != 1 or found.dtype.kind not in "fiu"):
            came = f"the shape {found.shape} and the type {found.dtype}"
            raise RecordError(f"{file}: expected a number for each image, {name} has {came}")
        if found is not None and np.isinf(found).any():
            count = int(np.isinf(found).sum())
            raise RecordError(f"{file}: expected finite numbers, {name} has {count} that are infinite")
        return found


class Reader:
    """Reads run directories; sections of configs that many runs share are parsed once."""

    def __init__(self) -> None:
        self._sections: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {}

    def entry(self, place: str) -> Entry:
        """What the files of a run say. RecordError: which of them cannot be, and why."""
        run_id, found, earlier = self._identity(place)
        recorded = read_status(place)["run_id"]
        if earlier:
            run_id = recorded
        if recorded != run_id:
            raise RecordError(
                f"config.yaml was edited by hand: it is that of {run_id}, frozen for {recorded}"
            )
        results = read_json(f"{place}/results.json")
        if results is None:
            return Entry(run_id, found, None, earlier)
        if results.get("run_id") != run_id:
            raise RecordError(f"results.json is that of another run, {results.get('run_id')}")
        try:
            return Entry(run_id, found, figures(results), earlier)
        except ValueError as error:
            raise RecordError(f"results.json: {error}") from error

    def settings_of(self, place: str) -> dict[str, Any] | None:
        """What is certain of a run whose other files are damaged. None: its config is not the one of its name."""
        try:
            run_id, found, earlier = self._identity(place)
        except RecordError:
            return None
        return found if earlier or run_id == os.path.basename(place) else None

    def _identity(self, place: str) -> tuple[str, dict[str, Any], bool]:
        """As `_config` has it. RecordError: it cannot be read."""
        content = read_bytes(f"{place}/config.yaml", LARGEST_CONFIG)
        if content is None:
            raise RecordError("it is no run: it has no config.yaml")
        try:
            return self._config(content.decode())
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"config.yaml is not that of a run ({' '.join(str(error).split())})") from error

    def _config(self, text: str) -> tuple[str, dict[str, Any], bool]:
        """The id that a frozen config has, its settings, and whether it was made under an earlier scheme of ids."""
        container: dict[str, Any] = {}
        texts: dict[str, str] = {}
        found: dict[str, Any] = {}
        try:
            parts = [self._section(section) for section in _SECTION.split(text)]
        except yaml.YAMLError:  # one refers to another
            parts = [self._section(text)]
        for part, texts_part, settings_part in parts:
            container |= part
            texts |= texts_part
            found |= settings_part
        if reason := newer_schema(container):
            raise RecordError(f"config.yaml was {reason}")
        return id_of(container, texts), found, "schema_version" not in container

    def _section(self, text: str) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
        """As it is, what of it makes the run's id, and its settings."""
        if seed := _SEED.fullmatch(text):  # which each run may have another of
            part = {"seed": int(seed[1])}
            return part, {"seed": seed[1]}, part
        if text not in self._sections:
            part = yaml.load(text, yaml.CSafeLoader) or {}
            check_bounded(part)
            texts = {key: exact_text(value) for key, value in scientific(part).items()}
            self._sections[text] = part, texts, settings(part)
        return self._sections[text]


def settings_told(run_id: str, label: str) -> dict[str, Any]:
    """What the id of a run, and what distinguishes it in its sweep, tell of its settings."""
    found: dict[str, Any] = {}
    if told := RUN_ID.fullmatch(run_id):
        found = {f"{key}.name": told[key] for key in ("model", "dataset", "output_dist")}
        found["seed"] = int(told["seed"])
    for word in label.split():
        key, _, value = word.lstrip("+").partition("=")
        if key in ("model", "dataset", "output_dist", "optimizer"):
            found[f"{key}.name"] = value
        elif value:
            told_of_section = settings(_nested(key, _value_told(value)))
            found |= {k: v for k, v in told_of_section.items() if Problem(k, "").within(key)}
    return found


def _value_told(text: str) -> Any:
    try:
        return read_value(text)
    except ValueError:
        return text


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _directories(runs_dir: Path) -> list[str]:
    """Links that lead nowhere among them, so that they are told of."""
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and _counts(entry))
    except OSError as error:
        raise RecordError(f"cannot read {runs_dir}: {error.strerror or error}") from error


def _counts(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return os.path.isdir(entry.path) or not os.path.exists(entry.path)
    return entry.is_dir()


def _leads_nowhere(place: str) -> str:
    """Why a link does; empty: it is none, or leads somewhere."""
    try:
        os.stat(place)
    except OSError as error:
        return f"it is a link that leads nowhere ({error.strerror})" if os.path.islink(place) else ""
    return ""

"""Run directories as rows: each config.yaml is parsed, and the results are read where there are some."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from vlae.config.run_id import exact_text, id_of, newer_schema, scientific, settings
from vlae.launching.run_state import UNREADABLE, Observer
from vlae.report.metric_values import metrics_of_results
from vlae.report.runs import History, LeftOut, Run, read_array
from vlae.runs.directory import read_status
from vlae.system.disk import RecordError
from vlae.system.files import LARGEST_CONFIG, check_bounded, read_bytes, read_json

_SEED = re.compile(r"^seed: (0|[1-9][0-9]*)\n", re.MULTILINE)
Parsed = dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]]
"""Configurations by their text without the seed: the whole, its scientific values as exact texts, its settings."""


def read_rows(runs_dir: Path, labels: Mapping[str, str]) -> Iterator[Run | LeftOut]:
    """The rows of these directories, whose labels are given."""
    observer, parsed = Observer(runs_dir), Parsed()
    for name, label in labels.items():
        place = f"{runs_dir}/{name}"
        try:
            yield _run(place, label, parsed, observer)
        except RecordError as error:
            yield LeftOut(name, str(error).replace(f"{place}/", ""))


def _read_config(place: str, parsed: Parsed) -> tuple[str, Mapping[str, Any], bool]:
    """The result of `parse_config` for config.yaml. RecordError: there is none, or it is not that of a run."""
    content = read_bytes(f"{place}/config.yaml", LARGEST_CONFIG)
    if content is None:
        there = os.path.isdir(place)
        raise RecordError("it is no run: it has no config.yaml" if there else "its directory is missing")
    try:
        return parse_config(content.decode(), parsed)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"config.yaml is not that of a run ({' '.join(str(error).split())})") from error


def parse_config(text: str, parsed: Parsed) -> tuple[str, Mapping[str, Any], bool]:
    """The run id and the settings of a frozen configuration, and whether it is of an earlier scheme of ids.

    parsed: what earlier calls have parsed, so that configurations that differ in their seed alone are parsed once.
    """
    seed = _SEED.search(text)
    shared = text[: seed.start()] + text[seed.end() :] if seed else text
    if shared not in parsed:
        container = yaml.load(shared, yaml.CSafeLoader)
        check_bounded(container)
        if reason := newer_schema(container):
            raise RecordError(f"config.yaml was {reason}")
        texts = {key: exact_text(value) for key, value in scientific(container).items()}
        parsed[shared] = container, texts, settings(container)
    container, texts, found = parsed[shared]
    if seed:
        own = {"seed": int(seed[1])}
        container, texts, found = container | own, texts | {"seed": seed[1]}, found | own
    return id_of(container, texts), found, "schema_version" not in container


def _run(place: str, label: str, parsed: Parsed, observer: Observer) -> Run:
    """The row of a run. RecordError: a file cannot be read, or the directory is that of another run."""
    run_id, found_settings, earlier = _read_config(place, parsed)
    name, recorded = os.path.basename(place), read_status(place)["run_id"]
    if earlier and run_id == recorded:
        raise RecordError("config.yaml was edited: it lacks the key schema_version")
    run_id = recorded if earlier else run_id
    if recorded != run_id:
        raise RecordError(f"config.yaml was edited: it is that of {run_id}, frozen for {recorded}")
    if name != run_id:
        copied = os.path.isdir(os.path.join(os.path.dirname(place), run_id))
        raise RecordError(f"it is a copy of {run_id}" if copied else f"it was {run_id}, and was renamed")
    history = History(f"{place}/metrics.jsonl")
    found = Run(run_id, label, found_settings, "done", "", None, None, history, place, earlier)
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
    images = partial(read_array, f"{place}/test_log_likelihood.npz") if results.get("test") else None
    try:
        return found._replace(metrics=metrics_of_results(results), per_image=images)
    except ValueError as error:
        raise RecordError(f"results.json: {error}") from error

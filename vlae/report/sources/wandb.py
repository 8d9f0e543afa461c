"""Runs on Weights & Biases as a source of rows: it reads back what `vlae.trackers.wandb_mirror` has mirrored."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import yaml

from vlae.config.run_id import run_id, settings, with_added_fields
from vlae.report.metric_values import metrics_of_results
from vlae.report.runs import LeftOut, Run, Runs, collect
from vlae.system.disk import RecordError
from vlae.system.files import LARGEST_CONFIG, read_bytes
from vlae.trackers.run_history import other_ids
from vlae.trackers.wandb_mirror import WandbError, check_access, client, explain

PAGE = 100  # runs per request, each with its config and its summary
WITHIN = 30  # seconds for one request, with its repetitions
OF_RESULTS = re.compile(r"(test|cost|environment)/.*|validation/elbo|best_epoch|epochs")
"""Keys of a summary that come from results.json (`vlae.trackers.run_history.flat`); others come from epochs."""
PER_IMAGE = "test/per_image"
INTERRUPTED = ("crashed", "killed", "preempted", "preempting")  # states of runs without results or error
REPORTED = ("finished", "failed", "preempted", "preempting")  # states of runs that reported how they ended
_ID = re.compile(r"(?P<run_id>.+?)(?:-g(?P<generation>[0-9]+))?")
UNPAIRED = (
    "Read from Weights & Biases without the results of each test image, so differences are paired over seeds alone; "
    "--per-image reads them"
)


def collect_mirrored_runs(place: str, group: str | None = None, *, per_image: bool = False) -> Runs:
    """The mirrored runs of a project, or of one group in it, each once.

    place: ``ENTITY/PROJECT``, or ``PROJECT`` of the key's own entity.
    per_image: with the results of each test image, which cost two requests per compared run.
    WandbError: there are none, or W&B cannot be reached.
    """
    newest: dict[str, tuple[tuple[bool, int], Run]] = {}
    left_out: list[LeftOut] = []
    api, filters = connect(), {"group": group} if group else {}
    try:
        mirrored = list(api.runs(place, filters, order="+created_at", per_page=PAGE, lazy=False))
    except Exception as error:
        raise wandb_error(error) from error
    for each in mirrored:
        row = _run_of(each, per_image)
        if isinstance(row, LeftOut):
            left_out.append(row)
            continue
        # a run that is executed again counts from the moment that it is done
        rank = row.metrics is not None, _parts(each.id)[1]
        if row.id not in newest or rank > newest[row.id][0]:
            newest[row.id] = rank, row
    if not newest and not left_out:
        among = f" in the group {group!r}" if group else ""
        raise WandbError(f"no runs{among} of {place} on Weights & Biases")
    rows = [*(newest[name][1] for name in sorted(newest)), *left_out]
    return collect(group or place, rows, "" if per_image else UNPAIRED)


class Place(NamedTuple):
    """A project to which runs of a sweep are mirrored."""

    entity: str  # empty: the entity of the API key
    project: str
    groups: tuple[str, ...]
    superseded: tuple[str, ...] = ()  # ids there of earlier executions of runs that were executed again


def places_of(runs_dir: Path, run_ids: Sequence[str]) -> list[Place]:
    """The projects to which runs are mirrored, that of most runs first; the default project if none is."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    superseded: dict[tuple[str, str], list[str]] = {}
    for name in run_ids:
        tracker = _tracker(runs_dir / name)
        place = tracker["entity"] or "", tracker["project"]
        groups.setdefault(place, Counter()).update([tracker["group"] or ""])
        with contextlib.suppress(RecordError):  # in the files of the mirror
            superseded.setdefault(place, []).extend(other_ids(runs_dir / name))
    found = []
    for at, names in sorted(groups.items(), key=lambda item: (-item[1].total(), item[0])):
        found.append(Place(*at, tuple(sorted(filter(None, names))), tuple(superseded.get(at, ()))))
    return found or [Place("", with_added_fields({})["tracker"]["project"], ())]


def _tracker(run: Path) -> Mapping[str, Any]:
    default = with_added_fields({})["tracker"]
    try:
        content = yaml.load(read_bytes(run / "config.yaml", LARGEST_CONFIG) or b"", yaml.CSafeLoader)
        return {**default, **content["tracker"]}
    except (RecordError, yaml.YAMLError, LookupError, TypeError):  # the table says why
        return default


def connect() -> Any:
    """The public API of wandb. WandbError: there is no key, it is refused, or the server does not answer."""
    check_access()
    try:
        return client().Api(timeout=WITHIN)
    except Exception as error:
        raise wandb_error(error) from error


def wandb_error(error: Exception) -> WandbError:
    """An error of the client as a message."""
    return WandbError(f"Weights & Biases: {explain(error)}")


def results_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The results from which `vlae.trackers.run_history.flat` made a summary, without lists and missing values.

    Law: ``results_of(flat(results))`` has the metrics of ``results`` that are not None.
    """
    found: dict[str, Any] = {}
    for key in sorted(summary):  # which W&B keeps in no order
        if OF_RESULTS.fullmatch(key) and isinstance(summary[key], str | bool | int | float):
            *sections, last = key.split("/")
            place = found
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = summary[key]
    return found


def _run_of(mirrored: Any, per_image: bool) -> Run | LeftOut:
    config, name = dict(mirrored.config), _parts(mirrored.id)[0]
    earlier = "schema_version" not in config
    try:
        identity = run_id(config)
    except (LookupError, TypeError, ValueError, AttributeError):
        return LeftOut(mirrored.id, "it is not a run of vlae")
    if identity != name and not earlier:
        return LeftOut(mirrored.id, f"its configuration is that of {identity}")
    found = Run(name, "", dict(sorted(settings(config).items())), "done", earlier=earlier)
    try:
        results = results_of(dict(mirrored.summary))
        if not results.keys() & {"test", "best_epoch"}:
            state, reason = _state_and_reason(mirrored.state, mirrored.summary)
            return found._replace(state=state, reason=reason)
        images = _image_table(mirrored) if per_image and "test" in results else None
        # an empty section has no key there
        return found._replace(metrics=metrics_of_results({"test": {}, **results}), per_image=images)
    except (ValueError, TypeError, AttributeError) as error:  # keys of which one is a part of another
        return LeftOut(name, f"its summary: {error}")


def _state_and_reason(state: str, summary: Mapping[str, Any]) -> tuple[str, str]:
    """The state of a run without results, and the reason: as the run reported it, if it did."""
    word = summary.get("status/state")
    reported = ("failed", "interrupted") if state == "failed" else ("failed", "interrupted", "running")
    if state in REPORTED and word in reported:
        return str(word), summary.get("status/reason") or ""
    if state in INTERRUPTED:
        return "interrupted", state
    return ("interrupted", "finished without results") if state == "finished" else (state, "")


def _parts(wandb_id: str) -> tuple[str, int]:
    """The run id and the generation; see `vlae.trackers.wandb_mirror.wandb_id`."""
    match = _ID.fullmatch(wandb_id)
    return (match["run_id"], int(match["generation"] or 1)) if match else (wandb_id, 1)


def _image_table(mirrored: Any) -> Callable[[str], np.ndarray | None]:
    """The reader of the table of a run with one entry per test image, which is downloaded once, when it is asked for.

    It returns the column of a name; None: there is none, or no table. RecordError: it cannot be read.
    """

    @cache
    def read_columns() -> dict[str, np.ndarray]:
        reference = mirrored.summary.get(PER_IMAGE)
        if reference is None:
            return {}
        try:
            file = mirrored.file(reference["path"])
            with TemporaryDirectory() as folder, file.download(root=folder, replace=True) as opened:
                table = json.load(opened)
            named = zip(table["columns"], zip(*table["data"], strict=True), strict=True)
            return {name: np.array(column, dtype=np.float64) for name, column in named}
        except Exception as error:  # of this run: the others are compared
            raise RecordError(f"its table of test images cannot be read: {explain(error)}") from error

    return lambda name: read_columns().get(name)

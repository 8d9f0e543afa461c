"""Learning curves for a script to draw: the metrics of each epoch, thinned where there are many."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlae.config.problems import shown
from vlae.report.names import name_of
from vlae.report.plots.style import on_screen, style_of
from vlae.report.runs import LeftOut, Run
from vlae.report.tables.groups import COLUMNS, Configuration
from vlae.system.disk import RecordError

POINTS = 240
"""Points of a curve, at most; no screen shows more."""
FEWEST = 40
NUMBERS = 300_000
"""Numbers in all curves together."""
MOST_RUNS = 1000
FIRST = (
    "validation/elbo_nats",
    "train/elbo_nats",
    "validation/reconstruction_nats",
    "validation/kl_nats",
    "train/reconstruction_nats",
    "train/kl_nats",
)
"""The metrics that are offered first; others follow by name."""
NO_METRICS = ("epoch", "global_step", "seconds")
Epochs = dict[int, Mapping[str, Any]]
"""The metrics of a run by epoch."""


@dataclass(frozen=True)
class Curves:
    """The curves of a page."""

    data: dict[str, Any]
    """``epochs``, ``metrics``, ``runs``: model, label and one list per metric, along the epochs; and `_looks`."""
    every: int
    """One epoch in so many is drawn."""
    left_out: tuple[LeftOut, ...]
    more: int
    """Number of runs that are too many for the page."""


def curves(models: Sequence[Configuration], shown: Sequence[int]) -> Curves:
    """The curves of all runs that have begun; runs whose curves cannot be read are named.

    shown: the numbers of the models that are drawn at first.
    """
    started = [(number, run) for number, model in enumerate(models) for run in model.runs if run.history]
    chosen, left_out = started[:MOST_RUNS], []
    epochs: dict[str, int] = {}
    for _, run in chosen:
        try:
            epochs[run.id] = run.history.epochs() if run.history else 0
        except RecordError as error:
            left_out.append(LeftOut(run.id, str(error)))
    begun = [(number, run) for number, run in chosen if epochs.get(run.id)]
    every = _every(max(epochs.values(), default=0), len(begun))
    read: list[tuple[int, Run, Epochs]] = []
    for number, run in begun:
        try:
            read.append((number, run, _by_epoch(run, every)))
        except (RecordError, ValueError) as error:
            left_out.append(LeftOut(run.id, f"metrics.jsonl cannot be read ({error})"))
            del epochs[run.id]
    cut = [(run.id, run.lacks_epochs(epochs[run.id])) for _, run in chosen if run.id in epochs]
    left_out += [LeftOut(name, text) for name, text in cut if text]
    data = {**_along_epochs(read), **_looks(models), "shown": shown}
    return Curves(data, every, tuple(left_out), len(started) - len(chosen))


def _every(longest: int, runs: int) -> int:
    points = max(FEWEST, min(POINTS, NUMBERS // max(1, runs * len(FIRST) * 3 // 2)))
    return max(1, math.ceil(longest / points))


def _by_epoch(run: Run, every: int) -> Epochs:
    return {_epoch(entry): entry for entry in (run.history(every) if run.history else ())}


def _epoch(entry: Mapping[str, Any]) -> int:
    if not isinstance(entry.get("epoch"), int):
        raise ValueError(f"expected metrics of an epoch, got {shown(entry)}")
    return entry["epoch"]


def _along_epochs(read: Sequence[tuple[int, Run, Epochs]]) -> dict[str, Any]:
    epochs = sorted({epoch for _, _, entries in read for epoch in entries})
    metrics = _ordered(key for _, _, entries in read for entry in entries.values() for key in entry)
    return {
        "epochs": epochs,
        "metrics": metrics,
        "runs": [
            {
                "model": number,
                "label": run.label or run.id,
                "values": [_values(entries, epochs, metric) for metric in metrics],
            }
            for number, run, entries in read
        ],
    }


def _looks(models: Sequence[Configuration]) -> dict[str, list[Any]]:
    """The names and looks of models: their colours are those of figures, and the settings of each are numbered.

    One column, a dataset with an output, is drawn at a time.
    """
    columns = list(dict.fromkeys(model.column for model in models))
    return {
        "models": [model.name for model in models],
        "columns": [name_of(COLUMNS, column) for column in columns],
        "column": [columns.index(model.column) for model in models],
        "colours": [on_screen(style_of(model.model).color) for model in models],
        "variants": [model.variant for model in models],
    }


def _ordered(keys: Iterable[str]) -> list[str]:
    found = set(keys) - set(NO_METRICS)
    return [key for key in FIRST if key in found] + sorted(found - set(FIRST))


def _values(entries: Epochs, epochs: Sequence[int], metric: str) -> list[float | None]:
    values = [_rounded(entries.get(epoch, {}).get(metric)) for epoch in epochs]
    while values and values[-1] is None:
        values.pop()
    return values


def _rounded(value: Any) -> float | None:
    """Five digits, which are more than a screen shows; None: it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")

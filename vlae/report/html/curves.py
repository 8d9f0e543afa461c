"""Learning curves for a script to draw: the metrics of each epoch, thinned where there are many."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vlae.report.names import group_name
from vlae.report.plots.style import on_screen, style_of
from vlae.report.runs import History, LeftOut, Run, is_number
from vlae.report.tables.groups import COLUMNS, Configuration
from vlae.system.disk import RecordError

POINTS = 240  # points of a curve, at most; no screen shows more
FEWEST = 40
NUMBERS = 300_000  # numbers in all curves together
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
Epochs = dict[int, Mapping[str, Any]]  # the metrics of a run by epoch


class Curves(NamedTuple):
    """The curves of a page."""

    data: dict[str, Any]
    """``epochs``, ``metrics``, ``runs``: model, label and one list per metric, along the epochs; and `_looks`."""
    every: int  # one epoch in so many is drawn
    left_out: tuple[LeftOut, ...]
    more: int  # number of runs that are too many for the page


def curves_of(models: Sequence[Configuration], shown: Sequence[int]) -> Curves:
    """The curves of all runs that have begun; runs whose curves cannot be read are named.

    shown: the numbers of the models that are drawn at first.
    """
    started = [(n, run, run.history) for n, model in enumerate(models) for run in model.runs if run.history]
    drawn = started[:MOST_RUNS]
    counts = [_count_epochs(history) for _, _, history in drawn]
    points = max(FEWEST, min(POINTS, NUMBERS // max(1, sum(map(bool, counts)) * len(FIRST) * 3 // 2)))
    every = max(1, math.ceil(max(counts, default=0) / points))
    read: list[tuple[int, Run, Epochs]] = []
    left_out: list[LeftOut] = []
    for (number, run, history), count in zip(drawn, counts, strict=True):
        try:
            epochs = history(every)
        except RecordError as error:
            left_out.append(LeftOut(run.id, f"metrics.jsonl cannot be read ({error})"))
            continue
        read += [(number, run, epochs)] if epochs else []
        left_out += [LeftOut(run.id, cut)] if (cut := run.lacks_epochs(count)) else []
    data = {**_along_epochs(read), **_looks(models), "shown": shown}
    return Curves(data, every, tuple(left_out), max(0, len(started) - MOST_RUNS))


def _count_epochs(history: History) -> int:
    """The number of epochs; 0 where the file cannot be read, which reading them will say."""
    try:
        return history.epochs()
    except RecordError:
        return 0


def _along_epochs(read: Sequence[tuple[int, Run, Epochs]]) -> dict[str, Any]:
    epochs = sorted({epoch for _, _, entries in read for epoch in entries})
    known = {key for _, _, entries in read for entry in entries.values() for key in entry} - set(NO_METRICS)
    metrics = [*(key for key in FIRST if key in known), *sorted(known - set(FIRST))]
    runs = []
    for number, run, entries in read:
        values = [_along(entries, epochs, metric) for metric in metrics]
        runs.append({"model": number, "label": run.label or run.id, "values": values})
    return {"epochs": epochs, "metrics": metrics, "runs": runs}


def _looks(models: Sequence[Configuration]) -> dict[str, list[Any]]:
    """The names and looks of models: their colours are those of figures, and the settings of each are numbered.

    One column, a dataset with an output, is drawn at a time.
    """
    columns = list(dict.fromkeys(model.column for model in models))
    return {
        "models": [model.name for model in models],
        "columns": [group_name(COLUMNS, column) for column in columns],
        "column": [columns.index(model.column) for model in models],
        "colours": [on_screen(style_of(model.model).color) for model in models],
        "variants": [model.variant for model in models],
    }


def _along(entries: Epochs, epochs: Sequence[int], metric: str) -> list[float | None]:
    """The values to five digits, more than a screen shows; None: it is no finite number."""
    values = [entries.get(epoch, {}).get(metric) for epoch in epochs]
    known = [float(f"{v:.5g}") if is_number(v) and math.isfinite(v) else None for v in values]
    while known and known[-1] is None:
        known.pop()
    return known

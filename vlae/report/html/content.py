"""All that a report tells, before it is HTML."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from vlae.errors import UserError
from vlae.launching.run_state import state_on_disk
from vlae.report.html.cautions import cautions
from vlae.report.html.curves import Curves, curves
from vlae.report.html.details import MOST, Detail, common_settings, details
from vlae.report.html.embedded_plots import Drawn, drawn
from vlae.report.html.failures import Failure, failures
from vlae.report.html.models import Model, models
from vlae.report.html.pictures import Gallery, gallery
from vlae.report.html.provenance import Code, Launch, codes, launches
from vlae.report.html.verdict import Verdict, verdicts
from vlae.report.runs import DAMAGED, NEVER, LeftOut, Runs
from vlae.report.tables.cells import amount
from vlae.report.tables.layout import Layout, layout
from vlae.report.tables.table import Table, row_keys_of, table
from vlae.system.console import duration

STATES = ("done", "running", "queued", "interrupted", "failed", DAMAGED, "new", NEVER)
CURVES_SHOWN = 8
"""Models of each data set and output whose curves are drawn at first: the best ones, where there are more."""


@dataclass(frozen=True)
class Content:
    """Of one report."""

    title: str
    facts: tuple[tuple[str, str], ...]
    """A figure and what it counts."""
    verdicts: tuple[Verdict, ...]
    cautions: tuple[str, ...]
    table: Layout | None
    without_table: str
    """Why there is no table."""
    metric: str
    figures: tuple[Drawn, ...]
    figures_left_out: tuple[LeftOut, ...]
    models: tuple[Model, ...]
    curves: Curves
    curves_shown: tuple[int, ...]
    gallery: Gallery
    details: tuple[Detail, ...]
    undetailed: int
    common: tuple[tuple[str, str], ...]
    failures: tuple[Failure, ...]
    failures_untold: int
    launches: tuple[Launch, ...]
    codes: tuple[Code, ...]


def content(runs_dir: Path, runs: Runs) -> Content:
    """Of at least one run."""
    keys = row_keys_of(runs)
    found = models(runs, keys)
    told, reason = _table(runs, keys)
    ranked = _ranked(found, told)
    best_first = [model for of_a_rank in zip_longest(*ranked) for model in of_a_rank if model is not None]
    drawings, not_drawn = drawn(runs, len(found))
    failed, more_failed = failures(runs_dir, runs.runs)
    every_run = details(runs, found)
    return Content(
        title=runs.title,
        facts=tuple(_facts(runs_dir, runs, found)),
        verdicts=tuple(verdicts(told, runs.runs)) if told else (),
        cautions=tuple(cautions(runs, told)),
        table=layout(told) if told else None,
        without_table=reason,
        metric=told.metric if told else "",
        figures=tuple(drawings),
        figures_left_out=tuple(not_drawn),
        models=tuple(found),
        curves=curves(runs_dir, found),
        curves_shown=tuple(sorted(found.index(model) for best in ranked for model in best[:CURVES_SHOWN])),
        gallery=gallery(runs_dir, best_first),
        details=tuple(every_run[:MOST]),
        undetailed=max(0, len(every_run) - MOST),
        common=tuple(common_settings(runs)),
        failures=tuple(failed),
        failures_untold=more_failed,
        launches=tuple(launches(runs_dir, runs)),
        codes=tuple(codes(runs_dir, runs.runs)),
    )


def _table(runs: Runs, keys: Sequence[str]) -> tuple[Table | None, str]:
    try:
        return table(runs, rows=keys), ""
    except UserError as error:
        return None, str(error)


def _ranked(found: Sequence[Model], told: Table | None) -> list[list[Model]]:
    """Those of each column, the best first: figures of other data, or of another output, are not compared with them."""
    means = {(cell.row, cell.column): cell.mean for cell in told.cells} if told else {}

    def place(model: Model) -> tuple[bool, float]:
        mean = means.get((model.row, model.column))
        return mean is None, -(mean or 0.0)

    columns = dict.fromkeys(model.column for model in found)
    return [sorted((model for model in found if model.column == column), key=place) for column in columns]


def _number(number: int, noun: str) -> tuple[str, str]:
    return str(number), noun if number == 1 else f"{noun}s"


def _facts(runs_dir: Path, runs: Runs, found: Sequence[Model]) -> list[tuple[str, str]]:
    counts = Counter(run.state for run in runs.runs)
    states = [*STATES, *sorted(counts.keys() - set(STATES))]
    names = {name for run in runs.runs if (name := run.value("model.name")) is not None}
    facts = [_number(len(runs.runs), "run"), _number(len(names), "model")]
    if len(found) != len(names):
        facts.append(_number(len(found), "configuration"))
    facts += [
        (str(counts[state]), "never started" if state == "new" else state)
        for state in states
        if counts[state]
    ]
    keys = ("cost.train_seconds", "cost.evaluate_seconds")
    seconds = sum(amount(run, key) or 0.0 for run in runs.runs for key in keys)
    if seconds:
        facts.append((duration(seconds), "of computing"))
    gpu = sum(state_on_disk(runs_dir / run.id).gpu_seconds for run in runs.runs if run.state != NEVER)
    if gpu:
        facts.append((f"{gpu / 3600:.1f}", "GPU hours"))
    return facts

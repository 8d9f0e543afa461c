"""The content of a report, before it is HTML."""

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
from vlae.report.html.embedded_plots import EmbeddedPlot, embed
from vlae.report.html.failures import Failure, failures
from vlae.report.html.models import Model, models
from vlae.report.html.pictures import Gallery, gallery
from vlae.report.html.provenance import Code, Launch, codes, launches
from vlae.report.html.verdict import Verdict, verdicts
from vlae.report.runs import LeftOut, Runs
from vlae.report.tables.cells import number_of
from vlae.report.tables.layout import Layout, layout
from vlae.report.tables.table import Table, row_keys_of, table
from vlae.system.console import duration

STATES = ("done", "running", "queued", "interrupted", "failed", "new")
CURVES_SHOWN = 8
"""Models of each dataset and output whose curves are drawn at first: the best ones."""


@dataclass(frozen=True)
class Content:
    """The content of one report."""

    title: str
    facts: tuple[tuple[str, str], ...]
    """Numbers and what they count."""
    verdicts: tuple[Verdict, ...]
    cautions: tuple[str, ...]
    table: Layout | None
    without_table: str
    """Why there is no table."""
    metric: str
    figures: tuple[EmbeddedPlot, ...]
    figures_left_out: tuple[LeftOut, ...]
    models: tuple[Model, ...]
    curves: Curves
    curves_shown: tuple[int, ...]
    gallery: Gallery
    details: tuple[Detail, ...]
    more_runs: int
    common: tuple[tuple[str, str], ...]
    failures: tuple[Failure, ...]
    more_failures: int
    launches: tuple[Launch, ...]
    codes: tuple[Code, ...]


def content(runs_dir: Path, runs: Runs) -> Content:
    """The content of a report of at least one run."""
    keys = row_keys_of(runs)
    found = models(runs, keys)
    the_table, reason = _table(runs, keys)
    ranked = _ranked(found, the_table)
    best_first = [model for of_a_rank in zip_longest(*ranked) for model in of_a_rank if model is not None]
    drawings, not_drawn = embed(runs, len(found))
    failed, more_failed = failures(runs_dir, runs.runs)
    every_run = details(runs, found)
    return Content(
        title=runs.title,
        facts=tuple(_facts(runs_dir, runs, found)),
        verdicts=tuple(verdicts(the_table, runs.runs)) if the_table else (),
        cautions=tuple(cautions(runs, the_table)),
        table=layout(the_table) if the_table else None,
        without_table=reason,
        metric=the_table.metric if the_table else "",
        figures=tuple(drawings),
        figures_left_out=tuple(not_drawn),
        models=tuple(found),
        curves=curves(found),
        curves_shown=tuple(sorted(found.index(model) for best in ranked for model in best[:CURVES_SHOWN])),
        gallery=gallery(runs_dir, best_first),
        details=tuple(every_run[:MOST]),
        more_runs=max(0, len(every_run) - MOST),
        common=tuple(common_settings(runs)),
        failures=tuple(failed),
        more_failures=more_failed,
        launches=tuple(launches(runs_dir, runs)),
        codes=tuple(codes(runs_dir, runs.runs)),
    )


def _table(runs: Runs, keys: Sequence[str]) -> tuple[Table | None, str]:
    try:
        return table(runs, rows=keys), ""
    except UserError as error:
        return None, str(error)


def _ranked(found: Sequence[Model], table: Table | None) -> list[list[Model]]:
    """The models of each column, the best first."""
    means = {(cell.row, cell.column): cell.mean for cell in table.cells} if table else {}

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
    seconds = sum(number_of(run, key) or 0.0 for run in runs.runs for key in keys)
    if seconds:
        facts.append((duration(seconds), "of computation"))
    gpu = sum(state_on_disk(runs_dir / run.id).gpu_seconds for run in runs.runs)
    if gpu:
        facts.append((f"{gpu / 3600:.1f}", "GPU hours"))
    return facts

"""The content of a report, before it is HTML."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

from vlae.report.html.cautions import cautions
from vlae.report.html.curves import curves_of
from vlae.report.html.details import MOST, Configuration, common_settings, details, models
from vlae.report.html.images import embed, gallery
from vlae.report.html.provenance import codes, facts, failures, launches
from vlae.report.html.verdict import verdicts
from vlae.report.runs import Runs
from vlae.report.tables.table import Table, table_or_reason

CURVES_SHOWN = 8  # models of each dataset and output whose curves are drawn at first: the best ones


def content(runs_dir: Path, runs: Runs) -> SimpleNamespace:
    """The variables of report.html.jinja, for at least one run."""
    found = models(runs)
    the_table, reason = table_or_reason(runs)
    ranked = _rank_models(found, the_table)
    best_first = [model for of_a_rank in zip_longest(*ranked) for model in of_a_rank if model is not None]
    shown = sorted(found.index(model) for best in ranked for model in best[:CURVES_SHOWN])
    drawings, not_drawn = embed(runs, len(found))
    failed, more_failed = failures(runs_dir, runs.runs)
    every_run = details(runs, found)
    return SimpleNamespace(
        title=runs.title,
        facts=facts(runs_dir, runs, len(found)),
        verdicts=verdicts(the_table, runs.runs) if the_table else [],
        cautions=cautions(runs, the_table),
        table=the_table,
        without_table=reason,
        figures=drawings,
        figures_left_out=not_drawn,
        models=found,
        curves=curves_of(found, shown),
        gallery=gallery(runs_dir, best_first),
        details=every_run[:MOST],
        more_runs=max(0, len(every_run) - MOST),
        common=common_settings(runs),
        failures=failed,
        more_failures=more_failed,
        launches=launches(runs_dir, runs),
        codes=codes(runs_dir, runs.runs),
    )


def _rank_models(found: Sequence[Configuration], table: Table | None) -> list[list[Configuration]]:
    """The models of each column, the best first."""
    means = {(cell.row, cell.column): cell.mean for cell in table.cells} if table else {}

    def place(model: Configuration) -> tuple[bool, float]:
        mean = means.get((model.row, model.column))
        return mean is None, -(mean or 0.0)

    columns = dict.fromkeys(model.column for model in found)
    return [sorted((model for model in found if model.column == column), key=place) for column in columns]

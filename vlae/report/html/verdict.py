"""The best model of each column, in a sentence."""

from collections.abc import Sequence
from typing import NamedTuple

from vlae.report.names import group_name, some
from vlae.report.runs import Run
from vlae.report.tables.captions import TOO_FEW, metric_name
from vlae.report.tables.cells import Cell, daggers, with_metric
from vlae.report.tables.groups import some_words
from vlae.report.tables.table import Table
from vlae.runs.metrics import HIGHER, better
from vlae.system.console import count_of

MOST_NAMED = 5

BUDGET = ("trainer.epochs", "trainer.patience", "trainer.batch_size", "trainer.num_samples")
"""Settings that decide how long a model is trained, and on how much."""


class Verdict(NamedTuple):
    """The verdict on the rows of a column that were scored on the same test images."""

    sentence: str
    explanation: str  # the estimator, the number of seeds, and the models that are as good


def verdicts(table: Table, runs: Sequence[Run]) -> list[Verdict]:
    """The verdicts, in the order of the columns. runs: those of the table."""
    found = []
    for column in table.columns:
        where, cells = group_name(table.column_keys, column), [c for c in table.cells if c.column == column]
        known = [cell for cell in cells if cell.mean is not None]
        if not known:
            of_column = [run for run in runs if tuple(map(run.value, table.column_keys)) == column]
            done = any(run.metrics is not None for run in of_column)
            why = "no run has this metric" if done else "no run is done yet"
            found.append(Verdict(f"{where}: {why}.", ""))
        for images in dict.fromkeys(cell.images for cell in known):
            of_images = [cell for cell in known if cell.images == images]
            budgets = _budgets(table, of_images, runs)
            found.append(_verdict(table, f"{where}, {images}" if images else where, of_images, budgets))
    return found


def _budgets(table: Table, cells: Sequence[Cell], runs: Sequence[Run]) -> str:
    """The training budgets of these cells, such as ``trainer.epochs: 5, 20``; empty: all have the same."""
    places, keys = {(*cell.row, *cell.column) for cell in cells}, (*table.row_keys, *table.column_keys)
    of_cells = [run for run in with_metric(runs, table.metric) if tuple(map(run.value, keys)) in places]
    values = {key: {run.value(key) for run in of_cells} for key in BUDGET}
    several = {key: some_words(each, MOST_NAMED) for key, each in values.items() if len(each) > 1}
    return "; ".join(f"{key}: {words}" for key, words in several.items())


def _verdict(table: Table, where: str, cells: Sequence[Cell], budgets: str) -> Verdict:
    best = next((cell for cell in cells if cell.best), cells[0])
    name, mean = group_name(table.row_keys, best.row), best.estimate()
    spread = ", mean ± standard error" if best.standard_error is not None else ""
    explanation = [f"{metric_name(table.metric)}; {count_of(best.n, 'seed')}{spread}."]
    others = [cell for cell in cells if cell is not best]
    if not others:
        sentence = f"{where}: {name} has {mean}"
        explanation.append(f"No other {_noun(table)} has a result to compare it with.")
    elif any(cell.tested for cell in others):
        sentence = f"{where}: {name} is best with {mean}"
        explanation += _as_good(table, others)
    else:
        extreme = "highest" if better(table.metric) == HIGHER else "lowest"
        sentence = f"{where}: {name} has the {extreme} mean, {mean}"
        few = any(cell.seeds_in_common for cell in others)
        explanation.append(f"{TOO_FEW.capitalize()}." if few else "No difference from it could be tested.")
    if budgets:
        sentence += f", among different training budgets ({budgets})"
        explanation.append("Differences may come from training, not from the models.")
    if best.unreliable and daggers(table.cells):  # else a warning says it of all
        explanation.append("Its estimate is unreliable.")
    return Verdict(f"{sentence}.", " ".join(explanation))


def _as_good(table: Table, others: Sequence[Cell]) -> list[str]:
    """The others that are as good, as far as that was tested."""
    tested, words = [cell for cell in others if cell.tested], []
    for cell in sorted(tested, key=lambda cell: abs(cell.difference or 0.0)):
        if cell.as_good:
            p = "" if cell.p_value is None else f", p = {cell.p_value:.2g}"
            words.append(f"{group_name(table.row_keys, cell.row)} ({cell.estimate()}{p})")
    if words:
        found = [f"Not significantly worse: {some(words, MOST_NAMED)}."]
    else:
        every = "Every other" if len(tested) == len(others) else "Every tested"
        found = [f"{every} {_noun(table)} is significantly worse."]
    if rest := len(others) - len(tested):
        found.append(f"Not tested: {count_of(rest, _noun(table))}.")
    return found


def _noun(table: Table) -> str:
    """The name of a row: a sweep that varied settings has several rows per model."""
    return "model" if table.row_keys == ("model.name",) else "configuration"

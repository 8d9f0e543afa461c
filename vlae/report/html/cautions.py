"""Warnings that a reader needs before believing a sweep."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vlae.estimation.reliability import why_worse_than_noise
from vlae.report.metric_values import UNRELIABLE, of_estimator, what_and_estimator
from vlae.report.names import group_name, some
from vlae.report.runs import Run, Runs
from vlae.report.tables.captions import damage_notes, estimation
from vlae.report.tables.cells import judged_by_another, why_unreliable
from vlae.report.tables.table import Table
from vlae.system.console import count_of

MOST_NAMED = 6
ON_TEST = (
    "chose the best epoch on the test images (trainer.selection=test), as the released code does: their results are "
    "too good."
)
NOT_SCORED = "trained and validated, and not scored on the test images (evaluate=none)."
CHANGED = "ran code with uncommitted changes; a copy of that code is in .code of the runs directory."


def cautions(runs: Runs, table: Table | None) -> list[str]:
    """One sentence each, the most serious first."""
    done = [run for run in runs.runs if run.metrics is not None]
    return [
        *(f"{note}." for note in damage_notes(runs.left_out, table.unread if table else ())),
        *_unreliable(done),
        *_worse_than_noise(done),
        *_having(runs.runs, "trainer.selection", "test", ON_TEST),
        *_not_scored(done, len(runs.runs)),
        *(_missing_seeds(table) if table else ()),
        *_differing_values(done, "environment.code.hash", "versions of code", "their metrics may differ"),
        *_other_code(done),
        *_having(done, "environment.code.changed", True, CHANGED),
        *_differing_values(done, "environment.torch", "versions of PyTorch", "their last digits may differ"),
        *_differing_values(done, "environment.device", "devices", "their times cannot be compared"),
    ]


def _other_code(done: Sequence[Run]) -> Iterator[str]:
    """Runs of which other code, or another torch, has computed the training or some of the scores."""
    for part in ("training", "scoring"):
        for key, own, what in (
            ("code", "code.hash", "other code"),
            ("torch", "torch", "another version of PyTorch"),
        ):
            values = f"environment.{part}.{key}", f"environment.{own}"
            if others := [run for run in done if run.value(values[0]) not in (None, run.value(values[1]))]:
                ids = some([run.id for run in others], MOST_NAMED)
                yield f"{count_of(len(others), 'run')} took over a {part} that {what} had computed: {ids}."


def _unreliable(done: Sequence[Run]) -> Iterator[str]:
    estimators: dict[tuple[str, str], list[str]] = {}
    for key in dict.fromkeys(key for run in done for key in run.metrics or ()):
        what, estimator = what_and_estimator(key)
        doubted = [run for run in done if run.value(key) is True] if what == UNRELIABLE else []
        doubted = [run for run in doubted if not judged_by_another(run, estimator)]
        if doubted:
            names = Counter(str(run.value("model.name")) for run in doubted).items()
            models = [f"{count_of(number, 'run')} of {name}" for name, number in names]
            some_runs = f"{len(doubted)} of {len(done)} runs ({some(models, MOST_NAMED)})"
            where = "all runs" if len(doubted) == len(done) else some_runs
            reason = where, why_unreliable(doubted, of_estimator(estimator))
            estimators.setdefault(reason, []).append(estimation(estimator, " with", " by"))
    for (where, why), by in estimators.items():
        estimated = f"The log-likelihood estimated{' and'.join(by)}"
        yield f"{estimated} is unreliable in {where}: {why}."


def _worse_than_noise(done: Sequence[Run]) -> Iterator[str]:
    worse: dict[str, list[str]] = {}
    for run in done:
        bits, uniform = run.number("test.bits_per_dim"), run.number("test.uniform_bits_per_dim")
        if bits is not None and uniform is not None and bits > uniform:
            why = why_worse_than_noise(run.number("best_epoch"), run.number("epochs"))
            worse.setdefault(why, []).append(run.label or run.id)
    for why, names in worse.items():
        yield f"Worse than uniform noise: {some(names, MOST_NAMED)}; {why}."


def _not_scored(done: Sequence[Run], runs: int) -> Iterator[str]:
    if unscored := sum(not run.is_scored for run in done):
        yield f"{count_of(unscored, 'run')} of {runs} {'was' if unscored == 1 else 'were'} {NOT_SCORED}"


def _missing_seeds(table: Table) -> Iterator[str]:
    rows = []
    for cell in table.cells:
        if cell.n < table.expected:
            why = f" ({cell.missing})" if cell.missing else ""
            rows.append(f"{group_name(table.row_keys, cell.row)} has {cell.n} of {table.expected}{why}")
    if rows:
        yield f"Seeds are missing: {some(rows, MOST_NAMED)}."
    if table.expected == 1:
        yield "One seed each: how much results vary with the seed is unknown."


def _differing_values(done: Sequence[Run], key: str, what: str, consequence: str) -> Iterator[str]:
    values = Counter(str(run.value(key)) for run in done if run.value(key) is not None)
    if len(values) > 1:
        names = [f"{name} ({count_of(number, 'run')})" for name, number in sorted(values.items())]
        yield f"Runs used {len(values)} {what}: {some(names, MOST_NAMED)}; {consequence} for that reason."


def _having(runs: Sequence[Run], key: str, value: Any, sentence: str) -> Iterator[str]:
    if chosen := [run for run in runs if run.value(key) == value]:
        yield f"{count_of(len(chosen), 'run')} of {len(runs)} {sentence}"

"""Warnings that a reader needs before believing a sweep."""

from collections import Counter
from collections.abc import Iterator, Sequence

from vlae.estimation.reliability import LARGE_K_HAT, why_worse_than_noise
from vlae.report.metric_values import UNRELIABLE, what_and_estimator
from vlae.report.names import some
from vlae.report.runs import Run, Runs
from vlae.report.tables.captions import estimation, without_images
from vlae.report.tables.cells import number_of
from vlae.report.tables.layout import name_of
from vlae.report.tables.table import Table
from vlae.system.console import counted

MOST_NAMED = 6


def cautions(runs: Runs, table: Table | None) -> list[str]:
    """One sentence each, the most serious first."""
    done = [run for run in runs.runs if run.metrics is not None]
    return [
        *_left_out(runs),
        *_unreliable(done),
        *_worse_than_noise(done),
        *_selected_on_test(runs.runs),
        *(_missing_seeds(table) if table else ()),
        *([f"{without_images(table.unread)}."] if table and table.unread else ()),
        *_mixed(done, "environment.code.hash", "of code", "their metrics may differ for that reason alone"),
        *_changed(done),
        *_mixed(done, "environment.torch", "of PyTorch", "their last digits may differ for that reason"),
        *_devices(done),
    ]


def _left_out(runs: Runs) -> Iterator[str]:
    if runs.left_out:
        names = [f"{left.name} ({left.because})" for left in runs.left_out]
        yield f"Left out: {_some(names)}."


def _unreliable(done: Sequence[Run]) -> Iterator[str]:
    keys = dict.fromkeys(key for run in done for key in run.metrics or ())
    estimators: dict[str, list[str]] = {}
    for key in keys:
        what, estimator = what_and_estimator(key)
        if what != UNRELIABLE:
            continue
        if doubted := [run for run in done if run.value(key) is True]:
            names = Counter(str(run.value("model.name")) for run in doubted)
            models = _some([f"{counted(number, 'run')} of {name}" for name, number in names.items()])
            where = f"{len(doubted)} of {len(done)} runs ({models})"
            if len(doubted) == len(done):
                where = "all runs"
            estimators.setdefault(where, []).append(estimator)
    for where, by in estimators.items():
        yield (
            f"The log-likelihood estimated{_list(by)} is unreliable in {where} and probably too low: "
            f"{LARGE_K_HAT}."
        )


def _worse_than_noise(done: Sequence[Run]) -> Iterator[str]:
    worse: dict[str, list[str]] = {}
    for run in done:
        bits, uniform = number_of(run, "test.bits_per_dim"), number_of(run, "test.uniform_bits_per_dim")
        if bits is not None and uniform is not None and bits > uniform:
            why = why_worse_than_noise(number_of(run, "best_epoch"), number_of(run, "epochs"))
            worse.setdefault(why, []).append(run.label or run.id)
    for why, names in worse.items():
        yield f"Worse than uniform noise: {_some(names)}; {why}."


def _selected_on_test(runs: Sequence[Run]) -> Iterator[str]:
    chosen = [run for run in runs if run.value("trainer.selection") == "test"]
    if chosen:
        yield (
            f"{counted(len(chosen), 'run')} of {len(runs)} chose the best epoch on the test images "
            "(trainer.selection=test), as the released code does: their results are too good."
        )


def _missing_seeds(table: Table) -> Iterator[str]:
    lacking = [cell for cell in table.cells if cell.n < table.expected]
    if lacking:
        rows = [
            f"{name_of(table.row_keys, cell.row)} has {cell.n} of {table.expected}"
            + (f" ({cell.missing})" if cell.missing else "")
            for cell in lacking
        ]
        yield f"Seeds are missing: {_some(rows)}."
    if table.expected == 1:
        yield "One seed each: how much results vary with the seed is unknown."


def _mixed(done: Sequence[Run], key: str, what: str, so: str) -> Iterator[str]:
    versions = Counter(str(run.value(key)) for run in done if run.value(key) is not None)
    if len(versions) > 1:
        names = _some([f"{name} ({counted(number, 'run')})" for name, number in sorted(versions.items())])
        yield f"Runs used {len(versions)} versions {what}: {names}; {so}."


def _changed(done: Sequence[Run]) -> Iterator[str]:
    changed = [run for run in done if run.value("environment.code.changed") is True]
    if changed:
        yield (
            f"{counted(len(changed), 'run')} of {len(done)} ran code with uncommitted changes; a copy of that code "
            "is in .code of the runs directory."
        )


def _devices(done: Sequence[Run]) -> Iterator[str]:
    devices = Counter(str(run.value("environment.device")) for run in done if run.value("environment.device"))
    if len(devices) > 1:
        names = _some([f"{name} ({counted(number, 'run')})" for name, number in sorted(devices.items())])
        yield f"Runs used different devices, whose times cannot be compared: {names}."


def _list(estimators: Sequence[str]) -> str:
    """`` with a Laplace proposal and with a Student-t proposal``"""
    return " and".join(estimation(name, " with", " by") for name in estimators)


def _some(texts: Sequence[str]) -> str:
    return some(texts, MOST_NAMED)

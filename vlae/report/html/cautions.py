"""What a reader has to know before believing a sweep."""

from collections import Counter
from collections.abc import Iterator, Sequence

from vlae.estimation.reliability import LARGE_K_HAT, why_worse_than_noise
from vlae.report.metric_values import UNRELIABLE, what_and_estimator
from vlae.report.names import some
from vlae.report.runs import Run, Runs
from vlae.report.tables.captions import without_images
from vlae.report.tables.cells import amount
from vlae.report.tables.layout import named
from vlae.report.tables.table import Table
from vlae.system.console import counted

MOST_NAMED = 6


def cautions(runs: Runs, table: Table | None) -> list[str]:
    """One text each, the gravest first."""
    done = [run for run in runs.runs if run.figures is not None]
    return [
        *_damaged(runs),
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


def _damaged(runs: Runs) -> Iterator[str]:
    if runs.left_out:
        told = [f"{left.name} ({left.because})" for left in runs.left_out]
        yield f"Left out of all figures: {_some(told)}."


def _unreliable(done: Sequence[Run]) -> Iterator[str]:
    keys = dict.fromkeys(key for run in done for key in run.figures or ())
    estimators: dict[str, list[str]] = {}
    for key in keys:
        what, estimator = what_and_estimator(key)
        if what != UNRELIABLE:
            continue
        if doubted := [run for run in done if run.value(key) is True]:
            names = Counter(str(run.value("model.name")) for run in doubted)
            told = _some([f"{counted(number, 'run')} of {name}" for name, number in names.items()])
            where = (
                "all runs" if len(doubted) == len(done) else f"{len(doubted)} of {len(done)} runs ({told})"
            )
            estimators.setdefault(where, []).append(estimator)
    for where, by in estimators.items():
        yield (
            f"The log-likelihood by {' and by '.join(by)} is unreliable in {where}, probably too low: "
            f"{LARGE_K_HAT}."
        )


def _worse_than_noise(done: Sequence[Run]) -> Iterator[str]:
    worse: dict[str, list[str]] = {}
    for run in done:
        bits, uniform = amount(run, "test.bits_per_dim"), amount(run, "test.uniform_bits_per_dim")
        if bits is not None and uniform is not None and bits > uniform:
            why = why_worse_than_noise(amount(run, "best_epoch"), amount(run, "epochs"))
            worse.setdefault(why, []).append(run.label or run.id)
    for why, names in worse.items():
        yield f"Worse than uniform noise: {_some(names)}; {why}."


def _selected_on_test(runs: Sequence[Run]) -> Iterator[str]:
    chosen = [run for run in runs if run.value("trainer.selection") == "test"]
    if chosen:
        yield (
            f"{counted(len(chosen), 'run')} of {len(runs)} chose the best epoch on the test images "
            "(trainer.selection=test), as the released code does: their figures are too good."
        )


def _missing_seeds(table: Table) -> Iterator[str]:
    lacking = [cell for cell in table.cells if cell.n < table.expected]
    if lacking:
        told = [
            f"{named(table.row_keys, cell.row)} has {cell.n} of {table.expected}"
            + (f" ({cell.missing})" if cell.missing else "")
            for cell in lacking
        ]
        yield f"Seeds are missing: {_some(told)}."
    if table.expected == 1:
        yield "One seed each: how much the figures owe to chance in training is not known."


def _mixed(done: Sequence[Run], key: str, what: str, so: str) -> Iterator[str]:
    versions = Counter(str(run.value(key)) for run in done if run.value(key) is not None)
    if len(versions) > 1:
        told = _some([f"{name} ({counted(number, 'run')})" for name, number in sorted(versions.items())])
        yield f"Runs are of {len(versions)} versions {what}: {told}; {so}."


def _changed(done: Sequence[Run]) -> Iterator[str]:
    changed = [run for run in done if run.value("environment.code.changed") is True]
    if changed:
        yield (
            f"{counted(len(changed), 'run')} of {len(done)} ran code with changes that were not committed; what was "
            "launched lies in .code of the runs directory."
        )


def _devices(done: Sequence[Run]) -> Iterator[str]:
    devices = Counter(str(run.value("environment.device")) for run in done if run.value("environment.device"))
    if len(devices) > 1:
        told = _some([f"{name} ({counted(number, 'run')})" for name, number in sorted(devices.items())])
        yield f"Runs were executed on different devices, whose seconds cannot be compared: {told}."


def _some(texts: Sequence[str]) -> str:
    return some(texts, MOST_NAMED)

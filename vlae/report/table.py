"""A table of many runs: rows and columns by any keys, a figure in each cell, and what a reader has to know of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vlae.errors import UserError
from vlae.problems import shown
from vlae.report.best import judged
from vlae.report.captions import caption, no_runs, notes, provenance
from vlae.report.cells import Cell, Values, cell, with_figure
from vlae.report.collect import LeftOut, Run, Runs
from vlae.report.figures import COMMON, OWN, of_estimator
from vlae.report.groups import placed, telling_apart
from vlae.report.keys import key_of, near_or_some, position, short
from vlae.report.published import Published, published
from vlae.report.where import fulfilling, is_number

COLUMNS = ("dataset.name", "output_dist.name")


@dataclass(frozen=True)
class Table:
    """What is told, whatever it is written in."""

    title: str
    metric: str
    row_keys: tuple[str, ...]
    column_keys: tuple[str, ...]
    rows: tuple[Values, ...]
    columns: tuple[Values, ...]
    cells: tuple[Cell, ...]
    """Of each row and column of which there are runs."""
    expected: int
    """Seeds of the cell that has most of them: others say how many they have."""
    caption: str
    notes: tuple[str, ...]
    provenance: str
    """Which code made the metrics."""
    unread: tuple[LeftOut, ...] = ()
    """Runs that were compared without their figures of test images, which are damaged."""


def table(
    runs: Runs,
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
    literature: bool = False,
) -> Table:
    """The table of one figure of these runs.

    metric: None: the log-likelihood that `default_metric` chooses.
    rows: None: those of `row_keys_of`, so that every setting that was varied has a row.
    columns: None: dataset and output distribution. What is asked for on one side is no default of the other.
    literature: with the published figures beside ours.
    UserError: what is asked for is not there, or settings that differ in more than the seed would share a cell.
    """
    chosen = chosen_runs(runs, where)
    metric = asked_metric(chosen, metric)
    row_keys, column_keys = _sides(chosen, runs, rows, columns)
    groups, unplaced = placed(chosen, row_keys, column_keys)
    if literature and not any(published(group[0], metric) for group in groups.values()):
        raise UserError(f"--published: nothing that was published is a {metric} of these models and data")
    done = {place: with_figure(group, metric) for place, group in groups.items()}
    found = [cell(*place, group, done[place], metric) for place, group in groups.items()]
    if literature:
        found = [_beside(one, published(groups[one.row, one.column][0], metric)) for one in found]
    rows_found, columns_found = _ordered(one.row for one in found), _ordered(one.column for one in found)
    unread: dict[LeftOut, None] = {}
    at_row, at_column = _positions(rows_found), _positions(columns_found)
    of_columns: dict[Values, list[tuple[Cell, list[Run]]]] = {column: [] for column in columns_found}
    # in the order of lines: of two equal means the first is best, in whatever order the runs were read
    for one in sorted(found, key=lambda one: at_row[one.row]):
        of_columns[one.column].append((one, done[one.row, one.column]))
    judgements = [judged(column, metric, unread.setdefault) for column in of_columns.values()]
    cells = sorted(
        (one for column in judgements for one in column),
        key=lambda one: (at_row[one.row], at_column[one.column]),
    )
    counted = [run for group in done.values() for run in group]
    return Table(
        chosen.title,
        metric,
        tuple(row_keys),
        tuple(column_keys),
        tuple(rows_found),
        tuple(columns_found),
        tuple(cells),
        max((one.runs for one in cells), default=0),
        caption(metric, cells, counted),
        (
            *notes(
                *(metric, cells, groups, row_keys, column_keys),
                *(unplaced, chosen.left_out, tuple(unread), literature),
            ),
            *filter(None, [chosen.note]),
        ),
        provenance(counted),
        tuple(unread),
    )


def _positions(values: Sequence[Values]) -> dict[Values, int]:
    return {each: number for number, each in enumerate(values)}


def default_metric(runs: Iterable[Run]) -> str:
    """The log-likelihood by an estimator that is the same for all models, if all runs that are done have it.

    That of each model's own q compares models together with their estimators (README, "Figures to trust"), so it is
    taken only where there is no other. UserError: there is no estimator that all runs have.
    """
    done = [run for run in runs if run.figures is not None]
    for estimator in (*COMMON, OWN):
        metric = of_estimator(estimator)
        if all(metric in (run.figures or {}) for run in done):
            return metric
    raise UserError(
        "--metric: no estimator of the log-likelihood is common to all runs; choose a figure, or some of the runs by "
        "--where"
    )


def chosen_runs(runs: Runs, where: str) -> Runs:
    """Those of which a condition holds. UserError: there are none."""
    if not runs.runs:
        raise UserError(no_runs(runs.title, runs.left_out))
    return fulfilling(runs, where) if where else runs


def asked_metric(runs: Runs, given: str | None) -> str:
    """The figure of this name; None: the default. UserError: no run has it, or none has it as a number."""
    known = runs.figures()
    if given is not None and given not in known and known:
        numbers = [key for key in known if any(is_number(run.value(key)) for run in runs.runs)]
        raise UserError(f"--metric: no run has a metric {given!r}{near_or_some(given, numbers)}")
    metric = default_metric(runs.runs) if given is None else given
    told = [(run.id, value) for run in runs.runs if (value := run.value(metric)) is not None]
    if told and not any(is_number(value) for _, value in told):
        raise UserError(f"--metric: expected a figure, {metric} is {shown(told[0][1])} in {told[0][0]}")
    return metric


def asked_keys(given: Sequence[str], runs: Runs, option: str) -> list[str]:
    """The keys that are meant, each once. UserError: no run has one of them."""
    known = runs.known()
    return list(dict.fromkeys(key_of(key, known, option) for key in given))


def _sides(
    chosen: Runs, runs: Runs, rows: Sequence[str] | None, columns: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The keys of rows and of columns. UserError: one is in both, which would leave all cells but a diagonal empty."""
    row_keys = asked_keys(rows, runs, "--rows") if rows else model_keys_of(chosen)
    column_keys = asked_keys(columns or COLUMNS, runs, "--cols")
    both = [key for key in row_keys if key in column_keys]
    if both and not columns:
        column_keys = [key for key in column_keys if key not in both]
    elif both and not rows and len(both) < len(row_keys):
        row_keys = [key for key in row_keys if key not in both]
    elif both:
        raise UserError(
            f"--cols: expected keys that the rows have not, came {', '.join(map(short, both))}, which --rows has"
            f"{'' if rows else ' by default'}, too"
        )
    return row_keys if rows else row_keys_of(chosen, row_keys, column_keys), column_keys


def row_keys_of(
    runs: Runs, first: Sequence[str] | None = None, column_keys: Sequence[str] = COLUMNS
) -> list[str]:
    """The keys of rows where none are asked for, in tables, figures and reports alike.

    These are the keys that name a model, then those that it takes to give every setting that was varied a row.
    first: what names a model; None: `model_keys_of`.
    """
    keys = list(model_keys_of(runs) if first is None else first)
    return list(dict.fromkeys([*keys, *telling_apart(runs, keys, column_keys)]))


def model_keys_of(runs: Runs) -> list[str]:
    """The keys that name a model: T is one of them where a model has several."""
    kinds = {(run.value("model.name"), run.value("T")) for run in runs.runs if run.value("T") is not None}
    several = len(kinds) > len({model for model, _ in kinds})
    return ["model.name", "T"] if several else ["model.name"]


def _ordered(values: Iterable[Values]) -> list[Values]:
    return sorted(set(values), key=lambda each: [position(value) for value in each])


def _beside(one: Cell, figure: Published | None) -> Cell:
    if figure is None:
        return one
    ours = None if one.mean is None else one.mean - figure.value
    return replace(one, published=figure.value, published_difference=ours)

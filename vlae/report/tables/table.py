"""A table of many runs: rows and columns by any keys, one metric in each cell, a caption and notes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vlae.config.problems import shown
from vlae.errors import UserError
from vlae.report.filter import is_number, matching
from vlae.report.metric_values import COMMON, OWN, of_estimator
from vlae.report.names import key_of, near_or_some, position, short
from vlae.report.runs import LeftOut, Run, Runs
from vlae.report.tables.captions import caption, damage_notes, no_runs, notes, provenance
from vlae.report.tables.cells import Cell, Values, cell, with_metric
from vlae.report.tables.groups import Groups, group_by_cell, separating_keys
from vlae.report.tables.published import published
from vlae.report.tables.ranking import rank

COLUMNS = ("dataset.name", "output_dist.name")


@dataclass(frozen=True)
class Table:
    """The content of a table, in whatever format it is written."""

    title: str
    metric: str
    row_keys: tuple[str, ...]
    column_keys: tuple[str, ...]
    rows: tuple[Values, ...]
    columns: tuple[Values, ...]
    cells: tuple[Cell, ...]
    """One for each row and column that have runs."""
    expected: int
    """The number of runs of the largest cell; cells with fewer values show their n."""
    caption: str
    notes: tuple[str, ...]
    provenance: str
    """The code that made the metrics."""
    unread: tuple[LeftOut, ...] = ()
    """Runs that were compared without their results of each test image, which cannot be read."""


def table(
    runs: Runs,
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
    literature: bool = False,
) -> Table:
    """The table of one metric of these runs.

    metric: None: the log-likelihood that `default_metric` chooses.
    rows: None: the keys of `row_keys_of`, so that every setting that was varied has a row.
    columns: None: dataset and output distribution. A key that is asked for on one side is no default of the other.
    where: a condition, such as ``seed<3 and model=vae``.
    literature: with published values beside ours.
    UserError: a key, metric or run that is asked for does not exist, or settings that differ in more than the seed
    would share a cell.
    """
    chosen = choose_runs(runs, where)
    sides = _sides(chosen, runs, rows, columns)
    return _table(chosen, choose_metric(chosen, metric), *sides, literature)


def _table(
    chosen: Runs, metric: str, row_keys: Sequence[str], column_keys: Sequence[str], literature: bool
) -> Table:
    groups = group_by_cell(chosen, row_keys, column_keys)
    done = {place: with_metric(group, metric) for place, group in groups.items()}
    rows_found, columns_found = (_ordered(values) for values in zip(*groups, strict=True))
    cells, unread = _cells(groups, done, rows_found, columns_found, metric)
    if literature:
        cells = _with_published(cells, groups, metric)
    counted = [run for group in done.values() for run in group]
    found = notes(metric, cells, groups, [*row_keys, *column_keys], literature)
    found += [*damage_notes(chosen.left_out, unread), *filter(None, [chosen.note])]
    return Table(
        chosen.title,
        metric,
        tuple(row_keys),
        tuple(column_keys),
        tuple(rows_found),
        tuple(columns_found),
        tuple(cells),
        max(one.runs for one in cells),
        caption(metric, cells, counted),
        tuple(found),
        provenance(counted),
        unread,
    )


def _cells(
    groups: Groups,
    done: Mapping[tuple[Values, Values], list[Run]],
    rows: Sequence[Values],
    columns: Sequence[Values],
    metric: str,
) -> tuple[list[Cell], tuple[LeftOut, ...]]:
    """The cells by row, then column, each compared with the best of its column; the runs whose images are unreadable.

    Within a column the order is that of the rows: of two equally good cells the best is the same from any source.
    """
    unread: dict[LeftOut, None] = {}
    compared: dict[tuple[Values, Values], Cell] = {}
    for column in columns:
        places = [(row, column) for row in rows if (row, column) in groups]
        of_column = [(cell(*place, groups[place], done[place], metric), done[place]) for place in places]
        compared |= dict(zip(places, rank(of_column, metric, unread.setdefault), strict=True))
    ordered = [compared[row, column] for row in rows for column in columns if (row, column) in compared]
    return ordered, tuple(unread)


def _with_published(cells: Sequence[Cell], groups: Groups, metric: str) -> list[Cell]:
    """The cells with published values beside ours. UserError: there are none."""
    known = [published(groups[one.row, one.column][0], metric) for one in cells]
    if not any(known):
        raise UserError(f"--published: nothing that was published is a {metric} of these models and data")
    return [
        one
        if value is None
        else replace(
            one,
            published=value.value,
            published_difference=None if one.mean is None else one.mean - value.value,
        )
        for one, value in zip(cells, known, strict=True)
    ]


def default_metric(runs: Iterable[Run]) -> str:
    """The log-likelihood by an estimator that is the same for all models, if all runs that are done have it.

    The estimate with each model's own q compares models together with their proposals, so it is the last choice.
    UserError: there is no estimator that all runs have.
    """
    done = [run for run in runs if run.metrics is not None]
    for estimator in (*COMMON, OWN):
        metric = of_estimator(estimator)
        if all(metric in (run.metrics or {}) for run in done):
            return metric
    raise UserError(
        "--metric: no estimator of the log-likelihood is common to all runs; choose a metric, or some of the runs by "
        "--where"
    )


def choose_runs(runs: Runs, where: str) -> Runs:
    """The runs for which a condition holds. UserError: there are none."""
    if not runs.runs:
        raise UserError(no_runs(runs.title, runs.left_out))
    return matching(runs, where) if where else runs


def choose_metric(runs: Runs, given: str | None) -> str:
    """The metric of this name; None: the default. UserError: no run has it, or none has it as a number."""
    known = runs.metrics()
    if given is not None and given not in known and known:
        numbers = [key for key in known if any(is_number(run.value(key)) for run in runs.runs)]
        raise UserError(f"--metric: no run has a metric {given!r}{near_or_some(given, numbers)}")
    metric = default_metric(runs.runs) if given is None else given
    values = [(run.id, value) for run in runs.runs if (value := run.value(metric)) is not None]
    if values and not any(is_number(value) for _, value in values):
        raise UserError(f"--metric: expected a number, {metric} is {shown(values[0][1])} in {values[0][0]}")
    return metric


def full_keys(given: Sequence[str], runs: Runs, option: str) -> list[str]:
    """The keys in full, each once: ``model.name`` for ``model``. UserError: no run has one of them."""
    known = runs.all_keys()
    return list(dict.fromkeys(key_of(key, known, option) for key in given))


def _sides(
    chosen: Runs, runs: Runs, rows: Sequence[str] | None, columns: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The keys of rows and of columns. UserError: one is in both, which would leave all cells but a diagonal empty."""
    row_keys = full_keys(rows, runs, "--rows") if rows else model_keys_of(chosen)
    column_keys = full_keys(columns or COLUMNS, runs, "--cols")
    both = [key for key in row_keys if key in column_keys]
    if both and not columns:
        column_keys = [key for key in column_keys if key not in both]
    elif both and not rows and len(both) < len(row_keys):
        row_keys = [key for key in row_keys if key not in both]
    elif both:
        raise UserError(
            f"--cols: expected keys that the rows have not, got {', '.join(map(short, both))}, which --rows has"
            f"{'' if rows else ' by default'}, too"
        )
    return row_keys if rows else row_keys_of(chosen, row_keys, column_keys), column_keys


def row_keys_of(
    runs: Runs, first: Sequence[str] | None = None, column_keys: Sequence[str] = COLUMNS
) -> list[str]:
    """The default keys of rows, in tables, figures and reports alike.

    These are the keys that name a model, then those that give every setting that was varied a row.
    first: the keys that name a model; None: `model_keys_of`.
    """
    keys = list(model_keys_of(runs) if first is None else first)
    return list(dict.fromkeys([*keys, *separating_keys(runs, keys, column_keys)]))


def model_keys_of(runs: Runs) -> list[str]:
    """The keys that name a model: T is one of them where a model has several."""
    kinds = {(run.value("model.name"), run.value("T")) for run in runs.runs if run.value("T") is not None}
    several = len(kinds) > len({model for model, _ in kinds})
    return ["model.name", "T"] if several else ["model.name"]


def _ordered(values: Iterable[Values]) -> list[Values]:
    return sorted(set(values), key=lambda each: [position(value) for value in each])

"""A table of many runs: rows and columns by any keys, one metric in each cell, a caption and notes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlae.errors import UserError
from vlae.report.filter import choose_metric, choose_runs
from vlae.report.runs import LeftOut, Runs
from vlae.report.tables.captions import CALIBRATION, damage_notes, notes, provenance
from vlae.report.tables.captions import caption as caption_of
from vlae.report.tables.cells import Cell, cell, coverage_of, with_claims, with_metric
from vlae.report.tables.groups import Groups, Values, differing_rows, group_by_cell, keys_of, sides
from vlae.report.tables.published import with_published
from vlae.report.tables.ranking import Unread, rank


@dataclass(frozen=True)
class Table:
    """The content of a table, in whatever format it is written.

    >>> from vlae.report.runs import Run
    >>> settings = {"model.name": "vae", "dataset.name": "digits", "output_dist.name": "gaussian"}
    >>> both = [Run(f"s{s}", "", settings | {"seed": s}, "done", "", {"test.elbo": -80.0 - s}) for s in (0, 1)]
    >>> make_table(Runs("a sweep", tuple(both)), metric="test.elbo").cells[0].estimate()
    '-80.50 ± 0.50'
    """

    title: str
    metric: str
    row_keys: tuple[str, ...]
    column_keys: tuple[str, ...]
    rows: tuple[Values, ...]
    columns: tuple[Values, ...]
    cells: tuple[Cell, ...]  # one for each row and column that have runs
    expected: int  # the number of runs of the largest cell; cells with fewer values show their n
    caption: str
    notes: tuple[str, ...]
    provenance: str  # the code that made the metrics
    unread: tuple[LeftOut, ...] = ()  # compared without their results of test images, which are unreadable


def make_table(
    runs: Runs,
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
    published: bool = False,
    calibration: bool = False,
    caption: str | None = None,
) -> Table:
    """The table of one metric of these runs.

    metric: None: the log-likelihood that `vlae.report.filter.default_metric` chooses.
    rows: None: those of `vlae.report.tables.groups.row_keys_of`, so that every setting that was varied has a row.
    columns: None: dataset and output distribution. A key that is asked for on one side is no default of the other.
    where: a condition, such as ``seed<3 and model=vae``.
    published: with published values beside ours. calibration: with the coverage of posteriors.
    caption: None: the one that says what the numbers are.
    UserError: a key, metric or run that is asked for does not exist, or settings that differ in more than the seed
    would share a cell.
    """
    chosen = choose_runs(runs, where)
    metric = choose_metric(chosen, metric)
    chosen = chosen.newest_complete(metric).scored_for(metric)
    row_keys, column_keys = keys_of(chosen, runs, rows, columns)
    groups = group_by_cell(chosen, row_keys, column_keys)
    unread: Unread = {}
    cells = _cells(groups, metric, unread)
    found = [*notes(metric, cells, groups, column_keys), *differing_rows(groups, [*row_keys, *column_keys])]
    if published:
        cells, sources = with_published(cells, [groups[one.row, one.column][0] for one in cells], metric)
        found += sources
    if calibration:
        cells = _with_coverage(cells, groups, metric)
        found.append(CALIBRATION)
    found += [*damage_notes(chosen.left_out, (*unread.values(),)), *filter(None, [chosen.note])]
    counted = with_metric(chosen.runs, metric)
    sides_of = tuple(row_keys), tuple(column_keys), *sides(groups)
    written = caption_of(metric, cells, counted) if caption is None else caption
    texts = written, tuple(found), provenance(counted)
    expected = max(one.runs for one in cells)
    return Table(chosen.title, metric, *sides_of, tuple(cells), expected, *texts, (*unread.values(),))


def table_or_reason(runs: Runs) -> tuple[Table | None, str]:
    """The default table of these runs, or the reason why there is none."""
    try:
        return make_table(runs), ""
    except UserError as error:
        return None, str(error)


def _with_coverage(cells: Sequence[Cell], groups: Groups, metric: str) -> list[Cell]:
    """The cells with the coverage of their posteriors. UserError: no cell has one."""
    runs = [with_metric(groups[one.row, one.column], metric) for one in cells]
    found = [replace(one, coverage=coverage_of(own)) for one, own in zip(cells, runs, strict=True)]
    if not any(one.coverage for one in found):
        raise UserError("--calibration: no run has one; it needs evaluate.bracket.num_images, which was 0")
    return found


def _cells(groups: Groups, metric: str, unread: Unread) -> list[Cell]:
    """The cells by row, then column, each compared with the best of its column.

    Within a column the order is that of the rows: of two equally good cells the best is the same from any source.
    """
    rows, columns = sides(groups)
    compared: dict[tuple[Values, Values], Cell] = {}
    for column in columns:
        places = [(row, column) for row in rows if (row, column) in groups]
        done = [with_metric(groups[place], metric) for place in places]
        found = [cell(*place, groups[place], own, metric) for place, own in zip(places, done, strict=True)]
        ranked = with_claims(rank([*zip(found, done, strict=True)], metric, unread))
        compared |= zip(places, ranked, strict=True)
    return [compared[row, column] for row in rows for column in columns if (row, column) in compared]

"""The configurations of a report: runs whose settings are the same but for the seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlae.report.names import position
from vlae.report.runs import Run, Runs
from vlae.report.tables.cells import Values
from vlae.report.tables.groups import group_by_cell
from vlae.report.tables.layout import name_of
from vlae.report.tables.table import COLUMNS


@dataclass(frozen=True)
class Model:
    """A row of the table in one of its columns: a model with its settings."""

    name: str
    row: Values
    column: Values
    runs: tuple[Run, ...]
    """By seed."""


def models(runs: Runs, keys: Sequence[str]) -> list[Model]:
    """The configurations of these runs, in the order of the table."""
    groups = group_by_cell(runs, keys, COLUMNS)
    several = len({column for _, column in groups}) > 1
    places = sorted(groups, key=lambda place: [position(value) for value in (*place[1], *place[0])])
    return [
        Model(
            _name(keys, row) + (f" ({name_of(COLUMNS, column)})" if several else ""),
            row,
            column,
            tuple(sorted(groups[row, column], key=lambda run: (position(run.value("seed")), run.id))),
        )
        for row, column in places
    ]


def _name(keys: Sequence[str], row: Values) -> str:
    return name_of(keys, row) or "unknown model"

"""The configurations of a report: runs whose settings are the same but for the seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlae.report.names import position
from vlae.report.runs import Run, Runs
from vlae.report.tables.cells import Values
from vlae.report.tables.groups import placed
from vlae.report.tables.layout import named
from vlae.report.tables.table import COLUMNS


@dataclass(frozen=True)
class Model:
    """A row of the table in one of its columns: a model with its settings."""

    name: str
    row: Values
    column: Values
    runs: tuple[Run, ...]
    """By seed."""

    @property
    def readable(self) -> list[Run]:
        return [run for run in self.runs if run.readable]


def models(runs: Runs, keys: Sequence[str]) -> list[Model]:
    """In the order of the table."""
    groups = placed(runs, keys, COLUMNS).groups
    several = len({column for _, column in groups}) > 1
    places = sorted(groups, key=lambda place: [position(value) for value in (*place[1], *place[0])])
    return [
        Model(
            _name(keys, row) + (f" ({named(COLUMNS, column)})" if several else ""),
            row,
            column,
            tuple(sorted(groups[row, column], key=lambda run: (position(run.value("seed")), run.id))),
        )
        for row, column in places
    ]


def _name(keys: Sequence[str], row: Values) -> str:
    return named(keys, row) or "unknown model"

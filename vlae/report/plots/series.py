"""Panels, each with a dataset, and their series: runs that differ in their seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlae.report.names import position
from vlae.report.plots.style import Style, filling, style_of
from vlae.report.runs import Run, Runs
from vlae.report.tables.groups import group_by_cell
from vlae.report.tables.layout import name_of


@dataclass(frozen=True)
class Series:
    """One line, or one point."""

    label: str
    """``VLAE, T = 4``"""
    model: str
    variant: int
    """The number of its settings among those of the same model in the figure."""
    runs: tuple[Run, ...]
    """By seed."""

    @property
    def style(self) -> Style:
        return style_of(self.model)

    @property
    def filling(self) -> str:
        return filling(self.variant)


@dataclass(frozen=True)
class Panel:
    """One dataset and output distribution."""

    title: str
    series: tuple[Series, ...]


def panels(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> list[Panel]:
    """Series by ``row_keys``, panels by ``column_keys``. UserError: a series would have more than one setting."""
    groups = group_by_cell(runs, row_keys, column_keys)
    variants: dict[str, list[object]] = {}
    places = sorted(groups, key=lambda place: [[position(value) for value in part] for part in place])
    for row, column in places:
        of_model = variants.setdefault(_model(groups[row, column][0]), [])
        if row not in of_model:
            of_model.append(row)
    found: dict[str, list[Series]] = {}
    for row, column in sorted(places, key=lambda place: [position(value) for value in place[1]]):
        group = sorted(groups[row, column], key=lambda run: run.settings["seed"])
        model = _model(group[0])
        label, variant = name_of(row_keys, row), variants[model].index(row)
        series = Series(label or "all runs", model, variant, tuple(group))
        found.setdefault(name_of(column_keys, column), []).append(series)
    return [Panel(title, tuple(series)) for title, series in found.items()]


def _model(run: Run) -> str:
    return str(run.value("model.name"))

"""What a report tells, as HTML."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlae.report.html.assets import FILES, licences, policy, scripts, styles
from vlae.report.html.content import Content
from vlae.report.html.models import Model
from vlae.report.metric_values import what_and_estimator
from vlae.report.plots.style import on_screen, style_of
from vlae.report.runs import Run
from vlae.report.tables.cells import Values, amount
from vlae.report.tables.html import table_of
from vlae.report.tables.layout import named
from vlae.report.tables.table import COLUMNS
from vlae.system.streams import visible


def page(told: Content) -> str:
    """Opens anywhere, without a network. Names and messages are text, whatever characters they have."""
    environment = Environment(
        loader=FileSystemLoader(FILES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["figure"] = _figure
    drawn = {
        **told.curves.data,
        "models": [model.name for model in told.models],
        **_columns(told.models),
        **_looks(told.models),
        "shown": told.curves_shown,
    }
    written = environment.get_template("report.html.jinja").render(
        told=told,
        table=table_of(told.table, sortable=True) if told.table else None,
        estimator=what_and_estimator(told.metric)[1],
        curves=drawn,
        policy=policy(),
        scripts=scripts(),
        styles=styles(),
        licences=licences(),
    )
    return visible(written)  # no name reorders what is read


def _columns(found: Sequence[Model]) -> dict[str, list[Any]]:
    """The data sets with their outputs, one of which is drawn at a time, and the number of each model's."""
    columns = list(dict.fromkeys(model.column for model in found))
    return {
        "columns": [named(COLUMNS, column) for column in columns],
        "column": [columns.index(model.column) for model in found],
    }


def _looks(found: Sequence[Model]) -> dict[str, list[Any]]:
    """Of their curves: the colour of a model is that of the figures, and its settings are numbered."""
    names = [str((model.readable or model.runs)[0].settings.get("model.name")) for model in found]
    rows: dict[str, list[Values]] = {}
    for name, model in zip(names, found, strict=True):
        of_model = rows.setdefault(name, [])
        if model.row not in of_model:
            of_model.append(model.row)
    return {
        "colours": [on_screen(style_of(name).color) for name in names],
        "variants": [rows[name].index(model.row) for name, model in zip(names, found, strict=True)],
    }


def _figure(run: Run, key: str) -> str:
    value = amount(run, key)
    return "" if value is None else f"{value:.2f}"

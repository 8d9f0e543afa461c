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
from vlae.report.tables.cells import Values, number_of
from vlae.report.tables.html import table_of
from vlae.report.tables.layout import name_of
from vlae.report.tables.table import COLUMNS
from vlae.system.streams import visible


def page(content: Content) -> str:
    """The HTML file, which opens anywhere without a network. Names and messages are escaped."""
    environment = Environment(
        loader=FileSystemLoader(FILES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = _number
    curves = {
        **content.curves.data,
        "models": [model.name for model in content.models],
        **_columns(content.models),
        **_looks(content.models),
        "shown": content.curves_shown,
    }
    written = environment.get_template("report.html.jinja").render(
        content=content,
        table=table_of(content.table, sortable=True) if content.table else None,
        estimator=what_and_estimator(content.metric)[1],
        curves=curves,
        policy=policy(),
        scripts=scripts(),
        styles=styles(),
        licences=licences(),
    )
    return visible(written)  # no name reorders what is read


def _columns(found: Sequence[Model]) -> dict[str, list[Any]]:
    """The datasets with their outputs, one of which is drawn at a time, and the one of each model."""
    columns = list(dict.fromkeys(model.column for model in found))
    return {
        "columns": [name_of(COLUMNS, column) for column in columns],
        "column": [columns.index(model.column) for model in found],
    }


def _looks(found: Sequence[Model]) -> dict[str, list[Any]]:
    """The look of curves: the colour of a model is that of the figures, and its settings are numbered."""
    names = [str(model.runs[0].settings.get("model.name")) for model in found]
    rows: dict[str, list[Values]] = {}
    for name, model in zip(names, found, strict=True):
        of_model = rows.setdefault(name, [])
        if model.row not in of_model:
            of_model.append(model.row)
    return {
        "colours": [on_screen(style_of(name).color) for name in names],
        "variants": [rows[name].index(model.row) for name, model in zip(names, found, strict=True)],
    }


def _number(run: Run, key: str) -> str:
    value = number_of(run, key)
    return "" if value is None else f"{value:.2f}"

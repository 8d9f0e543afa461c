"""The formats of a table: CSV and JSON for programs, which lose nothing; the others for readers."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text as RichText

from vlae.errors import UserError
from vlae.report.runs import Runs
from vlae.report.tables.cells import Cell
from vlae.report.tables.latex import tex
from vlae.report.tables.layout import Layout, Text, layout
from vlae.report.tables.table import Table, make_table
from vlae.report.tables.wording import Name, Wording
from vlae.system.streams import visible

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # prefixes of a text that a spreadsheet executes
FIELDS = tuple(field.name for field in fields(Cell) if field.name not in ("row", "column"))


def to_json(table: Table) -> str:
    """The fields of the table; numbers are exact."""
    return json.dumps(asdict(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(table: Table) -> str:
    """One line per cell: the values of its keys, then its other fields.

    A field that is no text is JSON. A text that would be read as something else, has line breaks, or begins like a
    formula of a spreadsheet (with =, +, - or @) is a JSON string. An empty field is a missing value.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_field, (*table.row_keys, *table.column_keys, *FIELDS)))
    for cell in table.cells:
        values = (getattr(cell, name) for name in FIELDS)
        known = (None if value in ("", ()) else value for value in values)
        writer.writerow(map(_field, (*cell.row, *cell.column, *known)))
    return buffer.getvalue()


def _field(value: Any) -> str:
    if value is None:
        return ""
    quoted = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str) or not value.isprintable() or value.strip().startswith(FORMULA):
        return quoted
    try:
        json.loads(value)
    except ValueError:  # so that a reader that tries JSON first takes it for this text
        return value or quoted
    return quoted


def markdown(layout: Layout) -> str:
    """A pipe table; special characters of Markdown and HTML are escaped."""
    aligned = ["---", *["---:"] * (len(layout.header) - 1)]
    lines = [
        [*map(_escape, layout.header)],
        aligned,
        *([*map(_markdown_cell, line)] for line in layout.lines),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = [(f"<sup>{mark}</sup> " if mark else "") + _escape(note) for mark, note in layout.all_notes]
    return "\n\n".join([table, _escape(layout.table.caption), *notes]) + "\n"


def _markdown_cell(text: Text) -> str:
    shown = _escape(text.text)
    marks = f"<sup>{','.join(text.marks)}</sup>" if text.marks else ""
    return (f"**{shown}**" if text.bold else shown) + marks


def _escape(text: str) -> str:
    return escape(re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text), quote=False).replace("\n", " ")


def in_terminal(layout: Layout, *, plain: bool = False) -> Group:
    """The table for rich. plain: with bold metrics in asterisks, for where nothing can be bold."""
    table = RichTable(title=RichText(layout.table.title), title_justify="left")
    for i, name in enumerate(layout.header):
        table.add_column(RichText(name), justify="right" if i else "left", overflow="fold")
    for line in layout.lines:
        table.add_row(*(_terminal_cell(text, plain) for text in line))
    notes = [RichText(f"{mark} {note}" if mark else note) for mark, note in layout.all_notes]
    return Group(table, RichText(layout.table.caption), *notes)


def _terminal_cell(text: Text, plain: bool) -> RichText:
    shown = f"**{text.text}**" if text.bold and plain else text.text
    styled = RichText(shown, style="bold" if text.bold and not plain else "")
    return styled.append(" " + ",".join(text.marks)) if text.marks else styled


def html(layout: Layout) -> str:
    """A page that needs nothing else. Names are text, whatever characters they have."""
    return visible(_environment(autoescape=True).get_template("page.html.jinja").render(layout=layout))


def sortable_html(table: Table) -> str:
    """The table with its notes, as a part of a page, and with the numbers, for a script that sorts by them."""
    template = _environment(autoescape=True).get_template("table.html.jinja")
    return template.render(layout=layout(table), sortable=True)


def _environment(*delimiters: Any, autoescape: bool = False) -> Any:
    from jinja2 import Environment, FileSystemLoader  # takes longer to import than a table to make

    loader = FileSystemLoader(Path(__file__).parent / "files")
    return Environment(*delimiters, autoescape=autoescape, keep_trailing_newline=True, loader=loader)


def latex(layout: Layout) -> str:
    """The LaTeX of a table: a file that compiles by itself, and that a paper includes by \\input.

    It needs booktabs and graphicx. A table wider than the text is scaled down to its width.
    """
    environment = _environment("<%", "%>", "<<", ">>", "<#", "#>")
    environment.filters |= {"tex": tex, "cell": _tex_cell, "comment": comment, "label": label_of}
    environment.filters["name"] = lambda text: layout.latex.get(text) or tex(text)
    return environment.get_template("table.tex.jinja").render(layout=layout)


def _tex_cell(text: Text) -> str:
    marks = rf"\textsuperscript{{{tex(','.join(text.marks))}}}" if text.marks else ""
    return (rf"\textbf{{\boldmath {tex(text.text)}}}" if text.bold else tex(text.text)) + marks


def label_of(layout: Layout) -> str:
    """The label of the table in LaTeX: its own, or of sweep and metric, as ``tab:smoke-log-likelihood-laplace``."""
    if layout.label is not None:
        return layout.label
    metric = layout.table.metric.removeprefix("test.").removesuffix(".mean").replace(".", " ")
    words = re.findall(r"[A-Za-z0-9.]+", f"{layout.table.title} {metric}")
    return "tab:" + "-".join(words)


def comment(text: str) -> str:
    """One line of printable ASCII, since a comment ends where its line does."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


def _of_layout(write: Callable[[Layout], str]) -> "Callable[..., str]":
    return lambda table, *how: write(layout(table, *how))


FORMATS: dict[str, Callable[..., str]] = {  # of a table, decimals, transposed or not, a Wording
    "markdown": _of_layout(markdown),
    "latex": _of_layout(latex),
    "html": _of_layout(html),
    "csv": lambda table, *how: to_csv(table),
    "json": lambda table, *how: to_json(table),
}


def table_text(
    runs: Runs,
    format: str,
    decimals: int,
    names: Mapping[str, str],
    label: str | None = None,
    **asked: Any,
) -> str:
    """The table of these runs as text in one of FORMATS. UserError: there is no such format.

    names, label: see `Wording`.
    """
    if format not in FORMATS:
        raise UserError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    wording = Wording({old: Name(new) for old, new in names.items()}, label)
    return FORMATS[format](make_table(runs, **asked), decimals, False, wording)

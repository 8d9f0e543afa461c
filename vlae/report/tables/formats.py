"""The formats of a table: CSV and JSON for programs, which lose nothing; Markdown, LaTeX and HTML for readers."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from vlae.report.tables.cells import Cell
from vlae.report.tables.layout import Layout, Text, layout
from vlae.report.tables.table import Table

Write = Callable[[Table, int, bool], str]
"""Table, decimals, transposed or not; CSV and JSON ignore the last two."""


def to_json(table: Table) -> str:
    """The fields of the table; numbers are exact."""
    return json.dumps(asdict(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""Prefixes of a text that a spreadsheet executes, wide ones included."""
FIELDS = tuple(field.name for field in fields(Cell) if field.name not in ("row", "column"))


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
        known = (None if value == "" else value for value in values)
        writer.writerow(map(_field, (*cell.row, *cell.column, *known)))
    return buffer.getvalue()


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and value.isprintable() and _is_text(value):
        return json.dumps(value, ensure_ascii=False) if value.strip().startswith(FORMULA) else value
    return json.dumps(value, ensure_ascii=False)


def _is_text(value: str) -> bool:
    """Whether a reader that tries JSON first reads it as the same text."""
    try:
        return value != "" and json.loads(value) == value
    except ValueError:
        return True


def markdown(layout: Layout) -> str:
    """A pipe table; special characters of Markdown and HTML are escaped."""
    header = [_escaped(name) for name in layout.header]
    lines = [
        header,
        ["---", *["---:"] * (len(header) - 1)],
        *([_marked(text) for text in line] for line in layout.lines),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = [
        f"<sup>{mark}</sup> {_escaped(note)}" if mark else _escaped(note) for mark, note in layout.all_notes
    ]
    return "\n\n".join([table, _escaped(layout.caption), *notes]) + "\n"


def _marked(text: Text) -> str:
    shown = _escaped(text.text)
    marks = f"<sup>{','.join(text.marks)}</sup>" if text.marks else ""
    return (f"**{shown}**" if text.bold else shown) + marks


def _escaped(text: str) -> str:
    for character in "\\`*_[]|#~$":
        text = text.replace(character, f"\\{character}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split("\n"))


def latex(layout: Layout) -> str:
    from vlae.report.tables.latex import latex

    return latex(layout)


def html(layout: Layout) -> str:
    from vlae.report.tables.html import html

    return html(layout)


def _for_readers(write: Callable[[Layout], str]) -> Write:
    return lambda table, decimals, transpose: write(layout(table, decimals, transpose))


FORMATS: dict[str, Write] = {
    "markdown": _for_readers(markdown),
    "latex": _for_readers(latex),
    "html": _for_readers(html),
    "csv": lambda table, decimals, transpose: to_csv(table),
    "json": lambda table, decimals, transpose: to_json(table),
}

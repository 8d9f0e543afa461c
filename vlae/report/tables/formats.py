"""A table written out: CSV and JSON for programs, which lose nothing, and what people read elsewhere."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from vlae.report.runs import LeftOut
from vlae.report.tables.cells import Cell, Values
from vlae.report.tables.layout import Layout, Text, layout
from vlae.report.tables.table import Table

Write = Callable[[Table, int, bool], str]
"""With so many decimals, transposed or not: what only readers need."""


def to_json(table: Table) -> str:
    """All of it; `from_json` gives an equal table."""
    return json.dumps(asdict(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Table:
    told = json.loads(text)
    told["cells"] = tuple(Cell(**_tuples(cell)) for cell in told["cells"])
    unread = tuple(LeftOut(*each) for each in told.pop("unread"))
    return Table(**_tuples(told), unread=unread)


def _tuples(told: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {key: _tuple(value) for key, value in told.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(entry) for entry in value) if isinstance(value, list) else value


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""With which text begins that a spreadsheet executes, wide ones included."""
FIGURES = tuple(field.name for field in fields(Cell) if field.name not in ("row", "column"))


def to_csv(table: Table) -> str:
    """One line per cell: the values of its keys, then all that is known of it. `from_csv` gives equal cells.

    A field is JSON where it is no text; text that would be read as something else, has line breaks, or begins like a
    formula of a spreadsheet (with =, +, - or @) is quoted as JSON has it; an empty field is what is missing.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_field, (*table.row_keys, *table.column_keys, *FIGURES)))
    for cell in table.cells:
        figures = (getattr(cell, name) for name in FIGURES)
        told = (None if value == "" else value for value in figures)
        writer.writerow(map(_field, (*cell.row, *cell.column, *told)))
    return buffer.getvalue()


def from_csv(text: str, row_keys: int) -> tuple[Cell, ...]:
    """row_keys: how many of the first columns name the row."""
    header, *lines = csv.reader(io.StringIO(text))
    keys = len(header) - len(FIGURES)
    cells = []
    for line in lines:
        values: Values = tuple(_value(field) for field in line)
        told = dict(zip(FIGURES, values[keys:], strict=True))
        told |= {name: told[name] or "" for name in ("missing", "images", "paired_over")}
        cells.append(Cell(values[:row_keys], values[row_keys:keys], **told))
    return tuple(cells)


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and value.isprintable() and _value(value) == value:
        return json.dumps(value, ensure_ascii=False) if value.strip().startswith(FORMULA) else value
    return json.dumps(value, ensure_ascii=False)


def _value(field: str) -> Any:
    if field == "":
        return None
    try:
        return json.loads(field)
    except ValueError:
        return field


def markdown(told: Layout) -> str:
    """A pipe table; of characters that mean something in Markdown or HTML none does."""
    header = [_escaped(name) for name in told.header]
    lines = [
        header,
        ["---", *["---:"] * (len(header) - 1)],
        *([_marked(text) for text in line] for line in told.lines),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = [
        f"<sup>{mark}</sup> {_escaped(note)}" if mark else _escaped(note) for mark, note in told.all_notes
    ]
    return "\n\n".join([table, _escaped(told.caption), *notes]) + "\n"


def _marked(text: Text) -> str:
    shown = _escaped(text.text)
    marks = f"<sup>{','.join(text.marks)}</sup>" if text.marks else ""
    return (f"**{shown}**" if text.bold else shown) + marks


def _escaped(text: str) -> str:
    for character in "\\`*_[]|#~$":
        text = text.replace(character, f"\\{character}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split("\n"))


def latex(told: Layout) -> str:
    from vlae.report.tables.latex import latex

    return latex(told)


def html(told: Layout) -> str:
    from vlae.report.tables.html import html

    return html(told)


def _for_readers(write: Callable[[Layout], str]) -> Write:
    return lambda table, decimals, transpose: write(layout(table, decimals, transpose))


FORMATS: dict[str, Write] = {
    "markdown": _for_readers(markdown),
    "latex": _for_readers(latex),
    "html": _for_readers(html),
    "csv": lambda table, decimals, transpose: to_csv(table),
    "json": lambda table, decimals, transpose: to_json(table),
}

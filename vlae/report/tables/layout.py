"""A table as lines of marked texts: what all formats for readers have in common."""

from dataclasses import dataclass
from string import ascii_lowercase

from vlae.estimation.reliability import MARK
from vlae.report.names import HOLE, group_name
from vlae.report.tables.cells import Cell, daggers
from vlae.report.tables.table import Table


@dataclass(frozen=True)
class Text:
    """The text of a cell, and how it is set."""

    text: str
    bold: bool = False
    marks: tuple[str, ...] = ()  # superscripts: the dagger, and letters of notes
    value: float | None = None  # the number that the text shows, if it shows one


@dataclass(frozen=True)
class Layout:
    """A header, and lines whose first text is their name."""

    header: tuple[str, ...]
    lines: tuple[tuple[Text, ...], ...]
    caption: str
    notes: tuple[tuple[str, str], ...]  # a mark, or an empty text, and the note
    provenance: str = ""  # the code that made the metrics: a comment, or the last note
    title: str = ""
    metric: str = ""

    @property
    def all_notes(self) -> tuple[tuple[str, str], ...]:
        """The notes, and the provenance as the last one."""
        return (*self.notes, ("", self.provenance)) if self.provenance else self.notes


def layout(table: Table, decimals: int = 2, transpose: bool = False) -> Layout:
    """transpose: the columns of the table become lines."""
    letters: dict[str, str] = {}
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    published = {cell.column for cell in table.cells if cell.published is not None}
    parts = {c: ("ours", "published", "difference") if c in published else ("",) for c in table.columns}
    marked = daggers(table.cells)
    by_row: list[list[Text]] = [[] for _ in table.rows]
    for row, texts in zip(table.rows, by_row, strict=True):
        for column, of_column in parts.items():
            texts += _texts(cells.get((row, column)), len(of_column), table, decimals, letters, marked)
    columns = [(group_name(table.column_keys, column), part) for column in parts for part in parts[column]]
    heads = [", ".join(filter(None, each)) for each in columns]
    names = [group_name(table.row_keys, row) for row in table.rows]
    if transpose:
        heads, names, by_row = names, heads, [list(line) for line in zip(*by_row, strict=True)]
    lines = tuple((Text(name), *line) for name, line in zip(names, by_row, strict=True))
    other = [(MARK, note[2:]) if note.startswith(f"{MARK} ") else ("", note) for note in table.notes]
    notes = (*((letter, reason) for reason, letter in letters.items()), *other)
    return Layout(("", *heads), lines, table.caption, notes, table.provenance, table.title, table.metric)


def _letter(letters: dict[str, str], reason: str) -> str:
    """The letter of a note: one for each reason, in the order of appearance."""
    number = len(letters)
    return letters.setdefault(reason, ascii_lowercase[number % 26] * (number // 26 + 1))


def _texts(
    cell: Cell | None, parts: int, table: Table, decimals: int, letters: dict[str, str], marked: bool
) -> list[Text]:
    """The cell, and beside it the published value and the difference where the column has them."""
    if cell is None:
        return [Text(HOLE, marks=(_letter(letters, "no such run"),)), *[Text("")] * (parts - 1)]
    marks = (MARK,) if cell.unreliable and marked else ()
    if cell.missing:
        marks = (*marks, _letter(letters, cell.missing))
    number = "" if cell.n in (0, table.expected) else f" (n = {cell.n})"
    texts = [Text(cell.estimate(decimals) + number, cell.as_good, marks, cell.mean)]
    for value, sign in ((cell.published, ""), (cell.published_difference, "+"))[: parts - 1]:
        texts.append(Text("" if value is None else f"{value:{sign}.{decimals}f}", value=value))
    return texts

"""A table as lines of marked texts: what all formats for readers have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase

from vlae.estimation.reliability import MARK
from vlae.report.names import spelling
from vlae.report.tables.cells import Cell, Values, daggers
from vlae.report.tables.table import Table

HOLE = "–"


@dataclass(frozen=True)
class Text:
    """The text of a cell, and how it is set."""

    text: str
    bold: bool = False
    marks: tuple[str, ...] = ()
    """Superscripts: the dagger, and letters of notes."""
    value: float | None = None
    """The number that the text shows, if it shows one."""


@dataclass(frozen=True)
class Layout:
    """A header, and lines whose first text is their name."""

    header: tuple[str, ...]
    lines: tuple[tuple[Text, ...], ...]
    caption: str
    notes: tuple[tuple[str, str], ...]
    """A mark, or an empty text, and the note."""
    provenance: str = ""
    """The code that made the metrics: a comment, or the last note where a format has no comments."""
    title: str = ""
    metric: str = ""

    @property
    def all_notes(self) -> tuple[tuple[str, str], ...]:
        """The notes, and the provenance as the last one."""
        return (*self.notes, ("", self.provenance)) if self.provenance else self.notes


@dataclass
class _Letters:
    """A letter for each reason, in the order of appearance."""

    given: dict[str, str] = field(default_factory=dict)

    def of(self, reason: str) -> str:
        number = len(self.given)
        letter = ascii_lowercase[number % 26] * (number // 26 + 1)
        return self.given.setdefault(reason, letter)


def layout(table: Table, decimals: int = 2, transpose: bool = False) -> Layout:
    """transpose: the columns of the table become lines."""
    letters, marked = _Letters(), daggers(table.cells)
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    parts = _parts(table)
    by_row = [
        [
            text
            for column, kinds in parts
            for text in _texts(cells.get((row, column)), kinds, table, decimals, letters, marked)
        ]
        for row in table.rows
    ]
    heads = [_head(table.column_keys, column, kind) for column, kinds in parts for kind in kinds]
    names = [name_of(table.row_keys, row) for row in table.rows]
    if transpose:
        heads, names, by_row = names, heads, [list(line) for line in zip(*by_row, strict=True)]
    lines = [(Text(name), *line) for name, line in zip(names, by_row, strict=True)]
    reasons = [(letter, reason) for reason, letter in letters.given.items()]
    other = [(MARK, note[2:]) if note.startswith(f"{MARK} ") else ("", note) for note in table.notes]
    notes = (*reasons, *other)
    return Layout(
        ("", *heads), tuple(lines), table.caption, notes, table.provenance, table.title, table.metric
    )


def name_of(keys: Sequence[str], values: Values) -> str:
    """``VLAE, T = 4``; keys without a value are skipped."""
    texts = [spelling(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    return ", ".join(texts) or (HOLE if keys else "")


def _parts(table: Table) -> list[tuple[Values, tuple[str, ...]]]:
    """Each column with its parts."""
    with_published = {cell.column for cell in table.cells if cell.published is not None}
    return [
        (column, ("ours", "published", "difference") if column in with_published else ("",))
        for column in table.columns
    ]


def _head(keys: Sequence[str], column: Values, kind: str) -> str:
    return ", ".join(filter(None, [name_of(keys, column), kind]))


def _texts(
    cell: Cell | None, kinds: Sequence[str], table: Table, decimals: int, letters: _Letters, marked: bool
) -> list[Text]:
    if cell is None:
        return [Text(HOLE, marks=(letters.of("no such run"),)), *[Text("")] * (len(kinds) - 1)]
    beside = [cell.published, cell.published_difference] if len(kinds) > 1 else []
    texts = [
        Text("" if value is None else f"{value:{sign}.{decimals}f}", value=value)
        for value, sign in zip(beside, ("", "+"), strict=False)
    ]
    return [_ours(cell, table, decimals, letters, marked), *texts]


def _ours(cell: Cell, table: Table, decimals: int, letters: _Letters, marked: bool) -> Text:
    marks = (MARK,) if cell.unreliable and marked else ()
    if cell.missing:
        marks = (*marks, letters.of(cell.missing))
    if cell.mean is None:
        return Text(HOLE, marks=marks)
    error = "" if cell.standard_error is None else f" ± {cell.standard_error:.{decimals}f}"
    number = "" if cell.n == table.expected else f" (n = {cell.n})"
    return Text(f"{cell.mean:.{decimals}f}{error}{number}", cell.as_good, marks, cell.mean)

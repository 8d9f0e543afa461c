"""A table as lines of marked texts: what all formats for readers have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import ascii_lowercase

from vlae.estimation.reliability import MARK
from vlae.report.names import HOLE, Values
from vlae.report.tables.cells import Cell, Coverage, daggers
from vlae.report.tables.latex import tex
from vlae.report.tables.table import Table
from vlae.report.tables.wording import PLAIN, Name, Wording

NO_RUN = "no such run"


@dataclass(frozen=True)
class Text:
    """The text of a cell, and how it is set."""

    text: str
    bold: bool = False
    marks: tuple[str, ...] = ()  # superscripts: the dagger, and letters of notes
    value: float | None = None  # the number that the text shows, if it shows one


@dataclass(frozen=True)
class Layout:
    """A table with its header, and its lines, whose first text is their name."""

    table: Table
    header: tuple[str, ...]
    lines: tuple[tuple[Text, ...], ...]
    notes: tuple[tuple[str, str], ...]  # a mark, or an empty text, and the note
    latex: Mapping[str, str] = field(default_factory=dict)  # the source of names that have one of their own
    label: str | None = None  # for LaTeX

    @property
    def all_notes(self) -> tuple[tuple[str, str], ...]:
        """The notes, and the provenance as the last one, for formats without comments."""
        return (*self.notes, ("", self.table.provenance)) if self.table.provenance else self.notes


def layout(table: Table, decimals: int = 2, transpose: bool = False, wording: Wording = PLAIN) -> Layout:
    """The lines of a table as readers see it. transpose: its columns become lines.

    UserError: ``wording`` has a name that the table has not.
    """
    sides = (table.row_keys, table.rows), (table.column_keys, table.columns)
    wording.check(*sides)
    rows, columns = (wording.in_order(*side) for side in sides)
    table = replace(table, rows=tuple(rows), columns=tuple(columns))
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    grid = [[cells.get((row, column)) for column in table.columns] for row in table.rows]
    missing = (cell.missing if cell else NO_RUN for line in grid for cell in line)
    reasons = enumerate(filter(None, dict.fromkeys(missing)))
    letters = {reason: ascii_lowercase[n % 26] * (n // 26 + 1) for n, reason in reasons}
    published = {cell.column for cell in table.cells if cell.published is not None}
    parts = {c: ("ours", "published", "difference") if c in published else ("",) for c in table.columns}
    measured = {c: _covered([cell for cell in table.cells if cell.column == c]) for c in table.columns}
    marked = daggers(table.cells)
    by_row: list[list[Text]] = [[] for _ in table.rows]
    for line, texts in zip(grid, by_row, strict=True):
        for cell, of_column in zip(line, parts.values(), strict=True):
            texts += _texts(cell, letters, marked, decimals, table.expected)[: len(of_column)]
        for cell, regions in zip(line, measured.values(), strict=True):
            texts += _coverage_texts(cell.coverage if cell else (), regions)
    named = {column: wording.name(table.column_keys, column) for column in table.columns}
    heads = _heads(named, parts) + _heads(named, measured)
    names = [wording.name(table.row_keys, row) for row in table.rows]
    latex = {name.text: name.latex for name in (*names, *heads) if name.latex}
    if transpose:
        heads, names, by_row = names, heads, [list(line) for line in zip(*by_row, strict=True)]
    lines = tuple((Text(name.text), *line) for name, line in zip(names, by_row, strict=True))
    other = [(MARK, note[2:]) if note.startswith(f"{MARK} ") else ("", note) for note in table.notes]
    notes = (*((letter, reason) for reason, letter in letters.items()), *other)
    return Layout(table, ("", *(head.text for head in heads)), lines, notes, latex, wording.label)


def _heads(columns: Mapping[Values, Name], parts: Mapping[Values, Sequence[str]]) -> list[Name]:
    """The heads of the parts of each column; those of the only column need no name."""
    alone, found = len(columns) == 1, []
    for column, name in columns.items():
        for part in parts[column]:
            if alone and part[-1:] == "%":
                found.append(Name(part))
            else:
                latex = name.latex and ", ".join(filter(None, (name.latex, tex(part))))
                found.append(Name(", ".join(filter(None, (name.text, part))), latex))
    return found


def _covered(cells: Sequence[Cell]) -> list[str]:
    """The posteriors and regions whose coverage these cells have."""
    return list(dict.fromkeys(map(_region, (each for cell in cells for each in cell.coverage))))


def _region(coverage: Coverage) -> str:
    return f"{coverage.posterior}, {coverage.percent} %"


def _coverage_texts(found: Sequence[Coverage], regions: Sequence[str]) -> list[Text]:
    """The coverage of these regions, ``0.53 ± 0.05``."""
    known = {_region(each): each for each in found}
    texts = []
    for each in map(known.get, regions):
        error = "" if each is None or each.standard_error is None else f" ± {each.standard_error:.2f}"
        texts.append(Text(HOLE) if each is None else Text(f"{each.share:.2f}{error}", value=each.share))
    return texts


def _texts(
    cell: Cell | None, letters: dict[str, str], marked: bool, decimals: int, expected: int
) -> list[Text]:
    """The cell, its published value, and the difference from that."""
    if cell is None:
        return [Text(HOLE, marks=(letters[NO_RUN],)), Text(""), Text("")]
    marks = (MARK,) if cell.unreliable and marked else ()
    if cell.missing:
        marks = (*marks, letters[cell.missing])
    number = "" if cell.n in (0, expected) else f" (n = {cell.n})"
    texts = [Text(cell.estimate(decimals) + number, cell.as_good, marks, cell.mean)]
    for value, sign in ((cell.published, ""), (cell.published_difference, "+")):
        texts.append(Text("" if value is None else f"{value:{sign}.{decimals}f}", value=value))
    return texts

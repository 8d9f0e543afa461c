"""A table in the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text as RichText

from vlae.report.tables.layout import Layout, Text


def in_terminal(layout: Layout, title: str, *, plain: bool = False) -> Group:
    """For rich. plain: with bold figures in asterisks, for where nothing can be bold."""
    table = RichTable(title=RichText(title), title_justify="left")
    for i, name in enumerate(layout.header):
        table.add_column(RichText(name), justify="right" if i else "left", overflow="fold")
    for line in layout.lines:
        table.add_row(*(_styled(text, plain) for text in line))
    notes = [RichText(f"{mark} {note}" if mark else note) for mark, note in layout.all_notes]
    parts: list[RenderableType] = [table, RichText(layout.caption), *notes]
    return Group(*parts)


def _styled(text: Text, plain: bool) -> RichText:
    bold, shown = text.bold and not plain, f"**{text.text}**" if text.bold and plain else text.text
    styled = RichText(shown, style="bold" if bold else "")
    return styled.append(" " + ",".join(text.marks)) if text.marks else styled

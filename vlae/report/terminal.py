"""A table in the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text as RichText

from vlae.report.layout import Layout, Text


def in_terminal(layout: Layout, title: str) -> Group:
    """For rich."""
    table = RichTable(title=RichText(title), title_justify="left")
    for i, name in enumerate(layout.header):
        table.add_column(RichText(name), justify="right" if i else "left", overflow="fold")
    for line in layout.lines:
        table.add_row(*map(_styled, line))
    notes = [RichText(f"{mark} {note}" if mark else note) for mark, note in layout.notes]
    parts: list[RenderableType] = [table, RichText(layout.caption), *notes]
    return Group(*parts)


def _styled(text: Text) -> RichText:
    styled = RichText(text.text, style="bold" if text.bold else "")
    return styled.append(" " + ",".join(text.marks)) if text.marks else styled

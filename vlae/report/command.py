"""``vlae table``: from run directories to a file or the terminal."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from vlae.errors import UserError
from vlae.files import StrPath, write_atomically
from vlae.report.collect import collect
from vlae.report.directories import RunDirectories
from vlae.report.formats import FORMATS
from vlae.report.keys import near
from vlae.report.layout import layout
from vlae.report.table import table
from vlae.report.terminal import in_terminal

TERMINAL = "terminal"


def print_table(
    runs_dir: StrPath,
    name: str | None,
    format: str,
    out: Path | None,
    *,
    decimals: int,
    transpose: bool,
    **asked: Any,
) -> None:
    """``asked``: the keywords of `table`. UserError: as there, or no such format, or a file that cannot be written."""
    choices = (TERMINAL, *FORMATS)
    if format not in choices:
        raise UserError(
            f"--format: expected one of {', '.join(choices)}, came {format!r}{near(format, choices)}"
        )
    found = table(collect(RunDirectories(runs_dir, name)), **asked)
    if format == TERMINAL:
        console = Console(highlight=False, file=io.StringIO() if out else None)
        console.print(in_terminal(layout(found, decimals, transpose), found.title))
        text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    else:
        text = FORMATS[format](found, decimals, transpose)
        if out is None:
            print(text, end="")
    if out is not None:
        write_atomically(out, text.encode("utf-8", "backslashreplace"))
        print(out)

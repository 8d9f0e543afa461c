"""``vlae table``: from run directories, or Weights & Biases, to a file or the terminal."""

import io
import sys
from pathlib import Path
from typing import Any

from vlae.cli.output_file import ending_of, refuse_unwritable
from vlae.errors import UserError
from vlae.report.names import near
from vlae.report.runs import Source, collect
from vlae.report.sources.run_directories import RunDirectories
from vlae.report.tables.captions import damage_notes
from vlae.report.tables.formats import FORMATS, in_terminal
from vlae.report.tables.layout import layout
from vlae.report.tables.table import table
from vlae.system.console import Console
from vlae.system.files import StrPath, write_output

TERMINAL = "terminal"
ENDINGS = {
    "txt": TERMINAL,
    "md": "markdown",
    "tex": "latex",
    "html": "html",
    "htm": "html",
    "csv": "csv",
    "json": "json",
}
"""What a file is written as, where no format is asked for."""


def print_table(
    runs_dir: StrPath,
    name: str | None,
    format: str | None,
    out: Path | None,
    *,
    decimals: int,
    transpose: bool,
    source: str | None = None,
    group: str | None = None,
    per_image: bool = False,
    **asked: Any,
) -> None:
    """``source``, ``group``, ``per_image``: of `source_of`; ``asked``: the keywords of `table`.

    format: None: that of the file's ending, else the terminal's.
    UserError: as there, or no such format, or a file that cannot be written.
    """
    format = _format(format, out)
    runs = collect(source_of(runs_dir, name, source, group, per_image))
    found = table(runs, **asked)
    if format == "csv":  # which has no notes
        for text in damage_notes(runs.left_out, found.unread):
            print(f"vlae: {text}", file=sys.stderr)
    if format == TERMINAL:
        console = Console(highlight=False, file=io.StringIO() if out else None)
        plain = not console.is_terminal
        console.print(in_terminal(layout(found, decimals, transpose), plain=plain))
        text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    else:
        text = FORMATS[format](found, decimals, transpose)
        if out is None:
            print(text, end="")
    if out is not None:
        write_output(out, text.encode("utf-8", "backslashreplace"))
        print(out)


def _format(asked: str | None, out: Path | None) -> str:
    """What is asked for, else what the name of the file asks for, else the terminal."""
    asked = ENDINGS.get(asked or "", asked)
    if asked is None:
        return ENDINGS[ending_of(out, tuple(ENDINGS))] if out is not None else TERMINAL
    choices = (TERMINAL, *FORMATS)
    if asked not in choices:
        raise UserError(
            f"--format: expected one of {', '.join(choices)}, got {asked!r}{near(asked, choices)}"
        )
    if out is not None:
        refuse_unwritable(out)
    return asked


def source_of(
    runs_dir: StrPath, name: str | None, source: str | None, group: str | None, per_image: bool
) -> Source:
    """Where the runs are read from. source: None (``runs_dir``) or ``wandb:ENTITY/PROJECT``."""
    if source is None:
        if group or per_image:
            raise UserError(
                f"{'--group' if group else '--per-image'}: goes with --from wandb:ENTITY/PROJECT; of run directories "
                "the sweep is named by itself: vlae table SWEEP"
            )
        return RunDirectories(runs_dir, name)
    kind, _, place = source.partition(":")
    parts = place.split("/")
    if kind != "wandb" or len(parts) > 2 or not all(parts):
        raise UserError(f"--from: expected wandb:ENTITY/PROJECT or wandb:PROJECT, got {source!r}")
    if name is not None:
        raise UserError(f"expected no name beside --from: the runs of a sweep there are --group {name}")
    from vlae.report.sources.wandb import WandbRuns

    return WandbRuns(place, group, per_image=per_image)

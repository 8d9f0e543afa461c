"""Checks of a file that is to be written, before anything is computed."""

import os
from collections.abc import Sequence
from pathlib import Path

from vlae.errors import UserError
from vlae.report.names import near
from vlae.system.disk import RecordError


def ending_of(out: Path, choices: Sequence[str]) -> str:
    """The ending of a file's name, without its dot. UserError: it is not a choice, or the file cannot be written."""
    ending = out.suffix.lower().removeprefix(".")
    if ending not in choices:
        raise UserError(
            f"--out: expected a file that ends in .{', .'.join(choices)}, got {str(out)!r}{near(ending, choices)}"
        )
    refuse_unwritable(out)
    return ending


def refuse_unwritable(out: Path) -> None:
    """UserError: the file cannot be written. Called before anything is computed."""
    if not out.name:
        raise UserError(f"--out: expected a file, got {str(out)!r}")
    if os.path.isdir(out):
        raise RecordError(f"cannot write {out}: it is a directory")
    if os.path.exists(out) and not os.path.isfile(out):
        raise RecordError(f"cannot write {out}: it is not a regular file")
    if not os.path.isdir(out.parent):
        raise RecordError(f"cannot write {out}: the directory {out.parent} does not exist")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise RecordError(f"cannot write {out}: no permission to write in {out.parent}")

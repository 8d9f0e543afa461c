"""Arguments and options that several commands have, and how their texts are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vlae.errors import UserError
from vlae.system.files import expanded


def path_parser(option: str) -> Callable[[str], str]:
    """Reads the path of an option, with ~ and environment variables replaced."""

    def read(text: str) -> str:
        if option == "--runs-dir" and not text:
            raise UserError(f"{option}: expected a directory, got ''")
        try:
            return expanded(text)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from error

    return read


def out_option(text: str) -> Any:
    """The option --out with this help. UserError: it is empty, which a Path takes for the directory that it is in."""

    def read(name: str | Path) -> Path:
        if name == "":
            raise UserError("--out: expected a file, got ''")
        return Path(path_parser("--out")(str(name)))

    return typer.Option("--out", parser=read, metavar="<path>", help=text)


def keys_of(option: str, text: str | None) -> list[str] | None:
    """The keys of an option. UserError: it is given, and has none."""
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise UserError(f"{option}: expected one or several comma-separated keys, got {text!r}")
    return keys


Run = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, a run id, or an id prefix.")]
RunsDir = Annotated[
    str, typer.Option(parser=path_parser("--runs-dir"), metavar="<path>", help="Where run directories are.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]

"""Arguments and options that several commands have, and the reading of their texts."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from vlae.errors import UserError
from vlae.report.output_file import ending_of
from vlae.system.files import expand_path


def path_parser(option: str) -> Callable[[str], str]:
    """The parser of an option's path: it replaces ~ and environment variables."""

    def read(text: str) -> str:
        if option == "--runs-dir" and not text:
            raise UserError(f"{option}: expected a directory, got ''")
        try:
            return expand_path(text)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from error

    return read


def out_option(text: str, *endings: str) -> Any:
    """The option --out with this help. UserError: it is empty, has none of these endings, or cannot be written."""

    def read(name: str | Path) -> Path:
        if name == "":  # which a Path takes for the current directory
            raise UserError("--out: expected a file, got ''")
        out = Path(path_parser("--out")(str(name)))
        if endings:
            ending_of(out, endings)
        return out

    return typer.Option("--out", parser=read, metavar="<path>", help=text)


def key_list(option: str, text: str | None) -> list[str] | None:
    """The keys of an option. UserError: it is given, and has none."""
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise UserError(f"{option}: expected one or several comma-separated keys, got {text!r}")
    return keys


Run = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, a run id, or an id prefix.")]
Runs = Annotated[
    str | None, typer.Argument(metavar="[SWEEP|PREFIX]", help="A sweep, or an id prefix; default: all runs.")
]
SEVERAL = "Sweeps, id prefixes, or paths of these or of directories of runs"
Sources = Annotated[
    list[str] | None, typer.Argument(metavar="[SWEEP|PREFIX]...", help=f"{SEVERAL}; default: all runs.")
]
RunsDir = Annotated[
    str, typer.Option(parser=path_parser("--runs-dir"), metavar="<path>", help="Where run directories are.")
]
Evaluation = Annotated[
    int | None,
    typer.Option(
        "--evaluation",
        metavar="N",
        help="The N-th launch of a sweep that was scored several times; default: the last.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Metric = Annotated[
    str | None,
    typer.Option(help="A metric: test.elbo, test.log_likelihood.own.mean, ... (see vlae metrics)."),
]
Rows = Annotated[str | None, typer.Option(help="Keys, comma-separated: model,T,optimizer.lr")]
Where = Annotated[str, typer.Option(help="Which runs: 'seed<3 and model in vae,vlae'")]
Published = Annotated[bool, typer.Option("--published", help="Published numbers beside ours.")]


def version_line() -> str:
    """The version, code and commit: ``vlae 0.1.0, code 0123456789ab, commit 0123456789ab, changed since``."""
    from vlae.runs.snapshot import code_description

    code = code_description()
    parts = [f"vlae {version('vlae')}", f"code {code['hash']}"]
    if code["commit"]:
        parts += [f"commit {code['commit'][:12]}", *(["changed since"] if code["changed"] else [])]
    return ", ".join(parts)

"""The log of a run."""

from typing import Annotated

import typer

from vlae.cli.options import Run, RunsDir
from vlae.system.streams import cannot_print


def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Continue until the run ends.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Print the log of a run's last attempt, its traceback included."""
    from vlae.launching.logs import print_log, run_of, stream_log

    def write(text: str) -> None:
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # progress bars of libraries, one per line
        print(text, end="", flush=True)
        if cannot_print():
            raise typer.Exit(2)

    (stream_log if follow else print_log)(run_of(runs_dir, run), write)

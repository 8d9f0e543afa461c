"""Cancelling of runs."""

import sys
from typing import Annotated

import typer

from vlae.cli.options import RunsDir


def cancel(
    name: Annotated[str, typer.Argument(metavar="SWEEP|RUN", help="A sweep, a run, or an id prefix.")],
    runs_dir: RunsDir = "runs",
) -> None:
    """Cancel runs that wait or are running.

    Those that wait do not start, those that are running save their state and end. The command that launched them
    resumes them later.
    """
    from vlae.launching.cancel import cancel
    from vlae.launching.status_table import select_runs

    title, labels = select_runs(runs_dir, name)
    cancelled = cancel(runs_dir, list(labels), lambda text: print(f"warning: {text}", file=sys.stderr))
    for run_id in cancelled:
        print(f"cancelled: {labels[run_id] or run_id}")
    print(f"{title}: {len(cancelled)} of {len(labels)} runs were waiting or running")

"""``vlae report``: from run directories to a file, or to Weights & Biases."""

from pathlib import Path

from vlae.cli.output_file import ending_of
from vlae.report.filter import choose_runs
from vlae.report.html.content import content
from vlae.report.html.page import page
from vlae.report.runs import collect
from vlae.report.sources.run_directories import RunDirectories
from vlae.system.files import StrPath, write_output


def write_report(runs_dir: StrPath, name: str | None, out: Path) -> None:
    """name: a sweep, an id prefix, or None for all runs.

    UserError: it means no runs, or ``out`` cannot be written.
    """
    ending_of(out, ("html", "htm"))
    source = RunDirectories(runs_dir, name)
    runs = choose_runs(collect(source))
    write_output(out, page(content(source.runs_dir, runs)).encode("utf-8", "backslashreplace"))


def publish_report(runs_dir: StrPath, name: str) -> str:
    """Write the report of a sweep to Weights & Biases, and return its URL.

    UserError: the name means no runs, or Weights & Biases cannot be reached.
    """
    from vlae.report.wandb_report import check_extra, publish

    check_extra(name)
    source = RunDirectories(runs_dir, name)
    return publish(source.runs_dir, choose_runs(collect(source)))

"""The report of runs, as one HTML file."""

from pathlib import Path

from vlae.report.filter import choose_runs
from vlae.report.html.content import content
from vlae.report.html.page import page
from vlae.report.runs import Runs
from vlae.system.files import StrPath, expanded, write_output


def write_report(runs: Runs, runs_dir: StrPath, out: Path) -> None:
    """Write the report of these runs. UserError: there are none, or the file cannot be written."""
    text = page(content(Path(expanded(runs_dir)).absolute(), choose_runs(runs)))
    write_output(out, text.encode("utf-8", "backslashreplace"))

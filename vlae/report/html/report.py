"""The report of runs, as one HTML file."""

from pathlib import Path

from vlae.report.filter import choose_runs
from vlae.report.html.content import content
from vlae.report.html.page import page
from vlae.report.output_file import ending_of
from vlae.report.sources.run_directories import collect_runs
from vlae.system.files import StrPath, expand_path, write_output


def write_report(name: str | None, runs_dir: StrPath, out: Path) -> None:
    """Write the report of the runs that ``name`` means. UserError: there are none, or the file cannot be written."""
    ending_of(out, ("html", "htm"))
    runs = choose_runs(collect_runs(name, runs_dir))
    text = page(content(Path(expand_path(runs_dir)).absolute(), runs))
    write_output(out, text.encode("utf-8", "backslashreplace"))

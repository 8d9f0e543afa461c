"""The report of runs as one HTML file, with the scripts and styles that it needs inside."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlae.report.filter import choose_runs
from vlae.report.html.content import content
from vlae.report.output_file import ending_of
from vlae.report.sources.run_directories import collect_runs, directory_of_all
from vlae.report.tables.captions import short_name
from vlae.report.tables.formats import sortable_html
from vlae.system.files import StrPath, write_output
from vlae.system.streams import visible

FILES = Path(__file__).parent / "files"
SCRIPTS = (
    "third_party/uPlot-1.6.32.min.js",
    "third_party/sortable-4.1.7.min.js",
    "third_party/sortable-a11y-4.1.7.min.js",
    "report.js",
)
STYLES = ("third_party/uPlot-1.6.32.min.css", "report.css")
LICENCES = {"uPlot 1.6.32": "uPlot-LICENSE", "sortable-tablesort 4.1.7": "sortable-LICENSE"}


def write_report(
    name: str | Sequence[str] | None, runs_dir: StrPath, out: Path, launch: int | None = None
) -> None:
    """Write the report of the runs that ``name`` means. UserError: there are none, or the file cannot be written.

    launch: as for `vlae.report.sources.run_directories.collect_runs`.
    """
    ending_of(out, ("html", "htm"))
    runs = choose_runs(collect_runs(name, runs_dir, launch))
    text = page(content(directory_of_all(runs, runs_dir), runs))
    write_output(out, text.encode("utf-8", "backslashreplace"))


def page(variables: SimpleNamespace) -> str:
    """The HTML file, which opens anywhere without a network. Names and messages are escaped."""
    environment = Environment(
        loader=FileSystemLoader(FILES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    scripts = [_read_file(name) for name in SCRIPTS]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    table = variables.table
    written = environment.get_template("report.html.jinja").render(
        content=variables,
        table=sortable_html(table) if table else None,
        metric=table.metric if table else "",
        metric_name=short_name(table.metric) if table else "log-likelihood",
        digests=digests,
        scripts=scripts,
        styles=[_read_file(name) for name in STYLES],
        licences={name: _read_file(f"third_party/{file}") for name, file in LICENCES.items()},
    )
    return visible(written)  # no name reorders what is read


def _read_file(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")

"""A report as HTML, with the scripts and styles that it needs inside."""

import base64
import hashlib
from pathlib import Path
from types import SimpleNamespace

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlae.report.metric_values import what_and_estimator
from vlae.report.tables.cells import number_of
from vlae.report.tables.formats import html_table
from vlae.report.tables.layout import layout
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


def page(content: SimpleNamespace) -> str:
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
    environment.filters["number"] = lambda run, key: "" if (n := number_of(run, key)) is None else f"{n:.2f}"
    scripts = [_read_file(name) for name in SCRIPTS]
    table = content.table
    written = environment.get_template("report.html.jinja").render(
        content=content,
        table=html_table(layout(table), sortable=True) if table else None,
        metric=table.metric if table else "",
        estimator=what_and_estimator(table.metric)[1] if table else "",
        policy=_policy(scripts),
        scripts=scripts,
        styles=[_read_file(name) for name in STYLES],
        licences={name: _read_file(f"third_party/{file}") for name, file in LICENCES.items()},
    )
    return visible(written)  # no name reorders what is read


def _policy(scripts: list[str]) -> str:
    """The content security policy: these scripts alone, and nothing from the network."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    own = f"script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def _read_file(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")

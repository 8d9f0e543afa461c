"""Two runs beside each other, as tables in the terminal."""

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from vlae.errors import UserError
from vlae.estimation.reliability import MARK
from vlae.report.compare import Comparison, setting_text
from vlae.report.names import HOLE
from vlae.report.runs import LeftOut, Run
from vlae.report.sources.run_rows import read_rows
from vlae.report.tables.captions import damage_notes
from vlae.report.tables.cells import is_unreliable, why_unreliable
from vlae.report.tables.significance import LEVEL
from vlae.runs.directory import find
from vlae.runs.metrics import unit
from vlae.system.files import StrPath


def comparable_run(runs_dir: StrPath, name: str) -> Run:
    """The run that a directory, an id or an id prefix means. UserError: there is none, or it cannot be read."""
    place = find(runs_dir, name).path
    [row] = read_rows(place.parent.absolute(), {place.name: ""})
    if isinstance(row, LeftOut):
        raise UserError(f"{place} cannot be compared: {row.because}")
    return row


def tables_of(comparison: Comparison) -> Group:
    """Tables of the two runs, of the settings that differ, and of their metrics."""
    one, other = comparison.one, comparison.other
    runs = _titled_table("Runs", "", "A", "B")
    runs.add_row("id", one.id, other.id)
    runs.add_row("state", *(f"{r.state} ({r.reason})" if r.reason else r.state for r in (one, other)))
    settings = _titled_table("Settings that differ", "key", "A", "B")
    for each in comparison.settings:
        settings.add_row(each.key, setting_text(each.one), setting_text(each.other))
    parts: list[RenderableType] = [runs, settings]
    if comparison.metrics:
        parts += [_table_of_metrics(comparison), Text(_explanation(comparison))]
    return Group(*parts)


def _titled_table(title: str, first: str, *others: str, justify: JustifyMethod = "left") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify=justify, overflow="fold")
    return table


def _table_of_metrics(comparison: Comparison) -> Table:
    names = ("A", "B", "A − B", f"{1 - LEVEL:.0%} interval", "p")
    table = _titled_table("Metrics", "metric", *names, justify="right")
    for each in comparison.metrics:
        tested, style = ("", "", ""), ""
        if d := each.difference:
            tested = f"{d.mean:+.3f}", "{:+.3f} to {:+.3f}".format(*d.interval), f"{d.p_value:.2g}"
            style = "bold" if d.significant else ""
        numbers = (_metric_text(each.key, run) for run in (comparison.one, comparison.other))
        table.add_row(each.key, *numbers, *tested, style=style)
    return table


def _metric_text(key: str, run: Run) -> str:
    value, mark = run.value(key), f" {MARK}" if is_unreliable(run, key) else ""
    if isinstance(value, float):
        return (f"{value:.3f}" if unit(key) == "nats" else f"{value:.4g}") + mark
    return HOLE if value is None else f"{value}{mark}"


def _explanation(comparison: Comparison) -> str:
    done = [run for run in (comparison.one, comparison.other) if run.metrics is not None]
    if len(done) < 2:
        return f"Only {done[0].id} is done, so there is no difference yet."
    parts = [
        f"Differences are paired over {comparison.images} test images, with a {1 - LEVEL:.0%} t-interval; bold: "
        "significant. They compare these two trained models; other seeds may give other differences"
        if comparison.images
        else "No metric is known for each image of both runs, so no difference could be tested"
    ]
    parts += [f"{run.id} was not scored on the test images" for run in done if not run.is_scored]
    parts += damage_notes((), comparison.unread)
    why = [why_unreliable(done, each.key) for each in comparison.metrics]
    if reasons := list(dict.fromkeys(filter(None, why))):
        parts.append(f"{MARK} unreliable estimate: {'; '.join(reasons)}")
    return ". ".join(parts) + "."

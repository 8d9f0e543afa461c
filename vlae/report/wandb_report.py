"""The report of a sweep on Weights & Biases: its table, curves, bars and pictures. Each call replaces it."""

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlae.report.html.provenance import commands_to_repeat
from vlae.report.names import group_name
from vlae.report.runs import UPDATES, Runs
from vlae.report.sources.wandb import Place, WandbError, connect, places_of, wandb_error
from vlae.report.tables.captions import UNIT, metric_name
from vlae.report.tables.formats import FORMATS
from vlae.report.tables.groups import row_keys_of
from vlae.report.tables.table import Table, table_or_reason

PICTURES = ("reconstructions", "prior_samples")
OWN = "test.log_likelihood.own.mean"


def check_extra(name: str) -> None:
    """WandbError: the package that writes reports there is not installed."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        needs = "reports on Weights & Biases need wandb-workspaces: pip install 'vlae[reports]'"
        raise WandbError(f"{needs}; {_without_wandb(name)}")


def publish(runs_dir: Path, runs: Runs) -> str:
    """Create the report of a sweep on W&B, or replace its content; returns its URL.

    Errors: WandbError where W&B cannot be reached, or has nothing of these runs.
    """
    places, name = places_of(runs_dir, [run.id for run in runs.runs]), runs.title
    try:
        api = connect()
    except WandbError as error:
        raise WandbError(f"{error}; {_without_wandb(name)}") from error
    entity = places[0].entity or api.settings["entity"] or api.default_entity
    blocks = _blocks(runs_dir, runs, places, entity)
    try:
        return _save_report(api, entity, places[0].project, f"vlae: {name}"[:128], blocks)
    except Exception as error:
        if isinstance(error, ValueError) and "not found" in str(error):  # it asks for the project of its runs
            text = f"nothing of {name} is on Weights & Biases yet; `vlae sync {name}` uploads it"
            raise WandbError(f"{text} ({' '.join(str(error).split())})") from error
        raise wandb_error(error) from error


def _without_wandb(name: str) -> str:
    return f"vlae report {name} --out report.html needs neither"


def _save_report(api: Any, entity: str, project: str, title: str, blocks: Sequence[Any]) -> str:
    """The report of this title, by which a later call finds it."""
    from wandb_workspaces.reports.v2.interface import Report

    known = [view for view in api.reports(f"{entity}/{project}") if view.display_name == title]
    report = Report(project=project, entity=entity, title=title, blocks=list(blocks), width="fluid")
    if known:
        report.id = known[0].id
    return str(report.save().url)


def _blocks(runs_dir: Path, runs: Runs, places: list[Place], entity: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    keys = row_keys_of(runs)
    found, reason = table_or_reason(runs)
    text = FORMATS["markdown"](found, 2, False) if found else f"No table: {reason}\n"
    repeat = [*commands_to_repeat(runs_dir, runs), f"vlae report {runs.title} --wandb"]
    shell = "\n".join(["```bash", *repeat, "```"])
    return [
        wr.MarkdownBlock(_introduction(runs, places)),
        *(wr.H2("Results"), wr.MarkdownBlock(text)),
        *_panels(found, keys, runs, places, entity),
        *(wr.H2("How to reproduce it"), wr.MarkdownBlock(shell)),
    ]


def _introduction(runs: Runs, places: Sequence[Place]) -> str:
    counts = Counter(run.state for run in runs.runs)
    states = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    groups = sorted({group for place in places for group in place.groups})
    of = f" Curves and pictures show the runs of the group {' or '.join(groups)}." if groups else ""
    source = "The table is computed from run directories by `vlae report`"
    page = "which replaces this page at each call, edits included"
    number = f"{len(runs.runs)} run{'s' if len(runs.runs) > 1 else ''}"
    return f"{number}: {states}. {source}, {page}.{of}"


def _panels(found: Table | None, keys: list[str], runs: Runs, places: list[Place], entity: str) -> list[Any]:
    """Panels for each column of the table: nats of different datasets are not comparable."""
    import wandb_workspaces.reports.v2 as wr

    columns = [dict(zip(found.column_keys, each, strict=True)) for each in found.columns] if found else [{}]
    blocks = []
    for column in columns:
        conditions = column if len(columns) > 1 else {}
        runsets = [_runset(place, entity, keys, runs, conditions) for place in places]
        heading = group_name(tuple(column), tuple(column.values())) if column else "All runs"
        panels = _panels_of_a_column(keys, found.metric if found else OWN)
        blocks += [wr.H2(heading), wr.PanelGrid(runsets=runsets, panels=panels)]
    return blocks


def _runset(place: Place, entity: str, keys: Sequence[str], runs: Runs, conditions: Mapping[str, Any]) -> Any:
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2.interface import Runset

    filters: list[Any] = [expr.Metric("Group").isin(list(place.groups))] if place.groups else []
    hidden = [*place.superseded, *(left.name for left in runs.left_out)]
    filters += [expr.Metric("ID").notin(hidden)] if hidden else []
    for key, value in conditions.items():
        # The key of a nested config on W&B: dataset.value.name. The library converts keys of groupings, but not of
        # filters; and a filter by == finds nothing, where a list of one does (wandb-workspaces issue 34).
        section, dot, name = key.partition(".")
        filters += [expr.Config(f"{section}.value{dot}{name}").isin([value])] if value is not None else []
    updates = [key for key in UPDATES if key in runs.settings()]
    grouping = [key for each in keys for key in (updates if each == "T" else [each])]
    groupby = [f"config.{key}" for key in dict.fromkeys(grouping)]
    of = place.entity or entity
    return Runset(entity=of, project=place.project, name=runs.title, filters=filters, groupby=groupby)


def _panels_of_a_column(keys: Sequence[str], metric: str) -> list[Any]:
    """Panels grouped as the run set is; by the panel itself where one key is enough, so that it can stand alone."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces.reports.v2.interface import Layout

    by: dict[str, Any] = {"groupby_aggfunc": "mean"}
    by |= {"groupby": f"config.{keys[0]}"} if len(keys) == 1 else {}
    places = [Layout(x=x, y=y, w=12, h=9) for y in (0, 9) for x in (0, 12)]
    curve = {"title": f"Validation ELBO in {UNIT}, mean and standard deviation over seeds", "x": "epoch"}
    curve |= {"y": ["validation/elbo_nats"], "groupby_rangefunc": "stddev"}
    bars = {"title": f"{metric_name(metric)} in {UNIT}, mean and standard error over seeds"}
    bars |= {"metrics": [metric.replace(".", "/")], "groupby_rangefunc": "stderr"}
    last, over_epochs = ([f"{when}/{of}" for of in PICTURES] for when in ("final", "images"))
    gallery: dict[str, Any] = {"mode": "gallery", "gallery_axis": "step"}
    return [
        wr.LinePlot(layout=places[0], **curve, **by),
        wr.BarPlot(layout=places[1], **bars, **by),
        wr.MediaBrowser(title="At the end", media_keys=last, layout=places[2]),
        wr.MediaBrowser(title="Over epochs", media_keys=over_epochs, layout=places[3], **gallery),
    ]

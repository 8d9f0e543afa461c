"""The report of a sweep on Weights & Biases: its table, curves, bars and pictures. Each call replaces it."""

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlae.config.run_id import with_added_fields
from vlae.errors import UserError
from vlae.report.html.provenance import codes, launches
from vlae.report.metric_values import OWN, of_estimator
from vlae.report.runs import UPDATES, Runs, collect
from vlae.report.sources.run_directories import RunDirectories
from vlae.report.sources.wandb import connect, wandb_error
from vlae.report.tables.captions import UNIT, metric_name
from vlae.report.tables.formats import FORMATS
from vlae.report.tables.layout import name_of
from vlae.report.tables.table import Table, row_keys_of, table
from vlae.runs.metrics import on_charts
from vlae.system.console import counted
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, read_bytes
from vlae.trackers.run_history import other_ids
from vlae.trackers.wandb_mirror import WandbError

VALIDATION = "validation/elbo_nats"
FINAL = ("final/reconstructions", "final/prior_samples")
OVER_EPOCHS = ("images/reconstructions", "images/prior_samples")


@dataclass(frozen=True)
class Place:
    """A project to which runs of a sweep are mirrored."""

    entity: str
    """Empty: the entity of the API key."""
    project: str
    groups: tuple[str, ...]
    superseded: tuple[str, ...] = ()
    """Ids there of earlier executions of runs that have been, or are being, executed again."""


def publish(runs_dir: StrPath, name: str) -> str:
    """Create the report of a sweep on W&B, or replace its content; returns its URL.

    Errors: WandbError where W&B or its extra is missing; UserError where the name means no runs.
    """
    _check_extra(name)
    source = RunDirectories(runs_dir, name)
    runs = collect(source)
    if not runs.runs:
        raise UserError(f"{runs.title}: no runs")
    places = places_of(source.runs_dir, [run.id for run in runs.runs])
    try:
        api = connect()
    except WandbError as error:
        raise WandbError(f"{error}; {_without_wandb(name)}") from error
    entity = places[0].entity or api.settings["entity"] or api.default_entity
    blocks = _blocks(source.runs_dir, runs, places, entity)
    try:
        return _save(api, entity, places[0].project, title_of(runs), blocks)
    except Exception as error:
        if isinstance(error, ValueError) and "not found" in str(error):  # it asks for the project of its runs
            text = f"nothing of {name} is on Weights & Biases yet; `vlae sync {name}` uploads it"
            raise WandbError(f"{text} ({' '.join(str(error).split())})") from error
        raise wandb_error(error) from error


def title_of(runs: Runs) -> str:
    """The title, by which a later call finds the report."""
    return f"vlae: {runs.title}"[:128]


def _check_extra(name: str) -> None:
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise WandbError(
            f"reports on Weights & Biases need wandb-workspaces: pip install 'vlae[reports]'; {_without_wandb(name)}"
        )


def _without_wandb(name: str) -> str:
    return f"vlae report {name} --out report.html needs neither"


def places_of(runs_dir: Path, run_ids: Sequence[str]) -> list[Place]:
    """The projects to which runs are mirrored, that of most runs first; the default project if none is."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    superseded: dict[tuple[str, str], list[str]] = {}
    for run_id in run_ids:
        tracker = _tracker(runs_dir / run_id)
        place = tracker["entity"] or "", tracker["project"]
        groups.setdefault(place, Counter()).update([tracker["group"] or ""])
        with contextlib.suppress(RecordError):  # in the files of the mirror
            superseded.setdefault(place, []).extend(other_ids(runs_dir / run_id))
    ordered = sorted(groups.items(), key=lambda item: (-item[1].total(), item[0]))
    return [
        Place(*at, tuple(sorted(filter(None, found))), tuple(superseded.get(at, ()))) for at, found in ordered
    ] or [Place("", with_added_fields({})["tracker"]["project"], ())]


def _tracker(run: Path) -> Mapping[str, Any]:
    default = with_added_fields({})["tracker"]
    try:
        content = yaml.load(read_bytes(run / "config.yaml") or b"", yaml.CSafeLoader)
        return {**default, **content["tracker"]}
    except (RecordError, yaml.YAMLError, LookupError, TypeError):  # the table says why
        return default


def _save(api: Any, entity: str, project: str, title: str, blocks: Sequence[Any]) -> str:
    from wandb_workspaces.reports.v2.interface import Report

    known = [view for view in api.reports(f"{entity}/{project}") if view.display_name == title]
    report = Report(project=project, entity=entity, title=title, blocks=list(blocks), width="fluid")
    if known:
        report.id = known[0].id
    return str(report.save().url)


# --- what it holds ----------------------------------------------------------------------------------------------------


def _blocks(runs_dir: Path, runs: Runs, places: Sequence[Place], entity: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    keys = row_keys_of(runs)
    try:
        found, text = table(runs, rows=keys), ""
    except UserError as error:  # runs that cannot share a table
        found, text = None, f"No table: {error}\n"
    blocks: list[Any] = [wr.MarkdownBlock(_introduction(runs, places)), wr.H2("Results")]
    blocks.append(wr.MarkdownBlock(FORMATS["markdown"](found, 2, False) if found else text))
    blocks += _panels(found, keys, runs, places, entity)
    return [*blocks, wr.H2("How to reproduce it"), wr.MarkdownBlock(_commands(runs_dir, runs))]


def _introduction(runs: Runs, places: Sequence[Place]) -> str:
    counts = Counter(run.state for run in runs.runs)
    states = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    groups = sorted({group for place in places for group in place.groups})
    of = f" Curves and pictures show the runs of the group {' or '.join(groups)}." if groups else ""
    return (
        f"{counted(len(runs.runs), 'run')}: {states}. The table is computed from run directories by `vlae report`, "
        f"which replaces this page at each call, edits included.{of}"
    )


def _panels(
    found: Table | None, keys: Sequence[str], runs: Runs, places: Sequence[Place], entity: str
) -> list[Any]:
    """Panels for each column of the table: nats of different datasets are not comparable."""
    import wandb_workspaces.reports.v2 as wr

    columns = found.columns if found else ()
    chosen = [dict(zip(found.column_keys, column, strict=True)) for column in columns] if found else [{}]
    blocks = []
    for column in chosen:
        conditions = column if len(chosen) > 1 else {}
        runsets = [_runset(place, entity, keys, runs, conditions) for place in places]
        heading = name_of(tuple(column), tuple(column.values())) if column else "All runs"
        panels = _panels_of_a_column(keys, found.metric if found else None)
        blocks += [wr.H2(heading), wr.PanelGrid(runsets=runsets, panels=panels)]
    return blocks


def _runset(place: Place, entity: str, keys: Sequence[str], runs: Runs, conditions: Mapping[str, Any]) -> Any:
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2.interface import Runset

    filters: list[Any] = [expr.Metric("Group").isin(list(place.groups))] if place.groups else []
    filters += [expr.Metric("ID").notin(list(place.superseded))] if place.superseded else []
    filters += [
        expr.Config(_stored(key)).isin([value]) for key, value in conditions.items() if value is not None
    ]
    updates = [key for key in UPDATES if key in runs.settings()]
    grouping = [key for each in keys for key in (updates if each == "T" else [each])]
    return Runset(
        entity=place.entity or entity,
        project=place.project,
        name=runs.title,
        filters=filters,
        groupby=[f"config.{key}" for key in dict.fromkeys(grouping)],
    )


def _stored(key: str) -> str:
    """``dataset.value.name``: the key of a nested config on W&B. The library converts keys of groupings, but not of
    filters; and a filter by ``==`` finds nothing, where a list of one does (wandb-workspaces issue 34)."""
    section, dot, name = key.partition(".")
    return f"{section}.value{dot}{name}"


def _panels_of_a_column(keys: Sequence[str], metric: str | None) -> list[Any]:
    """Panels grouped as the run set is; by the panel itself where one key is enough, so that it can stand alone."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces.reports.v2.interface import Layout

    by: dict[str, Any] = {"groupby_aggfunc": "mean"}
    by |= {"groupby": f"config.{keys[0]}"} if len(keys) == 1 else {}
    metric = metric or of_estimator(OWN)
    half = {"w": 12, "h": 9}
    return [
        wr.LinePlot(
            title="Validation ELBO in nats per image, mean and standard deviation over seeds",
            x="epoch",
            y=[VALIDATION],
            groupby_rangefunc="stddev",
            layout=Layout(x=0, y=0, **half),
            **by,
        ),
        wr.BarPlot(
            title=f"{metric_name(metric)} in {UNIT}, mean and standard error over seeds",
            metrics=[on_charts(metric)],
            groupby_rangefunc="stderr",
            layout=Layout(x=12, y=0, **half),
            **by,
        ),
        wr.MediaBrowser(title="At the end", media_keys=list(FINAL), layout=Layout(x=0, y=9, **half)),
        wr.MediaBrowser(
            title="Over epochs",
            media_keys=list(OVER_EPOCHS),
            mode="gallery",
            gallery_axis="step",
            layout=Layout(x=12, y=9, **half),
        ),
    ]


def _commands(runs_dir: Path, runs: Runs) -> str:
    """The commands that reproduce the sweep, for a shell."""
    known = [code for code in codes(runs_dir, runs.runs) if code.commit]
    lines = [
        f"git checkout {code.commit}  # {counted(code.runs, 'run')}{', with changes' if code.changed else ''}"
        for code in known
    ]
    lines += [launch.command for launch in launches(runs_dir, runs)]
    lines += [f"vlae table {runs.title}", f"vlae report {runs.title} --wandb"]
    return "\n".join(["```bash", *lines, "```"])

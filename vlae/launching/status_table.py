"""The state of a sweep, or of all runs, for a person: a table, its totals, and what can be done."""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from vlae.config.problems import did_you_mean, join_words
from vlae.config.run_id import RUN_ID
from vlae.launching import sweep_index
from vlae.launching.run_state import STATES, RunState
from vlae.runs.directory import run_names
from vlae.system.console import Listing, count_of, duration, elbo_of, minutes, position, share
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, expand_path

ROWS = 40  # rows of the table without --all
SILENT = 120.0  # seconds without a sign of life after which a running run is shown as doubtful
IDLE = 600.0  # seconds without progress after which a running run is shown to have made none
ORDER = ("running", "failed", "interrupted", "queued", "new", "done")
STYLES = {"running": "cyan", "failed": "red", "interrupted": "yellow", "done": "green"}


def select_runs(runs_dir: StrPath, name: str | None, launch: int | None = None) -> tuple[str, dict[str, str]]:
    """The title and the runs of a sweep, of an id prefix, or of the whole directory; each run with its label.

    launch: of the sweep, 1 being its first; None: the latest.
    RecordError: there is no such sweep, launch or run.
    """
    try:
        folder = Path(expand_path(runs_dir))
    except ValueError as error:
        raise RecordError(f"--runs-dir: {error}") from error
    if not os.path.isdir(folder):
        raise RecordError(f"--runs-dir: no directory {folder}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise RecordError(f"--runs-dir: no permission to read {folder}")
    if name is None and launch is None:
        return str(folder), dict.fromkeys(_names(folder), "")
    if name is None:
        raise RecordError("--evaluation: expected the name of a sweep with it, got none")
    sweeps = sweep_index.sweep_names(folder)
    near = [sweep for sweep in sweeps if sweep.startswith(name)]
    if sweep := sweep_index.read_sweep(folder, near[0] if len(near) == 1 else name):
        return sweep["name"], sweep_index.labels_of_launch(sweep, launch)
    if launch is not None:
        raise RecordError(f"--evaluation: expected the name of a sweep with it, got {name!r}")
    runs, (place, prefix) = _names(folder), os.path.split(name)
    is_here = not place or os.path.abspath(place) == os.path.abspath(folder)
    if prefix and is_here and (found := [run for run in runs if run.startswith(prefix)]):
        return name, dict.fromkeys(found, "")
    text = f"no sweep and no run {name!r} in {folder}"
    if not sweeps and not runs:
        raise RecordError(f"{text}, which has no runs yet")
    raise RecordError(f"{text}{did_you_mean(name, sweeps)} (sweeps: {join_words(sweeps)})")


def _names(folder: Path) -> list[str]:
    """Names of all runs, and of directories named like a run that have lost their config.yaml."""
    runs = set(run_names(folder))
    with contextlib.suppress(OSError):
        others = [name for name in os.listdir(folder) if name not in runs and RUN_ID.fullmatch(name)]
        runs.update(name for name in others if os.path.isdir(folder / name))
    return sorted(runs)


def view(
    title: str,
    labels: Mapping[str, str],
    states: Sequence[RunState],
    warning: str | None,
    *,
    every: bool = False,
    most: int = ROWS,
) -> Group:
    """The table, at most so many rows of it, those first that ask for attention; and the totals."""
    ordered = sorted(states, key=lambda state: ORDER.index(state.state))
    shown = ordered if every else ordered[:most]
    rows = []
    for state in shown:
        styled = Text(_state(state), style=STYLES.get(state.state, ""))
        label = labels.get(state.run_id) or state.run_id
        rows.append([Text(label), styled, Text(_progress(state)), Text(state.where)])
    parts: list[RenderableType] = [Listing(("run", "state", "progress", "where"), rows)] if states else []
    if len(shown) < len(ordered):
        parts.append(Text(f"... and {len(ordered) - len(shown)} more: --all shows them"))
    if warning:
        parts.append(Text(f"the states of Slurm jobs may be out of date: {warning}", style="yellow"))
    last = totals(title, states) if states else f"no runs in {title} yet: python launch.py starts them"
    return Group(*parts, Text(last, style="bold"))


def totals(title: str, states: Sequence[RunState]) -> str:
    """``smoke: 10 runs, 2 running, 8 done; 3.2 GPU hours``."""
    counts = Counter(state.state for state in states)
    parts = [count_of(len(states), "run"), *(f"{counts[name]} {name}" for name in STATES if counts[name])]
    hours = sum(state.gpu_seconds for state in states) / 3600
    return f"{title}: {', '.join(parts)}" + (f"; {hours:.1f} GPU hours" if hours else "")


def _progress(state: RunState) -> str:
    if state.state in ("done", "new") or not state.progress:
        return ""
    what, done, total = position(state.progress)
    return ", ".join(filter(None, [f"{what} {share(done, total)}".rstrip(), elbo_of(state.progress)]))


def _state(state: RunState) -> str:
    name = f"{state.state} again" if state.is_rerun else state.state
    if state.state == "running" and state.heartbeat is not None:
        text = f"{name}, seen {duration(state.heartbeat)} ago"
        if state.reason:  # a disk that refuses writes
            text = f"{name}, waiting: {state.reason}"
        elif state.idle is not None and state.idle > IDLE:
            text = f"{name}, no progress for {minutes(state.idle)}"
        return text + (" (silent)" if state.heartbeat > SILENT else "")
    reasons = [state.reason, state.message if state.state == "failed" else ""]
    why = ": ".join(filter(None, reasons))
    return f"{name} ({why})" if why else name

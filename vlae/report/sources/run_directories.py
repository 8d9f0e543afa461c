"""Run directories as a source of rows: sweeps, the runs of id prefixes, or all of a runs directory."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlae.launching.status_table import select_runs
from vlae.launching.sweep_index import read_sweep, sweep_names
from vlae.report.runs import Runs, collect, together
from vlae.report.sources.run_rows import read_rows
from vlae.runs.directory import run_names
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, expand_path


def collect_runs(
    names: StrPath | Sequence[StrPath] | None, runs_dir: StrPath, launch: int | None = None
) -> Runs:
    """The runs that names mean in ``runs_dir``, each once: those of a sweep, of an id prefix, or (None) all of them.

    A name may be a path: of a directory of runs, or of a sweep or an id prefix in one.
    launch: of the sweep, 1 being its first. None: the latest; as long as that is not complete, with the earlier ones.
    RecordError: a name means nothing, or ``runs_dir`` cannot be read.
    """
    several = [names] if names is None or isinstance(names, str | os.PathLike) else names
    asked = [name if name is None else os.fspath(name) for name in dict.fromkeys(several)]
    if not asked:
        raise RecordError("expected names of sweeps, id prefixes or directories of runs, got an empty list")
    if launch is not None and len(asked) > 1:
        raise RecordError(f"--evaluation: expected the name of one sweep with it, got {len(asked)} names")
    found = [_collect(*_place_of(name, runs_dir), launch) for name in asked]
    if len(found) == 1:
        return found[0]
    if len({part.title for part in found}) < len(found):  # sweeps of one name in several directories
        found = [_named(replace(part, title=str(name))) for name, part in zip(asked, found, strict=True)]
    return together(found)


def _place_of(name: str | None, runs_dir: StrPath) -> tuple[str | None, StrPath]:
    """The name to look for, and the directory of runs to look in."""
    if name is None or "/" not in name:
        return name, runs_dir
    path = Path(expand_path(name))
    if _has_runs(path):
        return None, path
    return (path.name, path.parent) if _has_runs(path.parent) else (name, runs_dir)


def _has_runs(path: Path) -> bool:
    """True for a directory of runs."""
    try:
        return bool(path.is_dir() and (run_names(path) or sweep_names(path)))
    except (OSError, ValueError):
        return False


def _collect(name: str | None, runs_dir: StrPath, launch: int | None) -> Runs:
    title, labels = select_runs(runs_dir, name, launch)
    folder = Path(expand_path(runs_dir)).absolute()
    if name is None:
        labels = dict.fromkeys(_directories(folder), "")
    found = collect(title, read_rows(folder, labels))
    if name is None:
        sweeps = _sweep_of_runs(folder)
        return replace(found, runs=tuple(run._replace(sweep=sweeps.get(run.id)) for run in found.runs))
    found = _named(found)
    sweep = read_sweep(folder, title) if launch is None else None
    if sweep is None or (not found.left_out and all(run.metrics is not None for run in found.runs)):
        return found
    earlier = (_named(collect(title, read_rows(folder, each["runs"]))) for each in sweep["earlier"])
    return replace(found, earlier=tuple(earlier))


def _sweep_of_runs(folder: Path) -> dict[str, str]:
    """The first sweep, by its name, that has each run."""
    found: dict[str, str] = {}
    for name in sweep_names(folder):
        with contextlib.suppress(
            RecordError, LookupError, TypeError
        ):  # a record that cannot be read names no run
            for run_id in (read_sweep(folder, name) or {"runs": {}})["runs"]:
                found.setdefault(run_id, name)
    return found


def _named(runs: Runs) -> Runs:
    """The same, each run with the name by which it was asked for."""
    return replace(runs, runs=tuple(run._replace(sweep=runs.title) for run in runs.runs))


def _directories(runs_dir: Path) -> list[str]:
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:  # a network file system may refuse what the permissions allow
        raise RecordError(f"cannot read {runs_dir}: {error.strerror or error}") from error


def directory_of_all(runs: Runs, runs_dir: StrPath) -> Path:
    """The directory that these runs are in, ``runs_dir`` where no run has one. RecordError: there are several."""
    places = sorted({Path(run.directory).parent for run in runs.runs if run.directory})
    if len(places) > 1:
        raise RecordError(f"a report takes runs of one directory, got {' and '.join(map(str, places))}")
    return places[0] if places else Path(expand_path(runs_dir)).absolute()

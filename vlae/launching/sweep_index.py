"""Which runs belong to a sweep: runs_dir/.sweeps/<name>.json. The truth about a run is in its own directory."""

import os
from pathlib import Path
from typing import Any

from vlae.config.problems import shown
from vlae.runs.lease import now
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, json_bytes, make_directory, read_json, write_atomically

SWEEPS = ".sweeps"  # in runs_dir


def remember(runs_dir: StrPath, name: str, labels: dict[str, str], command: list[str]) -> None:
    """``labels``: what distinguishes each run. A sweep of this name is replaced."""
    if not _is_file_name(name):
        raise ValueError(f"the name of a sweep is one visible file name, not {name!r}")
    place = make_directory(Path(runs_dir) / SWEEPS) / f"{name}.json"
    write_atomically(place, json_bytes({"name": name, "launched": now(), "command": command, "runs": labels}))


def recall(runs_dir: StrPath, name: str) -> dict[str, Any] | None:
    """``name``, and ``runs``: their ids with what distinguishes each; None: no such sweep.

    RecordError: its note is damaged.
    """
    place = Path(runs_dir) / SWEEPS / f"{name}.json"
    if not _is_file_name(name) or (sweep := read_json(place)) is None:
        return None
    labels = sweep.get("runs")
    if not isinstance(labels, dict):
        wrong = f"runs: expected ids of runs with a label each, got {shown(labels)}"
    elif (run := next((run for run in labels if not _is_directory_name(run)), None)) is not None:
        wrong = f"runs: expected ids of runs, got {shown(run)}"
    elif (
        run := next((run for run, label in labels.items() if not isinstance(label, str)), None)
    ) is not None:
        wrong = f"runs: {run}: expected a text, got {shown(labels[run])}"
    else:
        return {**sweep, "name": name}  # notes of older versions may have a number there
    raise RecordError(
        f"{place}: {wrong}. It was changed by hand; the command that launched the sweep makes it again"
    )


def _is_file_name(name: str) -> bool:
    """Whether a file of this name stays in its directory, and its name is not too long."""
    visible = bool(name) and name[0] != "."
    return visible and Path(name).name == name and "\0" not in name and len(os.fsencode(name)) < 200


def _is_directory_name(run: str) -> bool:
    """Whether this can name a visible directory in the runs directory."""
    return run != "" and "/" not in run and run[0] != "." and run.isprintable()


def names(runs_dir: StrPath) -> list[str]:
    """Every sweep that was launched here."""
    return sorted(file.stem for file in (Path(runs_dir) / SWEEPS).glob("*.json") if file.name[0] != ".")

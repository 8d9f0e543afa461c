"""Which runs belong to a sweep: runs_dir/.sweeps/<name>.json. The truth about a run is in its own directory."""

from pathlib import Path
from typing import Any

from vlae.attempts import now
from vlae.files import RecordError, StrPath, json_bytes, make_directory, read_json, write_atomically
from vlae.problems import shown

SWEEPS = ".sweeps"  # in runs_dir


def remember(runs_dir: StrPath, name: str, labels: dict[str, str], command: list[str]) -> None:
    """``labels``: what distinguishes each run. A sweep of this name is replaced."""
    place = make_directory(Path(runs_dir) / SWEEPS) / f"{name}.json"
    write_atomically(place, json_bytes({"name": name, "launched": now(), "command": command, "runs": labels}))


def recall(runs_dir: StrPath, name: str) -> dict[str, Any] | None:
    """``runs``: their ids with what distinguishes each; None: no such sweep. RecordError: its note is damaged."""
    if Path(name).name != name or not name:
        return None
    place = Path(runs_dir) / SWEEPS / f"{name}.json"
    if (sweep := read_json(place)) is None:
        return None
    labels = sweep.get("runs")
    if not isinstance(sweep.get("name"), str):
        wrong = f"name: expected a text, came {shown(sweep.get('name'))}"
    elif not isinstance(labels, dict):
        wrong = f"runs: expected ids of runs with a label each, came {shown(labels)}"
    elif (run := next((run for run in labels if not _is_directory_name(run)), None)) is not None:
        wrong = f"runs: expected ids of runs, came {shown(run)}"
    elif (
        run := next((run for run, label in labels.items() if not isinstance(label, str)), None)
    ) is not None:
        wrong = f"runs: {run}: expected a text, came {shown(labels[run])}"
    else:
        return sweep
    raise RecordError(
        f"{place}: {wrong}. It was changed by hand; the command that launched the sweep makes it anew"
    )


def _is_directory_name(run: str) -> bool:
    """Of a visible one in the runs directory."""
    return run != "" and "/" not in run and run[0] != "." and run.isprintable()


def names(runs_dir: StrPath) -> list[str]:
    """Every sweep that was launched here."""
    return sorted(file.stem for file in (Path(runs_dir) / SWEEPS).glob("*.json"))
